"""`cloudjob rethreshold`: what a new run with the new threshold gives, from the probabilities that an OUT keeps."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import jobs
import numpy as np
import pytest
from faulty import call
from networks import FOUR, contract, four_classes, save

from cloudjob import rethreshold as again
from cloudjob.errors import CloudjobError, ContractError, UsageError
from cloudjob.model.contract import Graph
from cloudjob.store import check, failures, item, ledger
from cloudjob.store import group as groups
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.receipt import SceneResult

Capfd = pytest.CaptureFixture[str]
OLD = {"probability": True, "threshold": 0.5}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of two scenes and a network with random weights, and an OUT that keeps its probabilities."""
    folder = tmp_path_factory.mktemp("again")
    scenes = [jobs.make_scene(folder, f"S{n}", f"2024-06-0{n}T10:15:59Z", seed=n) for n in (1, 2)]
    jobs.write_catalog(folder / "items.json", scenes)
    jobs.random_checkpoint(folder / "net.safetensors")
    fresh(folder, folder / "old", **OLD)
    return folder


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of scenes with few clouds, thick ones and thin ones, and a network that looks at one pixel."""
    folder = tmp_path_factory.mktemp("discs")
    days = {n: f"2024-06-0{n}T10:15:59Z" for n in (1, 2)}
    scenes = [jobs.make_scene(folder, f"S{n}", days[n], values=jobs.pattern(n)) for n in days]
    jobs.write_catalog(folder / "items.json", scenes)
    jobs.brightness_checkpoint(folder / "net.safetensors")
    fresh(folder, folder / "old", **OLD)
    return folder


def fresh(world: Path, out: Path, **options: object) -> Path:
    jobs.run_here(world / "items.json", world / "net.safetensors", out, **options)
    return out


def made(old: Path, new: Path, **options: float) -> list[SceneResult]:
    events = list(again.rethreshold(Out.at(old), Out.at(new), **options))
    return [event for event in events if isinstance(event, SceneResult)]


def told(out: Path, scene: str) -> dict[str, object]:
    """An item without what only the provider's classification tells, which is not read again."""
    item = jobs.item_of(out, scene)
    kept = {name: value for name, value in item["properties"].items() if not name.startswith("cloudjob:scl_")}
    return {**item, "properties": kept}


def assert_same(out: Path, reference: Path) -> None:
    ours, theirs = jobs.masks(out), jobs.masks(reference)
    assert ours.keys() == theirs.keys()
    for group, arrays in theirs.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(ours[group][name], values, err_msg=f"{group}/{name}")
    assert jobs.slots(out) == jobs.slots(reference)
    assert [told(out, scene) for scene in ("S1", "S2")] == [told(reference, scene) for scene in ("S1", "S2")]
    assert json.loads((out / "job.json").read_text()) == json.loads((reference / "job.json").read_text())
    assert list(check.check(Out.at(out))) == []


@pytest.mark.parametrize(
    ("kind", "threshold", "buffer"),
    [("world", 0.51, 0.0), ("world", 0.9, 0.0), ("discs", 0.5, 25.0), ("discs", 0.9, 70)],
)
def test_the_masks_are_those_of_a_new_run(
    kind: str, tmp_path: Path, threshold: float, buffer: float, request: pytest.FixtureRequest
) -> None:
    """And its contract, slots and items; a run goes on with it and has nothing to do."""
    world: Path = request.getfixturevalue(kind)
    before = jobs.tree(world / "old")
    how = {"threshold": threshold, "buffer": buffer}
    assert [one.state for one in made(world / "old", tmp_path / "new", **how)] == ["done", "done"]
    fresh(world, tmp_path / "run", **{**OLD, **how})
    assert_same(tmp_path / "new", tmp_path / "run")
    assert (jobs.mask_of(tmp_path / "new", "S1") != jobs.mask_of(world / "old", "S1")).any()
    assert jobs.tree(world / "old") == before
    kept = jobs.kept(tmp_path / "new")
    assert made(world / "old", tmp_path / "new", **how) == []
    fresh(world, tmp_path / "new", **{**OLD, **how})
    assert jobs.kept(tmp_path / "new") == kept


@pytest.mark.parametrize("event", ["after contract", "after shard", "after item"])
def test_killed_and_called_again_it_goes_on(world: Path, tmp_path: Path, event: str) -> None:
    command = ("rethreshold", world / "old", tmp_path / "new", "--threshold", "0.51")
    plan = jobs.sabotage(tmp_path / "marker", event)
    killed = jobs.cloudjob(*command, command=jobs.SABOTAGED, CLOUDJOB_TEST_SABOTAGE=plan)
    assert killed.code == -signal.SIGKILL, killed.stderr
    done = jobs.cloudjob(*command)
    assert done.code == 0, done.stderr
    made(world / "old", tmp_path / "calm", threshold=0.51)
    assert_same(tmp_path / "new", tmp_path / "calm")
    jobs.assert_released(tmp_path / "new")


def test_a_part_of_a_scene(discs: Path, tmp_path: Path) -> None:
    """A buffer takes clouds for possible that lie beyond; what is masked is right, and a run adds the rest."""
    world = discs
    west, south, east, north = jobs.item_of(world / "old", "S1")["bbox"]
    part = (west, north - 0.3 * (north - south), west + 0.3 * (east - west), north)
    fresh(world, tmp_path / "old", bbox=part, **OLD)
    how = {"threshold": 0.9, "buffer": 25.0}
    made(tmp_path / "old", tmp_path / "exact", threshold=0.51)
    found = made(tmp_path / "old", tmp_path / "new", **how)
    fresh(world, tmp_path / "run", bbox=part, **{**OLD, **how})
    ours, theirs = jobs.mask_of(tmp_path / "new", "S1"), jobs.mask_of(tmp_path / "run", "S1")
    known = ours != 255
    np.testing.assert_array_equal(ours[known], theirs[known])
    rim = (theirs != 255) & ~known
    assert 0 < rim.sum() < 0.2 * (theirs != 255).sum()
    assert found[0].receipt
    assert "may reach them" in found[0].receipt.warnings[0]
    assert list(check.check(Out.at(tmp_path / "new"))) == []
    fresh(world, tmp_path / "exact", **{**OLD, "threshold": 0.51})
    fresh(world, tmp_path / "whole", **{**OLD, "threshold": 0.51})
    np.testing.assert_array_equal(jobs.mask_of(tmp_path / "exact", "S1"), jobs.mask_of(tmp_path / "whole", "S1"))


def test_what_is_new_in_the_old_one_is_added(world: Path, tmp_path: Path) -> None:
    """A scene that came, one whose window grew."""
    west, south, east, north = jobs.item_of(world / "old", "S1")["bbox"]
    part = (west, north - 0.3 * (north - south), west + 0.3 * (east - west), north)
    old, new = tmp_path / "old", tmp_path / "new"
    fresh(world, old, bbox=part, dates="2024-06-01", **OLD)
    assert [one.id for one in made(old, new, threshold=0.51)] == ["S1"]
    fresh(world, old, **OLD)
    assert [one.id for one in made(old, new, threshold=0.51)] == ["S1", "S2"]
    made(world / "old", tmp_path / "calm", threshold=0.51)
    assert_same(new, tmp_path / "calm")


def test_what_runs_have_given_up_is_made_of_the_probabilities(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images could not be read on three nights; none is read here."""
    made(world / "old", tmp_path / "new", threshold=0.51)
    new = Out.at(tmp_path / "new")
    known = ledger.read(new)
    done = known.done["S1"]
    scene = item.scene(new.get_json(done.path), groups.grid_of(known.groups[done.group]))
    scene = replace(scene, item={"id": "S1", **scene.item})
    new.delete([done.path])
    with Lock(new) as lock:
        for night in (1, 2, 3):
            monkeypatch.setattr(failures, "_now", lambda night=night: f"2024-06-0{night}T01:00:00+00:00")
            failures.record(lock, ledger.read(new).failures.get("S1"), scene, done.tiles, "it is cut short")
    assert ledger.read(new).failures["S1"].abandoned
    assert [(one.id, one.state) for one in made(world / "old", tmp_path / "new", threshold=0.51)] == [("S1", "done")]
    made(world / "old", tmp_path / "calm", threshold=0.51)
    assert_same(tmp_path / "new", tmp_path / "calm")


def test_a_damaged_scene_costs_only_itself(world: Path, tmp_path: Path, capfd: Capfd) -> None:
    shutil.copytree(world / "old", tmp_path / "old")
    slot = jobs.item_of(world / "old", "S1")["properties"]["cloudjob:slot"]
    group = next((tmp_path / "old" / "masks.zarr").glob("*/"))
    shutil.rmtree(group / "cloud_probability" / "c" / str(slot) / "0")
    told_ = call(capfd, "rethreshold", tmp_path / "old", tmp_path / "new", "--threshold", "0.51", "--json")
    states = {one["id"]: one for one in map(json.loads, told_.stdout.splitlines())}
    assert told_.code == 1
    assert states["S2"]["state"] == "done"
    assert "its values are not those that were written" in states["S1"]["reason"]
    assert "check OUT --repair" in states["S1"]["reason"]
    assert set(ledger.read(Out.at(tmp_path / "new")).done) == {"S2"}
    fresh(world, tmp_path / "new", **{**OLD, "threshold": 0.51})
    made(world / "old", tmp_path / "calm", threshold=0.51)
    np.testing.assert_array_equal(jobs.mask_of(tmp_path / "new", "S1"), jobs.mask_of(tmp_path / "calm", "S1"))


def test_tiles_that_only_the_new_one_has_are_not_lost(world: Path, tmp_path: Path) -> None:
    """A newer version in the old OUT, of a smaller area: its item told of tiles that nobody had made."""
    west, south, east, north = jobs.item_of(world / "old", "S1")["bbox"]
    part = (west, north - 0.3 * (north - south), west + 0.3 * (east - west), north)
    old, new = tmp_path / "old", tmp_path / "new"
    fresh(world, old, bbox=part, **OLD)
    assert [one.state for one in made(old, new, threshold=0.51)] == ["done", "done"]
    fresh(world, new, **{**OLD, "threshold": 0.51})
    before, kept = jobs.mask_of(new, "S1"), jobs.items(new)
    later = jobs.make_scene(
        tmp_path, "S1v2", "2024-06-01T10:15:59Z", baseline="09.00", generated="2025-01-01T00:00:00Z"
    )
    catalog = jobs.write_catalog(tmp_path / "items.json", [later])
    jobs.run_here(catalog, world / "net.safetensors", old, bbox=part, **OLD)
    (found,) = made(old, new, threshold=0.51)
    assert (found.id, found.state) == ("S1v2", "failed")
    assert f"tiles of it that {old} does not hold" in found.reason
    assert f"`cloudjob run --out {new}` masks it" in found.reason
    np.testing.assert_array_equal(jobs.mask_of(new, "S1"), before)
    assert jobs.items(new) == kept
    assert list(check.check(Out.at(new))) == []
    assert ledger.summary(Out.at(new)).incomplete == ()
    jobs.run_here(catalog, world / "net.safetensors", new, **{**OLD, "threshold": 0.51})
    assert (jobs.mask_of(new, "S1v2") != 255).all()


@pytest.mark.parametrize("name", ["zarr.json", "time/c/0"])
def test_a_group_of_the_new_one_that_is_damaged_stays_as_it_is(world: Path, tmp_path: Path, name: str) -> None:
    """Its scenes fail, with the mend named."""
    new = tmp_path / "new"
    made(world / "old", new, threshold=0.51)
    item = jobs.item_of(new, "S1")["properties"]
    (new / "items" / item["cloudjob:group"] / "S1.json").unlink()
    (path,) = new.glob(f"masks.zarr/*/{name}")
    path.write_bytes(path.read_bytes()[:-3])
    before = jobs.kept(new)
    found = {one.id: one for one in made(world / "old", new, threshold=0.51)}
    assert found["S1"].state == "failed"
    assert "check OUT --repair" in found["S1"].reason
    assert {path: what for path, what in jobs.kept(new).items() if path.startswith("masks")} == {
        path: what for path, what in before.items() if path.startswith("masks")
    }


@pytest.mark.parametrize("lost", ["items/{group}/S1.json", "failures/S1.json"])
def test_an_item_that_cannot_be_read_is_told(world: Path, tmp_path: Path, lost: str) -> None:
    """It was left out in silence, with exit code 0; what is no scene's mask is no matter."""
    old = Path(shutil.copytree(world / "old", tmp_path / "old"))
    path = old / lost.format(group=jobs.item_of(old, "S1")["properties"]["cloudjob:group"])
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"{")
    states = {one.id: one.state for one in made(old, tmp_path / "new", threshold=0.51)}
    assert states == {"S1": "failed" if lost.startswith("items") else "done", "S2": "done"}


@pytest.mark.parametrize("lost", ["cloudjob:reflectance", "cloudjob:source", "cloudjob:pixels"])
def test_an_item_that_says_too_little_costs_only_its_scene(world: Path, tmp_path: Path, lost: str) -> None:
    shutil.copytree(world / "old", tmp_path / "old")
    (path,) = (tmp_path / "old" / "items").glob("*/S1.json")
    item = json.loads(path.read_text())
    del item["properties"][lost]
    path.write_text(json.dumps(item))
    found = {one.id: one for one in made(tmp_path / "old", tmp_path / "new", threshold=0.51)}
    assert found["S2"].state == "done"
    assert found["S1"].state == "failed"
    # Without counts it is no item of a finished scene, to whatever reads the OUT
    what = "is not an item that cloudjob wrote" if lost == "cloudjob:pixels" else "its item says too little"
    assert f"{what}: KeyError: '{lost}'" in found["S1"].reason


def test_a_mask_of_which_nobody_took_a_checksum_is_made_again_and_its_doubts_are_kept(
    world: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(world / "old", tmp_path / "old"))
    (path,) = (old / "items").glob("*/S1.json")
    told_ = json.loads(path.read_text())
    del told_["properties"]["cloudjob:checksum"]
    told_["properties"]["cloudjob:warnings"] = ["no pixel is darker than the offset"]
    path.write_text(json.dumps(told_))
    assert [one.state for one in made(old, tmp_path / "new", threshold=0.51)] == ["done", "done"]
    made(world / "old", tmp_path / "calm", threshold=0.51)
    np.testing.assert_array_equal(jobs.mask_of(tmp_path / "new", "S1"), jobs.mask_of(tmp_path / "calm", "S1"))
    kept = jobs.item_of(tmp_path / "new", "S1")["properties"]
    assert kept["cloudjob:warnings"] == told_["properties"]["cloudjob:warnings"]


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({}, UsageError, "has threshold 0.5 and buffer 0 m already"),
        ({"threshold": 0.5}, UsageError, "already"),
        ({"threshold": 0.405}, UsageError, "0.01 to 0.99 in steps of 0.01"),
        ({"threshold": 40}, UsageError, "steps of 0.01"),
        ({"threshold": float("nan")}, UsageError, "steps of 0.01"),
        ({"buffer": -1}, UsageError, "expected 0 or more"),
        ({"buffer": float("nan")}, UsageError, "expected 0 or more"),
    ],
)
def test_what_makes_no_sense(
    world: Path, tmp_path: Path, options: dict[str, float], kind: type[CloudjobError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        made(world / "old", tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_an_out_that_cannot_be_made_again(world: Path, tmp_path: Path) -> None:
    """No probabilities, those of larger pixels, several classes, none at all; and never two kinds of mask in one."""
    wrong = {
        "plain": (fresh(world, tmp_path / "plain"), "keeps no probabilities"),
        "coarse": (fresh(world, tmp_path / "coarse", probability=True, resolution=20), "averaged for larger pixels"),
        "nothing": (tmp_path / "nothing", "holds no masks"),
    }
    net = save(tmp_path / "n.onnx", four_classes(), contract(tile=64, graph=Graph(FOUR, "softmax", stride=4)))
    jobs.run_here(world / "items.json", net, tmp_path / "four", probability=True)
    wrong["four"] = tmp_path / "four", "tells 4 classes apart"
    for out, says in wrong.values():
        with pytest.raises(ContractError, match=says):
            made(out, tmp_path / "new", threshold=0.6)
        assert not (tmp_path / "new").exists()
    for place in (world / "old", world / "old" / "stricter"):
        with pytest.raises(UsageError, match="lies in it"):
            made(world / "old", place, threshold=0.6)
    made(world / "old", tmp_path / "new", threshold=0.6)
    kept = jobs.kept(tmp_path / "new")
    for out, options in ((world / "old", {"threshold": 0.7}), (world / "old", {"threshold": 0.6, "buffer": 10.0})):
        with pytest.raises(ContractError, match="made with other settings"):
            made(out, tmp_path / "new", **options)
    assert jobs.kept(tmp_path / "new") == kept


def test_a_typo_is_told(tmp_path: Path, capfd: Capfd) -> None:
    result = call(capfd, "rethreshold", tmp_path / "msaks", tmp_path / "new", "--threshold", "0.6")
    assert (result.code, result.stdout) == (2, "")
    assert "holds no masks" in result.stderr
