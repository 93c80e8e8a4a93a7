"""Three machines, each a network namespace on one bridge: links are cut in the middle of a run."""

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager

import jobs
import pytest

from cloudjob import errors

from .containers import skip_unless_root
from .servers import require
from .simulated import assert_same_masks

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

NET = "10.123.46."
PORT = 8786
TIMEOUTS = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "15s"}
"""Half of Dask's own, for the sake of the tests' time."""


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Host:
    """A machine of the test's.

    Attributes:
        name: of the namespace.
        address: its only one.
    """

    def __init__(self, number, bridge, folder):
        self.name, self.address, self.folder = f"{bridge}-{number}", f"{NET}{number}", folder
        self.link = f"{bridge}v{number}"
        self.processes = []
        ip("netns", "add", self.name)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.link, "master", bridge, "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")

    def start(self, *command):
        """Run a command there in the background; its output goes to a file."""
        path = self.folder / f"{self.name}-{len(self.processes)}.log"
        with path.open("w") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *map(str, command)],
                env=jobs.environment(**TIMEOUTS),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return Process(process, path)

    def cut(self):
        """Pull its plug: not a packet goes in or out, and nobody is told."""
        ip("link", "set", self.link, "down")

    def mend(self):
        ip("link", "set", self.link, "up")

    def remove(self):
        for process in self.processes:
            with_children = os.getpgid(process.pid) if process.poll() is None else None
            if with_children:
                os.killpg(with_children, signal.SIGKILL)
            process.wait()
        ip("netns", "del", self.name)


class Process:
    """A command at work on a host."""

    def __init__(self, process, path):
        self.process, self.path = process, path

    @property
    def log(self):
        return self.path.read_text()

    def said(self, pattern, seconds=90):
        """Wait until it has written something."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.log):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)

    def ended(self, seconds=120):
        """Its exit code."""
        return self.process.wait(seconds)


@contextmanager
def bridge():
    name = f"cj{os.getpid() % 100000}"
    ip("link", "add", name, "type", "bridge")
    try:
        ip("link", "set", name, "up")
        yield name
    finally:
        ip("link", "del", name)


@pytest.fixture
def hosts(tmp_path):
    """Three machines that see each other, and nothing else."""
    skip_unless_root()
    require("ip")
    with bridge() as name:
        made = []
        try:
            made.extend(Host(number, name, tmp_path) for number in (1, 2, 3))
            yield made
        finally:
            for host in made:
                host.remove()


def run(simulated, out, *more):
    catalog = simulated / "catalog" / "items.json"
    return (*jobs.CLOUDJOB, "run", *jobs.EVERYWHERE, "--catalog", catalog, "--out", out, *more)


def worker(address):
    return (*jobs.CLOUDJOB, "worker", address, "--workers", 1)


def test_a_workers_link_is_cut(hosts, simulated, tmp_path):
    """The others do its work: all scenes are done, with the masks of an undisturbed run."""
    first, second, third = hosts
    address = f"tcp://{first.address}:{PORT}"
    workers = [host.start(*worker(address)) for host in (second, third)]
    job = first.start(*run(simulated, tmp_path / "out", "--listen", address, "--workers", 1))
    workers[0].said("plugin cloudjob-model")
    job.said("done  ")
    second.cut()
    assert "6 done" not in job.log
    assert job.ended() == errors.DONE, job.log
    assert workers[1].ended() == errors.DONE, workers[1].log
    assert workers[0].ended() == errors.UNREACHABLE, workers[0].log
    assert_same_masks(tmp_path / "out", simulated / "reference")


def test_the_schedulers_link_is_cut(hosts, simulated, tmp_path):
    """Client and workers end with "try again", and when they do the rest is done."""
    first, second, third = hosts
    address = f"tcp://{first.address}:{PORT}"
    first.start(jobs.BIN / "dask", "scheduler", "--host", first.address, "--port", PORT, "--no-dashboard")
    workers = [host.start(*worker(address)) for host in (second, third)]
    for each in workers:
        each.said("Registered to")
    command = run(simulated, tmp_path / "out", "--cluster", address)
    job = third.start(*command)
    job.said("done  ")
    first.cut()
    assert job.ended() == errors.UNREACHABLE, job.log
    assert "Traceback" not in job.log
    assert [each.ended() for each in workers] == [errors.UNREACHABLE] * 2
    done = len(jobs.items(tmp_path / "out"))
    assert 0 < done < 6

    first.mend()
    workers = [host.start(*worker(address)) for host in (second, third)]
    again = third.start(*command)
    assert again.ended() == errors.DONE, again.log
    assert f"{done} done" in again.log, "what was finished is left alone"
    assert f"{6 - done} done in" in again.log
    assert_same_masks(tmp_path / "out", simulated / "reference")
