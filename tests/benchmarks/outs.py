"""What an OUT weighs, and a new threshold: `python tests/benchmarks/outs.py [--side 1024] [--scenes 100]`.

A job that keeps probabilities; the same masks with another threshold by `rethreshold`; COGs of all. Scenes share their
simulated files, so what they weigh is that of simulated clouds.
"""

import argparse
import time
from pathlib import Path

import bench

from cloudjob.cluster import scheduler
from cloudjob.rethreshold import rethreshold
from cloudjob.store import cog, ledger
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.receipt import SceneResult


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="of a scene in pixels")
    parser.add_argument("--scenes", type=int, default=100)
    asked = parser.parse_args()
    items = bench.scenes(asked.side, asked.scenes)
    with bench.fresh("outs") as old:
        with scheduler.connect() as client:
            begin = time.perf_counter()
            bench.run(client, items, old, probability=True)
            figures = {"a run, seconds": time.perf_counter() - begin}
        for name, how in (("threshold", {"threshold": 0.55}), ("buffer of 60 m", {"buffer": 60.0})):
            new = old.with_name(name.split()[0])
            begin, wall = time.process_time(), time.perf_counter()
            events = list(rethreshold(Out.at(old), Out.at(new), **how))
            done = [event.state for event in events if isinstance(event, SceneResult)]
            if done != ["done"] * asked.scenes:
                raise SystemExit(f"scenes failed: {done}")
            figures[f"a new {name}, seconds"] = time.perf_counter() - wall
            figures[f"a new {name}, CPU-seconds"] = time.process_time() - begin
        figures["pixels that a run with that buffer labels otherwise"] = differing(items, new)
        figures["masks and items, kB a scene"] = weight(old, without="cloud_probability") / asked.scenes
        figures["with probabilities"] = weight(old) / asked.scenes
        before, begin = weight(old), time.perf_counter()
        with Lock(Out.at(old)) as lock:
            list(cog.attach(lock))
        figures["COGs of all, seconds"] = time.perf_counter() - begin
        figures["COGs, kB a scene"] = (weight(old) - before) / asked.scenes
    bench.report("outs", {"scenes": asked.scenes, "side": asked.side, **figures})


def differing(items: Path, made: Path) -> float:
    """Share of the pixels of one scene whose label in `made` is not that of a run with its buffer."""
    with bench.fresh("outs") as fresh, scheduler.connect() as client:
        bench.run(client, items, fresh, probability=True, buffer=60.0, limit=1)
        (id_,) = [entry.id for entry in ledger.read(Out.at(fresh)).done.values()]
        one, other = (cog.read(out, ledger.read(out).done[id_]) for out in (Out.at(fresh), Out.at(made)))
        return float((one != other).mean())


def weight(out: Path, without: str = "-") -> float:
    """KB of all files."""
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and without not in path.parts) / 1000


if __name__ == "__main__":
    main()
