"""The demo's catalog: real files, described as Earth Search describes its own, and their truth."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.features
import rasterio.warp
from pyproj import Transformer
from rasterio.enums import Interleaving

from cloudjob.catalog.item import parse
from cloudjob.demo import collection as demo
from cloudjob.scene import identity, product
from cloudjob.scene.describe import describe
from cloudjob.scene.reflectance import reflectance, scaling

ASSETS = (*demo.BANDS, "swir16", "scl", "truth")
OLD = "S2B_33TUN_20210814_0_L2A"
OVERCAST = "S2B_33TUN_20240608_0_L2A"
CLEAR = "S2B_33TVN_20240608_0_L2A"
EDGE = "S2A_33TVN_20240603_0_L2A"


def read(folder: Path, item: dict[str, Any], key: str) -> np.ndarray:
    with rasterio.open(folder / item["assets"][key]["href"]) as file:
        return file.read(1)


def seen(folder: Path, item: dict[str, Any]) -> np.ndarray:
    """Reflectance (4, y, x) by cloudjob's own rules, NaN where there are no data."""
    names = {key: key for key in ASSETS}
    bands = describe(item, names, demo.BANDS, 10).bands
    return reflectance(np.stack([read(folder, item, key) for key in demo.BANDS]), bands)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection, a quarter as wide and as high."""
    return demo.collection(tmp_path_factory.mktemp("demo"), shrink=4).parent


@pytest.fixture(scope="module")
def items(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "items.json").read_text())["features"]
    return {item["id"]: item for item in found}


def test_the_same_seed_gives_the_same_pixels_and_items(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        demo.collection(tmp_path / name, seed=seed, shrink=16)
    assert (tmp_path / "a/items.json").read_bytes() == (tmp_path / "b/items.json").read_bytes()
    same = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.tif")}
    assert len(same) == 6 * len(ASSETS)
    differ = 0
    for path in same:
        one, two, three = (rasterio.open(tmp_path / name / path).read() for name in "abc")
        np.testing.assert_array_equal(one, two)
        differ += not np.array_equal(one, three)
    assert differ >= 6 * 4


def test_two_neighbouring_tiles_of_three_by_three_network_tiles_with_ragged_edges() -> None:
    west, east = demo.TILES.values()
    assert west.epsg == east.epsg == 32633
    assert (west.bounds[2], west.bounds[3]) == (east.bounds[0], east.bounds[3])
    for tile, grid in demo.TILES.items():
        assert all(2048 < side < 3072 and side % 1024 and side % 2 == 0 for side in grid.shape)
        # Sentinel-2's own tiles: 109.8 km wide; their corners are those of the MGRS square, or just outside of it.
        column, row = "STUVWXYZ".index(tile[3]), "ABCDEFGHJKLMNPQRSTUV".index(tile[4])
        left, bottom = 100_000 * (column + 1), 100_000 * row
        assert grid.bounds[0] >= left - 40
        assert grid.bounds[2] <= left + 109_800
        assert bottom - 9_760 <= grid.bounds[1] % 2_000_000
        assert grid.bounds[3] % 2_000_000 <= bottom + 100_040
        longitude, latitude = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(grid.x0, grid.y0)
        assert 12 <= longitude < 18
        assert 40 <= latitude < 48  # latitude band T


def test_scenes_dates_and_baselines(items: dict[str, dict[str, Any]]) -> None:
    times: dict[str, set[str]] = {}
    for name, item in items.items():
        properties = item["properties"]
        satellite, tile, date, sequence, level = name.split("_")
        time = datetime.fromisoformat(properties["datetime"])
        assert (satellite, level) == (f"S2{properties['platform'][-1].upper()}", "L2A")
        assert properties["grid:code"] == f"MGRS-{tile}"
        assert (
            f"{properties['mgrs:utm_zone']}{properties['mgrs:latitude_band']}{properties['mgrs:grid_square']}" == tile
        )
        assert properties["s2:sequence"] == sequence
        assert f"{time:%Y%m%d}" == date
        assert properties["s2:product_uri"].startswith(f"{satellite}_MSIL2A_{time:%Y%m%dT%H%M%S}_N")
        assert f"_T{tile}_" in properties["s2:product_uri"]
        assert (properties["s2:processing_baseline"] >= "04.00") == (time >= datetime(2022, 1, 25, tzinfo=UTC))
        times.setdefault(tile, set()).add(date)
    assert {tile: len(dates) for tile, dates in times.items()} == {"33TUN": 3, "33TVN": 3}
    assert sum(item["properties"]["s2:processing_baseline"] < "04.00" for item in items.values()) == 1


def test_pystac_reads_and_validates_the_items(folder: Path) -> None:
    found = pystac.ItemCollection.from_file(str(folder / "items.json"))
    assert len(found) == len(demo.PASSES)
    for item in found:
        item.stac_extensions = []  # their schemas would be fetched; the core's are in pystac
        item.validate()
    described = pystac.Collection.from_file(str(folder / "collection.json"))
    described.validate()
    assert {item.collection_id for item in found} == {described.id}


@pytest.mark.parametrize("key", ASSETS)
def test_files_are_cogs_and_are_what_their_items_say(folder: Path, items: dict[str, dict[str, Any]], key: str) -> None:
    for item in items.values():
        asset = item["assets"][key]
        assert not Path(asset["href"]).is_absolute()
        with rasterio.open(folder / asset["href"]) as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert file.profile["tiled"]
            assert (file.profile["compress"], file.interleaving) == ("deflate", Interleaving.band)
            assert file.nodata == asset["raster:bands"][0]["nodata"]
            assert file.dtypes == (asset["raster:bands"][0]["data_type"],)
            assert list(file.shape) == asset["proj:shape"]
            assert list(file.transform)[:6] == asset["proj:transform"]
            assert file.crs.to_epsg() == item["properties"]["proj:epsg"]
            assert file.res == ((20, 20) if key in ("swir16", "scl") else (10, 10))
    assert ("data" in asset["roles"]) == (key != "truth")


def test_full_size_files_have_overviews(tmp_path: Path) -> None:
    grid = demo.TILES["33TUN"]
    demo._write_cog(tmp_path / "red.tif", np.ones(grid.shape, np.uint16), grid, demo.Resampling.average)
    with rasterio.open(tmp_path / "red.tif") as file:
        assert file.overviews(1)[:2] == [2, 4]
        assert file.block_shapes == [(1024, 1024)]


@pytest.mark.parametrize("key", ["swir16", "scl"])
def test_what_has_20_m_lies_on_the_bands_of_10_m(items: dict[str, dict[str, Any]], key: str) -> None:
    for item in items.values():
        fine, coarse = item["assets"]["red"], item["assets"][key]
        assert [2 * side for side in coarse["proj:shape"]] == fine["proj:shape"]
        assert [coarse["proj:transform"][i] for i in (2, 5)] == [fine["proj:transform"][i] for i in (2, 5)]


def test_cloudjob_describes_every_scene_as_one_of_its_own(items: dict[str, dict[str, Any]]) -> None:
    names = {key: key for key in ASSETS}
    scenes = [describe(item, names, demo.BANDS, 10) for item in items.values()]
    assert len({scene.group for scene in scenes}) == 2
    assert len({scene.fingerprint for scene in scenes}) == 6
    assert all(scene.scl is not None and scene.grid == scene.bands[0].grid for scene in scenes)
    kept, dropped = identity.merge(scenes)
    assert (len(kept), len(dropped)) == (6, 0)


def test_no_data_only_beyond_the_swath(folder: Path, items: dict[str, dict[str, Any]]) -> None:
    for name, item in items.items():
        truth, scl = read(folder, item, "truth"), read(folder, item, "scl")
        empty = truth == demo.NO_DATA
        assert 0.2 < empty.mean() < 0.6 if name == EDGE else not empty.any()
        for key in demo.BANDS:
            np.testing.assert_array_equal(read(folder, item, key) == 0, empty)
        np.testing.assert_array_equal(scl == 0, empty[::2, ::2])
        np.testing.assert_array_equal(read(folder, item, "swir16") == 0, empty[::2, ::2])
        grid = item["assets"]["truth"]
        inside = rasterio.features.rasterize(
            [rasterio.warp.transform_geom("EPSG:4326", "EPSG:32633", item["geometry"])],
            out_shape=grid["proj:shape"],
            transform=rasterio.Affine(*grid["proj:transform"]),
        )
        assert ((inside == 0) == empty).mean() > 0.99
    edge, whole = items[EDGE], items[CLEAR]
    assert edge["bbox"][2] < whole["bbox"][2] - 0.005  # the footprint ends where the swath does
    assert edge["bbox"][0] == whole["bbox"][0]


def test_only_the_older_baseline_has_no_offset(folder: Path, items: dict[str, dict[str, Any]]) -> None:
    darkest = {}
    for name, item in items.items():
        old = name == OLD
        told = parse(item, {"red": "red"}).item
        found = scaling(told["properties"], told["assets"]["red"], product.baseline(told))
        assert found == (0.0001, 0.0 if old else -0.1)
        darkest[name] = float(np.nanpercentile(seen(folder, item)[2], 0.5))
        numbers = read(folder, item, "blue")
        assert (np.percentile(numbers[numbers > 0], 0.5) < 1000) == old
    assert all(-0.01 < value < 0.1 for name, value in darkest.items() if name != OVERCAST)


def test_the_truth_says_cloud_where_it_is_bright_and_the_ground_stays(
    folder: Path, items: dict[str, dict[str, Any]]
) -> None:
    truth = {name: read(folder, item, "truth") for name, item in items.items()}
    assert set(np.unique(np.concatenate([values.ravel() for values in truth.values()]))) == {0, 1, 254}
    assert (truth[OVERCAST] == 1).all()
    assert (truth[CLEAR] == 0).all()
    ground = seen(folder, items[CLEAR])
    for name in (EDGE, "S2A_33TVN_20240613_0_L2A"):
        now, scl = seen(folder, items[name]), np.kron(read(folder, items[name], "scl"), np.ones((2, 2), np.uint8))
        assert 0.15 < (truth[name] == 1).sum() / (truth[name] < 2).sum() < 0.8
        dark = np.nanmedian(ground[0]) * 1.5 > ground[0]
        assert np.median(now[0][(truth[name] == 1) & dark]) > 3 * np.median(ground[0][dark])
        same = (truth[name] == 0) & (scl != 3)
        assert np.corrcoef(now[0][same], ground[0][same])[0, 1] > 0.9


def test_scene_classification_is_good_but_not_perfect(folder: Path, items: dict[str, dict[str, Any]]) -> None:
    classes: set[int] = set()
    for name, item in items.items():
        scl, truth = read(folder, item, "scl"), read(folder, item, "truth")[::2, ::2]
        classes |= set(np.unique(scl).tolist())
        known = scl > 0
        cloud = np.isin(scl, (8, 9, 10))
        share = 100 * cloud[known].mean()
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(share, abs=1e-4)
        agreement = (cloud == (truth == 1))[known].mean()
        assert agreement > 0.85
        assert (agreement == 1) == (name == OVERCAST)
    assert classes == {0, 3, 4, 5, 6, 8, 9, 10, 11}


def test_snow_is_dark_and_cloud_is_not_at_1_6_micrometres(folder: Path, items: dict[str, dict[str, Any]]) -> None:
    for item in items.values():
        scl, numbers = read(folder, item, "scl"), read(folder, item, "swir16")
        offset = item["assets"]["swir16"]["raster:bands"][0]["offset"]
        swir = numbers * 0.0001 + offset
        if (snow := scl == 11).any():
            assert np.median(swir[snow]) < 0.08
        if (thick := scl == 9).mean() > 0.01:
            assert np.median(swir[thick]) > 0.15
