"""Where to look: a bounding box or a GeoJSON file as a shapely geometry in longitude, latitude (EPSG:4326)."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely
from shapely import MultiPolygon, Polygon, box
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from cloudjob.errors import ContractError, UsageError

_ORDER = "the order is WEST SOUTH EAST NORTH in degrees, such as --bbox 11.2 46.4 11.4 46.6"
# What RFC 7946 means by default, and the names older files give it in a `crs` member.
_LON_LAT = ("CRS84", "EPSG::4326", "EPSG:4326")
# What shapely raises on a GeoJSON object that is none.
_NO_GEOJSON = (ShapelyError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def parse_bbox(west: float, south: float, east: float, north: float) -> Polygon | MultiPolygon:
    """Make a geometry of `--bbox`, in degrees.

    A west that lies east of the east crosses the antimeridian, as in RFC 7946 (5.2), and becomes two boxes; but only
    where that makes it narrower than 180°, because otherwise somebody has swapped the two.

    Raises:
        UsageError: if a number is not finite or out of range, or the box is empty or the wrong way round.
    """
    numbers = (west, south, east, north)
    named = "bbox " + " ".join(f"{number:g}" for number in numbers)
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"{named} has a number that is not finite", hint=_ORDER)
    if not (_fits(west, 180) and _fits(east, 180) and _fits(south, 90) and _fits(north, 90)):
        swapped = _fits(west, 90) and _fits(east, 90) and _fits(south, 180) and _fits(north, 180)
        hint = f"are latitude and longitude swapped? Try --bbox {south:g} {west:g} {north:g} {east:g}"
        raise UsageError(
            f"{named} is out of range (longitude −180 to 180, latitude −90 to 90)", hint=hint if swapped else _ORDER
        )
    wraps = west > east and east + 360 - west < 180
    if south > north or (west > east and not wraps):
        left, right = (west, east) if wraps else sorted((west, east))
        hint = f"try --bbox {left:g} {min(south, north):g} {right:g} {max(south, north):g}"
        raise UsageError(f"{named} is the wrong way round", hint=hint)
    spans = [(west, 180.0), (-180.0, east)] if wraps else [(west, east)]
    boxes = [box(left, south, right, north) for left, right in spans if left < right and south < north]
    if not boxes:
        raise UsageError(f"{named} is empty", hint=_ORDER)
    return boxes[0] if len(boxes) == 1 else MultiPolygon(boxes)


def read_geometry(path: str | Path) -> Polygon | MultiPolygon:
    """Read `--geometry`: the polygons of a GeoJSON Geometry, Feature or FeatureCollection, as one geometry.

    Raises:
        UsageError: if the file cannot be read, is not GeoJSON, or holds anything but sound polygons in degrees.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"geometry {str(path)!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"geometry {str(path)!r} is not GeoJSON: {error}") from None
    try:
        return _polygons(document)
    except UsageError as error:
        raise UsageError(f"geometry {str(path)!r} {error}", hint=error.hint) from None


def footprint(item: dict[str, Any]) -> BaseGeometry:
    """Return a STAC item's geometry, mended where it is invalid; empty where the item has none.

    Raises:
        ContractError: if the geometry is no GeoJSON.
    """
    geometry = item.get("geometry")
    if geometry is None:
        return Polygon()
    try:
        return shapely.make_valid(shape(geometry))
    except _NO_GEOJSON as error:
        raise ContractError(f"item {item.get('id')!r} has a geometry that is no GeoJSON: {error}") from None


def _fits(number: float, most: float) -> bool:
    return -most <= number <= most


def _polygons(document: Any) -> Polygon | MultiPolygon:
    """Return the union of all polygons in a GeoJSON document."""
    if isinstance(document, dict) and not _is_lon_lat(document.get("crs")):
        raise UsageError("has a `crs` other than longitude, latitude", hint="convert it to EPSG:4326")
    parts = list(_geometries(document))
    for part in parts:
        if not part.is_valid:
            raise UsageError(f"is not a valid polygon: {shapely.is_valid_reason(part)}")
    union = shapely.union_all(parts)
    if union.is_empty or union.area == 0:
        raise UsageError("holds no polygon")
    west, south, east, north = union.bounds
    if not (_fits(west, 180) and _fits(east, 180) and _fits(south, 90) and _fits(north, 90)):
        raise UsageError(
            f"reaches from {west:g}, {south:g} to {east:g}, {north:g}: those are not longitude and latitude",
            hint="convert it to EPSG:4326; split it where it crosses the antimeridian (RFC 7946, 3.1.9)",
        )
    assert isinstance(union, Polygon | MultiPolygon)
    return union


def _is_lon_lat(crs: Any) -> bool:
    return crs is None or any(name in json.dumps(crs) for name in _LON_LAT)


def _geometries(node: Any) -> Iterator[BaseGeometry]:
    """Yield every polygon below a GeoJSON object."""
    kind = node.get("type") if isinstance(node, dict) else None
    if kind in ("Polygon", "MultiPolygon"):
        try:
            yield shapely.force_2d(shape(node))
        except _NO_GEOJSON as error:
            raise UsageError(f"has a {kind} that cannot be read: {error}") from None
    elif kind == "Feature":
        yield from _geometries(node.get("geometry"))
    elif kind in ("FeatureCollection", "GeometryCollection"):
        members = node.get("features" if kind == "FeatureCollection" else "geometries")
        for member in members if isinstance(members, list) else [members]:
            yield from _geometries(member)
    else:
        raise UsageError(f"holds {kind or type(node).__name__}, not a polygon", hint="only areas can be searched")
