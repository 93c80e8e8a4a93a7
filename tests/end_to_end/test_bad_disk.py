"""A disk that fails while scenes are read: no night of it counts against a scene, and what is mended is masked."""

import contextlib
import json
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
