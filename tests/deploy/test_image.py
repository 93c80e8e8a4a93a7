"""The image of deploy/Dockerfile, and the Pods of the rendered CronJob, run by Podman: no Kubernetes, no Docker."""

import base64
import json
import re
import time

import pytest
import yaml

from cloudjob import errors

from . import containers, manifests
from .containers import IMAGE, NETWORK, SUBNET
from .servers import S3_KEYS, s3, s3_environment, s3_ports, s3_store
from .simulated import SCENES, assert_same_masks
from .test_s3 import copied

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

HARDENED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--tmpfs=/tmp:size=512m,mode=1777")
JOB = "cloudjob-29400137"
"""As the CronJob would name it."""


@pytest.fixture(scope="module")
def engine():
    """Podman with the image in its storage."""
    containers.skip_unless_root()
    with containers.podman() as engine:
        (engine.folder / "build.log").write_text(containers.build(engine))
        yield engine


def run(engine, *arguments, options=(), network="none"):
    """A container of the image, as locked up as a Pod is: its exit code and what it wrote."""
    done = engine.start("podman", "run", "--rm", *HARDENED, f"--network={network}", *options, IMAGE, *arguments)
    return done.returncode, done.stdout, done.stderr


def shell(engine, script):
    code, stdout, stderr = run(engine, "-c", script, options=("--entrypoint=sh",))
    return stdout.strip() if code == 0 else f"{code}: {stderr}"


def test_the_image(engine):
    about = containers.image_of(engine)["Config"]
    assert about["User"] == "10001:10001"
    assert about["Entrypoint"] == ["cloudjob"]
    assert containers.image_of(engine)["Healthcheck"]["Test"] == ["CMD", "health"]
    assert containers.image_of(engine)["Size"] < 1.6e9  # 1.4 GB; half of it torch for CPU
    code, stdout, stderr = run(engine, "model")
    assert code == 0, stderr
    assert "cloudjob" in stdout
    assert shell(engine, "id -u; id -g") == "10001\n10001"
    assert "Read-only file system" in shell(engine, "touch /opt/cloudjob/x")
    assert shell(engine, "grep -h Cap /proc/self/status | awk '{print $2}' | sort -u") == "0" * 16
    tools = "gcc cc ld make cmake git hatchling pip pip3"
    assert shell(engine, f"for tool in {tools}; do command -v $tool; done; python -m pip --version 2>&1 || true") == (
        "/opt/venv/bin/python: No module named pip"
    )
    assert run(engine, "run")[0] == 2  # Wrong usage says so also from within


def test_layers_hold_nothing_of_the_machine_that_built_them(engine):
    said = engine("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    assert not [line for line in said.splitlines() if "http" in line]
    assert shell(engine, "cat /etc/pip.conf 2>/dev/null; ls /src /opt/pip 2>/dev/null; ls /opt") == "cloudjob\nvenv"


def pod(number, settings, folder):
    """YAML of one Pod of the Job, as the Job's controller makes it from the rendered template.

    What differs: a smaller share of the machine, the catalog mounted, and, for want of a headless service, a line in
    /etc/hosts.
    """
    found = manifests.objects("base")
    template = json.loads(json.dumps(found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]))
    template["metadata"]["labels"]["batch.kubernetes.io/job-name"] = JOB
    template["metadata"]["name"] = f"{JOB}-{number}"
    spec = template["spec"]
    spec["hostAliases"] = [{"ip": f"{SUBNET}{10}", "hostnames": [f"{JOB}-0.{spec['subdomain']}"]}]
    spec["volumes"].append({"name": "catalog", "hostPath": {"path": str(folder / "catalog")}})
    (one,) = spec["containers"]
    one["env"].append({"name": "JOB_COMPLETION_INDEX", "value": str(number)})
    one["volumeMounts"].append({"name": "catalog", "mountPath": "/catalog", "readOnly": True})
    one["resources"] = {kind: {"cpu": "1", "memory": "2Gi"} for kind in ("requests", "limits")}
    one["image"] = IMAGE
    del one["ports"]  # Podman would open them on this machine; in Kubernetes they are but a name
    config = found["ConfigMap"]
    config["data"] = settings
    return yaml.safe_dump_all([config, {"apiVersion": "v1", "kind": "Pod", **template}])


def play(engine, number, settings, folder):
    """Start a Pod; the name of its container."""
    path = engine.folder / f"pod-{number}.yaml"
    path.write_text(pod(number, settings, folder))
    engine("kube", "play", f"--network={NETWORK}", f"--ip={SUBNET}{10 + number}", path)
    return f"{JOB}-{number}-cloudjob"


def ended(engine, name, seconds=240):
    """A container's exit code."""
    return int(engine("wait", name, timeout=seconds))


def said(engine, name, text, seconds=240):
    """Wait until a container has written something."""
    deadline = time.monotonic() + seconds
    while text not in engine.logs(name):
        assert time.monotonic() < deadline, engine.logs(name)
        assert engine("container", "inspect", "--format={{.State.Running}}", name) == "true", engine.logs(name)
        time.sleep(0.2)


@pytest.fixture
def night(engine, simulated, tmp_path):
    """An S3 server on the network of the Pods: a function that starts one, and the environment of the store."""
    ports = s3_ports()
    gateway = f"{SUBNET}1"
    store = s3_environment(ports, gateway)
    secret = {name: base64.b64encode(value.encode()).decode() for name, value in S3_KEYS.items()}
    engine("secret", "create", "cloudjob-store", "-", input=json.dumps(secret))
    settings = {
        "CLOUDJOB_BBOX": "-180 -90 180 90",
        "CLOUDJOB_DATES": "2000/..",
        "CLOUDJOB_OUT": "s3://masks/night",
        "CLOUDJOB_CATALOG": "/catalog/items.json",
        **{name: value for name, value in store.items() if name not in S3_KEYS},
    }
    # Without anybody in it there is no network to serve on
    where = (f"--network={NETWORK}", f"--ip={SUBNET}2")
    holder = engine("run", "--detach", "--rm", *where, "--entrypoint=sleep", IMAGE, "infinity")
    try:
        with s3(tmp_path, ports, gateway):
            yield lambda number, **other: play(engine, number, {**settings, **other}, simulated), store
    finally:
        engine.start("podman", "pod", "rm", "--all", "--force", "--time", 0)
        engine.start("podman", "rm", "--force", "--time", 0, holder)
        engine.start("podman", "secret", "rm", "cloudjob-store")


def test_a_night_in_pods_with_a_worker_killed(engine, night, simulated, tmp_path):
    """Scheduler and two workers, one of them killed in the middle: the masks of a run on this machine."""
    start, store = night
    workers = [start(1), start(2)]  # They wait for their scheduler, whose Pod may come late
    run = start(0)
    said(engine, workers[0], "plugin cloudjob-model")  # It is at work, or about to be
    said(engine, run, "done  ")
    engine("kill", workers[0])
    assert engine.logs(run).count("done  ") < SCENES
    assert ended(engine, run) == 0, engine.logs(run)
    assert ended(engine, workers[0]) == 137
    assert manifests.reaction(137) == "replaced"
    assert ended(engine, workers[1]) == 0, engine.logs(workers[1])
    everything = "".join(map(engine.logs, (run, *workers)))
    assert not [key for key in S3_KEYS.values() if key in everything]
    assert f"{SCENES} done" in everything
    assert_same_masks(copied(s3_store(store, "s3://masks/night"), tmp_path / "night"), simulated / "reference")


def test_what_ends_a_night_early(engine, night):
    """Exit codes as the Job's policies expect them; no key is printed."""
    start, _ = night
    early = {
        errors.USAGE: {"CLOUDJOB_DATES": "tonight"},
        errors.CONTRACT: {"CLOUDJOB_CHECKPOINT": "/catalog/items.json"},
    }
    for code, settings in early.items():
        run = start(0, **settings)
        assert ended(engine, run) == code, engine.logs(run)
        assert manifests.reaction(code) == "fails"
        assert "Traceback" not in engine.logs(run)
        assert not [key for key in S3_KEYS.values() if key in engine.logs(run)]
        engine("pod", "rm", "--force", "--time", 0, f"{JOB}-0")


def test_a_scheduler_that_is_killed(engine, night):
    """Its worker ends with 4 and so is replaced, as is the scheduler, which then finishes the work."""
    start, _ = night
    worker, run = start(1), start(0, CLOUDJOB_OUT="s3://masks/killed")
    said(engine, worker, "plugin cloudjob-model")
    said(engine, run, "done  ")
    healthy = [engine.start("podman", "exec", name, "health").returncode for name in (run, worker)]
    engine("kill", run)
    assert healthy == [0, 0]
    assert ended(engine, worker) == errors.UNREACHABLE, engine.logs(worker)
    assert manifests.reaction(errors.UNREACHABLE) == manifests.reaction(ended(engine, run)) == "replaced"
    engine("pod", "rm", "--all", "--force", "--time", 0)
    for pause in (0, 10, 20, 40):  # The Job's own, until the dead run's lock is seen to be without a sign of life
        time.sleep(pause)
        again = start(0, CLOUDJOB_OUT="s3://masks/killed")
        code, told = ended(engine, again), engine.logs(again)
        engine("pod", "rm", "--all", "--force", "--time", 0)
        if manifests.reaction(code) != "replaced":
            break
        assert code == errors.UNREACHABLE
        assert "another run is at work" in told
    assert code == 0, told
    assert re.search(r"\d done in", told)
