"""When a source is out: what is known of it after so many scenes."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jobs
import pytest
from faulty import call, served
from file_server import file_server

from cloudjob.errors import KeysMissingError, OutageError, OutsideError, PassingError, SceneError
from cloudjob.plan.sources import Sources

HERE, THERE = "https://here/{}.tif", "https://there/1.tif"


@pytest.mark.parametrize(
    ("error", "tries"),
    [(PassingError("x"), 5), (OutsideError("x"), 5), (OutageError("x"), 5), (KeysMissingError("x"), 1)],
)
def test_a_source_is_given_up_after_five_scenes_and_at_once_where_keys_are_missing(
    error: SceneError, tries: int
) -> None:
    sources = Sources()
    for number in range(tries):
        assert sources.lost(HERE.format(number)) is None
        sources.failed(HERE.format(number), error)
    assert sources.lost(HERE.format("next")) is error
    assert sources.lost(THERE) is None
    assert not sources.own(HERE.format(0), error)
    assert sources.verdict()


@pytest.mark.parametrize(
    ("fault", "days", "says"),
    [
        (503, 10, r"no scene of {} can be read \(5 tried\)"),
        ("html", 1, r"no scene of {} can be read \(1 tried\): scene S2, asset red: .* a web page in its place"),
        ("empty", 1, "none of the 2 items can be used: scene S2, asset red: .* not recognized"),
    ],
)
def test_an_odd_item_hides_no_outage(
    fault: int | str,
    days: int,
    says: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its files were not asked for: that they cannot be read is told, and the others are not all tried."""
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    made = jobs.make_scene(tmp_path, "ODD", "2024-06-01T10:15:59Z", shape=(100, 90))
    with file_server(tmp_path) as files:
        files.disturb("tif", lasting=fault)
        odd = served(made, tmp_path, files.url)
        items: list[dict[str, Any]] = [odd]
        for day in range(2, 2 + days):  # Only their files tell where they lie
            items.append(copy.deepcopy(odd) | {"id": f"S{day}"})
            items[-1]["properties"]["datetime"] = f"2024-06-{day:02}T10:15:59Z"
            for asset in items[-1]["assets"].values():
                del asset["proj:transform"]
        del odd["assets"]["nir"]
        catalog = jobs.write_catalog(tmp_path / "items.json", items)
        result = call(capfd, "plan", "--catalog", catalog, *jobs.EVERYWHERE, "--out", tmp_path / "out")
        assert (result.code, result.stdout) == (4, "")
        assert re.search(says.format(re.escape(files.url)), result.stderr), result.stderr


def test_a_file_that_is_gone_shows_that_its_source_answers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What it sends of others is cut, which is then their own fault: no scene after them is left untried for it."""
    made, cut = (jobs.make_scene(tmp_path, name, "2024-06-08T10:15:59Z", shape=(100, 90)) for name in ("GOOD", "CUT"))
    for asset in (*made["assets"].values(), *cut["assets"].values()):  # Only their files tell where they lie
        del asset["proj:transform"]
    with file_server(tmp_path) as files:
        good, cut, gone = (served(one, tmp_path, files.url) for one in (made, cut, copy.deepcopy(made)))
        items: list[dict[str, Any]] = [
            gone | {"id": "GONE"},
            *(copy.deepcopy(cut) | {"id": f"CUT{n}"} for n in range(6)),
        ]
        for day, item in enumerate(items, start=1):
            item["properties"] = {**item["properties"], "datetime": f"2024-06-{day:02}T10:15:59Z"}
        for asset in gone["assets"].values():
            asset["href"] += ".gone"
        files.disturb("CUT", lasting="empty")
        catalog = jobs.write_catalog(tmp_path / "items.json", [*items, good])
        result = call(capfd, "plan", "--catalog", catalog, *jobs.EVERYWHERE, "--out", tmp_path / "out", "--json")
        assert result.code == 0, result.stderr
        told = json.loads(result.stdout)
        assert [(scene["id"], scene["state"]) for scene in told["scenes"]] == [("GOOD", "new")]
        assert told["refused"].keys() == {item["id"] for item in items}
        assert not any("not tried" in reason for reason in told["refused"].values())


def test_a_scene_with_a_fault_of_its_own_shows_that_its_source_answers() -> None:
    sources = Sources()
    sources.failed(HERE.format("gone"), SceneError("404"))
    for number in range(9):
        sources.failed(HERE.format(number), PassingError("cut"))
    assert sources.lost(HERE.format("next")) is None
    assert sources.verdict() is None
    assert sources.own(HERE.format(0), PassingError("cut"))
    assert not sources.own(HERE.format(0), OutageError("503"))
