"""Pure arrays: reflectance → probability → mask. Knows no STAC, Dask or Zarr."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cloudjob.classes import NOT_COMPUTED
from cloudjob.errors import SceneError
from cloudjob.grid import Window
from cloudjob.model.checkpoint import Checkpoint
from cloudjob.model.contract import Contract, buffer_pixels
from cloudjob.model.exact import exactly
from cloudjob.model.labels import Mask, classify
from cloudjob.model.onnx import OnnxNetwork
from cloudjob.model.share import share

Reflectance = npt.NDArray[np.float32]

NOWHERE = 2**20
"""A column beyond all windows, for rows that have no pixel with data."""


@dataclass(frozen=True)
class Model:
    """A network made ready for one device. It computes in float32 on each (see `model.exact`).

    Attributes:
        network: BatchNorm folded into the convolutions, channels-last, no gradients; or one in ONNX.
        contract: what it was made for.
        device: where it runs.

    A call computes one tile, on GPUs too: cuDNN chooses its algorithms by the number of tiles in a call, so the last
    bits of one would depend on how many others there are. It costs little: a tile of a thousand pixels a side is work
    enough for a GPU, and reading it takes a core many times as long; other lanes fill the gaps.
    """

    network: nn.Module | OnnxNetwork
    contract: Contract
    device: torch.device

    @property
    def device_name(self) -> str:
        """Such as "cpu" or "NVIDIA H200"."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def software(self) -> str:
        """What computes, and its version, such as "torch 2.13.0+cpu"."""
        return self.network.runtime if isinstance(self.network, OnnxNetwork) else f"torch {torch.__version__}"


def prepare(checkpoint: Checkpoint, device: str | None = None) -> Model:
    """Make a network ready to predict.

    Args:
        checkpoint: weights and contract.
        device: a torch device, or None for a CUDA device where there is one, else the CPU.
    """
    if isinstance(checkpoint.network, OnnxNetwork):
        return Model(checkpoint.network, checkpoint.contract, checkpoint.network.device)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = copy.deepcopy(checkpoint.unet).eval().requires_grad_(requires_grad=False)
    for block in network.modules():
        if isinstance(block, nn.Sequential):
            _fold(block)
    if target.type == "cuda":
        if target == torch.device("cuda"):  # Some of torch's functions want to know which
            target = torch.device("cuda", torch.cuda.current_device())
        # What one lane leaves in its cache is not there for the others
        torch.cuda.set_per_process_memory_fraction(1 / share(), target)
    network.to(device=target).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network, checkpoint.contract, target)


def probability(model: Model, window: Reflectance) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The probability of each of the network's classes in a window, and where there are data.

    Args:
        model: from `prepare`.
        window: (band, y, x) float32 of all the contract's bands, NaN in every band for no data and outside the scene,
            and in an optional band where it is absent; sides are multiples of the contract's stride. Of a caller that
            keeps no name for it, it is let go of before the network runs.

    Returns:
        Float32, 0 to 1, without meaning where there are no data: (class, y, x), or (y, x) of cloud where the network
        tells only that; and (y, x), where there are data.

    Raises:
        SceneError: the network gives something that is no number, which would be taken for clear.
    """
    contract = model.contract
    inside = valid(contract, window)
    if not inside.any():
        classes = len(contract.classes)
        return np.zeros((classes, *inside.shape) if classes > 1 else inside.shape, np.float32), inside
    filled = window.copy()
    del window
    fill(contract, filled)
    if isinstance(model.network, OnnxNetwork):
        likely = model.network.probability(filled, inside)
    else:
        mean, std = (torch.tensor(of, device=model.device)[:, None, None] for of in (contract.mean, contract.std))
        # On a GPU from here on, also what a core could do: cores have the longer day
        tile = torch.from_numpy(filled).to(model.device).clamp_(max=contract.brightest).sub_(mean).div_(std)[None]
        del filled
        tiles = [tile.contiguous(memory_format=torch.channels_last)]
        del tile
        with torch.inference_mode(), exactly():
            # A call of the module itself, or a name here, would hold the tile to the end
            likely = torch.sigmoid(model.network.forward(tiles.pop())[0, 0]).cpu().numpy()
    if broken := np.count_nonzero(~np.isfinite(likely)):
        raise SceneError(
            f"the network {contract.name} gives values that are not finite numbers, {broken:,} of {likely.size:,}"
        )
    return likely, inside


def valid(contract: Contract, reflectance: Reflectance) -> npt.NDArray[np.bool_]:
    """Where (y, x) there are data, by the first band that every scene must have; NaN means none."""
    inside: npt.NDArray[np.bool_] = ~np.isnan(reflectance[contract.bands.index(contract.required_bands[0])])
    return inside


def fill(contract: Contract, reflectance: Reflectance) -> None:
    """Replace each NaN of a window (band, y, x) by what the network sees there, in place.

    Where there are no data that is the contract's `outside_fill`; where only an optional band is absent, `absent_fill`.
    """
    inside = valid(contract, reflectance)
    if contract.outside_fill != "mirror":
        reflectance[:, ~inside] = contract.outside_fill
    elif inside.any():
        mirror(reflectance, inside)
    else:
        reflectance[:] = 0
    for number, band in enumerate(contract.bands):
        if band in contract.optional_bands:
            np.nan_to_num(reflectance[number], copy=False, nan=contract.absent_fill)


def mirror(image: Reflectance, inside: npt.NDArray[np.bool_]) -> None:
    """Fill a window (band, y, x) outside of `inside` (y, x) with the mirror image of what is inside, in place.

    Each pixel is mirrored in the nearest pixel inside of its row or of its column, whichever is nearer. Beyond the last
    column or row with data what was filled there is mirrored, where that is less than half as far. At least one pixel
    is inside.
    """
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    beside, gap = (of[0, ~columns] for of in _mirrored(np.atleast_2d(columns)))
    above, rise = (of[0, ~rows] for of in _mirrored(np.atleast_2d(rows)))
    if (inside == np.outer(rows, columns)).all():  # At a scene's edges all rows are mirrored alike: much faster
        for band in image:
            band[:, ~columns] = band[:, beside]
            band[~rows] = band[above]
        return
    along, far = _mirrored(inside)
    across, deep = (of.T for of in _mirrored(inside.T))
    nearer, reach = far <= deep, np.minimum(far, deep)
    by_column = far[:, ~columns] > 2 * (gap + reach[:, beside])
    reach[:, ~columns] = np.where(by_column, gap + reach[:, beside], far[:, ~columns])
    by_row = deep[~rows] > 2 * (rise[:, None] + reach[above])
    del far, deep, reach
    y, x = np.nonzero(~inside)
    source = np.where(nearer[y, x], y, across[y, x]), np.where(nearer[y, x], along[y, x], x)
    for band in image:
        band[y, x] = band[source]
        band[:, ~columns] = np.where(by_column, band[:, beside], band[:, ~columns])
        band[~rows] = np.where(by_row, band[above], band[~rows])


def _mirrored(inside: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Per pixel of rows (n, length) the column of its mirror image inside, and how far the nearest pixel inside is.

    A pixel inside is its own. Where a row has none it is farther than any pixel could be, and the column is any.
    """
    length = inside.shape[1]
    place = np.arange(length, dtype=np.int32)
    before = np.maximum.accumulate(np.where(inside, place, np.int32(-NOWHERE)), axis=1)
    after = np.minimum.accumulate(np.where(inside, place, np.int32(NOWHERE))[:, ::-1], axis=1)[:, ::-1]
    nearest = np.where(place - before <= after - place, before, after)
    beyond = np.where(inside, place, 2 * nearest + np.sign(place - nearest) - place)
    # A narrow strip has no pixel so far inside: then its edge is repeated.
    safe = np.clip(beyond, 0, length - 1)
    there = np.take_along_axis(inside, safe, axis=1) & (safe == beyond)
    mirrored: npt.NDArray[np.int32] = np.where(there, beyond, np.clip(nearest, 0, length - 1)).astype(np.int32)
    return mirrored, np.abs(place - nearest)


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
        reflectance: (band, y, x) float32 in the contract's band order, NaN in every band for no data, and all over in
            an optional band that is absent; its first pixel is the scene's.
        threshold: the contract's unless given.
        buffer: metres by which clouds are widened; the contract's unless given.
        pixel: height and width of a pixel in metres; the contract's resolution unless given.

    Returns:
        (y, x) uint8: 0 clear, 1 cloud, by some networks 2 thin cloud and 3 cloud shadow, 254 no data.

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
        likely, inside = probability(model, cut(reflectance, padded))
        found = classify(likely, inside, limit, reach, contract.classes)
        result[core.slices] = trim(found, padded, core)
    return result


def cut(reflectance: Reflectance, window: Window) -> Reflectance:
    """The pixels (band, y, x) of a window that may reach beyond the array; NaN there."""
    height, width = reflectance.shape[1:]
    inside = window.inside(height, width)
    result = np.full((len(reflectance), *window.shape), np.nan, np.float32)
    result[:, *inside.seen_from(window).slices] = reflectance[:, *inside.slices]
    return result


def trim(values: npt.NDArray[Any], padded: Window, core: Window) -> npt.NDArray[Any]:
    """The core's part of a padded tile's values (y, x)."""
    return values[core.seen_from(padded).slices]


def _fold(block: nn.Sequential) -> None:
    """Fold each BatchNorm of (convolution, BatchNorm, ReLU)… into the convolution before it."""
    for index in range(len(block) - 1):
        convolution, norm = block[index], block[index + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block[index] = fuse_conv_bn_eval(convolution, norm)
            block[index + 1] = nn.Identity()
