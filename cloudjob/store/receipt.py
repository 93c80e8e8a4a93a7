"""What a task hands back to the client, and what became of a scene: small frozen records, never pixels."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import reduce
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cloudjob.classes import NAMES, NO_DATA, NOT_COMPUTED


@dataclass(frozen=True)
class Receipt:
    """What one task did to one scene; the receipts of a scene's tasks add up (`merge`).

    Attributes:
        clear: pixels written as 0.
        cloud: pixels written as 1.
        thin_cloud: pixels written as 2.
        cloud_shadow: pixels written as 3.
        no_data: pixels written as 254.
        checksum: of all values written: the sum of `tile_sum` over the tiles; 0 if it was not taken.
        outside: pixels of computed tiles left at 255 because they lie outside `--geometry`.
        scl_compared: pixels that have a label both for us and for the provider's scene classification.
        scl_agreed: those of them where both say cloud, or both do not.
        scl_cloud: those of them the provider calls cloud (classes 8, 9 and 10).
        dark_all: valid pixels whose red, green and blue are all darker than the baseline offset (number < 1000).
        dark_any: valid pixels of which one of them is.
        guessed: valid pixels in whose numbers ESA's offset may be, for nobody tells.
        glaring: of each band, values of valid pixels that no scene reflects (`scene.reflectance.IMPOSSIBLE`).
        least: of each band, the lowest number of a valid pixel, or None where there is none.
        most: the highest.
        lacking: of each band, pixels without a label where it has no data and another one has; 0 of an optional band.
        fractions: valid pixels with numbers that are no whole ones, and that a scale makes smaller.
        saturated: valid pixels that are `scene.reflectance.SATURATED` in every band.
        seen: pixels the network computed, halo included.
        bytes_read: of decoded pixels.
        read_seconds: waiting for pixels.
        network_seconds: preparing arrays and running the network.
        write_seconds: compressing and writing shards.
        device: kind of device, such as "cpu" or "NVIDIA H200"; "NVIDIA H200 + cpu" if parts were done on both.
        software: what decides values beside the checkpoint, each with its version: ("cloudjob 0.1.0", "torch 2.13.0").
        warnings: what a person should know about this scene.
    """

    clear: int = 0
    cloud: int = 0
    thin_cloud: int = 0
    cloud_shadow: int = 0
    no_data: int = 0
    outside: int = 0
    checksum: int = 0
    scl_compared: int = 0
    scl_agreed: int = 0
    scl_cloud: int = 0
    dark_all: int = 0
    dark_any: int = 0
    guessed: int = 0
    glaring: tuple[int, ...] = ()
    least: tuple[float | None, ...] = ()
    most: tuple[float | None, ...] = ()
    lacking: tuple[int, ...] = ()
    fractions: int = 0
    saturated: int = 0
    seen: int = 0
    bytes_read: int = 0
    read_seconds: float = 0.0
    network_seconds: float = 0.0
    write_seconds: float = 0.0
    device: str = ""
    software: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def valid(self) -> int:
        """Pixels that got a label."""
        return self.clear + self.cloud + self.thin_cloud + self.cloud_shadow

    @property
    def cloud_cover(self) -> float | None:
        """Cloud of both kinds in percent of the pixels with a label; None where there is none."""
        return 100 * (self.cloud + self.thin_cloud) / self.valid if self.valid else None


def counted(mask: npt.NDArray[np.uint8]) -> Receipt:
    """How many pixels of a mask (y, x) have each value."""
    values = NAMES | {"no_data": NO_DATA, "outside": NOT_COMPUTED}
    counts: dict[str, Any] = {name: int(np.count_nonzero(mask == value)) for name, value in values.items()}
    return Receipt(**counts)


def tile_sum(tile: tuple[int, int], *arrays: npt.NDArray[np.uint8]) -> int:
    """CRC-32 of a tile's place and values: (row, column), then its mask and, if it is kept, its probability, (y, x)."""
    checksum = zlib.crc32(f"{tile[0]} {tile[1]}".encode())
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum


def merge(receipts: list[Receipt]) -> Receipt:
    """One receipt for a scene whose rows were done by several tasks."""
    return reduce(_add, receipts)


def _add(a: Receipt, b: Receipt) -> Receipt:
    sums = {f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(Receipt) if f.type in (int, float)}
    warnings = tuple(sorted({*a.warnings, *b.warnings}))  # Tasks end in any order; the item must not tell
    device = " + ".join(sorted({*a.device.split(" + "), *b.device.split(" + ")} - {""}))
    return Receipt(
        **sums,
        glaring=_by_band(sum, a.glaring, b.glaring),
        least=_by_band(min, a.least, b.least),
        most=_by_band(max, a.most, b.most),
        lacking=_by_band(sum, a.lacking, b.lacking),
        device=device,
        software=tuple(sorted({*a.software, *b.software})),
        warnings=warnings,
    )


def _by_band(join: Callable[[list[Any]], Any], a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """What two tasks tell of each band, joined; receipts of scenes with other bands are added up, too, for metrics."""
    told = ([each for each in pair if each is not None] for pair in zip_longest(a, b))
    return tuple(join(each) if each else None for each in told)


@dataclass(frozen=True)
class SceneResult:
    """What became of one scene.

    Attributes:
        id: of the scene.
        group: of the store; "" where the scene's grid is not known.
        state: done, failed, or abandoned (failed on three nights for the same reason).
        receipt: what was done; None for a failed scene.
        reason: why it failed.
    """

    id: str
    group: str
    state: Literal["done", "failed", "abandoned"]
    receipt: Receipt | None = field(default=None, repr=False)  # Twenty-five numbers
    reason: str = ""
