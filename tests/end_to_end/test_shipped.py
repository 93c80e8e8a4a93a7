"""What the checkpoint in the package finds: the demo's clouds and those of real scenes, by the command line.

Bounds are loose: they tell a network that works from one that does not. How good it is stands in
training/MODEL_CARD.md.
"""

import json
import re
from pathlib import Path

import rasterio
from conftest import REAL, needs_real_scenes
from jobs import EVERYWHERE, cloudjob, mask_of

ROW = re.compile(r"^(S2\w+) +([\d.]+)% +([\d.]+)% +([\d.]+)% +([\d.]+|–)  (.+)$", re.MULTILINE)


def test_the_demos_clouds_are_found_and_its_snow_is_not_taken_for_one(tmp_path: Path) -> None:
    result = cloudjob("demo", "--out", tmp_path / "demo")
    assert result.code == 0, result.stderr
    rows = ROW.findall(result.stdout)
    assert len(rows) == 6, result.stdout
    clear = 0
    for scene, cloud, truth, agreement, iou, no_data in rows:
        assert no_data == "same", scene
        assert float(agreement) > 80, scene
        if iou == "–":
            assert float(truth) == 0
            assert float(cloud) < 5, scene
            clear += 1
        else:
            assert float(iou) > 0.6, scene
    assert clear == 1
    folder, masks = re.findall(r"^  (.*)cloudjob status (.+)$", result.stderr, re.MULTILINE)[0]
    status = cloudjob("status", masks, command=[f"{folder}cloudjob"])
    assert status.code == 0, "what it says to try next can be tried as it stands"
    assert "6 scenes done" in status.stdout


@needs_real_scenes
def test_real_clouds_are_found_and_clear_scenes_are_empty(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = cloudjob("run", "--catalog", REAL, "--out", out, *EVERYWHERE)
    assert result.code == 0, result.stderr
    listed = {item["id"]: item for item in json.loads(REAL.read_text())["features"]}
    for scene in ("bolzano", "coast-18N"):
        mask = mask_of(out, scene)
        assert (mask == 1).sum() < 0.005 * (mask <= 1).sum(), scene
    for scene in ("ocn-chip1", "ocn-chip2", "ocn-chip3"):
        with rasterio.open(REAL.parent / listed[scene]["assets"]["label"]["href"]) as file:
            label = file.read(1)
        mask = mask_of(out, scene)
        known = (label <= 1) & (mask <= 1)
        hit, any_ = ((mask == 1) & (label == 1) & known).sum(), (((mask == 1) | (label == 1)) & known).sum()
        assert hit / any_ > 0.65, scene
