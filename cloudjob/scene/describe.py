"""What a STAC item says of a scene: its grid, its bands' scaling, what tells it from others."""

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from pyproj.exceptions import CRSError

from cloudjob.catalog.area import footprint
from cloudjob.catalog.signing import open_href
from cloudjob.errors import ContractError, SceneError
from cloudjob.grid import Grid
from cloudjob.scene.files import header
from cloudjob.scene.reflectance import scaling
from cloudjob.scene.scene import Band, Scene

MGRS_SIDE = 109_800
"""Side in metres of a whole Sentinel-2 tile (10980 pixels of 10 m)."""


_KEPT = (
    "datetime",
    "start_",
    "end_",
    "platform",
    "proj:",
    "grid:",
    "s2:",
    "eo:",
    "processing:",
    "earthsearch:",
    "sentinel:",
)
"""Prefixes of the item's properties that anything here reads."""


def describe(
    item: dict[str, Any],
    assets: Mapping[str, str],
    bands: Sequence[str],
    resolution: float,
    signing: str = "",
    measured: Sequence[float] = (),
) -> Scene:
    """Read what a job needs from a STAC item (1.0 or 1.1, projection extension 1.x or 2.x).

    Args:
        item: a STAC item as a plain dict with absolute hrefs.
        assets: common band name → asset key; "scl" may be missing.
        bands: the network's bands in order.
        resolution: of the masks, metres.
        signing: how its hrefs are signed when opened, or "".
        measured: resolutions in metres at which the network's masks are known to be good, its own first; `resolution`
            unless given.

    Raises:
        SceneError: the item lacks a band, a time, a projection or a north-up grid, its pixels are not those of the
            network, `resolution` cannot be had of them, or its metadata make no sense.
    """
    try:
        return _describe(item, assets, bands, resolution, signing, measured or (resolution,))
    except ContractError as error:
        raise SceneError(f"scene {item.get('id')}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, CRSError) as error:
        raise SceneError(
            f"scene {item.get('id')}: its metadata make no sense: {type(error).__name__}: {error}",
            hint="report it to whoever publishes the catalog",
        ) from None


def _describe(
    item: dict[str, Any],
    assets: Mapping[str, str],
    bands: Sequence[str],
    resolution: float,
    signing: str,
    measured: Sequence[float],
) -> Scene:
    properties = item["properties"]
    missing = [assets[name] for name in bands if assets[name] not in item["assets"]]
    if missing:
        raise SceneError(
            f"scene {item['id']} has no asset {', '.join(missing)}; it has {', '.join(sorted(item['assets']))}",
            hint="name its assets with --asset, for example --asset red=B04",
        )
    footprint(item)  # raises where it cannot be read
    time = _time(properties.get("datetime") or properties.get("start_datetime"), item["id"])
    read = tuple(_band(item, name, assets[name], signing) for name in bands)
    scl_key = assets.get("scl", "")
    scl = _band(item, "scl", scl_key, signing) if scl_key in item["assets"] else None
    grid = _target(read[0].grid, measured[0], item["id"])
    _check_measured(grid, measured, item["id"])
    coarser = _factor(grid, resolution, item["id"])
    baseline = str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")
    return Scene(
        id=item["id"],
        collection=item.get("collection") or "",
        item=_slim(item, read, scl),
        group=_group(item, read[0].grid, grid.coarsen(coarser)),
        grid=grid,
        time=time,
        platform=str(properties.get("platform", "")).lower(),
        sensing=_sensing(properties) or time,
        baseline=baseline,
        generated=str(properties.get("s2:generation_time") or ""),
        bands=read,
        scl=scl,
        fingerprint=_fingerprint(item, baseline, read),
        provider_cloud_cover=properties.get("eo:cloud_cover"),
        signing=signing,
        coarser=coarser,
    )


def bands_of(
    item: dict[str, Any], assets: Mapping[str, str], names: Sequence[str], signing: str = ""
) -> tuple[Band, ...]:
    """Some bands of a STAC item.

    Args:
        item: a STAC item as a plain dict with absolute hrefs.
        assets: common band name → asset key.
        names: of the bands wanted.
        signing: how its hrefs are signed when opened, or "".

    Raises:
        SceneError: the item lacks one of them, or its metadata make no sense.
    """
    if missing := [assets[name] for name in names if assets[name] not in item["assets"]]:
        raise SceneError(
            f"item {item['id']} has no asset {', '.join(missing)}; it has {', '.join(sorted(item['assets']))}"
        )
    return tuple(_band(item, name, assets[name], signing) for name in names)


def _slim(item: dict[str, Any], bands: Sequence[Band], scl: Band | None) -> dict[str, Any]:
    """The item without what no job reads: a plan of 10,000 scenes is held in memory, and failures are written down."""
    keys = {band.key for band in (*bands, scl) if band}
    links = [link for link in item.get("links", []) if link.get("rel") in ("self", "collection")]
    properties = {name: value for name, value in item["properties"].items() if name.startswith(_KEPT)}
    assets = {key: item["assets"][key] for key in sorted(keys)}
    return {**item, "properties": properties, "links": links, "assets": assets}


_one_grid = functools.lru_cache(10_000)(Grid)


def _band(item: dict[str, Any], name: str, key: str, signing: str) -> Band:
    asset = item["assets"][key]
    grid = _grid(item, asset, key, signing)
    scale, offset = (1.0, 0.0) if name == "scl" else scaling(item["properties"], asset)
    return Band(name, key, asset["href"], grid, scale, offset)


def _grid(item: dict[str, Any], asset: dict[str, Any], key: str, signing: str) -> Grid:
    """The asset's grid from the projection extension; from the file's header where the item does not tell."""
    properties, what = item["properties"], f"scene {item['id']}, asset {key}"

    def find(name: str) -> Any:
        return asset.get(name, properties.get(name))

    code, epsg = find("proj:code"), find("proj:epsg")
    if horizontal := re.fullmatch(r"EPSG:(\d+)(\+\d+)?", str(code), re.IGNORECASE):  # what stands after + is vertical
        epsg = int(horizontal[1])
    shape, transform = find("proj:shape"), find("proj:transform")
    if not (epsg and shape and transform):
        epsg, transform, shape = header(open_href(signing, asset["href"]), what)
    return _north_up(epsg, transform, shape, what)


def _north_up(epsg: int, transform: Sequence[float], shape: Sequence[int], what: str) -> Grid:
    a, b, c, d, e, f = (float(value) for value in tuple(transform)[:6])
    if b or d or a <= 0 or e >= 0:
        raise SceneError(f"{what}: its grid is not north-up (transform {[a, b, c, d, e, f]})")
    return _one_grid(int(epsg), c, f, a, -e, int(shape[0]), int(shape[1]))


def _target(native: Grid, resolution: float, scene: str) -> Grid:
    """The native grid, or a coarser one of the same origin; never a finer one."""
    return native.coarsen(_factor(native, resolution, scene))


def _factor(fine: Grid, resolution: float, scene: str) -> int:
    """How many pixels of a grid make one of that resolution; 1 where its own are as large or larger."""
    height, width = fine.metres
    own = math.sqrt(height * width)
    factor = max(1, round(resolution / own))
    if abs(factor * own - resolution) > 0.01 * resolution and own < resolution and height == width:
        raise SceneError(
            f"scene {scene} has pixels of {own:g} m, which do not fit into {resolution:g} m",
            hint=f"choose a --resolution that is a multiple of {own:g}",
        )
    return factor


def _check_measured(grid: Grid, measured: Sequence[float], scene: str) -> None:
    """Refuse pixels of a size at which nobody knows what the network finds."""
    own = math.sqrt(math.prod(grid.metres))
    if not any(abs(own - good) <= good / 4 for good in measured):
        told = ", ".join(f"{good:g}" for good in measured)
        raise SceneError(
            f"scene {scene} has pixels of {own:.3g} m; the network's masks were measured with pixels of {told} m only",
            hint="use a --checkpoint that was made for such pixels, or a catalog with finer ones",
        )


def _group(item: dict[str, Any], native: Grid, grid: Grid) -> str:
    properties = item["properties"]
    code = str(properties.get("grid:code") or properties.get("s2:mgrs_tile") or "")
    tile = re.sub(r"^MGRS-", "", code)
    tile = tile if re.fullmatch(r"\d{1,2}[C-X][A-Z]{2}", tile) else ""
    if tile and (native.height * native.dy, native.width * native.dx) == (MGRS_SIDE, MGRS_SIDE):
        return tile
    x, y = (f"{value:.6f}".rstrip("0").rstrip(".") for value in (grid.x0, grid.y0))
    return f"{tile or grid.epsg}_{x}_{y}_{grid.width}x{grid.height}"


def _time(text: str | None, scene: str) -> datetime:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        raise SceneError(f"scene {scene} has the datetime {text!r}; expected ISO 8601") from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _sensing(properties: Mapping[str, Any]) -> datetime | None:
    """The sensing time in a datastrip's name: …_DS_2BPS_20240601T101559_S20240601T100600_N05.10."""
    found = re.search(r"_S(\d{8}T\d{6})", str(properties.get("s2:datastrip_id", "")))
    return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if found else None


def _fingerprint(item: dict[str, Any], baseline: str, bands: Sequence[Band]) -> str:
    """SHA-256 of what the pixels depend on; not `updated`, which a catalog that re-ingests sets to now for all."""
    properties = item["properties"]
    what = {
        "product": properties.get("s2:product_uri") or properties.get("s2:generation_time"),
        "baseline": baseline,
        "bands": [(band.name, urlsplit(band.href).path, band.scale, band.offset) for band in bands],
        "grid": astuple(bands[0].grid),
        "checksums": [item["assets"][band.key].get("file:checksum") for band in bands],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
