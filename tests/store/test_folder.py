"""A folder from somebody else: whatever lies in it, nothing outside it is read, written or deleted."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import output
import pytest
from faulty import call

from cloudjob.errors import ContractError
from cloudjob.store import cog, folder, ledger, settings, slots
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.writer import Writer

Capfd = pytest.CaptureFixture[str]
SCENE = output.make_scene(0)
SHARDS = "masks.zarr/32TQM/cloud/c"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """What lies outside, with names that are like ours."""
    made = tmp_path / "precious"
    for name in ("a.json", "32TQM/b.json", "0/0/0", "1#1", "c.json#1", "zarr.json", "thesis.txt"):
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    return made


@pytest.fixture
def out(tmp_path: Path) -> Out:
    made = Out.at(tmp_path / "out")
    output.run(made, [SCENE, output.make_scene(1)])
    return made


def tree(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def replaced(out: Out, path: str, by: Path) -> None:
    """Put a link in the place of something in the OUT."""
    place = Path(out.address, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(place.with_name("was"))
    place.symlink_to(by, target_is_directory=by.is_dir())


def test_a_report_on_a_gift_deletes_nothing_of_mine(tmp_path: Path, precious: Path, capfd: Capfd):
    """As in the issue: it emptied the folder, with exit 0."""
    before, pictures = tree(precious), tmp_path / "gift/report/pictures"
    pictures.mkdir(parents=True)
    (pictures / "x").symlink_to(precious)
    assert call(capfd, "report", tmp_path / "gift").code == 0
    (pictures / "x").unlink()
    pictures.rmdir()
    pictures.symlink_to(precious)
    result = call(capfd, "report", tmp_path / "gift")
    assert (result.code, tree(precious)) == (3, before)
    assert "pictures is a symbolic link" in result.stderr


def test_a_report_prunes_pictures_only(out: Out, capfd: Capfd):
    kept = Path(out.address, "report/pictures/32TQM/holiday.jpg")
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    gone = kept.with_name("S2_gone.json")
    gone.write_text("{}")
    assert call(capfd, "report", out).code == 0
    assert kept.exists()
    assert not gone.exists()


@pytest.mark.parametrize("path", ["report", "report/index.html", "report/pictures/32TQM"])
def test_a_report_writes_through_no_link(out: Out, precious: Path, capfd: Capfd, path: str):
    before = tree(precious)
    replaced(out, path, precious if "." not in path else precious / "thesis.txt")
    result = call(capfd, "report", out)
    assert (result.code, tree(precious)) == (3, before)
    assert "is a symbolic link" in result.stderr


LINKED = [
    "items",
    "items/32TQM",
    "failures",
    "masks.zarr",
    "masks.zarr/32TQM",
    "masks.zarr/32TQM/cloud",
    "masks.zarr/32TQM/time",
    SHARDS,
    f"{SHARDS}/0",
    "runs",
    "lock",
    "job.json",
]


def test_a_group_that_was_moved_away_and_linked_costs_no_other(out: Out, precious: Path):
    """To a larger disk, say: every command ended with 3."""
    elsewhere = [output.make_scene(number, group="32TRM", id=f"ELSEWHERE{number}") for number in range(2)]
    output.run(out, elsewhere[:1])
    replaced(out, "masks.zarr/32TQM", precious)
    assert {*ledger.read(out).done} == {elsewhere[0].id}
    output.run(out, [output.make_scene(0, fingerprint="f2"), *elsewhere])
    assert {*ledger.read(out).done} == {scene.id for scene in elsewhere}
    assert "is a symbolic link" in str(ledger.read(out).damaged)


@pytest.mark.parametrize("path", LINKED)
@pytest.mark.parametrize("how", ["redo", "changed"])
def test_a_run_touches_nothing_behind_a_link(
    out: Out, precious: Path, path: str, how: str, caplog: pytest.LogCaptureFixture
):
    """A redo deletes all that was made; a changed scene deletes and writes; one that fails records it."""
    before = tree(precious)
    replaced(out, path, precious / "thesis.txt" if path == "job.json" else precious)
    scene, other = output.make_scene(0, fingerprint="f2"), output.make_scene(1, fingerprint="f2")
    contract = output.SETTINGS
    if how == "redo":
        contract = settings.Settings(**{**vars(output.SETTINGS), "threshold": 0.7})
    try:
        output.run(out, [scene, other], contract=contract, redo=how == "redo", failing={other.id: "bad"})
        refused = False
    except ContractError as error:
        refused = "is a symbolic link" in str(error)
        assert refused
    assert tree(precious) == before
    # A link in a group costs at most that group's scenes, and is named
    assert refused or "is a symbolic link" in caplog.text + str(ledger.read(out).damaged)


def test_a_worker_writes_through_no_link_that_came_later(out: Out, precious: Path):
    before = tree(precious)
    with Lock(out) as lock:
        scene = output.make_scene(0, fingerprint="f2")
        known = ledger.read(out)
        places = slots.prepare(lock, output.SETTINGS, known, [scene], tile_of=lambda _: output.TILE)
        writer = Writer(out, places[scene.id], output.SETTINGS)
        replaced(out, f"{SHARDS}/{places[scene.id].index}", precious)
        core = output.TILING.core((0, 0))
        with pytest.raises(ContractError, match="is a symbolic link"):
            writer.write(core, np.zeros(core.shape, np.uint8))
    assert tree(precious) == before


def test_the_output_may_be_a_link_itself(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    out = Out.at(tmp_path / "out")
    output.run(out, [SCENE])
    output.run(out, [output.make_scene(0, fingerprint="f2")])
    assert set(ledger.read(out).done) == {SCENE.id}


def test_a_redo_leaves_what_somebody_else_put_there(out: Out):
    mine = [Path(out.address, path) for path in ("items/notes.txt", "masks.zarr/map.qgz", "masks.zarr/32TQM/a.png")]
    for path in mine:
        path.write_text("mine")
    output.run(out, [SCENE], contract=settings.Settings(**{**vars(output.SETTINGS), "threshold": 0.7}), redo=True)
    assert all(path.read_text() == "mine" for path in mine)
    assert set(ledger.read(out).done) == {SCENE.id}


def test_a_redo_leaves_no_old_cog_and_what_somebody_else_put_beside_them(out: Out):
    """The mask's contract was a new one, its picture in `cogs` the old one's."""
    with Lock(out) as lock:
        path, _ = cog.attach(lock)
        old = out.get(path)
        Path(out.address, f"{path}#1").write_bytes(b"II")  # What a killed run left
        mine = [Path(out.address, "cogs", name) for name in ("map.qgz", "mine.tif", "32TQM/notes.txt")]
        for each in mine:
            each.write_text("mine")
        assert list(cog.attach(lock)) == []
    assert all(each.read_text() == "mine" for each in mine)
    assert out.get(path) == old
    output.run(out, [SCENE], contract=settings.Settings(**{**vars(output.SETTINGS), "threshold": 0.7}), redo=True)
    assert sorted(each for each in Path(out.address, "cogs").rglob("*") if each.is_file()) == sorted(mine)


def test_sweeping_leaves_what_somebody_else_put_there(out: Out):
    theirs = ("photos/7#1", "photos/a.json#1", "items/32TQM/IMG#2", "cogs/mine.tif#1")
    parts = ("items/32TQM/x.json#1", f"{SHARDS}/9/0/0#3", "job.json#1", "cogs/32TQM/x.tif#1")
    mine, ours = ([Path(out.address, path) for path in paths] for paths in (theirs, parts))
    for path in (*mine, *ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    output.run(out, [output.make_scene(0, fingerprint="f2")])
    assert all(path.exists() for path in mine)
    assert not any(path.exists() for path in ours)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_no_path_leads_out(tmp_path: Path, path: str):
    out = Out.at(tmp_path / "out")
    out.put("a/b", b"")
    for do in (out.get, lambda path: out.put(path, b""), lambda path: out.delete([path]), out.delete_under, out.tags):
        with pytest.raises(ContractError, match="leads out of"):
            do(path)


# What lies there by accident


def test_what_file_systems_leave_is_nobodys_fault(out: Out, tmp_path: Path, capfd: Capfd):
    for place in ("", "items", "items/32TQM", "masks.zarr", "masks.zarr/32TQM", f"{SHARDS}/0/0", "failures", "runs"):
        for name in (".DS_Store", ".nfs00001", "._a.json", ".fuse_hidden0001"):
            path = Path(out.address, place, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\0")
    output.run(out, [output.make_scene(2), output.make_scene(0, fingerprint="f2")])
    assert len(ledger.read(out).done) == 3
    assert call(capfd, "status", out).code == 0
    assert call(capfd, "report", out).code == 0
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / ".DS_Store").touch()
    output.run(Out.at(fresh), [SCENE])


def test_an_id_that_begins_with_a_dot_is_not_hidden(tmp_path: Path):
    out = Out.at(tmp_path / "out")
    output.run(out, [output.make_scene(0, id=".hidden"), output.make_scene(1, id="..")])
    assert set(ledger.read(out).done) == {".hidden", ".."}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, chdir(path.parent):  # Its path may have 108 bytes
        made.bind(path.name)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize("make", [pipe, Path.mkdir, listening, sparse])
@pytest.mark.parametrize("path", ["job.json", f"items/32TQM/{SCENE.id}.json", "masks.zarr/32TQM/zarr.json"])
@pytest.mark.timeout(60)
def test_nothing_is_waited_for(out: Out, capfd: Capfd, path: str, make: Callable[[Path], None], command: str):
    place = Path(out.address, path)
    place.unlink()
    make(place)
    result = call(capfd, command, out)
    assert result.code in (0, 1, 3)
    assert "Traceback" not in result.stderr


def test_what_a_run_takes_away_while_it_is_looked_at_is_no_crash(out: Out, monkeypatch: pytest.MonkeyPatch):
    """What obstore writes first is renamed at once; `check` goes over an OUT while a run is at work there."""
    staged = Path(out.address, "lock/00000001.json#1")
    staged.write_text("")
    walk = os.walk

    def renamed(*arguments: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        found = list(walk(*arguments))
        staged.unlink()
        return iter(found)

    monkeypatch.setattr(os, "walk", renamed)
    assert out.oddities() == []


def test_a_pipe_in_place_of_a_file_is_named(tmp_path: Path):
    pipe(tmp_path / "x")
    with pytest.raises(ContractError, match="is no file"):
        folder.read(tmp_path, "x")
    with pytest.raises(ContractError, match="bytes"):
        folder.check_size("x", folder.LARGEST + 1)
