"""What a catalog holds for a job, and what is to be done about it: search, describe, plan. Writes nothing."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from cloudjob.catalog.dates import Interval
from cloudjob.catalog.search import search
from cloudjob.errors import ContractError, PassingError, SceneError, UnreachableError
from cloudjob.grid import Tile, Tiling
from cloudjob.plan import plan
from cloudjob.plan.plan import Cost, Plan
from cloudjob.plan.request import Job
from cloudjob.scene.describe import describe
from cloudjob.scene.identity import merge as merge_versions
from cloudjob.scene.scene import Scene
from cloudjob.store import again, ledger, settings
from cloudjob.store.group import grid_of
from cloudjob.store.group import path as group_path
from cloudjob.store.ledger import Ledger

log = logging.getLogger(__name__)

ASSUMED_SPEED = 1.5
"""Million pixels per second and lane before any run was measured: a slow core with its files at hand."""

DAMAGED = "{} of the output cannot be used; `cloudjob check OUT --repair` mends what can be mended"


@dataclass(frozen=True)
class Survey:
    """What a catalog holds for a job, and what is to be done about it.

    Attributes:
        plan: of the scenes that can be masked.
        refused: id → why no mask can be made from that item's metadata.
        ledger: the state of the OUT that the plan was made against.
    """

    plan: Plan
    refused: dict[str, str]
    ledger: Ledger


def make(job: Job) -> Survey:
    """Search the catalog and compare it with the ledger.

    Raises:
        UnreachableError: the catalog or the store does not answer, or the files of no item do.
        ContractError: the OUT was made with other settings, or no item found can be used.
    """
    return compare(job, find(job))


def find(job: Job) -> list[dict[str, Any]]:
    """The items that a job asks for; the OUT is looked at first, for it answers sooner than a catalog."""
    settings.check(job.out, job.settings, redo=job.redo)
    found = list(search(job.catalog, job.area, job.dates, max_cloud_cover=job.max_cloud_cover, limit=job.limit))
    return found + _damaged(job)


def _damaged(job: Job) -> list[dict[str, Any]]:
    """Items of scenes whose masks were found damaged, of days that were not asked for."""
    marked, found = again.read(job.out), []
    for day in sorted(set(marked.values())):
        start = datetime.combine(day, time(), UTC)
        if not job.dates.touches(start, start + timedelta(days=1, milliseconds=-1)):
            items = search(job.catalog, job.area, Interval(start, start + timedelta(days=1)))
            found += [item for item in items if item["id"] in marked]
    return found


def estimate(job: Job, view: Survey, lanes: int) -> Cost:
    """What a survey's plan will cost, at the speed of the last run if there was one, else at an assumed one."""
    summary = ledger.summary(job.out)
    receipts = [scene["receipt"] for scene in (summary.last_run or {}).get("scenes", []) if "receipt" in scene]
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


def compare(job: Job, items: list[dict[str, Any]]) -> Survey:
    """Describe the items found, and the ones that failed before, and plan what to do."""
    # What was made with other settings does not count: the run will delete it (`settings.claim`), or is refused.
    known = ledger.read(job.out) if settings.read(job.out) == job.settings else Ledger()
    catalog = job.catalog
    scenes, errors = _described(job, ((item, catalog.assets, catalog.signing) for item in items))
    if errors and not scenes:
        example = next(iter(errors.values()))
        message = f"none of the {len(items)} items can be used: {example}"
        if any(isinstance(error, PassingError) for error in errors.values()):
            raise UnreachableError(message)
        raise ContractError(message, hint=example.hint or "see --asset and --catalog")
    again, hopeless = _described(job, ((each.item, each.assets, each.signing) for each in known.to_retry()))
    fitting, misfits = _on_one_grid([*scenes, *again], known)
    refused = {name: str(error) for name, error in (errors | hopeless).items()} | misfits
    kept, older = merge_versions(fitting)
    for scene, newer in older:
        if scene.id != newer.id:
            log.info("scene %s is an older version of %s", scene.id, newer.id)
    return Survey(plan.make(kept, known, lambda scene: _tiles(job, scene)), refused, known)


def _described(
    job: Job, items: Iterable[tuple[dict[str, Any], Mapping[str, str], str]]
) -> tuple[list[Scene], dict[str, SceneError]]:
    """The scenes that items (with their assets' names and signing) describe, and why others describe none."""
    scenes, refused = [], {}
    for item, assets, signing in items:
        try:
            asked, measured = job.settings, job.contract.measured
            bands, optional = job.contract.bands, job.contract.optional_bands
            what = (item, assets, bands, asked.resolution, signing, job.offset)
            scenes.append(describe(*what, measured=measured, optional=optional))
        except SceneError as error:
            refused[item["id"]] = error
    return scenes, refused


def _on_one_grid(scenes: Iterable[Scene], known: Ledger) -> tuple[list[Scene], dict[str, str]]:
    """The scenes that lie on the grid of their group, and why others do not: one odd item must not cost the rest."""
    grids = {name: grid_of(metadata) for name, metadata in known.groups.items()}
    fitting, refused = [], {}
    for scene in scenes:
        if group_path(scene.group) in known.damaged:
            refused[scene.id] = f"scene {scene.id}: {DAMAGED.format(group_path(scene.group))}"
            continue
        grid = grids.setdefault(scene.group, scene.mask_grid)
        if scene.mask_grid == grid:
            fitting.append(scene)
        else:
            refused[scene.id] = f"scene {scene.id} lies on {scene.mask_grid}, but others of {scene.group} on {grid}"
    return fitting, refused


def _tiles(job: Job, scene: Scene) -> frozenset[Tile]:
    return frozenset(tiling(job, scene).touched(scene.grid, job.area))
