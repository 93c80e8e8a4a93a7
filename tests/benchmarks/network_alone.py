"""The network in one process with nobody beside it, on tiles of a simulated scene: speed, and agreement of devices."""

import contextlib
import copy
import dataclasses
import time
from pathlib import Path
from typing import Any
from unittest import mock

import bench
import numpy as np
import rasterio
import torch
from bench import MILLION

from cloudjob.grid import Window
from cloudjob.model import checkpoint, predict

TILES = 8
"""Of the scene, from all over it."""

OWN, DEVICE = "as cloudjob runs it", "on the device, million pixels a second"
"""What figures are called."""

TIMES = 20
"""How often a GPU computes a tile."""


class Half(torch.nn.Module):
    """A network in float16, as others run it on GPUs."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(tile, band, y, x) float32 → (tile, 1, y, x) float32."""
        logits: torch.Tensor = self.network(tiles.half())
        return logits.float()


def measured(side: int, device: str) -> dict[str, Any]:
    """The network in this process, with nobody beside it: on a GPU also in the ways that cloudjob does not take."""
    torch.set_num_threads(1)  # As a lane has it
    shipped = checkpoint.load()
    windows = tiles(bench.scenes(side, 1).parent, side, shipped)
    pixels = windows[0][0].size
    cpu = predict.prepare(shipped, "cpu")
    begin = time.perf_counter()
    true = [predict.probability(cpu, window)[0] for window in windows]
    found: dict[str, Any] = {
        "pixels a side of a tile, with its halo": windows[0].shape[-1],
        "on a core of the CPU, million pixels a second": TILES * pixels / MILLION / (time.perf_counter() - begin),
        "share of cloud": float(np.mean([each >= shipped.contract.threshold for each in true])),
    }
    if device != "cuda":
        return found
    own = predict.prepare(shipped, device)
    half = dataclasses.replace(own, network=Half(own.network))
    for name, model, settings in (
        (OWN, own, predict.exactly),
        ("with TF32 allowed", own, contextlib.nullcontext),
        ("in float16", half, contextlib.nullcontext),
    ):
        with mock.patch.object(predict, "exactly", settings), settings():
            found |= {f"{name}: {key}": value for key, value in on_gpu(model, windows, true).items()}
    del own, half, model
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return {**found, "GPU memory of this process afterwards, MiB": (total - free) / 2**20}


def on_gpu(model: predict.Model, windows: list[Any], true: list[Any]) -> dict[str, float]:
    """Speed, memory, and agreement with the CPU's probabilities."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    predict.probability(model, windows[0])  # The first call chooses algorithms
    begin = time.perf_counter()
    given = [predict.probability(model, window)[0] for window in windows]
    called = TILES * windows[0][0].size / MILLION / (time.perf_counter() - begin)
    return {
        "as a lane calls it, million pixels a second": called,
        "GPU memory of a lane's tensors, MiB": torch.cuda.max_memory_reserved() / 2**20,
        DEVICE: bare(model, windows[0]),
        **compared(given, true, model.contract.threshold),
    }


def bare(model: predict.Model, window: Any) -> float:
    """Million pixels a second of a tile that is on the device already."""
    tile = torch.from_numpy(np.nan_to_num(window))[None].to(model.device)
    tile = tile.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(TIMES):
            model.network(tile)
        torch.cuda.synchronize()
    return TIMES * window[0].size / MILLION / (time.perf_counter() - begin)


def compared(given: list[Any], true: list[Any], limit: float) -> dict[str, float]:
    """How far probabilities (y, x) agree with the CPU's."""
    same = [(a >= limit) == (b >= limit) for a, b in zip(given, true, strict=True)]
    apart = [np.abs(a - b).max() for a, b in zip(given, true, strict=True)]
    return {
        "labels that are the CPU's, share of pixels": float(np.mean(same)),
        "largest difference of a probability from the CPU's": float(max(apart)),
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
