"""The command line on real files, from the catalog to what other programs read of the output."""

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pystac
import pytest
import rasterio
import rioxarray  # noqa: F401  # for .rio
import shapely
import stackstac
import xarray as xr
from conftest import REAL, ROOT, needs_real_scenes
from distributed import Client
from jobs import (
    EVERYWHERE,
    GRID,
    SABOTAGED,
    SHAPE,
    Result,
    assert_released,
    assert_same,
    brightness_checkpoint,
    cloudjob,
    dask_cluster,
    item_of,
    items,
    kept,
    make_scene,
    mask_of,
    mask_of_pattern,
    masks,
    pattern,
    processes_with,
    random_checkpoint,
    run_job,
    sabotage,
    slots,
    tree,
    write_catalog,
)
from pyproj import Transformer
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from scenes import BANDS
from scipy.ndimage import binary_dilation

import cloudjob as api
from cloudjob.scene.reflectance import scaling

A, B, C = "S2A_33UUP_20240601_0_L2A", "S2A_33UUP_20240604_0_L2A", "S2A_33UVP_20240601_0_L2A"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a Dask scheduler with a worker."""
    with dask_cluster() as address:
        yield address


# The real scenes, with the checkpoint that ships

FIVE = ("--bbox", "32.1", "-2.8", "32.95", "-1.9", "--dates", "2020-04-20/2020-04-30")


@dataclass(frozen=True)
class Real:
    """An OUT of real scenes, after: five of them, the same again, and all fourteen."""

    out: Path
    five: Result
    after_five: dict[str, tuple[int, str]]
    again: Result
    after_again: dict[str, tuple[int, str]]
    fourteen: Result


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    out = tmp_path_factory.mktemp("real") / "out"
    common = ("--catalog", REAL, "--out", out, "--workers", "1", "--json")
    five = cloudjob("run", *common, *FIVE)
    after_five = kept(out)
    again = cloudjob("run", *common, *FIVE)
    return Real(out, five, after_five, again, kept(out), cloudjob("run", *common, *EVERYWHERE))


@needs_real_scenes
def test_five_real_scenes_in_a_bbox_and_ten_days(real: Real) -> None:
    assert real.five.code == 0, real.five.stderr
    assert {record["id"] for record in real.five.records} == {
        "ocn-chip1",
        *(f"ocn-{name}" for name in ("adwp", "adwu", "adwz", "adxp")),
    }
    assert all(record["state"] == "done" for record in real.five.records)


@needs_real_scenes
def test_a_second_run_leaves_every_byte_as_it_was(real: Real) -> None:
    assert real.again.code == 0
    assert real.again.records == [{"state": "nothing to do", "scenes": 5, "counts": {"done": 5}}]
    assert "5 scenes: 5 done" in real.again.stderr
    assert real.after_again == real.after_five
    assert any(path.startswith("masks.zarr/") for path in real.after_five)


@needs_real_scenes
def test_all_fourteen_real_scenes(real: Real) -> None:
    assert real.fourteen.code == 0, real.fourteen.stderr
    assert len(real.fourteen.records) == 9
    found = {item["id"]: item for item in json.loads(REAL.read_text())["features"]}
    assert len(found) == 14
    assert {Path(path).stem for path in items(real.out)} == set(found)
    for scene, item in found.items():
        with rasterio.open(REAL.parent / item["assets"]["red"]["href"]) as file:
            left, top = file.xy(0, 0)
            right, bottom = file.xy(file.height - 1, file.width - 1)
            crs, pixel = file.crs, file.transform.a
        pixels = []
        for band in BANDS:
            with rasterio.open(REAL.parent / item["assets"][band]["href"]) as file:
                pixels.append(file.read(1))
        mask = mask_of(real.out, scene)
        np.testing.assert_array_equal(mask == 254, (np.stack(pixels) == 0).any(axis=0), err_msg=scene)
        assert np.isin(mask, [0, 1, 254]).all()
        with xr.open_zarr(real.out / "masks.zarr" / item_of(real.out, scene)["properties"]["cloudjob:group"]) as z:
            assert z.cloud.rio.crs == crs
            assert z.x.values[[0, -1]] == pytest.approx([left, right], abs=1e-9 * pixel)
            assert z.y.values[[0, -1]] == pytest.approx([top, bottom], abs=1e-9 * pixel)
    assert slots(real.out)["4326_-113.639145_51.4493_743x689"] == ["alberta-2020-04-26", "alberta-2020-05-01"]


@needs_real_scenes
def test_real_clouds_are_found_and_clear_scenes_are_empty(real: Real) -> None:
    """Bounds are loose, as in test_shipped."""
    listed = {item["id"]: item for item in json.loads(REAL.read_text())["features"]}
    for scene in ("bolzano", "coast-18N"):
        mask = mask_of(real.out, scene)
        assert (mask == 1).sum() < 0.005 * (mask <= 1).sum(), scene
    for scene in ("ocn-chip1", "ocn-chip2", "ocn-chip3"):
        with rasterio.open(REAL.parent / listed[scene]["assets"]["label"]["href"]) as file:
            label = file.read(1)
        mask = mask_of(real.out, scene)
        known = (label <= 1) & (mask <= 1)
        hit, any_ = ((mask == 1) & (label == 1) & known).sum(), (((mask == 1) | (label == 1)) & known).sum()
        assert hit / any_ > 0.65, scene


# Scenes whose masks can be told beforehand


@dataclass(frozen=True)
class Simple:
    """A catalog of three simulated scenes whose clouds are known, and an OUT with their masks."""

    catalog: Path
    checkpoint: Path
    sources: dict[str, dict[str, Any]]
    values: dict[str, dict[str, np.ndarray]]
    out: Path
    result: Result

    def expected(self, scene: str, bright: float = 0.5) -> np.ndarray:
        return mask_of_pattern(self.values[scene], bright, -0.1 if scene == B else 0.0)


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Simple:
    """B has the offset of newer baselines, C lies beside A and B."""
    folder = tmp_path_factory.mktemp("simple")
    values = {A: pattern(1), B: pattern(2, addition=1000), C: pattern(3)}
    sources = {
        A: make_scene(folder, A, values=values[A]),
        B: make_scene(
            folder, B, "2024-06-04T10:15:59Z", values=values[B], baseline="05.10", band={"offset": -0.1, "scale": 1e-4}
        ),
        C: make_scene(folder, C, values=values[C], transform=(*GRID[:2], GRID[2] + 1700, *GRID[3:])),
    }
    catalog = write_catalog(folder / "items.json", list(sources.values()))
    checkpoint = brightness_checkpoint(folder / "checkpoint.safetensors")
    result = run_job(catalog, checkpoint, folder / "out", "--workers", "1", "--probability", "--json")
    assert result.code == 0, result.stderr
    return Simple(catalog, checkpoint, sources, values, folder / "out", result)


@pytest.mark.parametrize("scene", [A, B, C])
def test_a_mask_pixel_lies_on_its_image_pixel(simple: Simple, scene: str) -> None:
    expected = simple.expected(scene)
    assert set(np.unique(expected)) == {0, 1, 254}
    np.testing.assert_array_equal(mask_of(simple.out, scene), expected)


def test_probabilities_in_percent(simple: Simple) -> None:
    percent = mask_of(simple.out, A, "cloud_probability")
    red = simple.values[A]["red"] * 1e-4
    expected = np.where(simple.expected(A) == 254, 254, 100 / (1 + np.exp(-20 * (red - 0.5))))
    assert ((percent <= expected + 1e-3) & (percent > expected - 1.001)).all(), "rounded down"


# xarray looks for consolidated metadata in the root, where it would go stale, before it looks in the group.
IN_A_GROUP = pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated:RuntimeWarning")


@IN_A_GROUP
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray 0.19 with affine 3
@pytest.mark.parametrize("how", ["path", "group", "tree"])
def test_plain_xarray_opens_it(simple: Simple, how: str) -> None:
    group = item_of(simple.out, C)["properties"]["cloudjob:group"]
    store = simple.out / "masks.zarr"
    opened: Any
    if how == "tree":
        opened = xr.open_datatree(store, engine="zarr")
        assert set(opened.children) == set(slots(simple.out))
        view = opened[group].to_dataset()
    elif how == "group":
        opened = view = xr.open_zarr(store, group=group)
    else:
        opened = view = xr.open_zarr(store / group)
    with opened:
        assert view.cloud.dims == ("time", "y", "x")
        assert view.cloud.dtype == np.uint8
        assert view.cloud.rio.crs.to_epsg() == 32633
        assert str(view.time.values[0]) == "2024-06-01T10:15:59.024000000"
        with rasterio.open(simple.sources[C]["assets"]["red"]["href"]) as file:
            transform = file.transform
            xs = [file.xy(0, column)[0] for column in range(file.width)]
            ys = [file.xy(row, 0)[1] for row in range(file.height)]
        np.testing.assert_array_equal(view.x.values, xs)
        np.testing.assert_array_equal(view.y.values, ys)
        assert view.cloud.rio.transform().almost_equals(transform, 1e-9)
        np.testing.assert_array_equal(view.cloud[0].values, simple.expected(C))


def test_items_are_valid_stac(simple: Simple) -> None:
    assert len(items(simple.out)) == 3
    for scene in (A, B, C):
        written = item_of(simple.out, scene)
        JsonSchemaSTACValidator().validate_core(written, pystac.STACObjectType.ITEM, "1.1.0")
        item = pystac.Item.from_dict(written)
        labelled = simple.expected(scene)
        labelled = labelled[labelled < 254]
        assert item.ext.proj.code == "EPSG:32633"
        assert item.properties["eo:cloud_cover"] == pytest.approx(100 * labelled.mean(), abs=1e-3)
        assert item.properties["cloudjob:provider_cloud_cover"] == 12.5
        assert [each.value for each in item.assets["cloud"].ext.classification.classes] == [0, 1, 254, 255]


def test_stdout_is_data_and_stderr_is_for_people(simple: Simple) -> None:
    records = {record["id"]: record for record in simple.result.records}
    assert records.keys() == {A, B, C}
    assert records[A]["datetime"] == "2024-06-01T10:15:59.024000Z"
    assert records[A]["cloud_cover"] == pytest.approx(item_of(simple.out, A)["properties"]["eo:cloud_cover"])
    assert records[A]["receipt"]["cloud"] == (simple.expected(A) == 1).sum()
    assert records[A]["receipt"]["no_data"] == (simple.expected(A) == 254).sum()
    said = simple.result.stderr.splitlines()
    assert "\r" not in simple.result.stderr
    assert "\x1b" not in simple.result.stderr
    assert "3 scenes: 3 new" in said
    for scene in (A, B, C):
        (line,) = [line for line in said if scene in line]
        assert line.startswith("done ")
    assert any(line.startswith("dashboard: http://127.0.0.1:") for line in said)


def test_a_scene_that_cannot_be_read_is_told_in_a_line(simple: Simple, tmp_path: Path) -> None:
    broken = json.loads(json.dumps(simple.sources[B]))
    whole = Path(broken["assets"]["nir"]["href"]).read_bytes()
    broken["assets"]["nir"]["href"] = str(tmp_path / "nir.tif")
    (tmp_path / "nir.tif").write_bytes(whole[: len(whole) // 2])
    catalog = write_catalog(tmp_path / "items.json", [simple.sources[A], broken, simple.sources[C]])
    result = run_job(catalog, simple.checkpoint, tmp_path / "out", "--workers", "1", "--json")
    assert result.code == 1
    assert {record["id"]: record["state"] for record in result.records} == {A: "done", B: "failed", C: "done"}
    (line,) = [line for line in result.stderr.splitlines() if B in line]
    assert line.startswith(f"failed    {B}: ")
    assert "nir.tif" in line
    assert "Traceback" not in result.stderr
    for scene in (A, C):
        np.testing.assert_array_equal(mask_of(tmp_path / "out", scene), simple.expected(scene))


def test_plan_says_what_a_run_would_do(simple: Simple, tmp_path: Path) -> None:
    options = ("--catalog", simple.catalog, "--checkpoint", simple.checkpoint, "--json", *EVERYWHERE)
    ahead = cloudjob("plan", *options, "--out", tmp_path / "out")
    assert ahead.code == 0, ahead.stderr
    planned = json.loads(ahead.stdout)
    assert planned["counts"] == {"new": 3}
    assert [scene["tiles"] for scene in planned["scenes"]] == [12, 12, 12]
    assert planned["cost"]["pixels"] == 3 * 200 * 170
    assert not (tmp_path / "out").exists()
    before = tree(simple.out)
    done = cloudjob("plan", *options, "--out", simple.out, "--probability")
    assert json.loads(done.stdout)["counts"] == {"done": 3}
    assert tree(simple.out) == before


def test_status_export_and_model(simple: Simple, tmp_path: Path) -> None:
    status = json.loads(cloudjob("status", simple.out, "--json").stdout)
    assert (status["done"], status["failed"], status["last_run"]["how"]) == (3, {}, "complete")
    exported = cloudjob("export", simple.out, A, tmp_path / "mask.tif")
    assert exported.code == 0, exported.stderr
    assert exported.stdout == f"{tmp_path / 'mask.tif'}\n"
    with rasterio.open(tmp_path / "mask.tif") as mask, rasterio.open(simple.sources[A]["assets"]["red"]["href"]) as red:
        np.testing.assert_array_equal(mask.read(1), simple.expected(A))
        assert (mask.transform, mask.crs) == (red.transform, red.crs)
    model = json.loads(cloudjob("model", simple.checkpoint, "--json").stdout)
    assert model["properties"]["mlm:name"] == "brightness"
    assert model["properties"]["mlm:input"][0]["bands"] == [{"name": band} for band in BANDS]


def test_a_geometry_clips(simple: Simple, cluster: str, tmp_path: Path) -> None:
    west, south, east, north = simple.sources[A]["bbox"]
    triangle = shapely.Polygon([(west - 0.001, south), (east, south + 0.004), ((west + east) / 2, north - 0.003)])
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(triangle))
    out = tmp_path / "out"
    where = ("--geometry", tmp_path / "area.geojson", "--dates", "2024-06-01/2024-06-04")
    result = run_job(simple.catalog, simple.checkpoint, out, *where, "--cluster", cluster)
    assert result.code == 0, result.stderr
    with rasterio.open(simple.sources[A]["assets"]["red"]["href"]) as file:
        a, _, left, _, e, top = file.transform[:6]
        xs, ys = np.meshgrid(left + a * (np.arange(file.width) + 0.5), top + e * (np.arange(file.height) + 0.5))
    lon, lat = Transformer.from_crs(32633, 4326, always_xy=True).transform(xs, ys)
    inside = shapely.contains_xy(triangle, lon, lat)
    assert 0.1 < inside.mean() < 0.9
    clear_of_the_edge = shapely.distance(triangle.exterior, shapely.points(lon, lat)) > 1e-5  # about a metre
    assert clear_of_the_edge.mean() > 0.99
    for scene in (A, B):
        expected = np.where(inside, simple.expected(scene), 255)
        np.testing.assert_array_equal(mask_of(out, scene)[clear_of_the_edge], expected[clear_of_the_edge])


@pytest.mark.parametrize(("off", "pixels"), [(0.0, 0), (0.5, 1)])
def test_an_area_with_no_pixels_centre_is_told(
    off: float, pixels: int, simple: Simple, cluster: str, tmp_path: Path
) -> None:
    """Of 4 m, around where four pixels of 10 m meet, or in the middle of one."""
    with rasterio.open(simple.sources[A]["assets"]["red"]["href"]) as file:
        x, y = file.xy(60 + off, 50 + off, offset="ul")
    area = shapely.Point(Transformer.from_crs(32633, 4326, always_xy=True).transform(x, y)).buffer(2e-5)
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(area))
    where = ("--geometry", tmp_path / "area.geojson", "--dates", "2024-06-01", "--cluster", cluster)
    result = run_job(simple.catalog, simple.checkpoint, tmp_path / "out", *where)
    assert result.code == 0, result.stderr
    assert (mask_of(tmp_path / "out", A) != 255).sum() == pixels
    told = "the centre of no pixel lies in the area: its mask is empty"
    assert (f"{A}: {told}" in result.stderr) == (not pixels)
    properties = item_of(tmp_path / "out", A)["properties"]
    assert properties.get("cloudjob:warnings") == (None if pixels else [told])


def test_threshold_and_buffer(simple: Simple, cluster: str, tmp_path: Path) -> None:
    """The buffer reaches across the edges of tiles, and never into no data."""
    options = ("--threshold", "0.9", "--buffer", "35", "--dates", "2024-06-01")
    result = run_job(simple.catalog, simple.checkpoint, tmp_path / "out", *options, "--cluster", cluster)
    assert result.code == 0, result.stderr
    thick = simple.expected(A, 0.5 + np.log(9) / 20)  # where the probability is 0.9
    y, x = np.mgrid[-3:4, -3:4]
    wide = binary_dilation(thick == 1, (x**2 + y**2) * 100 <= 35**2)
    np.testing.assert_array_equal(mask_of(tmp_path / "out", A), np.where(thick == 254, 254, wide))


def test_20_metres_and_settings_from_the_environment(simple: Simple, cluster: str, tmp_path: Path) -> None:
    result = cloudjob(
        "run",
        CLOUDJOB_CATALOG=str(simple.catalog),
        CLOUDJOB_CHECKPOINT=str(simple.checkpoint),
        CLOUDJOB_OUT=str(tmp_path / "out"),
        CLOUDJOB_BBOX="-180 -90 180 90",
        CLOUDJOB_DATES="2024-06-01/2024-06-04",
        CLOUDJOB_RESOLUTION="20",
        CLOUDJOB_CLUSTER=cluster,
        CLOUDJOB_JSON="1",
    )
    assert result.code == 0, result.stderr
    assert {record["id"] for record in result.records} == {A, B, C}
    for scene in (A, B, C):
        np.testing.assert_array_equal(mask_of(tmp_path / "out", scene), simple.expected(scene)[::2, ::2])


def test_from_python(simple: Simple, cluster: str, tmp_path: Path) -> None:
    with Client(cluster) as client:
        results = api.run(
            client=client,
            bbox=(-180, -90, 180, 90),
            dates="2024-06-01",
            out=tmp_path / "out",
            catalog=simple.catalog,
            checkpoint=simple.checkpoint,
        )
    assert {(result.id, result.state) for result in results} == {(A, "done"), (C, "done")}
    assert {node["scene"].item() for node in api.open(str(tmp_path / "out")).children.values()} == {A, C}
    numbers = np.stack([simple.values[A][band] for band in BANDS])
    cube = xr.DataArray(
        np.where(numbers == 0, np.nan, numbers * np.float32(1e-4)),
        dims=("band", "y", "x"),
        coords={"band": list(BANDS)},
    )
    found = api.mask(cube.chunk({"y": 50}), checkpoint=simple.checkpoint)
    assert found.chunks is not None
    np.testing.assert_array_equal(found.values, mask_of(tmp_path / "out", A))


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # stackstac 0.5 with affine 3
@pytest.mark.filterwarnings("ignore:The argument 'infer_datetime_format':UserWarning")  # … with pandas 2
@pytest.mark.parametrize("applied", [None, True])
def test_the_readmes_recipe_for_a_cube_of_ones_own(applied: bool | None, tmp_path: Path) -> None:
    """Of items whose numbers have ESA's 1000, and of those that say that it is off already."""
    listed, offset = [], 0 if applied else 1000
    about = {} if applied is None else {"earthsearch:boa_offset_applied": applied}
    for day in (1, 4):
        land = np.random.default_rng(day).integers(1_300, 1_700, SHAPE, np.uint16)
        values = {band: land + (band == "nir") * np.uint16(2_000) for band in BANDS}
        for pixels in values.values():
            pixels[:, SHAPE[1] // 2 :] = 7_000  # a deck of cloud over one half
        name, when = f"S2A_{day}", f"2024-06-0{day}T10:15:59Z"
        listed.append(make_scene(tmp_path, name, when, values=values, epsg=32632, baseline="05.10", properties=about))
        told = scaling(listed[-1]["properties"], listed[-1]["assets"]["red"], "05.10")
        assert told == pytest.approx((1e-4, -offset / 10_000))
    ((recipe,),) = [re.findall(r"```python\n(cube = .+?)```", (ROOT / "README.md").read_text(), re.DOTALL)]
    left, top = GRID[2], GRID[5]
    names: dict[str, Any] = {"items": listed, "cloudjob": api, "stackstac": stackstac}
    names["bounds"] = (left, top - 10 * SHAPE[0], left + 10 * SHAPE[1], top)
    assert recipe.count("\noffset = 1000  #") == 1
    exec(recipe.replace("offset = 1000", f"offset = {offset}"), names)
    clear = names["clear"].compute()
    assert clear.shape == (2, 4, *SHAPE)
    assert clear.sel(band="red").notnull()[:, :, : SHAPE[1] // 4].mean() > 0.9
    assert clear.sel(band="red").isnull()[:, :, -SHAPE[1] // 4 :].mean() > 0.9
    for item, seen in zip(listed, clear, strict=True):
        with rasterio.open(item["assets"]["nir"]["href"]) as file:
            numbers = file.read(1).astype(float)
        known = seen.sel(band="nir").notnull().values
        np.testing.assert_allclose(seen.sel(band="nir").values[known], (numbers[known] - offset) / 10_000, rtol=1e-6)


# A network whose pixels depend on their surroundings, on scenes of four by three tiles with ragged edges


@dataclass(frozen=True)
class Deep:
    """A catalog of three scenes and an OUT with their masks, made by one worker."""

    catalog: Path
    checkpoint: Path
    bbox: tuple[float, float, float, float]
    out: Path

    def run(self, out: Path, *more: str, **how: Any) -> Result:
        return run_job(self.catalog, self.checkpoint, out, *more, **how)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Deep:
    folder = tmp_path_factory.mktemp("deep")
    scenes = [make_scene(folder, scene, f"2024-06-0{day}T10:15:59Z", seed=day) for day, scene in ((1, A), (4, B))]
    scenes.append(make_scene(folder, C, seed=7, transform=(*GRID[:2], GRID[2] + 1700, *GRID[3:])))
    catalog = write_catalog(folder / "items.json", scenes)
    checkpoint = random_checkpoint(folder / "checkpoint.safetensors")
    made = Deep(catalog, checkpoint, tuple(scenes[0]["bbox"]), folder / "out")
    result = made.run(made.out, "--workers", "1", "--probability")
    assert result.code == 0, result.stderr
    assert 0.05 < (mask_of(made.out, A) == 1).mean() < 0.95  # it can tell
    return made


@pytest.mark.parametrize("workers", [2, 4])
def test_the_same_values_for_any_number_of_workers(deep: Deep, tmp_path: Path, workers: int) -> None:
    """With four workers for three scenes the rows of one scene's tiles are done by several."""
    result = deep.run(tmp_path / "out", "--workers", str(workers), "--probability")
    assert result.code == 0, result.stderr
    assert_same(tmp_path / "out", deep.out)


def test_the_same_values_for_a_small_bbox(deep: Deep, cluster: str, tmp_path: Path) -> None:
    west, south, east, north = deep.bbox
    width, height = east - west, north - south
    middle = (west + 0.4 * width, south + 0.4 * height, west + 0.6 * width, north - 0.4 * height)
    small = ("--bbox", *map(str, middle), "--cluster", cluster, "--probability")
    result = deep.run(tmp_path / "out", *small)
    assert result.code == 0, result.stderr
    assert item_of(tmp_path / "out", A)["properties"]["cloudjob:tiles"] == [[1, 1]]
    for group, arrays in masks(tmp_path / "out").items():
        for array in ("cloud", "cloud_probability"):
            part, whole = arrays[array], masks(deep.out)[group][array]
            assert part.shape == whole.shape == (2, 200, 170)
            np.testing.assert_array_equal(part[:, 64:128, 64:128], whole[:, 64:128, 64:128])
            assert (part == 255).sum() == part.size - 2 * 64 * 64


@pytest.mark.parametrize(
    ("number", "victim", "code", "word"),
    [(signal.SIGINT, "group", 130, "interrupted"), (signal.SIGTERM, "client", 143, "terminated")],
)
def test_a_run_is_stopped(
    deep: Deep, cluster: str, tmp_path: Path, number: int, victim: str, code: int, word: str
) -> None:
    """Ctrl-C reaches the workers, too; SIGTERM, as Kubernetes sends it, the client alone."""
    out, marker = tmp_path / "out", tmp_path / "struck"
    stopped = deep.run(
        out,
        "--workers",
        "1",
        "--probability",
        command=SABOTAGED,
        CLOUDJOB_TEST_SABOTAGE=sabotage(marker, "after item", victim=victim, number=number),
    )
    assert marker.exists()
    assert stopped.code == code, stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith(f"{word}: everything finished is kept")
    assert "Traceback" not in stopped.stderr
    _, alive = psutil.wait_procs(processes_with(str(marker)), timeout=60)
    assert alive == []
    assert_released(out)
    before = tree(out / "items")
    assert len(items(out)) == 1
    again = deep.run(out, "--probability", "--cluster", cluster)
    assert again.code == 0, again.stderr
    assert "1 done" in again.stderr
    (first,) = (path for path in before if "index" not in path)
    assert tree(out / "items")[first] == before[first]
    assert_same(out, deep.out)
