"""Files held open: asked for once, tried again window by window, and read right whatever says no data in them."""

import copy
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jobs
import numpy as np
import pytest
import rasterio
from affine import Affine
from faulty import served
from file_server import Fault, FileServer, file_server
from pyproj import Transformer
from scenes import BANDS, make_item, write_cog

from cloudjob.errors import OutageError, PassingError, SceneError, UnseenError
from cloudjob.grid import Grid, Tiling
from cloudjob.scene import opened, read
from cloudjob.scene.cube import open_cube
from cloudjob.scene.describe import describe
from cloudjob.scene.files import header
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.reflectance import reflectance
from cloudjob.scene.scene import Scene, is_empty

GRID = (10, 0, 600_000, 0, -10, 5_200_020)
ASSETS = {band: band for band in (*BANDS, "scl")}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "PAUSE", 0.01)
    monkeypatch.setattr(opened, "LONGEST_PAUSE", 0.02)
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with file_server(tmp_path) as server:
        yield server


@pytest.fixture
def scene(tmp_path: Path, server: FileServer) -> Scene:
    return describe(served(make_item(tmp_path), tmp_path, server.url), ASSETS, BANDS, 10)


def pixels(files: SceneFiles, tile: int = 32) -> np.ndarray:
    """The whole scene, row of tiles by row of tiles."""
    tiling = Tiling(*files.scene.grid.shape, tile, 16, 16)
    parts = []
    for row in read.rows(files, tiling, tiling.all()):
        core = tiling.core((row.row, 0))
        inside = replace(core, right=files.scene.grid.width)
        parts.append(row.crop(inside))
    return np.concatenate(parts, axis=1)


def test_every_file_is_opened_once_and_every_block_asked_for_once(scene: Scene, server: FileServer) -> None:
    with SceneFiles(scene) as files:
        files.check(scene.bands)
        pixels(files)
        pixels(files)
    for band in BANDS:
        asked = Counter((request.method, request.range) for request in server.asked(f"{band}.tif"))
        assert asked.pop(("HEAD", "")) == 2  # GDAL asks twice how long a file is that it opens
        assert max(asked.values()) == 1, asked


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", [403, 416, "cut", "short", "empty", "html", "hang up", 520])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_the_window_is_tried_again_and_no_other(
    fault: Fault, before: int, scene: Scene, server: FileServer, tmp_path: Path
) -> None:
    with SceneFiles(scene) as files:
        expected = pixels(files)
    undisturbed = Counter(request.path for request in server.asked())
    server.calm()
    server.disturb("nir.tif", *[""] * before, fault)
    with SceneFiles(scene) as files:
        files.check(scene.bands)
        np.testing.assert_array_equal(pixels(files), expected)
    asked = Counter(request.path for request in server.asked())
    for path, count in asked.items():
        assert count == undisturbed[path] or "nir" in path, "other files were begun anew"


@pytest.mark.usefixtures("quick")
def test_patience_ends(scene: Scene, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.disturb("nir.tif", "", "", lasting=403)
    with SceneFiles(scene) as files:
        with pytest.raises(PassingError, match=r"asset nir: .*403"):
            pixels(files)
        tries = len(server.asked("nir"))
        monkeypatch.setattr(opened, "PATIENCE", 0.0)
        with pytest.raises(PassingError, match=r"asset nir: .*403"):
            pixels(files)
    assert opened.ATTEMPTS <= tries <= 4 * opened.ATTEMPTS
    assert len(server.asked("nir")) - tries <= 2


NO_DISK = "/proc/self/mem"
"""A regular file whose first bytes cannot be read: "Input/output error", as of a disk that fails."""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("when", ["opened", "read"])
def test_a_disk_that_fails_is_no_fault_of_a_file(when: str, tmp_path: Path) -> None:
    """GDAL says the same as of a file that is cut, and does not tell why."""
    scene = describe(make_item(tmp_path), ASSETS, BANDS, 10)
    path = Path(scene.bands[0].href)
    with SceneFiles(scene) as files:
        if when == "read":
            files.check(scene.bands)
            os.truncate(path, 1000)  # What is open fails, and then the disk
        path.unlink()
        path.symlink_to(NO_DISK)
        with pytest.raises(OutageError, match=r"asset red: .*\(Input/output error\)$") as caught:
            pixels(files)
    assert caught.value.asset == "red"
    path.unlink()
    path.write_bytes(b"II*\0 cut")
    with SceneFiles(scene) as files, pytest.raises(SceneError) as caught:
        files.check(scene.bands)
    assert not isinstance(caught.value, OutageError)


def test_a_disk_that_does_not_answer_is_not_a_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, stat = describe(make_item(tmp_path), ASSETS, BANDS, 10), Path.stat

    def stale(path: Path, **how: bool) -> os.stat_result:
        if path.name == "red.tif":
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", stale)
    with SceneFiles(scene) as files, pytest.raises(OutageError, match=r"asset red: .*red.tif: Stale file handle"):
        files.check(scene.bands)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ], ids=["Windows", "macOS"])
def test_a_name_that_a_system_refuses_is_no_disk_that_is_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: bool) -> os.stat_result:
        raise OSError(number, "The filename, directory name, or volume label syntax is incorrect", str(path))

    scene = describe(make_item(tmp_path), ASSETS, BANDS, 10)
    monkeypatch.setattr(Path, "stat", refuse)
    with SceneFiles(scene) as files, pytest.raises(UnseenError):
        files.check(scene.bands)


def test_a_name_that_this_machine_cannot_write_is_refused_in_words() -> None:
    with pytest.raises(SceneError, match="surrogates not allowed"):
        header("/data/\ud800.tif", "scene A, asset red")


def test_an_answer_is_not_asked_for_again(scene: Scene, server: FileServer) -> None:
    server.disturb("nir.tif", lasting=404)
    with SceneFiles(scene) as files, pytest.raises(SceneError, match=r"asset nir: .*404") as caught:
        files.check(scene.bands)
    assert not isinstance(caught.value, PassingError)
    assert len(server.asked("nir")) <= 2


def test_a_new_signature_is_taken_for_each_attempt(
    scene: Scene, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have run out between two windows."""
    monkeypatch.setattr(opened, "PAUSE", 0.01)
    held: list[str] = []

    def sign(_: str, href: str) -> str:
        if not held:
            held.append(server.signature)
        return f"{href}?{held[0]}"

    monkeypatch.setattr(opened.signing, "open_href", sign)
    monkeypatch.setattr(opened.signing, "forget", lambda *_: held.clear())
    server.signature = "old"
    with SceneFiles(scene) as files:
        files.check(scene.bands)
        server.signature = "new"
        assert pixels(files).shape == (4, 150, 139)


@pytest.mark.parametrize("told", [True, False])
def test_a_signature_may_hold_for_get_alone(scene: Scene, server: FileServer, *, told: bool) -> None:
    """Google's and those of many object stores do, and GDAL asks by HEAD how long a file is."""
    with SceneFiles(scene) as files:
        expected = pixels(files)
    server.signature, server.get_only = "Expires=9999999999&Signature=x", 403
    item = copy.deepcopy(scene.item)
    for asset in item["assets"].values():
        asset["href"] += f"?{server.signature}"
        if not told:  # Where its header tells the grid
            del asset["proj:shape"]
    with SceneFiles(describe(item, ASSETS, BANDS, 10)) as files:
        np.testing.assert_array_equal(pixels(files), expected)


@pytest.mark.parametrize("status", [400, 405, 501, "empty"])
def test_a_server_may_know_no_head(status: Fault, scene: Scene, server: FileServer) -> None:
    """Without a signature its files were refused, or it was out, every night; or they had no bytes."""
    with SceneFiles(scene) as files:
        expected = pixels(files)
    server.get_only = status
    with SceneFiles(scene) as files:
        np.testing.assert_array_equal(pixels(files), expected)


@pytest.mark.usefixtures("quick")
def test_a_scene_has_a_deadline(scene: Scene, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers, but so late that a lane would be held for hours."""
    monkeypatch.setattr(opened, "DEADLINE", 0.5)
    server.slowness = 0.3
    server.disturb("tif", lasting="slow")
    begun = time.monotonic()
    with SceneFiles(scene) as files, pytest.raises(PassingError, match=r"reading has taken longer than 0.5 s"):
        pixels(files)
    assert files.late
    assert time.monotonic() - begun < 10


def test_files_are_closed(scene: Scene) -> None:
    with SceneFiles(scene) as files:
        files.check(scene.bands)
        datasets = [file.dataset for file in files._files.values()]
    assert all(dataset.closed for dataset in datasets)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


KINDS: list[tuple[str, float | None, float, float]] = [
    # dtype, no-data value in the file, in the pixels, in the item
    ("int16", -999, -999, -999),
    ("int16", 32767, 32767, 32767),
    ("int16", -9999, -9999, -9999),
    ("float32", -9999, -9999, -9999),
    ("float32", None, np.nan, np.nan),
    ("uint16", 0, 0, 0),
    ("uint16", None, 0, 0),
    ("uint16", 65535, 65535, 65535),
    ("uint8", 0, 0, 0),
    ("int16", None, -32768, np.nan),
]


@pytest.mark.parametrize(("dtype", "tag", "hole", "said"), KINDS)
def test_no_data_is_what_the_file_says_in_every_kind_of_number(
    dtype: str, tag: float | None, hole: float, said: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    scale = 1.0 if dtype == "float32" else 1e-4
    true = rng.uniform(0.001, 0.9, (4, 150, 139)) if dtype != "uint8" else rng.integers(1, 255, (4, 150, 139)) * scale
    if dtype == "int16":
        true[0, 100, 100] = -0.02  # darker than nothing, and data
        true[0, 101, 101] = 0.0
    numbers = (np.rint(true / scale) if scale != 1 else true).astype(dtype)
    numbers[:, :40, :60] = hole
    numbers[3, 90, 90] = hole
    item = make_item(
        tmp_path,
        values=dict(zip(BANDS, numbers, strict=True)),
        nodata=tag,
        band={"data_type": dtype, "scale": scale, "nodata": "nan" if np.isnan(said) else said},
    )
    scene = describe(item, ASSETS, BANDS, 10)
    with SceneFiles(scene) as files:
        files.check(scene.bands)
        assert files.dtype() == (np.uint16 if dtype == "uint8" else dtype)
        found = reflectance(pixels(files), scene.bands)
    empty = np.isnan(found).all(axis=0)
    expected = np.zeros((150, 139), bool)
    expected[:40, :60] = expected[90, 90] = True
    np.testing.assert_array_equal(empty, expected)
    assert not np.isnan(found[:, ~expected]).any()
    np.testing.assert_allclose(found[:, ~expected], true[:, ~expected], atol=0.6 * scale if scale != 1 else 1e-6)


@pytest.mark.parametrize(("dtype", "hole"), [("int16", -999), ("float32", -9999.0), ("float32", np.nan)])
def test_averages_are_of_data_only_in_every_kind_of_number(dtype: str, hole: float, tmp_path: Path) -> None:
    values = np.full((240, 240), 0.5 if dtype == "float32" else 5000, dtype)
    values[:, :121] = hole
    item = make_item(tmp_path, values=dict.fromkeys(BANDS, values), nodata=hole, band={"data_type": dtype})
    scene = describe(item, ASSETS, BANDS, 20)
    with SceneFiles(scene) as files:
        found = pixels(files)
    data = found[~(np.isnan(found) if dtype == "float32" else found == -32768)]
    assert set(np.unique(data)) == {values[0, -1]}
    assert 0.4 < data.size / found.size < 0.6


def test_a_file_that_tells_no_projection_lies_where_its_item_says(tmp_path: Path) -> None:
    """Seen from the next zone it was empty."""
    scene = describe(make_item(tmp_path), ASSETS, BANDS, 10)
    x, y = Transformer.from_crs(32633, 32632, always_xy=True).transform(600_000, 5_200_020)
    next_zone = Grid(32632, round(x), round(y), 20, 20, 60, 60)
    with SceneFiles(scene) as files:
        expected = open_cube(files, scene.bands, next_zone).values
    assert 0.9 < (expected > 0).mean() < 1
    for band in scene.bands:
        with rasterio.open(band.href) as file:
            values = file.read(1)
        write_cog(Path(band.href), values, GRID, epsg=None)
    with SceneFiles(scene) as files:
        files.check(scene.bands)
        np.testing.assert_array_equal(open_cube(files, scene.bands, next_zone).values, expected)


def test_a_number_for_no_data_that_no_pixel_can_have_is_none(tmp_path: Path) -> None:
    """It made GDAL refuse the file as soon as it had to be averaged."""
    values = np.full((240, 240), 5000, np.uint16)
    values[:, :121] = 0
    item = make_item(tmp_path, values=dict.fromkeys(BANDS, values), nodata=None, band={"nodata": -9999})
    with SceneFiles(describe(item, ASSETS, BANDS, 20)) as files:
        assert set(np.unique(pixels(files))) == {0, 5000}


def test_what_is_no_finite_number_is_no_data(tmp_path: Path) -> None:
    """A division by nothing was the brightest cloud."""
    values = np.full((150, 139), 0.3, np.float32)
    values[0, :3] = np.inf, -np.inf, np.nan
    item = make_item(tmp_path, values=dict.fromkeys(BANDS, values), nodata=-9999, band={"data_type": "float32"})
    with SceneFiles(describe(item, ASSETS, BANDS, 10)) as files:
        found = pixels(files)
    assert np.isnan(found[:, 0, :3]).all()
    assert np.isnan(found).sum() == 4 * 3


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("resolution", [10, 20])
@pytest.mark.parametrize("where", ["inside", "beside"])
def test_where_a_files_own_mask_says_so_there_are_no_data(
    dtype: str, resolution: int, where: str, tmp_path: Path
) -> None:
    """Whatever number stands there, and though the file tells none for no data. One beside it was never looked for."""
    values = np.full((140, 140), 1, dtype)
    item = make_item(tmp_path, values=dict.fromkeys(BANDS, values), nodata=None, band={"data_type": dtype})
    inside = np.full(values.shape, 255, np.uint8)
    inside[:40, :61] = 0
    path, how = item["assets"]["nir"]["href"], {"height": 140, "width": 140, "count": 1, "dtype": dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=where == "inside"),
        rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=Affine(*GRID), **how) as file,
    ):
        file.write(values, 1)
        file.write_mask(inside)
    assert Path(f"{path}.msk").exists() == (where == "beside")
    other = "<PAMDataset><SRS>EPSG:32632</SRS><PAMRasterBand band='1'><NoDataValue>1</NoDataValue></PAMRasterBand>"
    Path(f"{path}.aux.xml").write_text(f"{other}</PAMDataset>", encoding="utf-8")  # Which nobody reads beside any file
    scene = describe(item, ASSETS, BANDS, resolution)
    with SceneFiles(scene) as files:
        found = is_empty(pixels(files)[3])
    step = resolution // 10
    expected = np.zeros(scene.grid.shape, bool)
    expected[: 40 // step, : 61 // step] = True
    np.testing.assert_array_equal(found, expected)


def test_bands_of_different_numbers_are_read_together(tmp_path: Path) -> None:
    """An unsigned band beside signed ones: no number of either is lost."""
    item = make_item(tmp_path)
    signed = np.full((150, 139), -7, np.int16)
    signed[:9] = -999
    write_cog(Path(item["assets"]["nir"]["href"]), signed, GRID, nodata=-999)
    scene = describe(item, ASSETS, BANDS, 10)
    with SceneFiles(scene) as files:
        assert files.dtype() == np.float32
        found = pixels(files)
    assert np.isnan(found[3, :9]).all()
    assert (found[3, 9:] == -7).all()


@pytest.mark.parametrize(
    ("said", "kind"),
    [("-999", "int16"), (-999.0, "int16"), ("-999.0", "int16"), (-0.25, "float32"), ("0.1", "float32")],
)
def test_a_number_for_no_data_may_be_written_as_text(said: str | float, kind: str, tmp_path: Path) -> None:
    """And the file has no tag; or be a fraction, which was data."""
    values = np.full((150, 139), 500, kind)
    values[:9] = float(said)
    item = make_item(
        tmp_path, values=dict.fromkeys(BANDS, values), nodata=None, band={"data_type": kind, "nodata": said}
    )
    scene = describe(item, ASSETS, BANDS, 10)
    with SceneFiles(scene) as files:
        found = reflectance(pixels(files), scene.bands)
    assert np.isnan(found[:, :9]).all()
    assert not np.isnan(found[:, 9:]).any()


@pytest.mark.parametrize(
    ("dtype", "scale", "hole"), [("int16", 1e-4, -10_000), ("float32", 1, -9999), ("float32", 1, -1)]
)
def test_what_no_surface_reflects_is_no_data_though_nobody_says_so(
    dtype: str, scale: float, hole: float, tmp_path: Path
) -> None:
    """As in MAJA's files. The whole of a scene's empty side was clear ground."""
    values = np.full((150, 139), 0.05 / scale, dtype)
    values[:9], values[9:12] = hole, -0.2 / scale  # over-corrected, and data
    item = make_item(tmp_path, values=dict.fromkeys(BANDS, values), nodata=None)
    for asset in item["assets"].values():
        asset["raster:bands"] = [{"data_type": "float32"}] if dtype == "float32" else []
    scene = describe(item, ASSETS, BANDS, 10)
    with SceneFiles(scene) as files:
        found = reflectance(pixels(files), scene.bands)
    assert np.isnan(found[:, :9]).all()
    assert not np.isnan(found[:, 9:]).any()


@pytest.mark.parametrize(("dtype", "scale"), [("int16", 1e-4), ("float32", 1)])
def test_where_signed_numbers_are_all_nought_there_are_no_data(dtype: str, scale: float, tmp_path: Path) -> None:
    """Many files are filled with it and tell no number for no data: their empty side was clear ground."""
    values = {band: np.full(jobs.SHAPE, 0.05 / scale, dtype) for band in BANDS}
    for band in BANDS:
        values[band][:9] = 0
    values["nir"][9:12] = 0  # Water may be black in one
    item = jobs.make_scene(tmp_path, "A", values=values, nodata=None)
    for asset in item["assets"].values():
        asset["raster:bands"] = [{"data_type": dtype}]
    catalog, net = jobs.write_catalog(tmp_path / "items.json", [item]), jobs.brightness_checkpoint(tmp_path / "net")
    jobs.run_here(catalog, net, tmp_path / "out")
    mask = jobs.mask_of(tmp_path / "out", "A")
    assert (mask[:9] == 254).all()
    assert (mask[9:] == 0).all()


def test_bytes_of_a_picture_are_no_reflectance(tmp_path: Path) -> None:
    """A file of which the item does not say so; all of it would have been below zero."""
    item = make_item(tmp_path, properties={"s2:processing_baseline": "05.10"})
    write_cog(Path(item["assets"]["blue"]["href"]), np.ones((150, 139), np.uint8), GRID)
    scene = describe(item, ASSETS, BANDS, 10)
    with SceneFiles(scene) as files, pytest.raises(SceneError, match="asset blue: its numbers are bytes"):
        files.check(scene.bands)


@pytest.mark.parametrize(
    ("dtype", "baseline", "offset", "says"),
    [
        ("int16", "05.10", None, "its numbers are int16, .* the offset -0.1 is ESA's"),
        ("int16", "05.10", 0.0, ""),
        ("int16", "05.10", -0.1, ""),  # Whoever wrote them left it in, and somebody says so
        ("int16", "03.01", None, ""),
        ("uint16", "05.10", None, ""),
        ("float32", "05.10", None, ""),  # ESA's, where no data were NaN for a while
    ],
)
def test_signed_numbers_that_only_the_file_tells_have_no_offset_of_esas(
    dtype: str, baseline: str, offset: float | None, says: str, tmp_path: Path
) -> None:
    """Dark ground was below zero."""
    item = make_item(tmp_path, properties={"s2:processing_baseline": baseline})
    for key in BANDS:
        del item["assets"][key]["raster:bands"]
        write_cog(Path(item["assets"][key]["href"]), np.ones((150, 139), dtype), GRID)
    scene = describe(item, ASSETS, BANDS, 10, offset=offset)
    with SceneFiles(scene) as files, pytest.raises(SceneError, match=says) if says else nullcontext():
        files.check(scene.bands)


@pytest.mark.parametrize("dtype", ["float64", "int32", "complex64"])
def test_numbers_that_are_not_read_are_refused(dtype: str, tmp_path: Path) -> None:
    item = make_item(tmp_path)
    write_cog(Path(item["assets"]["blue"]["href"]), np.ones((150, 139), dtype), GRID)
    scene = describe(item, ASSETS, BANDS, 10)
    says = rf"asset blue: its numbers are {dtype}; expected uint8, uint16, int16, float32"
    with SceneFiles(scene) as files, pytest.raises(SceneError, match=says):
        files.check(scene.bands)
