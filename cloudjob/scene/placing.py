"""Where an asset's pixels lie: by its item, else by its file's header; and whether that is where the item lies."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyproj import Transformer
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from cloudjob.errors import SceneError
from cloudjob.grid import Grid
from cloudjob.scene.files import MAX_SIDE, header

MARGIN = 0.5
"""Degrees by which an item's geometry may miss its grid: they are rounded, or cut to the swath, in many catalogs."""

_OTHER_HALF = {first + zone: 65_300 - first + zone for first in (32_600, 32_700) for zone in range(1, 61)}
"""A zone's code of UTM in the north, and that in the south: HLS counts northings from the equator in both, and items of
the Planetary Computer say the other one (its issue 486)."""

_one_grid = functools.lru_cache(10_000)(Grid)


def grid_of(
    item: dict[str, Any],
    asset: dict[str, Any],
    key: str,
    address: str,
    footprint: BaseGeometry | None = None,
    *,
    coarse: bool = False,
) -> Grid:
    """The asset's grid from the projection extension; from the file's header where the item does not tell.

    Shape and transform are taken from one place: the item's are those of another asset where this one has its own.
    rio-stac writes one grid for all assets of an item, that of its first file: of 10 m, of AOT's 20, or of B01's 60.

    Args:
        item: as `item.parse` leaves it.
        asset: of it.
        key: of the asset.
        address: of its file, signed where it has to be.
        footprint: of the item, in longitude, latitude.
        coarse: whether Sentinel-2 has it in pixels of 20 m: then a grid of 10 m that the item tells for all its assets
            is not believed; of others one of 20 m is not, and one of 60 m never is.

    Raises:
        SceneError: no grid, one that is not north-up, or none that lies on Earth; or the header cannot be read.
    """
    what, levels = f"scene {item['id']}, asset {key}", (asset, item["properties"])
    epsg = next(filter(None, map(_epsg, levels)), None)
    told = next((level for level in levels if level.keys() & {"proj:shape", "proj:transform"}), {})
    shape, transform = told.get("proj:shape"), told.get("proj:transform")
    if told is not asset and transform:
        size = abs(transform[0])
        transform = None if size > 45 or (size < 15 if coarse else 15 < size < 25) else transform
    if not (epsg and shape and transform):
        epsg, transform, shape = header(address, what, key)
    return _north_up(epsg, transform, shape, what, footprint)


def _epsg(told: Mapping[str, Any]) -> int | None:
    # What stands after a + is vertical, as is one of two with a comma or & between: then the file tells. The Planetary
    # Computer writes a bare number for HLS (its issue 486), some a URN
    code = told.get("proj:code", "")
    if horizontal := re.fullmatch(r"(?:[^,&]*EPSG[^,&]*[:/])?(\d{1,6})(\+\d+)?", code, re.IGNORECASE):
        return int(horizontal[1])
    return told.get("proj:epsg")


def _north_up(
    epsg: int, transform: Sequence[float], shape: Sequence[int], what: str, footprint: BaseGeometry | None
) -> Grid:
    a, b, c, d, e, f = (float(value) for value in tuple(transform)[:6])
    if c == e == 0 and b > 0 > f:  # GDAL's order; `gdalinfo -json` wrote it into `proj:transform` (OSGeo/gdal#13358)
        a, b, c, d, e, f = b, c, a, e, f, d
    if b or d or a <= 0 or e >= 0:
        raise SceneError(f"{what}: its grid is not north-up (transform {[a, b, c, d, e, f]})")
    height, width = int(shape[0]), int(shape[1])
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise SceneError(f"{what}: it has {height} × {width} pixels; expected at most {MAX_SIDE} a side")
    grid = _one_grid(int(epsg), c, f, a, -e, height, width)
    try:
        found = place(grid)
        turned = _one_grid(_OTHER_HALF.get(epsg, epsg), c, f, a, -e, height, width)
        if turned != grid and not _near(found, footprint) and _near(place(turned), footprint):
            return turned
    except ProjError as error:  # There is none, or PROJ knows no way back (Greenland's zones of 1927)
        hint = "report it to whoever publishes the catalog"
        raise SceneError(f"{what}: its projection makes no sense: {error}", hint=hint) from None
    if found is None:
        raise SceneError(f"{what}: its grid lies nowhere on Earth ({grid})")
    return grid


@functools.lru_cache(10_000)
def place(grid: Grid) -> tuple[float, float, float, float] | None:
    """Where a grid lies: west, south, east, north in degrees (west of east unless it crosses the antimeridian).

    None where its projection cannot tell: only what is known can be compared with the area asked for.
    """
    to_degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    try:
        west, south, east, north = to_degrees.transform_bounds(*grid.bounds)
    except ProjError:
        return None
    known = all(math.isfinite(side) and abs(side) <= 361 for side in (west, south, east, north)) and south < north
    return (west, south, east, north) if known else None


def check_place(grid: Grid, footprint: BaseGeometry | None, scene: str) -> None:
    """Refuse a grid that lies far from the item's own geometry: none of its tiles would be wanted, without a word."""
    found = place(grid)
    if found is None or footprint is None or footprint.is_empty or _near(found, footprint):
        return
    west, south, east, north = found
    left, bottom, right, top = footprint.bounds
    east += 360 if east < west else 0
    raise SceneError(
        f"scene {scene}: its grid (EPSG:{grid.epsg}) lies around {(west + east) / 2:.1f}, "
        f"{(south + north) / 2:.1f}, its geometry around {(left + right) / 2:.1f}, {(bottom + top) / 2:.1f} "
        "(degrees east, north)",
        hint="one of them is wrong; report it to whoever publishes the catalog",
    )


def _near(found: tuple[float, float, float, float] | None, footprint: BaseGeometry | None) -> bool:
    """Whether a grid (its `place`) lies where a footprint does, as far as both are known."""
    if found is None or footprint is None or footprint.is_empty:
        return False
    west, south, east, north = found
    left, bottom, right, top = footprint.bounds
    east += 360 if east < west else 0
    wide = MARGIN / max(0.05, math.cos(math.radians(max(abs(south), abs(north)))))
    beside = any(west - wide <= right + turn and left + turn <= east + wide for turn in (-360, 0, 360))
    return beside and bottom <= north + MARGIN and top >= south - MARGIN
