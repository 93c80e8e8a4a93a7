"""What many scenes cost the client and the scheduler: `python tests/benchmarks/scheduling.py [SCENES_PER_GROUP]`.

20 groups of 500 scenes of 64 × 64 pixels, through the whole job: search, plan, slots, tasks, items, ledger; then the
same command again, which has nothing to do. The scenes of a group share their files, so that there are 100 of them and
not 50,000; their items differ. The network is tiny. Client and scheduler are one process here.
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bench
import numpy as np
from distributed import Client

from cloudjob.cluster import scheduler
from cloudjob.grid import Grid
from cloudjob.model import checkpoint
from cloudjob.model.checkpoint import untrained
from cloudjob.model.contract import Contract

GROUPS = 20
SCENES = 500
SIDE = 64


def main() -> None:
    """Run, run again, and report."""
    scenes = int(sys.argv[1]) if len(sys.argv) > 1 else SCENES
    folder = bench.SCRATCH / "small"
    items, tiny = catalog(folder, scenes), network(folder / "tiny.safetensors")
    count = GROUPS * scenes
    figures: dict[str, Any] = {"scenes": count, "items in the file, MiB": items.stat().st_size / 2**20}
    with bench.fresh("scheduling") as out, scheduler.connect() as client:
        # One scene first: what is loaded once is no growth.
        bench.run(client, catalog(folder / "one", 1, groups=1), out.with_name("one"), checkpoint=tiny)
        first = spent(lambda: done(client, items, out, tiny, count))
        second = spent(lambda: done(client, items, out, tiny, 0))
    figures["client and scheduler, CPU ms per scene (at most 15)"] = 1000 * first["cpu"] / count
    figures["client and scheduler, growth at the peak, MiB (at most 150)"] = first["peak"]
    figures["client and scheduler, growth at the end, MiB"] = first["end"]
    figures["seconds by the wall"] = first["wall"]
    figures["again, nothing to do: CPU ms per scene"] = 1000 * second["cpu"] / count
    figures["again, nothing to do: seconds by the wall"] = second["wall"]
    bench.report("scheduling", figures)


def done(client: Client, items: Path, out: Path, tiny: Path, expected: int) -> None:
    """Do the job, and make sure that it was done."""
    results = bench.run(client, items, out, checkpoint=tiny)
    if len(results) != expected:
        raise SystemExit(f"{len(results)} scenes done instead of {expected}")


def spent(work: Callable[[], None]) -> dict[str, float]:
    """CPU seconds, wall seconds and growth in MiB (at the peak, at the end) of this process."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far: proc(5)
    before = memory("VmRSS"), time.process_time(), time.perf_counter()
    work()
    return {
        "cpu": time.process_time() - before[1],
        "wall": time.perf_counter() - before[2],
        "peak": memory("VmHWM") - before[0],
        "end": memory("VmRSS") - before[0],
    }


def memory(what: str) -> float:
    """A line of /proc/self/status, MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def catalog(folder: Path, scenes: int, groups: int = GROUPS) -> Path:
    """An item collection of groups × scenes, five days apart within a group."""
    rng = np.random.default_rng(0)
    items = []
    for number in range(groups):
        grid = Grid(32633, 300_000 + 1000 * number, 5_300_040, 10, 10, SIDE, SIDE)
        files = folder / f"{number}"
        for band in bench.BANDS:
            if not (files / f"{band}.tif").exists():
                bench.write_cog(files / f"{band}.tif", rng.integers(1000, 9000, grid.shape, np.uint16), grid)
        bench.write_cog(files / "scl.tif", np.full((SIDE // 2,) * 2, 4, np.uint8), grid.coarsen(2))
        for index in range(scenes):
            moment = datetime(2018, 1, 1, tzinfo=UTC) + timedelta(days=5 * index, seconds=number)
            items.append(bench.item(f"S2A_{number:02}_{index:03}", grid, files, moment.isoformat()))
    path = folder / f"items-{scenes}.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}), encoding="utf-8")
    return path


def network(path: Path) -> Path:
    """A checkpoint whose tiles are as small as the scenes."""
    contract = Contract(
        "tiny", "1", bench.BANDS, (0.3,) * 4, (0.2,) * 4, tile=SIDE, halo=8, widths=(2, 2), training_data=("none",)
    )
    checkpoint.save(untrained(contract), contract, path)
    return path


if __name__ == "__main__":
    main()
