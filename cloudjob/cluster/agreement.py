"""How far a mask agrees with the provider's own scene classification (SCL): only compared, never used for the mask."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cloudjob.classes import CLEAR, CLOUD, NOT_COMPUTED, SHADOW, THIN_CLOUD
from cloudjob.errors import PassingError, SceneError
from cloudjob.grid import Grid, Tile, Tiling, Window
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.read import Classification
from cloudjob.store.receipt import Receipt

log = logging.getLogger(__name__)

SCL_CLEAR = (2, 3, 4, 5, 6, 11)
SCL_CLOUD = (8, 9, 10)
"""Sen2Cor's scene classification (https://sentiwiki.copernicus.eu/web/s2-processing): dark, shadow, vegetation, bare,
water, snow; medium and high probability of cloud, thin cirrus. Not compared: no data, defective, unclassified."""

Labels = tuple[npt.NDArray[np.uint16], Grid]
"""The provider's classes (y, x), and their grid."""

_SCL_LABEL = np.full(256, NOT_COMPUTED, np.uint8)
_SCL_LABEL[list(SCL_CLEAR)] = CLEAR
_SCL_LABEL[list(SCL_CLOUD)] = CLOUD

_OURS = np.full(256, NOT_COMPUTED, np.uint8)
_OURS[[CLEAR, SHADOW]] = CLEAR
_OURS[[CLOUD, THIN_CLOUD]] = CLOUD
"""Shadow counts as clear on both sides: only clouds are compared."""


class Agreement:
    """Compares the masks of one scene, row of tiles by row of tiles, with its scene classification where it has one.

    A scene is not failed for it: what cannot be read is not compared, and `warnings` say so.
    """

    def __init__(self, files: SceneFiles, tiling: Tiling, tiles: Sequence[Tile]) -> None:
        self.warnings: tuple[str, ...] = ()
        self._classes: Classification | None = None
        if scl := files.scene.scl:
            try:
                if scl.grid.epsg != files.scene.grid.epsg:
                    raise SceneError(f"it is in EPSG:{scl.grid.epsg}, the scene in {files.scene.grid.epsg}")  # noqa: TRY301
                files.check([scl])
                self._classes = Classification(files, scl, tiling, tiles)
            except SceneError as error:
                self.warnings = (f"its scene classification is not compared: {error}",)

    def labels(self, window: Window) -> Labels | None:
        """The classes under a row of tiles and their grid; None where there are none to compare with."""
        if self._classes is None:
            return None
        try:
            return self._classes.under(window)
        except SceneError as error:
            log.warning("%s", error)
            if isinstance(error, PassingError):  # Nor is its host asked again for each row
                self._classes = None
            self.warnings = ("its scene classification is not compared everywhere: a part of it cannot be read",)
            return None


def compare(mask: npt.NDArray[np.uint8], grid: Grid, labels: Labels) -> Receipt:
    """Compare a tile's mask (y, x) with the provider's classes, at the centres of their own, larger, pixels."""
    classes, theirs_on = labels
    y, x = theirs_on.centres
    row, column = np.floor((grid.y0 - y) / grid.dy), np.floor((x - grid.x0) / grid.dx)
    rows, columns = (row >= 0) & (row < grid.height), (column >= 0) & (column < grid.width)
    ours = _OURS[mask[row[rows].astype(int)][:, column[columns].astype(int)]]
    theirs = _SCL_LABEL[np.minimum(classes[rows][:, columns], 255)]
    both = (ours <= CLOUD) & (theirs <= CLOUD)
    return Receipt(
        scl_compared=int(both.sum()),
        scl_agreed=int((both & (ours == theirs)).sum()),
        scl_cloud=int((both & (theirs == CLOUD)).sum()),
    )
