"""The command line as people meet it: help, environment variables, and where things are printed."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import click
import jobs
import output
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT
from faulty import call
from jobs import EVERYWHERE

from cloudjob import cli, errors
from cloudjob.model import checkpoint
from cloudjob.model.unet import SimpleUNet
from cloudjob.plan import plan
from cloudjob.plan.survey import Survey
from cloudjob.store import ledger
from cloudjob.store.failures import Refusal
from cloudjob.store.ledger import Ledger
from cloudjob.store.out import Out
from cloudjob.watch import terminal

Capfd = pytest.CaptureFixture[str]


def commands() -> Iterator[tuple[str, click.Command]]:
    yield "", cli.cli
    yield from cli.cli.commands.items()


NAMED = [pytest.param(name, command, id=name or "cloudjob") for name, command in commands()]


def help_of(name: str, *, width: int = 100) -> str:
    arguments = [*([name] if name else []), "--help"]
    result = CliRunner().invoke(cli.cli, arguments, terminal_width=width, max_content_width=width)
    assert result.exit_code == 0
    return result.output


def options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def test_the_commands_of_the_design() -> None:
    assert cli.cli.commands.keys() >= {"run", "plan", "list", "status", "export", "report", "model", "demo", "worker"}
    assert sorted(cli.Ordered.ORDER) == sorted(cli.cli.commands), "each has its place in the help"


@pytest.mark.parametrize(("name", "command"), NAMED)
def test_help_says_what_every_option_is_for(name: str, command: click.Command) -> None:
    told = help_of(name)
    assert max(map(len, told.splitlines())) <= 100
    assert "\\b" not in told, "an escape shows"
    assert "\b" not in told
    first = (command.help or "").split("\n")[0]
    assert re.match(r"[A-Z].+\.$", first), first
    for option in options(command):
        sentence = option.help or ""
        assert re.match(r"\S.{5,}", sentence), f"{option.opts} has no help"
        assert " ".join(option.opts[:1]) in told
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            assert parameter.human_readable_name.rstrip(".").upper() in told.upper()


@pytest.mark.parametrize("name", ["run", "plan"])
def test_help_has_exit_codes_or_states(name: str) -> None:
    told = help_of(name)
    assert re.search("Exit codes:\n +0  +all done" if name == "run" else "failed before", told)


@pytest.mark.parametrize("width", [80, 100])
def test_no_command_is_cut_in_the_list(width: int) -> None:
    listed = help_of("", width=width).partition("Commands:\n")[2].partition("\n\n")[0]
    assert len(listed.splitlines()) == len(cli.cli.commands)
    assert "..." not in listed


def test_examples_of_run_are_commands_that_parse() -> None:
    examples = re.findall(r"^ +cloudjob run (.+)$", help_of("run"), re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        cli.cli.commands["run"].make_context("run", example.split())


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_fits_a_narrow_terminal_but_for_commands_to_copy(name: str) -> None:
    lines = help_of(name, width=80).splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("    cloudjob ")] == []


OWN_WORDS = re.compile(r"\b(lanes?|grown|slots?|ledger|mend who)\b", re.IGNORECASE)
"""Words of ours that users stumbled on: they know workers, scenes and what is done."""


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_is_in_the_words_of_the_field(name: str) -> None:
    assert not OWN_WORDS.findall(help_of(name))


@pytest.mark.parametrize("name", ["README.md", "deploy/README.md", "docs/networks.md", "docs/publishers.md"])
def test_documents_are_in_the_words_of_the_field(name: str) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not OWN_WORDS.findall(text)


def test_what_is_said_is_in_the_words_of_the_field(capfd: Capfd, tmp_path: Path) -> None:
    """Of a plan with an area that has grown, and an item that cannot be used; and of an error."""
    out, scene = Out.at(tmp_path / "out"), output.make_scene()
    output.run(out, [scene], [(0, 0)])
    larger = plan.make([scene], ledger.read(out), lambda _: output.ALL)
    assert [planned.state for planned in larger.scenes] == ["grown"]
    refusal = Refusal("ODD", {}, {}, "", "item ODD has no raster assets")
    cost = plan.cost(larger, lambda _: output.TILING, speed=1, lanes=2, measured=False)
    terminal.plan(Survey(larger, (refusal,), {}, Ledger()), cost, as_json=False)
    told = "".join(capfd.readouterr())
    assert "larger area" in told
    assert "unusable" in told
    assert "with 2 workers" in told
    assert not OWN_WORDS.findall(told)


def test_every_exit_code_is_told() -> None:
    told = help_of("run")
    codes = (errors.DONE, errors.SOME_FAILED, errors.USAGE, errors.CONTRACT, errors.UNREACHABLE, errors.CRASHED)
    for code in (*codes, errors.INTERRUPTED):
        assert re.search(rf"^ +{code}  +\w", told, re.MULTILINE), code
    assert str(errors.TERMINATED) in told


def test_keys_that_are_missing_are_found_under_their_exit_code() -> None:
    """`errors.CONTRACT`, which nobody looks for under "contract"."""
    assert re.search(r"^ +3  [^\n]+\n +or a bucket .+wants keys", help_of("run"), re.MULTILINE)
    (row,) = re.findall(r"^\| 3 \|.+", (ROOT / "deploy" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert "wants keys and there are none" in row
    assert "(deploy/README.md#exit-codes)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "option"), [("run", "--cluster"), ("plan", "--cluster"), ("run", "--listen")])
def test_every_kind_of_address_is_told(name: str, option: str) -> None:
    (told,) = (one.help or "" for one in options(cli.cli.commands[name]) if option in one.opts)
    assert "tcp://" in told
    assert "tls://" in told


@pytest.mark.parametrize("name", ["run", "plan", "demo", "worker"])
def test_every_option_is_also_a_variable(name: str) -> None:
    for option in options(cli.cli.commands[name]):
        if option.name != "help":
            assert option.envvar == "CLOUDJOB_" + option.opts[0][2:].replace("-", "_").upper()


def test_variables_of_the_environment_are_heeded(capfd: Capfd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = jobs.make_scene(tmp_path, "A")
    catalog = jobs.write_catalog(tmp_path / "items.json", [item])
    settings = {
        "BBOX": "16 46 17 47",
        "DATES": "2024-06",
        "CATALOG": catalog,
        "OUT": tmp_path / "out",
        "CHECKPOINT": jobs.random_checkpoint(tmp_path / "net.safetensors"),
        "JSON": "1",
        "ASSET": "red=green green=red",
        "WORKERS": "2",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"CLOUDJOB_{name}", str(value))
    result = call(capfd, "plan")
    assert result.code == 0, result.stderr
    assert [scene["state"] for scene in json.loads(result.stdout)["scenes"]] == ["new"]
    monkeypatch.setenv("CLOUDJOB_DATES", "2020")
    assert json.loads(call(capfd, "plan").stdout)["scenes"] == []
    assert len(json.loads(call(capfd, "plan", "--dates", "2024").stdout)["scenes"]) == 1, "the command line wins"
    monkeypatch.setenv("CLOUDJOB_BBOX", "16 46")
    result = call(capfd, "plan")
    assert result.code == 2
    assert "CLOUDJOB_BBOX is '16 46'; it takes four numbers, as --bbox 11.2 46.4 11.5 46.6" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_value_of_a_variable_is_named_by_it(capfd: Capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDJOB_WORKERS", "many")
    result = call(capfd, "plan", *EVERYWHERE, "--out", "out")
    assert result.code == 2
    assert "Invalid value for '--workers' (CLOUDJOB_WORKERS): 'many' is not a valid integer" in result.stderr
    typed = call(capfd, "plan", *EVERYWHERE, "--out", "out", "--workers", "some")
    assert "Invalid value for '--workers': 'some' is not" in typed.stderr


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CLOUDJOB_TRESHOLD", "CLOUDJOB_THRESHOLD"),
        ("CLOUDJOB_BOX", "CLOUDJOB_BBOX"),
        ("CLOUDJOB_ASSETS", "CLOUDJOB_ASSET"),
        ("CLOUDJOB_METRICS", "CLOUDJOB_METRICS_FILE"),
        ("CLOUDJOB_LOGFORMAT", "CLOUDJOB_LOG_FORMAT"),
        ("CLOUDJOB_SHARED", ""),
        ("CLOUDJOB_PORT_8786_TCP", ""),  # Kubernetes tells of services so
        ("CLOUDJOB_TLS", ""),
    ],
)
def test_a_variable_that_is_misspelt_is_told(
    variable: str, meant: str, capfd: Capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be set in vain, night after night."""
    monkeypatch.setenv(variable, "0.2")
    result = call(capfd, "status", "nowhere")
    warning = f"warning: {variable} is set, and no option goes by it: did you mean {meant}?\n"
    assert (warning in result.stderr) == bool(meant)
    assert ("warning" in result.stderr) == bool(meant)


def test_an_area_that_is_typed_goes_before_one_that_is_set(
    capfd: Capfd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "A")])
    areas = {}
    for name, (west, south) in {"here": (16, 46), "elsewhere": (-60, 3)}.items():
        ring = [[west, south], [west + 1, south], [west + 1, south + 1], [west, south + 1], [west, south]]
        areas[name] = tmp_path / f"{name}.geojson"
        areas[name].write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    what = ("--catalog", catalog, "--dates", "2024", "--out", tmp_path / "out")
    monkeypatch.setenv("CLOUDJOB_BBOX", "-60 3 -59 4")
    result = call(capfd, "plan", *what, "--geometry", areas["here"])
    assert (result.code, result.stdout[:3]) == (0, "new"), result.stderr
    monkeypatch.delenv("CLOUDJOB_BBOX")
    monkeypatch.setenv("CLOUDJOB_GEOMETRY", str(areas["elsewhere"]))
    result = call(capfd, "plan", *what, "--bbox", "16", "46", "17", "47")
    assert (result.code, result.stdout[:3]) == (0, "new"), result.stderr
    result = call(capfd, "plan", *what, "--bbox", "16", "46", "17", "47", "--geometry", areas["here"])
    assert result.code == 2
    assert "expected either a bbox or a geometry, not both\nhint: leave one out" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--version"], 0, r"cloudjob, version \d+\.\d+"),
        (["--help"], 0, "Usage: cloudjob"),
        (["-h"], 0, "Usage: cloudjob"),
        (["run", "-h"], 0, "Examples:"),
        (["model"], 0, r"bands +red, green, blue, nir, swir16 \(optional\)\nresolution +10 m, 20 m, 30 m\n"),
    ],
)
def test_answers_go_to_stdout(arguments: list[str], code: int, says: str, capfd: Capfd) -> None:
    result = call(capfd, *arguments)
    assert (result.code, result.stderr) == (code, "")
    assert re.search(says, result.stdout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing option '--dates'"),
        (["run", "--fast"], "No such option"),
        (["run", "-v"], "Error: -v goes before the command: cloudjob -v … run\n"),
        (["list", "out", "--log-format", "json"], "Error: --log-format goes before the command: cloudjob --log-format"),
        (["--out", "masks", "run"], "Error: --out goes after the command: cloudjob run --out …\n"),
        (["--group", "33TUN", "list"], "Error: --group goes after the command: cloudjob list --group …\n"),
        (["--fast", "run"], "No such option"),
        (["run", "--bbox", "16,46,17"], "--bbox takes four numbers, as --bbox 11.2 46.4 11.5 46.6"),
        (["status"], "Missing argument 'OUT'"),
        (["worker"], "Missing argument 'ADDRESS'"),
        (["worker", "host"], "'host' is no scheduler's address"),
        (["worker", "tcp://127.0.0.1:1", "--workers", "0"], "0 is not in the range"),
        (["demo", "--workers", "none"], "'none' is not a valid integer"),
        (["model", "--like", "ukis-csmask-l2a"], "expected the .onnx file that it is for"),
        (["run", *EVERYWHERE, "--out", f"{__file__}/masks"], f"{__file__} is a file; expected a folder"),
        (["status", __file__], f"{__file__} is a file; expected a folder"),
        (["check", "nowhere"], "there is no OUT at"),
        (["report", "nowhere"], "there is no OUT at"),
        (["demo", "--out", __file__], "the demo's catalog cannot be written or read: [Errno 20] Not a directory"),
        (["demo", "--out", "s3://bucket/masks"], "the demo lies in a folder, and --out is s3://bucket/masks"),
        (["demo", "--out", "a" * 300], "the demo's catalog cannot be written or read: [Errno 36] File name too long"),
    ],
)
def test_complaints_go_to_stderr(arguments: list[str], says: str, capfd: Capfd) -> None:
    result = call(capfd, *arguments)
    assert (result.code, result.stdout) == (2, "")
    assert says in result.stderr
    assert not {"Traceback", "simulating"} & set(result.stderr.split()), "what cannot be written is not made first"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_crash_is_told_from_scenes_that_failed(form: str, capfd: Capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    """EX_SOFTWARE of sysexits.h, with the traceback that its report needs; a secret in it stays secret."""

    def broken(_: object) -> None:
        raise RuntimeError("nobody has foreseen https://host/a.tif?sig=S3CR3T")

    monkeypatch.setattr(Out, "at", broken)
    result = call(capfd, "--log-format", form, "status", "masks")
    assert (result.code, result.stdout) == (70, "")
    assert "S3CR3T" not in result.stderr
    if form == "json":
        (line,) = map(json.loads, result.stderr.splitlines())
        assert (line["event"], line["exit_code"]) == ("crash", 70)
        assert line["message"] == "this is a bug of cloudjob: RuntimeError: nobody has foreseen https://host/a.tif"
        assert "in broken" in line["traceback"]
    else:
        first, hint, *trace = result.stderr.splitlines()
        assert first.startswith(
            "error: this is a bug of cloudjob: RuntimeError: nobody has foreseen https://host/a.tif"
        )
        assert hint == "hint: please report it with the lines below"
        assert any("in broken" in line for line in trace)


def test_a_bare_command_shows_its_help(capfd: Capfd) -> None:
    result = call(capfd)
    assert result.code == 2
    assert "Usage: cloudjob" in result.stdout + result.stderr


def test_the_models_contract_as_json_is_a_stac_item(capfd: Capfd) -> None:
    item = json.loads(call(capfd, "model", "--json").stdout)
    assert item["properties"]["mlm:architecture"] == "SimpleUNet"
    bands = [band["name"] for band in item["properties"]["mlm:input"][0]["bands"]]
    assert bands == ["red", "green", "blue", "nir", "swir16"]
    assert item["properties"]["cloudjob:contract"]["optional_bands"] == ["swir16"]


@pytest.mark.parametrize("columns", [80, 120])
def test_what_a_network_was_trained_on_is_told_in_the_terminals_width(
    columns: int, capfd: Capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    told = call(capfd, "model").stdout
    trained = told[told.index("trained on") : told.index("measured")]
    assert columns - 20 < max(map(len, trained.splitlines())) <= columns
    data = checkpoint.load().contract.training_data
    assert trained.split() == ["trained", "on", *(word for text in data for word in text.split())]


def test_the_network_that_is_shown_is_the_one_that_computes(capfd: Capfd) -> None:
    """With every argument in which it is not a plain `SimpleUNet`."""
    (shown,) = re.findall(r"^network +(.+), [\d,]+ parameters$", call(capfd, "model").stdout, re.MULTILINE)
    network, shipped = eval(shown, {"SimpleUNet": SimpleUNet}), checkpoint.load().unet
    network.load_state_dict(shipped.state_dict())
    image = torch.rand(1, 5, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(image), shipped.eval()(image))


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_status_of_a_place_that_holds_nothing(options: list[str], capfd: Capfd, tmp_path: Path) -> None:
    result = call(capfd, "status", tmp_path / "none", *options)
    assert (result.code, result.stdout) == (2, "")
    assert "holds no masks: no run has written there" in result.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["run", "--treshold", "0.4"], "--threshold"),
        (["export", "out", "2024", "folder", "--gruop", "33TUN"], "--group"),
        (["plan", *EVERYWHERE, "--out", "out", "--asset", "rde=B04"], "red"),
        (["lits", "out"], "list"),
    ],
)
def test_what_is_misspelt_is_guessed(arguments: list[str], meant: str, capfd: Capfd) -> None:
    result = call(capfd, *arguments)
    assert result.code == 2
    assert re.search(rf"did you mean .*{meant}", result.stderr, re.IGNORECASE), result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--asset", "B04=red"], "--asset names a band 'B04'\nhint: the band comes first: --asset red=B04\n"),
        (["--threshold", "40"], "threshold is 40; expected above 0 and below 1\nhint: 40 % is 0.4\n"),
        (["--threshold", "400"], "threshold is 400; expected above 0 and below 1\n"),
        (["--workers", "100000"], "workers is 100000, for which this machine has no memory"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_to_do_is_told(command: str, arguments: list[str], says: str, capfd: Capfd, tmp_path: Path) -> None:
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "A")])
    what = ("--catalog", catalog, "--out", tmp_path / "out", *EVERYWHERE)
    result = call(capfd, command, *what, *arguments)
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {says}") or f"\nerror: {says}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_options_is_told_before_torch_and_dask_are_loaded(tmp_path: Path) -> None:
    """They take seconds, of somebody who waits to correct a letter."""
    typed = ["cloudjob", "run", *EVERYWHERE, "--threshold", "40", "--out", str(tmp_path / "out")]
    code = f"""
import sys
from cloudjob import cli
sys.argv = {typed}
try:
    cli.main()
finally:
    print(sorted({{"torch", "distributed", "stackstac"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout) == (2, "[]\n"), done.stderr


def test_the_last_days_of_a_clock_that_was_not_set_are_none(
    capfd: Capfd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night found nothing and said that all is well."""
    now = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    monkeypatch.setattr("cloudjob.plan.request.datetime", SimpleNamespace(now=lambda _: now))
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "S1")])
    options = ("plan", "--catalog", catalog, *EVERYWHERE[:5], "--out", tmp_path / "out", "--dates")
    result = call(capfd, *options, "10d")
    assert result.code == 4
    assert "this machine's clock says 1970-01-01" in result.stderr
    assert call(capfd, *options, "2024-06").code == 0


def test_nothing_found_says_where_it_looked_and_whether_the_order_may_be_wrong(capfd: Capfd, tmp_path: Path) -> None:
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "A")])
    swapped = ("--bbox", "46.8", "16.2", "47", "16.4")
    result = call(capfd, "plan", "--catalog", catalog, "--out", tmp_path / "out", *swapped, "--dates", "2024-06")
    assert result.code == 0
    assert "16.2 to 16.4 degrees north, 46.8 to 47 east" in result.stderr
    assert "swapped, try --bbox 16.2 46.8 16.4 47" in result.stderr


def test_the_columns_of_a_plan_stand_below_each_other(capfd: Capfd, tmp_path: Path) -> None:
    times = {"A": "2024-06-01T10:15:59Z", "A_LONGER_NAME": "2024-06-02T10:15:59Z"}
    scenes = [jobs.make_scene(tmp_path, name, when) for name, when in times.items()]
    catalog = jobs.write_catalog(tmp_path / "items.json", scenes)
    lines = call(capfd, "plan", "--catalog", catalog, "--out", tmp_path / "out", *EVERYWHERE).stdout.splitlines()
    assert len(lines) == 2
    assert len({line.index(line.split()[2]) for line in lines}) == 1, lines


@pytest.mark.parametrize(
    ("bbox", "dates", "says"),
    [
        ("179 -17 -179 -16", "2024-06", "-17 to -16 degrees north, 179 to -179 east, 2024-06-01/2024-06-30"),
        ("46.8234567 16.2 47 16.4", "2024/..", "longitude are swapped, try --bbox 16.2 46.8234567 16.4 47\n"),
        ("16 46 17 47", "9990", "9990-01-01/9990-12-31\nhint: these dates are still to come"),
        (
            "46.8 16.2 47 16.4",
            "2024 --max-cloud-cover 0.2",
            "for at most 0.2 % of cloud by the catalog\nhint: is --max-",
        ),
    ],
)
def test_where_nothing_was_found_is_told_as_it_was_typed(
    bbox: str, dates: str, says: str, capfd: Capfd, tmp_path: Path
) -> None:
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "A")])
    what = ("--catalog", catalog, "--out", tmp_path / "out", "--bbox", *bbox.split(), "--dates", *dates.split())
    result = call(capfd, "plan", *what)
    assert result.code == 0
    assert says in result.stderr


def test_a_reader_that_has_gone_ends_nothing(tmp_path: Path) -> None:
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, f"A{n}") for n in range(3)])
    script = f"{jobs.CLOUDJOB[0]} plan --catalog {catalog} --out {tmp_path}/out {' '.join(EVERYWHERE)} | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Broken pipe" not in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_end_nothing(closed: str, tmp_path: Path) -> None:
    """As some services start a job: what is opened next must not become its stderr."""
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "A")])
    checkpoint = jobs.brightness_checkpoint(tmp_path / "net.safetensors")
    what = f"--catalog {catalog} --checkpoint {checkpoint} --out {tmp_path}/out --workers 1 {' '.join(EVERYWHERE)}"
    done = subprocess.run(
        ["bash", "-c", f"{jobs.CLOUDJOB[0]} run {what} --json {closed}"],
        env=jobs.environment(),
        capture_output=True,
        text=True,
        timeout=jobs.PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ([] if ">&- 2" in closed[1:] else ["A"])
    assert (jobs.mask_of(tmp_path / "out", "A") == 1).any()


FULL = "error: [Errno 28] No space left on device\nhint: free some space, then run the same command again\n"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("model", "error: stdout cannot be written: No space left on device\n"),
        ("--help", FULL),
        ("run -h", FULL),
    ],
)
def test_a_stdout_that_takes_no_more(command: str, told: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{jobs.CLOUDJOB[0]} {command} > /dev/full"],
        capture_output=True,
        text=True,
        timeout=jobs.PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (4, told)


def test_a_folder_that_was_deleted_while_somebody_is_in_it(tmp_path: Path) -> None:
    def told(*arguments: str) -> subprocess.CompletedProcess[str]:
        here = tmp_path / "here"
        here.mkdir()
        command = shlex.join([*jobs.CLOUDJOB, *arguments])
        return subprocess.run(
            ["bash", "-c", f"rmdir {here}; {command}"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=jobs.PATIENCE,
            check=False,
        )

    done = told("model")
    assert done.returncode == 2
    assert done.stderr == "error: the folder that you are in was deleted\nhint: change to another one, as with `cd`\n"
    for arguments in (("--version",), ("--help",), ("run", "--help"), ("model", "-h")):  # They need none
        help_ = told(*arguments)
        assert (help_.returncode, help_.stderr) == (0, "")
        assert "cloudjob" in help_.stdout


DEEP = '{"type": "Feature", "geometry": ' * 3000 + "{}" + "}" * 3000


@pytest.mark.parametrize(
    ("option", "told", "says"),
    [
        ("--catalog", "http://[x", "is no address"),
        ("--catalog", "https://me:SECRET@[x/v1?token=SECRET", "is no address"),
        ("--geometry", "[" * 100_000, "is not GeoJSON"),
        ("--geometry", DEEP, "is nested too deeply|is not GeoJSON"),
    ],
)
def test_options_beyond_all_reason_are_told_and_no_crash(
    option: str, told: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if option == "--geometry":
        file = tmp_path / "area.geojson"
        file.write_text(told)
        how = ("--geometry", file, "--catalog", jobs.write_catalog(tmp_path / "items.json", []))
    else:
        how = (*EVERYWHERE[:5], "--catalog", told)
    result = call(capfd, "plan", *how, "--out", tmp_path / "out", "--dates", "2024-06")
    assert result.code == 2, result.stderr
    assert re.search(says, result.stderr), result.stderr
    assert "SECRET" not in result.stderr
