"""A finished scene as a STAC item: what the mask is, what it was made of and with what.

There is nothing in it that differs between two runs of the same work: no times, no machine, no host.
"""

import hashlib
from datetime import datetime
from typing import Any
from urllib.parse import quote

from cloudjob import classes
from cloudjob.catalog.area import footprint
from cloudjob.errors import redact
from cloudjob.grid import Grid, Tile
from cloudjob.scene.identity import Identity
from cloudjob.scene.scene import Band, Scene
from cloudjob.store import conventions
from cloudjob.store.receipt import Receipt
from cloudjob.store.settings import Settings

EXTENSIONS = {
    "proj:": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "processing:": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "eo:": "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "grid:": "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
}
CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
INDEX = "index.json"
"""Name of the ledger's cache beside the items."""

LONGEST = 200
"""Characters of a file's name; file systems take 255 bytes, and what is being written has a longer one for a moment."""

COUNTS = ("dark_all", "dark_any", "guessed", "fractions", "saturated")
"""Of a receipt's fields those that tell whether scale and offset fit the pixels."""
BY_BAND = ("glaring", "least", "most", "lacking")
"""Likewise, one for each band."""

ZARR = "application/vnd.zarr; version=3"


COLLECTION_FILE = "collection.json"
"""Path in an OUT of the collection of its items (`store.stac`)."""


def collection(settings: Settings) -> str:
    """Id of the collection of an OUT's items."""
    return f"{settings.name}-{settings.version}-masks"


def path(group: str, scene_id: str) -> str:
    """Where in an OUT a scene's item lies."""
    return f"items/{group}/{file_name(scene_id)}"


def file_name(scene_id: str) -> str:
    """A scene's name as a file's: an id may hold anything, may be "index", and may begin with a dot."""
    name = quote(scene_id, safe="") + ".json"
    if len(name) > LONGEST:
        name = f"{name[:100]}-{hashlib.sha256(scene_id.encode()).hexdigest()}.json"
    return name if name != INDEX and not name.startswith(".") else f"%{ord(name[0]):02X}{name[1:]}"


def build(
    scene: Scene,
    slot: int,
    receipt: Receipt,
    settings: Settings,
    tiles: tuple[Tile, ...],
    replaces: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The STAC item (1.1) of a scene whose mask is complete.

    Args:
        scene: what the mask was made of.
        slot: its index on the group's time axis.
        receipt: of all tiles of the slot.
        settings: what it was made with.
        tiles: all tiles (row, column) computed.
        replaces: (group, id) of the older version, which does not count any more once this item is written.
    """
    properties = _properties(scene, slot, receipt, settings, tiles)
    if replaces:
        properties["cloudjob:replaces"] = list(replaces)
    used = [schema for prefix, schema in EXTENSIONS.items() if any(name.startswith(prefix) for name in properties)]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [CLASSIFICATION, *used],
        "id": scene.id,
        "collection": collection(settings),
        "geometry": scene.item["geometry"],
        "bbox": list(scene.item.get("bbox") or footprint(scene.item).bounds),
        "properties": properties,
        "links": _links(scene, settings),
        "assets": _assets(scene, settings),
    }


def _properties(
    scene: Scene, slot: int, receipt: Receipt, settings: Settings, tiles: tuple[Tile, ...]
) -> dict[str, Any]:
    source = scene.item["properties"]
    agreement = receipt.scl_agreed / receipt.scl_compared if receipt.scl_compared else None
    told = {
        "datetime": iso(scene.time),
        "platform": scene.platform or None,
        "grid:code": source.get("grid:code"),
        "s2:processing_baseline": scene.baseline or None,
        "s2:generation_time": scene.generated or None,
        "eo:cloud_cover": None if receipt.cloud_cover is None else round(receipt.cloud_cover, 4),
        "proj:code": f"EPSG:{scene.mask_grid.epsg}",
        "proj:shape": list(scene.mask_grid.shape),
        "proj:transform": list(scene.mask_grid.transform),
        "proj:bbox": list(scene.mask_grid.bounds),
        "processing:software": _software(receipt),
        "cloudjob:source": {"collection": scene.collection, "id": scene.id, "product": scene.product},
        "cloudjob:fingerprint": scene.fingerprint,
        "cloudjob:sensing": iso(scene.sensing),
        "cloudjob:group": scene.group,
        "cloudjob:slot": slot,
        "cloudjob:tiles": [list(tile) for tile in sorted(tiles)],
        "cloudjob:pixels": {
            **{label.name: getattr(receipt, label.name) for label in classes.of(settings.classes)[:-2]},
            "no_data": receipt.no_data,
            "not_computed": receipt.outside,
        },
        "cloudjob:numbers": _seen(receipt),
        "cloudjob:checksum": receipt.checksum or None,
        "cloudjob:provider_cloud_cover": scene.provider_cloud_cover,
        "cloudjob:scl_agreement": None if agreement is None else round(agreement, 6),
        "cloudjob:scl_pixels": receipt.scl_compared,
        "cloudjob:scl_agreed": receipt.scl_agreed,
        "cloudjob:reflectance": {band.name: _told(band) for band in scene.bands},
        "cloudjob:model": {"name": settings.name, "version": settings.version, "sha256": settings.checkpoint},
        "cloudjob:threshold": settings.threshold,
        "cloudjob:buffer": settings.buffer,
        "cloudjob:algorithm": settings.algorithm,
        "cloudjob:device": receipt.device,
        "cloudjob:warnings": [redact(warning) for warning in receipt.warnings] or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _seen(receipt: Receipt) -> dict[str, Any] | None:
    """What its scene's numbers are judged by, to be added to when it grows."""
    counts = {name: getattr(receipt, name) for name in COUNTS}
    return counts | {name: list(getattr(receipt, name)) for name in BY_BAND} if receipt.most else None


def _told(band: Band) -> dict[str, Any]:
    """How a band's numbers become reflectance, what they are, and which of them says no data."""
    told: dict[str, Any] = {"asset": band.key, "href": band.href, "scale": band.scale, "offset": band.offset}
    if band.dtype != "uint16":
        told["data_type"] = band.dtype
    return told if band.nodata is None else {**told, "nodata": band.nodata}


def bands(item: dict[str, Any], grid: Grid) -> tuple[Band, ...]:
    """The bands that a mask was made of.

    Args:
        item: from `build`.
        grid: of its mask, on which they are taken to lie.
    """
    return tuple(
        Band(
            name,
            told["asset"],
            told["href"],
            grid,
            told["scale"],
            told["offset"],
            dtype=told.get("data_type", "uint16"),
            nodata=told.get("nodata"),
        )
        for name, told in item["properties"]["cloudjob:reflectance"].items()
    )


def _software(receipt: Receipt) -> dict[str, str]:
    """Name → version, or versions where parts of a mask were computed by several."""
    versions: dict[str, list[str]] = {}
    for name, version in (each.split(" ", 1) for each in receipt.software):
        versions.setdefault(name, []).append(version)
    return {name: " + ".join(each) for name, each in versions.items()}


def _links(scene: Scene, settings: Settings) -> list[dict[str, str]]:
    # An item in a file has no address of its own, but its files do
    told = (link["href"] for link in scene.item.get("links", []) if link.get("rel") == "self")
    own = next((href for href in told if "://" in href or href.startswith("/")), "")
    above = {"root": "catalog.json", "parent": COLLECTION_FILE, "collection": COLLECTION_FILE}
    return [
        *({"rel": rel, "href": f"../../{path}", "type": "application/json"} for rel, path in above.items()),
        {
            "rel": "derived_from",
            "href": redact(own or scene.href),
            **({"type": "application/geo+json"} if own else {}),
            "title": f"{scene.id}, the scene",
        },
        {
            # The contract names the model; the checkpoint itself may lie anywhere.
            "rel": "derived_from",
            "href": "../../job.json",
            "type": "application/json",
            "title": f"{settings.name} {settings.version}, the model",
        },
    ]


def _assets(scene: Scene, settings: Settings) -> dict[str, Any]:
    zarr = {"href": f"../../masks.zarr/{scene.group}", "type": ZARR, "data_type": "uint8", "nodata": 255}
    assets = {
        "cloud": {
            **zarr,
            "title": "Cloud mask: array `cloud` at time index `cloudjob:slot`",
            "roles": ["data", "cloud"],
            "classification:classes": told_classes(settings),
        }
    }
    if settings.probability:
        assets["cloud_probability"] = {
            **zarr,
            "title": "Probability of cloud: array `cloud_probability` at time index `cloudjob:slot`",
            "roles": ["data"],
            "unit": "%",
            # Where a group's metadata are lost, nothing else tells
            "cloudjob:rounding": conventions.rounding(scene.coarser),
        }
    return assets


def told_classes(settings: Settings) -> list[dict[str, Any]]:
    """The values of masks, as STAC's classification extension has them."""
    return [label._asdict() for label in classes.of(settings.classes)]


def identity(item: dict[str, Any]) -> Identity:
    """What tells the item's scene from others."""
    properties = item["properties"]
    return Identity(
        properties.get("platform", ""),
        properties["cloudjob:group"],
        datetime.fromisoformat(properties["cloudjob:sensing"]),
        properties.get("s2:processing_baseline", ""),
        properties.get("s2:generation_time", ""),
        footprint(item),
        properties.get("cloudjob:source", {}).get("product", ""),
        properties.get("cloudjob:source", {}).get("collection", ""),
    )


def replaced(item: dict[str, Any]) -> str:
    """Path of the item of the older version that this item's scene replaces, or ""."""
    group, id_ = item["properties"].get("cloudjob:replaces", ("", ""))
    return path(group, id_) if id_ else ""


def receipt(item: dict[str, Any]) -> Receipt:
    """What was counted when the item's mask was made: more tiles of it add to that.

    Raises:
        LookupError, TypeError, AttributeError: the item does not tell.
    """
    properties = item["properties"]
    pixels, compared = properties["cloudjob:pixels"], properties.get("cloudjob:scl_pixels", 0)
    if not all(type(count) is int and count >= 0 for count in (*pixels.values(), compared)):
        raise TypeError("its counts of pixels are none")
    agreed = properties.get("cloudjob:scl_agreed", round(properties.get("cloudjob:scl_agreement", 0) * compared))
    return Receipt(
        clear=pixels["clear"],
        cloud=pixels["cloud"],
        thin_cloud=pixels.get("thin_cloud", 0),
        cloud_shadow=pixels.get("cloud_shadow", 0),
        no_data=pixels["no_data"],
        outside=pixels["not_computed"],
        scl_compared=compared,
        scl_agreed=agreed,
        checksum=properties.get("cloudjob:checksum", 0),
        **_numbers(properties.get("cloudjob:numbers")),
        device=properties["cloudjob:device"],
        software=tuple(
            sorted(
                f"{name} {version}"
                for name, told in properties.get("processing:software", {}).items()
                for version in told.split(" + ")
            )
        ),
        warnings=tuple(properties.get("cloudjob:warnings", ())),
    )


def _numbers(told: Any) -> dict[str, Any]:
    """What an item tells of its scene's numbers, as fields of a receipt; nothing of an item that does not."""
    if not told:
        return {}
    told = {"lacking": [], **told}
    counts, lists = ({name: told[name] for name in names} for names in (COUNTS, BY_BAND))
    whole, numbers = (*counts.values(), *lists["glaring"], *lists["lacking"]), (*lists["least"], *lists["most"])
    if not all(type(each) is int for each in whole) or not all(
        each is None or type(each) in (int, float) for each in numbers
    ):
        raise TypeError("what it tells of its numbers is none")
    return counts | {name: tuple(values) for name, values in lists.items()}


def scene(item: dict[str, Any], grid: Grid) -> Scene:
    """The scene that an item is of, as far as `build` needs it: it cannot be read again.

    Args:
        item: from `build`.
        grid: of its mask.
    """
    told = item["properties"]
    source = told["cloudjob:source"]
    source_link = next(link for link in item["links"] if link["rel"] == "derived_from")
    return Scene(
        id=item["id"],
        collection=source["collection"],
        item={
            "geometry": item["geometry"],
            "bbox": item["bbox"],
            "properties": {name: told[name] for name in ("grid:code",) if name in told},
            "links": [{"rel": "self", "href": source_link["href"]}] if "type" in source_link else [],
        },
        group=told["cloudjob:group"],
        grid=grid,
        time=datetime.fromisoformat(told["datetime"]),
        platform=told.get("platform", ""),
        sensing=datetime.fromisoformat(told["cloudjob:sensing"]),
        baseline=told.get("s2:processing_baseline", ""),
        generated=told.get("s2:generation_time", ""),
        bands=bands(item, grid),
        scl=None,
        fingerprint=told["cloudjob:fingerprint"],
        provider_cloud_cover=told.get("cloudjob:provider_cloud_cover"),
        product=source["product"],
    )


def iso(moment: datetime) -> str:
    """A moment (UTC) as STAC writes it."""
    return moment.isoformat().replace("+00:00", "Z")
