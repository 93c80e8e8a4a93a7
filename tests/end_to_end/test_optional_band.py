"""Short-wave infrared where a scene has it: one checkpoint, with and without, and the same values however it is cut."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import rasterio
import xarray as xr
from click.testing import CliRunner
from file_server import Fault, file_server
from scenes import BANDS, write_cog

from cloudjob import cli, embed
from cloudjob.cluster import task
from cloudjob.errors import OutageError, UnreachableError
from cloudjob.model import predict
from cloudjob.model.checkpoint import load
from cloudjob.scene.describe import describe
from cloudjob.store import ledger, listing
from cloudjob.store.listing import Listed
from cloudjob.store.out import Out

FIVE = (*BANDS, "swir16")
SHAPE = (150, 139)
ASSETS = {band: band for band in FIVE}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jobs.random_checkpoint(
        tmp_path_factory.mktemp("five") / "net.safetensors",
        bands=FIVE,
        mean=(0.2,) * 5,
        std=(0.2,) * 5,
        optional_bands=("swir16",),
        absent_fill=-0.25,
    )


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One scene with the band, in pixels of 20 m, and one without."""
    folder = tmp_path_factory.mktemp("scenes")
    made = [
        jobs.make_scene(folder, name, f"2024-06-0{day}T10:15:59Z", shape=SHAPE, seed=3)
        for day, name in enumerate(("WITH", "WITHOUT"), start=1)
    ]
    rng = np.random.default_rng(5)
    coarse = rng.integers(1, 9000, (75, 70), np.uint16)
    coarse[30:33, 40:44] = 0  # no data in this band alone
    grid = (20, 0, 600_000, 0, -20, 5_200_020)
    write_cog(folder / "swir16.tif", coarse, grid, blocksize=64)
    made[0]["assets"]["swir16"] = {
        **made[0]["assets"]["red"],
        "href": str(folder / "swir16.tif"),
        "proj:shape": [75, 70],
        "proj:transform": list(grid),
    }
    return made


def expected(item: dict[str, Any], model: predict.Model) -> np.ndarray:
    """The mask by numpy: files as they are, pixels of 20 m repeated."""
    planes = []
    for band in FIVE:
        if band not in item["assets"]:
            planes.append(np.full(SHAPE, np.nan, np.float32))
            continue
        with rasterio.open(item["assets"][band]["href"]) as file:
            numbers = file.read(1)
        if band == "swir16":
            numbers = numbers.repeat(2, 0).repeat(2, 1)[: SHAPE[0], : SHAPE[1]]
        values = numbers * np.float32(1e-4)
        planes.append(np.where(numbers == 0, np.float32(np.nan), values))
    return predict.mask(model, np.stack(planes), pixel=(10, 10))


def test_with_and_without_and_however_it_is_cut(checkpoint: Path, items: list[dict[str, Any]], tmp_path: Path) -> None:
    model = predict.prepare(load(checkpoint), "cpu")
    catalog = jobs.write_catalog(tmp_path / "items.json", items)
    masks: dict[int, dict[str, np.ndarray]] = {}
    for lanes in (1, 3):  # one task for a scene, or one for each row of its tiles
        jobs.run_here(catalog, checkpoint, tmp_path / str(lanes), lanes=2 * lanes)
        masks[lanes] = {name: jobs.mask_of(tmp_path / str(lanes), name) for name in ("WITH", "WITHOUT")}
    for item in items:
        wanted = expected(item, model)
        for found in masks.values():
            np.testing.assert_array_equal(found[item["id"]], wanted)
    assert (masks[1]["WITH"] != masks[1]["WITHOUT"]).any(), "the band changes nothing"
    assert "swir16" in jobs.item_of(tmp_path / "1", "WITH")["properties"]["cloudjob:reflectance"]
    assert "swir16" not in jobs.item_of(tmp_path / "1", "WITHOUT")["properties"]["cloudjob:reflectance"]


def test_a_fingerprint_tells_which_bands_there_were(items: list[dict[str, Any]]) -> None:
    five, four = (describe(items[0], ASSETS, bands, 10, optional=("swir16",)) for bands in (FIVE, BANDS))
    assert [band.name for band in five.bands] == list(FIVE)
    assert five.fingerprint != four.fingerprint
    assert five.group == four.group
    without = describe(items[1], ASSETS, FIVE, 10, optional=("swir16",))
    assert [band.name for band in without.bands] == list(BANDS)
    assert without.fingerprint == describe(items[1], ASSETS, BANDS, 10).fingerprint, "as before there was such a band"
    both = describe(items[0], ASSETS, FIVE, 10, optional=("nir", "swir16"))
    assert [each.left_out[0].name for each in both.spares] == ["nir", "swir16"]
    assert not any(each.spares for each in both.spares), "without both nobody has measured it"


def test_cubes_with_and_without(checkpoint: Path) -> None:
    values = np.random.default_rng(1).uniform(0.01, 0.9, (5, 96, 96)).astype(np.float32)
    coordinates = {"band": list(FIVE)}
    five = xr.DataArray(values, dims=("band", "y", "x"), coords=coordinates)
    absent = values.copy()
    absent[4] = np.nan
    model = predict.prepare(load(checkpoint), "cpu")
    for cube in (five.sel(band=list(BANDS)), xr.DataArray(values[:4], dims=("band", "y", "x"))):
        np.testing.assert_array_equal(embed.mask(cube, checkpoint=checkpoint), predict.mask(model, absent))
    np.testing.assert_array_equal(embed.mask(five[::-1], checkpoint=checkpoint), predict.mask(model, values))


@dataclass
class Nights:
    """Runs on one OUT, each a night after the other, with the scene that has the band in a copy of its own.

    Attributes:
        folder: of the copy; OUT lies beside it.
        checkpoint: with the optional band.
        item: of the scene.
    """

    folder: Path
    checkpoint: Path
    item: dict[str, Any]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def band(self) -> Path:
        return self.folder / "swir16.tif"

    def run(self, *more: dict[str, Any], item: dict[str, Any] | None = None, **options: Any) -> dict[str, Listed]:
        """What the OUT holds after another night."""
        catalog = jobs.write_catalog(self.folder / "items.json", [item or self.item, *more])
        with suppress(UnreachableError):  # No scene of the server can be read
            jobs.run_here(catalog, self.checkpoint, self.out, **options)
        jobs.a_day_passes(self.out)
        return {scene.id: scene for scene in listing.scenes(Out.at(self.out))}

    def told(self) -> dict[str, Any]:
        """Properties of the scene's item in the OUT."""
        found: dict[str, Any] = jobs.item_of(self.out, "WITH")["properties"]
        return found

    def expected(self, *, band: bool) -> np.ndarray:
        """The mask with the band, or without."""
        assets = {key: asset for key, asset in self.item["assets"].items() if band or key != "swir16"}
        return expected({"assets": assets}, predict.prepare(load(self.checkpoint), "cpu"))


@pytest.fixture
def nights(checkpoint: Path, items: list[dict[str, Any]], tmp_path: Path) -> Nights:
    item = json.loads(json.dumps(items[0]))
    for asset in item["assets"].values():
        shutil.copy(asset["href"], tmp_path / Path(asset["href"]).name)
        asset["href"] = str(tmp_path / Path(asset["href"]).name)
    return Nights(tmp_path, checkpoint, item)


def damage(path: Path) -> None:
    """Leave a header, and nothing that can be unpacked."""
    content = path.read_bytes()
    path.write_bytes(content[:600] + b"\xff" * (len(content) - 600))


WITHOUT_IT = "masked without swir16: its file was at fault on 3 nights"


def test_a_band_broken_for_good_costs_no_mask_whatever_the_name_of_the_scene(nights: Nights) -> None:
    """Which band it was about was found in the error's words, from which all that may be a secret is taken out."""
    nights.item["id"] = "WITH.SAFE?part=1"
    nights.band.unlink()
    states = [nights.run()[nights.item["id"]].state for _ in range(4)]
    assert states == ["failed", "failed", "failed", "done"]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("broken", [Path.unlink, damage])
def test_a_band_broken_for_good_costs_no_mask(broken: Callable[[Path], None], nights: Nights, *, told: bool) -> None:
    whole = nights.band.read_bytes()
    broken(nights.band)
    if not told:  # Its grid stands in the file alone: the scene was refused when planning, for ever
        del nights.item["assets"]["swir16"]["proj:transform"]
    for night in (1, 2, 3):
        state = nights.run()["WITH"]
        assert state.state == "failed"
        assert state.reason.startswith("scene WITH, asset swir16: ")
        assert state.reason.endswith("; the next run masks it without swir16") == (night == 3)
    elsewhere = {"dates": "2023-01"}  # What failed is tried again whatever the dates
    assert nights.run(**elsewhere)["WITH"].state == "done"
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=False))
    assert nights.told()["cloudjob:warnings"] == [WITHOUT_IT]
    assert "swir16" not in nights.told()["cloudjob:reflectance"]
    assert not any((nights.out / "failures").iterdir())
    before = jobs.kept(nights.out)
    nights.run()
    assert jobs.kept(nights.out) == before, "tried again, though its item is the same"
    nights.band.with_name("late.tif").write_bytes(whole)
    nights.item["assets"]["swir16"]["href"] = str(nights.band.with_name("late.tif"))
    assert nights.run()["WITH"].state == "done"
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=True))
    assert "cloudjob:warnings" not in nights.told()


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"href": "red.tif"}, "its assets red and swir16 are one file, "),
        ({"href": "https://[::x/swir16.tif"}, "asset swir16: an asset lies at 'https://[::x/swir16.tif'"),
        ({"href": "data:" + "x" * 5000}, "asset swir16: its asset swir16 lies at 'data:"),
        ({"href": ""}, "asset swir16: its asset swir16 has no href"),
        ({"type": "application/x-hdf5"}, "asset swir16: it is application/x-hdf5"),
        ({"data_type": "float64"}, "asset swir16: its numbers are float64"),
        ({"data_type": "uint8", "raster:scale": 1}, "asset swir16: its numbers are bytes"),
        ({"raster:scale": 0}, "asset swir16: its scale is 0"),
        ({"raster:offset": -1000}, "asset swir16: its offset is -1000"),
        ({"proj:shape": "x"}, "asset swir16: its proj:shape is 'x'"),
        ({"proj:transform": [20, 0, 609_000, 0, -20, 5_200_020]}, "its assets red and swir16 lie apart: "),
        ({"proj:epsg": 32632}, "its assets red and swir16 lie apart: "),
        ({"proj:epsg": 99_999}, "asset swir16: its projection makes no sense: "),
        ({"proj:transform": [14, 14, 600_000, 14, -14, 5_200_020]}, "asset swir16: its grid is not north-up"),
        ({"proj:shape": [75, 700_000]}, "asset swir16: it has 75 × 700000 pixels"),
    ],
)
def test_a_band_that_its_item_gets_wrong_costs_nothing(told: dict[str, Any], says: str, nights: Nights) -> None:
    """No night will mend it. It cost the whole scene."""
    item = json.loads(json.dumps(nights.item))
    if told.get("href") == "red.tif":
        told = {"href": item["assets"]["red"]["href"]}
    item["assets"]["swir16"] |= told
    assert nights.run(item=item)["WITH"].state == "done"
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=False))
    (warning,) = nights.told()["cloudjob:warnings"]
    assert warning.startswith(f"masked without swir16: {says}")
    before = jobs.kept(nights.out)
    nights.run(item=item)
    assert jobs.kept(nights.out) == before
    assert nights.run()["WITH"].state == "done"
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=True))


def test_a_plan_tells_why_a_band_is_left_out(nights: Nights) -> None:
    """It said "changed", and no word of the band."""
    item = json.loads(json.dumps(nights.item))
    item["assets"]["swir16"]["proj:epsg"] = 99_999
    jobs.write_catalog(nights.folder / "items.json", [item])
    what = ["plan", *jobs.EVERYWHERE, "--catalog", str(nights.folder / "items.json")]
    what += ["--checkpoint", str(nights.checkpoint), "--out", str(nights.out)]
    told = CliRunner().invoke(cli.cli, what, catch_exceptions=False).stdout.splitlines()
    says = "asset swir16: its projection makes no sense: "
    assert told[1].startswith(f"               without swir16: {says}")
    (scene,) = json.loads(CliRunner().invoke(cli.cli, [*what, "--json"], catch_exceptions=False).stdout)["scenes"]
    assert scene["without"]["swir16"].startswith(says)


def reprocessed(item: dict[str, Any]) -> dict[str, Any]:
    """A newer version of WITH."""
    newer: dict[str, Any] = json.loads(json.dumps(item).replace('"WITH"', '"NEWER"'))
    newer["properties"] |= {"s2:processing_baseline": "05.10", "s2:generation_time": "2024-08-01T00:00:00Z"}
    newer["properties"]["earthsearch:boa_offset_applied"] = True
    return newer


def test_a_finished_mask_with_the_band_stays_where_its_item_has_come_to_get_it_wrong(nights: Nights) -> None:
    """It was made anew without the band."""
    nights.run()
    before = jobs.items(nights.out)
    wrong = json.loads(json.dumps(nights.item))
    wrong["assets"]["swir16"]["raster:scale"] = 0
    newer = reprocessed(wrong)
    for item in (wrong, newer):
        for _ in range(4):
            nights.run(item=item)
        failure = ledger.read(Out.at(nights.out)).failures[item["id"]]
        assert failure.abandoned
        assert "asset swir16: its scale is 0" in failure.reason
        assert "the mask that is there was made with swir16, and stays" in failure.reason
        assert jobs.items(nights.out) == before
        np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=True))
    nights.item["properties"]["updated"] = "2024-07-01T00:00:00Z"
    nights.item["assets"]["swir16"]["raster:offset"] = 0.01
    assert nights.run()["WITH"].state == "done", "mended, it is made anew"


def several(path: Path) -> None:
    with rasterio.open(path) as file:
        profile, numbers = file.profile, file.read(1)
    with rasterio.open(path, "w", **profile | {"count": 3, "driver": "GTiff"}) as file:
        file.write(np.stack([numbers] * 3))


def rewritten(**how: Any) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        shape, kind, factor = how.get("shape", (75, 70)), how.get("kind", np.uint16), how.get("factor", 1)
        numbers = np.full(shape, 900 * factor, kind)
        numbers[:30] *= 2
        write_cog(path, numbers, (20, 0, 600_000, 0, -20, 5_200_020), how.get("epsg", 32633), blocksize=64)

    return rewrite


@pytest.mark.parametrize(
    "broken",
    [
        several,
        rewritten(shape=(70, 75)),
        rewritten(epsg=32632),
        rewritten(kind=np.float64),
        rewritten(kind=np.uint8, factor=0),
        rewritten(factor=30),
    ],
    ids=["3 bands", "size", "projection", "float64", "bytes", "all above 2"],
)
def test_a_file_of_something_else_costs_no_mask(broken: Callable[[Path], None], nights: Nights) -> None:
    broken(nights.band)
    for _ in range(3):
        state = nights.run()["WITH"]
        assert state.state == "failed"
        assert "swir16" in state.reason
    assert nights.run()["WITH"].state == "done"
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=False))
    assert nights.told()["cloudjob:warnings"] == [WITHOUT_IT]


def test_a_band_that_comes_late_is_waited_for(nights: Nights) -> None:
    whole = nights.band.read_bytes()
    nights.band.unlink()
    assert nights.run()["WITH"].state == nights.run()["WITH"].state == "failed"
    nights.band.write_bytes(whole)
    assert nights.run()["WITH"].state == "done"
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=True))


@pytest.mark.parametrize("fault", [503, 403, 404, "html"])
def test_no_outage_gives_a_mask_without_the_band(fault: Fault, nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudjob.scene.opened.ATTEMPTS", 1)
    monkeypatch.setattr("cloudjob.cluster.task.PAUSE", 0)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    wanted = nights.expected(band=True)
    with file_server(nights.folder) as server, file_server(nights.folder) as another:
        for key, asset in nights.item["assets"].items():
            # Of a server that has only this band nothing tells whether it is out, or has one bad file
            host = another if (key, fault) == ("swir16", 404) else server
            asset["href"] = f"{host.url}/{Path(asset['href']).name}"
            host.disturb("swir16", lasting=fault)
        for _ in range(5):
            state = nights.run()["WITH"]
            assert "asset swir16" in state.reason
        assert state.state == ("abandoned" if fault == 404 else "failed")
        server.calm(), another.calm()
        nights.run(retry=("WITH",))
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), wanted)


def test_an_outage_when_it_is_tried_without_changes_nothing(nights: Nights) -> None:
    nights.band.unlink()
    for _ in range(3):
        nights.run()
    for path in (nights.out / "failures").iterdir():
        known = json.loads(path.read_text())

    def out(*_: object) -> None:
        raise OutageError("scene WITH: no route to host")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "mask_tiles", out)
        for _ in range(4):
            assert nights.run()["WITH"].state == "failed"
    told = json.loads(path.read_text())
    assert {name: told[name] for name in ("runs", "counted", "fingerprint", "assets")} == {
        name: known[name] for name in ("runs", "counted", "fingerprint", "assets")
    }
    assert nights.run()["WITH"].state == "done"
    assert nights.told()["cloudjob:warnings"] == [WITHOUT_IT]


def test_an_outage_of_the_band_after_the_scene_was_given_up_gives_no_mask_without_it(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given up for another file, and somebody has it tried again."""
    monkeypatch.setattr("cloudjob.scene.opened.ATTEMPTS", 1)
    monkeypatch.setattr("cloudjob.cluster.task.PAUSE", 0)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    wanted = nights.expected(band=True)
    with file_server(nights.folder) as server:
        for asset in nights.item["assets"].values():
            asset["href"] = f"{server.url}/{Path(asset['href']).name}"
        server.disturb("red", lasting=404)
        states = [nights.run()["WITH"].state for _ in range(4)]
        assert states == ["failed", "failed", "abandoned", "abandoned"]
        server.calm()
        server.disturb("swir16", lasting=503)
        state = nights.run(retry=("WITH",))["WITH"]
        assert "asset swir16" in state.reason
        assert "without swir16" not in state.reason
        server.calm()
        nights.run(retry=("WITH",))
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), wanted)


def test_a_killed_run_is_gone_on_with(nights: Nights) -> None:
    nights.band.unlink()
    for _ in range(3):
        nights.run()
    (record,) = (nights.out / "failures").iterdir()
    known = record.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(task, "mask_tiles", killed)
        nights.run()
    assert nights.run()["WITH"].state == "done"
    before = jobs.kept(nights.out)
    record.write_bytes(known)  # Killed between the item and what comes after it
    nights.run()
    assert {path: what[1] for path, what in jobs.kept(nights.out).items()} == {
        path: what[1] for path, what in before.items()
    }
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=False))


def test_a_finished_mask_with_the_band_stays(nights: Nights) -> None:
    assert nights.run()["WITH"].state == "done"
    before = jobs.items(nights.out)
    changed = json.loads(json.dumps(nights.item))
    changed["assets"]["swir16"]["href"] = str(nights.folder / "gone.tif")
    newer = reprocessed(changed)
    for item in (changed, newer):
        for _ in range(5):
            nights.run(item=item)
        state = {failure.id: failure for failure in ledger.read(Out.at(nights.out)).failures.values()}
        assert state[item["id"]].abandoned
        assert jobs.items(nights.out) == before
        np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=True))


def test_a_reprocessed_scene_with_a_broken_band_is_masked_once(nights: Nights) -> None:
    """Of two versions that nobody has masked yet the newer one counts, as ever."""
    nights.band.unlink()
    newer = reprocessed(nights.item)
    for _ in range(6):
        states = nights.run(newer)
    assert {name: state.state for name, state in states.items()} == {"NEWER": "done"}
    whole = nights.run()  # Of a catalog that lists the older one alone
    assert {name: state.state for name, state in whole.items()} == {"NEWER": "done"}


def test_a_scene_whose_other_bands_break_too_is_abandoned(nights: Nights) -> None:
    nights.band.unlink()
    for _ in range(3):
        nights.run()
    damage(nights.folder / Path(nights.item["assets"]["nir"]["href"]).name)
    for _ in range(3):
        state = nights.run()["WITH"]
        assert "asset nir" in state.reason
    assert state.state == "abandoned"
    assert nights.run()["WITH"] == state


def test_another_bands_fault_does_not_leave_it_out(nights: Nights) -> None:
    damage(nights.folder / Path(nights.item["assets"]["nir"]["href"]).name)
    for _ in range(4):
        state = nights.run()["WITH"]
        assert "asset nir" in state.reason
        assert "without" not in state.reason
    assert state.state == "abandoned"


def test_a_scene_of_no_data_is_empty_not_outside_of_the_area(nights: Nights) -> None:
    for band in BANDS:
        with rasterio.open(nights.item["assets"][band]["href"], "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.write(np.zeros_like(file.read()))
    assert nights.run()["WITH"].state == "done"
    assert (jobs.mask_of(nights.out, "WITH") == 254).all()
    assert "cloudjob:warnings" not in nights.told()


def test_a_mask_without_the_band_grows_without_it(nights: Nights) -> None:
    west, south, east, north = nights.item["bbox"]
    corner = (west, (south + north) / 2, (west + east) / 2, north)
    nights.band.unlink()
    for _ in range(4):
        nights.run(bbox=corner)
    part = jobs.mask_of(nights.out, "WITH")
    assert 0 < (part != 255).sum() < part.size
    assert nights.run()["WITH"].state == "done"
    np.testing.assert_array_equal(jobs.mask_of(nights.out, "WITH"), nights.expected(band=False))
    assert nights.told()["cloudjob:warnings"] == [WITHOUT_IT]
