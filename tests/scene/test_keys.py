"""Keys of a source apart from those of OUT, as docs/publishers.md says: GDAL's configuration file goes first."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from file_server import file_server
from jobs import EVERYWHERE, cloudjob, make_scene, write_catalog
from scenes import write_cog
from stac_server import serving

DOCS = Path(__file__).parents[2] / "docs" / "publishers.md"
READ = """
import sys, rasterio
from cloudjob.scene.files import env
with env(), rasterio.open(sys.argv[1]) as file:
    print(file.read(1).sum())
"""


class Bucket(BaseHTTPRequestHandler):
    """An object store, as far as GDAL asks it: only the source's key opens its files, and only its reader pays."""

    def do_GET(self):
        self.asked.append(
            (self.path, self.headers.get("Authorization", ""), self.headers.get("x-amz-request-payer", ""))
        )
        allowed = "Credential=SOURCEKEY/" in self.asked[-1][1] and self.asked[-1][2] == "requester"
        data = self.data if allowed and self.path.startswith("/eodata/red.tif") else b""
        self.send_response(200 if data else 403)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *args):
        pass


def test_the_configuration_file_goes_before_the_environment(tmp_path: Path) -> None:
    """Also with boto3, which rasterio asks for keys where it is installed."""
    values = np.full((64, 64), 7, np.uint16)
    write_cog(tmp_path / "red.tif", values, (10, 0, 600_000, 0, -10, 5_200_020))
    asked: list[tuple[str, str, str]] = []
    with serving(Bucket, data=(tmp_path / "red.tif").read_bytes(), asked=asked) as port:
        (tmp_path / "gdalrc").write_text(
            "[credentials]\n[.cdse]\npath=/vsis3/eodata\n"
            f"AWS_S3_ENDPOINT=127.0.0.1:{port}\nAWS_HTTPS=NO\nAWS_VIRTUAL_HOSTING=FALSE\n"
            "AWS_REQUEST_PAYER=requester\nAWS_ACCESS_KEY_ID=SOURCEKEY\nAWS_SECRET_ACCESS_KEY=SOURCESECRET\n"
        )
        keys = {"AWS_ACCESS_KEY_ID": "OUTKEY", "AWS_SECRET_ACCESS_KEY": "OUTSECRET", "AWS_REGION": "us-east-1"}
        done = subprocess.run(
            [sys.executable, "-c", READ, "s3://eodata/red.tif"],
            env={
                **os.environ,
                **keys,
                "GDAL_CONFIG_FILE": str(tmp_path / "gdalrc"),
                "AWS_EC2_METADATA_DISABLED": "true",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.stdout.strip() == str(int(values.sum())), (done.stderr, asked)
    assert asked
    assert all("OUTKEY" not in told for _, told, _ in asked)


class Denying(BaseHTTPRequestHandler):
    """A bucket whose reader pays, asked by somebody who does not say so: Amazon does not tell what is missing."""

    code, message = "AccessDenied", "Access Denied"

    def do_GET(self):
        body = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("said", ["", "requester"])
def test_a_bucket_that_denies_access_names_what_its_reader_may_have_to_set(said: str, tmp_path: Path) -> None:
    item = make_scene(tmp_path, "A")
    for key, asset in item["assets"].items():
        asset["href"] = f"s3://pays/{key}.tif"
        del asset["proj:transform"]  # Read from the file, when planning
    keys = {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "SECRET", "AWS_REGION": "us-east-1"}
    with serving(Denying) as port:
        keys |= {"AWS_S3_ENDPOINT": f"127.0.0.1:{port}", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
        catalog = write_catalog(tmp_path / "items.json", [item])
        done = cloudjob(
            *("plan", "--catalog", catalog, "--out", tmp_path / "out", *EVERYWHERE), **keys, AWS_REQUEST_PAYER=said
        )
    assert (done.code, "Access Denied" in done.stderr) == (4, True), done.stderr
    assert ("set AWS_REQUEST_PAYER=requester" in done.stderr) == (not said)


@pytest.mark.parametrize("keys", [True, False])
def test_what_amazon_does_not_know_may_be_another_stores(keys: bool, tmp_path: Path) -> None:
    """Keys of the Copernicus Data Space, typed without its address."""
    item = make_scene(tmp_path, "A")
    for key, asset in item["assets"].items():
        asset["href"] = f"s3://eodata/{key}.tif"
        del asset["proj:transform"]
    told = {
        "code": "InvalidAccessKeyId",
        "message": "The AWS Access Key Id you provided does not exist in our records.",
    }
    given = {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "SECRET", "AWS_REGION": "us-east-1"} if keys else {}
    with serving(Denying, **told) as port:
        amazon = {"GDAL_HTTP_PROXY": f"127.0.0.1:{port}", "AWS_HTTPS": "NO", "AWS_EC2_METADATA_DISABLED": "true"}
        catalog = write_catalog(tmp_path / "items.json", [item])
        done = cloudjob("plan", "--catalog", catalog, "--out", tmp_path / "out", *EVERYWHERE, **given, **amazon)
    assert (done.code, told["message"] in done.stderr) == ((4, True) if keys else (3, False)), done.stderr
    assert "AWS_S3_ENDPOINT" in done.stderr


@pytest.mark.parametrize("way", ["bearer", "file"])
def test_a_token_is_sent_as_the_document_says(way: str, tmp_path: Path) -> None:
    """`GDAL_HTTP_BEARER` alone, which it named, sends none."""
    item = make_scene(tmp_path, "A")
    (tmp_path / "header").write_text("Authorization: Bearer TOKEN\n")
    told = {"GDAL_HTTP_BEARER": "TOKEN", "GDAL_HTTP_AUTH": "BEARER"}
    told = told if way == "bearer" else {"GDAL_HTTP_HEADER_FILE": str(tmp_path / "header")}
    with file_server(tmp_path) as files:
        files.token = "TOKEN"
        for asset in item["assets"].values():
            asset["href"] = f"{files.url}/{Path(asset['href']).relative_to(tmp_path)}"
            del asset["proj:transform"]
        catalog = write_catalog(tmp_path / "items.json", [item])
        done = cloudjob("plan", "--catalog", catalog, "--out", tmp_path / "out", *EVERYWHERE, **told)
    assert (done.code, "1 new" in done.stderr) == (0, True), done.stderr
    text = DOCS.read_text(encoding="utf-8")
    assert "`GDAL_HTTP_BEARER` and `GDAL_HTTP_AUTH=BEARER`" in text
    assert "`GDAL_HTTP_HEADER_FILE`" in text


def test_the_document_shows_such_a_file() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for line in ("[credentials]", "[.cdse]", "path=/vsis3/eodata", "AWS_VIRTUAL_HOSTING=FALSE", "GDAL_CONFIG_FILE"):
        assert line in text
