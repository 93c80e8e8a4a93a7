"""What a worker writes: tiles of one scene, as whole shards of the slot it was given."""

from dataclasses import dataclass
from typing import Any

import zarr

from cloudjob.grid import Window
from cloudjob.store import group as groups
from cloudjob.store import lock as locks
from cloudjob.store.group import MASKS, Mask
from cloudjob.store.out import Out
from cloudjob.store.settings import Settings


@dataclass(frozen=True)
class Slot:
    """A scene's place in the store, and one run's right to write there.

    Attributes:
        group: of the store.
        index: on the group's time axis.
        token: of the run's lock.
    """

    group: str
    index: int
    token: locks.Token


class Writer:
    """Writes tiles of one slot; made once per task, on a worker."""

    def __init__(self, out: Out, slot: Slot, settings: Settings) -> None:
        self.out = out
        self.slot = slot
        locks.check(out, slot.token)  # Of an OUT that is gone, not one that is damaged
        self._cloud = groups.open_array(out, slot.group, "cloud")
        self._probability = groups.open_array(out, slot.group, "cloud_probability") if settings.probability else None

    def write(self, core: Window, mask: Mask, probability: Mask | None = None) -> None:
        """Write one tile: a whole shard.

        Args:
            core: the tile's pixels in its scene.
            mask: (y, x) uint8: a class, 254 no data, 255 not computed.
            probability: (y, x) uint8: percent, 254, 255; given if and only if the settings keep it.

        Raises:
            LockLostError: another run has taken over: these values may no longer be wanted.
            ValueError: the window is no whole shard, or `probability` is given and not kept, or the reverse.
        """
        if (probability is None) != (self._probability is None):
            raise ValueError("probabilities are written if and only if the settings keep them")
        _check_whole_shard(self._cloud, core)
        locks.check(self.out, self.slot.token)
        self._put(self._cloud, "cloud", core, mask)
        if self._probability is not None and probability is not None:
            self._put(self._probability, "cloud_probability", core, probability)

    def _put(self, array: zarr.Array[Any], name: str, core: Window, values: Mask) -> None:
        place = (self.slot.index, *core.slices)
        with self.out.reached():
            try:
                array[place] = values
            except (ValueError, RuntimeError, SystemError):
                # Zarr reads what lies at the edge, which cannot be decoded: it may go
                side = (array.shards or array.chunks)[1]
                shard = f"{self.slot.index}/{core.top // side}/{core.left // side}"
                self.out.delete([f"{MASKS}/{self.slot.group}/{name}/c/{shard}"])
                array[place] = values


def _check_whole_shard(array: zarr.Array[Any], core: Window) -> None:
    """Two writers in one shard lose data, silently."""
    for start, stop, side, shard in zip(
        (core.top, core.left),
        (core.bottom, core.right),
        array.shape[1:],
        (array.shards or array.chunks)[1:],
        strict=True,
    ):
        if start % shard or not (stop - start == shard or stop == side) or stop - start > shard:
            raise ValueError(f"{core} is no whole shard of {shard} × {shard} pixels in an array of {array.shape}")
