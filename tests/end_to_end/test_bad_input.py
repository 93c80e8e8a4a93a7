"""Bad input: a clear message, its exit code, and nothing written."""

import contextlib
import copy
import json
import os
import pickle
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import rasterio
import torch
from conftest import make_checkpoint
from distributed import Client
from faulty import call, impatient_cluster, served
from file_server import file_server
from scenes import write_cog
from stac_server import stac_server

import cloudjob
from cloudjob import embed
from cloudjob.catalog import stac_api
from cloudjob.cluster import scheduler
from cloudjob.errors import ContractError
from cloudjob.model.checkpoint import save
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

Capfd = pytest.CaptureFixture[str]
NAMES = ("MON", "TUE", "WED")


@dataclass(frozen=True)
class World:
    """Everything a job needs, and a good OUT made of it.

    Attributes:
        folder: of the scenes.
        items: the scenes' STAC items.
        catalog: a file of them.
        checkpoint: a small network.
        cluster: a scheduler's address.
        good: an OUT that holds them all.
    """

    folder: Path
    items: list[dict[str, Any]]
    catalog: Path
    checkpoint: Path
    cluster: str
    good: Path

    def arguments(self, out: Path, **other: str | Path | tuple[str, ...] | None) -> list[str]:
        """Of a `run` or `plan` that works; None leaves an option out."""
        options: dict[str, Any] = {
            "bbox": ("16", "46", "17", "47"),
            "dates": "2024-06",
            "catalog": self.catalog,
            "checkpoint": self.checkpoint,
            "cluster": self.cluster,
            "out": out,
            **other,
        }
        told = []
        for name, value in options.items():
            if value is not None:
                told += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
        return told


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bad")
    checkpoint = jobs.random_checkpoint(folder / "net.safetensors")
    items = [
        jobs.make_scene(folder, name, f"2024-06-{day:02}T10:15:59Z", seed=day, shape=(100, 90))
        for day, name in enumerate(NAMES, start=3)
    ]
    catalog = jobs.write_catalog(folder / "items.json", items)
    with impatient_cluster(folder / "worker.log") as cluster:
        with Client(cluster) as client:
            what = {"catalog": catalog, "checkpoint": checkpoint, "out": folder / "good"}
            results = embed.run(client=client, bbox=(-180, -90, 180, 90), dates="2024-06", **what)
        assert [result.state for result in results] == ["done"] * len(NAMES)
        yield World(folder, items, catalog, checkpoint, cluster, folder / "good")


@pytest.fixture
def refused(world: World, tmp_path: Path, capfd: Capfd) -> Callable[..., None]:
    """Check that a command is refused, and that it writes nothing: neither a new OUT nor to a good one."""

    def check(
        code: int,
        says: str,
        /,
        *,
        of_good: str = "",
        command: str = "run",
        outs: Sequence[str] = ("new/out", "good"),
        **other: Any,
    ) -> None:
        shutil.copytree(world.good, tmp_path / "good")
        before = jobs.tree(tmp_path)
        for out in (tmp_path / name for name in outs):
            result = call(capfd, command, *world.arguments(**{"out": out, **other}))
            assert (result.code, result.stdout) == (code, ""), result.stderr
            expected = of_good if of_good and out == tmp_path / "good" else says
            assert expected in result.stderr.replace("\n", " ")
            assert "Traceback" not in result.stderr
            assert jobs.tree(tmp_path) == before
            assert not (tmp_path / "new").exists()

    return check


USAGE = {
    "latitude and longitude swapped": ({"bbox": ("46", "116", "47", "117")}, "swapped? Try --bbox 116 46 117 47"),
    "north below south": ({"bbox": ("16", "47", "17", "46")}, "is the wrong way round"),
    "east before west": ({"bbox": ("117", "46", "-16", "47")}, "is the wrong way round"),
    "out of range": ({"bbox": ("16", "46", "17", "97")}, "is out of range"),
    "empty bbox": ({"bbox": ("16", "46", "16", "47")}, "bbox 16 46 16 47 is empty"),
    "nan": ({"bbox": ("nan", "46", "17", "47")}, "not finite"),
    "infinite": ({"bbox": ("16", "46", "inf", "47")}, "not finite"),
    "words for numbers": ({"bbox": ("16", "46", "17", "north")}, "'north' is no number; expected four"),
    "decimal commas": ({"bbox": ("16,0", "46,0", "17,0", "47,0")}, "'16,0' is no number; expected four"),
    "three numbers": ({"bbox": ("16,46,17",)}, "'16,46,17' is no number; expected four, as --bbox 11.2"),
    "metres": ({"bbox": ("388280", "5240040", "409800", "5261080")}, "bbox 388280 5240040 409800 5261080 is out"),
    "no place": ({"bbox": None}, "expected either a bbox or a geometry"),
    "two places": ({"geometry": "area.geojson"}, "expected either a bbox or a geometry"),
    "no geometry there": ({"bbox": None, "geometry": "none.geojson"}, "'none.geojson' cannot be read"),
    "dates the wrong way round": ({"dates": "2024-06-30/2024-06-01"}, "it is 2024-06-01/2024-06-30"),
    "dates in no calendar": ({"dates": "2024-02-30"}, "is in no calendar"),
    "a thirteenth month": ({"dates": "2024-13"}, "is in no calendar"),
    "no dates": ({"dates": None}, "Missing option '--dates'"),
    "words for dates": ({"dates": "yesterday"}, "cannot be read"),
    "no days": ({"dates": "0d"}, "no days at all"),
    "unknown preset": ({"catalog": "earthsearch"}, "presets are earth-search, planetary-computer, cdse"),
    "no catalog there": ({"catalog": "none.json"}, "there is no such file"),
    "an option nobody knows": ({"colour": "blue"}, "No such option"),
    "threshold 0": ({"threshold": "0"}, "threshold is 0; expected above 0 and below 1"),
    "threshold 1": ({"threshold": "1"}, "threshold is 1; expected above 0 and below 1"),
    "threshold in percent": ({"threshold": "50"}, "threshold is 50; expected above 0 and below 1"),
    "threshold nan": ({"threshold": "nan"}, "threshold is nan"),
    "buffer below 0": ({"buffer": "-1"}, "buffer in metres is -1; expected 0 or more and below 10000"),
    "buffer of a country": ({"buffer": "1e6"}, "buffer in metres is 1e+06"),
    "buffer nan": ({"buffer": "nan"}, "buffer in metres is nan"),
    "resolution 0": ({"resolution": "0"}, "resolution in metres is 0"),
    "resolution nan": ({"resolution": "nan"}, "resolution in metres is nan"),
    "an asset without a key": ({"asset": "red"}, "expected BAND=KEY"),
    "an asset with an empty key": ({"asset": "red="}, "expected BAND=KEY"),
    "cloud cover": ({"max_cloud_cover": "101"}, "101.0 is not in the range 0<=x<=100"),
    "limit": ({"limit": "0"}, "0 is not in the range x>=1"),
    "workers": ({"workers": "0"}, "0 is not in the range x>=1"),
    "half a worker": ({"workers": "0.5"}, "'0.5' is not a valid integer"),
    "cluster": ({"cluster": "kubernetes"}, "'kubernetes' is no scheduler's address"),
    "cluster without a port": ({"cluster": "tcp://host"}, "'tcp://host' is no scheduler's address"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage(case: str, refused: Callable[..., None], world: World) -> None:
    options, says = USAGE[case]
    refused(2, says, **options)


@pytest.mark.parametrize(
    "typed",
    ["16 46 17 47", "16,46,17,47", "16, 46, 17, 47", "[16.0,46,17, 47]", "(16 46 17 47)"],
)
@pytest.mark.parametrize("given", ["word", "equals", "environment", "words"])
def test_a_bbox_as_people_paste_it(
    typed: str, given: str, world: World, tmp_path: Path, capfd: Capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = world.arguments(tmp_path / "out", cluster="local", bbox=None)
    if given == "environment":
        monkeypatch.setenv("CLOUDJOB_BBOX", typed)
    elif given == "words":
        asked += ["--bbox", *typed.strip("[]()").replace(",", ", ").split()]
    else:
        asked += [f"--bbox={typed}"] if given == "equals" else ["--bbox", typed]
    result = call(capfd, "plan", *asked, "--json")
    assert result.code == 0, result.stderr
    assert {scene["id"] for scene in json.loads(result.stdout)["scenes"]} == set(NAMES)


@pytest.mark.parametrize("place", ["good/masks.zarr", "good/items", "."])
@pytest.mark.parametrize("command", ["status", "check", "report", "run"])
def test_a_folder_in_an_out_or_around_it_is_told_which_out_may_be_meant(
    command: str, place: str, world: World, capfd: Capfd
) -> None:
    near = (world.folder / place).resolve()
    told = world.arguments(near) if command == "run" else [near]
    result = call(capfd, command, *told)
    assert (result.code, result.stdout) == (3, "")
    assert f"did you mean {world.good}?" in result.stderr
    with pytest.raises(ContractError) as caught:
        cloudjob.open(near)
    assert caught.value.hint == f"did you mean {world.good}?"


@pytest.mark.parametrize("case", ["nan", "dates in no calendar", "unknown preset", "threshold 1", "cluster"])
def test_wrong_usage_of_plan(case: str, refused: Callable[..., None]) -> None:
    options, says = USAGE[case]
    refused(2, says, command="plan", **options)


@pytest.mark.parametrize("out", ["", "ftp://host/masks", "s3://", "s3://key:word@bucket/masks", "s3://bucket?key=word"])
def test_outs_that_are_none(out: str, world: World, capfd: Capfd) -> None:
    result = call(capfd, "run", *world.arguments(out))  # type: ignore[arg-type]
    assert result.code == 2, result.stderr
    assert "output's address" in result.stderr or "cannot write to" in result.stderr
    assert "word" not in result.stderr


def test_the_real_command_says_so_too(world: World, tmp_path: Path) -> None:
    result = jobs.cloudjob("run", *world.arguments(tmp_path / "out", bbox=("16", "47", "17", "46")))
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: bbox 16 47 17 46 is the wrong way round",
        "hint: try --bbox 16 46 17 47",
    ]
    assert not (tmp_path / "out").exists()


# Catalogs


def test_an_unreachable_catalog(refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac_api, "_WAITS_S", (0.01,))
    with jobs.reserved() as port:
        address = f"http://127.0.0.1:{port}/v1"
        refused(4, f"{address} does not answer", catalog=address)


@pytest.mark.parametrize(("fault", "code"), [(503, 4), ("hang up", 4), (404, 3), ("html", 4)])
def test_a_catalog_that_fails(
    fault: int | str, code: int, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stac_api, "_WAITS_S", (0.01,))
    with stac_server(lasting=fault) as api:
        refused(code, api.url, catalog=api.url)


@pytest.mark.parametrize("other", [{"dates": "2020"}, {"bbox": ("1", "1", "2", "2")}, {"max_cloud_cover": "1"}])
def test_nothing_found(other: dict[str, Any], world: World, tmp_path: Path, capfd: Capfd) -> None:
    """A night without scenes leaves its record, or nobody could tell it from a timer that is dead; and nothing else."""
    shutil.copytree(world.good, tmp_path / "good")
    before = jobs.tree(tmp_path / "good")
    for out in ("new", "good"):
        result = call(capfd, "run", *world.arguments(tmp_path / out, **other))
        assert (result.code, result.stdout) == (0, ""), result.stderr
        assert "no scenes found for this area and these dates" in result.stderr
        assert len(list((tmp_path / out / "runs").glob("*.json"))) == 1 + (out == "good")
    after = jobs.tree(tmp_path / "good")
    kept = {path for path in before if path.startswith(("masks.zarr/", "items/")) and "index.json" not in path}
    assert kept
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    assert {path.split("/")[0] for path in jobs.tree(tmp_path / "new")} == {"job.json", "lock", "runs"}
    (record,) = (tmp_path / "new/runs").iterdir()
    told = json.loads(record.read_text())
    assert (told["how"], told["scenes"]) == ("complete", [])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not JSON", "is not JSON"),
        ('{"type": "Catalog", "links": []}', "a static catalog cannot be searched"),
        ('{"type": "FeatureCollection", "features": [{"id": "A"}]}', "it is not a STAC item"),
    ],
)
def test_files_that_are_no_catalog(content: str, says: str, refused: Callable[..., None], world: World) -> None:
    path = world.folder / "no-catalog.json"
    path.write_text(content)
    outs = ("new/out",) if "FeatureCollection" in content else ("new/out", "good")  # There it is one more failed scene
    refused(3, says, outs=outs, catalog=path)


def test_no_item_has_the_band(refused: Callable[..., None], world: World) -> None:
    says = "none of the 3 items can be used: scene MON has no asset B08; it has blue, green"
    refused(3, says, outs=["new/out"], asset="nir=B08")


@pytest.mark.parametrize(
    "href", ["https://[x/thumbnail.png", "https://exa\u2100mple.com/t.png", "/vsicurl/http://[x/t.png"]
)
def test_an_asset_that_lies_at_no_address_costs_its_item_only(
    href: str, world: World, tmp_path: Path, capfd: Capfd
) -> None:
    odd = copy.deepcopy(world.items[0]) | {"id": "ODD", "assets": {"thumbnail": {"href": href}}}
    odd["properties"]["datetime"] = "2024-06-20T10:15:59Z"  # Or it would be taken for a twin of the first one
    catalog = jobs.write_catalog(tmp_path / "items.json", [odd, *world.items])
    result = call(capfd, "plan", *world.arguments(tmp_path / "new", catalog=catalog), "--json")
    assert result.code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["counts"] == {"new": 3}
    why = "item ODD has no raster assets, only thumbnail"
    hint = "GeoTIFF and JPEG 2000 are read; is it the right collection? See --collection"
    assert told["refused"] == {"ODD": f"{why}; {hint}"}


def test_what_to_type_for_a_band_is_told(refused: Callable[..., None]) -> None:
    refused(3, "name its assets, for example --asset nir=nir", outs=["new/out"], asset="nir=B08")


def test_items_without_a_band_are_failed_scenes_of_an_out_that_has_others(
    world: World, tmp_path: Path, capfd: Capfd
) -> None:
    """What went well before shows that the names are right: then it is the items that are odd."""
    shutil.copytree(world.good, tmp_path / "good")
    before = jobs.tree(tmp_path / "good")
    result = call(capfd, "run", *world.arguments(tmp_path / "good", asset="nir=B08"))
    assert (result.code, result.stdout) == (1, ""), result.stderr
    assert "failed    MON: has no asset B08; it has blue, green, nir, red" in result.stderr
    after = jobs.tree(tmp_path / "good")
    kept = {path for path in before if path.startswith(("masks.zarr/", "items/")) and "index.json" not in path}
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}


def test_what_failed_and_says_what_another_item_does_now_is_no_failure_any_more(
    world: World, tmp_path: Path, capfd: Capfd
) -> None:
    """Every OUT of swissEO's scenes that was made before holds the failure of the newest one, listed once more."""
    out, first, second = tmp_path / "good", *world.items[:2]
    shutil.copytree(world.good, out)
    newest = {**first, "id": "NEWEST", "assets": {key: first["assets"][key] for key in ("red", "green", "blue")}}
    for code, listed in ((1, (newest, second)), (0, (newest, first, second))):
        catalog = jobs.write_catalog(tmp_path / f"{code}.json", listed)
        result = call(capfd, "run", *world.arguments(out, catalog=catalog))
        assert result.code == code, result.stderr
        assert ("NEWEST" in call(capfd, "status", str(out)).stdout) == bool(code)


def test_a_band_that_nobody_asks_for(refused: Callable[..., None]) -> None:
    refused(2, "--asset names a band 'rde' hint: did you mean red?", asset="rde=B04")


# Checkpoints


def test_a_checkpoint_that_is_not_there(refused: Callable[..., None], world: World) -> None:
    refused(3, "none.safetensors: No such file", checkpoint=world.folder / "none.safetensors")


def test_a_truncated_checkpoint(refused: Callable[..., None], world: World) -> None:
    path = world.folder / "half.safetensors"
    path.write_bytes(world.checkpoint.read_bytes()[:3000])
    refused(3, "is not a whole .safetensors file", checkpoint=path)


def test_a_pickle(refused: Callable[..., None], world: World) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (world.folder / "exploded",)

    path = world.folder / "pickle.pt"
    torch.save({"state": Bomb()}, path)
    refused(3, "looks like a pickle, which is never opened", checkpoint=path)
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    assert not (world.folder / "exploded").exists()


def test_a_checkpoint_of_another_architecture(refused: Callable[..., None], world: World) -> None:
    path = world.folder / "segformer.safetensors"
    data = world.checkpoint.read_bytes()
    assert data.count(b"SimpleUNet") == 1
    path.write_bytes(data.replace(b"SimpleUNet", b"SegFormer1"))
    refused(3, "its architecture is 'SegFormer1'; expected 'SimpleUNet'", checkpoint=path)


def test_a_checkpoint_of_bands_that_are_not_there(refused: Callable[..., None], world: World) -> None:
    path = jobs.random_checkpoint(world.folder / "swir.safetensors", bands=("red", "green", "blue", "swir22"))
    refused(2, "the checkpoint wants the band(s) swir22", checkpoint=path)
    shutil.rmtree(path.parent / "again", ignore_errors=True)


def test_a_checkpoint_with_other_weights_than_bands(refused: Callable[..., None], world: World) -> None:
    three = make_checkpoint(bands=("red", "green", "blue"), mean=(0.2,) * 3, std=(0.2,) * 3)
    save(three.network, make_checkpoint().contract, path := world.folder / "three.safetensors")
    # Weights are looked at when there is something to do; an OUT made with another file is known before that
    refused(3, "its weights are not those of SimpleUNet(4", of_good="was made with other settings", checkpoint=path)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"threshold": "0.4"}, "threshold was 0.5, now 0.4"),
        ({"buffer": "20"}, "buffer was 0, now 20"),
        ({"resolution": "20"}, "resolution was 10, now 20"),
        ({"checkpoint": "other"}, "name was test, now other"),
    ],
)
def test_other_settings_than_those_of_the_out(
    other: dict[str, Any], says: str, world: World, tmp_path: Path, capfd: Capfd
) -> None:
    if "checkpoint" in other:
        other = {"checkpoint": jobs.random_checkpoint(tmp_path / "other.safetensors", std=(0.3,) * 4, name="other")}
    shutil.copytree(world.good, tmp_path / "good")
    before = jobs.tree(tmp_path)
    result = call(capfd, "run", *world.arguments(tmp_path / "good", **other))
    assert result.code == 3
    assert f"{next(iter(other))} was" in result.stderr
    assert says in result.stderr
    assert "--redo" in result.stderr
    assert jobs.tree(tmp_path) == before


@pytest.mark.parametrize(("outside_fill", "code"), [(0.0, 0), ("mirror", 3)])
def test_an_out_of_a_version_that_filled_otherwise(
    outside_fill: float | str, code: int, world: World, tmp_path: Path, capfd: Capfd
) -> None:
    """It is continued where the network's masks are what they were, and told where they are not."""
    checkpoint = jobs.random_checkpoint(tmp_path / "net.safetensors", outside_fill=outside_fill)
    jobs.run_here(world.folder / "items.json", checkpoint, out := tmp_path / "out")
    settings = json.loads((out / "job.json").read_text())
    (out / "job.json").write_text(json.dumps(settings | {"algorithm": 1}))
    result = call(capfd, "run", *world.arguments(out, checkpoint=checkpoint))
    assert result.code == code, result.stderr
    assert ("algorithm was 1, now 2" in result.stderr) == bool(code)


# Places


@pytest.mark.parametrize("name", ["thesis.docx", "zarr.json", "job.json", "items/33UUP/A.json"])
def test_an_out_made_by_something_else(name: str, world: World, tmp_path: Path, capfd: Capfd) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"important": true}')
    before = jobs.tree(tmp_path)
    result = call(capfd, "run", *world.arguments(tmp_path / "out"))
    assert result.code == 3
    assert "was not made by cloudjob" in result.stderr
    assert jobs.tree(tmp_path) == before


@pytest.mark.parametrize("out", ["file", "file/out"])
def test_an_out_in_a_file(out: str, world: World, tmp_path: Path, capfd: Capfd) -> None:
    (tmp_path / "file").write_text("mine")
    result = call(capfd, "run", *world.arguments(tmp_path / out))
    assert result.code == 2, result.stderr
    assert f"{tmp_path / 'file'} is a file; expected a folder" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Files are opened as somebody whom permissions bind; they do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_out_that_may_not_be_written(world: World, capfd: Capfd) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog = jobs.write_catalog(folder / "items.json", world.items)
        checkpoint = shutil.copy(world.checkpoint, folder)
        shutil.copytree(world.good, folder / "good")
        folder.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        (folder / "locked").mkdir(mode=0o555)
        for out, dates in (("locked/out", "2024-06"), ("locked", "2024-06")):
            with as_nobody():
                result = call(
                    capfd,
                    "run",
                    *world.arguments(folder / out, dates=dates, catalog=catalog, checkpoint=Path(checkpoint)),
                )
            assert result.code == 4, result.stderr
            assert f"{folder / out} cannot be written" in result.stderr
            assert list((folder / "locked").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk can only be mounted by root: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_loses_nothing_and_a_later_run_goes_on(small_disk: Path, world: World, capfd: Capfd) -> None:
    out = small_disk / "out"
    assert call(capfd, "run", *world.arguments(out, dates="2024-06-03")).code == 0
    done, values = jobs.items(out), jobs.mask_of(out, "MON")
    assert len(done) == 1
    codes = []
    for free in (0, 24 * 1024):
        fill(small_disk, free)
        # A process of its own: when it is gone, so is its lock, which it could not release on a full disk
        result = jobs.cloudjob("run", *world.arguments(out))
        codes.append(result.code)
        if result.code:
            assert result.code == 4, result.stderr
            assert f"{out} is full" in result.stderr, result.stderr
            assert "Traceback" not in result.stderr
        assert jobs.items(out).items() >= done.items()
        np.testing.assert_array_equal(jobs.mask_of(out, "MON"), values)
        (small_disk / "filler").unlink()
    assert codes[0] == 4
    assert call(capfd, "run", *world.arguments(out)).code == 0
    jobs.assert_same(out, world.good)


def fill(disk: Path, free: int) -> None:
    """Leave some bytes free on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size // 4096 * 4096 - free))


def test_a_second_run_at_the_same_time(world: World, tmp_path: Path, capfd: Capfd) -> None:
    out = tmp_path / "out"
    with file_server(world.folder) as files:
        catalog = jobs.write_catalog(
            tmp_path / "i.json", [served(item, world.folder, files.url) for item in world.items]
        )
        files.disturb("TUE/red.tif", "held")
        first = subprocess.Popen(
            [*jobs.CLOUDJOB, "run", *world.arguments(out, catalog=catalog, dates="2024-06-04")],
            env=jobs.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not files.asked("TUE/red"):
            time.sleep(0.05)
            assert first.poll() is None
        before = {path: told for path, told in jobs.tree(out).items() if not path.startswith("lock")}
        second = call(capfd, "run", *world.arguments(out, catalog=catalog, dates="2024-06-04"))
        after = {path: told for path, told in jobs.tree(out).items() if not path.startswith("lock")}
        assert first.poll() is None, "it ended before the second one was refused"
        assert (second.code, second.stdout) == (4, "")
        assert f"another run is at work in {out}: process {first.pid} on {socket.gethostname()}" in second.stderr
        assert after == before
        files.go.set()
        _, told = first.communicate(timeout=jobs.PATIENCE)
    assert first.returncode == 0, told
    np.testing.assert_array_equal(jobs.mask_of(out, "TUE"), jobs.mask_of(world.good, "TUE"))
    jobs.assert_released(out)


def test_a_lock_held_by_this_very_process(world: World, tmp_path: Path, capfd: Capfd) -> None:
    with Lock(Out.at(tmp_path / "out")):
        result = call(capfd, "run", *world.arguments(tmp_path / "out"))
    assert result.code == 4
    assert "another run is at work" in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lock"}


# Clusters


def test_an_unreachable_cluster(world: World, tmp_path: Path, capfd: Capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "PATIENCE", 1)
    late = jobs.write_catalog(
        tmp_path / "items.json",
        [*world.items, jobs.make_scene(tmp_path, "LATE", "2024-06-29T10:15:59Z", shape=(100, 90))],
    )
    shutil.copytree(world.good, tmp_path / "good")
    before = jobs.tree(tmp_path)
    with jobs.reserved() as port:
        address = f"tcp://127.0.0.1:{port}"
        for command, out in (("run", "new"), ("plan", "new"), ("run", "good")):
            result = call(capfd, command, *world.arguments(tmp_path / out, cluster=address, catalog=late))
            assert (result.code, result.stdout) == (4, ""), result.stderr
            assert f"no Dask scheduler answers at {address}" in result.stderr
            assert "Traceback" not in result.stderr
            assert jobs.tree(tmp_path) == before
            assert not (tmp_path / "new").exists()
    result = call(capfd, "run", *world.arguments(tmp_path / "good", cluster=address))
    assert result.code == 0, "with nothing to do no cluster is needed"


# Scenes


def test_what_is_wrong_with_one_scene_costs_that_one_only(world: World, tmp_path: Path, capfd: Capfd) -> None:
    def scene(name: str, number: int) -> dict[str, Any]:
        made = jobs.make_scene(tmp_path, name, f"2024-06-1{number}T10:15:59Z", seed=number, shape=(100, 90))
        assert made["assets"]["nir"]["href"] == str(path(name))
        return made

    def path(name: str) -> Path:
        return tmp_path / name / "nir.tif"

    names = ("no-band", "corrupt", "truncated", "empty", "missing", "float", "signed", "two-bands", "other-grid")
    items = {name: scene(name, number) for number, name in enumerate(names)}
    del items["no-band"]["assets"]["nir"]
    path("corrupt").write_bytes(np.random.default_rng(1).bytes(20_000))
    whole = path("truncated").read_bytes()
    path("truncated").write_bytes(whole[: len(whole) // 2])
    path("empty").write_bytes(b"")
    path("missing").unlink()
    for name, kind in (("float", np.float64), ("signed", np.int32)):
        write_cog(path(name), np.ones((100, 90), kind), jobs.GRID)
    write_cog(path("other-grid"), np.ones((100, 80), np.uint16), jobs.GRID)
    with rasterio.open(path("two-bands")) as file:
        profile, values = file.profile, file.read(1)
    with rasterio.open(path("two-bands"), "w", **{**profile, "driver": "GTiff", "count": 2}) as file:
        file.write(np.stack([values, values]))
    reasons = {
        "no-band": "scene no-band has no asset nir; it has blue, green, red",
        "corrupt": "asset nir.*not recognized as being in a supported file format",
        "truncated": "nir.tif.*(IReadBlock failed|TIFFReadEncodedTile)",
        "empty": "asset nir.*(not recognized|empty)",
        "missing": "asset nir.*No such file or directory",
        "float": "asset nir: its numbers are float64; expected uint8",
        "signed": "asset nir: its numbers are int32",
        "two-bands": "asset nir: it holds 2 bands; expected a file for each",
        "other-grid": "asset nir: the file has 100 × 80 pixels .*; its item says 100 × 90",
    }
    catalog = jobs.write_catalog(tmp_path / "items.json", [*world.items, *items.values()])
    result = call(capfd, "run", *world.arguments(tmp_path / "out", catalog=catalog), "--json")
    assert result.code == 1, result.stderr
    assert "Traceback" not in result.stderr
    failed = {record["id"]: record["reason"] for record in result.records if record["state"] == "failed"}
    assert failed.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(reason, failed[name]), failed[name]
        told = failed[name].removeprefix(f"scene {name}").lstrip(":, ")
        assert f"failed    {name}: {told}" in result.stderr
    assert {record["id"] for record in result.records if record["state"] == "done"} == set(NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(jobs.mask_of(tmp_path / "out", name), jobs.mask_of(world.good, name))
    assert jobs.items(tmp_path / "out").keys() == jobs.items(world.good).keys()
    told = json.loads(call(capfd, "status", tmp_path / "out", "--json").stdout)
    assert told["done"] == len(NAMES)
    assert told["failed"].keys() == reasons.keys()
