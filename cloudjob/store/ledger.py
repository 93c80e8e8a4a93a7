"""What an OUT says has been done: STAC items are the ledger, beside them the failures and the records of runs.

A scene is done when its item exists and the group's list of slots (`cloudjob:scenes`) gives its slot to it. Everything
else here is a cache of that or a help for people.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cloudjob.errors import ContractError, redact
from cloudjob.grid import Tile
from cloudjob.store import failures as failed
from cloudjob.store import group as groups
from cloudjob.store import item as stac
from cloudjob.store.failures import Failure
from cloudjob.store.out import Out, dump


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
    """

    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    partial: dict[str, frozenset[Tile]] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()

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


def read(out: Out) -> Ledger:
    """Read the state of an OUT: one listing, the groups' metadata, and those items that the cache does not know.

    Raises:
        ContractError: something in it was not written by cloudjob.
        UnreachableError: the store does not answer.
    """
    found = groups.read_all(out)
    scenes = {name: groups.scenes(metadata) for name, metadata in found.items()}
    entries = _items(out)
    done = {
        entry.id: entry
        for entry in entries
        if entry.slot < len(scenes.get(entry.group, ())) and scenes[entry.group][entry.slot] == entry.id
    }
    failures = {failure.id: failure for failure in failed.read_all(out)}
    leftovers = [entry.path for entry in entries if done.get(entry.id) is not entry]
    leftovers += [failures.pop(id_).path for id_ in list(failures) if id_ in done]
    return Ledger(found, done, failures, _partial(out, scenes, done), tuple(leftovers))


def refresh(out: Out) -> Ledger:
    """Read the state of an OUT and write the caches that have changed; for the end of a run."""
    ledger = read(out)
    for group in ledger.scenes:
        entries = sorted((entry for entry in ledger.done.values() if entry.group == group), key=lambda entry: entry.id)
        index = dump({entry.id: vars(entry) | {"tiles": sorted(entry.tiles)} for entry in entries})
        path = f"items/{group}/{stac.INDEX}"
        if entries and out.get(path) != index:
            out.put(path, index)
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
        last_run=_run(out, f"runs/{runs[-1]}") if runs else None,
    )


def _run(out: Out, path: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = out.get_json(path)
        "{started} {how} {seconds}".format_map(record)
    except (ValueError, TypeError, KeyError) as error:
        raise ContractError(
            f"{out}/{path} is not a record that cloudjob wrote: {error!r}", hint="move it away"
        ) from None
    return record


def _items(out: Out) -> list[Done]:
    """Every item of the OUT, from the caches where they are up to date."""
    tags = out.tags("items")
    known: dict[str, Done] = {}
    for path in [path for path in tags if path.endswith(f"/{stac.INDEX}")]:
        for entry in _cached(out.get(path)):
            if tags.get(entry.path) == entry.tag:
                known[entry.path] = entry
    unknown = [path for path in tags if path not in known and not path.endswith(f"/{stac.INDEX}")]

    def parsed(path: str) -> Done | None:
        data = out.get(path)
        return _from_item(out, path, tags[path], data) if data else None

    known |= {path: found for path, found in zip(unknown, out.each(parsed, unknown), strict=True) if found}
    return [known[path] for path in tags if path in known]


def _cached(data: bytes | None) -> list[Done]:
    try:
        return [Done(**{**record, "tiles": _tiles(record["tiles"])}) for record in json.loads(data or b"{}").values()]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []  # It is only a cache: the items are read instead


def _from_item(out: Out, path: str, tag: str, data: bytes) -> Done:
    try:
        item = json.loads(data)
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
        fault = "" if done.path == path else f"it belongs at {done.path}"
    except (ValueError, KeyError, TypeError) as error:
        fault = repr(error)
    if fault:
        raise ContractError(
            f"{out}/{path} is not an item that cloudjob wrote: {fault}", hint="move it away: its scene is then redone"
        )
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
    return {id_: frozenset(_tile(path) for path in tags) for id_, tags in found if tags}


def _tile(path: str) -> Tile:
    row, column = path.rsplit("/", 2)[1:]
    return int(row), int(column)


def _tiles(pairs: Iterable[Iterable[int]]) -> frozenset[Tile]:
    return frozenset((row, column) for row, column in pairs)
