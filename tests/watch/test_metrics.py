"""A run's series and its signs of life; a real Prometheus reads them in tests/deploy."""

import errno
import json
import os
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import jobs
import output
import pytest
from faulty import call
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cloudjob import embed, logs
from cloudjob.cluster import lanes, scheduler
from cloudjob.errors import ContractError, UnreachableError, UsageError
from cloudjob.plan.plan import Plan, Planned
from cloudjob.plan.survey import Survey
from cloudjob.store.ledger import Ledger
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt, SceneResult, merge
from cloudjob.watch import metrics
from cloudjob.watch.metrics import Watch

Series = dict[str, dict[str, float]]


def series(text: str) -> Series:
    """Name without cloudjob_ → label (other than out), or "" → value."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("cloudjob_"):
                label = "".join(value for name, value in sample.labels.items() if name != "out")
                found.setdefault(sample.name.removeprefix("cloudjob_"), {})[label] = sample.value
    return found


def written(path: Path) -> Series:
    return series(path.read_text(encoding="utf-8"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cloudjob.prom"


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out.at(tmp_path / "masks")


def survey(number: int) -> Survey:
    scenes = [output.make_scene(day) for day in range(number)]
    return Survey(Plan(tuple(Planned(scene, "new", output.ALL) for scene in scenes), {}, ()), (), {}, Ledger())


def done(day: int, **receipt: float) -> SceneResult:
    scene = output.make_scene(day)
    return SceneResult(scene.id, scene.group, "done", Receipt(**receipt))  # type: ignore[arg-type]


def test_what_a_run_counts(out: Out, file: Path) -> None:
    events = [
        survey(4),
        SceneResult("old", "", "abandoned", reason="gone"),
        done(2, clear=60, cloud=40, no_data=5, bytes_read=1000, read_seconds=1, network_seconds=2, write_seconds=0.5),
        done(0, clear=100, bytes_read=500, read_seconds=1),
        SceneResult(output.make_scene(3).id, "32TQM", "failed", reason="broken"),
    ]
    with Watch(out, file) as watch:
        assert list(watch.follow(events)) == events
        now = series(generate_latest(REGISTRY).decode())
        assert "run_exit_code" not in now, "it is at work"
        watch.code = 1
    found = written(file)
    assert found["run_scenes_planned"] == {"": 4}
    assert found["run_scenes"] == {"done": 2, "failed": 1, "abandoned": 1, "remaining": 1}
    assert now["run_scenes"] == found["run_scenes"]
    assert found["run_pixels"] == {"clear": 160, "cloud": 40, "no_data": 5}
    assert found["run_cloud_ratio"] == {"": 0.2}
    assert found["run_read_bytes"] == {"": 1500}
    assert found["run_stage_seconds"] == {"read": 2, "network": 2, "write": 0.5}
    assert found["newest_scene_timestamp_seconds"] == {"": output.make_scene(2).time.timestamp()}
    assert found["run_exit_code"] == {"": 1}
    assert found["last_success_timestamp_seconds"] == found["run_ended_timestamp_seconds"]
    assert abs(found["run_ended_timestamp_seconds"][""] - time.time()) < 60
    assert f'out="{out}"' in file.read_text()
    assert "cloudjob_" not in generate_latest(REGISTRY).decode(), "of a run that has ended"


def test_a_scene_done_on_two_kinds_of_device_names_both() -> None:
    parts = [
        Receipt(device="cpu", clear=1),
        Receipt(clear=1),
        Receipt(device="NVIDIA H200", clear=1),
        Receipt(device="cpu", clear=1),
    ]
    whole = merge(parts)
    assert (whole.device, whole.clear) == ("NVIDIA H200 + cpu", 4)
    assert merge(parts[::-1]) == whole


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContractError("x"), 3),
        (UnreachableError("x"), 4),
        (KeyboardInterrupt(), 130),
        (RuntimeError("a crash"), 70),
    ],
)
def test_a_run_that_fails_hands_on_the_last_success(out: Out, file: Path, error: BaseException, code: int) -> None:
    with Watch(out, file) as watch:
        watch.code = 0
    before = written(file)["last_success_timestamp_seconds"]
    with pytest.raises(type(error)), Watch(out, file):
        raise error
    after = written(file)
    assert after["run_exit_code"] == {"": code}
    assert after["last_success_timestamp_seconds"] == before


def test_a_success_of_a_clock_that_was_ahead_is_handed_on_by_nobody(out: Out, file: Path) -> None:
    """No alert on old successes would have fired until then."""
    file.write_text("cloudjob_last_success_timestamp_seconds 9e9\n")
    with Watch(out, file) as watch:
        watch.code = 4
    assert "last_success_timestamp_seconds" not in written(file)


@pytest.mark.parametrize("text", ["", "no series {", "cloudjob_last_success_timestamp_seconds nothing\n", "\x00\xff"])
def test_a_broken_file_of_an_earlier_run_is_replaced(out: Out, file: Path, text: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    with Watch(out, file) as watch:
        watch.code = 4
    assert written(file)["run_exit_code"] == {"": 4}
    assert "last_success_timestamp_seconds" not in written(file)


def test_a_file_that_cannot_be_written_is_told_at_once(out: Out, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"metrics-file .*nowhere/x\.prom cannot be written: No such[ a-z]*\nhint"),
        Watch(out, tmp_path / "nowhere" / "x.prom"),
    ):
        raise AssertionError
    assert "cloudjob_" not in generate_latest(REGISTRY).decode()


def test_a_disk_of_the_file_that_is_full_ends_no_run(
    out: Out, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not when it begins either: it was wrong usage, which nobody tries again."""
    write, full = metrics.write_to_textfile, True

    def written_if_there_is_space(*told: Any) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*told)

    monkeypatch.setattr(metrics, "write_to_textfile", written_if_there_is_space)
    with Watch(out, file) as watch:
        assert "No space left" in caplog.text
        full, watch.code = False, 0
    assert written(file)["run_exit_code"] == {"": 0}


def test_a_file_that_cannot_be_written_later_ends_nothing(
    out: Out, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    with Watch(out, folder / "x.prom") as watch:
        (folder / "x.prom").unlink()
        folder.rmdir()
        watch.code = 0
    assert "cannot be written" in caplog.text


def test_exit_codes_of_the_command_line(tmp_path: Path, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is started: a catalog that is none, and one with nothing for these dates."""
    jobs.write_catalog(tmp_path / "items.json", [])
    run = ("run", *jobs.EVERYWHERE, "--out", tmp_path / "out", "--metrics-file", file, "--catalog")
    assert call(capfd, *run, tmp_path / "nowhere.json").code == 2
    assert written(file)["run_exit_code"] == {"": 2}
    assert call(capfd, *run, tmp_path / "items.json").code == 0
    assert written(file)["run_exit_code"] == {"": 0}
    assert written(file)["run_scenes_planned"] == {"": 0}
    assert [path.name for path in tmp_path.glob("*.prom*")] == [file.name]


def test_a_run_whose_cogs_fail_has_failed(tmp_path: Path, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its series said 0: they were written before its COGs were."""
    scene = jobs.make_scene(tmp_path, "S1")
    catalog = jobs.write_catalog(tmp_path / "items.json", [scene])
    net, out = jobs.random_checkpoint(tmp_path / "net.safetensors"), tmp_path / "out"
    jobs.run_here(catalog, net, out)
    for shard in out.glob("masks.zarr/*/cloud/c/0/*/*"):
        shard.write_bytes(b"damaged")
    what = ("--catalog", catalog, "--checkpoint", net, *jobs.EVERYWHERE, "--out", out, "--metrics-file", file)
    assert call(capfd, "run", *what).code == 0
    assert call(capfd, "run", *what, "--cog").code == 1
    assert written(file)["run_exit_code"] == {"": 1}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, jobs.Result, Series]:
    """A run of two scenes, the series it left, and what a second one with nothing to do said."""
    folder = tmp_path_factory.mktemp("metrics")
    days = ("2024-06-01", "2024-06-04")
    made = [jobs.make_scene(folder, day, f"{day}T10:15:59Z", seed=n) for n, day in enumerate(days)]
    jobs.write_catalog(folder / "items.json", made)
    jobs.random_checkpoint(folder / "net.safetensors")
    more = (folder / "items.json", folder / "net.safetensors", folder / "out", "--metrics-file", folder / "m.prom")
    assert jobs.run_job(*more, "--workers", 1).code == 0
    first = written(folder / "m.prom")
    return folder, jobs.run_job(*more, "--json"), first


def test_a_run_and_one_with_nothing_to_do(two_runs: tuple[Path, jobs.Result, Series]) -> None:
    folder, second, first = two_runs
    assert first["run_scenes"] == {"done": 2, "failed": 0, "abandoned": 0, "remaining": 0}
    record = json.loads(min((folder / "out" / "runs").glob("*.json")).read_text())
    receipts = [scene["receipt"] for scene in record["scenes"]]
    assert first["run_read_bytes"] == {"": sum(receipt["bytes_read"] for receipt in receipts)}
    seconds = {
        stage: sum(receipt[f"{stage}_seconds"] for receipt in receipts) for stage in ("read", "network", "write")
    }
    assert first["run_stage_seconds"] == pytest.approx(seconds)
    assert second.code == 0, second.stderr
    after = written(folder / "m.prom")
    assert after["run_scenes"] == {"done": 0, "failed": 0, "abandoned": 0, "remaining": 0}
    assert after["newest_scene_timestamp_seconds"] == first["newest_scene_timestamp_seconds"], "from the ledger"
    assert after["last_success_timestamp_seconds"][""] > first["last_success_timestamp_seconds"][""]


# The dashboard and the heartbeat


def test_the_dashboard_serves_them_and_the_heartbeat_says_what_is_under_way(
    out: Out, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "HEARTBEAT", 0.2)
    monkeypatch.setattr(scheduler, "DASHBOARD_PORT", 0)
    for name in lanes.ENVIRON:  # Dask sets them in this process too, and leaves them there
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    logs.setup()
    gate = tmp_path / "gate"

    def wait(_: int) -> None:
        while not gate.exists():
            time.sleep(0.05)

    with Watch(out, file) as watch, scheduler.connect("local", 1) as client:
        assert re.search(r"^looking for scenes for \d+ s\n", capsys.readouterr().err)
        list(watch.follow([survey(3), done(0, clear=1)]))
        capsys.readouterr()
        watch.client = client
        future = client.submit(wait, 0, key="mask-S2A_32TQM_20240602_0_L2A 1 of 2-0a1b2c3d", pure=False)
        told = ""
        deadline = time.monotonic() + 30
        while "under way" not in told and time.monotonic() < deadline:
            time.sleep(0.1)
            told += capsys.readouterr().err
        with urlopen(client.dashboard_link.replace("/status", "/metrics"), timeout=10) as answer:
            text = answer.read().decode()
        beaten = written(file)["run_heartbeat_timestamp_seconds"][""]
        gate.touch()
        future.result()
    line = r"^1 of 3 scenes, nothing new for \d+ s; under way: S2A_32TQM_20240602_0_L2A 1 of 2$"
    assert re.search(line, told, re.MULTILINE), told
    assert series(text)["run_scenes"] == {"done": 1, "failed": 0, "abandoned": 0, "remaining": 2}
    assert "dask_scheduler_workers" in text
    assert beaten > watch.started


def test_the_dashboard_knows_a_tasks_stages(
    two_runs: tuple[Path, jobs.Result, Series], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask's own metrics of a task, which its page "Fine Performance Metrics" shows."""
    monkeypatch.setattr(scheduler, "DASHBOARD_PORT", 0)
    for name in lanes.ENVIRON:
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    folder = two_runs[0]
    what = {"catalog": folder / "items.json", "checkpoint": folder / "net.safetensors", "out": tmp_path / "out"}

    def stages(dask_scheduler: Any) -> dict[str, float]:
        found = dask_scheduler.cumulative_worker_metrics.items()
        return {key[2]: value for key, value in found if key[:2] == ("execute", "mask") and key[3] == "seconds"}

    with scheduler.connect("local", 1) as client:
        results = embed.run(client=client, bbox=(-180, -90, 180, 90), dates="2000/..", **what)
        seconds = sum(result.receipt.network_seconds for result in results if result.receipt)
        deadline = time.monotonic() + 30
        found: dict[str, float] = {}
        while found.get("network") != pytest.approx(seconds, abs=1e-3):  # Workers tell them with their heartbeats
            assert time.monotonic() < deadline, (found, seconds)
            time.sleep(0.2)
            found = client.run_on_scheduler(stages)
    assert seconds > 0
    assert found.keys() >= {"read", "network", "write"}


def test_no_heartbeat_while_scenes_end(
    out: Out, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the test's own, for a machine may be slow. That on the wall is set back meanwhile."""
    monkeypatch.setattr(metrics, "HEARTBEAT", 0.01)
    clock, beats = 1e9, threading.Semaphore(0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(time=lambda: 5e9 - clock, monotonic=lambda: clock))
    monkeypatch.setattr(Watch, "_try_to_write", lambda _: beats.release())
    logs.setup()

    def beat() -> None:
        """Until a beat that began after the clock was set has ended: the third that writes from now on follows it."""
        while beats.acquire(blocking=False):
            pass
        for _ in range(3):
            assert beats.acquire(timeout=60)

    with Watch(out) as watch:
        list(watch.follow([survey(3), done(0, clear=1)]))
        for _ in range(12):
            list(watch.follow([done(0, clear=1)]))
            clock += 0.009
            beat()
        assert "nothing new" not in capsys.readouterr().err
        clock += 0.002
        beat()
    assert "1 of 3 scenes, nothing new" in capsys.readouterr().err
