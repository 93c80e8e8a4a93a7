"""Other versions of a scene that the ledger has: done, failed, or found damaged."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudjob.grid import Tile
from cloudjob.scene.identity import TOLERANCE, Identity, same_scene
from cloudjob.store.again import Marked
from cloudjob.store.ledger import Done, Ledger


@dataclass(frozen=True)
class Version:
    """Another version of a scene, in the ledger.

    Attributes:
        id: of it.
        newer: whether it is newer than the scene.
        older: whether it is older; of two publishers' it is neither.
        done: its mask, or None where it has failed, or lost it.
    """

    id: str
    newer: bool
    older: bool
    done: Done | None

    def instead_of(self, wanted: frozenset[Tile]) -> bool:
        """Whether its mask stands for that of the scene; one that is no newer must hold all that is wanted."""
        if self.done is None or self.older:
            return False
        return self.newer or wanted <= self.done.tiles


class Versions:
    """The ledger's scenes by place and time, so that few are compared with each other."""

    def __init__(self, ledger: Ledger, marked: Iterable[Marked] = ()) -> None:
        self._ledger = ledger
        self._known: dict[tuple[str, str, int | str], list[tuple[str, dict[str, Any]]]] = {}
        records = {one.id: one.identity.to_json() for one in marked if one.identity}
        records |= {entry.id: entry.identity for entry in ledger.failures.values() if entry.identity}
        records |= {entry.id: entry.identity for entry in ledger.done.values()}
        for id_, record in records.items():
            moment = _moment(datetime.fromisoformat(record["sensing"]))
            for key in (moment, record.get("product", "")):
                self._known.setdefault((record["platform"], record["group"], key), []).append((id_, record))

    def other(self, identity: Identity, id_: str) -> Version | None:
        """The version of a scene that the ledger has under another id: a finished one if it can be, then the newest."""
        moment = _moment(identity.sensing)
        places: list[int | str] = [moment - 1, moment, moment + 1]
        if identity.product:
            places.append(identity.product)
        found = {}
        for near in places:
            for name, record in self._known.get((identity.platform, identity.group, near), ()):
                other = Identity.from_json(record)
                if name != id_ and same_scene(identity, other):
                    found[name] = other.version
        if not found:
            return None
        best = max(found, key=lambda name: (name in self._ledger.done, found[name], name))
        newer, older = found[best] > identity.version, found[best] < identity.version
        return Version(best, newer, older, self._ledger.done.get(best))

    def over(self, id_: str) -> bool:
        """Whether what failed has been done as another version."""
        failure = self._ledger.failures[id_]
        other = self.other(Identity.from_json(failure.identity), id_) if failure.identity else None
        return other is not None and other.instead_of(failure.tiles)


def _moment(sensing: datetime) -> int:
    """Scenes that are one lie in the same stretch of time or in neighbouring ones."""
    return int(sensing.timestamp() // TOLERANCE.total_seconds())
