"""One labelled image on disk, read as reflectance and label."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.errors
import rasterio.io

from cloudjob.cluster.agreement import SCL_CLOUD
from cloudjob.errors import ContractError

Float = npt.NDArray[np.float32]
Reflectance = Float
"""(bands, height, width) in the order of `ALL_BANDS`: 0 is no data, a plane of NaN an absent band."""
Label = npt.NDArray[np.uint8]

BANDS = ("red", "green", "blue", "nir")
"""Of every data set."""
ALL_BANDS = (*BANDS, "swir16", "swir22")
"""Those that some have; `swir22` is for the teacher only."""
SWIR = ALL_BANDS.index("swir16")
CLEAR, CLOUD, UNKNOWN = 0, 1, 255
LOWEST = -0.5
"""Reflectance below this is a no-data value that nobody has declared, as −9999; a job takes it for that, too."""


@dataclass(frozen=True)
class Layer:
    """One band in a file: reflectance = number × scale + offset.

    No data are the number 0, what is no number, the file's own no-data value, and reflectance below `LOWEST`.
    """

    path: Path
    index: int = 1
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Patch:
    """One image, labelled or not.

    Attributes:
        name: unique within its source.
        scene: splits are made by scene, never by patch.
        source: the data set, by which metrics are pooled.
        layers: red, green, blue, near infrared (but for data sets that lack it altogether), and of some `swir16`, or
            `swir16` and `swir22`.
        label: the mask's file, or None.
        scl: the provider's scene classification (Sen2Cor's classes), or None.
        cloud: the value that means cloud in it; 0 is clear.
        clear: known to be without any cloud; a label file says no more than where that is in doubt.
        resolution: side of a pixel in metres, for the checkpoint's contract.
        level: "l2a", or "l1c" for reflectance at the top of the atmosphere; `ukis-csmask` has a network for each.
    """

    name: str
    scene: str
    source: str
    layers: tuple[Layer, ...]
    label: Path | None = None
    scl: Path | None = None
    cloud: int = CLOUD
    clear: bool = False
    resolution: float = 10
    level: str = "l2a"

    @property
    def known(self) -> bool:
        """Whether its truth is known."""
        return self.clear or self.label is not None

    def read(self, bands: int = len(BANDS)) -> tuple[Reflectance, Label]:
        """Reflectance (bands, height, width), 0 where there are no data, and label (height, width) of 0, 1 and 255.

        The label is 255 where it is unknown and where there are no data. Of `ALL_BANDS` the first are given; a band
        that the patch lacks is NaN everywhere.

        Raises:
            ContractError: a file is missing or unreadable, shapes differ, or the mask has other values; it names
                the file.
        """
        numbers, nothings = zip(*(_read(layer.path, layer.index) for layer in self.layers), strict=True)
        for layer, number in zip(self.layers, numbers, strict=True):
            if number.shape != numbers[0].shape:
                raise ContractError(
                    f"{layer.path} has {number.shape} pixels but {self.layers[0].path} has {numbers[0].shape}",
                    hint="all bands and the mask of a patch must have one shape",
                )
        valid = np.logical_or.reduce([number != 0 for number in numbers[: len(BANDS)]])
        reflectance = np.stack(
            [number * np.float32(layer.scale) + np.float32(layer.offset)
             for layer, number in zip(self.layers, numbers, strict=True)]
        ).astype(np.float32)  # fmt: skip
        for number, nothing, plane in zip(numbers, nothings, reflectance, strict=True):
            valid &= np.isfinite(plane) & (plane >= LOWEST)
            if nothing is not None:
                valid &= number != nothing
        reflectance[:, ~valid] = 0
        absent = np.full((max(0, bands - len(reflectance)), *valid.shape), np.nan, np.float32)
        reflectance = np.concatenate([reflectance[:bands], absent])
        label = self._read_label(valid.shape)
        label[~valid] = UNKNOWN
        return reflectance, label

    def provider(self) -> npt.NDArray[np.bool_] | None:
        """Where (height, width) the provider's scene classification says cloud, or None where there is none."""
        if self.scl is None:
            return None
        said: npt.NDArray[np.bool_] = np.isin(read_layer(self.scl), SCL_CLOUD)
        return said

    def _read_label(self, shape: tuple[int, ...]) -> Label:
        if self.label is None:
            return np.full(shape, CLEAR if self.clear else UNKNOWN, np.uint8)
        raw = read_layer(self.label)
        if raw.shape != shape:
            raise ContractError(
                f"{self.label} has {raw.shape} pixels but its image has {shape}",
                hint="all bands and the mask of a patch must have one shape",
            )
        allowed = {CLEAR, self.cloud, UNKNOWN}
        others = sorted(set(np.unique(raw).tolist()) - allowed)
        if others:
            unknown = "" if self.cloud == UNKNOWN else ", 255 is unknown"
            raise ContractError(
                f"{self.label} has the value {others[0]}; expected only {sorted(allowed)}",
                hint=f"0 is clear, {self.cloud} is cloud{unknown}",
            )
        label = np.full(shape, UNKNOWN, np.uint8)
        label[raw == CLEAR] = CLEAR
        label[raw == self.cloud] = CLOUD
        return label


def read_layer(path: Path, index: int = 1) -> npt.NDArray[Any]:
    """One band (height, width) of a raster, as stored.

    Raises:
        ContractError: the file is missing or cannot be read.
    """
    return _read(path, index)[0]


def _read(path: Path, index: int) -> tuple[npt.NDArray[Any], float | None]:
    """A band, and the file's no-data value; None where it is 0, which is one in any case, band by band."""
    with opened(path) as raster:
        if index > raster.count:
            raise ContractError(f"{path} has no band {index}", hint="chips hold red, green, blue, near infrared")
        return raster.read(index), raster.nodata or None


@contextmanager
def opened(path: Path) -> Iterator[rasterio.io.DatasetReader]:
    """A raster, whose faults name it.

    Raises:
        ContractError: it is missing or cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # chips need no place
            with rasterio.open(path) as raster:
                yield raster
    except rasterio.errors.RasterioIOError as error:
        reason = "there is no such file" if not path.exists() else f"it cannot be read: {error}"
        raise ContractError(f"{path}: {reason}", hint="is the data set complete?") from None


def empty(image: Reflectance) -> npt.NDArray[np.bool_]:
    """Where (height, width) there are no data: none in any of the first four bands."""
    bands = image[: len(BANDS)]
    nothing: npt.NDArray[np.bool_] = ((bands == 0) | np.isnan(bands)).all(axis=0)
    return nothing


def any_of(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of the patterns, as in a shell."""
    return any(fnmatch(name, pattern) for pattern in patterns)
