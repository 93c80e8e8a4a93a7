"""What becomes of each scene of a run: complete, failed, or not tried because its source is out."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from distributed import KilledWorker

from cloudjob.cluster.task import Task
from cloudjob.errors import (
    CloudjobError,
    ContractError,
    OutsideError,
    PassingError,
    SceneError,
    UnreachableError,
    UnseenError,
)
from cloudjob.plan.plan import Planned, lacking
from cloudjob.plan.sources import Sources
from cloudjob.plan.survey import Survey
from cloudjob.scene import product
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.outside import source
from cloudjob.scene.reflectance import (
    black_doubt,
    constant_doubt,
    gaps_doubt,
    no_reflectance,
    offset_doubt,
    saturated_doubt,
    unlike,
)
from cloudjob.scene.scene import Scene
from cloudjob.store import failures, slots
from cloudjob.store import group as groups
from cloudjob.store.ledger import Ledger
from cloudjob.store.lock import Lock, LockLostError
from cloudjob.store.out import DeniedError
from cloudjob.store.receipt import Receipt, SceneResult, merge
from cloudjob.store.settings import Settings
from cloudjob.store.writer import Slot

log = logging.getLogger(__name__)


class Outcomes:
    """The ends of a run's scenes, written down as they come.

    Attributes:
        waiting: scenes that have not ended, by id.
    """

    def __init__(self, lock: Lock, settings: Settings, view: Survey, places: Mapping[str, Slot]) -> None:
        """Nothing has ended yet; `places` are the slots by the ids of scenes, of those that have one."""
        self.waiting = {one.scene.id: one for one in view.plan.to_do if one.scene.id in places}
        self._lock, self._settings, self._ledger, self._places = lock, settings, view.ledger, places
        self._parts: dict[str, list[Receipt]] = {}
        self._sources = Sources()
        self._finished = {source(one.scene.href): one.scene for one in view.plan.scenes if one.state == "done"}
        self._doubtful: list[tuple[Planned, SceneError]] = []
        self._software: set[tuple[str, ...]] = set()

    def hopeless(self, planned: Planned) -> bool:
        """Whether a scene need not be tried, for its source is out."""
        return self._sources.lost(planned.scene.href) is not None

    def add(self, part: Task, outcome: Receipt | BaseException) -> SceneResult | None:
        """What has become of a scene by the end of one of its tasks; None if it has not ended, or had before.

        Raises:
            CloudjobError: it is no scene's fault: none will fare better.
        """
        planned = self.waiting.get(part.scene.id)
        if not planned:
            return None  # Another part of it has failed
        try:
            return self._add(part, outcome)
        except (ContractError, DeniedError) as error:
            return self._refuse(planned, error)

    def _add(self, part: Task, outcome: Receipt | BaseException) -> SceneResult | None:
        scene = part.scene
        if isinstance(outcome, Receipt):
            self._sources.answered(scene.href)
            self._compare(scene, outcome.software)
            receipts = self._parts.setdefault(scene.id, [])
            receipts.append(outcome)
            return self._complete(scene, merge(receipts)) if len(receipts) == part.parts else None
        if isinstance(outcome, LockLostError):
            self._lock.check()
            raise UnreachableError(
                f"the worker {outcome.worker} does not see this run's lock: {outcome}",
                hint="all machines need OUT by the same name (deploy/README.md)",
            )
        if isinstance(outcome, CloudjobError) and not isinstance(outcome, SceneError):
            if not outcome.worker or outcome.worker in str(outcome):
                raise outcome
            kind = UnreachableError if isinstance(outcome, DeniedError) else type(outcome)
            raise kind(f"{outcome} (on the worker {outcome.worker})", hint=outcome.hint)
        if not isinstance(outcome, SceneError):
            return self._fail(scene, _foreign(scene, outcome))
        if isinstance(outcome, UnseenError) and _sees(scene, outcome.asset):
            outcome = OutsideError(f"{outcome}: not there for the worker {outcome.worker}, but for this machine")
        self._sources.failed(scene.href, outcome)
        if isinstance(outcome, PassingError | OutsideError):
            self._doubtful.append((self.waiting[scene.id], outcome))
        return self._fail(scene, outcome)

    def _compare(self, scene: Scene, software: tuple[str, ...]) -> None:
        """Say it where workers are not alike: the same input gives the same mask by the same versions only."""
        if software not in self._software and self._software:
            others = ", ".join(sorted({name for names in self._software for name in names}))
            log.warning("scene %s was computed by %s, others by %s", scene.id, ", ".join(software), others)
        self._software.add(software)

    def doubted(self) -> Iterator[Scene]:
        """Of each source that seems to be out, the newest scene that has been read on another night, to be asked for.

        If it is answered (`asked`), the others are refused for a reason of theirs.
        """
        for where in [where for where, scene in self._finished.items() if where and self._sources.out(scene.href)]:
            yield self._finished.pop(where)

    def asked(self, scene: Scene, told: BaseException | None) -> None:
        """Take note of what became of a scene of `doubted`: the error, or None where its file could be opened."""
        if told is None or (isinstance(told, SceneError) and not isinstance(told, PassingError | OutsideError)):
            self._sources.answered(scene.href)

    def end(self) -> Iterator[SceneResult]:
        """Results of the scenes that were not tried, when all others have ended.

        Raises:
            UnreachableError, ContractError: at last, if no scene of some source could be read.
        """
        for planned in list(self.waiting.values()):
            href = planned.scene.href
            why = f"scene {planned.scene.id}: not tried, for {source(href)} is out: {self._sources.lost(href)}"
            yield self._fail(planned.scene, OutsideError(why))
        for planned, error in self._doubtful:
            if self._sources.own(planned.scene.href, error):  # Others of its source could be read: this night counts
                self._record(planned, error, outside=False)
        if verdict := self._sources.verdict():
            raise verdict

    def _refuse(self, planned: Planned, error: ContractError | DeniedError) -> SceneResult:
        """The result of a scene whose group was damaged while the run was at work, as if it had been before."""
        path = groups.path(planned.scene.group)
        with contextlib.suppress(ContractError, DeniedError):
            if self._lock.out.get(path) is None:  # It is not damaged: the next run makes it anew
                gone = f"{self._lock.out}/{path} was deleted while the run was at work"
                raise UnreachableError(gone, hint="run again: it is made anew") from None
        log.warning("%s; %s", error, error.hint)
        self.waiting.pop(planned.scene.id, None)
        self._ledger.damaged[path] = error.told if isinstance(error, DeniedError) else str(error)
        return refused(self._lock, self._ledger, planned)

    def _complete(self, scene: Scene, receipt: Receipt) -> SceneResult:
        """Complete a scene that has been read whole, unless its pixels show that its scale is wrong."""
        if fault := no_reflectance(scene, receipt.valid, receipt.glaring, receipt.most, receipt.fractions):
            hint = "its raster:scale is wrong or missing (ESA's integers have 0.0001), or --asset names something else"
            told, band = fault
            return self._fail(scene, SceneError(f"scene {scene.id}: {told}", hint=hint, asset=band.key))
        planned = self.waiting.pop(scene.id)
        item = slots.complete(
            self._lock,
            self._settings,
            self._ledger,
            scene,
            slot=self._places[scene.id],
            receipt=receipt,
            tiles=planned.tiles,
            replaces=planned.replaces,
            doubts=partial(_doubts, scene),
        )
        del self._parts[scene.id]
        warnings = tuple(item["properties"].get("cloudjob:warnings", ()))
        return SceneResult(scene.id, scene.group, "done", replace(receipt, warnings=warnings))

    def _fail(self, scene: Scene, error: SceneError) -> SceneResult:
        """What may pass counts no more than what is not the scene's own, until its source is known to answer."""
        outside = isinstance(error, PassingError | OutsideError)
        return self._record(self.waiting.pop(scene.id), error, outside=outside)

    def _record(self, planned: Planned, error: SceneError, *, outside: bool) -> SceneResult:
        scene = planned.scene
        failure = slots.fail(
            self._lock,
            self._ledger,
            scene,
            slot=self._places[scene.id],
            tiles=planned.tiles,
            reason=error.told,
            outside=outside,
            spare=self._spare(planned, error),
        )
        return SceneResult(scene.id, scene.group, "failed", reason=failure.reason)

    def _spare(self, planned: Planned, error: SceneError) -> Scene | None:
        """The scene without the optional band that an error is about, if there is no mask that it would replace.

        Whether another server than that of its other bands is out nobody knows here.
        """
        scene = planned.scene
        if {scene.id, planned.replaces} & self._ledger.done.keys():
            return None
        for spare in scene.spares:
            band = spare.left_out[-1]
            if error.asset == band.key and source(band.href) == source(scene.href):
                return spare
        return None


def refused(lock: Lock, ledger: Ledger, planned: Planned) -> SceneResult:
    """The result of a scene whose group is damaged: nothing is written there; every run tries it again."""
    scene, why = planned.scene, slots.unplaced(ledger, planned.scene)
    failure = failures.record(lock, ledger.failures.get(scene.id), scene, planned.tiles, why, outside=True)
    return SceneResult(scene.id, scene.group, "failed", reason=failure.reason)


def _sees(scene: Scene, asset: str) -> bool:
    """Whether this machine can open a file that a worker could not: then it is the worker's fault, not the scene's."""
    try:
        with SceneFiles(scene) as files:
            files.check([band for band in scene.bands if band.key == asset])
    except SceneError:
        return False
    return True


def _foreign(scene: Scene, error: BaseException) -> SceneError:
    """An error that is none of ours, in the same words in every run: that is how `failures` knows it again."""
    if isinstance(error, KilledWorker):  # Its own words name the task, which is another in every run
        return OutsideError(f"scene {scene.id}: its workers died of it, also when it was alone: of memory?")
    kind = OutsideError if isinstance(error, MemoryError | OSError) else SceneError
    return kind(f"{type(error).__name__}: {error}")


def _doubts(scene: Scene, receipt: Receipt) -> set[str]:
    """What is to be told where scale or offset do not fit the pixels, a band is lacking, or no pixel was wanted."""
    cloud = (receipt.cloud_cover or 0) / 100
    offset = offset_doubt(scene, receipt.valid, receipt.dark_all, receipt.dark_any, cloud, receipt.guessed)
    without = [f"masked without {name}: {why}" for name, why in lacking(scene).items()]
    nothing = "" if receipt.valid or receipt.no_data else "the centre of no pixel lies in the area: its mask is empty"
    numbers = (
        black_doubt(scene, receipt.most, receipt.fractions),
        constant_doubt(scene, receipt.valid, receipt.least, receipt.most),
        saturated_doubt(receipt.valid, receipt.saturated),
        gaps_doubt(scene, receipt.valid, receipt.lacking),
        unlike(scene),
    )
    return {each for each in (offset, *numbers, *without, nothing, product.day_doubt(scene.item)) if each}
