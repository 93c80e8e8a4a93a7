"""A scene's pixel grid, and how it is cut into tiles.

Pixel windows are counted from the scene's first row and column, never from a bbox: that is what makes a tile
a pure function of the scene (see ARCHITECTURE.md).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Proj, Transformer
from pyproj.exceptions import ProjError
from shapely import box, intersection, segmentize, transform, union_all
from shapely.geometry.base import BaseGeometry

Tile = tuple[int, int]
"""(row, column) of a tile in its scene."""

DEGREE = 6371008.8 * math.pi / 180
"""Metres of a degree of a meridian, on the sphere of the WGS 84 mean radius (6371.0088 km, IUGG)."""


ODD = 0.05
"""Share by which a projection's metres may miss those on the ground: UTM's by 0.001, those of equal area in one country
by some hundredths. Web Mercator's are twice as many at 60 degrees."""


@dataclass(frozen=True)
class Window:
    """Rows `top` to `bottom` and columns `left` to `right` (exclusive) of a scene; may reach outside of it."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """For indexing an array whose last axes are y, x and whose origin is the scene's."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def seen_from(self, other: "Window") -> "Window":
        """The same, counted from the first row and column of another one."""
        return Window(self.top - other.top, self.bottom - other.top, self.left - other.left, self.right - other.left)

    def inside(self, height: int, width: int) -> "Window":
        """The part of it that lies in a scene of so many rows and columns."""
        return Window(max(0, self.top), min(height, self.bottom), max(0, self.left), min(width, self.right))

    def coarsen(self, factor: int) -> "Window":
        """The same in pixels `factor` times as large; a last part pixel is kept whole."""
        top, bottom, left, right = self.top, self.bottom, self.left, self.right
        return Window(top // factor, math.ceil(bottom / factor), left // factor, math.ceil(right / factor))


@dataclass(frozen=True)
class Grid:
    """A north-up pixel grid.

    Attributes:
        epsg: code of the coordinate reference system; the unit of all that follows is its unit.
        x0: left edge of the first column.
        y0: upper edge of the first row.
        dx: width of a pixel, positive.
        dy: height of a pixel, positive.
        height: number of rows.
        width: number of columns.
    """

    epsg: int
    x0: float
    y0: float
    dx: float
    dy: float
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of the outer pixel edges."""
        return self.x0, self.y0 - self.height * self.dy, self.x0 + self.width * self.dx, self.y0

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """The affine transform (a, b, c, d, e, f) from (column, row) to coordinates, as in `proj:transform`."""
        return self.dx, 0.0, self.x0, 0.0, -self.dy, self.y0

    @property
    def centres(self) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Coordinates of the pixels' centres along y and along x, float64."""
        return self.y0 - (np.arange(self.height) + 0.5) * self.dy, self.x0 + (np.arange(self.width) + 0.5) * self.dx

    @property
    def metres(self) -> tuple[float, float]:
        """Height and width of a pixel in metres, those of its projection; if they are odd (`ODD`), on the ground."""
        return _metres(self)

    def coarsen(self, factor: int) -> "Grid":
        """The grid of the same origin with pixels `factor` times as large; a last part pixel is kept whole."""
        height, width = (math.ceil(side / factor) for side in self.shape)
        return replace(self, dx=self.dx * factor, dy=self.dy * factor, height=height, width=width)

    def crop(self, window: Window) -> "Grid":
        """The grid of the pixels in `window`."""
        height, width = window.shape
        x0, y0 = self.x0 + window.left * self.dx, self.y0 - window.top * self.dy
        return replace(self, x0=x0, y0=y0, height=height, width=width)

    def project(self, area: BaseGeometry) -> BaseGeometry:
        """The part of an area in longitude, latitude (EPSG:4326) that lies on or near this grid, in its coordinates."""
        to_grid = Transformer.from_crs(4326, self.epsg, always_xy=True)
        west, south, east, north = to_grid.transform_bounds(*self.bounds, direction="INVERSE")
        margin = 0.1  # degrees; far from its zone a projection gives anything
        south, north = south - margin, north + margin
        pieces = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]  # across the antimeridian
        near = union_all([box(left - margin, south, right + margin, north) for left, right in pieces])
        # Edges that are straight in degrees are curved here: points every 0.05° keep the error below a metre.
        return transform(segmentize(area.intersection(near), 0.05), to_grid.transform, interleaved=False)  # type: ignore[arg-type]


@lru_cache(10_000)
def _metres(grid: Grid) -> tuple[float, float]:
    """Height and width of a pixel (`Grid.metres`): of degrees, feet and Web Mercator's metres at the grid's middle."""
    left, bottom, right, top = grid.bounds
    crs = CRS.from_epsg(grid.epsg)
    if crs.is_geographic:  # On a sphere
        return grid.dy * DEGREE, grid.dx * DEGREE * math.cos(math.radians((bottom + top) / 2))
    try:
        project = Proj(crs)
        there = project.get_factors(*project((left + right) / 2, (bottom + top) / 2, inverse=True))
        scales = float(there.meridional_scale), float(there.parallel_scale)
    except ProjError:  # Where nobody can tell, it is believed
        return grid.dy, grid.dx
    unit = crs.axis_info[0].unit_conversion_factor
    told = [unit / scale if 0 < scale < math.inf else 1.0 for scale in scales]
    height, width = (1.0 if abs(each - 1) <= ODD else each for each in told)
    return grid.dy * height, grid.dx * width


@dataclass(frozen=True)
class Tiling:
    """A grid of `shape` pixels cut into square tiles, each computed from a window that is `halo` wider.

    Attributes:
        height: rows of the scene.
        width: columns of the scene.
        tile: side of a tile in pixels, a multiple of `stride`.
        halo: pixels read beyond each side of a tile; that it fits the network is `Contract.padding`'s to see to.
        stride: tiles begin and have sides at multiples of this (the network's poolings).
    """

    height: int
    width: int
    tile: int
    halo: int
    stride: int

    def __post_init__(self) -> None:
        if self.tile % self.stride:
            raise ValueError(f"tile {self.tile} must be a multiple of {self.stride}")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        return math.ceil(self.height / self.tile), math.ceil(self.width / self.tile)

    def all(self) -> list[Tile]:
        """Every tile, row by row."""
        rows, columns = self.shape
        return [(row, column) for row in range(rows) for column in range(columns)]

    def core(self, tile: Tile) -> Window:
        """The tile's own pixels; ragged at the scene's lower and right edge."""
        top, left = tile[0] * self.tile, tile[1] * self.tile
        return Window(top, min(top + self.tile, self.height), left, min(left + self.tile, self.width))

    def padded(self, tile: Tile) -> Window:
        """What the network sees: the core rounded up to the stride, and the halo around it."""
        core = self.core(tile)
        height, width = (math.ceil(side / self.stride) * self.stride for side in core.shape)
        return Window(
            core.top - self.halo,
            core.top + height + self.halo,
            core.left - self.halo,
            core.left + width + self.halo,
        )

    def touched(self, grid: Grid, area: BaseGeometry) -> list[Tile]:
        """Tiles whose core shares some area with `area`, a geometry in longitude, latitude."""
        return list(_touched(self, grid, area))


@lru_cache(10_000)
def _touched(tiling: Tiling, grid: Grid, area: BaseGeometry) -> tuple[Tile, ...]:
    """See there: a catalog has many scenes of each grid."""
    tiles = tiling.all()
    cores = box(*np.transpose([grid.crop(tiling.core(tile)).bounds for tile in tiles]))
    shared = intersection(grid.project(area), cores)
    return tuple(tile for tile, part in zip(tiles, shared, strict=True) if part.area > 0)


def same_size(metres: float, others: Iterable[float]) -> bool:
    """Whether pixels are as large as one of others, by their sides; a quarter more or less is the same size."""
    return any(abs(metres - other) <= other / 4 for other in others)


def by_row(tiles: Iterable[Tile]) -> Iterator[tuple[int, list[int]]]:
    """(row, its columns in order) for each row that has a tile, from the top."""
    for row, members in groupby(sorted(tiles), key=itemgetter(0)):
        yield row, [column for _, column in members]
