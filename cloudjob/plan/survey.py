"""What is to be done about what a catalog holds: the scenes found, and those that failed, against the ledger.

Writes nothing.
"""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cloudjob.errors import UsageError
from cloudjob.grid import Tile, Tiling
from cloudjob.plan import grids, plan
from cloudjob.plan.found import Found, described, find, without_twins
from cloudjob.plan.plan import Cost, Plan, Planned
from cloudjob.plan.request import Job
from cloudjob.plan.sources import Sources
from cloudjob.scene.identity import Identity
from cloudjob.scene.identity import merge as merge_versions
from cloudjob.scene.scene import Scene
from cloudjob.store import ledger, runs, settings
from cloudjob.store.again import Marked
from cloudjob.store.document import ODD
from cloudjob.store.failures import Refusal
from cloudjob.store.ledger import Ledger

log = logging.getLogger(__name__)

ASSUMED_SPEED = 1.5
"""Million pixels per second and lane before any run was measured: a slow core with its files at hand."""


@dataclass(frozen=True)
class Survey:
    """What a catalog holds for a job, and what is to be done about it.

    Attributes:
        plan: of the scenes that can be masked.
        refusals: items that no mask can be made of.
        given_up: those that were refused on too many nights: id → why.
        ledger: the state of the OUT that the plan was made against.
    """

    plan: Plan
    refusals: tuple[Refusal, ...]
    given_up: dict[str, str]
    ledger: Ledger

    @property
    def refused(self) -> dict[str, str]:
        """Id → why no mask can be made from that item's metadata."""
        return {refusal.id: refusal.told for refusal in self.refusals}


def make(job: Job) -> Survey:
    """Search the catalog and compare it with the ledger.

    Raises:
        UnreachableError: the catalog or the store does not answer, or the files of no item do.
        ContractError: the OUT was made with other settings, no item found can be used, or a source wants keys.
    """
    return compare(job, find(job))


def compare(job: Job, found: Found, *, files: bool = False) -> Survey:
    """Plan what to do about the scenes found, and about the ones that failed before.

    Args:
        job: from `request`.
        found: by `find`.
        files: whether files are asked where they lie, before a group of theirs is made (`grids.on_one`).

    Raises:
        CloudjobError: `found.error`, unless it is the fault of single items.
        UnreachableError, ContractError: the source of all that is new is out, or wants keys.
    """
    # What was made with other settings does not count: the run will delete it (`settings.claim`), or is refused.
    named = {scene.group for scene in found.scenes}
    known = ledger.read(job.out, named) if settings.read(job.out) == job.settings else Ledger()
    _check_retry(job, known)
    # Where there have been scenes for this network, odd items are one by one at fault, and what failed is tried again.
    if found.error and (found.outside or not (known.done or known.failures)):
        raise found.error
    listed = {scene.id for scene in found.scenes} | {refusal.id for refusal in found.refusals}
    before = [each for each in known.to_retry(job.retry) if each.item and each.id not in listed]
    again, hopeless = described(job, ((each.item, each.assets, each.signing) for each in before), Sources())
    sources = Sources() if files else None
    fitting, misfits = grids.on_one([_spared(scene, known) for scene in (*found.scenes, *again)], known, sources)
    if sources and not fitting and (error := sources.verdict()):
        raise error
    # A version that cannot be read, night after night, does not stand in the way of one that can.
    lost = {scene.id for scene in fitting if plan.hopeless(scene, known, job.retry)}
    kept, older = merge_versions((scene for scene in fitting if scene.id not in lost), listed)
    for scene, other in older:
        if scene.id != other.id:
            log.info("scene %s is an older version of %s, or the same", scene.id, other.id)
    kept += merge_versions(scene for scene in fitting if scene.id in lost)[0]
    made = plan.make(kept, known, lambda scene: _tiles(job, scene, found.marked), job.retry, found.marked)
    poorer = {one.scene.id: refusal for one in made.to_do if (refusal := _poorer(job, one, known))}
    made = replace(made, scenes=tuple(one for one in made.scenes if one.scene.id not in poorer))
    single, twins = without_twins(found.refusals, found.scenes)
    over = [id_ for id_ in twins if id_ in known.failures]
    refused, given_up = _sorted_out(job, [*single, *hopeless, *misfits, *poorer.values()], made, known)
    return Survey(replace(made, settled=(*made.settled, *over)), refused, given_up, known)


def estimate(job: Job, view: Survey, lanes: int) -> Cost:
    """What a survey's plan will cost, at the speed of the last run if there was one, else at an assumed one."""
    receipts = runs.last_receipts(job.out)
    seconds = sum(each["read_seconds"] + each["network_seconds"] + each["write_seconds"] for each in receipts)
    seen = sum(each["seen"] for each in receipts)
    measured = seconds > 0 and seen > 0
    return plan.cost(
        view.plan,
        lambda scene: tiling(job, scene),
        speed=seen / 1e6 / seconds if measured else ASSUMED_SPEED,
        lanes=lanes,
        measured=measured,
    )


def tiling(job: Job, scene: Scene) -> Tiling:
    """How a scene is cut, in the network's pixels."""
    return job.contract.tiling_of(scene.grid, job.settings.buffer, scene.coarser)


def _spared(scene: Scene, known: Ledger) -> Scene:
    """The scene without an optional band that the ledger says it is masked without, until its item changes."""
    entries = (known.done.get(scene.id), known.failures.get(scene.id))
    told = {entry.fingerprint for entry in entries if entry}
    return next((spare for spare in scene.spares if spare.fingerprint in told), scene)


def _poorer(job: Job, one: Planned, known: Ledger) -> Refusal | None:
    """Why no mask takes the place of one that was made with a band which the item has come to get wrong, or None."""
    scene, wrong = one.scene, [band for band in one.scene.left_out if band.fault]
    there = [known.done[id_] for id_ in (scene.id, one.replaces) if id_ in known.done]
    if not wrong or not there or known.holding(scene):
        return None
    with contextlib.suppress(*ODD):  # `check` tells of an item that is damaged
        used = {name for entry in there for name in job.out.get_json(entry.path)["properties"]["cloudjob:reflectance"]}
        for band in wrong:
            if band.name in used:
                hint = f"the mask that is there was made with {band.name}, and stays until this is mended"
                reason = f"scene {scene.id}, {band.fault}"
                return Refusal(scene.id, scene.item, scene.assets, scene.signing, reason, hint=hint)
    return None


def _sorted_out(
    job: Job, refusals: Iterable[Refusal], made: Plan, known: Ledger
) -> tuple[tuple[Refusal, ...], dict[str, str]]:
    """The refusals to be told of, one for each id that is not planned, and those refused too often to be told again."""
    planned = {one.scene.id for one in made.scenes}
    refused, given_up = [], {}
    for refusal in {refusal.id: refusal for refusal in refusals}.values():
        if plan.hopeless(refusal, known, job.retry):
            given_up[refusal.id] = refusal.told
        elif refusal.id not in planned:
            refused.append(refusal)
    return tuple(refused), given_up


def _check_retry(job: Job, known: Ledger) -> None:
    for id_ in job.retry - known.failures.keys() - {"all"}:
        names = ", ".join(list(known.failures)[:5]) or "none"
        raise UsageError(f"{job.out} has no failed scene {id_}", hint=f"those that failed: {names}; or --retry all")


def _tiles(job: Job, scene: Scene, marked: Sequence[Marked]) -> frozenset[Tile]:
    """Tiles that are asked for, and all of a mask that was found damaged, though its area is no longer asked for."""
    cut = tiling(job, scene)
    wanted = frozenset(cut.touched(scene.grid, job.area))
    here = [one for one in marked if one.tiles and one.group == scene.group]
    lost = [one.tiles for one in here if one.is_(scene.id, Identity.of(scene))]
    return wanted | (frozenset(cut.all()).intersection(frozenset().union(*lost)) if lost else frozenset())
