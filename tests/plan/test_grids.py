"""Which grid a tile's group gets: one wrong item does not decide it; a file is looked at where it must be."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import rasterio
import scenes
from affine import Affine
from faulty import served
from file_server import FileServer, file_server
from shapely import box
from shapely.geometry import mapping

from cloudjob.errors import UnreachableError
from cloudjob.grid import Grid
from cloudjob.plan import grids
from cloudjob.plan.sources import Sources
from cloudjob.scene import opened
from cloudjob.scene.describe import describe
from cloudjob.scene.scene import Scene
from cloudjob.store.ledger import Ledger

ASSETS = {band: band for band in scenes.BANDS}
TILE, LEFT, TOP = "33UUP", 300_000, 5_400_000
"""Where Sentinel-2's grid has it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An item of a whole tile, whose files hold nothing; how they are called tells where they lie."""
    folder = tmp_path_factory.mktemp("whole")
    for left in (LEFT, LEFT + 20):
        (folder / str(left)).mkdir()
        for band in scenes.BANDS:
            how = {"height": 10980, "width": 10980, "count": 1, "dtype": "uint16", "crs": "EPSG:32633", "nodata": 0}
            transform = Affine(10, 0, left, 0, -10, TOP)
            path = folder / str(left) / f"{band}.tif"
            rasterio.open(path, "w", driver="GTiff", tiled=True, sparse_ok=True, transform=transform, **how).close()
    how = {"shape": (8, 8), "transform": (10, 0, LEFT, 0, -10, TOP)}
    item = scenes.make_item(folder, "S0", **how, properties={"grid:code": f"MGRS-{TILE}"})
    for asset in item["assets"].values():
        asset["proj:shape"] = [10980, 10980]
    return {**item, "folder": folder}


def make(whole: dict[str, Any], name: str, told: int = LEFT, true: int = LEFT, url: str = "") -> Scene:
    """A scene whose item tells another left edge than its files have."""
    item = {**copy.deepcopy({key: value for key, value in whole.items() if key != "folder"}), "id": name}
    for band, asset in item["assets"].items():
        asset["href"] = str(whole["folder"] / str(true) / f"{band}.tif")
        asset["proj:transform"] = [10, 0, told, 0, -10, TOP]
    return describe(served(item, whole["folder"], url) if url else item, ASSETS, scenes.BANDS, 10)


def sorted_out(
    found: Sequence[Scene], known: Ledger | None = None, sources: Sources | None = None
) -> tuple[list[str], dict[str, tuple[str, bool]]]:
    fitting, refused = grids.on_one(found, known or Ledger(), sources)
    assert all(scene.group == TILE for scene in found)
    return [scene.id for scene in fitting], {each.id: (each.reason, each.outside) for each in refused}


def test_the_grid_of_the_tile_wins_against_any_majority(whole: dict[str, Any]) -> None:
    odd = [make(whole, f"ODD{number}", LEFT + 20) for number in range(3)]
    fitting, refused = sorted_out([*odd, make(whole, "GOOD")])
    assert fitting == ["GOOD"]
    assert refused.keys() == {"ODD0", "ODD1", "ODD2"}
    assert not any(outside for _, outside in refused.values())
    assert "but others of 33UUP on" in refused["ODD0"][0]


def test_a_scene_of_another_tiles_name_costs_none_of_that_tile(whole: dict[str, Any]) -> None:
    """Nor its own mask: it lies where its file does."""
    above = {**copy.deepcopy(whole), "properties": {**whole["properties"], "grid:code": "MGRS-33UUQ"}}
    misnamed, good = make(above, "MISNAMED"), make(whole, "GOOD")
    fitting, refused = grids.on_one([misnamed], Ledger(), Sources())
    assert (fitting, refused) == ([misnamed], [])
    assert misnamed.group == f"32633_{LEFT}_{TOP}_10980x10980"
    assert sorted_out([good], sources=Sources()) == (["GOOD"], {})


def test_a_wrong_grid_that_contradicts_the_tiles_name_is_compared_with_the_file(whole: dict[str, Any]) -> None:
    geometry = mapping(box(12.2, 47.7, 13.8, 48.8))
    odd = make({**whole, "geometry": geometry, "bbox": [12.2, 47.7, 13.8, 48.8]}, "ODD", LEFT + 100_000)
    assert odd.group == f"32633_{LEFT + 100_000}_{TOP}_10980x10980"
    fitting, (refused,) = grids.on_one([odd], Ledger(), Sources())
    assert fitting == []
    assert "its item says 10980 × 10980 from 400000, 5400000" in refused.reason


def test_a_wrong_item_alone_is_compared_with_its_file_before_anything_is_made(whole: dict[str, Any]) -> None:
    """It is the only one of its night; the next one's are right."""
    fitting, refused = sorted_out([make(whole, "ODD", LEFT + 20)], sources=Sources())
    assert fitting == []
    reason, outside = refused["ODD"]
    assert "its item says 10980 × 10980 from 300020, 5400000" in reason
    assert not outside


def test_a_majority_of_wrong_items_is_compared_one_by_one(whole: dict[str, Any]) -> None:
    odd = [make(whole, f"ODD{number}", LEFT + 40) for number in range(2)]
    fitting, refused = sorted_out([*odd, make(whole, "OTHER", LEFT + 20, LEFT + 20)], sources=Sources())
    assert fitting == ["OTHER"]
    assert refused.keys() == {"ODD0", "ODD1"}


def test_a_publishers_own_grid_is_taken_where_its_files_have_it(whole: dict[str, Any]) -> None:
    own = [make(whole, f"OWN{number}", LEFT + 20, LEFT + 20) for number in range(2)]
    assert sorted_out(own, sources=Sources()) == (["OWN0", "OWN1"], {})


def test_a_group_that_is_there_decides(whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    there = Grid(32633, LEFT + 20, TOP, 10, 10, 10980, 10980)
    monkeypatch.setattr(grids, "grid_of", lambda _: there)
    fitting, refused = sorted_out([make(whole, "GOOD"), make(whole, "OWN", LEFT + 20)], Ledger(groups={TILE: {}}))
    assert fitting == ["OWN"]
    assert refused.keys() == {"GOOD"}


@pytest.fixture
def server(whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(opened, "PATIENCE", 0.2)
    monkeypatch.setattr(opened, "PAUSE", 0.01)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    with file_server(Path(whole["folder"])) as files:
        yield files


def test_nothing_is_asked_where_the_tile_tells(whole: dict[str, Any], server: FileServer) -> None:
    assert sorted_out([make(whole, "GOOD", url=server.url)], sources=Sources())[0] == ["GOOD"]
    assert server.asked() == []


def test_where_the_file_is_out_nothing_is_made_and_none_is_to_blame(whole: dict[str, Any], server: FileServer) -> None:
    server.disturb("tif", lasting=503)
    found = [make(whole, name, LEFT + 20, url=server.url) for name in ("A", "B", "C")]
    sources = Sources()
    fitting, refused = sorted_out(found, sources=sources)
    assert fitting == []
    assert isinstance(sources.verdict(), UnreachableError)
    assert [outside for _, outside in refused.values()] == [True] * 3
    asked = len(server.asked())
    assert sorted_out(found) == (["A", "B", "C"], {}), "a plan opens no file for it"
    assert len(server.asked()) == asked
    assert len({request.path for request in server.asked()}) == 1, "one scene's file is enough to know it"


def test_a_file_that_is_cut_off_is_nobodys_fault_and_makes_no_group(whole: dict[str, Any], server: FileServer) -> None:
    server.disturb("tif", lasting="html")
    fitting, refused = sorted_out([make(whole, "A", LEFT + 20, url=server.url)], sources=Sources())
    assert (fitting, refused["A"][1]) == ([], True)


def test_scenes_of_a_damaged_group_wait_for_its_repair(whole: dict[str, Any]) -> None:
    known = Ledger(damaged={f"masks.zarr/{TILE}/zarr.json": "it cannot be read"})
    fitting, refused = sorted_out([make(whole, "A")], known)
    reason, outside = refused["A"]
    assert (fitting, outside) == ([], True)
    assert "cloudjob check OUT --repair" in reason


def test_a_source_that_is_out_costs_no_scene_of_another(whole: dict[str, Any], server: FileServer) -> None:
    server.disturb("tif", lasting=503)
    out = [make(whole, name, LEFT + 20, url=server.url) for name in ("A", "B", "C")]
    there = [make(whole, name, LEFT + 20, LEFT + 20) for name in ("D", "E")]
    fitting, refused = sorted_out([*out, *there], sources=Sources())
    assert fitting == ["D", "E"]
    assert {name: outside for name, (_, outside) in refused.items()} == dict.fromkeys("ABC", True)
