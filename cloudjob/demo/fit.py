"""How well the demo's masks fit its simulated truth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr

from cloudjob.classes import CLOUD, NO_DATA


def table(items: list[dict[str, Any]], folder: Path, masks: xr.DataTree) -> Iterator[str]:
    """A head, and a line for each scene: cloud share of mask and truth, pixels that agree, IoU, and no data.

    Args:
        items: of the demo's catalog.
        folder: where the catalog lies; its items' truth is found from there.
        masks: of these scenes, from `store.masks.open_masks`.
    """
    yield f"{'scene':32} {'cloud':>7} {'truth':>7} {'agreement':>10} {'IoU':>6}  no data"
    for item in items:
        with rasterio.open(folder / item["assets"]["truth"]["href"]) as file:
            truth = file.read(1)
        yield f"{item['id']:32} " + _fit(_mask(masks, item["id"]), truth)


def _mask(masks: xr.DataTree, scene: str) -> npt.NDArray[np.uint8]:
    """The mask (y, x) of a scene."""
    for node in masks.children.values():
        ids = list(node.dataset["scene"].values)
        if scene in ids:
            mask: npt.NDArray[np.uint8] = node.dataset["cloud"][ids.index(scene)].values
            return mask
    raise KeyError(scene)


def _fit(mask: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> str:
    """Cloud share of both, how many pixels agree, and intersection over union of the clouds."""
    labelled = (mask <= CLOUD) & (truth <= CLOUD)
    ours, theirs = mask[labelled] == CLOUD, truth[labelled] == CLOUD
    iou = f"{(ours & theirs).sum() / (ours | theirs).sum():6.3f}" if theirs.any() else "     –"
    same = "same" if ((mask == NO_DATA) == (truth == NO_DATA)).all() else "DIFFERS"
    return f"{ours.mean():7.1%} {theirs.mean():7.1%} {(ours == theirs).mean():10.1%} {iou}  {same}"
