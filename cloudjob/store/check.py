"""`cloudjob check`: what an OUT says against what lies in it, down to every pixel, and what can be mended.

An item tells how many pixels of a mask are clear, cloud and without data, and the checksum of its tiles' values: so a
shard that was deleted, cut or written over is found, and one flipped bit too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from cloudjob import classes
from cloudjob.classes import NAMES, NOT_COMPUTED
from cloudjob.errors import ContractError, UsageError
from cloudjob.store import again, conventions, failures, runs, settings
from cloudjob.store import group as groups
from cloudjob.store import item as stac
from cloudjob.store import ledger as ledgers
from cloudjob.store.conventions import COMPLETE
from cloudjob.store.document import ODD
from cloudjob.store.group import ALONG_TIME, MASKS
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.out import Out
from cloudjob.store.receipt import tile_sum

Mend = Literal["again", "rebuild", "delete", "by hand"]
"""What becomes of a fault: its scene is masked again by the next run; the file is made from what else is known; it is
deleted; or only a person can tell what it should be."""

WRONG = (*ODD, ContractError, RuntimeError, SystemError)  # The last of Blosc, of a size below 0
"""What documents and codecs raise that are not as cloudjob wrote them."""


@dataclass(frozen=True)
class Fault:
    """Something in an OUT that is not as it was written.

    Attributes:
        path: of the file.
        what: is wrong with it.
        mend: what `repair` does about it.
        scene: that it concerns, or "".
    """

    path: str
    what: str
    mend: Mend
    scene: str = ""


def check(out: Out) -> Iterator[Fault]:
    """Compare everything in an OUT with everything else; nothing is written.

    A run that is at work meanwhile may be taken for damage.

    Raises:
        UsageError: there is no OUT.
        ContractError: it was made by something else.
    """
    yield from _contract(out)
    ledger = ledgers.read(out, named=())
    yield from (Fault(path, "a link, a pipe or the like", "by hand") for path in out.oddities())
    owners = {stac.path(name, id_): id_ for name, group in ledger.groups.items() for id_ in groups.scenes(group) if id_}
    for path, what in sorted(ledger.damaged.items()):
        yield _damaged(path, what, owners)
    yield from (Fault(path, "it no longer counts", "delete") for path in ledger.leftovers)
    yield from _marks(out, ledger)
    yield from _records(out, ledger)
    for group in sorted(ledger.groups):
        found = list(_group(out, ledger, group))
        yield from found
        arrays = ("/cloud/zarr.json", "/cloud_probability/zarr.json")
        if not any(fault.path.endswith(arrays) for fault in found):  # Else none could be read, and all would be lost
            yield from masks(out, ledger, group)


def masks(out: Out, ledger: Ledger, group: str) -> Iterator[Fault]:
    """The finished masks of a group that are not what their items say."""
    done = [done for done in ledger.done.values() if done.group == group]
    for each in sorted(done, key=lambda each: each.slot):
        if what := _mask(out, each, ledger.groups[group]):
            yield Fault(f"{MASKS}/{group}/cloud/c/{each.slot}", what, "again", each.id)


def _contract(out: Out) -> Iterator[Fault]:
    try:
        known = settings.read(out)
    except ContractError as error:
        yield Fault(settings.FILE, str(error), "rebuild")
        return
    if known is None and {"items", MASKS} & out.names():
        yield Fault(settings.FILE, "it is missing", "rebuild")
    elif known is None:
        settings.check_ours(out)
        raise UsageError(f"there is no OUT at {out}", hint="`cloudjob run --out` makes it")


def _damaged(path: str, what: str, owners: dict[str, str]) -> Fault:
    folder = path.split("/", 1)[0]
    if folder == MASKS:
        return Fault(path, what, "rebuild")
    if path in owners:
        return Fault(path, what, "again", owners[path])
    return Fault(path, what, "by hand" if folder == "items" else "delete")


def _marks(out: Out, ledger: Ledger) -> Iterator[Fault]:
    """Marks of damaged masks, and scenes that nothing would have tried again, for what told of them is damaged."""
    marked, faults = again.look(out)
    yield from (Fault(again.FILE, what, "rebuild") for what in faults)
    for id_, (group, _) in ledger.begun.items():
        path, told = stac.path(group, id_), again.FILE if faults else failures.path(id_)
        known = path in ledger.damaged or id_ in {one.id for one in marked}
        if (faults or told in ledger.damaged) and not known:
            yield Fault(path, f"it is missing, and {told}, which may have told of it, is damaged", "again", id_)


def _records(out: Out, ledger: Ledger) -> Iterator[Fault]:
    """Runs, and the ledger's caches."""
    for path in runs.paths(out):
        try:
            runs.read(out, path)
        except ContractError as error:
            yield Fault(path, str(error), "delete")
    for group in sorted({done.group for done in ledger.done.values()}):
        path = f"items/{group}/{stac.INDEX}"
        if (found := ledgers.cached(out, path)) is None:
            yield Fault(path, "it cannot be read; it is only a cache", "rebuild")
        elif unknown := [done.id for done in found if done.group != group]:
            yield Fault(path, f"it tells of {unknown[0]}, which lies elsewhere", "rebuild")


def _group(out: Out, ledger: Ledger, group: str) -> Iterator[Fault]:
    """What is wrong with a group's arrays, their masks left aside."""
    metadata = ledger.groups[group]
    slots, members = len(groups.scenes(metadata)), metadata["consolidated_metadata"]["metadata"]
    for name in sorted(members):
        path = f"{MASKS}/{group}/{name}/zarr.json"
        if what := _member(out, path, members[name], slots if name in ALONG_TIME else None):
            yield Fault(path, what, "rebuild")
    done = [done for done in ledger.done.values() if done.group == group]
    expected: dict[str, dict[int, Any]] = {
        "status": {each.slot: COMPLETE for each in done},
        "time": {each.slot: conventions.microseconds(datetime.fromisoformat(each.time)) for each in done},
    }
    for name, (places, _) in conventions.coordinates(groups.grid_of(metadata)).items():
        expected[name] = dict(enumerate(places))
    for name, values in expected.items():
        if what := _axis(out, group, name, values):
            yield Fault(f"{MASKS}/{group}/{name}/c/0", what, "rebuild")


def _member(out: Out, path: str, expected: dict[str, Any], slots: int | None) -> str:
    try:
        if out.get_json(path) != expected:
            return "it is missing, or says something else than its group"
        if slots is not None and expected["shape"][0] != slots:
            return f"it has {expected['shape'][0]} slots; its group has {slots}"
    except WRONG as error:
        return f"it cannot be read: {told(error)}"
    return ""


def _axis(out: Out, group: str, name: str, expected: dict[int, Any]) -> str:
    try:
        found = groups.axis(out, group, name)
        odd = [index for index, value in expected.items() if found[index] != value]
    except WRONG as error:
        return f"it cannot be read: {told(error)}"
    return f"at {odd[0]} it has {found[odd[0]]}; expected {expected[odd[0]]}" if odd else ""


def _mask(out: Out, done: Done, group: dict[str, Any]) -> str:
    """What is wrong with a finished scene's mask, or with what its item says of it, or ""."""
    side = groups.tile(group)
    try:
        item = out.get_json(done.path)
        stac.bands(item, groups.grid_of(group))  # What `cloudjob.load` and `rethreshold` go by
        pixels, summed = {**item["properties"]["cloudjob:pixels"]}, item["properties"].get("cloudjob:checksum")
        names = ["cloud", *(["cloud_probability"] if "cloud_probability" in item["assets"] else [])]
        arrays = [groups.open_array(out, done.group, name) for name in names]
        counts, checksum = np.zeros(256, np.int64), 0
        for row, column in sorted(done.tiles):
            window = (done.slot, slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            with out.reached():
                values = [np.asarray(array[window], np.uint8) for array in arrays]
            counts += np.bincount(values[0].ravel(), minlength=256)
            checksum += tile_sum((row, column), *values)
    except WRONG as error:
        return f"a shard, or the item, cannot be read: {told(error)}"
    for value, name, _ in classes.of(NAMES.values()):
        if value != NOT_COMPUTED and pixels.get(name, 0) != int(counts[value]):
            return f"{counts[value]:,} pixels are {name.replace('_', ' ')}; the item says {pixels.get(name, 0)!r:.40}"
    return "" if summed is None or summed == checksum else "the values are not those that were written"


def told(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}".rstrip(": ")
