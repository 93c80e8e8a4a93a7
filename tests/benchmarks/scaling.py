"""Two workers over one, by the wall clock: `python tests/benchmarks/scaling.py [REPEATS]`; on a quiet machine only.

One scene of 10980 × 10980 pixels and the shipped network; each worker is pinned to a core of its own, client and
scheduler go where they like. One and two workers take turns. Start-up and a first run on a corner are not counted.
"""

import os
import statistics
import sys
import time
from pathlib import Path

import bench
from distributed import Client

from cloudjob.cluster import network, scheduler
from cloudjob.model import checkpoint, mlm

REPEATS = 5
CORNER = (12.40, 47.72, 12.45, 47.84)
"""Two tiles of the scene, one above the other: one for each worker."""


def main() -> None:
    """Time one worker and two in turns, and report."""
    load = os.getloadavg()[0]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    shipped = checkpoint.load()
    items = bench.full_scene()
    with scheduler.connect(workers=1) as one, scheduler.connect(workers=2) as two:
        for client in (one, two):
            pin(client)
            network.load(client, "shipped", mlm.shipped().read_bytes(), shipped.sha256)
            timed(client, items, CORNER)
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS):
            for client, times in zip((one, two), seconds.values(), strict=True):
                times.append(timed(client, items))
                print(f"{len(seconds[1])}: {times[-1]:.1f} s", file=sys.stderr)
    bench.report(
        "scaling",
        {
            "load of the machine before (a quiet one: below 0.3)": load,
            "one worker, s by the wall": [round(value, 1) for value in seconds[1]],
            "two workers, s by the wall": [round(value, 1) for value in seconds[2]],
            "two over one, median of the turns (at least 1.6)": statistics.median(
                a / b for a, b in zip(seconds[1], seconds[2], strict=True)
            ),
        },
    )


def pin(client: Client) -> None:
    """Each worker to a core of its own."""
    for core, address in enumerate(client.scheduler_info(n_workers=-1)["workers"]):
        client.run(pin_threads, core, workers=[address])


def pin_threads(core: int) -> None:
    """All threads of this process, and those that they will start."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def timed(client: Client, items: Path, bbox: tuple[float, float, float, float] = bench.WORLD) -> float:
    """Seconds of a whole job, from search to ledger."""
    with bench.fresh("scaling") as out:
        begin = time.perf_counter()
        bench.run(client, items, out, bbox=bbox)
        return time.perf_counter() - begin


if __name__ == "__main__":
    main()
