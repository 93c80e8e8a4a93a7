"""How far a mask agrees with the provider's own scene classification (SCL): only compared, never used for the mask."""

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import xarray as xr

from cloudjob.classes import CLEAR, CLOUD, NOT_COMPUTED, SHADOW, THIN_CLOUD
from cloudjob.errors import PassingError, SceneError
from cloudjob.grid import Grid, Window
from cloudjob.scene.files import check_files
from cloudjob.scene.read import classification
from cloudjob.scene.scene import Band, Scene
from cloudjob.store.receipt import Receipt

log = logging.getLogger(__name__)

SCL_CLEAR = (2, 3, 4, 5, 6, 11)
SCL_CLOUD = (8, 9, 10)
"""Sen2Cor's scene classification (https://sentiwiki.copernicus.eu/web/s2-processing): dark, shadow, vegetation, bare,
water, snow; medium and high probability of cloud, thin cirrus. Not compared: no data, defective, unclassified."""

_SCL_LABEL = np.full(256, NOT_COMPUTED, np.uint8)
_SCL_LABEL[list(SCL_CLEAR)] = CLEAR
_SCL_LABEL[list(SCL_CLOUD)] = CLOUD

_OURS = np.full(256, NOT_COMPUTED, np.uint8)
_OURS[[CLEAR, SHADOW]] = CLEAR
_OURS[[CLOUD, THIN_CLOUD]] = CLOUD
"""Shadow counts as clear on both sides: only clouds are compared."""


def readable(scene: Scene, hrefs: Mapping[str, str], *, patient: bool) -> tuple[Band | None, tuple[str, ...]]:
    """The scene classification if it can be opened. It is only compared with: a scene is not failed for it."""
    if scene.scl is None:
        return None, ()
    try:
        check_files(scene, [scene.scl], hrefs)
    except SceneError as error:
        if patient and isinstance(error, PassingError):
            raise
        return None, (f"its scene classification is not compared: {error}",)
    return scene.scl, ()


def labels(
    scene: Scene, scl: Band | None, window: Window, hrefs: Mapping[str, str], *, patient: bool
) -> tuple[xr.DataArray | None, tuple[str, ...]]:
    """The scene classification of a row of tiles, if it can be read."""
    if scl is None:
        return None, ()
    try:
        return classification(scene, scl, window, hrefs), ()
    except SceneError as error:
        if patient and isinstance(error, PassingError):
            raise
        log.warning("%s", error)
        return None, ("its scene classification is not compared everywhere: a part of it cannot be read",)


def compare(mask: npt.NDArray[np.uint8], grid: Grid, scl: xr.DataArray) -> Receipt:
    """Compare a tile with the provider's classes at the centres of the classification's own, larger, pixels."""
    row = np.floor((grid.y0 - scl.y.values) / grid.dy).astype(int)
    column = np.floor((scl.x.values - grid.x0) / grid.dx).astype(int)
    rows, columns = (row >= 0) & (row < grid.height), (column >= 0) & (column < grid.width)
    ours = _OURS[mask[row[rows]][:, column[columns]]]
    theirs = _SCL_LABEL[scl.values[rows][:, columns].astype(np.uint8)]
    both = (ours <= CLOUD) & (theirs <= CLOUD)
    return Receipt(
        scl_compared=int(both.sum()),
        scl_agreed=int((both & (ours == theirs)).sum()),
        scl_cloud=int((both & (theirs == CLOUD)).sum()),
    )
