"""One scene: what its STAC item says of it, and its pixels as a lazy chunked xarray."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudjob.grid import Grid


@dataclass(frozen=True)
class Band:
    """One asset of a scene.

    Attributes:
        name: common name ("red").
        key: the asset's key in the item ("red", "B04").
        href: where it lies, without signature.
        scale: reflectance = number × scale + offset.
        offset: see scale.
    """

    name: str
    key: str
    href: str
    scale: float
    offset: float


@dataclass(frozen=True)
class Scene:
    """What a STAC item says of a scene, read once when planning.

    Attributes:
        id: the item's id.
        collection: the item's collection, or "".
        item: the source item: a plain dict with absolute, unsigned hrefs.
        group: name of the store's group: the MGRS tile, or tile (or EPSG code), origin and shape.
        grid: the pixel grid masks are made on.
        time: `datetime` of the item, UTC.
        platform: such as "sentinel-2a".
        sensing: the datastrip's sensing time, UTC; `time` where the item does not tell.
        baseline: `s2:processing_baseline` ("05.10") or "".
        generated: `s2:generation_time` (ISO 8601) or "".
        bands: in the network's order.
        scl: the scene classification's asset, or None.
        fingerprint: changes when the scene's pixels may have changed (DESIGN: Output).
        provider_cloud_cover: `eo:cloud_cover` of the item, percent, or None.
        warnings: doubts about the metadata.
    """

    id: str
    collection: str
    item: dict[str, Any]
    group: str
    grid: Grid
    time: datetime
    platform: str
    sensing: datetime
    baseline: str
    generated: str
    bands: tuple[Band, ...]
    scl: Band | None
    fingerprint: str
    provider_cloud_cover: float | None = None
    warnings: tuple[str, ...] = ()
