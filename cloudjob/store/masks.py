"""The complete masks of an OUT, opened lazily."""

import xarray as xr

from cloudjob.errors import ContractError
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store.group import MASKS
from cloudjob.store.out import Out


def open_masks(out: Out | str) -> xr.DataTree:
    """Open the complete masks of an OUT, lazily.

    Returns:
        A tree with a node per group, sorted by time, slots that are not complete left out: `cloud` (time, y, x) uint8,
        `cloud_probability` if it was kept, and the scenes' ids as the coordinate `scene` (time).

    Raises:
        ContractError: there are no masks, or they were not made by cloudjob.
        UnreachableError: the store does not answer.
    """
    out = out if isinstance(out, Out) else Out.at(out)
    ledger = ledgers.read(out)
    nodes = {}
    for name, ids in ledger.scenes.items():
        done = [slot for slot in range(len(ids)) if ledger.holder(name, slot)]
        with out.reached():
            # Not `group=`, with which xarray looks for consolidated metadata in the root only.
            side = groups.tile(ledger.groups[name])
            masks = xr.open_zarr(out.zarr(f"{MASKS}/{name}"), chunks={"y": side, "x": side}, consolidated=True)
        del masks.attrs[groups.SCENES]  # Of all slots, in their own order
        complete = masks.isel(time=done)
        nodes[f"/{name}"] = complete.assign_coords(scene=("time", [ids[slot] for slot in done])).sortby("time")
    if not nodes:
        raise ContractError(f"{out} holds no masks", hint="`cloudjob run --out` makes some")
    return xr.DataTree.from_dict(nodes)
