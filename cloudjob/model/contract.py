"""What a network was made for: the contract that holds for training and for every job. Knows no torch."""

import math
from dataclasses import dataclass, field

from cloudjob.errors import ContractError
from cloudjob.grid import Grid, Tiling
from cloudjob.model import bounds

SMALL_TILE = 1024
"""Tiles of this side or less are not cut smaller: the halo would cost more than the tile."""


@dataclass(frozen=True)
class Contract:
    """What a network was made for; it holds for training and for every job.

    Attributes:
        name: of the model.
        version: of the model.
        bands: common names of the input bands, in the network's order.
        mean: per band, subtracted from the reflectance (0 to 1 and above).
        std: per band, divides what is left; the network sees (reflectance − mean) / std.
        resolution: pixel size in metres the network was made for.
        tile: side in pixels of the tiles a large scene is cut into; see `tiling`.
        halo: pixels of context read beyond each side of a tile, before rounding to the network's stride.
        outside_fill: reflectance the network sees outside the scene and where there are no data.
        brightest: reflectance above this is taken for this, in training too: no ground or cloud is as bright (glint is,
            and broken numbers are).
        threshold: probability from which a pixel is cloud, above 0 and below 1.
        buffer: metres by which clouds are widened unless the user says otherwise.
        widths: `SimpleUNet` argument.
        stem: `SimpleUNet` argument.
        dilation: `SimpleUNet` argument.
        training_data: what it was trained on, one line per source.
        metrics: measured on data it did not see: name → number.
    """

    name: str
    version: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: float = 10.0
    tile: int = 1024
    halo: int = 24
    outside_fill: float = 0.0
    brightest: float = 2.0
    threshold: float = 0.5
    buffer: float = 0.0
    widths: tuple[int, ...] = (64, 128, 256)
    stem: int = 1
    dilation: int = 1
    training_data: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bounds.check(self)
        if not len(self.bands) == len(self.mean) == len(self.std) > 0:
            raise ContractError(f"the checkpoint has {len(self.bands)} bands but {len(self.mean)} means")
        if not all(value > 0 for value in self.std):
            raise ContractError(f"the checkpoint's value scaling divides by {self.std}; expected numbers above 0")
        if not self.brightest > 0:
            raise ContractError(f"the checkpoint's brightest reflectance is {self.brightest}; expected above 0")
        if not 0 < self.threshold < 1:
            raise ContractError(f"the checkpoint's threshold is {self.threshold}; expected above 0 and below 1")
        if self.stem < 1 or self.tile < 1 or self.tile % self.stride or self.halo < 0:
            raise ContractError(
                f"the checkpoint's tile {self.tile} and halo {self.halo} do not fit the network's stride {self.stride}"
            )

    @property
    def stride(self) -> int:
        """Windows must begin and have sides at multiples of this many pixels."""
        return int(self.stem * 2 ** (len(self.widths) - 1))

    def padding(self, buffer_pixels: float = 0) -> int:
        """Pixels to read beyond each side of a tile: halo and buffer, rounded up to the stride."""
        return math.ceil((self.halo + buffer_pixels) / self.stride) * self.stride

    def tiling(self, height: int, width: int, buffer_pixels: float = 0) -> Tiling:
        """How a scene of this size is cut: a pure function of it, of this contract and of the buffer.

        Large tiles have less halo for their size. A scene of fewer than three of them across is cut into smaller ones,
        for several workers to share it and for a small bbox not to ask for all of it.
        """
        side = self.tile
        while side > SMALL_TILE and min(height, width) <= 2 * side and side // 2 % self.stride == 0:
            side //= 2
        return Tiling(height, width, side, self.padding(buffer_pixels), self.stride)

    def tiling_of(self, grid: Grid, buffer: float) -> Tiling:
        """How a scene is cut: a pure function of its grid, of this contract and of the buffer in metres."""
        return self.tiling(*grid.shape, max(buffer_pixels(buffer, grid.metres)))


def buffer_pixels(metres: float, pixel: tuple[float, float]) -> tuple[float, float]:
    """A buffer in metres as half axes in pixels (y, x)."""
    return metres / pixel[0], metres / pixel[1]
