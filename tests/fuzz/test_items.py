"""Items from anybody, in a file beside a good one: described or refused by name, and the good one is found."""

import json
import random
import time
from pathlib import Path

import mutate
import pytest
from file_server import file_server
from shapely import box
from shapely.geometry import mapping

from cloudjob.catalog.area import parse_bbox
from cloudjob.catalog.dates import Interval, parse_dates
from cloudjob.catalog.presets import catalog_for
from cloudjob.catalog.search import search
from cloudjob.errors import SceneError
from cloudjob.scene.describe import describe
from cloudjob.store.document import dump

QUICK = 150
PATIENCE = 20
"""Seconds of CPU; a wait without end ends with the test's own time-out."""
BANDS = ("red", "green", "blue", "nir")
WORLD = parse_bbox(-180, -85, 180, 85)


def always() -> Interval:
    from datetime import UTC, datetime

    return parse_dates("1970/..", datetime(2026, 1, 1, tzinfo=UTC).date())


def make_item(name: str, url: str) -> dict:
    asset = {
        "proj:shape": [10980, 10980],
        "proj:transform": [10, 0, 300_000, 0, -10, 5_500_020],
        "raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0, "data_type": "uint16"}],
        "eo:bands": [{"common_name": "x", "center_wavelength": 0.5}],
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "c",
        "geometry": json.loads(json.dumps(mapping(box(12.2, 48.6, 13.6, 49.6)))),
        "bbox": [12.2, 48.6, 13.6, 49.6],
        "properties": {
            "datetime": "2024-06-01T10:10:00Z",
            "platform": "sentinel-2a",
            "proj:epsg": 32633,
            "eo:cloud_cover": 12.5,
            "grid:code": "MGRS-33UUP",
            "s2:datastrip_id": "S2A_OPER_MSI_L2A_DS_2APS_20240601T120000_S20240601T101000_N05.10",
            "s2:processing_baseline": "05.10",
            "s2:generation_time": "2024-06-01T12:00:00Z",
            "s2:mgrs_tile": "33UUP",
        },
        "links": [{"rel": "self", "href": f"{url}/items/{name}"}],
        "assets": {key: {"href": f"{url}/{name}/{key}.tif", **json.loads(json.dumps(asset))} for key in BANDS},
    }


def attempt(rng: random.Random, path: Path, url: str) -> int:
    """One try; returns how many of the odd ones were refused."""
    odd = [mutate.document(rng, make_item("ODD", url)) for _ in range(rng.choice((1, 1, 3)))]
    features = [*odd, make_item("GOOD", url)]
    rng.shuffle(features)
    path.write_bytes(dump({"type": "FeatureCollection", "features": features}))
    if rng.random() < 0.5:  # As Python writes it, with NaN and Infinity
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    catalog, good, refused = catalog_for(str(path)), False, 0
    started = time.process_time()
    for item in search(catalog, WORLD, always()):
        try:
            scene = describe(item, catalog.assets, BANDS, 10)
        except SceneError as error:
            refused += 1
            str(error).encode()
        else:
            good |= scene.id == "GOOD"
            dump(scene.item)
    assert good
    assert time.process_time() - started < PATIENCE
    return refused


@pytest.mark.timeout(mutate.LIMIT)
def test_an_odd_item_costs_itself_alone(tmp_path: Path) -> None:
    with file_server(tmp_path / "nothing") as server:  # A file whose grid is not told is looked for, and is not there
        refused = [attempt(rng, tmp_path / "items.json", server.url) for rng in mutate.generators(QUICK)]
    print(f"{len(refused)} tries: {sum(refused)} items refused")
    assert sum(refused) > len(refused) / 5
