"""cloudjob.load: reflectance and masks on one grid, on scenes whose pixels are known."""

import json
import re
import shutil
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from affine import Affine
from conftest import ROOT
from odc.geo.geobox import GeoBox
from pyproj import Transformer

import cloudjob
from cloudjob.classes import NOT_COMPUTED
from cloudjob.errors import ContractError, SceneError, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # rioxarray 0.19 with affine 3
    pytest.mark.filterwarnings("ignore:The argument 'infer_datetime_format':UserWarning"),  # stackstac with pandas 2
]

A, B, C = "A", "B", "C"
EMPTY = xr.DataArray(np.zeros((0, 2)), {"y": [], "x": [5.0, 15.0]}, ("y", "x"))
FAR = GeoBox((4_000_000, 4_000_000), Affine(10, 0, -2e7, 0, -10, 2e7), "EPSG:3857")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dates of a place in zone 33, one of them with an offset, and a scene beside it in zone 32's numbers."""
    folder = tmp_path_factory.mktemp("load")
    values = {A: jobs.pattern(1), B: jobs.pattern(2, addition=1000), C: jobs.pattern(3)}
    left, top = Transformer.from_crs(32633, 32632, always_xy=True).transform(601_700, 5_200_020)
    beside = (10.0, 0.0, round(left, -1), 0.0, -10.0, round(top, -1))
    items = [
        jobs.make_scene(folder, A, values=values[A]),
        jobs.make_scene(
            folder, B, "2024-06-04T10:15:59Z", values=values[B], baseline="05.10", band={"offset": -0.1, "scale": 1e-4}
        ),
        jobs.make_scene(folder, C, "2024-07-01T10:15:59Z", values=values[C], transform=beside, epsg=32632),
    ]
    catalog = jobs.write_catalog(folder / "items.json", items)
    checkpoint = jobs.brightness_checkpoint(folder / "net.safetensors")
    jobs.run_here(catalog, checkpoint, folder / "out")
    np.savez(
        folder / "values.npz", **{f"{scene}_{band}": values[scene][band] for scene in values for band in values[A]}
    )
    return folder


def pixels(made: Path, scene: str, band: str = "red") -> np.ndarray:
    return np.load(made / "values.npz")[f"{scene}_{band}"]


def test_on_the_scenes_own_grid_nothing_is_changed(made: Path) -> None:
    found = cloudjob.load("2024-06", made / "out", ["red", "nir"])
    assert found.red.chunks is not None, "lazy"
    assert found.scene.values.tolist() == [A, B]
    assert found.rio.crs.to_epsg() == 32633
    for scene, offset in ((A, 0.0), (B, -0.1)):
        one = found.sel(time=found.time[found.scene == scene]).isel(time=0).compute()
        raw = pixels(made, scene)
        np.testing.assert_allclose(one.red, np.where(raw == 0, np.nan, raw * 1e-4 + offset), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(one.cloud, jobs.mask_of(made / "out", scene))
        assert one.cloud.dtype == np.uint8
    opened = cloudjob.open(made / "out", "33UUP_600000_5200020")
    np.testing.assert_array_equal(found.x, opened.x)
    np.testing.assert_array_equal(found.cloud, opened.cloud)


def test_two_zones_on_one_grid(made: Path) -> None:
    """What the default grid holds of the other zone's scene is what lies there."""
    found = cloudjob.load("2024", made / "out", ["red"], chunks=64).compute()
    assert found.scene.values.tolist() == [A, B, C]
    assert found.sizes["x"] >= 2 * jobs.SHAPE[1]
    other, mask = found.red.isel(time=2), found.cloud.isel(time=2)
    assert set(np.unique(mask)) == {0, 1, 254, NOT_COMPUTED}, "values of the mask, never between them"
    raw, own = pixels(made, C), jobs.mask_of(made / "out", C)
    properties = jobs.item_of(made / "out", C)["properties"]
    to = Transformer.from_crs(32633, 32632, always_xy=True)
    checked = 0
    for row, column in ((40, 250), (90, 300), (150, 280), (100, 200)):
        x, y = to.transform(float(found.x[column]), float(found.y[row]))
        r, c = int((properties["proj:transform"][5] - y) // 10), int((x - properties["proj:transform"][2]) // 10)
        if 1 < r < raw.shape[0] - 2 and 1 < c < raw.shape[1] - 2:
            assert mask[row, column] == own[r, c]
            near = raw[r - 1 : r + 2, c - 1 : c + 2] * 1e-4
            assert near.min() - 1e-4 <= other[row, column] <= near.max() + 1e-4
            checked += 1
    assert checked >= 2
    assert (mask.where(found.cloud.isel(time=0) < 254) == NOT_COMPUTED).sum() > 0, "not computed where it does not lie"


def test_a_geobox_and_a_coarser_one(made: Path) -> None:
    geobox = GeoBox((50, 40), (20.0, 0, 600_200, 0, -20.0, 5_199_820), "EPSG:32633")
    found = cloudjob.load(("2024-06-01", "2024-06-02"), made / "out", ["red"], geobox).compute()
    assert found.red.shape == (1, 50, 40)
    assert found.rio.transform()[:6] == pytest.approx(tuple(geobox.affine)[:6])
    fine = jobs.mask_of(made / "out", A)[20:120, 20:100]
    cloud, data = ((fine == 1).reshape(50, 2, 40, 2).sum((1, 3)), (fine < 254).reshape(50, 2, 40, 2).sum((1, 3)))
    expected = np.where(data < 2, 254, np.where(2 * cloud >= data, 1, 0))
    np.testing.assert_array_equal(found.cloud[0], expected)
    like = cloudjob.load("2024-06", made / "out", ["red"], found.red)
    assert like.red.shape == (2, 50, 40)


@pytest.mark.parametrize(
    ("crs", "left", "top", "side"), [(32633, 580_020, 5_220_020, 200), (32632, 1_030_000, 5_250_000, 240)]
)
def test_a_wide_coarse_grid_costs_no_more_memory_than_what_lies_on_it(
    made: Path, crs: int, left: float, top: float, side: int
) -> None:
    """At 200 m the grid has 36 million pixels of the mask's; all but a few of them lie beside the scene."""
    geobox = GeoBox((300, 300), (float(side), 0, left, 0, -float(side), top), f"EPSG:{crs}")
    lazy = cloudjob.load("2024-06-01", made / "out", ["red"], geobox).cloud[0]
    tracemalloc.start()
    found = lazy.values
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    own = jobs.mask_of(made / "out", A)
    # Each of the mask's pixels by the larger pixel that its centre lies in
    x, y = np.meshgrid(600_005 + 10.0 * np.arange(own.shape[1]), 5_200_015 - 10.0 * np.arange(own.shape[0]))
    x, y = Transformer.from_crs(32633, crs, always_xy=True).transform(x, y)
    cells = list(zip(((top - y) // side).astype(int).ravel(), ((x - left) // side).astype(int).ravel(), strict=True))
    assert {tuple(map(int, cell)) for cell in np.argwhere(found != NOT_COMPUTED)} == set(cells)
    for cell in set(cells):
        within = own.ravel()[[each == cell for each in cells]]
        data, share = np.count_nonzero(within < 254), (within == 1).sum() / max(1, np.count_nonzero(within < 254))
        if abs(share - 0.5) > 0.05 and abs(data / len(within) - 0.5) > 0.05:  # Else the last pixels decide
            assert found[cell] == (254 if 2 * data < len(within) else share > 0.5)


def test_items_instead_of_dates(made: Path) -> None:
    items = json.loads((made / "items.json").read_text())["features"]
    stranger = {**items[0], "id": "stranger"}
    with pytest.warns(UserWarning, match="no mask of stranger"):
        found = cloudjob.load([items[1], stranger], made / "out", ["blue"])
    xr.testing.assert_equal(found.compute(), cloudjob.load("2024-06-04", made / "out", ["blue"]).compute())


def test_dates_and_items_in_the_forms_that_people_have_them(made: Path) -> None:
    collection = json.loads((made / "items.json").read_text())
    items = [pystac.Item.from_dict(item) for item in collection["features"]]
    for what, scenes in (
        (["2024-06-01", "2024-06-30"], [A, B]),
        (("2024-06-02", None), [B, C]),
        (tuple(items[:2]), [A, B]),
        (pystac.ItemCollection(items), [A, B, C]),
        (collection, [A, B, C]),
        (collection["features"][1], [B]),
    ):
        found = cloudjob.load(what, made / "out", "red")
        assert (found.scene.values.tolist(), "red" in found) == (scenes, True)


@pytest.mark.parametrize(
    ("what", "bands", "options", "says"),
    [
        ("2030", ["red"], {}, "no mask of what was asked for"),
        ("2024-06", ["rde"], {}, "without the band 'rde'"),
        (None, ["red"], {}, "what is None; expected dates, or STAC items"),
        ("2024", ["red"], {"chunks": 0}, "chunks is 0; expected pixels"),
        ("2024", ["red"], {"chunks": "auto"}, "chunks is 'auto'; expected pixels"),
        ("2024", ["red"], {"geobox": FAR}, r"a grid of 4,000,000 × 4,000,000 pixels is 19,\d+,\d+ pieces to read"),
        ("2024-06", ["red"], {"group": "99XXX"}, "no group '99XXX'"),
        ("2024-06", ["red"], {"geobox": 3}, "geobox is a int without"),
        ("2024-06", ["red"], {"geobox": EMPTY}, "geobox has no grid: Unable to determine bounds"),
        ("2024-06", ["red"], {"geobox": EMPTY.sum()}, "geobox has no grid: "),
        ([], ["red"], {"assets": "red"}, "assets is 'red'; expected a dict"),
        ("2024-06", ["red"], {"bbox": (1, 2, 3)}, "bbox is"),
        ("2024-06", ["red"], {"bbox": (1, 2, 3, 4)}, "outside of the scenes' grid"),
    ],
)
def test_what_cannot_be_loaded(made: Path, what: str, bands: list[str], options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        cloudjob.load(what, made / "out", bands, **options)


def test_numbers_of_another_kind_whose_files_do_not_tell_what_no_data_is(tmp_path: Path) -> None:
    """Signed, -999 for no data by the item alone, as Digital Earth Australia has them: the mask's item tells it."""
    values = {band: pixels.astype(np.int16) for band, pixels in jobs.pattern(1).items()}
    values = {band: np.where(pixels == 0, np.int16(-999), pixels) for band, pixels in values.items()}
    told = {"data_type": "int16", "nodata": -999, "scale": 1e-4, "offset": 0}
    item = jobs.make_scene(tmp_path, A, values=values, nodata=None, band=told)
    catalog = jobs.write_catalog(tmp_path / "items.json", [item])
    jobs.run_here(catalog, jobs.brightness_checkpoint(tmp_path / "net.safetensors"), tmp_path / "out")
    by_dates = cloudjob.load("2024-06", tmp_path / "out", ["red"]).compute()
    expected = np.where(values["red"] == -999, np.nan, values["red"] * 1e-4)
    np.testing.assert_allclose(by_dates.red[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(by_dates.cloud[0] == 254, jobs.mask_of(tmp_path / "out", A) == 254)
    np.testing.assert_array_equal(by_dates.red, cloudjob.load([item], tmp_path / "out", ["red"]).red)


def stacked(path: Path) -> None:
    with rasterio.open(path) as file:
        profile, numbers = file.profile, file.read(1)
    with rasterio.open(path, "w", **profile | {"count": 3, "driver": "GTiff"}) as file:
        file.write(np.stack([numbers] * 3))


def moved(path: Path) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.transform = file.transform @ Affine.translation(3, 0)


def scaled(path: Path) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.scales = [2e-4]


@pytest.mark.parametrize(
    ("change", "by_dates", "by_items"),
    [
        (stacked, "asset red: it holds 3 bands", "asset red: it holds 3 bands"),
        (moved, "", "asset red: the file has 200 × 170 pixels from 600030"),
        (scaled, "", "the file of red tells scale 0.0002 and offset 0 of its numbers, its item 0.0001 and 0"),
    ],
)
def test_a_file_that_is_another_one_by_now_is_told(
    change: Callable[[Path], None], by_dates: str, by_items: str, made: Path, tmp_path: Path
) -> None:
    """The first of three bands was taken, and numbers by a scale that the file contradicts."""
    (item,) = [each for each in json.loads((made / "items.json").read_text())["features"] if each["id"] == A]
    path = Path(item["assets"]["red"]["href"])
    whole = path.read_bytes()
    change(path)
    try:
        for what, says in (("2024-06-01", by_dates), ([item], by_items)):
            red = cloudjob.load(what, made / "out", ["red"]).red
            if not says:
                red.compute()
            elif change is scaled:
                with pytest.warns(UserWarning, match=says):
                    red.compute()
            else:
                with pytest.raises(SceneError, match=says):
                    red.compute()
    finally:
        path.write_bytes(whole)


def test_a_damaged_mask_is_named(made: Path, tmp_path: Path) -> None:
    """It was an error of a codec, of no scene."""
    shutil.copytree(made / "out", tmp_path / "out")
    (shard,) = (tmp_path / "out" / "masks.zarr").glob("*_600000_*/cloud/c/0/0/0")
    shard.write_bytes(bytes(byte ^ 255 for byte in shard.read_bytes()))
    found = cloudjob.load("2024-06", tmp_path / "out")
    with pytest.raises(SceneError, match="scene A: its mask cannot be read"):
        found.cloud.compute()


@pytest.mark.parametrize(
    "change",
    [lambda told: told.pop("cloudjob:reflectance"), lambda told: told["cloudjob:reflectance"]["red"].pop("scale")],
)
def test_an_item_that_does_not_say_what_its_mask_was_made_of_costs_its_own_scene(
    change: Callable[[dict[str, Any]], object], made: Path, tmp_path: Path
) -> None:
    """It was a KeyError, whatever else was asked for."""
    shutil.copytree(made / "out", tmp_path / "out")
    (path,) = (tmp_path / "out" / "items").glob("*/A.json")
    item = json.loads(path.read_text())
    change(item["properties"])
    path.write_text(json.dumps(item))
    with pytest.warns(UserWarning, match=r"A.json says too little \(KeyError: .+\): it is left out; `cloudjob check"):
        assert cloudjob.load("2024-06", tmp_path / "out").scene.values.tolist() == [B]


def test_an_out_without_masks(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="holds no masks"):
        cloudjob.load("2024", tmp_path)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # NumPy's, of pixels that were never seen clear
def test_the_readmes_picture_without_clouds(made: Path) -> None:
    """Its lines as they stand there: a median of clear looks, never an invented value, and how often it was cloudy."""
    (code,) = re.findall(r"```python\n(import cloudjob\n\nmonth = .+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 8
    names: dict[str, Any] = {}
    exec(code.replace("demo/masks", str(made / "out")), names)
    picture, looks, frequency = (names[name].compute() for name in ("picture", "looks", "frequency"))
    masks = np.stack([jobs.mask_of(made / "out", scene) for scene in (A, B)])
    red = np.stack([pixels(made, A) * 1e-4, pixels(made, B) * 1e-4 - 0.1])
    clear, seen = masks == 0, masks < 254
    np.testing.assert_array_equal(looks, clear.sum(0))
    assert looks.attrs == frequency.attrs == {}, "a count is no mask, whose flags xarray goes on with"
    np.testing.assert_array_equal(picture.red.isnull(), clear.sum(0) == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slices without any look
        expected = np.nanmedian(np.where(clear, red, np.nan), 0)
        often = np.nanmean(np.where(seen, masks == 1, np.nan), 0)
    np.testing.assert_allclose(picture.red, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(frequency, often)
    assert {0, 1, 2} == set(np.unique(looks)), "every case is among them"
