"""Numbers to reflectance: by the item's own scale and offset, which are then checked against the pixels."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.dtypes import in_dtype_range

from cloudjob.scene.product import release
from cloudjob.scene.scene import Band, Numbers, Scene, is_empty

OFFSET_BASELINE = 4
"""From this processing baseline on (04.00, 25 January 2022) ESA adds 1000 to every number of L1C and L2A, so that dark
surfaces can be negative: https://sentiwiki.copernicus.eu/web/s2-products (Level-2A products)."""

FIRST = "2022-01-25"
"""The day from which on products have it."""

OFFSET = 0.1
"""That addition as reflectance."""

VISIBLE = ("red", "green", "blue")
"""Bands in which some ground of nearly any scene is darker than that."""

SCALE = 1e-4
"""Reflectance of one number, where the item does not tell: ESA's quantification value of 10,000."""

IMPOSSIBLE = 2.0
"""Reflectance that half of a scene cannot exceed: fresh snow and thick clouds have about 1, glint up to 1.6."""

DARKEST = 0.05
"""Reflectance below which some ground of any scene lies: water, shadows, and plants in red and blue."""

DIM = 0.02
"""Reflectance that some number of any scene exceeds, where that is a fraction whose scale nobody tells: less is
reflectance, or percent, already (100 % by ESA's scale are 0.01). Whole numbers in floats may be those of a lake, and so
may fractions whose scale is told."""

SATURATED = 65535
"""What ESA writes where a pixel is brighter than can be measured, and others where there are no data."""

MOST_SATURATED = 1e-3
"""Share of a scene's pixels that may be so in every band."""

MOST_LACKING = 0.2
"""Share of a scene's pixels in which one band alone may have no data, as where an acquisition begins or ends."""

ENOUGH = 1000
"""Pixels with data below which shares of them tell nothing of a scene: a tenth of a square kilometre."""

UNTOLD = {
    "uint16": (),
    "int16": (-999, 32767),
    "float32": (-999, 9999, 32767, 65535),
}
"""Numbers that say no data in files of each kind which do not tell so: where every band has the same one, and it would
be more than `IMPOSSIBLE`, or negative. Saturated pixels are data."""

BRIGHT = 0.2
"""Reflectance in visible light of clouds and bright ground. Where there are such things, no band sees black alone.
Leaves are as bright, but in near infrared only, and over them blue may be corrected to nothing."""

BLACK = 1e-3
"""Reflectance that some pixel of any scene exceeds: even deep water does by its noise."""


def scaling(properties: Mapping[str, Any], asset: Mapping[str, Any], baseline: str) -> tuple[float, float | None]:
    """Scale and offset from number to reflectance, decided from metadata alone; None for an offset that nobody tells.

    The item's own flag that the offset has been taken off already comes first (Earth Search leaves the offset in
    `raster:bands` although it is applied, element84/earth-search#66), then what the asset says, then the rule of
    the processing baseline. The pixels are checked against it while they are read (`offset_doubt`). Whole numbers of
    scale 1 are no reflectance: that and offset 0 is what GDAL, and who asks it (rio-stac), says of a file without tags.

    Args:
        properties: of an item as `item.parse` leaves it.
        asset: one of its assets, likewise.
        baseline: ESA's, or "".
    """
    kind = str(asset.get("data_type", ""))
    scale = float(asset.get("raster:scale", 1.0 if kind.startswith("float") else SCALE))
    stated = asset.get("raster:offset")
    if scale == 1 and kind.startswith(("int", "uint")):
        scale, stated = SCALE, stated or None
    applied = flag(properties)
    if applied is True and asset.get("type") != "image/jp2":  # Off its COGs; the files beside them are ESA's own
        return scale, 0.0
    if stated is not None and not (applied is False and stated == 0):
        return scale, float(stated)
    # ESA adds it so that unsigned numbers can say what is negative; others are somebody else's product.
    if kind not in ("", "uint16"):
        return scale, 0.0
    late = properties.get("datetime", properties.get("start_datetime", FIRST)) >= FIRST
    if not release(baseline):
        nobody = None if scale == SCALE else 0.0  # By another scale they are not ESA's
        return scale, -OFFSET if applied is False and late else nobody
    # 99.99 is what Sen2Cor says in anybody's hands (Brazil Data Cube's): it adds what the L1C had added by then
    early = release(baseline)[:1] == (99,) and not late
    return scale, -OFFSET if adds_offset(baseline) and not early else 0.0


def flag(properties: Mapping[str, Any]) -> bool | None:
    """Whether the offset has been taken off of the numbers already, as far as the item says so."""
    told: bool | None = properties.get("earthsearch:boa_offset_applied", properties.get("sentinel:boa_offset_applied"))
    return told


def adds_offset(baseline: str) -> bool:
    """Whether numbers of a processing baseline ("05.10", "2.14", "N0510") have ESA's 1000 added."""
    return release(baseline) >= (OFFSET_BASELINE,)


def offset_doubt(
    scene: Scene, valid: int, dark_all: int, dark_any: int, cloud_share: float, guessed: int = 0
) -> str | None:
    """Compare the metadata's offset with the pixels.

    Args:
        scene: whose metadata.
        valid: pixels with data.
        dark_all: of them, those whose red, green and blue numbers all lie below the offset.
        dark_any: of them, those of which one does.
        cloud_share: 0 to 1; an overcast scene has no dark pixel to judge by.
        guessed: of them, those in whose numbers ESA's offset may be, for all that anybody tells.

    Returns:
        What does not fit together, or None.
    """
    offset = scene.bands[0].offset
    seen = any(band.name in VISIBLE for band in scene.bands)
    # Ground that is negative in all three visible bands is rare; without the offset it is every dark surface.
    dark = seen and valid > 0 and dark_all / valid > 0.05
    if guessed and not dark:
        none = f": no pixel is darker than {OFFSET:g}, so it seems to be" if seen and not dark_any else ""
        return (
            "nothing tells whether ESA's offset is in its numbers, and none was taken off"
            f"{none}; --offset {-OFFSET:g} takes it off, --offset 0 says that it is not in them"
        )
    if valid < ENOUGH or not seen or (offset == 0 and not adds_offset(scene.baseline)):
        return None
    if offset < 0 and dark:
        share = 100 * dark_all / valid
        return f"{share:.0f} % of its pixels are below zero: the offset {offset:g} seems to have been applied already"
    if offset == 0 and dark_any == 0 and cloud_share < 0.5:
        return (
            f"no pixel is darker than the offset: baseline {scene.baseline}'s offset seems not to have been taken off"
        )
    return None


def above(raw: Numbers, band: Band, limit: float) -> npt.NDArray[np.bool_]:
    """True where numbers (any shape) of a band are more than a reflectance; never where there are no data."""
    number = (limit - band.offset) / band.scale
    return np.asarray(raw > (number if raw.dtype == np.float32 else math.floor(number)))


def no_reflectance(
    scene: Scene, valid: int, glaring: Sequence[int], most: Sequence[float | None], fractions: int
) -> tuple[str, Band] | None:
    """Why the numbers of a scene cannot be reflectance by the scale that its item tells, and of which band, or None.

    Args:
        scene: whose metadata.
        valid: pixels with data.
        glaring: of each band, values of theirs above `IMPOSSIBLE`.
        most: of each band, the highest of their numbers, or None.
        fractions: of the pixels, those with numbers that are no whole ones, and that a scale makes smaller.
    """
    band = scene.bands[0]
    least = BLACK if band.dtype.startswith("float") else DIM  # Floats that an item knows have a scale that it tells
    if fractions and not _any_above(scene, most, least):
        return (
            f"by its scale {band.scale:g} and offset {band.offset:g} no value of {band.key} and its other bands is "
            f"above {least:g}: its numbers are floats, and seem to be reflectance (scale 1) or percent (0.01) already"
        ), band
    for band, count in zip(scene.bands, glaring, strict=False):
        if 2 * count > valid:
            return (
                f"by its scale {band.scale:g} and offset {band.offset:g} the values of {band.key} are no reflectance: "
                f"{100 * count / valid:.0f} % of them lie above {IMPOSSIBLE:g}, expected about 0 to 1"
            ), band
    if valid < ENOUGH or not _any_above(scene, most, BRIGHT, VISIBLE):
        return None
    for band, number in zip(scene.bands, most, strict=False):
        if number is not None and number * band.scale + band.offset <= BLACK:
            return (
                f"by its scale {band.scale:g} and offset {band.offset:g} no value of {band.key} is above {BLACK:g}, "
                f"though others are above {BRIGHT:g}: it seems to have another scale, or to be reflectance already"
            ), band
    return None


def _any_above(scene: Scene, most: Sequence[float | None], limit: float, among: Sequence[str] = ()) -> bool:
    """Whether the highest number of some band, of those named if any are, is more than a reflectance."""
    pairs = [(band, n) for band, n in zip(scene.bands, most, strict=False) if not among or band.name in among]
    return any(n is not None and n * band.scale + band.offset > limit + 1e-9 for band, n in pairs)


def unlike(scene: Scene) -> str | None:
    """What is to be told where the bands of a scene become reflectance in different ways, or None."""
    told = [f"{band.key} {band.scale:g} and {band.offset:g}" for band in scene.bands]
    alike = len({(band.scale, band.offset) for band in scene.bands}) == 1
    return None if alike else f"its item tells different scales and offsets of its bands: {', '.join(told)}"


def saturated_doubt(valid: int, saturated: int) -> str | None:
    """What is to be told where so many of a scene's valid pixels are `SATURATED` in every band, or None."""
    if valid < ENOUGH or saturated <= MOST_SATURATED * valid:
        return None
    share = 100 * saturated / valid
    return f"{share:.2g} % of its pixels are {SATURATED} in every band: if that says no data, its item has to tell it"


def black_doubt(scene: Scene, most: Sequence[float | None], fractions: int) -> str | None:
    """What does not fit where no value of a scene's valid pixels is above `BLACK`, or `DIM` in fractions, or None.

    (Arguments as of `no_reflectance`; of a scene that grows nothing may be known of what was there.)
    """
    if all(number is None for number in most):
        return None
    if not _any_above(scene, most, BLACK):
        return f"no value is above {BLACK:g} reflectance: the scale seems to have been applied already, or is wrong"
    if fractions and not _any_above(scene, most, DIM):
        return f"no value is above {DIM:g} reflectance: unless all of it is dark water, its numbers are percent already"
    return None


def constant_doubt(scene: Scene, valid: int, least: Sequence[float | None], most: Sequence[float | None]) -> str | None:
    """What is to be told where a band has one number in all of a scene's valid pixels (`least`, `most`), or None."""
    triples = zip(scene.bands, least, most, strict=False)
    constant = [
        f"{band.key} {'has none' if low is None else f'is {low:g}'}" for band, low, high in triples if low == high
    ]
    if valid < ENOUGH or not constant or all(number is None for number in most):
        return None
    told = ", ".join(constant)
    return f"in every pixel with data {told}: no ground is so, nor are clouds, only water or night; is the file whole?"


def gaps_doubt(scene: Scene, valid: int, lacking: Sequence[int]) -> str | None:
    """What is to be told where a band has no data in much of what others have (`lacking`, pixels), or None."""
    pairs = zip(scene.bands, lacking, strict=False)
    gaps = [(band, none / (valid + none)) for band, none in pairs if valid + none >= ENOUGH]
    told = [f"{band.key} in {100 * share:.2g} %" for band, share in gaps if share > MOST_LACKING]
    return f"where other bands have data some have none: {', '.join(told)}; are their files whole?" if told else None


def reflectance(
    raw: Numbers, bands: Sequence[Band], wanted: Sequence[str] = (), optional: Sequence[str] = ()
) -> npt.NDArray[np.float32]:
    """Turn numbers into reflectance.

    Args:
        raw: (band, y, x), `scene.EMPTY` for no data.
        bands: whose scale and offset to use, in the order of the first axis.
        wanted: names of the bands of the result; those of `bands` unless given.
        optional: names of bands that decide nothing about where there are data, and may be absent.

    Returns:
        (band, y, x) float32, about 0 to 1 (clouds and snow above), NaN in every band where a required one has no data,
        and in an optional one where it is absent. Where all required numbers are 0 there are no data, though signed
        numbers may be 0: no ground is black in every band, and many files are filled with it without a word; so with
        `UNTOLD`, and with what the item says where files say something else.
    """
    names = [band.name for band in bands]
    order = list(wanted) or names
    values = np.full((len(order), *raw.shape[1:]), np.nan, np.float32)
    needed = [number for number, name in enumerate(names) if name not in optional]
    empty = _filled(raw[needed], [bands[number] for number in needed])
    for numbers, band in zip(raw, bands, strict=True):
        plane, missing = values[order.index(band.name)], is_empty(numbers)
        np.multiply(numbers, np.float32(band.scale), out=plane, casting="unsafe")
        plane += np.float32(band.offset)
        if band.name in optional:
            plane[missing] = np.nan
        else:
            empty |= missing
    if empty.any():
        values[:, empty] = np.nan
    return values


def _filled(raw: Numbers, bands: Sequence[Band]) -> npt.NDArray[np.bool_]:
    """Where all bands (band, y, x) have the same number, and it says no data though the files may not tell so."""
    if len(bands) == 1:  # One alone may be black
        return np.zeros(raw.shape[1:], np.bool_)
    first = bands[0]
    odd = [n for n in UNTOLD[raw.dtype.name] if n < 0 or n * first.scale + first.offset > IMPOSSIBLE]
    told = [band.nodata for band in bands if band.nodata is not None and in_dtype_range(band.nodata, raw.dtype.name)]
    same: npt.NDArray[np.bool_] = (raw == raw[0]).all(axis=0)
    same[same] = np.isin(raw[0][same], np.array([0, *odd, *told], raw.dtype))
    return same
