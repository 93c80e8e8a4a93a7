"""Another threshold or buffer in minutes: the masks of an OUT made again, in a new one, of the probabilities it keeps.

The new OUT is written as a run writes: with a contract of its own, under a lock, an item last. So it may be killed and
called again, and a run goes on with it.
"""

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudjob.classes import BINARY, NO_DATA, NOT_COMPUTED
from cloudjob.errors import ContractError, UsageError
from cloudjob.grid import Grid, Tile, Tiling, Window
from cloudjob.model.contract import buffer_pixels
from cloudjob.model.labels import is_whole, relabelled
from cloudjob.plan import plan
from cloudjob.plan.plan import Planned
from cloudjob.plan.request import between
from cloudjob.plan.survey import Survey
from cloudjob.record import recorded
from cloudjob.scene.scene import Scene
from cloudjob.store import check, item, ledger, settings, slots
from cloudjob.store import group as groups
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt, SceneResult, counted, merge, tile_sum
from cloudjob.store.settings import Settings
from cloudjob.store.writer import Writer

Values = npt.NDArray[np.uint8]

EDGE = "within the buffer of what was not computed pixels are not computed: a cloud that nobody knows may reach them"
"""A warning."""


def rethreshold(
    old: Out, new: Out, *, threshold: float | None = None, buffer: float | None = None
) -> Generator[Survey | SceneResult, None, None]:
    """Make the masks of an OUT with another threshold or buffer: first what is to be done, then each scene's result.

    With another threshold and no buffer they are those of a new run, pixel by pixel. A buffer widens what lies in
    other tiles by the probabilities that those tiles have, where a run computes it twice: the two differ where the
    network's halo does not cover all that it sees.

    Args:
        old: made with `--probability`; only read.
        new: the output; it may have been begun.
        threshold: whole percent, above 0 and below 1; that of `old` unless given.
        buffer: metres by which clouds are widened; that of `old` unless given.

    Raises:
        UsageError: nothing would change, or the threshold is not of whole percent.
        ContractError: `old` keeps no probabilities, or not those that are needed, or `new` has other settings.
        UnreachableError: a store does not answer, or a run is at work on `new`.
    """
    begun = time.monotonic()
    known = ledger.read(old, named=())
    contract = _contract(old, new, known, threshold, buffer)
    settings.check(new, contract)
    with Lock(new) as lock:
        settings.claim(lock, contract)
        with recorded(lock, contract, begun, {"catalog": f"probabilities of {old}", "dates": "all"}) as results:
            now = ledger.read(new, named=())
            scenes, broken = _scenes(old, known)
            # No image is read: what could not be read in `new` on three nights need not stay away
            whole = plan.make(scenes, now, lambda scene: known.done[scene.id].tiles, ("all",))
            made, short = _within(old, new, known, whole)
            view = Survey(made, (), {}, now)
            yield view
            for result in chain(_unusable(old, known), broken, short, _run(old, known, lock, contract, view)):
                results.append(result)
                yield result


def _contract(old: Out, new: Out, known: Ledger, threshold: float | None, buffer: float | None) -> Settings:
    """What the new masks are made with.

    Raises:
        UsageError, ContractError: see `rethreshold`.
    """
    was = settings.read(old)
    if was is None or not known.done:
        raise ContractError(
            f"{old} holds no masks", hint=settings.meant(old, "`cloudjob run --probability --out` makes some")
        )
    if was.classes != BINARY:
        raise ContractError(f"the network of {old} tells {len(was.classes)} classes apart: it has no threshold")
    if not was.probability:
        raise ContractError(f"{old} keeps no probabilities", hint="`cloudjob run --probability` does, in a new OUT")
    for name in sorted({done.group for done in known.done.values()}):
        if not groups.rounds_down(known.groups[name]):
            raise ContractError(
                f"{old}/{groups.path(name)} keeps probabilities that were averaged for larger pixels, or rounded, "
                "of which no mask can be made again",
                hint="run again, with another --out",
            )
    wanted = replace(
        was,
        threshold=was.threshold if threshold is None else float(threshold),
        buffer=between(-1e-9, buffer, 10_000, "buffer in metres", was.buffer),
    )
    if not is_whole(wanted.threshold):
        raise UsageError(
            f"threshold is {wanted.threshold:g}; expected 0.01 to 0.99 in steps of 0.01",
            hint="probabilities are kept in whole percent",
        )
    if wanted == was:
        told = f"threshold {was.threshold:g} and buffer {was.buffer:g} m"
        raise UsageError(f"{old} has {told} already", hint="--threshold or --buffer")
    if f"{new}/".startswith(f"{old}/"):
        raise UsageError(
            f"{new} is the OUT itself, or lies in it", hint="an OUT has one threshold: choose another folder"
        )
    return wanted


def _scenes(old: Out, known: Ledger) -> tuple[list[Scene], list[SceneResult]]:
    """What is done, by time; and results of those whose items do not tell enough."""
    done = known.by_time
    grids = {name: groups.grid_of(metadata) for name, metadata in known.groups.items()}
    scenes, broken = [], []
    for entry, found in zip(done, old.each(old.get_json, [entry.path for entry in done]), strict=True):
        try:
            scenes.append(item.scene(found or {}, grids[entry.group]))
        except check.WRONG as error:
            reason = f"{_damaged(old, entry, f'its item says too little: {type(error).__name__}: {error}')}"
            broken.append(SceneResult(entry.id, entry.group, "failed", reason=reason))
    return scenes, broken


def _unusable(old: Out, known: Ledger) -> Iterator[SceneResult]:
    """Results of items and groups that cannot be read: nobody knows how many scenes they are of."""
    for path, what in sorted(known.damaged.items()):
        if path.startswith(("items/", f"{groups.MASKS}/")):
            name = PurePosixPath(path).stem if path.startswith("items/") else path
            yield SceneResult(name, "", "failed", reason=f"{old}/{path}: {what} (`cloudjob check OUT --repair`)")


def _within(old: Out, new: Out, known: Ledger, whole: plan.Plan) -> tuple[plan.Plan, list[SceneResult]]:
    """The plan without scenes of which `new` has or wants tiles that `old` does not hold; and results of those.

    An item tells of all tiles that were planned: it would tell of tiles that nobody has made, and a larger mask that
    is there would give way to a smaller one.
    """
    kept, short = [], []
    for planned in whole.scenes:
        id_, there = planned.scene.id, known.done[planned.scene.id].tiles
        if planned.tiles <= there:
            kept.append(planned)
            continue
        lacks = f"{new} has or wants {len(planned.tiles - there)} tiles of it that {old} does not hold"
        reason = f"scene {id_}: {lacks}: `cloudjob run --out {new}` masks it, or `--out {old}` a larger area"
        short.append(SceneResult(id_, planned.scene.group, "failed", reason=reason))
    return replace(whole, scenes=tuple(kept)), short


def _damaged(out: Out, entry: Done, what: str) -> ContractError:
    return ContractError(f"{out}, scene {entry.id}: {what} (`cloudjob check OUT --repair`)")


def _run(old: Out, known: Ledger, lock: Lock, contract: Settings, view: Survey) -> Iterator[SceneResult]:
    to_do, sides = view.plan.to_do, {name: groups.tile(metadata) for name, metadata in known.groups.items()}
    places = slots.prepare(
        lock,
        contract,
        view.ledger,
        [planned.scene for planned in to_do],
        replaces=view.plan.replaces,
        settled=view.plan.settled,
        tile_of=lambda scene: sides[scene.group],
    )
    for planned in to_do:
        scene, place = planned.scene, places.get(planned.scene.id)
        if place is None:
            yield SceneResult(scene.id, scene.group, "failed", reason=slots.unplaced(view.ledger, scene))
            continue
        writer = Writer(lock.out, place, contract)
        try:
            source = _Source(old, known.done[scene.id], scene.grid, sides[scene.group], contract)
            receipt = merge([source.receipt, *source.written(planned, writer, contract)])
        except ContractError as error:
            yield SceneResult(scene.id, scene.group, "failed", reason=str(error))
            continue
        slots.complete(
            lock,
            contract,
            view.ledger,
            scene,
            slot=place,
            receipt=receipt,
            tiles=planned.tiles,
            replaces=planned.replaces,
        )
        yield SceneResult(scene.id, scene.group, "done", receipt)


class _Source:
    """A finished scene of the old OUT.

    Attributes:
        receipt: on what its probabilities were found, and what was said of it.
    """

    def __init__(self, out: Out, entry: Done, grid: Grid, side: int, contract: Settings) -> None:
        self.entry, self.out = entry, out
        try:
            found = out.get_json(entry.path)
            before, properties = item.receipt(found), found["properties"]
        except (LookupError, TypeError, AttributeError) as error:
            raise _damaged(out, entry, f"its item says too little: {type(error).__name__}: {error}") from None
        seen = {name: getattr(before, name) for name in (*item.COUNTS, *item.BY_BAND)}
        self.receipt = Receipt(device=before.device, software=before.software, warnings=before.warnings, **seen)
        self.checksum = properties.get("cloudjob:checksum")
        self.reach = buffer_pixels(contract.buffer, grid.metres)
        self.tiling = Tiling(*grid.shape, side, int(np.ceil(max(self.reach))), 1)
        self.mask = groups.open_array(out, entry.group, "cloud")
        self.kept = groups.open_array(out, entry.group, "cloud_probability")

    def written(self, planned: Planned, writer: Writer, contract: Settings) -> Iterator[Receipt]:
        """Write the tiles that are planned; a receipt for each, if the scene's values are those that were written.

        Raises:
            ContractError: they are not.
        """
        checksum = 0
        for tile in sorted(self.entry.tiles):
            core, padded = self.tiling.core(tile), self.tiling.padded(tile)
            was, around = self._read(self.mask, core), self._read(self.kept, padded)
            inside = core.seen_from(padded)
            kept = np.ascontiguousarray(around[inside.slices])
            checksum += tile_sum(tile, was, kept)
            if tile in planned.tiles:
                mask = relabelled(around, contract.threshold, self.reach)[inside.slices]
                writer.write(core, mask, kept)
                yield _receipt(tile, mask, kept)
        if self.checksum not in (None, checksum):
            raise _damaged(self.out, self.entry, "its values are not those that were written")

    def _read(self, array: Any, window: Window) -> Values:
        """(y, x) of the scene's slot of an array; beyond the scene no data."""
        inside = window.inside(self.tiling.height, self.tiling.width)
        result = np.full(window.shape, NO_DATA, np.uint8)
        try:
            with self.out.reached():
                values = array[self.entry.slot, *inside.slices]
        except check.WRONG as error:
            what = f"a shard cannot be read: {type(error).__name__}: {error}"
            raise _damaged(self.out, self.entry, what) from None
        result[inside.seen_from(window).slices] = values
        return result


def _receipt(tile: Tile, mask: Values, kept: Values) -> Receipt:
    counts = counted(mask)
    unknown = counts.outside > np.count_nonzero(kept == NOT_COMPUTED)
    return replace(counts, checksum=tile_sum(tile, mask, kept), warnings=(EDGE,) if unknown else ())
