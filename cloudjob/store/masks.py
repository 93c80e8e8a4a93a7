"""The complete masks of an OUT, opened lazily."""

import warnings
from pathlib import Path
from typing import Any, overload

import rioxarray  # noqa: F401  # for .rio on what is opened
import xarray as xr

from cloudjob.errors import ContractError, did_you_mean
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store import settings
from cloudjob.store.group import MASKS
from cloudjob.store.listing import group_named
from cloudjob.store.out import Out


class Masks(xr.DataTree):
    """A tree with a node per group, which takes the short name of a tile's only window, too."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        try:
            return super().__getitem__(key)
        except KeyError:
            names = list(self.children) if self.parent is None and isinstance(key, str) else []
            name, *inside = key.strip("/").split("/") if names else [""]
            if not names or name in names:
                raise
        found = [each for each in names if each.startswith(f"{name}_")]
        if len(found) == 1:
            return super().__getitem__("/".join((found[0], *inside)))
        told = f"it is short for {', '.join(found)}" if found else did_you_mean(name, names)
        raise KeyError(f"there is no group {name!r}: {told}")


@overload
def open_masks(out: Out | str | Path, group: None = None) -> xr.DataTree: ...


@overload
def open_masks(out: Out | str | Path, group: str) -> xr.Dataset: ...


def open_masks(out: Out | str | Path, group: str | None = None) -> xr.DataTree | xr.Dataset:
    """Open the complete masks of an OUT, lazily.

    Args:
        out: made by `cloudjob run`.
        group: only this one, or the only window of a tile ("33UUP"), as a dataset.

    Returns:
        A tree with a node per group, sorted by time, slots that are not complete left out: `cloud` (time, y, x) uint8,
        `cloud_probability` if it was kept, and the scenes' ids as the coordinate `scene` (time).

    Raises:
        UsageError: there is no such group, or there are several.
        ContractError: there are no masks, or they were not made by cloudjob.
        UnreachableError: the store does not answer.
    """
    out = out if isinstance(out, Out) else Out.at(out)
    ledger = ledgers.read(out)
    nodes: dict[str, xr.Dataset] = {}
    wanted = {group_named(ledger, group)} if group else set(ledger.scenes)
    for name, ids in ledger.scenes.items():
        if name not in wanted:
            continue
        done = [slot for slot in range(len(ids)) if ledger.holder(name, slot)]
        with out.reached():
            # Not `group=`, with which xarray looks for consolidated metadata in the root only.
            side = groups.tile(ledger.groups[name])
            masks = xr.open_zarr(out.zarr(f"{MASKS}/{name}"), chunks={"y": side, "x": side}, consolidated=True)
        del masks.attrs[groups.SCENES]  # Of all slots, in their own order
        complete = masks.isel(time=done)
        nodes[f"/{name}"] = complete.assign_coords(scene=("time", [ids[slot] for slot in done])).sortby("time")
    lost = ledger.damage(wanted if group else ())
    if not nodes:
        raise ContractError(
            f"{out} holds no masks", hint=lost or settings.meant(out, "`cloudjob run --out` makes some")
        )
    if lost:
        warnings.warn(lost, stacklevel=2)
    if group:
        (only,) = nodes.values()
        return only
    return Masks.from_dict(nodes)
