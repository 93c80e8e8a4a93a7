"""Answers of APIs that are broken, or hostile: searched or refused in bounded time, and one odd item costs itself."""

import gzip
import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import mutate
import pytest
import stac_server
from stac_server import StacServer
from test_items import WORLD, always, make_item

from cloudjob.catalog import answers, stac_api
from cloudjob.catalog.presets import catalog_for
from cloudjob.catalog.search import search
from cloudjob.errors import CloudjobError, printable
from cloudjob.store.document import dump

QUICK = 300
PATIENCE = 20
"""Seconds, by the clock."""
MOST = 2 * 30 * 12
"""Requests of one search: pages, forms of it, and tries."""

Answer = tuple[int, dict[str, str], bytes]


class Handler(stac_server._Handler):
    """A STAC API whose answers `spoil` changes before they go out."""

    spoil: Callable[[Answer], Answer]
    asked: list[tuple[str, Any]]

    def _serve(self, body: Any) -> None:
        self.asked.append((self.command, self.headers.get("X-Chosen")))
        try:
            super()._serve(body)
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError):  # A link of its own led here
            self._answer(400, b'{"message": "not understood"}')

    def do_PUT(self) -> None:  # noqa: N802 -- what http.server looks for
        self._serve({})

    do_DELETE = do_PATCH = do_HEAD = do_PUT  # noqa: N815

    def _answer(self, status: int, content: bytes, kind: str = "application/json", fault: str = "") -> None:
        status, headers, content = type(self).spoil((status, {"Content-Type": kind}, content))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StacServer, type[Handler]]]:
    """A server, and the handler whose `spoil` may be set. Nobody waits, and bounds are small."""
    monkeypatch.setattr(stac_api, "_WAITS_S", (0, 0))
    monkeypatch.setattr(stac_api, "MAX_PAGES", 30)
    monkeypatch.setattr(answers, "LONGEST_WAIT", 0.0)
    monkeypatch.setattr(answers, "MAX_BYTES", 2**20)
    monkeypatch.setattr(answers, "MAX_SECONDS", 5)
    server, handler = StacServer(filters=False), type("Odd", (Handler,), {"asked": []})
    logging.disable(logging.CRITICAL)  # Records hold half a surrogate, raw, which pytest-xdist cannot send
    try:
        with stac_server.serving(handler, api=server) as server.port:
            yield server, handler
    finally:
        logging.disable(logging.NOTSET)


def strange(rng: random.Random, url: str) -> Any:
    """A link of a hostile API."""
    href = rng.choice([url, "/v1/search", "?", "//127.0.0.1/x", "http://127.0.0.1:1/x", *map(str, mutate.TEXTS)])
    method = rng.choice(["GET", "POST", "PUT", "DELETE", "get", None, 1, "\r\nX-Chosen: 1"])
    body = rng.choice([None, {}, {"token": "0"}, {"token": "1"}, mutate.DEEP, [], "x"])
    link = {"rel": rng.choice(["next", "search", "root"]), "href": href, "method": method, "headers": {"X-Chosen": "1"}}
    return {**link, "body": body, "merge": rng.choice([True, False, "x", None])}


def spoiled(rng: random.Random, url: str, answer: Answer) -> Answer:
    """One answer, changed as a document, as bytes, or in what goes before it."""
    status, headers, content = answer
    match rng.randrange(4):
        case 0:
            document = mutate.document(rng, json.loads(content))
            content = json.dumps(document).encode()
        case 1:
            document = json.loads(content)
            if isinstance(document.get("links"), list):
                document["links"] = [*document["links"], strange(rng, url)]
                rng.shuffle(document["links"])
            content = json.dumps(document).encode()
        case 2:
            content = mutate.data(rng, content) if rng.random() < 0.9 else b"[" * 100_000
        case _:
            status = rng.choice([200, 204, 206, 301, 302, 307, 308, 400, 401, 403, 404, 405, 429, 500, 501, 503, 520])
            headers |= rng.choice(
                [
                    {"Location": rng.choice([url, "/v1", "//", "file:///etc/passwd", "http://[::1", "x\x7f"])},
                    {"Content-Encoding": rng.choice(["gzip", "deflate", "br", "x"])},
                    {"Content-Length": rng.choice(["0", "7", str(len(content) // 2)])},
                    {"Content-Type": "text/html; charset=utf-16"},
                    {"Retry-After": rng.choice(["0", "-1", "99999", "9" * 400, "Wed, 99 Foo", "\x00", "1e9", "nan"])},
                ]
            )
            if rng.random() < 0.1:  # Packed, it is small
                headers, content = {"Content-Encoding": "gzip"}, gzip.compress(bytes(2**22))
    return status, headers, content


def attempt(rng: random.Random, server: StacServer, handler: type[Handler]) -> str:
    """One try; returns how it ended."""
    nowhere = "http://127.0.0.1:1"
    odd = [mutate.document(rng, make_item(f"ODD{number}", nowhere)) for number in range(rng.choice((1, 3)))]
    server.items = [*odd, make_item("GOOD", nowhere)]
    rng.shuffle(server.items)
    server.page, server.merge = rng.choice((1, 2, 10)), rng.random() < 0.5
    server.methods = rng.choice((("GET", "POST"), ("GET",), ("POST",)))
    only_items = rng.random() < 0.3
    first = rng.randrange(4)
    bad = set() if only_items else {first, *range(first, first + rng.choice((1, 1, 3, 99)))}
    counter = itertools.count()
    handler.spoil = lambda answer: spoiled(rng, server.url, answer) if next(counter) in bad else answer
    handler.asked.clear()
    started, refused, found = time.monotonic(), None, []
    try:
        found = list(search(catalog_for(server.url, collection="c"), WORLD, always()))
    except CloudjobError as error:
        refused = error
    assert time.monotonic() - started < PATIENCE
    assert len(handler.asked) < MOST
    assert all(method in ("GET", "POST") and not chosen for method, chosen in handler.asked)
    dump(found)
    if only_items:
        assert refused is None, refused
        assert "GOOD" in {item["id"] for item in found}
    assert printable(str(refused)) == str(refused)
    return type(refused).__name__ if refused else "found"


@pytest.mark.timeout(mutate.LIMIT)
def test_an_odd_answer_is_refused_and_an_odd_item_costs_itself(api: tuple[StacServer, type[Handler]]) -> None:
    ended = [attempt(rng, *api) for rng in mutate.generators(QUICK)]
    told = {name: ended.count(name) for name in sorted(set(ended))}
    print(f"{len(ended)} tries: {told}")
    assert told["found"] > len(ended) / 5
    assert told.keys() >= {"ContractError", "UnreachableError"}
