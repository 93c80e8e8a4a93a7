"""The networks: one U-Net class, from `SimpleUNet(3)` as first specified to the small deep one that ships."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

STRIP = 64
"""Rows of a level that are computed at once: 3 % of the time for their overlap, in strips of 256 it is 1."""

REACH = 2
"""Rows that two convolutions of 3 × 3 see on each side; even, as strips of what is half as high must fit."""


class DoubleConv(nn.Module):
    """Two times (3 × 3 convolution, BatchNorm, ReLU); keeps height and width.

    `dilation` spreads the taps of both convolutions, for more context at no cost.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) → (batch, out_channels, height, width)."""
        y: Tensor = self.conv(x)
        return y


class SimpleUNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015, arXiv:1505.04597) that gives one logit per pixel: cloud or not.

    `SimpleUNet(3)` and `SimpleUNet(4)` are the networks as first specified. A `stem` of 2 folds 2 × 2 pixels
    into channels before the first level and unfolds the logits after the last (space-to-depth, Shi et al. 2016,
    arXiv:1609.05158): a quarter of the work, twice the context. Unfolded logits carry a pattern of `stem` pixels that
    moves with the tile; `smooth` takes it out with the binomial filter (1, 2, 1) / 4 in both directions, whose answer
    to a pattern of 2 pixels is zero (R. Zhang 2019, arXiv:1904.11486).

    Args:
        in_channels: number of input bands.
        widths: channels of each level, from the finest to the bottleneck.
        stem: side of the pixel block that is folded into channels; 1 for none.
        dilation: of the bottleneck's convolutions.
        smooth: filter the logits.
    """

    def __init__(
        self,
        in_channels: int = 4,
        widths: tuple[int, ...] = (64, 128, 256),
        stem: int = 1,
        dilation: int = 1,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        *levels, bottom = widths
        self.stem = stem
        self.smooth = smooth
        self.depth = len(levels)
        channels = in_channels * stem**2
        for level, width in enumerate(levels, start=1):
            self.add_module(f"enc{level}", DoubleConv(channels, width))
            self.add_module(f"pool{level}", nn.MaxPool2d(kernel_size=2, stride=2))
            channels = width
        self.bottleneck = DoubleConv(channels, bottom, dilation)
        channels = bottom
        for level, width in reversed(list(enumerate(levels, start=1))):
            self.add_module(f"up{level}", nn.ConvTranspose2d(channels, width, kernel_size=2, stride=2))
            self.add_module(f"dec{level}", DoubleConv(2 * width, width))
            channels = width
        self.final = nn.Conv2d(channels, stem**2, kernel_size=1)

    def __repr__(self) -> str:
        # torch ≥ 2.12 also prints BatchNorm's `bias=True`; the printed form is part of the specification.
        return super().__repr__().replace("affine=True, bias=True", "affine=True")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised bands (batch, in_channels, height, width) → logits (batch, 1, height, width).

        Height and width are multiples of `Contract.stride`.
        """
        if self.stem > 1:
            x = nn.functional.pixel_unshuffle(x, self.stem)
        skips = []
        for level in range(1, self.depth + 1):
            x = self._in_strips(self.get_submodule(f"enc{level}"), x)
            skips.append(x)
            x = self.get_submodule(f"pool{level}")(x)
        x = self.bottleneck(x)
        for level in range(self.depth, 0, -1):
            x = self._in_strips(partial(self._decode, level), skips.pop(), x)
        x = self.final(x)
        x = nn.functional.pixel_shuffle(x, self.stem) if self.stem > 1 else x
        if self.smooth:
            x = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
            for _ in range(2):  # (1, 1) / 2 twice is (1, 2, 1) / 4
                x = nn.functional.avg_pool2d(x, 2, stride=1)
        return x

    def _decode(self, level: int, skip: Tensor, x: Tensor) -> Tensor:
        """A level on the way up: what came from below beside what was seen on the way down."""
        x = self.get_submodule(f"up{level}")(x)
        y: Tensor = self.get_submodule(f"dec{level}")(torch.cat([skip, x], dim=1))
        return y

    def _in_strips(self, block: Callable[..., Tensor], image: Tensor, *below: Tensor) -> Tensor:
        """What a level's block makes of (batch, channels, rows, columns), and of what has half its rows, in strips.

        What lies between two convolutions is then never there whole: half of the memory. No value changes, for strips
        overlap by the rows that the two see. Training, which keeps what lies between, goes without them, and so does an
        export, whose graph takes windows of any height.
        """
        if self.training or torch.is_grad_enabled() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return block(image, *below)
        rows, result = image.shape[2], None
        for top in range(0, rows, STRIP):
            first, last = max(top - REACH, 0), min(top + STRIP + REACH, rows)
            part = block(image[:, :, first:last], *(each[:, :, first // 2 : last // 2] for each in below))
            if result is None:
                shape = *part.shape[:2], *image.shape[2:]
                result = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
            result[:, :, top : top + STRIP] = part[:, :, top - first :][:, :, :STRIP]
        assert result is not None
        return result
