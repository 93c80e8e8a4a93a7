"""What a STAC item says of a scene: its grid, its bands' scaling, what tells it from others."""

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from shapely.geometry.base import BaseGeometry

from cloudjob.catalog.bands import OPTIONAL, missing
from cloudjob.catalog.item import parse
from cloudjob.catalog.signing import given, open_href
from cloudjob.errors import OutsideError, PassingError, SceneError
from cloudjob.grid import Grid, same_size
from cloudjob.scene import product
from cloudjob.scene.files import BYTES, KINDS, foreign
from cloudjob.scene.mgrs import is_at
from cloudjob.scene.placing import check_place, grid_of
from cloudjob.scene.reflectance import DARKEST, OFFSET, flag, scaling
from cloudjob.scene.scene import Band, Scene
from cloudjob.scene.together import check_beside

log = logging.getLogger(__name__)

MGRS_SIDE = 109_800
"""Side in metres of a whole Sentinel-2 tile (10980 pixels of 10 m)."""

KIND = "uint16"
"""Of numbers of which nobody tells their kind: ESA's."""

LEAST_SCALE = 1e-9
"""Reflectance of one number; float32 could not add a smaller one to an offset, and nought makes everything black."""

_LANDSAT = re.compile(r"/L[CEMOT]\d\d[^/]*_B\d+\.tiff?$", re.IGNORECASE)
"""A file as USGS names it, in whosever hands. ESA's scale makes clouds of all ground in it."""

MOST_OFFSET = 1.0
"""Reflectance, above zero or below; an offset beyond it is told in another unit (ESA's −1000 is one of numbers)."""


def describe(
    item: dict[str, Any],
    assets: Mapping[str, str],
    bands: Sequence[str],
    resolution: float,
    signing: str = "",
    offset: float | None = None,
    *,
    measured: Sequence[float] = (),
    optional: Sequence[str] = (),
) -> Scene:
    """Read what a job needs from a STAC item (1.0 or 1.1, projection extension 1.x or 2.x).

    Args:
        item: a STAC item as a plain dict with absolute hrefs; as a search leaves it, which has refused assets that say
            they are other bands.
        assets: common band name → asset key; "scl" may be missing.
        bands: the network's bands in order.
        resolution: of the masks, metres.
        signing: how its hrefs are signed when opened, or "".
        offset: of reflectance, instead of what the items say; None for what they say.
        measured: resolutions in metres at which the network's masks are known to be good, its own first; `resolution`
            unless given.
        optional: those of the bands that the scene may lack; its fingerprint tells which it had.

    Raises:
        SceneError: the item cannot be read (`item.parse`), lacks a band, a projection or a north-up grid, has numbers
            or a grid that no job can read, pixels that are not those of the network, or `resolution` cannot be had.
    """
    if reason := item.get("refused"):
        raise SceneError(f"scene {item.get('id')}: {reason}")
    found = parse(item, {name: assets[name] for name in (*bands, *OPTIONAL) if name in assets})
    item, keys, measured = found.item, found.keys or {}, measured or (resolution,)
    assert found.times is not None
    if lacking := {name: assets[name] for name in bands if name not in keys and name not in optional}:
        raise missing(item["id"], item["assets"], lacking)
    properties, time = item["properties"], found.times[0]
    baseline = product.baseline(item)
    place = found.footprint
    band_of = partial(_band, item, baseline, signing, offset, place)
    needed = {name: band_of(name, keys[name]) for name in bands if name not in optional}
    ours = list(needed.values())
    for number, band in enumerate(ours):
        check_beside(band, ours[:number], item["id"])
    native = ours[0].grid
    maybe = {name: keys[name] for name in bands if name in optional and name in keys}
    spare, left_out = _spare(item, maybe, partial(band_of, stand_in=native), ours)
    read = tuple((needed | spare)[name] for name in bands if name in needed or name in spare)
    scl = _classification(item, keys["scl"], signing, place, ours) if "scl" in keys else None
    check_place(native, place, item["id"])
    grid = native.coarsen(_factor(native, measured[0], item["id"]))  # Never a finer one
    _check_measured(grid, measured, item["id"])
    coarser = _factor(grid, resolution, item["id"])
    return Scene(
        id=item["id"],
        collection=item["collection"],
        item=_slim(item, [*read, *left_out], scl),
        group=_group(item, native, grid.coarsen(coarser)),
        grid=grid,
        time=time,
        platform=product.platform(item),
        sensing=product.sensing(item) or time,
        baseline=baseline,
        generated=product.generated(item),
        product=product.name(item),
        bands=read,
        scl=scl,
        fingerprint=_fingerprint(item, baseline, read),
        provider_cloud_cover=properties.get("eo:cloud_cover"),
        signing=signing,
        coarser=coarser,
        optional=tuple(spare),
        left_out=left_out,
    )


def bands_of(item: dict[str, Any], assets: Mapping[str, str], names: Sequence[str]) -> tuple[Band, ...]:
    """Some bands of a STAC item.

    Args:
        item: a STAC item as a plain dict with absolute hrefs.
        assets: common band name → asset key, where it is known.
        names: of the bands wanted.

    Raises:
        SceneError: the item lacks one of them, or its metadata make no sense.
    """
    unnamed = set(names) - assets.keys()
    found = parse(item, {name: assets.get(name, name) for name in names}, unnamed=unnamed)
    item, keys = found.item, found.keys or {}
    if lacking := {name: assets.get(name, name) for name in names if name not in keys}:
        raise missing(item["id"], item["assets"], lacking)
    baseline = product.baseline(item)
    return tuple(_band(item, baseline, "", None, found.footprint, name, keys[name]) for name in names)


def _slim(item: dict[str, Any], bands: Sequence[Band], scl: Band | None) -> dict[str, Any]:
    """The item without what no job reads: a plan of 10,000 scenes is held in memory, and failures are written down."""
    keys = {band.key for band in (*bands, scl) if band}
    return {**item, "assets": {key: item["assets"][key] for key in sorted(keys)}}


def _classification(
    item: dict[str, Any], key: str, signing: str, place: BaseGeometry | None, ours: Sequence[Band]
) -> Band | None:
    """The provider's scene classification. It is only compared: a fault of its own costs no scene."""
    try:
        band = _band(item, "", signing, None, place, "scl", key)
        check_beside(band, ours, item["id"])
    except (PassingError, OutsideError):
        raise  # Or a source that is out would be asked again for every scene
    except SceneError as error:
        log.warning("%s; the scene classification of %s is not compared", error, item["id"])
        return None
    return band


def _spare(
    item: dict[str, Any], keys: Mapping[str, str], band_of: Callable[[str, str], Band], ours: Sequence[Band]
) -> tuple[dict[str, Band], tuple[Band, ...]]:
    """The optional bands (name → key) by name, and those that the scene is masked without, for its item is at fault."""
    spare, left_out = {}, []
    for name, key in keys.items():
        try:
            band = band_of(name, key)
            check_beside(band, ours, item["id"])
            spare[name] = band
        except (PassingError, OutsideError):
            raise  # Or a source that is out would be asked again for every scene
        except SceneError as error:
            fault = str(error).removeprefix(f"scene {item['id']}").lstrip(",: ")
            left_out.append(Band(name, key, item["assets"][key]["href"], ours[0].grid, fault=fault))
    return spare, tuple(left_out)


def _band(
    item: dict[str, Any],
    baseline: str,
    signing: str,
    offset: float | None,
    place: BaseGeometry | None,
    name: str,
    key: str,
    stand_in: Grid | None = None,
) -> Band:
    """One band; where its own grid cannot be told, and there is another to stand in, the run says what is wrong."""
    asset, what = item["assets"][key], f"scene {item['id']}, asset {key}"
    if "refused" in asset:
        raise SceneError(f"{what}: {asset['refused']}")
    _check_kind(asset, name, what)
    address = given((item["collection"], item["id"], key), asset["href"])
    numbers = {} if name == "scl" else _scaling(item, asset, baseline, offset, what)
    kind, nodata, fault = asset.get("data_type", KIND), asset.get("nodata"), ""
    try:
        grid = grid_of(item, asset, key, open_href(signing, address), place, coarse=name in OPTIONAL)
    except SceneError as error:
        if stand_in is None or not error.asset or isinstance(error, PassingError | OutsideError):
            raise  # What the item itself says no night will mend
        grid, fault = stand_in, str(error).removeprefix(f"{what}: ")
    return Band(
        name,
        key,
        asset["href"],
        grid,
        **numbers,
        dtype=kind,
        nodata=int(nodata) if nodata is not None and nodata == int(nodata) else nodata if kind == "float32" else None,
        address=address if address != asset["href"] else "",
        fault=fault,
    )


def _check_kind(asset: Mapping[str, Any], name: str, what: str) -> None:
    """Refuse a file, and numbers, that no job reads, as far as the item tells."""
    if other := foreign(asset["href"], asset.get("type", "")):
        raise SceneError(
            f"{what}: it is {other}; expected GeoTIFF or JPEG 2000",
            hint="is there another asset of this band? See --asset; else unpack or convert it, with an item of its own",
        )
    dtype = asset.get("data_type", KIND)
    if dtype not in KINDS:
        hint = "is it the right collection? See --collection"
        raise SceneError(f"{what}: its numbers are {dtype}; expected {', '.join(KINDS)}", hint=hint)
    if name != "scl" and dtype == "uint8" and asset.get("raster:scale", 1) == 1:
        raise SceneError(f"{what}: {BYTES}", hint="is it the right asset? See --asset")


def _scaling(
    item: dict[str, Any], asset: Mapping[str, Any], baseline: str, offset: float | None, what: str
) -> dict[str, Any]:
    """Scale and offset, and who tells them: fields of `Band`."""
    scale, stated = scaling(item["properties"], asset, baseline)
    if not scale >= LEAST_SCALE:
        raise SceneError(
            f"{what}: its scale is {scale:g}; expected a number above 0, such as 0.0001",
            hint="report it to whoever publishes the catalog",
        )
    if asset.get("raster:scale", 1) == 1 and scale != 1 and _LANDSAT.search(urlsplit(asset["href"]).path):
        raise SceneError(
            f"{what}: its item tells no scale, and {scale:g} is Sentinel-2's; expected Landsat's own",
            hint="use a catalog that tells it: --catalog planetary-computer --collection landsat-c2-l2",
        )
    told: dict[str, Any] = {
        "scale": scale,
        "assumed": asset.get("raster:scale") != scale or "raster:offset" not in asset,
    }
    if offset is not None:
        return {**told, "offset": offset, "settled": True}
    if stated is None:
        platform = product.platform(item)
        return {**told, "offset": 0.0, "guessed": platform.startswith("sentinel-2") or not platform}
    if not abs(stated) < MOST_OFFSET:
        raise SceneError(
            f"{what}: its offset is {stated:g}; expected reflectance, such as -0.1",
            hint="say it yourself, for example --offset -0.1, and report it to whoever publishes the catalog",
        )
    if stated > DARKEST and not asset.get("data_type", KIND).startswith(("int", "float")):
        raise SceneError(
            f"{what}: its offset is {stated:g}; by it no number is darker, and ESA's is {-OFFSET:g}",
            hint=f"say it yourself, for example --offset {-stated:g}, and report it to whoever publishes the catalog",
        )
    signed = scaling(item["properties"], {"data_type": "int16", **asset}, baseline)[1]
    return {**told, "offset": stated, "unsigned": stated != signed, "settled": flag(item["properties"]) is not None}


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
    if not same_size(own, measured):
        told = ", ".join(f"{good:g}" for good in measured)
        raise SceneError(
            f"scene {scene} has pixels of {own:.3g} m; the network's masks were measured with pixels of {told} m only",
            hint="use a --checkpoint that was made for such pixels, or a catalog with finer ones",
        )


def _group(item: dict[str, Any], native: Grid, grid: Grid) -> str:
    tile = product.tile(item)
    if tile and (native.height * native.dy, native.width * native.dx) == (MGRS_SIDE, MGRS_SIDE):
        if is_at(tile, native.epsg, native.x0, native.y0):
            return tile
        log.warning("scene %s is said to be tile %s, but lies elsewhere: %s", item["id"], tile, native)
        tile = ""  # Or it would decide where all others of that tile lie
    x, y = (f"{value:.6f}".rstrip("0").rstrip(".") for value in (grid.x0, grid.y0))
    return f"{tile or grid.epsg}_{x}_{y}_{grid.width}x{grid.height}"


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
