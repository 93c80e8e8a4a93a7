"""What is found of a catalog: how many scenes count as asked for."""

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jobs
import pytest
from faulty import call, served
from file_server import file_server

from cloudjob.plan import found, survey
from cloudjob.scene.identity import merge as merge_versions
from cloudjob.scene.scene import Scene


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("scenes")
    return folder, jobs.make_scene(folder, "S", "2024-06-01T10:15:59Z", shape=(100, 90))


def version(item: dict[str, Any], day: int, baseline: str, second: int = 59) -> dict[str, Any]:
    """An item of the day's scene, in one of its versions."""
    one = copy.deepcopy(item) | {"id": f"S{day}_{baseline}"}
    when = f"2024-06-{day:02}T10:15:{second:02}Z"
    datastrip = f"S2A_OPER_MSI_L2A_DS_X_202406{day:02}T120000_S202406{day:02}T101559_N{baseline}"
    one["properties"] |= {"datetime": when, "s2:datastrip_id": datastrip, "s2:processing_baseline": baseline}
    one["properties"]["s2:product_uri"] = f"{one['id']}.SAFE"
    return one


def planned(capfd: pytest.CaptureFixture[str], catalog: Path, *more: str | Path) -> list[str]:
    out = catalog.parent / "out"
    result = call(capfd, "plan", "--json", "--catalog", catalog, *jobs.EVERYWHERE, "--out", out, *more)
    assert result.code == 0, result.stderr
    return [scene["id"] for scene in json.loads(result.stdout)["scenes"]]


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("1", ["S3_05.10"]),
        ("2", ["S2_05.10", "S3_05.10"]),
        ("3", ["S1_05.10", "S2_05.10", "S3_05.10"]),
        ("9", ["S1_05.10", "S2_05.10", "S3_05.10"]),
    ],
)
def test_a_limit_counts_scenes_and_not_their_versions(
    limit: str, found: list[str], made: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The newer version may have been sensed some seconds before the older one, as their metadata have it."""
    items = [version(made[1], day, *which) for day in (1, 2, 3) for which in (("05.10", 55), ("02.14", 59), ("04.00",))]
    assert planned(capfd, jobs.write_catalog(tmp_path / "items.json", items), "--limit", limit) == found


def test_a_limit_opens_no_more_files_than_it_takes(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Items that do not tell where their pixels lie: each costs a look at its file."""
    folder, item = made
    for asset in item["assets"].values():
        del asset["proj:transform"]
    with file_server(folder) as files:
        items = [version(item, day, baseline) for day in range(1, 30) for baseline in ("02.14", "05.10")]
        items = [served(one, folder, files.url, f"?{one['id']}") for one in items]
        catalog = jobs.write_catalog(tmp_path / "items.json", items)
        assert planned(capfd, catalog, "--limit", "2") == ["S28_05.10", "S29_05.10"]
        assert len({request.query for request in files.asked("tif")}) == 4


def test_a_limit_looks_no_further_for_an_item_that_says_nothing_of_itself(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that is refused counts, and is older than what comes after it: all that is older was described for it."""
    folder, item = made
    for asset in item["assets"].values():
        asset.pop("proj:transform", None)
    with file_server(folder) as files:
        items = [served(version(item, day, "05.10"), folder, files.url, f"?{day}") for day in range(1, 30)]
        items[27]["assets"] = {"red": 3}
        catalog = jobs.write_catalog(tmp_path / "items.json", items)
        assert planned(capfd, catalog, "--limit", "2") == ["S29_05.10"]
        assert {request.query for request in files.asked("tif")} == {"27", "29"}, "it is no older than the one before"


def test_a_limit_describes_what_was_sensed_together_once_and_compares_it_once(
    made: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some catalogs give one moment to all tiles of a swath, of which there are hundreds."""
    compared: list[int] = []

    def merge(scenes: Iterable[Scene], *more: Any) -> Any:
        found = list(scenes)
        compared.append(len(found))
        return merge_versions(found, *more)

    for module in (found, survey):
        monkeypatch.setattr(module, "merge_versions", merge)
    items = [version(made[1], day=1, baseline=f"05.{number:02}") for number in range(40)]
    for number, one in enumerate(items):
        one["properties"] |= {"platform": f"sentinel-2{'abcd'[number % 4]}", "s2:processing_baseline": "05.10"}
        one["properties"]["s2:datastrip_id"] = f"X_S20240601T10{number:02}00_N05.10"
    assert len(planned(capfd, jobs.write_catalog(tmp_path / "items.json", items), "--limit", "3")) == 3
    assert sum(compared) < 3 * len(items)
