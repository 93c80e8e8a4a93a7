"""Files that are no images, or images that lie: read or refused, within bounds, and none beside them is lost."""

import json
import random
import resource
import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mutate
import numpy as np
import pytest
import rasterio
import scenes
from faulty import served
from file_server import FileServer, file_server
from rasterio.shutil import copy as copy_raster

from cloudjob.cluster.agreement import Agreement, compare
from cloudjob.cluster.task import _cores
from cloudjob.errors import SceneError
from cloudjob.grid import Tiling
from cloudjob.report.thumbnail import Album, Pictures
from cloudjob.scene import opened, read
from cloudjob.scene.describe import describe
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.scene import Scene
from cloudjob.store.out import Out

QUICK = 60
PATIENCE = 20
"""Seconds of CPU; a wait without end ends with the test's own time-out."""
SHAPE = (150, 139)
ASSETS = {name: name for name in (*scenes.BANDS, "scl")}
SIZES = [0, 1, 2, 3, 7, 15, 16, 64, 128, 255, 2**15, 2**16 - 1, 10**6, 2**31 - 1, 2**31, 2**32 - 1]
TAGS = [256, 257, 258, 259, 277, 317, 322, 323, 324, 339, 42113]
"""Of TIFF: width, height, bits, codec, bands, predictor, a tile's sides, its place, kind of number, GDAL's no data."""
NO_IMAGES = [
    b"",
    b"<html>Please log in</html>",
    b'<VRTDataset rasterXSize="139" rasterYSize="150"><VRTRasterBand band="1"><SimpleSource><SourceFilename>/etc/hosts',
    b"II*\0" + bytes(12),
    b"II*\0\x08\0\0\0\xff\xff" + bytes(5000),
    b"II+\0\x08\0\0\0" + b"\xff" * 100,
    b"\xff\x4f\xff\x51" + bytes(100),
]


def odd_tags(rng: random.Random, good: bytes) -> bytes:
    """A TIFF some of whose tags say something else: other sizes, kinds of numbers, offsets, codecs, texts."""
    data = bytearray(good)
    (at,) = struct.unpack_from("<I", data, 4)
    for _ in range(rng.choice((1, 1, 2, 5))):
        (count,) = struct.unpack_from("<H", data, at)
        entry = at + 2 + 12 * rng.randrange(count)
        match rng.randrange(5):
            case 0:
                struct.pack_into("<H", data, entry, rng.choice(TAGS))
            case 1:
                struct.pack_into("<H", data, entry + 2, rng.randrange(20))
            case 2:
                struct.pack_into("<I", data, entry + 4, rng.choice(SIZES))
            case 3:  # What its value, or the place of its values, is
                struct.pack_into("<I", data, entry + 8, rng.choice([*SIZES, rng.randrange(len(data)), entry, at]))
            case _:  # Values that lie elsewhere
                (place,) = struct.unpack_from("<I", data, entry + 8)
                if place + 8 < len(data):
                    struct.pack_into("<I", data, place, rng.choice([*SIZES, rng.getrandbits(32)]))
    return bytes(data)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two scenes on disk, one of them to be damaged, the bytes of its files, and what the other one reads as."""
    folder = tmp_path_factory.mktemp("cogs")
    items = {name: scenes.make_item(folder, name, seed=7, blocksize=128) for name in ("GOOD", "ODD")}
    kept = {}
    for name, item in items.items():
        scl = folder / name / "scl.tif"
        grid = (20.0, 0.0, 600_000.0, 0.0, -20.0, 5_200_020.0)
        scenes.write_cog(scl, np.arange(75 * 70).reshape(75, 70).astype(np.uint8) % 12, grid, blocksize=128)
        item["assets"]["scl"] = {"href": str(scl), "proj:shape": [75, 70], "proj:transform": list(grid)}
        kept |= {path: path.read_bytes() for path in (folder / name).iterdir()}
    jp2 = folder / "red.jp2"
    with rasterio.open(folder / "GOOD" / "red.tif") as red:
        copy_raster(red, jp2, driver="JP2OpenJPEG", quality="100", reversible="yes")
    good = describe(items["GOOD"], ASSETS, scenes.BANDS, 10)
    told = {"folder": folder, "items": items, "files": kept, "jp2": jp2.read_bytes()}
    return {**told, "good": good, "pixels": pixels(good)}


def pixels(scene: Scene) -> np.ndarray:
    """The whole scene, as a worker reads it, its classification beside it."""
    tiling, parts = Tiling(*scene.grid.shape, 64, 16, 16), []
    with SceneFiles(scene) as files:
        files.check(scene.bands)
        provider = Agreement(files, tiling, tiling.all())
        for row in read.rows(files, tiling, tiling.all()):
            core = _cores(tiling, row)
            parts.append(row.crop(core))
            if labels := provider.labels(core):
                compare(np.zeros(core.shape, np.uint8), scene.grid.crop(core), labels)
    return np.concatenate(parts, axis=1)


def picture(scene: Scene, folder: Path) -> Pictures:
    """What the report makes of it."""
    sources = {band.name: {"href": band.href, "scale": 1e-4, "offset": 0.0} for band in scene.bands}
    grid = scene.grid
    told = {"cloudjob:reflectance": sources, "proj:code": f"EPSG:{grid.epsg}", "proj:shape": list(grid.shape)}
    entry: Any = SimpleNamespace(group="g", tiles=frozenset({(0, 0), (2, 2)}))
    item = {"properties": {**told, "proj:transform": list(grid.transform)}}
    return Album(Out.at(folder / "out"), {"g": 64})._with_image(Pictures("key"), entry, item)


def damage(rng: random.Random, world: dict[str, Any]) -> dict[str, Any]:
    """Write the odd scene's files with one or two of them damaged; returns its item."""
    folder: Path = world["folder"]
    item = json.loads(json.dumps(world["items"]["ODD"]))
    for path, data in world["files"].items():
        if path.parent.name == "ODD":
            path.write_bytes(data)
    for key in rng.sample(sorted(item["assets"]), rng.choice((1, 1, 2))):
        path = folder / "ODD" / f"{key}.tif"
        good = world["files"][path]
        if rng.random() < 0.15:
            path, good = path.with_suffix(".jp2"), world["jp2"]
            item["assets"][key]["href"] = str(path)
        elif rng.random() < 0.6:
            path.write_bytes(odd_tags(rng, good))
            continue
        path.write_bytes(rng.choice(NO_IMAGES) if rng.random() < 0.1 else mutate.data(rng, good))
    if rng.random() < 0.2:  # What the item does not tell is read from the header
        for asset in item["assets"].values():
            asset.pop("proj:shape", None)
    return item


def attempt(rng: random.Random, world: dict[str, Any], server: FileServer) -> str:
    """One try; returns how it ended."""
    item, folder = damage(rng, world), world["folder"]
    if rng.random() < 0.1:
        item = served(item, folder, server.url)
    started, refusal = time.process_time(), ""
    try:
        scene = describe(item, ASSETS, scenes.BANDS, 10)
        found = picture(scene, folder)
        assert found.image or found.why
        assert pixels(scene).shape[1:] == scene.grid.shape
    except SceneError as error:
        refusal = str(error)
    assert len(refusal) < 5000
    assert time.process_time() - started < PATIENCE
    np.testing.assert_array_equal(pixels(world["good"]), world["pixels"])
    return "refused" if refusal else "read"


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.timeout(mutate.LIMIT)
def test_a_file_is_read_or_refused(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "PAUSE", 0.001)
    monkeypatch.setattr(opened, "ATTEMPTS", 2)
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.001")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with file_server(world["folder"]) as server:
        ended = [attempt(rng, world, server) for rng in mutate.generators(QUICK)]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{len(ended)} tries: {ended.count('refused')} refused; {grown:.0f} MiB more at the peak")
    assert len(ended) / 5 < ended.count("refused") < len(ended)
    # libtiff makes room for as many packed bytes as a tile says it has, up to 2³¹, before it reads them
    assert grown < (2500 if mutate.TRIES else 500)


@pytest.mark.parametrize(
    "transform", [(0, 0, 0, 0, 0, 0), (10, 0, 700_000, 0, -10, 5_200_020), (1, 0, 600_000, 0, -1, 0)]
)
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_picture_is_of_what_was_masked(world: dict[str, Any], transform: tuple[float, ...], tmp_path: Path) -> None:
    """Another file has come to the address since: it could be of any size, and its transform makes no window."""
    scene = describe(world["items"]["GOOD"], ASSETS, scenes.BANDS, 10)
    how = {"height": 150, "width": 139, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
    path = tmp_path / "red.tif"
    rasterio.open(path, "w", driver="GTiff", transform=rasterio.Affine(*transform), **how).close()
    red = type(scene.bands[0])(**{**vars(scene.bands[0]), "href": str(path)})
    found = picture(type(scene)(**{**vars(scene), "bands": (red, *scene.bands[1:])}), tmp_path)
    assert found.image == ""
    assert "it no longer lies where its item says" in found.why
