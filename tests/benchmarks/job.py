"""CPU of a job over the unavoidable, and a worker's memory: `python tests/benchmarks/job.py [REPEATS]`.

One scene of 10980 × 10980 pixels, the shipped network, one local worker. Unavoidable is bare rasterio reading the same
bytes once, and the network alone on the very tiles the job ran. Job and unavoidable take turns in one worker process,
because other work on the machine changes the speed of both. All figures are CPU seconds, medians over the turns.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench
import numpy as np
import rasterio
import torch

from cloudjob.catalog.presets import PRESETS
from cloudjob.cluster import agreement, network, scheduler, task
from cloudjob.grid import Tiling
from cloudjob.model import checkpoint, mlm, predict
from cloudjob.scene import read
from cloudjob.scene.describe import describe
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.reflectance import reflectance
from cloudjob.scene.scene import Scene
from cloudjob.store import settings
from cloudjob.store.lock import Token
from cloudjob.store.masks import open_masks
from cloudjob.store.out import Out
from cloudjob.store.writer import Slot, Writer
from training import peer

REPEATS = 3
PEER_SIDE = 1024


def main() -> None:
    """Measure in turns, and report."""
    began = time.process_time(), time.perf_counter()
    shipped = checkpoint.load()
    items = bench.full_scene()
    found = json.loads(items.read_text())["features"][0]
    scene = describe(found, PRESETS["earth-search"].assets, shipped.contract.bands, shipped.contract.resolution)
    turns: list[dict[str, float]] = []
    with scheduler.connect(workers=1) as client:
        network.load(client, "shipped", mlm.shipped().read_bytes(), shipped.sha256)
        (process,) = client.run(cpu).values()
        start_up = {"start-up, client, CPU s": time.process_time() - began[0], "start-up, worker, CPU s": process}
        start_up["start-up, seconds by the wall"] = time.perf_counter() - began[1]
        peak = 0.0
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS):
            with bench.fresh("job") as out:
                before = time.process_time(), *client.run(cpu).values()
                (receipt,) = bench.run(client, items, out)
                turn = {"client": time.process_time() - before[0]}
                turn["worker"] = next(iter(client.run(cpu).values())) - before[1]
                # Read before anything else has run in this process.
                peak = peak or next(iter(client.run(peak_memory).values()))
                turns.append(turn | client.submit(alone, scene, shipped.sha256, str(out), pure=False).result())
                print({name: round(value, 2) for name, value in turns[-1].items()}, file=sys.stderr)
    peak_figure = {"peak memory of the worker, MiB (at most 2560)": peak}
    bench.report("job", start_up | figures(turns, receipt.seen, scene) | peak_figure)


def figures(turns: list[dict[str, float]], seen: int, scene: Scene) -> dict[str, Any]:
    """Medians, ratios and shares."""

    def median(value: Any) -> float:
        return statistics.median(value(turn) for turn in turns)

    pixels = scene.grid.height * scene.grid.width
    extra = seen / pixels - 1
    unavoidable = median(lambda t: t["bare"] + t["network"])
    parts = {
        "the network on the tiles themselves": median(lambda t: t["network"] / (1 + extra)),
        "halo: the network on the pixels around them": median(lambda t: t["network"] * extra / (1 + extra)),
        "reading, bare rasterio": median(lambda t: t["bare"]),
        "reading, what stackstac adds": median(lambda t: t["reading"] - t["bare"]),
        "writing": median(lambda t: t["writing"]),
        "scheduling: client and scheduler, plan to ledger": median(lambda t: t["client"]),
        "arrays: reflectance, normalising, mask, counts; the rest": median(
            lambda t: t["worker"] - t["network"] - t["reading"] - t["writing"]
        ),
    }
    return {
        "turns": len(turns),
        "job, CPU s": median(lambda t: t["worker"] + t["client"]),
        "unavoidable, CPU s": unavoidable,
        "job over unavoidable (at most 1.20)": median(
            lambda t: (t["worker"] + t["client"]) / (t["bare"] + t["network"])
        ),
        **{f"share of the unavoidable, %: {name}": 100 * value / unavoidable for name, value in parts.items()},
        "halo, extra pixels, % (at most 25)": 100 * extra,
        "reading through stackstac over bare rasterio (at most 1.4)": median(lambda t: t["reading"] / t["bare"]),
        "job, Mpx per CPU s": median(lambda t: pixels / 1e6 / (t["worker"] + t["client"])),
        "ukis-csmask alone, Mpx per CPU s": peer_speed(),
    }


def cpu() -> float:
    """CPU seconds of this process so far."""
    return time.process_time()


def peak_memory() -> float:
    """The most memory this process ever held, MiB (VmHWM of proc(5))."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def alone(scene: Scene, sha256: str, out: str) -> dict[str, float]:
    """CPU seconds of each part by itself; a task, so that it runs as the job does."""
    model = network.worker_model(sha256)
    tiling = model.contract.tiling_of(scene.grid, model.contract.buffer)
    return {
        "bare": spent(bare(scene)),
        "network": sum(network_seconds(scene, tiling, model)),
        "reading": spent(stream(scene, tiling)),
        "writing": spent(write(scene, tiling, Out.at(out))),
    }


def spent(work: Iterator[object]) -> float:
    """CPU seconds of this process, all threads, from the first step of `work` to its end."""
    next(work)
    begin = time.process_time()
    for _ in work:
        pass
    return time.process_time() - begin


def bare(scene: Scene) -> Iterator[None]:
    """Every block of every file once, in rows of blocks."""
    yield
    for band in (*scene.bands, scene.scl):
        with rasterio.open(band.href) as file:
            for top in range(0, file.height, 1024):
                file.read(1, window=((top, min(top + 1024, file.height)), (0, file.width)))


def stream(scene: Scene, tiling: Tiling) -> Iterator[None]:
    """The same pixels as the job reads them."""
    yield
    with SceneFiles(scene) as files:
        provider = agreement.Agreement(files, tiling, tiling.all())
        for row in read.rows(files, tiling, tiling.all()):
            provider.labels(task._cores(tiling, row))


def write(scene: Scene, tiling: Tiling, out: Out) -> Iterator[None]:
    """The job's masks once more."""
    masks = open_masks(out)[scene.group]["cloud"][0].values
    (lock,) = out.names("lock")
    slot = Slot(scene.group, 0, Token(**out.get_json(f"lock/{lock}")))
    yield
    writer = Writer(out, slot, settings.read(out))
    for tile in tiling.all():
        writer.write(tiling.core(tile), masks[tiling.core(tile).slices])


def network_seconds(scene: Scene, tiling: Tiling, model: predict.Model) -> Iterator[float]:
    """CPU seconds of the network on each tile; what comes before and after it is not counted."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (model.contract.mean, model.contract.std))
    for row in read.rows(SceneFiles(scene), tiling, tiling.all()):
        for column in row.columns:
            window = torch.from_numpy(reflectance(row.crop(tiling.padded((row.row, column))), scene.bands)).nan_to_num()
            batch = ((window - mean) / std)[None].contiguous(memory_format=torch.channels_last)
            begin = time.thread_time()  # one thread computes
            with torch.inference_mode():
                model.network(batch)
            yield time.thread_time() - begin


def peer_speed() -> float | str:
    """Mpx per CPU second of ukis-csmask, the second of two runs."""
    if not peer.available():
        return "skipped: needs `pip install ukis-csmask onnxruntime`"
    peer.THREADS = 1
    image = np.random.default_rng(0).random((4, PEER_SIDE, PEER_SIDE), np.float32)
    peer.probability(image)
    begin = time.process_time()
    peer.probability(image)
    return PEER_SIDE**2 / 1e6 / (time.process_time() - begin)


if __name__ == "__main__":
    main()
