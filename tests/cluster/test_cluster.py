"""Where the work runs: lanes, what a worker process is started with, the window of submissions, lost schedulers."""

import asyncio
import contextlib
import errno
import itertools
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import dask
import dask.system
import jobs
import psutil
import pytest
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker
from distributed.comm.core import CommClosedError
from distributed.core import Status
from distributed.nanny import WorkerProcess
from faulty import call

from cloudjob.cluster import lanes, network, scheduler, stream, worker
from cloudjob.cluster.address import check_address
from cloudjob.errors import CloudjobError, UnreachableError, UnseenError, UsageError
from cloudjob.model import checkpoint, predict, share


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
            client.wait_for_workers(2, timeout=jobs.PATIENCE)
            yield client


# Lanes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of three cores without GPUs: a folder for its control groups."""
    monkeypatch.setattr(lanes, "DRIVERS", ())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    monkeypatch.setattr(lanes, "CGROUPS", tmp_path)
    monkeypatch.setattr(lanes, "OWN_CGROUP", tmp_path / "own")
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_one_lane_per_core() -> None:
    assert lanes.lanes() == [{}, {}, {}]
    assert lanes.lanes(5) == [{}] * 5
    with pytest.raises(UsageError, match="workers is 100000, for which this machine has no memory"):
        lanes.lanes(100_000)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 3),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/\n", {"cpu.max": "800000 100000"}, 3),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, 3),
        ("4:cpu,cpuacct:/a\n0::/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "200000"}, 2),
        ("4:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "100000"}, 1),
        ("4:cpu,cpuacct:/a\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1"}, 3),
        ("5:cpuset:/a\n", {"cpuset/cpu.max": "100000 100000"}, 3),
    ],
)
def test_lanes_by_the_containers_quota(own: str, files: dict[str, str], expected: int, machine: Path) -> None:
    (machine / "own").write_text(own)
    for name, text in files.items():
        path = machine / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith("quota_us"):
            path.with_name("cpu.cfs_period_us").write_text("100000")
    assert lanes.cores() == expected
    assert len(lanes.lanes()) == expected


def test_cores_as_dask_counts_them() -> None:
    assert lanes.cores() <= dask.system.cpu_count()  # Dask heeds a process's own group only, not those above it
    assert lanes.cores() >= 1


@pytest.mark.usefixtures("machine")
def test_where_no_affinity_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert len(lanes.lanes()) == 8


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("visible", "memory", "cores", "workers", "seen"),
    [
        (None, 16, 4, None, ["0", "1", "0", "1"]),
        (None, 16, 1, None, ["0", "1"]),  # A core for each GPU at least
        (None, 6, 32, None, ["0", "1", "0", "1"]),  # No more than have room
        (None, 1, 32, None, ["0", "1"]),
        ("3,5", 80, 3, None, ["3", "5", "3"]),
        ("3,5", 80, 8, 1, ["3"]),
        (None, 80, 2, 5, ["0", "1", "0", "1", "0"]),
        ("GPU-1b2c,GPU-3d4e", 80, 2, 2, ["GPU-1b2c", "GPU-3d4e"]),
    ],
)
def test_lanes_share_gpus(
    visible: str | None, memory: int, cores: int, workers: int | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane per core, as many as the GPUs' memory holds; each is told how many share its GPU."""
    monkeypatch.setattr(lanes, "DRIVERS", ("/",))
    monkeypatch.setattr(lanes, "cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: mock.Mock(total_memory=memory << 30))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = lanes.lanes(workers)
    assert [lane["CUDA_VISIBLE_DEVICES"] for lane in found] == seen
    assert [int(lane[share.SHARE]) for lane in found] == [seen.count(name) for name in seen]


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


def kinds(kind: type[BaseException]) -> list[type[BaseException]]:
    return [kind, *itertools.chain(*map(kinds, kind.__subclasses__()))]


@pytest.mark.parametrize("kind", [*kinds(CloudjobError), ValueError], ids=lambda kind: kind.__name__)
def test_what_the_run_tells_in_a_line_dask_tells_in_no_page(kind: type[BaseException]) -> None:
    error = kind.__new__(kind, 'scene A: "it\'s" out')  # whatever else it is made of
    record = logging.LogRecord(
        "distributed.worker", logging.ERROR, "", 0, "Compute Failed\nException: %s\n", (f'"{error!r}"',), None
    )
    assert network._is_news(record) == (not issubclass(kind, CloudjobError))


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
        with contextlib.suppress(psutil.NoSuchProcess):
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
    count = 2
    monkeypatch.setattr(stream, "_workers", lambda _: {"tcp://late": count})
    submitted = []

    def work() -> Iterator[tuple[str, int]]:
        for each in range(60):
            submitted.append(each)
            yield f"late {each}", each

    handed_in = []
    for _ in stream.stream(client, double, work()):
        handed_in.append(len(submitted))
        count = 20
    assert handed_in[:3] == [5, 42, 43]
    assert handed_in[-1] == 60


def test_an_error_is_a_result_and_ends_nothing(client: Client) -> None:
    def divide(number: int) -> float:
        return 12 / number

    work = [(f"divide {number}", number) for number in (3, 0, 4)]
    results = dict(stream.stream(client, divide, work))
    assert isinstance(results.pop(0), ZeroDivisionError)
    assert results == {3: 4, 4: 3}


def test_a_task_that_kills_its_worker_costs_no_other(client: Client, tmp_path: Path) -> None:
    """It takes all that run beside it along, as a machine without memory does; alone it is found out."""

    def work(number: int) -> list[str]:
        mine = tmp_path / str(os.getpid())
        mine.touch()
        time.sleep(0.3)
        beside = [path.name for path in tmp_path.iterdir()]
        if number == 2:
            (tmp_path.parent / "alone").write_text(" ".join(beside))
            for name in set(beside) - {mine.name}:
                os.kill(int(name), signal.SIGKILL)
                (tmp_path / name).unlink(missing_ok=True)  # it may have ended its task meanwhile
            mine.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        mine.unlink(missing_ok=True)
        return beside

    def keys(dask_scheduler: Any = None) -> dict[str, int]:
        return {worker.address: len(worker.processing) for worker in dask_scheduler.workers.values()}

    work_ = [(f"mask-S{number}-killer", number) for number in range(8)]
    results = {}
    for argument, result in stream.stream(client, work, work_):
        assert all(count <= 1 for count in client.run_on_scheduler(keys).values()), "what waits is no suspect"
        results[argument] = result
    assert isinstance(results.pop(2), KilledWorker)
    assert results.keys() == {0, 1, 3, 4, 5, 6, 7}
    assert all(isinstance(result, list) for result in results.values()), results
    assert len((tmp_path.parent / "alone").read_text().split()) == 1, "when it was blamed it was alone"
    client.wait_for_workers(2, timeout=jobs.PATIENCE)


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
        check_address(address)
    with pytest.raises(UsageError, match="is no scheduler's address"), scheduler.connect(address):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tls://host.example:8786", "tcp://[::1]:8786"])
def test_addresses(address: str) -> None:
    check_address(address)


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


@contextlib.contextmanager
def losable() -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """A scheduler that has a worker, and a client that gives it up two seconds after it was lost."""
    plain = (jobs.BIN / "dask", "worker", "--no-nanny", "--no-dashboard", "--nthreads", "1")
    with (
        jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (process, address),
        jobs.started(*plain, address, until="Registered to"),
        scheduler.connect(address) as client,
    ):
        client._timeout = 2
        yield process, client


@pytest.mark.parametrize("when", ["a result is fetched", "workers are counted", "lanes are counted"])
def test_a_scheduler_lost_while(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's client has another error for each of these."""
    monkeypatch.setattr(stream, "COUNTED", 0)
    with losable() as (process, client):

        def killing(call: Callable[..., Any]) -> Callable[..., Any]:
            def killed(*arguments: Any, **named: Any) -> Any:
                process.kill()
                process.wait()
                return call(*arguments, **named)

            return killed

        if when == "a result is fetched":
            monkeypatch.setattr(Future, "result", killing(Future.result))
        else:
            monkeypatch.setattr(client, "nthreads", killing(client.nthreads))
        work = [(f"lost {number}", number) for number in range(5)]
        with pytest.raises(UnreachableError, match="the Dask scheduler is lost"):  # noqa: PT012
            if when == "lanes are counted":
                stream.lane_count(client)
            list(stream.stream(client, lambda number: number, work))  # That worker knows no module of the tests


@pytest.mark.parametrize("meanwhile", ["slots are prepared", "an item is written"])
def test_a_scheduler_that_was_lost_for_so_long_that_dask_has_given_it_up(meanwhile: str) -> None:
    """While the store did not answer, say: it ended with 70, as a bug of ours."""
    work = [(f"late {number}", number) for number in range(10)]
    with losable() as (process, client):
        results = stream.stream(client, lambda number: number, work)
        if meanwhile == "an item is written":
            next(results)
        process.kill()
        while client.status != "closed":
            time.sleep(0.05)
        with pytest.raises(UnreachableError, match="the Dask scheduler is lost"):
            next(results)


def test_a_scheduler_lost_before_workers_have_the_network_is_not_taken_for_a_bad_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "PATIENCE", 2)
    with losable() as (process, client):
        process.kill()
        process.wait()
        with pytest.raises(UnreachableError, match="the Dask scheduler is lost"):
            network.load(client, "net", b"", "0" * 64)


def test_a_scheduler_that_hangs_before_workers_have_the_network_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "PATIENCE", 1)
    with losable() as (process, client):
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(UnreachableError, match=r"the Dask scheduler, or a worker .* says nothing for 1 s"):
                network.load(client, "net", b"", "0" * 64)
        finally:
            process.send_signal(signal.SIGCONT)


def test_a_scheduler_that_hangs_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine still takes what it is sent, and Dask sets no limit."""
    monkeypatch.setattr(stream, "COUNTED", 0.1)
    monkeypatch.setattr(stream, "PATIENCE", 1)
    with losable() as (process, client):
        results = stream.stream(client, lambda number: number, [(f"held {number}", number) for number in range(200)])
        next(results)
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(UnreachableError, match="the Dask scheduler is lost"):
                list(results)
        finally:
            process.send_signal(signal.SIGCONT)


NO_WORKER = {"n_workers": 0, "processes": False, "dashboard_address": "127.0.0.1:0"}
"""For a cluster in this process whose workers are yet to come."""


def test_a_run_waits_for_a_worker_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "COUNTED", 0.1)
    monkeypatch.setattr(stream, "PATIENCE", 0.5)
    with (
        LocalCluster(**NO_WORKER) as cluster,
        Client(cluster) as client,
        pytest.raises(UnreachableError, match="there has been no worker for"),
    ):
        list(stream.stream(client, double, [("double-1", 1)]))
    assert "the run waits for one" in caplog.text


def test_nor_for_one_to_do_again_what_was_lost_with_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A result lies with its worker until the client, which writes other scenes' items, comes to fetch it."""
    monkeypatch.setattr(stream, "COUNTED", 0.1)
    monkeypatch.setattr(stream, "FETCHED", 0.1)
    monkeypatch.setattr(stream, "PATIENCE", 1)
    result = Future.result
    with LocalCluster(**{**NO_WORKER, "n_workers": 1}) as cluster, Client(cluster) as client:

        def gone(future: Future[int], *arguments: Any, **named: Any) -> Any:
            cluster.scale(0)
            while client.nthreads():
                time.sleep(0.05)
            return result(future, *arguments, **named)

        monkeypatch.setattr(Future, "result", gone)
        with pytest.raises(UnreachableError, match="there has been no worker for"):
            list(stream.stream(client, double, [("double-1", 1)]))


def test_nor_for_those_that_were_to_do_what_others_did_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is killed comes back under another address: a run waited ten minutes for it, beside it, and ended."""
    monkeypatch.setattr(stream, "COUNTED", 0.1)
    monkeypatch.setattr(stream, "PATIENCE", 1)
    with LocalCluster(**{**NO_WORKER, "n_workers": 2}) as cluster, Client(cluster) as client:
        blind, sees = client.nthreads()
        hand_in = stream._submit

        def handed_in(*arguments: Any) -> Any:
            if arguments[-1]:
                client.retire_workers([sees])
            return hand_in(*arguments)

        def look(number: int) -> int:
            if get_worker().address == sees:
                return 2 * number
            error = UnseenError("no such file")
            error.worker = blind
            raise error

        work = [(f"mask-S{number}-look", number) for number in range(20)]
        assert dict(stream.stream(client, look, work)) == {number: 2 * number for number in range(20)}
        monkeypatch.setattr(stream, "_submit", handed_in)
        told = dict(stream.stream(client, look, [(f"mask-S{number}-again", number) for number in range(20)]))
        left = {number for number, outcome in told.items() if isinstance(outcome, UnseenError)}
        assert left
        assert told == {number: told[number] if number in left else 2 * number for number in range(20)}


def test_a_worker_that_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "COUNTED", 0.1)
    with (
        LocalCluster(**NO_WORKER) as cluster,
        Client(cluster) as client,
    ):
        results = stream.stream(client, double, [("double-1", 1)])
        late = threading.Timer(0.5, cluster.scale, [1])
        late.start()
        assert list(results) == [(1, 2)]
        late.join()


def test_a_killed_worker_has_ten_minutes_to_come_back_and_is_never_paused() -> None:
    """15 s are Dask's, after which its lane is lost for good."""
    with dask.config.set(lanes.CONFIG):
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "600s"
        assert dask.config.get("distributed.worker.memory.pause") is False


@pytest.mark.usefixtures("listening_at")
def test_workers_that_do_not_start_end_the_run_with_4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when the machine has no memory for them: killed while they load torch."""
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    monkeypatch.syspath_prepend(tmp_path)  # Whose paths Python gives to the processes that it spawns
    monkeypatch.setitem(lanes.WORKER, "preload", ["killed"])
    with (
        pytest.raises(UnreachableError, match="the workers of this machine do not start: Nanny failed"),
        scheduler.connect("local", 1),
    ):
        pass


def answers(port: int, context: ssl.SSLContext | None) -> bytes:
    """What somebody without a certificate is told at a port of this machine."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) if context else plain as spoken,
    ):
        spoken.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return spoken.recv(100)
    return b""


def test_other_users_of_the_machine_get_at_the_dashboard_only(client: Client) -> None:
    """They reach loopback too, and whoever a worker or a scheduler takes can have it run anything."""
    me = psutil.Process()
    ports = {
        connection.laddr.port
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    nobody = ssl.create_default_context()
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    closed = {port for port in ports if not answers(port, None).startswith(b"HTTP/1")}
    assert {answers(port, context) for port in closed for context in (None, nobody)} == {b""}
    known = client.scheduler_info(n_workers=-1)
    addresses = [known["address"], *known["workers"], *(worker["nanny"] for worker in known["workers"].values())]
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
    assert closed >= {int(address.rpartition(":")[2]) for address in addresses}


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://0.0.0.0:0"])
def test_to_listen_without_tls_is_warned_of(address: str, caplog: pytest.LogCaptureFixture) -> None:
    door, security = scheduler._door(address)
    assert (door["protocol"], security.tls_ca_file) == ("tcp", None)
    assert f"{address} is not encrypted: whoever reaches it can run anything here" in caplog.text


def test_an_installation_without_cryptography_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    door, _ = scheduler._door(None)
    assert (door["protocol"], door["host"]) == ("tcp", "127.0.0.1")
    assert "requires `cryptography`" in caplog.text
    assert "is not encrypted" in caplog.text


def test_a_worker_without_a_scheduler_exits_with_4(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GREETING", 0.5)
    monkeypatch.setattr(worker, "ARRIVAL", 2)
    with jobs.reserved() as port:
        address = f"tcp://127.0.0.1:{port}"
        result = call(capfd, "worker", address, "--workers", "1")
    assert (result.code, result.stdout) == (4, ""), result.stderr
    waiting, error = result.stderr.splitlines()
    assert waiting == f"no Dask scheduler at {address} yet: waiting for up to 2 s"
    assert error.startswith(f"error: no Dask scheduler answers at {address}")


@pytest.mark.parametrize("command", ["run", "worker"])
def test_who_takes_the_connection_and_says_nothing_is_no_scheduler(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that hangs, or something else at its port: Dask waits for ever for its greeting."""
    monkeypatch.setattr(scheduler, "PATIENCE", 1)
    monkeypatch.setattr(worker, "ARRIVAL", 1)
    monkeypatch.setattr(worker, "GREETING", 1)
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "S1")])
    network_ = jobs.random_checkpoint(tmp_path / "net.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        job = ("--catalog", catalog, "--checkpoint", network_, "--out", tmp_path / "out", *jobs.EVERYWHERE)
        arguments = ("run", *job, "--cluster", address) if command == "run" else ("worker", address)
        result = call(capfd, *map(str, arguments))
    assert result.code == 4, result.stderr
    assert f"error: no Dask scheduler answers at {address}: who listens there says nothing for 1 s" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_worker_whose_scheduler_goes_before_it_has_joined_exits_with_4(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answered(address: str) -> None:
        """A moment ago."""

    monkeypatch.setattr(worker, "_arrival", answered)
    with jobs.reserved() as port, dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        address = f"tcp://127.0.0.1:{port}"
        result = call(capfd, "worker", address, "--workers", "1")
    assert result.code == 4, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: could not join the Dask scheduler at {address}")


def test_a_worker_that_cannot_be_started_anew_is_not_let_go(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills its process for want of memory, and has none for another one."""
    start = WorkerProcess.start

    async def starved(process: WorkerProcess) -> Status:
        monkeypatch.setattr(WorkerProcess, "start", refused)
        status = await start(process)
        asyncio.get_running_loop().call_later(1, os.kill, process.pid, signal.SIGKILL)
        return status

    async def refused(process: WorkerProcess) -> Status:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(WorkerProcess, "start", starved)
    with jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (_, address):
        result = call(capfd, "worker", address, "--workers", "1")
    assert result.code == 4, result.stderr
    assert (
        "error: the worker's process ended, and none can be started anew\nhint: start the worker again\n"
        in result.stderr
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_worker_that_is_let_go_exits_with_0(form: str, tmp_path: Path) -> None:
    """And its last word is one line."""
    log = tmp_path / "log"
    with (
        jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (_, address),
        jobs.worker_of(address, log=log, GDAL_CACHEMAX="99", CLOUDJOB_LOG_FORMAT=form) as process,
        Client(address) as client,
    ):
        client.wait_for_workers(1, timeout=jobs.PATIENCE)
        (environment,) = client.run(started_with()).values()
        assert {name: environment[name] for name in lanes.ENVIRON} == {**lanes.ENVIRON, "GDAL_CACHEMAX": "99"}
        serving = psutil.Process(process.pid)
        found = listening(serving, *serving.children(recursive=True))
        assert len(found) == 2, "the worker and who watches over it"
        assert set.union(*found.values()) == {"127.0.0.1"}, "the address that faces the scheduler"
        client.shutdown()
        assert process.wait(jobs.PATIENCE) == 0
    told = log.read_text().splitlines()
    last = json.loads(told[-1])["message"] if form == "json" else told[-1]
    assert last == f"let go by the scheduler at {address}: nothing is left to do"
    assert not any(re.search(r"Traceback|ERROR|WARNING", line) for line in told), told


def test_a_worker_whose_sign_of_life_comes_before_the_word_that_lets_it_go_exits_with_0(tmp_path: Path) -> None:
    """The scheduler knows it no more, as if it had been lost."""

    async def retire(dask_scheduler: Any) -> None:
        ((address, comm),) = dask_scheduler.stream_comms.items()
        comm.interval = 2  # Seconds between two packets; a sign of life comes every half
        comm.send({"op": "free-keys", "keys": [], "stimulus_id": "test"})
        await asyncio.sleep(0.1)
        await dask_scheduler.retire_workers([address], close_workers=True)

    log = tmp_path / "log"
    with (
        jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (_, address),
        jobs.worker_of(address, log=log) as process,
        Client(address) as client,
    ):
        client.wait_for_workers(1, timeout=jobs.PATIENCE)
        client.run_on_scheduler(retire)
        assert process.wait(jobs.PATIENCE) == 0, log.read_text()
    told = log.read_text()
    assert "nothing is left to do" in told
    assert not re.search(r"Traceback|ERROR|WARNING", told), told


def test_sigterm_ends_a_worker_whatever_it_is_at(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a callback it was only logged, and the worker went on."""

    async def serve(address: str, workers: int | None) -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await asyncio.sleep(10)

    monkeypatch.setattr(worker, "serve", serve)
    result = call(capfd, "worker", "tcp://127.0.0.1:1")
    assert result.code == 143, result.stderr
    assert result.stderr.startswith("terminated: ")


# A scheduler of the run's own that takes workers from elsewhere


@pytest.fixture
def listening_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address for a run to listen at."""
    monkeypatch.setattr(scheduler, "DASHBOARD_PORT", 0)
    for name in lanes.ENVIRON:
        monkeypatch.setenv(name, lanes.ENVIRON[name])
    with jobs.reserved() as port:
        yield f"tcp://127.0.0.1:{port}"


def test_a_run_takes_workers_from_elsewhere_and_lets_them_go(listening_at: str) -> None:
    with jobs.worker_of(listening_at) as process:  # Before there is a scheduler, as in a Job of Kubernetes
        time.sleep(2)
        with scheduler.connect("local", 1, listening_at) as client:
            client.wait_for_workers(2, timeout=jobs.PATIENCE)
            assert stream.lane_count(client) == 2
            work = [(f"elsewhere-{number}", number) for number in range(20)]
            pids = {pid for _, pid in stream.stream(client, lambda _: (time.sleep(0.05), os.getpid())[1], work)}
            assert len(pids) == 2
        assert process.wait(jobs.PATIENCE) == 0


def test_a_run_that_fails_does_not_let_workers_go(listening_at: str, tmp_path: Path) -> None:
    """They exit as if the scheduler had been killed, and so are started again for the run's next try."""
    log = tmp_path / "log"
    with jobs.worker_of(listening_at, log=log, CLOUDJOB_LOG_FORMAT="json") as process:
        with (  # noqa: PT012
            pytest.raises(UnreachableError, match="the store"),
            scheduler.connect("local", 1, listening_at) as client,
        ):
            client.wait_for_workers(2, timeout=jobs.PATIENCE)
            raise UnreachableError("the store does not answer")
        assert process.wait(jobs.PATIENCE) == 4
    (line,) = map(json.loads, log.read_text().splitlines())  # One, and no page of traceback
    assert (line["event"], line["exit_code"]) == ("error", 4)
    assert line["message"] == f"the Dask scheduler at {listening_at} is lost"


def test_everywhere_means_everywhere_but_the_dashboard_and_this_machines_lanes(listening_at: str) -> None:
    port = listening_at.rpartition(":")[2]
    with scheduler.connect("local", 1, f"tcp://0.0.0.0:{port}") as client:
        client.wait_for_workers(1, timeout=jobs.PATIENCE)
        me = psutil.Process()
        found = listening(me, *me.children(recursive=True))
        assert sum("0.0.0.0" in addresses for addresses in found.values()) == 1
        assert set.union(*found.values()) == {"0.0.0.0", "127.0.0.1"}
        open_ports = {c.laddr.port for c in me.net_connections("inet") if c.laddr and c.laddr.ip == "0.0.0.0"}
        assert open_ports == {int(port)}
        assert client.dashboard_link.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_told(listening_at: str) -> None:
    with (
        socket.create_server(("127.0.0.1", int(listening_at.rpartition(":")[2]))),
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
