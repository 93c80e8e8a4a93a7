"""Masks of larger pixels than the network's: found at its own resolution, then joined, never the other way round.

A network that is fed 60 m pixels and was made for 10 m finds other clouds (`tests/benchmarks/resolution.py`). So a
coarser mask is made of the network's: a pixel is

* no data (254) where fewer than half of the pixels in it hold data, and not computed (255) where none was asked for;
* else cloud where at least half of those that hold data are, so that the cloud cover of a scene stays what it is. Who
  wants every pixel that a cloud touches widens clouds before, by `buffer`.

Where a network knows several kinds of cloud, or shadows, what is not clear counts together, and the most frequent kind
stands for all.
"""

import numpy as np
import numpy.typing as npt

from cloudjob.classes import CLEAR, NO_DATA, NOT_COMPUTED

Mask = npt.NDArray[np.uint8]


def coarsen(mask: Mask, factor: int) -> Mask:
    """Join the pixels of a mask.

    Args:
        mask: (y, x) uint8, its first pixel at the corner of a larger one.
        factor: so many pixels along y and x make one; at the lower and right edge there may be fewer.

    Returns:
        (⌈y / factor⌉, ⌈x / factor⌉) uint8: values as in `mask`.
    """
    if factor == 1:
        return mask
    cells = _cells(mask, factor)
    computed = (cells != NOT_COMPUTED).sum(axis=-1)
    data = (cells < NO_DATA).sum(axis=-1)
    kinds = [int(value) for value in np.unique(mask) if CLEAR < value < NO_DATA]
    counts = [(cells == kind).sum(axis=-1) for kind in kinds]
    result = np.zeros(data.shape, np.uint8)
    if kinds:
        most = np.asarray(kinds, np.uint8)[np.argmax(counts, axis=0)]
        result = np.where(2 * np.sum(counts, axis=0) >= data, most, np.uint8(CLEAR))
    result[2 * data < computed] = NO_DATA
    result[computed == 0] = NOT_COMPUTED
    return result


def coarsen_percent(percent: Mask, mask: Mask, factor: int) -> Mask:
    """Join probabilities: their mean where the joined mask has a class, else its 254 or 255.

    Args:
        percent: (y, x) uint8: percent, 254, 255.
        mask: what `coarsen` made of the mask beside it.
        factor: see `coarsen`.
    """
    if factor == 1:
        return percent
    cells = _cells(percent, factor)
    data = cells < NO_DATA
    total = np.where(data, cells, 0).sum(axis=-1, dtype=np.int64)
    mean = np.rint(total / np.maximum(data.sum(axis=-1), 1)).astype(np.uint8)
    return np.where(mask < NO_DATA, mean, mask)


def _cells(values: Mask, factor: int) -> Mask:
    """(y, x, the pixels of each larger one); beyond the edge "not computed"."""
    whole = np.pad(values, [(0, -side % factor) for side in values.shape], constant_values=NOT_COMPUTED)
    rows, columns = (side // factor for side in whole.shape)
    return whole.reshape(rows, factor, columns, factor).swapaxes(1, 2).reshape(rows, columns, factor * factor)
