"""Each trap of stackstac, GDAL and the catalogs is held here by a test."""

import json
import re
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import xarray as xr
from affine import Affine
from conftest import REAL, needs_real_scenes
from scenes import BANDS, make_item, write_cog
from shapely import box, to_geojson

from cloudjob.catalog.asset import numbers
from cloudjob.errors import OutsideError, SceneError
from cloudjob.grid import Tiling
from cloudjob.scene import describe as metadata
from cloudjob.scene import files, product, read
from cloudjob.scene.cube import open_cube
from cloudjob.scene.describe import describe
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.reflectance import no_reflectance, offset_doubt, reflectance, scaling
from cloudjob.scene.scene import Scene

ASSETS = {band: band for band in (*BANDS, "scl")}


def described(item: dict[str, Any], resolution: float = 10) -> Scene:
    return describe(item, ASSETS, BANDS, resolution, measured=(resolution, 20, 30))


def opened(scene: Scene, **how: Any) -> xr.DataArray:
    """All bands on the scene's grid; its files are closed with the last reference."""
    return open_cube(SceneFiles(scene), scene.bands, scene.grid, **how)


def check(scene: Scene) -> None:
    with SceneFiles(scene) as files:
        files.check(scene.bands)


def bare(scene: Scene) -> np.ndarray:
    """The same pixels by rasterio alone."""
    planes = []
    for band in scene.bands:
        with rasterio.open(band.href) as file:
            planes.append(file.read(1))
    return np.stack(planes)


OFF_THE_LATTICE = (10, 0, 600_005, 0, -10, 5_200_025)
GEOGRAPHIC = (0.0004167927321668823, 0, -113.639145, 0, -0.0002794513788098739, 51.4493)


@pytest.mark.parametrize(
    ("transform", "epsg"),
    [((10, 0, 600_000, 0, -10, 5_200_020), 32633), (OFF_THE_LATTICE, 32633), (GEOGRAPHIC, 4326)],
)
def test_pixels_and_coordinates_are_those_of_the_files(tmp_path: Path, transform: tuple[float, ...], epsg: int) -> None:
    """`xy_coords`, `snap_bounds`, and `epsg` alone each shift or resample; none of that may be seen."""
    scene = described(make_item(tmp_path, transform=transform, epsg=epsg))
    cube = opened(scene)
    assert cube.dims == ("band", "y", "x")
    assert cube.chunks is not None
    assert cube.dtype == np.uint16
    np.testing.assert_array_equal(cube.values, bare(scene))
    with rasterio.open(scene.bands[0].href) as file:
        left, top = file.xy(0, 0)
        right, bottom = file.xy(file.height - 1, file.width - 1)
    pixel = transform[0]
    assert cube.x.values[[0, -1]] == pytest.approx([left, right], abs=1e-9 * pixel)
    assert cube.y.values[[0, -1]] == pytest.approx([top, bottom], abs=1e-9 * pixel)


@needs_real_scenes
def test_all_real_scenes_come_out_as_rasterio_reads_them() -> None:
    items = json.loads(REAL.read_text())["features"]
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = str(REAL.parent / asset["href"])
        scene = described(item)
        np.testing.assert_array_equal(opened(scene).values, bare(scene))
    assert len(items) == 14


@pytest.mark.parametrize("where", ["item epsg", "item code", "asset code", "asset epsg"])
def test_the_projection_is_found_wherever_a_catalog_puts_it(tmp_path: Path, where: str) -> None:
    """Pystac turns proj:epsg into proj:code, which stackstac 0.5 does not know."""
    item = make_item(tmp_path)
    del item["properties"]["proj:epsg"]
    places = [item["properties"]] if "item" in where else list(item["assets"].values())
    for place in places:
        place.update({"proj:epsg": 32633} if "epsg" in where else {"proj:code": "EPSG:32633"})
    scene = described(item)
    assert scene.grid.epsg == 32633
    np.testing.assert_array_equal(opened(scene).values, bare(scene))


@pytest.mark.parametrize(
    "told",
    [
        {"proj:epsg": "EPSG:32633"},
        {"proj:code": 32633},
        {"proj:code": "urn:ogc:def:crs:EPSG::32633"},
        {"proj:code": "http://www.opengis.net/def/crs/EPSG/0/32633"},
    ],
)
def test_a_code_may_be_written_in_other_ways(told: dict[str, Any], tmp_path: Path) -> None:
    item = make_item(tmp_path, band={"data_type": "UInt16"})  # GDAL's word, which was refused as well
    for key, asset in item["assets"].items():
        asset["href"] = f"/nowhere/{key}.tif"  # Nothing is opened for it
    del item["properties"]["proj:epsg"]
    item["properties"] |= told
    scene = described(item)
    assert (scene.grid.epsg, scene.bands[0].dtype) == (32633, "uint16")


def test_the_header_tells_the_grid_where_the_item_does_not(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    with_metadata = described(item).grid
    for asset in item["assets"].values():
        del asset["proj:shape"], asset["proj:transform"]
    assert described(item).grid == with_metadata
    item = make_item(tmp_path)
    del item["properties"]["proj:epsg"]
    assert described(item).grid == with_metadata


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ("+proj=longlat +ellps=WGS84", 4326),
        ("+proj=utm +zone=33 +ellps=WGS84", 32633),
        ("+proj=utm +zone=33 +ellps=WGS84 +units=us-ft", None),  # Its like is 32633, whose pixels are thrice as large
        ("+proj=utm +zone=33 +ellps=WGS84 +units=km", None),
    ],
)
def test_a_code_is_that_of_a_projection_in_the_same_unit(told: str, code: int | None, tmp_path: Path) -> None:
    write_cog(tmp_path / "image.tif", np.ones((64, 64), np.uint16), (1e-4, 0, 15, 0, -1e-4, 47), told)
    with nullcontext() if code else pytest.raises(SceneError, match="has no EPSG code"):
        assert files.header(str(tmp_path / "image.tif"), "it")[0] == code


def test_of_a_projection_with_heights_the_one_on_the_ground_is_taken(tmp_path: Path) -> None:
    """Files that alone tell theirs had "no EPSG code"; of others nobody compared it."""
    item = make_item(tmp_path)
    known = described(item)
    heights = pyproj.CRS("EPSG:32633+5773").to_wkt()
    for band, values in zip(known.bands, bare(known), strict=True):
        write_cog(Path(band.href), values, band.grid.transform, heights)
    check(known)
    for asset in item["assets"].values():
        del asset["proj:shape"]
    assert described(item).grid == known.grid
    elsewhere = [replace(band, grid=replace(band.grid, epsg=32632)) for band in known.bands]
    with pytest.raises(SceneError, match="the file is in EPSG:32633, its item says 32632"):
        check(replace(known, grid=elsewhere[0].grid, bands=tuple(elsewhere)))


def test_the_header_of_a_signed_file_tells_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = make_item(tmp_path)
    with_metadata = described(item).grid
    for asset in item["assets"].values():
        del asset["proj:shape"], asset["proj:transform"]
        asset["href"] += ".private"
    monkeypatch.setattr(metadata, "open_href", lambda signing, href: href.removesuffix(f".{signing}"))
    scene = metadata.describe(item, ASSETS, BANDS, 10, "private")
    assert scene.grid == with_metadata
    assert scene.signing == "private"


def test_a_file_that_is_gone_fails_the_scene(tmp_path: Path) -> None:
    """Stackstac would fill it with no data."""
    item = make_item(tmp_path)
    Path(item["assets"]["nir"]["href"]).unlink()
    scene = described(item)
    with pytest.raises(SceneError, match=r"nir.tif: No such file"):
        check(scene)
    tiling = Tiling(*scene.grid.shape, 64, 16, 16)
    with pytest.raises(SceneError, match=r"S2A_33UUP.*nir.tif"):
        list(read.rows(SceneFiles(scene), tiling, tiling.all()))


def test_a_truncated_file_fails_the_scene(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    path = Path(item["assets"]["green"]["href"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    scene = described(item)
    tiling = Tiling(*scene.grid.shape, 64, 16, 16)
    with pytest.raises(SceneError, match=r"scene S2A_33UUP_20240601_0_L2A, asset green: .*green.tif"):
        list(read.rows(SceneFiles(scene), tiling, tiling.all()))


def test_a_file_with_another_grid_than_its_item_says_is_refused(tmp_path: Path) -> None:
    """Stackstac would quietly resample it."""
    item = make_item(tmp_path)
    for asset in item["assets"].values():
        asset["proj:transform"][2] += 5
    scene = described(item)
    with pytest.raises(SceneError, match=r"150 × 139 pixels from 600000, 5200020; its item says .* from 600005"):
        check(scene)
    item = make_item(tmp_path)
    for asset in item["assets"].values():
        asset["proj:shape"] = [150, 140]
    with pytest.raises(SceneError, match=r"the file has 150 × 139 pixels from .*; its item says 150 × 140 from"):
        check(described(item))


@pytest.mark.parametrize(
    ("lies", "says"),
    [
        ((10, 1, 600_000, 1, -10, 5_200_020), r"pixels of 10 × 10, turned, from .*; its item says .* of 10 × 10 from"),
        ((20, 0, 600_000, 0, -20, 5_200_020), r"pixels of 20 × 20 from .*; its item says .* of 10 × 10 from"),
        ((1, 0, 0, 0, 1, 0), "the file does not tell where it lies"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_how_a_file_lies_otherwise_is_told(lies: tuple[float, ...], says: str, tmp_path: Path) -> None:
    """Both were said to begin at one place, or one at 0, 0."""
    item = make_item(tmp_path)
    with rasterio.open(item["assets"]["red"]["href"], "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.transform = Affine(*lies)
    with pytest.raises(SceneError, match=says):
        check(described(item))


def test_a_file_in_another_projection_than_its_item_says_is_refused(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    item["properties"]["proj:epsg"] = 25833  # The same zone on another datum
    scene = described(item)
    with pytest.raises(SceneError, match="the file is in EPSG:32633, its item says 25833"):
        check(scene)


def test_no_data_is_zero_with_or_without_a_tag(tmp_path: Path) -> None:
    pixels = np.full((130, 128), 4000, np.uint16)
    pixels[:50, :60] = 0
    values = dict.fromkeys(BANDS, pixels)
    for tag in (0, None):
        scene = described(make_item(tmp_path / str(tag), values=values, nodata=tag))
        cube = opened(scene).values
        np.testing.assert_array_equal(cube[2], pixels)
        assert np.isnan(reflectance(cube, scene.bands)[:, :50, :60]).all()


@pytest.mark.parametrize("band", range(4))
def test_one_band_without_data_is_no_data(band: int) -> None:
    item_bands = described_bands()
    raw = np.full((4, 2, 2), 3000, np.uint16)
    raw[band, 0, 0] = 0
    values = reflectance(raw, item_bands)
    assert values.dtype == np.float32
    assert np.isnan(values[:, 0, 0]).all()
    assert values[0, 1, 1] == pytest.approx(0.2)


def described_bands() -> tuple[Any, ...]:
    from cloudjob.grid import Grid
    from cloudjob.scene.scene import Band

    grid = Grid(32633, 0, 0, 10, 10, 2, 2)
    return tuple(Band(name, name, "", grid, 0.0001, -0.1) for name in BANDS)


def test_signed_numbers_that_are_zero_in_every_band_are_no_data() -> None:
    raw = np.full((4, 1, 3), 500, np.int16)
    raw[:, 0, 0] = raw[1:, 0, 1] = 0
    values = reflectance(raw, described_bands())
    assert np.isnan(values).tolist() == 4 * [[[True, False, False]]]


def test_saturated_pixels_are_data() -> None:
    assert reflectance(np.full((4, 1, 1), 65535, np.uint16), described_bands())[0, 0, 0] == pytest.approx(6.4535)


@pytest.mark.parametrize("tag", [0, None])
def test_averages_at_the_edge_of_the_swath_are_of_data_only(tmp_path: Path, tag: int | None) -> None:
    pixels = np.full((240, 240), 4000, np.uint16)
    pixels[:, :121] = 0
    scene = described(make_item(tmp_path, values=dict.fromkeys(BANDS, pixels), nodata=tag), 20)
    cube = opened(scene, resampling=rasterio.enums.Resampling.average)
    assert set(np.unique(cube)) == {0, 4000}


@pytest.mark.parametrize(("resolution", "factor"), [(20, 2), (60, 6)])
def test_coarser_masks_are_served_from_the_same_origin(tmp_path: Path, resolution: float, factor: int) -> None:
    rows = np.arange(600, dtype=np.uint16)[:, None] + np.zeros(600, np.uint16) + 1000
    scene = described(make_item(tmp_path, values=dict.fromkeys(BANDS, rows)), resolution)
    assert scene.grid.shape == (600 // factor, 600 // factor)
    cube = opened(scene, resampling=rasterio.enums.Resampling.average)
    means = rows.reshape(600 // factor, factor, -1).mean(axis=(1, 2))
    np.testing.assert_allclose(cube[0, :, 7], means, atol=1)
    assert float(cube.y[0]) == 5_200_020 - resolution / 2


def test_the_tile_at_the_end_of_an_id_is_found(tmp_path: Path) -> None:
    assert product.tile(make_item(tmp_path, "20240601T101031_20240601T101559_T33UUQ")) == "33UUQ"


@pytest.mark.parametrize(
    ("epsg", "corner", "side", "seen"),
    [
        (3857, (1_358_000, 8_400_000), 20, 20),  # At 60 degrees two of its metres are one
        (3857, (1_358_000, 8_400_000), 10, 20),
        (2263, (1_000_000, 200_000), 32.8083, 32.8083),  # Feet
        (2263, (1_000_000, 200_000), 16.40415, 32.8083),
        (3035, (4_400_000, 2_980_000), 10, 10),
    ],
)
def test_pixels_are_as_large_as_on_the_ground(
    epsg: int, corner: tuple[float, float], side: float, seen: float, tmp_path: Path
) -> None:
    """What a projection calls a metre was one: pixels half as large were masked, and right ones were refused."""
    item = make_item(tmp_path, transform=(side, 0, corner[0], 0, -side, corner[1]), epsg=epsg)
    scene = describe(item, ASSETS, BANDS, 10)
    assert scene.grid.dx == pytest.approx(seen)
    assert scene.grid.metres == pytest.approx((10, 10), rel=0.01)


def test_a_resolution_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="pixels of 10 m, which do not fit into 25 m"):
        described(make_item(tmp_path), 25)


@pytest.mark.parametrize(
    ("side", "resolution", "factor"),
    [(10.02, 20, 2), (9.98, 60, 6), (12.4, 10, 1), (12.6, 10, 0), (GEOGRAPHIC, 55, 2)],
)
def test_pixels_need_not_be_of_exactly_the_size_that_was_measured(
    side: Any, resolution: float, factor: int, tmp_path: Path
) -> None:
    """To a quarter; and a mask of larger ones that are not square is as near as it can be."""
    square = (side, 0, 600_000, 0, -side, 5_200_020) if side is not GEOGRAPHIC else GEOGRAPHIC
    item = make_item(tmp_path, transform=square, epsg=32633 if side is not GEOGRAPHIC else 4326)
    measured = (30,) if side is GEOGRAPHIC else (10,)
    with nullcontext() if factor else pytest.raises(SceneError, match="were measured with pixels of 10 m only"):
        assert describe(item, ASSETS, BANDS, resolution, measured=measured).coarser == factor


def test_an_optional_band_decides_no_grid(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    item["assets"]["swir16"] = item["assets"]["red"] | {
        "href": "swir16.tif",
        "proj:shape": [75, 70],
        "proj:transform": [20, 0, 600_000, 0, -20, 5_200_020],
    }
    scene = describe(item, {**ASSETS, "swir16": "swir16"}, ("swir16", *BANDS), 10, optional=("swir16",))
    assert scene.grid == scene.bands[1].grid


def test_coarse_scenes_are_never_made_finer(tmp_path: Path) -> None:
    scene = described(make_item(tmp_path, transform=(20, 0, 600_000, 0, -20, 5_200_020)), 10)
    assert scene.grid.dx == 20


@pytest.mark.parametrize("turned", [(9, 1, 1, -9), (10, 0, 1, -10), (10, 0, 0, 10), (-10, 0, 0, -10)])
def test_rotated_grids_are_refused(turned: tuple[float, ...], tmp_path: Path) -> None:
    item = make_item(tmp_path)
    a, b, d, e = turned
    item["assets"]["red"]["proj:transform"] = [a, b, 600_000, d, e, 5_200_020]
    with pytest.raises(SceneError, match="not north-up"):
        described(item)


@pytest.mark.parametrize(
    ("asset", "properties", "says"),
    [
        ({"proj:transform": [10, 0]}, {}, "its proj:transform is [10, 0]; expected a list of 6 or 9 numbers"),
        ({"proj:shape": ["a", 3]}, {}, "its proj:shape is 'a'; expected a number"),
        ({"proj:epsg": 999_999}, {}, "its projection makes no sense"),
        ({"raster:bands": [{"scale": "small"}]}, {}, "its scale is 'small'; expected a number"),
        ({"raster:bands": 7}, {}, "its raster:bands is 7; expected a list"),
        ({}, {"datetime": "last week"}, "its datetime is 'last week'; expected a time"),
        ({"data_type": "float64"}, {}, "its numbers are float64; expected uint8, uint16"),
        ({"data_type": "uint8", "raster:bands": []}, {}, "its numbers are bytes, as of a picture to look at"),
    ],
)
def test_metadata_that_make_no_sense_refuse_their_scene(
    asset: dict[str, Any], properties: dict[str, Any], says: str, tmp_path: Path
) -> None:
    item = make_item(tmp_path)
    item["assets"]["red"] |= asset
    item["properties"] |= properties
    with pytest.raises(SceneError, match=re.escape(says)):
        described(item)


def test_a_transform_in_gdals_order_is_read(tmp_path: Path) -> None:
    """As `gdalinfo -json` wrote it, and so catalogs that were made of that."""
    item = make_item(tmp_path)
    before = described(item)
    for asset in item["assets"].values():
        a, b, c, d, e, f = asset["proj:transform"]
        asset["proj:transform"] = [c, a, b, f, d, e]
    assert described(item).bands == before.bands


def test_shape_and_transform_are_taken_from_one_place(tmp_path: Path) -> None:
    """Half of it was the item's: a grid that no file has, and the scene was refused."""
    item = make_item(tmp_path)
    before = described(item)
    item["properties"] |= {"proj:shape": [9, 9], "proj:transform": [60, 0, 600_000, 0, -60, 5_200_020]}
    del item["assets"]["red"]["proj:transform"], item["assets"]["nir"]["proj:shape"]
    assert described(item).bands == before.bands
    for asset in item["assets"].values():
        asset["proj:epsg"] = 32633
    item["properties"]["proj:code"] = "EPSG:4326"
    assert described(item).bands == before.bands


def test_one_grid_for_all_assets_is_not_that_of_20_metres(tmp_path: Path) -> None:
    """rio-stac writes the first file's grid into the item's properties: each such scene was refused for its B11."""
    item = make_item(tmp_path)
    coarse = (20, 0, 600_000, 0, -20, 5_200_020)
    write_cog(tmp_path / "B11.tif", np.full((75, 70), 500, np.uint16), coarse)
    item["assets"] |= {key: {"href": str(tmp_path / "B11.tif")} for key in ("swir16", "scl")}
    for key in BANDS:
        grid = {name: item["assets"][key].pop(name) for name in ("proj:shape", "proj:transform")}
    item["properties"] |= grid
    scene = describe(item, {**ASSETS, "swir16": "swir16"}, (*BANDS, "swir16"), 10, optional=("swir16",))
    assert scene.scl is not None
    assert [band.grid.transform for band in (*scene.bands[3:], scene.scl)] == [
        tuple(grid["proj:transform"]),
        coarse,
        coarse,
    ]
    check(scene)


def test_one_grid_for_all_assets_is_not_that_of_60_metres(tmp_path: Path) -> None:
    """Where the first file is that of B01: all scenes were refused for their pixels."""
    item = make_item(tmp_path)
    grids = [{name: item["assets"][key].pop(name) for name in ("proj:shape", "proj:transform")} for key in BANDS]
    item["properties"] |= {"proj:shape": [25, 24], "proj:transform": [60, 0, 600_000, 0, -60, 5_200_020]}
    scene = described(item)
    assert [list(band.grid.transform) for band in scene.bands] == [grid["proj:transform"] for grid in grids]
    check(scene)


def test_one_grid_for_all_assets_is_not_that_of_20_metres_for_bands_of_10(tmp_path: Path) -> None:
    """Where the first file is that of AOT: all scenes were refused, for their files have other pixels."""
    item = make_item(tmp_path)
    grids = [{name: item["assets"][key].pop(name) for name in ("proj:shape", "proj:transform")} for key in BANDS]
    item["properties"] |= {"proj:shape": [75, 70], "proj:transform": [20, 0, 600_000, 0, -20, 5_200_020]}
    scene = described(item)
    assert [list(band.grid.transform) for band in scene.bands] == [grid["proj:transform"] for grid in grids]
    check(scene)


def test_no_file_is_opened_for_a_grid_that_the_item_tells(tmp_path: Path) -> None:
    """Of all its assets, or of one that somebody else has in pixels of 10 m."""
    item = make_item(tmp_path)
    item["assets"]["swir16"] = {**item["assets"]["red"], "href": "swir16.tif"}
    for key in (*BANDS, "swir16"):
        item["assets"][key]["href"] = str(tmp_path / f"gone-{key}.tif")
        if key != "swir16":
            grid = {name: item["assets"][key].pop(name) for name in ("proj:shape", "proj:transform")}
    item["properties"] |= grid
    scene = describe(item, {**ASSETS, "swir16": "swir16"}, (*BANDS, "swir16"), 10, optional=("swir16",))
    assert {band.grid for band in scene.bands} == {scene.grid}


def test_what_the_item_says_of_all_its_numbers_holds_for_each_asset(tmp_path: Path) -> None:
    """Version 2 of the raster extension, and STAC 1.1's common metadata: 0.0001 and no offset were taken instead."""
    told = {"raster:scale": 2.75e-05, "raster:offset": -0.2, "data_type": "int16", "nodata": -999}
    item = make_item(tmp_path, properties=told)
    for asset in item["assets"].values():
        del asset["raster:bands"]
    item["assets"]["nir"] |= {"raster:scale": 0.0002}
    scene = described(item)
    assert {(band.offset, band.dtype, band.nodata) for band in scene.bands} == {(-0.2, "int16", -999)}
    assert [band.scale for band in scene.bands] == [2.75e-05] * 3 + [0.0002]


def test_a_scene_classification_that_cannot_be_used_costs_no_scene(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    before = described(item)
    gone = {"href": str(tmp_path / "gone.tif")}
    red = {"href": item["assets"]["red"]["href"]}
    odd = (
        {"data_type": "int8"},
        {"proj:shape": "x"},
        {"proj:epsg": 999_998},
        {"href": "https://[::x/scl.tif"},
        red,
        gone,
    )
    for told in odd:
        grid = {} if told is gone else {"proj:shape": [150, 139], "proj:transform": [10, 0, 600_000, 0, -10, 5_200_020]}
        item["assets"]["scl"] = {"href": str(tmp_path / "scl.tif"), **grid, **told}
        assert described(item) == before


def test_a_source_that_is_out_is_told_though_only_the_scene_classification_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be asked again for every scene."""
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    item = make_item(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    item["assets"]["scl"] = {"href": f"http://127.0.0.1:{port}/scl.tif"}
    with pytest.raises(OutsideError, match="asset scl"):
        described(item)


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "application/vnd+zarr"},
        {"type": "application/vnd.zarr; version=3"},
        {"type": "application/x-hdf5"},
        {"type": "application/netcdf"},
        {"href": "https://h/S2A.zarr/measurements/reflectance/r10m/b04"},
        # DLR's EOC lists MAJA's files so
        {"href": "https://h/S2B_T32ULB_V1-3.zip#S2B_T32ULB/FRE_B4.tif", "type": "image/tiff; application=geotiff"},
    ],
)
def test_what_is_neither_geotiff_nor_jpeg_2000_is_refused_before_a_server_is_asked(
    odd: dict[str, str], tmp_path: Path
) -> None:
    """It could be taken for an outage, night after night: what a server answers to such an address tells nothing."""
    item = make_item(tmp_path)
    del item["assets"]["red"]["type"]
    item["assets"]["red"] |= odd
    with pytest.raises(SceneError, match=r"asset red: it is .*(zarr|hdf|netcdf|zip).*; expected GeoTIFF or JPEG 2000"):
        described(item)


def test_a_folder_may_be_called_as_the_zip_that_it_was_unpacked_from(tmp_path: Path) -> None:
    (folder := tmp_path / "S2B_T32ULB.zip").mkdir()
    check(described(make_item(folder)))


@pytest.mark.parametrize("epsg", [32632, 32634, 32732])
def test_a_grid_far_from_the_items_own_geometry_is_refused(epsg: int, tmp_path: Path) -> None:
    """It was left out without a word: no tile of that grid lies in the area asked for."""
    item = make_item(tmp_path)
    item["properties"]["proj:epsg"] = epsg
    with pytest.raises(SceneError, match=rf"its grid \(EPSG:{epsg}\) lies around .*, its geometry around 16.3, 46.9"):
        described(item)


def test_a_geometry_may_be_rounded_but_not_that_of_the_next_tile(tmp_path: Path) -> None:
    for north, fits in ((0.4, True), (-0.4, True), (0.6, False), (-0.6, False)):
        item = make_item(tmp_path)
        item["geometry"]["coordinates"] = [[[x, y + north] for x, y in item["geometry"]["coordinates"][0]]]
        with nullcontext() if fits else pytest.raises(SceneError, match="its geometry around"):
            described(item)


@pytest.mark.parametrize(
    ("epsg", "x0", "west", "east"),
    [
        (32601, 300_000, -179.6, -178.2),
        (32601, 300_000, 179.9, 180.6),
        (32601, 300_000, -180, 180),
        (32660, 700_000, 179.5, 179.9),
        # rounded over the line
        (32601, 300_000, 179.5, 179.95),
        (32660, 700_000, -179.95, -179.5),
        # a grid on both sides of it
        (32601, 270_500, 179.5, 180.5),
        (32601, 270_500, 179.5, 179.9),
        (32601, 270_500, -179.9, -179.5),
    ],
)
def test_geometries_at_the_antimeridian_lie_where_their_grids_do(
    epsg: int, x0: float, west: float, east: float, tmp_path: Path
) -> None:
    item = make_item(tmp_path, epsg=epsg)
    for asset in item["assets"].values():
        asset["proj:transform"][2] = x0
    item["geometry"] = json.loads(to_geojson(box(west, 46, east, 47)))
    assert described(item).grid.epsg == epsg


def test_nothing_said_is_not_said_to_be_nothing(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    before = described(item)
    for asset in item["assets"].values():
        asset |= {"bands": None, "raster:scale": None, "raster:offset": None}
    assert described(item).bands == before.bands


@pytest.mark.parametrize(
    "code",
    [
        "EPSG:32633+5773",
        "urn:ogc:def:crs,crs:EPSG::32633,crs:EPSG::5773",
        "http://opengis.net/def/crs-compound?1=http://opengis.net/def/crs/EPSG/0/32633&2=http://opengis.net/crs/EPSG/0/5773",
    ],
)
def test_a_vertical_datum_is_not_asked_for(tmp_path: Path, code: str) -> None:
    item = make_item(tmp_path)
    del item["properties"]["proj:epsg"]
    item["properties"]["proj:code"] = code
    assert described(item).grid.epsg == 32633


def test_another_grid_is_another_fingerprint(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    before = described(item).fingerprint
    for asset in item["assets"].values():
        asset["proj:transform"] = [10, 0, 600_005, 0, -10, 5_200_025]
    assert described(item).fingerprint != before


def test_a_missing_band_is_named(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    del item["assets"]["nir"]
    with pytest.raises(SceneError, match="no asset nir; it has blue, green, red") as caught:
        described(item)
    assert "--asset" in str(caught.value.hint)


BASELINE_4 = {"s2:processing_baseline": "05.10"}


@pytest.mark.parametrize(
    ("properties", "asset", "expected"),
    [
        # STAC 1.0
        ({}, {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, (0.0001, -0.1)),
        ({}, {"raster:bands": [{"scale": 0.0016, "offset": 0}]}, (0.0016, 0)),
        # STAC 1.1
        ({}, {"bands": [{"raster:scale": 0.0001, "raster:offset": -0.1}]}, (0.0001, -0.1)),
        ({}, {"raster:scale": 0.0002, "raster:offset": 0.5}, (0.0002, 0.5)),
        # nothing stated: the baseline decides; without one nobody tells
        ({}, {}, (0.0001, None)),
        ({}, {"raster:scale": 0.0001}, (0.0001, None)),
        ({}, {"raster:scale": 0.0002}, (0.0002, 0)),
        ({"s2:processing_baseline": "03.01"}, {}, (0.0001, 0)),
        (BASELINE_4, {}, (0.0001, -0.1)),
        ({"processing:version": "05.11"}, {}, (0.0001, -0.1)),
        # Earth Search v0, and Digital Earth Africa
        ({"sentinel:processing_baseline": "04.00", "sentinel:boa_offset_applied": False}, {}, (0.0001, -0.1)),
        ({"sentinel:processing_baseline": "04.00", "sentinel:boa_offset_applied": True}, {}, (0.0001, 0)),
        ({"sentinel:product_id": "S2A_MSIL2A_20240601T101031_N0510_R022_T33UUQ_20240601T150000"}, {}, (0.0001, -0.1)),
        # versions of other processors are no baselines of ESA's
        *(
            ({"processing:version": version}, {}, (0.0001, None))
            for version in ("220", "V210", "3.2.1", "5.0", "2024-06", "2024")
        ),
        # ESA adds nothing to signed numbers
        (BASELINE_4, {"data_type": "int16", "nodata": -999}, (0.0001, 0)),
        (BASELINE_4, {"raster:bands": [{"data_type": "int16", "scale": 0.0002}]}, (0.0002, 0)),
        # nor are floats its numbers, nor bytes
        (BASELINE_4, {"data_type": "uint8", "raster:scale": 0.004}, (0.004, 0)),
        ({}, {"data_type": "float32"}, (1, 0)),
        (BASELINE_4, {"data_type": "float32"}, (1, 0)),
        # of a file without tags rio-stac says scale 1 and offset 0, whatever its numbers are
        ({}, {"raster:bands": [{"data_type": "uint16", "scale": 1.0, "offset": 0.0}]}, (0.0001, None)),
        (BASELINE_4, {"raster:bands": [{"data_type": "uint16", "scale": 1.0, "offset": 0.0}]}, (0.0001, -0.1)),
        (BASELINE_4, {"data_type": "int16", "raster:scale": 1}, (0.0001, 0)),
        (BASELINE_4, {"raster:bands": [{"data_type": "uint16", "scale": 1, "offset": -0.1}]}, (0.0001, -0.1)),
        ({}, {"data_type": "float32", "raster:scale": 1}, (1, 0)),
        ({"s2:processing_baseline": "2.14"}, {}, (0.0001, 0)),
        ({"s2:processing_baseline": 2.14}, {}, (0.0001, 0)),
        ({"s2:processing_baseline": 214}, {}, (0.0001, 0)),
        ({"s2:processing_baseline": 510}, {}, (0.0001, -0.1)),
        ({"processing:version": "N0214"}, {}, (0.0001, 0)),
        ({"processing:version": "N0510"}, {}, (0.0001, -0.1)),
        ({"s2:processing_baseline": "99.99"}, {}, (0.0001, -0.1)),
        # Sen2Cor in anybody's hands says 99.99 at any time
        ({"s2:processing_baseline": "99.99", "datetime": "2022-01-25T10:00:00Z"}, {}, (0.0001, -0.1)),
        ({"s2:processing_baseline": "99.99", "datetime": "2021-06-26T13:32:31Z"}, {}, (0.0001, 0)),
        ({"s2:processing_baseline": "N9999", "datetime": "2021-06-26T13:32:31Z"}, {}, (0.0001, 0)),
        ({"s2:processing_baseline": "05.00", "datetime": "2021-06-26T13:32:31Z"}, {}, (0.0001, -0.1)),
        # Since 25 January 2022 ESA has made none without
        ({"earthsearch:boa_offset_applied": False, "datetime": "2022-01-25T10:00:00Z"}, {}, (0.0001, -0.1)),
        ({"earthsearch:boa_offset_applied": False, "datetime": "2022-01-24T10:00:00Z"}, {}, (0.0001, None)),
        # Earth Search: the flag tells whether raster:bands' offset is still to be applied
        (
            BASELINE_4 | {"earthsearch:boa_offset_applied": True},
            {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]},
            (0.0001, 0),
        ),
        (
            BASELINE_4 | {"earthsearch:boa_offset_applied": False},
            {"raster:bands": [{"scale": 0.0001, "offset": 0}]},
            (0.0001, -0.1),
        ),
        (
            {"s2:processing_baseline": "03.01", "earthsearch:boa_offset_applied": False},
            {"raster:bands": [{"scale": 0.0001, "offset": 0}]},
            (0.0001, 0),
        ),
        (
            {"s2:processing_baseline": "03.01", "earthsearch:boa_offset_applied": False},
            {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]},
            (0.0001, -0.1),
        ),
    ],
)
def test_scaling(properties: dict[str, Any], asset: dict[str, Any], expected: tuple[float, float | None]) -> None:
    item = {
        "id": "A",
        "properties": {name: str(value) if "baseline" in name else value for name, value in properties.items()},
    }
    assert scaling(properties, numbers(asset), product.baseline(item)) == expected


NAMED = "S2B_MSIL2A_20240601T101031_N0510_R022_T33UUQ_20240601T150000"
STRIP = "S2B_OPER_MSI_L2A_DS_2BPS_20240601T150000_S20240601T101559_N05.10"


@pytest.mark.parametrize(
    ("said", "baseline"),
    [
        ({"s2:datastrip_id": STRIP}, "05.10"),
        ({"eopf:datastripIdentifier": STRIP}, "05.10"),
        ({"s2:granule_id": "S2B_OPER_MSI_L2A_TL_2BPS_20240601T150000_A037800_T33UUQ_N05.10"}, "05.10"),
        ({"s2:product_uri": f"s3://products/2024/{NAMED}.SAFE"}, "05.10"),
        ({"s2:product_uri": NAMED.rpartition("_")[0]}, "05.10"),
        ({"title": f"{NAMED}.SAFE"}, "05.10"),
        ({"title": f"Sentinel-2B, {NAMED[:32]}"}, "05.10"),
        ({"id": f"33UUQ.{NAMED}"}, "05.10"),
        ({"sentinel2:processing_baseline": "05.10"}, "05.10"),
        ({"processingBaseline": 5.1}, "5.1"),
        ({"processing:baseline": "05.10"}, "05.10"),
        ({"s2:datastrip_id": STRIP.replace("N05.10", "N03.01")}, "03.01"),
        # What another processor's product was made of; names of nobody's
        ({"s2:datastrip_id": STRIP.replace("L2A", "L1C")}, ""),
        ({"title": "33UUQ_N0510_2024"}, ""),
        ({"title": f"{NAMED[:32]}55"}, ""),
    ],
)
def test_a_baseline_is_known_by_whatever_tells_it(said: dict[str, Any], baseline: str, tmp_path: Path) -> None:
    """Nothing was taken off of most of these: they were 0.1 too bright, without a word."""
    item = make_item(tmp_path, said.pop("id", "A"), properties=said, band={"scale": 1.0, "offset": 0.0})
    scene = described(item)
    assert scene.baseline == baseline
    assert {band.offset for band in scene.bands} == {-0.1 if baseline.startswith(("05", "5")) else 0}
    assert {band.guessed for band in scene.bands} == {not baseline}
    assert described(scene.item).baseline == baseline


def test_an_offset_that_nobody_tells_is_doubted_unless_the_pixels_tell(tmp_path: Path) -> None:
    untold = {"scale": 1.0, "offset": 0.0}
    scene = described(make_item(tmp_path, band=untold))
    assert offset_doubt(scene, 0, 0, 0, 0.0) is None  # Signed numbers, as their files tell
    assert offset_doubt(scene, 1000, 51, 400, 0.1, 1000) is None  # Ground as dark as this has no offset in its numbers
    doubts = [str(offset_doubt(scene, 1000, 0, dark, 0.9, 1000)) for dark in (0, 400)]
    assert all("nothing tells whether ESA's offset is in its numbers" in doubt for doubt in doubts)
    assert ["it seems to be; --offset -0.1" in doubt for doubt in doubts] == [True, False]
    for told in ({"offset": 0}, {"scale": 2e-5}, {"data_type": "int16", **untold}):
        assert not any(band.guessed for band in described(make_item(tmp_path, band=told)).bands)
    for about in (
        {"s2:processing_baseline": "03.01"},
        {"platform": "landsat-9"},
        {"sentinel:boa_offset_applied": True},
    ):
        item = make_item(tmp_path, properties=about, band=untold)
        assert not any(band.guessed for band in described(item).bands)
    item = make_item(tmp_path, band=untold)
    assert not any(band.guessed for band in describe(item, ASSETS, BANDS, 10, offset=0.0).bands)


def test_pixels_that_contradict_the_offset_are_told(tmp_path: Path) -> None:
    item = make_item(tmp_path, properties=BASELINE_4, band={"offset": -0.1})
    scene = described(item)
    assert offset_doubt(scene, 1000, 20, 400, 0.1) is None
    assert "applied already" in str(offset_doubt(scene, 1000, 200, 400, 0.1))
    shifted = described({**item, "properties": {**item["properties"], "earthsearch:boa_offset_applied": True}})
    assert offset_doubt(shifted, 1000, 20, 400, 0.1) is None
    assert "not to have been taken off" in str(offset_doubt(shifted, 1000, 0, 0, 0.1))
    assert offset_doubt(shifted, 1000, 0, 1, 0.1) is None
    assert offset_doubt(shifted, 1000, 0, 0, 0.9) is None  # an overcast scene has no dark pixel to judge by
    for dark in (0, 900):
        assert offset_doubt(described(make_item(tmp_path / "old")), 1000, dark, dark, 0.1) is None
    mistaken = described(
        make_item(tmp_path / "old", properties={"s2:processing_baseline": "03.01"}, band={"offset": -0.1})
    )
    assert "applied already" in str(offset_doubt(mistaken, 1000, 200, 400, 0.1))


def test_half_of_a_scenes_values_may_be_brighter_than_any_ground(tmp_path: Path) -> None:
    scene = described(make_item(tmp_path))
    most = (30_000,) * 4
    assert no_reflectance(scene, 1000, (500,) * 4, most, 0) is None
    assert "50 % of them lie above 2" in str(no_reflectance(scene, 1000, (500, 500, 501, 0), most, 0))


def test_groups_are_named_after_the_tile_when_the_scene_has_its_whole_grid(tmp_path: Path) -> None:
    item = make_item(tmp_path, properties={"grid:code": "MGRS-33UUP"}, transform=(10, 0, 300_000, 0, -10, 5_400_000))
    assert described(item).group == "33UUP_300000_5400000_139x150"
    for asset in item["assets"].values():
        asset["proj:shape"] = [10980, 10980]
    assert described(item).group == "33UUP"
    assert described(item, 20).group == "33UUP"
    del item["properties"]["grid:code"]
    assert described(item).group == "32633_300000_5400000_10980x10980"
    item["properties"]["s2:mgrs_tile"] = "33UUP"
    assert described(item).group == "33UUP"


@pytest.mark.parametrize(
    ("tile", "epsg", "corner", "group"),
    [
        ("33UUP", 32633, (300_000, 5_400_000), "33UUP"),
        ("33UUP", 32633, (300_020, 5_399_980), "33UUP"),  # a publisher's own corner
        ("33UUQ", 32633, (300_000, 5_400_000), "32633_300000_5400000_10980x10980"),
        ("33UVP", 32633, (300_000, 5_400_000), "32633_300000_5400000_10980x10980"),
        ("32UUP", 32633, (300_000, 5_400_000), "32633_300000_5400000_10980x10980"),
        ("34LBP", 32734, (199_980, 8_900_020), "34LBP"),
        ("34LBP", 32634, (199_980, -1_099_980), "34LBP"),  # as HLS counts
    ],
)
def test_a_tile_is_believed_where_the_scene_lies_there(
    tile: str, epsg: int, corner: tuple[int, int], group: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the first scene with a wrong name decided where all others of that tile lie."""
    transform = (10, 0, corner[0], 0, -10, corner[1])
    item = make_item(tmp_path, properties={"grid:code": f"MGRS-{tile}"}, transform=transform, epsg=epsg)
    for asset in item["assets"].values():
        asset["proj:shape"] = [10980, 10980]
    assert described(item).group == group
    assert (f"is said to be tile {tile}, but lies elsewhere" in caplog.text) == (group != tile)


@pytest.mark.parametrize(
    "properties",
    [
        {"grid:code": "MGRS-1KAB"},
        {"grid:code": "MGRS-01KAB"},
        {"grid:code": "MGRS-T01KAB"},
        {"s2:mgrs_tile": "01KAB"},
        {"sentinel:utm_zone": 1, "sentinel:latitude_band": "K", "sentinel:grid_square": "AB"},
        {"mgrs:utm_zone": 1, "mgrs:latitude_band": "K", "mgrs:grid_square": "AB"},
        {"odc:region_code": "01KAB"},
        {"grid:code": "mgrs-1kab"},
        {"s2:mgrs_tile": "01kab"},
        {"s2:product_uri": "S2A_MSIL2A_20240601T101031_N0510_R022_T01KAB_20240601T150000.SAFE"},
    ],
)
def test_a_tile_has_one_name_however_it_is_written(properties: dict[str, Any], tmp_path: Path) -> None:
    item = make_item(tmp_path, properties=properties, epsg=32701, transform=(10, 0, 99_960, 0, -10, 8_200_000))
    for asset in item["assets"].values():
        asset["proj:shape"] = [10980, 10980]
    assert described(item).group == "01KAB"


@pytest.mark.parametrize("name", ["s2:datastrip_id", "eopf:datastrip_id", "sentinel:datastripId", "datastrip_id"])
def test_a_datastrip_is_known_under_every_name(name: str, tmp_path: Path) -> None:
    strip = "S2A_OPER_MSI_L2A_DS_2APS_20240601T141550_S20240601T101559_N05.10"
    assert described(make_item(tmp_path, properties={name: strip})).sensing.minute == 15
    odd = "S2A_OPER_MSI_L2A_DS_2APS_20240601T141550_S20249901T101559_N05.10"
    scene = described(make_item(tmp_path, properties={name: odd}))
    assert scene.sensing == scene.time


def test_what_a_products_name_tells_where_nothing_else_does(tmp_path: Path) -> None:
    name = "S2B_MSIL2A_20240601T101031_N0510_R022_T33UUQ_20240601T150000"
    scene = described(make_item(tmp_path, name, properties={"platform": None}))
    assert (scene.platform, scene.baseline, scene.generated) == ("sentinel-2b", "05.10", "2024-06-01T15:00:00Z")
    assert scene.bands[0].offset == 0  # Its `raster:bands` say so
    planetary = described(make_item(tmp_path, name.replace("_N0510", ""), properties={"platform": "Sentinel-2B"}))
    assert (planetary.platform, planetary.product) == (scene.platform, scene.product)


def test_the_folder_of_esas_own_files_tells_what_nothing_else_does(tmp_path: Path) -> None:
    """rio-stac's items of them say of numbers what GDAL does, that is nothing: they were 0.1 too bright."""
    product_name = "S2A_MSIL2A_20240601T101031_N0510_R022_T33TWN_20240601T150000"
    item = make_item(tmp_path, properties={"platform": None}, band={"scale": 1.0, "offset": 0.0})
    for key in BANDS:
        path = tmp_path / f"{product_name}.SAFE" / "GRANULE" / f"{key}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        item["assets"][key]["href"] = str(Path(item["assets"][key]["href"]).rename(path))
    scene = described(item)
    assert {(band.scale, band.offset) for band in scene.bands} == {(0.0001, -0.1)}
    assert (scene.baseline, scene.platform, scene.generated) == ("05.10", "sentinel-2a", "2024-06-01T15:00:00Z")
    assert scene.group.startswith("33TWN_")
    # A folder that is only called after the product holds somebody else's files
    for key in BANDS:
        item["assets"][key]["href"] = item["assets"][key]["href"].replace(".SAFE", "_FRE")
    assert {band.offset for band in described(item).bands} == {0.0}


@pytest.mark.parametrize(
    ("level", "version", "offset"),
    [("2F", "N0404", -0.1), ("2H", "N0401", -0.1), ("2F", "N0302", 0), ("2F", "N9999", 0), ("2A", "N9999", -0.1)],
)
def test_products_of_sen2like_have_what_esa_adds(level: str, version: str, offset: float, tmp_path: Path) -> None:
    """Its items tell no band by its common name, no numbers and no projection: bands are numbers in a list."""
    item = make_item(tmp_path, f"S2B_MSIL{level}_20240601T101031_{version}_R022_T33UUQ_20240601T150000")
    item["properties"] = {"datetime": item["properties"]["datetime"], "Platform": "S2B"}
    keys = dict(zip(BANDS, ("B04", "B03", "B02", "B08"), strict=True))
    item["assets"] = {
        key: {"href": item["assets"][band]["href"], "type": "image/tiff; application=geotiff", "eo:bands": [3]}
        for band, key in keys.items()
    }
    scene = described(item)
    assert [band.key for band in scene.bands] == list(keys.values())
    assert {(band.scale, band.offset) for band in scene.bands} == {(0.0001, offset)}
    assert scene.group.startswith("33UUQ")


def test_an_offset_of_the_run_goes_before_the_items(tmp_path: Path) -> None:
    item = make_item(tmp_path, properties=BASELINE_4)
    scene = describe(item, ASSETS, BANDS, 10, offset=-0.1)
    assert {band.offset for band in scene.bands} == {-0.1}
    assert scene.fingerprint != described(item).fingerprint
    item["assets"]["red"]["raster:bands"][0]["offset"] = -1000
    assert describe(item, ASSETS, BANDS, 10, offset=-0.1).bands[0].offset == -0.1


@pytest.mark.parametrize("scale", [1, 0.0001])
def test_an_offset_in_numbers_is_refused_with_what_helps(scale: float, tmp_path: Path) -> None:
    """With scale 1, what the hint says ended in numbers up to 12,000 that were no reflectance."""
    item = make_item(tmp_path, properties=BASELINE_4, band={"scale": scale, "offset": -1000})
    with pytest.raises(SceneError, match="its offset is -1000; expected reflectance") as caught:
        described(item)
    assert "--offset -0.1" in str(caught.value.hint)
    scene = describe(item, ASSETS, BANDS, 10, offset=-0.1)
    assert {(band.scale, band.offset) for band in scene.bands} == {(0.0001, -0.1)}


def test_the_fingerprint_follows_the_pixels_and_nothing_else(tmp_path: Path) -> None:
    item = make_item(tmp_path, properties={"s2:product_uri": "S2A_MSIL2A_A.SAFE", **BASELINE_4})
    first = described(item).fingerprint

    def changed(**properties: Any) -> bool:
        return described({**item, "properties": {**item["properties"], **properties}}).fingerprint != first

    assert not changed(updated="2030-01-01T00:00:00Z", **{"eo:cloud_cover": 3})
    assert changed(**{"s2:processing_baseline": "05.11"})
    assert changed(**{"s2:product_uri": "S2A_MSIL2A_B.SAFE"})
    del item["properties"]["s2:product_uri"]
    first = described(item).fingerprint
    assert changed(**{"s2:generation_time": "2024-06-02T00:00:00Z"})
    assert changed(**{"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.10"}) is False
    for told in ({"raster:scale": 2e-4}, {"raster:offset": -0.05}):
        red = item["assets"]["red"] | told
        assert described({**item, "assets": {**item["assets"], "red": red}}).fingerprint != first
    signed = json.loads(json.dumps(item))
    for asset in signed["assets"].values():
        asset["href"] = f"https://h{asset['href']}?sig=secret"
    assert described(signed).fingerprint == first
    assert "secret" not in json.dumps(described(signed).item)
    signed["assets"]["red"]["file:checksum"] = "1220abc"
    assert described(signed).fingerprint != first


def test_sensing_time_comes_from_the_datastrip(tmp_path: Path) -> None:
    strip = "S2A_OPER_MSI_L2A_DS_2APS_20240601T141550_S20240601T101559_N05.10"
    scene = described(make_item(tmp_path, properties={"s2:datastrip_id": strip}))
    assert scene.sensing.isoformat() == "2024-06-01T10:15:59+00:00"
    assert described(make_item(tmp_path / "b")).sensing == described(make_item(tmp_path / "b")).time


def test_a_plan_holds_nothing_that_no_job_reads(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    item["assets"]["thumbnail"] = {"href": "t.jpg"}
    item["properties"]["anything"] = "https://h.example/preview?sig=secret"
    slim = described(item).item
    assert sorted(slim["assets"]) == sorted(BANDS)
    assert "anything" not in slim["properties"]
    again = described(slim)
    assert (again.fingerprint, again.grid, again.bands) == tuple(
        getattr(described(item), name) for name in ("fingerprint", "grid", "bands")
    )


def test_a_place_that_libtiff_does_not_know_is_not_told(tmp_path: Path) -> None:
    told = "TIFFFillTile:Read error at row 4294967295, col 4294967295; got 0 bytes, expected 512"
    scene = described(make_item(tmp_path))
    assert str(files.failed(OSError(told), scene, scene.bands[0])).endswith(
        "TIFFFillTile:Read error; got 0 bytes, expected 512"
    )


def test_an_optional_band_decides_nothing_about_where_there_are_data() -> None:
    from cloudjob.grid import Grid
    from cloudjob.scene.scene import Band

    bands = tuple(Band(name, name, "", Grid(32633, 0, 0, 10, 10, 2, 2), 0.0001, -0.1) for name in ("red", "swir16"))
    raw = np.full((2, 2, 2), 3000, np.uint16)
    raw[0, 0, 0] = raw[1, 1, 1] = 0
    values = reflectance(raw, bands, ("red", "swir16"), ("swir16",))
    assert np.isnan(values[:, 0, 0]).all()
    assert values[0, 1, 1] == pytest.approx(0.2)
    assert np.isnan(values[1, 1, 1])
    absent = reflectance(raw[:1], bands[:1], ("swir16", "red"), ("swir16",))
    assert np.isnan(absent[0]).all()
    np.testing.assert_array_equal(absent[1], values[0])
