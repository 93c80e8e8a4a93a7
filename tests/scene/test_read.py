import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenes import BANDS, make_item, write_cog

from cloudjob.errors import PassingError, SceneError
from cloudjob.grid import Grid, Tiling, Window
from cloudjob.scene import read, strips
from cloudjob.scene.cube import open_cube
from cloudjob.scene.describe import describe
from cloudjob.scene.files import failed
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.scene import Band, Scene, is_empty


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return describe(make_item(tmp_path_factory.mktemp("scene")), {b: b for b in (*BANDS, "scl")}, BANDS, 10)


@pytest.fixture
def files(scene: Scene) -> Iterator[SceneFiles]:
    with SceneFiles(scene) as files:
        yield files


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every read: (thread, pixels)."""
    seen: list[tuple[str, int]] = []
    original = SceneFiles.read

    def read_and_count(self: SceneFiles, *what: object) -> np.ndarray:
        values = original(self, *what)
        seen.append((threading.current_thread().name, values.size))
        return values

    monkeypatch.setattr(SceneFiles, "read", read_and_count)
    return seen


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rows_hold_what_the_padded_tiles_need(scene: Scene, data: st.DataObject) -> None:
    tiling = Tiling(*scene.grid.shape, data.draw(st.sampled_from([32, 64])), data.draw(st.sampled_from([0, 16])), 16)
    tiles = data.draw(st.lists(st.sampled_from(tiling.all()), min_size=1, max_size=6, unique=True))
    with SceneFiles(scene) as files:
        whole = np.pad(open_cube(files, scene.bands, scene.grid).values, ((0, 0), (100, 100), (100, 100)))
        seen = []
        for row in read.rows(files, tiling, tiles):
            for column in row.columns:
                padded = tiling.padded((row.row, column))
                expected = whole[:, padded.top + 100 : padded.bottom + 100, padded.left + 100 : padded.right + 100]
                np.testing.assert_array_equal(row.crop(padded), expected)
                seen.append((row.row, column))
    assert seen == sorted(tiles)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_outside_the_scene_there_are_no_data_in_every_kind_of_number(dtype: str, tmp_path: Path) -> None:
    """Of signed numbers and floats 0 is data: black ground, all around the scene."""
    values = dict.fromkeys(BANDS, np.ones((40, 40), dtype))
    scene = describe(make_item(tmp_path, values=values, nodata=None), {b: b for b in BANDS}, BANDS, 10)
    with SceneFiles(scene) as files:
        (row,) = read.rows(files, Tiling(40, 40, 48, 16, 16), [(0, 0)])
    inside = np.zeros((80, 80), bool)
    inside[16:56, 16:56] = True
    np.testing.assert_array_equal(is_empty(row.raw), ~inside[None].repeat(4, axis=0))


def test_every_pixel_is_read_once(files: SceneFiles, counted: list[tuple[str, int]]) -> None:
    tiling = Tiling(*files.scene.grid.shape, 32, 16, 16)
    assert sum(len(row.columns) for row in read.rows(files, tiling, tiling.all())) == len(tiling.all())
    assert sum(pixels for _, pixels in counted) == 4 * 150 * 139


def test_the_next_row_is_read_while_this_one_is_held(files: SceneFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the second row needs is read although nobody has asked for it, and nothing of the third."""
    monkeypatch.setattr(SceneFiles, "block_rows", lambda *_: 1)
    tiling = Tiling(*files.scene.grid.shape, 32, 16, 16)
    done = threading.Semaphore(0)
    original = SceneFiles.read

    def read_and_tell(self: SceneFiles, name: str, window: object, *how: object) -> np.ndarray:
        values = original(self, name, window, *how)
        assert threading.current_thread().name.startswith("read")
        done.release()
        return values

    monkeypatch.setattr(SceneFiles, "read", read_and_tell)
    rows = read.rows(files, tiling, tiling.all())
    next(rows)
    for _ in range(4 * 3):  # strips: the first row of tiles, the second, and the third, where the second's halo lies
        assert done.acquire(timeout=10)
    assert not done.acquire(timeout=0.1)
    rows.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")], "a thread is left"


def test_after_a_fault_nothing_more_is_read_ahead(files: SceneFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window of a server that is out may take half a minute."""
    monkeypatch.setattr(SceneFiles, "block_rows", lambda *_: 1)
    tiling = Tiling(*files.scene.grid.shape, 32, 16, 16)
    asked: list[str] = []

    def fails(_: SceneFiles, name: str, *__: object) -> np.ndarray:
        asked.append(name)
        time.sleep(0.2 if len(asked) > 1 else 0)
        raise PassingError(f"{name} is out")

    monkeypatch.setattr(SceneFiles, "read", fails)
    with pytest.raises(PassingError, match="red is out"):
        next(read.rows(files, tiling, tiling.all()))
    assert len(asked) < 4 * 3, "all that was handed in was read"


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("HTTP response code: 404", False),
        ("CURL error: URL rejected: Malformed input to a URL function", False),
        ("HTTP response code: 503", True),
        ("HTTP response code: 403", True),  # a signature that ran out
        ("not recognized as a supported file format", True),  # how a cut connection looks
    ],
)
def test_faults_of_servers_that_may_pass(scene: Scene, text: str, passing: bool) -> None:
    remote = replace(scene, bands=tuple(replace(b, href=f"https://h.example/{b.name}.tif") for b in scene.bands))
    error = failed(RuntimeError(f"'https://h.example/red.tif?sig=abc' {text}"), remote, remote.bands[0])
    assert isinstance(error, PassingError) is passing
    assert isinstance(error, SceneError)
    assert "abc" not in str(error)
    assert scene.id in str(error)
    assert not isinstance(failed(RuntimeError(text), scene, scene.bands[0]), PassingError)  # disks do not heal


@pytest.mark.parametrize("block", [128, 64])
def test_the_scene_classification_is_read_on_its_own_grid_and_once(
    block: int, tmp_path: Path, counted: list[tuple[str, int]]
) -> None:
    item = make_item(tmp_path)
    classes = np.random.default_rng(1).integers(0, 12, (75, 70)).astype(np.uint8)
    write_cog(tmp_path / "scl.tif", classes, (20, 0, 600_000, 0, -20, 5_200_020), blocksize=block)
    item["assets"]["scl"] = {
        "href": str(tmp_path / "scl.tif"),
        "proj:shape": [75, 70],
        "proj:transform": [20, 0, 600_000, 0, -20, 5_200_020],
    }
    scene = describe(item, {b: b for b in (*BANDS, "scl")}, BANDS, 10)
    assert scene.scl
    tiling = Tiling(*scene.grid.shape, 32, 16, 16)
    with SceneFiles(scene) as files:
        provider = read.Classification(files, scene.scl, tiling, tiling.all())
        for top in range(0, 150, 32):
            values, grid = provider.under(Window(top, min(top + 32, 150), 0, 139))
            first = round((5_200_020 - grid.y0) / 20)
            assert (grid.dy, grid.x0, grid.shape) == (20, 600_000, values.shape)
            assert first <= top // 2
            assert first + len(values) >= min(top // 2 + 16, 75)
            np.testing.assert_array_equal(values, classes[first : first + len(values)])
    assert sum(pixels for _, pixels in counted) == classes.size


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize("shape", [(150, 139), (64, 200), (129, 127)])
def test_a_pixel_of_20_metres_is_two_by_two_of_10(
    shape: tuple[int, int], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever the tiles, halo included: the same as repeating every pixel, and no data beyond its last one."""
    fine, coarse = two_sizes(shape, tmp_path_factory.getbasetemp() / "two_sizes")
    tile, halo = data.draw(st.sampled_from([(32, 16), (64, 0), (30, 6), (33, 11)]))
    tiling = Tiling(*shape, tile, halo, 1)
    tiles = data.draw(st.lists(st.sampled_from(tiling.all()), min_size=1, max_size=6, unique=True))
    values = open_raster(coarse.bands[4].href)
    whole = np.pad(values.repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]], 100)
    with SceneFiles(coarse) as files, SceneFiles(fine) as four:
        for row, other in zip(read.rows(files, tiling, tiles), read.rows(four, tiling, tiles), strict=True):
            np.testing.assert_array_equal(row.raw[:4], other.raw)
            for column in row.columns:
                padded = tiling.padded((row.row, column))
                expected = whole[padded.top + 100 : padded.bottom + 100, padded.left + 100 : padded.right + 100]
                np.testing.assert_array_equal(row.crop(padded)[4], expected)


def test_every_block_of_20_metres_is_read_once(
    tmp_path_factory: pytest.TempPathFactory, counted: list[tuple[str, int]]
) -> None:
    """Rows of tiles that end within its blocks do not ask for them twice."""
    _, scene = two_sizes((150, 139), tmp_path_factory.getbasetemp() / "two_sizes")
    tiling = Tiling(150, 139, 32, 16, 16)
    with SceneFiles(scene) as files:
        assert len(list(read.rows(files, tiling, tiling.all()))) == 5
    assert sum(pixels for _, pixels in counted) == 4 * 150 * 139 + 75 * 70


def test_of_a_small_area_no_more_is_read_than_its_tiles_and_their_halo(files: SceneFiles, counted: list[Any]) -> None:
    tiling = Tiling(*files.scene.grid.shape, 32, 16, 16)
    (row,) = read.rows(files, tiling, [(2, 1), (2, 2)])
    assert row.raw.shape == (4, 64, 96)
    assert sum(pixels for _, pixels in counted) == 4 * 64 * 96


@pytest.mark.parametrize("tallest", [2048, 32])
def test_rows_are_cut_where_the_files_blocks_meet_unless_those_are_tall(
    tallest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else blocks are decoded twice; but a file that is one block would be held whole."""
    monkeypatch.setattr(strips, "TALLEST", tallest)
    scene = describe(make_item(tmp_path, shape=(300, 139), blocksize=64), {b: b for b in BANDS}, BANDS, 10)
    tiling = Tiling(*scene.grid.shape, 96, 16, 16)
    with SceneFiles(scene) as files:
        found = strips.cut(files, scene.bands[0], tiling, tiling.all(), np.uint16)
    assert found.edges == ((0, 128, 192, 300) if tallest > 64 else (0, 96, 192, 288, 300))


def test_a_band_of_finer_pixels_is_averaged_and_of_another_projection_never_taken_for_the_scenes(
    tmp_path: Path,
) -> None:
    """Two of its rows are one of the scene's; metres of the next zone are elsewhere, though their numbers are alike."""
    _, scene = two_sizes((64, 200), tmp_path)
    stripes = np.tile(np.array([[2000], [4000]], np.uint16), (64, 400))
    grid = replace(scene.grid, dx=5, dy=5, height=128, width=400)
    write_cog(tmp_path / "fine.tif", stripes, (5, 0, 600_000, 0, -5, 5_200_020))
    fine = Band("blue", "blue", str(tmp_path / "fine.tif"), grid)
    write_cog(tmp_path / "zone.tif", stripes[:64, :200], (10, 0, 600_000, 0, -10, 5_200_020), epsg=32632)
    zone = Band("nir", "nir", str(tmp_path / "zone.tif"), replace(scene.grid, epsg=32632))
    tiling = Tiling(64, 200, 64, 0, 1)
    with SceneFiles(replace(scene, bands=(scene.bands[0], fine, zone))) as files:
        (row,) = read.rows(files, tiling, tiling.all())
    assert (row.raw[1, :, :200] == 3000).all()
    assert (row.raw[2] == 0).all()


def two_sizes(shape: tuple[int, int], folder: Path) -> tuple[Scene, Scene]:
    """A scene of four bands of 10 m, and the same with a fifth of 20 m, made once."""
    name = f"S{shape[0]}x{shape[1]}"
    rng = np.random.default_rng(7)
    pixels = {band: rng.integers(1, 9000, shape, np.uint16) for band in BANDS}
    if not (folder / name / "swir16.tif").exists():
        make_item(folder, name, values=pixels)
        coarse = rng.integers(1, 9000, (-(-shape[0] // 2), -(-shape[1] // 2)), np.uint16)
        write_cog(folder / name / "swir16.tif", coarse, (20, 0, 600_000, 0, -20, 5_200_020), blocksize=64)
    grid = Grid(32633, 600_000, 5_200_020, 10, 10, *shape)
    bands = tuple(Band(band, band, str(folder / name / f"{band}.tif"), grid) for band in BANDS)
    swir16 = Band("swir16", "swir16", str(folder / name / "swir16.tif"), grid.coarsen(2))
    moment = datetime(2024, 6, 1, tzinfo=UTC)
    four = Scene(name, "", {}, "group", grid, moment, "", moment, "", "", bands, None, "")
    return four, replace(four, bands=(*bands, swir16))


def open_raster(path: str) -> np.ndarray:
    with rasterio.open(path) as file:
        values: np.ndarray = file.read(1)
    return values
