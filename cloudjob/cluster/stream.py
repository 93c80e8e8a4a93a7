"""Tasks handed in by a sliding window, and their results as they come."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from distributed import Client, Future, as_completed

from cloudjob.errors import UnreachableError

Work = TypeVar("Work")


Result = TypeVar("Result")


WINDOW = 100


"""Tasks handed in at once, at least: workers that come late shall find some."""


COUNTED = 10


"""Seconds after which workers are counted anew."""


def lane_count(client: Client) -> int:
    """Tasks the cluster runs at once; at least 1, since workers may still be on their way."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return max(1, sum(int(worker["nthreads"]) for worker in workers))


def stream(
    client: Client, function: Callable[[Work], Result], work: Iterable[tuple[str, Work]]
) -> Iterator[tuple[Work, Result | BaseException]]:
    """Run tasks in a sliding window of submissions and give results as they come.

    Args:
        client: of the cluster.
        function: what to do with each; runs on a worker and returns something small.
        work: (task name for the dashboard, argument).

    Yields:
        (argument, result or the exception it ended with).

    Raises:
        UnreachableError: the scheduler is lost.
    """
    queue = iter(work)
    running: dict[Future[Result], Work] = {}
    done = as_completed(loop=client.loop)  # Otherwise of the default client, which may be another
    window, counted = 0, -math.inf

    def submit() -> None:
        nonlocal window, counted
        if time.monotonic() > counted + COUNTED:
            window, counted = max(WINDOW, 2 * lane_count(client)), time.monotonic()
        for key, argument in itertools.islice(queue, max(0, window - len(running))):
            future = client.submit(function, argument, key=key, pure=False)
            running[future] = argument
            done.add(future)

    submit()
    try:
        for future in done:
            argument = running.pop(future)
            if future.status == "cancelled":
                raise UnreachableError("the Dask scheduler is lost", hint="what is finished is kept; run again")
            result = future.exception() if future.status == "error" else future.result()
            future.release()
            submit()
            yield argument, result
    finally:
        if running:
            with contextlib.suppress(OSError, TimeoutError):
                client.cancel(list(running), force=True)
