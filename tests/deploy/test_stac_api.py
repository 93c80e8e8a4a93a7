"""A real STAC API (stac-fastapi-pgstac on PostgreSQL with PostGIS), the real scenes behind nginx."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import REAL, needs_real_scenes
from rasterio.windows import Window
from shapely import box
from shapely.geometry import mapping

from cloudjob.catalog import stac_api
from cloudjob.catalog.area import parse_bbox
from cloudjob.catalog.dates import parse_dates
from cloudjob.catalog.presets import catalog_for
from cloudjob.catalog.search import search
from cloudjob.errors import UsageError

from .servers import free_port, pypgstac

pytestmark = [pytest.mark.deploy, needs_real_scenes]

TODAY = date(2026, 11, 1)
APRIL = parse_dates("2020-04-20/2020-04-30", TODAY)
ALWAYS = parse_dates("2015/..", TODAY)
VICTORIA = parse_bbox(32.1, -2.8, 32.95, -1.9)
WORLD = parse_bbox(-180, -90, 180, 90)
FIVE = ["ocn-chip1", "ocn-adwp", "ocn-adwu", "ocn-adwz", "ocn-adxp"]


def collection(name):
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]}}
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": name,
        "description": name,
        "license": "various",
        "extent": extent,
        "links": [],
    }


def around_fiji():
    """Items on both sides of the antimeridian, and one across."""
    both = {
        "type": "MultiPolygon",
        "coordinates": [
            mapping(box(*sides))["coordinates"] for sides in ((179, -18, 180, -17), (-180, -18, -179, -17))
        ],
    }
    places = {
        "both": both,
        "west": mapping(box(178, -18, 179, -17)),
        "east": mapping(box(-179, -18, -178, -17)),
        "africa": mapping(box(20, -18, 21, -17)),
    }
    for name, geometry in places.items():
        yield {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "collection": "fiji",
            "geometry": geometry,
            "bbox": [-180, -18, 180, -17],
            "properties": {"datetime": "2020-04-24T00:00:00Z"},
            "links": [],
            "assets": {"red": {"href": f"./{name}.tif"}},
        }


@pytest.fixture(scope="module")
def published(stac_server, database, images, tmp_path_factory):
    """The API's address, once it lists the real scenes with hrefs at nginx, and some others."""
    folder = tmp_path_factory.mktemp("ingest")
    items = json.loads(REAL.read_text())["features"]
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = f"{images[0]}/{asset['href'].removeprefix('./')}"
    for name, documents in {
        "collections": [collection("sentinel-2-samples"), collection("fiji"), collection("empty")],
        "items": [*items, *around_fiji()],
    }.items():
        file = folder / f"{name}.ndjson"
        file.write_text("\n".join(map(json.dumps, documents)))
        pypgstac("load", name, str(file), "--method", "upsert", database=database)
    return stac_server[0]


@pytest.fixture
def catalog(published):
    return catalog_for(published, collection="sentinel-2-samples")


def ids(*arguments, **options):
    return [item["id"] for item in search(*arguments, **options)]


def test_the_api_lists_what_the_file_does(catalog, images):
    for area, interval in ((VICTORIA, APRIL), (WORLD, ALWAYS)):
        listed = list(search(catalog, area, interval))
        expected = list(search(catalog_for(str(REAL)), area, interval))
        assert [item["id"] for item in listed] == [item["id"] for item in expected]
        for one, other in zip(listed, expected, strict=True):
            assert one["properties"] == other["properties"]
            for key, asset in other["assets"].items():
                relative = Path(asset["href"]).relative_to(REAL.parent)
                assert one["assets"][key] == {**asset, "href": f"{images[0]}/{relative}"}
    assert ids(catalog, VICTORIA, APRIL) == FIVE
    assert len(ids(catalog, WORLD, ALWAYS)) == 14


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages(catalog, stac_server, monkeypatch, method):
    monkeypatch.setattr(stac_api, "_PAGE", 3)
    if method == "GET":
        offered = stac_api._links
        monkeypatch.setattr(
            stac_api,
            "_links",
            lambda page, rel: [link for link in offered(page, rel) if link.get("method") != "POST"],
        )
    before = len(stac_server[1].read_text())
    assert len(ids(catalog, WORLD, ALWAYS)) == 14
    assert stac_server[1].read_text()[before:].count(f'"{method} /search') == 5


def test_nothing_found(catalog):
    assert ids(catalog, VICTORIA, parse_dates("2019", TODAY)) == []
    assert ids(catalog, parse_bbox(0, 0, 1, 1), ALWAYS) == []


def test_across_the_antimeridian(published):
    fiji = catalog_for(published, collection="fiji")
    assert ids(fiji, parse_bbox(178, -19, -178, -16), ALWAYS) == ["both", "east", "west"]
    assert ids(fiji, parse_bbox(-179, -19, 179, -16), ALWAYS) == ["africa", "east", "west"]
    (found, *_) = search(fiji, parse_bbox(178, -19, -178, -16), ALWAYS)
    assert found["assets"]["red"]["href"].startswith(f"{published}/collections/fiji/items/")


def test_an_unknown_collection_is_told_from_an_empty_one(published):
    assert ids(catalog_for(published, collection="empty"), WORLD, ALWAYS) == []
    with pytest.raises(UsageError, match="no collection 'sentinel-2-l2a'") as caught:
        search(catalog_for(published), WORLD, ALWAYS)
    assert "sentinel-2-samples" in caught.value.hint


def test_images_are_read_by_byte_ranges(catalog, images):
    (item, *_) = search(catalog, VICTORIA, APRIL)
    with (
        rasterio.open(item["assets"]["red"]["href"]) as there,
        rasterio.open(REAL.parent / "ocn-chip1/red.tif") as here,
    ):
        window = Window(300, 200, 64, 64)
        assert (there.read(1, window=window) == here.read(1, window=window)).all()
    log = images[1].read_text().splitlines()
    assert any(line.startswith('206 "bytes=') and line.endswith("/ocn-chip1/red.tif") for line in log)


def cloudjob(*arguments):
    """Run the command line as a user does."""
    command = [Path(sys.executable).with_name("cloudjob"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def job(catalog, out):
    where = ("--bbox", 32.1, -2.8, 32.95, -1.9, "--dates", "2020-04-20/2020-04-30")
    return ("run", *where, "--catalog", catalog, "--collection", "sentinel-2-samples", "--out", out, "--workers", 2)


def masks(out):
    """Every mask of an OUT: (group, time) to its pixels."""
    found = {}
    for group in sorted(path.name for path in (out / "masks.zarr").iterdir() if path.is_dir()):
        cube = xr.open_zarr(out / "masks.zarr" / group)
        found |= {(group, str(one.time.values)): one.values for one in cube["cloud"].load()}
    return found


def test_the_command_line_on_a_real_api(published, images, tmp_path):
    """Five scenes through the API and nginx: the masks of the same scenes' files, and nothing to do the second time."""
    done = cloudjob(*job(published, tmp_path / "api"))
    assert done.returncode == 0, done.stderr
    statuses = {line.split()[0] for line in images[1].read_text().splitlines() if ".tif" in line}
    assert "206" in statuses
    assert cloudjob(*job(REAL, tmp_path / "file")).returncode == 0
    over_http, from_disk = masks(tmp_path / "api"), masks(tmp_path / "file")
    assert len(over_http) == 5
    assert over_http.keys() == from_disk.keys()
    for key, mask in over_http.items():
        assert (mask == from_disk[key]).all()
        assert mask.dtype == "uint8"
        assert set(np.unique(mask)) & {0, 1}
    items = [json.loads(path.read_text()) for path in (tmp_path / "api" / "items").glob("*/ocn-*.json")]
    assert sorted(item["id"] for item in items) == sorted(FIVE)

    before = images[1].read_text()
    again = cloudjob(*job(published, tmp_path / "api"))
    assert again.returncode == 0, again.stderr
    assert images[1].read_text() == before  # Not one byte of an image was asked for


def test_the_command_line_when_nothing_answers(tmp_path):
    done = cloudjob(*job(f"http://127.0.0.1:{free_port()}", tmp_path / "out"))
    assert done.returncode == 4
    assert "does not answer" in done.stderr
    assert not (tmp_path / "out").exists()
