"""What scenes there are: a STAC API or a file of STAC items, searched by place and time.

Items leave this module as plain dicts (pystac would rewrite `proj:epsg`), without the assets nobody asked for, with
absolute and unsigned hrefs, and in one order, whatever the catalog.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from shapely.geometry.base import BaseGeometry

from cloudjob.catalog import stac_api
from cloudjob.catalog.area import footprint
from cloudjob.catalog.dates import Interval
from cloudjob.catalog.presets import Catalog
from cloudjob.catalog.signing import unsigned
from cloudjob.errors import ContractError, UsageError

Item = dict[str, Any]


def search(
    catalog: Catalog,
    area: BaseGeometry,
    interval: Interval,
    *,
    max_cloud_cover: float | None = None,
    limit: int | None = None,
) -> Iterator[Item]:
    """Find the items whose footprint shares some ground with `area` and whose time lies in `interval`.

    Every condition is checked here, on what any catalog answers, so that an API and a file of its items agree.

    Args:
        catalog: where to look.
        area: polygons in longitude, latitude.
        interval: of `datetime`, or of `start_datetime` to `end_datetime` where an item has no `datetime`.
        max_cloud_cover: the highest `eo:cloud_cover` wanted, in percent; an item that tells none is wanted.
        limit: how many items at most: the newest ones.

    Returns:
        The items, oldest first, those of one moment by id. Each once; where an id is listed twice in its collection,
        the one updated last.

    Raises:
        UnreachableError: if the API does not answer, after some patience.
        ContractError: if the answer, or the file, is not STAC. (One item whose time or place cannot be read is given
            like the others: it is `metadata.describe` that refuses it.)
        UsageError: if an option makes no sense, or an API has no such collection.
    """
    if max_cloud_cover is not None and not 0 <= max_cloud_cover <= 100:
        raise UsageError(f"max cloud cover is {max_cloud_cover:g}, expected 0 to 100 percent")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, expected 1 or more")
    found: dict[tuple[str, str], Item] = {}
    for item in _listed(catalog, area, interval):
        if (max_cloud_cover is None or _cloud_cover(item) <= max_cloud_cover) and _wanted(item, area, interval):
            key = item.get("collection") or "", item["id"]
            tidy = _tidy(item, catalog)
            found[key] = max(found.get(key, tidy), tidy, key=lambda one: str(one["properties"].get("updated") or ""))
    items = sorted(found.values(), key=_order)
    return iter(items[-limit if limit else 0 :])


def _wanted(item: Item, area: BaseGeometry, interval: Interval) -> bool:
    """Whether time and place of an item are asked for. Where it tells none it stays, for `describe` to refuse it."""
    try:
        return interval.touches(*_times(item)) and footprint(item).intersection(area).area > 0
    except ContractError:
        return True


def _order(item: Item) -> tuple[datetime, datetime, str, str]:
    try:
        first, last = _times(item)
    except ContractError:
        first = last = datetime.min.replace(tzinfo=UTC)
    return first, last, item["id"], item.get("collection") or ""


def _listed(catalog: Catalog, area: BaseGeometry, interval: Interval) -> Iterator[Item]:
    """Yield what the catalog answers: items, checked for what STAC promises of every one."""
    if catalog.is_api:
        listed: Iterable[Any] = stac_api.items(catalog.address, catalog.collection, area, interval)
    else:
        listed = _file_items(catalog)
    for item in listed:
        if not (
            isinstance(item, dict)
            and isinstance(item.get("id"), str)
            and isinstance(item.get("properties"), dict)
            and isinstance(item.get("assets"), dict)
            and all(isinstance(asset, dict) and isinstance(asset.get("href"), str) for asset in item["assets"].values())
        ):
            named = repr(item.get("id")) if isinstance(item, dict) else type(item).__name__
            raise ContractError(f"{catalog.name} lists {named}, which is not a STAC item")
        yield item


def _file_items(catalog: Catalog) -> Iterator[Any]:
    """The items of a file, of one collection if one was asked for."""
    try:
        document = json.loads(Path(catalog.address).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"catalog {catalog.name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ContractError(f"catalog {catalog.name} is not JSON: {error}") from None
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        items = document["features"]
    elif kind == "Feature":
        items = [document]
    else:
        raise ContractError(
            f"catalog {catalog.name} holds {kind or type(document).__name__}, expected a STAC item or item collection",
            hint="a static catalog cannot be searched: gather its items in one item collection",
        )
    wanted = catalog.collection
    items.reverse()
    while items:  # each is let go before the next one is copied
        item = items.pop()
        if not wanted or (isinstance(item, dict) and item.get("collection") == wanted):
            yield item


def _times(item: Item) -> tuple[datetime, datetime]:
    """First and last moment of an item, UTC."""
    told = item["properties"]
    names = ("datetime", "datetime") if told.get("datetime") else ("start_datetime", "end_datetime")
    try:
        first, last = (datetime.fromisoformat(told[name]) for name in names)
    except (KeyError, TypeError, ValueError):
        raise ContractError(f"item {item['id']!r} has no {names[0]} that can be read") from None
    return _utc(first), _utc(last)


def _cloud_cover(item: Item) -> float:
    """What the provider says, in percent; 0 where it says nothing."""
    cover = item["properties"].get("eo:cloud_cover")
    return float(cover) if isinstance(cover, int | float) else 0.0


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _tidy(item: Item, catalog: Catalog) -> Item:
    """The item as it may be kept: its bands only (10,000 items are held at once), absolute and unsigned hrefs."""
    base = next((link["href"] for link in item.get("links") or () if link.get("rel") == "self"), "")
    links = [{"rel": "self", "href": base}] if base else []
    if not _is_absolute(base):
        base = catalog.address
        if catalog.is_api:  # Where the STAC API specification puts an item
            base += f"/collections/{item.get('collection') or catalog.collection}/items/{item['id']}"
    wanted = [key for key in catalog.assets.values() if key in item["assets"]]
    # One that lacks a band keeps all it has, so that the error can tell.
    missing = set(catalog.assets.values()) - set(wanted) - {catalog.assets.get("scl")}
    assets = {key: _hrefs(item["assets"][key], base) for key in (item["assets"] if missing else wanted)}
    for asset in assets.values():
        asset |= {name: _parsed(json.dumps(value)) for name, value in asset.items() if isinstance(value, list)}
    return {**item, "links": _hrefs(links, base), "assets": assets}


_parsed = functools.lru_cache(10_000)(json.loads)
"""One object for all lists that say the same: shapes, transforms and bands are those of the neighbours."""


def _hrefs(node: Any, base: str) -> Any:
    """A copy of `node` in which every `href` is absolute and unsigned."""
    if isinstance(node, dict):
        return {key: _absolute(value, base) if key == "href" else _hrefs(value, base) for key, value in node.items()}
    return [_hrefs(value, base) for value in node] if isinstance(node, list) else node


def _absolute(href: Any, base: str) -> Any:
    if not isinstance(href, str):
        return href
    if not _is_absolute(href):
        href = urljoin(base, href) if "://" in base else str((Path(base).parent / href).resolve())
    return unsigned(href)


def _is_absolute(href: str) -> bool:
    return "://" in href or href.startswith("/")
