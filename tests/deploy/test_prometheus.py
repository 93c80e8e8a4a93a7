"""A real Prometheus: its configuration and alerts checked and tried, and a run scraped while at work and afterwards."""

import json
import re
import signal
import subprocess
import time
from urllib.parse import quote
from urllib.request import urlopen

import jobs
import pytest

from .servers import ROOT, answers, free_port, require, running

pytestmark = pytest.mark.deploy

FOLDER = ROOT / "deploy" / "prometheus"
SCENES = 6
IGNORED = ("__name__", "instance", "job", "out")


def promtool(*arguments, **how):
    require("promtool")
    return subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, **how)


def test_the_configuration_is_valid():
    done = promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_the_alerts_fire_when_they_should_and_only_then():
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_and_explained():
    alerts = set(re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text()))
    fired = re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", (FOLDER / "alerts_test.yml").read_text())
    assert alerts == set(fired)
    told = (ROOT / "deploy" / "README.md").read_text()
    assert [alert for alert in alerts if f"`{alert}`" not in told] == []


def test_an_alert_that_does_not_fire_is_noticed(tmp_path):
    """The rules' own test can fail."""
    for file in FOLDER.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("> 0.2", "> 0.3"))
    done = promtool("test", "rules", str(tmp_path / "alerts_test.yml"))
    assert done.returncode == 1
    assert "CloudjobManyScenesFail" in done.stdout + done.stderr


class Asked:
    """A Prometheus, and what it answers."""

    def __init__(self, url):
        self.url = url

    def get(self, path):
        with urlopen(f"{self.url}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression):
        """Labels (without those of the scrape) and value of every series."""
        found = {}
        for each in self.get(f"query?query={quote(expression)}")["result"]:
            labels = {name: value for name, value in each["metric"].items() if name not in IGNORED}
            found[tuple(sorted(labels.items()))] = float(each["value"][1])
        return found

    def wait_for(self, expression, seconds=180):
        deadline = time.monotonic() + seconds
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"no {expression}"
            time.sleep(0.5)
        return found


def test_a_run_is_scraped(tmp_path):
    """Its dashboard while a worker is held, its file afterwards, and an alert on scenes from 2024."""
    require("prometheus", "prometheus-node-exporter")
    work, textfiles = tmp_path / "work", tmp_path / "textfiles"
    work.mkdir()
    textfiles.mkdir()
    days = range(1, SCENES + 1)
    scenes = [jobs.make_scene(work, f"S2A_33UUP_2024060{n}_0_L2A", f"2024-06-0{n}T10:15:59Z", seed=n) for n in days]
    jobs.write_catalog(work / "items.json", scenes)
    jobs.random_checkpoint(work / "net.safetensors")
    marker = tmp_path / "held"
    plan = jobs.sabotage(marker, "after shard", 3, number=signal.SIGSTOP)  # A worker that stands still
    command = [*jobs.SABOTAGED, "run", "--catalog", work / "items.json", "--checkpoint", work / "net.safetensors"]
    metrics = textfiles / "cloudjob.prom"
    options = ["--workers", "2", "--metrics-file", metrics, "--out", tmp_path / "masks"]
    with (tmp_path / "run.log").open("w+") as log:
        run = subprocess.Popen(
            [*map(str, [*command, *options]), *jobs.EVERYWHERE],
            env=jobs.environment(CLOUDJOB_TEST_SABOTAGE=plan),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        dashboard = wait_for_dashboard(tmp_path / "run.log", run)
        with exporter(tmp_path, textfiles) as node, prometheus(tmp_path, dashboard, node) as asked:
            while_at_work(asked)
            run_on(run)
            assert run.wait(120) == 0, (tmp_path / "run.log").read_text()
            assert marker.exists()
            check = promtool("check", "metrics", input=metrics.read_text())
            assert (check.returncode, check.stdout + check.stderr) == (0, "")
            afterwards(asked)
    finally:
        run_on(run)
        run.kill()
        run.wait()


def wait_for_dashboard(log, run):
    deadline = time.monotonic() + 180
    while not (found := re.search(r"dashboard: http://([\d.:]+)/status", log.read_text())):
        assert run.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found[1]


def run_on(run):
    """Let the worker that stands still go on."""
    import psutil

    if run.poll() is None:
        for process in psutil.Process(run.pid).children(recursive=True):
            process.send_signal(signal.SIGCONT)


def while_at_work(asked):
    asked.wait_for('cloudjob_run_scenes{state="done"} >= 3')
    done = asked.query('cloudjob_run_scenes{job="cloudjob"}')
    (done_now, left) = (done[("state", state),] for state in ("done", "remaining"))
    assert done_now + left == SCENES
    assert left >= 1
    assert asked.query("dask_scheduler_workers{state=~'idle|partially_saturated|saturated'} > 0"), "Dask's own beside"
    assert asked.query("cloudjob_run_exit_code") == {}
    assert min(asked.query("cloudjob_run_read_bytes{job='cloudjob'}").values()) > 0
    stages = asked.query("cloudjob_run_stage_seconds{job='cloudjob'}")
    assert {dict(labels)["stage"] for labels in stages} == {"read", "network", "write"}
    assert min(stages.values()) > 0
    assert 0 < asked.query("cloudjob_run_cloud_ratio")[()] < 1


def afterwards(asked):
    assert asked.wait_for("cloudjob_run_exit_code") == {(): 0}
    assert asked.query('cloudjob_run_scenes{job="node", state="done"}') == {(("state", "done"),): SCENES}
    height, width = jobs.SHAPE
    assert sum(asked.query('cloudjob_run_pixels{job="node"}').values()) == SCENES * height * width
    assert asked.query("time() - cloudjob_last_success_timestamp_seconds < 120")
    deadline = time.monotonic() + 180
    while not (alerts := asked.get("alerts")["alerts"]):
        assert time.monotonic() < deadline, asked.get("rules")
        time.sleep(0.5)
    assert [(alert["labels"]["alertname"], alert["state"]) for alert in alerts] == [("CloudjobNothingNew", "firing")]
    rules = [rule for group in asked.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}


def exporter(tmp_path, textfiles):
    """node_exporter that serves the text files, and nothing of this machine."""
    address = f"127.0.0.1:{free_port()}"
    flags = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={textfiles}"]
    command = ["prometheus-node-exporter", *flags, f"--web.listen-address={address}"]
    return _At(running(command, tmp_path / "exporter.log", lambda: answers(f"http://{address}/")), address)


def prometheus(tmp_path, dashboard, node):
    """Prometheus with the configuration that ships, only quicker and at these addresses."""
    config = (FOLDER / "prometheus.yml").read_text()
    for old, new in (("127.0.0.1:8787", dashboard), ("127.0.0.1:9100", node), ("15s", "1s"), ("1m", "1s")):
        assert config.count(old) == 1
        config = config.replace(old, new)
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "alerts.yml").write_text((FOLDER / "alerts.yml").read_text())
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
    command = ["prometheus", *flags, f"--web.listen-address={address}"]
    url = f"http://{address}"
    return _At(running(command, tmp_path / "prometheus.log", lambda: answers(f"{url}/-/ready")), Asked(url))


class _At:
    """A server, with how it is asked instead of its process."""

    def __init__(self, server, what):
        self.server, self.what = server, what

    def __enter__(self):
        self.server.__enter__()
        return self.what

    def __exit__(self, *error):
        return self.server.__exit__(*error)
