"""A STAC API's search: all pages, patiently, or an error that says whether trying again makes sense."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pystac
import requests
import shapely
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cloudjob.catalog.dates import Interval
from cloudjob.errors import ContractError, UnreachableError, UsageError, redact

log = logging.getLogger(__name__)

_TIMEOUT_S = (10, 60)
_WAITS_S = (1, 2, 4, 8, 16)
# Earth Search answers at most 6 MB (AWS Lambda), and an item is about 30 kB.
_PAGE = 100
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


def items(address: str, collection: str, area: BaseGeometry, interval: Interval) -> Iterator[Any]:
    """Yield what the API lists of `collection` in `area` (longitude, latitude) and `interval`, as it comes.

    Raises:
        UnreachableError: if the API does not answer after several tries.
        ContractError: if what answers is not a STAC API with item search.
        UsageError: if nothing is found and the API does not know the collection.
    """
    io = _PatientIO(max_retries=None)
    name = redact(address)
    with _translated(name):
        # Not Client.open, which warns where from_file raises later, and says it better.
        client = Client.from_file(address, io, timeout=_TIMEOUT_S)  # Given to the io itself it would be reset here
        # An API that offers POST takes areas of any size by it; to speak GET is every API's duty.
        methods = {link.extra_fields.get("method", "GET") for link in client.get_links("search")}
        found = client.search(
            method="POST" if "POST" in methods else "GET",
            collections=[collection],
            # Counter-clockwise: otherwise some servers take an area wider than 180° for its complement.
            intersects=mapping(shapely.orient_polygons(area)),
            datetime=interval.stac,
            limit=_PAGE,
        )
    pages = found.pages_as_dicts()
    seen: set[Any] = set()
    while True:
        with _translated(name):
            page = next(pages, None)
        if page is None:
            break
        before = len(seen)
        seen.update((one.get("collection"), one.get("id")) for one in page["features"] if isinstance(one, dict))
        if len(seen) == before:
            raise ContractError(f"{name} lists the same page of items again and again")
        yield from page["features"]
    if not seen:
        _check_collection(io, address, collection)


class _PatientIO(StacApiIO):
    """Tries again what may be over soon.

    Not by urllib3's Retry: that ends with an answer's headers, and its log lines carry query strings.
    """

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        for wait in _WAITS_S:
            try:
                return super().request(href, method, headers, parameters)
            except APIError as error:
                if not _may_pass(error):
                    raise
                log.warning("%s: %s; trying again in %g s", redact(href), _reason(error), wait)
            time.sleep(wait)
        return super().request(href, method, headers, parameters)

    def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        answer = super().read_json(source, *args, **kwargs)
        # pystac-client would take an answer without features for the end of the list.
        if not isinstance(answer, dict) or not answer.keys() & {"stac_version", "features", "collections"}:
            raise ValueError(f"got {json.dumps(answer)[:200]}")
        return answer


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn what pystac-client raises into our errors. `name` is the API's address without secrets."""
    try:
        yield
    except APIError as error:
        if _may_pass(error):
            hint = "nothing was changed; the same command may work later"
            raise UnreachableError(f"{name} does not answer: {_reason(error)}", hint=hint) from None
        hint = "is it the address of a STAC API's landing page, and may you use it?"
        raise ContractError(f"{name} refuses: {_reason(error)}", hint=hint) from None
    except (
        *(pystac.STACError, pystac.STACTypeError, ClientTypeError, PystacClientWarning, NotImplementedError),
        *(ValueError, KeyError, TypeError, AttributeError),  # From reading what is no STAC
    ) as error:
        hint = "expected a STAC API with item search; a static catalog cannot be searched"
        raise ContractError(f"{name} is not a STAC API: {type(error).__name__}: {error}", hint=hint) from None


def _may_pass(error: APIError) -> bool:
    status = getattr(error, "status_code", None)
    if status is not None:
        return status in _PASSING
    cause = error.__context__
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(cause, passing) and not isinstance(cause, requests.exceptions.SSLError)


def _reason(error: APIError) -> str:
    """What went wrong, without the address: its query may be secret."""
    status = getattr(error, "status_code", None)
    if status is not None:
        return f"HTTP {status} {' '.join(str(error).split())[:200]}".strip()
    cause = error.__context__ or error
    inner = cause.args[0] if cause.args else cause
    return str(getattr(inner, "reason", inner))


def _check_collection(io: _PatientIO, address: str, collection: str) -> None:
    """Tell a collection in which nothing was found from one that does not exist: most APIs answer both alike."""
    try:
        io.request(f"{address}/collections/{quote(collection, safe='')}")
    except APIError as error:
        if getattr(error, "status_code", None) != requests.codes.not_found:
            return  # The search itself was answered; this was only to say more.
    else:
        return
    with _translated(redact(address)):
        names = sorted(one["id"] for one in io.read_json(f"{address}/collections")["collections"])
    raise UsageError(
        f"{redact(address)} has no collection {collection!r}", hint=f"it has {', '.join(names[:20]) or 'none'}"
    )
