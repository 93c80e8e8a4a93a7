"""From probabilities to labels: thresholds, classes, wider clouds, and probabilities as an OUT keeps them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cloudjob.classes import CLEAR, CLOUD, NO_DATA, NOT_COMPUTED, SHADOW, THIN_CLOUD

Mask = npt.NDArray[np.uint8]

LIMITS = np.append(np.arange(101) / 100, np.inf).astype(np.float32)
"""The probability from which a pixel has so many percent, as `classify` compares with a threshold of so many."""


def classify(
    probability: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    threshold: float,
    buffer: tuple[float, float] = (0.0, 0.0),
    classes: Sequence[int] = (CLOUD,),
) -> Mask:
    """Make a mask from probabilities.

    Args:
        probability: (y, x) of cloud, or (class, y, x), of which the largest counts.
        valid: (y, x), False where there are no data.
        threshold: probability from which a pixel is cloud, for (y, x).
        buffer: by how many pixels in y and x clouds are widened (half axes of an ellipse), over clear and shadow.
        classes: which of ours each class is (`Contract.classes`).

    Returns:
        (y, x): 0 clear, 1 cloud, 2 thin cloud, 3 cloud shadow, 254 no data.
    """
    if probability.ndim == 2:
        cloud = widen((probability >= threshold) & valid, buffer)
        return np.where(valid, cloud.view(np.uint8), np.uint8(NO_DATA))
    found = np.array(classes, np.uint8)[probability.argmax(axis=0)]
    free = (found == CLEAR) | (found == SHADOW)
    for kind in (THIN_CLOUD, CLOUD):  # Where both reach, the thick one hides the other
        found[widen((found == kind) & valid, buffer) & free] = kind
    return np.where(valid, found, np.uint8(NO_DATA))


def widen(cloud: npt.NDArray[np.bool_], buffer: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Dilate by an ellipse with half axes `buffer` (y, x) in pixels.

    The ellipse is a stack of horizontal runs; each is a difference of running sums, so the cost grows with the
    half axis in y only.
    """
    down, across = buffer
    reach_y = math.floor(down)
    if (reach_y == 0 and across < 1) or not cloud.any() or cloud.all():
        return cloud
    height, width = cloud.shape
    sums = np.zeros((height, width + 1), np.int32)
    np.cumsum(cloud, axis=1, out=sums[:, 1:])
    columns = np.arange(width)
    wide = np.zeros_like(cloud)
    for shift in range(-reach_y, reach_y + 1):
        run = 0
        # Pixels on the ellipse belong to it, such as (3, 4) of 5: no root or quotient tells exactly.
        while run + 1 <= across and _square(shift * across) + _square((run + 1) * down) <= _square(across * down):
            run += 1
        right, left = np.minimum(columns + run + 1, width), np.maximum(columns - run, 0)
        source = slice(max(0, -shift), min(height, height - shift))
        target = slice(max(0, shift), min(height, height + shift))
        wide[target] |= sums[source][:, right] > sums[source][:, left]
    return wide


def _square(value: float) -> float:
    return value * value


def percent(
    probability: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], classes: Sequence[int] = (CLOUD,)
) -> Mask:
    """Probability of cloud, thick or thin, as whole percent.

    Rounded down, and exactly: a pixel has 40 or more if and only if a threshold of 0.40 makes it cloud.

    Args:
        probability: (y, x) of cloud, or (class, y, x), about 0 to 1: those of a network may lie somewhat beyond, and
            of classes that do not exclude each other add up to more.
        valid: (y, x), False where there are no data.
        classes: which of ours each class is.

    Returns:
        (y, x) uint8: 0 to 100, 254 no data.
    """
    if probability.ndim == 3:
        probability = probability[[kind in (CLOUD, THIN_CLOUD) for kind in classes]].sum(axis=0)
    probability = probability.clip(0, 1)
    found = (probability * np.float32(100)).astype(np.uint8)  # One off at most, by the product's last bit
    found -= probability < LIMITS[found]
    found += probability >= LIMITS[found + 1]
    return np.where(valid, found, np.uint8(NO_DATA))


def is_whole(threshold: float) -> bool:
    """Whether a threshold is one of whole percent, so that `relabelled` gives what the probabilities themselves do."""
    return bool((LIMITS[1:100] == np.float32(threshold)).any())


def relabelled(percent: Mask, threshold: float, buffer: tuple[float, float] = (0.0, 0.0)) -> Mask:
    """Make a mask from kept probabilities of a network that tells only cloud.

    Args:
        percent: (y, x) uint8: percent, 254 no data, 255 not computed.
        threshold: probability from which a pixel is cloud (`is_whole`).
        buffer: by how many pixels in y and x clouds are widened (half axes of an ellipse).

    Returns:
        (y, x) uint8: 0 clear, 1 cloud, 254 no data; 255 where nothing was computed, and within the buffer of that,
        where a cloud that nobody knows may reach.
    """
    mask = classify(LIMITS[np.minimum(percent, 100)], percent < NO_DATA, threshold, buffer)
    unknown = percent == NOT_COMPUTED
    if unknown.any():
        mask[(mask == CLEAR) & widen(unknown, buffer)] = NOT_COMPUTED
        mask[unknown] = NOT_COMPUTED
    return mask
