"""Lanes that share a GPU: `python tests/benchmarks/gpu.py [--lanes 1,2,4] [--side 10980] [--scenes 2]`.

For each number of lanes a whole job, from search to ledger: million pixels a second, how busy the GPU was, its memory
and that of the largest lane; beside them what the same lanes could read and decode if the network cost nothing. With a
GPU also how far its masks agree with the CPU's, and float16 with float32. Without one it says so and simulates a
device: a network call that holds a lock which all lanes share, and sleeps for as long as a GPU of `--rate` million
pixels a second would work. Reading and writing are real then, too.

The machine needs no network. `python -m pip download --dest wheels --no-deps …` on another one makes a folder of what
it lacks, of which `pip install --no-index --find-links wheels` installs.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench
import numpy as np
import torch
import zarr
from distributed import Client

from cloudjob.cluster import lanes, network, scheduler
from cloudjob.model import checkpoint, mlm, predict


class SimulatedDevice(torch.nn.Module):
    """A network on a GPU that lanes share: it takes its time, one call after the other, and leaves the core alone.

    Args:
        lock: a file, the same for all lanes.
        rate: pixels a second.
    """

    def __init__(self, lock: str, rate: float) -> None:
        super().__init__()
        self.lock, self.rate = lock, rate

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(tile, band, y, x) → (tile, 1, y, x): red above its mean is cloud."""
        with Path(self.lock).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(len(tiles) * tiles.shape[-1] * tiles.shape[-2] / self.rate)
        return tiles[:, :1]


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", default="", help="such as 1,2,4 [default: 1, then doubled up to what a run takes]")
    parser.add_argument("--side", type=int, default=10980, help="of a scene in pixels")
    parser.add_argument("--scenes", type=int, default=2, help="for each lane")
    parser.add_argument("--rate", type=float, default=200.0, help="of the simulated device, million pixels a second")
    asked = parser.parse_args()
    real = bool(lanes.gpus())
    most = len(lanes.lanes())
    doubled = {2**n for n in range(9) if 2**n < most} | {most}
    counts = [int(one) for one in asked.lanes.split(",") if one] or sorted(doubled)
    device = torch.cuda.get_device_name() if real else f"none: simulated, {asked.rate:g} million pixels a second"
    figures: dict[str, Any] = {"GPU": device, "cores": lanes.cores(), "lanes of a run": most}
    shipped = checkpoint.load()
    for count in counts:
        items = bench.scenes(asked.side, asked.scenes * count)
        with scheduler.connect(workers=count) as client:
            network.load(client, "shipped", mlm.shipped().read_bytes(), shipped.sha256)
            name = f"{count} lanes"
            figures |= {f"{name}: {key}": value for key, value in measured(client, items, real, asked.rate).items()}
    if real:
        figures |= agreement(bench.scenes(asked.side, 1), shipped)
    bench.report("gpu", figures)


def measured(client: Client, items: Path, real: bool, rate: float) -> dict[str, float]:
    """A job of these lanes, and one whose network costs nothing."""
    with tempfile.NamedTemporaryFile(prefix="cloudjob-gpu") as lock, watched(real) as seen:
        if not real:
            client.run(replace_network, lock.name, rate * 1e6)
        seconds, pixels, wanted = job(client, items)
    figures = {"million pixels a second": wanted / 1e6 / seconds}
    if real:
        figures["GPU busy, share"] = float(np.mean([busy for busy, _ in seen]) / 100) if seen else float("nan")
        figures["GPU memory, MiB"] = max((memory for _, memory in seen), default=float("nan"))
    else:
        figures["GPU busy, share"] = pixels / (rate * 1e6) / seconds
    figures["largest lane, MiB"] = max(client.run(peak).values())
    with tempfile.NamedTemporaryFile(prefix="cloudjob-gpu") as lock:
        client.run(replace_network, lock.name, float("inf"))
        seconds, _, wanted = job(client, items)
    figures["of that with a network that costs nothing"] = figures["million pixels a second"] / (wanted / 1e6 / seconds)
    return figures


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def job(client: Client, items: Path) -> tuple[float, int, int]:
    """Seconds of a whole job, the pixels that its network saw, and those that it wrote."""
    with bench.fresh("gpu") as out:
        begin = time.perf_counter()
        receipts = bench.run(client, items, out)
        seconds = time.perf_counter() - begin
    return seconds, sum(one.seen for one in receipts), sum(one.valid + one.no_data for one in receipts)


def replace_network(lock: str, rate: float, dask_worker: Any = None) -> None:
    """On a worker: put the simulated device in place of the shipped network."""
    for plugin in dask_worker.plugins.values():
        if isinstance(plugin, network.ModelPlugin):
            plugin.model = dataclasses.replace(plugin.model, network=SimulatedDevice(lock, rate))


@contextlib.contextmanager
def watched(real: bool) -> Iterator[list[tuple[float, float]]]:
    """While in the block: (percent busy, MiB used) of the first GPU, every half second, by the driver's own tool."""
    seen: list[tuple[float, float]] = []
    over = threading.Event()
    command = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]

    def watch() -> None:
        while not over.wait(0.5):
            told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            with contextlib.suppress(ValueError):
                busy, memory = map(float, told.split(","))
                seen.append((busy, memory))

    thread = threading.Thread(target=watch)
    if real and shutil.which(command[0]):
        thread.start()
    yield seen
    over.set()
    if thread.is_alive():
        thread.join()


def agreement(items: Path, shipped: checkpoint.Checkpoint) -> dict[str, float]:
    """The GPU's masks of one scene against the CPU's, by whole jobs; and float16 against float32 on one tile."""
    masks = {}
    for kind, visible in (("gpu", None), ("cpu", "")):
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible  # Of the processes that are started now
        drivers, lanes.DRIVERS = lanes.DRIVERS, lanes.DRIVERS if visible is None else ()
        try:
            with scheduler.connect() as client, bench.fresh("gpu") as out:
                bench.run(client, items, out)
                (path,) = (out / "masks.zarr").glob("*/cloud")
                masks[kind] = zarr.open_array(path, mode="r")[...]
        finally:
            lanes.DRIVERS = drivers
            if visible is not None:
                os.environ.pop("CUDA_VISIBLE_DEVICES")
                os.environ |= {"CUDA_VISIBLE_DEVICES": before} if before is not None else {}
    window = np.random.default_rng(0).random((len(shipped.contract.bands), 1024, 1024), np.float32)
    half = predict.prepare(shipped, "cuda")
    full = dataclasses.replace(half, network=half.network.float(), dtype=torch.float32)
    (exact,) = predict.probability(full, [window])
    (rough,) = predict.probability(predict.prepare(shipped, "cuda"), [window])
    limit = shipped.contract.threshold
    return {
        "pixels that agree with the CPU's (at least 0.9999)": float((masks["gpu"] == masks["cpu"]).mean()),
        "float16 and float32 agree, of noise": float(((exact >= limit) == (rough >= limit)).mean()),
    }


if __name__ == "__main__":
    main()
