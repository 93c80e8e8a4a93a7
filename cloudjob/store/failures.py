"""Scenes that failed: kept so that every later run tries them again, whatever its dates, until that makes no sense."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from cloudjob.errors import ContractError, redact
from cloudjob.grid import Tile
from cloudjob.scene.identity import Identity
from cloudjob.scene.scene import Scene
from cloudjob.store import item as stac
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out, dump, parse

FOLDER = "failures"

ATTEMPTS = 3
"""After so many runs that failed for the same reason a scene is abandoned."""


@dataclass(frozen=True)
class Failure:
    """A scene that failed when it was last tried.

    Attributes:
        id: of the scene.
        group: of the store.
        fingerprint: of the source when it failed.
        tiles: that were asked for.
        reason: the error's message, without secrets.
        runs: how many runs in a row failed for this reason.
        first: when the first of them was (ISO 8601, UTC).
        last: when the last of them was.
        identity: `Identity.to_json`.
        item: the source item, unsigned, so that a later run can try again whatever its dates.
        assets: its bands' common names → asset keys; the later run may use another catalog.
        signing: how its hrefs are signed when opened, or "".
    """

    id: str
    group: str
    fingerprint: str
    tiles: frozenset[Tile]
    reason: str
    runs: int
    first: str
    last: str
    identity: dict[str, Any]
    item: dict[str, Any]
    assets: dict[str, str]
    signing: str

    @property
    def abandoned(self) -> bool:
        """Whether it is no longer tried, unless its source changes."""
        return self.runs >= ATTEMPTS

    @property
    def path(self) -> str:
        """Of its record."""
        return path(self.id)


def path(scene_id: str) -> str:
    """Where a scene's failure is recorded."""
    return f"{FOLDER}/{stac.file_name(scene_id)}"


def read_all(out: Out, damaged: dict[str, str]) -> list[Failure]:
    """Every scene that failed when it was last tried.

    Args:
        out: the output.
        damaged: where it is put down, by path, what is wrong with a record that cannot be used.
    """

    def parsed(path: str) -> Failure | None:
        try:
            data = out.get(path)
            return None if data is None else _parsed(path, data)
        except (ContractError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged[path] = f"it is no record that cloudjob wrote: {error}"
            return None

    paths = [path for path in out.tags(FOLDER) if path.endswith(".json")]
    return [failure for failure in out.each(parsed, paths) if failure]


def record(lock: Lock, before: Failure | None, scene: Scene, tiles: Iterable[Tile], reason: str) -> Failure:
    """Write down that a scene failed in this run.

    Args:
        lock: of this run.
        before: what is known of earlier failures of the scene.
        scene: that failed.
        tiles: that were asked for.
        reason: why; secrets are taken out.

    Raises:
        UnreachableError: the store does not answer, or the lock is lost.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    reason = redact(reason)
    if before and (before.fingerprint, _kind(before.reason)) != (scene.fingerprint, _kind(reason)):
        before = None  # Something else than last time
    failure = Failure(
        id=scene.id,
        group=scene.group,
        fingerprint=scene.fingerprint,
        tiles=frozenset(tiles),
        reason=reason,
        runs=before.runs + 1 if before else 1,
        first=before.first if before else now,
        last=now,
        identity=Identity.of(scene).to_json(),
        item=scene.item,
        assets=scene.assets,
        signing=scene.signing,
    )
    lock.check()
    lock.out.put(failure.path, dump(asdict(failure) | {"tiles": sorted(failure.tiles)}))
    return failure


def _kind(reason: str) -> str:
    """A reason without its numbers: "timed out after 30.1 s" is the same as after 30.2 s."""
    return re.sub(r"[0-9]+", "#", reason)


def _parsed(path: str, data: bytes) -> Failure:
    found = parse(data)
    failure = Failure(**{**found, "tiles": frozenset((int(row), int(column)) for row, column in found["tiles"])})
    texts = (failure.id, failure.group, failure.fingerprint, failure.reason, failure.first, failure.last)
    if not all(isinstance(text, str) for text in texts) or not isinstance(failure.runs, int) or failure.path != path:
        raise ValueError("it has other types, or another name")
    if failure.identity:
        Identity.from_json(failure.identity)
    if not isinstance(failure.item, dict) or not isinstance(failure.assets, dict):
        raise ValueError("its item is none")  # noqa: TRY004
    return failure
