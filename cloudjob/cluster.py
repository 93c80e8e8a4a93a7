"""Where the work runs: lanes on this machine or a scheduler's address, each with the network loaded once."""

import contextlib
import itertools
import logging
import math
import os
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import dask
import torch
from distributed import Client, Future, Nanny, Scheduler, SpecCluster, WorkerPlugin, as_completed, get_worker
from distributed.comm.addressing import get_address_host_port
from distributed.comm.core import CommClosedError

from cloudjob import checkpoint, logs, predict, tls
from cloudjob.errors import UnreachableError, UsageError, redact

Work = TypeVar("Work")
Result = TypeVar("Result")

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8787
PATIENCE = 20
"""Seconds in which a scheduler must answer."""

WINDOW = 100
"""Tasks handed in at once, at least: workers that come late shall find some."""

COUNTED = 10
"""Seconds after which workers are counted anew."""

ENVIRON = {
    # Dask's nanny lets malloc give memory back at once; with tiles of some MB a third of the time is then spent
    # on page faults. Measured: the network is 1.35 to 1.7 times as fast with these.
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    # Threads but the first get heaps of 64 MB, which are given back whatever the thresholds: one heap for all.
    # Measured: the network's 20,000 page faults a tile are gone, it is 1.17 times as fast.
    "MALLOC_ARENA_MAX": "1",
    # One thread per lane: one and two threads differ in the last bit of a sum.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # MB; GDAL's default is 5 % of the machine's memory for every process. A row of four bands' blocks of 1024 needs 90.
    "GDAL_CACHEMAX": "96",
}
"""Environment of a worker process, set before it starts; variables that are already set win."""

CONFIG = {
    "distributed.nanny.pre-spawn-environ": ENVIRON,
    # Dask's housekeeping costs 5 % of a core while a task runs for a minute; at these intervals 2 %.
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.worker.profile.interval": "100ms",
}
"""Dask's settings for scheduler and workers."""


class ModelPlugin(WorkerPlugin):
    """Loads the network once per worker process."""

    model: predict.Model

    def __init__(self, path: str, data: bytes, sha256: str) -> None:
        """Carry the checkpoint's bytes, so that a worker on another machine needs no file."""
        self.path, self.data, self.sha256 = path, data, sha256
        self.name = plugin_name(sha256)

    def setup(self, worker: Any) -> None:
        """Called by Dask when the worker starts or the plugin is registered."""
        del worker
        torch.set_num_threads(1)
        self.model = predict.prepare(checkpoint.parse(self.data, self.path))


def plugin_name(sha256: str) -> str:
    """Name under which a worker keeps the model of a checkpoint."""
    return f"cloudjob-model-{sha256[:16]}"


def worker_model(sha256: str) -> predict.Model:
    """The model of the worker that this task runs on.

    Raises:
        UnreachableError: the worker could not load it. Dask only logs that of a worker that comes late, and would let
            it fail one scene after the other.
    """
    worker = get_worker()
    plugin = worker.plugins.get(plugin_name(sha256))
    if not isinstance(plugin, ModelPlugin) or not hasattr(plugin, "model"):
        raise UnreachableError(f"the worker {worker.address} could not load the network", hint="its log says why")
    return plugin.model


def lanes(workers: int | None = None) -> list[dict[str, str]]:
    """One environment per worker process of this machine: one per GPU, else one per core.

    Args:
        workers: how many instead.
    """
    gpus = torch.cuda.device_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        return [{"CUDA_VISIBLE_DEVICES": visible[n % gpus]} for n in range(workers or gpus)]
    return [{} for _ in range(workers or len(os.sched_getaffinity(0)))]


WORKER: dict[str, Any] = {"nthreads": 1, "memory_limit": "auto", "preload": [__name__]}
"""What every worker process is started with; `preload` has it call `dask_setup`."""


def listen_at(host: str, dashboard: int = 0) -> dict[str, str]:
    """Where a worker listens: on one address of this machine. Dask's own choice is all of them."""
    return {"host": host, "dashboard_address": f"{host}:{dashboard}"}


def dask_setup(worker: Any) -> None:
    """Called by Dask in a worker process: Ctrl-C on a terminal reaches it too, but it is the client that stops it."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.inherit()
    logging.getLogger("distributed.worker").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """False for what Dask tells in a page of traceback though nobody needs it.

    An error of ours, which the run tells in a line; a sign of life that met the scheduler's end, which the worker
    sees by itself: at the end of a run it happens.
    """
    if record.exc_info and isinstance(record.exc_info[1], CommClosedError):
        return "heartbeat" not in record.getMessage()
    return not re.search(r"Exception: ['\"](Scene|Passing|Unreachable|LockLost|Contract)Error\(", record.getMessage())


@contextlib.contextmanager
def connect(where: str = "local", workers: int | None = None, listen: str | None = None) -> Iterator[Client]:
    """Start workers on this machine, or connect to a running scheduler.

    Args:
        where: "local" or a scheduler's address (tcp://host:port or tls://host:port).
        workers: how many local worker processes; by default one per GPU, else one per core.
        listen: where the scheduler of a local cluster takes workers of other machines, such as tcp://0.0.0.0:8786;
            by default it listens on loopback only.

    Raises:
        UsageError: `where` is neither.
        UnreachableError: no scheduler answers there, or it cannot listen where it should.
    """
    if where == "local":
        with _local(workers, listen) as cluster, Client(cluster) as client:
            yield client
            assert cluster.scheduler
            cluster.scheduler.in_order = True
        return
    check_address(where)
    tls.check(where, "client")
    try:
        client = Client(where, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise UnreachableError(
            f"no Dask scheduler answers at {redact(where)}: {error}",
            hint="start one with `dask scheduler`, and workers with `cloudjob worker ADDRESS`",
        ) from None
    with client:
        yield client


class _Scheduler(Scheduler):
    """A scheduler of a run, which tells workers of other machines whether it ended in good order.

    If so they are let go. If not they see it vanish, as if it had been killed: whoever started them starts them anew,
    and the run that is started anew finds them.
    """

    in_order = False

    async def close(self, *args: Any, **options: Any) -> None:
        """Called when the workers of this machine have ended."""
        if not self.in_order:
            for comm in list(self.stream_comms.values()):
                comm.abort()
        await super().close(*args, **options)


@contextlib.contextmanager
def _local(workers: int | None, listen: str | None) -> Iterator[SpecCluster]:
    options = {**WORKER, **listen_at(LOOPBACK), "local_directory": None, "silence_logs": logging.ERROR}
    specs = {number: {"cls": Nanny, "options": {**options, "env": env}} for number, env in enumerate(lanes(workers))}
    scheduler = {
        "cls": _Scheduler,
        "options": {**_door(listen), "dashboard_address": f"{LOOPBACK}:{DASHBOARD_PORT}"},
    }
    link = f"http://{LOOPBACK}:{{port}}/status"  # Dask's own names the address that the scheduler listens on
    with dask.config.set({**CONFIG, "distributed.dashboard.link": link}), warnings.catch_warnings():
        # Another job's dashboard may hold the port; ours then takes a free one, and its address is printed.
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        try:
            cluster = SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.ERROR, name="cloudjob")
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__cause__:
                cause = cause.__cause__
            if listen and isinstance(cause, OSError):
                raise UnreachableError(f"cannot listen at {redact(listen)}: {cause}") from None
            raise
        with cluster:
            yield cluster


def _door(listen: str | None) -> dict[str, str | int]:
    """Where the scheduler of a local cluster listens, and where the workers of this machine find it."""
    if not listen:
        encrypted = dask.config.get("distributed.comm.require-encryption")
        listen = f"{'tls' if encrypted else 'tcp'}://{LOOPBACK}:0"
    check_address(listen)
    tls.check(listen, "scheduler")
    host, port = get_address_host_port(listen)
    protocol = listen.partition(":")[0]
    everywhere = {"contact_address": f"{protocol}://{LOOPBACK}:{port}"} if host == "0.0.0.0" else {}  # noqa: S104
    return {"protocol": protocol, "host": host, "port": port, **everywhere}


def load(client: Client, path: str, data: bytes, sha256: str) -> None:
    """Have every worker, also those that come later, load the network.

    Raises:
        UnreachableError: one cannot.
    """
    try:
        client.register_plugin(ModelPlugin(path, data, sha256))
    except Exception as error:  # noqa: BLE001 -- Dask raises a bare one, whatever happened there
        raise UnreachableError(
            f"a worker cannot load the network: {error}",
            hint="cloudjob must be installed where workers run, in this version: start them with `cloudjob worker`",
        ) from None


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


def check_address(address: str) -> None:
    """Make sure that something may be a scheduler's address, without asking whether one answers.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(r"(tcp|tls)://[^\s/@]+:\d+", address):
        raise UsageError(
            f"{redact(address)!r} is no scheduler's address", hint="expected one such as tcp://host:8786, or 'local'"
        )
