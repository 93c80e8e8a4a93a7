"""Where the scenes lie, as an SVG drawing: footprints over a graticule, nothing loaded from anywhere."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from cloudjob.logs import many
from cloudjob.report.overview import Row

WIDTH = 640
LOWEST, HIGHEST = 150, 420
"""Of the drawing's height; its unit is about a CSS pixel."""

LETTER = 16, 26
"""Width and height of a letter in a narrow window, where they are largest: degrees that have not this room are left
out."""

NAMED = 12
"""Up to so many tiles are named in the drawing, where no other name stands in the way. The others tell their names when
pointed at, as windows of no tile do, whose names are longer than they are wide."""

_STEPS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 45, 90)


def where(rows: Sequence[Row], footprints: Mapping[str, dict[str, Any]]) -> Markup:
    """Draw the largest footprint of every group, in plate carrée (degrees, narrowed by the middle latitude).

    Args:
        rows: scenes that are done.
        footprints: scene id → GeoJSON, longitude and latitude.

    Returns:
        An <svg> element without colours of its own: classes `tile` and `axis`. Nothing where no footprint is known.
    """
    largest: dict[tuple[str, str], BaseGeometry] = {}
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        area, key = shape(footprints[row.id]), (row.tile, row.group)
        counts[key] = counts.get(key, 0) + 1
        if not area.is_empty and (key not in largest or area.area > largest[key].area):
            largest[key] = area
    if not largest:
        return Markup()
    west, south, east, north = _bounds([area.bounds for area in largest.values()])
    squeeze = max(math.cos(math.radians((south + north) / 2)), 0.1)
    scale = min(WIDTH / ((east - west) * squeeze), HIGHEST / (north - south))
    height = max(LOWEST, math.ceil((north - south) * scale))
    left, top = WIDTH / 2 - (east - west) * squeeze * scale / 2, height / 2 - (north - south) * scale / 2

    def place(longitude: float, latitude: float) -> tuple[float, float]:
        x = left + ((longitude - west) % 360 if longitude < west else longitude - west) * squeeze * scale
        return round(x, 1), round(top + (north - latitude) * scale, 1)

    parts, named = [_graticule(west, south, east, north, place, height)], list[tuple[float, float, float]]()
    for (tile, group), area in sorted(largest.items()):
        told = f"{tile}: {many(counts[tile, group], 'scene')}"
        parts.append(Markup('<path class="tile" d="{}"><title>{}</title></path>').format(_outline(area, place), told))
        if len(largest) <= NAMED and "_" not in tile:
            x, y = _beside(area, tile, place, height)
            half = LETTER[0] * len(tile) / 2
            if all(abs(x - at[0]) > half + at[2] or abs(y - at[1]) > LETTER[1] for at in named):
                named.append((x, y, half))
                parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, y, tile))
    label = f"Map of {many(len(largest), 'tile')}, {many(sum(counts.values()), 'scene')}"
    drawn = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return drawn.format(WIDTH, height, label, Markup().join(parts))


def _beside(area: BaseGeometry, name: str, place: Any, height: int) -> tuple[float, float]:
    """Where a name stands: on its tile, or below one that it would hide; above it where degrees stand below."""
    west, south, east, north = area.bounds
    x, y = place(area.centroid.x, area.centroid.y)
    large = place(east, south)[0] - place(west, south)[0] > LETTER[0] * len(name)
    below = place(west, south)[1] + LETTER[1] - 4
    if large:
        return x, y + 4
    return x, below if below < height - LETTER[1] - 4 else place(west, north)[1] - 4


def _bounds(boxes: Sequence[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    """West, south, east and north of all with some ground around; east is above 180 where they lie across it."""
    wests, easts = [box[0] for box in boxes], [box[2] for box in boxes]
    if max(easts) - min(wests) > 180 and all(box[2] - box[0] < 180 for box in boxes):
        wests, easts = ([at + 360 if at < 0 else at for at in side] for side in (wests, easts))
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    margin = max(max(easts) - min(wests), north - south, 1) / 8
    return min(wests) - margin, max(south - margin, -90), max(easts) + margin, min(north + margin, 90)


def _outline(area: BaseGeometry, place: Any) -> str:
    polygons = [part for part in getattr(area, "geoms", [area]) if part.geom_type == "Polygon"]
    rings = [part.simplify(0.01).exterior.coords for part in polygons]
    return "".join("M" + "L".join(f"{x} {y}" for x, y in (place(*point[:2]) for point in ring)) + "z" for ring in rings)


def _graticule(west: float, south: float, east: float, north: float, place: Any, height: int) -> Markup:
    step = next((step for step in _STEPS if max(east - west, north - south) / step <= 8), _STEPS[-1])
    meridians = [number * step for number in range(math.ceil(west / step), math.floor(east / step) + 1)]
    parallels = [number * step for number in range(math.ceil(south / step), math.floor(north / step) + 1)]
    across = [place(west, at)[1] for at in parallels]
    down = [place(at, north)[0] for at in meridians]
    lines = "".join([*(f"M0 {y}H{WIDTH}" for y in across), *(f"M{x} 0V{height}" for x in down)])
    texts, right, low = [], 0.0, height - LETTER[1]
    for x, at in zip(down, meridians, strict=True):
        told = _degrees(at, "E", "W")
        if right <= x <= WIDTH - LETTER[0] * len(told):
            right = x + LETTER[0] * len(told)
            texts.append(Markup('<text x="{}" y="{}">{}</text>').format(x + 3, height - 4, told))
    for y, at in zip(across, parallels, strict=True):
        if LETTER[1] <= y <= low:
            low = y - LETTER[1]
            texts.append(Markup('<text x="3" y="{}">{}</text>').format(y - 3, _degrees(at, "N", "S")))
    return Markup('<path class="axis" d="{}"/>').format(lines) + Markup().join(texts)


def _degrees(at: float, plus: str, minus: str) -> str:
    at = at - 360 if at > 180 else at
    return f"{abs(at):g}° {plus if at > 0 else minus}" if at else "0°"
