"""Night after night on one OUT: what is new is added, what has changed is redone, and all else is left as it was."""

import html
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import Fork, forking
from jobs import (
    SHAPE,
    Result,
    a_day_passes,
    assert_released,
    assert_same,
    brightness_checkpoint,
    dask_cluster,
    items,
    kept,
    make_scene,
    mask_of,
    mask_of_pattern,
    masks,
    pattern,
    slots,
    tree,
    whole,
    write_catalog,
)

import cloudjob

FIRST, LATE, SECOND = "S2A_33UUP_20240601_0_L2A", "S2A_33UUP_20240604_0_L2A", "S2A_33UUP_20240607_0_L2A"
REPROCESSED = "S2A_33UUP_20240601_1_L2A"
SILENT = dict.fromkeys(("s2:processing_baseline", "s2:datastrip_id", "s2:product_uri"))
"""What tells no baseline."""

GROUP = "33UUP_600000_5200020_170x200"


@dataclass(frozen=True)
class World:
    """What the tests of this file share.

    Attributes:
        folder: for anything else.
        checkpoint: tells cloud by red alone.
        items: by scene id.
        values: numbers of a scene's bands by scene id.
        base: an OUT with the first and the second scene.
        cluster: address of a Dask scheduler with a worker.
        forking: starts `cloudjob` in a process of its own.
    """

    folder: Path
    checkpoint: Path
    items: dict[str, dict[str, Any]]
    values: dict[str, dict[str, np.ndarray]]
    base: Path
    cluster: str
    forking: Fork

    def run(
        self, out: Path, *scenes: str | Mapping[str, Any], more: tuple[str, ...] = (), checkpoint: Path | None = None
    ) -> Result:
        """Run over a catalog that lists these scenes."""
        listed = [self.items[scene] if isinstance(scene, str) else scene for scene in scenes]
        catalog = write_catalog(self.folder / f"{out.parent.name}.json", listed)
        options = {"catalog": catalog, "checkpoint": checkpoint or self.checkpoint, "out": out, "cluster": self.cluster}
        told = [word for name, value in options.items() for word in (f"--{name}", value)]
        return self.forking("run", *told, *whole(more), *more)

    def expected(self, scene: str, bright: float = 0.5) -> np.ndarray:
        """The mask of a scene."""
        return mask_of_pattern(self.values[scene], bright)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("nights")
    values = {scene: pattern(seed) for seed, scene in enumerate([FIRST, LATE, SECOND, REPROCESSED], start=1)}
    listed = {
        FIRST: make_scene(folder, FIRST, values=values[FIRST]),
        LATE: make_scene(folder, LATE, "2024-06-04T10:15:59Z", values=values[LATE]),
        SECOND: make_scene(folder, SECOND, "2024-06-07T10:15:59Z", values=values[SECOND]),
        REPROCESSED: make_scene(
            folder,
            REPROCESSED,
            values=values[REPROCESSED],
            baseline="05.10",
            generated="2024-08-01T00:00:00Z",
            properties={"earthsearch:boa_offset_applied": True},
        ),
    }
    checkpoint = brightness_checkpoint(folder / "b.safetensors")
    with dask_cluster() as cluster, forking() as forks:
        made = World(folder, checkpoint, listed, values, folder / "base", cluster, forks)
        first_night = made.run(made.base, FIRST, SECOND)
        assert first_night.code == 0, first_night.stderr
        yield made


@pytest.fixture
def out(world: World, tmp_path: Path) -> Path:
    """A copy of the base."""
    shutil.copytree(world.base, tmp_path / "out")
    return tmp_path / "out"


def test_the_first_night(world: World) -> None:
    assert slots(world.base) == {GROUP: [FIRST, SECOND]}
    for scene in (FIRST, SECOND):
        np.testing.assert_array_equal(mask_of(world.base, scene), world.expected(scene))


def test_a_late_scene_is_appended(world: World, out: Path) -> None:
    before = tree(out)
    assert world.run(out, FIRST, LATE, SECOND).code == 0
    assert slots(out) == {GROUP: [FIRST, SECOND, LATE]}
    after = tree(out)
    kept = [path for path in before if "/cloud/c/" in path or (path.startswith("items/") and "index" not in path)]
    assert len(kept) == 2 * 12 + 2
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    np.testing.assert_array_equal(mask_of(out, LATE), world.expected(LATE))
    view = cloudjob.open(str(out))[GROUP]
    assert list(view["scene"].values) == [FIRST, LATE, SECOND]  # Sorted by time for who reads
    assert [str(time)[:10] for time in view["time"].values] == ["2024-06-01", "2024-06-04", "2024-06-07"]
    np.testing.assert_array_equal(view["cloud"][1].values, world.expected(LATE))


def test_a_reprocessed_scene_takes_over(world: World, out: Path) -> None:
    result = world.run(out, FIRST, REPROCESSED, SECOND)
    assert result.code == 0, result.stderr
    assert slots(out) == {GROUP: ["", SECOND, REPROCESSED]}
    assert {Path(path).stem for path in items(out)} == {REPROCESSED, SECOND}
    np.testing.assert_array_equal(mask_of(out, REPROCESSED), world.expected(REPROCESSED))
    before = kept(out)
    older_again = world.run(out, FIRST, SECOND)  # A catalog that lags behind
    assert older_again.code == 0
    assert kept(out) == before


def test_a_window_grows(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    west, south, east, north = world.items[FIRST]["bbox"]
    corner = ("--bbox", *(str(value) for value in ((west + east) / 2, south, east, (south + north) / 2)))
    assert world.run(out, FIRST, SECOND, more=corner).code == 0
    part = mask_of(out, FIRST)
    computed = part != 255
    assert 0 < computed.sum() < computed.size
    np.testing.assert_array_equal(part[computed], world.expected(FIRST)[computed])
    grown = world.run(out, FIRST, SECOND)
    assert grown.code == 0
    assert "2 larger area" in grown.stderr
    assert_same(out, world.base)
    before = kept(out)
    assert world.run(out, FIRST, SECOND, more=corner).code == 0
    assert kept(out) == before


def test_a_catalog_that_was_ingested_again_changes_nothing(world: World, out: Path) -> None:
    before = kept(out)
    again = [
        {**world.items[scene], "properties": {**world.items[scene]["properties"], "updated": "2026-01-01T00:00:00Z"}}
        for scene in (FIRST, SECOND)
    ]
    result = world.run(out, *again)
    assert result.code == 0
    assert "2 done" in result.stderr
    assert kept(out) == before


def test_redo_replaces_all(world: World, out: Path) -> None:
    result = world.run(out, SECOND, more=("--threshold", "0.9", "--redo"))
    assert result.code == 0, result.stderr
    assert slots(out) == {GROUP: [SECOND]}
    bright = 0.5 + np.log(9) / 20  # where the probability is 0.9
    np.testing.assert_array_equal(mask_of(out, SECOND), world.expected(SECOND, bright))
    assert (mask_of(out, SECOND) != world.expected(SECOND)).any()


JUNE_ONLY = ("--dates", "2024-06-07")


def break_scene(world: World, folder: Path) -> dict[str, Any]:
    """The late scene with a file that is cut short."""
    item = json.loads(json.dumps(world.items[LATE]))
    whole = Path(item["assets"]["nir"]["href"])
    cut = folder / "nir.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    item["assets"]["nir"]["href"] = str(cut)
    return item


def test_a_failed_scene_is_tried_again_whatever_the_dates(world: World, out: Path, tmp_path: Path) -> None:
    broken = break_scene(world, tmp_path)
    first = world.run(out, FIRST, broken, SECOND)
    assert first.code == 1
    assert LATE in first.stderr
    assert "nir.tif" in first.stderr
    assert {Path(path).stem for path in items(out)} == {FIRST, SECOND}
    shutil.copy(world.items[LATE]["assets"]["nir"]["href"], tmp_path / "nir.tif")
    second = world.run(out, SECOND, more=JUNE_ONLY)
    assert second.code == 0, second.stderr
    assert "1 failed before" in second.stderr
    np.testing.assert_array_equal(mask_of(out, LATE), world.expected(LATE))
    assert not any((out / "failures").iterdir())
    assert_released(out)


def test_a_scene_that_fails_on_three_nights_is_abandoned(world: World, out: Path, tmp_path: Path) -> None:
    broken = break_scene(world, tmp_path)
    for night in ((FIRST, broken, SECOND), (SECOND,), (SECOND,)):
        result = world.run(out, *night, more=JUNE_ONLY if night == (SECOND,) else ())
        assert result.code == 1
        assert LATE in result.stderr
        a_day_passes(out)
    before = kept(out)
    fourth = world.run(out, FIRST, broken, SECOND)
    assert fourth.code == 0
    assert f"abandoned {LATE}" in fourth.stderr
    assert "nir.tif" in fourth.stderr
    assert kept(out) == before
    asked_for = world.run(out, SECOND, more=("--retry", LATE))
    assert asked_for.code == 1
    assert "1 failed before" in asked_for.stderr
    mended = world.run(out, FIRST, LATE, SECOND)  # Another product in the catalog: tried again
    assert mended.code == 0
    np.testing.assert_array_equal(mask_of(out, LATE), world.expected(LATE))


def test_odd_items_cost_no_other_scene_and_are_written_down(world: World, tmp_path: Path) -> None:
    odd = [json.loads(json.dumps(world.items[LATE])) | {"id": name} for name in ("time", "place", "grid", "bands")]
    odd[0]["properties"]["datetime"] = "last week"
    odd[1]["geometry"] = {"type": "Polygon"}
    for asset in odd[2]["assets"].values():
        asset["proj:transform"] = [10, 0]
    del odd[3]["assets"]["nir"]
    result = world.run(tmp_path / "out", FIRST, *odd, SECOND)
    assert result.code == 1
    recorded = sorted(path.stem for path in (tmp_path / "out" / "failures").iterdir())
    assert recorded == ["bands", "grid", "place", "time"], "the next runs try them, too, until that makes no sense"
    shutil.rmtree(tmp_path / "out" / "failures")
    assert_same(tmp_path / "out", world.base)
    (record,) = (tmp_path / "out" / "runs").iterdir()
    states = {scene["id"]: scene["state"] for scene in json.loads(record.read_text())["scenes"]}
    assert states == {FIRST: "done", SECOND: "done"} | dict.fromkeys(("time", "place", "grid", "bands"), "failed")
    assert all(f"failed    {name}: " in result.stderr for name in ("time", "place", "grid", "bands"))


def test_a_failed_scene_is_tried_again_by_the_names_it_was_found_with(world: World, out: Path, tmp_path: Path) -> None:
    """The next run may use another catalog, which names its assets otherwise."""
    broken = break_scene(world, tmp_path)
    broken["assets"] = {f"B-{name}": asset for name, asset in broken["assets"].items()}
    names = [part for band in ("red", "green", "blue", "nir", "scl") for part in ("--asset", f"{band}=B-{band}")]
    assert world.run(out, broken, more=tuple(names)).code == 1
    shutil.copy(world.items[LATE]["assets"]["nir"]["href"], tmp_path / "nir.tif")
    second = world.run(out, FIRST, SECOND)
    assert second.code == 0, second.stderr
    np.testing.assert_array_equal(mask_of(out, LATE), world.expected(LATE))


def test_two_halves_of_a_tile_have_slots_of_their_own(world: World, tmp_path: Path) -> None:
    """The swath's two datastrips: one tile, one day, one time, complementary footprints."""
    out = tmp_path / "out"
    halves = []
    for number, side in enumerate(("left", "right")):
        values = pattern(20 + number)
        middle = slice(0, 90) if side == "right" else slice(90, None)
        for pixels in values.values():
            pixels[:, middle] = 0
        name = f"S2A_33UUP_20240610_{number}_L2A"
        item = make_scene(
            tmp_path,
            name,
            "2024-06-10T10:15:59Z",
            values=values,
            baseline="05.10",
            generated=f"2024-06-10T12:00:0{number}Z",
            properties={"earthsearch:boa_offset_applied": True},
        )
        west, south, east, north = item["bbox"]
        left, right = (west, (west + east) / 2) if side == "left" else ((west + east) / 2, east)
        ring = [[left, south], [right, south], [right, north], [left, north], [left, south]]
        item.update(bbox=[left, south, right, north], geometry={"type": "Polygon", "coordinates": [ring]})
        halves.append((item, mask_of_pattern(values)))
    result = world.run(out, *(item for item, _ in halves))
    assert result.code == 0, result.stderr
    assert slots(out) == {GROUP: [item["id"] for item, _ in halves]}
    for item, expected in halves:
        np.testing.assert_array_equal(mask_of(out, item["id"]), expected)
    assert masks(out)[GROUP]["cloud"].shape == (2, *SHAPE)


def test_an_offset_that_nobody_tells_is_told_in_log_item_and_report(world: World, tmp_path: Path) -> None:
    """Such a scene was 0.1 too bright without a word; what tells, dark ground, or a word of the user's, ends that."""
    untold: dict[str, Any] = {"band": {"scale": 1.0, "offset": 0.0}, "properties": SILENT}
    values = {band: np.random.default_rng(5).integers(1100, 9000, SHAPE, np.uint16) for band in pattern(1)}
    bright = make_scene(world.folder / "untold", FIRST, values=values, **untold)
    result = world.run(tmp_path / "out", bright)
    assert result.code == 0, result.stderr
    says = "nothing tells whether ESA's offset is in its numbers"
    assert says in result.stderr
    assert [says in each for each in warned(tmp_path / "out")] == [True]
    page = world.forking("report", tmp_path / "out").stdout.strip()
    assert says in html.unescape(Path(page).read_text(encoding="utf-8"))
    dark = {band: plane // 9 for band, plane in values.items()}
    signed = {band: plane.astype(np.int16) for band, plane in values.items()}
    others = [
        (make_scene(world.folder / "dark", FIRST, values=dark, **untold), ()),
        (make_scene(world.folder / "signed", FIRST, values=signed, **untold, nodata=None), ()),
        (make_scene(world.folder / "stated", FIRST, values=values, properties=SILENT), ()),
        (bright, ("--offset", "0")),
    ]
    for number, (scene, more) in enumerate(others):
        assert world.run(tmp_path / str(number), scene, more=more).code == 0
        assert warned(tmp_path / str(number)) == [], number


def warned(out: Path) -> list[str]:
    """The warnings of its only item."""
    (item,) = items(out).values()
    told: list[str] = json.loads(item)["properties"].get("cloudjob:warnings", [])
    return told


def test_pixels_that_contradict_the_metadata_are_told_in_log_and_item(world: World, tmp_path: Path) -> None:
    """Its offset has been taken off already: dark ground, of which most is darker than the offset."""
    dark = {band: np.random.default_rng(5).integers(100, 1500, SHAPE, np.uint16) for band in pattern(1)}
    offset = {"baseline": "05.10", "band": {"offset": -0.1}}
    lying = make_scene(world.folder / "lying", FIRST, values=dark, **offset)
    result = world.run(tmp_path / "out", lying)
    assert result.code == 0, result.stderr
    assert "the offset -0.1 seems to have been applied already" in result.stderr
    (warning,) = warned(tmp_path / "out")
    assert "applied already" in warning
    true = make_scene(world.folder / "true", FIRST, values=dark | {"red": dark["red"] + 1000}, **offset)
    assert "applied already" not in world.run(tmp_path / "other", true).stderr
