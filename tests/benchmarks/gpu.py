"""Lanes that share a GPU: `python tests/benchmarks/gpu.py [--lanes 1,2,4] [--side 10980] [--scenes 2] [--budget 150]`.

First the network alone, on tiles of a simulated scene: its speed and memory, as it runs, with what a GPU may round by
default (TF32), and in float16; and how far each agrees with the CPU. Then for each number of lanes a whole job, from
search to ledger: its speed, how busy the GPU was, its memory and that of the largest lane; beside them the same lanes'
speed if all probabilities were there already. And how far the masks of a job on the GPU agree with those of CPUs.

Without a GPU it says so and simulates one: a network call that holds a lock which all lanes share, and sleeps for as
long as a GPU of `--rate` million pixels a second would work. Reading and writing are real then, too.

The machine needs no network: `wheels.py` makes a folder of what it lacks. Figures are kept as they are found.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import functools
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench
import network_alone
import numpy as np
import torch
import zarr
from distributed import Client

from cloudjob.cluster import lanes, network, scheduler, task
from cloudjob.model import checkpoint, mlm, predict

BEGAN = time.monotonic()
FULL = bench.FULL.height * bench.FULL.width
MILLION = bench.MILLION
WARM = 1024
"""Side in pixels of the scenes that lanes get used to."""


class Simulated(torch.nn.Module):
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


@dataclasses.dataclass
class Figures:
    """What was found, kept on disk after every part; a part that fails costs no other."""

    name: str
    budget: float
    found: dict[str, Any] = dataclasses.field(default_factory=dict)

    def take(self, part: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure a part, unless there is no time left."""
        if (passed := time.monotonic() - BEGAN) > self.budget:
            more = {f"{part}: left out": f"after {passed:.0f} s"}
        else:
            try:
                more = {f"{part}: {key}": value for key, value in measure().items()}
            except (Exception, SystemExit) as error:  # noqa: BLE001  # Whatever it is, it is told
                traceback.print_exc()
                more = {f"{part}: failed": repr(error)[:300]}
        self.found |= more
        bench.tell(more)
        bench.keep(self.name, {**self.found, "seconds in all": time.monotonic() - BEGAN})


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", default="", help="such as 1,2,4 [default: what a run takes, halved down to 1]")
    parser.add_argument("--side", type=int, default=10980, help="of a scene in pixels")
    parser.add_argument("--scenes", type=int, default=2, help="for each lane")
    parser.add_argument("--rate", type=float, default=200.0, help="of the simulated device, million pixels a second")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no part is begun")
    asked = parser.parse_args()
    real = bool(lanes.gpus())
    most = len(lanes.lanes())
    counts = sorted({int(one) for one in asked.lanes.split(",") if one} or {-(-most // 2**n) for n in range(9)})
    device = torch.cuda.get_device_name() if real else f"none: simulated, {asked.rate:g} million pixels a second"
    figures = Figures("gpu" if real else "gpu-simulated", asked.budget)
    figures.take("machine", lambda: {"GPU": device, "cores": lanes.cores(), "lanes of a run": most, **memory(real)})
    figures.take("scene", lambda: made(asked.side))
    rate = asked.rate * MILLION if not real else float("nan")
    figures.take("network alone", lambda: network_alone.measured(asked.side, "cuda" if real else "cpu"))
    if real:  # By which share of the time the GPU would have to work, if nobody waited for it
        rate = figures.found.get(f"network alone: {network_alone.OWN}: {network_alone.DEVICE}", rate) * MILLION
    while counts:
        # All numbers of lanes on one cluster, from which lanes are taken away: starting them takes longest
        part = f"cluster of {counts[-1]} lanes"
        figures.take(part, functools.partial(on_cluster, figures, counts, asked, rate, real=real))
        counts = counts[:-1] if f"{part}: failed" in figures.found else []
    figures.take("end", dict)


def memory(real: bool) -> dict[str, float]:
    """MiB of the GPU."""
    return {"GPU memory, MiB": lanes.gpus()[0] / 2**20} if real else {}


def made(side: int) -> dict[str, float]:
    """Seconds in which the scene was simulated, or found."""
    begin = time.perf_counter()
    bench.scenes(side, 1)
    return {"pixels a side": side, "seconds to make it": time.perf_counter() - begin}


def on_cluster(figures: Figures, counts: list[int], asked: Any, rate: float, *, real: bool) -> dict[str, float]:
    """All that needs lanes."""
    begin = time.perf_counter()
    with scheduler.connect(workers=counts[-1]) as client, tempfile.NamedTemporaryFile(prefix="cloudjob-gpu") as lock:
        network.load(client, "shipped", mlm.shipped().read_bytes(), checkpoint.load().sha256)
        started = {"seconds to start it": time.perf_counter() - begin}
        job(client, bench.scenes(WARM, counts[-1]))  # Each process's first task loads what it needs
        started["seconds to start it and get used to work"] = time.perf_counter() - begin
        device = functools.partial(client.run, use, "own" if real else "simulated", lock.name, rate)
        nothing = functools.partial(client.run, use, "ready", lock.name, rate)
        for count in reversed(counts):
            retire(client, count)
            items = bench.scenes(asked.side, asked.scenes * count)
            figures.take(f"{count} lanes", functools.partial(measured, client, items, device, nothing, rate, real=real))
            if real and count == counts[-1]:
                figures.take("GPU and CPU", functools.partial(agreement, client, bench.scenes(asked.side, 1)))
    return started


def retire(client: Client, count: int) -> None:
    """Take lanes away until there are so many, and wait until their processes have given back the GPU's memory."""
    there = client.run(os.getpid)
    client.cluster.scale(count)
    while len(left := client.scheduler_info(n_workers=-1)["workers"]) > count:
        time.sleep(0.05)
    while any(Path(f"/proc/{process}").exists() for name, process in there.items() if name not in left):
        time.sleep(0.05)


def ready(model: predict.Model, window: predict.Reflectance) -> tuple[np.ndarray, np.ndarray]:
    """In place of `predict.probability`: what was there before, whatever the window."""
    return clouds(window.shape[1:]), predict.valid(model.contract, window)


@functools.cache
def clouds(shape: tuple[int, int]) -> np.ndarray:
    """Probabilities (y, x): blocks of 32 pixels, half of them cloud."""
    rows, columns = (-(-length // 32) for length in shape)
    blocks = np.random.default_rng(0).random((rows, columns), np.float32)
    return blocks.repeat(32, 0).repeat(32, 1)[: shape[0], : shape[1]]


def use(kind: str, lock: str, rate: float, dask_worker: Any) -> None:
    """On a worker: what its tasks take for the network, whatever a job loads: own, one on the CPU, simulated, none."""
    task.predict = types.SimpleNamespace(**{**vars(predict), "probability": ready}) if kind == "ready" else predict
    if kind in {"own", "ready"}:
        task.worker_model = network.worker_model
        return
    (plugin,) = (one for one in dask_worker.plugins.values() if isinstance(one, network.ModelPlugin))
    model = predict.prepare(checkpoint.parse(plugin.data, plugin.path), "cpu")
    if kind == "simulated":
        model = dataclasses.replace(model, network=Simulated(lock, rate))
    task.worker_model = lambda _sha256: model


def measured(
    client: Client, items: Path, device: Callable[[], Any], nothing: Callable[[], Any], rate: float, *, real: bool
) -> dict[str, Any]:
    """A job of these lanes, and one whose probabilities are there already."""
    device()
    with watched(real) as seen:
        seconds, receipts, _ = job(client, items)
    written = sum(one.valid + one.no_data for one in receipts)
    figures: dict[str, Any] = {
        "million pixels a second": written / MILLION / seconds,
        "full scenes a minute": 60 * written / FULL / seconds,
        "seconds": seconds,
        "GPU needed, share": sum(one.seen for one in receipts) / rate / seconds,
    }
    if real:
        figures["GPU busy by its driver, share"] = float(np.mean([busy for busy, _ in seen]) / 100) if seen else None
        figures["GPU memory, MiB"] = max((memory for _, memory in seen), default=None)
        figures["device"] = ", ".join(sorted({one.device for one in receipts}))
        figures["largest lane's tensors, MiB"] = max(client.run(reserved).values())
    figures["largest lane, MiB"] = max(client.run(peak).values())
    figures |= stages(receipts, "lane seconds for a million pixels")
    nothing()
    free, receipts, _ = job(client, items)
    figures |= stages(receipts, "and with probabilities that are there")
    figures["with probabilities that are there, million pixels a second"] = written / MILLION / free
    figures["of that with probabilities that are there"] = free / seconds
    return figures


def stages(receipts: list[Any], name: str) -> dict[str, float]:
    """Where the lanes' time went: "network" is all between reading and writing."""
    written = sum(one.valid + one.no_data for one in receipts) / MILLION
    spent = {stage: sum(getattr(one, f"{stage}_seconds") for one in receipts) for stage in ("read", "network", "write")}
    return {f"{name}: {stage}": seconds / written for stage, seconds in spent.items()}


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reserved() -> float:
    """MiB of the GPU that this process's tensors have held at most."""
    return torch.cuda.max_memory_reserved() / 2**20


def job(client: Client, items: Path) -> tuple[float, list[Any], Any]:
    """Seconds of a whole job, its receipts, and the mask (y, x) of its first scene."""
    with bench.fresh("gpu") as out:
        begin = time.perf_counter()
        receipts = bench.run(client, items, out)
        seconds = time.perf_counter() - begin
        path = min((out / "masks.zarr").glob("*/cloud"))
        return seconds, receipts, zarr.open_array(path, mode="r")[0]


def agreement(client: Client, items: Path) -> dict[str, Any]:
    """The masks of a whole job on the GPU against those of the same job on CPUs."""
    found: dict[str, Any] = {}
    masks = []
    for kind in ("own", "cpu"):
        client.run(use, kind, "", 0.0)
        seconds, receipts, mask = job(client, items)
        masks.append(mask)
        found[f"seconds on {', '.join(sorted({one.device for one in receipts}))}"] = seconds
    gpu, cpu = masks
    return found | {
        "pixels that agree (at least 0.9999)": float((gpu == cpu).mean()),
        "pixels that differ": int((gpu != cpu).sum()),
        "share of cloud": float((cpu == 1).mean()),
    }


@contextlib.contextmanager
def watched(real: bool) -> Iterator[list[tuple[float, float]]]:
    """While in the block: (percent busy, MiB used) of the first GPU, five times a second, by the driver's own tool."""
    seen: list[tuple[float, float]] = []
    tool = shutil.which("nvidia-smi", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/nvidia/bin")
    if not (real and tool):
        yield seen
        return
    query = ["--id=0", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--loop-ms=200"]
    with subprocess.Popen([tool, *query], stdout=subprocess.PIPE, text=True) as process:

        def watch() -> None:
            assert process.stdout
            for line in process.stdout:
                with contextlib.suppress(ValueError):
                    busy, used = map(float, line.split(","))
                    seen.append((busy, used))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield seen
        finally:
            process.terminate()
            thread.join()


if __name__ == "__main__":
    main()
