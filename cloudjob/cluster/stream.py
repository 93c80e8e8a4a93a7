"""Tasks handed in by a sliding window, and their results as they come."""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from dask._task_spec import Task as DaskTask
from distributed import CancelledError, Client, Future, KilledWorker, as_completed
from distributed.client import ClosedClientError

from cloudjob.errors import UnreachableError, UnseenError

log = logging.getLogger(__name__)

Work = TypeVar("Work")
Result = TypeVar("Result")

WINDOW = 100
"""Tasks handed in at once, at least: workers that come late shall find some."""

COUNTED = 10.0
"""Seconds after which workers are counted anew."""

FETCHED = 10.0
"""Seconds for which a result is awaited before workers are counted: if it was lost with its worker it is done again."""

PATIENCE = 600.0
"""Seconds for which a run waits without any worker, or for a scheduler that hangs: as long as a worker waits for a run
(`worker.ARRIVAL`)."""

ELSEWHERE = ".elsewhere"
"""Ends the name of a task that is handed to other workers."""

KEPT = "what is finished is kept; run again"


class _GoneError(Exception):
    """None is left of the workers that alone may do some work: others may be there, and they themselves anew."""


def lane_count(client: Client) -> int:
    """Tasks the cluster runs at once; at least 1, since workers may still be on their way.

    Raises:
        UnreachableError: the scheduler is lost.
    """
    return max(1, sum(_workers(client).values()))


def stream(
    client: Client, function: Callable[[Work], Result], work: Iterable[tuple[str, Work]]
) -> Iterator[tuple[Work, Result | BaseException]]:
    """Run tasks in a sliding window of submissions and give results as they come.

    A task whose workers died is a suspect, and so is whatever died with it on a machine without memory. So a suspect
    is tried again when all others are done, alone in the cluster: what kills its workers then is to blame.
    Before these, what a worker did not see is handed to workers that have seen all that they were given.

    Args:
        client: of the cluster.
        function: what to do with each; runs on a worker and returns something small.
        work: (task name for the dashboard, argument).

    Yields:
        (argument, result or the exception it ended with); `KilledWorker` only for what was alone.

    Raises:
        UnreachableError: the scheduler is lost, or there was no worker for `PATIENCE` seconds.
    """
    suspects: list[tuple[str, Work]] = []
    unseen: list[tuple[str, Work, UnseenError]] = []
    for key, argument, outcome in itertools.chain(_run(client, function, work), _elsewhere(client, function, unseen)):
        if isinstance(outcome, KilledWorker):
            log.warning("%s: workers died of it, or beside it; it is tried again at the end, alone", _name(key))
            suspects.append((f"{key}.alone", argument))
        elif isinstance(outcome, UnseenError) and not key.endswith(ELSEWHERE):
            unseen.append((key, argument, outcome))
        else:
            yield argument, outcome
    for suspect in suspects:
        for _, argument, outcome in _run(client, function, [suspect]):
            yield argument, outcome


def _elsewhere(
    client: Client, function: Callable[[Work], Result], unseen: Sequence[tuple[str, Work, UnseenError]]
) -> Iterator[tuple[str, Work, Result | BaseException]]:
    """What workers did not see, done by those that saw all they were given; as it was, where none is left of them."""
    before = {f"{key}{ELSEWHERE}": (argument, error) for key, argument, error in unseen}
    blind = {error.worker for _, error in before.values()}
    others = _workers(client).keys() - blind if blind else ()
    work = [(key, argument) for key, (argument, _) in before.items()]
    with contextlib.suppress(_GoneError):
        for key, argument, outcome in _run(client, function, work, others) if others else ():
            _, error = before.pop(key)
            if error.worker in blind and not isinstance(outcome, BaseException):
                log.warning("%s: not there for the worker %s; others do what it does not see", error, error.worker)
                blind.remove(error.worker)
            yield key, argument, outcome
    yield from ((key, argument, error) for key, (argument, error) in before.items())


def _run(
    client: Client,
    function: Callable[[Work], Result],
    work: Iterable[tuple[str, Work]],
    workers: Collection[str] = (),
) -> Iterator[tuple[str, Work, Result | BaseException]]:
    queue = iter(work)
    running: dict[Future[Result], tuple[str, Work]] = {}
    done = as_completed(loop=client.loop)  # Otherwise of the default client, which may be another
    lanes = _Lanes(client, workers)

    def submit() -> None:
        for key, argument in itertools.islice(queue, max(0, lanes.window() - len(running))):
            future = _submit(client, key, function, argument, workers)
            running[future] = key, argument
            done.add(future)

    submit()
    try:
        while running:
            future: Future[Result] = _next(done, lanes)
            key, argument = running.pop(future)
            outcome = _outcome(future, lanes)
            future.release()
            submit()
            yield key, argument, outcome
    finally:
        if running:
            with contextlib.suppress(OSError, TimeoutError, ClosedClientError):
                client.cancel(list(running), force=True)


class _Lanes:
    """The cluster's lanes, or those of some workers, counted anew every ten seconds."""

    def __init__(self, client: Client, workers: Collection[str]) -> None:
        self.client, self.workers = client, workers
        self.count = 0
        self.counted = -math.inf
        self.seen = time.monotonic()
        self.told = False

    def window(self) -> int:
        """How many tasks may be handed in at once."""
        self.look()
        return max(WINDOW, 2 * self.count)

    def look(self) -> None:
        """Count them if that was long ago.

        Raises:
            UnreachableError: there have been none for too long, or the scheduler is lost.
            _GoneError: none is left of some workers.
        """
        now = time.monotonic()
        if now < self.counted + COUNTED:
            return
        there = _workers(self.client)
        self.count = sum(there[address] for address in there if not self.workers or address in self.workers)
        self.counted = now
        if self.count:
            self.seen, self.told = now, False
        elif self.workers:
            raise _GoneError
        elif now > self.seen + PATIENCE:
            raise UnreachableError(
                f"there has been no worker for {PATIENCE:.0f} s",
                hint="do workers start (`cloudjob worker ADDRESS`), and does their memory suffice? " + KEPT,
            )
        elif not self.told:
            log.warning("no worker is there; the run waits for one, for at most %.0f s", PATIENCE)
            self.told = True


def _workers(client: Client) -> dict[str, int]:
    """Their threads by their addresses."""
    with _lost_is_told():
        if client.scheduler is None:
            raise ClosedClientError
        return dict(client.nthreads(callback_timeout=PATIENCE))


def _submit(
    client: Client, key: str, function: Callable[[Work], Result], argument: Work, workers: Collection[str]
) -> "Future[Result]":
    """Hand in a task that waits at the scheduler for a free lane.

    As `Client.submit`, but for what it does not offer: what it hands in lies with some worker, however busy, and all
    of that worker's tasks count as having died with it.

    Args:
        workers: that may do it, if not all: strictly, for idle ones would take over what they only need not do.
    """
    with _lost_is_told():
        graph = {key: DaskTask(key, function, argument, _data_producer=True)}
        futures: list[Future[Result]] = client.get(graph, [key], sync=False, workers=list(workers) or None)
    return futures[0]


def _next(done: as_completed, lanes: _Lanes) -> "Future[Any]":
    """Wait for the next task that has ended, as long as there are workers."""
    while not done.has_ready():
        with done.thread_condition:
            if not done.has_ready():
                done.thread_condition.wait(min(1.0, COUNTED))
        lanes.look()
    future: Future[Any] = next(done)
    return future


def _outcome(future: "Future[Result]", lanes: _Lanes) -> Result | BaseException:
    with _lost_is_told():
        while not _erred(future):
            try:
                result: Result = future.result(FETCHED)
            except TimeoutError:
                lanes.look()
            except Exception:
                # Its worker died before it was fetched, so it was done again, and went wrong
                if not _erred(future):
                    raise
            else:
                return result
        error: BaseException = future.exception()
    return error


def _erred(future: "Future[Any]") -> bool:
    return bool(future.status == "error")


@contextlib.contextmanager
def _lost_is_told() -> Iterator[None]:
    """Whatever Dask's client says when its scheduler is no more, or was lost so long ago that the client is closed.

    Raises:
        UnreachableError: it is lost.
    """
    try:
        yield
    except (OSError, TimeoutError, CancelledError, ClosedClientError) as error:
        log.debug("%r", error)
        raise UnreachableError("the Dask scheduler is lost", hint=KEPT) from None


def _name(key: str) -> str:
    return key.removeprefix("mask-").rpartition("-")[0]
