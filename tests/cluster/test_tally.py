"""What is counted of a tile, number by number."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import BANDS, make_item

from cloudjob.classes import CLEAR, CLOUD, NO_DATA, NOT_COMPUTED
from cloudjob.cluster.tally import tally
from cloudjob.scene.describe import describe
from cloudjob.scene.scene import Scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """From baseline 05.10: 1000 is black."""
    folder = tmp_path_factory.mktemp("tally")
    item = make_item(folder, shape=(4, 4), properties={"s2:processing_baseline": "05.10"}, band={"offset": -0.1})
    return describe(item, {band: band for band in BANDS}, BANDS, 10)


def numbers() -> np.ndarray:
    """(red, green, blue, nir) × 4 × 4: nothing is dark."""
    return np.full((4, 4, 4), 1000, np.uint16)


def test_dark_pixels_are_those_below_the_offset(scene: Scene) -> None:
    raw = numbers()
    raw[0, 0, :3] = 999  # red alone
    raw[1, 1, :2] = 999  # green alone
    raw[2, 2, 0] = 999  # blue alone
    raw[:3, 3, :2] = 999  # all three
    raw[3] = 1  # near infrared does not count: water
    told = tally(np.zeros((4, 4), np.uint8), raw, scene, 16)
    assert (told.dark_all, told.dark_any) == (2, 3 + 2 + 1 + 2)


def test_dark_pixels_are_counted_where_there_is_a_label(scene: Scene) -> None:
    raw = np.ones((4, 4, 4), np.uint16)
    mask = np.array([[CLEAR] * 4, [CLOUD] * 4, [NO_DATA] * 4, [NOT_COMPUTED] * 4], np.uint8)
    mask[0, 0] = CLOUD
    told = tally(mask, raw, scene, 99)
    assert (told.dark_all, told.dark_any) == (8, 8)
    assert (told.clear, told.cloud, told.no_data, told.outside, told.seen) == (3, 5, 4, 4, 99)


def test_what_stands_for_a_larger_pixel_is_not_dark_where_it_has_no_data(scene: Scene) -> None:
    """Half of each pixel of 20 m had data: a scene with stripes was told that its offset had been applied already."""
    raw = numbers()
    raw[:, :, ::2] = 0
    told = tally(np.zeros((2, 2), np.uint8), raw, replace(scene, coarser=2), 16)
    assert (told.dark_all, told.dark_any) == (0, 0)


def test_pixels_are_counted_of_which_nobody_tells_the_offset(scene: Scene) -> None:
    bands = tuple(replace(band, offset=0.0, guessed=band.name == "nir") for band in scene.bands)
    old, mask = replace(scene, bands=bands, baseline=""), np.array([[CLEAR] * 4, [NO_DATA] * 4] * 2, np.uint8)
    raw = numbers()
    raw[:, 0, 0] = 999
    told = tally(mask, raw, old, 16)
    assert (told.guessed, told.dark_all, told.dark_any) == (8, 1, 1)
    assert tally(mask, raw.astype(np.int16), old, 16).guessed == 0
    assert tally(mask, raw, scene, 16).guessed == 0


def test_an_offset_already_taken_off_is_looked_for_too(scene: Scene) -> None:
    """The baseline says that there was one; a scene from before 04.00 never had one."""
    bands = tuple(replace(band, offset=0.0) for band in scene.bands)
    raw = numbers()
    raw[0, 0, 0] = 999
    assert tally(np.zeros((4, 4), np.uint8), raw, replace(scene, bands=bands), 16).dark_any == 1
    old = replace(scene, bands=bands, baseline="03.01")
    assert tally(np.zeros((4, 4), np.uint8), raw, old, 16).dark_any == 0


def test_other_scales_have_other_black(scene: Scene) -> None:
    bands = tuple(replace(band, scale=2e-4) for band in scene.bands)
    raw = np.full((4, 4, 4), 500, np.uint16)
    raw[1, 0, 0] = 499
    told = tally(np.zeros((4, 4), np.uint8), raw, replace(scene, bands=bands), 16)
    assert (told.dark_all, told.dark_any) == (0, 1)


def test_values_that_nothing_reflects_are_counted_in_each_kind_of_number(scene: Scene) -> None:
    mask = np.array([[CLEAR] * 4, [CLOUD] * 4, [NO_DATA] * 4, [NOT_COMPUTED] * 4], np.uint8)
    raw = np.full((4, 4, 4), 21_000, np.uint16)  # By 0.0001 and −0.1 just 2.0
    raw[1] = 21_001
    raw[2] = 1010  # just black
    told = tally(mask, raw, scene, 16)
    assert told.glaring == (0, 8, 0, 0)
    assert told.least == told.most == (21_000, 21_001, 1010, 21_000)
    bands = tuple(replace(band, scale=1.0, offset=0.0, dtype="float32") for band in scene.bands)
    values = np.full((4, 4, 4), 1.6, np.float32)  # snow and glint
    values[0], values[1], values[2, 0] = 2.5, 0.0005, np.nan
    told = tally(mask, values, replace(scene, bands=bands), 16)
    assert told.glaring == (8, 0, 0, 0)
    assert told.most == pytest.approx((2.5, 0.0005, 1.6, 1.6))
    assert tally(np.full((4, 4), NO_DATA, np.uint8), raw, scene, 16).most == (None,) * 4
