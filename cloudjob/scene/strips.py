"""One asset's rows in strips that are each read once, whatever the size of its pixels and of its blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from rasterio.enums import Resampling

from cloudjob.grid import Grid, Tile, Tiling, Window
from cloudjob.scene.cube import open_cube
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.scene import Band

Strip = tuple[int, int]
"""First and last (exclusive) of an asset's own rows."""

TALLEST = 2048
"""Blocks of more rows do not decide where strips are cut: a file may be one block."""


@dataclass(frozen=True)
class Strips:
    """The rows of one asset that some windows of the scene need.

    Attributes:
        cube: (y, x), lazy; its chunks are the strips.
        grid: of its pixels.
        scene: the scene's grid, by which windows are told.
        left: its first column that is read.
        right: the last one (exclusive).
        edges: where its rows are cut.
    """

    cube: xr.DataArray
    grid: Grid
    scene: Grid
    left: int
    right: int
    edges: tuple[int, ...]

    @property
    def factor(self) -> int:
        """Pixels of the scene across one of these, where the one is a multiple of the other."""
        return round(self.grid.dy / self.scene.dy)

    def of(self, window: Window) -> list[Strip]:
        """The strips that a window of the scene needs."""
        top, bottom = _down(window.top, self.scene.dy, self.grid.dy), _up(window.bottom, self.scene.dy, self.grid.dy)
        return [strip for strip in pairwise(self.edges) if strip[0] < bottom and strip[1] > top]

    def first_of(self, window: Window) -> int:
        """The first of its rows that a window needs."""
        return _down(window.top, self.scene.dy, self.grid.dy)

    def read(self, strip: Strip) -> npt.NDArray[Any]:
        """The pixels (y, x) of a strip between `left` and `right`.

        Raises:
            SceneError, PassingError: the read failed.
        """
        values: npt.NDArray[Any] = self.cube[slice(*strip)].data.compute(scheduler="synchronous")
        return values

    def paste(self, target: npt.NDArray[Any], window: Window, part: npt.NDArray[Any], top: int) -> None:
        """Copy what lies in a window of the scene; each pixel covers `factor` × `factor` of the scene's.

        Args:
            target: (y, x) of the window.
            window: of the scene.
            part: (y, x) of this asset, from its row `top` and its column `left`.
            top: see there.
        """
        factor = self.factor
        if factor > 1:
            part = part.repeat(factor, axis=0).repeat(factor, axis=1)
        first, left = top * factor, self.left * factor
        height, width = part.shape
        y0, y1 = max(first, window.top), min(first + height, window.bottom, self.scene.height)
        x0, x1 = max(left, window.left), min(left + width, window.right, self.scene.width)
        target[y0 - window.top : y1 - window.top, x0 - window.left : x1 - window.left] = part[
            y0 - first : y1 - first, x0 - left : x1 - left
        ]


def cut(
    files: SceneFiles, band: Band, tiling: Tiling, tiles: Sequence[Tile], dtype: npt.DTypeLike, *, own: bool = False
) -> Strips:
    """Cut an asset into strips.

    The cuts lie where rows of tiles meet, moved down to where the file's blocks meet: every block is read and decoded
    once. An asset whose pixels each cover a whole number of the scene's, from the same corner, is read as it is;
    another one on the scene's grid: a coarser grid is served from the overviews, and averaging keeps thin clouds where
    those do not fit exactly.

    Args:
        files: of the scene.
        band: the asset.
        tiling: of the scene.
        tiles: those that are wanted, halo included; other pixels are not read.
        dtype: of the numbers.
        own: whether an asset is read on its own grid whatever its pixels.
    """
    scene = files.scene.grid
    grid = band.grid if own or _covers(band.grid, scene) else scene
    block = files.block_rows(band.name) if grid == band.grid else 1
    columns = [column for _, column in tiles]
    first, last = tiling.padded((0, min(columns))).left, tiling.padded((0, max(columns))).right
    left = min(_down(max(0, first), scene.dx, grid.dx), grid.width)
    right = min(_up(last, scene.dx, grid.dx), grid.width)
    edges = _edges(tiling, {row for row, _ in tiles}, scene, grid, block if block <= TALLEST else 1)
    cube = open_cube(
        files,
        [band],
        grid,
        dtype=dtype,
        chunks=(_lengths(edges), _lengths([0, left, right, grid.width])),
        resampling=Resampling.average,
    )
    return Strips(cube[0, :, left:right], grid, scene, left, right, tuple(edges))


def _covers(grid: Grid, scene: Grid) -> bool:
    """Whether each pixel of a grid covers whole pixels of the scene's, from the same corner."""
    factor = max(1, round(grid.dx / scene.dx))
    same = np.allclose(
        (grid.x0, grid.y0, grid.dx, grid.dy),
        (scene.x0, scene.y0, factor * scene.dx, factor * scene.dy),
        rtol=0,
        atol=1e-3 * scene.dx,  # a thousandth of a pixel
    )
    return grid.epsg == scene.epsg and same


def _edges(tiling: Tiling, rows: set[int], scene: Grid, grid: Grid, block: int) -> list[int]:
    """Where to cut the y axis: at tile edges, and where the halo of a run of rows begins and ends."""
    edges = {0, grid.height}
    for row in rows:
        core = tiling.core((row, 0))
        edges |= {math.ceil(_up(edge, scene.dy, grid.dy) / block) * block for edge in (core.top, core.bottom)}
        if row - 1 not in rows:
            edges.add(_down(max(0, core.top - tiling.halo), scene.dy, grid.dy))
        if row + 1 not in rows:
            edges.add(_up(core.bottom + tiling.halo, scene.dy, grid.dy))
    return sorted({min(edge, grid.height) for edge in edges})


def _lengths(edges: Sequence[int]) -> tuple[int, ...]:
    """Chunk lengths between edges, without empty ones."""
    return tuple(b - a for a, b in pairwise(edges) if b > a)


def _down(edge: int, scene: float, own: float) -> int:
    """The pixel in which an edge between the scene's pixels lies, or which begins there."""
    return math.floor(edge * scene / own + 1e-6)


def _up(edge: int, scene: float, own: float) -> int:
    """The pixel before which an edge between the scene's pixels lies, or which ends there."""
    return math.ceil(edge * scene / own - 1e-6)
