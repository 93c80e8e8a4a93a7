"""`cloudjob check --repair`: mends what can be made from what else is known, and marks the rest for the next run.

A mask is never guessed: a scene whose mask, item or place is damaged loses its item, and the next run masks it again.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

from pyproj import CRS
from pyproj.exceptions import CRSError

from cloudjob.errors import ContractError
from cloudjob.scene.identity import Identity
from cloudjob.store import again, check, cog, conventions, failures, folder, runs, settings, slots
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store.again import Marked
from cloudjob.store.check import Fault
from cloudjob.store.conventions import COMPLETE, PLANNED
from cloudjob.store.document import dump
from cloudjob.store.group import ALONG_TIME, LARGEST, MASKS
from cloudjob.store.ledger import Done
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.settings import Settings


def repair(lock: Lock, faults: Iterable[Fault]) -> Iterator[tuple[Fault, str]]:
    """Mend faults, or mark their scenes to be masked again.

    Args:
        lock: of this process on the OUT.
        faults: as `check.check` and `cog.faults` found them.

    Yields:
        Each fault, and what has become of it; "" where only a person can tell what to do.
    """
    out, faults = lock.out, list(faults)
    lock.check()
    deleted = [fault for fault in faults if fault.mend == "delete"]
    told = [fault for fault in deleted if fault.path.startswith(f"{failures.FOLDER}/")]  # Last: or a kill loses them
    yield from _delete(lock, [fault for fault in deleted if fault not in told])
    yield from ((fault, _contract(out)) for fault in faults if fault.path == settings.FILE)
    rebuilt = [fault for fault in faults if fault.mend == "rebuild"]
    by_group: dict[str, list[Fault]] = {}
    for fault in rebuilt:
        if fault.path.startswith(f"{MASKS}/"):
            by_group.setdefault(fault.path.split("/")[1], []).append(fault)
    for group, own in sorted(by_group.items()):
        mended = _group(lock, group)
        yield from ((fault, mended) for fault in own)
        if mended:  # Perhaps its masks could not be looked at before
            known = {fault.scene for fault in faults}
            faults += [fault for fault in check.masks(out, ledgers.read(out), group) if fault.scene not in known]
    yield from _again(lock, [fault for fault in faults if fault.mend == "again"])
    yield from _delete(lock, told)
    ledgers.refresh(out)
    yield from ((fault, cog.restore(lock, fault.scene)) for fault in rebuilt if folder.is_cog(fault.path))
    yield from ((fault, "made anew") for fault in rebuilt if fault.path.startswith("items/"))
    yield from ((fault, "what can be read is kept") for fault in faults if fault.path == again.FILE)
    yield from ((fault, "") for fault in faults if fault.mend == "by hand")


def _delete(lock: Lock, faults: Iterable[Fault]) -> Iterator[tuple[Fault, str]]:
    for fault in faults:
        lock.check()
        lock.out.delete([fault.path])
        yield fault, "deleted"


def _contract(out: Out) -> str:
    """Write the contract anew, as the last run knew it."""
    for path in reversed(runs.paths(out)):
        try:
            told = Settings.from_json(out.get_json(path)["settings"])
            out.put_json(settings.FILE, told.to_json())
        except check.WRONG:
            continue
        return f"made anew from {path}"
    return ""


def _again(lock: Lock, faults: Sequence[Fault]) -> Iterator[tuple[Fault, str]]:
    """Take back the items of damaged masks, after the next run was told to look for them."""
    out = lock.out
    ledger = ledgers.read(out, named=())
    days = {fault.scene: _day(out, ledger, fault.scene) for fault in faults}
    found = [_marked(ledger.done[id_]) if id_ in ledger.done else Marked(id_, day) for id_, day in days.items() if day]
    again.mark(out, found)
    for fault in faults:
        lock.check()  # A run that took over may have masked it by now
        done = ledger.done.get(fault.scene)
        path = done.path if done else fault.path
        if done:
            _status(out, done)
        out.delete([path])
        if done:  # Last: a part of a shard is written into what is there, which cannot be read
            slots.empty(lock, done.group, done.slot)
        day = days[fault.scene]
        yield fault, f"will be masked again by the next run (scene of {day})" if day else "its item is deleted"


def _marked(done: Done) -> Marked:
    day = datetime.fromisoformat(done.time).date()
    return Marked(done.id, day, Identity.from_json(done.identity), done.group, done.tiles)


def _day(out: Out, ledger: ledgers.Ledger, id_: str) -> date | None:
    """The day of a scene: its item's, or that of its slot on the time axis."""
    if id_ in ledger.done:
        return datetime.fromisoformat(ledger.done[id_].time).date()
    for group, metadata in ledger.groups.items():
        owners = groups.scenes(metadata)
        if id_ in owners and (moment := groups.times(out, group).get(owners.index(id_))):
            return moment.date()
    found = re.search(r"(?:19|20)\d{2}[01]\d[0-3]\d", id_)
    try:
        return datetime.strptime(found[0], "%Y%m%d").replace(tzinfo=UTC).date() if found else None
    except ValueError:
        return None


def _status(out: Out, done: Done) -> None:
    try:
        array = groups.open_array(out, done.group, "status")
        with out.reached():
            array[done.slot] = PLANNED
    except check.WRONG:
        return  # It is a hint for readers, and is mended with its group


def _group(lock: Lock, group: str) -> str:
    """Write a group's metadata anew: of each array from the group's own, and the group's from its arrays and items."""
    out = lock.out
    lock.check()
    known = groups.read_all(out, {}).get(group)
    items = ledgers.items_of(out, group)
    try:
        members = known["consolidated_metadata"]["metadata"] if known else _members(out, group, items)
        grid = groups.grid_of(known or groups.document(members, members["cloud"]["attributes"], ()))
        order = list(groups.scenes(known)) if known else _order(int(members["cloud"]["shape"][0]), items)
        attributes = known["attributes"] if known else conventions.attributes(grid)
        # Nothing is made of what is not as cloudjob makes it
        groups.parsed(dump(groups.document(members, attributes, order)))
        for name in members if known else ():
            if name in ALONG_TIME:
                members[name]["shape"][0] = len(order)
            out.put_json(f"{MASKS}/{group}/{name}/zarr.json", members[name])
        groups.mend_axes(out, group, grid)
        times = {done.slot: conventions.microseconds(datetime.fromisoformat(done.time)) for done in items}
        statuses = [COMPLETE if slot in times else PLANNED for slot in range(len(order))]
        groups.commit(out, group, order, times=times, statuses=statuses, grid=None if known else grid)
    except check.WRONG:
        # Somebody's link stays, and would be in a new group's way
        odd = any(f"{path}/".startswith(f"{MASKS}/{group}/") for path in out.oddities())
        return "" if known or odd or _lost_projections() else _given_up(lock, group, items)
    return "made anew from what else is known"


def _lost_projections() -> bool:
    """Whether PROJ finds no database, or another's: then no group looks as it was made, and all would be deleted."""
    try:
        CRS.from_epsg(4326)
    except CRSError:
        return True
    return False


def _given_up(lock: Lock, group: str, items: Sequence[Done]) -> str:
    """Take back all masks of a group of which too little is known to read any, as `_again` does it."""
    again.mark(lock.out, map(_marked, items))
    lock.check()
    lock.out.delete(done.path for done in items)
    lock.out.delete_under(f"{MASKS}/{group}", lock.check)
    if lock.out.names(f"{MASKS}/{group}"):
        return ""  # What stays is somebody else's, and in the way
    return "too little is known of it: all its scenes will be masked again by the next run"


def _order(slots: int, items: Sequence[Done]) -> list[str]:
    """The scenes that own a group's slots, as their items have it."""
    slots = max([slots, *(done.slot + 1 for done in items)])
    if slots > LARGEST:
        raise ContractError(f"{slots} slots are too many")
    order = [""] * slots
    for done in items:
        order[done.slot] = done.id
    return order


def _members(out: Out, group: str, items: Sequence[Done]) -> dict[str, Any]:
    """What a group's masks and their probabilities say of themselves; the one is made of the other if it says nothing.

    What lies beside them is made anew.
    """
    try:
        contract = settings.read(out)
    except ContractError:
        contract = None  # It is a fault of its own
    kept = contract.probability if contract else "cloud_probability" in out.names(f"{MASKS}/{group}")
    found = {name: _member(out, group, name) for name in ("cloud", *(["cloud_probability"] if kept else []))}
    told = [each for each in found.values() if each]
    if contract and told and len(told) < len(found):
        like = groups.parsed(dump(groups.document({"cloud": told[0]}, told[0]["attributes"], ())))
        for name in [name for name in found if not found[name]]:
            groups.mend_mask(out, group, name, like, contract, _rounding(out, items))
            found[name] = _member(out, group, name)
    return found


def _member(out: Out, group: str, name: str) -> Any:
    """What an array says of itself, or None where it cannot be opened by that."""
    try:
        groups.open_array(out, group, name)
        return out.get_json(f"{MASKS}/{group}/{name}/zarr.json")
    except check.WRONG:
        return None


def _rounding(out: Out, items: Sequence[Done]) -> dict[str, str]:
    """How a group's probabilities were rounded, if all its items say the same; of what is not known no mask is made."""
    found = out.each(out.get_json, [done.path for done in items])
    try:
        told = [each["assets"]["cloud_probability"]["cloudjob:rounding"] for each in found]
    except check.WRONG:
        return {}
    return next((how for how in map(conventions.rounding, (1, 2)) if told and all(each == how for each in told)), {})
