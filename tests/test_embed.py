"""cloudjob.run and cloudjob.mask as people call them by mistake: told in a sentence, before anything starts."""

import asyncio
import json
import pickle
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pandas as pd
import pystac
import pytest
import shapely
import xarray as xr
from conftest import REAL, needs_real_scenes
from distributed import Client, LocalCluster, Scheduler
from pyproj import CRS
from scenes import BANDS

import cloudjob
from cloudjob import embed, spoken
from cloudjob.catalog.area import parse_bbox
from cloudjob.catalog.dates import parse_dates
from cloudjob.catalog.presets import catalog_for
from cloudjob.catalog.search import search
from cloudjob.errors import ContractError, SceneError, UsageError
from cloudjob.model import checkpoint
from cloudjob.plan.request import request
from cloudjob.scene.describe import describe
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

ASKED = {"bbox": (11, 46, 12, 47), "dates": "2024-06"}


def cube(
    *, step: float = 10, dtype: str = "float32", bright: float = 0.3, dims: tuple[str, ...] = ("band", "y", "x")
) -> xr.DataArray:
    values = (np.random.default_rng(0).random((4, 32, 32)) * bright).astype(dtype)
    coordinates = {"band": ["red", "green", "blue", "nir"], "y": np.arange(32) * -step, "x": np.arange(32) * step}
    return xr.DataArray(values, dims=("band", "y", "x"), coords=coordinates).rename(
        dict(zip(("band", "y", "x"), dims, strict=True))
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (cube(dtype="uint16", bright=9000), r"numbers \(uint16\), not reflectance"),
        (cube().to_dataset("band"), "not a Dataset"),
        (cube().isel(band=0), "no dimension band; it has y, x"),
        (np.zeros((4, 32, 32)), "DataArray, not ndarray"),
    ],
)
def test_what_is_no_cube_of_reflectance(given: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        cloudjob.mask(given)


LISTED_BY_NUMBER = cube(bright=1.5).isel(band=[2, 1, 0, 3])
LISTED_BY_NUMBER = LISTED_BY_NUMBER.assign_coords(
    common_name=("band", LISTED_BY_NUMBER.band.to_numpy()), band=["B02", "B03", "B04", "B08"]
)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (cube(bright=1.5).to_dataset("band").to_array(), "no dimension band; it has variable, y, x"),
        (cube(bright=1.5, dims=("bands", "lat", "lon")), "no dimension band, y, x; it has bands, lat, lon"),
        (cube(bright=1.5, dims=("band", "Y", "X")), "no dimension y, x"),
        (cube(bright=1.5, step=1e-4, dims=("band", "latitude", "longitude")), "no dimension y, x"),
        (LISTED_BY_NUMBER.drop_vars("common_name"), "the bands B02, B03, B04, B08 but not blue, green, nir, red"),
        (cube(bright=1.5).assign_coords(band=["Red", "Green", "Blue", "NIR"]), "but not blue, green, nir, red"),
        (LISTED_BY_NUMBER, "the bands B02, B03, B04, B08 but not blue, green, nir, red"),
    ],
)
def test_the_hint_names_what_other_tools_call_otherwise(given: xr.DataArray, says: str) -> None:
    with pytest.raises((UsageError, ContractError), match=says) as caught:
        cloudjob.mask(given)
    hint = (caught.value.hint or "").removeprefix("rename them, for example ")
    np.testing.assert_array_equal(cloudjob.mask(eval(hint, {"cube": given})), cloudjob.mask(cube(bright=1.5)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": 2}, "threshold is 2; expected"),
        ({"threshold": 0}, "threshold is 0; expected"),
        ({"threshold": float("nan")}, "threshold is nan; expected"),
        ({"buffer": -5}, "buffer is -5; expected metres"),
        ({"buffer": float("inf")}, "buffer is inf; expected metres"),
        ({"buffer": "wide"}, "buffer is 'wide'; expected a number"),
        ({"threshold": [0.4]}, r"threshold is \[0\.4\]; expected a number"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        cloudjob.mask(cube(), **options)


@pytest.mark.parametrize(
    ("bright", "refused"), [(9000, True), (100, True), (1e-4, True), (3, False), (0.9, False), (0.02, False)]
)
def test_values_that_cannot_be_reflectance(bright: float, refused: bool) -> None:
    if refused:
        with pytest.raises(ContractError, match="cannot be reflectance") as caught:
            cloudjob.mask(cube(bright=bright))
        assert "/ 10_000" in (caught.value.hint or "")
        assert "earthsearch:boa_offset_applied" in (caught.value.hint or "")
        with pytest.raises(ContractError, match="cannot be reflectance"):
            cloudjob.mask(cube(bright=bright).chunk()).compute(scheduler="synchronous")
    else:
        assert set(np.unique(cloudjob.mask(cube(bright=bright)))) <= {0, 1}


def test_a_scene_without_any_data_is_none() -> None:
    assert (cloudjob.mask(cube() * np.nan) == 254).all()


@pytest.mark.parametrize("step", [60, 5, 3])
def test_pixels_of_a_size_nobody_measured(step: float) -> None:
    with pytest.raises(ContractError, match=f"pixels of {step} m; the network's masks were measured with"):
        cloudjob.mask(cube(step=step))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("turned", [{"y"}, {"x"}, {"y", "x"}])
def test_a_cube_is_seen_as_scenes_lie_however_its_axes_run(turned: set[str], lazy: bool) -> None:
    given = cube(bright=1.0)
    expected = cloudjob.mask(given)
    assert 0.05 < float(expected.mean()) < 0.95
    upside = given.isel({axis: slice(None, None, -1) for axis in turned})
    found = cloudjob.mask(upside.chunk(y=10) if lazy else upside)
    assert found.y.equals(upside.y)
    assert found.x.equals(upside.x)
    xr.testing.assert_equal(found.compute(scheduler="synchronous").sel(y=given.y, x=given.x), expected)


@pytest.mark.parametrize("one", [{"y": [0]}, {"x": [0]}, {"y": [0], "x": [0]}])
def test_one_row_or_column_has_pixels_of_the_others_size(one: dict[str, list[int]]) -> None:
    line = cube(step=20).isel(one)
    assert cloudjob.mask(line).shape == line.shape[1:]


@pytest.mark.parametrize("none", [-9999, -0.9999, np.inf, -np.inf, -3.4e38])
def test_numbers_that_stand_for_no_data(none: float) -> None:
    """They were taken for ground, and around them too the network saw what is not there."""
    given, expected = cube(), cube()
    given[{"band": 1, "y": slice(3, 9), "x": slice(4)}] = none
    expected[{"y": slice(3, 9), "x": slice(4)}] = np.nan
    xr.testing.assert_equal(cloudjob.mask(given), cloudjob.mask(expected))


def test_a_checkpoint_that_was_trained_on_is_loaded_anew(tmp_path: Path) -> None:
    net = jobs.brightness_checkpoint(tmp_path / "net.safetensors")
    late = cloudjob.mask(cube().chunk(), checkpoint=net)
    for more, cloudy in ((100, True), (-200, False)):
        trained = checkpoint.load(net)
        trained.unet.final.bias.data += more
        checkpoint.save(trained.unet, trained.contract, net)
        assert (cloudjob.mask(cube(), checkpoint=net) == cloudy).all()
    with pytest.raises(ContractError, match="is another one than when"):
        late.compute(scheduler="synchronous")


def test_degrees() -> None:
    degrees = cube(step=1e-4)
    assert cloudjob.mask(degrees).dtype == np.uint8
    with pytest.raises(UsageError, match="y and x are in degrees, and clouds are to be widened by 20 metres"):
        cloudjob.mask(degrees, buffer=20)


@pytest.mark.parametrize("how", ["stackstac", "odc-stac"])
def test_web_mercators_metres_are_not_those_on_the_ground(how: str) -> None:
    """At 60 degrees its 20 m are 10: they were taken for 20, clouds widened by half, and its 10 m for good."""

    def mercator(step: float) -> xr.DataArray:
        made = cube(step=step, bright=1.0).assign_coords(y=8_399_737 - step * np.arange(32))
        if how == "stackstac":
            return made.assign_attrs(crs="epsg:3857")
        return made.assign_coords(spatial_ref=xr.Variable((), 3857, {"crs_wkt": CRS(3857).to_wkt()}))

    with pytest.raises(ContractError, match=r"pixels of 5 m; the network's masks were measured"):
        cloudjob.mask(mercator(10))
    for buffer in (0, 34):
        expected = cloudjob.mask(cube(step=10, bright=1.0), buffer=buffer).to_numpy()
        assert len(np.unique(expected)) == 2
        np.testing.assert_array_equal(cloudjob.mask(mercator(20), buffer=buffer).to_numpy(), expected)
    for odd in ("nowhere", "epsg:4326", np.zeros(2)):
        assert cloudjob.mask(cube().assign_attrs(crs=odd)).shape == (32, 32)
    moved = cube().assign_coords(spatial_ref=xr.Variable((), 0, {"crs_wkt": CRS(32633).to_wkt()}))
    assert cloudjob.mask(moved.assign_attrs(crs="epsg:3857")).shape == (32, 32)


def test_an_option_that_is_misspelt() -> None:
    with pytest.raises(UsageError, match="no option 'treshold'") as caught:
        cloudjob.run(**ASKED, out="out", treshold=0.4)
    assert caught.value.hint == "did you mean threshold?"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"out": None}, "the output is None; expected a folder"),
        ({"threshold": "high"}, "threshold is 'high'; expected a number"),
        ({"max_cloud_cover": "10 %"}, "max_cloud_cover is '10 %'; expected a number"),
        ({"limit": "3"}, "limit is '3'; expected a whole number"),
        ({"limit": 0}, "limit is 0; expected 1 or more"),
        ({"workers": 1.5}, "workers is 1.5; expected a whole number"),
        ({"workers": 0}, "workers is 0; expected 1 or more"),  # It was one per core; and -1 waited for one to come
        ({"bbox": "1234"}, "bbox is '1234'; expected west, south, east, north"),
        ({"assets": ["red"]}, r"assets is \['red'\]; expected a dict"),
        ({"assets": {"red": None}}, r"assets is {'red': None}; expected a dict"),
        ({"collection": ["a", "b"]}, r"collection is \['a', 'b'\]; expected a name"),
        ({"checkpoint": 3}, "checkpoint is 3; expected a file or a name"),
        ({"catalog": None}, "catalog is None; expected STAC items"),
        ({"probability": "no"}, "probability is 'no'; expected True or False"),
        ({"redo": "False"}, "redo is 'False'; expected True or False"),
        ({"offset": "none"}, "offset is 'none'; expected a number"),
        ({"offset": -1000}, "offset of reflectance is -1000; expected above -1 and below 0.05"),
        ({"offset": 0.1}, "offset of reflectance is 0.1; expected"),  # ESA's without its sign
        ({"retry": True}, "retry has True; expected ids of scenes"),
        ({"retry": [7]}, "retry has 7; expected ids of scenes"),
    ],
)
def test_arguments_of_another_type(
    options: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them makes an OUT: one with a `probability` of "no" was refused by every later run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says):
        cloudjob.run(**{**ASKED, "out": "out", **options})
    assert not list(tmp_path.iterdir())


def test_what_errors_advise_can_be_said_in_python_too(tmp_path: Path) -> None:
    """`--offset` where items tell a wrong one, `--retry` of what was given up, and `--cog` were for the shell alone."""
    out = tmp_path / "out"
    asked = {
        "bbox": (-180, -90, 180, 90),
        "dates": "2024",
        "out": out,
        "catalog": jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "A")]),
        "checkpoint": jobs.brightness_checkpoint(tmp_path / "net.safetensors"),
    }
    with LocalCluster(1, processes=False, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        (made,) = cloudjob.run(**asked, offset=-0.1, client=client)
        assert made.state == "done"
        (item,) = jobs.items(out).values()
        told = json.loads(item)["properties"]["cloudjob:reflectance"].values()
        assert {band["offset"] for band in told} == {-0.1}
        assert cloudjob.run(**asked, offset=-0.1, retry="all", client=client) == []
        assert cloudjob.run(**asked, offset=-0.1, cog=True, client=client) == []
        (item,) = jobs.items(out).values()
        (made,) = out.glob("cogs/*/*.tif")
        assert json.loads(item)["assets"]["mask"]["href"].endswith(str(made.relative_to(out)))
        made.unlink()
        for shard in out.glob("masks.zarr/*/cloud/c/0/*/*"):
            shard.write_bytes(b"damaged")
        with pytest.warns(UserWarning, match="check OUT --repair"):
            assert cloudjob.run(**asked, offset=-0.1, cog=True, client=client) == []
        for retry in ("OTHER", ["OTHER"]):
            with pytest.raises(UsageError, match="has no failed scene OTHER"):
                cloudjob.run(**asked, offset=-0.1, retry=retry, client=client)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "A")])
    asked = request(
        bbox=(-180, -90, 180, 90),
        dates="2024",
        out=tmp_path / "out",
        catalog=catalog,
        threshold=spoken.number("threshold", np.float32(0.5)),
        probability=spoken.flag("probability", np.True_),
    )
    assert json.loads(json.dumps(asked.settings.to_json()))["probability"] is True


@pytest.mark.parametrize("said", [False, True, 0, 1, np.False_, np.True_, np.int64(0), np.int64(1)])
def test_yes_and_no_as_python_says_them(said: Any) -> None:
    assert spoken.flag("redo", said) is bool(said)


def test_a_band_that_comes_twice() -> None:
    with pytest.raises(ContractError, match="the band green more than once"):
        cloudjob.mask(cube().assign_coords(band=["red", "green", "green", "nir"]))
    edges = cube().isel(band=[0, 0, 1, 2, 3]).assign_coords(band=["rededge", "rededge", "green", "blue", "nir"])
    named = xr.concat([edges, cube().isel(band=[0])], "band")  # Of a band that nobody needs that is no matter
    xr.testing.assert_equal(cloudjob.mask(named), cloudjob.mask(cube()))


@pytest.mark.parametrize(
    ("number", "says"),
    [(3, "load those, too"), (4, "say of each of 1, 2, 3, 4, in its place, whether it is red, green, blue, nir")],
)
def test_a_hint_where_nobody_knows_which_band_is_which(number: int, says: str) -> None:
    given = cube().isel(band=slice(number))
    with pytest.raises(ContractError) as caught:
        cloudjob.mask(given if number == 3 else given.assign_coords(band=[1, 2, 3, 4]))
    assert says in (caught.value.hint or "")


def test_a_hint_is_seen_in_python_too(tmp_path: Path) -> None:
    script = f"import cloudjob; cloudjob.open({str(tmp_path)!r})"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr
    assert said.endswith("holds no masks\nhint: `cloudjob run --out` makes some\n")


def test_a_hint_comes_back_from_a_worker_once() -> None:
    error = pickle.loads(pickle.dumps(UsageError("no", hint="do that")))
    assert (error.hint, error.__notes__) == ("do that", ["hint: do that"])


def test_a_band_that_is_misspelt(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names a band 'rde'") as caught:
        cloudjob.run(**ASKED, out=tmp_path / "out", assets={"rde": "B04"})
    assert "did you mean red" in (caught.value.hint or "")


def test_a_client_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a str; expected a dask\.distributed\.Client"):
        cloudjob.run(**ASKED, out=tmp_path / "out", client="tcp://127.0.0.1:8786")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_asynchronous_client_is_refused_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Scheduler(port=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as scheduler,
            Client(scheduler.address, asynchronous=True) as client,
        ):
            cloudjob.run(**ASKED, out=tmp_path / "out", client=client)

    with pytest.raises(UsageError, match="client is asynchronous"):
        asyncio.run(main())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("10d", "10d"),
        (date(2024, 6, 1), "2024-06-01"),
        ((date(2024, 6, 1), "2024-06-30"), "2024-06-01/2024-06-30"),
        (("2024-06-01", None), "2024-06-01/.."),
        (datetime(2024, 6, 1, 23, tzinfo=UTC), "2024-06-01"),
        # Days are UTC's: it is the evening before
        (datetime(2024, 6, 1, 5, tzinfo=timezone(timedelta(hours=10))), "2024-05-31"),
        ((pd.Timestamp("2024-06-01T23:00-05:00"), None), "2024-06-02/.."),
    ],
)
def test_dates(given: object, text: str) -> None:
    assert spoken.interval(given) == text


@pytest.mark.parametrize("given", [2024, (1, 2), ("2024", "2025", "2026"), None, pd.NaT, ("2024", pd.NaT)])
def test_what_are_no_dates(given: object) -> None:
    with pytest.raises(UsageError, match="dates is"):
        spoken.interval(given)


def test_items_become_files_for_as_long_as_they_are_needed(tmp_path: Path) -> None:
    square = shapely.box(11, 46, 12, 47)
    item = jobs.make_scene(tmp_path, "A")
    for geometry in (square, shapely.geometry.mapping(square)):
        with spoken.files(geometry, [item, pystac.Item.from_dict(item)]) as (area, catalog):
            assert shapely.geometry.shape(area).equals(square)
            assert [each["id"] for each in json.loads(Path(catalog).read_text())["features"]] == ["A", "A"]
        assert not Path(catalog).exists()
    with pytest.raises(UsageError, match="geometry is a int"), spoken.files(3, "earth-search"):
        pass
    with pytest.raises(UsageError, match="a int is no STAC item"), spoken.files(None, [3]):
        pass
    item["assets"]["thumbnail"] = {"href": "./thumbnail.png"}  # Which no mask is made of
    odd = {**item, "links": 3}
    with spoken.files(None, [item, odd]) as (_, catalog):
        for each in json.loads(Path(catalog).read_text())["features"]:
            assert describe(each, {band: band for band in BANDS}, BANDS, 10).href == item["assets"]["red"]["href"]
    item["assets"] = {"red": {"href": "./A/red.tif"}}  # Relative to what?
    for lost in (item, pystac.Item.from_dict(item)):
        with pytest.raises(UsageError, match=r"item A has a file at '\./A/red\.tif'"), spoken.files(None, [lost]):
            pass
    item["links"] = [{"rel": "self", "href": str(tmp_path / "A.json")}]
    with spoken.files(None, [item, pystac.Item.from_dict(item)]) as (_, catalog):
        hrefs = [each["assets"]["red"]["href"] for each in json.loads(Path(catalog).read_text())["features"]]
        assert hrefs == ["./A/red.tif", str(tmp_path / "A" / "red.tif")]


@pytest.mark.parametrize("own", [[], [{"rel": "self", "href": "./A.json"}], [{"rel": "self"}]])
def test_a_band_of_an_item_that_lies_nowhere_is_told(own: list[dict[str, str]], tmp_path: Path) -> None:
    """It was looked for in a folder of ours, gone by then and another in every run."""
    item = jobs.make_scene(tmp_path, "A")
    item["links"] = own
    item["assets"]["nir"]["href"] = "./A/nir.tif"
    with spoken.files(None, [item]) as (_, catalog):
        (found,) = search(catalog_for(catalog), parse_bbox(-180, -85, 180, 85), parse_dates("2024", date(2025, 1, 1)))
    with pytest.raises(SceneError, match=r"its? lies at './A/nir.tif', and its item does not say where it lies itself"):
        describe(found, {band: band for band in BANDS}, BANDS, 10)


SCRIPT = """
import cloudjob
cloudjob.run(bbox=(-180, -90, 180, 90), dates="2000/..", catalog={catalog!r}, out={out!r}, workers=1)
"""


def test_a_script_without_a_main_guard_is_told_so_in_one_sentence(tmp_path: Path) -> None:
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "A")])
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(catalog=str(catalog), out=str(tmp_path / "out")))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode != 0
    assert "__main__" in done.stderr
    assert len(done.stderr.splitlines()) < 40, done.stderr
    assert not (tmp_path / "out").exists()


@needs_real_scenes
def test_raw_numbers_of_a_real_scene_are_no_clear_sky() -> None:
    import rasterio

    with rasterio.open(REAL.parent / "ocn-chip1" / "red.tif") as file:
        raw = xr.DataArray(np.stack([file.read(1)] * 4), dims=("band", "y", "x"))
    with pytest.raises(UsageError, match="not reflectance"):
        cloudjob.mask(raw)


class Struck(type):
    """Where an event is looked at, Ctrl-C strikes."""

    def __instancecheck__(cls, _: object) -> bool:
        raise KeyboardInterrupt


def test_who_keeps_the_traceback_of_a_ctrl_c_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook does: its next cell was told that another run was at work, which was this very process."""
    out = tmp_path / "out"
    monkeypatch.setattr(embed, "SceneResult", Struck("Struck", (), {}))
    with pytest.raises(KeyboardInterrupt) as kept:
        cloudjob.run(**ASKED, catalog=[], out=out)
    with Lock(Out.at(out)):
        pass
    assert kept.tb
