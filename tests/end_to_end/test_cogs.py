"""`run --cog`: every finished mask has its COG, also after a scene was made anew and a run was killed."""

import signal
from pathlib import Path

import jobs
import numpy as np
import rasterio

from cloudjob.shown import attach
from cloudjob.store.out import Out

OLD, NEW, OTHER = "S2A_33UUP_20240601_0_L2A", "S2A_33UUP_20240601_1_L2A", "S2A_33UUP_20240604_0_L2A"


def test_cogs_follow_the_masks(tmp_path: Path) -> None:
    """A reprocessed scene takes over; the run is killed between its COG and its item, and called again."""
    out = tmp_path / "out"
    checkpoint = jobs.random_checkpoint(tmp_path / "net.safetensors")
    other = jobs.make_scene(tmp_path, OTHER, "2024-06-04T10:15:59Z", seed=2)
    before = [jobs.make_scene(tmp_path, OLD, seed=1), other]
    jobs.run_here(jobs.write_catalog(tmp_path / "before.json", before), checkpoint, out)
    attach(Out.at(out), quiet=True)
    (group,) = (out / "cogs").iterdir()
    kept = jobs.tree(out / "cogs")
    assert {path.name for path in group.iterdir()} == {f"{OLD}.tif", f"{OTHER}.tif"}

    newer = {"baseline": "05.10", "generated": "2024-08-01T00:00:00Z"}
    after = [jobs.make_scene(tmp_path, NEW, seed=3, **newer), other]
    catalog = jobs.write_catalog(tmp_path / "after.json", after)
    how = {"command": jobs.SABOTAGED, "CLOUDJOB_TEST_SABOTAGE": jobs.sabotage(tmp_path / "struck", "before item", 2)}
    killed = jobs.run_job(catalog, checkpoint, out, "--cog", **how)
    assert killed.code == -signal.SIGKILL, killed.stderr
    assert "mask" not in jobs.item_of(out, NEW)["assets"], "its mask is done, its COG not yet named"
    done = jobs.run_job(catalog, checkpoint, out, "--cog")
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines() == [f"{out}/cogs/{group.name}/{NEW}.tif"]
    assert {path.name for path in group.iterdir()} == {f"{NEW}.tif", f"{OTHER}.tif"}
    assert jobs.tree(out / "cogs")[f"{group.name}/{OTHER}.tif"] == kept[f"{group.name}/{OTHER}.tif"], "left alone"
    for scene in (NEW, OTHER):
        asset = jobs.item_of(out, scene)["assets"]["mask"]
        with rasterio.open(out / asset["href"].removeprefix("../../")) as file:
            np.testing.assert_array_equal(file.read(1), jobs.mask_of(out, scene))
