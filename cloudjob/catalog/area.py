"""Where to look: a bounding box or a GeoJSON file as a shapely geometry in longitude, latitude (EPSG:4326)."""

import json
import logging
import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import shapely
from shapely import MultiPolygon, Polygon, box
from shapely.affinity import translate
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from cloudjob.catalog.values import UnreadableError, numbers, shown
from cloudjob.errors import ContractError, UsageError

log = logging.getLogger(__name__)

_ORDER = "the order is WEST SOUTH EAST NORTH in degrees, such as --bbox 11.2 46.4 11.4 46.6"
# What RFC 7946 means by default, and the names older files give it in a `crs` member.
_LON_LAT = ("CRS84", "EPSG::4326", "EPSG:4326")
MAX_CORNERS = 10_000
"""Of an item's footprint; the most detailed ones of real catalogs have some hundreds."""
_FEW_CORNERS = 200

# What shapely raises on a GeoJSON object that is none.
_NO_GEOJSON = (ShapelyError, AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def parse_bbox(west: float, south: float, east: float, north: float) -> Polygon | MultiPolygon:
    """Make a geometry of `--bbox`, in degrees.

    A west that lies east of the east crosses the antimeridian, as in RFC 7946 (5.2), and becomes two boxes; but only
    where that makes it narrower than 180°, because otherwise somebody has swapped the two.

    Raises:
        UsageError: if a number is not finite or out of range, or the box is empty or the wrong way round.
    """
    sides = (west, south, east, north)
    named = f"bbox {_told(*sides)}"
    if not all(map(math.isfinite, sides)):
        raise UsageError(f"{named} has a number that is not finite", hint=_ORDER)
    if not (_fits(west, 180) and _fits(east, 180) and _fits(south, 90) and _fits(north, 90)):
        swapped = _fits(west, 90) and _fits(east, 90) and _fits(south, 180) and _fits(north, 180)
        hint = f"are latitude and longitude swapped? Try --bbox {_told(south, west, north, east)}"
        raise UsageError(
            f"{named} is out of range (longitude −180 to 180, latitude −90 to 90)", hint=hint if swapped else _ORDER
        )
    wraps = west > east and east + 360 - west < 180
    if south > north or (west > east and not wraps):
        left, right = (west, east) if wraps else sorted((west, east))
        hint = f"try --bbox {_told(left, min(south, north), right, max(south, north))}"
        raise UsageError(f"{named} is the wrong way round", hint=hint)
    spans = [(west, 180.0), (-180.0, east)] if wraps else [(west, east)]
    boxes = [box(left, south, right, north) for left, right in spans if left < right and south < north]
    if not boxes:
        raise UsageError(f"{named} is empty", hint=_ORDER)
    return boxes[0] if len(boxes) == 1 else MultiPolygon(boxes)


def read_geometry(source: str | Path | Mapping[str, Any]) -> Polygon | MultiPolygon:
    """Read `--geometry`: the polygons of a GeoJSON Geometry, Feature or FeatureCollection, as one geometry.

    Features without a geometry are left out, with a warning.

    Args:
        source: a file, or what such a file holds.

    Raises:
        UsageError: if the file cannot be read, is not GeoJSON, or holds anything but sound polygons in degrees.
    """
    name, document = "geometry", source
    if not isinstance(source, Mapping):
        name = f"geometry {str(source)!r}"
        document = _json(Path(source), name)
    try:
        return _polygons(document, name)
    except RecursionError:
        raise UsageError(f"{name} is nested too deeply") from None
    except UsageError as error:
        raise UsageError(f"{name} {error}", hint=error.hint) from None


def read_footprint(geometry: Any, bbox: Any) -> tuple[BaseGeometry, bool]:
    """Read where an item of unknown hands lies, whatever it says there, and in bounded time.

    Args:
        geometry: of the item; GeoJSON in longitude, latitude.
        bbox: of the item, for one that has no geometry.

    Returns:
        The footprint between longitudes −180 and 180, in two parts where it crosses the antimeridian, mended where it
        is invalid and simplified where it has very many corners; and whether the geometry needed no mending.

    Raises:
        UnreadableError: it says of no area where it lies.
    """
    if geometry is None and bbox is not None:
        return _read_bbox(bbox), False
    if geometry is None:
        raise UnreadableError("it has no geometry: nobody can tell whether it lies in the area asked for")
    corners = _count(geometry, MAX_CORNERS)
    if corners > MAX_CORNERS:
        raise UnreadableError(f"its geometry has more than {MAX_CORNERS} corners")
    try:
        given = shape(geometry)
        west, south, east, north = given.bounds
    except _NO_GEOJSON as error:
        raise UnreadableError(f"its geometry is no GeoJSON: {shown(str(error))}") from None
    if not (_fits(west, 360) and _fits(east, 360) and _fits(south, 90) and _fits(north, 90)):
        raise UnreadableError(
            f"its geometry reaches from {west:g}, {south:g} to {east:g}, {north:g}: expected longitude and latitude"
        )
    turned = _turned(given)
    mended = _mended(turned)
    if mended.area == 0:
        raise UnreadableError("its geometry covers no area")
    return _cut(mended), mended is turned


def footprint(item: dict[str, Any]) -> BaseGeometry:
    """Return the footprint of an item that `item.parse` has read, or that we wrote; empty where it has none.

    Raises:
        ContractError: if the geometry is no GeoJSON.
    """
    if item.get("geometry") is None:
        return Polygon()
    try:
        return read_footprint(item["geometry"], None)[0]
    except UnreadableError as error:
        raise ContractError(f"item {item.get('id')!r}: {error}") from None


def _turned(given: BaseGeometry) -> BaseGeometry:
    """A footprint whose parts go on beyond 180 where they go from 179 to −179 by way of 0, as some catalogs write it.

    As with `--bbox`, only where that makes a part narrower than 180°.
    """
    parts = list(getattr(given, "geoms", [given]))
    turned = [_eastward(part) for part in parts]
    if all(each is part for each, part in zip(turned, parts, strict=True)):
        return given
    return turned[0] if len(turned) == 1 else shapely.GeometryCollection(turned)


def _eastward(part: BaseGeometry) -> BaseGeometry:
    if _width(part) <= 180:
        return part
    turned = shapely.transform(part, lambda points: points + (points[:, :1] < 0) * [360, 0])
    return turned if 0 < _width(turned) < 180 else part


def _width(area: BaseGeometry) -> float:
    west, _, east, _ = area.bounds
    return float(east - west)


def _cut(area: BaseGeometry) -> BaseGeometry:
    """A footprint cut at the antimeridian, what lies beyond it moved to the other side (RFC 7946, 3.1.9)."""
    west, _, east, _ = area.bounds
    if west >= -180 and east <= 180:
        return area
    parts = []
    for turn in (-360, 0, 360):
        inside = area.intersection(box(turn - 180, -90, turn + 180, 90))
        if inside.area > 0:
            parts.append(translate(inside, -turn))
    return shapely.union_all(parts)


def _mended(given: BaseGeometry) -> BaseGeometry:
    """A valid footprint of few corners. Mending a line that crosses itself everywhere would take minutes."""
    if shapely.get_num_coordinates(given) > _FEW_CORNERS:
        given = given.simplify(0.001)  # 100 m: nothing beside a scene, and tiles are chosen by their own corners
    if given.is_valid:
        return given
    few = shapely.get_num_coordinates(given) <= _FEW_CORNERS
    return shapely.make_valid(given) if few else shapely.convex_hull(given)


def _count(node: Any, most: int) -> int:
    """How many corners a GeoJSON object has, as far as `most`, each of numbers; however deep it is."""
    count, left = 0, [node]
    while left and count <= most:
        each = left.pop()
        if isinstance(each, dict):
            left += [each.get("coordinates"), each.get("geometries")]
        elif isinstance(each, list):
            if each and not isinstance(each[0], list | dict):
                numbers(each, "geometry", (2, 3, 4))
                count += 1
            else:
                left += each
    return count


def _read_bbox(bbox: Any) -> BaseGeometry:
    sides = numbers(bbox, "bbox", (4, 6)) or []
    half = len(sides) // 2
    try:
        return parse_bbox(sides[0], sides[1], sides[half], sides[half + 1])
    except UsageError as error:
        raise UnreadableError(f"it has no geometry, and its {error}") from None


def _told(*sides: float) -> str:
    """Sides as they were typed, to be pasted: six digits would move them by metres."""
    return " ".join(f"{side:.15g}" for side in sides)


def _fits(number: float, most: float) -> bool:
    return -most <= number <= most


def _json(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        hint = "expected a GeoJSON file with polygons; a rectangle is --bbox W S E N"
        raise UsageError(f"{name} cannot be read: {error.strerror}", hint=hint) from None
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() in (".json", ".geojson"):
            raise UsageError(f"{name} is not GeoJSON: {error}") from None
        # None of what we need reads these, and all GIS write GeoJSON
        read = f"/vsizip/{path}" if path.suffix.lower() == ".zip" else str(path)
        hint = f"`ogr2ogr -t_srs EPSG:4326 area.geojson {shlex.quote(read)}` makes it one; so does QGIS"
        raise UsageError(f"{name} is not GeoJSON", hint=hint) from None


def _polygons(document: Any, name: str) -> Polygon | MultiPolygon:
    """Return the union of all polygons in a GeoJSON document."""
    if isinstance(document, Mapping) and not _is_lon_lat(document.get("crs")):
        raise UsageError("has a `crs` other than longitude, latitude", hint="convert it to EPSG:4326")
    found = list(_geometries(document))
    parts = [part for part in found if part is not None]
    if parts and len(parts) < len(found):
        log.warning("%s: features without a geometry are left out: %d", name, len(found) - len(parts))
    for part in parts:
        if not part.is_valid:
            raise UsageError(f"is not a valid polygon: {shapely.is_valid_reason(part)}")
    union = shapely.union_all(parts)
    if union.area == 0:
        raise UsageError("holds no polygon")
    west, south, east, north = union.bounds
    if not (_fits(west, 180) and _fits(east, 180) and _fits(south, 90) and _fits(north, 90)):
        raise UsageError(
            f"reaches from {_told(west, south)} to {_told(east, north)}: those are not longitude and latitude",
            hint="convert it to EPSG:4326; split it where it crosses the antimeridian (RFC 7946, 3.1.9)",
        )
    assert isinstance(union, Polygon | MultiPolygon)
    return union


def _is_lon_lat(crs: Any) -> bool:
    return crs is None or any(name in str(crs) for name in _LON_LAT)


def _geometries(node: Any) -> Iterator[BaseGeometry | None]:
    """Yield every polygon below a GeoJSON object, and None for a feature that has no geometry (RFC 7946, 3.2)."""
    kind = node.get("type") if isinstance(node, Mapping) else None
    if kind in ("Polygon", "MultiPolygon"):
        try:
            yield shapely.force_2d(shape(node))
        except _NO_GEOJSON as error:
            raise UsageError(f"has a {kind} that cannot be read: {error}") from None
    elif kind == "Feature":
        if (geometry := node.get("geometry")) is None:
            yield None
        else:
            yield from _geometries(geometry)
    elif kind in ("FeatureCollection", "GeometryCollection"):
        members = node.get("features" if kind == "FeatureCollection" else "geometries")
        for member in members if isinstance(members, list | tuple) else [members]:
            yield from _geometries(member)
    else:
        raise UsageError(f"holds {kind or type(node).__name__}, not a polygon", hint="only areas can be searched")
