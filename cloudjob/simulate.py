"""Simulated Sentinel-2-like scenes with their truth: pure arrays, for the demo's catalog and for training.

`ground` paints a surface, `sky` makes clouds with their shadows, `overlay` lays a sky over any reflectance, simulated
or real. Bands are red, green, blue, nir; sizes are in pixels, thought of as 10 m.

Sources of the method:

- Clouds as thresholded random fields with a power-law spectrum, blended into the image by their opacity, with shadows
  of the same form: M. Czerkawski, R. Atkinson, C. Michie, C. Tachtatzis, "SatelliteCloudGenerator: Controllable Cloud
  and Shadow Synthesis for Multi-Spectral Optical Satellite Images", Remote Sensing 15 (17), 4138 (2023),
  https://doi.org/10.3390/rs15174138. No code is taken from it.
- Random fields made in the frequency domain, here with an outer scale: D. Saupe, "Algorithms for random fractals", in
  "The Science of Fractal Images" (Springer, 1988), chapter 2.
- Shadows displaced by height × tan(sun's zenith angle), away from the sun: Z. Zhu, C. E. Woodcock, "Object-based cloud
  and cloud shadow detection in Landsat imagery", Remote Sensing of Environment 118, 83-94 (2012),
  https://doi.org/10.1016/j.rse.2011.10.028.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

SURFACES = ("farmland", "forest", "bare", "water", "town", "sand", "snow", "ice", "salt", "foam", "glint")
"""Kinds of ground; a surface class is an index into this."""

CLOUDS = ("cumulus", "stratocumulus", "stratus", "overcast", "cirrus", "haze")
"""Kinds of cloud."""

CLOUD_OPACITY = 0.12
"""From this opacity on a pixel is labelled cloud; what is thinner is haze."""

# Surface reflectance (red, green, blue, nir) from a kind's dark end to its bright end; orders of magnitude as in the
# ECOSTRESS spectral library (https://speclib.jpl.nasa.gov) and in real Sentinel-2 L2A scenes.
_SPECTRA = {
    "farmland": ((0.04, 0.07, 0.03, 0.42), (0.22, 0.18, 0.12, 0.30)),
    "forest": ((0.012, 0.022, 0.014, 0.15), (0.040, 0.055, 0.030, 0.34)),
    "bare": ((0.10, 0.08, 0.05, 0.14), (0.30, 0.23, 0.16, 0.38)),
    "water": ((0.005, 0.012, 0.016, 0.002), (0.050, 0.070, 0.055, 0.025)),
    "town": ((0.08, 0.08, 0.08, 0.10), (0.40, 0.39, 0.38, 0.42)),
    "sand": ((0.28, 0.20, 0.12, 0.34), (0.52, 0.40, 0.27, 0.58)),
    "snow": ((0.55, 0.56, 0.58, 0.50), (0.98, 0.98, 1.00, 0.92)),
    "ice": ((0.35, 0.42, 0.48, 0.25), (0.75, 0.80, 0.85, 0.65)),
    "salt": ((0.45, 0.44, 0.40, 0.45), (0.85, 0.84, 0.80, 0.85)),
    "foam": ((0.15, 0.17, 0.18, 0.12), (0.70, 0.72, 0.74, 0.65)),
    "glint": ((0.05, 0.06, 0.07, 0.05), (0.42, 0.43, 0.44, 0.42)),
}
_CROPS = (
    (0.04, 0.07, 0.03, 0.45),
    (0.06, 0.09, 0.04, 0.38),
    (0.08, 0.09, 0.05, 0.30),
    (0.13, 0.15, 0.05, 0.45),
    (0.17, 0.14, 0.09, 0.32),
    (0.22, 0.18, 0.11, 0.30),
    (0.10, 0.08, 0.06, 0.16),
    (0.24, 0.19, 0.13, 0.32),
)
_ROOFS = (
    (0.08, 0.08, 0.08, 0.10),
    (0.11, 0.11, 0.11, 0.14),
    (0.22, 0.21, 0.20, 0.26),
    (0.22, 0.13, 0.10, 0.25),
    (0.18, 0.11, 0.09, 0.22),
    (0.35, 0.36, 0.38, 0.38),
    (0.58, 0.57, 0.55, 0.60),
    (0.85, 0.85, 0.83, 0.85),
    (0.04, 0.06, 0.04, 0.30),
    (0.06, 0.09, 0.05, 0.35),
)
# How much a kind likes heights: added to its own random field in units of its standard deviation.
_HEIGHT = {"water": -2.0, "foam": -2.0, "glint": -2.0, "salt": -1.0, "sand": -0.5, "town": -0.4, "farmland": -0.3}
_HEIGHT |= {"forest": 0.6, "bare": 0.8, "ice": 1.5, "snow": 2.5}
_ROUGH = {"snow": 1.0, "ice": 0.4, "bare": 0.8, "forest": 0.7, "sand": 0.5, "farmland": 0.15}


@dataclass(frozen=True)
class Sky:
    """Clouds over a scene.

    Attributes:
        opacity: (H, W) float32, 0 (nothing) to 1 (no ground seen).
        colour: (4, H, W) float32, reflectance of the clouds themselves.
        shadow: (H, W) float32, 0 (sunlit) to 1: the share of direct sunlight that clouds take away from the ground.
    """

    opacity: Float
    colour: Float
    shadow: Float


def ground(
    rng: np.random.Generator, shape: tuple[int, int], *, kinds: Sequence[str] | None = None
) -> tuple[Float, npt.NDArray[np.uint8]]:
    """Paint a surface without clouds.

    Args:
        rng: where chance comes from.
        shape: (height, width) in pixels.
        kinds: of `SURFACES` that lie in it, or None for one to four at random.

    Returns:
        (4, H, W) float32 reflectance, and (H, W) uint8 surface class, an index into `SURFACES`.
    """
    if kinds is None:
        kinds = [str(kind) for kind in rng.choice(SURFACES, size=rng.integers(1, 5), replace=False)]
    height = noise(rng, shape, slope=1.6, outer=400)
    classes = _patches(rng, height, kinds)
    mix = np.clip(0.5 + 0.22 * noise(rng, shape, slope=1.1, outer=120), 0, 1)
    grain = rng.standard_normal(shape, np.float32)
    present = np.unique(classes)
    dark, bright = (_table(rng, present, end) for end in (0, 1))
    shade = _relief(rng, height, classes)
    out = np.empty((4, *shape), np.float32)
    for band in range(4):
        low = dark[band][classes]
        out[band] = low + (bright[band][classes] - low) * mix
    _parcels(rng, out, classes == SURFACES.index("farmland"), _CROPS, size=(8, 60), edge=0.0)
    _parcels(rng, out, classes == SURFACES.index("town"), _ROOFS, size=(2, 9), edge=0.16)
    out *= shade * (1 + 0.03 * grain)
    return np.maximum(out, 0.001, out=out), classes


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
    colour = np.zeros((4, *shape), np.float32)
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
        reflectance: (4, H, W) float32, simulated or real.
        clouds: of the same height and width.

    Returns:
        (4, H, W) float32 reflectance, and (H, W) uint8 label: 1 where `CLOUD_OPACITY` is reached, else 0.
    """
    # In shadow the ground keeps the sky's diffuse light, of which there is more in blue than in near infrared.
    diffuse = np.array([0.22, 0.27, 0.34, 0.14], np.float32)[:, None, None]
    lit = reflectance * (1 - (1 - diffuse) * clouds.shadow)
    mixed = lit + (clouds.colour - lit) * clouds.opacity
    return mixed.astype(np.float32), (clouds.opacity >= CLOUD_OPACITY).astype(np.uint8)


def noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    slope: float,
    outer: float,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Float:
    """A random field of mean 0 and standard deviation 1 whose amplitude falls with frequency as a power.

    Args:
        rng: where chance comes from.
        shape: (height, width) in pixels.
        slope: amplitude along a line ~ frequency^−slope; 1 is rugged, 2 is smooth.
        outer: structures larger than this many pixels get no stronger.
        stretch: above 1, how many times longer structures are along `angle` than across.
        angle: radians from the direction of columns.
    """
    # Larger than asked for by a part of the outer scale, for the field repeats itself at its edges.
    height, width = (_fast(side + min(side // 4, int(outer))) for side in shape)
    rows = np.fft.fftfreq(height).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(width).astype(np.float32)[None, :]
    along = (columns * math.cos(angle) + rows * math.sin(angle)) * stretch
    across = rows * math.cos(angle) - columns * math.sin(angle)
    # In two dimensions, power ~ frequency^(−2 slope) along a line takes amplitude ~ frequency^(−slope − 1/2).
    amplitude = (along**2 + across**2 + np.float32(1 / outer**2)) ** np.float32(-slope / 2 - 0.25)
    amplitude[0, 0] = 0
    phases = rng.standard_normal((2, *amplitude.shape), np.float32)
    field = np.fft.irfft2((phases[0] + 1j * phases[1]) * amplitude, s=(height, width)).astype(np.float32, copy=False)
    # The expected standard deviation: a column but the first stands for two frequencies, |phase|² is 2 on average.
    power = 4 * float((amplitude**2).sum()) - 2 * float((amplitude[:, 0] ** 2).sum())
    return field[: shape[0], : shape[1]] * np.float32(height * width / math.sqrt(power))


def _fast(side: int) -> int:
    """The next size that a Fourier transform likes: 2^a × (1, 3 or 5)."""
    return min(base << max(0, math.ceil(math.log2(side / base))) for base in (1, 3, 5))


def _patches(rng: np.random.Generator, height: Float, kinds: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Each pixel goes to the kind whose field, shifted by its liking for heights, is highest."""
    names = list(dict.fromkeys("water" if kind == "foam" else kind for kind in kinds))
    best = np.full(height.shape, -np.inf, np.float32)
    second = best.copy()
    classes = np.zeros(height.shape, np.uint8)
    outer = float(rng.uniform(60, 300))
    for name in names:
        score = noise(rng, height.shape, slope=1.3, outer=outer) if len(names) > 1 else np.zeros_like(height)
        score += _HEIGHT[name] * height
        higher = score > best
        second = np.where(higher, best, np.maximum(second, score))
        best = np.where(higher, score, best)
        classes[higher] = SURFACES.index(name)
    if "foam" in kinds:
        # Surf along the shore and whitecaps on the open water.
        wave = noise(rng, height.shape, slope=0.3, outer=40, stretch=3, angle=float(rng.uniform(0, math.pi)))
        foam = (best - second < 0.25 * (1 + wave)) | (wave > rng.uniform(2.0, 3.5))
        classes[foam & (classes == SURFACES.index("water"))] = SURFACES.index("foam")
    return classes


def _table(rng: np.random.Generator, present: npt.NDArray[np.uint8], end: int) -> Float:
    """(4, number of surfaces): one end of each kind's spectrum, a little different in every scene."""
    table = np.array([_SPECTRA[name][end] for name in SURFACES], np.float32).T
    gains = np.ones_like(table)
    gains[:, present] = np.exp(rng.normal(0, 0.12, len(present)) + rng.normal(0, 0.04, (4, len(present))))
    return table * gains


def _relief(rng: np.random.Generator, height: Float, classes: npt.NDArray[np.uint8]) -> Float:
    """Brightness of slopes towards and away from the sun, as strong as the kind of ground is rough."""
    rough = np.array([_ROUGH.get(name, 0.0) for name in SURFACES], np.float32)
    if not rough[np.unique(classes)].any():
        return np.ones_like(height)
    azimuth = rng.uniform(0, 2 * math.pi)
    rise, run = np.gradient(height)
    slope = rise * np.float32(math.cos(azimuth)) + run * np.float32(math.sin(azimuth))
    slope /= slope.std() + np.float32(1e-6)
    shade: Float = np.clip(1 + 0.30 * rough[classes] * slope, 0.12, 1.5)
    return shade


def _parcels(
    rng: np.random.Generator,
    out: Float,
    where: npt.NDArray[np.bool_],
    palette: Sequence[tuple[float, ...]],
    *,
    size: tuple[float, float],
    edge: float,
) -> None:
    """Paint fields or roofs: crooked rectangles of a few spectra, with streets of the share `edge` between them."""
    if not where.any():
        return
    rows, columns = (index.astype(np.float32) for index in np.nonzero(where))
    angle = rng.uniform(0, math.pi)
    width, height = np.exp(rng.uniform(math.log(size[0]), math.log(size[1]), 2))
    u = (columns * math.cos(angle) + rows * math.sin(angle)) / width
    v = (rows * math.cos(angle) - columns * math.sin(angle)) / height
    u += np.float32(0.3) * np.sin(v * np.float32(0.37))
    strip = np.floor(u).astype(np.int32) % 64
    v = v * rng.uniform(0.6, 1.8, 64).astype(np.float32)[strip] + rng.uniform(0, 64, 64).astype(np.float32)[strip]
    cell = np.floor(v).astype(np.int32) % 64
    spectra = np.array(palette, np.float32)
    weights = rng.dirichlet(np.ones(len(spectra)))
    kind = rng.choice(len(spectra), size=(64, 64), p=weights)
    gain = np.exp(rng.normal(0, 0.15, (64, 64))).astype(np.float32)
    street = (u % 1 < edge) | (v % 1 < edge) if edge else None
    index, gains = kind[strip, cell], gain[strip, cell]
    for band in range(4):
        values = spectra[index, band] * gains
        if street is not None:
            values[street] = spectra[0, band]
        out[band][where] = 0.25 * out[band][where] + 0.75 * values


def _layer(
    rng: np.random.Generator, shape: tuple[int, int], kind: str, cover: float | None, sun: tuple[float, float]
) -> tuple[Float, Float, float]:
    """Opacity (H, W), reflectance (4, H, W) and height in pixels of one layer of clouds."""
    if kind == "cumulus":
        share, outer, slope, depth, height = rng.uniform(0.02, 0.5), rng.uniform(8, 60), 1.5, 3.0, (60, 250)
    elif kind == "stratocumulus":
        share, outer, slope, depth, height = rng.uniform(0.3, 0.9), rng.uniform(30, 150), 1.3, 2.0, (60, 250)
    elif kind == "stratus":
        share, outer, slope, depth, height = rng.uniform(0.3, 0.95), rng.uniform(150, 800), 1.5, 1.5, (20, 150)
    elif kind == "overcast":
        share, outer, slope, depth, height = rng.uniform(0.97, 1), rng.uniform(100, 800), 1.6, 1.5, (30, 400)
    elif kind == "cirrus":
        share, outer, slope, depth, height = rng.uniform(0.1, 0.9), rng.uniform(100, 600), 1.1, 0.25, (700, 1100)
    else:
        share, outer, slope, depth, height = rng.uniform(0.5, 1), rng.uniform(300, 800), 1.8, 0.03, (50, 200)
    share = share if cover is None else cover
    streaks = {"stretch": rng.uniform(2, 8), "angle": rng.uniform(0, math.pi)} if kind == "cirrus" else {}
    field = noise(rng, shape, slope=slope, outer=outer, **streaks)
    thick = np.maximum(field - _quantile(field, 1 - share), 0)
    if kind == "overcast":
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
    """(4, H, W) reflectance of a cloud: brighter where thicker and on the side of the sun."""
    base = rng.uniform(0.35, 0.75)
    lift = rng.uniform(0.1, 0.5)
    bright = base + lift * (1 - np.exp(-0.5 * depths))
    if kind not in ("cirrus", "haze"):
        rise, run = np.gradient(depths)
        side = -(rise * np.float32(sun[0]) + run * np.float32(sun[1]))
        bright += np.clip(side, -1, 1) * np.float32(rng.uniform(0.1, 0.6))
    blue = rng.uniform(0, 0.25) if kind == "haze" else rng.uniform(-0.03, 0.08)
    gains = np.array([1, 1 + blue / 2, 1 + blue, 1 - blue / 2], np.float32) + rng.normal(0, 0.02, 4).astype(np.float32)
    tint: Float = np.clip(bright, 0.15, 1.3)[None] * gains[:, None, None]
    return tint


def _shadow(opacity: Float, distance: float, sun: tuple[float, float]) -> Float:
    """A layer's shadow: its opacity, blurred a little and displaced away from the sun."""
    down, right = (round(-distance * part) for part in sun)
    shadow = np.zeros_like(opacity)
    height, width = opacity.shape
    if abs(down) >= height or abs(right) >= width:
        return shadow
    rows = slice(max(down, 0), height + min(down, 0)), slice(max(-down, 0), height + min(-down, 0))
    columns = slice(max(right, 0), width + min(right, 0)), slice(max(-right, 0), width + min(-right, 0))
    shadow[rows[0], columns[0]] = opacity[rows[1], columns[1]]
    return shadow
