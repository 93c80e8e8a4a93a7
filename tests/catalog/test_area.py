import json
import math

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import MultiPolygon, Point, Polygon, box
from shapely.geometry import mapping

from cloudjob.catalog.area import footprint, parse_bbox, read_geometry
from cloudjob.errors import ContractError, UsageError

SQUARE = mapping(box(11, 46, 12, 47))
FEATURES = [{"type": "Feature", "properties": {}, "geometry": SQUARE}]


def test_a_bbox_is_a_box():
    assert parse_bbox(11.2, 46.4, 11.4, 46.6).equals(box(11.2, 46.4, 11.4, 46.6))


def test_across_the_antimeridian_it_is_two():
    area = parse_bbox(178, -19, -178, -16)
    assert isinstance(area, MultiPolygon)
    assert area.equals(MultiPolygon([box(178, -19, 180, -16), box(-180, -19, -178, -16)]))
    assert parse_bbox(180, -19, -178, -16).equals(box(-180, -19, -178, -16))
    assert parse_bbox(178, -19, -180, -16).equals(box(178, -19, 180, -16))


@pytest.mark.parametrize(
    ("numbers", "says", "hint"),
    [
        ((math.nan, 0, 1, 1), "not finite", "WEST SOUTH EAST NORTH"),
        ((0, 0, math.inf, 1), "not finite", "WEST SOUTH EAST NORTH"),
        ((0, 0, 181, 1), "out of range", "WEST SOUTH EAST NORTH"),
        ((0, -91, 100, 1), "out of range", "WEST SOUTH EAST NORTH"),
        ((51.2, -113.6, 51.4, -113.3), "out of range", "--bbox -113.6 51.2 -113.3 51.4"),
        ((32.95, -2.8, 32.1, -1.9), "wrong way round", "--bbox 32.1 -2.8 32.95 -1.9"),
        ((32.1, -1.9, 32.95, -2.8), "wrong way round", "--bbox 32.1 -2.8 32.95 -1.9"),
        ((32.95, -1.9, 32.1, -2.8), "wrong way round", "--bbox 32.1 -2.8 32.95 -1.9"),
        ((178, -16, -178, -19), "wrong way round", "--bbox 178 -19 -178 -16"),
        ((113.2, 51, 113.1234567, 51.25), "wrong way round", "--bbox 113.1234567 51 113.2 51.25"),
        ((11, 46, 11, 47), "empty", "WEST SOUTH EAST NORTH"),
        ((11, 46, 12, 46), "empty", "WEST SOUTH EAST NORTH"),
        ((180, -19, -180, -16), "empty", "WEST SOUTH EAST NORTH"),
    ],
)
def test_a_bad_bbox_is_named_and_explained(numbers, says, hint):
    with pytest.raises(UsageError, match=says) as caught:
        parse_bbox(*numbers)
    assert str(caught.value).startswith("bbox " + f"{numbers[0]:g} {numbers[1]:g}")
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-200, 200)


@given(numbers, numbers, numbers, numbers)
def test_any_four_numbers_are_an_area_in_range_or_a_usage_error(west, south, east, north):
    try:
        area = parse_bbox(west, south, east, north)
    except UsageError:
        return
    left, bottom, right, top = area.bounds
    assert area.is_valid
    assert area.area > 0 or (right - left) * (top - bottom) == 0  # Subnormal sides
    assert -180 <= left <= right <= 180
    assert -90 <= bottom <= top <= 90


@given(st.floats(-180, 179), st.floats(0.5, 100), st.floats(0.01, 0.99), st.floats(-80, 80))
def test_a_box_and_nothing_else_lies_between_west_and_east_going_east(west, width, share, south):
    east = west + width
    area = parse_bbox(west, south, east - 360 if east > 180 else east, south + 1)

    def inside(longitude):
        return area.covers(Point(longitude - 360 if longitude > 180 else longitude, south + 0.5))

    assert inside(west + share * width)
    assert not inside(east + share * (360 - width))


@given(st.floats(-180, 180), st.floats(-180, 180))
def test_a_swapped_west_and_east_is_never_taken_for_most_of_the_globe(west, east):
    try:
        area = parse_bbox(west, 0, east, 1)
    except UsageError:
        return
    if west > east:
        assert area.area < 180


@pytest.fixture
def geojson(tmp_path):
    def write(document):
        path = tmp_path / "area.geojson"
        path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    "document",
    [
        SQUARE,
        mapping(MultiPolygon([box(11, 46, 12, 47)])),
        {"type": "Feature", "properties": {}, "geometry": SQUARE},
        {
            "type": "FeatureCollection",
            "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
            "features": [
                {"type": "Feature", "geometry": mapping(box(11, 46, 11.6, 47))},
                {"type": "Feature", "geometry": mapping(box(11.5, 46, 12, 47))},
            ],
        },
        {"type": "GeometryCollection", "geometries": [SQUARE]},
        {"type": "FeatureCollection", "features": [*FEATURES, {"type": "Feature", "geometry": None}]},
        {"type": "Polygon", "coordinates": [[[11, 46, 5], [12, 46, 5], [12, 47, 5], [11, 47, 5], [11, 46, 5]]]},
    ],
)
def test_every_kind_of_geojson_with_polygons(geojson, document):
    area = read_geometry(geojson(document))
    assert area.equals(box(11, 46, 12, 47))
    assert not shapely.has_z(area)


def test_holes_and_separate_parts_stay(geojson):
    ring = box(0, 0, 4, 4).difference(box(1, 1, 2, 2))
    parts = {"type": "GeometryCollection", "geometries": [mapping(ring), mapping(box(10, 10, 11, 11))]}
    assert read_geometry(geojson(parts)).area == 16


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("not json", "is not GeoJSON"),
        ("[1, 2]", "holds list"),
        ("null", "holds NoneType"),
        ({"type": "Point", "coordinates": [11, 46]}, "holds Point"),
        ({"type": "Feature", "geometry": None}, "holds no polygon"),
        ({"type": "FeatureCollection", "features": [None]}, "holds NoneType"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "FeatureCollection"}, "holds NoneType"),
        ({"type": "FeatureCollection", "features": {"type": "Point"}}, "holds Point"),
        ({"type": "Polygon"}, "cannot be read"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "cannot be read"),
        ({"type": "Polygon", "coordinates": "abc"}, "cannot be read"),
        ({"type": "Polygon", "coordinates": []}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [10**400, 0], [1, 1], [0, 0]]]}, "cannot be read"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}, "Self-intersection"),
        (mapping(box(600000, 5000000, 610000, 5010000)), "not longitude and latitude"),
        (mapping(box(178, -19, 182, -16)), "not longitude and latitude"),
        ({**SQUARE, "crs": {"type": "name", "properties": {"name": "EPSG:32632"}}}, "`crs` other than"),
    ],
)
def test_a_bad_geometry_is_named_and_explained(geojson, document, says):
    path = geojson(document)
    with pytest.raises(UsageError, match=says) as caught:
        read_geometry(path)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "area.json").write_text(json.dumps(SQUARE), encoding="utf-8-sig")
    assert read_geometry(tmp_path / "area.json").equals(box(11, 46, 12, 47))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_geometry(tmp_path / "missing.geojson")
    with pytest.raises(UsageError, match="Is a directory"):
        read_geometry(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not GeoJSON"):
        read_geometry(tmp_path / "binary")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("area.kml", "ogr2ogr -t_srs EPSG:4326 area.geojson {}"),
        ("my area.GPKG", "ogr2ogr -t_srs EPSG:4326 area.geojson '{}'"),
        ("area.zip", "ogr2ogr -t_srs EPSG:4326 area.geojson /vsizip/{}"),
    ],
)
def test_what_a_gis_writes_beside_geojson_is_told_how_to_become_it(tmp_path, name, command):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04\xdb")
    with pytest.raises(UsageError) as caught:
        read_geometry(path)
    assert str(caught.value) == f"geometry {str(path)!r} is not GeoJSON"
    assert f"`{command.format(path)}`" in caught.value.hint


def test_features_without_a_geometry_are_warned_of(geojson, caplog):
    read_geometry(geojson({"type": "FeatureCollection", "features": [*FEATURES, {"type": "Feature"}]}))
    assert "features without a geometry are left out: 1" in caplog.text


def test_a_footprint_is_mended_or_empty_or_an_error():
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}
    assert footprint({"geometry": bow_tie}).area == pytest.approx(2)
    assert footprint({"geometry": None}).is_empty
    assert footprint({"geometry": SQUARE}).equals(Polygon(SQUARE["coordinates"][0]))
    with pytest.raises(ContractError, match="item 'A': its geometry is no GeoJSON"):
        footprint({"id": "A", "geometry": {"type": "Square"}})
