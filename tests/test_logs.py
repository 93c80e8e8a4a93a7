"""What is said on stderr, to people and to machines."""

import ast
import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import pytest
from conftest import ROOT
from faulty import call, impatient_cluster, served
from file_server import file_server

from cloudjob import logs
from cloudjob.errors import LONGEST, SceneError

SECRET = "sig=S3CR3T-SIGNATURE"


def parsed(stderr: str) -> list[dict[str, Any]]:
    """Each line, which must be a JSON object with what every one has."""
    lines = [json.loads(line) for line in stderr.splitlines()]
    for line in lines:
        assert list(line)[:4] == ["time", "level", "event", "message"], line
    return lines


def of(event: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == event]


def test_a_run_in_json(tmp_path: Path) -> None:
    """One object per thing that happened, in this process and in the workers; a signed address stays secret."""
    made = [jobs.make_scene(tmp_path / "files", f"S{n}", f"2024-06-0{n}T10:15:59Z", seed=n) for n in (1, 2, 3)]
    jobs.random_checkpoint(tmp_path / "net.safetensors")
    with (
        file_server(tmp_path / "files") as files,
        impatient_cluster(tmp_path / "worker.log", CLOUDJOB_LOG_FORMAT="json") as address,
    ):
        files.disturb("S2/.*green", 404, lasting=404)
        files.disturb("S1/.*red", lasting=500)
        catalog = [served(item, tmp_path / "files", files.url, f"?{SECRET}") for item in made]
        jobs.write_catalog(tmp_path / "items.json", catalog)
        done = jobs.run_job(
            tmp_path / "items.json", tmp_path / "net.safetensors", tmp_path / "out", "--cluster", address,
            CLOUDJOB_LOG_FORMAT="json",
        )  # fmt: skip
    assert done.code == 1, done.stderr
    lines = parsed(done.stderr)
    assert [line["event"] for line in lines if line["event"] != "scene"] == ["dashboard", "survey", "cost", "summary"]
    assert of("survey", lines)[0]["scenes"] == {"new": 3}
    scenes = {line["scene"]: line for line in of("scene", lines)}
    assert {name: (line["state"], line["level"]) for name, line in scenes.items()} == {
        "S1": ("failed", "warning"),
        "S2": ("failed", "warning"),
        "S3": ("done", "info"),
    }
    assert "404" in scenes["S2"]["reason"]
    assert scenes["S3"]["clear"] + scenes["S3"]["cloud"] + scenes["S3"]["no_data"] == jobs.SHAPE[0] * jobs.SHAPE[1]
    assert 0 <= scenes["S3"]["cloud_cover"] <= 100
    assert scenes["S3"]["read_seconds"] > 0
    (summary,) = of("summary", lines)
    assert (summary["done"], summary["failed"]) == (1, 2)
    assert summary["seconds"] > 0

    workers = (tmp_path / "worker.log").read_text()
    attempts = [line for line in parsed(workers) if "attempt 2 of 2" in line["message"]]
    assert [(line["level"], line["logger"]) for line in attempts] == [("warning", "cloudjob.cluster.task")]
    assert SECRET not in done.stderr + done.stdout + workers


def test_the_same_run_for_people(tmp_path: Path) -> None:
    made = [jobs.make_scene(tmp_path, f"S{n}", f"2024-06-0{n}T10:15:59Z", seed=n) for n in (1, 2)]
    (tmp_path / "S2" / "green.tif").unlink()
    jobs.write_catalog(tmp_path / "items.json", made)
    jobs.random_checkpoint(tmp_path / "net.safetensors")
    done = jobs.run_job(tmp_path / "items.json", tmp_path / "net.safetensors", tmp_path / "out", "--workers", 1)
    first, *_ = lines = done.stderr.splitlines()
    assert first.startswith("dashboard: http://127.0.0.1:")
    assert lines[1] == "2 scenes: 2 new", "what it will do, and how long that will take, is told before it begins"
    assert re.match(r"to do: 0\.1 Mpx.*; 1 MB of pixels to read; .* with 1 worker at .* Mpx/s each", lines[2])
    assert sum(line.startswith(("done      S1  ", "failed    S2: ")) for line in lines) == 2
    assert lines[-1].startswith("1 done, 1 failed in ")


def test_every_event_stands_in_the_page_for_the_person_on_call() -> None:
    """Whoever filters by `event` finds all that there are."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cloudjob").rglob("*.py"))
    said = {
        argument.value
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("logs.say", "say")
        for argument in call.args[1:2]
        if isinstance(argument, ast.Constant)
    }
    assert {"scene", "interrupted", "released", "check"} <= said
    page = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"`event` \(([^)]+)\)", page)
    assert set(re.findall(r"\w+", told)) >= said | {"crash", "log"}


def test_what_belongs_to_an_event_keeps_no_secret_however_deep_it_stands() -> None:
    told = f"logs.setup('json'); logs.say('some', 'damaged', files={{'a.json': ['it lies at https://h/a?{SECRET}']}})"
    done = subprocess.run(
        [sys.executable, "-c", f"from cloudjob import logs; {told}"], capture_output=True, text=True, check=True
    )
    (line,) = parsed(done.stderr)
    assert line["files"] == {"a.json": ["it lies at https://h/a"]}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "--out", "x"), 2),
        (("run", "--bbox", "1", "2", "3", "4", "--dates", "2024", "--out", "ftp://x?" + SECRET), 2),
        (("worker", "http://host/?" + SECRET), 2),
        (("model", "/nowhere.safetensors"), 3),
    ],
)
def test_errors_in_json(arguments: tuple[str, ...], code: int) -> None:
    done = jobs.cloudjob("--log-format", "json", *arguments)
    (error,) = parsed(done.stderr)
    assert (done.code, error["exit_code"], error["event"], error["level"]) == (code, code, "error", "error")
    assert error["message"]
    assert SECRET not in done.stderr


def test_a_plan_in_json(tmp_path: Path) -> None:
    jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "S1")])
    jobs.random_checkpoint(tmp_path / "net.safetensors")
    done = jobs.cloudjob(
        "plan", "--catalog", tmp_path / "items.json", "--checkpoint", tmp_path / "net.safetensors",
        "--out", tmp_path / "out", *jobs.EVERYWHERE, CLOUDJOB_LOG_FORMAT="json",
    )  # fmt: skip
    survey, cost = parsed(done.stderr)
    assert (survey["event"], survey["scenes"]) == ("survey", {"new": 1})
    assert (cost["event"], cost["pixels"]) == ("cost", jobs.SHAPE[0] * jobs.SHAPE[1])


def test_errors_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    done = call(capfd, "model", "/nowhere.safetensors")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")


def test_a_format_that_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    assert call(capfd, "--log-format", "xml", "model").code == 2


@pytest.mark.parametrize(
    ("statement", "event", "level"),
    [
        ("raise RuntimeError(ADDRESS)", "crash", "critical"),
        ("import warnings; warnings.warn(ADDRESS)", "log", "warning"),
        ("logging.getLogger('distributed.core').error(ADDRESS)", "log", "error"),
        ("logging.getLogger('rasterio').error('%s', ADDRESS)", "log", "error"),
        ("logs.say(ADDRESS, 'scene', reason=ADDRESS, under_way=[ADDRESS])", "scene", "info"),
    ],
)
def test_whatever_is_said_is_one_object_without_secrets(statement: str, event: str, level: str) -> None:
    """Quotes, line ends and secrets within."""
    program = f"""
import logging
import distributed
from cloudjob import logs
logs.setup("json")
ADDRESS = 'a "quoted\\n" https://host/x.tif?{SECRET}" and token=S3CR3T'
{statement}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    (line,) = parsed(done.stderr)
    assert (line["event"], line["level"]) == (event, level)
    assert "https://host/x.tif" in line["message"]
    assert "S3CR3T" not in done.stderr


def test_what_is_said_goes_through_in_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()
    logs.say("plain", "scene", scene="S1")
    logs.say(f"S1: https://host/x?{SECRET}", "warning", level=logging.WARNING)
    logs.say("bad", "error", level=logging.ERROR, hint="mend it")
    logging.getLogger("cloudjob.lock").warning("held by %s", "somebody")
    logging.getLogger("cloudjob.lock").info("not told")
    told = "plain\nwarning: S1: https://host/x\nerror: bad\nhint: mend it\nWARNING held by somebody\n"
    assert capsys.readouterr().err == told


def test_of_a_host_that_is_out_gdals_own_tries_are_not_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """They were a line each, 18 before the one that says it."""
    item = jobs.make_scene(tmp_path / "files", "S1")
    for asset in item["assets"].values():
        del asset["proj:shape"], asset["proj:transform"]
        asset["href"] = "http://127.0.0.1:9/red.tif"
    catalog = jobs.write_catalog(tmp_path / "items.json", [item])
    asked = ("plan", "--catalog", catalog, "--out", tmp_path / "out", *jobs.EVERYWHERE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
        quiet, verbose = call(capfd, *asked), call(capfd, "-v", *asked)
    assert [line.partition(": ")[0] for line in quiet.stderr.splitlines()] == ["error", "hint"]
    assert "Retrying again" in verbose.stderr


def test_it_is_set_up_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        logs.setup()
    logs.say("once", "scene")
    assert capsys.readouterr().err == "once\n"


def test_what_an_error_quotes_is_cut_where_it_fills_a_screen() -> None:
    """A library may quote megabytes of a stranger's file. Travelling to the client changes nothing."""
    error = SceneError(f"it is {'a' * 10**7}", hint="b" * 10**7, asset="B11")
    assert len(str(error)) == len(error.hint or "") == LONGEST
    assert str(error).startswith("it is aaa")
    assert str(error).endswith("a…")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.hint, again.asset) == (SceneError, str(error), error.hint, "B11")
