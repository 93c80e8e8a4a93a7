"""What may be opened: images at addresses an item may name, and nothing that reads something else."""

import os
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import rasterio
from dripping import LONGEST, dripping
from file_server import file_server
from scenes import BANDS, make_item, write_cog
from stac_server import serving

from cloudjob.errors import OutageError, PassingError, SceneError
from cloudjob.scene import outside
from cloudjob.scene.describe import describe
from cloudjob.scene.files import env, header, is_remote, open_file
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.scene import Scene

GRID = (10, 0, 600_000, 0, -10, 5_200_020)


def vrt(source: Path) -> str:
    """A program for GDAL that reads a file of this machine."""
    return f"""<VRTDataset rasterXSize="139" rasterYSize="150"><SRS>EPSG:32633</SRS>
      <GeoTransform>600000, 10, 0, 5200020, 0, -10</GeoTransform>
      <VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{source}</SourceFilename>
      </SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return describe(make_item(tmp_path), {band: band for band in BANDS}, BANDS, 10)


def test_a_file_may_have_the_longest_name_there_is(scene: Scene) -> None:
    """That of a mask beside it would be longer, and cost the scene."""
    path = Path(scene.bands[0].href)
    path = path.rename(path.with_name(f"{'x' * 251}.tif"))
    with env(), open_file(str(path)) as file:
        assert file.count == 1


@pytest.mark.parametrize("behind", ["disk", "server"])
def test_a_file_that_reads_another_one_is_not_opened(behind: str, scene: Scene, tmp_path: Path) -> None:
    """`red.tif` is a VRT whose source is a file of the machine that reads it."""
    secret = tmp_path / "secret.tif"
    write_cog(secret, np.full((150, 139), 1234, np.uint16), GRID)
    (tmp_path / "served").mkdir()
    red = tmp_path / "served" / "red.tif"
    red.write_text(vrt(secret))
    with env(), rasterio.open(red) as file:
        assert (file.read(1) == 1234).all(), "GDAL itself reads it"
    with file_server(tmp_path / "served") as server:
        href = f"{server.url}/red.tif" if behind == "server" else str(red)
        with env(), pytest.raises(rasterio.errors.RasterioIOError, match="not recognized"):
            open_file(href)
        with pytest.raises(SceneError, match="not recognized"):
            header(href, "asset red")


@pytest.mark.parametrize(
    "href",
    [
        "<VRTDataset/>",
        "/vsizip/{folder}/red.zip/red.tif",
        "/vsicurl/file://{folder}/red.tif",
        "/vsicurl?url=file://{folder}/red.tif",
        "/vsistdin/",
        "/vsimem/red.tif",
        "/vsisparse/{folder}/red.tif",
        "/vsisubfile/0_100,{folder}/red.tif",
        "GTIFF_DIR:1:{folder}/red.tif",
        "GTIFF_RAW:{folder}/red.tif",
        "vrt://{folder}/red.tif",
        "zip+https://h.example/red.zip!red.tif",
        "zip://{folder}/red.zip!red.tif",
        "ftp://h.example/red.tif",
        "data:image/tiff;base64,AAAA",
        "file:///vsimem/red.tif",
        "file://elsewhere/red.tif",
        "WMS:https://h.example",
        "NETCDF:{folder}/red.tif:red",
        "abfs://container@account.dfs.core.windows.net/red.tif",
    ],
)
def test_addresses_that_only_gdal_understands_are_refused(href: str, scene: Scene) -> None:
    folder = Path(scene.bands[0].href).parent
    with env(), pytest.raises(SceneError, match="is not an address that scenes are read from"):
        open_file(href.format(folder=folder))


def test_files_and_addresses_of_files_are_opened(scene: Scene) -> None:
    path = Path(scene.bands[0].href)
    with env():
        for href in (str(path), path.as_uri(), os.path.relpath(path)):
            with open_file(href) as file:
                assert file.shape == (150, 139)


def test_addresses_with_spaces_and_any_letters_are_opened(scene: Scene, tmp_path: Path) -> None:
    """Curl refuses them as they are, and that was taken for an outage of their host."""
    folder = tmp_path / "a b (ü) 100%"
    folder.mkdir()
    shutil.copy(scene.bands[0].href, folder / "red.tif")
    with file_server(tmp_path) as server, env():
        for name in ("a b (ü) 100%25", "a%20b%20(%C3%BC)%20100%25"):
            with open_file(f"{server.url}/{name}/red.tif") as file:
                assert file.shape == (150, 139)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device"])
def test_what_is_no_regular_file_is_not_waited_for(kind: str, scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "red.tif"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with env(), pytest.raises(SceneError, match="is not a regular file"):
        open_file(str(path))


def test_a_scene_names_the_asset_whose_address_is_refused(scene: Scene) -> None:
    from dataclasses import replace

    odd = replace(scene, bands=(*scene.bands[:3], replace(scene.bands[3], href="/vsizip/x.zip/nir.tif")))
    with SceneFiles(odd) as files, pytest.raises(SceneError, match=rf"scene {scene.id}, asset nir: '/vsizip/x.zip"):
        files.check(odd.bands)


def test_jpeg_2000_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 9000, (150, 139), np.uint16)
    with rasterio.open(
        tmp_path / "B04.jp2", "w", driver="JP2OpenJPEG", height=150, width=139, count=1, dtype="uint16",
        crs="EPSG:32633", transform=rasterio.Affine(*GRID), QUALITY=100, REVERSIBLE="YES",
    ) as file:  # fmt: skip
        file.write(values, 1)
    with env(), open_file(str(tmp_path / "B04.jp2")) as file:
        np.testing.assert_array_equal(file.read(1), values)


@pytest.mark.parametrize(
    ("href", "remote"),
    [
        ("https://h.example/red.tif", True),
        ("HTTP://h.example/red.tif", True),
        ("s3://bucket/red.tif", True),
        ("gs://bucket/red.tif", True),
        ("/vsis3/bucket/red.tif", True),
        ("/vsicurl/https://h.example/red.tif", True),
        ("/data/http/red.tif", False),
        ("httpd/red.tif", False),
        ("s3/red.tif", False),
    ],
)
def test_remote(href: str, remote: bool) -> None:
    assert is_remote(href) is remote


@pytest.mark.parametrize(("height", "width", "block"), [(110_000, 64, 64), (20_000, 20_000, 16_384)])
def test_a_file_that_tells_of_more_than_any_satellite_sees_is_refused(
    height: int, width: int, block: int, tmp_path: Path
) -> None:
    """It holds nothing; a reader would make room for it."""
    how = {"height": height, "width": width, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
    shape = {"tiled": True, "blockxsize": block, "blockysize": block, "sparse_ok": True, "bigtiff": "YES"}
    path = tmp_path / "huge.tif"
    rasterio.open(path, "w", driver="GTiff", transform=rasterio.Affine(*GRID), **how, **shape).close()
    with env(), pytest.raises(SceneError, match=rf"{height} × {width} pixels in blocks of {block} × {block}; expected"):
        open_file(str(path))
    with pytest.raises(SceneError, match=r"scene S, asset red: .* pixels in blocks of"):
        header(str(path), "scene S, asset red")


KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class _Pages(BaseHTTPRequestHandler):
    """Pages and images of which only the head ever comes; "/away" points to a page."""

    def do_GET(self) -> None:
        away = self.path == "/away.tif"
        self.send_response(302 if away else 401 if self.path == "/refused" else 200)
        self.send_header("Content-Type", "image/tiff" if self.path == "/image.tif" else "text/html; charset=utf-8")
        self.send_header("Content-Length", "1000000000")
        if away:
            self.send_header("Location", "/page")
        self.end_headers()
        self.wfile.flush()
        self.server.over.wait(60)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("path", "told"), [("page", True), ("away.tif", True), ("image.tif", False), ("refused", False)]
)
def test_a_page_in_a_files_place_is_known_by_its_head(path: str, told: bool) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    server.over = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with ThreadPool(1) as pool:
            asked = pool.apply_async(outside.instead, [f"http://127.0.0.1:{server.server_port}/{path}"])
            assert ("web page" in (asked.get(timeout=30) or "")) == told
    finally:
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()


def test_a_head_that_drips_says_nothing_of_a_files_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_EXPLAINING", 1.0)
    with dripping() as address:
        began = time.monotonic()
        assert not outside.empty_by_head(f"{address}/red.tif")
    assert time.monotonic() - began < LONGEST / 2


def test_a_head_that_drips_explains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_EXPLAINING", 1)
    begun = time.monotonic()
    with dripping() as address:
        assert outside.instead(f"{address}/a.tif") is None
    assert time.monotonic() - begun < LONGEST


def test_of_what_is_no_server_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_NO_SIGN_REQUEST", *KEYS):
        monkeypatch.delenv(name, raising=False)
    for address in ("s3://bucket/a.tif", "/a/file.tif", "gs://bucket/a.tif", "http://127.0.0.1:9/a.tif"):
        assert outside.instead(address) is None


class _Whole(BaseHTTPRequestHandler):
    """A file that is no image, whole, for whatever is asked."""

    def do_GET(self) -> None:
        body = b"II*\0" + bytes(200)
        if part := re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2]), len(body) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def test_a_broken_file_behind_a_proxy_is_its_scenes_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    """GDAL goes through a proxy, or knows a certificate, where we do not: every night told of an outage."""
    with serving(_Whole) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(PassingError) as caught:
            header("http://files.invalid/a.tif", "scene S, asset red")
    assert "does not answer" not in str(caught.value)


@pytest.mark.parametrize("keys", [{"AWS_NO_SIGN_REQUEST": "YES"}, dict.fromkeys(KEYS, "x")])
@pytest.mark.parametrize(
    ("fault", "told"), [("cut", "breaks off"), ("short", "says 205 bytes and sends 102"), ("", "")]
)
def test_a_bucket_that_breaks_off_is_out_as_any_server_is(
    fault: str, told: str, keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL does not tell it from a broken file: three such nights, and its scenes were given up."""
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a b.tif").write_bytes(b"II*\0" + bytes(201))
    with file_server(tmp_path) as files:
        settings = {"S3_ENDPOINT": f"127.0.0.1:{files.port}", "HTTPS": "NO", "VIRTUAL_HOSTING": "FALSE"}
        for name, value in {**{f"AWS_{name}": value for name, value in settings.items()}, **keys}.items():
            monkeypatch.setenv(name, value)
        files.disturb("a b|a%20b", lasting=fault)
        with pytest.raises(PassingError) as caught:
            header("s3://bucket/a b.tif", "scene S, asset red")
        assert isinstance(caught.value, OutageError) == bool(fault)
        assert told in str(caught.value)
        assert all(request.fault != 404 for request in files.requests)
        signed = {"X-Amz-Signature" in request.query for request in files.requests if "Amz" in request.query}
        assert signed == ({True} if "AWS_ACCESS_KEY_ID" in keys else set())
    assert "Amz" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_ACCESS_KEY_ID": "x"},
        {**dict.fromkeys(KEYS, "x"), "AWS_S3_ENDPOINT": "127.0.0.1:9"},  # bucket.127.0.0.1 is no address
        {**dict.fromkeys(KEYS, "x"), "AWS_CHECKSUM_ALGORITHM": "crc32c"},
    ],
)
def test_keys_that_nothing_can_be_signed_with_explain_nothing(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of obstore took the place of what GDAL had said, and was the scene's fault."""
    monkeypatch.delenv("AWS_NO_SIGN_REQUEST", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert outside.instead("s3://bucket/a.tif") is None


def test_where_a_file_tells_gdal_of_another_endpoint_nobody_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Amazon was told the names of a bucket and a key of the Copernicus Data Space."""
    (tmp_path / "gdalrc").write_text("[configoptions]\nAWS_S3_ENDPOINT=127.0.0.1:9\n")
    monkeypatch.setenv("GDAL_CONFIG_FILE", str(tmp_path / "gdalrc"))
    for name in KEYS:
        monkeypatch.setenv(name, "x")
    asked: list[str] = []
    monkeypatch.setattr(outside, "_answer", lambda _, href, __: asked.append(href))
    assert outside.instead("s3://bucket/a.tif") is None
    assert not any(asked)
