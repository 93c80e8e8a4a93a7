"""A file server on loopback: byte ranges, a log of what was asked of it, and faults on demand."""

import gzip
import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stac_server import serving

Fault = int | str
"""An HTTP status, or "slow" (late, but right), "held" (right, once the test lets go), "stall" (headers, then nothing),
"cut" (half of the body, then the connection is closed), "short" (half of the body, and no word of it), "empty"
(nothing, as if that were all), "hang up" (no answer), "html" (a page in place of the file), "gzip" (the file packed,
though nobody asked for that), "json" (an error in its place, with 200), "portal" (sent on to that page), "whole" (all
of it, whatever part was asked for), or "" (none)."""


LOGIN = "/login"
WORDS: dict[Fault, tuple[str, bytes]] = {
    **dict.fromkeys(("html", "portal"), ("text/html", b"<html>Please log in</html>")),
    "json": ("application/json", b'{"error": "try again later"}'),
}

HELD = 120
"""Seconds after which a test has failed that should have let go."""


@dataclass(frozen=True)
class Request:
    """What was asked, and the fault it met."""

    method: str
    path: str
    query: str
    range: str
    fault: Fault


@dataclass
class FileServer:
    """What the server does; its files are those of `folder`.

    Attributes:
        folder: served from "/".
        rules: a pattern of paths, the faults of the next requests that match it, and that of all later ones.
        scarce: a fault, and the share of all other requests that meet it: by chance, but the same chance every time.
        slowness: seconds of "slow", and of "stall".
        go: what "held" waits for.
        signature: a query string that every request must carry, else 403; "" for none.
        get_only: what HEAD is answered, as 403 where that signature holds for GET alone; 0 for what GET is.
        token: that every request must bear in a header, else 401; "" for none.
        requests: every request so far.
    """

    folder: Path
    rules: list[tuple[str, deque[Fault], Fault]] = field(default_factory=list)
    scarce: tuple[Fault, float] = ("", 0.0)
    slowness: float = 0.2
    go: threading.Event = field(default_factory=threading.Event)
    signature: str = ""
    get_only: Fault = 0
    token: str = ""
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def disturb(self, pattern: str, *faults: Fault, lasting: Fault = "") -> None:
        """Have the next requests of paths that `pattern` is found in meet `faults`, and all later ones `lasting`."""
        self.rules.append((pattern, deque(faults), lasting))

    def calm(self) -> None:
        """Forget all rules and requests."""
        with self.lock:
            self.rules.clear()
            self.requests.clear()
            self.scarce = "", 0.0
            self.chance.seed(0)

    def asked(self, pattern: str = "") -> list[Request]:
        """Requests of paths that `pattern` is found in."""
        with self.lock:
            return [request for request in self.requests if re.search(pattern, request.path)]

    def fault_of(self, path: str) -> Fault:
        """What the next request of a path meets: the first rule that matches and has something to say."""
        if path == LOGIN:
            return "html"
        for pattern, faults, lasting in self.rules:
            if re.search(pattern, path):
                fault = faults.popleft() if faults else lasting
                if fault:
                    return fault
        fault, share = self.scarce
        return fault if self.chance.random() < share else ""


class _Handler(BaseHTTPRequestHandler):
    files: FileServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Headers and body go out apart: without this each answer takes 40 ms

    def do_GET(self) -> None:
        self._serve(body=True)

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def _serve(self, *, body: bool) -> None:
        files, parts = self.files, urlsplit(self.path)  # A proxy's request line holds the whole address
        with files.lock:
            fault = files.fault_of(parts.path)
            if files.signature and files.signature != parts.query:
                fault = 403
            fault = (self.command == "HEAD" and files.get_only) or fault
            if files.token and self.headers.get("Authorization") != f"Bearer {files.token}":
                fault = 401
            asked = Request(self.command, parts.path, parts.query, self.headers.get("Range", ""), fault)
            files.requests.append(asked)
        path = files.folder / unquote(parts.path).lstrip("/")
        if fault == "" and not path.is_file():
            fault = 404
        if fault == "slow":
            time.sleep(files.slowness)
        if fault == "held":
            files.go.wait(HELD)
        if fault == "hang up":
            self.close_connection = True
        elif isinstance(fault, int):
            self._send(fault, b"something is wrong", {}, body=body)
        elif fault in WORDS:
            kind, words = WORDS[fault]
            headers = {"Content-Type": kind, **({"Location": LOGIN} if fault == "portal" else {})}
            self._send(302 if fault == "portal" else 200, words, headers, body=body)
        elif fault == "empty":
            self._send(206 if asked.range else 200, b"", {}, body=body)
        else:
            self._send_file(path.read_bytes(), fault, body=body)

    def _send_file(self, content: bytes, fault: Fault, *, body: bool) -> None:
        headers, status = {"Accept-Ranges": "bytes"}, 200
        if fault == "gzip":
            content, headers["Content-Encoding"] = gzip.compress(content), "gzip"
        size = len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and fault != "whole":
            first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
            if first >= size:
                self._send(416, b"", {"Content-Range": f"bytes */{size}"}, body=body)
                return
            if fault == "short":
                last = first + (last - first) // 2
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            content, status = content[first : last + 1], 206
        elif fault == "short" and body:
            content = content[: len(content) // 2]
        self._send(status, content, headers, body=body, fault=fault)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool, fault: Fault = "") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "stall":
            self.wfile.flush()
            time.sleep(self.files.slowness)
        if fault in ("cut", "stall"):
            content, self.close_connection = content[: len(content) // 2], True
        if body:
            self.wfile.write(content)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # The client has given up

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def file_server(folder: Path) -> Iterator[FileServer]:
    """A running `FileServer`."""
    files = FileServer(folder)
    with serving(_Handler, files=files) as files.port:
        yield files
