"""Short-wave infrared where a scene has it: one checkpoint, with and without, and the same values however it is cut."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import rasterio
import xarray as xr
from scenes import BANDS, write_cog

from cloudjob import embed, job
from cloudjob.cluster import network, task
from cloudjob.model import predict
from cloudjob.model.checkpoint import load
from cloudjob.plan.request import request
from cloudjob.scene.describe import describe

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


def test_with_and_without_and_however_it_is_cut(
    checkpoint: Path, items: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = predict.prepare(load(checkpoint), "cpu")

    def here(_: object, __: object, work: Iterable[tuple[str, task.Task]]) -> Iterator[tuple[task.Task, Any]]:
        for _, part in work:
            yield part, task.mask_tiles(part, model)

    monkeypatch.setattr(network, "load", lambda *_: None)
    monkeypatch.setattr(job, "stream", here)
    catalog = jobs.write_catalog(tmp_path / "items.json", items)
    masks: dict[int, dict[str, np.ndarray]] = {}
    for lanes in (1, 3):  # one task for a scene, or one for each row of its tiles
        monkeypatch.setattr(job, "lane_count", lambda _, lanes=lanes: 2 * lanes)
        where: Any = {"bbox": (-180, -90, 180, 90), "dates": "2000/..", "out": tmp_path / str(lanes)}
        list(job.run(request(catalog=catalog, checkpoint=checkpoint, **where), lambda: nullcontext(None)))  # type: ignore[arg-type]
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
