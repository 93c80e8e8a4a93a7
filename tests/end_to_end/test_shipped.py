"""What the checkpoint in the package finds of the demo's clouds, by the command line; of real ones: test_end_to_end.

Bounds are loose: they tell a network that works from one that does not. How good it is stands in
training/MODEL_CARD.md.
"""

import re
from pathlib import Path

from jobs import cloudjob

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
