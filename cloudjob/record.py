"""What a run did, for runs/<UTC start>.json: written when it begins, too, for a run may be killed."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from cloudjob.errors import CloudjobError
from cloudjob.store import ledger, runs, slots, stac
from cloudjob.store.lock import Lock
from cloudjob.store.receipt import SceneResult
from cloudjob.store.settings import Settings


@contextlib.contextmanager
def recorded(lock: Lock, settings: Settings, begun: float, about: Mapping[str, Any]) -> Iterator[list[SceneResult]]:
    """Write the record of a run when the block is entered and, with the ledger's caches, when it is left.

    Args:
        lock: of the run.
        begun: when the run began, by `time.monotonic`: the clock may be set while it is at work.
        about: where its scenes came from: JSON types, `catalog` and `dates` among them.

    Yields:
        What became of its scenes: to be added as they come.
    """
    started = datetime.now(UTC) - timedelta(seconds=time.monotonic() - begun)
    path = runs.path_of(lock.out, started)
    about = {"cloudjob": version("cloudjob"), **about, "settings": settings.to_json()}
    results: list[SceneResult] = []

    def write(how: str, why: str = "") -> None:
        seconds = time.monotonic() - begun
        ended = max(datetime.now(UTC), started + timedelta(seconds=seconds))
        times = {"started": started.isoformat(), "ended": ended.isoformat(), "how": how, "why": why}
        scenes = [{name: value for name, value in asdict(one).items() if value is not None} for one in results]
        runs.write(lock.out, path, {**times, "seconds": seconds, **about, "scenes": scenes})

    def end(how: str, why: str = "") -> None:
        """Leave nothing that no longer counts."""
        lock.check()
        # By name only where hardly any are left: one that is terminated has no time to ask for thousands
        now = ledger.refresh(lock.out, () if how == "complete" else None)
        slots.tidy(lock, now)
        stac.write(lock.out, settings, now)
        write(how, why)

    write("unfinished")
    try:
        yield results
    except BaseException as error:
        ours = isinstance(error, CloudjobError)
        with contextlib.suppress(CloudjobError):  # What ended the run is told, not what its record met
            end("stopped" if ours else "interrupted", str(error) if ours else "")
        raise
    end("complete")
