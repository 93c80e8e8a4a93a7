"""Where the work runs: lanes, what a worker process is started with, the window of submissions, lost schedulers."""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import dask
import jobs
import psutil
import pytest
import torch
from distributed import Client
from distributed.comm.core import CommClosedError
from faulty import call

from cloudjob.cluster import lanes, network, scheduler, stream, worker
from cloudjob.errors import UnreachableError, UsageError
from cloudjob.model import checkpoint, predict


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a local cluster of two workers, started where somebody has set a variable of his own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "DASHBOARD_PORT", 0)  # Of a port that is taken tornado leaves a socket open
        for name in lanes.ENVIRON:  # Dask sets them in this process too, and leaves them there
            patch.setenv(name, "")
            patch.delenv(name)
        patch.setenv("GDAL_CACHEMAX", "77")
        with scheduler.connect("local", 2) as client:
            client.wait_for_workers(2, timeout=60)
            yield client


# Lanes


def test_one_lane_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "DRIVERS", ())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6})
    assert lanes.lanes() == [{}, {}, {}]
    assert lanes.lanes(5) == [{}] * 5


@pytest.mark.parametrize(
    ("visible", "workers", "seen"),
    [
        (None, None, ["0", "1"]),
        ("3,5", None, ["3", "5"]),
        ("3,5", 1, ["3"]),
        (None, 5, ["0", "1", "0", "1", "0"]),
        ("GPU-1b2c,GPU-3d4e", 2, ["GPU-1b2c", "GPU-3d4e"]),
    ],
)
def test_one_lane_per_gpu(
    visible: str | None, workers: int | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "DRIVERS", ("/",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert lanes.lanes(workers) == [{"CUDA_VISIBLE_DEVICES": name} for name in seen]


# Worker processes


async def _beat(error: BaseException, dask_worker: Any) -> list[str]:
    """What a worker logs of a sign of life that ends in `error`."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    log, scheduler = logging.getLogger("distributed.worker"), dask_worker.scheduler
    log.addHandler(handler)
    dask_worker.scheduler = mock.Mock(heartbeat_worker=mock.AsyncMock(side_effect=error))
    try:
        await dask_worker.heartbeat()
    finally:
        dask_worker.scheduler = scheduler
        log.removeHandler(handler)
    return told


def test_a_sign_of_life_that_meets_the_schedulers_end_is_no_news(client: Client) -> None:
    """It happens when a run ends, and was a page of traceback above the run's own line."""
    closed, slow = CommClosedError("Stream is closed"), TimeoutError("took too long")
    assert [*client.run(_beat, closed).values()] == [[], []]
    assert [*client.run(_beat, slow).values()] == [["Failed to communicate with scheduler during heartbeat."]] * 2


def test_a_local_cluster_has_a_process_with_one_thread_per_lane(client: Client) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    assert [worker["nthreads"] for worker in workers] == [1, 1]
    pids = client.run(os.getpid)
    assert len({*pids.values(), os.getpid()}) == 3
    assert stream.lane_count(client) == 2
    assert set(client.run(torch.get_num_threads).values()) == {1}


def started_with() -> Callable[[], dict[str, str]]:
    """A function that gives the environment which its process was started with: what `malloc` and OpenMP have read."""
    return lambda: dict(
        entry.split("=", 1) for entry in Path("/proc/self/environ").read_text(encoding="utf-8").split("\0") if entry
    )


def test_malloc_and_openmp_are_told_before_a_worker_starts_and_what_the_user_has_set_wins(client: Client) -> None:
    for environment in client.run(started_with()).values():
        assert {name: environment[name] for name in lanes.ENVIRON} == {**lanes.ENVIRON, "GDAL_CACHEMAX": "77"}


def listening(*processes: psutil.Process) -> dict[int, set[str]]:
    """Process number → addresses it listens on."""
    found: dict[int, set[str]] = {}
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.setdefault(process.pid, set()).add(connection.laddr.ip)
    return found


def test_nothing_listens_beyond_loopback(client: Client) -> None:
    """Whoever reaches a Dask worker can have it run anything."""
    me = psutil.Process()
    found = listening(me, *me.children(recursive=True))
    assert found.keys() >= {me.pid, *client.run(os.getpid).values()}
    assert set.union(*found.values()) == {"127.0.0.1"}
    assert client.dashboard_link.startswith("http://127.0.0.1:")


def test_the_model_is_loaded_once_per_worker(client: Client, tmp_path: Path) -> None:
    path = jobs.random_checkpoint(tmp_path / "net.safetensors")
    loaded = checkpoint.load(path)

    def which(number: int) -> tuple[int, int, int]:
        model = network.worker_model(loaded.sha256)
        assert isinstance(model, predict.Model)
        return number, os.getpid(), id(model)

    def plugins(dask_worker: Any) -> list[str]:
        return [name for name in dask_worker.plugins if "model" in name]

    network.load(client, str(path), path.read_bytes(), loaded.sha256)
    results = client.gather(client.map(which, range(40), pure=False))
    assert [number for number, _, _ in results] == list(range(40))
    assert len({pid for _, pid, _ in results}) == 2
    assert len({(pid, model) for _, pid, model in results}) == 2
    assert set(map(tuple, client.run(plugins).values())) == {(network.plugin_name(loaded.sha256),)}


def test_two_networks_are_told_apart(client: Client, tmp_path: Path) -> None:
    paths = [jobs.random_checkpoint(tmp_path / f"{std}.safetensors", std=(std,) * 4) for std in (0.2, 0.4)]
    loaded = [checkpoint.load(path) for path in paths]
    for path, one in zip(paths, loaded, strict=True):
        network.load(client, str(path), path.read_bytes(), one.sha256)
    names = [network.plugin_name(one.sha256) for one in loaded]
    found = client.run(lambda dask_worker: [dask_worker.plugins[name].model.contract.std[0] for name in names])
    assert list(found.values()) == [[0.2, 0.4]] * 2


# The window of submissions


@pytest.mark.parametrize("number", [0, 1, 6, 200])
def test_submissions_stay_within_a_window(number: int, client: Client) -> None:
    submitted = finished = most = 0

    def work() -> Iterator[tuple[str, int]]:
        nonlocal submitted, most
        for each in range(number):
            submitted += 1
            most = max(most, submitted - finished)
            yield f"double {number}-{each}", each

    seen = {}
    for argument, result in stream.stream(client, double, work()):
        finished += 1
        seen[argument] = result
    assert seen == {each: 2 * each for each in range(number)}
    in_hand = 1  # The next one is submitted before a result is looked at
    assert most == min(number, stream.WINDOW + in_hand)


def double(number: int) -> int:
    return 2 * number


def test_the_window_grows_with_workers_that_come_late(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `--listen`, where the others join after the run has begun."""
    monkeypatch.setattr(stream, "WINDOW", 3)
    monkeypatch.setattr(stream, "COUNTED", 0)
    counts = iter([2, 2])
    monkeypatch.setattr(stream, "lane_count", lambda _: next(counts, 20))
    submitted = []

    def work() -> Iterator[tuple[str, int]]:
        for each in range(60):
            submitted.append(each)
            yield f"late {each}", each

    handed_in = [len(submitted) for _ in stream.stream(client, double, work())]
    assert handed_in[:3] == [5, 42, 43]
    assert handed_in[-1] == 60


def test_an_error_is_a_result_and_ends_nothing(client: Client) -> None:
    def divide(number: int) -> float:
        return 12 / number

    work = [(f"divide {number}", number) for number in (3, 0, 4)]
    results = dict(stream.stream(client, divide, work))
    assert isinstance(results.pop(0), ZeroDivisionError)
    assert results == {3: 4, 4: 3}


def test_who_stops_early_leaves_nothing_behind(client: Client) -> None:
    results = stream.stream(client, double, ((f"stop {number}", number) for number in range(1000)))
    next(results)
    results.close()  # type: ignore[attr-defined]

    def tasks(dask_scheduler: Any = None) -> list[str]:
        return [str(key) for key in dask_scheduler.tasks if "stop" in str(key)]

    deadline = time.monotonic() + 20
    while client.run_on_scheduler(tasks) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.run_on_scheduler(tasks) == []


# Schedulers


@pytest.mark.parametrize(
    "address", ["", "local:8786", "127.0.0.1:8786", "http://host:8786", "tcp://host", "tcp://u@h:1"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError, match="is no scheduler's address"):
        address.check_address(address)
    with pytest.raises(UsageError, match="is no scheduler's address"), scheduler.connect(address):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tls://host.example:8786", "tcp://[::1]:8786"])
def test_addresses(address: str) -> None:
    address.check_address(address)


def test_a_lost_scheduler_is_told() -> None:
    with jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (process, address):
        submitted = threading.Event()

        def work() -> Iterator[tuple[str, int]]:
            yield "double 1", 1
            submitted.set()

        def kill() -> None:
            submitted.wait(30)
            process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with (
            pytest.raises(UnreachableError, match="the Dask scheduler is lost"),
            scheduler.connect(address) as client,
        ):
            list(stream.stream(client, double, work()))
        killer.join()
        assert submitted.is_set()


def test_a_worker_without_a_scheduler_exits_with_4(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PATIENCE", 2)
    monkeypatch.setattr(worker, "ARRIVAL", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    result = call(capfd, "worker", address, "--workers", "1")
    assert (result.code, result.stdout) == (4, ""), result.stderr
    assert result.stderr.startswith(f"error: no Dask scheduler answers at {address}")
    assert "Traceback" not in result.stderr


def test_a_worker_whose_scheduler_goes_before_it_has_joined_exits_with_4(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answered(address: str) -> None:
        """A moment ago."""

    monkeypatch.setattr(worker, "_arrival", answered)
    address = free_address()
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = call(capfd, "worker", address, "--workers", "1")
    assert result.code == 4, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: could not join the Dask scheduler at {address}")


def test_a_worker_that_is_let_go_exits_with_0() -> None:
    with (
        jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (_, address),
        jobs.worker_of(address, GDAL_CACHEMAX="99") as process,
        Client(address) as client,
    ):
        client.wait_for_workers(1, timeout=60)
        (environment,) = client.run(started_with()).values()
        assert {name: environment[name] for name in lanes.ENVIRON} == {**lanes.ENVIRON, "GDAL_CACHEMAX": "99"}
        serving = psutil.Process(process.pid)
        found = listening(serving, *serving.children(recursive=True))
        assert len(found) == 2, "the worker and who watches over it"
        assert set.union(*found.values()) == {"127.0.0.1"}, "the address that faces the scheduler"
        client.shutdown()
        assert process.wait(60) == 0


# A scheduler of the run's own that takes workers from elsewhere


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def listening_at(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address for a run to listen at."""
    monkeypatch.setattr(scheduler, "DASHBOARD_PORT", 0)
    for name in lanes.ENVIRON:
        monkeypatch.setenv(name, lanes.ENVIRON[name])
    return free_address()


def test_a_run_takes_workers_from_elsewhere_and_lets_them_go(listening_at: str) -> None:
    with jobs.worker_of(listening_at) as process:  # Before there is a scheduler, as in a Job of Kubernetes
        time.sleep(2)
        with scheduler.connect("local", 1, listening_at) as client:
            client.wait_for_workers(2, timeout=60)
            assert stream.lane_count(client) == 2
            work = [(f"elsewhere-{number}", number) for number in range(20)]
            pids = {pid for _, pid in stream.stream(client, lambda _: (time.sleep(0.05), os.getpid())[1], work)}
            assert len(pids) == 2
        assert process.wait(60) == 0


def test_a_run_that_fails_does_not_let_workers_go(listening_at: str) -> None:
    """They exit as if the scheduler had been killed, and so are started again for the run's next try."""
    with jobs.worker_of(listening_at) as process:
        with (  # noqa: PT012
            pytest.raises(UnreachableError, match="the store"),
            scheduler.connect("local", 1, listening_at) as client,
        ):
            client.wait_for_workers(2, timeout=60)
            raise UnreachableError("the store does not answer")
        assert process.wait(60) == 4


def test_everywhere_means_everywhere_but_the_dashboard_and_this_machines_lanes(listening_at: str) -> None:
    port = listening_at.rpartition(":")[2]
    with scheduler.connect("local", 1, f"tcp://0.0.0.0:{port}") as client:
        client.wait_for_workers(1, timeout=60)
        me = psutil.Process()
        found = listening(me, *me.children(recursive=True))
        assert sum("0.0.0.0" in addresses for addresses in found.values()) == 1
        assert set.union(*found.values()) == {"0.0.0.0", "127.0.0.1"}
        open_ports = {c.laddr.port for c in me.net_connections("inet") if c.laddr and c.laddr.ip == "0.0.0.0"}
        assert open_ports == {int(port)}
        assert client.dashboard_link.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_told(listening_at: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(listening_at.rpartition(":")[2])))
        other.listen()
        with (
            pytest.raises(UnreachableError, match=f"cannot listen at {listening_at}"),
            scheduler.connect("local", 1, listening_at),
        ):
            pass


def test_a_run_has_one_scheduler(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ("--cluster", "tcp://127.0.0.1:8786", "--listen", "tcp://127.0.0.1:8787")
    result = call(capfd, "run", *jobs.EVERYWHERE, "--out", str(tmp_path / "out"), *where)
    assert result.code == 2
    assert "--listen is for a scheduler of this run's own" in result.stderr


PLAIN = """
import sys
sys.modules["cloudjob"] = None  # As where it is not installed
from distributed.cli.dask_worker import main
main()
"""


def test_a_worker_without_cloudjob_ends_the_run_with_4(tmp_path: Path) -> None:
    jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "S1")])
    jobs.random_checkpoint(tmp_path / "net.safetensors")
    with jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (_, address):
        plain = (sys.executable, "-c", PLAIN, address, "--no-nanny", "--no-dashboard", "--nthreads", "1")
        with jobs.started(*plain, until="Registered to"):
            done = jobs.run_job(
                tmp_path / "items.json", tmp_path / "net.safetensors", tmp_path / "out", "--cluster", address
            )
    assert done.code == 4, done.stderr
    assert "error: a worker cannot load the network: ModuleNotFoundError" in done.stderr
    assert "hint: cloudjob must be installed where workers run" in done.stderr
    assert "Traceback" not in done.stderr
