"""The image of the real Dockerfile, and Podman to run it, in a storage of their own that ends with the tests."""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from .servers import ROOT, require

BASE = ROOT / ".venv-deploy" / "base.tar"
IMAGE = "localhost/cloudjob:0.1.0-cpu"
NETWORK = "cloudjob-test"
SUBNET = "10.123.45."

# Without a Docker engine and without systemd; the ulimits are below what an unprivileged machine may raise.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""


class Podman:
    """Runs podman and buildah on a storage of its own.

    Attributes:
        folder: of the storage.
    """

    def __init__(self, folder):
        self.folder = folder
        for name, text in (("containers", CONTAINERS_CONF), ("storage", STORAGE_CONF)):
            (folder / f"{name}.conf").write_text(text.format(folder=folder))
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "DISABLE_HC_SYSTEMD": "true",
        }

    def start(self, *command, **how):
        """Run a command and give what it left behind."""
        return subprocess.run(
            [*map(str, command)], env=self.environment, capture_output=True, text=True, check=False, **how
        )

    def __call__(self, *arguments, **how):
        """Run podman, which must succeed; its stdout."""
        done = self.start("podman", *arguments, **how)
        assert done.returncode == 0, f"podman {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def logs(self, container):
        """What a container wrote, stdout and stderr."""
        done = self.start("podman", "logs", container)
        return done.stdout + done.stderr


@contextmanager
def podman():
    """Podman with an empty storage, which is removed with all that runs in it."""
    require("podman", "buildah", "runc", "catatonit")
    if not BASE.exists():
        pytest.skip(f"{BASE} is not there: run tests/deploy/install.sh")
    folder = Path(tempfile.mkdtemp(prefix="cloudjob-podman-", dir="/var/tmp"))
    engine = Podman(folder)
    (folder / "networks").mkdir()
    try:
        engine("network", "create", "--subnet", f"{SUBNET}0/24", "--disable-dns", NETWORK)
        yield engine
    finally:
        engine.start("podman", "pod", "rm", "--all", "--force", "--time", 0)
        engine.start("podman", "rm", "--all", "--force", "--time", 0)
        engine.start("podman", "network", "rm", "--force", NETWORK)
        engine.start("podman", "system", "reset", "--force")
        shutil.rmtree(folder, ignore_errors=True)


def build(engine):
    """Build the image as deploy/README.md says, on Debian's Python in place of the public base.

    Returns:
        What the build said.
    """
    engine("import", "--quiet", BASE, "localhost/base:test")
    packages = pip_settings(engine.folder)
    done = engine.start(
        "buildah",
        "bud",
        "--format=docker",  # The other format has no health checks
        "--isolation=chroot",
        "--network=host",
        "--build-arg=BASE=localhost/base:test",
        f"--build-arg=TORCH=torch=={_constraint('torch')}",
        *(f"--volume={path}:{inside}:ro" for path, inside in packages.items()),
        "--file",
        ROOT / "deploy" / "Dockerfile",
        "--tag",
        IMAGE,
        ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def _constraint(package):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def pip_settings(folder):
    """Settings of this machine's pip for pip in the build: path here → path there."""
    done = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True)
    settings, paths = {}, {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"")
    for words in settings.values():
        for word in words.split():
            path = url2pathname(urlsplit(word).path) if word.startswith("file://") else word
            if path.startswith("/") and Path(path).exists():
                there = Path(path).parent if word.startswith("file://") else Path(path)  # Its links lead to siblings
                paths[str(there)] = str(there)
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return {**paths, str(folder / "pip.conf"): "/etc/pip.conf"}


def image_of(engine):
    """What the image says of itself."""
    (found,) = json.loads(engine("image", "inspect", IMAGE))
    return found


def skip_unless_root():
    """Networks and Podman with a storage of its own want root."""
    if os.geteuid() != 0:
        pytest.skip("root is needed")
