"""Cut, zoom, pad and turn an image and its target together.

An image is (bands, height, width) reflectance, a target (height, width) of 0 to 1 and NaN where it is unknown.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.patch import Float

Some = npt.NDArray[np.floating[Any]]
Sample = tuple[Float, Float]


def window(rng: np.random.Generator, image: Some, target: Some, side: int) -> Sample:
    """A window of `side` × `side` pixels anywhere, as float32."""
    row, column = (int(rng.integers(max(0, full - side) + 1)) for full in target.shape)
    rows, columns = slice(row, row + side), slice(column, column + side)
    return image[:, rows, columns].astype(np.float32, copy=False), target[rows, columns].astype(np.float32, copy=False)


def resize(image: Float, target: Float, side: int) -> Sample:
    """Both to `side` × `side` pixels; a target pixel is unknown where any part of it was."""
    known = ~np.isnan(target)
    planes = np.concatenate([image, np.nan_to_num(target)[None], known[None].astype(np.float32)]).astype(np.float32)
    shrink = max(target.shape) > side
    small = torch.nn.functional.interpolate(
        torch.from_numpy(planes)[None], size=(side, side), mode="bilinear", antialias=shrink, align_corners=False
    )[0].numpy()
    target = np.where(small[-1] > 0.999, np.clip(small[-2], 0, 1), np.nan).astype(np.float32)
    return small[:-2], target


def pad(image: Float, target: Float, side: int) -> Sample:
    """With no data to the right and below, up to `side` × `side`."""
    rows, columns = (max(0, side - full) for full in target.shape)
    if rows == columns == 0:
        return image, target
    return (
        np.pad(image, ((0, 0), (0, rows), (0, columns))),
        np.pad(target, ((0, rows), (0, columns)), constant_values=np.nan),
    )


def turn(rng: np.random.Generator, image: Float, target: Float) -> Sample:
    """One of the eight turns and mirror images of a square."""
    turns = int(rng.integers(4))
    image, target = np.rot90(image, turns, (1, 2)), np.rot90(target, turns)
    return (image[:, :, ::-1], target[:, ::-1]) if rng.random() < 0.5 else (image, target)


def hidden(before: Float, after: Float) -> npt.NDArray[np.bool_]:
    """Where a cloud cannot be seen on its ground, for no band changes by more than 0.03 reflectance."""
    unseen: npt.NDArray[np.bool_] = np.nanmax(np.abs(after - before), axis=0) < 0.03
    return unseen
