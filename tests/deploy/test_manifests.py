"""Every file of deploy/, by its own checker, and for what the checkers miss: names, ports, values, command lines."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import dask
import pytest
import yaml

from cloudjob import errors
from cloudjob.cli import cli
from cloudjob.cluster import address, scheduler

from .manifests import VARIANTS, container, job, objects, reaction, rendered
from .servers import ROOT, VENV, require

pytestmark = pytest.mark.deploy

DEPLOY = ROOT / "deploy"
README = DEPLOY / "README.md"
OLDEST, NEWEST = "1.33.0", "1.37.0"
variants = pytest.mark.parametrize("variant", VARIANTS)


def check(*command, **how):
    """Run a checker; what it says is why the test fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def parse(words, environment=None):
    """Parse a command line by cloudjob's own parser, without running it: the command and its parameters."""
    assert words[0] == "cloudjob"
    command = cli.commands[words[1]]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CLOUDJOB_")]:
            patch.delenv(name)
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        return words[1], command.make_context(words[1], list(words[2:])).params


# Kubernetes


@variants
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_schemas(variant, version, tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(rendered(variant))
    said = check(VENV / "kubernetes-validate", "--strict", "-k", version, path)
    assert said.count(" passed ") == 6, said


def test_the_readme_claims_the_oldest():
    assert f"Kubernetes {OLDEST.removesuffix('.0')} or later" in " ".join(README.read_text().split())


def test_the_overlay_of_the_page(tmp_path):
    """Its image, settings and schedule are the rendered ones; what it does not set stays."""
    (overlay,) = re.findall(r"^```\n(resources:.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    mine = tmp_path / "kubernetes" / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(overlay)
    (mine / "job.env").write_text("CLOUDJOB_BBOX=1 2 3 4\nCLOUDJOB_OUT=s3://mine/masks\n")
    require("kubectl")
    found = {each["kind"]: each for each in yaml.safe_load_all(check("kubectl", "kustomize", mine))}
    (one,) = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert one["image"] == "REGISTRY/cloudjob:0.1.0-cpu"
    assert found["CronJob"]["spec"]["schedule"] == "17 3 * * *"
    settings = found["ConfigMap"]["data"]
    assert (settings["CLOUDJOB_BBOX"], settings["CLOUDJOB_OUT"]) == ("1 2 3 4", "s3://mine/masks")
    assert settings["CLOUDJOB_DATES"] == "10d"
    assert one["envFrom"][0]["configMapRef"]["name"] == found["ConfigMap"]["metadata"]["name"]


@variants
def test_values_that_schemas_do_not_know(variant):
    cron = objects(variant)["CronJob"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert re.fullmatch(r"\d+ \d+ \* \* \*", cron["schedule"])
    spec = job(variant)
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] > 1, "a worker that never starts must not wait for another's end"
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert spec["activeDeadlineSeconds"] < 24 * 3600
    assert "backoffLimit" not in spec, "that would count all Pods together"
    assert spec["backoffLimitPerIndex"] > 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy allows no other"
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert failed["action"] == "FailJob"
    assert failed["onExitCodes"]["containerName"] == container(variant)["name"]


@variants
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errors.DONE, "done"),
        (errors.SOME_FAILED, "fails"),
        (errors.USAGE, "fails"),
        (errors.CONTRACT, "fails"),
        (errors.CRASHED, "fails"),
        (errors.UNREACHABLE, "replaced"),
        (errors.TERMINATED, "replaced"),
        (137, "replaced"),
    ],
)
def test_exit_codes(variant, code, expected):
    assert reaction(code, variant) == expected


@variants
def test_names_fit(variant):
    found = objects(variant)
    pods = job(variant)["template"]
    labels = pods["metadata"]["labels"]
    service, policy = found["Service"]["spec"], found["NetworkPolicy"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True, "workers must find a scheduler that is not ready yet"
    for selector in (service["selector"], policy["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    (ingress,) = policy["ingress"]
    assert [each["podSelector"]["matchLabels"].items() <= labels.items() for each in ingress["from"]] == [True]
    assert pods["spec"]["subdomain"] == found["Service"]["metadata"]["name"]
    assert pods["spec"]["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    (port,) = service["ports"]
    assert port["targetPort"] in [each["name"] for each in container(variant)["ports"]]
    assert found["Namespace"]["metadata"]["name"] == found["CronJob"]["metadata"]["namespace"]
    config, secret = container(variant)["envFrom"]
    assert config["configMapRef"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert secret["secretRef"]["optional"] is True
    assert len(found["CronJob"]["metadata"]["name"]) <= 52


@variants
def test_pods_are_restricted(variant):
    """What PodSecurity `restricted` asks for, and a little more."""
    found = objects(variant)
    assert found["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pods, one = job(variant)["template"]["spec"], container(variant)
    assert pods["securityContext"]["runAsNonRoot"] is True
    assert pods["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pods["automountServiceAccountToken"] is found["ServiceAccount"]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pods.keys()
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [set(volume) - {"name"} for volume in pods["volumes"]] == [{"emptyDir"}]
    assert [each["mountPath"] for each in one["volumeMounts"]] == ["/tmp"]
    user = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert [str(pods["securityContext"][key]) for key in ("runAsUser", "runAsGroup")] == list(user.groups())


@variants
@pytest.mark.parametrize(("index", "role"), [("0", "run"), ("1", "worker"), ("17", "worker")])
def test_what_a_pod_runs(variant, index, role, tmp_path):
    """The container's script, run by a shell with a `cloudjob` that tells its arguments; then the real parser."""
    one = container(variant)
    (tmp_path / "cloudjob").write_text('#!/bin/sh\nprintf "%s\\n" cloudjob "$@"\n')
    (tmp_path / "cloudjob").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin", "JOB_COMPLETION_INDEX": index, "JOB_NAME": "cloudjob-29400137"}
    words = check(*one["command"], *one["args"], env=environment).splitlines()
    assert words[1] == role
    settings = objects(variant)["ConfigMap"]["data"]
    _, options = parse(words, settings)
    assert options["workers"] is None, "as many as the Pod's quota has cores"
    (port,) = objects(variant)["Service"]["spec"]["ports"]
    service = objects(variant)["Service"]["metadata"]["name"]
    if role == "worker":
        assert options["address"] == f"tcp://cloudjob-29400137-0.{service}:{port['port']}"
        address.check_address(options["address"])
    else:
        assert options["listen"] == f"tcp://0.0.0.0:{port['port']}"
        assert options["where"] == "local"
        assert options["dates"] == "10d"
        assert len(options["bbox"]) == 4


@variants
def test_every_setting_is_an_option(variant):
    known = {option.envvar for option in cli.commands["run"].params} | {"AWS_REGION"}
    assert objects(variant)["ConfigMap"]["data"].keys() <= known


def test_the_names_of_pods_come_from_the_label_that_jobs_set():
    names = {each["name"]: each for each in container("base")["env"]}
    path = names["JOB_NAME"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['batch.kubernetes.io/job-name']"


def test_memory_is_enough_for_the_lanes():
    """2.5 GiB each is promised at most, and half a GiB is the client's."""
    limits = container("base")["resources"]["limits"]
    assert limits["memory"] == f"{3 * int(limits['cpu'])}Gi"
    assert container("base")["resources"]["requests"] == limits


def test_the_health_check_asks_at_the_dashboards_port():
    assert f"PORT = {scheduler.DASHBOARD_PORT} " in (DEPLOY / "health.py").read_text()
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for probe in ("startupProbe", "livenessProbe"):
        (command,) = container("base")[probe]["exec"]["command"]
        assert f"deploy/health.py /opt/cloudjob/bin/{command}" in dockerfile


# The image


def test_hadolint():
    check(VENV / "hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile")


def test_what_is_not_needed_does_not_reach_the_builder():
    """Whatever the Dockerfile copies from the folder is let through, and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    through = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert "*" in lines
    assert through == copied
    assert all((ROOT / path).exists() for path in through)


# One machine, SLURM


def test_shellcheck():
    require("shellcheck")
    check("shellcheck", *DEPLOY.glob("slurm/*"), ROOT / ".ci" / "run", *ROOT.glob("tests/deploy/*.sh"))
    check("shellcheck", "--shell=sh", "-", input=container("base")["args"][0])


def test_systemd(tmp_path):
    require("systemd-analyze")
    folder = Path(shutil.copytree(DEPLOY / "systemd", tmp_path / "systemd"))
    service = folder / "cloudjob.service"
    here = Path(sys.executable).with_name("cloudjob")
    service.write_text(service.read_text().replace("/opt/cloudjob/bin/cloudjob", str(here)))
    assert check("systemd-analyze", "verify", "--man=no", *folder.iterdir()) == ""
    check("systemd-analyze", "security", "--offline=true", "--threshold=25", service)  # 10 is exposed, 100 is the worst


def unit(name):
    """A unit's settings; the last of each."""
    lines = (DEPLOY / "systemd" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_systemd_follows_the_exit_codes():
    never = set(unit("cloudjob.service")["RestartPreventExitStatus"].split())
    assert never == {str(code) for code in (errors.SOME_FAILED, errors.USAGE, errors.CONTRACT, errors.CRASHED)}
    assert unit("cloudjob.service")["Restart"] == "on-failure"
    assert unit("cloudjob.timer")["Persistent"] == "yes"


def cron():
    """The command of the cron line, as cron gives it to a shell."""
    (line,) = [line for line in (DEPLOY / "cron" / "cloudjob").read_text().splitlines() if "cloudjob run" in line]
    *when, user, command = line.split(maxsplit=6)
    assert re.fullmatch(r"\d+ \d+ \* \* \*", " ".join(when[:5]))
    assert user == "cloudjob"
    return command


def test_every_night_is_the_same_command():
    for text in (
        unit("cloudjob.service")["ExecStart"],
        re.search(r"cloudjob run.*?(?=')", cron())[0],
        re.search(r"cloudjob run.*?(?= \|\|)", (DEPLOY / "slurm/cloudjob.sbatch").read_text())[0],
    ):
        words = shlex.split(text)
        settings = {"CLOUDJOB_BBOX": "1 2 3 4", "CLOUDJOB_OUT": "out"}
        _, options = parse(["cloudjob", *words[1:]], settings)
        assert options["dates"] == "10d"


def tells(folder, name, script):
    """An executable for a PATH of the test's."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def cron_line(tmp_path):
    """The cron line with its files in a folder of the test's: a function that starts it."""
    (tmp_path / "env").write_text('CLOUDJOB_BBOX="1 2 3 4"\nCLOUDJOB_OUT=out\n')
    command = cron()
    for there, here in {
        "/etc/cloudjob/env": tmp_path / "env",
        "/opt/cloudjob/bin/cloudjob": tmp_path / "cloudjob",
        "/var/log/cloudjob/run.log": tmp_path / "log",
        "/var/log/cloudjob ": f"{tmp_path} ",
    }.items():
        assert there in command
        command = command.replace(there, str(here))
    start = ["/bin/sh", "-c", command]
    return lambda: subprocess.Popen(start, env={"PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True)


def test_cron_says_nothing_of_a_good_night(cron_line, tmp_path):
    tells(tmp_path, "cloudjob", 'echo "$CLOUDJOB_BBOX to $CLOUDJOB_OUT: $*"')
    night = cron_line()
    assert night.communicate(timeout=20)[0] == ""
    date, told = (tmp_path / "log").read_text().splitlines()
    assert re.search(r"\d:\d\d:\d\d", date), "whose night it is: a run's lines do not tell"
    assert told == "1 2 3 4 to out: run --dates 10d"


@pytest.mark.parametrize("code", [1, 3, 4])
def test_cron_tells_of_a_bad_night(code, cron_line, tmp_path):
    tells(tmp_path, "cloudjob", f"exit {code}")
    assert f"cloudjob ended with {code}" in cron_line().communicate(timeout=20)[0]


def test_cron_leaves_a_night_alone_that_is_still_at_work(cron_line, tmp_path):
    os.mkfifo(tmp_path / "morning")
    tells(tmp_path, "cloudjob", f"echo at work; cat {tmp_path}/morning")
    first = cron_line()
    while not (tmp_path / "log").exists() or "at work" not in (tmp_path / "log").read_text():
        assert first.poll() is None
    assert "cloudjob ended with 4" in cron_line().communicate(timeout=20)[0]
    (tmp_path / "morning").write_text("")
    assert first.communicate(timeout=20)[0] == ""
    assert (tmp_path / "log").read_text().count("at work") == 1


def test_cron_waits_for_nothing_that_a_killed_night_left(cron_line, tmp_path):
    """A worker that still hangs at a disk when its run was killed."""
    tells(tmp_path, "cloudjob", f"/bin/sleep 300 & echo $! > {tmp_path}/left; kill -9 $$")
    assert "cloudjob ended with 137" in cron_line().communicate(timeout=20)[0]
    left = int((tmp_path / "left").read_text())
    try:
        tells(tmp_path, "cloudjob", "exit 0")
        assert cron_line().communicate(timeout=20)[0] == ""
    finally:
        os.kill(left, signal.SIGKILL)


@pytest.fixture
def slurm(tmp_path):
    """The batch script with stand-ins for SLURM's commands: runs it, and gives its exit code and what was called.

    test_slurm.py runs it on a real SLURM; here are the cases that take too long there.
    """
    (tmp_path / "env").write_text('CLOUDJOB_BBOX="1 2 3 4"\nCLOUDJOB_OUT=out\n')
    tells(tmp_path, "srun", f'echo srun "$@" >> {tmp_path}/calls; exec /bin/sleep 60')
    tells(tmp_path, "scontrol", f'echo scontrol "$@" >> {tmp_path}/calls')

    def run(code, nodes, restarts=None):
        tells(tmp_path, "sleep", "exit")
        while_ = f"[ {nodes} = 1 ] || until grep -q srun {tmp_path}/calls 2>/dev/null; do /bin/sleep 0.05; done"
        tells(
            tmp_path,
            "cloudjob",
            f'{while_}\necho cloudjob "$@" in "$CLOUDJOB_BBOX" >> {tmp_path}/calls\n'
            f"env | grep ^DASK_ > {tmp_path}/tls; cat {tmp_path}/.cloudjob-*/*.pem >> {tmp_path}/tls; exit {code}",
        )
        environment = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "CLOUDJOB_ENV": str(tmp_path / "env"),
            "CLOUDJOB_CERTIFICATES": str(DEPLOY / "tls" / "certificates.sh"),
            "HOME": str(tmp_path),
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NUM_NODES": str(nodes),
            **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}),
        }
        script = DEPLOY / "slurm" / "cloudjob.sbatch"
        done = subprocess.run(["/bin/sh", script], env=environment, timeout=120, check=False)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


def test_slurm(slurm):
    code, (workers, run) = slurm(0, 4)
    assert code == 0
    assert run == "cloudjob run --dates 10d --listen tls://0.0.0.0:8786 in 1 2 3 4"
    own, ours = workers.split(" cloudjob ")
    assert own == "srun --relative=1 --nodes=3 --ntasks=3 --cpus-per-task=1"
    _, options = parse(["cloudjob", *ours.split()])
    assert options["address"] == f"tls://{os.uname().nodename}:8786"


def test_slurm_makes_certificates_for_each_job(slurm, tmp_path):
    """They are there while the job runs, nobody else may read them, and gone when it has ended."""
    assert slurm(0, 1)[0] == 0
    told = (tmp_path / "tls").read_text()
    assert told.count("BEGIN CERTIFICATE") == 2
    assert told.count("BEGIN PRIVATE KEY") == 2
    settings = dict(line.split("=", 1) for line in told.splitlines() if line.startswith("DASK_"))
    assert settings.pop("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION") == "true"
    names = {Path(path).name for path in settings.values()}
    assert (len(settings), names) == (7, {"ca.pem", "cert.pem", "key.pem"})
    (folder,) = {Path(path).parent for path in settings.values()}
    assert not folder.exists()
    collected = dask.config.collect_env(settings)["distributed"]["comm"]["tls"]
    assert collected["worker"]["key"] == str(folder / "key.pem")


def test_slurm_of_one_node(slurm):
    assert slurm(1, 1) == (1, ["cloudjob run --dates 10d --listen tls://0.0.0.0:8786 in 1 2 3 4"])


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(4, None, True), (4, 2, True), (4, 3, False), (3, None, False), (1, None, False), (70, None, False)],
)
def test_slurm_tries_again_what_is_worth_it(code, restarts, again, slurm):
    ended, calls = slurm(code, 1, restarts)
    assert ended == code
    assert ("scontrol requeue 17" in calls) == again


# The page for the person on call


def test_by_hand_a_command_runs_as_the_night_does(tmp_path):
    """As its user and with its settings, whatever the shell's: the page's function for it."""
    (line,) = re.findall(r"^cloudjob\(\) .*$", README.read_text(), re.MULTILINE)
    (tmp_path / "env").write_text('CLOUDJOB_BBOX="1 2 3 4"\nAWS_SECRET_ACCESS_KEY=aB/+9\n')
    tells(tmp_path, "sudo", '[ "$1 $2" = "-u cloudjob" ] && shift 2 && exec env -i PATH=/usr/bin:/bin "$@"')
    tells(tmp_path, "cloudjob", 'printf "%s\\n" "$CLOUDJOB_BBOX" "$AWS_SECRET_ACCESS_KEY" "${CLOUDJOB_OUT-unset}" "$@"')
    for there, here in {"/etc/cloudjob/env": "env", "/opt/cloudjob/bin/cloudjob": "cloudjob"}.items():
        assert there in line
        line = line.replace(there, str(tmp_path / here))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CLOUDJOB_OUT": "another"}
    told = check("/bin/sh", "-c", f"{line}\ncloudjob export 'my masks' a.tif", env=environment)
    assert told.splitlines() == ["1 2 3 4", "aB/+9", "unset", "export", "my masks", "a.tif"]


def test_the_certificates_of_the_page_are_where_they_are_looked_for(tmp_path):
    """On a machine without a folder of Dask's, and not for root alone."""
    (block,) = re.findall(r"^```\n(deploy/tls/.*?)^cloudjob run", README.read_text(), re.MULTILINE | re.DOTALL)
    tells(tmp_path, "chown", f'echo "$@" in "$PWD" > {tmp_path}/owned')
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    check("/bin/sh", "-euc", block.replace("/etc/", f"{tmp_path}/etc/"), cwd=ROOT, env=environment)
    assert (tmp_path / "owned").read_text() == f"cloudjob . ca.pem cert.pem key.pem in {tmp_path}/etc/cloudjob/tls\n"
    settings = yaml.safe_load((tmp_path / "etc/dask/dask.yaml").read_text())["distributed"]["comm"]["tls"]
    named = {
        settings["ca-file"],
        *(path for role in ("scheduler", "worker", "client") for path in settings[role].values()),
    }
    assert {Path(path).name for path in named} == {"ca.pem", "cert.pem", "key.pem"}
    assert [path for path in named if not Path(f"{tmp_path}{path}").exists()] == []


def test_one_user_runs_it_everywhere():
    """The page has it made; who starts the nights, and who reads their keys."""
    page = README.read_text()
    assert re.search(r"^useradd .* cloudjob$", page, re.MULTILINE)
    assert "--owner cloudjob --mode 0600 /dev/null /etc/cloudjob/env" in page
    assert unit("cloudjob.service")["User"] == "cloudjob"
    assert "DynamicUser" not in unit("cloudjob.service")


def test_a_job_by_hand_is_watched():
    """Its name is new every time, and the alerts know it."""
    (name,) = re.findall(r'create job .*--from=cronjob/cloudjob "(.*?)"', README.read_text())
    first = check("/bin/sh", "-c", f'echo "{name}"', env={"PATH": "/usr/bin:/bin"}).strip()
    assert re.fullmatch(r"cloudjob-by-hand-\d{9,}", first)
    (watched,) = re.findall(r'kube_job_failed\{job_name=~"(.*?)"', (DEPLOY / "prometheus/alerts.yml").read_text())
    assert re.fullmatch(watched, first)


def test_the_page_has_every_exit_code():
    section = README.read_text().partition("## Exit codes")[2].partition("##")[0]
    assert re.findall(r"^\| (\d+(?:, \d+)?) \|", section, re.MULTILINE) == ["0", "1", "2", "3", "4", "70", "130, 143"]


def test_the_commands_of_the_page_parse():
    """Every `cloudjob …` in a block of the page."""
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [line for line in lines if re.match(r"(CLOUDJOB_\S+ )*cloudjob (?!demo)", line)]
    assert len(commands) >= 4
    for line in commands:
        words = shlex.split(line, comments=True)
        try:
            parse(words, {"CLOUDJOB_BBOX": "1 2 3 4", "CLOUDJOB_OUT": "out", "CLOUDJOB_DATES": "10d"})
        except (click.ClickException, errors.CloudjobError) as error:
            pytest.fail(f"{line}: {error}")


def test_files_the_page_names_exist():
    for path in re.findall(r"`((?:deploy|tests|cloudjob)/[\w./-]+)`", README.read_text()):
        assert (ROOT / path).exists(), path
