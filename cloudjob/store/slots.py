"""The output, written: slots before any task starts, tiles by the tasks, and a scene's item when all its tiles are in.

One writer, the client, allocates slots and writes items; workers write whole shards of the slots they were given.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import zarr

from cloudjob.errors import ContractError
from cloudjob.grid import Tile, Window
from cloudjob.scene.scene import Scene
from cloudjob.store import failures
from cloudjob.store import group as groups
from cloudjob.store import item as stac
from cloudjob.store import lock as locks
from cloudjob.store.failures import Failure
from cloudjob.store.group import COMPLETE, FAILED, MASKS, PLANNED, Mask
from cloudjob.store.ledger import Ledger
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt
from cloudjob.store.settings import Settings


@dataclass(frozen=True)
class Slot:
    """A scene's place in the store, and one run's right to write there.

    Attributes:
        group: of the store.
        index: on the group's time axis.
        token: of the run's lock.
    """

    group: str
    index: int
    token: locks.Token


def prepare(
    lock: Lock,
    settings: Settings,
    ledger: Ledger,
    scenes: Sequence[Scene],
    *,
    tile_of: Callable[[Scene], int],
    replaces: Mapping[str, str] | None = None,
) -> dict[str, Slot]:
    """Give every scene a slot before any task starts, and mend what an interrupted run left.

    Its order makes a kill harmless: arrays grow, times and statuses are written, the list of slots is committed, and
    only then the items are deleted whose slots it gives to newer versions: from then on they no longer count. Items of
    scenes that are computed anew stay until `begin`.

    Args:
        lock: of this run on an OUT that it has claimed (`settings.claim`).
        settings: the OUT's contract.
        ledger: as read under the lock.
        scenes: to be computed; those that are new get slots in this order.
        tile_of: side of a scene's tiles in its mask, and of its shards, in pixels.
        replaces: id of a scene → id of its older version, whose slot it takes over.

    Returns:
        Scene id → slot.

    Raises:
        ContractError: a group has another grid or other tiles than its scenes.
        UnreachableError: the store does not answer, or the lock is lost.
    """
    out, replaces = lock.out, replaces or {}
    by_group: dict[str, list[Scene]] = {name: [] for name in ledger.groups}
    for scene in scenes:
        by_group.setdefault(scene.group, []).append(scene)
        if groups.path(scene.group) in ledger.damaged:
            raise ContractError(
                f"{out}/{groups.path(scene.group)} is damaged: {ledger.damaged[groups.path(scene.group)]}",
                hint="`cloudjob check OUT --repair`; a new group in its place would delete its masks",
            )
        if scene.group in ledger.groups:
            groups.check_grid(out, scene.group, ledger.groups[scene.group], scene.mask_grid, tile_of(scene))
        elif scene.mask_grid != by_group[scene.group][0].mask_grid:
            raise ContractError(f"scenes of group {scene.group} have two grids: {scene.id} has {scene.mask_grid}")
    lock.check()
    _sweep(out, ledger)
    owners = ledger.scenes
    slots: dict[str, Slot] = {}
    for name, wanted in by_group.items():
        lock.check()
        new = name not in ledger.groups
        if new:
            groups.create(
                out,
                name,
                wanted[0].mask_grid,
                tile_of(wanted[0]),
                probability=settings.probability,
                labels=settings.classes,
            )
        order = _allocate(owners.get(name, ()), wanted, replaces)
        times = {scene.id: _microseconds(scene.time) for scene in wanted}
        statuses = [_status(ledger, id_, retried=id_ in times) for id_ in order]
        groups.commit(out, name, order, times=times, statuses=statuses, grid=wanted[0].mask_grid if new else None)
        index = {id_: slot for slot, id_ in enumerate(order)}
        slots |= {scene.id: Slot(name, index[scene.id], lock.token) for scene in wanted}
    out.delete(_outdated(ledger, scenes, replaces))
    return slots


def begin(lock: Lock, ledger: Ledger, scene: Scene, *, slot: Slot) -> None:
    """Take back a scene's item before its first shard is overwritten. Until then its old mask counts.

    Args:
        lock: of this run.
        ledger: as it was when the run began.
        scene: to be computed.
        slot: its place.

    Raises:
        UnreachableError: the store does not answer, or the lock is lost.
    """
    if scene.id in ledger.done:
        lock.check()
        _set_status(lock.out, slot, PLANNED)
        lock.check()
        lock.out.delete([ledger.done[scene.id].path])


class Writer:
    """Writes tiles of one slot; made once per task, on a worker.

    Args:
        out: the output.
        slot: where to write.
        settings: the OUT's contract.

    Raises:
        UnreachableError: the store does not answer.
    """

    def __init__(self, out: Out, slot: Slot, settings: Settings) -> None:
        self.out = out
        self.slot = slot
        self._cloud = groups.open_array(out, slot.group, "cloud")
        self._probability = groups.open_array(out, slot.group, "cloud_probability") if settings.probability else None

    def write(self, core: Window, mask: Mask, probability: Mask | None = None) -> None:
        """Write one tile: a whole shard.

        Args:
            core: the tile's pixels in its scene.
            mask: (y, x) uint8: a class, 254 no data, 255 not computed.
            probability: (y, x) uint8: percent, 254, 255; given if and only if the settings keep it.

        Raises:
            LockLostError: another run has taken over: these values may no longer be wanted.
            UnreachableError: the store does not answer.
            ValueError: the window is no whole shard, or `probability` is given and not kept, or the reverse.
        """
        if (probability is None) != (self._probability is None):
            raise ValueError("probabilities are written if and only if the settings keep them")
        _check_whole_shard(self._cloud, core)
        locks.check(self.out, self.slot.token)
        self._put(self._cloud, "cloud", core, mask)
        if self._probability is not None and probability is not None:
            self._put(self._probability, "cloud_probability", core, probability)

    def _put(self, array: zarr.Array[Any], name: str, core: Window, values: Mask) -> None:
        place = (self.slot.index, *core.slices)
        with self.out.reached():
            try:
                array[place] = values
            except (ValueError, RuntimeError):  # Zarr reads what lies at the edge, which cannot be decoded: it may go
                side = (array.shards or array.chunks)[1]
                shard = f"{self.slot.index}/{core.top // side}/{core.left // side}"
                self.out.delete([f"{MASKS}/{self.slot.group}/{name}/c/{shard}"])
                array[place] = values


def complete(
    lock: Lock, settings: Settings, scene: Scene, *, slot: Slot, receipt: Receipt, tiles: Iterable[Tile]
) -> dict[str, Any]:
    """Declare a scene done: its item is written last.

    Args:
        lock: of this run.
        settings: the OUT's contract.
        scene: whose tiles are all written.
        slot: where they are.
        receipt: of all tiles of the slot.
        tiles: all tiles of the slot.

    Returns:
        The STAC item.

    Raises:
        UnreachableError: the store does not answer, or the lock is lost.
    """
    out = lock.out
    item = stac.build(scene, slot.index, receipt, settings, tuple(tiles))
    for folder in _shards(slot.group, slot.index):
        # A worker that was killed while it wrote left a part of a file; the tile itself has been written since.
        out.sweep(folder)
    lock.check()
    _set_status(out, slot, COMPLETE)
    lock.check()
    out.put_json(stac.path(scene.group, scene.id), item)
    out.delete([failures.path(scene.id)])
    return item


def fail(lock: Lock, ledger: Ledger, scene: Scene, *, slot: Slot, tiles: Iterable[Tile], reason: str) -> Failure:
    """Record that a scene failed: for the next run, which tries again, and as a hint for readers.

    Args:
        lock: of this run.
        ledger: as it was when the run began.
        scene: that failed.
        slot: its place.
        tiles: that were asked for.
        reason: why; secrets are taken out.

    Raises:
        UnreachableError: the store does not answer, or the lock is lost.
    """
    failure = failures.record(lock, ledger.failures.get(scene.id), scene, tiles, reason)
    _set_status(lock.out, slot, FAILED)
    return failure


def _allocate(owners: Sequence[str], scenes: Iterable[Scene], replaces: Mapping[str, str]) -> list[str]:
    """Owners of a group's slots with these scenes among them; nobody else's slot moves."""
    order = list(owners)
    index = {id_: slot for slot, id_ in enumerate(order)}
    for scene in scenes:
        if scene.id in index:
            continue
        slot = index.pop(replaces.get(scene.id, ""), len(order))
        order[slot : slot + 1] = [scene.id]
        index[scene.id] = slot
    return order


def _status(ledger: Ledger, id_: str, *, retried: bool) -> int:
    if id_ in ledger.done:
        return COMPLETE
    return FAILED if id_ in ledger.failures and not retried else PLANNED


def _outdated(ledger: Ledger, scenes: Iterable[Scene], replaces: Mapping[str, str]) -> Iterator[str]:
    """What newer versions retire, and what no longer counts anyway."""
    yield from ledger.leftovers
    for scene in scenes:
        old = replaces.get(scene.id)
        if old in ledger.done:
            yield ledger.done[old].path
        if old in ledger.failures:
            yield ledger.failures[old].path


def _sweep(out: Out, ledger: Ledger) -> None:
    """Remove the parts of files that a killed run left; slots that are done were swept by `complete`."""
    done = [folder for entry in ledger.done.values() for folder in _shards(entry.group, entry.slot)]
    out.sweep("", deep=False)
    for folder in ("items", failures.FOLDER, "runs", MASKS):  # Not `lock` and `report`: others may write there now
        out.sweep(folder, keep=done)


def _shards(group: str, slot: int) -> list[str]:
    return [f"{MASKS}/{group}/{array}/c/{slot}" for array in ("cloud", "cloud_probability")]


def _set_status(out: Out, slot: Slot, status: int) -> None:
    array = groups.open_array(out, slot.group, "status")
    with out.reached():
        array[slot.index] = status


def _check_whole_shard(array: zarr.Array[Any], core: Window) -> None:
    """Two writers in one shard lose data, silently."""
    for start, stop, side, shard in zip(
        (core.top, core.left),
        (core.bottom, core.right),
        array.shape[1:],
        (array.shards or array.chunks)[1:],
        strict=True,
    ):
        if start % shard or not (stop - start == shard or stop == side) or stop - start > shard:
            raise ValueError(f"{core} is no whole shard of {shard} × {shard} pixels in an array of {array.shape}")


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
