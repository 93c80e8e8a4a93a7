"""Where the tiles of MGRS lie: the corner of Sentinel-2's grid, told from a tile's name alone.

A tile of Sentinel-2 begins with its square of 100 km, moved outwards to a multiple of 60 m counted from the equator and
from the zone's false origin, so that pixels of 10, 20 and 60 m share their corner. Found true of all tiles tried
(`tests/scene/test_mgrs.py`).
"""

import math
import re

_COLUMNS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
_NAME = re.compile(rf"(\d\d)([{_BANDS}])([{_COLUMNS}])([{_ROWS}])")

_SQUARE = 100_000
_CYCLE = 2_000_000
"""Metres after which the letters of rows begin anew."""
_EQUATOR = 10_000_000
"""Northing of the equator in zones of the south."""
_DEGREE = 110_950
"""Metres of a degree of latitude, about: bands are 8° high, and squares of one name lie 2,000 km apart."""
_STEP = 60


def corner(tile: str) -> tuple[int, int, int] | None:
    """EPSG code, left and top edge in metres of a tile such as "33UUP"; None for what is no name of a tile.

    The letters are those of MGRS (NGA.STND.0037): columns begin anew every third zone, rows every 2,000 km, in even
    zones with F.
    """
    named = _NAME.fullmatch(tile)
    if not named:
        return None
    zone, south = int(named[1]), named[2] < "N"
    column = _COLUMNS.index(named[3]) - 8 * ((zone - 1) % 3)
    if not (1 <= zone <= 60 and 0 <= column < 8):
        return None
    row = (_ROWS.index(named[4]) - (0 if zone % 2 else 5)) % len(_ROWS)
    equator = _EQUATOR if south else 0
    middle = equator + _DEGREE * (8 * _BANDS.index(named[2]) - 76)
    bottom = row * _SQUARE
    bottom += round((middle - bottom) / _CYCLE) * _CYCLE
    left = math.floor((column + 1) * _SQUARE / _STEP) * _STEP
    top = equator + math.ceil((bottom + _SQUARE - equator) / _STEP) * _STEP
    return (32_700 if south else 32_600) + zone, left, top


def is_at(tile: str, epsg: int, left: float, top: float) -> bool:
    """Whether a whole tile's grid with this corner is that tile's: of its zone, and nearer to it than to a neighbour.

    HLS counts northings from the equator in both halves of a zone.
    """
    named = corner(tile)
    if named is None:
        return False
    zone, x, y = _from_equator(*named)
    here, x0, y0 = _from_equator(epsg, left, top)
    return zone == here and max(abs(x0 - x), abs(y0 - y)) < _SQUARE / 2


def _from_equator(epsg: int, left: float, top: float) -> tuple[int, float, float]:
    return (epsg - 100, left, top - _EQUATOR) if 32_701 <= epsg <= 32_760 else (epsg, left, top)
