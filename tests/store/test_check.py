"""`cloudjob check` from the outside: every way in which an OUT can be damaged is found, and mended or done again."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import output
import pytest
import zarr
from faulty import call
from obstore.exceptions import GenericError
from pyproj import CRS
from pyproj.exceptions import CRSError
from zarr.storage import ObjectStore

from cloudjob.shown import attach
from cloudjob.store import again, check, group, ledger, repair, settings
from cloudjob.store.conventions import COMPLETE, PLANNED
from cloudjob.store.lock import Lock, LockLostError
from cloudjob.store.out import Out

Capfd = pytest.CaptureFixture[str]
SCENES = [output.make_scene(number) for number in range(3)]
FIRST = SCENES[0].id
GROUP = "masks.zarr/32TQM"
ITEM = f"items/32TQM/{FIRST}.json"
SHARD = f"{GROUP}/cloud/c/0/1/0"
CONTRACT = settings.Settings(**{**vars(output.SETTINGS), "probability": True})


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Out.at(tmp_path_factory.mktemp("check") / "out")
    output.run(out, SCENES, contract=CONTRACT)
    told = {"started": "2024-06-02T01:00:00+00:00", "how": "complete", "seconds": 1.5, "scenes": []}
    out.put_json("runs/20240602T010000.000000Z.json", told | {"settings": vars(CONTRACT)})
    return Path(out.address)


@pytest.fixture
def out(still: Path, tmp_path: Path) -> Out:
    return Out.at(shutil.copytree(still, tmp_path / "out"))


def flip(data: bytes) -> bytes:
    """One bit of the values, well away from checksums of Zarr's own."""
    middle = len(data) // 3
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_a_good_one_is_good(out: Out, capfd: Capfd):
    result = call(capfd, "check", out)
    assert (result.code, result.stdout) == (0, ""), result.stdout
    assert "all is as it was written" in result.stderr
    before = output.files(out)
    assert call(capfd, "check", out, "--repair").code == 0
    assert output.files(out) == before


CUT = {"emptied": lambda _: b"", "cut": lambda data: data[: len(data) // 2], "deleted": None}
EVERY = [
    *((path, "again") for path in (SHARD, f"{GROUP}/cloud_probability/c/0/0/1", ITEM)),
    *((f"{GROUP}{name}/zarr.json", "rebuild") for name in ("", "/cloud", "/time", "/y", "/spatial_ref", "/status")),
    *((f"{GROUP}/{name}/c/0", "rebuild") for name in ("time", "status", "x")),
    ("job.json", "rebuild"),
    ("items/32TQM/index.json", "rebuild"),
    ("runs/20240602T010000.000000Z.json", "delete"),
]


@pytest.mark.parametrize("how", CUT)
@pytest.mark.parametrize(("path", "mend"), EVERY)
def test_what_is_cut_is_found_and_mended(out: Out, capfd: Capfd, path: str, mend: str, how: str):
    before = output.files(out)
    place, change = Path(out.address, path), CUT[how]
    if change:
        place.write_bytes(change(place.read_bytes()))
    else:
        place.unlink()
    if how == "deleted" and (mend == "delete" or path in (ITEM, "items/32TQM/index.json")):
        assert call(capfd, "check", out).code == 0  # Then it was never there: it is a cache, or incomplete
        return
    damaged = {name: path.read_bytes() for name, path in _files(out).items()}
    result = call(capfd, "check", out, "--json")
    assert result.code == 1
    assert {name: path.read_bytes() for name, path in _files(out).items()} == damaged  # It only looks
    faults = [json.loads(line) for line in result.stdout.splitlines()]
    assert mend in {fault["mend"] for fault in faults}, faults
    assert any(path.startswith(fault["path"]) or fault["scene"] == FIRST for fault in faults), faults
    assert call(capfd, "check", out, "--repair").code == 0
    if mend == "again":
        assert [(each.id, each.day) for each in again.read(out)] == [(FIRST, SCENES[0].time.date())]
        assert set(ledger.read(out).done) == {scene.id for scene in SCENES[1:]}
        output.run(out, SCENES, contract=CONTRACT)
        assert again.read(out) == []
    assert call(capfd, "check", out).code == 0
    assert parsed(output.files(out)) == parsed(before)


@pytest.mark.parametrize("array", ["time", "cloud"])
def test_looking_at_an_array_that_is_gone_makes_no_folder(array: str, out: Out, capfd: Capfd, tmp_path: Path):
    """On a disk that is read-only that was an outage of the store, and ended what could have gone on."""
    shutil.rmtree(Path(out.address, GROUP, array))
    output.run(out, [output.make_scene(5)], contract=CONTRACT)
    before = sorted(Path(out.address).rglob("*"))
    assert [call(capfd, *what).code for what in (("check", out), ("list", out), ("status", out, "--json"))] == [1, 0, 0]
    wanted = 1 if array == "cloud" else 0
    assert call(capfd, "export", out, "--all", tmp_path / "cogs").code == wanted
    assert sorted(Path(out.address).rglob("*")) == before


@pytest.mark.parametrize("how", ["emptied", "cut", "deleted"])
@pytest.mark.parametrize("array", ["time", "status", "y", "spatial_ref"])
def test_no_mask_is_lost_with_what_lies_beside_it(out: Out, capfd: Capfd, how: str, array: str):
    """Where a group's own metadata were lost as well, all its masks were deleted, good as they were."""
    before = output.files(out)
    Path(out.address, GROUP, "zarr.json").write_bytes(b"")
    document = Path(out.address, GROUP, array, "zarr.json")
    if how == "deleted":
        shutil.rmtree(document.parent)
    else:
        document.write_bytes(b"" if how == "emptied" else document.read_bytes()[:-100])
    assert call(capfd, "check", out, "--repair").code == 0
    assert again.read(out) == []
    assert call(capfd, "check", out).code == 0
    assert parsed(output.files(out)) == parsed(before)


MASK_LIKE = ["cloud", "cloud_probability"]


@pytest.mark.parametrize("how", ["emptied", "cut", "another's"])
@pytest.mark.parametrize("array", MASK_LIKE)
@pytest.mark.parametrize("coarser", [1, 2])
def test_no_mask_is_lost_with_what_one_array_says_of_itself(
    tmp_path: Path, capfd: Capfd, how: str, array: str, coarser: int
):
    """And with the group's own metadata: the other has its form, and items tell how probabilities were rounded."""
    out, mask = Out.at(tmp_path / "out"), output.GRID
    height, width = mask.height * coarser, mask.width * coarser
    grid = replace(mask, dx=mask.dx / coarser, dy=mask.dy / coarser, height=height, width=width)
    output.run(out, [output.make_scene(day, grid=grid, coarser=coarser) for day in range(2)], contract=CONTRACT)
    before = output.files(out)
    Path(out.address, GROUP, "zarr.json").write_bytes(b"")
    document = Path(out.address, GROUP, array, "zarr.json")
    document.write_bytes({"emptied": b"", "cut": document.read_bytes()[:-100], "another's": b"{}"}[how])
    assert call(capfd, "check", out, "--repair").code == 0
    assert again.read(out) == []
    assert call(capfd, "check", out).code == 0
    assert parsed(output.files(out)) == parsed(before)


@pytest.mark.parametrize("array", MASK_LIKE)
def test_an_array_is_made_anew_in_the_pieces_of_its_shards(tmp_path: Path, capfd: Capfd, array: str):
    """0.27 cut shards of 672 pixels (`--resolution 30`) into others: no mask could be read, and all were lost."""
    out = Out.at(tmp_path / "out")
    with pytest.MonkeyPatch.context() as older:
        older.setattr(group, "INNER", output.TILE // 4)
        output.run(out, SCENES, contract=CONTRACT)
    before = output.files(out)
    for name in ("zarr.json", f"{array}/zarr.json"):
        Path(out.address, GROUP, name).write_bytes(b"")
    assert call(capfd, "check", out, "--repair").code == 0
    assert again.read(out) == []
    assert parsed(output.files(out)) == parsed(before)


def test_probabilities_that_are_gone_are_made_again(out: Out, capfd: Capfd):
    """With the group's own metadata: it was made anew without them, and every run ended with 3."""
    before = output.files(out)
    Path(out.address, GROUP, "zarr.json").write_bytes(b"")
    shutil.rmtree(Path(out.address, GROUP, "cloud_probability"))
    assert call(capfd, "check", out, "--repair").code == 0
    output.run(out, SCENES, contract=CONTRACT)
    assert call(capfd, "check", out).code == 0
    assert parsed(output.files(out)) == parsed(before)


@pytest.mark.parametrize("odd", [lambda asset: asset.pop("cloudjob:rounding"), lambda asset: asset.clear()])
def test_of_probabilities_whose_rounding_nobody_tells_no_mask_is_made(
    out: Out, capfd: Capfd, tmp_path: Path, odd: Callable[[dict], object]
):
    """One item is older, and its probabilities may have been rounded otherwise; the masks are good all the same."""
    item = json.loads(Path(out.address, ITEM).read_text())
    odd(item["assets"]["cloud_probability"])
    Path(out.address, ITEM).write_text(json.dumps(item))
    for name in ("zarr.json", "cloud_probability/zarr.json"):
        Path(out.address, GROUP, name).write_bytes(b"")
    assert call(capfd, "check", out, "--repair").code == 0
    assert again.read(out) == []
    assert call(capfd, "check", out).code == 0
    made = call(capfd, "rethreshold", out, tmp_path / "new", "--threshold", "0.7")
    assert made.code == 3
    assert "keeps probabilities that were averaged for larger pixels, or rounded" in made.stderr


@pytest.mark.parametrize("how", ["emptied", "deleted"])
def test_a_group_of_which_too_little_is_known_is_masked_again(out: Out, capfd: Capfd, how: str):
    """Its own and its masks' metadata are lost: nothing mended that, and every run ended with 3."""
    before = output.files(out)
    Path(out.address, GROUP, "zarr.json").write_bytes(b"")
    for array in MASK_LIKE:
        if how == "emptied":
            Path(out.address, GROUP, array, "zarr.json").write_bytes(b"")
        else:
            shutil.rmtree(Path(out.address, GROUP, array))
    with pytest.MonkeyPatch.context() as patch, Lock(out) as lock:
        patch.setattr(type(out), "delete_under", killed)
        with pytest.raises(KeyboardInterrupt):
            list(repair.repair(lock, check.check(out)))
    result = call(capfd, "check", out, "--repair")
    assert result.code == 0
    assert "will be masked again by the next run" in result.stdout
    assert {(each.id, each.day, each.tiles) for each in again.read(out)} == {
        (scene.id, scene.time.date(), frozenset(output.ALL)) for scene in SCENES
    }
    assert call(capfd, "check", out).code == 0
    output.run(out, SCENES, contract=CONTRACT)
    assert again.read(out) == []
    assert call(capfd, "check", out).code == 0
    assert parsed(output.files(out)) == parsed(before)


def test_a_group_with_somebodys_link_in_it_is_left_alone(out: Out, capfd: Capfd, tmp_path: Path):
    """No run could write there, whatever was deleted."""
    Path(out.address, GROUP, "zarr.json").write_bytes(b"")
    shutil.move(Path(out.address, GROUP, "y"), tmp_path / "y")
    Path(out.address, GROUP, "y").symlink_to(tmp_path / "y")
    before = {name: path.read_bytes() for name, path in _files(out).items() if not name.startswith("lock/")}
    assert call(capfd, "check", out, "--repair").code == 1
    after = {name: path.read_bytes() for name, path in _files(out).items() if not name.startswith("lock/")}
    assert after == before


def test_a_link_in_another_group_keeps_nothing_from_being_mended(out: Out, capfd: Capfd):
    for name in ("", *MASK_LIKE):
        Path(out.address, GROUP, name, "zarr.json").write_bytes(b"")
    Path(out.address, f"{GROUP}_2").mkdir()
    Path(out.address, f"{GROUP}_2", "mine").symlink_to(out.address)
    result = call(capfd, "check", out, "--repair")
    assert "will be masked again by the next run" in result.stdout
    assert {each.id for each in again.read(out)} == {scene.id for scene in SCENES}


def test_nothing_is_given_up_where_no_projection_is_known(out: Out, capfd: Capfd, monkeypatch: pytest.MonkeyPatch):
    """Where PROJ's database is lost no group looks as it was made: all masks were deleted, good as they were."""
    before = {name: path.read_bytes() for name, path in _files(out).items() if not name.startswith("lock/")}

    def lost(code: int) -> None:
        raise CRSError(f"Invalid projection: EPSG:{code}: (Internal Proj Error: no database context specified)")

    monkeypatch.setattr(CRS, "from_epsg", lost)
    assert call(capfd, "check", out, "--repair").code == 1
    after = {name: path.read_bytes() for name, path in _files(out).items() if not name.startswith("lock/")}
    assert after == before


def test_what_lies_in_the_way_of_a_group_is_said_to_be(out: Out, capfd: Capfd):
    Path(out.address, GROUP, "zarr.json").unlink()
    Path(out.address, GROUP, "zarr.json").mkdir()
    Path(out.address, GROUP, "zarr.json/mine.txt").touch()
    for _ in range(2):
        result = call(capfd, "check", out, "--repair")
        assert result.code == 1
        assert f"{GROUP}/zarr.json is no file" in result.stdout
    assert Path(out.address, GROUP, "zarr.json/mine.txt").exists()
    assert {each.id for each in again.read(out)} == {scene.id for scene in SCENES}


@pytest.mark.parametrize("left", [b"", b"{", b'{"x": 3}', None])
def test_what_damaged_marks_told_of_is_looked_for_all_the_same(out: Out, capfd: Capfd, left: bytes | None):
    """They were told of in every night, and nothing mended them; the masks that they told of were lost."""
    Path(out.address, ITEM).write_bytes(b"x")
    assert call(capfd, "check", out, "--repair").code == 0
    (marked,) = again.read(out)
    if left is None:  # One of them only
        second = f"items/32TQM/{SCENES[1].id}.json"
        Path(out.address, second).write_bytes(b"x")
        assert call(capfd, "check", out, "--repair").code == 0
        left = json.dumps({**out.get_json(again.FILE), FIRST: 3}).encode()
    out.put(again.FILE, left)
    result = call(capfd, "check", out)
    assert result.code == 1
    assert "again.json cannot be read" in result.stdout
    assert call(capfd, "check", out, "--repair").code == 0
    assert marked in again.read(out)
    assert call(capfd, "check", out).code == 0
    output.run(out, SCENES, contract=CONTRACT)
    assert again.read(out) == []


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_scene_whose_failure_is_damaged_is_tried_again(out: Out, capfd: Capfd):
    """Every later run tries it, whatever its dates; without its record none did."""
    failing = output.make_scene(9)
    output.run(out, [failing], contract=CONTRACT, failing={failing.id: "it cannot be read"})
    (record,) = Path(out.address, "failures").iterdir()
    record.write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch, Lock(out) as lock:
        patch.setattr(again, "mark", killed)
        with pytest.raises(KeyboardInterrupt):
            list(repair.repair(lock, check.check(out)))
    assert call(capfd, "check", out, "--repair").code == 0
    assert not record.exists()
    assert [(each.id, each.day) for each in again.read(out)] == [(failing.id, failing.time.date())]
    assert call(capfd, "check", out).code == 0


def test_the_day_of_a_scene_is_not_that_of_an_axis_that_was_emptied(out: Out, capfd: Capfd):
    """Else the next runs would look for it in 1970, and its mask would be lost."""
    for path in (ITEM, f"{GROUP}/time/c/0"):
        Path(out.address, path).write_bytes(b"x")
    assert call(capfd, "check", out, "--repair").code == 0
    assert [(each.id, each.day) for each in again.read(out)] == [(FIRST, SCENES[0].time.date())]


@pytest.mark.parametrize("beside", ["cloud/zarr.json", "time/c/0"])
def test_a_mask_is_looked_at_once_though_its_group_is_damaged_too(out: Out, capfd: Capfd, beside: str):
    """Where no array could be read the masks are, as soon as it can be."""
    Path(out.address, GROUP, beside).write_bytes(b"")
    Path(out.address, SHARD).write_bytes(b"x")
    result = call(capfd, "check", out, "--repair")
    assert result.code == 0
    assert result.stdout.count("will be masked again by the next run") == 1
    assert set(ledger.read(out).done) == {scene.id for scene in SCENES[1:]}
    assert call(capfd, "check", out).code == 0
    status, *kept = (
        zarr.open_array(f"{out}/{GROUP}/{name}", mode="r")[:] for name in ("status", "cloud", "cloud_probability")
    )
    assert list(status) == [PLANNED, COMPLETE, COMPLETE]
    assert all((values[0] == 255).all() for values in kept), "readers are given nothing of it, nor an error"


def test_a_contract_is_made_anew_as_the_last_run_knew_it(out: Out, capfd: Capfd):
    """Before a redo it was another one."""
    before = Path(out.address, "job.json").read_bytes()
    last = out.get_json("runs/20240602T010000.000000Z.json")
    out.put_json("runs/20240601T010000.000000Z.json", last | {"settings": last["settings"] | {"threshold": 0.4}})
    Path(out.address, "job.json").unlink()
    assert call(capfd, "check", out, "--repair").code == 0
    assert Path(out.address, "job.json").read_bytes() == before


@pytest.mark.parametrize("how", [*CUT, "another's", "no picture"])
def test_a_cog_that_is_not_its_mask_is_made_anew(out: Out, capfd: Capfd, how: str):
    attach(out, quiet=True)
    capfd.readouterr()
    before = output.files(out)
    first, second = (Path(out.address, f"cogs/32TQM/{scene.id}.tif") for scene in SCENES[:2])
    changed = {name: change and change(first.read_bytes()) for name, change in CUT.items()}
    data = (changed | {"another's": second.read_bytes(), "no picture": b"<html>"})[how]
    first.write_bytes(data) if data is not None else first.unlink()
    result = call(capfd, "check", out, "--json")
    (fault,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.code, fault["path"], fault["scene"]) == (1, f"cogs/32TQM/{FIRST}.tif", FIRST)
    result = call(capfd, "check", out, "--repair")
    assert result.code == 0
    assert "made anew from its mask" in result.stdout
    assert output.files(out) == before


@pytest.mark.parametrize("what", ["folder", "link"])
def test_what_lies_in_the_place_of_a_cog_is_left_alone(out: Out, capfd: Capfd, tmp_path: Path, what: str):
    attach(out, quiet=True)
    capfd.readouterr()
    place = Path(out.address, f"cogs/32TQM/{FIRST}.tif")
    place.unlink()
    place.mkdir() if what == "folder" else place.symlink_to(tmp_path / "elsewhere.tif")
    for more in ((), ("--repair",)):
        result = call(capfd, "check", out, *more)
        assert result.code == 1, result.stderr
        (told,) = result.stdout.splitlines()
        assert told.startswith(f"cogs/32TQM/{FIRST}.tif")
    assert place.is_dir() if what == "folder" else place.is_symlink()
    assert not (tmp_path / "elsewhere.tif").exists()


def test_the_cog_of_a_mask_that_is_lost_is_left_to_the_next_run(out: Out, capfd: Capfd):
    attach(out, quiet=True)
    Path(out.address, f"cogs/32TQM/{FIRST}.tif").write_bytes(b"")
    Path(out.address, SHARD).write_bytes(b"")
    result = call(capfd, "check", out, "--repair")
    assert result.code == 0
    assert "cogs/" not in result.stdout
    output.run(out, SCENES, contract=CONTRACT)
    attach(out, quiet=True)
    assert call(capfd, "check", out).code == 0


def parsed(files: dict[str, bytes]) -> dict[str, object]:
    """What Zarr writes ends without a line's end."""
    return {name: json.loads(data) if name.endswith(".json") else data for name, data in files.items()}


def _files(out: Out) -> dict[str, Path]:
    return {str(path.relative_to(out.address)): path for path in Path(out.address).rglob("*") if path.is_file()}


@pytest.mark.parametrize("path", [SHARD, f"{GROUP}/cloud_probability/c/0/0/1"])
def test_a_flipped_bit_is_found(out: Out, capfd: Capfd, path: str):
    place = Path(out.address, path)
    place.write_bytes(flip(place.read_bytes()))
    result = call(capfd, "check", out)
    assert result.code == 1
    assert f"(scene {FIRST})" in result.stdout


def test_whatever_a_codec_says_is_found(out: Out, capfd: Capfd, monkeypatch: pytest.MonkeyPatch):
    """Blosc, of a size below 0 in a damaged shard."""

    def negative(*_: object) -> int:
        raise SystemError("Negative size passed to PyBytes_FromStringAndSize")

    monkeypatch.setattr(check, "tile_sum", negative)
    result = call(capfd, "check", out)
    assert result.code == 1
    assert "cannot be read: SystemError: Negative size" in result.stdout


@pytest.mark.parametrize("asked", ["c/0", "c/0/0/0"])
def test_a_store_that_no_longer_answers_is_no_damage(
    asked: str, out: Out, capfd: Capfd, monkeypatch: pytest.MonkeyPatch
):
    """Every mask would be taken back; and where an axis was asked for, it was a crash."""
    answers = ObjectStore.get

    async def away(self: ObjectStore, path: str, *what: Any, **how: Any) -> Any:
        if path == asked:
            raise GenericError("Generic S3 error: connection refused")
        return await answers(self, path, *what, **how)

    before = output.files(out)
    monkeypatch.setattr(ObjectStore, "get", away)
    for more in ((), ("--repair",)):
        result = call(capfd, "check", out, *more)
        assert (result.code, result.stdout) == (4, "")
    assert output.files(out) == before


def test_values_that_keep_the_counts_are_found(out: Out, capfd: Capfd):
    """Another scene's shard, of the same counts; and an item of an older version has no checksum to find it by."""
    array = zarr.open_array(f"{out}/{GROUP}/cloud", mode="r+")
    array[0, :32, :32] = array[0, :32, :32][::-1]
    result = call(capfd, "check", out)
    assert result.code == 1
    assert "the values are not those that were written" in result.stdout
    item = json.loads(Path(out.address, ITEM).read_text())
    del item["properties"]["cloudjob:checksum"]
    Path(out.address, ITEM).write_text(json.dumps(item))
    assert call(capfd, "check", out).code == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["cloudjob:pixels"].update(cloud=told["cloudjob:pixels"]["cloud"] + 1),
        lambda told: told.pop("cloudjob:pixels"),
        lambda told: told["cloudjob:pixels"].update(cloud=[]),
        lambda told: told.update({"cloudjob:pixels": [1]}),
        lambda told: told.update({"cloudjob:tiles": [[0, 0]]}),
        lambda told: told.update({"cloudjob:slot": 1}),
        lambda told: told.update({"datetime": "2020-01-01T00:00:00Z"}),
        lambda told: told.pop("cloudjob:reflectance"),
        lambda told: told["cloudjob:reflectance"]["red"].pop("href"),
        lambda told: told.update({"cloudjob:reflectance": "red"}),
    ],
)
def test_an_item_that_tells_something_else_is_found(out: Out, capfd: Capfd, change: Callable[[dict], object]):
    item = json.loads(Path(out.address, ITEM).read_text())
    change(item["properties"])
    Path(out.address, ITEM).write_text(json.dumps(item))
    result = call(capfd, "check", out)
    assert result.code == 1
    assert call(capfd, "check", out, "--repair").code == 0
    output.run(out, SCENES, contract=CONTRACT)
    assert call(capfd, "check", out).code == 0


LYING: list[tuple[str, Callable[[dict], object]]] = [
    ("x", lambda told: told.update(shape=[7 * 10**10])),
    ("y", lambda told: told["chunk_grid"]["configuration"].update(chunk_shape=[1])),
    ("time", lambda told: told.update(shape=[10**12])),
    ("status", lambda told: told["chunk_grid"]["configuration"].update(chunk_shape=[10**12])),
    ("cloud", lambda told: told.update(shape=[10**15, 60, 70])),
    ("cloud", lambda told: told["chunk_grid"]["configuration"].update(chunk_shape=[1, 2**40, 2**40])),
    ("cloud", lambda told: told["codecs"][0]["configuration"].update(chunk_shape=[1, 1, 1])),
    ("cloud_probability", lambda told: told.update(shape=[3, 10**9, 10**9])),
    ("spatial_ref", lambda told: told.update(shape=[10**9])),
]


@pytest.mark.parametrize(("name", "lie", "of_the_group"), [(*each, n % 2 > 0) for n, each in enumerate(LYING)])
def test_an_array_that_tells_of_more_than_it_holds_is_refused_at_once(
    out: Out, capfd: Capfd, name: str, lie: Callable[[dict], object], of_the_group: bool
):
    """Some bytes of metadata: no list of millions of pieces is made for them, and no terabyte allocated."""
    path = Path(out.address, GROUP, "zarr.json" if of_the_group else f"{name}/zarr.json")
    document = json.loads(path.read_text())
    lie(document["consolidated_metadata"]["metadata"][name] if of_the_group else document)
    path.write_text(json.dumps(document))
    begun = time.process_time()
    found = call(capfd, "check", out)
    assert found.code == 1
    assert f"{GROUP}/" in found.stdout
    call(capfd, "status", out)
    assert call(capfd, "check", out, "--repair").code == 0
    output.run(out, SCENES, contract=CONTRACT)
    assert call(capfd, "check", out).code == 0
    assert time.process_time() - begun < 15


def test_what_is_not_ours_is_named_and_left_alone(out: Out, tmp_path: Path, capfd: Capfd):
    (tmp_path / "mine").mkdir()
    Path(out.address, "items/32TQM/link.json").symlink_to(tmp_path / "mine")
    Path(out.address, "items/32TQM/mine.json").write_text("{}")
    for _ in range(2):
        result = call(capfd, "check", out, "--repair")
        assert result.code == 1
        assert "items/32TQM/link.json: a link" in result.stdout
        assert "items/32TQM/mine.json" in result.stdout


def test_an_out_that_is_none(tmp_path: Path, capfd: Capfd):
    assert call(capfd, "check", tmp_path / "nowhere").code == 2
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    assert call(capfd, "check", tmp_path / "photos", "--repair").code == 3
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_repair_that_lost_the_lock_takes_back_no_more(out: Out, monkeypatch: pytest.MonkeyPatch):
    """Its machine was asleep, and a run has masked the other scenes again."""
    faults = [check.Fault(f"{GROUP}/cloud/c/{slot}", "damaged", "again", scene.id) for slot, scene in enumerate(SCENES)]
    with Lock(out) as lock:
        taken = out.get(lock.token.path) or b""
        monkeypatch.setattr(repair, "_status", lambda *_: out.put("lock/00000099.json", taken))
        with pytest.raises(LockLostError):
            list(repair.repair(lock, faults))
    assert set(ledger.read(out).done) == {scene.id for scene in SCENES[1:]}


def test_a_repair_that_lost_the_lock_deletes_no_more(out: Out):
    left = ["items/32TQM/a.json", "items/32TQM/b.json"]
    for path in left:
        out.put(path, b"")
    with Lock(out) as lock:
        told = repair.repair(lock, [check.Fault(path, "it no longer counts", "delete") for path in left])
        assert next(told)[1] == "deleted"
        out.put("lock/00000099.json", out.get(lock.token.path) or b"")
        with pytest.raises(LockLostError):
            list(told)
    assert [out.get(path) for path in left] == [None, b""]


def test_what_a_run_mended_meanwhile_is_left_alone(out: Out, capfd: Capfd, monkeypatch: pytest.MonkeyPatch):
    """A check that began before a run ended took back the good masks that it had made."""
    shard = Path(out.address, SHARD)
    whole = shard.read_bytes()
    shard.unlink()
    enter = Lock.__enter__

    def later(lock: Lock) -> Lock:
        shard.write_bytes(whole)  # Whoever held the lock has done its work
        return enter(lock)

    monkeypatch.setattr(Lock, "__enter__", later)
    result = call(capfd, "check", out, "--repair")
    assert (result.code, result.stdout) == (0, ""), result.stdout
    assert shard.read_bytes() == whole
    assert len(ledger.read(out).done) == len(SCENES)
