"""The network in one process with nobody beside it, on tiles of a simulated scene: speed, and agreement of devices."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import bench
import numpy as np
import rasterio
import torch
from bench import MILLION

from cloudjob.grid import Window
from cloudjob.model import checkpoint, predict

TILES = 8
"""Of the scene, from all over it."""


def measured(side: int, device: str) -> dict[str, float]:
    """The network in this process, with nobody beside it."""
    torch.set_num_threads(1)  # As a lane has it
    shipped = checkpoint.load()
    windows = tiles(bench.scenes(side, 1).parent, side, shipped)
    model, exact, cpu = (predict.prepare(shipped, each) for each in (device, "cpu", "cpu"))
    exact = dataclasses.replace(exact, network=exact.network.to(device), device=model.device)
    pixels = windows[0][0].size
    found: dict[str, Any] = {"pixels a side of a tile, with its halo": windows[0].shape[-1], "dtype": model.precision}
    list(predict.probability(model, windows[:2]))  # The first call chooses algorithms
    begin = time.perf_counter()
    rough = list(predict.probability(model, windows))
    found["as a lane calls it, million pixels a second"] = TILES * pixels / MILLION / (time.perf_counter() - begin)
    tile = torch.from_numpy(np.nan_to_num(windows[0]))[None].to(model.device, model.dtype)
    tile = tile.contiguous(memory_format=torch.channels_last)
    times = 50 if device == "cuda" else 2
    with torch.inference_mode():
        begin = time.perf_counter()
        for _ in range(times):
            model.network(tile)
        if device == "cuda":
            torch.cuda.synchronize()
    found["on the device, million pixels a second"] = times * pixels / MILLION / (time.perf_counter() - begin)
    begin = time.perf_counter()
    true = list(predict.probability(cpu, windows[:1]))
    found["on a core of the CPU, million pixels a second"] = pixels / MILLION / (time.perf_counter() - begin)
    if device == "cuda":
        found["GPU memory of a lane's tensors, MiB"] = torch.cuda.max_memory_reserved() / 2**20
        torch.backends.cudnn.allow_tf32 = False
        found |= compared(f"{model.precision} and float32", rough, list(predict.probability(exact, windows)), shipped)
        found |= compared(f"{model.precision} and the CPU's float32", rough[:1], true, shipped)
        del model, exact, tile
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        found["GPU memory of this process afterwards, MiB"] = (total - free) / 2**20
    return found


def compared(name: str, one: list[Any], other: list[Any], shipped: checkpoint.Checkpoint) -> dict[str, float]:
    """How far two kinds of probability (y, x) agree."""
    limit = shipped.contract.threshold
    same = [(a >= limit) == (b >= limit) for a, b in zip(one, other, strict=True)]
    apart = [np.abs(a - b).max() for a, b in zip(one, other, strict=True)]
    cloud = float(np.mean([a >= limit for a in one]))
    return {
        f"{name} agree, share of pixels": float(np.mean(same)),
        f"{name}, largest difference of a probability": float(max(apart)),
        f"{name}, share of cloud": cloud,
    }


def tiles(folder: Path, side: int, shipped: checkpoint.Checkpoint) -> list[Any]:
    """Windows (band, y, x) of reflectance of the size that the network sees in a job, from all over a scene."""
    tiling = shipped.contract.tiling(side, side)
    first = tiling.padded((0, 0))
    starts = [n * (side - first.shape[0]) // (TILES - 1) for n in range(TILES)]
    chosen = [
        Window(top, top + first.shape[0], left, left + first.shape[1])
        for top, left in zip(starts, starts[3:] + starts[:3], strict=True)
    ]
    windows = [np.full((len(shipped.contract.bands), *one.shape), np.nan, np.float32) for one in chosen]
    for number, band in enumerate(shipped.contract.bands):
        with rasterio.open(folder / f"{band}.tif") as file:
            scale = round(side / file.height)
            for window, place in zip(windows, chosen, strict=True):
                window[number] = upsampled(file, place, scale)
    return windows


def upsampled(file: Any, place: Window, scale: int) -> Any:
    """Reflectance of a window of the scene, from a band of pixels `scale` times as large; NaN for no data."""
    (top, bottom), (left, right) = ((part.start // scale, -(-part.stop // scale)) for part in place.slices)
    numbers = file.read(1, window=((top, bottom), (left, right))).repeat(scale, 0).repeat(scale, 1)
    y, x = place.top - top * scale, place.left - left * scale
    numbers = numbers[y : y + place.shape[0], x : x + place.shape[1]]
    return np.where(numbers == 0, np.float32("nan"), numbers.astype(np.float32) * np.float32(1e-4) - np.float32(0.1))
