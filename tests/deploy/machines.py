"""Machines of the tests' own: network namespaces on one bridge. They share a disk and nothing else."""

import itertools
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager

import jobs

from .containers import skip_unless_root
from .servers import require

NET = "10.123.46."
TIMEOUTS = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "15s"}
"""Half of Dask's own, for the sake of the tests' time."""


_NUMBER = itertools.count()
"""A new name for every network: the kernel takes its time to let go of the last one's."""


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Host:
    """A machine of the test's.

    Attributes:
        name: of the namespace.
        host: name of the machine; all of them know all names.
        address: its only one.
    """

    def __init__(self, number, bridge, folder):
        self.name, self.address, self.folder = f"{bridge}-{number}", f"{NET}{number}", folder
        self.link = f"{bridge}v{number}"
        self.host = f"node{number}"
        self.processes = []
        self.names = folder / f"{self.name}-hosts"
        names = "".join(f"{NET}{other} node{other}\n" for other in (1, 2, 3))
        self.names.write_text(f"127.0.0.1 localhost\n{names}")
        ip("netns", "add", self.name)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.link, "master", bridge, "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")

    @property
    def shell(self):
        """What stands before a command that is to run there."""
        named = f'mount --bind {self.names} /etc/hosts && hostname {self.host} && exec "$@"'
        own = ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--mount", "--uts"]
        return [*own, "sh", "-c", named, "sh"]

    def start(self, *command, **environment):
        """Run a command there in the background; its output goes to a file."""
        path = self.folder / f"{self.name}-{len(self.processes)}.log"
        with path.open("w") as log:
            process = subprocess.Popen(
                [*self.shell, *map(str, command)],
                env=jobs.environment(**TIMEOUTS, **environment),
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
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # It leads a session of its own
                process.wait()
        ip("netns", "del", self.name)


class Process:
    """A command at work on a host."""

    def __init__(self, process, path):
        self.process, self.path = process, path

    @property
    def log(self):
        return self.path.read_text()

    def said(self, pattern, seconds=180):
        """Wait until it has written something."""
        deadline = time.monotonic() + seconds
        while True:
            over = self.process.poll() is not None  # Asked first: it may end once it has said it
            if re.search(pattern, self.log):
                return
            assert not over, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)

    def ended(self, seconds=240):
        """Its exit code."""
        return self.process.wait(seconds)


@contextmanager
def three(folder):
    """Three machines that see each other, and nothing else."""
    skip_unless_root()
    require("ip")
    bridge = f"cj{os.getpid() % 100000}n{next(_NUMBER)}"
    ip("link", "add", bridge, "type", "bridge")
    made = []
    try:
        ip("link", "set", bridge, "up")
        made.extend(Host(number, bridge, folder) for number in (1, 2, 3))
        yield made
    finally:
        for host in made:
            host.remove()
        ip("link", "del", bridge)
