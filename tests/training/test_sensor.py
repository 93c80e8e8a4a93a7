"""What is done to images before the network sees them: what it changes, and what it must leave alone."""

import numpy as np
import pytest
import rasterio
import torch
from experiment import write

from cloudjob.model.contract import Contract
from training import settings, teach
from training.data import find
from training.patch import ALL_BANDS, SWIR, Layer, Patch, empty
from training.sample import Samples
from training.sensor import (
    coarse,
    condensed,
    dazzle,
    dimmed,
    fade,
    frost,
    lose_sides,
    saturated,
    sensor,
    snowed,
    snowfall,
    undecided,
)
from training.settings import Mix

FIVE = Contract(
    "five", "1", ALL_BANDS[:5], (0.25,) * 5, (0.25,) * 5,
    optional_bands=("swir16",), absent_fill=-0.25, outside_fill="mirror",
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def rng(seed=0):
    return np.random.default_rng(seed)


def image(bands, low=0.1, high=0.9, side=32):
    return rng(1).uniform(low, high, (bands, side, side)).astype(np.float32)


def test_dazzling_ground_is_brighter_keeps_its_form_and_is_dark_in_swir():
    bare = image(5, 0.05, 0.4)
    bare[:, :3] = 0
    numbers = rng(4)
    shown = [dazzle(numbers, bare) for _ in range(40)]
    assert np.mean([one[:4, 3:].mean() > bare[:4, 3:].mean() for one in shown]) > 0.8
    assert max(one[:4].max() for one in shown) > 1
    for one in shown:
        assert (one[:4, :3] == 0).all()
        gains = one[:4, 3:] / bare[:4, 3:]
        assert np.ptp(gains, axis=(1, 2)).max() < 0.001, "a band is the ground times a number"
        assert np.isnan(one[SWIR]).all() or (one[SWIR, 3:] <= 0.11 * one[1, 3:]).all()
    assert 5 < sum(np.isnan(one[SWIR]).all() for one in shown) < 35


@pytest.mark.parametrize("bands", [4, 5])
def test_ground_under_snow_has_its_relief_and_the_colours_of_snow(bands):
    ground = image(bands, 0.05, 0.4, side=64)
    ground[:, :8] = 0
    bare, whole, shadows = ground[:, 8:], 0, 0
    for seed in range(80):
        shown = snowfall(rng(seed), ground)
        assert shown.shape == ground.shape
        assert (shown[:, :8] == 0).all(), "what has no data keeps none"
        snow = shown[:, 8:]
        kept = (snow == bare).all(axis=0)
        assert kept.mean() < 0.5
        whole += not kept.any()
        assert 0.1 < np.median(snow[1][~kept]) < 1.2
        white = snow[1] > 0.5
        if white.sum() > 100:
            blue, near = (np.median(snow[band][white] / snow[1][white]) for band in (2, 3))
            shadow = near < 0.95 and 1.05 < blue < 1.45
            assert shadow or 0.85 < blue < 1.15, "blue over green"
            shadows += shadow
            assert bands == 4 or np.median(snow[4][white] / snow[1][white]) < 0.3
        if not kept.any():
            assert np.corrcoef(snow[1].ravel(), bare[:3].mean(axis=0).ravel())[0, 1] > 0.8, "its relief"
    assert 4 < whole < 60
    assert 2 < shadows < 20
    if bands == 5:
        ground[SWIR] = np.nan
        assert np.isnan(snowfall(rng(1), ground)[SWIR, 8:]).all(), "a band that is absent stays so"


def test_clear_ground_is_no_brighter_than_snow_and_what_is_dark_stays():
    dark, snow = image(5, 0.05, 0.7), image(5, 0.5, 2.4)
    snow[:, :3], snow[SWIR] = 0, np.nan
    for seed in range(20):
        assert (dimmed(rng(seed), dark) == dark).all()
        shown = dimmed(rng(seed), snow)
        assert 0.79 < np.quantile(shown[:3].mean(axis=0), 0.9) < 1.11
        assert (shown[:, :3] == 0)[:4].all()
        assert np.ptp(shown[:4, 3:] / snow[:4, 3:]) < 1e-5, "all bands by one number"
        assert np.isnan(shown[SWIR, 3:]).all()
    assert (dimmed(rng(), 0 * dark) == 0).all(), "nor is it no number where there is nothing"


@pytest.mark.parametrize("bands", [3, 4, 5])
def test_a_saturated_band_has_one_limit(bands):
    before = image(bands, 0, 2, side=64)
    cut = saturated(rng(5), before, darkest=0.5)
    assert cut.shape == before.shape
    for band, ground in zip(cut, before, strict=True):
        assert (band == np.minimum(ground, band.max())).all()
        assert 0.2 < band.max() < 2


def test_a_third_of_what_is_shown_has_lost_colour_but_not_its_swir():
    coloured, numbers = image(5), rng(6)
    shown = [fade(numbers, coloured) for _ in range(100)]
    apart = [np.ptp(one[:4], axis=0).mean() / np.ptp(coloured[:4], axis=0).mean() for one in shown]
    assert 50 < sum(x == 1 for x in apart) < 80
    assert min(apart) < 0.2
    assert max(apart) <= 1
    for one in shown:
        np.testing.assert_allclose(one[:4].mean(axis=0), coloured[:4].mean(axis=0), atol=1e-6)
        assert (one[SWIR] == coloured[SWIR]).all()


def test_what_has_no_data_is_not_taught():
    numbers, bare = rng(), np.full((4, 32, 32), 0.3, np.float32)
    bare[:, :3] = 0
    cut = 0
    for _ in range(80):
        one = sensor(numbers, bare)
        assert (empty(one) == empty(bare)).all()
        one, target = lose_sides(numbers, one, np.zeros((32, 32), np.float32))
        assert (np.isnan(target) == empty(one)).all()
        cut += np.isnan(target[3:]).any()
    assert 3 <= cut <= 25


def test_swir16_is_withheld_at_times_and_coarse_at_times():
    numbers, full = rng(), image(5)
    shown = [sensor(numbers, full) for _ in range(100)]
    absent = [one for one in shown if np.isnan(one[SWIR]).all()]
    assert 25 < len(absent) < 55
    assert all(np.isfinite(one[:4]).all() for one in shown)
    there = [one[SWIR] for one in shown if np.isfinite(one[SWIR]).all()]
    assert len(there) + len(absent) == 100
    assert 20 < sum((band == coarse(band)).all() for band in there) < 60


def test_flat_bright_ground_is_not_taught_as_clear_without_swir16():
    white = image(5, 0.1, 0.9)
    white[:, :16] = 0.5
    clear = np.zeros((32, 32), np.float32)
    assert (undecided(white, clear) == 0).all(), "swir16 tells"
    white[SWIR] = np.nan
    told = undecided(white, clear)
    assert np.isnan(told[3:13]).all()
    assert (told[20:] == 0).all()
    assert (undecided(white[:4], clear + 1) == 1).all(), "a flat deck is cloud"
    dark = white * np.float32(0.2)
    assert (undecided(dark, clear) == 0).all()


def test_real_snow_gets_a_swir16_that_is_dark_and_rock_one_that_is_not():
    ground = np.full((5, 8, 8), np.nan, np.float32)
    ground[:4, :4], ground[:4, 4:] = 0.8, np.array([0.2, 0.18, 0.15, 0.3], np.float32)[:, None, None]
    target = np.zeros((8, 8), np.float32)
    cut = np.repeat(np.array([0.4, 0.4, 0.4, 0.9, np.nan], np.float32), 64).reshape(5, 8, 8)
    for seed in range(20):
        frozen = frost(rng(seed), ground, target)
        assert (frozen[:4] == ground[:4]).all()
        assert frozen[SWIR, :4].max() < 0.15
        assert frozen[SWIR, 4:].min() > 0.15
        cloudy = frost(rng(seed), ground, np.ones((8, 8), np.float32))
        assert cloudy[SWIR, :4].min() > frozen[SWIR, :4].max()
        saturated = frost(rng(seed), cut, target)
        assert saturated[SWIR].max() < 0.15, "near infrared is the brighter only because the others are cut"


@pytest.mark.parametrize("given", [True, False])
def test_snow_of_the_form_of_clouds_is_clear_by_its_swir16_alone(given):
    scene = np.full((5, 32, 32), 0.08, np.float32)
    scene[3:] = 0.3
    scene[:, :16] = 0.6  # a cloud, and a veil that is as dark as its ground
    cloud = np.zeros((32, 32), np.float32)
    cloud[:16] = cloud[:, 24:] = 1
    cloud[:2, :2] = np.nan
    if not given:
        scene[SWIR] = np.nan
    for seed in range(20):
        image, target = snowed(rng(seed), scene, cloud)
        assert (image[:4] == scene[:4]).all()
        assert np.nanmax(image[SWIR, 4:12]) < 0.2
        assert image[SWIR, 20:, :20].min() > 0.2
        assert np.isnan(target[:2, :2]).all(), "what was unknown stays so"
        assert (target[4:12] == 0).all()
        assert np.isnan(target[20:, 28:]).all(), "dim, and neither snow nor a clear cloud"
        assert (target[20:, :20] == 0).all()


def test_snow_without_its_swir16_would_be_a_lie():
    full = image(5)
    assert not any(np.isnan(sensor(rng(seed), full, withheld=0)).any() for seed in range(40))


def test_a_pasted_cloud_gets_a_swir16_as_real_ones_have():
    cloud = image(5, 0.4, 0.9)
    cloud[SWIR] = np.nan
    kept = []
    for seed in range(40):
        made = condensed(rng(seed), cloud)
        share = made[SWIR] / cloud[1]
        assert np.isnan(cloud[SWIR]).all(), "the image itself is left alone"
        assert np.ptp(share) < 1e-5
        kept.append(share.mean())
    assert 0.079 < min(kept) < 0.1, "as the darkest of ice, which are no snow"
    assert 1.2 < max(kept) < 1.501
    assert 0.25 < np.median(kept) < 0.5


@pytest.fixture
def folder(tmp_path):
    """Chips of six bands, a cloud on dark ground, and of five, all clear."""
    swir = tmp_path / "swir"
    swir.mkdir()
    cloudy = np.full((6, 80, 80), 60, np.uint16)
    cloudy[:, 20:60, 30:70] = 400
    cloudy[:, :, 76:] = 0
    write(swir / "algorithm-one_r0_c0.tif", cloudy)
    write(swir / "algorithm-one_r0_c0_label.tif", (cloudy[0] == 400).astype(np.uint8))
    write(swir / "california-two.tif", np.full((5, 80, 80), 90, np.uint16))
    return swir


def test_chips_with_infrared(folder):
    cloudy, clear = find(folder).patches
    assert (cloudy.scene, cloudy.clear, clear.clear, clear.label) == ("algorithm-one", False, True, None)
    six, label = cloudy.read(6)
    assert six.shape == (6, 80, 80)
    assert six[5, 30, 40] == pytest.approx(0.64)
    assert (label[:, 76:] == 255).all()
    five, label = clear.read(6)
    assert np.isnan(five[5]).all()
    assert np.isfinite(five[:5]).all()
    assert (label == 0).all()
    assert clear.read()[0].shape == (4, 80, 80)


def test_what_is_shown_is_what_a_job_shows(folder):
    samples = Samples(find(folder).patches, Mix(1, 1, 1, 1, 1), 40, FIVE, crop=64, skies=3)
    absent = 0
    for index in range(40):
        shown, target, _ = samples[index]
        assert shown.shape == (5, 64, 64)
        assert torch.isfinite(shown).all()
        assert (shown[:4] != 0).any(dim=0).all(), "no data is mirrored, not zero"
        assert (shown[4] == -0.25).all() or (shown[4] >= 0).all()
        absent += bool((shown[4] == -0.25).all())
        assert target.isnan().float().mean() < 1
    assert 5 < absent < 35


def test_snow_of_the_form_of_clouds_is_shown_with_its_band_only(folder, monkeypatch):
    monkeypatch.setattr("training.sample.SNOWED", 1)
    samples = Samples(find(folder).patches, Mix(1, 0, 1, 1, 1), 40, FIVE, crop=64, skies=3)
    bright = 0
    for index in range(40):
        shown, target, _ = samples[index]
        assert (shown[4] >= 0).all()
        assert not (target > 0).any()
        bright += int(((target[0] == 0) & (shown[1] > 0.4)).sum())
    assert bright > 1000


def test_the_teacher_judges_blends_in_all_bands_and_before_the_sensor(folder):
    asked = []

    def ask(_, image):
        asked.append(image.copy())
        return (image[5] > 0.3).astype(np.float32)

    patches = find(folder).patches
    samples = Samples(
        patches[:1], Mix(), 30, FIVE, crop=64, blended=frozenset({patches[0].name}), blends=5, ask=ask, side=64
    )
    shown = [samples[index] for index in range(30)]
    assert 2 <= len(asked) <= 5, "each blend is judged once"
    assert all(one.shape == (6, 64, 64) for one in asked)
    assert any(((one[5] > 0.15) & (one[5] < 0.6)).any() for one in asked), "none is seen through another"
    again = Samples(
        patches[:1], Mix(), 30, FIVE, crop=64, blended=frozenset({patches[0].name}), blends=5, ask=ask, side=64
    )
    for index in (29, 3, 11):
        for one, other in zip(shown[index][:2], again[index][:2], strict=True):
            assert torch.equal(torch.nan_to_num(one, nan=9), torch.nan_to_num(other, nan=9))


def test_an_algorithms_label_counts_where_the_teacher_agrees_with_its_probability(folder, tmp_path):
    patches = find(folder).patches
    said = np.full((80, 80), 0.8, np.float16)
    said[:40] = 0.02
    np.savez(tmp_path / "teacher.npz", **{patches[0].name: said})
    chosen = settings.Data(agreeing=("algorithm-*",))
    target = teach.targets(patches, chosen, tmp_path / "teacher.npz")[patches[0].name]
    assert target[45:55, 35:60] == pytest.approx(0.8, abs=0.001)
    assert np.isnan(target[25:35, 35:60]).all(), "the label says cloud, the teacher clear"
    assert target[5, 5] == pytest.approx(0.02, abs=0.001)
    assert np.isnan(target[70, 5]), "the label says clear, the teacher cloud"


def test_where_there_are_no_data_the_teacher_has_no_say(folder, tmp_path):
    path = find(folder).patches[0].layers[0].path
    with rasterio.open(path) as file:
        numbers = file.read()
    numbers[:, :10] = 0
    write(path, numbers)
    patch = find(folder).patches[0]
    np.savez(tmp_path / "teacher.npz", **{patch.name: np.full((80, 80), 0.02, np.float16)})
    for chosen in (settings.Data(agreeing=("*",)), settings.Data(teacher=("*",)), settings.Data(confirmed=("*",))):
        target = teach.targets([patch], chosen, tmp_path / "teacher.npz")[patch.name]
        assert np.isnan(target[:10]).all()
        assert (target[12:20] < 0.1).any()


def test_a_patch_of_four_bands_lacks_the_others(tmp_path):
    write(tmp_path / "four.tif", np.full((4, 8, 8), 100, np.uint16))
    patch = Patch("four", "four", "x", tuple(Layer(tmp_path / "four.tif", i, 0.001) for i in (1, 2, 3, 4)))
    reflectance, _ = patch.read(5)
    assert np.isnan(reflectance[4]).all()
    assert (reflectance[:4] == np.float32(0.1)).all()
