"""What is compared with the provider's scene classification, number by number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from file_server import file_server
from scenes import BANDS, make_item, write_cog

from cloudjob.classes import CLEAR, CLOUD, NO_DATA, NOT_COMPUTED
from cloudjob.cluster.agreement import Agreement, compare
from cloudjob.grid import Grid, Tiling, Window
from cloudjob.scene.describe import describe
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.scene import Scene

COARSE = Grid(32633, 600_000, 5_200_020, 20, 20, 3, 4)
FINE = Grid(32633, 600_000, 5_200_020, 10, 10, 6, 8)


def ours(labels: list[list[int]]) -> np.ndarray:
    """A mask whose pixels of 10 m say what their 20 m pixel does."""
    return np.kron(np.array(labels), np.ones((2, 2))).astype(np.uint8)


@pytest.mark.parametrize(
    ("classes", "compared", "cloud"),
    [
        pytest.param((2, 3, 4, 5, 6, 11), True, False, id="dark, shadow, vegetation, bare, water, snow"),
        pytest.param((8, 9, 10), True, True, id="medium, high, cirrus"),
        pytest.param((0, 1, 7), False, False, id="no data, defective, unclassified"),
    ],
)
def test_every_class_is_compared_as_what_it_means(classes: tuple[int, ...], compared: bool, cloud: bool) -> None:
    for value in classes:
        theirs = np.full(COARSE.shape, value, np.uint16)
        as_clear = compare(np.full(FINE.shape, CLEAR, np.uint8), FINE, (theirs, COARSE))
        as_cloud = compare(np.full(FINE.shape, CLOUD, np.uint8), FINE, (theirs, COARSE))
        assert as_clear.scl_compared == as_cloud.scl_compared == 12 * compared, value
        assert as_clear.scl_cloud == as_cloud.scl_cloud == 12 * cloud, value
        assert (as_clear.scl_agreed, as_cloud.scl_agreed) == (12 * (compared and not cloud), 12 * cloud), value


def test_pixels_are_compared_with_those_that_lie_over_them() -> None:
    """One row or column off, and less agrees."""
    theirs = np.array([[4, 4, 4, 9], [4, 9, 4, 4], [9, 4, 4, 4]], np.uint16)
    mask = ours([[0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]])
    told = compare(mask, FINE, (theirs, COARSE))
    assert (told.scl_compared, told.scl_agreed, told.scl_cloud) == (12, 12, 3)
    for axis in (0, 1):
        for shift in (-2, 2):
            assert compare(np.roll(mask, shift, axis), FINE, (theirs, COARSE)).scl_agreed < 12


def test_numbers_that_are_no_class_are_not_compared() -> None:
    """A classification of wider numbers: 260 is not 4, nor 265 cirrus."""
    theirs = np.array([[260, 265, 4, 4]] * 3, np.uint16)
    told = compare(np.zeros(FINE.shape, np.uint8), FINE, (theirs, COARSE))
    assert (told.scl_compared, told.scl_agreed, told.scl_cloud) == (6, 6, 0)


def test_what_has_no_label_is_not_compared() -> None:
    theirs = np.array([[4, 4, 9, 9], [4, 4, 9, 9], [7, 0, 1, 9]], np.uint16)
    mask = ours([[0, NO_DATA, 1, NOT_COMPUTED], [1, 0, 0, 1], [0, 1, 0, 1]])
    told = compare(mask, FINE, (theirs, COARSE))
    assert (told.scl_compared, told.scl_agreed, told.scl_cloud) == (7, 5, 4)


def test_a_tile_is_compared_with_its_own_part_only() -> None:
    """Classes are given for whole strips; those of other tiles count there."""
    theirs = np.array([[4, 4, 9, 9], [4, 4, 9, 9], [9, 9, 4, 4]], np.uint16)
    tile = FINE.crop(Window(2, 6, 4, 8))
    told = compare(ours([[1, 1], [0, 1]]), tile, (theirs, COARSE))
    assert (told.scl_compared, told.scl_agreed, told.scl_cloud) == (4, 3, 2)


def test_the_fourth_of_four_pixels_stands_for_all() -> None:
    """The centre of a class's pixel is the corner of four of ours: the lower right one is compared."""
    mask = np.zeros((2, 2), np.uint8)
    grid, theirs = Grid(32633, 0, 20, 10, 10, 2, 2), (np.array([[9]], np.uint16), Grid(32633, 0, 20, 20, 20, 1, 1))
    assert compare(mask, grid, theirs).scl_agreed == 0
    mask[1, 1] = CLOUD
    assert compare(mask, grid, theirs).scl_agreed == 1


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    item = make_item(tmp_path)
    classes = np.random.default_rng(1).choice(np.array([4, 9], np.uint8), (75, 70))
    write_cog(tmp_path / "scl.tif", classes, (20, 0, 600_000, 0, -20, 5_200_020), blocksize=64)
    item["assets"]["scl"] = {
        "href": str(tmp_path / "scl.tif"),
        "proj:shape": [75, 70],
        "proj:transform": [20, 0, 600_000, 0, -20, 5_200_020],
    }
    return describe(item, {b: b for b in (*BANDS, "scl")}, BANDS, 10)


def test_all_tiles_together_compare_every_pixel_once(scene: Scene) -> None:
    tiling = Tiling(*scene.grid.shape, 32, 16, 16)
    with SceneFiles(scene) as files:
        provider = Agreement(files, tiling, tiling.all())
        compared = cloud = 0
        for row in range(tiling.shape[0]):
            labels = provider.labels(Window(row * 32, min(row * 32 + 32, 150), 0, 139))
            assert labels
            for column in range(tiling.shape[1]):
                core = tiling.core((row, column))
                told = compare(np.zeros(core.shape, np.uint8), scene.grid.crop(core), labels)
                compared, cloud = compared + told.scl_compared, cloud + told.scl_cloud
    assert not provider.warnings
    assert compared == 75 * 69  # the last column's centres lie on the edge of 139 pixels
    assert 0.4 < cloud / compared < 0.6


def test_a_classification_that_cannot_be_read_is_told_and_not_compared(scene: Scene) -> None:
    assert scene.scl
    tiling = Tiling(*scene.grid.shape, 32, 16, 16)
    gone = replace(scene, scl=replace(scene.scl, href=f"{scene.scl.href}.gone"))
    with SceneFiles(gone) as files:
        provider = Agreement(files, tiling, tiling.all())
        assert provider.labels(Window(0, 32, 0, 139)) is None
    assert "its scene classification is not compared: " in provider.warnings[0]
    path = Path(scene.scl.href)
    write_cog(path, np.full(scene.scl.grid.shape, 4, np.uint8), scene.scl.grid.transform, blocksize=16)
    path.write_bytes(path.read_bytes()[:-200])  # Of the last row
    with SceneFiles(scene) as files:
        provider = Agreement(files, tiling, tiling.all())
        assert provider.labels(Window(128, 150, 0, 139)) is None
        assert provider.labels(Window(0, 32, 0, 139)), "a fault of one row costs no other"
    assert provider.warnings == ("its scene classification is not compared everywhere: a part of it cannot be read",)


@pytest.mark.parametrize("late", [False, True])
def test_a_classification_whose_host_is_down_is_not_waited_for(scene: Scene, tmp_path: Path, *, late: bool) -> None:
    """No scene waits a quarter of a minute for what is only compared, nor each of its rows."""
    assert scene.scl
    tiling = Tiling(*scene.grid.shape, 32, 0, 16)
    fine = Grid(32633, 600_000, 5_200_020, 2, 2, 750, 695)  # More than comes with the header
    classes = np.random.default_rng(1).integers(0, 255, fine.shape, np.uint8)
    write_cog(tmp_path / "scl.tif", classes, fine.transform)
    with file_server(tmp_path) as server:
        away = replace(scene, scl=replace(scene.scl, href=f"{server.url}/scl.tif", grid=fine))
        if not late:
            server.disturb("scl", lasting="hang up")
        with SceneFiles(away) as files:
            provider = Agreement(files, tiling, tiling.all())
            server.disturb("scl", lasting="hang up")
            assert not any(provider.labels(Window(top, min(top + 32, 150), 0, 139)) for top in range(64, 150, 32))
    assert provider.warnings
    assert len(server.asked("scl")) <= 16, "after each the lane waits"


def test_a_classification_that_does_not_reach_is_compared_where_it_lies(scene: Scene) -> None:
    assert scene.scl
    short = scene.scl.grid.crop(Window(0, 20, 0, 70))
    tiling = Tiling(*scene.grid.shape, 32, 16, 16)
    write_cog(Path(scene.scl.href), np.full(short.shape, 4, np.uint8), (20, 0, 600_000, 0, -20, 5_200_020))
    with SceneFiles(replace(scene, scl=replace(scene.scl, grid=short))) as files:
        provider = Agreement(files, tiling, tiling.all())
        told = [provider.labels(Window(top, min(top + 32, 150), 0, 139)) for top in range(0, 150, 32)]
    assert [one is not None for one in told] == [True, True, False, False, False]
    assert not provider.warnings


def test_a_tile_of_a_small_area_is_compared_with_the_classes_under_it(scene: Scene) -> None:
    assert scene.scl
    with rasterio.open(scene.scl.href) as file:
        whole = file.read(1)
    core, tiling = Window(32, 64, 64, 96), Tiling(*scene.grid.shape, 32, 16, 16)
    with SceneFiles(scene) as files:
        labels = Agreement(files, tiling, [(1, 2)]).labels(core)
    assert labels
    told = compare(np.zeros(core.shape, np.uint8), scene.grid.crop(core), labels)
    assert (told.scl_compared, told.scl_cloud) == (256, (whole[16:32, 32:48] == 9).sum())


def test_tiles_beside_a_classification_are_not_compared(scene: Scene) -> None:
    assert scene.scl
    narrow = scene.scl.grid.crop(Window(0, 75, 0, 20))
    tiling = Tiling(*scene.grid.shape, 32, 16, 16)
    write_cog(Path(scene.scl.href), np.full(narrow.shape, 4, np.uint8), (20, 0, 600_000, 0, -20, 5_200_020))
    with SceneFiles(replace(scene, scl=replace(scene.scl, grid=narrow))) as files:
        labels = Agreement(files, tiling, [(0, 3)]).labels(Window(0, 32, 96, 128))
    assert labels
    assert compare(np.zeros((32, 32), np.uint8), scene.grid.crop(Window(0, 32, 96, 128)), labels).scl_compared == 0


def test_classes_of_finer_pixels_are_compared_one_by_one(scene: Scene) -> None:
    """Never averaged: between vegetation and cirrus lies a class that is neither."""
    assert scene.scl
    fine = Grid(32633, 600_000, 5_200_020, 5, 5, 300, 278)
    classes = np.random.default_rng(1).choice(np.array([4, 10], np.uint8), fine.shape)
    write_cog(Path(scene.scl.href), classes, (5, 0, 600_000, 0, -5, 5_200_020))
    tiling = Tiling(*scene.grid.shape, 160, 0, 16)
    with SceneFiles(replace(scene, scl=replace(scene.scl, grid=fine))) as files:
        labels = Agreement(files, tiling, tiling.all()).labels(Window(0, 150, 0, 139))
    assert labels
    told = compare(np.zeros((150, 139), np.uint8), scene.grid, labels)
    assert (told.scl_compared, told.scl_cloud) == (classes.size, (classes == 10).sum())


def test_a_classification_in_another_projection_is_not_compared(scene: Scene) -> None:
    """Its metres are not the scene's, though the numbers are alike."""
    assert scene.scl
    elsewhere = replace(scene, scl=replace(scene.scl, grid=replace(scene.scl.grid, epsg=32632)))
    tiling = Tiling(*scene.grid.shape, 32, 16, 16)
    with SceneFiles(elsewhere) as files:
        provider = Agreement(files, tiling, tiling.all())
        assert provider.labels(Window(0, 32, 0, 139)) is None
    assert provider.warnings == ("its scene classification is not compared: it is in EPSG:32632, the scene in 32633",)
