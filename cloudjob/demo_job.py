"""`cloudjob demo`: the main job on a small simulated catalog, and how well its masks fit the truth."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
from distributed import Client

from cloudjob import job, logs, show, store
from cloudjob.demo import collection
from cloudjob.errors import DONE
from cloudjob.predict import CLOUD, NO_DATA
from cloudjob.request import request

NEXT = """
Now try
  {bin}cloudjob status {masks}
  {bin}cloudjob report {masks}
  {bin}cloudjob export {masks} {scene} mask.tif
  {bin}python -c "import xarray; print(xarray.open_zarr('{masks}/masks.zarr/{group}'))"
"""


def run(out: Path, connect: Callable[[], AbstractContextManager[Client]]) -> int:
    """Make the catalog in `out`/catalog unless it is there, mask it into `out`/masks, and print how well it fits.

    Returns:
        The exit code.
    """
    items = out / "catalog" / "items.json"
    if not items.exists():
        logs.say(f"simulating scenes in {items.parent}", "demo")
        collection(items.parent)
    found = json.loads(items.read_text(encoding="utf-8"))["features"]
    wests, souths, easts, norths = zip(*(item["bbox"] for item in found), strict=True)
    bbox = (min(wests), min(souths), max(easts), max(norths))
    asked = request(bbox=bbox, dates="2000/..", out=out / "masks", catalog=items)
    code = show.progress(job.run(asked, connect), as_json=False)
    if code != DONE:
        return code  # The scenes that failed have been named
    masks = store.open_masks(asked.out)
    click.echo(f"{'scene':32} {'cloud':>7} {'truth':>7} {'agreement':>10} {'IoU':>6}")
    for item in found:
        group, mask = _mask(masks, item["id"])
        with rasterio.open(items.parent / item["assets"]["truth"]["href"]) as file:
            truth = file.read(1)
        click.echo(f"{item['id']:32} " + _fit(mask, truth))
    logs.say(NEXT.format(bin=_folder(), masks=asked.out, scene=found[0]["id"], group=group), "demo")
    return code


def _folder() -> str:
    """What stands before `cloudjob` where the shell would not find it, such as ".venv/bin/"."""
    own = Path(sys.argv[0])
    return "" if own.name != "cloudjob" or shutil.which("cloudjob") == str(own.absolute()) else f"{own.parent}/"


def _mask(masks: xr.DataTree, scene: str) -> tuple[str, npt.NDArray[np.uint8]]:
    """The group and the mask (y, x) of a scene."""
    for name, node in masks.children.items():
        ids = list(node.dataset["scene"].values)
        if scene in ids:
            return name, node.dataset["cloud"][ids.index(scene)].values
    raise KeyError(scene)


def _fit(mask: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> str:
    """Cloud share of both, how many pixels agree, and intersection over union of the clouds."""
    labelled = (mask <= CLOUD) & (truth <= CLOUD)
    ours, theirs = mask[labelled] == CLOUD, truth[labelled] == CLOUD
    iou = f"{(ours & theirs).sum() / (ours | theirs).sum():6.3f}" if theirs.any() else "     –"
    same = "no data fits" if ((mask == NO_DATA) == (truth == NO_DATA)).all() else "NO DATA DIFFERS"
    return f"{ours.mean():7.1%} {theirs.mean():7.1%} {(ours == theirs).mean():10.1%} {iou}  {same}"
