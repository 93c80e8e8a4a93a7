"""The job, top to bottom: search, plan, prepare, map over scenes, write, complete."""

import contextlib
import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import shapely
from distributed import Client, KilledWorker

from cloudjob.cluster import network
from cloudjob.cluster.stream import lane_count, stream
from cloudjob.cluster.task import Task, process
from cloudjob.errors import CloudjobError, SceneError, UnreachableError
from cloudjob.model import checkpoint
from cloudjob.plan import survey
from cloudjob.plan.plan import Planned
from cloudjob.plan.request import Job
from cloudjob.plan.survey import Survey
from cloudjob.scene.reflectance import offset_doubt
from cloudjob.scene.scene import Scene
from cloudjob.store import item, ledger, settings, slots, stac
from cloudjob.store.lock import Lock
from cloudjob.store.receipt import Receipt, SceneResult, merge


def run(job: Job, connect: Callable[[], AbstractContextManager[Client]]) -> Generator[Survey | SceneResult, None, None]:
    """Do a job: first its survey, then each scene's result as it comes.

    Everything that can be found wrong beforehand is found before anything is written. A job with nothing to do
    writes nothing at all and starts no cluster.

    Args:
        job: from `request`.
        connect: opens the cluster, such as `scheduler.connect`; called only if there is work.

    Raises:
        UnreachableError: catalog, store or cluster do not answer, or another run is at work.
        ContractError: see `survey.make`.
    """
    items = survey.find(job)
    first = survey.compare(job, items)
    if not first.plan.to_do:
        yield first
        yield from _untouched(first)
        return
    checkpoint.parse(job.data, job.contract.name)  # Its weights, too, are found wrong before anything is written
    del first  # two surveys of 10,000 scenes are 25 MB more than one
    started = datetime.now(UTC)
    with connect() as client, Lock(job.out) as lock:
        settings.claim(lock, job.settings, redo=job.redo)
        view = survey.compare(job, items)  # again: another run may have ended while the catalog was searched
        del items
        yield view
        record = _Record(job, started)
        for result in _untouched(view):
            record.add(result)
            yield result
        if not view.plan.to_do:
            return
        places = slots.prepare(
            lock,
            job.settings,
            view.ledger,
            [planned.scene for planned in view.plan.to_do],
            replaces=view.plan.replaces,
            tile_of=lambda scene: survey.tiling(job, scene).tile // scene.coarser,
        )
        try:
            network.load(client, job.contract.name, job.data, job.settings.checkpoint)
            for result in _map(job, view, places, lock, client):
                record.add(result)
                yield result
            _check_kept(job, record)
        except BaseException:
            with contextlib.suppress(CloudjobError):  # What ended the run is told, not what its record met
                record.write(lock)
            raise
        record.ended = "complete"
        record.write(lock)


def _check_kept(job: Job, record: "_Record") -> None:
    """Make sure that nobody has taken the OUT's contract or items away while the run was at work.

    Raises:
        UnreachableError: somebody has.
    """
    done = {item.path(scene["group"], scene["id"]) for scene in record.scenes if scene["state"] == "done"}
    folders = {path.rpartition("/")[0] for path in done}
    kept = {f"{folder}/{name}" for folder in folders for name in job.out.names(folder)}
    missing = sorted(done - kept) + ([] if settings.read(job.out) else [settings.FILE])
    if missing:
        raise UnreachableError(
            f"{job.out}/{missing[0]} was deleted while the run was at work, one of {len(missing)} files",
            hint="run again: what has no item is done again",
        )


def _untouched(view: Survey) -> Iterator[SceneResult]:
    """Results of scenes that this run does nothing about, but which somebody should know of."""
    for name, reason in view.refused.items():
        yield SceneResult(name, "", "failed", reason=reason)
    for planned in view.plan.abandoned:
        failure = view.ledger.failures[planned.scene.id]
        yield SceneResult(planned.scene.id, planned.scene.group, "abandoned", reason=failure.reason)


def _map(job: Job, view: Survey, places: Mapping[str, slots.Slot], lock: Lock, client: Client) -> Iterator[SceneResult]:
    """Have the cluster do every planned scene; complete each as soon as its last part is done."""
    parts: dict[str, list[Receipt]] = {}
    to_do = view.plan.to_do
    planned = {each.scene.id: each for each in to_do}
    pieces = math.ceil(lane_count(client) / len(to_do))

    def submissions() -> Iterator[tuple[str, Task]]:
        for each in to_do:
            slots.begin(lock, view.ledger, each.scene, slot=places[each.scene.id])
            yield from _split(job, each, places[each.scene.id], pieces)

    for part, outcome in stream(client, process, submissions()):
        scene = part.scene
        if scene.id not in planned:
            continue  # another part of it has failed
        if isinstance(outcome, Receipt):
            done = parts.setdefault(scene.id, [])
            done.append(outcome)
            if len(done) < part.parts:
                continue
            receipt = _with_doubt(scene, merge(done))
            tiles = planned.pop(scene.id).tiles
            slots.complete(lock, job.settings, scene, slot=places[scene.id], receipt=receipt, tiles=tiles)
            yield SceneResult(scene.id, scene.group, "done", receipt)
        elif isinstance(outcome, CloudjobError) and not isinstance(outcome, SceneError):
            raise outcome  # the store or the contract: no scene will fare better
        else:
            reason = _reason(scene, outcome)
            tiles = planned.pop(scene.id).tiles
            failure = slots.fail(lock, view.ledger, scene, slot=places[scene.id], tiles=tiles, reason=reason)
            yield SceneResult(scene.id, scene.group, "failed", reason=failure.reason)
        parts.pop(scene.id, None)


def _split(job: Job, planned: Planned, slot: slots.Slot, pieces: int) -> Iterator[tuple[str, Task]]:
    """One task per scene, or ranges of its tile rows when scenes are fewer than lanes."""
    rows = sorted({row for row, _ in planned.tiles})
    size = math.ceil(len(rows) / pieces)
    ranges = [rows[start : start + size] for start in range(0, len(rows), size)]
    for number, wanted in enumerate(ranges, start=1):
        name = planned.scene.id if len(ranges) == 1 else f"{planned.scene.id} {number} of {len(ranges)}"
        yield (
            # What stands before the hyphen is the kind of task: Dask keeps statistics of each kind for good.
            f"mask-{name}-{slot.token.id[:8]}",
            Task(
                scene=planned.scene,
                tiles=tuple(sorted(tile for tile in planned.tiles if tile[0] in wanted)),
                parts=len(ranges),
                out=job.out,
                slot=slot,
                settings=job.settings,
                clip=job.clip,
            ),
        )


def _reason(scene: Scene, error: BaseException) -> str:
    """Why a scene failed, in the same words in every run: that is how `failures` knows that it is hopeless."""
    if isinstance(error, SceneError):
        return str(error)
    if isinstance(error, KilledWorker):  # Its own words name the task, which is another in every run
        return f"scene {scene.id}: its workers died of it, also when it was alone: of memory?"
    return f"{type(error).__name__}: {error}"


def _with_doubt(scene: Scene, receipt: Receipt) -> Receipt:
    """Add a warning where the scene's offset does not fit its pixels."""
    doubt = offset_doubt(scene, receipt.valid, receipt.dark_all, receipt.dark_any, (receipt.cloud_cover or 0) / 100)
    return replace(receipt, warnings=(*receipt.warnings, doubt)) if doubt else receipt


class _Record:
    """What a run did, for runs/<UTC start>.json."""

    def __init__(self, job: Job, started: datetime) -> None:
        self.started = started
        self.settings = job.settings
        self.ended = "interrupted"
        self.about = {
            "cloudjob": version("cloudjob"),
            "catalog": job.catalog.name,
            "area": json.loads(shapely.to_geojson(job.area)),
            "dates": job.dates.stac,
            "settings": job.settings.to_json(),
        }
        self.scenes: list[dict[str, Any]] = []

    def add(self, result: SceneResult) -> None:
        self.scenes.append(
            {"id": result.id, "group": result.group, "state": result.state, "reason": result.reason}
            | ({"receipt": asdict(result.receipt)} if result.receipt else {})
        )

    def write(self, lock: Lock) -> None:
        """Write it, and the ledger's caches."""
        lock.check()
        stac.write(lock.out, self.settings, ledger.refresh(lock.out))
        ledger.write_run(lock.out, self.started, self.to_json())

    def to_json(self) -> dict[str, Any]:
        ended = datetime.now(UTC)
        times = {"started": self.started.isoformat(), "ended": ended.isoformat(), "how": self.ended}
        return {**times, "seconds": (ended - self.started).total_seconds(), **self.about, "scenes": self.scenes}
