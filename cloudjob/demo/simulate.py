"""Simulated Sentinel-2-like scenes with their truth: pure arrays, for the demo's catalog and for training.

`ground` paints a surface, `sky` makes clouds with their shadows, `overlay` lays a sky over any reflectance, simulated
or real. Bands are red, green, blue, nir, swir16; sizes are in pixels, thought of as 10 m.

Sources of the method:

- Clouds as thresholded random fields with a power-law spectrum, blended into the image by their opacity, with shadows
  of the same form: M. Czerkawski, R. Atkinson, C. Michie, C. Tachtatzis, "SatelliteCloudGenerator: Controllable Cloud
  and Shadow Synthesis for Multi-Spectral Optical Satellite Images", Remote Sensing 15 (17), 4138 (2023),
  https://doi.org/10.3390/rs15174138. No code is taken from it.
- The random fields: see `cloudjob.demo.fractal`.
- Shadows displaced by height × tan(sun's zenith angle), away from the sun: Z. Zhu, C. E. Woodcock, "Object-based cloud
  and cloud shadow detection in Landsat imagery", Remote Sensing of Environment 118, 83-94 (2012),
  https://doi.org/10.1016/j.rse.2011.10.028.
- Clouds at 1.6 µm: droplets absorb little, a thick cloud of them keeps 0.55 to 0.95 of its brightness, ice crystals
  absorb more, 0.25 to 0.6: T. Nakajima, M. D. King, Journal of the Atmospheric Sciences 47 (15), 1878-1893 (1990), and
  the real deck of ice cloud that training uses (0.3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cloudjob.demo.fractal import Float, noise
from cloudjob.demo.surface import BANDS, DIFFUSE, SURFACES, ground

__all__ = ["BANDS", "CLOUDS", "CLOUD_OPACITY", "DECKS", "SURFACES", "Sky", "ground", "overlay", "sky"]

# Share of the scene that is covered, and size of the largest structures in pixels, both drawn between two; slope (see
# `noise`); optical depth where the field is one standard deviation above the edge; height in pixels, drawn likewise.
_FORMS = {
    "cumulus": ((0.02, 0.5), (8, 60), 1.5, 3.0, (60, 250)),
    "fog": ((0.3, 1), (60, 400), 2.0, 2.5, (2, 20)),
    "stratocumulus": ((0.3, 0.9), (30, 150), 1.3, 2.0, (60, 250)),
    "stratus": ((0.3, 0.95), (150, 800), 1.5, 1.5, (20, 150)),
    "overcast": ((0.97, 1), (100, 800), 1.6, 1.5, (30, 400)),
    "altocumulus": ((0.4, 1), (6, 30), 1.2, 1.5, (250, 600)),
    "altostratus": ((0.7, 1), (200, 800), 1.8, 0.8, (250, 800)),
    "cirrus": ((0.1, 0.9), (100, 600), 1.1, 0.25, (700, 1100)),
    "haze": ((0.5, 1), (300, 800), 1.8, 0.03, (50, 200)),
}

CLOUDS = tuple(_FORMS)
"""Kinds of cloud, roughly from the lowest to the highest."""

DECKS = ("overcast", "stratocumulus", "stratus", "fog", "altocumulus", "altostratus")
"""Kinds that can cover all that is seen."""

CLOUD_OPACITY = 0.12
"""From this opacity on a pixel is labelled cloud; what is thinner is haze."""


@dataclass(frozen=True)
class Sky:
    """Clouds over a scene.

    Attributes:
        opacity: (H, W) float32, 0 (nothing) to 1 (no ground seen).
        colour: (5, H, W) float32, reflectance of the clouds themselves.
        shadow: (H, W) float32, 0 (sunlit) to 1: the share of direct sunlight that clouds take away from the ground.
    """

    opacity: Float
    colour: Float
    shadow: Float


def sky(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    cover: float | None = None,
    kinds: Sequence[str] | None = None,
) -> Sky:
    """Make clouds, from popcorn cumulus to overcast decks, with the shadows they throw.

    Args:
        rng: where chance comes from.
        shape: (height, width) in pixels.
        cover: share of the scene that a layer of clouds covers, 0 to 1, or None for any.
        kinds: of `CLOUDS`, one layer each from the lowest to the highest; none is a clear sky; None for one to three
            at random.
    """
    if kinds is None:
        chosen = rng.choice(CLOUDS, size=rng.choice([1, 2, 3], p=[0.55, 0.35, 0.1]), replace=False)
        kinds = [kind for kind in CLOUDS if kind in chosen]
    azimuth = rng.uniform(0, 2 * math.pi)
    slant = math.tan(math.radians(rng.uniform(20, 70)))  # the sun's zenith angle
    sun = (-math.cos(azimuth), math.sin(azimuth))  # (rows, columns) towards the sun; rows count southwards
    clear = np.ones(shape, np.float32)
    light = np.ones(shape, np.float32)
    colour = np.zeros((len(BANDS), *shape), np.float32)
    for kind in kinds:
        opacity, tint, height = _layer(rng, shape, kind, cover, sun)
        # A higher layer covers what lies below it: `colour` is premultiplied by opacity until the end.
        colour *= 1 - opacity
        colour += tint * opacity
        clear *= 1 - opacity
        light *= 1 - _shadow(opacity, height * slant, sun)
    opacity = 1 - clear
    colour /= np.maximum(opacity, 1e-6)
    return Sky(opacity, colour, 1 - light)


def overlay(reflectance: Float, clouds: Sky) -> tuple[Float, npt.NDArray[np.uint8]]:
    """Lay a sky over a clear scene.

    Args:
        reflectance: (5, H, W) float32, simulated or real, or the first 4 bands only.
        clouds: of the same height and width.

    Returns:
        Reflectance of as many bands, and (H, W) uint8 label: 1 where `CLOUD_OPACITY` is reached, else 0.
    """
    bands = len(reflectance)
    diffuse = np.array(DIFFUSE[:bands], np.float32)[:, None, None]
    lit = reflectance * (1 - (1 - diffuse) * clouds.shadow)
    mixed = lit + (clouds.colour[:bands] - lit) * clouds.opacity
    return mixed.astype(np.float32), (clouds.opacity >= CLOUD_OPACITY).astype(np.uint8)


def _layer(
    rng: np.random.Generator, shape: tuple[int, int], kind: str, cover: float | None, sun: tuple[float, float]
) -> tuple[Float, Float, float]:
    """Opacity (H, W), reflectance (5, H, W) and height in pixels of one layer of clouds."""
    shares, sizes, slope, depth, height = _FORMS[kind]
    share, outer = rng.uniform(*shares), rng.uniform(*sizes)
    share = share if cover is None else cover
    streaks = {"stretch": rng.uniform(2, 8), "angle": rng.uniform(0, math.pi)} if kind == "cirrus" else {}
    field = noise(rng, shape, slope=slope, outer=outer, **streaks)
    thick = np.maximum(field - _quantile(field, 1 - share), 0)
    if kind == "overcast" or (cover is not None and cover >= 1 and kind in DECKS):
        thick += np.float32(rng.uniform(0.5, 1.5))
    depths = thick * np.float32(depth * rng.uniform(0.6, 1.6))
    opacity = 1 - np.exp(-depths)
    tint = _tint(rng, kind, depths, sun)
    return opacity, tint, float(rng.uniform(*height))


def _quantile(field: Float, share: float) -> np.float32:
    """The value below which `share` of the field lies, from a sample of it."""
    sample = field[:: max(1, field.shape[0] // 128), :: max(1, field.shape[1] // 128)]
    return np.float32(np.quantile(sample, min(max(share, 0), 1)) if share > 0 else field.min() - 0.5)


def _tint(rng: np.random.Generator, kind: str, depths: Float, sun: tuple[float, float]) -> Float:
    """(5, H, W) reflectance of a cloud: brighter where thicker and on the side of the sun."""
    grey = kind in ("fog", "stratus", "overcast", "altostratus") and rng.random() < 0.4
    base = rng.uniform(0.2, 0.4) if grey else rng.uniform(0.35, 0.75)
    lift = rng.uniform(0.1, 0.5)
    bright = base + lift * (1 - np.exp(-0.5 * depths))
    if kind not in ("cirrus", "haze", "fog", "altostratus"):
        rise, run = np.gradient(depths)
        side = -(rise * np.float32(sun[0]) + run * np.float32(sun[1]))
        bright += np.clip(side, -1, 1) * np.float32(rng.uniform(0.1, 0.6))
    blue = rng.uniform(0, 0.25) if kind == "haze" else rng.uniform(-0.03, 0.08)
    icy = kind == "cirrus" or (kind in ("altocumulus", "altostratus", "overcast") and rng.random() < 0.5)
    kept = rng.uniform(0.25, 0.6) if icy else rng.uniform(0.55, 0.95)
    gains = np.array([1, 1 + blue / 2, 1 + blue, 1 - blue / 2, kept], np.float32)
    gains += rng.normal(0, 0.02, len(BANDS)).astype(np.float32)
    tint: Float = np.clip(bright, 0.15, 1.3)[None] * gains[:, None, None]
    return tint


def _shadow(opacity: Float, distance: float, sun: tuple[float, float]) -> Float:
    """A layer's shadow: its opacity, displaced away from the sun."""
    down, right = (round(-distance * part) for part in sun)
    shadow = np.zeros_like(opacity)
    height, width = opacity.shape
    if abs(down) >= height or abs(right) >= width:
        return shadow
    rows = slice(max(down, 0), height + min(down, 0)), slice(max(-down, 0), height + min(-down, 0))
    columns = slice(max(right, 0), width + min(right, 0)), slice(max(-right, 0), width + min(-right, 0))
    shadow[rows[0], columns[0]] = opacity[rows[1], columns[1]]
    return shadow
