"""A STAC item as any catalog answers it, parsed once: typed and bounded, or refused alone and by name.

What leaves `parse` is a plain STAC item again, because items are kept, planned and written down as JSON: but only with
what a job reads, each value of its type and within bounds. Reading it again changes nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cloudjob.catalog import asset, bands, signing, values
from cloudjob.catalog.area import read_footprint
from cloudjob.catalog.values import UnreadableError, shown
from cloudjob.errors import SceneError, redact

Item = dict[str, Any]

MAX_NAME = 240
"""Bytes of an id as part of a file's name, which may have 255 with what we add."""

MAX_ASSETS = 500
REMOTE = ("http", "https", "s3", "gs", "az")
"""Where the files of an API's items may lie: what a stranger lists must not make us open files of this machine."""

_MOMENTS = ("datetime", "start_datetime", "end_datetime")
_TEXTS = (
    *("platform", "grid:code", "processing:version"),
    *("s2:mgrs_tile", "s2:product_uri", "s2:processing_baseline", "s2:generation_time"),
    *("sentinel:processing_baseline", "sentinel:product_id", "sentinel:latitude_band", "sentinel:grid_square"),
    *("mgrs:latitude_band", "mgrs:grid_square", "odc:region_code"),
)
_ZONES = ("sentinel:utm_zone", "mgrs:utm_zone")
# s2:, eopf:, sentinel2: … the name is one, its prefix the publisher's
_ESAS = re.compile(r"[\w-]{0,20}:?(?:(datastrip|granule)_?id(?:entifier)?|(processing)[:_]?baseline)", re.IGNORECASE)
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


def parse(
    raw: Any,
    wanted: Mapping[str, str],
    *,
    unnamed: Collection[str] = (),
    base: str = "",
    remote: bool = False,
) -> Found:
    """Read an item.

    Args:
        raw: what a catalog lists; anything that JSON can hold.
        wanted: band → key of its asset (`bands.find`). Where one of them is missing all assets are kept, so that an
            error can name them; the scene classification may be missing.
        unnamed: bands whose asset no person has named: of these one that says it is another band is refused.
        base: address or path that relative hrefs count from, unless the item says where it lies.
        remote: whether it comes from an API, whose items may not point to files of this machine.

    Raises:
        RefusedError: it is no STAC item, or says of what a job reads something that cannot be.
    """
    found = Found(_refused(raw, ""))
    try:
        return _parse(raw, wanted, unnamed, base, remote=remote, found=found)
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


def _parse(
    raw: Any, wanted: Mapping[str, str], unnamed: Collection[str], base: str, *, remote: bool, found: Found
) -> Found:
    if not isinstance(raw, dict):
        raise UnreadableError(f"it is {shown(raw)}, not a STAC item")
    name = _id(raw.get("id"))
    properties, assets = raw.get("properties"), raw.get("assets")
    if not isinstance(properties, dict) or not isinstance(assets, dict):
        raise UnreadableError("it is not a STAC item: it has no properties or no assets")
    collection = values.text(raw.get("collection"), "collection") or ""
    found.times = _times(properties)
    found.footprint, geometry = _footprint(raw)
    told = _properties(properties)
    base, links = _links(raw, base, remote=remote)
    every = {key: _asset(key, one) for key, one in _bounded(assets).items()}
    found.keys = keys = bands.find(every, wanted)
    for band, key in keys.items():
        if band in unnamed:
            every[key] |= _doubted(band, key, every[key])
        if key != wanted[band]:  # Beside which others it was found is not kept
            every[key]["bands"] = [{"name": "", "eo:common_name": band}]
    kept = sorted(set(keys.values())) if not wanted.keys() - keys.keys() - bands.OPTIONAL else sorted(every)
    needed = {key for band, key in keys.items() if band not in bands.OPTIONAL}
    for key in kept:
        if key in keys.values():
            where = partial(_absolute, base=base, remote=remote)
            every[key] = _used(every[key], assets[key], properties, where, needed=key in needed)
        opened, href = key in keys.values() and "refused" not in every[key], every[key]["href"]
        every[key]["href"] = signing.remember((collection, name, key), href) if opened else signing.unsigned(href)
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
    kept |= asset.projection(told)
    # What Open Data Cube's items say as `created`: in anybody else's that is when they were listed.
    made = told.get("created" if told.get("dea:dataset_maturity") else "odc:processing_datetime")
    kept["odc:processing_datetime"] = values.text(made, "time of processing")
    kept["updated"] = told["updated"][:40] if isinstance(told.get("updated"), str) else None
    kept["title"] = _title(told.get("title"))
    kept["eo:cloud_cover"] = values.percentage(told.get("eo:cloud_cover"))
    for name, value in told.items():
        if value is not None and (found := _ESAS.fullmatch(name)):
            own = f"s2:{found[1].lower()}_id" if found[1] else "s2:processing_baseline"
            kept[own] = kept.get(own) or values.text(value, name)
    return {name: value for name, value in kept.items() if value is not None}


def _title(told: Any) -> str | None:
    """It may hold ESA's name of the product; what else people write there only informs."""
    return told if isinstance(told, str) and len(told) <= values.MAX_TEXT and told.isprintable() else None


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
    # Items read from GeoParquet have the assets of all others, too, as null; pgstac adds what the collection says of
    # those that an item lacks (`item_assets`), but no href (developmentseed/eoapi-devseed#39)
    return {key: one for key, one in assets.items() if (one.get("href") if isinstance(one, dict) else one) is not None}


def _asset(key: str, told: Any) -> dict[str, Any]:
    """An asset, or why it cannot be read: a thumbnail whose address is its whole picture costs no scene."""
    asset.check_key(key)
    try:
        return asset.read(key, told)
    except UnreadableError as error:
        before = told.get("refused") if isinstance(told, dict) else None  # What this said when it was read first
        return {"href": "", "refused": before[:1000] if isinstance(before, str) else redact(str(error))}


def _doubted(band: str, key: str, one: Item) -> dict[str, str]:
    """Why an asset is refused that was found for a band, as a field of it."""
    if "refused" in one or not (other := bands.contradiction(band, key, one)):
        return {}
    says = f"its asset {key} was taken for {band}, but {other}; expected one band"
    return {"refused": f"{says} (--asset {band}={key} takes it all the same)"}


def _used(one: Item, told: Any, properties: Mapping[str, Any], where: Callable[[str], str], *, needed: bool) -> Item:
    """An asset of a band that a job reads; one that the job can do without says why it cannot be read."""
    try:
        return _numbered(one, told, properties, where)
    except UnreadableError as error:
        if needed:
            raise
        return {**one, "refused": redact(str(error))}


def _numbered(one: Item, told: Any, properties: Mapping[str, Any], where: Callable[[str], str]) -> Item:
    if "refused" in one:
        raise UnreadableError(one["refused"])
    return {**one, **asset.numbers(told, properties), "href": where(one["href"])}


def _absolute(href: str, base: str, *, remote: bool) -> str:
    """Where an asset lies. An object store's address is joined like any other's, which urllib will not do."""
    try:
        # Java writes file:/one/stroke, which is as good (RFC 8089)
        if "://" in href or href.startswith("file:/") or (href.startswith("/") and not remote):
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
        here = "; files of this machine are read for items of a file only" if href.startswith("file:") else ""
        raise UnreadableError(f"an asset lies at {shown(href)}; expected an address of {', '.join(REMOTE)}{here}")
    return whole
