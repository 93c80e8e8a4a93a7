"""The batch script on a real SLURM: two nodes, each a machine of the test's (machines.py)."""

import json
import os
import re
import subprocess
import time
from datetime import UTC, datetime, timedelta

import jobs
import pytest

from .servers import ROOT, free_port, require
from .simulated import SCENES, assert_same_masks

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

CONF = """
ClusterName=test
SlurmctldHost={one.host}({one.address})
SlurmUser=root
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MessageTimeout=60
NodeName={one.host} NodeAddr={one.address} CPUs=2
NodeName={two.host} NodeAddr={two.address} CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def cluster(hosts, tmp_path):
    """SLURM on two of the machines: a function that runs one of its commands."""
    require("slurmctld", "slurmd", "munged", "sbatch")
    one, two, _ = hosts
    for name in ("state", "spool-node1", "spool-node2"):
        (tmp_path / name).mkdir()
    key, conf = tmp_path / "munge.key", tmp_path / "slurm.conf"
    key.write_bytes(bytes(range(128)))
    key.chmod(0o600)
    (tmp_path / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # The other kind asks systemd
    conf.write_text(CONF.format(folder=tmp_path, one=one, two=two))
    munge = [f"--{name}={tmp_path}/munge.{name[:4]}" for name in ("socket", "seed-file", "pid-file", "log-file")]
    one.start("munged", "--foreground", "--force", f"--key-file={key}", *munge)
    one.start("slurmctld", "-D", "-f", conf)
    for host in (one, two):
        host.start("slurmd", "-D", "-N", host.host, "-f", conf)

    path = f"{jobs.BIN}:{os.environ['PATH']}"
    environment = {"SLURM_CONF": str(conf), "CLOUDJOB_ENV": str(tmp_path / "env"), "PATH": path}
    environment |= {"CLOUDJOB_TLS": str(tmp_path), "CLOUDJOB_CERTIFICATES": str(ROOT / "deploy/tls/certificates.sh")}

    def slurm(*command, may_fail=False):
        done = subprocess.run(
            [*one.shell, *map(str, command)],
            env=jobs.environment(**environment),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or may_fail, done.stderr
        return done.stdout

    deadline = time.monotonic() + 180
    while slurm("sinfo", "--noheader", "--format=%t %D", may_fail=True).strip() != "idle 2":
        assert time.monotonic() < deadline, "".join(path.read_text() for path in tmp_path.glob("*.log"))
        time.sleep(0.5)
    yield slurm
    slurm("scancel", "--full", "--user=root")


@pytest.fixture
def settings(simulated, tmp_path):
    """Writes /etc/cloudjob/env; its catalog has the scenes of the last nights."""
    catalog = simulated / "catalog" / "items.json"
    found = json.loads(catalog.read_text())
    for number, item in enumerate(found["features"]):
        item["properties"]["datetime"] = (datetime.now(UTC) - timedelta(days=1, minutes=number)).isoformat()
    recent = simulated / "catalog" / "recent.json"
    recent.write_text(json.dumps(found))

    def write(**other):
        values = {"CLOUDJOB_BBOX": "-180 -90 180 90", "CLOUDJOB_OUT": tmp_path / "out", "CLOUDJOB_CATALOG": recent}
        values |= {"CLOUDJOB_WORKERS": 1} | other
        (tmp_path / "env").write_text("".join(f'{name}="{value}"\n' for name, value in values.items()))

    return write


def submit(slurm):
    script = ROOT / "deploy" / "slurm" / "cloudjob.sbatch"
    return slurm("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", "--mem-per-cpu=0", script).strip()


def job(slurm, number):
    """What SLURM says of a job."""
    return dict(re.findall(r"(\w+)=(\S*)", slurm("scontrol", "show", "job", number)))


def ended(slurm, number, seconds=180):
    deadline = time.monotonic() + seconds
    while job(slurm, number)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
        assert time.monotonic() < deadline, job(slurm, number)
        time.sleep(0.5)
    return job(slurm, number)


def test_a_night(cluster, settings, simulated, tmp_path):
    settings()
    number = submit(cluster)
    state = ended(cluster, number)
    log = (tmp_path / f"slurm-{number}.out").read_text()
    assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert f"{SCENES} done in" in log
    assert re.search(r"Registered to: +tls://node1:8786", log), "the other node was at work"
    assert "Reason: scheduler-close" in log
    assert "CANCELLED" not in log
    assert_same_masks(tmp_path / "out", simulated / "reference")

    state = ended(cluster, again := submit(cluster))
    assert state["JobState"] == "COMPLETED", "nothing to do, and a worker that has no scheduler to wait for"
    assert f"{SCENES} done" in (tmp_path / f"slurm-{again}.out").read_text()


def test_a_night_without_catalog_is_tried_again(cluster, settings, tmp_path):
    settings(CLOUDJOB_CATALOG=f"http://127.0.0.1:{free_port()}")
    number = submit(cluster)
    deadline = time.monotonic() + 120
    while job(cluster, number)["Restarts"] == "0":
        assert time.monotonic() < deadline, (tmp_path / f"slurm-{number}.out").read_text()
        time.sleep(0.5)
    cluster("scancel", number)


def test_a_night_with_wrong_settings_is_not(cluster, settings):
    settings(CLOUDJOB_THRESHOLD="17")
    state = ended(cluster, submit(cluster))
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "2:0", "0")
