"""Items as any catalog may answer them: typed and bounded, or refused alone and by name."""

import copy
import json
import time

import pytest
import scenes as written
from shapely import box
from shapely.geometry import mapping

from cloudjob.catalog import bands, presets, signing
from cloudjob.catalog.area import parse_bbox
from cloudjob.catalog.dates import parse_dates
from cloudjob.catalog.item import RefusedError, named, parse
from cloudjob.catalog.presets import catalog_for
from cloudjob.catalog.search import search
from cloudjob.errors import SceneError
from cloudjob.scene.describe import describe

ALWAYS = parse_dates("1970/..", None)
WORLD = parse_bbox(-180, -85, 180, 85)
WANTED = {band: band for band in ("red", "green", "blue", "nir", "scl")}
FOUR = ("red", "green", "blue", "nir")


def make_item(name="GOOD", **properties):
    asset = {"proj:shape": [10980, 10980], "proj:transform": [10, 0, 300_000, 0, -10, 5_500_020]}
    return {
        "type": "Feature",
        "id": name,
        "collection": "c",
        "geometry": json.loads(json.dumps(mapping(box(12.2, 48.6, 13.6, 49.6)))),
        "properties": {"datetime": "2024-06-01T10:10:00Z", "proj:epsg": 32633, **properties},
        "links": [],
        "assets": {key: {"href": f"https://h/{key}.tif", **copy.deepcopy(asset)} for key in FOUR},
    }


def change(item, path, value):
    """Put a value somewhere into a copy of an item; `...` takes it away."""
    changed = copy.deepcopy(item)
    node, (*way, last) = changed, path
    for step in way:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return changed


def scenes(tmp_path, *items, **named):
    """What a search of a file of them describes, and why others are refused; with assets of bands that are named."""
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    catalog = catalog_for(str(path), assets=named)
    described, refused = [], {}
    for item in search(catalog, WORLD, ALWAYS):
        try:
            described.append(describe(item, catalog.assets, FOUR, 10))
        except SceneError as error:
            refused[item["id"]] = str(error)
    return described, refused


WRONG = {
    "band without href": (("assets", "red"), {"type": "image/tiff"}),
    "href of a number": (("assets", "red", "href"), 7),
    "href of nothing": (("assets", "red", "href"), None),
    "href of no IPv6": (("assets", "red", "href"), "https://[::x/red.tif"),
    "href of no port": (("assets", "red", "href"), "https://h:99999999/red.tif"),
    "asset of a string": (("assets", "red"), "red.tif"),
    "assets in a list": (("assets",), []),
    "very many assets": (("assets",), {str(n): {"href": "a"} for n in range(501)}),
    "a very long key": (("assets", "a-" * 5000), {"href": "a"}),
    "properties of a string": (("properties",), "x"),
    "time of a number": (("properties", "datetime"), 20240601),
    "time beyond the calendar": (("properties", "datetime"), "9999-12-31T23:59:59-23:00"),
    "time before the calendar": (("properties", "datetime"), "0001-01-01T00:00:00+23:00"),
    "no time": (("properties", "datetime"), None),
    "version in a list": (("properties", "s2:processing_baseline"), ["05.10"]),
    "platform of a list": (("properties", "platform"), ["sentinel-2a"]),
    "datastrip of a number that is none": (("properties", "s2:datastrip_id"), {}),
    "shape of a string": (("assets", "red", "proj:shape"), "10980"),
    "shape of strings": (("assets", "red", "proj:shape"), ["a", "b"]),
    "a thousand million a side": (("assets", "red", "proj:shape"), [10**9, 10**9]),
    "a line": (("assets", "red", "proj:shape"), [1, 10**9]),
    "a negative shape": (("assets", "red", "proj:shape"), [-5, 5]),
    "half a transform": (("assets", "red", "proj:transform"), [10, 0, 3]),
    "transform of NaN": (("assets", "red", "proj:transform"), [10, 0, float("nan"), 0, -10, 0]),
    "transform of infinity": (("assets", "red", "proj:transform"), [10, 0, float("inf"), 0, -10, 0]),
    "transform off the Earth": (("assets", "red", "proj:transform"), [10, 0, 1e11, 0, -10, 1e11]),
    "no projection": (("properties", "proj:epsg"), 999_998),
    "a projection without a way back": (("properties", "proj:epsg"), 2297),
    "a projection that PROJ cannot do": (("properties", "proj:epsg"), 2303),
    "projection of a list": (("properties", "proj:epsg"), [32633]),
    "very many digits": (("properties", "proj:epsg"), 10**4000),
    "scale of NaN": (("assets", "red", "raster:bands"), [{"scale": float("nan")}]),
    "scale of NaN in letters": (("assets", "red", "raster:bands"), [{"scale": "nan"}]),
    "scale of words": (("assets", "red", "raster:bands"), [{"scale": "a ten-thousandth"}]),
    "bands of a number": (("assets", "red", "raster:bands"), 7),
    "other numbers": (("assets", "red", "data_type"), "float64"),
    "geometry of a string": (("geometry",), "Polygon"),
    "geometry of NaN": (("geometry", "coordinates"), [[[float("nan"), 1], [2, 3], [4, 5], [float("nan"), 1]]]),
    "geometry in metres": (("geometry",), mapping(box(300_000, 5_000_000, 400_000, 5_100_000))),
    "geometry of a point": (("geometry",), {"type": "Point", "coordinates": [12, 48]}),
    "very many corners": (("geometry", "coordinates"), [[[n % 360 / 2, n % 90] for n in range(20_000)]]),
    "nowhere": (("geometry",), None),
    "collection of a list": (("collection",), ["c"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_item_is_refused_alone(case, tmp_path):
    described, refused = scenes(tmp_path, make_item("GOOD"), change(make_item("ODD"), *WRONG[case]), make_item("SAFE"))
    assert [scene.id for scene in described] == ["GOOD", "SAFE"]
    assert list(refused) == ["ODD"]
    assert refused["ODD"].startswith("scene ODD")
    json.dumps(described[0].item, allow_nan=False)


@pytest.mark.parametrize("asset", [None, {"type": "image/tiff"}, {"href": None, "roles": ["thumbnail"]}])
def test_an_asset_that_lies_nowhere_is_not_there(asset, tmp_path):
    """GeoParquet and pgstac give items the assets that others of their collection have: no such scene was masked."""
    described, refused = scenes(tmp_path, change(make_item("A"), ("assets", "thermal"), asset))
    assert ([scene.id for scene in described], refused) == (["A"], {})


@pytest.mark.parametrize(
    "asset", [{"href": "data:image/png;base64," + "x" * 9000}, {"href": 7}, "a.png", {"href": "\n"}]
)
def test_an_asset_that_nobody_reads_costs_nothing_whatever_its_address(asset, tmp_path):
    """A thumbnail in its own address, of 4000 letters and more, cost the item."""
    odd = change(make_item("A"), ("assets", "thumbnail"), asset)
    described, refused = scenes(tmp_path, odd)
    assert ([scene.id for scene in described], refused) == (["A"], {})
    without = change(odd, ("assets", "red"), ...)
    assert "no asset red; it has blue, green, nir" in scenes(tmp_path, without)[1]["A"]


def test_an_optional_band_that_cannot_be_read_says_why_once_more_and_no_secret():
    wanted = {**WANTED, "swir16": "swir16"}
    item = change(make_item(), ("assets", "swir16"), {"href": "https://[h/a.tif?sig=SECRET"})
    once = parse(item, wanted).item
    assert once["assets"]["swir16"]["refused"].startswith("an asset lies at")
    assert "SECRET" not in json.dumps(once)
    assert parse(json.loads(json.dumps(once)), wanted).item == once


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "云" * 28, "", 7, None, ["a"], "a\x1b[31mred\x07", "half\ud800", "two\nlines", "\u202etxt", {"a": 1}],
)
def test_an_id_that_cannot_be_one_is_named_otherwise(name, tmp_path):
    described, refused = scenes(tmp_path, make_item("GOOD"), make_item(name), make_item(name, platform="other"))
    assert [scene.id for scene in described] == ["GOOD"]
    (told,) = refused
    assert told.isprintable()
    assert len(told.encode()) < 100
    assert refused[told].isprintable()
    assert named({"id": "x" * 300}) != named({"id": "x" * 301})


@pytest.mark.parametrize("raw", [7, None, "item", [], {}, {"id": "A"}, {"id": "A", "properties": {}, "assets": {}}])
def test_what_is_no_item_is_refused_alone(raw, tmp_path):
    described, refused = scenes(tmp_path, make_item("GOOD"), raw)
    assert [scene.id for scene in described] == ["GOOD"]
    assert len(refused) == 1


def test_numbers_written_as_text_are_numbers(tmp_path):
    """A scale of "0.0001" cost its item."""
    item = make_item("A", **{"proj:epsg": "32633"})
    grid = {"proj:shape": ["10980", 10980.0], "proj:transform": ["10", "0", "300000", "0", "-10", "5500020.0"]}
    for asset in item["assets"].values():
        asset |= {**grid, "raster:bands": [{"scale": "0.0001", "offset": "-0.1", "nodata": "0"}]}
    (scene,), refused = scenes(tmp_path, item)
    (known,), _ = scenes(tmp_path, make_item("A"))
    assert scene.grid == known.grid, refused
    assert {(band.scale, band.offset) for band in scene.bands} == {(0.0001, -0.1)}


def test_nests_without_end_are_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for path in (("geometry", "coordinates"), ("id",), ("properties", "datetime"), ("assets", "red")):
        with pytest.raises(RefusedError):
            parse(change(make_item(), path, deep), WANTED)


def test_reading_it_again_changes_nothing():
    item = make_item(**{"eo:cloud_cover": "12.5", "eopf:datastrip_id": "S2A_S20240601T100600"}, updated="2024")
    item["assets"]["red"] |= {"bands": [{"name": "B04", "eo:common_name": "red"}], "raster:bands": [{"nodata": -999}]}
    item["links"] = [{"rel": "self", "href": "https://h/items/A?token=SECRET"}]
    item["assets"]["scl"] = {"href": "https://h/\x01?sig=SECRET"}
    once = parse(item, WANTED).item
    assert "which is no address" in once["assets"]["scl"]["refused"]
    assert parse(json.loads(json.dumps(once)), WANTED).item == once
    assert "SECRET" not in json.dumps(once)


def test_bands_that_lie_in_one_file_are_told(tmp_path):
    """As results of openEO do; the hint was to name KEY, and that failed later."""
    item = make_item()
    told = [{"name": band, "eo:common_name": band} for band in FOUR]
    item["assets"] = {
        "openEO.tif": {**item["assets"]["red"], "bands": told},
        "visual": {"href": "https://h/visual.tif"},
    }
    with pytest.raises(SceneError, match=r"has no asset red, green, blue, nir; it has openEO\.tif") as caught:
        describe(item, WANTED, FOUR, 10)
    assert caught.value.hint == "openEO.tif holds several bands; expected a file for each: export them one by one"


def test_what_only_informs_costs_nothing():
    for value, told in (("12.5", 12.5), (3, 3.0), ("many", None), (float("nan"), None), ([], None), (101, None)):
        found = parse(make_item(**{"eo:cloud_cover": value}), WANTED).item["properties"].get("eo:cloud_cover")
        assert found == told
    for title in ("two\nlines", "x" * 1000, 7, {}):
        assert parse(make_item(title=title), WANTED).item["properties"].get("title") is None
    for constellation in (["sentinel-2"], "x" * 1000, {}):
        assert parse(make_item(constellation=constellation), WANTED).keys.keys() == set(FOUR)


@pytest.mark.parametrize(("said", "meant"), [(True, True), ("true", True), ("False", False), (1, None), ("no", None)])
def test_a_flag_may_be_written_as_text(said, meant):
    found = parse(make_item(**{"earthsearch:boa_offset_applied": said}), WANTED).item["properties"]
    assert found.get("earthsearch:boa_offset_applied") is meant


@pytest.mark.parametrize(
    ("told", "first", "last"),
    [
        ({"datetime": "2024-06-01t10:10:00z"}, "2024-06-01T10:10", "2024-06-01T10:10"),
        ({"datetime": "2024-06-01 12:10:00+02:00"}, "2024-06-01T10:10", "2024-06-01T10:10"),
        ({"datetime": "2016-12-31T23:59:60.5Z"}, "2016-12-31T23:59:59.5", "2016-12-31T23:59:59.5"),
        ({"datetime": None, "start_datetime": "2016-01-01T00:00:00Z"}, "2016-01-01T00:00", "2016-01-01T00:00"),
        ({"datetime": None, "start_datetime": "2016-01-01", "end_datetime": "2017-01-01"}, "2016-01", "2017-01"),
    ],
)
def test_times(told, first, last):
    begins, ends = parse(make_item(**told), WANTED).times
    assert begins.isoformat().startswith(first)
    assert ends.isoformat().startswith(last)


def test_an_item_that_ends_before_it_begins_is_refused(tmp_path):
    """It lay in no interval that anybody asked for, and nothing was said."""
    odd = make_item("ODD", datetime=None, start_datetime="2025-01-01T00:00:00Z", end_datetime="2023-01-01T00:00:00Z")
    found, refused = scenes(tmp_path, make_item("GOOD"), odd)
    assert [scene.id for scene in found] == ["GOOD"]
    assert "it ends before it begins: 2023-01-01" in refused["ODD"]


def test_nulls_in_an_asset_do_not_hide_the_items_value(tmp_path):
    odd = make_item("NULLS")
    for asset in odd["assets"].values():
        asset |= {"proj:epsg": None, "proj:code": None}
    (scene,), refused = scenes(tmp_path, odd)
    assert (scene.grid.epsg, refused) == (32633, {})


def test_numbers_told_by_two_versions_of_stac_are_those_of_the_newer_one(tmp_path):
    """Items that were made 1.1 of 1.0 may have both; what an asset itself says goes before its band."""
    both = make_item("BOTH")
    for asset in both["assets"].values():
        asset["raster:bands"] = [{"scale": 0.5, "offset": 0.5, "nodata": 1}]
        asset["bands"] = [{"raster:scale": 0.001, "raster:offset": -0.2, "nodata": 2}]
        asset["nodata"] = 3
    (scene,), refused = scenes(tmp_path, both)
    assert {(band.scale, band.offset, band.nodata) for band in scene.bands} == {(0.001, -0.2, 3)}
    assert not refused


def test_assets_of_null_are_none(tmp_path):
    """Of a table of items (GeoParquet) each has the assets of all."""
    (scene,), refused = scenes(tmp_path, change(make_item(), ("assets", "thermal"), None))
    assert ([band.key for band in scene.bands], refused) == (list(FOUR), {})
    _, refused = scenes(tmp_path, change(make_item("A"), ("assets", "nir"), None))
    assert "no asset nir; it has blue, green, red" in refused["A"]


def test_an_item_without_geometry_lies_in_its_bbox(tmp_path):
    item = {**make_item(), "geometry": None, "bbox": [12.2, 48.6, 13.6, 49.6]}
    (scene,), _ = scenes(tmp_path, item)
    assert scene.item["geometry"]["type"] == "Polygon"
    _, refused = scenes(tmp_path, {**make_item("A"), "geometry": None})
    assert "has no geometry" in refused["A"]


@pytest.mark.parametrize("corners", [300, 3000])
def test_a_footprint_that_crosses_itself_everywhere_takes_no_time(corners, tmp_path):
    began = time.process_time()
    ring = [[12 + (n * 7919 % 1000) / 1000, 48 + (n * 104_729 % 1000) / 1000] for n in range(corners)]
    item = change(make_item(), ("geometry", "coordinates"), [[*ring, ring[0]]])
    (scene,), _ = scenes(tmp_path, item)
    assert time.process_time() - began < 2
    assert len(json.dumps(scene.item["geometry"])) < 20_000


@pytest.mark.parametrize(
    ("base", "href", "whole"),
    [
        ("s3://bucket/stac/A.json", "./red.tif", "s3://bucket/stac/red.tif"),
        ("s3://bucket/stac/A.json", "../red.tif", "s3://bucket/red.tif"),
        ("https://h/items/A?token=SECRET", "red.tif", "https://h/items/red.tif"),
        ("https://h/items/A", "/red.tif", "https://h/red.tif"),
        ("https://h/items/A", "//other/red.tif", "https://other/red.tif"),
    ],
)
def test_hrefs_count_from_where_the_item_lies(base, href, whole):
    item = change(make_item(), ("assets", "red", "href"), href)
    item["links"] = [{"rel": "self", "href": base}]
    assert parse(item, WANTED, base="https://api/v1", remote=True).item["assets"]["red"]["href"] == whole


@pytest.mark.parametrize("href", ["half\ud800.tif", "a\0.tif"])
@pytest.mark.parametrize("base", ["/data/items/x.json", "https://[x/items"])
def test_a_relative_href_that_is_no_path_is_refused_by_name(base, href):
    """Found by the fuzzer: a traceback for a lone surrogate in a file's self link."""
    item = make_item("ODD")
    item["links"] = [{"rel": "self", "href": href}]
    assert parse(item, WANTED, base="/data/items/x.json").item["links"] == []  # It is only to be shown
    item["assets"]["red"]["href"] = href
    with pytest.raises(RefusedError, match=r"ODD.*lies at"):
        parse(item, WANTED, base=base)


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "file:/etc/passwd",
        "/vsicurl/https://h/red.tif",
        "vrt://https://h/x",
        "/vsizip//vsicurl/http://h/a.zip/a.tif",
    ],
)
def test_a_strangers_item_opens_no_file_of_this_machine(href):
    item = change(make_item(), ("assets", "red", "href"), href)
    with pytest.raises(RefusedError, match="expected an address of http, https, s3, gs, az"):
        parse(item, WANTED, base="https://api/v1", remote=True)
    path = parse(change(item, ("assets", "red", "href"), "/etc/passwd"), WANTED, base="https://api/v1/", remote=True)
    assert path.item["assets"]["red"]["href"] == "https://api/etc/passwd"


def test_an_api_that_lists_files_of_this_machine_says_how_they_are_read():
    item = change(make_item(), ("assets", "red", "href"), "file:///data/red.tif")
    with pytest.raises(RefusedError, match="files of this machine are read for items of a file only"):
        parse(item, WANTED, base="https://api/v1", remote=True)
    with pytest.raises(RefusedError, match=r"az$"):
        parse(change(item, ("assets", "red", "href"), "ftp://h/red.tif"), WANTED, base="https://api/v1", remote=True)


@pytest.mark.parametrize("strokes", ["file:", "file://", ""])
def test_a_file_may_be_named_in_every_way(strokes, tmp_path):
    item = written.make_item(tmp_path)
    for asset in item["assets"].values():
        asset["href"] = strokes + asset["href"]
        del asset["proj:shape"]  # the file has to be opened
    (scene,), refused = scenes(tmp_path, item)
    assert (scene.grid.shape, refused) == ((150, 139), {})


def test_a_users_signature_opens_and_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(signing, "_given", {})
    item = make_item("SIGNED")
    for asset in item["assets"].values():
        asset["href"] += "?sig=abc&se=2030"
    (scene,), _ = scenes(tmp_path, item)
    assert scene.bands[0].address == "https://h/red.tif?sig=abc&se=2030"
    assert "abc" not in repr(scene)
    assert "abc" not in json.dumps(scene.item)


# Bands


def named_assets(*assets):
    return {
        key: {"href": f"{key}.tif", "bands": [{"name": key, "eo:common_name": name}], **more}
        for key, name, more in assets
    }


@pytest.mark.parametrize("gsd", [20, 10])
def test_bands_are_found_by_common_name_and_size(gsd):
    """`gsd` may be that of the sensor, of pixels of 20 m, too."""
    assets = named_assets(
        ("B04_20m", "red", {"gsd": gsd}),
        ("B04_10m", "red", {"gsd": 10}),
        ("preview", "red", {"gsd": 10, "roles": ["overview"]}),
        ("B08_10m", "nir", {}),
        ("B8A_20m", "nir08", {}),
        ("SCL_20m", "", {}),
    )
    assets["visual"] = {"href": "v.tif", "bands": [{"eo:common_name": name} for name in ("red", "green", "blue")]}
    assert bands.find(assets, {**WANTED, "green": "G"}) == {"red": "B04_10m", "nir": "B08_10m", "scl": "SCL_20m"}
    assert bands.find(assets, {"red": "B04"}) == {}  # What somebody typed is never taken for something else


def test_a_cog_goes_before_its_jpeg_2000():
    assets = named_assets(
        ("a-jp2", "red", {"type": "image/jp2"}), ("a", "red", {"type": "image/tiff; application=geotiff"})
    )
    assert bands.find(assets, {"red": "red"}) == {"red": "a"}


def test_a_guess_makes_nobody_pay():
    paid = {"type": "image/jp2", "href": "s3://sentinel-s2-l2a/tiles/33/U/UP/2024/6/1/0/R10m/B04.jp2"}
    assets = named_assets(("red-jp2", "red", paid))
    assert bands.find(assets, {"red": "red"}) == {}
    assert bands.find(assets, {"red": "red-jp2"}) == {"red": "red-jp2"}, "what somebody typed is taken"
    assert "--asset red=red-jp2" in str(bands.missing("x", assets, {"red": "red"}).hint)
    assert bands.find({"red": assets["red-jp2"]}, {"red": "red"}) == {"red": "red"}, "the preset's own name, too"


@pytest.mark.parametrize("how", ["bands", "eo:bands", "eo:bands of 1.1", "asset"])
def test_bands_by_name_in_every_version_of_stac(how, tmp_path):
    item = make_item()
    for band, key in zip(FOUR, ("x1", "x2", "x3", "x4"), strict=True):
        asset = item["assets"].pop(band)
        name = "eo:common_name" if how == "bands" else "common_name"
        told = {"eo:common_name": band} if how == "asset" else {how.split()[0]: [{"name": key, name: band}]}
        item["assets"][key] = asset | told
    (scene,), refused = scenes(tmp_path, item)
    assert [band.key for band in scene.bands] == ["x1", "x2", "x3", "x4"], refused


@pytest.mark.parametrize(
    ("key", "told", "says"),
    [
        ("red", {"bands": [{"name": "x", "eo:common_name": "blue"}]}, "taken for red, but its common name that of"),
        ("B02", {"bands": [{"name": "x", "eo:common_name": "red"}]}, "taken for red, but its key that of blue"),
        ("red", {"href": "./T33UUQ_20240601T101559_B02_10m.jp2"}, "taken for red, but its file's name that of blue"),
        ("red", {"href": "https://a.test/S2B/B08.tif?sig=1"}, "taken for red, but its file's name that of nir"),
        ("red", {"href": "https://a.test/S2B/B8A.tif"}, "taken for red, but its file's name that of B8A"),
        # No other band: red of Landsat 5 is B3
        ("red", {"href": "./of_tm_B3.TIF", "bands": [{"name": "B3", "eo:common_name": "red"}]}, ""),
        ("B04", {"href": "./x_B04.tif", "bands": [{"name": "B4", "eo:common_name": "red"}]}, ""),
        ("red", {"bands": [{"name": "x", "eo:common_name": "rededge"}]}, ""),
    ],
)
def test_what_an_item_calls_two_bands_at_once_is_refused(key, told, says, tmp_path):
    """Red and blue that are exchanged in half of what an item says were masked as it came."""
    item = make_item()
    item["assets"][key] = item["assets"].pop("red") | told
    found, refused = scenes(tmp_path, item)
    assert [says in each for each in refused.values()] == [True] * bool(says)
    assert len(found) == (not says)
    (known,), _ = scenes(tmp_path, item, red=key)
    assert known.bands[0].key == key, "what somebody has named is taken, by the band's own name, too"


@pytest.mark.parametrize("told", [{"href": "./T33UUQ_B8A_20m.tif"}, {"bands": [{"name": "B8A"}]}])
def test_the_narrow_near_infrared_by_the_name_of_the_broad_one_is_refused(told, tmp_path):
    """An item that calls it `nir` was masked with it, without a word."""
    item = change(make_item(), ("assets", "nir"), make_item()["assets"]["nir"] | told)
    found, refused = scenes(tmp_path, item)
    assert not found
    assert "taken for nir, but its" in refused["GOOD"]
    assert "(--asset nir=nir takes it all the same)" in refused["GOOD"]
    (known,), _ = scenes(tmp_path, item, nir="nir")
    assert known.bands[3].key == "nir"


def test_a_key_that_a_preset_knows_is_none_that_a_person_named(tmp_path, monkeypatch):
    """What the Planetary Computer calls B04 was masked as red, whatever else its item said of it."""
    keys = dict(zip(FOUR, ("B04", "B03", "B02", "B08"), strict=True))
    item = make_item()
    item["assets"] = {key: item["assets"][band] | {"href": f"./{key}.tif"} for band, key in keys.items()}
    item["assets"]["B04"]["href"] = "./other/B02.tif"
    path = tmp_path / "items.json"
    path.write_text(json.dumps(item))
    monkeypatch.setitem(presets.PRESETS, "planetary-computer", presets.Catalog(str(path), "", keys))
    (one,) = search(catalog_for("planetary-computer"), WORLD, ALWAYS)
    assert "B04 was taken for red, but its file's name that of blue" in one["refused"]
    (one,) = search(catalog_for("planetary-computer", assets={"red": "B04"}), WORLD, ALWAYS)
    assert describe(one, keys, FOUR, 10).bands[0].key == "B04"


@pytest.mark.parametrize("role", ["data-mask", "saturation", "cloud"])
def test_what_is_said_of_a_bands_pixels_is_not_the_band(role, tmp_path):
    """Of two that have its name neither was taken, or the one of the likelier format."""
    item = make_item()
    for band, name in zip(FOUR, ("B04", "B03", "B02", "B08"), strict=True):
        asset = item["assets"].pop(band) | {"eo:bands": [{"name": name, "common_name": band}], "type": None}
        item["assets"] |= {f"{name}_sr": asset, f"{name}_mask": {**asset, "type": "image/tiff", "roles": [role]}}
    (scene,), refused = scenes(tmp_path, item)
    assert [band.key for band in scene.bands] == ["B04_sr", "B03_sr", "B02_sr", "B08_sr"], refused


ESA = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08", "swir16": "B11", "other": "B8A"}


@pytest.mark.parametrize(
    "key",
    [
        "b{}_10m",
        "B{}-10m",
        "{}",
        "T33UWP_20240601T101031_B{}_10m",  # As a SAFE's files
        "openEO_2024-06-01Z_B{}.tif",
        "ch.swisstopo.swisseo_s2-sr_v200_mosaic_2024-06-01t101041_b{}_10m.tif",
    ],
)
def test_bands_are_found_by_esas_names_however_they_are_written(key, tmp_path):
    item = make_item()
    for band, name in ESA.items():
        asset = {**item["assets"].get(band, {"href": "./x.tif"}), "roles": ["data"]}
        item["assets"].pop(band, None)
        named = {} if "b" in key.lower() else {"bands": [{"name": name}]}
        item["assets"][key.format(name.removeprefix("B"))] = {**asset, **named}
    (scene,), refused = scenes(tmp_path, item)
    assert [band.key for band in scene.bands] == [key.format(ESA[band].removeprefix("B")) for band in FOUR], refused


def test_bands_without_a_nought_are_sentinel_2s_only_beside_one_that_is():
    keys = ("B2", "B3", "B4", "B8", "B11")
    assets = named_assets(*((key, "", {}) for key in keys))
    same = {band: band for band in (*FOUR, "swir16")}
    assert bands.find(assets, same) == {}  # Of Landsat 8 the B8 is panchromatic, of Landsat 5 the B4 near infrared
    ours = {"red": "B4", "green": "B3", "blue": "B2", "nir": "B8", "swir16": "B11"}
    assert bands.find({**assets, **named_assets(("B8A", "", {}))}, same) == ours


@pytest.mark.parametrize("other", ["B8A", "B12"])
def test_what_told_a_band_need_not_be_kept(other, tmp_path):
    """A search leaves out the assets that no job reads."""
    item = make_item()
    item["assets"] = {key: item["assets"][band] for band, key in zip(FOUR, ("B4", "B3", "B2", "B8"), strict=True)} | {
        other: {"href": "./x.tif"}
    }
    (scene,), refused = scenes(tmp_path, item)
    assert [band.key for band in scene.bands] == ["B4", "B3", "B2", "B8"], refused


def test_of_several_near_infrareds_the_broad_one_is_taken():
    told = (("B05", "nir"), ("B07", "nir"), ("B08", "nir"), ("B8A", "nir"), ("B04", "RED"))
    assets = named_assets(*((key, name, {}) for key, name in told))
    assert bands.find(assets, {"nir": "nir", "red": "red"}) == {"nir": "B08", "red": "B04"}


def test_the_narrow_near_infrared_is_not_taken_for_the_broad_one():
    """Where an item has no B08 its B8A, of 20 m and of other wavelengths, was read instead without a word."""
    assets = named_assets(("B04", "red", {}), ("B8A", "nir", {}), ("x", "nir", {"bands": [{"name": "B8A"}]}))
    assert bands.find(assets, {"nir": "nir", "red": "red"}) == {"red": "B04"}
    assert bands.find(assets, {"nir": "B8A"}) == {"nir": "B8A"}, "what somebody typed is taken"


def test_what_cannot_be_told_is_asked_for_with_the_flags_to_paste():
    assets = {key: {"href": f"{key}.tif"} for key in ("band_red", "band_nir", "x")}
    error = bands.missing("A", assets, {"red": "red", "nir": "nir", "blue": "blue"})
    assert str(error) == "scene A has no asset red, nir, blue; it has band_nir, band_red, x"
    assert str(error.hint).endswith("--asset red=band_red --asset nir=band_nir --asset blue=KEY")
    others = {"metadata": {"href": "a.xml"}, "x.zip": {"href": "https://h/file/7", "type": "application/zip"}}
    told = "item A has no raster assets, only application/zip, metadata"
    assert str(bands.missing("A", others, {"red": "red"})) == told
    assert str(bands.missing("A", {}, {"red": "red"})) == "item A has no raster assets"
    maja = {f"{kind}_{band}": {"href": f"{band}.tif"} for kind in ("FRE", "SRE") for band in ("B4", "B8", "B8A")}
    hint = bands.missing("A", maja, {"red": "red", "nir": "nir"}).hint
    assert str(hint).endswith("--asset red=FRE_B4 --asset nir=FRE_B8")
    assert bands.meant("rde", FOUR) == "did you mean red?"
    landsat = {"red": {"href": "LC08_SR_B4.TIF"}, "nir08": {"href": "LC08_SR_B5.TIF"}}
    assert str(bands.missing("A", landsat, {"nir": "nir"}).hint).endswith("--asset nir=nir08")
    sentinel = {"red": {"href": "B04.tif"}, "nir08": {"href": "B8A.tif"}}
    assert str(bands.missing("A", sentinel, {"nir": "nir"}).hint).endswith("--asset nir=KEY")
