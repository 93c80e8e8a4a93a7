"""What is counted of a tile: its mask's pixels, and those that tell whether scale, offset and files are right."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cloudjob.classes import NO_DATA
from cloudjob.model.labels import Mask
from cloudjob.scene.reflectance import IMPOSSIBLE, OFFSET, SATURATED, VISIBLE, above, adds_offset
from cloudjob.scene.scene import Band, Numbers, Scene, is_empty
from cloudjob.store.receipt import Receipt, counted

Where = npt.NDArray[np.bool_]


def tally(mask: Mask, raw: Numbers, scene: Scene, seen: int) -> Receipt:
    """Count a tile's pixels.

    Args:
        mask: (y, x) uint8, the tile's labels.
        raw: (band, y, x), the numbers of the same pixels; of `scene.coarser` times as many where the mask is coarser.
        scene: whose bands these are.
        seen: pixels the network computed.

    Returns:
        What `Receipt` tells of pixels and of numbers.
    """
    # One of the pixels in each of a coarser mask's, so that the shares are of the same number
    raw = raw[:, :: scene.coarser, :: scene.coarser]
    labelled, empty = mask < NO_DATA, [is_empty(numbers) for numbers in raw]
    there = [labelled & ~none for none in empty]
    inside = [numbers if some.all() else numbers[some] for numbers, some in zip(raw, there, strict=True)]
    most = tuple(float(numbers.max()) if numbers.size else None for numbers in inside)
    whole = raw.dtype == np.uint16
    saturated = _count((raw == SATURATED).all(axis=0) & labelled) if whole and {*most} == {SATURATED} else 0
    guessed = whole and any(band.guessed for band in scene.bands)
    dark_all, dark_any = _dark(raw, empty, labelled, scene, guessed=guessed)
    fractional = raw.dtype == np.float32 and scene.bands[0].scale < 1
    return replace(
        counted(mask),
        dark_all=dark_all,
        dark_any=dark_any,
        guessed=_count(labelled) if guessed else 0,
        # A bright cloud saturates one band before another; where all of them are, it may be no data
        glaring=tuple(saturated + _glaring(*each) for each in zip(inside, scene.bands, strict=True)),
        least=tuple(float(numbers.min()) if numbers.size else None for numbers in inside),
        most=most,
        lacking=_lacking(mask == NO_DATA, empty, scene),
        fractions=_count((raw[0] != np.rint(raw[0])) & labelled) if fractional else 0,
        saturated=saturated,
        seen=seen,
    )


def _dark(raw: Numbers, empty: Sequence[Where], labelled: Where, scene: Scene, *, guessed: bool) -> tuple[int, int]:
    """Pixels that ESA's offset would make negative in all of red, green and blue, and in any of them."""
    offset = scene.bands[0].offset
    if not (offset < 0 or adds_offset(scene.baseline) or guessed):
        return 0, 0
    limit = round((-offset or OFFSET) / scene.bands[0].scale)
    each = zip(raw, empty, scene.bands, strict=True)
    # Of a coarser mask's pixel with data this one may have none
    dark = [(numbers < limit) & ~none for numbers, none, band in each if band.name in VISIBLE]
    return _count(np.logical_and.reduce([*dark, labelled])), _count(np.logical_or.reduce(dark) & labelled)


def _glaring(numbers: Numbers, band: Band) -> int:
    """Values that no scene reflects, but for those that say that a pixel was brighter than can be measured."""
    if not numbers.size or not above(numbers.max(), band, IMPOSSIBLE):
        return 0
    too_bright = (numbers == SATURATED) & (band.scale < 1)  # Fractions say nothing by a number
    return _count(above(numbers, band, IMPOSSIBLE) & ~too_bright)


def _lacking(nothing: Where, empty: Sequence[Where], scene: Scene) -> tuple[int, ...]:
    """Of each band that a scene must have, pixels without data where another one has some."""
    needed = [band.name not in scene.optional for band in scene.bands]
    if not nothing.any():
        return (0,) * len(needed)
    partly = nothing & ~np.logical_and.reduce([none for none, must in zip(empty, needed, strict=True) if must])
    return tuple(_count(partly & none) if must else 0 for none, must in zip(empty, needed, strict=True))


def _count(where: Where) -> int:
    return int(np.count_nonzero(where))
