"""Simulated ground: fractal patches of land cover in red, green, blue, near and short-wave infrared, pixels of 10 m."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cloudjob.demo.fractal import Float, noise

SURFACES = ("farmland", "forest", "bare", "water", "town", "sand", "snow", "ice", "salt", "foam", "glint")
"""Kinds of ground; a surface class is an index into this."""

BANDS = ("red", "green", "blue", "nir", "swir16")
"""Bands of everything that is simulated, in this order."""

DIFFUSE = (0.22, 0.27, 0.34, 0.14, 0.05)
"""Share of skylight in the light of each band, which shadows keep: more in blue than in infrared."""

# Surface reflectance (red, green, blue, nir, swir16) from a kind's dark end to its bright end; orders of magnitude as
# in the ECOSTRESS spectral library (https://speclib.jpl.nasa.gov), USGS splib07 (https://doi.org/10.3133/ds1035) and
# real Sentinel-2 L2A scenes. Snow and ice: percentiles of 11,729 labelled Sentinel-2 points, whose blue is no brighter
# than their green, and whose swir16 is 0.02. Foam loses most of its brightness by 1.6 µm (Frouin et al. 1996,
# https://doi.org/10.1029/96JC00629).
_SPECTRA = {
    "farmland": ((0.04, 0.07, 0.03, 0.42, 0.17), (0.22, 0.18, 0.12, 0.30, 0.34)),
    "forest": ((0.012, 0.022, 0.014, 0.15, 0.06), (0.040, 0.055, 0.030, 0.34, 0.18)),
    "bare": ((0.10, 0.08, 0.05, 0.14, 0.18), (0.30, 0.23, 0.16, 0.38, 0.45)),
    "water": ((0.005, 0.012, 0.016, 0.002, 0.001), (0.050, 0.070, 0.055, 0.025, 0.012)),
    "town": ((0.08, 0.08, 0.08, 0.10, 0.11), (0.40, 0.39, 0.38, 0.42, 0.42)),
    "sand": ((0.28, 0.20, 0.12, 0.34, 0.40), (0.52, 0.40, 0.27, 0.58, 0.68)),
    "snow": ((0.49, 0.48, 0.465, 0.40, 0.012), (1.00, 0.98, 0.95, 0.86, 0.045)),
    "ice": ((0.185, 0.19, 0.185, 0.13, 0.010), (0.59, 0.61, 0.59, 0.43, 0.040)),
    "salt": ((0.45, 0.44, 0.40, 0.45, 0.25), (0.85, 0.84, 0.80, 0.85, 0.68)),
    "foam": ((0.15, 0.17, 0.18, 0.12, 0.02), (0.70, 0.72, 0.74, 0.65, 0.20)),
    "glint": ((0.05, 0.06, 0.07, 0.05, 0.04), (0.42, 0.43, 0.44, 0.42, 0.38)),
}
_CROPS = (
    (0.04, 0.07, 0.03, 0.45, 0.18),
    (0.06, 0.09, 0.04, 0.38, 0.19),
    (0.08, 0.09, 0.05, 0.30, 0.21),
    (0.13, 0.15, 0.05, 0.45, 0.24),
    (0.17, 0.14, 0.09, 0.32, 0.34),
    (0.22, 0.18, 0.11, 0.30, 0.38),
    (0.10, 0.08, 0.06, 0.16, 0.22),
    (0.24, 0.19, 0.13, 0.32, 0.40),
)
_ROOFS = (
    (0.08, 0.08, 0.08, 0.10, 0.12),
    (0.11, 0.11, 0.11, 0.14, 0.17),
    (0.22, 0.21, 0.20, 0.26, 0.28),
    (0.22, 0.13, 0.10, 0.25, 0.32),
    (0.18, 0.11, 0.09, 0.22, 0.28),
    (0.35, 0.36, 0.38, 0.38, 0.36),
    (0.58, 0.57, 0.55, 0.60, 0.52),
    (0.85, 0.85, 0.83, 0.85, 0.65),
    (0.04, 0.06, 0.04, 0.30, 0.15),
    (0.06, 0.09, 0.05, 0.35, 0.17),
)
# How far scenes differ in a band of a kind, beyond what they differ in all bands: standard deviation of the logarithm.
_APART = (0.03, 0.02, 0.03, 0.07, 0.12)
_DARK_IN_SWIR = {"snow": 0.5, "ice": 0.5, "water": 0.5, "foam": 0.4, "glint": 0.3}
# How much a kind likes heights: added to its own random field in units of its standard deviation.
_HEIGHT = {"water": -2.0, "foam": -2.0, "glint": -2.0, "salt": -1.0, "sand": -0.5, "town": -0.4, "farmland": -0.3}
_HEIGHT |= {"forest": 0.6, "bare": 0.8, "ice": 1.5, "snow": 2.5}
_ROUGH = {"snow": 1.0, "ice": 0.4, "bare": 0.8, "forest": 0.7, "sand": 0.5, "farmland": 0.15}


def ground(
    rng: np.random.Generator, shape: tuple[int, int], *, kinds: Sequence[str] | None = None
) -> tuple[Float, npt.NDArray[np.uint8]]:
    """Paint a surface without clouds.

    Args:
        rng: where chance comes from.
        shape: (height, width) in pixels.
        kinds: of `SURFACES` that lie in it, or None for one to four at random. Steep snow shows bare rock.

    Returns:
        (5, H, W) float32 reflectance in `BANDS`, and (H, W) uint8 surface class, an index into `SURFACES`.
    """
    if kinds is None:
        kinds = [str(kind) for kind in rng.choice(SURFACES, size=rng.integers(1, 5), replace=False)]
    height = noise(rng, shape, slope=1.6, outer=400)
    classes = _patches(rng, height, kinds)
    mix = np.clip(0.5 + 0.22 * noise(rng, shape, slope=1.1, outer=120), 0, 1)
    grain = rng.standard_normal(shape, np.float32)
    sunlight = _relief(rng, height, classes)
    dark, bright = (_table(rng, np.unique(classes), end) for end in (0, 1))
    out = np.empty((len(BANDS), *shape), np.float32)
    for band in range(len(BANDS)):
        low = dark[band][classes]
        out[band] = low + (bright[band][classes] - low) * mix
    _parcels(rng, out, classes == SURFACES.index("farmland"), _CROPS, size=(8, 60), edge=0.0)
    _parcels(rng, out, classes == SURFACES.index("town"), _ROOFS, size=(2, 9), edge=0.16)
    for band, share in enumerate(DIFFUSE):
        out[band] *= (share + (1 - share) * sunlight) * (1 + 0.02 * grain)
    return np.maximum(out, 0.001, out=out), classes


def _patches(rng: np.random.Generator, height: Float, kinds: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Each pixel goes to the kind whose field, shifted by its liking for heights, is highest."""
    names = list(dict.fromkeys("water" if kind == "foam" else kind for kind in kinds))
    best = np.full(height.shape, -np.inf, np.float32)
    second = best.copy()
    classes = np.zeros(height.shape, np.uint8)
    outer = float(rng.uniform(60, 300))
    for name in names:
        score = noise(rng, height.shape, slope=1.3, outer=outer) if len(names) > 1 else np.zeros_like(height)
        # The second term leaves the middle to kinds that like it: forest between a lake and snow.
        score += _HEIGHT[name] * height - np.float32(_HEIGHT[name] ** 2 / 8)
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
    """(5, number of surfaces): one end of each kind's spectrum, a little different in every scene."""
    table = np.array([_SPECTRA[name][end] for name in SURFACES], np.float32).T
    gains = np.ones_like(table)
    apart = np.array([(*_APART[:4], _DARK_IN_SWIR.get(SURFACES[kind], _APART[4])) for kind in present]).T
    gains[:, present] = np.exp(rng.normal(0, 0.12, len(present)) + rng.normal(0, 1, apart.shape) * apart)
    return table * gains


def _relief(rng: np.random.Generator, height: Float, classes: npt.NDArray[np.uint8]) -> Float:
    """Direct sunlight (H, W), 1 on flat ground, by the slope of hills; the steepest snow in `classes` becomes rock."""
    rough = np.array([_ROUGH.get(name, 0.0) for name in SURFACES], np.float32)
    if not rough[np.unique(classes)].any():
        return np.ones_like(height)
    # Crests are where a field changes its sign, with smaller crests on their flanks.
    outer = float(np.exp(rng.uniform(math.log(80), math.log(300))))
    hills = np.float32(0.05) * height
    for part in (1.0, 0.3):
        hills -= np.float32(part**1.3) * np.abs(noise(rng, height.shape, slope=2.4, outer=outer * part))
    rise, run = np.gradient(hills)
    spread = np.float32(max(float(rise.std() + run.std()) / 2, 1e-6))
    azimuth, strength = rng.uniform(0, 2 * math.pi), np.float32(rng.uniform(0.15, 0.8))
    toward = (rise * np.float32(math.cos(azimuth)) + run * np.float32(math.sin(azimuth))) * (strength / spread)
    steep = np.hypot(rise, run) > spread * np.float32(rng.uniform(1.5, 4))
    classes[steep & (classes == SURFACES.index("snow"))] = SURFACES.index("bare")
    sunlight: Float = np.clip(1 + rough[classes] * toward, 0, 1.5)
    return sunlight


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
    # Few roofs and fields are bright: two thirds as many for each 0.1 of mean reflectance above 0.2.
    common = 1.5 * (2 / 3) ** (10 * np.maximum(spectra[:, :4].mean(axis=1) - 0.2, 0))
    weights = rng.dirichlet(common)
    kind = rng.choice(len(spectra), size=(64, 64), p=weights)
    gain = np.exp(rng.normal(0, 0.15, (64, 64))).astype(np.float32)
    street = (u % 1 < edge) | (v % 1 < edge) if edge else None
    index, gains = kind[strip, cell], gain[strip, cell]
    for band in range(len(BANDS)):
        values = spectra[index, band] * gains
        if street is not None:
            values[street] = spectra[0, band]
        out[band][where] = 0.25 * out[band][where] + 0.75 * values
