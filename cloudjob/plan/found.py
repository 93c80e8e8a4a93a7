"""What a catalog holds for a job: searched, and each item described once."""

import logging
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import accumulate
from typing import Any

from cloudjob.catalog.dates import Interval
from cloudjob.catalog.item import Item
from cloudjob.catalog.search import search
from cloudjob.catalog.values import moment
from cloudjob.errors import CloudjobError, ContractError, OutsideError, PassingError, SceneError, UnreachableError
from cloudjob.plan.request import Job
from cloudjob.plan.sources import Sources
from cloudjob.scene.describe import describe
from cloudjob.scene.identity import TOLERANCE, Identity, said
from cloudjob.scene.identity import merge as merge_versions
from cloudjob.scene.outside import source
from cloudjob.scene.scene import Scene
from cloudjob.store import again, settings
from cloudjob.store.again import Marked
from cloudjob.store.failures import Refusal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What a catalog holds for a job: each item is described once, however often it is compared with the ledger.

    Attributes:
        scenes: that items describe.
        refusals: items that describe none.
        marked: scenes whose masks were found damaged.
        error: what is to be said if no item describes a scene.
    """

    scenes: list[Scene]
    refusals: list[Refusal]
    marked: list[Marked]
    error: CloudjobError | None = None

    @property
    def outside(self) -> bool:
        """Whether the error is no fault of the items: their source is out, or wants keys."""
        return any(refusal.outside for refusal in self.refusals)


def find(job: Job) -> Found:
    """The scenes that a job asks for; the OUT is looked at first, for it answers sooner than a catalog.

    Raises:
        UnreachableError: the catalog or the store does not answer.
        ContractError: the OUT was made with other settings, or what answers is no catalog.
        UsageError: there is no such collection.
    """
    settings.check(job.out, job.settings, redo=job.redo)
    found = search(job.catalog, job.area, job.dates, max_cloud_cover=job.max_cloud_cover)
    sources = Sources()
    scenes, refusals = _newest(job, found, sources) if job.limit else described(job, _listed(job, found), sources)
    marked = again.read(job.out) if settings.read(job.out) == job.settings else []
    more, lost = _damaged(job, _missing(marked, scenes, refusals), sources)
    scenes, refusals = [*scenes, *more], [*refusals, *lost]
    error = None
    if refusals and not scenes:
        first = next((refusal for refusal in refusals if refusal.outside), refusals[0])
        message = f"none of the {len(refusals)} items can be used: {first.reason}"
        hint = first.hint or "see --asset and --catalog"
        error = sources.verdict() or (UnreachableError(message) if first.outside else ContractError(message, hint=hint))
    return Found(scenes, refusals, marked, error)


def _newest(job: Job, found: Sequence[Item], sources: Sources) -> tuple[list[Scene], list[Refusal]]:
    """What items describe, as far as it belongs to the newest scenes, as many as asked for: all versions count as one.

    No more are described than that takes: some tell in their files alone where they lie.
    """
    place = {(item["collection"], item["id"]): number for number, item in enumerate(found)}
    begins = list(accumulate(map(_begin, found), max))  # Items that are refused tell nothing: they are not the oldest
    limit, left = job.limit or len(found), len(found)
    scenes: list[Scene] = []
    refusals: list[Refusal] = []
    counted: list[int] = []

    def rank(one: Scene | Refusal) -> int:
        return place[one.item["collection"], one.item["id"]]

    def start() -> int:
        """Of what is described next. Beyond the last scene that counts, too: sensed with it may be a newer version."""
        if len(counted) < limit:
            return max(0, left - (limit - len(counted)))
        return bisect_left(begins, begins[counted[-limit]] - TOLERANCE)

    while (first := start()) < left:
        more, lost = described(job, _listed(job, found[first:left]), sources)
        scenes, refusals, left = [*more, *scenes], [*lost, *refusals], first
        (kept, older), (single, _) = merge_versions(scenes), without_twins(refusals, scenes)
        counted = sorted([*map(rank, kept), *map(rank, single)])
    if counted[limit:]:
        last, instead = counted[-limit], {id(scene): other for scene, other in older}
        scenes = [scene for scene in scenes if rank(instead.get(id(scene), scene)) >= last]
        refusals = [refusal for refusal in single if rank(refusal) >= last]
    return scenes, refusals


def _begin(item: Item) -> datetime:
    told = (item["properties"].get(name) for name in ("datetime", "start_datetime", "end_datetime"))
    return moment(next(filter(None, told), None), "time") or datetime.min.replace(tzinfo=UTC)


def _damaged(job: Job, wanted: Sequence[Marked], sources: Sources) -> tuple[list[Scene], list[Refusal]]:
    """Scenes whose masks were found damaged and that were not asked for, under whatever id they are listed now."""
    scenes: list[Scene] = []
    refusals: list[Refusal] = []
    for day in sorted({each.day for each in wanted}):
        start = datetime.combine(day, time(), UTC)
        here = {each.id: each for each in wanted if each.day == day}
        found = search(job.catalog, job.area, Interval(start, start + timedelta(days=1)))
        if here.keys() <= {item["id"] for item in found}:
            found = [item for item in found if item["id"] in here]  # No other need be opened
        known, refused = described(job, _listed(job, found), sources)
        scenes += [each for each in known if any(one.is_(each.id, Identity.of(each)) for one in here.values())]
        refusals += [refusal for refusal in refused if refusal.id in here]
    for one in _missing(wanted, scenes, refusals):
        log.warning("scene %s of %s, whose mask was found damaged, is not listed any more", one.id, one.day)
    return scenes, refusals


def _missing(marked: Sequence[Marked], scenes: Sequence[Scene], refusals: Sequence[Refusal]) -> list[Marked]:
    """Those that are not among the scenes, by whatever id, and the refusals."""
    identities = [(scene.id, Identity.of(scene)) for scene in scenes] if marked else []
    refused = {refusal.id for refusal in refusals}
    return [one for one in marked if one.id not in refused and not any(one.is_(*each) for each in identities)]


def _listed(job: Job, items: Iterable[Item]) -> Iterator[tuple[Item, Mapping[str, str], str]]:
    return ((item, job.catalog.assets, job.catalog.signing) for item in items)


def described(
    job: Job, items: Iterable[tuple[Item, Mapping[str, str], str]], sources: Sources
) -> tuple[list[Scene], list[Refusal]]:
    """The scenes that items (with their assets' names and signing) describe, and the items that describe none."""
    scenes, refused = [], []
    for item, assets, signing in items:
        href = _href(item, assets)
        if lost := sources.lost(href):
            reason = f"scene {item['id']}: not tried, for {source(href)} is out: {lost}"
            refused.append(Refusal(item["id"], item, dict(assets), signing, reason, outside=True))
            continue
        try:
            asked, measured = job.settings, job.contract.measured
            bands, optional = job.contract.bands, job.contract.optional_bands
            what = (item, assets, bands, asked.resolution, signing, job.offset)
            scenes.append(describe(*what, measured=measured, optional=optional))
            sources.answered(href)
        except SceneError as error:
            outside = isinstance(error, PassingError | OutsideError)
            if outside or error.asset:  # A fault of the item's does not show that its files' source answers
                sources.failed(href, error)
            refused.append(Refusal(item["id"], item, dict(assets), signing, str(error), outside, error.hint))
    return scenes, refused


def _href(item: Mapping[str, Any], assets: Mapping[str, str]) -> str:
    """Of the first asset that the job would read, of any where bands are found by other keys than the catalog's.

    Nothing is known of the item yet.
    """
    found = item.get("assets")
    listed = [*map(found.get, assets.values()), *found.values()] if isinstance(found, dict) else []
    hrefs = (asset.get("href") for asset in listed if isinstance(asset, dict))
    return next((href for href in hrefs if isinstance(href, str)), "")


def without_twins(refusals: Iterable[Refusal], scenes: Iterable[Scene]) -> tuple[list[Refusal], list[str]]:
    """The refusals, and the ids of items beside which another one, which can be used, says the same of itself.

    swissEO lists its newest scene once more, with files that it writes over, under a name of which no date tells bands.
    """
    usable, left, twins = {said(scene.item): scene.id for scene in scenes}, [], []
    for refusal in refusals:
        if refusal.outside or not (twin := usable.get(said(refusal.item))):
            left.append(refusal)
            continue
        log.info("%s; it shows what %s does, which is masked", refusal.reason, twin)
        twins.append(refusal.id)
    return left, twins
