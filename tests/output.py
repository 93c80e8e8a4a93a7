"""A job without a network: the real plan, prepare, write and complete path, on scenes that need no files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from shapely import box, to_geojson

from cloudjob.grid import Grid, Tile, Tiling
from cloudjob.plan import plan
from cloudjob.plan.plan import Plan
from cloudjob.scene.scene import Band, Scene
from cloudjob.store import ledger, settings, slots
from cloudjob.store.document import dump
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt, tile_sum
from cloudjob.store.settings import Settings
from cloudjob.store.writer import Slot, Writer

GRID = Grid(32632, 600_000.0, 5_100_000.0, 10.0, 10.0, 60, 70)
TILE = 32
TILING = Tiling(60, 70, TILE, 16, 16)
ALL = TILING.all()
SETTINGS = Settings("a" * 64, "net", "1.0", ("red",), 0.5, 0.0, 10.0)


def make_scene(number: int = 0, **changes: Any) -> Scene:
    """The scene of a day in June 2024; `number` counts days."""
    time = datetime(2024, 6, 1, 10, 15, 59, 24000, tzinfo=UTC) + timedelta(days=number)
    id_ = changes.pop("id", f"S2A_32TQM_{time:%Y%m%d}_0_L2A")
    item = {
        "type": "Feature",
        "id": id_,
        "geometry": json.loads(to_geojson(changes.pop("footprint", box(10, 46, 11, 47)))),
        "bbox": [10, 46, 11, 47],
        "properties": {"grid:code": "MGRS-32TQM"},
        "links": [{"rel": "self", "href": f"https://catalog.example/items/{id_}"}],
        "assets": {"red": {"href": "/nowhere/red.tif", "data_type": "uint16"}},
    }
    scene = Scene(
        id=id_,
        collection="sentinel-2-l2a",
        item=item,
        group="32TQM",
        grid=GRID,
        time=time,
        platform="sentinel-2a",
        sensing=time,
        baseline="05.10",
        generated="2024-06-30T00:00:00Z",
        bands=(Band("red", "red", "/nowhere/red.tif", GRID, 1e-4, -0.1),),
        scl=None,
        fingerprint="f1",
        provider_cloud_cover=12.5,
    )
    return replace(scene, **changes)


def values(scene: Scene, tile: Tile) -> np.ndarray:
    """What a tile's mask would be: it depends on the scene's pixels and nothing else."""
    seed = hashlib.sha256(f"{scene.id} {scene.fingerprint} {tile}".encode()).digest()
    rng = np.random.default_rng(list(seed))
    return rng.choice(np.array([0, 1, 254, 255], np.uint8), TILING.core(tile).shape)


def run(
    out: Out,
    scenes: Iterable[Scene],
    wanted: Iterable[Tile] = ALL,
    *,
    failing: Mapping[str, str] | None = None,
    contract: Settings = SETTINGS,
    redo: bool = False,
) -> Plan:
    """One run, as `job.run` does it. `failing`: scene id → reason; these write their first tile only."""
    scenes, wanted, failing = list(scenes), list(wanted), failing or {}
    settings.check(out, contract, redo=redo)
    with Lock(out) as lock:
        settings.claim(lock, contract, redo=redo)
        before = ledger.read(out, {scene.group for scene in scenes})
        made = plan.make(scenes, before, lambda _: wanted)
        todo = made.to_do
        places = slots.prepare(
            lock,
            contract,
            before,
            [one.scene for one in todo],
            tile_of=lambda _: TILE,
            replaces=made.replaces,
            settled=made.settled,
        )
        for one in [one for one in todo if one.scene.id in places]:
            slot, tiles = places[one.scene.id], sorted(one.tiles)
            reason = failing.get(one.scene.id)
            write(out, one.scene, slot, tiles[:1] if reason else tiles, contract)
            if reason:
                slots.fail(lock, before, one.scene, slot=slot, tiles=tiles, reason=reason)
            else:
                receipt = receipt_of(one.scene, tiles, contract)
                how = {"slot": slot, "receipt": receipt, "tiles": tiles, "replaces": one.replaces}
                slots.complete(lock, contract, before, one.scene, **how)
        slots.tidy(lock, ledger.refresh(out))
    return made


def overtaken(lock: Lock, scenes: Iterable[Scene], **how: Any) -> None:
    """The machine of a run has slept: another one has taken over its lock, done its work and ended."""
    token = replace(lock.token, number=lock.token.number + 1, released=True)
    lock.out.put(token.path, dump(asdict(token)))
    run(lock.out, scenes, **how)


def write(out: Out, scene: Scene, slot: Slot, tiles: Iterable[Tile], contract: Settings = SETTINGS) -> None:
    """What a worker does."""
    writer = Writer(out, slot, contract)
    for tile in tiles:
        writer.write(TILING.core(tile), *_kept(values(scene, tile), contract))


def receipt_of(scene: Scene, tiles: Iterable[Tile], contract: Settings = SETTINGS) -> Receipt:
    tiles = list(tiles)
    counts = np.bincount(np.concatenate([values(scene, tile).ravel() for tile in tiles]), minlength=256)
    clear, cloud, thin, shadow, no_data, outside = (int(counts[value]) for value in (0, 1, 2, 3, 254, 255))
    return Receipt(
        clear=clear,
        cloud=cloud,
        thin_cloud=thin,
        cloud_shadow=shadow,
        no_data=no_data,
        outside=outside,
        checksum=sum(tile_sum(tile, *_kept(values(scene, tile), contract)) for tile in tiles),
        scl_compared=7,
        scl_agreed=6,
        device="cpu",
        software=("cloudjob 0.1.0", "torch 2.13.0"),
    )


def _kept(mask: np.ndarray, contract: Settings) -> tuple[np.ndarray, ...]:
    return (mask, mask // 2) if contract.probability else (mask,)


def expected(scene: Scene, tiles: Iterable[Tile] = ALL) -> np.ndarray:
    """A slot's mask when these tiles are computed."""
    mask = np.full(GRID.shape, 255, np.uint8)
    for tile in tiles:
        mask[TILING.core(tile).slices] = values(scene, tile)
    return mask


def files(out: Out) -> dict[str, bytes]:
    """Every byte of masks and items. Left out: the ledger's cache, whose tags are those of one file system."""
    folder = Path(out.address)
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    kept = ("masks.zarr/", "items/", "failures/", "job.json")
    return {
        name: path.read_bytes() for name, path in found.items() if name.startswith(kept) and path.name != "index.json"
    }


def attributes(out: Out, group: str = "32TQM") -> dict[str, Any]:
    return json.loads((Path(out.address) / "masks.zarr" / group / "zarr.json").read_text())["attributes"]
