"""A STAC item as any catalog answers it, parsed once: typed and bounded, or refused alone and by name.

What leaves `parse` is a plain STAC item again, because items are kept, planned and written down as JSON: but only with
what a job reads, each value of its type and within bounds. Reading it again changes nothing.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cloudjob.catalog import bands, signing, values
from cloudjob.catalog.area import read_footprint
from cloudjob.catalog.values import UnreadableError, shown
from cloudjob.errors import SceneError

Item = dict[str, Any]

MAX_NAME = 240
"""Bytes of an id as part of a file's name, which may have 255 with what we add."""

MAX_ASSETS = 500
MAX_KEY = 100
MAX_HREF = 4000
REMOTE = ("http", "https", "s3", "gs", "az")
"""Where the files of an API's items may lie: what a stranger lists must not make us open files of this machine."""

_MOMENTS = ("datetime", "start_datetime", "end_datetime")
_TEXTS = (
    *("platform", "constellation", "grid:code", "processing:version"),
    *("s2:mgrs_tile", "s2:product_uri", "s2:processing_baseline", "s2:generation_time"),
    *("sentinel:processing_baseline", "sentinel:product_id", "sentinel:latitude_band", "sentinel:grid_square"),
    *("mgrs:latitude_band", "mgrs:grid_square", "odc:region_code", "title"),
)
_ZONES = ("sentinel:utm_zone", "mgrs:utm_zone")
_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


class RefusedError(SceneError):
    """An item cannot be used. It costs nobody else.

    Attributes:
        found: what of it could be read: its name at least, and its times and footprint if those are sound.
    """

    def __init__(self, message: str, found: "Found") -> None:
        super().__init__(message)
        self.found = found


@dataclass
class Found:
    """What parsing an item found.

    Attributes:
        item: the item; one that is refused has an id and the reason under "refused", and nothing else.
        times: first and last moment, UTC; None where it could not be read.
        footprint: in longitude, latitude; None where it could not be read.
        keys: band → key of its asset, of those wanted and found.
    """

    item: Item
    times: tuple[datetime, datetime] | None = None
    footprint: BaseGeometry | None = None
    keys: Mapping[str, str] | None = None


def parse(raw: Any, wanted: Mapping[str, str], *, base: str = "", remote: bool = False) -> Found:
    """Read an item.

    Args:
        raw: what a catalog lists; anything that JSON can hold.
        wanted: band → key of its asset (`bands.find`). Where one of them is missing all assets are kept, so that an
            error can name them; the scene classification may be missing.
        base: address or path that relative hrefs count from, unless the item says where it lies.
        remote: whether it comes from an API, whose items may not point to files of this machine.

    Raises:
        RefusedError: it is no STAC item, or says of what a job reads something that cannot be.
    """
    found = Found(_refused(raw, ""))
    try:
        return _parse(raw, wanted, base, remote=remote, found=found)
    except (UnreadableError, RecursionError) as error:
        reason = str(error) if isinstance(error, UnreadableError) else "it is nested too deeply"
        found.item = _refused(raw, reason)
        raise RefusedError(f"scene {found.item['id']}: {reason}", found) from None


def named(raw: Any) -> str:
    """A name for what a catalog lists: its id, or where that cannot be one, a short one that no other item has."""
    told = raw.get("id") if isinstance(raw, dict) else raw
    try:
        return _id(told)
    except UnreadableError:
        whole = told if isinstance(told, str) else shown(told)
        digest = hashlib.sha256(whole.encode("utf-8", "backslashreplace")).hexdigest()[:8]
        return f"item {digest} ({shown(told).encode('ascii', 'backslashreplace').decode()[:50]})"


def _refused(raw: Any, reason: str) -> Item:
    empty: dict[str, Any] = {"properties": {}, "links": [], "assets": {}}
    return {"type": "Feature", "id": named(raw), "collection": "", "geometry": None, **empty, "refused": reason}


def _parse(raw: Any, wanted: Mapping[str, str], base: str, *, remote: bool, found: Found) -> Found:
    if not isinstance(raw, dict):
        raise UnreadableError(f"it is {shown(raw)}, not a STAC item")
    name = _id(raw.get("id"))
    properties, assets = raw.get("properties"), raw.get("assets")
    if not isinstance(properties, dict) or not isinstance(assets, dict):
        raise UnreadableError("it is not a STAC item: it has no properties or no assets")
    collection = values.text(raw.get("collection"), "collection") or ""
    found.times = times = _times(properties)
    found.footprint, geometry = _footprint(raw)
    told = _properties(properties)
    base, links = _links(raw, base, remote=remote)
    every = {_key(key): _asset(key, asset) for key, asset in _bounded(assets).items()}
    found.keys = keys = bands.find(every, wanted)
    kept = sorted(set(keys.values())) if not wanted.keys() - keys.keys() - bands.OPTIONAL else sorted(every)
    for key in kept:
        if key in keys.values():
            every[key] |= numbers(assets[key])
            given = _absolute(every[key]["href"], base, remote=remote)
            every[key]["href"] = signing.remember((collection, name, key), given)
        else:
            every[key]["href"] = signing.unsigned(every[key]["href"])
    found.times = times
    found.item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "collection": collection,
        "geometry": geometry,
        "bbox": _bbox(raw) or list(found.footprint.bounds),
        "properties": told,
        "links": links,
        "assets": {key: every[key] for key in kept},
    }
    return found


def _id(told: Any) -> str:
    name = values.text(told, "id", longest=MAX_NAME) if isinstance(told, str) else None
    if not name or len(quote(name, safe="")) > MAX_NAME:
        raise UnreadableError(
            f"its id is {shown(told)}; expected printable letters that fit into a file's name ({MAX_NAME} bytes)"
        )
    return name


def _times(properties: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """First and last moment: of `datetime`, else from `start_datetime` to `end_datetime` where that is told."""
    moment, start, end = (values.moment(properties.get(name), name) for name in _MOMENTS)
    first = moment or start or end
    if first is None:
        raise UnreadableError("it has no datetime")
    last = first if moment else end or first
    if last < first:
        raise UnreadableError(f"it ends before it begins: {last.isoformat()}, {first.isoformat()}")
    return first, last


def _footprint(raw: Mapping[str, Any]) -> tuple[BaseGeometry, Any]:
    """The footprint, and the geometry to keep: the item's own if that is sound."""
    shape, own = read_footprint(raw.get("geometry"), raw.get("bbox"))
    return shape, raw["geometry"] if own else json.loads(json.dumps(mapping(shape)))  # Lists, where shapely has tuples


def _bbox(raw: Mapping[str, Any]) -> list[float] | None:
    try:
        return values.numbers(raw.get("bbox"), "bbox", (4, 6))
    except UnreadableError:
        return None  # The footprint has one


def _properties(told: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: values.spelt(told[name]) for name in _MOMENTS if told.get(name) is not None}
    kept |= {name: values.text(told.get(name), name) for name in _TEXTS}
    kept |= {name: values.whole(told.get(name), name, 1, 60) for name in _ZONES}
    kept |= {name: values.flag(told.get(name)) for name in _FLAGS}
    kept |= _projection(told)
    kept["updated"] = told["updated"][:40] if isinstance(told.get("updated"), str) else None
    kept["eo:cloud_cover"] = values.percentage(told.get("eo:cloud_cover"))
    for name, value in told.items():  # s2:, eopf:, sentinel2: … the name is one, its prefix the publisher's
        if re.fullmatch(r"[\w-]{0,20}:?datastrip_?id(entifier)?", name, re.IGNORECASE):
            kept["s2:datastrip_id"] = values.text(value, name)
    return {name: value for name, value in kept.items() if value is not None}


def _projection(told: Mapping[str, Any]) -> dict[str, Any]:
    """What an item or an asset says of its grid, without what it says is null."""
    code = values.text(told.get("proj:code"), "proj:code")
    shape = values.numbers(told.get("proj:shape"), "proj:shape", (2,)) or []
    transform = values.numbers(told.get("proj:transform"), "proj:transform", (6, 9))
    kept = {
        "proj:epsg": values.whole(told.get("proj:epsg"), "proj:epsg", 1, 999_999),
        "proj:code": code,
        "proj:shape": [values.whole(side, "proj:shape", 1, 10**12) for side in shape],
        "proj:transform": transform,
    }
    return {name: value for name, value in kept.items() if value}


def _links(raw: Mapping[str, Any], base: str, *, remote: bool) -> tuple[str, list[Any]]:
    """(what relative hrefs count from, the link to the item itself)."""
    links = raw.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") == "self" and isinstance(link.get("href"), str):
            try:
                href = _absolute(link["href"], base, remote=remote)
            except UnreadableError:
                continue  # Only to be shown
            return (href if "://" in link["href"] or (not remote and link["href"].startswith("/")) else base), [
                {"rel": "self", "href": signing.unsigned(href)}
            ]
    return base, []


def _bounded(assets: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(assets) > MAX_ASSETS:
        raise UnreadableError(f"it has {len(assets)} assets; expected at most {MAX_ASSETS}")
    return assets


def _key(key: str) -> str:
    if not key or len(key) > MAX_KEY or not key.isprintable():
        raise UnreadableError(f"one of its assets is named {shown(key)}; expected up to {MAX_KEY} printable letters")
    return key


def _asset(key: str, told: Any) -> dict[str, Any]:
    """What every asset must have, and what tells which band it is."""
    if not isinstance(told, dict) or not isinstance(told.get("href"), str) or not 0 < len(told["href"]) <= MAX_HREF:
        raise UnreadableError(f"its asset {key} has no href, which STAC demands of every asset")
    if not told["href"].isprintable():
        raise UnreadableError(f"its asset {key} lies at {shown(told['href'])}, which is no address")
    kept = {"href": told["href"], "bands": _bands(told)}
    if isinstance(told.get("type"), str):
        kept["type"] = told["type"][:200]
    if isinstance(told.get("roles"), list):
        kept["roles"] = [str(role)[:40] for role in told["roles"][:10] if isinstance(role, str)]
    if isinstance(told.get("gsd"), int | float) and 0 < told["gsd"] < 1e6:
        kept["gsd"] = told["gsd"]
    return {name: value for name, value in kept.items() if value}


def _bands(told: Mapping[str, Any]) -> list[dict[str, str]]:
    """Names of an asset's bands, which help to find it: STAC 1.1's `bands`, else `eo:bands` of the eo extension 1.x."""
    for name in ("bands", "eo:bands"):
        listed = told.get(name)
        if isinstance(listed, list) and listed:
            each = [band if isinstance(band, dict) else {} for band in listed[:50]]
            return [
                {
                    "name": _short(band.get("name")),
                    "eo:common_name": _short(band.get("eo:common_name") or band.get("common_name")),
                }
                for band in each
            ]
    return []


def _short(value: Any) -> str:
    return value[:40] if isinstance(value, str) else ""


def numbers(told: Mapping[str, Any]) -> dict[str, Any]:
    """What an asset says of its grid and numbers: STAC 1.1, else the raster extension of STAC 1.0."""
    found: dict[str, Any] = {}
    for each in (*values.records(told.get("raster:bands"), "raster:bands")[:1], *_first_band(told), told):
        for name in ("data_type", "nodata"):
            found |= {name: each[name]} if each.get(name) is not None else {}
        for name in ("scale", "offset"):
            stated = each.get(f"raster:{name}", each.get(name))
            if (value := values.number(stated, name, -1e6, 1e6)) is not None:
                found[f"raster:{name}"] = value
    kept = {
        **found,
        "data_type": values.text(found.get("data_type"), "data_type", longest=20),
        "nodata": values.nodata(found.get("nodata")),
        "file:checksum": values.text(told.get("file:checksum"), "file:checksum"),
        **_projection(told),
    }
    return {name: value for name, value in kept.items() if value is not None}


def _first_band(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    return values.records(told.get("bands"), "bands")[:1]


def _absolute(href: str, base: str, *, remote: bool) -> str:
    """Where an asset lies. An object store's address is joined like any other's, which urllib will not do."""
    try:
        if "://" in href or (href.startswith("/") and not remote):
            whole = href
        elif "://" in base:
            scheme, _, rest = base.partition("://")
            whole = scheme + urljoin(f"http://{rest}", href).removeprefix("http")
        else:
            whole = str((Path(base).parent / href).resolve())
        parts = urlsplit(whole)
        known = parts.port != 0 and (not remote or (parts.scheme.lower() in REMOTE and bool(parts.netloc)))
    except ValueError:  # "http://[x": no address of IPv6; a port beyond 65535; half a surrogate or a null in a path
        known = False
    if not known:
        raise UnreadableError(f"an asset lies at {shown(href)}; expected an address of {', '.join(REMOTE)}")
    return whole
