"""The complete masks of an OUT, opened lazily."""

import warnings
from pathlib import Path
from typing import overload

import rioxarray  # noqa: F401  # for .rio on what is opened
import xarray as xr

from cloudjob.errors import ContractError
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store import settings
from cloudjob.store.group import MASKS
from cloudjob.store.listing import group_named
from cloudjob.store.out import Out


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
    return xr.DataTree.from_dict(nodes)
