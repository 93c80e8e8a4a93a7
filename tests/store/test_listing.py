"""What `cloudjob list` shows, and groups by their short names."""

import json
import os
import pty
import re
import subprocess
import termios
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jobs
import pytest
from faulty import call
from output import SETTINGS, TILE, make_scene, run

from cloudjob.catalog.dates import parse_dates
from cloudjob.errors import UsageError
from cloudjob.store import failures, ledger, listing, masks, slots
from cloudjob.store.failures import Refusal
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

Capfd = pytest.CaptureFixture[str]
TODAY = datetime(2024, 7, 1, tzinfo=UTC).date()


@pytest.fixture
def out(tmp_path: Path) -> Out:
    out = Out.at(tmp_path / "out")
    failing = make_scene(2)
    run(out, [make_scene(0), make_scene(1), failing], failing={failing.id: "its file is cut short"})
    run(out, [make_scene(0, id="beside", group="33TUN_388280_5240040_70x60")])
    return out


def test_every_scene_with_its_state(out: Out) -> None:
    found = {one.id: one for one in listing.scenes(out)}
    assert [one.state for one in found.values()] == ["done", "done", "done", "failed"]
    assert list(found) == sorted(found, key=lambda id_: (found[id_].datetime, id_))
    one = found[make_scene(0).id]
    assert one.datetime == "2024-06-01T10:15:59.024000Z"
    properties = json.loads(Path(f"{out}/{one.item}").read_text())["properties"]
    pixels = properties["cloudjob:pixels"]
    assert one.cloud_cover == properties["eo:cloud_cover"]
    data = pixels["clear"] + pixels["cloud"]
    assert one.valid == pytest.approx(100 * data / (data + pixels["no_data"]))
    assert found[make_scene(2).id].reason == "its file is cut short"


def listed(out: Out, columns: int) -> list[str]:
    """What `list` shows on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    command = [*jobs.CLOUDJOB, "list", str(out)]
    env = {name: value for name, value in jobs.environment().items() if name != "COLUMNS"}
    subprocess.run(command, env=env, stdout=theirs, stderr=subprocess.DEVNULL, timeout=jobs.PATIENCE, check=True)
    os.close(theirs)
    lines = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    return lines


@pytest.mark.parametrize("columns", [80, 140])
def test_a_terminal_shows_a_scene_in_a_line(out: Out, columns: int) -> None:
    """Where it is too narrow for all, without the group: windows' names are long, and each row was two lines."""
    done = [line for line in listed(out, columns) if " valid" in line]
    assert len(done) == 3
    assert max(map(len, done)) <= columns
    assert ("33TUN_388280_5240040_70x60" in "".join(done)) == (columns == 140)


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal_breaks_rows_between_their_columns(out: Out, columns: int) -> None:
    """Rows of 77 columns were cut anywhere, in a date as well as in a number."""
    lines = listed(out, columns)
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    rows = [re.split(r"\s{2,}", row) for row in re.split(r"\n(?! )", text)]
    assert len(rows) == 4
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[0]) for row in rows), text
    assert {row[2] for row in rows} == {*(make_scene(number).id for number in range(3)), "beside"}
    assert [re.sub(r"[\d.]+", "#", "  ".join(row[3:])) for row in rows if row[1] == "done"] == [
        "# % cloud  # % valid"
    ] * 3
    assert [" ".join(row[3:]) for row in rows if row[1] == "failed"] == ["its file is cut short"]


def test_what_is_in_no_group_is_counted_in_none(out: Out, capfd: Capfd) -> None:
    """An item that cannot be used has no grid."""
    with Lock(out) as lock:
        refusal = Refusal("ODD", {"id": "ODD"}, {}, "", "item ODD has no raster assets")
        failures.record(lock, None, refusal, (), refusal.told, outside=False)
    assert "5 scenes in 2 groups" in call(capfd, "list", str(out)).stderr


def test_by_date_and_by_group(out: Out) -> None:
    one_day = listing.scenes(out, dates=parse_dates("2024-06-01", TODAY))
    assert {one.id for one in one_day} == {make_scene(0).id, "beside"}
    assert [one.id for one in listing.scenes(out, group="33TUN")] == ["beside"]
    assert [one.id for one in listing.scenes(out, group="32TQM", dates=parse_dates("2024-06-02", TODAY))] == [
        make_scene(1).id
    ]


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("2024-06-03T01:15:59", "2024-06-03T01:15:59Z"),
        ("2024-06-03T01:15:59+02:00", "2024-06-02T23:15:59Z"),
        ("2024-06-03t01:15:60z", "2024-06-03T01:15:59Z"),
        ("yesterday", "2024-06-03T10:15:59.024000Z"),  # when it was sensed
    ],
)
def test_a_failed_scene_has_its_time_in_utc_however_its_item_writes_it(
    tmp_path: Path, capfd: Capfd, told: str, shown: str
) -> None:
    """One without a zone ended `list --dates` with a traceback."""
    out, scene = Out.at(tmp_path / "out"), make_scene(2)
    scene = replace(scene, item={**scene.item, "properties": {"datetime": told}})
    run(out, [make_scene(0), scene, make_scene(3)], failing={scene.id: "its file is cut short"})
    listed = call(capfd, "list", str(out), "--dates", "2024-06-02/2024-06-03", "--json")
    assert listed.code == 0
    assert [json.loads(line)["datetime"] for line in listed.stdout.splitlines()] == [shown]
    everything = call(capfd, "list", str(out), "--json").stdout.splitlines()
    assert [json.loads(line)["state"] for line in everything] == ["done", "failed", "done"]


def test_a_scene_of_an_interrupted_run_is_listed_with_its_time(out: Out, capfd: Capfd) -> None:
    """Status says to run again with its dates, and nothing told them."""
    scene = make_scene(7)
    with Lock(out) as lock:
        slots.prepare(lock, SETTINGS, ledger.read(out), [scene], tile_of=lambda _: TILE)
    listed = call(capfd, "list", str(out), "--dates", "2024-06-08", "--json")
    told = [(one["id"], one["state"], one["datetime"]) for one in map(json.loads, listed.stdout.splitlines())]
    assert told == [(scene.id, "incomplete", "2024-06-08T10:15:59.024000Z")]
    Path(out.address, "masks.zarr/32TQM/time/c/0").write_bytes(b"x")
    assert scene.id in call(capfd, "list", str(out)).stdout, "also where its time cannot be read"


def test_short_names_of_groups(out: Out) -> None:
    known = ledger.read(out)
    assert listing.group_named(known, "33TUN") == "33TUN_388280_5240040_70x60"
    with pytest.raises(UsageError, match="no group '33TUM'") as caught:
        listing.group_named(known, "33TUM")
    assert "did you mean" in (caught.value.hint or "")
    run(out, [make_scene(0, id="third", group="33TUN_400000_5240040_70x60")])
    with pytest.raises(UsageError, match="'33TUN' is short for 2 groups"):
        listing.group_named(ledger.read(out), "33TUN")


def test_an_opened_out_knows_them_too(out: Out) -> None:
    """A bare KeyError did not say what there is."""
    opened = masks.open_masks(out)
    window = opened["33TUN_388280_5240040_70x60"]
    assert opened["33TUN"] is window
    assert opened["33TUN/cloud"].identical(window["cloud"])
    assert opened["32TQM"]["cloud"].shape[0] == 2
    assert opened.get("33TUM") is None
    assert "33TUN" not in opened, "its names are those of its groups"
    with pytest.raises(KeyError, match="there is no group '32TQN': did you mean 32TQM"):
        opened["32TQN"]
    with pytest.raises(KeyError, match="clouds"):
        opened["32TQM/clouds"]
    run(out, [make_scene(0, id="third", group="33TUN_400000_5240040_70x60")])
    with pytest.raises(KeyError, match="'33TUN': it is short for 33TUN_388280_5240040_70x60, 33TUN_400000_5240040_70x"):
        masks.open_masks(out)["33TUN"]


def test_the_command(out: Out, capfd: Capfd) -> None:
    table = call(capfd, "list", str(out))
    assert table.code == 0
    rows = table.stdout.splitlines()
    assert len(rows) == 4
    assert rows[0].startswith("2024-06-01 10:15  done ")
    assert "its file is cut short" in rows[-1]
    assert "4 scenes in 2 groups" in table.stderr
    records = [
        json.loads(line) for line in call(capfd, "list", str(out), "--json", "--group", "33TUN").stdout.splitlines()
    ]
    assert [(record["id"], record["state"]) for record in records] == [("beside", "done")]
    told = json.loads(call(capfd, "status", str(out), "--json").stdout)
    assert len(told["scenes"]) == 4
    assert told["scenes"][0].keys() == records[0].keys()


@pytest.mark.parametrize("command", ["list", "status"])
def test_a_folder_that_is_none(command: str, capfd: Capfd, tmp_path: Path) -> None:
    result = call(capfd, command, tmp_path / "msaks")
    assert (result.code, result.stdout) == (2, "")
    assert "holds no masks" in result.stderr
    assert not (tmp_path / "msaks").exists()
