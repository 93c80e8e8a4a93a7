"""What a network was made for: the contract that holds for training and for every job. Knows no torch."""

import math
from dataclasses import dataclass, field

from cloudjob.classes import CLEAR, CLOUD
from cloudjob.errors import ContractError
from cloudjob.grid import Grid, Tiling
from cloudjob.model import bounds

SMALL_TILE = 1024
"""Tiles of this side or less are not cut smaller: the halo would cost more than the tile."""


@dataclass(frozen=True)
class Graph:
    """What is to be known of a network in ONNX beyond what holds for every network.

    Attributes:
        classes: our class (`classes.NAMES`) of each of its outputs; one output alone is cloud.
        activation: what turns its outputs into probabilities: "sigmoid", "softmax", or "none" where they are.
        stride: its inputs have sides at multiples of this many pixels, where it takes any size.
        window: side in pixels of its inputs, where it takes only one size; else 0. Such windows fade into each other
            over the contract's `halo`: they lie at multiples of `window - halo - 1` pixels, less the halo.
        clip: per band (lowest, highest), in place of a scaling; () for no band.
        per_tile: whether each band of a window is scaled by its own mean and deviation over the pixels with data.
    """

    classes: tuple[int, ...] = (CLOUD,)
    activation: str = "sigmoid"
    stride: int = 1
    window: int = 0
    clip: tuple[tuple[float, float], ...] = ()
    per_tile: bool = False


@dataclass(frozen=True)
class Contract:
    """What a network was made for; it holds for training and for every job.

    Attributes:
        name: of the model.
        version: of the model.
        bands: common names of the input bands, in the network's order.
        mean: per band, subtracted from the reflectance (0 to 1 and above).
        std: per band, divides what is left; the network sees (reflectance − mean) / std.
        optional_bands: those of `bands` that a scene may lack; the network was trained with and without them. Where
            there are data is decided by the others.
        absent_fill: reflectance the network sees in place of an optional band where it is absent; such as no band has.
        resolution: pixel size in metres the network was made for.
        resolutions: other pixel sizes in metres at which its masks were measured and found good. Pixels of any other
            size are refused.
        tile: side in pixels of the tiles a large scene is cut into; see `tiling`.
        halo: pixels of context read beyond each side of a tile, before rounding to the network's stride.
        outside_fill: what the network sees outside the scene and where there are no data: a reflectance, or "mirror"
            for the mirror image of what lies inside (`cloudjob.model.predict.mirror`).
        brightest: reflectance above this is taken for this, in training too: no ground or cloud is as bright (glint is,
            and broken numbers are).
        threshold: probability from which a pixel is cloud, above 0 and below 1.
        buffer: metres by which clouds are widened unless the user says otherwise.
        widths: `SimpleUNet` argument.
        stem: `SimpleUNet` argument.
        dilation: `SimpleUNet` argument.
        smooth: `SimpleUNet` argument.
        graph: of a network in ONNX; None for a `SimpleUNet`.
        training_data: what it was trained on, one line per source.
        metrics: measured on data it did not see: name → number.
    """

    name: str
    version: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    optional_bands: tuple[str, ...] = ()
    absent_fill: float = 0.0
    resolution: float = 10.0
    tile: int = 1024
    halo: int = 24
    outside_fill: float | str = 0.0
    brightest: float = 2.0
    threshold: float = 0.5
    buffer: float = 0.0
    widths: tuple[int, ...] = (64, 128, 256)
    stem: int = 1
    dilation: int = 1
    smooth: bool = False
    graph: Graph | None = None
    training_data: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    resolutions: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        bounds.check(self)
        if not len(self.bands) == len(self.mean) == len(self.std) > 0:
            raise ContractError(f"the checkpoint has {len(self.bands)} bands but {len(self.mean)} means")
        if not all(value > 0 for value in self.std):
            raise ContractError(f"the checkpoint's value scaling divides by {self.std}; expected numbers above 0")
        if unknown := set(self.optional_bands) - set(self.bands):
            raise ContractError(f"the checkpoint's optional band {min(unknown)!r} is none of its bands {self.bands}")
        if not self.required_bands:
            raise ContractError(f"all bands of the checkpoint are optional: {self.bands}; expected one that is not")
        if isinstance(self.outside_fill, str) and self.outside_fill != "mirror":
            raise ContractError(f"the checkpoint's outside_fill is {self.outside_fill!r}; expected a number or mirror")
        if not self.brightest > 0:
            raise ContractError(f"the checkpoint's brightest reflectance is {self.brightest}; expected above 0")
        if not 0 < self.threshold < 1:
            raise ContractError(f"the checkpoint's threshold is {self.threshold}; expected above 0 and below 1")
        if self.stride < 1 or self.tile % self.stride:
            raise ContractError(
                f"the checkpoint's tile {self.tile} and halo {self.halo} do not fit the network's stride {self.stride}"
            )

    @property
    def required_bands(self) -> tuple[str, ...]:
        """The bands that every scene must have, in the network's order."""
        return tuple(band for band in self.bands if band not in self.optional_bands)

    @property
    def stride(self) -> int:
        """Tiles must begin and have sides at multiples of this many pixels; so must windows, but for the halo."""
        if self.graph:
            return self.graph.window - self.halo - 1 if self.graph.window else self.graph.stride
        return int(self.stem * 2 ** (len(self.widths) - 1))

    @property
    def classes(self) -> tuple[int, ...]:
        """The network's classes (`classes.NAMES`) in the order of its outputs; (1,) for one output, which is cloud."""
        return self.graph.classes if self.graph else (CLOUD,)

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that its masks can hold, in order."""
        return tuple(sorted({CLEAR, *self.classes}))

    @property
    def algorithm(self) -> int:
        """Counted up, of the networks it concerns, when a new version of cloudjob gives their masks other values.

        2 since `cloudjob.model.predict.mirror` mirrors along columns, too.
        """
        return 2 if self.outside_fill == "mirror" else 1

    def padding(self, buffer_pixels: float = 0) -> int:
        """Pixels to read beyond each side of a tile: halo and buffer, rounded up to the stride.

        Of windows of one size the last begins in a tile's last pixels and ends beyond it.
        """
        if self.graph and self.graph.window:
            return self.graph.window - self.halo + math.ceil(buffer_pixels / self.stride) * self.stride
        return math.ceil((self.halo + buffer_pixels) / self.stride) * self.stride

    @property
    def measured(self) -> tuple[float, ...]:
        """Pixel sizes in metres at which the network's masks are known to be good, its own first."""
        return (self.resolution, *(other for other in self.resolutions if other != self.resolution))

    def tiling(self, height: int, width: int, buffer_pixels: float = 0, coarser: int = 1) -> Tiling:
        """How a scene of this size is cut: a pure function of it, of this contract, of the buffer and of `coarser`.

        Tiles are whole pixels of the mask, `coarser` of the network's along y and x.

        Large tiles have less halo for their size. A scene of fewer than three of them across is cut into smaller ones,
        for several workers to share it and for a small bbox not to ask for all of it.
        """
        side = self.tile
        while side > SMALL_TILE and min(height, width) <= 2 * side and side // 2 % self.stride == 0:
            side //= 2
        whole = math.lcm(self.stride, coarser)
        side = max(1, side // whole) * whole
        return Tiling(height, width, side, self.padding(buffer_pixels), self.stride)

    def tiling_of(self, grid: Grid, buffer: float, coarser: int = 1) -> Tiling:
        """How a scene is cut: a pure function of its grid, this contract, the buffer in metres and `coarser`."""
        return self.tiling(*grid.shape, max(buffer_pixels(buffer, grid.metres)), coarser)


def buffer_pixels(metres: float, pixel: tuple[float, float]) -> tuple[float, float]:
    """A buffer in metres as half axes in pixels (y, x)."""
    return metres / pixel[0], metres / pixel[1]
