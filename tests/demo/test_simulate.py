"""The simulator: what it promises of ground, sky and the two together."""

import numpy as np
import pytest

from cloudjob.demo.fractal import noise
from cloudjob.demo.simulate import CLOUD_OPACITY, CLOUDS, Sky, overlay, sky
from cloudjob.demo.surface import SURFACES, ground

SHAPE = (180, 233)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene(seed: int) -> list[np.ndarray]:
    land, classes = ground(rng(seed), SHAPE)
    clouds = sky(rng(seed), SHAPE)
    return [land, classes, clouds.opacity, clouds.colour, clouds.shadow, *overlay(land, clouds)]


@pytest.mark.parametrize("seed", range(8))
def test_the_same_seed_gives_the_same_values_of_the_promised_form(seed: int) -> None:
    first, again, other = scene(seed), scene(seed), scene(seed + 100)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[2], other[2])
    forms = [(values.dtype.name, values.shape) for values in first]
    plane, bands = SHAPE, (5, *SHAPE)
    assert forms == [
        ("float32", bands),
        ("uint8", plane),
        ("float32", plane),
        ("float32", bands),
        ("float32", plane),
        ("float32", bands),
        ("uint8", plane),
    ]
    land, classes, opacity, colour, shadow, mixed, label = first
    assert all(np.isfinite(values).all() for values in first)
    assert classes.max() < len(SURFACES)
    for values, least, most in ((land, 0.001, 2), (opacity, 0, 1), (shadow, 0, 1), (colour, 0, 2), (mixed, 0.00001, 2)):
        assert least <= values.min() <= values.max() <= most
    assert set(np.unique(label)) <= {0, 1}


def test_noise_is_standard_and_as_coarse_as_asked() -> None:
    fields = [noise(rng(seed), (200, 300), slope=1.3, outer=20) for seed in range(5)]
    assert np.std(fields) == pytest.approx(1, abs=0.05)
    assert np.mean(fields) == pytest.approx(0, abs=0.1)

    def change(**how: float) -> tuple[float, float]:
        """Mean step from row to row and from column to column."""
        field = noise(rng(1), (256, 256), **{"slope": 1.3, "outer": 20, **how})
        return float(np.abs(np.diff(field, axis=0)).mean()), float(np.abs(np.diff(field, axis=1)).mean())

    assert max(change(outer=80)) < min(change())
    assert max(change(slope=2)) < min(change())
    along, across = change(stretch=6, angle=0)[::-1]
    assert across > 2 * along


def test_noise_does_not_join_at_its_edges() -> None:
    field = noise(rng(2), (256, 256), slope=2, outer=100)
    assert np.abs(field[0] - field[-1]).mean() > 10 * np.abs(np.diff(field, axis=0)).mean()


@pytest.mark.parametrize("kind", SURFACES)
def test_a_kind_of_ground_alone(kind: str) -> None:
    land, classes = ground(rng(5), SHAPE, kinds=(kind,))
    there = {SURFACES[value] for value in np.unique(classes)}
    assert kind in there
    assert there <= {kind} | {"foam": {"water"}, "snow": {"bare"}}.get(kind, set())
    red, green, blue, nir, swir16 = np.median(land[:, classes == SURFACES.index(kind)], axis=1)
    if kind in ("snow", "ice"):  # what tells them from cloud
        assert swir16 < 0.1 < green
    if kind == "forest":
        assert nir > 4 * red
        assert green > blue
    elif kind == "water":
        assert nir < green < 0.12
    elif kind in ("snow", "salt", "foam"):
        assert min(red, green, blue) > 0.3
    elif kind in ("sand", "bare"):
        assert nir > red > green > blue
    assert (land.std(axis=(1, 2)) > 0.01 * land.mean(axis=(1, 2))).all()  # nothing is flat


def test_all_kinds_that_were_asked_for_are_there_and_they_are_patches() -> None:
    kinds = ("farmland", "forest", "town", "water")
    _, classes = ground(rng(3), (512, 512), kinds=kinds)
    shares = np.bincount(classes.ravel(), minlength=len(SURFACES)) / classes.size
    assert all(shares[SURFACES.index(kind)] > 0.02 for kind in kinds)
    assert (classes[1:] == classes[:-1]).mean() > 0.9


def test_bright_roofs_and_snow_in_shade_make_it_hard() -> None:
    town, _ = ground(rng(4), SHAPE, kinds=("town",))
    assert (town[:3].min(axis=0) > 0.5).mean() > 0.002
    spreads = [np.ptp(np.percentile(ground(rng(seed), SHAPE, kinds=("snow",))[0][0], (2, 98))) for seed in range(6)]
    assert max(spreads) > 0.5


def test_slopes_away_from_the_sun_are_dark_and_bluish() -> None:
    land, classes = ground(rng(2), (256, 256), kinds=("snow",))
    snow = land[:, classes == SURFACES.index("snow")]
    dark, bright = snow[:, snow[3] < np.percentile(snow[3], 5)], snow[:, snow[3] > np.percentile(snow[3], 60)]
    assert dark[3].mean() < 0.7 * bright[3].mean()
    assert dark[2].mean() / dark[3].mean() > 1.05 * bright[2].mean() / bright[3].mean()


def test_water_lies_low_and_snow_high() -> None:
    """So forest is found between them, and they hardly touch."""
    water, forest, snow = (SURFACES.index(kind) for kind in ("water", "forest", "snow"))
    touches = {forest: 0, snow: 0}
    for seed in range(8):
        _, classes = ground(rng(seed), (256, 256), kinds=("water", "snow", "forest"))
        for other in touches:
            touches[other] += int(((classes[1:] == water) & (classes[:-1] == other)).sum())
    assert 2 * touches[snow] < touches[forest]


@pytest.mark.parametrize("cover", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("kind", ["cumulus", "stratus"])
def test_cover(kind: str, cover: float) -> None:
    clouds = sky(rng(1), (256, 256), cover=cover, kinds=(kind,))
    assert (clouds.opacity > 0).mean() == pytest.approx(cover, abs=0.03)


def test_every_kind_of_cloud_is_as_thick_as_its_name_says() -> None:
    share, thickest = {}, {}
    for kind in CLOUDS:
        skies = [sky(rng(seed), (128, 128), kinds=(kind,)).opacity for seed in range(12)]
        share[kind] = float(np.mean([opacity >= CLOUD_OPACITY for opacity in skies]))
        thickest[kind] = float(np.median([opacity.max() for opacity in skies]))
    assert share["overcast"] == 1
    assert share["haze"] < 0.1 < share["cirrus"] < 0.6
    assert 0.05 < share["cumulus"] < share["stratocumulus"] < 0.8
    assert thickest["haze"] < 0.2 < thickest["cirrus"] < 0.8 < thickest["stratus"]
    assert thickest["cumulus"] > 0.95


def test_a_clear_sky_changes_nothing() -> None:
    land, _ = ground(rng(7), SHAPE)
    mixed, label = overlay(land, sky(rng(7), SHAPE, kinds=()))
    np.testing.assert_array_equal(mixed, land)
    assert not label.any()


def test_overlay_blends_by_opacity_and_labels_by_it() -> None:
    land = np.full((4, 1, 5), 0.1, np.float32)
    opacity = np.array([[0, CLOUD_OPACITY - 0.001, CLOUD_OPACITY, 0.5, 1]], np.float32)
    clouds = Sky(opacity, np.full((4, 1, 5), 0.9, np.float32), np.zeros((1, 5), np.float32))
    mixed, label = overlay(land, clouds)
    np.testing.assert_array_equal(label, [[0, 0, 1, 1, 1]])
    np.testing.assert_allclose(mixed[2, 0], 0.1 + 0.8 * opacity[0], rtol=1e-6)


def test_shadow_darkens_near_infrared_most_and_leaves_skylight() -> None:
    land = np.full((4, 1, 2), 0.3, np.float32)
    clouds = Sky(np.zeros((1, 2), np.float32), np.zeros((4, 1, 2), np.float32), np.array([[0, 1]], np.float32))
    red, _, blue, nir = overlay(land, clouds)[0][:, 0, 1]
    assert 0 < nir < red < blue < 0.15


def test_a_cloud_and_its_shadow_have_one_form_some_way_apart() -> None:
    clouds = sky(rng(3), (512, 512), cover=0.06, kinds=("cumulus",))
    spectrum = np.conj(np.fft.fft2(clouds.opacity)) * np.fft.fft2(clouds.shadow)
    match = np.fft.ifft2(spectrum).real
    row, column = np.unravel_index(match.argmax(), match.shape)
    row, column = (int(i) - 512 if i > 256 else int(i) for i in (row, column))
    assert 20 < np.hypot(row, column) < 700
    moved = np.roll(clouds.opacity, (row, column), axis=(0, 1))
    inside = moved[max(row, 0) : 512 + min(row, 0), max(column, 0) : 512 + min(column, 0)]
    cast = clouds.shadow[max(row, 0) : 512 + min(row, 0), max(column, 0) : 512 + min(column, 0)]
    np.testing.assert_allclose(inside, cast, atol=1e-5)


def test_upper_clouds_hide_lower_ones() -> None:
    both = sky(rng(9), SHAPE, kinds=("cumulus", "cirrus"))
    low = sky(rng(9), SHAPE, kinds=("cumulus",))  # the same numbers are drawn first
    assert (both.opacity >= low.opacity - 1e-6).all()
    assert (both.opacity > low.opacity + 0.05).any()


@pytest.mark.parametrize("kind", CLOUDS)
def test_the_colour_of_clouds_is_theirs_however_thin_they_are(kind: str) -> None:
    clouds = sky(rng(6), SHAPE, kinds=(kind,))
    seen = clouds.colour[:, clouds.opacity > 0.001]
    assert seen[:4].min() > 0.1
    assert (seen[4] > 0.15 * seen[1]).all()
