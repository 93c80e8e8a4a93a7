"""A month of twelve scenes in two UTM zones, as somebody uses it: list, load, composite, frequency, export of all."""

import json
from pathlib import Path

import jobs
import numpy as np
import pytest
import rasterio
from faulty import call
from pyproj import Transformer

import cloudjob

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # rioxarray 0.19 with affine 3
    pytest.mark.filterwarnings("ignore:The argument 'infer_datetime_format':UserWarning"),  # stackstac with pandas 2
    pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning"),  # NumPy's, of pixels never seen clear
]

DAYS = (2, 7, 12, 17, 22, 27)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days of two places that overlap, one in the grid of zone 32 and one in that of zone 33."""
    folder = tmp_path_factory.mktemp("month")
    left, top = Transformer.from_crs(32633, 32632, always_xy=True).transform(601_000, 5_200_020)
    places = {32633: jobs.GRID, 32632: (10.0, 0.0, round(left, -1), 0.0, -10.0, round(top, -1))}
    items = [
        jobs.make_scene(
            folder,
            f"Z{epsg % 100}_{day:02}",
            f"2024-06-{day:02}T10:15:59Z",
            values=jobs.pattern(day + epsg % 100),
            transform=transform,
            epsg=epsg,
            properties={"grid:code": f"MGRS-{epsg % 100}TPM"},
        )
        for day in DAYS
        for epsg, transform in places.items()
    ]
    catalog = jobs.write_catalog(folder / "items.json", items)
    jobs.run_here(catalog, jobs.brightness_checkpoint(folder / "net.safetensors"), folder / "out")
    return folder / "out"


def test_the_list(month: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = call(capfd, "list", month, "--dates", "2024-06")
    assert len(told.stdout.splitlines()) == 12
    assert "12 scenes in 2 groups" in told.stderr
    part = call(capfd, "list", month, "--dates", "2024-06-10/2024-06-20", "--group", "32TPM", "--json")
    assert [json.loads(line)["id"] for line in part.stdout.splitlines()] == ["Z32_12", "Z32_17"]


def test_composite_and_frequency(month: Path) -> None:
    """The lines of the README, on one grid; each pixel is a median of what somebody saw clear there, or no data."""
    found = cloudjob.load("2024-06", month, ["red", "green", "blue"])
    assert found.rio.crs.to_epsg() == 32632, "as many scenes in both zones: the first"
    clear, seen = found.cloud == 0, found.cloud < 254
    looks = clear.sum("time").compute()
    picture = found[["red", "green", "blue"]].where(clear).median("time").compute()
    frequency = (found.cloud == 1).where(seen).mean("time").compute()
    assert found.sizes["time"] == 12
    np.testing.assert_array_equal(picture.red.isnull(), looks == 0)
    np.testing.assert_array_equal(frequency.isnull(), seen.sum("time").compute() == 0)
    assert looks.max() > 6, "where both zones lie, both count"
    of_33 = [name.startswith("33") for name in found.group.values]
    own = picture.red.where((found.cloud[of_33] == 255).all("time"))  # Pixels of 32's own grid alone
    assert float(own.max()) < 0.301, "no cloud is left: ground has at most 0.30"
    assert float((picture.red > 0.301).mean()) < 0.005, "at clouds' edges the other grid's pixels are mixed"
    assert 0 < float(frequency.mean()) < 0.5


def test_export_of_all(month: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = call(capfd, "export", month, "--all")
    assert told.code == 0
    written = told.stdout.splitlines()
    assert len(written) == 12
    zones = set()
    for path in written:
        with rasterio.open(path) as file:
            zones.add(file.crs.to_epsg())
            np.testing.assert_array_equal(file.read(1), jobs.mask_of(month, Path(path).stem))
    assert zones == {32632, 32633}
    days = call(capfd, "export", month, "2024-06", tmp_path / "days")
    assert len(days.stdout.splitlines()) == 12, "a file a day and group"
    assert call(capfd, "export", month, "--all").stdout == "", "nothing is new"
