"""No signature, token, key or password in anything that cloudjob says or writes, in good runs and in bad ones."""

import json
import pickle
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jobs
import numpy as np
import pytest
from faulty import call, impatient_cluster, served
from file_server import FileServer, file_server
from hypothesis import given
from hypothesis import strategies as st
from sas_endpoint import SasEndpoint
from stac_server import serving, stac_server

from cloudjob.catalog import stac_api
from cloudjob.cluster import scheduler
from cloudjob.errors import CloudjobError, UnreachableError, redact

Capfd = pytest.CaptureFixture[str]
TELLTALE = re.compile(rb"SECRET|sig=|sig%3D", re.IGNORECASE)
HOST = "http://sentinel2l2a01.blob.core.windows.net"
PRESIGNED = "?st=2024-01-01&se=2034-01-01&sp=rl&sig=SECRETSIGNATURE%2Bx%3D"


def assert_clean(*told: str | bytes | Path) -> None:
    """No secret in texts, nor in any file (or its name) below folders."""
    for what in told:
        if isinstance(what, Path):
            paths = [path for path in [what, *what.rglob("*")] if path.is_file()]
            assert paths, f"{what} holds nothing"
            assert_clean(*(path.read_bytes() for path in paths), *(str(path.relative_to(what)) for path in paths))
            continue
        data = what if isinstance(what, bytes) else what.encode()
        found = TELLTALE.search(data)
        assert not found, data[max(0, found.start() - 200) : found.end() + 200] if found else b""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jobs.random_checkpoint(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """Azure's blob storage, played by a proxy: it serves a container's files to whoever has the right token."""
    folder = tmp_path_factory.mktemp("blobs")
    for day, name in enumerate(("GOOD", "EXPIRED", "GONE", "DENIED", "CUT", "HTML"), start=1):
        jobs.make_scene(folder / "container", name, f"2024-06-0{day}T10:15:59Z", seed=day, shape=(100, 90))
    jobs.make_scene(folder / "private", "NOTOKEN", "2024-06-07T10:15:59Z", seed=9, shape=(100, 90))
    with file_server(folder) as files:
        yield files


@pytest.fixture(scope="module")
def sas() -> Iterator[tuple[str, list[Any]]]:
    """The endpoint that gives out tokens: its address, and what it was asked."""
    asked: list[Any] = []
    what = {"asked": asked, "faults": deque[Any](), "life": [timedelta(minutes=45)], "lock": threading.Lock()}

    class OnlyOneContainer(SasEndpoint):  # type: ignore[misc]
        def do_GET(self) -> None:  # noqa: N802
            if not self.path.endswith("/container"):
                self.faults.append(403)
            super().do_GET()

    with serving(OnlyOneContainer, **what) as port:
        yield f"http://127.0.0.1:{port}/token", asked


@pytest.fixture(scope="module")
def signing_cluster(
    tmp_path_factory: pytest.TempPathFactory, blobs: FileServer, sas: tuple[str, list[Any]]
) -> Iterator[tuple[str, Path]]:
    """A scheduler's address, and the file that holds all that its worker says."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    settings = {
        "PC_SDK_SAS_URL": sas[0],
        "PC_SDK_SUBSCRIPTION_KEY": "SECRETKEY",
        "GDAL_HTTP_PROXY": blobs.url,
        "NO_PROXY": "127.0.0.1",
    }
    with impatient_cluster(log, CPL_DEBUG="OFF", **settings) as address:
        yield address, log


def test_planetary_computer(
    blobs: FileServer,
    sas: tuple[str, list[Any]],
    signing_cluster: tuple[str, Path],
    checkpoint: Path,
    tmp_path: Path,
    capfd: Capfd,
) -> None:
    """A scene is opened with a token, another one with its second token; others fail in many ways."""
    address, log = signing_cluster
    made = [
        jobs.make_scene(
            tmp_path / "again" / folder.parent.name, folder.name, f"2024-06-0{day}T10:15:59Z", seed=day, shape=(100, 90)
        )
        for day, folder in enumerate(sorted(blobs.folder.glob("*/*")), start=1)
    ]
    items = [pc_item(item, tmp_path / "again") for item in made]
    blobs.calm()
    blobs.disturb("EXPIRED/B08.tif", 403)
    for name, fault in (("GONE", 404), ("DENIED", 403), ("CUT", "cut"), ("HTML", "html")):
        blobs.disturb(f"{name}/B03.tif", lasting=fault)
    for folder in blobs.folder.glob("*/*"):
        for band, key in KEYS.items():
            (folder / f"{band}.tif").rename(folder / f"{key}.tif")
    out = tmp_path / "out"
    with stac_server(items=items) as api:
        program = (
            "from dataclasses import replace\n"
            "from cloudjob import cli\n"
            "from cloudjob.catalog.presets import PRESETS\n"
            "preset = PRESETS['planetary-computer']\n"
            f"PRESETS['planetary-computer'] = replace(preset, address={api.url!r})\n"
            "cli.main()"
        )
        what = ("--catalog", "planetary-computer", "--checkpoint", checkpoint, "--cluster", address, "--out", out)
        result = jobs.cloudjob(
            *("-v", "run", "--json", *what, *jobs.EVERYWHERE),
            command=(sys.executable, "-c", program),
            # The client opens headers: it looks at a new group's grid before it makes it
            PC_SDK_SAS_URL=sas[0],
            PC_SDK_SUBSCRIPTION_KEY="SECRETKEY",
            GDAL_HTTP_PROXY=blobs.url,
        )
    assert result.code == 1, result.stderr
    states = {record["id"]: record["state"] for record in result.records}
    failing = ("GONE", "DENIED", "CUT", "HTML", "NOTOKEN")
    assert states == {"GOOD": "done", "EXPIRED": "done", **dict.fromkeys(failing, "failed")}, result.stderr

    # The secrets were really there
    queries = {request.query for request in blobs.asked("container/")}
    assert all("sig=SECRET" in query for query in queries)
    assert len(queries) > 1, "no new token was asked for"
    assert ("/token/sentinel2l2a01/container", "SECRETKEY") in sas[1]
    assert ("/token/sentinel2l2a01/private", "SECRETKEY") in sas[1]
    said = log.read_text()
    assert "attempt 2 of 2" in said
    assert f"{HOST}/container/HTML/B03.tif" in said + result.stderr

    assert_clean(result.stdout, result.stderr, said, out)
    assert len(list((out / "failures").iterdir())) == len(failing)
    assert len(list((out / "runs").iterdir())) == 1
    assert len(jobs.items(out)) == 2
    status = call(capfd, "status", out)
    assert "failed: HTML" in status.stdout
    assert_clean(status.stdout, status.stderr)


KEYS = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08"}


def pc_item(item: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An item as the Planetary Computer lists it."""
    assets = {
        key: {
            **item["assets"][band],
            "href": f"{HOST}/{Path(item['assets'][band]['href']).parent.relative_to(folder)}/{key}.tif",
        }
        for band, key in KEYS.items()
    }
    return {**item, "assets": assets}


def test_a_catalog_that_was_signed_beforehand(
    checkpoint: Path, signing_cluster: tuple[str, Path], tmp_path: Path, capfd: Capfd
) -> None:
    """Signatures in an item are left out, also those of scenes that fail."""
    address, log = signing_cluster
    names = ("GOOD", "GONE", "HTML", "BANDLESS")
    items = [
        jobs.make_scene(tmp_path / "files", name, f"2024-06-0{day}T10:15:59Z", seed=day, shape=(100, 90))
        for day, name in enumerate(names, start=1)
    ]
    out = tmp_path / "out"
    with file_server(tmp_path / "files") as files:
        signed = [served(item, tmp_path / "files", files.url, PRESIGNED) for item in items]
        for item in signed:
            item["links"] = [{"rel": "self", "href": f"http://me:SECRETWORD@127.0.0.1/items/{item['id']}{PRESIGNED}"}]
        del signed[3]["assets"]["nir"]
        files.disturb("GONE/nir", lasting=404)
        files.disturb("HTML/nir", lasting="html")
        catalog = jobs.write_catalog(tmp_path / "items.json", signed)
        assert TELLTALE.search(catalog.read_bytes())
        what = ("--catalog", catalog, "--checkpoint", checkpoint, "--cluster", address, "--out", out)
        for command in ("plan", "run", "plan", "run"):
            result = call(capfd, "-v", command, *what, "--json", *jobs.EVERYWHERE)
            assert result.code == (1 if command == "run" else 0), result.stderr
            assert "HTML" in result.stdout
            assert_clean(result.stdout, result.stderr)
    assert {path.stem for path in (out / "failures").iterdir()} == {"GONE", "HTML", "BANDLESS"}
    assert_clean(out, log)


@pytest.mark.parametrize("fault", ["", 401, 503, "html"])
def test_catalog_addresses_with_password_and_token(
    fault: int | str,
    checkpoint: Path,
    signing_cluster: tuple[str, Path],
    tmp_path: Path,
    capfd: Capfd,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stac_api, "_WAITS_S", (0.01,))
    caplog.set_level("INFO")
    item = jobs.make_scene(tmp_path / "files", "A", shape=(100, 90))
    out = tmp_path / "out"
    with (
        file_server(tmp_path / "files") as files,
        stac_server(items=[served(item, tmp_path / "files", files.url)], lasting=fault) as api,
    ):
        address = api.url.replace("://", "://me:SECRETWORD@")
        what = ("--catalog", address, "--checkpoint", checkpoint, "--cluster", signing_cluster[0], "--out", out)
        result = call(capfd, "-v", "run", *what, "--json", *jobs.EVERYWHERE)
    assert result.code == {"": 0, 401: 3, 503: 4, "html": 4}[fault], result.stderr
    assert_clean(result.stdout, result.stderr, caplog.text, *([out] if fault == "" else []))
    assert fault == "" or api.url in result.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("catalog", "http://me:SECRETWORD@127.0.0.1:{port}/v1?token=SECRETTOKEN"),
        ("cluster", "tcp://me:SECRETWORD@127.0.0.1:{port}"),
        ("cluster", "http://127.0.0.1:{port}/?token=SECRETTOKEN"),
        ("out", "s3://SECRETKEY:SECRETWORD@bucket/masks"),
        ("out", "az://container/masks?se=2034&sig=SECRETSIGNATURE"),
        ("out", "https://account.blob.core.windows.net/c?sig=SECRETSIGNATURE"),
        ("catalog", "ftp://me:SECRETWORD@host/items.json?sig=SECRETSIGNATURE"),
        ("geometry", "https://me:SECRETWORD@host/area.geojson?sig=SECRETSIGNATURE"),
        ("checkpoint", "https://host/net.safetensors?sig=SECRETSIGNATURE"),
    ],
)
def test_addresses_in_errors(
    option: str, value: str, checkpoint: Path, tmp_path: Path, capfd: Capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stac_api, "_WAITS_S", (0.01,))
    monkeypatch.setattr(scheduler, "PATIENCE", 1)
    item = jobs.make_scene(tmp_path, "A", shape=(100, 90))
    where = [] if option == "geometry" else jobs.EVERYWHERE[:5]
    with jobs.reserved() as port:
        options = {
            "catalog": str(jobs.write_catalog(tmp_path / "items.json", [item])),
            "checkpoint": str(checkpoint),
            "out": str(tmp_path / "out"),
            option: value.format(port=port),
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        result = call(capfd, "-v", "run", *arguments, *where, *jobs.EVERYWHERE[5:])
    assert result.code in (2, 3, 4), result.stderr
    assert "error: " in result.stderr
    assert_clean(result.stdout, result.stderr)


def test_a_worker_of_an_address_with_a_password(capfd: Capfd) -> None:
    with jobs.reserved() as port:
        result = call(capfd, "-v", "worker", f"tcp://me:SECRETWORD@127.0.0.1:{port}")
    assert result.code == 2, result.stderr
    assert_clean(result.stdout, result.stderr)


# errors.redact

SECRETS = st.text("abcXYZ0123456789", min_size=8, max_size=30).map("SECRET{}".format)
SPELLINGS = (
    "https://host/a.tif?se=2024&sig={}",
    "'/vsicurl/https://host/a.tif?sig={}' not recognized as being in a supported file format.",
    "/vsiaz/container/a.tif?{}",
    "a.tif?st=2024&sig={}&se=2025",
    '<a href="https://host/a.tif?sig={}">',
    "https://host/a.tif#access_token={}",
    "https://me:{}@host/a.tif",
    "https://{}@host/a.tif",
    "tcp://me:pass@{}@host:8786",
    "X-Amz-Signature={}",
    "x-amz-security-token: {}",
    "X-Amz-Credential={}%2F20240601",
    "AWS_SECRET_ACCESS_KEY={}",
    "aws_access_key_id = {}",
    "AWSAccessKeyId={}&Expires=1",
    "AccountKey={};EndpointSuffix=core.windows.net",
    "SharedAccessSignature={}",
    "Ocp-Apim-Subscription-Key: {}",
    "api_key={}",
    "client_secret={}",
    "password={}",
    "Authorization: Bearer {}",
    "Authorization: {}",
    "{{'Authorization': 'Basic {}'}}",
    "{{'token': '{}', 'a': 1}}",
    '{{"sig": "{}"}}',
    '{{"msft:token": "a \\"{}"}}',
    "url=https%3A%2F%2Fhost%2Fa.tif%3Fsig%3D{}",
    "sig=%2B{}",
)


@given(
    st.sampled_from(SPELLINGS),
    SECRETS,
    st.sampled_from(["", "scene A: ", "… ← "]),
    st.sampled_from(["", " failed", "\nnext"]),
)
def test_redact_takes_secrets_out(spelling: str, secret: str, before: str, after: str) -> None:
    text = before + spelling.format(secret) + after
    told = redact(text)
    assert secret not in told
    assert redact(told) == told
    assert told.startswith(before)
    assert told.endswith(after)
    assert secret not in str(CloudjobError(text))
    assert secret not in str(CloudjobError("x", hint=text).hint)
    assert secret not in str(pickle.loads(pickle.dumps(UnreachableError(text, hint=text))))


@given(st.text())
def test_redact_takes_any_text(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.text(max_size=30), SECRETS)
def test_whatever_stands_in_a_query_goes(path: str, secret: str) -> None:
    assert secret not in redact(f"https://host/{quote(path)}?{secret}={secret}")


@pytest.mark.parametrize(
    "text",
    [
        "scene S2A_33UUP_20240601_0_L2A: HTTP response code: 404",
        "/data/odd?name@home.tif",
        "C:\\masks\\out",
        "s3://bucket/f@2x.tif",
        "/srv/masks.zarr/33UUP/cloud/c/0/1#2",
        "this run has lost its token of the lock",
        "the password is missing; no signature given; the secret of good design",
        "bbox 16 46 17 47 is empty (west = east)",
        "--asset is 'red'; expected BAND=KEY",
        "threshold is 2; expected above 0 and below 1",
        "assign = config, design: fig; keys: 3",
        "nothing of the bearer",
        "b2d1c0f5a4e7: sha256 of the checkpoint",
        "no Dask scheduler answers at tcp://127.0.0.1:8786: timed out after 1 s",
        '{"id": "A", "asset": {"href": "https://host/a.tif"}, "time": "10:00"}',
    ],
)
def test_redact_leaves_ordinary_words_alone(text: str) -> None:
    assert redact(text) == text


def test_redact_keeps_json_json() -> None:
    document = {"token": 'a "quoted" one', "sig": "SECRET", "href": "https://h/a?sig=SECRET", "n": [1, None, "a=b"]}
    for indent in (None, 1):
        told = json.loads(redact(json.dumps(document, indent=indent)))
        assert told == {**document, "token": "***", "sig": "***", "href": "https://h/a"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ["a", "a-", "secret_", "://a", "https://host/a?b "])
def test_redact_takes_its_time_only(text: str) -> None:
    redact(text * 30_000)  # Less than a second; minutes where a pattern goes back again and again


def test_a_mask_is_made_all_the_same(
    checkpoint: Path, tmp_path: Path, capfd: Capfd, signing_cluster: tuple[str, Path]
) -> None:
    """What looks like a secret in a scene's own name is none, and does no harm."""
    item = jobs.make_scene(tmp_path, "token=a", shape=(100, 90))
    catalog = jobs.write_catalog(tmp_path / "items.json", [item])
    what = (
        "--catalog",
        catalog,
        "--checkpoint",
        checkpoint,
        "--cluster",
        signing_cluster[0],
        "--out",
        tmp_path / "out",
    )
    assert call(capfd, "run", *what, *jobs.EVERYWHERE).code == 0
    (scenes,) = jobs.slots(tmp_path / "out").values()
    assert scenes == ["token=a"]
    assert np.isin(next(iter(jobs.masks(tmp_path / "out").values()))["cloud"], (0, 1)).all()
