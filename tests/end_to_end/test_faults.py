"""A server that errs: what passes is ridden out, what lasts costs one scene and no other."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jobs
import pytest
from distributed import Client
from faulty import call, impatient_cluster, served
from file_server import Fault, FileServer, file_server
from scenes import BANDS

from cloudjob import embed
from cloudjob.errors import OutageError, OutsideError, PassingError, SceneError
from cloudjob.scene import files, opened
from cloudjob.scene.describe import describe
from cloudjob.scene.opened import SceneFiles

NAMES = ("MON", "TUE", "WED", "THU", "FRI")


@dataclass(frozen=True)
class World:
    """Scenes behind a server, a cluster, and what an undisturbed run makes of them.

    Attributes:
        files: the server.
        catalog: an item collection of five scenes.
        checkpoint: a small network.
        cluster: a scheduler's address.
        reference: the OUT of an undisturbed run.
    """

    files: FileServer
    catalog: Path
    checkpoint: Path
    cluster: str
    reference: Path

    def run(self, capfd: pytest.CaptureFixture[str], out: Path) -> jobs.Result:
        """`cloudjob run` on all scenes."""
        what = ("--catalog", self.catalog, "--checkpoint", self.checkpoint, "--cluster", self.cluster)
        return call(capfd, "run", *what, "--out", out, *jobs.EVERYWHERE)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    checkpoint = jobs.random_checkpoint(folder / "net.safetensors")
    made = [
        jobs.make_scene(folder / "files", name, f"2024-06-{day:02}T10:15:59Z", seed=day, shape=(100, 90))
        for day, name in enumerate(NAMES, start=3)
    ]
    silence = {"GDAL_HTTP_LOW_SPEED_TIME": "3"}  # Seconds; with one, a server starved of CPU was silent, too
    with file_server(folder / "files") as files, impatient_cluster(folder / "worker.log", **silence) as cluster:
        catalog = jobs.write_catalog(
            folder / "items.json", [served(item, folder / "files", files.url) for item in made]
        )
        world = World(files, catalog, checkpoint, cluster, folder / "reference")
        with Client(cluster) as client:
            what = {"catalog": catalog, "checkpoint": checkpoint, "out": world.reference}
            undisturbed = embed.run(client=client, bbox=(-180, -90, 180, 90), dates="2000/..", **what)
        assert [result.state for result in undisturbed] == ["done"] * len(NAMES)
        yield world


@pytest.fixture
def world(still: World) -> World:
    """The world with a server that has forgotten earlier tests."""
    still.files.calm()
    return still


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param((500, "", 503, "", "", 502), id="server errors"),
        pytest.param(("", "", 429, 429, 429, "", 429), id="too many requests"),
        pytest.param(("slow", "", "slow"), id="slow"),
        pytest.param(("", "", "cut", "", "", "cut"), id="cut"),
        pytest.param(("", "", "short", "", "", "short"), id="short"),
        pytest.param(("hang up", "", "hang up", "hang up", "", "hang up"), id="hung up"),
    ],
)
def test_faults_of_every_file_that_pass_are_ridden_out(
    faults: tuple[Fault, ...], world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES[:2]:
        for band in BANDS:
            world.files.disturb(f"{name}/{band}.tif", *faults)
    result = world.run(capfd, tmp_path / "out")
    assert result.code == 0, result.stderr
    jobs.assert_same(tmp_path / "out", world.reference)
    met = [request.fault for request in world.files.asked() if request.fault]
    assert Counter(met) == Counter([fault for fault in faults if fault] * 2 * len(BANDS))


@pytest.mark.parametrize(
    ("before", "fault"),
    [
        pytest.param(2, "html", id="a page in place of the header"),
        pytest.param(2, 404, id="a file that is there and not there"),
        pytest.param(1, 403, id="access denied"),
        pytest.param(2, "stall", id="silence for longer than GDAL waits"),
        pytest.param(3, "cut", id="pixels cut short"),
        pytest.param(3, "html", id="a page in place of pixels"),
    ],
)
def test_what_gdal_gives_up_on_is_tried_again(
    before: int, fault: Fault, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world.files.slowness = 9 if fault == "stall" else 0.2
    world.files.disturb("TUE/nir.tif", *[""] * before, fault)
    result = world.run(capfd, tmp_path / "out")
    assert result.code == 0, result.stderr
    jobs.assert_same(tmp_path / "out", world.reference)
    (met,) = [number for number, request in enumerate(world.files.asked("TUE/nir")) if request.fault]
    assert len(world.files.asked("TUE/nir")) > met + 1
    (untroubled, *_) = {len(world.files.asked(f"WED/{band}.tif")) for band in BANDS}
    assert len(world.files.asked("TUE/red")) == untroubled, "a fault of one file had others opened again"


def test_what_lasts_costs_its_scene_only_and_the_next_run_mends_it(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    faults: dict[str, tuple[str, Fault, str]] = {
        "MON": ("nir", 500, "500"),
        "TUE": ("red", 404, "404"),
        "WED": ("green", "cut", "got [0-9]+ bytes, expected"),
        "FRI": ("blue", "html", "not recognized as being in a supported file format.*its server sends a web page"),
    }
    for name, (band, fault, _) in faults.items():
        world.files.disturb(f"{name}/{band}.tif", lasting=fault)
    result = world.run(capfd, tmp_path / "out")
    assert result.code == 1, result.stderr
    told = {line.split()[1].rstrip(":"): line for line in result.stderr.splitlines() if line.startswith("failed")}
    assert told.keys() == faults.keys()
    for name, (band, _, reason) in faults.items():
        assert_names(told[name], name, band, reason)
    assert jobs.items(tmp_path / "out").keys() == {path for path in jobs.items(world.reference) if "THU" in path}
    assert (jobs.mask_of(tmp_path / "out", "THU") == jobs.mask_of(world.reference, "THU")).all()
    recorded = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out" / "failures").iterdir()}
    assert recorded.keys() == faults.keys()
    for name, record in recorded.items():
        assert record["reason"].removeprefix(f"scene {name}").lstrip(",: ") in told[name]
    status = call(capfd, "status", tmp_path / "out", "--json")
    assert json.loads(status.stdout)["failed"].keys() == faults.keys()

    # A refusal is not asked again and again, a fault that may pass is
    assert {request.fault for request in world.files.asked("TUE/red")} == {404}
    attempts = {name: len(world.files.asked(f"{name}/red.tif")) for name in ("MON", "TUE", "THU")}
    assert attempts["TUE"] < attempts["THU"]

    world.files.calm()
    assert world.run(capfd, tmp_path / "out").code == 0
    jobs.assert_same(tmp_path / "out", world.reference)
    assert not world.files.asked("THU"), "what was done is left alone"


@pytest.mark.parametrize("fault", ["html", "portal"])
def test_a_page_in_a_files_place_gives_no_scene_up(
    fault: Fault, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A login that has lapsed, a hotel's Wi-Fi: its scene was abandoned after three nights, and never masked again."""
    world.files.disturb("TUE/nir.tif", lasting=fault)
    codes = []
    for _ in range(4):
        result = world.run(capfd, tmp_path / "out")
        codes.append(result.code)
        assert "its server sends a web page in its place; does it want a login?" in result.stderr
        jobs.a_day_passes(tmp_path / "out")
    assert codes == [1] * 4  # What was masked before can be read: its server is not out
    world.files.calm()
    assert world.run(capfd, tmp_path / "out").code == 0
    jobs.assert_same(tmp_path / "out", world.reference)


@pytest.mark.parametrize(("fault", "code", "told"), [(503, 4, "503"), (404, 3, "404"), ("html", 4, "a web page")])
def test_headers_that_are_needed_beforehand(
    fault: Fault,
    code: int,
    told: str,
    world: World,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An item without a grid is known by its file's header: a server that is down is no reason never to try again."""
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    (item,) = [item for item in json.loads(world.catalog.read_text())["features"] if item["id"] == "MON"]
    for asset in item["assets"].values():
        del asset["proj:shape"], asset["proj:transform"]
    world.files.disturb("MON/", lasting=fault)
    catalog = jobs.write_catalog(tmp_path / "items.json", [item])
    out = tmp_path / "out"
    result = replace(world, catalog=catalog).run(capfd, out)
    assert result.code == code, result.stderr
    assert told in result.stderr
    assert not out.exists()
    world.files.calm()
    assert replace(world, catalog=catalog).run(capfd, out).code == 0


def assert_names(line: str, scene: str, band: str, reason: str) -> None:
    """A line on stderr says which scene, which of its files, and why."""
    assert re.search(rf"\b{scene}\b.*\b{band}\b", line), line
    assert re.search(reason, line), line


@pytest.mark.parametrize("fault", ["html", 404, 416, "hang up"])
def test_a_second_attempt_in_the_same_process_asks_the_server_again(
    fault: Fault, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL says "not recognized" of a file whose connection was dropped, and remembers that."""
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    (item,) = [item for item in json.loads(world.catalog.read_text())["features"] if item["id"] == "MON"]
    scene = describe(item, {band: band for band in BANDS}, BANDS, 10)
    world.files.disturb("MON/red.tif", "", "", *[fault] * (6 if fault == "hang up" else 1))
    monkeypatch.setattr(opened, "ATTEMPTS", 1)
    with SceneFiles(scene) as files:
        with pytest.raises(PassingError, match=r"not recognized as being in a supported file format|416"):
            files.check(scene.bands)
        asked = len(world.files.asked("MON/red"))
        files.check(scene.bands)
    assert any(request.method == "GET" for request in world.files.asked("MON/red")[asked:])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("HTTP response code: 404", SceneError),
        ("HTTP response code: 410", SceneError),
        ("HTTP response code: 401", OutsideError),
        ("HTTP response code: 403", OutageError),
        ("HTTP response code: 500", OutageError),
        ("HTTP response code: 400", OutageError),
        ("HTTP response code: 301", OutageError),
        ("HTTP response code: 451", OutageError),
        ("HTTP response code: 416", PassingError),
        ("HTTP response code: 4040", PassingError),
        ("CURL error: Failed to connect to 127.0.0.1 port 404 after 0 ms", OutageError),
        ("'/vsicurl/http://h/404/red.tif' not recognized as being in a supported file format.", PassingError),
    ],
)
def test_passing_and_lasting(text: str, kind: type[SceneError], world: World) -> None:
    item = json.loads(world.catalog.read_text())["features"][0]
    scene = describe(item, {band: band for band in BANDS}, BANDS, 10)
    assert type(files.failed(RuntimeError(text), scene, scene.bands[0])) is kind


@pytest.mark.parametrize("address", ["{files}/none/{id}/scl.tif", "http://127.0.0.1:9/{id}/scl.tif"])
def test_a_missing_or_unreachable_classification_costs_no_scene(
    address: str, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is only compared with."""
    found = json.loads(world.catalog.read_text())
    for item in found["features"]:
        href = address.format(files=world.files.url, id=item["id"])
        item["assets"]["scl"] = {**item["assets"]["red"], "href": href}
    catalog = tmp_path / "items.json"
    catalog.write_text(json.dumps(found))
    what = ("--catalog", catalog, "--checkpoint", world.checkpoint, "--cluster", world.cluster)
    result = call(capfd, "run", *what, "--out", tmp_path / "out", *jobs.EVERYWHERE)
    assert result.code == 0, result.stderr
    assert len([line for line in result.stderr.splitlines() if "classification is not compared" in line]) == len(NAMES)
    for name in NAMES:
        assert (jobs.mask_of(tmp_path / "out", name) == jobs.mask_of(world.reference, name)).all()
