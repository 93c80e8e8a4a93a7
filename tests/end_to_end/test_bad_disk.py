"""A disk that fails, or refuses: no night of it counts against a scene, and what is mended is masked."""

import contextlib
import json
import os
from pathlib import Path

import jobs
import pytest

from cloudjob.cluster import task
from cloudjob.errors import UnreachableError
from cloudjob.scene import opened


@pytest.mark.parametrize("needed", ["amid the run", "beforehand"])
def test_a_scene_on_a_disk_that_fails_is_never_given_up(
    needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its grid may stand in the file alone, which is opened when planning."""
    monkeypatch.setattr(task, "PAUSE", 0)
    monkeypatch.setattr(opened, "PATIENCE", 0)
    scenes = [jobs.make_scene(tmp_path, f"S{n}", f"2024-06-0{n}T10:15:59Z") for n in (1, 2)]
    if needed == "beforehand":
        for asset in scenes[0]["assets"].values():
            del asset["proj:shape"], asset["proj:transform"]
    red = Path(scenes[0]["assets"]["red"]["href"])
    whole = red.rename(tmp_path / "red.tif")
    red.symlink_to("/proc/self/mem")  # A regular file whose first bytes cannot be read: "Input/output error"
    catalog, out = jobs.write_catalog(tmp_path / "items.json", scenes), tmp_path / "out"
    net = jobs.random_checkpoint(tmp_path / "net.safetensors")
    for _ in range(4):
        with contextlib.suppress(UnreachableError):  # When it alone is left, the disk is out
            jobs.run_here(catalog, net, out)
        (record,) = [json.loads(path.read_text()) for path in (out / "failures").iterdir()]
        assert record["runs"] == 0, "a good scene was held to blame"
        assert "Input/output error" in record["reason"]
        jobs.a_day_passes(out)
    red.unlink()
    whole.rename(red)
    jobs.run_here(catalog, net, out)
    assert len(jobs.items(out)) == 2


AS_OTHERS = (
    "setpriv",
    *(
        f"--{kind}={','.join(f'-{each}' for each in ('dac_override', 'dac_read_search'))}"
        for kind in ("bounding-set", "inh-caps")
    ),
)
"""What makes of root one whom a folder's permissions concern."""


@pytest.mark.parametrize("where", ["masks.zarr", "items"])
def test_a_group_that_may_not_be_written_costs_its_own_scenes(where: str, tmp_path: Path) -> None:
    """As one that another user began, whose run was killed. The run ended with 4, and no scene was done."""
    tiles = {"33UUP": jobs.GRID, "33UUQ": (*jobs.GRID[:5], 5_300_040.0)}
    scenes = [
        jobs.make_scene(
            tmp_path,
            f"{tile}_{day}",
            f"2024-06-0{day}T10:15:59Z",
            transform=grid,
            properties={"grid:code": f"MGRS-{tile}"},
        )
        for tile, grid in tiles.items()
        for day in (1, 2)
    ]
    catalog, out = jobs.write_catalog(tmp_path / "items.json", scenes), tmp_path / "out"
    net = jobs.random_checkpoint(tmp_path / "net.safetensors")
    jobs.run_here(catalog, net, out, dates="2024-06-01")
    (group,) = (out / where).glob("33UUP*")
    (group / "half.json#1").touch()
    left = {"old"} if where == "items" else set()
    for id_ in left:
        item = json.loads((group / "33UUP_1.json").read_text())
        (group / f"{id_}.json").write_text(json.dumps(item | {"id": id_}))
    refused = [group, *(path for path in group.rglob("*") if path.is_dir())]
    for folder in refused:
        folder.chmod(0o555)
    command = (*(() if os.getuid() else AS_OTHERS), *jobs.CLOUDJOB)
    try:
        night = jobs.run_job(catalog, net, out, "--workers", "1", command=command)
    finally:
        for folder in refused:
            folder.chmod(0o755)
    assert night.code == 1, night.stderr
    assert "Permission denied (os error 13); check who owns the folder" in night.stderr
    assert {Path(path).stem for path in jobs.items(out)} == {"33UUP_1", "33UUQ_1", "33UUQ_2"} | left
    (record,) = [json.loads(path.read_text()) for path in (out / "failures").iterdir()]
    assert (record["id"], record["runs"]) == ("33UUP_2", 0)
    jobs.run_here(catalog, net, out)
    assert len(jobs.items(out)) == 4
