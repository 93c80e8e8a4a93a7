"""What a run did, for runs/<UTC start>.json: written when it begins, too, for a run may be killed."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

from cloudjob.errors import CloudjobError
from cloudjob.store import ledger, runs, slots, stac
from cloudjob.store.lock import Lock
from cloudjob.store.receipt import SceneResult
from cloudjob.store.settings import Settings


class Record:
    """The record of one run: a context that writes it when entered and, with the ledger's caches, when left.

    Args:
        lock: of the run.
        settings: the OUT's contract.
        started: UTC; names the record (`runs.path_of`).
        about: where its scenes came from: JSON types, `catalog` and `dates` among them.
    """

    def __init__(self, lock: Lock, settings: Settings, started: datetime, about: Mapping[str, Any]) -> None:
        self.lock, self.settings, self.started = lock, settings, started
        self.path = runs.path_of(lock.out, started)
        self.how, self.why = "unfinished", ""
        self.about = {"cloudjob": version("cloudjob"), **about, "settings": settings.to_json()}
        self.scenes: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What ended the run is told, not what its record met
        with contextlib.suppress(CloudjobError) if error else contextlib.nullcontext():
            self.end(error)

    def add(self, result: SceneResult) -> None:
        """Take note of what became of a scene."""
        self.scenes.append(
            {"id": result.id, "group": result.group, "state": result.state, "reason": result.reason}
            | ({"receipt": asdict(result.receipt)} if result.receipt else {})
        )

    def end(self, error: BaseException | None) -> None:
        """Write it for good, and the ledger's caches; leave nothing that no longer counts."""
        self.lock.check()
        now = ledger.refresh(self.lock.out)
        slots.tidy(self.lock, now)
        stac.write(self.lock.out, self.settings, now)
        self.how = "complete" if error is None else "stopped" if isinstance(error, CloudjobError) else "interrupted"
        self.why = str(error) if isinstance(error, CloudjobError) else ""
        self._write()

    def _write(self) -> None:
        runs.write(self.lock.out, self.path, self._to_json())

    def _to_json(self) -> dict[str, Any]:
        ended = datetime.now(UTC)
        times = {"started": self.started.isoformat(), "ended": ended.isoformat(), "how": self.how, "why": self.why}
        return {**times, "seconds": (ended - self.started).total_seconds(), **self.about, "scenes": self.scenes}
