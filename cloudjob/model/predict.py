"""Pure arrays: reflectance → probability → mask. Knows no STAC, Dask or Zarr."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cloudjob.classes import NO_DATA, NOT_COMPUTED
from cloudjob.grid import Window
from cloudjob.model.checkpoint import Checkpoint, untrained
from cloudjob.model.contract import Contract, buffer_pixels
from cloudjob.model.share import share

Mask = npt.NDArray[np.uint8]
Reflectance = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A network made ready for one device.

    Attributes:
        network: BatchNorm folded into the convolutions, channels-last, no gradients.
        contract: what it was made for.
        device: where it runs.
        dtype: float32, or float16 on CUDA devices that compute in it.

    A call computes one tile, on GPUs too: cuDNN chooses its algorithms by the number of tiles in a call, so the last
    bits of one would depend on how many others there are. It costs little: a tile of 1120 pixels a side is work enough
    for a GPU, and reading it takes a core a hundred times as long; other lanes fill the gaps.
    """

    network: nn.Module
    contract: Contract
    device: torch.device
    dtype: torch.dtype

    @property
    def device_name(self) -> str:
        """Such as "cpu" or "NVIDIA H200"."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def precision(self) -> str:
        """Such as "float32"."""
        return str(self.dtype).removeprefix("torch.")


def prepare(checkpoint: Checkpoint, device: str | None = None) -> Model:
    """Make a network ready to predict.

    Args:
        checkpoint: weights and contract.
        device: a torch device, or None for a CUDA device where there is one, else the CPU.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = untrained(checkpoint.contract)
    network.load_state_dict(checkpoint.network.state_dict())
    network.eval().requires_grad_(requires_grad=False)
    for block in network.modules():
        if isinstance(block, nn.Sequential):
            _fold(block)
    dtype = _precision(target)
    if target.type == "cuda":  # What one lane leaves in its cache is not there for the others
        torch.cuda.set_per_process_memory_fraction(1 / share(), target)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    network.to(device=target, dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network, checkpoint.contract, target, dtype)


def _precision(device: torch.device) -> torch.dtype:
    """float16 on GPUs with units for it: it keeps 10 bits of the probability, bfloat16 only 7.

    On CPUs without such units reduced precision is up to a hundred times slower, on the others it would make CPUs
    disagree with each other: never there.
    """
    half = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if half else torch.float32


def probability(model: Model, reflectance: Sequence[Reflectance]) -> Iterator[npt.NDArray[np.float32]]:
    """Give the probability of cloud for windows of one shape.

    Args:
        model: from `prepare`.
        reflectance: windows (band, y, x) float32, NaN in every band for no data and outside the scene; sides are
            multiples of the contract's stride.

    Yields:
        (y, x) float32, 0 to 1, per window, in order; without meaning where there are no data.
    """
    contract = model.contract
    mean = torch.tensor(contract.mean)[:, None, None]
    std = torch.tensor(contract.std)[:, None, None]
    waiting = list(reflectance)
    del reflectance  # The caller may have let go of them: they are not held while the network runs
    while waiting:
        window = waiting.pop(0)
        if np.isnan(window[0]).all():
            yield np.zeros(window.shape[1:], np.float32)
            continue
        tile = torch.nan_to_num(torch.from_numpy(window), nan=contract.outside_fill)
        del window
        tile = tile.clamp_(max=contract.brightest).sub_(mean).div_(std)[None]
        tile = tile.to(model.device, model.dtype).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            logits = model.network(tile)[0, 0]
            yield torch.sigmoid(logits.float()).cpu().numpy()


def classify(
    probability: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    threshold: float,
    buffer: tuple[float, float] = (0.0, 0.0),
) -> Mask:
    """Make a mask from probabilities.

    Args:
        probability: (y, x) of cloud.
        valid: (y, x), False where there are no data.
        threshold: probability from which a pixel is cloud.
        buffer: by how many pixels in y and x clouds are widened (half axes of an ellipse).

    Returns:
        (y, x): 0 clear, 1 cloud, 254 no data.
    """
    cloud = widen((probability >= threshold) & valid, buffer)
    return np.where(valid, cloud.view(np.uint8), np.uint8(NO_DATA))


def widen(cloud: npt.NDArray[np.bool_], buffer: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Dilate by an ellipse with half axes `buffer` (y, x) in pixels.

    The ellipse is a stack of horizontal runs; each is a difference of running sums, so the cost grows with the
    half axis in y only.
    """
    down, across = buffer
    reach_y = math.floor(down)
    if (reach_y == 0 and across < 1) or not cloud.any() or cloud.all():
        return cloud
    height, width = cloud.shape
    sums = np.zeros((height, width + 1), np.int32)
    np.cumsum(cloud, axis=1, out=sums[:, 1:])
    columns = np.arange(width)
    wide = np.zeros_like(cloud)
    for shift in range(-reach_y, reach_y + 1):
        run = max(0, math.floor(across * math.sqrt(max(0.0, 1 - (shift / down) ** 2))) - 1) if shift else 0
        # Pixels on the ellipse belong to it, such as (3, 4) of 5: no root or quotient tells exactly.
        while run + 1 <= across and _square(shift * across) + _square((run + 1) * down) <= _square(across * down):
            run += 1
        right, left = np.minimum(columns + run + 1, width), np.maximum(columns - run, 0)
        source = slice(max(0, -shift), min(height, height - shift))
        target = slice(max(0, shift), min(height, height + shift))
        wide[target] |= sums[source][:, right] > sums[source][:, left]
    return wide


def _square(value: float) -> float:
    return value * value


def percent(probability: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> Mask:
    """Probability as whole percent: (y, x) uint8, 0 to 100, 254 no data."""
    return np.where(valid, np.rint(probability * 100), NO_DATA).astype(np.uint8)


def mask(
    model: Model,
    reflectance: Reflectance,
    *,
    threshold: float | None = None,
    buffer: float | None = None,
    pixel: tuple[float, float] | None = None,
) -> Mask:
    """Mask a whole scene in memory: the values a job writes for the same pixels.

    Args:
        model: from `prepare`.
        reflectance: (band, y, x) float32 in the contract's band order, NaN in every band for no data; its first
            pixel is the scene's.
        threshold: the contract's unless given.
        buffer: metres by which clouds are widened; the contract's unless given.
        pixel: height and width of a pixel in metres; the contract's resolution unless given.

    Returns:
        (y, x) uint8: 0 clear, 1 cloud, 254 no data.

    Raises:
        ValueError: another number of bands than the contract's.
    """
    contract = model.contract
    if reflectance.ndim != 3 or len(reflectance) != len(contract.bands):
        raise ValueError(f"reflectance has shape {reflectance.shape}; expected ({len(contract.bands)}, y, x)")
    reach = buffer_pixels(contract.buffer if buffer is None else buffer, pixel or (contract.resolution,) * 2)
    limit = contract.threshold if threshold is None else threshold
    height, width = reflectance.shape[1:]
    tiling = contract.tiling(height, width, max(reach))
    result = np.full((height, width), NOT_COMPUTED, np.uint8)
    for tile in tiling.all():
        core, padded = tiling.core(tile), tiling.padded(tile)
        window = cut(reflectance, padded)
        (likely,) = probability(model, [window])
        found = classify(likely, ~np.isnan(window[0]), limit, reach)
        result[core.slices] = trim(found, padded, core)
    return result


def cut(reflectance: Reflectance, window: Window) -> Reflectance:
    """The pixels (band, y, x) of a window that may reach beyond the array; NaN there."""
    height, width = reflectance.shape[1:]
    inside = Window(max(0, window.top), min(height, window.bottom), max(0, window.left), min(width, window.right))
    result = np.full((len(reflectance), *window.shape), np.nan, np.float32)
    y, x = inside.top - window.top, inside.left - window.left
    result[:, y : y + inside.shape[0], x : x + inside.shape[1]] = reflectance[:, *inside.slices]
    return result


def trim(values: Mask, padded: Window, core: Window) -> Mask:
    """The core's part of a padded tile's values (y, x)."""
    top, left = core.top - padded.top, core.left - padded.left
    height, width = core.shape
    return values[top : top + height, left : left + width]


def _fold(block: nn.Sequential) -> None:
    """Fold each BatchNorm of (convolution, BatchNorm, ReLU)… into the convolution before it."""
    for index in range(len(block) - 1):
        convolution, norm = block[index], block[index + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block[index] = fuse_conv_bn_eval(convolution, norm)
            block[index + 1] = nn.Identity()
