"""Whether the assets of an item are bands of one scene: a file each, of one product, at one place."""

import math
from collections.abc import Sequence

from pyproj import Transformer

from cloudjob.errors import SceneError, redact
from cloudjob.grid import Grid
from cloudjob.scene import product
from cloudjob.scene.scene import Band

SHARED = 0.5
"""Of a scene's area that each of its bands covers at least: neighbouring tiles share a tenth."""

_NAME_THEM = "name its assets (see --asset), or report it to whoever publishes the catalog"


def check_beside(band: Band, others: Sequence[Band], scene: str) -> None:
    """Refuse a band that cannot be of the scene that some others are of; what tells a cloud is how they differ.

    Raises:
        SceneError: its file is one of theirs, its address tells another product, or its pixels lie elsewhere.
    """
    for other in others:
        if (band.address or band.href) == (other.address or other.href):
            raise SceneError(
                f"scene {scene}: its assets {other.key} and {band.key} are one file, {redact(band.href)}; "
                f"expected one of {other.name} and one of {band.name}",
                hint="export its bands one by one" if other.key == band.key else _NAME_THEM,
            )
    for other in others[:1]:
        pair = f"scene {scene}: its assets {other.key} and {band.key}"
        ours, theirs = product.told_by(band.href), product.told_by(other.href)
        for kind, told in ours.items():
            if told and theirs[kind] and not told & theirs[kind]:
                first, second = (", ".join(sorted(each)) for each in (theirs[kind], told))
                says = f"{pair} are of different {kind}, as their addresses tell: {first} and {second}"
                raise SceneError(f"{says}; expected one scene's", hint=_NAME_THEM)
        if _apart(other.grid, band.grid):
            says = f"{pair} lie apart: {_where(other.grid)}, and {_where(band.grid)}"
            raise SceneError(f"{says}; expected one scene's", hint=_NAME_THEM)


def _apart(grid: Grid, other: Grid) -> bool:
    """Whether most of a grid lies outside of another one."""
    left, bottom, right, top = grid.bounds
    x0, y0, x1, y1 = other.bounds
    if grid.epsg != other.epsg:
        x0, y0, x1, y1 = Transformer.from_crs(other.epsg, grid.epsg, always_xy=True).transform_bounds(x0, y0, x1, y1)
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            return True
    width, height = min(right, x1) - max(left, x0), min(top, y1) - max(bottom, y0)
    return width <= 0 or height <= 0 or width * height < SHARED * (right - left) * (top - bottom)


def _where(grid: Grid) -> str:
    return f"{grid.height} × {grid.width} pixels of EPSG:{grid.epsg} from {grid.x0:.10g}, {grid.y0:.10g}"
