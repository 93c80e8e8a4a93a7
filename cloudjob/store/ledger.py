"""What an OUT says has been done: STAC items are the ledger, beside them the failures and the records of runs.

A scene is done when its item exists and the group's list of slots (`cloudjob:scenes`) gives its slot to it. Everything
else here is a cache of that or a help for people.
"""

import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from cloudjob import logs
from cloudjob.errors import ContractError
from cloudjob.grid import Tile
from cloudjob.scene.identity import Identity
from cloudjob.scene.scene import Scene
from cloudjob.store import again, runs
from cloudjob.store import failures as failed
from cloudjob.store import group as groups
from cloudjob.store import item as stac
from cloudjob.store.document import ODD, dump, parse
from cloudjob.store.failures import Failure
from cloudjob.store.out import DeniedError, Out


@dataclass(frozen=True)
class Done:
    """A scene that is complete: what the plan needs of its item.

    Attributes:
        id: of the scene.
        group: of the store.
        slot: index on the group's time axis.
        fingerprint: of the source when the mask was made.
        tiles: computed, (row, column).
        identity: `Identity.to_json`.
        time: of the scene (ISO 8601).
        cloud_cover: percent of valid pixels, or None where none is valid.
        provider_cloud_cover: percent, or None.
        tag: changes whenever the item is written.
        replaces: path of the item of an older version, which no longer counts, or "".
    """

    id: str
    group: str
    slot: int
    fingerprint: str
    tiles: frozenset[Tile]
    identity: dict[str, Any]
    time: str
    cloud_cover: float | None
    provider_cloud_cover: float | None
    tag: str
    replaces: str = ""

    @property
    def path(self) -> str:
        """Of the item."""
        return stac.path(self.group, self.id)

    @property
    def place(self) -> tuple[str, int]:
        """Group and slot."""
        return self.group, self.slot


@dataclass(frozen=True)
class Ledger:
    """The state of an OUT.

    Attributes:
        groups: group → its metadata.
        scenes: group → id of the scene that owns each slot, in order; "" where nobody does (any more). A scene that is
            being made anew owns two: that of its mask that counts, and that of the one to come.
        done: by scene id.
        failures: by scene id; abandoned ones too. A scene may be done and have failed: its newer version has.
        leftovers: paths of items and records that no longer count, for `slots.prepare` to delete.
        damaged: path of what cannot be used → what is wrong with it. It costs its own scene, or its own group.
    """

    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    scenes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()
    damaged: dict[str, str] = field(default_factory=dict)

    @cached_property
    def begun(self) -> dict[str, tuple[str, int]]:
        """Scenes that own a slot and are neither done nor failed, for a run was interrupted: id → group and slot."""
        places = ((id_, (group, slot)) for group, ids in self.scenes.items() for slot, id_ in enumerate(ids))
        return {id_: place for id_, place in places if id_ and id_ not in self.done and id_ not in self.failures}

    @property
    def by_time(self) -> list[Done]:
        """What is done, the oldest first."""
        return sorted(self.done.values(), key=lambda entry: (entry.time, entry.id))

    def holder(self, group: str, slot: int) -> Done | None:
        """The finished scene whose mask lies in a slot."""
        done = self.done.get(self.scenes[group][slot])
        return done if done and done.place == (group, slot) else None

    def holding(self, scene: Scene) -> Done | None:
        """A scene's finished mask, if it still holds: other tiles are written beside those that are there."""
        done = self.done.get(scene.id)
        return done if done and (done.group, done.fingerprint) == (scene.group, scene.fingerprint) else None

    def damage(self, within: Collection[str] = ()) -> str:
        """What is to be told of what cannot be used, of these groups or of all; "" where there is nothing to tell."""
        lost = [path for path in self.damaged if not within or path.split("/")[1] in within]
        told = f"{logs.many(len(lost), 'file')} of the OUT cannot be used, such as"
        return f"{told} {min(lost)}; {groups.MEND}" if lost else ""

    def say_damage(self, within: Collection[str] = ()) -> None:
        """Tell it, if there is something to tell."""
        if told := self.damage(within):
            logs.say(told, "damaged", level=logging.WARNING, files=self.damaged)

    def to_retry(self, again: Collection[str] = ()) -> list[Failure]:
        """Failures that every run tries again, and those that are abandoned but asked for (ids, or "all")."""
        return [failure for failure in self.failures.values() if not failure.abandoned or wanted(failure.id, again)]


def wanted(id_: str, again: Collection[str]) -> bool:
    """Whether a scene is among those to be tried again: ids, or "all"."""
    return id_ in again or "all" in again


@dataclass(frozen=True)
class Summary:
    """An OUT in a few figures.

    Attributes:
        groups: group → number of scenes done.
        done: scenes.
        failed: id → reason, those that the next run tries again.
        abandoned: id → reason.
        incomplete: ids that own a slot and are neither done nor failed: a run was interrupted.
        cloud_cover: lowest, mean and highest percent over the scenes done, or None.
        first: time of the earliest scene done, or "".
        last: time of the latest scene done, or "".
        last_run: the record of the last run, or None.
        damaged: path → what is wrong with it; `cloudjob check` says more.
    """

    groups: dict[str, int]
    done: int
    failed: dict[str, str]
    abandoned: dict[str, str]
    incomplete: tuple[str, ...]
    cloud_cover: tuple[float, float, float] | None
    first: str
    last: str
    last_run: dict[str, Any] | None
    damaged: dict[str, str] = field(default_factory=dict)


def read(out: Out, named: Collection[str] | None = None) -> Ledger:
    """Read the state of an OUT: one listing, the groups' metadata, and those items that the cache does not know.

    Args:
        named: groups that are asked for by name, whatever is listed, and with them the item and the failure of every
            scene that owns a slot, and groups of scenes that failed: for who would mask again what a store does not
            list though it holds it. None believes the listing.

    Raises:
        ContractError: a part of it is a symbolic link.
    """
    damaged: dict[str, str] = {}
    entries = _items(out, damaged)  # First: a slot that is taken over meanwhile still has its owner
    found = groups.read_all(out, damaged, {*(named or ()), *(entry.group for entry in entries)})
    owners = {name: groups.scenes(metadata) for name, metadata in found.items()}
    if named is not None:
        entries += _unlisted(out, damaged, owners, entries)
    for group in {entry.group for entry in entries} - found.keys():
        if groups.path(group) not in damaged and out.names(f"{groups.MASKS}/{group}"):
            damaged[groups.path(group)] = "it is missing, but there are masks and items of its scenes"
    valid = [
        entry
        for entry in entries
        if entry.slot < len(owners.get(entry.group, ())) and owners[entry.group][entry.slot] == entry.id
    ]
    retired = {entry.replaces for entry in valid}
    done = {entry.id: entry for entry in valid if entry.path not in retired}
    begun = {id_ for ids in owners.values() for id_ in ids if id_} - done.keys() if named is not None else ()
    failures = {failure.id: failure for failure in failed.read_all(out, damaged, begun)}
    tried = {failure.group for failure in failures.values() if failure.group}
    tried = {group for group in tried if groups.path(group) not in damaged}  # It was asked for, and read
    if named is not None and (unlisted := tried - found.keys() - set(named)):
        return read(out, unlisted.union(named))
    leftovers = [
        entry.path
        for entry in entries
        if done.get(entry.id) is not entry and groups.path(entry.group) not in damaged  # Its items tell what was done
    ]
    # Done since, though a run was killed before it took the record back
    over = [
        failure
        for id_, failure in failures.items()
        if id_ in done and failure.fingerprint == done[id_].fingerprint and failure.tiles <= done[id_].tiles
    ]
    leftovers += [failures.pop(failure.id).path for failure in over]
    scenes = {
        name: tuple("" if stac.path(name, id_) in retired else id_ for id_ in ids) for name, ids in owners.items()
    }
    return Ledger(found, scenes, done, failures, tuple(leftovers), damaged)


def refresh(out: Out, named: Collection[str] | None = None) -> Ledger:
    """Read the state of an OUT (see `read`) and write the caches that have changed; for the end of a run."""
    ledger = read(out, named)
    for group in ledger.scenes:
        entries = sorted((entry for entry in ledger.done.values() if entry.group == group), key=lambda entry: entry.id)
        index = dump({entry.id: vars(entry) | {"tiles": sorted(entry.tiles)} for entry in entries})
        path = f"items/{group}/{stac.INDEX}"
        if entries and (cached(out, path) is None or out.get(path) != index):
            with contextlib.suppress(DeniedError):  # Of another user, who has it
                out.put(path, index)
    again.settle(out, {entry.id: entry.identity for entry in ledger.done.values()})
    return ledger


def summary(out: Out) -> Summary:
    """The state of an OUT in a few figures; all of them nothing where no run has written yet."""
    ledger = read(out)
    covers = [entry.cloud_cover for entry in ledger.done.values() if entry.cloud_cover is not None]
    times = sorted(entry.time for entry in ledger.done.values())
    return Summary(
        groups={
            group: sum(ledger.holder(group, slot) is not None for slot in range(len(ids)))
            for group, ids in sorted(ledger.scenes.items())
        },
        done=len(ledger.done),
        failed={failure.id: failure.reason for failure in ledger.to_retry()},
        abandoned={failure.id: failure.reason for failure in ledger.failures.values() if failure.abandoned},
        incomplete=tuple(ledger.begun),
        cloud_cover=(min(covers), sum(covers) / len(covers), max(covers)) if covers else None,
        first=times[0] if times else "",
        last=times[-1] if times else "",
        last_run=runs.last(out, ledger.damaged),
        damaged=ledger.damaged,
    )


def _items(out: Out, damaged: dict[str, str]) -> list[Done]:
    """Every item of the OUT, from the caches where they are up to date; what is wrong with others, in `damaged`."""
    tags = {path: tag for path, tag in out.tags("items").items() if path.endswith(".json")}
    known: dict[str, Done] = {}
    for path in [path for path in tags if path.endswith(f"/{stac.INDEX}")]:
        for entry in cached(out, path) or ():
            if tags.get(entry.path) == entry.tag:
                known[entry.path] = entry
    unknown = {p: tag for p, tag in tags.items() if p not in known and not p.endswith(f"/{stac.INDEX}")}
    known |= {entry.path: entry for entry in _read_items(out, unknown, damaged)}
    return [known[path] for path in tags if path in known]


def _read_items(out: Out, tags: Mapping[str, str], damaged: dict[str, str]) -> list[Done]:
    """The items at these paths (path → tag) that are there; what is wrong with others, in `damaged`."""
    found = out.documents("an item", tags, lambda path, data: _from_item(path, tags[path], data), damaged)
    return [*found.values()]


def _unlisted(
    out: Out, damaged: dict[str, str], owners: Mapping[str, Iterable[str]], listed: Iterable[Done]
) -> list[Done]:
    """Items, of scenes that own slots, that are there all the same: some object stores list less than they hold."""
    paths = {stac.path(group, id_) for group, ids in owners.items() for id_ in ids if id_}
    unknown = sorted(paths - {entry.path for entry in listed} - damaged.keys())
    return _read_items(out, dict.fromkeys(unknown, ""), damaged)


def items_of(out: Out, group: str) -> list[Done]:
    """Every item of a group, whatever the group itself says."""
    return [done for done in _items(out, {}) if done.group == group]


def cached(out: Out, path: str) -> list[Done] | None:
    """What a cache beside the items says, or None where it cannot be used: then the items are read instead."""
    try:
        data = out.get(path)
        records = {} if data is None else parse(data)  # One that was emptied is damaged
        return [_checked(Done(**{**record, "tiles": failed.tiles(record["tiles"])})) for record in records.values()]
    except (ContractError, *ODD):
        return None


def _from_item(path: str, tag: str, data: bytes) -> Done:
    item = parse(data)
    properties = item["properties"]
    done = Done(
        id=item["id"],
        group=properties["cloudjob:group"],
        slot=properties["cloudjob:slot"],
        fingerprint=properties["cloudjob:fingerprint"],
        tiles=failed.tiles(properties["cloudjob:tiles"]),
        identity=stac.identity(item).to_json(),
        time=properties["datetime"],
        cloud_cover=properties.get("eo:cloud_cover"),
        provider_cloud_cover=properties.get("cloudjob:provider_cloud_cover"),
        tag=tag,
        replaces=stac.replaced(item),
    )
    stac.receipt(item)  # What a scene that grows adds to
    if _checked(done).path != path:
        raise ValueError(f"it belongs at {done.path}")
    return done


def _checked(done: Done) -> Done:
    """What an item or the cache says of a scene, every part of it of the type that it should have.

    Raises:
        ValueError: one is not; other kinds where it is none at all.
    """
    texts = (done.id, done.group, done.fingerprint, done.time, done.tag)
    covers = [cover for cover in (done.cloud_cover, done.provider_cloud_cover) if cover is not None]
    if not all(isinstance(text, str) for text in texts) or not done.tiles:
        raise ValueError("its id, group, fingerprint, time or tiles are none")
    if not isinstance(done.slot, int) or done.slot < 0:
        raise ValueError(f"its slot is {done.slot!r}")
    if any(isinstance(cover, bool) or not isinstance(cover, int | float) or not 0 <= cover <= 100 for cover in covers):
        raise ValueError("its cloud cover is no percentage")
    if datetime.fromisoformat(done.time).tzinfo is None:
        raise ValueError(f"its time {done.time} has no zone")
    if Identity.from_json(done.identity).sensing.tzinfo is None:
        raise ValueError("its sensing time has no zone")
    return done
