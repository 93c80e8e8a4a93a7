"""A scene's pixels, tile row by tile row: each is read once, the next while this one is computed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
from rasterio.enums import Resampling

from cloudjob.grid import Tile, Tiling, Window, by_row
from cloudjob.scene.cube import open_scene
from cloudjob.scene.files import env, failed
from cloudjob.scene.scene import Band, Scene


@dataclass(frozen=True)
class RowOfTiles:
    """The pixels that one row of tiles needs.

    Attributes:
        row: of the tiles.
        columns: of the tiles, in order.
        window: from the first tile's padded window to the last one's.
        raw: (band, y, x) uint16 of that window, 0 for no data and outside the scene.
    """

    row: int
    columns: list[int]
    window: Window
    raw: npt.NDArray[np.uint16]

    def crop(self, window: Window) -> npt.NDArray[np.uint16]:
        """The part (band, y, x) that lies in `window`."""
        top, left = window.top - self.window.top, window.left - self.window.left
        height, width = window.shape
        return self.raw[:, top : top + height, left : left + width]


def rows(
    scene: Scene, tiling: Tiling, tiles: Sequence[Tile], hrefs: Mapping[str, str] | None = None
) -> Iterator[RowOfTiles]:
    """Stream the rows of tiles from the top, reading ahead in a thread.

    At most three tile rows of pixels are held. Chunks are cut at the tiles' own edges, which are also those of a
    COG's blocks where the tile side is a multiple of the block's: every block is decoded once.

    Args:
        scene: what to read.
        tiling: how it is cut.
        tiles: which tiles are wanted.
        hrefs: band name → signed address.

    Raises:
        SceneError, PassingError: a read failed.
    """
    wanted = [(row, columns, _row_window(tiling, row, columns)) for row, columns in by_row(tiles)]
    edges = _edges(tiling, [row for row, _, _ in wanted])
    left = max(0, min(window.left for _, _, window in wanted))
    right = min(tiling.width, max(window.right for _, _, window in wanted))
    spans = list(pairwise(edges))
    cube = open_scene(
        scene,
        scene.bands,
        scene.grid,
        hrefs=hrefs,
        chunks=(_lengths(edges), _lengths([0, left, right, tiling.width])),
        # A coarser grid is served from the overviews; averaging keeps thin clouds where those do not fit exactly.
        resampling=Resampling.average,
    )[:, :, left:right]

    def read(top: int, bottom: int) -> npt.NDArray[np.uint16]:
        values = np.empty((len(scene.bands), bottom - top, right - left), np.uint16)
        with _reading(scene):
            for band in range(len(scene.bands)):  # all bands at once would be held twice
                values[band] = cube[band, top:bottom].data.compute(scheduler="synchronous")
        return values

    needs = [[span for span in spans if span[0] < w.bottom and span[1] > w.top] for _, _, w in wanted]
    following = [*needs[1:], []]
    begins = [*(window.top for _, _, window in wanted[1:]), tiling.height]
    held: dict[tuple[int, int], Future[npt.NDArray[np.uint16]]] = {}  # what is left of each span ends where it ends
    with ThreadPoolExecutor(1, thread_name_prefix="read") as ahead:
        try:
            for (row, columns, window), need, later, begin in zip(wanted, needs, following, begins, strict=True):
                for span in [*need, *later]:
                    if span not in held:
                        held[span] = ahead.submit(read, *span)
                raw = np.zeros((len(scene.bands), *window.shape), np.uint16)
                for span in need:
                    part = held.pop(span).result()
                    top = span[1] - part.shape[1]
                    _paste(raw, window, part, top, left)
                    if span in later:
                        held[span] = Future()
                        held[span].set_result(part if begin <= top else part[:, begin - top :].copy())
                del part  # or it would be held while the network runs
                yield RowOfTiles(row, columns, window, raw)
        finally:
            ahead.shutdown(wait=False, cancel_futures=True)


def classification(scene: Scene, band: Band, window: Window, hrefs: Mapping[str, str]) -> xr.DataArray:
    """Read the provider's scene classification where it covers `window` of the scene's grid.

    Returns:
        (y, x) uint16 on its own, usually coarser, grid.
    """
    down, across = scene.grid.dy / band.grid.dy, scene.grid.dx / band.grid.dx
    height, width = band.grid.shape
    top, bottom = min(math.floor(window.top * down), height), min(math.ceil(window.bottom * down), height)
    left, right = min(math.floor(window.left * across), width), min(math.ceil(window.right * across), width)
    chunks = _lengths([0, top, bottom, height]), _lengths([0, left, right, width])
    with _reading(scene):
        cube = open_scene(scene, [band], band.grid, hrefs=hrefs, chunks=chunks)
        values: xr.DataArray = cube[0, top:bottom, left:right].compute(scheduler="synchronous")
    return values


@contextmanager
def _reading(scene: Scene) -> Iterator[None]:
    """GDAL's settings for reads, and its errors as ours."""
    try:
        with env():
            yield
    except (RuntimeError, OSError, rasterio.errors.RasterioError) as error:
        raise failed(error, scene) from None


def _row_window(tiling: Tiling, row: int, columns: Sequence[int]) -> Window:
    first, last = tiling.padded((row, columns[0])), tiling.padded((row, columns[-1]))
    return Window(first.top, first.bottom, first.left, last.right)


def _edges(tiling: Tiling, rows_of_tiles: Sequence[int]) -> list[int]:
    """Where to cut the y axis: at tile edges, and where the halo of a run of rows begins and ends."""
    edges = {0, tiling.height}
    for row in rows_of_tiles:
        core = tiling.core((row, 0))
        edges |= {core.top, core.bottom}
        if row - 1 not in rows_of_tiles:
            edges.add(max(0, core.top - tiling.halo))
        if row + 1 not in rows_of_tiles:
            edges.add(min(tiling.height, core.bottom + tiling.halo))
    return sorted(edges)


def _lengths(edges: Sequence[int]) -> tuple[int, ...]:
    """Chunk lengths between edges, without empty ones."""
    return tuple(b - a for a, b in pairwise(edges) if b > a)


def _paste(raw: npt.NDArray[np.uint16], window: Window, part: npt.NDArray[np.uint16], top: int, left: int) -> None:
    """Copy the overlap of `part`, whose first pixel is the scene's (top, left), into the window's array."""
    height, width = part.shape[1:]
    y0, y1 = max(top, window.top), min(top + height, window.bottom)
    x0, x1 = max(left, window.left), min(left + width, window.right)
    raw[:, y0 - window.top : y1 - window.top, x0 - window.left : x1 - window.left] = part[
        :, y0 - top : y1 - top, x0 - left : x1 - left
    ]
