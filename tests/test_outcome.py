"""What becomes of bad scenes and of sources that are out, night after night; the tasks run in this process."""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import bucket as object_store
import jobs
import numpy as np
import pytest
from faulty import call, served
from file_server import FileServer, file_server
from stac_server import serving

import cloudjob
from cloudjob import job
from cloudjob.cluster import task
from cloudjob.errors import CloudjobError, ContractError, OutsideError, SceneError, UnreachableError, UsageError
from cloudjob.model import predict
from cloudjob.plan import found, sources
from cloudjob.plan.request import request
from cloudjob.scene import opened, outside
from cloudjob.store import again, check, failures, ledger, listing, repair, runs
from cloudjob.store.item import BY_BAND, COUNTS
from cloudjob.store.ledger import Summary
from cloudjob.store.lock import Lock
from cloudjob.store.masks import open_masks
from cloudjob.store.out import Out
from cloudjob.store.receipt import SceneResult

SMALL = {"shape": (64, 64)}
A, B, C, D = (f"S2A_33UUP_202406{day:02}_0_L2A" for day in (1, 4, 7, 9))


@dataclass
class Nights:
    """One OUT, run after run, a day apart.

    Attributes:
        folder: for files.
        checkpoint: a small network.
        now: of the run.
    """

    folder: Path
    checkpoint: Path
    now: datetime = datetime(2024, 6, 10, 1, tzinfo=UTC)

    @property
    def out(self) -> Out:
        return Out.at(self.folder / "out")

    def run(self, *items: dict[str, Any], **how: Any) -> dict[str, str]:
        """A night: scene id → what became of it.

        Raises:
            CloudjobError: the run ended with it.
        """
        self.now += timedelta(hours=24)
        catalog = jobs.write_catalog(self.folder / "items.json", items)
        what = {"bbox": (-180, -90, 180, 90), "dates": "2000/..", "out": self.out.address, **how}
        asked = request(catalog=catalog, checkpoint=self.checkpoint, **what)
        results = [each for each in job.run(asked, lambda: nullcontext("a client")) if isinstance(each, SceneResult)]  # type: ignore[arg-type,return-value]
        assert len({result.id for result in results}) == len(results), "no scene has two results"
        return {result.id: result.state for result in results}

    def ends(self, *items: dict[str, Any], **how: Any) -> CloudjobError:
        """A night that ends with an error."""
        with pytest.raises(CloudjobError) as caught:
            self.run(*items, **how)
        return caught.value

    def scene(self, name: str, **how: Any) -> dict[str, Any]:
        """Make a scene of the day that its name tells."""
        return jobs.make_scene(
            self.folder / "files",
            name,
            f"2024-06-{name[16:18]}T10:15:59Z",
            **{**SMALL, "seed": int(name[16:18]), **how},
        )

    @property
    def status(self) -> Summary:
        return ledger.summary(self.out)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jobs.random_checkpoint(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture
def nights(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    made = Nights(tmp_path, checkpoint)
    jobs.tasks_here(monkeypatch, checkpoint)
    monkeypatch.setattr(opened, "ATTEMPTS", 2)
    monkeypatch.setattr(opened, "PAUSE", 0.01)
    monkeypatch.setattr(task, "PAUSE", 0.0)
    monkeypatch.setattr(failures, "_now", lambda: f"{made.now.isoformat()}")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    outside._keys.cache_clear()
    return made


@pytest.fixture
def server(nights: Nights) -> Iterator[FileServer]:
    with file_server(nights.folder / "files") as files:
        yield files


def without_grid(item: dict[str, Any]) -> dict[str, Any]:
    """An item that does not tell its grid: the file's header has to be opened."""
    assets = {
        key: {name: value for name, value in asset.items() if name not in ("proj:shape", "proj:transform")}
        for key, asset in item["assets"].items()
    }
    return {**item, "assets": assets}


def without(item: dict[str, Any], key: str) -> dict[str, Any]:
    return {**item, "assets": {name: asset for name, asset in item["assets"].items() if name != key}}


def cut(item: dict[str, Any]) -> Callable[[], None]:
    """Cut a scene's file short; call what is returned to mend it."""
    path = Path(item["assets"]["nir"]["href"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return lambda: (path.write_bytes(whole), None)[1]


# Numbers that are no reflectance


def numbers_of(item: dict[str, Any], **told: Any) -> dict[str, Any]:
    """An item that says something else of its numbers; None takes out what it says."""
    for asset in item["assets"].values():
        said = {**asset["raster:bands"][0], **told}
        asset["raster:bands"] = [{name: value for name, value in said.items() if value is not None}]
    return item


def ground(kind: str, most: float) -> dict[str, np.ndarray]:
    """Every band of `SMALL`, from nearly nothing to `most`, twice as much in the lower half."""
    plane = np.linspace(most / 100, most / 2, 64 * 64).reshape(64, 64)
    plane[32:] *= 2
    return dict.fromkeys(("red", "green", "blue", "nir"), plane.astype(kind))


@pytest.mark.parametrize("parts", [1, 3])
def test_numbers_that_cannot_be_reflectance_cost_their_scene_and_no_other(
    parts: int, nights: Nights, monkeypatch: pytest.MonkeyPatch
):
    """All of such a scene was cloud, without a word."""
    tall = {"values": {key: np.vstack([plane] * 3)[:180] for key, plane in ground("uint16", 9000).items()}}
    monkeypatch.setattr(job, "lane_count", lambda _: 2 * parts)  # So many tasks for each of the two scenes
    unscaled = numbers_of(nights.scene(A, **tall), scale=0.5, offset=0.0)
    assert nights.run(unscaled, nights.scene(B, **tall)) == {A: "failed", B: "done"}
    assert list(check.check(nights.out)) == [], "all parts of a scene are counted"
    reason = nights.status.failed[A]
    assert "by its scale 0.5 and offset 0 the values of red" in reason
    assert "no reflectance: 100 % of them lie above 2" in reason
    assert "raster:scale is wrong" in reason
    assert not (Path(nights.out.address) / "items" / f"{A}.json").exists()
    assert nights.run(numbers_of(unscaled, scale=0.0001)) == {A: "done"}, "mended, it is masked"


@pytest.mark.parametrize(
    ("kind", "most", "told"),
    [
        ("float32", 10_000, {"scale": None, "offset": None}),  # as they stand in ESA's files
        ("float32", 100, {"scale": 1.0}),  # percent
        ("uint16", 10_000, {"scale": 0.01}),  # percent, by its scale
        ("int16", 10_000, {"scale": 0.01, "offset": 0}),
        ("uint16", 10_000, {"scale": 0}),
        ("uint16", 10_000, {"offset": -1000}),  # of numbers
        ("uint16", 10_000, {"scale": -0.0001}),
    ],
)
def test_what_cannot_be_reflectance_is_refused(kind: str, most: float, told: dict[str, Any], nights: Nights):
    item = numbers_of(nights.scene(A, values=ground(kind, most)), data_type=kind, **told)
    assert nights.run(item, nights.scene(B)) == {A: "failed", B: "done"}
    assert re.search("scale|its offset is -1000; expected reflectance", nights.status.failed[A])


@pytest.mark.parametrize(
    ("kind", "most", "told"),
    [
        ("float32", 0.4, {"scale": 1.0}),
        ("float32", 1.6, {"scale": None, "offset": None}),  # snow and glint
        ("float32", 3.2, {"scale": None, "offset": None}),  # no half of it lies above 2
        ("uint16", 65_535, {"scale": 0.00004}),
        ("int16", 10_000, {"scale": 0.0001}),
        ("uint16", 10_000, {"scale": 1.0, "offset": 0.0}),  # rio-stac, of a file without tags
        ("int16", 10_000, {"scale": 1}),
        ("uint16", 60, {"scale": 0.0001}),  # a lake in the shade
    ],
)
def test_what_can_be_reflectance_is_masked(kind: str, most: float, told: dict[str, Any], nights: Nights):
    item = numbers_of(nights.scene(A, values=ground(kind, most)), data_type=kind, **told)
    assert nights.run(item) == {A: "done"}
    assert "cloudjob:warnings" not in jobs.item_of(Path(nights.out.address), A)["properties"]


def test_whole_numbers_that_are_black_are_doubted(nights: Nights):
    assert nights.run(nights.scene(A, values=ground("uint16", 10))) == {A: "done"}
    (warning,) = jobs.item_of(Path(nights.out.address), A)["properties"]["cloudjob:warnings"]
    assert "the scale seems to have been applied already" in warning


@pytest.mark.parametrize(
    ("most", "limit", "told"),
    [
        (1, 0.001, {"data_type": "float32", "scale": 0.0001}),
        (1, 0.02, {"data_type": None, "scale": None, "offset": None}),
        (100, 0.02, {"data_type": None, "scale": None, "offset": None}),
        (1, 0.001, {"data_type": "float32", "scale": 0.0001, "offset": -0.1}),
    ],
)
def test_reflectance_that_is_scaled_twice_is_refused(most: float, limit: float, told: dict[str, Any], nights: Nights):
    """All of it was clear: with a warning, and percent without a word."""
    item = numbers_of(nights.scene(A, values=ground("float32", most), nodata=None), **told)
    assert nights.run(item, nights.scene(B)) == {A: "failed", B: "done"}
    says = f"no value of red and its other bands is above {limit:g}: its numbers are floats"
    assert says in nights.status.failed[A]
    right = numbers_of(item, data_type="float32", scale=1 / most, offset=0)
    assert nights.run(right) == {A: "done"}


# What computed


def test_items_say_what_computed_them_and_workers_that_are_not_alike_are_told(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same input gives the same mask by the same versions only."""
    versions = iter(["1.0", "1.0", "2.0", "2.0"])
    monkeypatch.setattr(predict.Model, "software", property(lambda _: f"torch {next(versions)}"))
    wide = nights.scene(A, shape=(64, 128))
    west, south, east, north = wide["bbox"]
    assert nights.run(wide, bbox=(west, south, west + 0.3 * (east - west), north)) == {A: "done"}
    assert nights.run(nights.scene(B), nights.scene(C)) == {B: "done", C: "done"}
    assert nights.run(wide) == {A: "done"}
    told = [jobs.item_of(Path(nights.out.address), each)["properties"]["processing:software"] for each in (A, B, C)]
    assert [each["torch"] for each in told] == ["1.0 + 2.0", "2.0", "1.0"]
    assert {each["cloudjob"] for each in told} == {cloudjob.__version__}
    own = f"cloudjob {cloudjob.__version__}"
    (warned,) = (each for each in caplog.messages if "computed" in each)
    assert warned == f"scene {B} was computed by {own}, torch 2.0, others by {own}, torch 1.0"


# Sources that are out


@pytest.mark.parametrize("fault", [503, 403, 401, "hang up", 429])
def test_an_outage_ends_with_4_and_never_counts(fault: int | str, nights: Nights, server: FileServer):
    items = [served(nights.scene(name), nights.folder / "files", server.url) for name in (A, B, C)]
    server.disturb("S2A", lasting=fault)
    for _ in range(4):
        error = nights.ends(*items)
        assert isinstance(error, UnreachableError)
        assert server.url in str(error)
    assert set(nights.status.failed) == {A, B, C}
    assert not nights.status.abandoned
    assert (nights.status.last_run or {})["how"] == "stopped"
    server.calm()
    assert nights.run(*items) == dict.fromkeys((A, B, C), "done")
    assert not nights.status.failed


def test_a_source_that_is_out_is_not_asked_for_every_scene(
    nights: Nights, server: FileServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources, "PATIENCE", 2)
    names = [f"S2A_33UUP_202406{day:02}_0_L2A" for day in range(1, 9)]
    items = [served(nights.scene(name), nights.folder / "files", server.url) for name in names]
    server.disturb("S2A", lasting=503)
    assert nights.ends(*items).exit_code == 4
    assert {request.path.split("/")[1] for request in server.asked()} == {names[0], names[-1]}
    assert set(nights.status.failed) == set(names), "all are tried again, whatever the dates of the next run"
    assert "not tried, for http://127.0.0.1" in nights.status.failed[names[1]]
    server.calm()
    assert nights.run(dates="2019") == dict.fromkeys(names, "done")


def test_a_source_that_is_out_costs_no_scene_of_another(nights: Nights, server: FileServer):
    away = served(nights.scene(A), nights.folder / "files", server.url)
    server.disturb("S2A", lasting=503)
    error = nights.ends(away, nights.scene(B))
    assert error.exit_code == 4
    assert set(nights.status.failed) == {A}
    assert set(ledger.read(nights.out).done) == {B}


def test_one_file_that_stays_away_where_others_are_served_is_that_scenes_affair(nights: Nights, server: FileServer):
    items = [served(nights.scene(name), nights.folder / "files", server.url) for name in (A, B)]
    server.disturb(A, lasting="empty")  # May be a cut connection: tried again, but the scene's own if it lasts
    states = [nights.run(*items)[A] for _ in range(4)]
    assert states == ["failed", "failed", "failed", "abandoned"]
    assert set(ledger.read(nights.out).done) == {B}


@pytest.mark.parametrize("fault", [403, 401, "html", "json", "cut", "short", "gzip"])
def test_what_one_file_is_refused_for_never_counts_and_quiet_nights_end_with_1(
    fault: int | str, nights: Nights, server: FileServer
):
    """A licence, an archive's tier, a disk of the server's: with nothing new to mask every night ended with 4."""
    items = [served(nights.scene(name), nights.folder / "files", server.url) for name in (A, B)]
    server.disturb(A, lasting=fault)
    for _ in range(4):
        assert nights.run(*items)[A] == "failed"
    assert {failure.runs for failure in failures.read_all(nights.out, {})} == {0}
    server.disturb(B, lasting=fault)  # Now keys have lapsed, or the server is out
    assert nights.ends(*items).exit_code == 4
    server.calm()
    assert nights.run(*items) == {A: "done"}


STORES = {
    "s3": "AWS_S3_ENDPOINT=127.0.0.1:{port} AWS_HTTPS=NO AWS_VIRTUAL_HOSTING=FALSE AWS_PROFILE=archive",
    "gs": "CPL_GS_ENDPOINT=http://127.0.0.1:{port}/ GS_NO_SIGN_REQUEST=YES",
    "az": "AZURE_STORAGE_CONNECTION_STRING=AccountName=a;AccountKey=eA==;BlobEndpoint=http://127.0.0.1:{port}",
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("fault", ["cut", "empty"])
def test_a_bucket_whose_answers_nobody_can_look_at_is_asked_for_a_mask_of_before(
    fault: str, kind: str, nights: Nights, server: FileServer, monkeypatch: pytest.MonkeyPatch
):
    """With keys of a file, or of another store than S3: three nights that broke off, and its scenes were given up."""
    (nights.folder / "keys").write_text("[archive]\naws_access_key_id=x\naws_secret_access_key=x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nights.folder / "keys"))
    for name in ("AWS_NO_SIGN_REQUEST", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for told in STORES[kind].split():
        monkeypatch.setenv(*told.format(port=server.port).split("=", 1))
    items = [served(nights.scene(name), nights.folder, f"{kind}:/") for name in (A, B)]
    (nights.folder / "files" / "files").symlink_to(nights.folder / "files")  # What stands for the bucket
    server.disturb(A, lasting=fault)
    assert [nights.ends(items[0]).exit_code for _ in range(4)] == [4] * 4
    assert {failure.runs for failure in failures.read_all(nights.out, {})} == {0}
    assert nights.run(*items) == {A: "failed", B: "done"}
    assert [nights.run(*items)[A] for _ in range(3)] == ["failed", "failed", "abandoned"]  # B's file was asked for


def test_a_server_of_whole_files_only_is_told_as_that(nights: Nights, server: FileServer):
    """As `python -m http.server`: its files were "not recognized", and its scenes given up after three nights."""
    items = [served(nights.scene(name, shape=(350, 350)), nights.folder / "files", server.url) for name in (A, B)]
    server.disturb("S2A", lasting="whole")
    for _ in range(4):
        error = nights.ends(*items)
        assert error.exit_code == 4
        assert "sends whole files only, no byte ranges" in str(error)
    assert {failure.runs for failure in failures.read_all(nights.out, {})} == {0}


def test_scenes_that_are_refused_for_good_do_not_keep_others_from_being_tried(
    nights: Nights, server: FileServer, monkeypatch: pytest.MonkeyPatch
):
    """Those of an archive's tier come first by their time, and the others were never tried, on no night."""
    monkeypatch.setattr(sources, "PATIENCE", 2)
    items = [served(nights.scene(name), nights.folder / "files", server.url) for name in (A, B, C, D)]
    server.disturb(f"{A}|{B}", lasting=403)
    refused = {A: "failed", B: "failed"}
    assert nights.run(*items[:3]) == refused | {C: "done"}
    assert nights.run(*items) == refused | {D: "done"}
    server.calm()
    server.disturb("S2A", lasting=503)
    later = [f"S2A_33UUP_202406{day}_0_L2A" for day in range(10, 14)]
    items += [served(nights.scene(name), nights.folder / "files", server.url) for name in later]
    assert nights.ends(*items).exit_code == 4
    server.calm()
    server.disturb("|".join((A, B, later[2], later[3])), lasting=403)
    told = nights.run(*items)  # All have failed before, though most of them were not tried
    assert told == refused | dict.fromkeys(later[:2], "done") | dict.fromkeys(later[2:], "failed")


def test_a_gateway_that_answers_all_with_a_page_is_an_outage(
    nights: Nights, server: FileServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources, "PATIENCE", 2)
    items = [served(nights.scene(name), nights.folder / "files", server.url) for name in (A, B, C)]
    server.disturb("S2A", lasting="html")
    assert [nights.ends(*items).exit_code for _ in range(4)] == [4] * 4
    assert {failure.runs for failure in failures.read_all(nights.out, {})} == {0}


def bucket(item: dict[str, Any]) -> dict[str, Any]:
    assets = {key: {**asset, "href": f"s3://some-bucket/{key}.tif"} for key, asset in item["assets"].items()}
    return {**item, "assets": assets}


@pytest.fixture
def no_keys(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in outside._GIVEN["s3"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(nights.folder))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize("known", [True, False], ids=["in the run", "already when planning"])
@pytest.mark.usefixtures("no_keys")
def test_missing_keys_are_a_contract_error_that_names_the_variables(known: bool, nights: Nights):
    items = [bucket(nights.scene(name)) for name in (A, B, C)]
    items = items if known else list(map(without_grid, items))
    for _ in range(4):
        error = nights.ends(*items)
        assert isinstance(error, ContractError)
        assert "s3://some-bucket" in str(error)
        assert "AWS_ACCESS_KEY_ID" in (error.hint or "")
        assert "AWS_SECRET_ACCESS_KEY" in (error.hint or "")
    assert not nights.status.abandoned
    if known:
        assert set(nights.status.failed) == {A, B, C}
        nights.scene(A)


@pytest.mark.usefixtures("no_keys")
def test_a_source_without_keys_costs_no_scene_of_another_whatever_its_bands_are_called(nights: Nights):
    """Where bands are found by other keys than the catalog's, no source was known: all of them passed for one."""
    names = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08"}
    away, here = (
        {**item, "assets": {names[key]: asset for key, asset in item["assets"].items()}}
        for item in (without_grid(bucket(nights.scene(A))), nights.scene(B))
    )
    assert nights.run(away, here) == {A: "failed", B: "done"}
    assert "s3://some-bucket wants keys" in nights.status.failed[A]


class Refusing(BaseHTTPRequestHandler):
    """A bucket that answers every request with an error of its own."""

    def do_GET(self) -> None:
        told = self.says.encode()  # type: ignore[attr-defined]
        self.send_response(self.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(told)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def open_buckets_at(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    for name, value in (keys | {"AWS_S3_ENDPOINT": f"127.0.0.1:{port}"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
        (502, "", "<html>Bad gateway</html>"),
    ],
)
def test_a_bucket_that_refuses_never_counts(
    status: int, code: str, message: str, nights: Nights, monkeypatch: pytest.MonkeyPatch
):
    """GDAL tells neither code nor status of it, only the message."""
    says = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else message
    with serving(Refusing, status=status, says=says) as port:
        open_buckets_at(port, monkeypatch)
        assert nights.ends(bucket(nights.scene(A))).exit_code == 4
    assert {failure.runs for failure in failures.read_all(nights.out, {})} == {0}


@pytest.mark.parametrize(
    "message",
    [
        "The request signature we calculated does not match the signature you provided.",
        "The provided token has expired.",
        "The provided token is malformed or otherwise invalid.",
        "The difference between the request time and the current time is too large.",
        "Access Denied",
        "All access to this object has been disabled",
        "The specified bucket does not exist",
        "The bucket you are attempting to access must be addressed using the specified endpoint.",
        "The authorization header is malformed; the region 'us-east-1' is wrong",
        "Please reduce your request rate.",
        "We encountered an internal error. Please try again.",
        "Invalid AWS response: ",
        "x does not have storage.objects.get access to the Google Cloud Storage object.",
        "Server failed to authenticate the request.",
        "The specified container does not exist.",
        "Public access is not permitted on this storage account.",
        "The server is busy.",
    ],
)
def test_what_object_stores_say_of_all_their_objects(message: str):
    assert issubclass(outside.kind("s3://some-bucket/red.tif", message), OutsideError)


@pytest.mark.parametrize(
    "message", ["The specified key does not exist.", "The specified blob does not exist.", "No such object: b/red.tif"]
)
def test_what_object_stores_say_of_one(message: str):
    assert outside.kind("s3://some-bucket/red.tif", message) is SceneError


def test_an_object_that_is_gone_is_its_scenes_own_affair(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    says = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
    with serving(Refusing, status=404, says=says) as port:
        open_buckets_at(port, monkeypatch)
        assert nights.run(bucket(nights.scene(A))) == {A: "failed"}
    assert {failure.runs for failure in failures.read_all(nights.out, {})} == {1}


@pytest.mark.parametrize(("status", "role"), [(200, True), (403, False), (404, False), (503, False)])
@pytest.mark.usefixtures("no_keys")
def test_only_amazons_own_answer_is_a_role(status: int, role: bool, monkeypatch: pytest.MonkeyPatch):
    """A firewall that answers for everything made GDAL ask it for keys for a minute."""

    class Metadata(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"token")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with serving(Metadata) as port:
        monkeypatch.setenv("CPL_AWS_EC2_API_ROOT_URL", f"http://127.0.0.1:{port}")
        assert outside._keys("s3") is role
    outside._keys.cache_clear()


@pytest.mark.usefixtures("no_keys")
def test_missing_keys_of_one_source_cost_no_scene_of_another(nights: Nights):
    error = nights.ends(bucket(nights.scene(A)), nights.scene(B), without_grid(bucket(nights.scene(C))))
    assert error.exit_code == 3
    assert set(ledger.read(nights.out).done) == {B}
    assert set(nights.status.failed) == {A, C}


def test_headers_that_are_not_to_be_had_are_an_outage_too(nights: Nights, server: FileServer):
    items = [without_grid(served(nights.scene(name), nights.folder / "files", server.url)) for name in (A, B)]
    assert nights.run(*items) == {A: "done", B: "done"}
    server.disturb(C, lasting=503)
    third = without_grid(served(nights.scene(C), nights.folder / "files", server.url))
    for _ in range(4):
        assert nights.run(*items, third) == {C: "failed"}
    assert not nights.status.abandoned


def test_what_is_no_scenes_fault_ends_the_run_and_counts_against_none(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    """A store that no longer answers its workers: the next scene would fare no better. The machine may be at fault."""

    def full(_: object, __: object, work: Iterable[tuple[str, task.Task]]) -> Iterator[tuple[task.Task, Any]]:
        for _, part in work:
            error = UnreachableError("the disk is full", hint="free some")
            error.worker = "tcp://10.0.0.7:4711"
            yield part, error

    monkeypatch.setattr(job, "stream", full)
    error = nights.ends(nights.scene(A), nights.scene(B))
    assert type(error) is UnreachableError
    assert (str(error), error.hint) == ("the disk is full (on the worker tcp://10.0.0.7:4711)", "free some")
    assert nights.status.failed == {}
    assert set(nights.status.incomplete) == {A, B}


# Every bad item on one path


def test_an_item_refused_at_describe_is_counted_and_abandoned(nights: Nights):
    bad = without(nights.scene(B), "nir")
    assert nights.run(nights.scene(A), bad) == {A: "done", B: "failed"}
    assert list(nights.status.failed) == [B]
    assert [nights.run(nights.scene(A), bad) for _ in range(3)] == [{B: "failed"}, {B: "failed"}, {B: "abandoned"}]
    assert "has no asset nir" in nights.status.abandoned[B]
    assert nights.run() == {}, "it is not even tried when no catalog lists it"
    assert nights.run(nights.scene(A), nights.scene(B)) == {B: "done"}, "the catalog was mended"
    assert not nights.status.abandoned


def test_an_item_that_can_no_longer_be_described_is_counted_and_abandoned(nights: Nights):
    bad, good = without_grid(nights.scene(A)), nights.scene(B)
    cut(bad)
    assert nights.run(bad, good) == {A: "failed", B: "done"}
    shutil.rmtree(nights.folder / "files" / A)
    assert [nights.run(good).get(A, "") for _ in range(5)] == ["failed"] * 3 + [""] * 2
    assert list(nights.status.abandoned) == [A]


def test_the_only_item_of_the_day_is_odd_and_what_failed_is_tried_again(nights: Nights):
    broken = nights.scene(A)
    mend = cut(broken)
    assert nights.run(broken) == {A: "failed"}
    mend()
    assert nights.run(without(nights.scene(B), "red")) == {A: "done", B: "failed"}


def test_where_nothing_has_ever_worked_the_catalog_is_at_fault(nights: Nights):
    assert isinstance(nights.ends(without(nights.scene(A), "red"), without(nights.scene(B), "red")), ContractError)
    assert not Path(nights.out.address).exists()


def test_what_the_catalog_lists_now_beats_what_once_failed(nights: Nights):
    old = without_grid(nights.scene(A))
    cut(old)
    assert nights.run(old) == {A: "failed"}
    shutil.rmtree(nights.folder / "files")
    new = nights.scene(A, seed=7)
    assert nights.run(new) == {A: "done"}
    assert nights.run(new) == {}


def test_an_old_failure_under_another_collections_name(nights: Nights):
    item = nights.scene(A)
    mend = cut(item)
    assert nights.run(item) == {A: "failed"}
    mend()
    file = {name: value for name, value in item.items() if name != "collection"}
    assert nights.run(file, nights.scene(B)) == {A: "done", B: "done"}


def test_a_wrong_transform_that_comes_first_costs_only_its_scene(nights: Nights):
    whole = [{**nights.scene(name)} for name in (A, B, C)]
    odd = json.loads(json.dumps(whole[0]))
    for asset in odd["assets"].values():
        asset["proj:transform"][2] += 20
    for item in (odd, *whole):
        for asset in item["assets"].values():
            asset["proj:shape"] = [64, 64]
        item["properties"]["grid:code"] = "MGRS-33UUP"
    assert nights.run(odd, *whole[1:])[B] == "done"
    assert nights.run(*whole) == {A: "done"}


def test_an_id_that_is_too_long_for_a_files_name_costs_no_other_scene(nights: Nights):
    """It is refused where items are parsed, or kept under a name that is cut."""
    for name in ("x" * 300, "云" * 60):
        item = {**nights.scene(A), "id": name}
        states = nights.run(item, nights.scene(B))
        assert states.pop(B) == "done"
        assert list(states.values()) in (["done"], ["failed"])
        shutil.rmtree(nights.out.address)


# What has been found once


def test_a_moved_scenes_old_slot_is_free(nights: Nights):
    assert nights.run(nights.scene(A)) == {A: "done"}
    moved = nights.scene(A, transform=(10.0, 0.0, 600_010.0, 0.0, -10.0, 5_200_020.0), seed=5)
    assert nights.run(moved) == {A: "done"}
    statuses = sorted(arrays["status"].tolist() for arrays in jobs.masks(Path(nights.out.address)).values())
    assert statuses == [[0], [1]]
    assert sorted(node.sizes["time"] for node in open_masks(nights.out).children.values()) == [0, 1]


def test_interrupted_in_a_redo_every_finished_mask_is_there(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    items = [nights.scene(name) for name in (A, B, C)]
    assert nights.run(*items) == dict.fromkeys((A, B, C), "done")
    before = jobs.items(Path(nights.out.address))
    for item in items:
        item["properties"]["s2:product_uri"] += "2"
    real = job.stream

    def interrupted(*arguments: Any) -> Iterator[Any]:
        handed_in = list(arguments[2])
        assert len(handed_in) == 3
        yield next(iter(real(*arguments[:2], handed_in)))
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nights.run(*items)
    after = jobs.items(Path(nights.out.address))
    assert after.keys() == before.keys()
    assert sum(after[path] == before[path] for path in before) == 2
    (masks,) = open_masks(nights.out).children.values()
    assert masks.sizes["time"] == 3
    assert (nights.status.last_run or {})["how"] == "interrupted"
    monkeypatch.setattr(job, "stream", real)
    assert nights.run(*items) == dict.fromkeys((A, B), "done")  # The newest comes first


def test_files_that_cannot_be_read_again_cost_no_mask(nights: Nights):
    """Found again with another fingerprint, and under a larger area, while their files are gone."""
    items = [nights.scene(name, shape=(64, 200)) for name in (A, B)]  # several tiles
    west, south, east, north = items[0]["bbox"]
    assert nights.run(*items, bbox=(west, south, (west + east) / 2, north)) == {A: "done", B: "done"}
    before, masks = jobs.items(Path(nights.out.address)), jobs.masks(Path(nights.out.address))
    items[0]["properties"]["s2:product_uri"] += "2"
    for item in items:
        cut(item)
    assert nights.run(*items) == {A: "failed", B: "failed"}
    assert jobs.items(Path(nights.out.address)) == before
    for group, arrays in jobs.masks(Path(nights.out.address)).items():
        for slot in range(2):
            np.testing.assert_array_equal(arrays["cloud"][slot], masks[group]["cloud"][slot])
            assert arrays["status"][slot] == 1


def test_another_run_may_commit_while_masks_are_opened(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    assert nights.run(nights.scene(A)) == {A: "done"}
    real = open_masks.__globals__["xr"].open_zarr

    def meanwhile(*arguments: Any, **how: Any) -> Any:
        monkeypatch.setattr(open_masks.__globals__["xr"], "open_zarr", real)
        assert nights.run(nights.scene(A), nights.scene(B)) == {B: "done"}
        return real(*arguments, **how)

    monkeypatch.setattr(open_masks.__globals__["xr"], "open_zarr", meanwhile)
    (masks,) = open_masks(nights.out).children.values()
    assert masks.scene.values.tolist() == [A]


def killed_in(nights: Nights, monkeypatch: pytest.MonkeyPatch, *items: dict[str, Any]) -> None:
    """A night that ends as by SIGKILL, before any scene is read."""

    def killed(*_: Any) -> Iterator[Any]:
        raise SystemExit

    def unwritten(*_: Any) -> None:
        raise UnreachableError("the record stays as it was when the run began")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "refresh", unwritten)
        patch.setattr(job, "stream", killed)
        with pytest.raises(SystemExit):
            nights.run(*items)


def test_what_a_killed_run_left_is_over_when_another_version_is_done(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    older = nights.scene(V1, baseline="02.10")
    newer = nights.scene(V2, baseline="03.01", generated="2024-08-01T00:00:00Z")
    killed_in(nights, monkeypatch, older)
    assert nights.run(newer) == {V2: "done"}
    assert nights.status.incomplete == (V1,)
    assert nights.run(older) == {}
    assert nights.status.incomplete == ()
    assert list(jobs.slots(Path(nights.out.address)).values()) == [["", V2]]


def test_a_run_tells_of_what_a_killed_one_left_and_it_does_not_ask_for(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Whose dates had passed when the machine was mended was never finished, and only `status` knew."""
    killed_in(nights, monkeypatch, nights.scene(A))
    catalog, out = nights.folder / "items.json", nights.out.address
    what = ("--catalog", catalog, "--checkpoint", nights.checkpoint, "--bbox", "-180", "-90", "180", "90", "--out", out)
    told = f"1 scene that an interrupted run began, such as {A}, not asked for now; `cloudjob list` tells the dates"
    later = call(capfd, "run", *what, "--dates", "2024-06-30")
    assert (later.code, told in later.stderr) == (0, True)
    assert told not in call(capfd, "plan", *what, "--dates", "2024-06").stderr


def test_a_run_tells_of_files_that_cannot_be_used(nights: Nights, capfd: pytest.CaptureFixture[str]):
    """It said "nothing to do", and ended with 0."""
    nights.run(nights.scene(A), nights.scene(B))
    nights.out.put("failures/x.json", b"{")
    catalog, out = nights.folder / "items.json", nights.out.address
    what = ("--catalog", catalog, "--checkpoint", nights.checkpoint, *jobs.EVERYWHERE, "--out", out)
    result = call(capfd, "run", *what)
    assert result.code == 0
    assert "1 file of the OUT cannot be used, such as failures/x.json; `cloudjob check OUT --repair`" in result.stderr


# Records and retries


def test_every_run_leaves_a_record(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    assert nights.run(nights.scene(A)) == {A: "done"}
    assert nights.run(nights.scene(A)) == {}
    assert nights.run() == {}
    assert len(nights.out.names("runs")) == 3
    last = nights.status.last_run or {}
    assert (last["how"], last["scenes"]) == ("complete", [])
    assert len(runs.last_receipts(nights.out)) == 1, "what a scene costs is known from the run that had one"

    killed_in(nights, monkeypatch, nights.scene(B))
    assert (nights.status.last_run or {})["how"] == "unfinished"


def test_a_run_that_masks_nothing_leaves_every_other_byte(nights: Nights):
    def kept() -> dict[str, Any]:
        return {
            path: what for path, what in jobs.tree(Path(nights.out.address)).items() if path[:4] not in ("lock", "runs")
        }

    assert nights.run(nights.scene(A)) == {A: "done"}
    before = kept()
    assert nights.run(nights.scene(A)) == {}
    assert kept() == before


def test_retry_asks_for_abandoned_scenes(nights: Nights):
    item = nights.scene(A)
    mend = cut(item)
    assert [nights.run(item, nights.scene(B))[A] for _ in range(4)] == ["failed"] * 3 + ["abandoned"]
    assert nights.run(retry=[A]) == {A: "failed"}
    assert nights.run() == {}
    error = nights.ends(retry=["S2A_33UUP"])
    assert isinstance(error, UsageError)
    assert A in (error.hint or "")
    mend()
    assert nights.run(retry=["all"]) == {A: "done"}


def test_a_source_is_told_from_its_address():
    assert outside.source("https://user:pw@h.example:8/a/b.tif?x=1") == "https://h.example:8"
    assert outside.source("s3://bucket/a.tif") == outside.source("/vsis3/bucket/a.tif") == "s3://bucket"
    assert outside.source("/vsicurl/https://h/a.tif") == "https://h"
    assert outside.source("/a/b.tif") == outside.source("file:///a/b.tif") == ""


def test_each_item_is_described_once(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    count = 0
    real = found.describe

    def counted(*arguments: Any, **how: Any) -> Any:
        nonlocal count
        count += 1
        return real(*arguments, **how)

    monkeypatch.setattr(found, "describe", counted)
    nights.run(nights.scene(A), nights.scene(B))
    assert count == 2


# Versions of one acquisition


V1, V2, V3 = (f"S2A_33UUP_20240601_{number}_L2A" for number in range(3))


def product(item: dict[str, Any]) -> dict[str, Any]:
    """Properties by which another publisher's item is the same product."""
    return {name: item["properties"][name] for name in ("s2:product_uri", "s2:generation_time")}


@pytest.mark.parametrize("other", [V3, "R2A_33UUP_20240601_of_another"], ids=["sorts after", "sorts before"])
def test_a_failed_product_that_is_listed_under_another_id_is_masked_under_that(nights: Nights, other: str):
    first, beside = nights.scene(V2), nights.scene(B)
    again = nights.scene(other, properties=product(first))
    cut(first)
    assert nights.run(first, beside) == {V2: "failed", B: "done"}
    assert nights.run(again, beside) == {other: "done"}
    assert not nights.status.failed
    assert not nights.status.incomplete
    assert nights.run(again, beside) == {}
    with open_masks(nights.out.address, next(iter(nights.status.groups))) as masks:
        assert sorted(masks.scene.values) == sorted([other, B])


def provisional(nights: Nights, maturity: str, made: str | None, **how: Any) -> dict[str, Any]:
    """An item as Digital Earth Australia lists it: a new id for each time an acquisition is processed, no version."""
    ids = {"interim": "9bc160d6-c20a-479f-86c5-ffd98c65ff87", "final": "b7e4a8e5-d30b-4a1c-9a55-0d1fbb3f2c01"}
    item = nights.scene(f"S2A_33UUP_20240601_{maturity}", seed=len(maturity), **how)
    kept = {name: item["properties"][name] for name in ("datetime", "platform", "proj:epsg", "eo:cloud_cover")}
    told = {
        "title": f"ga_s2am_ard_3-2-1_33UUP_2024-06-01_{maturity}",
        "odc:region_code": "33UUP",
        "odc:dataset_version": "3.2.1",
        "sentinel:datastrip_id": "S2A_OPER_MSI_L1C_DS_2APS_20240601T120000_S20240601T101559_N05.10",
        "sentinel:product_name": "S2A_MSIL1C_20240601T101559_N0510_R022_T33UUP_20240601T101559",
    }
    if made:
        told |= {"dea:dataset_maturity": maturity, "created": made}
    return {**item, "id": ids[maturity], "collection": "ga_s2am_ard_3", "properties": {**kept, **told}}


INTERIM, FINAL = "2024-06-02T01:00:00.000000Z", "2024-07-05T12:31:16.877709Z"


@pytest.mark.parametrize("told", [INTERIM, None], ids=["", "in an OUT of before"])
@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_final_product_takes_the_place_of_its_provisional_one(nights: Nights, told: str | None, *, withdrawn: bool):
    """One acquisition had two masks, and nobody was told."""
    interim, final = provisional(nights, "interim", INTERIM), provisional(nights, "final", FINAL)
    assert nights.run(provisional(nights, "interim", told)) == {interim["id"]: "done"}
    assert nights.run(interim) == {}
    listed = [final] if withdrawn else [interim, final]
    assert nights.run(*listed) == {final["id"]: "done"}
    assert nights.run(*listed) == nights.run(interim) == {}
    with open_masks(nights.out.address, next(iter(nights.status.groups))) as masks:
        assert list(masks.scene.values) == [final["id"]]


def test_two_masks_of_before_stay_as_they_are(nights: Nights):
    """An OUT in which a provisional product and its final one were two scenes: no run does any of it again."""
    before = [provisional(nights, "interim", None), provisional(nights, "final", None)]
    assert nights.run(*before) == {item["id"]: "done" for item in before}
    left = jobs.kept(Path(nights.out.address))
    interim, final = provisional(nights, "interim", INTERIM), provisional(nights, "final", FINAL)
    assert nights.run(interim, final) == nights.run(final) == nights.run(interim) == {}
    assert jobs.kept(Path(nights.out.address)) == left


def test_when_an_item_was_listed_is_no_version_of_it(nights: Nights):
    """`created` is told by everybody, and tells when the product was made in Open Data Cube's items only."""
    items = [provisional(nights, "interim", INTERIM), provisional(nights, "final", FINAL)]
    for item in items:
        del item["properties"]["dea:dataset_maturity"]
    assert nights.run(*items) == {item["id"]: "done" for item in items}


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_newer_version_that_cannot_be_read_gives_way_to_an_older_one(nights: Nights, *, withdrawn: bool):
    older = nights.scene(V1, baseline="02.10")
    newer = nights.scene(V2, baseline="03.01", generated="2024-08-01T00:00:00Z")
    mend = cut(newer)
    assert nights.run(older, newer) == {V2: "failed"}
    listed = [older] if withdrawn else [older, newer]
    given_up = {} if withdrawn else {V2: "abandoned"}
    assert [nights.run(*listed) for _ in range(2)] == [{V2: "failed"}] * 2
    assert nights.run(*listed) == {V1: "done"} | given_up
    assert nights.run(*listed) == given_up
    mend()
    assert nights.run(older, newer, retry=[V2]) == {V2: "done"}
    assert list(ledger.read(nights.out).done) == [V2]
    assert not nights.status.failed


def test_a_third_version_takes_the_place_of_the_one_that_is_there(nights: Nights):
    baselines = zip((V1, V2, V3), ("02.10", "03.00", "03.01"), (6, 7, 8), strict=True)
    items = [
        nights.scene(name, baseline=baseline, generated=f"2024-{month:02}-01T00:00:00Z")
        for name, baseline, month in baselines
    ]
    assert nights.run(items[0]) == {V1: "done"}
    cut(items[1])
    assert nights.run(*items[:2]) == {V2: "failed"}
    assert nights.run(*items) == {V3: "done"}
    assert nights.run(items[2]) == {}
    status = nights.status
    assert list(ledger.read(nights.out).done) == [V3]
    assert (status.failed, status.incomplete) == ({}, ())
    with open_masks(nights.out.address, next(iter(status.groups))) as masks:
        assert list(masks.scene.values) == [V3]


def test_a_larger_area_is_masked_under_whatever_id_a_product_is_listed(nights: Nights):
    item = nights.scene(V1, shape=(200, 170))
    again = nights.scene("R2A_33UUP_20240601_of_another", shape=(200, 170), properties=product(item))
    west, south, east, north = item["bbox"]
    corner = (west, north - 0.1 * (north - south), west + 0.1 * (east - west), north)
    assert nights.run(item, bbox=corner) == {V1: "done"}
    assert nights.run(again, bbox=corner) == {}
    assert nights.run(again) == {again["id"]: "done"}
    assert nights.run(item) == nights.run(again) == {}
    (done,) = ledger.read(nights.out).done.values()
    assert len(done.tiles) > 1


def test_a_damaged_mask_is_made_again_of_the_version_that_is_listed_now(
    nights: Nights, caplog: pytest.LogCaptureFixture
):
    first, later = nights.scene(V1, baseline="02.10"), nights.scene(C)
    newer = nights.scene(V2, baseline="03.01", generated="2024-08-01T00:00:00Z")
    assert nights.run(first, later) == {V1: "done", C: "done"}
    damaged = ledger.read(nights.out).done[V1]
    for path in Path(nights.out.address).glob(f"masks.zarr/{damaged.group}/cloud/c/{damaged.slot}/*/*"):
        path.write_bytes(b"damaged")
    with Lock(nights.out) as lock:
        list(repair.repair(lock, list(check.check(nights.out))))
    assert nights.run(later, dates="2024-06-07") == {}
    assert f"{V1} of 2024-06-01, whose mask was found damaged, is not listed any more" in caplog.text
    assert nights.status.incomplete == (V1,)
    assert nights.run(newer, later, dates="2024-06-07") == {V2: "done"}
    assert again.read(nights.out) == []
    assert nights.status.incomplete == ()
    assert jobs.slots(Path(nights.out.address)) == {damaged.group: [V2, C]}, "it has the place that waited"


@pytest.mark.parametrize("narrower", [{"max_cloud_cover": 5.0}, {"limit": 1}])
def test_a_damaged_mask_is_made_again_whatever_the_run_leaves_out(nights: Nights, narrower: dict[str, Any]):
    """Of a day that is asked for, but of a scene that is not: it was gone until no run asked for its day any more."""
    scenes = nights.scene(B), nights.scene(A)
    nights.run(*scenes)
    damage(nights, A)
    mended(nights)
    assert nights.run(*scenes, **narrower) == {A: "done"}
    assert again.read(nights.out) == []


def test_a_mark_of_an_earlier_cloudjob_is_understood(nights: Nights):
    assert nights.run(nights.scene(A)) == {A: "done"}
    nights.out.put_json(again.FILE, {B: "2024-06-04"})
    assert nights.run(nights.scene(A), nights.scene(B), dates="2024-06-01") == {B: "done"}
    assert again.read(nights.out) == []


# What is there stays, or is told


def part_of(item: dict[str, Any]) -> tuple[float, float, float, float]:
    """A corner that holds one of its tiles."""
    west, south, east, north = item["bbox"]
    return west, north - 0.1 * (north - south), west + 0.1 * (east - west), north


def damage(nights: Nights, scene: str) -> None:
    done = ledger.read(nights.out).done[scene]
    for path in Path(nights.out.address).glob(f"masks.zarr/{done.group}/cloud/c/{done.slot}/*/*"):
        path.write_bytes(b"damaged")


def mended(nights: Nights) -> list[str]:
    with Lock(nights.out) as lock:
        return [what for _, what in repair.repair(lock, list(check.check(nights.out)))]


def test_a_failed_scene_whose_group_is_not_listed_is_tried_again_in_it(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    """Every night ended with 4: the group was there, and nobody had asked for it."""
    with object_store.bucket(monkeypatch) as store:
        bad, good = nights.scene(A), nights.scene(B)
        mend = cut(bad)
        assert nights.run(bad, good, out="s3://bucket/out") == {A: "failed", B: "done"}
        mend()
        store.hidden = "^out/masks.zarr/|^out/items/"
        assert nights.run(dates="2019", out="s3://bucket/out") == {A: "done"}
        store.hidden = ""
        assert set(ledger.read(Out.at("s3://bucket/out")).done) == {A, B}


def test_a_redo_that_finds_no_scene_deletes_nothing(nights: Nights):
    """Of dates that are misspelt, say."""
    assert nights.run(nights.scene(A)) == {A: "done"}
    before = jobs.kept(Path(nights.out.address))
    error = nights.ends(nights.scene(A), dates="2019", threshold=0.9, redo=True)
    assert isinstance(error, ContractError)
    assert "nothing was deleted" in str(error)
    assert jobs.kept(Path(nights.out.address)) == before
    assert nights.run(nights.scene(A), threshold=0.9, redo=True) == {A: "done"}
    assert nights.run(nights.scene(A), dates="2019", threshold=0.9, redo=True) == {}, "nothing is to be redone"


def test_a_damaged_mask_is_made_again_whole_though_the_area_has_shrunk(nights: Nights):
    item = nights.scene(A, shape=(200, 170))
    nights.run(item)
    before = jobs.mask_of(Path(nights.out.address), A)
    damage(nights, A)
    mended(nights)
    assert nights.run(item, bbox=part_of(item)) == {A: "done"}
    np.testing.assert_array_equal(jobs.mask_of(Path(nights.out.address), A), before)
    assert nights.run(item, bbox=part_of(item)) == {}


@pytest.mark.parametrize("left", [b"", b"x"])
@pytest.mark.parametrize("name", ["status", "time"])
def test_a_damaged_axis_costs_its_own_group_and_is_named_with_what_mends_it(
    name: str, left: bytes, nights: Nights, capfd: pytest.CaptureFixture[str]
):
    """What codecs say of it ended the run as a bug of cloudjob."""
    nights.run(nights.scene(A))
    (path,) = Path(nights.out.address).glob(f"masks.zarr/*/{name}/c/0")
    path.write_bytes(left)
    elsewhere = nights.scene(C, properties={"grid:code": "MGRS-33UVP"})
    assert nights.run(nights.scene(A), nights.scene(B), elsewhere) == {B: "failed", C: "done"}
    assert f"/{name} cannot be read" in nights.status.failed[B]
    for look in (["status", nights.out], ["list", nights.out]):
        assert "check OUT --repair" in call(capfd, *look).stdout
    page = Path(call(capfd, "report", nights.out).stdout.strip()).read_text(encoding="utf-8")
    assert "check OUT --repair" in page
    assert "1 of 2 scenes of the last run failed" in page
    for _ in range(4):
        assert nights.run(elsewhere) == {B: "failed"}, "never given up"
    assert set(mended(nights)) == {"made anew from what else is known"}
    assert nights.run(elsewhere) == {B: "done"}
    assert list(check.check(nights.out)) == []


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray 0.19 with affine 3
@pytest.mark.parametrize("lost", ["items/{}/" + A + ".json", "masks.zarr/{}/zarr.json"])
def test_masks_that_are_left_out_are_told(
    lost: str, nights: Nights, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Only `status`, `check` and a run said so: somebody who exported a month lacked a scene and did not know."""
    elsewhere, address = nights.scene(C, properties={"grid:code": "MGRS-33UVP"}), nights.out.address
    nights.run(nights.scene(A), elsewhere)
    here, other = (jobs.item_of(Path(address), scene)["properties"]["cloudjob:group"] for scene in (A, C))
    path = lost.format(here)
    Path(address, path).write_bytes(b"{")
    monkeypatch.chdir(nights.folder)
    told = f"1 file of the OUT cannot be used, such as {path}; `cloudjob check OUT --repair` mends what can be mended"
    with pytest.warns(UserWarning, match=re.escape(told)):
        opened = cloudjob.open(address)
    assert opened[other].scene.values.tolist() == [C]
    with pytest.warns(UserWarning, match=re.escape(told)):
        assert cloudjob.load("2024", address).scene.values.tolist() == [C]
    for command in (["list", address], ["export", address, "2024", "."], ["export", address, "--all"]):
        found = call(capfd, *command)
        assert (found.code, told in found.stderr) == (0, True)
    cloudjob.open(address, group=other)  # Without a word: nothing of it is left out
    if path.startswith("masks.zarr"):
        with pytest.raises(ContractError) as error:
            cloudjob.open(address, group=here)
        assert error.value.hint == told


NUMBERS: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {name: [1] for name in BY_BAND}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pixels", None),
        ("pixels", {"clear": "1"}),
        ("pixels", {"clear": -1, "cloud": 0, "no_data": 0, "not_computed": 0}),
        ("numbers", [1]),
        ("numbers", {"dark_all": 1}),
        ("numbers", NUMBERS | {"dark_all": None}),
        ("numbers", NUMBERS | {"glaring": [None]}),
        ("numbers", NUMBERS | {"most": ["9"]}),
        ("numbers", NUMBERS | {"least": 1}),
    ],
)
def test_an_item_whose_counts_are_none_costs_its_own_scene_only(name: str, told: Any, nights: Nights):
    """A scene that grows adds to them: that ended the run as a bug of cloudjob, and `list`, too."""
    item, beside = nights.scene(A, shape=(200, 170)), nights.scene(B, shape=(200, 170))
    nights.run(item, bbox=part_of(item))
    (path,) = Path(nights.out.address).glob("items/*/S2A*.json")
    found = json.loads(path.read_text())
    found["properties"][f"cloudjob:{name}"] = told
    path.write_text(json.dumps(found))
    assert {one.state for one in listing.scenes(nights.out)} == {"incomplete"}
    assert len(nights.status.damaged) == 1
    assert nights.run(item, beside) == {A: "done", B: "done"}
    assert not nights.status.damaged


@pytest.mark.parametrize("receipt", [None, {}, {"seen": 3}, dict.fromkeys(runs.COSTS, "1"), [1]])
def test_a_record_of_another_version_tells_no_cost(receipt: Any, nights: Nights):
    """A guess for people ended the run as a bug of cloudjob."""
    nights.run(nights.scene(A))
    (path,) = nights.out.names("runs")
    record = nights.out.get_json(f"runs/{path}")
    assert runs.last_receipts(nights.out) == [{name: record["scenes"][0]["receipt"][name] for name in runs.COSTS}]
    record["scenes"][0]["receipt"] = receipt
    nights.out.put_json(f"runs/{path}", record)
    assert runs.last_receipts(nights.out) == []


def test_a_clock_that_was_ahead_once_keeps_no_scene_from_being_given_up(nights: Nights):
    bad, good, today = nights.scene(A), nights.scene(B), nights.now
    cut(bad)
    nights.now += timedelta(days=4000)
    assert nights.run(bad, good) == {A: "failed", B: "done"}
    nights.now = today
    assert [nights.run(bad, good)[A] for _ in range(3)] == ["failed", "failed", "abandoned"]


def test_the_slots_of_a_group_made_anew_are_no_unfinished_scenes(nights: Nights):
    """They were said to be incomplete for ever, and that the next run would finish them."""
    bad = nights.scene(B)
    mend = cut(bad)
    assert nights.run(nights.scene(A), bad) == {A: "done", B: "failed"}
    (path,) = Path(nights.out.address).glob("masks.zarr/*/zarr.json")
    path.write_bytes(b"")
    assert mended(nights) == ["made anew from what else is known"]
    assert nights.status.incomplete == ()
    mend()
    assert nights.run(nights.scene(A), bad) == {B: "done"}
    (slots,) = jobs.slots(Path(nights.out.address)).values()
    assert slots == [A, B]


def test_a_source_that_answers_when_it_was_given_up_is_asked_for_the_others(
    nights: Nights, server: FileServer, monkeypatch: pytest.MonkeyPatch
):
    """By a scene that was under way meanwhile."""
    monkeypatch.setattr(sources, "PATIENCE", 2)
    beside = nights.scene("S2A_33UUP_20240602_0_L2A")  # Else nothing would be waited for any more
    items = [served(nights.scene(name), nights.folder / "files", server.url) for name in (A, B, C, D)]
    for name in (A, D):
        server.disturb(name, lasting=503)
    real, handed_in = job.stream, []

    def four_lanes(*arguments: Any) -> Iterator[Any]:
        work = iter(arguments[2])
        handed_in.append([*itertools.islice(work, 4)])
        yield from real(*arguments[:2], handed_in[-1][:2])
        assert list(work) == []
        yield from real(*arguments[:2], handed_in[-1][2:])

    monkeypatch.setattr(job, "stream", four_lanes)
    states = nights.run(*items, beside)
    assert states == {A: "failed", B: "done", C: "done", D: "failed", beside["id"]: "done"}
    assert [len(each) for each in handed_in if each] == [4, 1]
