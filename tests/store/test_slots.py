import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import output
import pystac
import pytest
import rioxarray  # noqa: F401  # gives datasets their .rio
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from output import (
    ALL,
    GRID,
    SETTINGS,
    TILE,
    TILING,
    attributes,
    expected,
    files,
    make_scene,
    receipt_of,
    run,
    values,
    write,
)
from pystac.validation import JsonSchemaSTACValidator
from shapely.geometry import box

from cloudjob.errors import ContractError, UnreachableError
from cloudjob.grid import Grid, Window
from cloudjob.store import check, folder, group, ledger
from cloudjob.store.conventions import COMPLETE, FAILED
from cloudjob.store.ledger import Done
from cloudjob.store.lock import Lock, LockLostError
from cloudjob.store.masks import open_masks
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt
from cloudjob.store.slots import _allocate, complete, fail, prepare, tidy
from cloudjob.store.writer import Slot, Writer


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out.at(tmp_path / "out")


def array(out: Out, name: str = "cloud", group: str = "32TQM") -> np.ndarray:
    return zarr.open_array(f"{out}/masks.zarr/{group}/{name}", mode="r")[:]


# What readers see


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray 0.19 with affine 3
def test_plain_open_zarr_reads_the_mask_as_it_was_written(out: Out):
    run(out, [make_scene(0), make_scene(1)])
    assert "cloudjob.open" in xr.open_zarr(f"{out}/masks.zarr", consolidated=False).attrs["comment"]
    masks = xr.open_zarr(f"{out}/masks.zarr/32TQM")
    assert masks.cloud.dtype == np.uint8
    assert masks.cloud.dims == ("time", "y", "x")
    assert np.array_equal(masks.cloud, [expected(make_scene(0)), expected(make_scene(1))])
    assert masks.cloud.rio.crs == "EPSG:32632"
    assert masks.cloud.rio.transform()[:6] == GRID.transform
    assert np.array_equal(masks.x, 600_005 + 10.0 * np.arange(70))
    assert np.array_equal(masks.y, 5_099_995 - 10.0 * np.arange(60))
    assert list(masks.time.values) == [
        np.datetime64("2024-06-01T10:15:59.024"),
        np.datetime64("2024-06-02T10:15:59.024"),
    ]
    assert list(masks.status) == [1, 1]
    assert masks.cloud.attrs["flag_values"] == [0, 1, 254, 255]
    assert masks.cloud.attrs["flag_meanings"] == "clear cloud no_data not_computed"
    assert "_FillValue" not in masks.cloud.encoding | masks.cloud.attrs


def test_a_group_opens_from_the_root_and_as_part_of_a_tree_by_its_own_consolidated_metadata(out: Out):
    run(out, [make_scene(0)])
    # A longer axis that is not committed, as in the middle of `prepare`: readers must not see it.
    zarr.open_array(f"{out}/masks.zarr/32TQM/cloud", mode="r+").resize((5, *GRID.shape))
    with pytest.warns(RuntimeWarning, match="consolidated"):  # xarray looks for it in the root, where it would go stale
        masks = xr.open_zarr(f"{out}/masks.zarr", group="32TQM")
    with pytest.warns(RuntimeWarning, match="consolidated"):
        tree = xr.open_datatree(f"{out}/masks.zarr", engine="zarr")
    assert masks.sizes["time"] == tree["32TQM"].sizes["time"] == 1
    assert tree["32TQM"].ds.cloud.rio.crs == "EPSG:32632"
    assert np.array_equal(tree["32TQM"].ds.cloud[0], expected(make_scene(0)))
    root = json.loads((Path(out.address) / "masks.zarr/zarr.json").read_text())
    told = "a group for each grid: name one, or cloudjob.open(OUT) for all, sorted by time, complete scenes only"
    assert root == {"zarr_format": 3, "node_type": "group", "attributes": {"comment": told}}


def test_zarr_conventions_say_where_the_pixels_are(out: Out):
    run(out, [make_scene(0)])
    told = attributes(out)
    assert {convention["name"]: convention["uuid"] for convention in told["zarr_conventions"]} == {
        "proj": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    }
    assert told["proj:code"] == "EPSG:32632"
    assert told["spatial:dimensions"] == ["y", "x"]
    assert told["spatial:transform"] == [10, 0, 600_000, 0, -10, 5_100_000]
    assert told["spatial:shape"] == [60, 70]
    assert told["spatial:bbox"] == [600_000, 5_099_400, 600_700, 5_100_000]
    on_array = zarr.open_array(f"{out}/masks.zarr/32TQM/cloud", mode="r").attrs
    assert on_array["spatial:transform"] == told["spatial:transform"]


def test_a_geographic_grid_has_degrees_for_coordinates(out: Out):
    grid = Grid(4326, -113.5, 53.5, 0.0007, 0.0004, 60, 70)
    run(out, [make_scene(0, group="4326_alberta", grid=grid)])
    masks = xr.open_zarr(f"{out}/masks.zarr/4326_alberta")
    assert masks.cloud.rio.crs == "EPSG:4326"
    assert masks.x.attrs["units"] == "degrees_east"
    assert masks.y.attrs["standard_name"] == "latitude"
    np.testing.assert_allclose(masks.y[[0, -1]], [53.5 - 0.0002, 53.5 - 59.5 * 0.0004], rtol=1e-15)


def test_a_projection_that_cf_has_no_word_for_is_known_all_the_same(out: Out):
    """Switzerland's: pyproj warned of it on the terminal, group by group."""
    run(out, [make_scene(0, group="2056_bern", grid=Grid(2056, 2_600_000, 1_200_000, 10, 10, 60, 70))])
    assert xr.open_zarr(f"{out}/masks.zarr/2056_bern").cloud.rio.crs == "EPSG:2056"


def test_open_masks_sorts_by_time_and_leaves_out_what_is_not_complete(out: Out):
    late, early, failed = make_scene(5), make_scene(1), make_scene(3)
    run(out, [late])
    run(out, [early, failed], failing={failed.id: "no"})
    assert attributes(out)["cloudjob:scenes"] == [late.id, early.id, failed.id]  # order of arrival
    assert list(array(out, "status")) == [COMPLETE, COMPLETE, FAILED]
    masks = open_masks(str(out))["32TQM"].ds
    assert list(masks.scene.values) == [early.id, late.id]
    assert np.array_equal(masks.cloud, [expected(early), expected(late)])
    assert masks.cloud.chunks == ((1, 1), (32, 28), (32, 32, 6))  # one Dask chunk is one tile, one shard, one file
    assert masks.cloud.rio.crs == "EPSG:32632"


@pytest.mark.parametrize(
    ("side", "piece"), [(2208, 552), (2048, 512), (1104, 552), (736, 368), (512, 512), (1001, 1001)]
)
def test_a_large_shard_is_cut_into_pieces_that_can_be_read_alone(side: int, piece: int):
    pieces = group._masks(GRID, side, SETTINGS, {})["cloud"]
    assert (pieces["shards"], pieces["chunks"]) == ((1, side, side), (1, piece, piece))


def test_masks_in_other_pieces_are_read_and_added_to(out: Out, monkeypatch: pytest.MonkeyPatch):
    """As those that 0.27 made are."""
    first, second = make_scene(0), make_scene(1)
    with monkeypatch.context() as patched:
        patched.setattr(group, "INNER", TILE // 4)
        run(out, [first])
    run(out, [second])
    assert zarr.open_array(f"{out}/masks.zarr/32TQM/cloud", mode="r").chunks == (1, TILE // 4, TILE // 4)
    assert np.array_equal(open_masks(str(out))["32TQM"].ds.cloud, [expected(first), expected(second)])


def test_open_masks_of_nothing_is_an_error_and_makes_nothing(tmp_path: Path):
    with pytest.raises(ContractError, match="holds no masks"):
        open_masks(str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def test_probabilities_are_kept_when_the_contract_says_so(out: Out):
    contract = replace(SETTINGS, probability=True)
    scene = make_scene(0)
    run(out, [scene], contract=contract)
    assert np.array_equal(array(out, "cloud_probability")[0], expected(scene) // 2)
    item = json.loads((Path(out.address) / f"items/32TQM/{scene.id}.json").read_text())
    assert item["assets"]["cloud_probability"]["unit"] == "%"


# The item


def test_the_item_is_valid_stac_and_says_what_was_done(out: Out):
    scene = make_scene(0)
    run(out, [scene])
    written = json.loads((Path(out.address) / f"items/32TQM/{scene.id}.json").read_text())
    JsonSchemaSTACValidator().validate_core(written, pystac.STACObjectType.ITEM, "1.1.0")
    item = pystac.Item.from_dict(written)
    mask = expected(scene)
    cover = 100 * (mask == 1).sum() / (mask <= 1).sum()
    assert item.properties["eo:cloud_cover"] == pytest.approx(cover, abs=1e-4)
    assert item.properties["proj:code"] == "EPSG:32632"
    assert item.properties["proj:shape"] == [60, 70]
    assert item.properties["proj:transform"] == [10, 0, 600_000, 0, -10, 5_100_000]
    assert item.properties["grid:code"] == "MGRS-32TQM"
    assert item.properties["cloudjob:provider_cloud_cover"] == 12.5
    assert item.properties["cloudjob:reflectance"] == {
        "red": {"asset": "red", "href": "/nowhere/red.tif", "scale": 1e-4, "offset": -0.1}
    }
    assert item.properties["cloudjob:model"] == {"name": "net", "version": "1.0", "sha256": "a" * 64}
    assert item.properties["cloudjob:scl_agreement"] == pytest.approx(6 / 7, abs=1e-6)
    assert item.properties["cloudjob:device"] == "cpu"
    assert item.properties["cloudjob:tiles"] == [list(tile) for tile in ALL]
    assert item.properties["cloudjob:pixels"]["no_data"] == (mask == 254).sum()
    assert item.properties["processing:software"] == {"cloudjob": "0.1.0", "torch": "2.13.0"}
    source, model = (link for link in written["links"] if link["rel"] == "derived_from")
    assert source["href"] == f"https://catalog.example/items/{scene.id}"
    assert (Path(out.address) / "items/32TQM" / model["href"]).resolve() == Path(out.address) / "job.json"
    cloud = item.assets["cloud"]
    assert (Path(out.address) / "items/32TQM" / cloud.href).resolve() == Path(out.address) / "masks.zarr/32TQM"
    assert [each["value"] for each in cloud.extra_fields["classification:classes"]] == [0, 1, 254, 255]
    assert cloud.roles == ["data", "cloud"]
    assert (cloud.extra_fields["data_type"], cloud.extra_fields["nodata"]) == ("uint8", 255)
    assert np.array_equal(array(out)[item.properties["cloudjob:slot"]], mask)


def test_the_same_work_gives_the_same_bytes(out: Out, tmp_path: Path):
    scenes = [make_scene(0), make_scene(1)]
    run(out, scenes)
    other = Out.at(tmp_path / "other")
    run(other, scenes)
    assert files(out) == files(other)


def test_nothing_lies_where_it_should_not(out: Out):
    run(out, [make_scene(0)], failing={})
    assert {path.name for path in Path(out.address).iterdir()} == {"job.json", "masks.zarr", "items", "lock"}
    assert {path.name for path in (Path(out.address) / "masks.zarr").iterdir()} == {"zarr.json", "32TQM"}


def test_an_item_without_a_valid_pixel_has_no_cloud_cover(out: Out):
    scene = make_scene(0)
    with Lock(out) as lock:
        slots = prepare(lock, SETTINGS, ledger.read(out), [scene], tile_of=lambda _: TILE)
        item = complete(
            lock, SETTINGS, ledger.read(out), scene, slot=slots[scene.id], receipt=Receipt(no_data=4200), tiles=ALL
        )
    JsonSchemaSTACValidator().validate_core(json.loads(json.dumps(item)), pystac.STACObjectType.ITEM, "1.1.0")
    assert "eo:cloud_cover" not in item["properties"]
    assert not any("/eo/" in schema for schema in item["stac_extensions"])


def test_an_id_may_hold_anything(out: Out):
    scenes = [make_scene(number, id=id_) for number, id_ in enumerate(["index", "../../evil", "a/b c?sig=1", "ü#1"])]
    run(out, scenes)
    assert {path.name for path in (Path(out.address) / "items/32TQM").iterdir()} >= {
        "%69ndex.json",
        "%2E.%2F..%2Fevil.json",
    }
    assert set(ledger.read(out).done) == {scene.id for scene in scenes}
    assert run(out, scenes).counts == {"done": 4}


# Runs after runs


def test_a_second_run_leaves_every_byte_as_it_was(out: Out):
    scenes = [make_scene(0), make_scene(1, group="32TPM")]
    run(out, scenes)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in walk(out)}
    assert run(out, scenes).counts == {"done": 2}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in walk(out)} == before


def walk(out: Out) -> list[Path]:
    """All files but the lock's."""
    return [path for path in Path(out.address).rglob("*") if path.is_file() and path.parent.name != "lock"]


def test_a_late_scene_is_appended(out: Out):
    run(out, [make_scene(4), make_scene(8)])
    run(out, [make_scene(6)])
    order = [make_scene(4), make_scene(8), make_scene(6)]
    assert attributes(out)["cloudjob:scenes"] == [scene.id for scene in order]
    assert np.array_equal(array(out), [expected(scene) for scene in order])


def test_a_newer_version_takes_over_and_retires_the_item(out: Out):
    old = make_scene(0)
    new = replace(
        make_scene(0, id="S2A_32TQM_20240601_1_L2A"), baseline="05.11", fingerprint="f2", time=make_scene(0).time
    )
    run(out, [old, make_scene(1)], ALL[:2])
    made = run(out, [new], ALL[1:4])
    assert made.replaces == {new.id: old.id}
    assert attributes(out)["cloudjob:scenes"] == ["", make_scene(1).id, new.id]
    assert (array(out)[0] == 255).all()  # nothing of the old version is left
    assert np.array_equal(array(out)[2], expected(new, ALL[:4]))
    assert list(array(out, "status")) == [0, 1, 1]
    known = ledger.read(out)
    assert set(known.done) == {new.id, make_scene(1).id}
    assert known.done[new.id].replaces == f"items/32TQM/{old.id}.json"
    assert run(out, [old]).superseded == {old.id: new.id}
    assert array(out).shape[0] == 3


def test_a_free_slot_is_given_to_the_next_scene(out: Out):
    run(out, [make_scene(0), make_scene(1)])
    run(out, [make_scene(0, fingerprint="f2")])
    assert attributes(out)["cloudjob:scenes"] == ["", make_scene(1).id, make_scene(0).id]
    run(out, [make_scene(2), make_scene(3)], ALL[:2])
    assert attributes(out)["cloudjob:scenes"] == [scene.id for scene in map(make_scene, (2, 1, 0, 3))]
    assert np.array_equal(array(out)[0], expected(make_scene(2), ALL[:2]))
    assert list(open_masks(out)["32TQM"].scene.values) == [scene.id for scene in map(make_scene, range(4))]


def test_halves_of_a_tile_keep_slots_of_their_own(out: Out):
    west, east = (
        make_scene(0, footprint=box(10, 46, 10.6, 47)),
        make_scene(0, id="east", footprint=box(10.4, 46, 11, 47)),
    )
    east = replace(east, baseline="05.11")
    run(out, [west])
    assert run(out, [west, east]).counts == {"done": 1, "new": 1}
    assert set(ledger.read(out).done) == {west.id, "east"}


def test_a_changed_scene_computes_old_and_new_tiles_and_a_grown_one_those_that_are_missing(out: Out):
    run(out, [make_scene(0), make_scene(1)], ALL[:2])
    changed = make_scene(0, fingerprint="f2")
    made = run(out, [changed, make_scene(1)], ALL[1:3])
    assert made.counts == {"changed": 1, "grown": 1}
    assert [one.tiles for one in made.to_do] == [frozenset(ALL[:3]), frozenset(ALL[2:3])]
    known = ledger.read(out)
    assert np.array_equal(array(out)[known.done[changed.id].slot], expected(changed, ALL[:3]))
    assert np.array_equal(array(out)[1], expected(make_scene(1), ALL[:3]))
    for scene in (changed, make_scene(1)):
        done, mask = known.done[scene.id], expected(scene, ALL[:3])
        assert (done.tiles, done.fingerprint) == (frozenset(ALL[:3]), scene.fingerprint)
        cover = 100 * (mask == 1).sum() / (mask <= 1).sum()
        assert done.cloud_cover == pytest.approx(cover, abs=1e-4)  # of the whole slot


def test_a_grown_scene_ends_with_the_item_of_one_that_was_whole_from_the_start(out: Out, tmp_path: Path):
    """But for what only a file of the provider's tells: what was compared adds up."""
    run(out, [make_scene(0)], ALL[:2])
    run(out, [make_scene(0)])
    whole = Out.at(tmp_path / "whole")
    run(whole, [make_scene(0)])
    grown, once = (json.loads(files(each)[f"items/32TQM/{make_scene(0).id}.json"]) for each in (out, whole))
    for item, times in ((grown, 2), (once, 1)):
        assert (item["properties"].pop("cloudjob:scl_pixels"), item["properties"].pop("cloudjob:scl_agreed")) == (
            7 * times,
            6 * times,
        )
    assert grown == once
    assert np.array_equal(array(out), array(whole))


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 1, 3), (0, 1, 2, 3)])
def test_a_grown_scene_keeps_its_thin_clouds_and_shadows(
    classes: tuple[int, ...], out: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They were counted in the new tiles only, and `check --repair` then deleted a sound mask."""
    what, contract = np.array([*classes, 254], np.uint8), replace(SETTINGS, classes=classes)
    monkeypatch.setattr(
        output, "values", lambda _, tile: np.random.default_rng(tile).choice(what, TILING.core(tile).shape)
    )
    for tiles in (ALL[:1], ALL[:3], ALL):
        run(out, [make_scene(0)], tiles, contract=contract)
        assert list(check.check(out)) == []
    whole = Out.at(tmp_path / "whole")
    run(whole, [make_scene(0)], contract=contract)
    grown, once = (
        json.loads(files(each)[f"items/32TQM/{make_scene(0).id}.json"])["properties"] for each in (out, whole)
    )
    for name in ("cloudjob:pixels", "eo:cloud_cover", "cloudjob:checksum"):
        assert grown[name] == once[name]


def test_an_item_of_the_version_before_grows_too(out: Out):
    """It told the share that agrees, not how many pixels that is."""
    run(out, [make_scene(0)], ALL[:2])
    path = f"items/32TQM/{make_scene(0).id}.json"
    item = out.get_json(path)
    del item["properties"]["cloudjob:scl_agreed"]
    out.put_json(path, item)
    run(out, [make_scene(0)])
    assert out.get_json(path)["properties"]["cloudjob:scl_agreed"] == 12


def test_a_tile_that_became_empty_is_emptied(out: Out):
    scene = make_scene(0)
    run(out, [scene])
    with Lock(out) as lock:
        slot = prepare(lock, SETTINGS, ledger.read(out), [scene], tile_of=lambda _: TILE)[scene.id]
        Writer(out, slot, SETTINGS).write(TILING.core((0, 0)), np.full((32, 32), 255, np.uint8))
    assert (array(out)[0, :32, :32] == 255).all()
    assert np.array_equal(array(out)[0, 32:], expected(scene)[32:])


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"x",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"\xff" * 16 + whole[16:],  # Blosc's own header
        lambda whole: b"\2\1\1\1" + b"\xff" * 12 + whole[16:],  # A size below 0
        lambda whole: whole[:30] + b"\0" * 20 + whole[50:],
    ],
)
@pytest.mark.parametrize("piece", [TILE, TILE // 4])
def test_what_cannot_be_read_is_written_over(
    piece: int, damage: Callable[[bytes], bytes], out: Out, monkeypatch: pytest.MonkeyPatch
):
    """At a scene's edge a shard reaches beyond it, and Zarr reads what lies there before it writes."""
    monkeypatch.setattr(group, "INNER", piece)
    scene = make_scene(0)
    run(out, [scene])
    whole = {}
    for tile in ("0/2", "1/0", "1/2"):
        path = Path(out.address, f"masks.zarr/32TQM/cloud/c/0/{tile}")
        whole[path] = path.read_bytes()
        path.write_bytes(damage(whole[path]))
    with Lock(out) as lock:
        slot = prepare(lock, SETTINGS, ledger.read(out), [scene], tile_of=lambda _: TILE)[scene.id]
        write(out, scene, slot, [(0, 2), (1, 0), (1, 2)])
    assert np.array_equal(array(out), [expected(scene)])
    if piece == TILE:  # Of small pieces those at the edge may be sound, and keep what lies beyond it
        assert {path: path.read_bytes() for path in whole} == whole


def held(out: Out) -> dict[str, np.ndarray]:
    """What readers are given: id → mask."""
    masks = open_masks(out)["32TQM"]
    return dict(zip(masks.scene.values.tolist(), masks.cloud.values, strict=True))


@pytest.mark.parametrize("begun", [0, 1, 6])
@pytest.mark.parametrize("how", ["changed", "newer", "grown"])
def test_a_redo_that_fails_keeps_the_old_mask_and_its_item(how: str, begun: int, out: Out):
    run(out, [make_scene(0), make_scene(1)], ALL[:2])
    before, items = held(out), {path: data for path, data in files(out).items() if path.startswith("items")}
    changes: dict[str, Any] = {
        "changed": {"fingerprint": "f2"},
        "newer": {"id": "newer", "fingerprint": "f2", "baseline": "05.11"},
        "grown": {},
    }
    scene = make_scene(0, **changes[how])
    made = run(out, [scene], ALL, failing={scene.id: "no"})
    assert len(made.to_do) == 1
    now = held(out)
    assert now.keys() == before.keys()
    assert all((now[id_] == mask)[mask != 255].all() for id_, mask in before.items())  # All there was
    done, freed = np.split(array(out, "status"), [2])
    assert (done == 1).all()
    assert (freed == (FAILED if how == "newer" else 0)).all(), "of a scene that has its mask none is told as failed"
    assert {path: data for path, data in files(out).items() if path.startswith("items")} == items
    assert list(ledger.read(out).failures) == [scene.id]
    assert run(out, [scene], ALL).counts == {"failed before": 1}
    assert np.array_equal(held(out)[scene.id], expected(scene))
    assert set(held(out)) == {scene.id, make_scene(1).id}
    assert not ledger.read(out).failures


@pytest.mark.parametrize("name", ["status", "time"])
def test_a_scene_leaves_a_damaged_group_for_another_grid(name: str, out: Out):
    """Nothing is written to the group that it leaves: that ended the run with 3, amid all others."""
    run(out, [make_scene(0)])
    Path(out.address, f"masks.zarr/32TQM/{name}/c/0").write_bytes(b"x")
    left = {path: data for path, data in files(out).items() if path.startswith("masks.zarr/32TQM/")}
    moved = replace(make_scene(0), group="32TRM", fingerprint="f2")
    run(out, [moved, make_scene(1, group="32TRM")])
    assert files(out).items() >= left.items()
    assert {done.id: done.group for done in ledger.read(out).done.values()} == {
        moved.id: "32TRM",
        make_scene(1).id: "32TRM",
    }


@pytest.mark.parametrize("name", ["status/c/0", "status/zarr.json"])
def test_a_scene_is_done_though_the_group_that_it_leaves_was_damaged_meanwhile(name: str, out: Out):
    """Its item stood, and the run told that it had failed."""
    run(out, [make_scene(0), make_scene(1)])
    moved = replace(make_scene(0), group="32TRM", fingerprint="f2")
    with Lock(out) as lock:
        before = ledger.read(out)
        slot = prepare(lock, SETTINGS, before, [moved], tile_of=lambda _: TILE)[moved.id]
        write(out, moved, slot, ALL)
        Path(out.address, "masks.zarr/32TQM", name).write_bytes(b"x")
        complete(lock, SETTINGS, before, moved, slot=slot, receipt=receipt_of(moved, ALL), tiles=ALL)
    known = ledger.read(out)
    assert {done.id: done.group for done in known.done.values()} == {moved.id: "32TRM", make_scene(1).id: "32TQM"}
    assert known.leftovers == ()


def test_a_scene_that_moves_to_another_grid_and_back_is_one_scene_all_the_time(out: Out):
    here, there = make_scene(0), make_scene(0, group="32TPM", fingerprint="f2")
    for scene, other in ((here, "32TPM"), (there, "32TQM"), (here, "32TPM"), (there, "32TQM")):
        run(out, [scene])
        known = ledger.read(out)
        assert known.done[scene.id].group == scene.group
        assert known.leftovers == ()
        assert list(array(out, "status", scene.group)).count(1) == 1
        if other in known.groups:
            assert list(array(out, "status", other)) == [0]
            assert (array(out, "cloud", other) == 255).all()
        assert len(list((Path(out.address) / "items").rglob("S2A*.json"))) == 1


def test_killed_when_a_scene_has_moved_back_its_mask_counts(out: Out, monkeypatch: pytest.MonkeyPatch):
    """Two items that took each other's place were both out."""
    here, there = make_scene(0), make_scene(0, group="32TPM", fingerprint="f2")
    run(out, [here])
    run(out, [there])
    delete = Out.delete

    def dying(self: Out, paths: Iterable[str]) -> None:
        paths = list(paths)
        if f"items/32TPM/{there.id}.json" in paths:
            raise KilledError
        delete(self, paths)

    monkeypatch.setattr(Out, "delete", dying)
    with pytest.raises(KilledError):
        run(out, [here])
    assert ledger.read(out).done[here.id].group == "32TQM"


def test_while_a_run_goes_on_readers_see_one_version_of_a_scene(out: Out, monkeypatch: pytest.MonkeyPatch):
    older, newer = make_scene(0), make_scene(0, id="newer", baseline="05.11")
    run(out, [older])
    monkeypatch.setattr(output.slots, "tidy", lambda *_: None)
    run(out, [newer])
    assert list(array(out, "status")) == [0, 1]
    assert set(held(out)) == {"newer"}
    assert {path.name for path in (Path(out.address) / "items/32TQM").iterdir()} == {"newer.json", "index.json"}


def test_of_a_mask_that_was_never_finished_nothing_is_left_in_another(out: Out):
    run(out, [make_scene(1)])
    with prepared(out) as (_, slot):
        write(out, make_scene(0), slot, ALL[:1])
    changed = make_scene(0, fingerprint="f2")
    run(out, [changed], ALL[3:])
    assert np.array_equal(array(out), [expected(make_scene(1)), expected(changed, ALL[3:])])


def test_of_a_mask_that_its_group_no_longer_knows_nothing_is_left_in_another(out: Out):
    """A group's list of yesterday, as a copy that was made while a run was at work may have it."""
    kept = replace(SETTINGS, probability=True)
    run(out, [make_scene(0)], contract=kept)
    group = Path(out.address, "masks.zarr/32TQM/zarr.json")
    yesterday = group.read_bytes()
    run(out, [make_scene(1)], contract=kept)
    group.write_bytes(yesterday)
    run(out, [make_scene(2)], ALL[3:], contract=kept)
    assert np.array_equal(array(out), [expected(make_scene(0)), expected(make_scene(2), ALL[3:])])
    assert (array(out, "cloud_probability")[1, :TILE, :TILE] == 255).all()
    run(out, [make_scene(1)], contract=kept)
    assert list(check.check(out)) == []


def test_a_mask_of_which_nobody_took_a_checksum_grows_and_is_sound(out: Out):
    """An older cloudjob's: the sum of its new tiles is not that of the whole, and `check --repair` would delete it."""
    run(out, [make_scene(0)], ALL[:2])
    path = f"items/32TQM/{make_scene(0).id}.json"
    item = out.get_json(path)
    del item["properties"]["cloudjob:checksum"]
    out.put_json(path, item)
    run(out, [make_scene(0)])
    assert list(check.check(out)) == []


def test_a_group_of_another_grid_is_refused(out: Out):
    run(out, [make_scene(0)])
    before = files(out)
    with pytest.raises(ContractError, match="32TQM has"):
        run(out, [make_scene(1, grid=replace(GRID, x0=599_990.0))])
    assert files(out) == before


def test_a_group_of_other_tiles_is_refused(out: Out):
    run(out, [make_scene(0)])
    before = files(out)
    with Lock(out) as lock, pytest.raises(ContractError, match="32TQM has"):
        prepare(lock, SETTINGS, ledger.read(out), [make_scene(1)], tile_of=lambda _: TILE // 2)
    assert files(out) == before


def test_two_grids_in_one_new_group_are_refused(out: Out):
    with pytest.raises(ContractError, match="two grids"):
        run(out, [make_scene(0), make_scene(1, grid=replace(GRID, x0=599_990.0))])
    assert set(files(out)) == {"job.json"}


def test_a_foreign_group_is_named_and_costs_nothing(out: Out):
    run(out, [make_scene(0)])
    zarr.create_group(f"{out}/masks.zarr/mine")
    assert "no group that cloudjob made" in ledger.read(out).damaged["masks.zarr/mine/zarr.json"]
    assert run(out, [make_scene(1)]).counts == {"new": 1}


@pytest.mark.parametrize("name", ["cloud/zarr.json", "time/zarr.json", "time/c/0", "status/c/0"])
def test_a_damaged_group_costs_no_night_on_which_nothing_of_it_is_wanted(
    name: str, out: Out, caplog: pytest.LogCaptureFixture
):
    """It ended every run with 3, whatever was to do elsewhere."""
    there, elsewhere = make_scene(0), [replace(make_scene(number), group="32TRM") for number in (1, 2)]
    run(out, [there, elsewhere[0]])
    damaged = Path(f"{out}/masks.zarr/32TQM/{name}")
    damaged.write_bytes(damaged.read_bytes()[:-3])
    run(out, elsewhere)
    assert set(ledger.read(out).done) == {there.id, *(scene.id for scene in elsewhere)}
    assert "32TQM/" + name.partition("/")[0] in caplog.text


@pytest.mark.parametrize("name", ["cloud", "cloud/zarr.json", "time", "time/zarr.json", "time/c/0", "status/c/0"])
def test_nothing_is_written_to_a_damaged_group(name: str, out: Out):
    """Its axes were made longer before one was found damaged; without its masks it was committed as if it had none."""
    run(out, [make_scene(0)])
    damaged = Path(f"{out}/masks.zarr/32TQM/{name}")
    if damaged.is_dir():
        shutil.rmtree(damaged)
    else:
        damaged.write_bytes(damaged.read_bytes()[:-3])
    before, elsewhere = files(out), make_scene(2, group="32TRM")
    run(out, [make_scene(0), make_scene(1), elsewhere])
    assert files(out).items() >= before.items()
    assert set(ledger.read(out).done) == {make_scene(0).id, elsewhere.id}


@pytest.mark.parametrize("what", ["link", "file", "pipe"])
def test_a_slot_in_whose_place_something_else_lies_is_nobodys(
    what: str, out: Out, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """It cost every other new scene of its group, every night; none was freed, and each night told of it."""
    first, second, third, fourth = map(make_scene, range(4))
    run(out, [first, second], failing={second.id: "too dark"})
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "0").write_bytes(b"not ours")
    for slot in ("0", "1", "4"):  # A mask that is made anew, one that failed, and a slot that is not there yet
        place = Path(out.address, "masks.zarr/32TQM/cloud/c", slot)
        shutil.rmtree(place, ignore_errors=True)
        match what:
            case "link":
                place.symlink_to(tmp_path / "disk")
            case "file":
                place.write_bytes(b"not ours")
            case _:
                os.mkfifo(place)
    anew = replace(first, fingerprint="f2")
    run(out, [anew, second])
    run(out, [anew, second, third, fourth])
    assert list(held(out)) == [anew.id, second.id, third.id, fourth.id]
    for scene in (anew, second, third, fourth):
        assert np.array_equal(held(out)[scene.id], expected(scene))
    assert not ledger.read(out).failures
    before = files(out)
    assert run(out, [anew, second, third, fourth]).counts == {"done": 4}
    assert files(out) == before
    for slot in ("0", "1", "4"):  # Told once, not every night
        told = f"cloud/c/{slot} is {'a symbolic link' if what == 'link' else 'no folder'}: no scene gets this slot"
        assert caplog.text.count(told) == 1
    assert (tmp_path / "disk" / "0").read_bytes() == b"not ours"
    if what != "file":
        found = {(fault.path, fault.what) for fault in check.check(out)}
        assert found == {(f"masks.zarr/32TQM/cloud/c/{slot}", "a link, a pipe or the like") for slot in (0, 1, 4)}


def test_a_scene_that_fails_in_a_damaged_group_is_recorded_and_the_run_goes_on(out: Out):
    """Its status there is only a hint for readers."""
    with prepared(out) as (lock, slot):
        Path(f"{out}/masks.zarr/32TQM/status/zarr.json").write_bytes(b"x")
        fail(lock, ledger.read(out), make_scene(0), slot=slot, tiles=ALL, reason="it is too dark")
    assert [failure.reason for failure in ledger.read(out).failures.values()] == ["it is too dark"]


@given(st.lists(st.sampled_from(["", *"abcdef"])), st.lists(st.sampled_from("abcdefghi"), unique=True), st.data())
def test_no_slot_that_holds_a_mask_is_given_away_and_none_twice(
    owners: list[str], wanted: list[str], data: st.DataObject
):
    slot_of = {id_: slot for slot, id_ in enumerate(owners) if id_}
    masks = data.draw(st.sets(st.sampled_from(sorted(slot_of)))) if slot_of else set()
    replaces = {id_: data.draw(st.sampled_from(["", *"abcdef"])) for id_ in wanted}
    done = {id_: Done(id_, "g", slot_of[id_], "", frozenset(), {}, "", None, None, "") for id_ in masks}
    known = ledger.Ledger(scenes={"g": tuple(owners)}, done=done)
    given = _allocate(known, "g", [make_scene(0, id=id_) for id_ in wanted], replaces)
    assert list(given) == wanted
    assert len(set(given.values())) == len(given)
    assert not {slot_of[id_] for id_ in masks} & set(given.values())
    for id_, slot in given.items():
        assert slot >= len(owners) or owners[slot] in ("", id_, replaces[id_], *masks)
    new = [slot for slot in given.values() if slot >= len(owners)]
    assert new == list(range(len(owners), len(owners) + len(new)))


# Writing


@contextmanager
def prepared(out: Out) -> Iterator[tuple[Lock, Slot]]:
    with Lock(out) as lock:
        yield lock, prepare(lock, SETTINGS, ledger.read(out), [make_scene(0)], tile_of=lambda _: TILE)[make_scene(0).id]


@pytest.mark.parametrize(
    "window",
    [Window(0, 16, 0, 32), Window(16, 48, 0, 32), Window(0, 32, 0, 64), Window(32, 60, 0, 16), Window(0, 8, 0, 8)],
)
def test_only_whole_shards_are_written(out: Out, window: Window, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(group, "INNER", 8)  # Of a piece of one that can be read alone Zarr would write the rest, too
    with prepared(out) as (_, slot), pytest.raises(ValueError, match="whole shard"):
        Writer(out, slot, SETTINGS).write(window, np.zeros(window.shape, np.uint8))


def test_many_writers_lose_nothing(out: Out):
    scene = make_scene(0)
    with prepared(out) as (_, slot):
        threads = [threading.Thread(target=write, args=(out, scene, slot, [tile])) for tile in ALL * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert np.array_equal(array(out)[0], expected(scene))


def test_a_run_that_lost_its_lock_writes_no_tile_and_no_item(out: Out):
    scene = make_scene(0)
    with prepared(out) as (lock, slot):
        out.put("lock/00000002.json", out.get("lock/00000001.json") or b"")
        with pytest.raises(LockLostError):
            write(out, scene, slot, ALL)
        with pytest.raises(LockLostError):
            complete(lock, SETTINGS, ledger.read(out), scene, slot=slot, receipt=Receipt(clear=1), tiles=ALL)
        with pytest.raises(LockLostError):
            prepare(lock, SETTINGS, ledger.read(out), [make_scene(1)], tile_of=lambda _: TILE)
        with pytest.raises(LockLostError):
            fail(lock, ledger.read(out), scene, slot=slot, tiles=ALL, reason="no")
        with pytest.raises(LockLostError):
            tidy(lock, ledger.read(out))
    assert (array(out) == 255).all()
    assert list(array(out, "status")) == [0]
    assert not ledger.read(out).done
    assert not ledger.read(out).failures


def test_a_run_that_lost_its_lock_leaves_what_another_one_is_writing(out: Out):
    with prepared(out) as (lock, _):
        written = Path(out.address) / "masks.zarr/32TQM/cloud/c/0/1/1#1"
        written.parent.mkdir(parents=True)
        written.write_bytes(b"half")
        out.put("lock/00000002.json", out.get("lock/00000001.json") or b"")
        with pytest.raises(LockLostError):
            prepare(lock, SETTINGS, ledger.read(out), [make_scene(1)], tile_of=lambda _: TILE)
        assert written.exists()


def test_a_lock_lost_before_a_group_is_made_leaves_none(out: Out, monkeypatch: pytest.MonkeyPatch):
    run(out, [])
    before, without = files(out), output.slots._without
    with Lock(out) as lock:

        def losing(*what: Any) -> Any:
            out.put("lock/00000099.json", out.get(lock.token.path) or b"")
            return without(*what)

        monkeypatch.setattr(output.slots, "_without", losing)
        with pytest.raises(LockLostError):
            prepare(lock, SETTINGS, ledger.read(out), [make_scene(0)], tile_of=lambda _: TILE)
    assert files(out) == before


def test_a_worker_that_was_held_up_writes_no_tile_over_another_runs(out: Out):
    with prepared(out) as (_, slot):
        writer = Writer(out, slot, SETTINGS)
        out.put("lock/00000002.json", out.get("lock/00000001.json") or b"")
        with pytest.raises(LockLostError):
            writer.write(TILING.core((0, 0)), np.zeros((32, 32), np.uint8))
    assert (array(out) == 255).all()


def test_a_worker_of_an_out_that_is_gone_takes_it_for_lost_not_for_damaged(out: Out):
    with prepared(out) as (_, slot):
        shutil.rmtree(out.address)
        with pytest.raises(LockLostError):
            Writer(out, slot, SETTINGS)


def test_a_lock_lost_at_the_last_moment_stops_the_item(out: Out, monkeypatch: pytest.MonkeyPatch):
    with prepared(out) as (lock, slot):
        monkeypatch.setattr("cloudjob.store.slots._set_status", lambda *_: out.put("lock/00000002.json", b"{}"))
        with pytest.raises(LockLostError):
            complete(lock, SETTINGS, ledger.read(out), make_scene(0), slot=slot, receipt=Receipt(clear=1), tiles=ALL)
    assert not ledger.read(out).done


def test_a_lock_lost_before_a_scene_moves_back_leaves_its_item(out: Out, monkeypatch: pytest.MonkeyPatch):
    here, there = make_scene(0), make_scene(0, group="32TPM", fingerprint="f2")
    run(out, [here])
    run(out, [there])
    with prepared(out) as (lock, slot):
        write(out, here, slot, ALL)
        known, items = ledger.read(out), {path: data for path, data in files(out).items() if path.startswith("items")}
        taken = out.get(lock.token.path) or b""
        monkeypatch.setattr(Out, "sweep", lambda *_: out.put("lock/00000099.json", taken))
        with pytest.raises(LockLostError):
            complete(lock, SETTINGS, known, here, slot=slot, receipt=receipt_of(here, ALL), tiles=ALL)
    assert {path: data for path, data in files(out).items() if path.startswith("items")} == items


def test_a_lock_lost_while_slots_are_freed_frees_no_more(out: Out, monkeypatch: pytest.MonkeyPatch):
    """A machine that was asleep would empty slots that another run has given away since."""
    monkeypatch.setattr(output.slots, "tidy", lambda *_: None)
    groups = ("32TQM", "32TQN")
    for baseline in ("05.10", "05.11"):
        run(out, [make_scene(0, group=name, id=f"{name}-{baseline}", baseline=baseline) for name in groups])
    with Lock(out) as lock:
        empty = output.slots.empty
        taken = out.get(lock.token.path) or b""
        monkeypatch.setattr(output.slots, "empty", lambda *what: (empty(*what), out.put("lock/00000099.json", taken)))
        with pytest.raises(LockLostError):
            tidy(lock, ledger.read(out))
    assert [(array(out, "cloud", name)[0] == 255).all() for name in groups] == [True, False]


@pytest.mark.parametrize("amid", ["_sweep", "empty"])
def test_a_run_that_was_held_up_while_it_prepared_takes_nothing_from_the_one_that_took_over(
    out: Out, amid: str, monkeypatch: pytest.MonkeyPatch
):
    """To look through a large OUT takes minutes: a laptop sleeps amid it, and goes on when another run has ended."""
    today, tomorrow = make_scene(0), make_scene(1)
    if amid == "_sweep":  # Its group was lost: an item is left that no longer counts
        run(out, [today])
        shutil.rmtree(f"{out}/masks.zarr")
    else:  # It was killed: a part of a mask is left
        run(out, [])
        with prepared(out) as (_, slot):
            write(out, today, slot, ALL[:1])
    original = getattr(output.slots, amid)
    with Lock(out) as lock:

        def sleeping(*what: Any) -> None:
            original(*what)
            monkeypatch.undo()
            output.overtaken(lock, [today, tomorrow])

        before = ledger.read(out)
        monkeypatch.setattr(output.slots, amid, sleeping)
        with pytest.raises(LockLostError):
            prepare(lock, SETTINGS, before, [today], tile_of=lambda _: TILE)
    assert list(check.check(out)) == []
    assert {*ledger.read(out).done} == {today.id, tomorrow.id}


def test_a_new_group_is_not_emptied_of_what_the_run_that_took_over_wrote(out: Out, monkeypatch: pytest.MonkeyPatch):
    """Leftovers lie there, and the machine sleeps amid their deletion."""
    run(out, [])
    with prepared(out):
        Path(f"{out}/masks.zarr/32TQM/zarr.json").unlink()
    walk, delete_under = folder._walk, Out.delete_under
    with Lock(out) as lock:
        before = ledger.read(out)

        def sleeping(root: Path, prefix: str, *how: Any, **more: Any) -> Iterator[Any]:
            for number, found in enumerate(walk(root, prefix, *how, **more)):
                if (prefix, number) == ("masks.zarr/32TQM", 1):
                    monkeypatch.undo()
                    output.overtaken(lock, [make_scene(0)])
                yield found

        def deleting(self: Out, *what: Any) -> None:
            monkeypatch.setattr(folder, "_walk", sleeping)
            delete_under(self, *what)

        monkeypatch.setattr(Out, "delete_under", deleting)
        with pytest.raises(LockLostError):
            prepare(lock, SETTINGS, before, [make_scene(0)], tile_of=lambda _: TILE)
    assert {*ledger.read(out).done} == {make_scene(0).id}
    assert list(check.check(out)) == []


def test_a_run_that_was_held_up_while_it_freed_slots_takes_nothing_from_the_one_that_took_over(
    out: Out, monkeypatch: pytest.MonkeyPatch
):
    older, newer = (make_scene(0, id=baseline, baseline=baseline) for baseline in ("05.10", "05.11"))
    monkeypatch.setattr(output.slots, "tidy", lambda *_: None)
    run(out, [older])
    run(out, [newer])
    monkeypatch.undo()
    later, empty = [newer, make_scene(1), make_scene(2)], output.slots.empty
    with Lock(out) as lock:

        def sleeping(*what: Any) -> None:
            empty(*what)
            monkeypatch.undo()
            output.overtaken(lock, later)

        before = ledger.read(out)
        monkeypatch.setattr(output.slots, "empty", sleeping)
        with pytest.raises(LockLostError):
            tidy(lock, before)
    assert list(check.check(out)) == []
    assert {*ledger.read(out).done} == {scene.id for scene in later}


def test_all_of_a_mask_is_on_the_disk_before_its_item_says_so(out: Out, monkeypatch: pytest.MonkeyPatch):
    settled: list[int] = []

    def noted(opened: int, fsync: Callable[[int], None] = os.fsync) -> None:
        settled.append(os.fstat(opened).st_ino)
        fsync(opened)

    monkeypatch.setattr(os, "fsync", noted)
    run(out, [make_scene(0)])
    (item,) = Path(f"{out}/items/32TQM").glob("S2*.json")
    last = max(place for place, inode in enumerate(settled) if inode == item.stat().st_ino)  # Inodes are used again
    before = settled[:last]
    needed = [Path(f"{out}/job.json"), *(path for path in Path(f"{out}/masks.zarr").rglob("*") if path.is_file())]
    assert len(needed) > len(ALL)
    assert [path for path in needed if path.stat().st_ino not in before] == []  # Each as it is now
    assert {path.parent.stat().st_ino for path in needed} <= set(before)


# Killed anywhere


class KilledError(BaseException):
    """Stands for SIGKILL: from then on nothing is written."""


class Kill:
    """Call it with a run and a number: dies before that write or deletion, or not at all; tells how many there were."""

    def __init__(self) -> None:
        self.count, self.at, self.working = 0, -1, False

    def event(self, torn: Path | None = None) -> None:
        """A write or a deletion is to come."""
        self.count += 1
        if not 0 <= self.at < self.count:
            return
        if self.at == self.count - 1 and torn:
            torn.parent.mkdir(parents=True, exist_ok=True)
            torn.write_bytes(b"half")  # What obstore leaves when it is killed between writing and renaming
        raise KilledError

    def __call__(self, work: Callable[[], object], number: int | None = None) -> int:
        self.count, self.at, self.working = 0, -1 if number is None else number, True
        try:
            with nullcontext() if number is None else pytest.raises(KilledError):
                work()
        finally:
            self.at, self.working = -1, False
        return self.count


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Kill:
    made = Kill()

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(store: Any, path: str, *args: Any, **kwargs: Any) -> Any:
            if not str(path).startswith("lock/"):
                writes_file = "put" in name and isinstance(store, obstore.store.LocalStore)
                made.event(Path(str(store.prefix), f"{path}#1") if writes_file else None)
            return original(store, path, *args, **kwargs)

        return call

    def unlinked(path: Any, *args: Any, original: Callable[..., None] = os.unlink, **kwargs: Any) -> None:
        if made.working and "/lock/" not in str(path):
            made.event()  # In a folder files are deleted without obstore (`store.folder`)
        original(path, *args, **kwargs)

    for name in ("put", "put_async", "delete", "delete_async"):
        monkeypatch.setattr(obstore, name, watched(name, getattr(obstore, name)))
    monkeypatch.setattr(os, "unlink", unlinked)
    return made


STATES = {
    "fresh": ([], [make_scene(0), make_scene(1)], ALL[:2]),
    "grown": ([make_scene(0), make_scene(1)], [make_scene(1), make_scene(2)], ALL[1:3]),
    "changed": (
        [make_scene(0), make_scene(1)],
        [make_scene(0, fingerprint="f2"), make_scene(2)],
        ALL[1:3],
    ),
    "moved": (
        [make_scene(0), make_scene(1)],
        [make_scene(0, fingerprint="f2", group="32TPM"), make_scene(2)],
        ALL[1:3],
    ),
    "reprocessed": (
        [make_scene(0), make_scene(1)],
        [make_scene(-1), make_scene(0, id="newer", baseline="05.11", fingerprint="f2")],
        ALL[1:3],
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_killed_at_any_write_a_second_run_ends_as_an_undisturbed_one(state: str, tmp_path: Path, kill: Kill):
    before, scenes, tiles = STATES[state]
    start = Out.at(tmp_path / "start")
    if before:
        run(start, before, ALL[:2])
    else:
        start.store  # noqa: B018  # makes the folder
    calm = Out.at(shutil.copytree(start.address, tmp_path / "calm"))
    writes = kill(lambda: run(calm, scenes, tiles))
    assert writes > 10
    for number in range(writes):
        out = Out.at(shutil.copytree(start.address, tmp_path / str(number)))
        kill(lambda out=out: run(out, scenes, tiles), number)
        if (Path(out.address) / "masks.zarr").exists():
            open_everything(out)
        assert_before_or_after(out, start, calm)
        shutil.rmtree(Path(out.address) / "lock")  # This process is alive; who may take over is `test_lock`'s
        run(out, scenes, tiles)
        assert files(out) == files(calm), f"killed at write {number} of {writes}"
        shutil.rmtree(out.address)


def assert_before_or_after(out: Out, before: Out, after: Out) -> None:
    """Every mask that counted still does, or its successor: never neither, never both, and never a mixture."""
    known, old, new = (ledger.read(each) for each in (out, before, after))
    replaced = {done.replaces: id_ for id_, done in new.done.items() if done.replaces}
    for id_, done in old.done.items():
        successor = replaced.get(done.path, id_)
        assert len({id_, successor} & known.done.keys()) == 1
        now = known.done.get(id_) or known.done[successor]
        ends = [each for each in (done, new.done[successor]) if each.fingerprint == now.fingerprint]
        assert now.tiles in [each.tiles for each in ends]
        scene = make_scene(0, id=now.id, fingerprint=now.fingerprint)
        mask = array(out, "cloud", now.group)[now.slot]
        for tile in now.tiles:
            assert np.array_equal(mask[TILING.core(tile).slices], values(scene, tile))


def open_everything(out: Out) -> None:
    """After a kill, readers see a store that is whole."""
    for name in ledger.read(out).groups:
        masks = xr.open_zarr(f"{out}/masks.zarr/{name}", chunks=None).load()  # Dask would take as long again
        assert masks.sizes["time"] == len(masks.attrs["cloudjob:scenes"])


KILLED = """
import os, signal, sys
import obstore
from output import ALL, make_scene, run
from cloudjob.store.out import Out
shards = 0
def dying(store, path, *args, original=obstore.put_async, **kwargs):
    global shards
    shards += "/cloud/c/" in f"{store.prefix}/{path}"
    if shards == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(store, path, *args, **kwargs)
obstore.put_async = dying
run(Out.at(sys.argv[1]), [make_scene(0), make_scene(1)])
"""


def test_sigkill_in_the_middle_leaves_no_lock_that_shuts_others_out(out: Out, tmp_path: Path):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    dead = subprocess.run([sys.executable, "-c", KILLED, out.address, "4"], env=env, check=False)
    assert dead.returncode == -signal.SIGKILL
    assert (Path(out.address) / "lock/00000001.json").exists()
    run(out, [make_scene(0), make_scene(1)])  # at once, in place of the dead
    calm = Out.at(tmp_path / "calm")
    run(calm, [make_scene(0), make_scene(1)])
    assert files(out) == files(calm)


def test_a_killed_worker_leaves_no_part_of_a_file(out: Out):
    scene = make_scene(0)
    with prepared(out) as (lock, slot):
        write(out, scene, slot, ALL)
        torn = Path(out.address) / "masks.zarr/32TQM/cloud/c/0/1/1#1"
        torn.write_bytes(b"half")
        complete(lock, SETTINGS, ledger.read(out), scene, slot=slot, receipt=Receipt(clear=1), tiles=ALL)
        assert not torn.exists()


def test_parts_of_files_are_swept_but_not_where_others_may_write_now(out: Out):
    run(out, [make_scene(0)])
    names = ("job", "items/32TQM/a", "failures/a", "runs/a", "cogs/32TQM/a", "report/index")
    parts = {name: Path(out.address, f"{name}.json#1") for name in names}
    for part in parts.values():
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b"half")
    run(out, [make_scene(1)])
    assert [name for name, part in parts.items() if part.exists()] == ["report/index"]


def test_a_group_whose_making_was_cut_short_is_made_anew(out: Out):

    run(out, [make_scene(0)])
    (Path(out.address) / "masks.zarr/32TQM/zarr.json").unlink()
    shutil.rmtree(Path(out.address) / "items")
    other = make_scene(3)
    run(out, [other], ALL[:1])
    assert attributes(out)["cloudjob:scenes"] == [other.id]
    assert np.array_equal(array(out), [expected(other, ALL[:1])])


def test_a_longer_axis_that_was_never_committed_is_cut_back(out: Out):
    run(out, [make_scene(0)])
    before = files(out)
    for name, shape in (("cloud", (4, *GRID.shape)), ("time", (3,))):
        zarr.open_array(f"{out}/masks.zarr/32TQM/{name}", mode="r+").resize(shape)
    run(out, [make_scene(0)])
    assert files(out) == before


def test_a_group_that_is_there_and_was_not_listed_is_not_made_anew(out: Out):
    """All its masks would be deleted."""
    run(out, [make_scene(0)])
    before = files(out)
    with Lock(out) as lock, pytest.raises(UnreachableError, match="is there, and was not listed"):
        prepare(lock, SETTINGS, ledger.Ledger(), [make_scene(1)], tile_of=lambda _: TILE)
    assert files(out) == before


def test_slots_cost_one_resize_per_group_not_per_scene(out: Out):
    scenes = [make_scene(day, group=group) for day, group in itertools.product(range(40), ("32TQM", "32TPM"))]
    scenes = [replace(scene, id=f"{scene.id}_{scene.group}") for scene in scenes]
    resizes = 0
    original = zarr.Array.resize

    def counted(self: zarr.Array, shape: Any) -> None:
        nonlocal resizes
        resizes += 1
        original(self, shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr.Array, "resize", counted)
        with Lock(out) as lock:
            slots = prepare(lock, SETTINGS, ledger.read(out), scenes, tile_of=lambda _: TILE)
    assert resizes == 2 * 3  # cloud, time, status
    assert sorted(slot.index for slot in slots.values()) == sorted([*range(40)] * 2)


def test_slots_and_settings_travel_to_workers(out: Out):
    import pickle

    with prepared(out) as (_, slot):
        there_out, there_slot = pickle.loads(pickle.dumps((out, slot)))
        write(there_out, make_scene(0), there_slot, ALL)
    assert np.array_equal(array(out)[0], expected(make_scene(0)))
    assert values(make_scene(0), (0, 0)).any()
