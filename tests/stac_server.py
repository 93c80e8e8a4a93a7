"""A small real STAC API on loopback for tests: search with paging as Earth Search does it, and faults on demand."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from shapely import box
from shapely.geometry import shape

CONFORMANCE = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/item-search",
]


@dataclass
class StacServer:
    """What the server lists, how it pages, and what goes wrong.

    Attributes:
        items: what a search goes through, in this order.
        methods: how it can be searched.
        page: the most items on a page, whatever the request asks for.
        merge: whether the next page's body holds only what changes (else the whole search).
        filters: whether the search's conditions are heeded; a sloppy server lists everything.
        faults: one for each of the next requests: an HTTP status, "slow", "drip", "hang up", "cut", "html",
            "json", "empty", or "".
        lasting: the fault of every request after those.
        slowness: seconds of "slow".
        retry_after: sent with statuses.
        circles: whether the next link leads to the first page again.
        refuses: a search (what was asked) that is answered with 400.
        refusal: what is said then.
        matched: how many items it says it has for a search; 0 for nothing.
        following: the next link of every page, whatever is on it.
        empty_pages: how many pages without items come first.
        largest: bytes of an answer; in place of a larger one comes `overload`, an HTTP status, as of AWS Lambda.
        home: path of the landing page.
        pages: whether who does not ask for JSON gets web pages, as from GeoServer and others that show both.
        requests: (method, path with query, body) of every request so far.
    """

    items: list = field(default_factory=list)
    methods: tuple = ("GET", "POST")
    page: int = 10
    merge: bool = False
    filters: bool = True
    faults: deque = field(default_factory=deque)
    lasting: int | str = ""
    slowness: float = 5.0
    retry_after: str = ""
    circles: bool = False
    refuses: Callable[[dict], bool] = lambda told: False
    refusal: str = "not so"
    matched: int = 0
    following: dict = field(default_factory=dict)
    empty_pages: int = 0
    largest: int = 0
    overload: int = 502
    home: str = "/v1"
    pages: bool = False
    requests: list = field(default_factory=list)
    port: int = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def searches(self):
        """The searches among the requests."""
        return [request for request in self.requests if request[1].startswith("/v1/search")]

    def landing(self):
        links = [
            {"rel": "self", "href": self.url, "type": "application/json"},
            {"rel": "root", "href": self.url, "type": "application/json"},
            {"rel": "data", "href": f"{self.url}/collections", "type": "application/json"},
            *(
                {"rel": "search", "href": f"{self.url}/search", "type": "application/geo+json", "method": method}
                for method in self.methods
            ),
        ]
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "test",
            "description": "test",
            "conformsTo": CONFORMANCE,
            "links": links,
        }

    def collections(self):
        return sorted({item["collection"] for item in self.items})

    def search(self, method, asked):
        """One page of the answer to a search."""
        found = [item for item in self.items if not self.filters or _matches(item, asked)]
        start = int(asked.get("token", -self.empty_pages))
        size = min(self.page, int(asked.get("limit", 10))) if start >= 0 else 1
        links = []
        if start + size < len(found) or self.circles:
            token = "0" if self.circles else str(start + size)
            link = {"rel": "next", "href": f"{self.url}/search", "type": "application/geo+json", "method": method}
            if method == "POST":
                link |= {"merge": self.merge, "body": {"token": token} if self.merge else {**asked, "token": token}}
            else:
                flat = {key: json.dumps(value) if key == "intersects" else value for key, value in asked.items()}
                flat |= {"bbox": ",".join(map(str, asked["bbox"]))} if "bbox" in asked else {}
                link["href"] += "?" + urlencode({**flat, "token": token})
            links.append(link)
        features = found[start : start + size] if start >= 0 else []
        told = {"numberMatched": self.matched} if self.matched else {}
        return {
            "type": "FeatureCollection",
            "features": features,
            "links": [self.following] if self.following else links,
            **told,
        }


def _matches(item, asked):
    collections = asked.get("collections", [])
    if collections and item["collection"] not in (
        collections.split(",") if isinstance(collections, str) else collections
    ):
        return False
    begin, end = asked["datetime"].split("/")
    moment = datetime.fromisoformat(item["properties"]["datetime"])
    if moment < datetime.fromisoformat(begin) or (end != ".." and moment > datetime.fromisoformat(end)):
        return False
    area = shape(asked["intersects"]) if "intersects" in asked else box(*asked["bbox"])
    return shape(item["geometry"]).intersects(area)


class _Handler(BaseHTTPRequestHandler):
    api: StacServer

    def do_GET(self):
        self._serve({})

    def do_POST(self):
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body):
        api = self.api
        api.requests.append((self.command, self.path, body))
        fault = api.faults.popleft() if api.faults else api.lasting
        if api.pages and "json" not in self.headers.get("Accept", ""):
            fault = "html"
        if fault == "slow":
            time.sleep(api.slowness)
        if fault == "hang up":
            self.close_connection = True
            return
        if isinstance(fault, int):
            self._answer(fault, b'{"message": "something is wrong"}')
        elif fault == "html":
            self._answer(200, b"<html>Please log in</html>", "text/html")
        elif fault == "empty":
            self._answer(200, b"")
        elif fault == "json":
            self._answer(200, b'{"message": "Endpoint request timed out"}')
        else:
            status, answer = self._route(body)
            text = json.dumps(answer) if status < 400 else str(answer["message"])
            if 0 < api.largest < len(text):
                status, text = api.overload, "Internal server error"
            self._answer(status, text.encode(), fault=fault)

    def _route(self, body):
        api, parts = self.api, urlsplit(self.path)
        if parts.path == api.home:
            return 200, api.landing()
        if parts.path == "/v1/search" and self.command in api.methods:
            asked = body
            if self.command == "GET":
                asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
                if "intersects" in asked:
                    asked["intersects"] = json.loads(asked["intersects"])
                else:
                    asked["bbox"] = [float(side) for side in asked["bbox"].split(",")]
            if api.refuses(asked):
                return 400, {"message": api.refusal}
            return 200, api.search(self.command, asked)
        if parts.path == "/v1/collections":
            return 200, {"collections": [{"id": name} for name in api.collections()]}
        if parts.path.removeprefix("/v1/collections/") in api.collections():
            return 200, {"id": parts.path.rpartition("/")[2]}
        return 404, {"message": "Not Found"}

    def _answer(self, status, content, kind="application/json", fault=""):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.api.retry_after and status >= 400:
            self.send_header("Retry-After", self.api.retry_after)
        self.end_headers()
        if fault == "drip":
            with suppress(ConnectionError):  # Whoever asked may not wait for the last drop
                for drop in content:
                    self.wfile.write(bytes([drop]))
                    time.sleep(0.03)
        else:
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

    def log_message(self, *args):
        pass


@contextmanager
def serving(handler, **attributes):
    """Serve a request handler's class on a free port of loopback; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), attributes))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def stac_server(**settings):
    """A running `StacServer`."""
    api = StacServer(**settings)
    with serving(_Handler, api=api) as api.port:
        yield api
