"""A STAC API's search: all pages, in the first form that the API takes, or an error that says what to do."""

import contextlib
import json
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit, urlunsplit

import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cloudjob.catalog.answers import Client, RefusedRequestError, ServerFaultError
from cloudjob.catalog.dates import Interval
from cloudjob.errors import CloudjobError, ContractError, UsageError, did_you_mean, redact

log = logging.getLogger(__name__)

_TIMEOUT_S = (10, 60)
_WAITS_S = (1, 2, 4, 8, 16)
# Earth Search answers at most 6 MB (AWS Lambda), and an item is about 30 kB.
_PAGE = 100
_FEW = 20
_STALE = 3
"""Pages without news, one after the other, that are no chance: what is ingested while pages are turned moves all the
others on by its number."""
_EMPTY = 20
"""Pages without items, one after the other, after which no more come: some APIs link to a next page for ever."""
MAX_PAGES = 10_000
"""A search that has not ended by then never will."""

_ITEM_SEARCH = "item-search"
_SIMPLER = frozenset({400, 404, 405, 411, 413, 414, 415, 422, 501})
"""What a server answers (HTTP) that does not understand a form of a search."""


@dataclass(frozen=True)
class _Request:
    """One page to ask for."""

    method: str
    address: str
    body: dict[str, Any] | None = None


def items(address: str, collection: str, area: BaseGeometry, interval: Interval) -> Iterator[Any]:
    """Yield what the API lists of `collection` in `area` (longitude, latitude) and `interval`, as it comes.

    It may list more than was asked for: not every API takes every form of a search.

    Args:
        address: of the landing page.
        collection: one, or several with commas between them.
        area: polygons.
        interval: of the items' times.

    Raises:
        UnreachableError: if the API does not answer after several tries.
        ContractError: if what answers is not a STAC API with item search, or refuses us.
        UsageError: if nothing is found and the API does not know the collection, or the address is a collection's.
    """
    client = Client(_WAITS_S, _TIMEOUT_S)
    name, asked_for = redact(address), collection.split(",")
    forms = list(_forms(asked_for, area, interval))
    try:
        searches = _searches(client, address)
        try:
            found = yield from _pages(client, name, searches, forms)
        except ServerFaultError as error:  # Earth Search's, where a hundred items have more than 6 MB (its issue 17)
            log.warning("%s; it is asked anew, for less at once", error)
            less = [form for form in forms if form.get("limit") != _PAGE]
            found = yield from _pages(client, name, searches, less)
        except RefusedRequestError as error:
            # As in `_turned`; there is where the specification has it
            usual = [replace(search, address=f"{_folder(address)}search") for search in searches]
            if error.status != 404 or usual == searches:
                raise
            found = yield from _pages(client, name, usual, forms)
    except RefusedRequestError as error:
        hint = "is it the address of a STAC API's landing page, and may you use it?"
        raise ContractError(f"{name} refuses: {error}", hint=hint) from None
    if not found:
        _check_collections(client, address, asked_for)


def _pages(
    client: Client, name: str, searches: list[_Request], forms: list[dict[str, Any]]
) -> Generator[Any, None, bool]:
    """Yield what all pages of a search list; return whether that is anything."""
    asked, page, limit = _first_page(client, searches, forms)
    seen: set[str] = set()
    stale, empty, first = 0, 0, _matched(page)
    for number in range(1, MAX_PAGES + 1):
        before = len(seen)
        yield from page["features"]
        seen.update(_named(one) for one in page["features"])
        following = _next(asked, page)
        empty = 0 if page["features"] else empty + 1
        if following is None or empty == _EMPTY or (empty and following == asked):
            break
        stale = 0 if len(seen) > before else stale + bool(page["features"])
        if following == asked or stale == _STALE:
            raise ContractError(f"{name} lists the same page of items again and again")
        if number == MAX_PAGES:
            raise ContractError(f"{name} lists more than {MAX_PAGES} pages", hint="ask for a smaller area or time")
        asked, page = _turned(client, asked, following)
    if (matched := _matched(page)) > len(seen):
        by_get = [search for search in searches if search.method == "GET" != asked.method]
        # The Brazil Data Cube's tells the next page to those who ask by GET only; datacube-explorer's counts by the box
        if by_get:
            with contextlib.suppress(RefusedRequestError, CloudjobError):  # Then what POST listed is told as it is
                return (yield from _pages(client, name, by_get, forms)) or bool(seen)
        log.warning("%s says that it has %d items for this search, but lists only %d", name, matched, len(seen))
    elif number > 1 and 0 < matched < first:  # All that follow have moved up, one of them to a page turned before
        told = "%s had %d items for this search at first and %d in the end: one may have been passed over; run again"
        log.warning(told, name, first, matched)
    elif number == 1 and not matched and len(page["features"]) == limit:  # microsoft/planetary-computer-apis#274
        log.warning("%s lists as many items as it was asked for (%d) and no next page: it may have more", name, limit)
    if empty == _EMPTY and following:
        log.warning("%s lists %d pages without items one after the other: no more are asked for", name, _EMPTY)
    return bool(seen)


def _turned(client: Client, asked: _Request, following: _Request) -> tuple[_Request, dict[str, Any]]:
    """The next page, and what it was asked by.

    A server that does not know under which path it is called links to another one (stac-fastapi-pgstac's issues 194 and
    262): what it refuses there is asked for where the page before came from.
    """
    try:
        return following, _page(client, following)
    except RefusedRequestError:
        path = urlsplit(asked.address).path
        here = replace(following, address=urlunsplit(urlsplit(following.address)._replace(path=path)))
        if here == following:
            raise
        return here, _page(client, here)


def _searches(client: Client, address: str) -> list[_Request]:
    """Where and how the API can be searched, the better way first."""
    try:
        landing = client.ask("GET", address)
    except RefusedRequestError as error:
        if error.status != 404:
            raise
        bare, mark, query = address.partition("?")  # Some know it only with a stroke at its end, or without
        landing = client.ask("GET", (bare[:-1] if bare.endswith("/") else f"{bare}/") + mark + query)
    name = redact(address)
    if landing.get("type") == "Collection":
        raise UsageError(f"{name} is the address of a collection", hint=f"try {_landing_of(landing, address)}")
    if not landing.keys() & {"stac_version", "conformsTo"} or landing.get("type", "Catalog") != "Catalog":
        hint = "expected a STAC API with item search; a static catalog cannot be searched"
        if landing.get("type") in ("Feature", "FeatureCollection"):
            hint = "these are items: expected the API's landing page, or a file with all of them (--catalog items.json)"
        raise ContractError(f"{name} is not a STAC API: it answers {json.dumps(landing)[:200]}", hint=hint)
    # Some list the same search as HTML, too, or OpenSearch's description of it
    links = [link for link in _links(landing, "search") if "json" in str(link.get("type") or "json")]
    if not links:
        raise ContractError(
            f"{name} is not a STAC API: it has no link to a search",
            hint="expected a STAC API with item search; a static catalog cannot be searched",
        )
    if not any(_ITEM_SEARCH in str(one) for one in _listed(landing, "conformsTo")):
        log.warning("%s does not say that it can be searched (conformsTo); its search is tried all the same", name)
    told = {str(link["method"]).upper(): link for link in reversed(links) if link.get("method")}
    # A link that names no method means GET by the specification; datacube-explorer takes areas only by POST.
    methods = [method for method in ("POST", "GET") if method in told] or ["POST", "GET"]
    return [_Request(method, _linked(_folder(address), told.get(method, links[0]))) for method in methods]


def _first_page(
    client: Client, searches: list[_Request], forms: list[dict[str, Any]]
) -> tuple[_Request, dict[str, Any], int | None]:
    """What it was asked by, first page and its most items, of the first form of a search that the API takes."""
    refusal = None
    for form in forms:
        for search in searches:
            asked = _Request("POST", search.address, form)
            if search.method == "GET":  # Some links have a query of their own, such as f=json
                mark = "&" if "?" in search.address else "?"
                asked = _Request("GET", f"{search.address}{mark}{_query(form)}")
            try:
                return asked, _page(client, asked), form.get("limit")
            except RefusedRequestError as error:
                refusal = refusal or error
                # Some let only GET pass, and forbid all else (stac-utils/pystac-client#900)
                if error.status not in _SIMPLER and not (error.status == 403 and search is not searches[-1]):
                    raise refusal from None
                refused = redact(asked.address), asked.method, error
                log.info("%s refuses a search by %s (%s): another one is tried", *refused)
    assert refusal is not None
    raise refusal


def _forms(collections: list[str], area: BaseGeometry, interval: Interval) -> Iterator[dict[str, Any]]:
    """Forms of one search, each simpler than the one before and asking for as much or more."""
    # Counter-clockwise: otherwise some servers take an area wider than 180° for its complement.
    shape = {"intersects": mapping(shapely.orient_polygons(area))}
    box = {"bbox": list(area.bounds)}
    # Whole seconds and two closed ends; what lies outside is sorted out by whoever asked.
    end = interval.end or datetime(2100, 1, 1, tzinfo=UTC)
    whole = f"{interval.start.isoformat()}/{end.isoformat()}".replace("+00:00", "Z")
    what = {"collections": collections}
    yield {**what, **shape, "datetime": interval.stac, "limit": _PAGE}
    yield {**what, **box, "datetime": interval.stac, "limit": _PAGE}
    yield {**what, **box, "datetime": whole, "limit": _PAGE}
    yield {**what, **box, "datetime": whole, "limit": _FEW}
    yield {**what, **box, "datetime": whole}


def _query(form: dict[str, Any]) -> str:
    flat = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in form.items()}
    flat |= {name: ",".join(map(str, value)) for name, value in form.items() if isinstance(value, list)}
    return urlencode(flat)


def _next(asked: _Request, page: dict[str, Any]) -> _Request | None:
    """What the page's `next` link asks for; None on the last page.

    It is a stranger's: only GET and POST, only of the server that was asked, and without headers of its choosing.
    """
    link = next(iter(_links(page, "next")), None)
    if link is None:
        return None
    address = _linked(asked.address, link)
    method, host = str(link.get("method") or "GET").upper(), urlsplit(address).hostname
    if method not in ("GET", "POST") or host != urlsplit(asked.address).hostname:
        raise ContractError(
            f"the next page of {redact(asked.address)} is said to be {method[:20]!r} of {str(host)[:200]!r}",
            hint="only GET and POST of the same server are followed",
        )
    if method == "GET":
        return _Request("GET", address)
    body = link.get("body")
    told = body if isinstance(body, dict) else {}
    return _Request("POST", address, {**(asked.body or {}), **told} if link.get("merge") else told or asked.body)


def _links(document: dict[str, Any], rel: str) -> list[dict[str, Any]]:
    return [
        link
        for link in _listed(document, "links")
        if isinstance(link, dict) and link.get("rel") == rel and isinstance(link.get("href"), str)
    ]


def _listed(document: dict[str, Any], name: str) -> list[Any]:
    listed = document.get(name)
    return listed if isinstance(listed, list) else []


def _folder(address: str) -> str:
    """A landing page is a folder, whether or not its address ends with a stroke."""
    return address.partition("?")[0].rstrip("/") + "/"


def _linked(base: str, link: dict[str, Any]) -> str:
    """The address of a link; of the same host, as it was asked: a server behind a proxy may not know its own name."""
    there, here = urlsplit(_joined(base, link["href"])), urlsplit(base)
    if there.hostname == here.hostname and (there.scheme, here.scheme) != ("https", "http"):
        there = there._replace(scheme=here.scheme, netloc=here.netloc)
    return urlunsplit(there._replace(fragment=""))


def _joined(base: str, href: str) -> str:
    """The address of a link."""
    try:
        address = urljoin(base, href)
        if urlsplit(address).scheme in ("http", "https"):
            return address
    except ValueError:  # "http://[x": no address of IPv6
        pass
    raise ContractError(f"{redact(base)} links to {href[:100]!r}, which is no address")


def _page(client: Client, asked: _Request) -> dict[str, Any]:
    return client.ask(asked.method, asked.address, asked.body, whole=_is_page)


def _is_page(answer: dict[str, Any]) -> bool:
    return isinstance(answer.get("features"), list)


def _named(one: Any) -> str:
    return f"{one.get('collection')}\n{one.get('id')}" if isinstance(one, dict) else repr(one)[:200]


def _matched(page: dict[str, Any]) -> int:
    """How many items the API says it has for a search; 0 where it does not say."""
    context = page.get("context")
    told = page.get("numberMatched", context.get("matched") if isinstance(context, dict) else None)
    return told if isinstance(told, int) else 0


def _landing_of(collection: dict[str, Any], address: str) -> str:
    """What to type instead of a collection's address."""
    root = next((_joined(_folder(address), link["href"]) for link in _links(collection, "root")), "")
    landing = root or address.rstrip("/").rpartition("/collections/")[0] or "the API's landing page"
    return f"--catalog {redact(landing).rstrip('/')} --collection {collection.get('id')}"


def _check_collections(client: Client, address: str, collections: list[str]) -> None:
    """Tell collections in which nothing was found from such as do not exist: most APIs answer both alike."""
    base = _folder(address)
    for collection in collections:
        try:
            client.ask("GET", f"{base}collections/{quote(collection, safe='')}")
        except RefusedRequestError as error:
            if error.status != 404:
                continue  # The search itself was answered; this was only to say more.
        else:
            continue
        try:
            listed = client.ask("GET", f"{base}collections")
        except RefusedRequestError:
            return
        names = [str(one.get("id")) for one in _listed(listed, "collections") if isinstance(one, dict)]
        hint = did_you_mean(collection, names) if names else "it has none"
        raise UsageError(f"{redact(address)} has no collection {collection!r}", hint=hint)
