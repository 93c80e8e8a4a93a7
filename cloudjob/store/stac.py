"""An OUT as a static STAC catalog: `catalog.json`, a collection of all that is done, and links back from its items.

It is a view of the ledger, written anew at the end of a run and of `cloudjob export --all`.
"""

import math
from typing import Any

import shapely
from shapely.geometry import shape

from cloudjob import classes
from cloudjob.store import item as items
from cloudjob.store.document import dump
from cloudjob.store.ledger import Ledger
from cloudjob.store.out import Out
from cloudjob.store.settings import Settings

CATALOG = "catalog.json"
COLLECTION = items.COLLECTION_FILE


def write(out: Out, settings: Settings, ledger: Ledger) -> None:
    """Write the catalog and its collection where they have changed; neither where nothing is done (yet)."""
    if not ledger.done:
        return
    for path, document in ((COLLECTION, collection(settings, ledger)), (CATALOG, catalog(settings))):
        data = dump(document)
        if out.get(path) != data:
            out.put(path, data)


def catalog(settings: Settings) -> dict[str, Any]:
    """The root."""
    return {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "cloudjob",
        "title": "Cloud masks",
        "description": "Cloud masks made by cloudjob.",
        "links": [
            _link("root", CATALOG),
            _link("child", COLLECTION, title=items.collection(settings)),
        ],
    }


def collection(settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """The collection of all scenes that are done: extent, summaries, classes and model."""
    done = ledger.by_time
    covers = [entry.cloud_cover for entry in done if entry.cloud_cover is not None]
    codes = {ledger.groups[group]["attributes"]["proj:code"] for group in {entry.group for entry in done}}
    summaries: dict[str, Any] = {
        "platform": sorted({entry.identity["platform"] for entry in done} - {""}),
        "proj:code": sorted(codes),
        "cloudjob:group": sorted({entry.group for entry in done}),
        "cloudjob:model": [{"name": settings.name, "version": settings.version, "sha256": settings.checkpoint}],
        "cloudjob:threshold": [settings.threshold],
        "cloudjob:buffer": [settings.buffer],
        "cloudjob:resolution": [settings.resolution],
        "eo:cloud_cover": {"minimum": min(covers), "maximum": max(covers)} if covers else None,
    }
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [items.CLASSIFICATION, *(items.EXTENSIONS[each] for each in ("proj:", "eo:"))],
        "id": items.collection(settings),
        "title": f"Cloud masks by {settings.name} {settings.version}",
        "description": "One mask per scene: "
        + "; ".join(f"{value} {text}" for value, _, text in classes.of(settings.classes))
        + ".",
        "license": "other",
        "keywords": ["cloud", "mask", "Sentinel-2"],
        "extent": {
            "spatial": {"bbox": [_bbox([entry.identity["footprint"] for entry in done])]},
            "temporal": {"interval": [[done[0].time, done[-1].time]]},
        },
        "summaries": {name: told for name, told in summaries.items() if told},
        "item_assets": {
            "cloud": {
                "title": "Cloud mask",
                "type": items.ZARR,
                "roles": ["data", "cloud"],
                "classification:classes": items.told_classes(settings),
            }
        },
        "links": [
            _link("root", CATALOG),
            _link("parent", CATALOG),
            *(_link("item", entry.path, title=entry.id, media_type="application/geo+json") for entry in done),
        ],
    }


def _link(relation: str, path: str, *, title: str = "", media_type: str = "application/json") -> dict[str, str]:
    link = {"rel": relation, "href": f"./{path}", "type": media_type}
    return {**link, "title": title} if title else link


def _bbox(footprints: list[dict[str, Any]]) -> list[float]:
    """(west, south, east, north) of GeoJSON geometries; the whole world where none tells."""
    bounds: list[float] = shapely.total_bounds([shape(footprint) for footprint in footprints]).tolist()
    return [-180.0, -90.0, 180.0, 90.0] if math.isnan(bounds[0]) else bounds
