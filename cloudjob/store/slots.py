"""The output, written: slots before any task starts, tiles by the tasks, and a scene's item when all its tiles are in.

One writer, the client, allocates slots and writes items; workers write whole shards of the slots they were given
(`store.writer`).
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cloudjob.errors import ContractError, UnreachableError
from cloudjob.grid import Tile
from cloudjob.scene.scene import Scene
from cloudjob.store import failures
from cloudjob.store import group as groups
from cloudjob.store import item as stac
from cloudjob.store.conventions import COMPLETE, FAILED, PLANNED, microseconds
from cloudjob.store.failures import Failure
from cloudjob.store.group import MASKS, MEND
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.lock import Lock
from cloudjob.store.out import DeniedError, Out
from cloudjob.store.receipt import Receipt, merge
from cloudjob.store.settings import Settings
from cloudjob.store.writer import Slot

log = logging.getLogger(__name__)


def prepare(
    lock: Lock,
    settings: Settings,
    ledger: Ledger,
    scenes: Sequence[Scene],
    *,
    tile_of: Callable[[Scene], int],
    replaces: Mapping[str, str] | None = None,
    settled: Iterable[str] = (),
) -> dict[str, Slot]:
    """Give every scene a slot before any task starts, and mend what an interrupted run left.

    A finished mask is never written over. A scene whose window grows keeps its slot, for its tasks write tiles that
    were missing; every other scene gets a slot that nobody reads, also when it is done or replaces one that is: its
    item takes over from the old one when the new mask is whole (`complete`).

    Its order makes a kill harmless: what nobody needs is deleted, arrays grow, times and statuses are written, and
    last the list of slots is committed.

    Args:
        lock: of this run on an OUT that it has claimed (`settings.claim`).
        ledger: as read under the lock.
        scenes: to be computed; those that are new get slots in this order.
        tile_of: side of a scene's tiles in its mask, and of its shards, in pixels.
        replaces: id of a scene → id of its older version.
        settled: ids of scenes whose failure is over.

    Returns:
        Scene id → slot. Scenes of a group that is damaged, or another user's, have none: what is wrong with it is put
        down in the ledger's `damaged`, and it is left as it is; a new group in its place would delete its masks.

    Raises:
        ContractError: a group has another grid or other tiles than its scenes.
    """
    out, replaces, over = lock.out, replaces or {}, frozenset(settled) - ledger.done.keys()
    by_group: dict[str, list[Scene]] = {name: [] for name in ledger.groups}
    for scene in scenes:
        if groups.path(scene.group) in ledger.damaged:
            continue
        by_group.setdefault(scene.group, []).append(scene)
        if scene.group in ledger.groups:
            groups.check_grid(out, scene.group, ledger.groups[scene.group], scene.mask_grid, tile_of(scene))
        elif scene.mask_grid != by_group[scene.group][0].mask_grid:
            raise ContractError(f"scenes of group {scene.group} have two grids: {scene.id} has {scene.mask_grid}")
    lock.check()
    _sweep(out, ledger)
    lock.check()  # It may have taken minutes, and the machine slept: what did not count may be done by now
    _forget(out, (*ledger.leftovers, *(failures.path(id_) for id_ in settled)))
    ledger = _without(ledger, over)
    slots: dict[str, Slot] = {}
    for name, wanted in by_group.items():
        lock.check()
        try:
            if name not in ledger.groups:
                first = wanted[0]
                groups.create(lock, name, first.mask_grid, tile_of(first), settings, first.coarser)
            slots |= _allot(lock, ledger, name, wanted, replaces, over)
        except (ContractError, DeniedError) as error:  # What is to do there waits until it is mended
            ledger.damaged[groups.path(name)] = error.told if isinstance(error, DeniedError) else str(error)
            log.warning("%s; %s", error, error.hint)
    return slots


def unplaced(ledger: Ledger, scene: Scene) -> str:
    """Why a scene has no slot."""
    return f"scene {scene.id}: its group {scene.group} is damaged: {ledger.damaged[groups.path(scene.group)]}; {MEND}"


def _allot(
    lock: Lock,
    ledger: Ledger,
    name: str,
    wanted: Sequence[Scene],
    replaces: Mapping[str, str],
    over: frozenset[str],
) -> dict[str, Slot]:
    """Give the scenes of one group their slots; those of scenes that are over are free."""
    owners = ledger.scenes.get(name, ())
    kept = {scene.id: done.slot for scene in wanted if (done := ledger.holding(scene))}
    blocked = partial(_blocked, lock.out, name)
    given = _allocate(ledger, name, [scene for scene in wanted if scene.id not in kept], replaces, blocked)
    # As written, with those whose masks others have taken the place of: `tidy` empties their slots, then frees them
    order = list(groups.scenes(ledger.groups[name])) if name in ledger.groups else []
    order += [""] * (max(given.values(), default=-1) + 1 - len(owners))
    freed = [slot for slot, id_ in enumerate(order) if id_ in over]
    for slot in freed:
        order[slot] = ""
    passed_over = {*range(len(owners), len(order))}.difference(given.values())
    stale = _emptiable(lock.out, name, [*freed, *passed_over])
    looked = given and name in ledger.groups  # Of one that is new nothing is left (`groups.create`)
    written = {slot for folder in _arrays(name) for slot in lock.out.names(folder)} if looked else set()
    # Parts of masks that were never finished, or that this group's list does not know
    stale += [slot for slot in given.values() if str(slot) in written]
    for id_, slot in given.items():
        order[slot] = id_
    times = {given[scene.id]: microseconds(scene.time) for scene in wanted if scene.id in given}
    statuses = [PLANNED if slot in times else _status(ledger, name, slot) for slot in range(len(order))]
    grid = wanted[0].mask_grid if name not in ledger.groups else None
    clear = partial(_clear, lock, name, stale)
    groups.commit(lock.out, name, order, times=times, statuses=statuses, grid=grid, clear=clear)
    return {id_: Slot(name, slot, lock.token) for id_, slot in (kept | given).items()}


def _without(ledger: Ledger, over: frozenset[str]) -> Ledger:
    """The ledger as if these scenes had never been tried: their slots are free."""
    scenes = {name: tuple("" if id_ in over else id_ for id_ in owners) for name, owners in ledger.scenes.items()}
    failing = {id_: failure for id_, failure in ledger.failures.items() if id_ not in over}
    return replace(ledger, scenes=scenes, failures=failing)


def complete(
    lock: Lock,
    settings: Settings,
    ledger: Ledger,
    scene: Scene,
    *,
    slot: Slot,
    receipt: Receipt,
    tiles: Iterable[Tile],
    replaces: str | None = None,
    doubts: Callable[[Receipt], Collection[str]] = lambda _: (),
) -> dict[str, Any]:
    """Declare a scene done: its STAC item, which is returned, is written last, and takes the place of any older one.

    Args:
        ledger: as it was when the run began.
        scene: whose tiles are all written in `slot`.
        receipt: of the tiles.
        tiles: that were computed now.
        replaces: id of its older version.
        doubts: what its counts give reason to warn of: of a scene that grows all of them are judged anew.
    """
    out, path = lock.out, stac.path(scene.group, scene.id)
    old = ledger.done.get(scene.id) or ledger.done.get(replaces or "")
    elsewhere = old if old and old.path != path else None
    made, judged = frozenset(tiles), receipt
    if grown := ledger.holding(scene):
        known = stac.receipt(_item(out, grown))
        kept = replace(known, warnings=tuple(each for each in known.warnings if each not in doubts(known)))
        receipt, made = merge([kept, receipt]), made | grown.tiles
        # What an older version's item does not tell this one does not either: a part's numbers are not the whole's
        if known.most:
            judged = receipt
        else:
            receipt = replace(receipt, most=())
        if not known.checksum:
            receipt = replace(receipt, checksum=0)
    receipt = replace(receipt, warnings=tuple(sorted({*receipt.warnings, *doubts(judged)})))
    retires = (elsewhere.group, elsewhere.id) if elsewhere else None
    item = stac.build(scene, slot.index, receipt, settings, tuple(made), retires)
    for folder in _shards(slot.group, slot.index):
        # A worker that was killed while it wrote left a part of a file; the tile itself has been written since.
        out.sweep(folder)
    if elsewhere and elsewhere.replaces == path:  # A scene that moves back: items that replace each other would be out
        lock.check()
        moved = _item(out, elsewhere)
        moved["properties"].pop("cloudjob:replaces", None)
        out.put_json(elsewhere.path, moved)
    lock.check()
    beside = old.slot if old and old.group == slot.group and old.slot != slot.index else None
    _set_status(out, slot, COMPLETE, beside)
    lock.check()
    out.put_json(path, item)
    if elsewhere:
        if elsewhere.group != slot.group and groups.path(elsewhere.group) not in ledger.damaged:  # As in `prepare`
            _hint(out, replace(slot, group=elsewhere.group, index=elsewhere.slot), PLANNED)
        _forget(out, [elsewhere.path])
    out.delete(failures.path(id_) for id_ in (scene.id, replaces) if id_ in ledger.failures)
    return item


def tidy(lock: Lock, ledger: Ledger) -> None:
    """Free slots whose masks others have taken the place of, and delete what no longer counts: no task is at work."""
    lock.check()
    _forget(lock.out, ledger.leftovers)
    for name, metadata in ledger.groups.items():
        order = list(groups.scenes(metadata))
        freed = [slot for slot in _free(ledger, name) if order[slot]]
        if not freed:
            continue
        for slot in freed:
            order[slot] = ""
        statuses = [_status(ledger, name, slot) for slot in range(len(order))]
        clear = partial(_clear, lock, name, _emptiable(lock.out, name, freed))
        try:
            groups.commit(lock.out, name, order, times={}, statuses=statuses, clear=clear)
        except (ContractError, DeniedError) as error:
            log.warning("%s; %s", error, error.hint)  # As in `prepare`


def fail(
    lock: Lock,
    ledger: Ledger,
    scene: Scene,
    *,
    slot: Slot,
    tiles: Iterable[Tile],
    reason: str,
    outside: bool = False,
    spare: Scene | None = None,
) -> Failure:
    """Record that a scene failed: for the next run, which tries again, and as a hint for readers.

    A mask of it that was there stays, with its item. `tiles`, `reason`, `outside` and `spare` are those of
    `failures.record`; the ledger is as it was when the run began.
    """
    before = ledger.failures.get(scene.id)
    failure = failures.record(lock, before, scene, tiles, reason, outside=outside, spare=spare)
    if not ledger.holding(scene):
        _hint(lock.out, slot, FAILED)
    return failure


def _item(out: Out, done: Done) -> dict[str, Any]:
    item = out.get_json(done.path)
    if item is None:
        raise UnreachableError(
            f"{out}/{done.path} has vanished while a run was at work", hint="run the same command again"
        )
    found: dict[str, Any] = item
    return found


def _allocate(
    ledger: Ledger,
    group: str,
    scenes: Iterable[Scene],
    replaces: Mapping[str, str],
    blocked: Callable[[int], str] = lambda _: "",
) -> dict[str, int]:
    """Scene id → slot: the one it was given before, else its older version's if that has no mask, else any free one.

    No slot that holds a mask is given away, none that waits for another scene, and none that is `blocked`.
    """
    scenes = list(scenes)
    owners = ledger.scenes.get(group, ())
    waiting = {
        id_: slot for slot, id_ in enumerate(owners) if id_ and not ledger.holder(group, slot) and not blocked(slot)
    }
    own = {scene.id: waiting.get(scene.id, waiting.get(replaces.get(scene.id, ""))) for scene in scenes}
    free = sorted(slot for slot in _free(ledger, group) - set(own.values()) if not blocked(slot))
    new = (slot for slot in itertools.count(len(owners)) if not blocked(slot))
    given: dict[str, int] = {}
    for scene in scenes:
        slot = own[scene.id]
        if slot is None or slot in given.values():
            slot = free.pop(0) if free else next(new)
        given[scene.id] = slot
    return given


def _free(ledger: Ledger, group: str) -> set[int]:
    """Slots whose scenes have their masks in other ones, or that no scene owns."""
    owners = enumerate(ledger.scenes.get(group, ()))
    return {s for s, id_ in owners if not ledger.holder(group, s) and (not id_ or id_ in ledger.done)}


def _blocked(out: Out, group: str, slot: int) -> str:
    """What lies in a slot's place so that it cannot be emptied, as a link, or "": nobody gets such a slot."""
    return next(filter(None, map(out.blocked, _shards(group, slot))), "")


def _emptiable(out: Out, group: str, slots: Iterable[int]) -> list[int]:
    """Of slots that are nobody's from now on those that can be emptied; of the others is told, this once."""
    why = {slot: _blocked(out, group, slot) for slot in slots}
    for what in filter(None, why.values()):
        log.warning("%s: no scene gets this slot until it is moved away", what)
    return [slot for slot, what in why.items() if not what]


def _status(ledger: Ledger, group: str, slot: int) -> int:
    owners = ledger.scenes.get(group, ())
    if slot < len(owners) and ledger.holder(group, slot):
        return COMPLETE
    waits = slot < len(owners) and owners[slot] in ledger.failures and slot not in _free(ledger, group)
    return FAILED if waits else PLANNED


def _sweep(out: Out, ledger: Ledger) -> None:
    """Remove the parts of files that a killed run left; slots that are done were swept by `complete`."""
    done = [folder for entry in ledger.done.values() for folder in _shards(entry.group, entry.slot)]
    out.sweep("", deep=False)
    # Not `lock` and `report`: others may write there now
    for folder in ("items", failures.FOLDER, "runs", "cogs", MASKS):
        out.sweep(folder, keep=done)


def _arrays(group: str) -> list[str]:
    """Folders that hold a folder for every slot in which something was written."""
    return [f"{MASKS}/{group}/{array}/c" for array in ("cloud", "cloud_probability")]


def _shards(group: str, slot: int) -> list[str]:
    return [f"{folder}/{slot}" for folder in _arrays(group)]


def _clear(lock: Lock, group: str, slots: Iterable[int]) -> None:
    """Empty slots of a group that is about to change. A run that took over meanwhile gives them to others."""
    for slot in slots:
        empty(lock, group, slot)
    lock.check()  # An axis that another run has made longer would be cut, and its masks with it


def empty(lock: Lock, group: str, slot: int) -> None:
    """Delete what lies in a slot."""
    for folder in _shards(group, slot):
        lock.out.delete_under(folder, lock.check)


def _forget(out: Out, paths: Iterable[str]) -> None:
    """Delete what no longer counts; what this user may not delete lies there, and harms nobody."""
    for path in paths:
        with contextlib.suppress(DeniedError):
            out.delete([path])


def _hint(out: Out, slot: Slot, status: int) -> None:
    """Set the status of a slot whose scene does not depend on it, for its group may have been damaged meanwhile."""
    try:
        _set_status(out, slot, status)
    except (ContractError, DeniedError) as error:
        log.warning("%s; %s", error, error.hint)  # As in `prepare`


def _set_status(out: Out, slot: Slot, status: int, vacated: int | None = None) -> None:
    """Set a slot's status, and at the same moment that of one whose mask it takes the place of."""
    array = groups.open_array(out, slot.group, "status")
    values = groups.axis(out, slot.group, "status", array)
    values[slot.index] = status
    if vacated is not None:
        values[vacated] = PLANNED
    with out.reached():
        array[:] = values
