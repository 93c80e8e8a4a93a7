"""What sensors, processing levels and seasons do to an image: changes that leave its clouds where they are.

Images are `training.patch.Reflectance`, of three to five bands. Their targets were judged before: what an image loses
here, its target does not.
"""

import numpy as np
from scipy.ndimage import (  # type: ignore[attr-defined]  # scipy's own lists hide them
    gaussian_filter,
    maximum_filter,
    minimum_filter,
)

from cloudjob.model.contract import Contract
from training.patch import SWIR, Float, empty

WITHHELD = 0.4
"""Share of images with `swir16` that are shown without it."""
RAYLEIGH = (0.30, 0.53, 1.0, 0.10, 0.01)
"""Path radiance grows towards short waves, about as wavelength^−4."""

SNOWS = (
    (0.6, (0.35, 0.95), (1.01, 1.0, 0.96, 0.88), (0.03, 0.0, 0.03, 0.08)),  # in the sun
    (0.2, (0.16, 0.60), (0.95, 1.0, 1.14, 0.65), (0.06, 0.0, 0.10, 0.12)),  # in the shadow
    (0.2, (0.19, 0.60), (0.96, 1.0, 0.97, 0.70), (0.03, 0.0, 0.03, 0.08)),  # old snow, and ice
)
"""Share of a kind of snow; its least and largest green; red, green, blue, near infrared by its green: mean and spread.

Of 11,729 labelled points of Sentinel-2 (5 to 95 %) snow had a green of 0.48 to 0.98, and as shares of it blue 0.90 to
1.01, red 0.96 to 1.09, near infrared 0.77 to 1.06; in the shadow green 0.16 to 0.66, blue 0.86 to 1.28, near infrared
0.45 to 1.02; glacier ice green 0.19 to 0.61, blue 0.89 to 1.03, red 0.88 to 1.02, near infrared 0.56 to 0.88.
"""


def sensor(rng: np.random.Generator, image: Float, withheld: float = WITHHELD) -> Float:
    """Gain and offset of all bands and of each, the blue haze of level 1C, saturation, 8-bit numbers and noise.

    `swir16` comes in pixels of twice the side, or, with the probability `withheld`, not at all.
    """
    nothing, bands = empty(image), len(image)
    gain = np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.04, bands))
    offset = rng.normal(0, 0.006) + rng.normal(0, 0.004, bands)
    if rng.random() < 0.2:
        offset = offset + rng.uniform(0, 0.08) * np.array(RAYLEIGH[:bands])
    image = image * np.float32(gain[:, None, None]) + np.float32(offset[:, None, None])
    if rng.random() < 0.15:
        image = saturated(rng, image, darkest=0.4)
    if rng.random() < 0.1:
        image = (np.round(image * rng.uniform(150, 400)) / 255).astype(np.float32)
    if rng.random() < 0.2:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 0.006))
    image = np.clip(image, 0.0001, Contract.brightest).astype(np.float32)
    if bands > SWIR:
        if rng.random() < withheld:
            image[SWIR] = np.nan
        elif rng.random() < 0.6:
            image[SWIR] = coarse(image[SWIR])
    image[:, nothing] = 0
    return image


def coarse(band: Float) -> Float:
    """A band (height, width; even) in pixels of 2 × 2, as one of 20 m on a grid of 10 m."""
    height, width = band.shape
    blocks = band.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    whole: Float = blocks.repeat(2, axis=0).repeat(2, axis=1)
    return whole


def saturated(rng: np.random.Generator, image: Float, darkest: float) -> Float:
    """Each band cut where its sensor counts no further, the visible ones at similar reflectances."""
    bands = len(image)
    limit = rng.uniform(darkest, 1.2) * np.exp(rng.normal(0, 0.08, bands))
    limit[3:] *= rng.uniform(0.6, 2, bands - 3)
    cut: Float = np.minimum(image, limit.astype(np.float32)[:, None, None])
    return cut


def undecided(image: Float, target: Float) -> Float:
    """The target without bright flat ground, unless `swir16` tells it from a deck of cloud: nobody can."""
    if len(image) > SWIR and not np.isnan(image[SWIR]).any():
        return target
    visible = image[:3].mean(axis=0)
    flat = maximum_filter(visible, 5) - minimum_filter(visible, 5) < 0.02 * visible
    return np.where(flat & (visible > 0.3) & (target < 0.5), np.nan, target).astype(np.float32)


def dazzle(rng: np.random.Generator, image: Float) -> Float:
    """Ground under snow: bright, tinted, dark at 1.6 µm.

    There is little real snow to learn from; that fields, ridges and roads are ground whatever their brightness is
    learnt from these.
    """
    image = image * np.exp(rng.uniform(0.2, 1.6) + rng.normal(0, 0.12, (len(image), 1, 1))).astype(np.float32)
    if len(image) > SWIR:
        image[SWIR] = np.nan if rng.random() < 0.5 else np.float32(rng.uniform(0.01, 0.1)) * image[1]
    return image


def snowfall(rng: np.random.Generator, image: Float) -> Float:
    """Ground under snow: its relief with the brightness and colours of `SNOWS`; in most images what is dark stands out.

    An absent band stays absent.
    """
    visible = image[:3].mean(axis=0)
    around = gaussian_filter(visible, float(np.exp(rng.uniform(np.log(3), np.log(40)))))
    relief = np.clip(visible / (around + 0.01), 0.3, 1.8) ** np.float32(rng.uniform(0.2, 1))
    _, green, means, spreads = SNOWS[rng.choice(len(SNOWS), p=[share for share, *_ in SNOWS])]
    colours = rng.normal(means, spreads).astype(np.float32)[: len(image)]
    snow = np.float32(rng.uniform(*green)) * relief * colours[:, None, None]
    if len(image) > SWIR:
        snow = np.concatenate([snow, _snow(rng) * snow[1:2]])
    cover = np.ones_like(visible)
    if rng.random() < 0.7:
        darkest = np.quantile(image[1], rng.uniform(0, 0.4))
        cover = np.clip((gaussian_filter(image[1], 0.7) - darkest) / 0.02, 0, 1)
    return np.where(empty(image), 0, cover * snow + (1 - cover) * image).astype(np.float32)


def dimmed(rng: np.random.Generator, image: Float) -> Float:
    """Clear ground no brighter than there is: of a crop nine tenths are below a visible reflectance of 0.8 to 1.1.

    Decks of cloud under a low sun are brighter than that, and nothing but their brightness may tell them from snow.
    Of 11,729 labelled points of Sentinel-2 95 % of snow had a green of at most 0.98; slopes in the sun are brighter.
    """
    bright = np.quantile(image[:3].mean(axis=0), 0.9)
    return image * np.float32(min(1, rng.uniform(0.8, 1.1) / max(bright, 1e-6)))


def frost(rng: np.random.Generator, image: Float, target: Float) -> Float:
    """Snow, ice and rock with a `swir16` made up: dark where it is bright, brighter than near infrared on dark rock.

    Brightness alone decides: bands of the images of snow that there are, saturate or were stretched, each by itself.
    """
    green, nir = image[1], image[3]
    white = np.clip((green - 0.12) / 0.15, 0, 1)
    snow = _snow(rng) * green
    rock = np.float32(rng.uniform(0.9, 1.35)) * nir
    made = np.where(np.nan_to_num(target) > 0.5, _kept(rng) * green, white * (snow - rock) + rock)
    image = image.copy()
    image[SWIR] = np.where(empty(image), 0, made)
    return image


def snowed(rng: np.random.Generator, image: Float, target: Float) -> tuple[Float, Float]:
    """Snow of the form of clouds: what passes for cloud in four bands is clear where it is dark at 1.6 µm.

    What snow looks like can be learnt by heart, for there is little of it; here the band alone tells. Rims and dim
    clouds, which would be neither, are not taught. An image without the band has snow wherever it is bright.
    """
    cloud = gaussian_filter(np.nan_to_num(target, nan=0.5), 1)
    weight = np.clip((image[1] - 0.12) / 0.15, 0, 1)
    if np.isnan(image[SWIR]).any():
        ground = np.float32(rng.uniform(0.9, 1.35)) * image[3]
    else:
        ground, weight = image[SWIR], weight * cloud
    image = image.copy()
    image[SWIR] = np.where(empty(image), 0, weight * (_snow(rng) * image[1] - ground) + ground)
    clear = (weight > 0.6) | (cloud < 0.1)
    return image, np.where(clear & ~np.isnan(target), 0, np.nan).astype(np.float32)


def condensed(rng: np.random.Generator, image: Float) -> Float:
    """Thick clouds with a `swir16` made up."""
    image = image.copy()
    image[SWIR] = _kept(rng) * image[1]
    return image


def _snow(rng: np.random.Generator) -> np.float32:
    """What snow keeps of its brightness at 1.6 µm: 0.01 to 0.08, the median of real snow 0.02."""
    return np.float32(np.exp(rng.normal(np.log(0.03), 0.6)))


def _kept(rng: np.random.Generator) -> np.float32:
    """What a cloud keeps of its brightness at 1.6 µm.

    Real ones: 0.1 to 0.9, half of it below 0.24, over the Atlantic (ice); 0.5 to 1.3 and 0.7 to 1.8 over land (drops,
    and the ground's light among them).
    """
    return np.float32(np.exp(rng.uniform(np.log(0.08), np.log(1.5))))


def fade(rng: np.random.Generator, image: Float) -> Float:
    """A third of the images with less colour than they had in the first four bands, down to none.

    Clouds are seen in a black and white picture too: form is learnt, not only colour, for some snow has the clouds'.
    """
    if rng.random() < 0.67:
        return image
    grey = image[:SWIR].mean(axis=0)
    faded = image.copy()
    faded[:SWIR] = grey + np.float32(rng.random()) * (image[:SWIR] - grey)
    return faded


def lose_sides(rng: np.random.Generator, image: Float, target: Float) -> tuple[Float, Float]:
    """Some crops' sides without data: tiles reach beyond the scene, and beyond its sensor's swath."""
    nothing = empty(image)
    if rng.random() < 0.12:
        for side in rng.choice(4, size=int(rng.integers(1, 3)), replace=False):
            np.rot90(nothing, side)[: int(rng.integers(1, target.shape[0] // 2))] = True
    return np.where(nothing, 0, image).astype(np.float32), np.where(nothing, np.nan, target).astype(np.float32)
