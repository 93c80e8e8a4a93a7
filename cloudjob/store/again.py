"""Scenes whose masks were found damaged: the next run looks for them, whatever its dates, and masks them again."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from cloudjob.errors import ContractError
from cloudjob.grid import Tile
from cloudjob.scene.identity import Identity, same_scene
from cloudjob.store.document import ODD
from cloudjob.store.failures import tiles
from cloudjob.store.out import Out

log = logging.getLogger(__name__)

FILE = "again.json"


@dataclass(frozen=True)
class Marked:
    """A scene to look for.

    Attributes:
        id: of it, when it was masked.
        day: of it, UTC.
        identity: by which it is known under another id, or None where its item could not be read.
        group: of its mask, or "".
        tiles: of its mask, all of which are made again, though later runs may ask for fewer.
    """

    id: str
    day: date
    identity: Identity | None = None
    group: str = ""
    tiles: frozenset[Tile] = frozenset()

    def is_(self, id_: str, identity: Identity) -> bool:
        """Whether a scene is this one, or another version of it."""
        return id_ == self.id or (self.identity is not None and same_scene(self.identity, identity))


def read(out: Out) -> list[Marked]:
    """The scenes that are marked, by id; what cannot be read of them is told, and costs nothing else."""
    found, faults = look(out)
    for fault in faults:
        log.warning("%s; `cloudjob check OUT --repair` finds which masks were damaged", fault)
    return found


def look(out: Out) -> tuple[list[Marked], list[str]]:
    """The scenes that are marked, and what is wrong with other marks."""
    try:
        records = dict(out.get_json(FILE) or {})
    except (ContractError, *ODD) as error:
        return [], [f"{FILE} cannot be read: {error!r}"]
    found, faults = [], []
    for id_, record in records.items():
        try:
            found.append(_parsed(id_, record))
        except ODD as error:
            faults.append(f"{FILE} cannot be read: {error!r} of scene {id_}")
    return found, faults


def mark(out: Out, scenes: Iterable[Marked]) -> None:
    """Have the next run look for scenes, beside those that are marked already."""
    _write(out, {marked.id: marked for marked in (*look(out)[0], *scenes)}.values())


def settle(out: Out, done: Mapping[str, dict[str, Any]]) -> None:
    """Forget the scenes that have been done: id → identity (`Identity.to_json`)."""
    marked, _ = look(out)  # What is wrong with them was told when the run looked for them
    if not marked:
        return
    known = [(id_, Identity.from_json(record)) for id_, record in done.items()]
    left = [one for one in marked if not any(one.is_(*each) for each in known)]
    if len(left) < len(marked):
        _write(out, left)


def _parsed(id_: str, record: Any) -> Marked:
    # An earlier cloudjob wrote the day alone
    told: Any = {"day": record, "identity": None} if isinstance(record, str) else record
    identity, day = told["identity"], datetime.fromisoformat(told["day"]).date()
    if not 1900 < day.year < 3000:
        raise ValueError(f"{day} is no day of a scene")
    return Marked(
        id_,
        day,
        Identity.from_json(identity) if identity else None,
        str(told.get("group", "")),
        tiles(told.get("tiles", ())),
    )


def _write(out: Out, scenes: Collection[Marked]) -> None:
    if not scenes:
        out.delete([FILE])
        return
    records = {
        each.id: {
            "day": each.day.isoformat(),
            "identity": each.identity and each.identity.to_json(),
            "group": each.group,
            "tiles": sorted(each.tiles),
        }
        for each in sorted(scenes, key=lambda each: each.id)
    }
    out.put_json(FILE, records)
