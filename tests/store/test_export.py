import errno
import itertools
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from faulty import call
from output import ALL, GRID, expected, make_scene, run
from shapely.geometry import box

from cloudjob.errors import UnreachableError, UsageError
from cloudjob.store import export as exports
from cloudjob.store.out import Out


def export(out: Out, what: str | None, path: Path, **options: object) -> list[str]:
    """Scenes in the one file that is written."""
    (one,) = exports.export(out, what, path, **options)
    assert one.path == path
    return list(one.scenes)


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out.at(tmp_path / "out")


def test_one_scene_as_a_cog(out: Out, tmp_path: Path):
    run(out, [make_scene(0), make_scene(1)])
    path = tmp_path / "mask.tif"
    path.write_text("an older one")
    assert export(out, make_scene(1).id, path) == [make_scene(1).id]
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), expected(make_scene(1)))
        assert file.crs == "EPSG:32632"
        assert file.transform[:6] == GRID.transform
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.nodata == 255
        colours = file.colormap(1)
    assert len({colours[value] for value in (0, 1, 254, 255)}) == 4
    names = [category.text for category in ET.parse(f"{path}.aux.xml").iter("Category")]
    assert (names[0], names[1], names[254], names[255]) == ("clear", "cloud", "no_data", "not_computed")
    assert {each.name for each in tmp_path.iterdir()} == {"out", "mask.tif", "mask.tif.aux.xml"}


@pytest.mark.parametrize("nth", [1, 2])
def test_a_full_disk_is_told_and_what_was_there_stays(
    nth: int, out: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was wrong usage, which nobody tries again, and left half of the side file."""
    run(out, [make_scene(0), make_scene(1)])
    path, calls = tmp_path / "mask.tif", itertools.count(1)
    export(out, make_scene(0).id, path)
    before = {each: each.read_bytes() for each in tmp_path.glob("mask*")}
    whole = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if next(calls) != nth:
            return whole(self, data)
        whole(self, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UnreachableError, match=r"cannot be written: .*No space left") as caught:
        export(out, make_scene(1).id, path)
    assert "free some space" in str(caught.value.hint)
    assert {each: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()} == before


def test_a_day_is_what_its_scenes_tell_together(out: Out, tmp_path: Path):
    west = make_scene(0, footprint=box(10, 46, 10.6, 47))
    east = make_scene(0, id="east", footprint=box(10.4, 46, 11, 47))
    run(out, [west], ALL[:4])
    run(out, [east, make_scene(1)], ALL[2:])
    assert export(out, "2024-06-01", tmp_path / "day.tif") == [west.id, "east"]
    a, b = expected(west, ALL[:4]), expected(east, ALL[2:])
    either = lambda value: (a == value) | (b == value)  # noqa: E731
    wanted = np.select([either(1), either(0), either(254)], [1, 0, 254], 255)
    with rasterio.open(tmp_path / "day.tif") as file:
        assert np.array_equal(file.read(1), wanted)


def test_a_day_in_two_groups_asks_which(out: Out, tmp_path: Path):
    run(out, [make_scene(0), make_scene(0, id="beside", group="32TPM")])
    with pytest.raises(UsageError, match=r"makes 2 files \(2024-06-01_32TPM, 2024-06-01_32TQM\)") as caught:
        export(out, "2024-06-01", tmp_path / "day.tif")
    assert "--group" in (caught.value.hint or "")
    assert export(out, "2024-06-01", tmp_path / "day.tif", group=["32TPM"]) == ["beside"]


def test_a_month_is_a_folder_of_days(out: Out, tmp_path: Path):
    run(out, [make_scene(0), make_scene(1), make_scene(0, id="beside", group="32TPM"), make_scene(30)])
    found = list(exports.export(out, "2024-06", tmp_path / "month"))
    names = sorted(one.path.name for one in found)
    assert names == ["2024-06-01_32TPM.tif", "2024-06-01_32TQM.tif", "2024-06-02_32TQM.tif"]
    assert sorted(path.name for path in (tmp_path / "month").glob("*.tif")) == names
    every = list(exports.export(out, None, tmp_path / "month", group=["32TQM"]))
    assert [one.scenes for one in every] == [(make_scene(day).id,) for day in (0, 1, 30)]
    assert not [path for path in (tmp_path / "month").iterdir() if path.name.startswith(".")]


def test_where_the_names_of_classes_are_is_told_once(out: Out, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    run(out, [make_scene(0), make_scene(1), make_scene(2)])
    told = call(capfd, "export", out, "2024-06", tmp_path / "month").stderr
    assert [told.count(make_scene(day).id) for day in (0, 1, 2)] == [1, 1, 1]
    assert told.count("aux.xml") == 1


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("2024-06-09", "no mask of 2024-06-09"),
        ("2024-02-31", "in no calendar"),
        ("S2A_none", "no mask of a scene S2A_none"),
        ("S2A_32TQM_20240601_0_L2", "no mask of a scene"),
        (make_scene(1).id, "it failed: no"),
    ],
)
def test_what_is_not_there_is_said(out: Out, tmp_path: Path, what: str, says: str):
    run(out, [make_scene(0), make_scene(1)], failing={make_scene(1).id: "no"})
    with pytest.raises(UsageError, match=says):
        export(out, what, tmp_path / "mask.tif")
    assert not (tmp_path / "mask.tif").exists()


def test_a_folder_that_is_not_there(out: Out, tmp_path: Path):
    run(out, [make_scene(0)])
    with pytest.raises(UsageError, match="no folder"):
        export(out, make_scene(0).id, tmp_path / "nowhere" / "mask.tif")


def test_a_geographic_grid(out: Out, tmp_path: Path):
    grid = replace(GRID, epsg=4326, x0=-113.5, y0=53.5, dx=0.0007, dy=0.0004)
    run(out, [make_scene(0, group="4326_alberta", grid=grid)])
    export(out, make_scene(0).id, tmp_path / "mask.tif")
    with rasterio.open(tmp_path / "mask.tif") as file:
        assert file.crs == "EPSG:4326"
        assert file.transform[:6] == pytest.approx(grid.transform, rel=1e-15)


@pytest.mark.parametrize("scenes", [1, 2])
def test_a_folder_is_made_for_however_many(scenes: int, out: Out, tmp_path: Path):
    run(out, [make_scene(number) for number in range(scenes)])
    written = list(exports.export(out, None, tmp_path / "new"))
    assert [one.path for one in written] == [tmp_path / "new" / f"{make_scene(n).id}.tif" for n in range(scenes)]


def test_a_folder_that_cannot_be_made(out: Out):
    run(out, [make_scene(0), make_scene(1)])
    with pytest.raises(UsageError, match="/proc/new cannot be made"):
        list(exports.export(out, None, "/proc/new"))


def test_all_of_a_group_does_not_go_into_out_itself(out: Out, capfd: pytest.CaptureFixture[str]):
    """The group was not looked at: every scene got its COG."""
    run(out, [make_scene(0)])
    result = call(capfd, "export", out, "--all", "--group", "32TQM")
    assert (result.code, result.stdout) == (2, "")
    assert "--group with --all needs a folder PATH" in result.stderr
    assert not Path(out.address, "cogs").exists()


def test_a_damaged_mask_costs_no_other_file(out: Out, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """What its codec said ended the command as a bug of cloudjob."""
    bad, good = make_scene(0), make_scene(1)
    run(out, [bad, good])
    Path(out.address, "masks.zarr/32TQM/cloud/c/0/0/0").write_bytes(b"damaged")
    for what in ("--all", "2024-06"):
        result = call(capfd, "export", out, what, tmp_path / what)
        assert result.code == 1
        assert f"scene {bad.id}: its mask cannot be read" in result.stderr
        assert "check OUT --repair" in result.stderr
        assert len(list((tmp_path / what).glob("*.tif"))) == len(result.stdout.splitlines()) == 1
    assert call(capfd, "export", out, bad.id, tmp_path / "one.tif").code == 1
    assert not (tmp_path / "one.tif").exists()


def test_a_file_that_can_be_neither_made_nor_deleted(out: Out, tmp_path: Path):
    """As on a read-only file system: no name can be as long as this one."""
    run(out, [make_scene(0)])
    with pytest.raises(UsageError, match="cannot be written"):
        list(exports.export(out, make_scene(0).id, tmp_path / ("x" * 250 + ".tif")))
