"""An object store on loopback, as much of S3 as obstore asks for, that fails on demand."""

import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from stac_server import serving


@dataclass
class Bucket:
    """What the store holds, and how often it fails.

    Attributes:
        objects: path, without the bucket → bytes.
        fault: what a share of all requests meets: an HTTP status ("503" before, "-503" after it was done), "hang up".
        share: of them, 0 to 1.
        met: how many requests of each method did.
        hidden: a pattern of paths that no listing shows; "" for none.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    fault: str = ""
    share: float = 0.0
    met: Counter[str] = field(default_factory=Counter)
    hidden: str = ""
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def struck(self, method: str) -> str:
        with self.lock:
            if self.chance.random() >= self.share:
                return ""
            self.met[method] += 1
            return self.fault


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.bucket.struck(self.command)
        if fault == "hang up":
            self.close_connection = True
            return
        if fault and not fault.startswith("-"):
            self._answer(int(fault))
            return
        with self.bucket.lock:
            status, data, tag = self._done(body)
        self._answer(int(fault[1:]) if fault else status, data, tag)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _serve  # noqa: N815

    def _done(self, body: bytes) -> tuple[int, bytes, str]:  # noqa: PLR0911 -- one for each method
        objects, parts = self.bucket.objects, urlsplit(self.path)
        asked, (_, _, name) = parse_qs(parts.query, keep_blank_values=True), unquote(parts.path)[1:].partition("/")
        match self.command:
            case "PUT" if self.headers["If-None-Match"] and name in objects:
                return 412, b"", ""
            case "PUT":
                objects[name] = body
                return 200, b"", tag_of(body)
            case "DELETE":
                objects.pop(name, None)
                return 204, b"", ""
            case "POST":  # Several to be deleted
                keys = [part.partition(b"</Key>")[0].decode() for part in body.split(b"<Key>")[1:]]
                for key in keys:
                    objects.pop(key, None)
                told = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
                return 200, f"<DeleteResult>{told}</DeleteResult>".encode(), ""
            case _ if "list-type" in asked:
                return 200, self._listed(asked["prefix"][0] if "prefix" in asked else "", "delimiter" in asked), ""
            case _ if name not in objects:
                return 404, b"", ""
        return 200, objects[name], tag_of(objects[name])

    def _listed(self, prefix: str, folded: bool) -> bytes:
        found, folders = [], set()
        for name, data in sorted(self.bucket.objects.items()):
            if not name.startswith(prefix) or (self.bucket.hidden and re.search(self.bucket.hidden, name)):
                continue
            if folded and "/" in name[len(prefix) :]:
                folders.add(prefix + name[len(prefix) :].partition("/")[0] + "/")
                continue
            about = f"<Key>{escape(name)}</Key><Size>{len(data)}</Size><ETag>{tag_of(data)}</ETag>"
            found.append(f"<Contents>{about}<LastModified>2024-06-01T00:00:00Z</LastModified></Contents>")
        common = [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        whole = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join([*found, *common])}</ListBucketResult>"
        return whole.encode()

    def _answer(self, status: int, data: bytes = b"", tag: str = "") -> None:
        first, size = 0, len(data)
        headers = {"ETag": tag or '"0"', "Last-Modified": "Sat, 01 Jun 2024 00:00:00 GMT"}
        if status == 200 and self.command in ("GET", "HEAD") and (wanted := self.headers["Range"]):
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = (int(begin), int(end or size - 1)) if begin else (max(0, size - int(end)), size - 1)
            data, status = data[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{first + len(data) - 1}/{size}"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            if status != 204 or name != "Content-Length":
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def tag_of(data: bytes) -> str:
    """An ETag."""
    return f'"{md5(data, usedforsecurity=False).hexdigest()}"'


@contextmanager
def bucket(patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A running `Bucket`, which is that of every s3:// address from here on."""
    made = Bucket()
    with serving(_Handler, bucket=made) as made.port:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "x")
        patch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made
