"""What scenes there are: a STAC API or a file of STAC items, searched by place and time.

Items leave this module as `item.parse` reads them: plain dicts without the assets nobody asked for, with absolute and
unsigned hrefs, and in one order, whatever the catalog.
"""

import functools
import json
import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shapely.geometry.base import BaseGeometry

from cloudjob.catalog import stac_api
from cloudjob.catalog.dates import Interval
from cloudjob.catalog.item import Found, Item, RefusedError, parse
from cloudjob.catalog.presets import Catalog
from cloudjob.catalog.values import load, shown
from cloudjob.errors import ContractError, UsageError

log = logging.getLogger(__name__)


def search(
    catalog: Catalog,
    area: BaseGeometry,
    interval: Interval,
    *,
    max_cloud_cover: float | None = None,
) -> list[Item]:
    """Find the items whose footprint shares some ground with `area` and whose time lies in `interval`.

    Every condition is checked here, on what any catalog answers, so that an API and a file of its items agree.

    Args:
        catalog: where to look.
        area: polygons in longitude, latitude.
        interval: of `datetime`, or of `start_datetime` to `end_datetime` where an item has no `datetime`.
        max_cloud_cover: the highest `eo:cloud_cover` wanted, in percent; an item that tells none is wanted.

    Returns:
        The items, oldest first, those of one moment by id. Each once; where an id is listed twice in its collection,
        the one updated last.

    Raises:
        UnreachableError: if the API does not answer, after some patience.
        ContractError: if the answer, or the file, is not STAC. (One item that is not is given by its name among the
            others: it is `describe` that refuses it.)
        UsageError: if an option makes no sense, or an API has no such collection.
    """
    if max_cloud_cover is not None and not 0 <= max_cloud_cover <= 100:
        raise UsageError(f"max cloud cover is {max_cloud_cover:g}, expected 0 to 100 percent")
    found: dict[tuple[str, str], Found] = {}
    for raw in _asked_for(catalog, _listed(catalog, area, interval)):
        one = _read(raw, catalog)
        if _wanted(one, area, interval, max_cloud_cover):
            key = one.item["collection"], one.item["id"]
            found[key] = max(found.get(key, one), one, key=lambda each: each.item["properties"].get("updated", ""))
    return [one.item for one in sorted(found.values(), key=_order)]


def _read(raw: Any, catalog: Catalog) -> Found:
    """An item as far as it can be read: one that cannot be used is given by its name, for `describe` to refuse it."""
    base = catalog.address
    if catalog.is_api and isinstance(raw, dict):  # Where the STAC API specification puts an item
        base += f"/collections/{raw.get('collection') or catalog.collection}/items/{raw.get('id')}"
    try:
        unnamed = catalog.assets.keys() - catalog.named
        found = parse(raw, catalog.assets, unnamed=unnamed, base=base, remote=catalog.is_api)
    except RefusedError as error:
        return error.found
    for asset in found.item["assets"].values():
        asset |= {name: _parsed(json.dumps(value)) for name, value in asset.items() if isinstance(value, list)}
    return found


_parsed = functools.lru_cache(10_000)(json.loads)
"""One object for all lists that say the same: shapes, transforms and bands are those of the neighbours."""


def _wanted(found: Found, area: BaseGeometry, interval: Interval, most: float | None) -> bool:
    """Whether time, place and clouds of an item are asked for. What it does not tell is wanted."""
    if found.times and not interval.touches(*found.times):
        return False
    if found.footprint and not found.footprint.intersection(area).area > 0:
        return False
    return most is None or found.item["properties"].get("eo:cloud_cover", 0) <= most


def _order(found: Found) -> tuple[datetime, datetime, str, str]:
    first, last = found.times or (datetime.min.replace(tzinfo=UTC),) * 2
    return first, last, found.item["id"], found.item["collection"]


def _listed(catalog: Catalog, area: BaseGeometry, interval: Interval) -> Iterable[Any]:
    if catalog.is_api:
        return stac_api.items(catalog.address, catalog.collection, area, interval)
    return _file_items(catalog)


def _asked_for(catalog: Catalog, items: Iterable[Any]) -> Iterator[Any]:
    """The items of the collections asked for. An API lists others where its next link loses what was asked for."""
    wanted, others, found = catalog.collection.split(","), set(), False
    for item in items:
        if wanted != [""] and isinstance(item, dict):
            told = item.get("collection")
            if told not in wanted and not (told is None and catalog.is_api):
                others.add(shown(told))
                continue
            found = True
        yield item
    if others and not found:
        raise UsageError(
            f"catalog {catalog.name} has no item of collection {catalog.collection!r}",
            hint=f"it has items of {', '.join(sorted(others)[:20])}",
        )
    if others and catalog.is_api:  # Some take a collection's former name, and list its items under the one of today
        log.warning("%s also lists items of %s: they are left out", catalog.name, ", ".join(sorted(others)[:20]))


def _file_items(catalog: Catalog) -> Iterator[Any]:
    """The items of a file."""
    try:
        document = load(Path(catalog.address).read_bytes())
    except OSError as error:
        raise UsageError(f"catalog {catalog.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ContractError(
            f"catalog {catalog.name} is not JSON: {error}",
            hint="expected one STAC item or item collection; GeoParquet, or an item a line, has to be made into that",
        ) from None
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        items = document["features"]
    elif kind == "Feature":
        items = [document]
    else:
        raise ContractError(
            f"catalog {catalog.name} holds {kind or type(document).__name__}, expected a STAC item or item collection",
            hint="a static catalog cannot be searched: gather its items in one item collection, or in Python hand over "
            "pystac.Catalog.from_file(FILE).get_items(recursive=True)"
            if kind in ("Catalog", "Collection")
            else 'items go into one file as {"type": "FeatureCollection", "features": [...]}',
        )
    items.reverse()
    while items:  # each is let go before the next one is copied
        yield items.pop()
