"""What an OUT says has been done: STAC items are the ledger, beside them the failures and the records of runs.

A scene is done when its item exists and the group's list of slots (`cloudjob:scenes`) gives its slot to it. Everything
else here is a cache of that or a help for people.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shapely.errors import ShapelyError

from cloudjob.errors import ContractError, SceneError, redact
from cloudjob.grid import Tile
from cloudjob.scene.identity import Identity
from cloudjob.store import again
from cloudjob.store import failures as failed
from cloudjob.store import group as groups
from cloudjob.store import item as stac
from cloudjob.store.failures import Failure
from cloudjob.store.out import Out, dump, parse

_WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, SceneError, ShapelyError)
"""What an item raises whose members are not there, or of other types."""


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

    @property
    def path(self) -> str:
        """Of the item."""
        return stac.path(self.group, self.id)


@dataclass(frozen=True)
class Ledger:
    """The state of an OUT.

    Attributes:
        groups: group → its metadata.
        done: by scene id.
        failures: by scene id; abandoned ones too.
        partial: by the id of a scene that owns a slot and is not done: tiles with values from an earlier run.
        leftovers: paths of items and records that no longer count, for `store.prepare` to delete.
        damaged: path of what cannot be used → what is wrong with it. It costs its own scene, or its own group.
    """

    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    partial: dict[str, frozenset[Tile]] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def scenes(self) -> dict[str, tuple[str, ...]]:
        """Group → ids of the scenes that own its slots, in order."""
        return {name: groups.scenes(metadata) for name, metadata in self.groups.items()}

    def to_retry(self) -> list[Failure]:
        """Failures that every run tries again."""
        return [failure for failure in self.failures.values() if not failure.abandoned]


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


def read(out: Out) -> Ledger:
    """Read the state of an OUT: one listing, the groups' metadata, and those items that the cache does not know.

    Raises:
        ContractError: a part of it is a symbolic link.
        UnreachableError: the store does not answer.
    """
    damaged: dict[str, str] = {}
    found = groups.read_all(out, damaged)
    scenes = {name: groups.scenes(metadata) for name, metadata in found.items()}
    entries = _items(out, damaged)
    for group in {entry.group for entry in entries} - found.keys():
        if out.names(f"{groups.MASKS}/{group}"):
            damaged.setdefault(groups.path(group), "it is missing, but there are masks and items of its scenes")
    done = {
        entry.id: entry
        for entry in entries
        if entry.slot < len(scenes.get(entry.group, ())) and scenes[entry.group][entry.slot] == entry.id
    }
    failures = {failure.id: failure for failure in failed.read_all(out, damaged)}
    leftovers = [
        entry.path
        for entry in entries
        if done.get(entry.id) is not entry and groups.path(entry.group) not in damaged  # Its items tell what was done
    ]
    leftovers += [failures.pop(id_).path for id_ in list(failures) if id_ in done]
    return Ledger(found, done, failures, _partial(out, scenes, done), tuple(leftovers), damaged)


def refresh(out: Out) -> Ledger:
    """Read the state of an OUT and write the caches that have changed; for the end of a run."""
    ledger = read(out)
    for group in ledger.scenes:
        entries = sorted((entry for entry in ledger.done.values() if entry.group == group), key=lambda entry: entry.id)
        index = dump({entry.id: vars(entry) | {"tiles": sorted(entry.tiles)} for entry in entries})
        path = f"items/{group}/{stac.INDEX}"
        if entries and (cached(out, path) is None or out.get(path) != index):
            out.put(path, index)
    again.settle(out, ledger.done.keys())
    return ledger


def write_run(out: Out, started: datetime, record: Mapping[str, Any]) -> str:
    """Write what a run did.

    Args:
        out: the output.
        started: UTC; names the record.
        record: JSON types.

    Returns:
        The record's path.
    """
    path = f"runs/{started.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.json"
    out.put(path, redact(dump(record).decode()).encode())
    return path


def summary(out: Out) -> Summary:
    """The state of an OUT in a few figures; all of them nothing where no run has written yet."""
    ledger = read(out)
    covers = [entry.cloud_cover for entry in ledger.done.values() if entry.cloud_cover is not None]
    times = sorted(entry.time for entry in ledger.done.values())
    runs = sorted(name for name in out.names("runs") if name.endswith(".json"))
    incomplete = [id_ for ids in ledger.scenes.values() for id_ in ids]
    return Summary(
        groups={group: sum(id_ in ledger.done for id_ in ids) for group, ids in sorted(ledger.scenes.items())},
        done=len(ledger.done),
        failed={failure.id: failure.reason for failure in ledger.to_retry()},
        abandoned={failure.id: failure.reason for failure in ledger.failures.values() if failure.abandoned},
        incomplete=tuple(id_ for id_ in incomplete if id_ not in ledger.done and id_ not in ledger.failures),
        cloud_cover=(min(covers), sum(covers) / len(covers), max(covers)) if covers else None,
        first=times[0] if times else "",
        last=times[-1] if times else "",
        last_run=_run(out, f"runs/{runs[-1]}", ledger.damaged) if runs else None,
        damaged=ledger.damaged,
    )


def _run(out: Out, path: str, damaged: dict[str, str]) -> dict[str, Any] | None:
    if fault := fault_of_run(out, path):
        damaged[path] = fault
        return None
    record: dict[str, Any] = out.get_json(path)
    return record


def fault_of_run(out: Out, path: str) -> str:
    """What is wrong with a run's record, or ""."""
    try:
        record: dict[str, Any] = out.get_json(path)
        datetime.fromisoformat(record["started"])
        f"{record['how']} {record['seconds']:g}"
    except (ContractError, ValueError, TypeError, KeyError) as error:
        return f"it is no record of a run: {type(error).__name__}: {error}"
    return ""


def _items(out: Out, damaged: dict[str, str]) -> list[Done]:
    """Every item of the OUT, from the caches where they are up to date; what is wrong with others, in `damaged`."""
    tags = {path: tag for path, tag in out.tags("items").items() if path.endswith(".json")}
    known: dict[str, Done] = {}
    for path in [path for path in tags if path.endswith(f"/{stac.INDEX}")]:
        for entry in cached(out, path) or ():
            if tags.get(entry.path) == entry.tag:
                known[entry.path] = entry
    unknown = [path for path in tags if path not in known and not path.endswith(f"/{stac.INDEX}")]

    def parsed(path: str) -> Done | None:
        try:
            data = out.get(path)
            return None if data is None else _from_item(path, tags[path], data)
        except ContractError as error:
            damaged[path] = str(error)
            return None

    known |= {path: found for path, found in zip(unknown, out.each(parsed, unknown), strict=True) if found}
    return [known[path] for path in tags if path in known]


def items_of(out: Out, group: str) -> list[Done]:
    """Every item of a group, whatever the group itself says."""
    return [done for done in _items(out, {}) if done.group == group]


def cached(out: Out, path: str) -> list[Done] | None:
    """What a cache beside the items says, or None where it cannot be used: then the items are read instead."""
    try:
        records = parse(out.get(path) or b"{}").values()
        return [_checked(Done(**{**record, "tiles": _tiles(record["tiles"])})) for record in records]
    except (ContractError, *_WRONG):
        return None


def _from_item(path: str, tag: str, data: bytes) -> Done:
    try:
        item = parse(data)
        properties = item["properties"]
        done = Done(
            id=item["id"],
            group=properties["cloudjob:group"],
            slot=properties["cloudjob:slot"],
            fingerprint=properties["cloudjob:fingerprint"],
            tiles=_tiles(properties["cloudjob:tiles"]),
            identity=stac.identity(item).to_json(),
            time=properties["datetime"],
            cloud_cover=properties.get("eo:cloud_cover"),
            provider_cloud_cover=properties.get("cloudjob:provider_cloud_cover"),
            tag=tag,
        )
        fault = "" if _checked(done).path == path else f"it belongs at {done.path}"
    except _WRONG as error:
        fault = f"{type(error).__name__}: {error}"
    if fault:
        raise ContractError(f"{path} is not an item that cloudjob wrote: {fault}")
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


def _partial(out: Out, scenes: Mapping[str, tuple[str, ...]], done: Mapping[str, Done]) -> dict[str, frozenset[Tile]]:
    """Tiles that hold values in slots that are not complete.

    They may stem from an older version of the scene, so whoever computes the slot computes them too: that is what
    keeps a grown window whole when its run is killed after the old item is gone.
    """
    slots = {
        id_: f"{groups.MASKS}/{group}/cloud/c/{index}"
        for group, ids in scenes.items()
        for index, id_ in enumerate(ids)
        if id_ not in done
    }
    found = zip(slots, out.each(out.tags, slots.values()), strict=True)
    return {id_: frozenset(filter(None, map(_tile, tags))) for id_, tags in found if tags}


def _tile(path: str) -> Tile | None:
    row, column = path.rsplit("/", 2)[1:]
    return (int(row), int(column)) if row.isdecimal() and column.isdecimal() else None


def _tiles(pairs: Iterable[Iterable[int]]) -> frozenset[Tile]:
    """Rows and columns of tiles.

    Raises:
        ValueError, TypeError: some are none.
    """
    tiles = frozenset((row, column) for row, column in pairs)
    if not all(type(number) is int and 0 <= number < groups.LARGEST for tile in tiles for number in tile):
        raise ValueError("its tiles are none")
    return tiles
