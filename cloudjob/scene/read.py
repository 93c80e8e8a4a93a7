"""A scene's pixels, tile row by tile row: each is read once, the next while this one is computed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudjob.grid import Grid, Tile, Tiling, Window, by_row
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.scene import EMPTY, Band, Numbers
from cloudjob.scene.strips import Strip, Strips, cut


@dataclass(frozen=True)
class RowOfTiles:
    """The pixels that one row of tiles needs.

    Attributes:
        row: of the tiles.
        columns: of the tiles, in order.
        window: from the first tile's padded window to the last one's.
        raw: (band, y, x) of that window, uint16, or int16 or float32 where a file has numbers of that kind;
            `scene.EMPTY` for no data and outside the scene.
    """

    row: int
    columns: list[int]
    window: Window
    raw: Numbers

    def crop(self, window: Window) -> Numbers:
        """The part (band, y, x) that lies in `window`."""
        return self.raw[:, *window.seen_from(self.window).slices]


def rows(files: SceneFiles, tiling: Tiling, tiles: Sequence[Tile]) -> Iterator[RowOfTiles]:
    """Stream the rows of tiles from the top, reading ahead in a thread.

    At most three tile rows of pixels are held.

    Args:
        files: of the scene. They are used by that thread until the last row is given.
        tiling: how it is cut.
        tiles: which tiles are wanted.

    Raises:
        SceneError, PassingError: a read failed.
    """
    dtype = files.dtype()
    sources = [cut(files, band, tiling, tiles, dtype) for band in files.scene.bands]
    wanted = [(row, columns, _row_window(tiling, row, columns)) for row, columns in by_row(tiles)]
    held: dict[tuple[int, Strip], Future[Numbers]] = {}  # what is left of each strip ends where it ends
    with ThreadPoolExecutor(1, thread_name_prefix="read") as ahead:
        try:
            for (row, columns, window), following in zip(wanted, [*(w for _, _, w in wanted[1:]), None], strict=True):
                for needs in (window, following):
                    for key in _keys(sources, needs):
                        if key not in held:
                            held[key] = ahead.submit(sources[key[0]].read, key[1])
                raw = np.full((len(sources), *window.shape), EMPTY[dtype.name], dtype)
                later = set(_keys(sources, following))
                for key in _keys(sources, window):
                    source, (_, bottom) = sources[key[0]], key[1]
                    part = held.pop(key).result()
                    source.paste(raw[key[0]], window, part, bottom - len(part))
                    if following and key in later:
                        held[key] = Future()
                        unneeded = source.first_of(following) - (bottom - len(part))
                        held[key].set_result(part[unneeded:].copy() if unneeded > 0 else part)
                    del part  # or it would be held while the network runs
                yield RowOfTiles(row, columns, window, raw)
        finally:
            ahead.shutdown(wait=False, cancel_futures=True)


class Classification:
    """The provider's scene classification, read as far as rows of tiles ask for it: each of its blocks once.

    Args:
        files: of the scene.
        band: the classification.
        tiling: of the scene.
        tiles: which tiles are wanted.
    """

    def __init__(self, files: SceneFiles, band: Band, tiling: Tiling, tiles: Sequence[Tile]) -> None:
        self._strips = cut(files, band, replace(tiling, halo=0), tiles, np.uint16, own=True)
        self._held: dict[Strip, npt.NDArray[Any]] = {}

    def under(self, window: Window) -> tuple[npt.NDArray[np.uint16], Grid] | None:
        """What covers a window of the scene: (y, x) classes on their own, usually coarser, grid, and that grid.

        None where the classification does not reach.

        Raises:
            SceneError, PassingError: the read failed.
        """
        strips = self._strips
        needed = strips.of(window)
        if not needed:
            return None
        self._held = {strip: self._held[strip] if strip in self._held else strips.read(strip) for strip in needed}
        (top, _), (_, bottom) = needed[0], needed[-1]
        values = np.concatenate([self._held[strip] for strip in needed])
        return values, strips.grid.crop(Window(top, bottom, strips.left, strips.right))


def _keys(sources: Sequence[Strips], window: Window | None) -> list[tuple[int, Strip]]:
    """(number of the source, strip) of all that a window needs."""
    return [(number, strip) for number, source in enumerate(sources) if window for strip in source.of(window)]


def _row_window(tiling: Tiling, row: int, columns: Sequence[int]) -> Window:
    first, last = tiling.padded((row, columns[0])), tiling.padded((row, columns[-1]))
    return Window(first.top, first.bottom, first.left, last.right)
