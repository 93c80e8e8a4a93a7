import asyncio
import contextlib
import errno
import os
import pickle
import re
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError
from stac_server import serving
from zarr.core.buffer import default_buffer_prototype

from cloudjob.errors import UNREACHABLE, UnreachableError, UsageError
from cloudjob.store.bucket import LIMITS, RETRY
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("gs://bucket", "gs://bucket"),
        ("az://container/x", "az://container/x"),
        ("file:///tmp/some%20where", "/tmp/some where"),
        ("/tmp/x/", "/tmp/x"),
    ],
)
def test_addresses(given: str, address: str):
    assert Out.at(given).address == address


def test_a_relative_folder_stays_the_same_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert Out.at("masks").address == f"{tmp_path}/masks"


@pytest.mark.parametrize(
    "given",
    [
        *("", "http://x/y", "ftp://x/y", "s4://b", "s3://", "s3:/bucket"),
        *("s3://key:secretpart@bucket/x", "s3://bucket/x?sig=secretpart"),
    ],
)
def test_other_addresses_are_refused_and_tell_no_secret(given: str):
    with pytest.raises(UsageError) as refused:
        Out.at(given)
    assert "secretpart" not in f"{refused.value} {refused.value.hint}"


def test_looking_leaves_no_trace(tmp_path: Path):
    out = Out.at(tmp_path / "typo")
    assert out.get("job.json") is None
    assert out.names() == set()
    assert out.tags("items") == {}
    assert not Path(out.address).exists()


def test_a_disk_that_takes_no_more_is_told_and_one_that_syncs_no_folders_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = Out.at(tmp_path / "out")

    def refuse(number: int) -> None:
        def fsync(opened: int) -> None:
            if number == errno.EIO or stat.S_ISDIR(os.fstat(opened).st_mode):
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    refuse(errno.EINVAL)
    out.put("a.json", b"1")
    assert out.create("b.json", b"2")
    refuse(errno.EIO)
    for write in (out.put, out.create):
        with pytest.raises(UnreachableError, match="Input/output error"):
            write("c.json", b"3")
        out.delete(["c.json"])
    assert (out.get("a.json"), out.get("b.json")) == (b"1", b"2")


def test_objects_are_put_created_listed_and_deleted(tmp_path: Path):
    out = Out.at(tmp_path / "out")
    out.put("a/b.json", b"1")
    assert out.create("a/b.json", b"2") is False
    assert out.create("a/c.json", b"3") is True
    assert (out.get("a/b.json"), out.get("a/c.json"), out.get("a/d.json")) == (b"1", b"3", None)
    before = out.tags("a")
    out.put("a/b.json", b"4")
    assert {path for path, tag in out.tags("a").items() if tag != before[path]} == {"a/b.json"}
    assert out.names("a") == {"b.json", "c.json"}
    out.delete(["a/b.json", "a/missing.json"])
    assert out.names("a") == {"c.json"}
    out.delete_under("a")
    assert out.names() == set()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_hard_links_takes_an_out(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ExFAT and many mounts: no lock could be made there, and who owns the folder was to be looked at."""
    put = obstore.put

    def linkless(store: Any, path: str, data: bytes, *, mode: str = "overwrite") -> Any:
        if mode == "create":  # Word for word what it says where link(2) fails
            raise GenericError(f"Generic LocalFileSystem error: Unable to rename file: no (os error {number})")
        return put(store, path, data, mode=mode)

    monkeypatch.setattr(obstore, "put", linkless)
    out = Out.at(tmp_path / "out")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda who: out.create("lock/1.json", b"%d" % who), range(8)))
    assert sum(made) == 1
    assert out.get("lock/1.json") == b"%d" % made.index(True)
    assert out.create("lock/1.json", b"%d" % made.index(True)), "one's own"
    with Lock(out):
        pass


def test_sweep_removes_only_parts_of_files_of_ours(tmp_path: Path):
    out = Out.at(tmp_path)
    for name in ("a/0", "a/0#1", "a/b/x.json#12", "kept/2#1", "a/no#tail", "a/IMG#3", "top.json#3"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"")
    out.sweep("", deep=False)
    left = {"a/0", "a/0#1", "a/b/x.json#12", "kept/2#1", "a/no#tail", "a/IMG#3"}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == left
    out.sweep("", keep=["kept"])
    left -= {"a/0#1", "a/b/x.json#12"}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == left


def test_only_the_address_travels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretpart")
    out = Out.at("s3://bucket/x")
    assert out.store
    packed = pickle.dumps(out)
    assert b"secretpart" not in packed
    assert b"AKIASECRET" not in packed
    assert pickle.loads(packed) == out


# What does not work


def test_a_file_in_the_way(tmp_path: Path):
    out = Out.at(tmp_path / "file" / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreachableError, match="cannot be written or read") as error:
        out.put("job.json", b"")
    assert error.value.exit_code == UNREACHABLE
    assert "no folder" in str(error.value.hint)


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EHOSTUNREACH, errno.ESTALE])
def test_a_fault_of_the_network_is_no_matter_of_who_owns_a_folder(number: int, tmp_path: Path):
    """Their numbers begin as those of missing rights do."""
    with pytest.raises(UnreachableError, match="cannot be reached") as error, Out.at(tmp_path).reached():
        raise OSError(number, os.strerror(number))
    assert error.value.hint is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_told_whoever_meets_it(number: int, tmp_path: Path):
    """Of NFS it may be the last moment that tells, when what was written is to be on the disk."""
    with pytest.raises(UnreachableError, match="is full") as error, Out.at(tmp_path).reached():
        raise OSError(number, os.strerror(number))
    assert "free some space" in str(error.value.hint)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs root, to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_and_one_that_is_read_only(small_disk: Path):
    out = Out.at(small_disk / "out")
    with pytest.raises(UnreachableError, match="is full") as error:
        out.put("a", os.urandom(200_000))
    assert "free some space" in str(error.value.hint)
    assert list((small_disk / "out").iterdir()) == []
    out.put("b", b"1")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UnreachableError, match="cannot be written or read") as error:
        out.put("c", b"1")
    assert "its disk is read-only" in str(error.value.hint)
    with pytest.raises(UnreachableError, match="cannot be written or read"):
        Out.at(small_disk / "other").put("c", b"1")
    assert out.get("b") == b"1"


@pytest.fixture
def refusing() -> Iterator[str]:
    """A store that refuses everybody, and quotes their key, as S3 does."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            key = self.headers["Authorization"].split("Credential=")[1].split("/")[0]
            body = f"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>{key}</AWSAccessKeyId></Error>".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_wrong_key_is_not_quoted(refusing: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", refusing)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretpart")
    for ask in (lambda out: out.put("x", b""), lambda out: out.get("x"), lambda out: out.tags("x")):
        with pytest.raises(UnreachableError, match="access denied") as error:
            ask(Out.at("s3://bucket/out"))
        assert error.value.exit_code == UNREACHABLE
        assert "AKIASECRET" not in f"{error.value} {error.value.hint} {error.value.__cause__}"


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretpart")
    monkeypatch.setattr("cloudjob.store.bucket.RETRY", {"max_retries": 1})
    with pytest.raises(UnreachableError, match="cannot be reached") as error:
        Out.at("s3://bucket/out").put("x", b"")
    assert "\n" not in str(error.value)


@pytest.fixture
def forgetful() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A store that keeps what it is given, and answers each first request as if it had not; with what it keeps."""
    kept: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path in kept
            if not known:
                kept[self.path] = body
            self.answer(412 if known and self.headers["If-None-Match"] else 200 if known else 503)

        def do_GET(self) -> None:
            self.answer(200, kept[self.path])

        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            headers = {"Content-Length": len(body), "ETag": '"1"', "Last-Modified": "Mon, 24 Jun 2024 00:00:00 GMT"}
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}", kept


def test_a_create_whose_first_answer_was_lost(
    forgetful: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, finds its own object, and has made it; somebody else's is not taken for it."""
    address, kept = forgetful
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    out = Out.at("s3://bucket/out")
    assert out.create("lock/00000001.json", b"ours")
    assert kept == {"/bucket/out/lock/00000001.json": b"ours"}
    assert not out.create("lock/00000001.json", b"theirs")
    assert kept == {"/bucket/out/lock/00000001.json": b"ours"}


LISTED = b"""<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>out/job.json</Key>
<LastModified>2024-06-24T00:00:00.000Z</LastModified><ETag>"1"</ETag><Size>9</Size></Contents></ListBucketResult>"""


def use_bucket(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Whatever bucket is named lies on this port."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")


@pytest.mark.parametrize("fault", ["cut", "empty"])
def test_answers_of_a_store_that_break_off_are_asked_for_again(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ended a run; an empty one, of `job.json`, with 3: no scheduler tried again."""
    monkeypatch.setattr("cloudjob.store.bucket.PAUSES", (0.0, 0.0))
    asked: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            whole = LISTED if "list-type" in self.path else b'{"a": 1}\n'
            asked[self.path] = asked.get(self.path, 0) + 1
            broken = asked[self.path] <= 2
            body = b"" if broken and fault == "empty" else whole[: len(whole) // 2] if broken else whole
            begins = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if begins:  # obstore asks for the rest of an object, and only of one
                whole = body = whole[int(begins[1]) :]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begins[1]}-8/9")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(whole) if fault == "cut" else len(body)))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Mon, 24 Jun 2024 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as port:
        use_bucket(monkeypatch, port)
        out = Out.at("s3://bucket/out")
        assert out.get_json("job.json") == {"a": 1}
        assert out.names() == {"job.json"}
        asked.clear()
        assert out.tags("") == {"job.json": '"1"'}
        found = asyncio.run(out.zarr("masks.zarr").get("zarr.json", default_buffer_prototype()))
        assert found.to_bytes() == b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("code", "hint"), [("ExpiredToken", "check the credentials"), ("RequestTimeTooSkewed", "this machine's clock says")]
)
def test_keys_that_have_lapsed_are_told(code: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Amazon's 400 only the number was; and of a clock that is wrong, that the keys are."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>of AKIASECRET</Message></Error>".encode()
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as port:
        use_bucket(monkeypatch, port)
        with pytest.raises(UnreachableError, match=rf"access denied: {code}\b") as caught:
            Out.at("s3://bucket/out").get("job.json")
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("stands_still", [False, True])
def test_an_answer_may_take_its_time_but_not_stand_still(stands_still: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of a large OUT did not come within 30 s over a slow network: not in any try."""
    monkeypatch.setattr("cloudjob.store.bucket.PAUSES", ())
    monkeypatch.setitem(LIMITS, "read_timeout", timedelta(seconds=2))
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            headers = {"Content-Length": 9, "ETag": '"1"', "Last-Modified": "Mon, 24 Jun 2024 00:00:00 GMT"}
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            for letter in b"123456789":
                self.wfile.write(bytes([letter]))
                over.wait(10 if stands_still else 0.3)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as port:
        use_bucket(monkeypatch, port)
        out = Out.at("s3://bucket/out")
        try:
            if stands_still:
                with pytest.raises(UnreachableError, match="cannot be reached"):
                    out.get("job.json")
            else:
                assert out.get("job.json") == b"123456789"
        finally:
            over.set()


def test_an_answer_that_drips_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of four took three minutes."""
    monkeypatch.setattr("cloudjob.store.bucket.PAUSES", (0.0, 0.0))
    monkeypatch.setattr("cloudjob.store.bucket.PATIENCE", timedelta(seconds=1))
    monkeypatch.setitem(RETRY, "retry_timeout", timedelta(seconds=1))
    monkeypatch.setitem(LIMITS, "timeout", timedelta(seconds=1.5))
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            headers = {"Content-Length": 99, "ETag": '"1"', "Last-Modified": "Mon, 24 Jun 2024 00:00:00 GMT"}
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(99):
                    self.wfile.write(b" ")
                    time.sleep(0.1)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as port:
        use_bucket(monkeypatch, port)
        with pytest.raises(UnreachableError, match="cannot be reached"):
            Out.at("s3://bucket/out").get("job.json")
    assert asked == ["/bucket/out/job.json"]
