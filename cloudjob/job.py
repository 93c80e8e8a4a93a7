"""The job, top to bottom: search, plan, prepare, map over scenes, write, complete."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import shapely
from distributed import Client

from cloudjob.cluster import network
from cloudjob.cluster.stream import lane_count, stream
from cloudjob.cluster.task import Task, ask, process
from cloudjob.errors import ContractError, UnreachableError
from cloudjob.model import checkpoint
from cloudjob.outcome import Outcomes, refused
from cloudjob.plan import survey
from cloudjob.plan.found import find
from cloudjob.plan.plan import Planned
from cloudjob.plan.request import Job
from cloudjob.plan.survey import Survey
from cloudjob.record import recorded
from cloudjob.store import failures, item, settings, slots
from cloudjob.store.lock import Lock
from cloudjob.store.receipt import SceneResult
from cloudjob.store.writer import Slot


def run(job: Job, connect: Callable[[], AbstractContextManager[Client]]) -> Generator[Survey | SceneResult, None, None]:
    """Do a job: first its survey, then each scene's result as it comes.

    Everything that can be found wrong beforehand is found before anything is written. A job with nothing to do
    starts no cluster and leaves nothing but its record.

    Args:
        job: from `request`.
        connect: opens the cluster, such as `scheduler.connect`; called only if there is work.

    Raises:
        UnreachableError: catalog, store or cluster do not answer, another run is at work, or a source is out.
        ContractError: see `survey.make`; a source wants keys; a redo finds nothing to do.
    """
    begun = time.monotonic()
    found = find(job)
    work = survey.compare(job, found).plan.to_do != []
    if not work and job.redo and settings.read(job.out) not in (None, job.settings):
        raise ContractError(
            f"no scene was found that could take the place of what {job.out} holds: nothing was deleted",
            hint="see --bbox and --dates; `cloudjob plan --redo` says what would be found",
        )
    if work:
        checkpoint.parse(job.data, job.contract.name)  # Its weights, too, are found wrong before anything is written
    area = json.loads(shapely.to_geojson(job.area))
    about = {"catalog": job.catalog.name, "area": area, "dates": job.dates.stac}
    with connect() if work else nullcontext() as client, Lock(job.out) as lock:
        settings.claim(lock, job.settings, redo=job.redo)
        with recorded(lock, job.settings, begun, about) as results:
            # Again: another run may have ended while the catalog was searched. What it left undone is the next one's.
            view = survey.compare(job, found, files=work)
            del found
            yield view
            for result in _run(job, view, lock, client, work=work):
                results.append(result)
                yield result
            _check_kept(job, results)


def _check_kept(job: Job, results: Iterable[SceneResult]) -> None:
    """Make sure that nobody has taken the OUT's contract or items away while the run was at work.

    Raises:
        UnreachableError: somebody has.
    """
    done = {item.path(result.group, result.id) for result in results if result.state == "done"}
    folders = {path.rpartition("/")[0] for path in done}
    kept = {f"{folder}/{name}" for folder in folders for name in job.out.names(folder)}
    # Some object stores list less than they hold
    missing = [path for path in sorted(done - kept) if job.out.get(path) is None]
    missing += [] if settings.read(job.out) else [settings.FILE]
    if missing:
        raise UnreachableError(
            f"{job.out}/{missing[0]} was deleted while the run was at work, one of {len(missing)} files",
            hint="run again: what has no item is done again",
        )


def _run(job: Job, view: Survey, lock: Lock, client: Any, *, work: bool) -> Iterator[SceneResult]:
    yield from _untouched(view, lock)
    to_do = view.plan.to_do if work else []
    places = slots.prepare(
        lock,
        job.settings,
        view.ledger,
        [planned.scene for planned in to_do],
        replaces=view.plan.replaces,
        settled=view.plan.settled,
        tile_of=lambda scene: survey.tiling(job, scene).tile // scene.coarser,
    )
    for planned in to_do:
        if planned.scene.id not in places:
            yield refused(lock, view.ledger, planned)
    if places:
        network.load(client, job.contract.name, job.data, job.settings.checkpoint)
        yield from _map(job, view, places, lock, client)


def _untouched(view: Survey, lock: Lock) -> Iterator[SceneResult]:
    """Results of items that no mask can be made of, and of scenes that are no longer tried."""
    for refusal in view.refusals:
        before = view.ledger.failures.get(refusal.id)
        failure = failures.record(lock, before, refusal, (), refusal.told, outside=refusal.outside)
        yield SceneResult(refusal.id, "", "failed", reason=failure.reason)
    for name, reason in view.given_up.items():
        yield SceneResult(name, "", "abandoned", reason=reason)
    for planned in view.plan.abandoned:
        failure = view.ledger.failures[planned.scene.id]
        yield SceneResult(planned.scene.id, planned.scene.group, "abandoned", reason=failure.reason)


def _map(job: Job, view: Survey, places: Mapping[str, Slot], lock: Lock, client: Client) -> Iterator[SceneResult]:
    """Have the cluster do every planned scene; complete each as soon as its last part is done.

    Raises:
        UnreachableError, ContractError: at the end, if no scene of some source could be read.
        UnreachableError: somebody has taken a group away.
    """
    to_do = [planned for planned in view.plan.to_do if planned.scene.id in places]
    pieces = math.ceil(lane_count(client) / len(to_do))
    outcomes = Outcomes(lock, job.settings, view, places)

    def submissions() -> Iterator[tuple[str, Task]]:
        for planned in _in_turn(list(outcomes.waiting.values())):
            if not outcomes.hopeless(planned):
                yield from _split(job, planned, places[planned.scene.id], pieces)

    while not all(map(outcomes.hopeless, outcomes.waiting.values())):
        for part, outcome in stream(client, process, submissions()):
            if result := outcomes.add(part, outcome):
                yield result
            if outcomes.waiting and all(map(outcomes.hopeless, outcomes.waiting.values())):
                break  # What has been handed in is taken back
        for scene in outcomes.doubted():
            for _, told in stream(client, ask, [(f"ask-{scene.id}-", scene)]):
                outcomes.asked(scene, told)
    yield from outcomes.end()


def _in_turn(scenes: Iterable[Planned]) -> Iterator[Planned]:
    """The order in which scenes are tried: what never failed first; then the newest, the oldest, and so on inwards.

    A source is given up by the first few that it refuses; what it refuses for good, as an archive does, is of one end.
    """
    for failed in (False, True):
        left = deque(planned for planned in scenes if (planned.state == "failed before") == failed)
        while left:
            yield left.pop()
            if left:
                yield left.popleft()


def _split(job: Job, planned: Planned, slot: Slot, pieces: int) -> Iterator[tuple[str, Task]]:
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
