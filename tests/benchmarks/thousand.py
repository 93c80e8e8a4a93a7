"""What looking at 1,000 scenes costs: `python tests/benchmarks/thousand.py [CLOUDJOB]`, with an older one beside it.

CLOUDJOB is the path of that one's command.

Scenes of 64 × 64 pixels in 20 groups; their masks were written by the store's own functions, their files are nowhere.
`plan` asks for all of them in an empty OUT, `status` and `report` look at one that holds them.
"""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bench
import numpy as np
import report

from cloudjob.grid import Grid
from cloudjob.scene.describe import describe
from cloudjob.store.out import Out

SCENES, GROUPS, SIDE = 1000, 20, 64


def main() -> None:
    """Make the OUT, then look at it with this cloudjob, and with an older one."""
    report.SIDE = SIDE
    own = Path(sys.executable).with_name("cloudjob")
    figures: dict[str, Any] = {"scenes": SCENES}
    with bench.fresh("thousand") as folder:
        items = [item(number) for number in range(SCENES)]
        made = [describe(each, report.KEYS, bench.BANDS, 10) for each in items]
        rng = np.random.default_rng(0)
        masks = {scene.id: (rng.random((SIDE, SIDE)) < 0.3).astype(np.uint8) for scene in made}
        report.fill(Out.at(folder / "out"), made, masks)
        catalog = folder / "items.json"
        catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        for when, command in (("now", own), *(("before", Path(told)) for told in sys.argv[1:])):
            out = shutil.copytree(folder / "out", folder / when)
            where = ("--bbox", "-180", "-85", "180", "85", "--dates", "2000/..", "--out", str(folder / "none"))
            for name, arguments in (
                ("plan", ("plan", "--catalog", str(catalog), *where)),
                ("status", ("status", str(out))),
                ("report", ("report", str(out))),
            ):
                figures[f"{name}, {when}: CPU seconds"] = spent(str(command), *arguments)
    bench.report("thousand", figures)


def item(number: int) -> dict[str, Any]:
    """The item of a scene, five days after the one before in its group."""
    group, index = number % GROUPS, number // GROUPS
    grid = Grid(32633, 300_000 + 10_000 * group, 5_300_040, 10, 10, SIDE, SIDE)
    moment = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=5 * index, seconds=group)
    letter = "CDEFGHJKLMNPQRSTUVWX"[group]
    told = bench.item(f"S2A_33U{letter}P_{moment:%Y%m%d}_{group}_L2A", grid, Path("/nowhere"), moment.isoformat())
    told["properties"] |= {"eo:cloud_cover": 30.0, "grid:code": f"MGRS-33U{letter}P"}
    return told


def spent(*command: str) -> float:
    """CPU seconds of a command; the middle of three."""
    runs = []
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}")
        runs.append(used.ru_utime + used.ru_stime)
    return round(sorted(runs)[1], 2)


if __name__ == "__main__":
    main()
