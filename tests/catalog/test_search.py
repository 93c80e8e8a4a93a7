import contextlib
import json
import logging
import pickle
import socket
import ssl
import tempfile
import threading
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime, timedelta
from email.utils import formatdate
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pystac_client
import pytest
from conftest import REAL, needs_real_scenes
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from distributed.security import Security
from dripping import LONGEST, dripping
from shapely import box
from shapely.geometry import mapping
from stac_server import stac_server

from cloudjob import spoken
from cloudjob.catalog import answers, stac_api
from cloudjob.catalog.area import footprint, parse_bbox
from cloudjob.catalog.dates import parse_dates
from cloudjob.catalog.item import parse
from cloudjob.catalog.presets import PRESETS, catalog_for
from cloudjob.catalog.search import search
from cloudjob.errors import CloudjobError, ContractError, UnreachableError, UsageError

JUNE = parse_dates("2024-06-01/2024-06-30", date(2024, 7, 1))
ALWAYS = parse_dates("1990/..", date(2024, 7, 1))
ALPS = parse_bbox(11, 46, 12, 47)
WORLD = parse_bbox(-180, -90, 180, 90)


def make_item(name, moment="2024-06-10T10:11:12.345000Z", where=(11, 46, 12, 47), **changes):
    properties = {"datetime": moment, "platform": "sentinel-2a", "eo:cloud_cover": 30, **changes.pop("properties", {})}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "bbox": list(where),
        "geometry": mapping(box(*where)),
        "properties": properties,
        "links": [],
        "assets": {key: {"href": f"./{name}/{key}.tif"} for key in ("red", "green", "blue", "nir", "scl", "thumbnail")},
        **changes,
    }


@pytest.fixture
def item_file(tmp_path):
    def write(items, name="items.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        return str(path)

    return write


@pytest.fixture
def api():
    with stac_server() as server:
        yield server


@pytest.fixture
def hurried(monkeypatch):
    """Waits as many, but short."""
    monkeypatch.setattr(stac_api, "_WAITS_S", (0.01,) * 5)


def ids(catalog, area=ALPS, interval=JUNE, **options):
    return [item["id"] for item in search(catalog, area, interval, **options)]


# Which catalog


def test_presets():
    earth_search = catalog_for("earth-search")
    assert (earth_search.address, earth_search.collection) == (
        "https://earth-search.aws.element84.com/v1",
        "sentinel-2-l2a",
    )
    assert earth_search.assets["nir"] == "nir"
    assert earth_search.signing == ""
    planetary = catalog_for("planetary-computer")
    assert [planetary.assets[band] for band in ("red", "green", "blue", "nir", "scl")] == [
        "B04",
        "B03",
        "B02",
        "B08",
        "SCL",
    ]
    assert planetary.signing == "planetary-computer"
    assert catalog_for(planetary.address + "/") == planetary  # The same by its address


def test_overrides_and_pickling():
    catalog = catalog_for("earth-search", collection="sentinel-2-c1-l2a", assets={"nir": "nir08"})
    assert (catalog.collection, catalog.assets["nir"], catalog.assets["red"]) == ("sentinel-2-c1-l2a", "nir08", "red")
    assert pickle.loads(pickle.dumps(catalog)) == catalog
    assert PRESETS["earth-search"].assets["nir"] == "nir"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("earthsearch", "'earthsearch' is unknown"),
        ("s3://bucket/items.json", "no such file"),
        ("items.json", "no such file"),
        ("./items", "no such file"),
        ("file:///nowhere/items", "no such file"),
        ("https://", "no such file|unknown"),
        ("", "unknown|folder"),
        (".", "is a folder"),
        ("x" * 300, "is unknown"),
        (f"file:///{'x' * 300}", "no such file|unknown"),
    ],
)
def test_an_unknown_catalog_is_named_and_the_presets_are_listed(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says) as caught:
        catalog_for(name)
    assert "earth-search, planetary-computer" in caught.value.hint


def test_a_folder_is_told_what_in_it_may_be_meant(tmp_path):
    for name, hint in (("A.json", "pystac.Item.from_file"), ("catalog.json", "mean"), ("items.json", "mean")):
        (tmp_path / name).write_text("{}")
        with pytest.raises(UsageError, match="is a folder") as caught:
            catalog_for(str(tmp_path))
        assert (f"did you mean {tmp_path / name}?" if hint == "mean" else hint) in caught.value.hint


# Files


def test_every_condition_holds_for_files(item_file):
    catalog = catalog_for(
        item_file(
            [
                make_item("late", "2024-07-01T00:00:00Z"),
                make_item("last", "2024-06-30T23:59:59.999999Z"),
                make_item("early", "2024-05-31T23:59:59.9Z"),
                make_item("first", "2024-06-01T00:00:00Z"),
                make_item("zoned", "2024-07-01T01:30:00+02:00"),
                make_item("beside", where=(12, 46, 13, 47)),  # Shares an edge, no ground
                make_item("elsewhere", geometry=None, where=(20, 46, 21, 47)),  # Its bbox tells
                make_item("cloudy", properties={"eo:cloud_cover": 30.1}),
                make_item("untold", properties={"eo:cloud_cover": None}),
                make_item(
                    "lasting",
                    None,
                    properties={
                        "start_datetime": "2024-05-01T00:00:00Z",
                        "end_datetime": "2024-06-01T00:00:00Z",
                    },
                ),
                make_item(
                    "over",
                    None,
                    properties={
                        "start_datetime": "2024-05-01T00:00:00Z",
                        "end_datetime": "2024-05-31T23:59:59Z",
                    },
                ),
            ]
        )
    )
    assert ids(catalog, max_cloud_cover=30) == ["lasting", "first", "untold", "zoned", "last"]


def test_a_footprint_counts_not_its_bounding_box(item_file):
    triangle = {"type": "Polygon", "coordinates": [[[10, 45], [13, 45], [10, 48], [10, 45]]]}
    catalog = catalog_for(item_file([make_item("slanted", where=(10, 45, 13, 48), geometry=triangle)]))
    assert ids(catalog, parse_bbox(12.5, 47.5, 12.9, 47.9)) == []
    assert ids(catalog, parse_bbox(10.1, 45.1, 10.2, 45.2)) == ["slanted"]


def test_order(item_file):
    items = [make_item(f"{day}{name}", f"2024-06-{day:02}T10:00:00Z") for day in (3, 1, 2) for name in "ba"]
    catalog = catalog_for(item_file(items))
    assert ids(catalog) == ["1a", "1b", "2a", "2b", "3a", "3b"]
    assert ids(catalog, parse_bbox(0, 0, 1, 1)) == []


def test_an_item_listed_twice_comes_once_as_updated_last(item_file):
    old, new = (
        make_item("A", properties={"updated": f"2024-06-1{day}T00:00:00Z", "platform": str(day)}) for day in (1, 2)
    )
    other = make_item("A", collection="sentinel-2-c1-l2a")
    never = make_item("A", properties={"platform": "0"})
    for items in ([old, new, other, never], [never, other, new, old]):
        found = list(search(catalog_for(item_file(items)), ALPS, JUNE))
        assert [(item["collection"], item["properties"]["platform"]) for item in found] == [
            ("sentinel-2-c1-l2a", "sentinel-2a"),
            ("sentinel-2-l2a", "2"),
        ]


def test_a_collection_can_be_picked_from_a_file(item_file):
    path = item_file([make_item("A"), make_item("B", collection="sentinel-2-c1-l2a")])
    assert ids(catalog_for(path)) == ["A", "B"]
    assert ids(catalog_for(path, collection="sentinel-2-c1-l2a")) == ["B"]


def test_a_single_item_by_its_file_address(tmp_path):
    path = tmp_path / "an item.json"
    path.write_text(json.dumps(make_item("A")))
    (found,) = search(catalog_for(path.as_uri()), ALPS, JUNE)
    assert found["assets"]["red"]["href"] == str(tmp_path / "A" / "red.tif")


def test_hrefs_are_absolute_and_unsigned(item_file, tmp_path, monkeypatch):
    item = make_item("A")
    item["assets"] |= {
        "red": {"href": "../B04.tif", "alternate": {"s3": {"href": "s3://bucket/B04.tif"}}},
        "green": {"href": "https://host/B03.tif?versionId=7"},
        "blue": {"href": "https://a.blob.core.windows.net/c/B02.tif?st=2024&se=2025&sp=rl&sig=SECRET%3D"},
        "nir": {
            "href": "https://user:SECRET@host/B08.tif",
            "alternate": {"http": {"href": "https://host/B08.tif?X-Amz-Signature=SECRET&X-Amz-Expires=60"}},
        },
        "scl": {"href": "/vsicurl/https://host/SCL.tif?access_token=SECRET"},
    }
    item["links"] = [{"rel": "self", "href": "https://host/items/A?token=SECRET"}, {"rel": "x", "href": "y"}]
    path = Path(item_file([item]))
    monkeypatch.chdir(tmp_path)
    (found,) = search(catalog_for(path.name), ALPS, JUNE)
    assert {key: asset["href"] for key, asset in found["assets"].items()} == {
        "red": "https://host/B04.tif",  # From where the item says it lies
        "green": "https://host/B03.tif",
        "blue": "https://a.blob.core.windows.net/c/B02.tif",
        "nir": "https://host/B08.tif",
        "scl": "/vsicurl/https://host/SCL.tif",
    }
    assert found["links"] == [{"rel": "self", "href": "https://host/items/A"}]
    assert "SECRET" not in json.dumps(found)


def test_an_item_without_a_self_link_lies_beside_its_file(item_file, tmp_path, monkeypatch):
    path = Path(item_file([make_item("A")]))
    monkeypatch.chdir(tmp_path)
    (found,) = search(catalog_for(path.name), ALPS, JUNE)
    assert found["assets"]["red"]["href"] == str(tmp_path / "A" / "red.tif")


def test_assets_nobody_reads_are_left_out_unless_a_band_is_missing(item_file):
    whole, lacking = make_item("A"), make_item("B")
    del lacking["assets"]["nir"]
    found = list(search(catalog_for(item_file([whole, lacking])), ALPS, JUNE))
    assert set(found[0]["assets"]) == {"red", "green", "blue", "nir", "scl"}
    assert set(found[1]["assets"]) == {"red", "green", "blue", "scl", "thumbnail"}  # So that an error can list them


def test_an_item_keeps_its_projection_as_written(item_file):
    item = make_item("A", properties={"proj:epsg": 32632})
    (found,) = search(catalog_for(item_file([item])), ALPS, JUNE)
    assert found["properties"] == item["properties"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "holds list"),
        ('"x"', "holds str"),
        ('{"type": "Catalog", "links": []}', "holds Catalog"),
        ('{"type": "FeatureCollection"}', "holds FeatureCollection"),
    ],
)
def test_a_file_that_is_no_stac_is_a_broken_contract(tmp_path, content, says):
    path = tmp_path / "items.json"
    path.write_text(content)
    with pytest.raises(ContractError, match=says) as caught:
        search(catalog_for(str(path)), ALPS, JUNE)
    assert caught.value.exit_code == 3
    if says.startswith("holds"):  # A list was told what to do with a static catalog
        assert ("static catalog" in str(caught.value.hint)) == ("Catalog" in says)


@pytest.mark.parametrize("odd", [{"moment": "last week"}, {"moment": None}, {"geometry": {"type": "Polygon"}}])
def test_an_item_whose_time_or_place_cannot_be_read_is_left_to_whoever_describes_it(item_file, odd):
    found = search(catalog_for(item_file([make_item("A"), make_item("B", **odd)])), ALPS, JUNE)
    assert {item["id"] for item in found} == {"A", "B"}


@pytest.mark.parametrize("options", [{"max_cloud_cover": 101}, {"max_cloud_cover": float("nan")}])
def test_options_that_make_no_sense(item_file, options):
    with pytest.raises(UsageError):
        search(catalog_for(item_file([])), ALPS, JUNE, **options)


@needs_real_scenes
def test_the_real_scenes():
    catalog = catalog_for(str(REAL))
    victoria = parse_bbox(32.1, -2.8, 32.95, -1.9)
    april = parse_dates("2020-04-20/2020-04-30", date(2026, 1, 1))
    found = list(search(catalog, victoria, april))
    assert [item["id"] for item in found] == ["ocn-chip1", "ocn-adwp", "ocn-adwu", "ocn-adwz", "ocn-adxp"]
    assert all(Path(asset["href"]).is_file() for item in found for asset in item["assets"].values())
    assert len(ids(catalog, WORLD, ALWAYS)) == 14


# APIs


@pytest.mark.parametrize("methods", [("GET", "POST"), ("GET",)])
@pytest.mark.parametrize("merge", [True, False])
def test_an_api_lists_what_a_file_of_its_items_does(api, item_file, methods, merge):
    api.methods, api.merge, api.page = methods, merge, 3
    api.items = [make_item(f"{n:02}", f"2024-06-{1 + n % 9:02}T10:00:00Z") for n in range(10)]
    api.items += [make_item("other", collection="landsat"), make_item("away", where=(50, 0, 51, 1))]
    catalog = catalog_for(api.url)
    assert ids(catalog) == ids(catalog_for(item_file(api.items), collection="sentinel-2-l2a"))
    assert len(api.searches) == 4
    assert {method for method, *_ in api.searches} == {"POST" if "POST" in methods else "GET"}
    (found, *_) = search(catalog, ALPS, JUNE)
    # "./00/red.tif" of an item that does not tell where it lies, from where the STAC API specification puts it
    assert found["assets"]["red"]["href"] == f"{api.url}/collections/sentinel-2-l2a/items/00/red.tif"


def test_what_an_api_is_asked(api):
    api.items = [make_item("A")]
    assert ids(catalog_for(api.url)) == ["A"]
    body = api.searches[0][2]
    assert body["collections"] == ["sentinel-2-l2a"]
    assert body["datetime"] == "2024-06-01T00:00:00Z/2024-06-30T23:59:59.999Z"
    assert body["limit"] == 100
    ring = body["intersects"]["coordinates"][0]
    assert sum((b[0] - a[0]) * (b[1] + a[1]) for a, b in pairwise(ring)) < 0  # Counter-clockwise


def test_conditions_hold_when_an_api_is_sloppy(api):
    api.filters = False
    api.items = [
        make_item("good"),
        make_item("late", "2024-07-01T00:00:00Z"),
        make_item("away", where=(50, 0, 51, 1)),
        make_item("cloudy", properties={"eo:cloud_cover": 80}),
    ]
    assert ids(catalog_for(api.url), max_cloud_cover=50) == ["good"]


def test_a_next_link_that_loses_the_collection_lists_no_other_products(api, monkeypatch):
    """As Earth Search v0's and pycsw's did. Level-1C of the same scenes took the place of the Level-2A asked for."""
    api.items, api.page = [make_item("A"), make_item("B", collection="sentinel-2-l1c"), make_item("C")], 1
    honest = api.search

    def forgetful(method, asked):
        api.filters = "token" not in asked
        return honest(method, asked)

    monkeypatch.setattr(api, "search", forgetful)
    assert ids(catalog_for(api.url)) == ["A", "C"]


def test_what_an_api_lists_under_another_name_than_was_asked_for_is_told(api, monkeypatch, caplog, item_file):
    """NASA's still takes HLSS30.v2.0, whose items lie in HLSS30_2.0: of two collections one was lost without a word."""
    api.filters, api.items = False, [make_item("L", collection="HLSL30_2.0"), make_item("S", collection="HLSS30_2.0")]
    asked = "HLSL30_2.0,HLSS30.v2.0"
    assert ids(catalog_for(api.url, collection=asked)) == ["L"]
    assert f"{api.url} also lists items of 'HLSS30_2.0'" in caplog.text
    caplog.clear()
    assert ids(catalog_for(item_file(api.items), collection=asked)) == ["L"]
    assert not caplog.text, "a file may well hold more"


def test_an_api_that_lists_nothing_of_the_collection_says_what_it_lists(api):
    api.filters, api.items = False, [make_item("A", collection="SENTINEL-2"), make_item("B", collection="sentinel-2")]
    with pytest.raises(UsageError, match="has no item of collection 'sentinel-2-l2a'") as caught:
        ids(catalog_for(api.url))
    assert caught.value.hint == "it has items of 'SENTINEL-2', 'sentinel-2'"


def test_across_the_antimeridian(api, item_file):
    split = {
        "type": "MultiPolygon",
        "coordinates": [
            mapping(box(*sides))["coordinates"] for sides in ((179, -18, 180, -17), (-180, -18, -179, -17))
        ],
    }
    api.items = [
        make_item("both", geometry=split),
        make_item("west", where=(178, -18, 179, -17)),
        make_item("east", where=(-179, -18, -178, -17)),
        make_item("greenwich", where=(0, -18, 1, -17)),
    ]
    fiji = parse_bbox(178, -19, -178, -16)
    assert ids(catalog_for(api.url), fiji) == ids(catalog_for(item_file(api.items)), fiji) == ["both", "east", "west"]


def ring(*longitudes):
    """A footprint from latitude −18 to −17, once around along some longitudes and back."""
    there = [[at, -18] for at in longitudes]
    return {"type": "Polygon", "coordinates": [[*there, *([at, -17] for at in reversed(longitudes)), there[0]]]}


@pytest.mark.parametrize(
    "geometry",
    [
        ring(179, -179),  # by way of Greenwich, as it stands there
        ring(179, 179.5, -179.5, -179),
        ring(-179, 179),  # the other way round
        ring(179, 181),
        ring(-181, -179),
        {"type": "MultiPolygon", "coordinates": [ring(179, -179)["coordinates"]]},
        {"type": "MultiPolygon", "coordinates": [ring(179, 180)["coordinates"], ring(-180, -179)["coordinates"]]},
    ],
)
def test_footprints_across_the_antimeridian_that_are_written_otherwise(item_file, geometry):
    """They lay beside every bbox, and were dropped without a word."""
    catalog = catalog_for(item_file([make_item("A", geometry=geometry, bbox=[179, -18, -179, -17])]))
    for west, east in ((179.2, 179.8), (-179.8, -179.2), (179.8, -179.8), (178, -178)):
        (found,) = search(catalog, parse_bbox(west, -17.8, east, -17.2), JUNE)
        assert found["geometry"] == geometry, "it is kept as it is told"
        assert footprint(found).area == pytest.approx(2)
        assert -180 <= footprint(found).bounds[0] <= footprint(found).bounds[2] <= 180
    for west, east in ((178.2, 178.8), (-178.8, -178.2), (-10, 10)):
        assert ids(catalog, parse_bbox(west, -17.8, east, -17.2)) == []


def test_footprints_that_only_are_wide_stay_so(item_file):
    """The whole world, and a globe's half; and what crosses the antimeridian is mended like any other."""
    bow_tie = {"type": "Polygon", "coordinates": [[[179, -18], [-179, -17], [-179, -18], [179, -17], [179, -18]]]}
    given = [("world", mapping(box(-180, -90, 180, 90))), ("half", ring(-90, 0, 90)), ("bow tie", bow_tie)]
    catalog = catalog_for(item_file([make_item(name, geometry=geometry) for name, geometry in given]))
    assert ids(catalog, parse_bbox(-10, -18, 10, -17)) == ["half", "world"]
    (found, _) = search(catalog, parse_bbox(179, -18, -179, -17), JUNE)
    assert found["id"] == "bow tie"
    assert footprint(found).area == pytest.approx(1)
    assert parse(found, {}).item["geometry"] == found["geometry"], "reading it again changes nothing"


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, 520, 524, "hang up", "cut", "html", "empty", "json"])
@pytest.mark.parametrize("when", [0, 1, 2, 3])
def test_passing_faults_are_ridden_out(api, hurried, fault, when):
    """At the landing page, the first page and later ones, twice in a row."""
    if (fault, when) == ("json", 0):
        pytest.skip("a landing page that is no STAC is the wrong address")
    api.page = 2
    api.items = [make_item(f"{n}") for n in range(5)]
    api.faults = deque([""] * when + [fault, fault])
    assert ids(catalog_for(api.url)) == ["0", "1", "2", "3", "4"]
    assert not api.faults


@pytest.mark.parametrize("when", [0, 1])
def test_a_slow_answer_is_asked_for_again(api, hurried, monkeypatch, when):
    monkeypatch.setattr(stac_api, "_TIMEOUT_S", (0.3, 0.3))
    api.slowness = 1
    api.items = [make_item("A")]
    api.faults = deque([""] * when + ["slow"])
    assert ids(catalog_for(api.url)) == ["A"]
    assert len(api.requests) == 3


def test_a_head_that_drips_ends(hurried, monkeypatch):
    monkeypatch.setattr(answers, "MAX_SECONDS", 1)
    begun = time.monotonic()
    with dripping() as address, pytest.raises(UnreachableError, match="an answer takes longer than 1 s"):
        ids(catalog_for(address))
    assert time.monotonic() - begun < LONGEST


@pytest.mark.parametrize("when", [0, 1])
def test_an_answer_that_drips_is_not_waited_for(api, hurried, monkeypatch, when):
    """Each drop comes in time; all of them would take twenty seconds and more."""
    monkeypatch.setattr(answers, "MAX_SECONDS", 2)
    api.items = [make_item("A")]
    api.faults = deque([""] * when + ["drip"])
    begun = time.monotonic()
    assert ids(catalog_for(api.url)) == ["A"]
    assert time.monotonic() - begun < 10
    assert len(api.requests) == 3


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        *((503, "HTTP 503"), (429, "HTTP 429"), (520, "HTTP 520"), ("hang up", "Connection aborted")),
        *(("cut", "Incomplete"), ("html", "is not JSON: .*log in"), ("empty", "is not JSON")),
    ],
)
def test_a_lasting_fault_is_unreachable(api, hurried, fault, says):
    api.items = [make_item("A")]
    api.lasting = fault
    with pytest.raises(UnreachableError, match=says) as caught:
        search(catalog_for(api.url), ALPS, JUNE)
    assert api.url in str(caught.value)
    assert caught.value.exit_code == 4
    assert len(api.requests) == 6


def test_nobody_there(hurried):
    with stac_server() as gone:
        url = gone.url
    with pytest.raises(UnreachableError, match="refused"):
        search(catalog_for(url), ALPS, JUNE)


@contextmanager
def tls_server(serve):
    """A server of TCP on loopback: yields its address, and the connections that came; `serve` gets each."""
    came = []

    def answer():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                came.append(connection)
                with connection, contextlib.suppress(OSError):
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/v1", came
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def untrusted(connection):
    """A handshake with a certificate that nobody knows."""
    security = Security.temporary()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
        both.write(security.tls_scheduler_key + security.tls_scheduler_cert)
        both.flush()
        context.load_cert_chain(both.name)
    context.wrap_socket(connection, server_side=True).close()


@pytest.mark.parametrize(
    ("serve", "code", "says", "tries"),
    [
        (lambda connection: connection.recv(4096), 4, "does not answer", 6),  # closes amid the handshake
        (lambda _: None, 4, "does not answer", 6),  # before it
        (lambda connection: connection.sendall(bytes([21, 3, 3, 0, 2, 2, 80])), 4, "INTERNAL_ERROR", 6),  # alert
        (lambda connection: connection.sendall(b"HTTP/1.1 400 No\r\n\r\n"), 3, "does not speak TLS", 1),
        (untrusted, 3, "has no certificate to trust", 1),
    ],
)
def test_a_handshake_that_fails_is_tried_again_but_for_a_certificate(hurried, serve, code, says, tries):
    with tls_server(serve) as (address, came), pytest.raises(CloudjobError, match=says) as caught:
        search(catalog_for(address), ALPS, JUNE)
    assert (caught.value.exit_code, len(came)) == (code, tries)


@pytest.mark.parametrize("days", [-30, 30])
def test_a_certificate_that_holds_at_another_time_is_worth_a_retry(days, hurried, tmp_path, monkeypatch):
    """As where this machine's clock was not set yet. It was a broken contract."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) + timedelta(days=days)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "catalog")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    both = tmp_path / "both.pem"
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    both.write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    with both.open("ab") as file:
        file.write(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(both))

    def serve(connection):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        context.wrap_socket(connection, server_side=True).close()

    with (
        tls_server(serve) as (address, _),
        pytest.raises(UnreachableError, match="no certificate that holds") as caught,
    ):
        search(catalog_for(address), ALPS, JUNE)
    assert "this machine's clock says 20" in caught.value.hint


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_of_ones_own_that_cannot_be_read_are_told(hurried, tmp_path, monkeypatch, content):
    bundle = tmp_path / "bundle.pem"
    if content:
        bundle.write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with tls_server(untrusted) as (address, _), pytest.raises(ContractError, match=r"certificate"):
        search(catalog_for(address), ALPS, JUNE)


@pytest.mark.parametrize(
    ("fault", "when", "says"),
    [
        (404, 0, "refuses: HTTP 404"),
        (401, 0, "refuses: HTTP 401"),
        (401, 1, "refuses: HTTP 401 .*something is wrong"),
        ("json", 0, "is not a STAC API: .*timed out"),
    ],
)
def test_an_answer_that_is_no_stac_is_a_broken_contract(api, fault, when, says):
    api.page = 1
    api.items = [make_item("A"), make_item("B")]
    api.faults = deque([""] * when + [fault])
    with pytest.raises(ContractError, match=says) as caught:
        search(catalog_for(api.url), ALPS, JUNE)
    assert api.url in str(caught.value)


def test_a_catalog_that_cannot_be_searched(api, monkeypatch):
    landing = api.landing()
    landing["links"] = landing["links"][:3]
    monkeypatch.setattr(api, "landing", lambda: landing, raising=False)
    with pytest.raises(ContractError, match="is not a STAC API") as caught:
        search(catalog_for(api.url), ALPS, JUNE)
    assert "cannot be searched" in caught.value.hint


def test_an_item_for_a_landing_page(api, monkeypatch):
    monkeypatch.setattr(api, "landing", lambda: make_item("A"), raising=False)
    with pytest.raises(ContractError, match="is not a STAC API"):
        search(catalog_for(api.url), ALPS, JUNE)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_shows_people_a_web_page_is_asked_for_json(api, hurried, method):
    api.pages, api.methods, api.page = True, (method,), 1
    api.items = [make_item("A"), make_item("B")]
    assert ids(catalog_for(api.url)) == ["A", "B"]


def test_paging_in_circles_ends(api):
    api.page, api.circles = 2, True
    api.items = [make_item("A"), make_item("B")]
    with pytest.raises(ContractError, match="same page"):
        search(catalog_for(api.url), ALPS, JUNE)


@pytest.mark.parametrize("status", [500, 502])
@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("methods", [("GET",), ("POST",)])
def test_a_page_that_is_too_much_for_a_server_is_asked_for_in_smaller_ones(api, hurried, methods, page, status):
    """A hundred items of some tiles are more than Earth Search can answer: every run ended with 4."""
    api.items = [make_item(f"{n}", title="x" * 2000 * (n // 100 == page)) for n in range(150)]
    api.methods, api.page, api.largest, api.overload = methods, 100, 100_000, status
    assert len(ids(catalog_for(api.url))) == 150
    api.largest = 1000
    with pytest.raises(UnreachableError, match=f"HTTP {status}"):
        ids(catalog_for(api.url))


@pytest.mark.parametrize("path", ["/", "/search", "/v1/v1/search"])
@pytest.mark.parametrize("methods", [("GET",), ("POST",)])
def test_a_next_link_whose_path_the_server_does_not_know_is_asked_for_where_the_first_page_was(
    api, monkeypatch, methods, path
):
    """Behind a proxy: the path lacks what the proxy puts before it, or has it twice."""
    api.items, api.methods, api.page = [make_item(f"{n}") for n in range(5)], methods, 2
    honest = api.search

    def elsewhere(method, asked):
        page = honest(method, asked)
        for link in page["links"]:
            link["href"] = link["href"].replace("/v1/search", path)
        return page

    monkeypatch.setattr(api, "search", elsewhere)
    assert ids(catalog_for(api.url)) == ["0", "1", "2", "3", "4"]
    assert len(api.searches) == 3


@pytest.mark.parametrize("news", [1, 2])
@pytest.mark.parametrize("methods", [("GET",), ("POST",)])
def test_what_is_ingested_while_pages_are_turned_is_no_circle(api, monkeypatch, methods, news):
    """Of a server that counts pages by items, a page may then hold known ones only."""
    api.methods, api.page = methods, 2
    api.items = [make_item(f"{n}") for n in range(3 * api.page)]
    honest = api.search

    def ingesting(method, asked):
        page = honest(method, asked)
        if 0 < len(api.searches) <= news:
            api.items[:0] = [make_item(f"new {len(api.items)} {n}") for n in range(api.page)]
        return page

    monkeypatch.setattr(api, "search", ingesting)
    assert set(ids(catalog_for(api.url))) == {f"{n}" for n in range(6)}


def test_nothing_found_is_no_error_but_an_unknown_collection_is(api):
    api.items = [make_item("A")]
    assert ids(catalog_for(api.url), interval=parse_dates("2023", date(2024, 1, 1))) == []
    with pytest.raises(UsageError, match="no collection 'sentinel-2-l1c'") as caught:
        search(catalog_for(api.url, collection="sentinel-2-l1c"), ALPS, JUNE)
    assert "sentinel-2-l2a" in caught.value.hint


def test_of_many_collections_the_one_that_was_probably_meant_is_named(api):
    """The Planetary Computer has a hundred, and the first twenty of the alphabet say nothing of Sentinel-2."""
    api.items = [make_item(f"{n}", collection=f"a{n}-dem") for n in range(100)]
    api.items.append(make_item("A", collection="sentinel-2-l2a"))
    with pytest.raises(UsageError, match="no collection 'sentinel2-l2a'") as caught:
        search(catalog_for(api.url, collection="sentinel2-l2a"), ALPS, JUNE)
    assert caught.value.hint == "did you mean sentinel-2-l2a?"


@pytest.mark.parametrize("fault", [503, "hang up", "cut", "html", 403])
def test_an_address_with_a_secret_is_never_shown(api, hurried, caplog, capfd, fault):
    api.items = [make_item("A")]
    api.lasting = fault
    catalog = catalog_for(f"{api.url}?subscription=SECRET1&token=SECRET2")
    with caplog.at_level(logging.INFO), pytest.raises((UnreachableError, ContractError)) as caught:
        search(catalog, ALPS, JUNE)
    logging.lastResort.stream.flush()
    shown = f"{caught.value} {caught.value.hint} {catalog} {catalog.name} {caplog.text} {''.join(capfd.readouterr())}"
    assert api.url in shown
    assert "SECRET" not in shown


def test_a_user_name_in_the_address_is_never_shown(hurried, caplog):
    with caplog.at_level(logging.INFO), pytest.raises(UnreachableError) as caught:
        search(catalog_for("http://me:SECRET@127.0.0.1:1/stac"), ALPS, JUNE)
    assert "SECRET" not in f"{caught.value} {caplog.text}"


# APIs as they are


def asked(api):
    """(method, shape, datetime, limit) of every search so far."""
    found = []
    for method, path, body in api.searches:
        told = body or {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        found.append((method, "intersects" if "intersects" in told else "bbox", told["datetime"], told.get("limit")))
    return found


@pytest.mark.parametrize("home", ["/v1", "/v1/"])
@pytest.mark.parametrize("typed", ["", "/", "?key=x", "/?key=x"])
def test_a_landing_page_is_found_with_and_without_a_stroke_at_its_end(api, home, typed):
    api.items, api.home = [make_item("A")], home
    assert ids(catalog_for(api.url + typed)) == ["A"]
    assert ("key=x" in typed) == ("key=x" in api.requests[-2][1])


def test_a_search_link_without_a_method_is_tried_by_post_first(api, monkeypatch):
    """As datacube-explorer's, which takes areas only so."""
    landing = api.landing()
    for link in landing["links"]:
        link.pop("method", None)
    monkeypatch.setattr(api, "landing", lambda: landing, raising=False)
    api.items = [make_item("A")]
    assert ids(catalog_for(api.url)) == ["A"]
    api.methods = ("GET",)
    assert ids(catalog_for(api.url)) == ["A"]
    assert [method for method, *_ in asked(api)] == ["POST", "POST", "GET"]


@pytest.mark.parametrize("methods", [("GET",), ("POST",)])
@pytest.mark.parametrize(
    "link", ["http://127.0.0.1/v1/search", "http://127.0.0.1:{port}/search", "http://127.0.0.1:{port}/v1/search?f=json"]
)
def test_a_server_that_does_not_know_its_own_address_is_searched_all_the_same(api, monkeypatch, methods, link):
    """Behind a proxy the link to its search lacks the port or the path; pygeoapi's has a query of its own."""
    landing = api.landing()
    href = link.format(port=api.port)
    landing["links"] = [{"rel": "search", "href": href, "type": "application/geo+json", "method": methods[0]}]
    monkeypatch.setattr(api, "landing", lambda: landing, raising=False)
    api.items, api.methods, api.page = [make_item(f"{n}") for n in range(3)], methods, 2
    assert ids(catalog_for(api.url)) == ["0", "1", "2"]
    for _, path, body in api.searches:
        told = body or parse_qs(urlsplit(path).query)
        assert told["collections"] == ["sentinel-2-l2a"]


def test_a_search_that_is_told_in_several_formats_is_asked_for_json(api, monkeypatch):
    """As GeoServer's, and where OpenSearch is described beside it: the first one was taken."""
    landing = api.landing()
    (search_link, *_) = [link for link in landing["links"] if link["rel"] == "search"]
    other = [
        {"rel": "search", "type": kind, "href": f"{api.url}/search.html"}
        for kind in ("text/html", "application/opensearchdescription+xml")
    ]
    landing["links"] = [*other, {"rel": "search", "href": search_link["href"], "type": "application/geo+json"}]
    monkeypatch.setattr(api, "landing", lambda: landing, raising=False)
    api.items = [make_item("A")]
    assert ids(catalog_for(api.url)) == ["A"]


CLOSED = "2024-06-01T00:00:00Z/2100-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("refuses", "takes"),
    [
        (lambda told: "intersects" in told, ("POST", "bbox", "2024-06-01T00:00:00Z/..", 100)),
        (lambda told: ".." in told["datetime"], ("POST", "bbox", CLOSED, 100)),
        (
            lambda told: int(told.get("limit", 0)) > 50,
            ("POST", "bbox", CLOSED, 20),
        ),
        (lambda told: "limit" in told, ("POST", "bbox", CLOSED, None)),
    ],
)
def test_a_form_that_an_api_refuses_is_made_simpler(api, refuses, takes):
    api.items = [make_item("A"), make_item("away", where=(50, 0, 51, 1))]
    api.refuses = refuses
    assert ids(catalog_for(api.url), interval=parse_dates("2024-06-01/..", date(2024, 7, 1))) == ["A"]
    assert asked(api)[-1] == takes


@pytest.mark.parametrize(("forbids", "finds"), [((403,), ["A"]), ((403, 403), None), ((401,), None)])
def test_an_api_may_forbid_all_but_get(api, forbids, finds):
    api.items, api.faults = [make_item("A")], deque(["", *forbids])
    with nullcontext() if finds else pytest.raises(ContractError, match=f"refuses: HTTP {forbids[0]}"):
        assert ids(catalog_for(api.url)) == finds
    assert [method for method, *_ in api.searches] == ["POST", "GET"][: len(forbids) + bool(finds)]


def test_fractions_of_a_second_can_be_refused(api):
    api.refuses = lambda told: "." in told["datetime"]
    api.items = [make_item("last", "2024-06-30T23:59:59.9995Z"), make_item("late", "2024-07-01T00:00:00Z")]
    assert ids(catalog_for(api.url)) == ["last"]


def test_what_an_api_always_refuses_is_told(api):
    api.refuses = lambda told: True
    with pytest.raises(ContractError, match=r"refuses: HTTP 400 .*not so"):
        search(catalog_for(api.url), ALPS, JUNE)
    assert len(api.searches) == 10


def test_a_wait_that_a_server_asks_for_is_kept(api, monkeypatch):
    monkeypatch.setattr(stac_api, "_WAITS_S", (0.01,))
    api.items, api.retry_after, api.faults = [make_item("A")], "1", deque([429])
    began = time.monotonic()
    assert ids(catalog_for(api.url)) == ["A"]
    assert time.monotonic() - began > 0.9


def test_a_wait_until_a_time_is_by_the_servers_clock(api, monkeypatch):
    """Where this machine's had not been set, it was one of half a century."""
    monkeypatch.setattr(stac_api, "_WAITS_S", (0.01,))
    monkeypatch.setattr(answers, "datetime", SimpleNamespace(now=lambda zone: datetime(1970, 1, 1, tzinfo=zone)))
    api.items, api.retry_after, api.faults = [make_item("A")], formatdate(time.time() + 2, usegmt=True), deque([429])
    assert ids(catalog_for(api.url)) == ["A"]


@pytest.mark.parametrize("when", ["\xb2", "-1", "soon", "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"])
def test_a_wait_that_makes_no_sense_is_none(api, hurried, when):
    api.items, api.retry_after, api.faults = [make_item("A")], when, deque([429])
    assert ids(catalog_for(api.url)) == ["A"]


@pytest.mark.parametrize("when", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_wait_beyond_all_bounds_ends_the_run_at_once(api, when):
    api.retry_after, api.lasting = when, 503
    with pytest.raises(UnreachableError, match="asks to be left alone"):
        search(catalog_for(api.url), ALPS, JUNE)
    assert len(api.requests) == 1


def test_a_search_that_is_not_announced_is_used_with_a_warning(api, monkeypatch, caplog):
    landing = {**api.landing(), "conformsTo": []}
    landing["links"][-1]["href"] = landing["links"][-2]["href"] = "./search"
    monkeypatch.setattr(api, "landing", lambda: landing, raising=False)
    api.items = [make_item("A")]
    with caplog.at_level(logging.WARNING):
        assert ids(catalog_for(api.url)) == ["A"]
    assert "does not say that it can be searched" in caplog.text


def test_fewer_items_than_an_api_says_it_has_are_told(api, caplog):
    api.items, api.matched = [make_item("A")], 7
    with caplog.at_level(logging.WARNING):
        assert ids(catalog_for(api.url)) == ["A"]
    assert "has 7 items for this search, but lists only 1" in caplog.text


@pytest.mark.parametrize("fault", [None, 400, 500, "close", "the same page"])
def test_what_an_api_does_not_list_by_post_it_is_asked_for_by_get(api, hurried, monkeypatch, caplog, fault):
    """The Brazil Data Cube's, whose links name no method: of more than a page the newest items alone were masked."""
    landing = api.landing()
    for link in landing["links"]:
        link.pop("method", None)
    monkeypatch.setattr(api, "landing", lambda: landing, raising=False)
    api.items, api.page, api.matched = [make_item(f"{n}") for n in range(5)], 2, 5
    honest = api.search

    def forgetful(method, asked):
        page = honest(method, asked)
        if method == "POST":
            page["links"] = []
            api.lasting = "" if fault in (None, "the same page") else fault
        elif fault:
            page["links"] = [{"rel": "next", "href": f"{api.url}/search?again"}]
        return page

    monkeypatch.setattr(api, "search", forgetful)
    assert ids(catalog_for(api.url)) == [f"{n}" for n in range(2 if fault else 5)]
    assert ("has 5 items for this search, but lists only 2" in caplog.text) == bool(fault)


@pytest.mark.parametrize("page", [2, 9])
def test_an_item_that_is_taken_away_while_pages_are_turned_is_told(api, caplog, page):
    """Those after it move up, and one slips through: a month that is masked once lacked it, and nothing told."""
    api.items, api.page, api.matched = [make_item(f"I{n}") for n in range(6)], page, 6

    def taken(told):
        if "token" in told and len(api.items) == 6:
            del api.items[0]
            api.matched = 5
        return False

    api.refuses = taken
    found = ids(catalog_for(api.url))
    assert len(found) == (5 if page == 2 else 6)
    assert ("had 6 items for this search at first and 5 in the end" in caplog.text) == (page == 2)


def test_a_count_of_what_lies_outside_of_the_area_tells_of_no_loss(api, monkeypatch, caplog):
    """As datacube-explorer's, which leaves the area out of it where it is not a box."""
    api.items, api.page = [make_item(f"{n}") for n in range(5)], 2
    honest = api.search

    def counting(method, asked):
        return {**honest(method, asked), "numberMatched": 99 if "intersects" in asked else 5}

    monkeypatch.setattr(api, "search", counting)
    api.refuses = lambda told: "intersects" in told and isinstance(told["collections"], str)
    assert len(ids(catalog_for(api.url))) == 5
    assert "lists only" not in caplog.text


def test_the_address_of_a_collection_says_what_to_type(api, monkeypatch):
    document = {"type": "Collection", "stac_version": "1.0.0", "id": "s2", "links": [{"rel": "root", "href": api.url}]}
    monkeypatch.setattr(api, "landing", lambda: document, raising=False)
    with pytest.raises(UsageError, match="is the address of a collection") as caught:
        search(catalog_for(api.url), ALPS, JUNE)
    assert caught.value.hint == f"try --catalog {api.url} --collection s2"


@pytest.mark.parametrize(
    "link",
    [
        {"method": "DELETE", "href": "/v1/search"},
        {"method": "PUT", "href": "/v1/search", "body": {}},
        {"href": "http://localhost:1/v1/search"},
        {"href": "http://[x"},
        {"href": "file:///etc/passwd"},
    ],
)
def test_a_next_link_never_makes_us_do_anything_else(api, link):
    api.items, api.following = [make_item("A")], {"rel": "next", "headers": {"Host": "x"}, **link}
    with pytest.raises(ContractError):
        search(catalog_for(api.url), ALPS, JUNE)
    assert len(api.searches) == 1


def test_an_answer_beyond_all_bounds_is_not_read(api, monkeypatch):
    monkeypatch.setattr(answers, "MAX_BYTES", 5000)
    api.items = [make_item("A", title="x" * 6000)]
    with pytest.raises(ContractError, match="answers more than"):
        search(catalog_for(api.url), ALPS, JUNE)


def test_pages_without_end(api, monkeypatch):
    monkeypatch.setattr(stac_api, "MAX_PAGES", 3)
    api.page, api.items = 1, [make_item(str(n)) for n in range(9)]
    with pytest.raises(ContractError, match="more than 3 pages"):
        search(catalog_for(api.url), ALPS, JUNE)


def test_an_empty_page_is_not_the_last_one(api):
    api.items, api.empty_pages = [make_item("A")], 1
    assert ids(catalog_for(api.url)) == ["A"]


@pytest.mark.parametrize("itself", [False, True])
def test_a_next_page_for_ever_ends_with_the_items(api, monkeypatch, itself):
    """Ten thousand empty pages were asked for, and then nothing was masked; as for one that leads to itself."""
    api.items, honest = [make_item("A"), make_item("B")], api.search

    def endless(method, asked):
        page, token = honest(method, asked), int(asked.get("token", 0))
        body = {**asked, "token": token if itself and token else token + 10}
        return {**page, "links": [{"rel": "next", "href": f"{api.url}/search", "method": "POST", "body": body}]}

    monkeypatch.setattr(api, "search", endless)
    assert ids(catalog_for(api.url)) == ["A", "B"]
    assert len(api.searches) < 30


def test_where_empty_pages_are_taken_for_the_end_that_is_told(api, caplog):
    """More may come after them, of an API that leaves out what does not fit only when a page is made."""
    api.items, api.empty_pages = [make_item("A")], 19
    assert ids(catalog_for(api.url)) == ["A"]
    assert not caplog.text
    api.empty_pages, api.items = 20, [make_item("away", where=(50, 0, 51, 1))]
    assert ids(catalog_for(api.url)) == []
    assert not caplog.text, "there was no next one"
    api.empty_pages, api.items = 40, [make_item("A")]
    assert ids(catalog_for(api.url)) == []
    assert "20 pages without items one after the other" in caplog.text


@pytest.mark.parametrize(
    ("count", "matched", "told"), [(100, 0, True), (100, 100, False), (99, 0, False), (200, 0, False)]
)
@pytest.mark.parametrize("methods", [("GET",), ("POST",)])
def test_a_full_page_without_a_next_one_is_told(api, caplog, methods, count, matched, told):
    """The Planetary Computer left its next links out for a while: all but the first hundred scenes were lost."""
    api.items, api.methods, api.page, api.matched = [make_item(f"{n}") for n in range(count)], methods, 100, matched
    with caplog.at_level(logging.WARNING):
        assert len(ids(catalog_for(api.url))) == count
    assert ("no next page: it may have more" in caplog.text) == told


def test_a_list_of_items_on_the_web_says_what_to_give(api, monkeypatch):
    for document in ({"type": "FeatureCollection", "features": [make_item("A")]}, make_item("A")):
        monkeypatch.setattr(api, "landing", lambda told=document: told, raising=False)
        with pytest.raises(ContractError, match="is not a STAC API") as caught:
            search(catalog_for(api.url), ALPS, JUNE)
        assert "--catalog items.json" in caught.value.hint


@pytest.mark.parametrize("content", [b"PAR1\x15\xff", b'{"type": "Feature"}\n{"type": "Feature"}\n'])
def test_items_in_another_form_are_told_what_is_expected(tmp_path, content):
    path = tmp_path / "items.parquet"
    path.write_bytes(content)
    with pytest.raises(ContractError, match="is not JSON") as caught:
        ids(catalog_for(str(path)))
    assert "one STAC item or item collection; GeoParquet" in caught.value.hint


def test_a_collection_that_a_file_does_not_have_is_an_error_as_of_an_api(item_file):
    """It was "no scenes found", with exit code 0."""
    catalog = catalog_for(item_file([make_item("A"), make_item("B", collection="other")]), collection="sentinel-2-l1c")
    with pytest.raises(UsageError, match="has no item of collection 'sentinel-2-l1c'") as caught:
        ids(catalog)
    assert caught.value.hint == "it has items of 'other', 'sentinel-2-l2a'"


def test_several_collections_at_once(api, item_file):
    api.items = [make_item("A"), make_item("B", collection="other"), make_item("C", collection="third")]
    both = "sentinel-2-l2a,other"
    assert ids(catalog_for(api.url, collection=both)) == ["A", "B"]
    assert ids(catalog_for(item_file(api.items), collection=both)) == ["A", "B"]
    assert ids(catalog_for(item_file(api.items), collection=both.replace(",", " , "))) == ["A", "B"]


def test_what_a_server_says_moves_no_cursor(api, monkeypatch):
    monkeypatch.setattr(api, "refusal", "\x1b[2J\x07 token=SECRET", raising=False)
    api.refuses = lambda told: True
    with pytest.raises(ContractError, match="refuses: HTTP 400") as caught:
        search(catalog_for(api.url), ALPS, JUNE)
    assert str(caught.value).isprintable()
    assert "SECRET" not in str(caught.value)


def test_a_client_of_pystacs_is_searched_at_its_own_address(api):
    """Its form is known, not its package: nobody need have that."""
    api.items = [make_item("A"), make_item("B", where=(40, 46, 41, 47))]
    with spoken.files(None, pystac_client.Client.open(api.url)) as (_, where):
        assert ids(catalog_for(where)) == ["A"]
