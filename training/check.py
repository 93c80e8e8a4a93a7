"""What is looked at before a training or a measurement begins: all patches, so that no fault waits for a night."""

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cloudjob.errors import ContractError, UsageError
from cloudjob.model.contract import Contract
from training.patch import CLEAR, CLOUD, UNKNOWN, Patch, any_of, opened

DARKEST, BRIGHTEST = 0.06, 1.6
"""Mean visible reflectance of all that a data set calls cloud: 0.2 to 0.8 by sensor and sun; 10 times that is wrong."""
SHOWN = 3  # faults that are told in full
Totals = npt.NDArray[np.float64]
"""(clear, cloud, unknown) × (pixels, sum of their reflectance)."""
SCALES = "of chips the file's own scale goes before 0.0016: gdal_edit.py -scale 0.0001 FILE"


def look(
    patches: Sequence[Patch], folders: Sequence[Path], taught: Collection[str] = (), *, learnt: bool = True
) -> set[str]:
    """Read all patches; say of each data set how much of it is cloud, and how bright that is.

    Args:
        patches: of any data sets.
        folders: of the data sets.
        taught: patterns of scenes whose target the teacher has a say in (`settings.Data.taught`): it may see cloud.
        learnt: whether a network is to learn from them, for which there must be cloud somewhere.

    Returns:
        Names of the patches whose labels hold cloud, or whose teacher may see some.

    Raises:
        ContractError: some cannot be read, or their parts do not fit together; the first are named.
        UsageError: of what is learnt from: there is no cloud, a data set's labels hold 255 and no cloud, or its clouds
            are too dark or too bright to be any.
    """
    faults: list[ContractError] = []
    cloudy: set[str] = set()
    labels: dict[str, int] = defaultdict(int)
    totals: dict[str, Totals] = defaultdict(lambda: np.zeros((3, 2)))
    above = [f"{os.path.abspath(folder)}{os.sep}" for folder in folders]  # noqa: PTH100  (links stay as they are)
    for patch in tqdm(patches, "looking at patches", mininterval=5, leave=False):
        try:
            reflectance, label = patch.read()
            _one_place(patch)
        except ContractError as error:
            faults.append(error)
            continue
        path = patch.layers[0].path
        visible = reflectance[:3].mean(axis=0)
        median = float(np.median(visible[visible != 0])) if visible.any() else 0.0
        if median > Contract.brightest:
            faults.append(
                ContractError(f"{path} has a median reflectance of {median:.3g}; expected 0 to 1", hint=SCALES)
            )
        elif any_of(patch.scene, taught):
            cloudy.add(patch.name)
        elif patch.label and not patch.clear:
            folder = next((each for each in above if str(path).startswith(each)), str(path.parent))
            labels[folder] += 1
            places = label == CLEAR, label == CLOUD, (label == UNKNOWN) & (visible != 0)
            totals[folder] += [[where.sum(), visible[where].sum(dtype=np.float64)] for where in places]
            if (label == CLOUD).any():
                cloudy.add(patch.name)
    if faults:
        said = "; ".join(str(fault) for fault in faults[:SHOWN])
        raise ContractError(f"{len(faults)} of {len(patches)} patches cannot be used: {said}", hint=faults[0].hint)
    for folder, total in totals.items():
        if learnt and not total[1, 0] and (total[2, 0] or not cloudy):
            raise UsageError(
                f"none of the {labels[folder]} labels of {folder} holds cloud",
                hint="0 is clear, 1 is cloud (in 38-Cloud 255), 255 is unknown; data.clear names scenes without cloud",
            )
        _tell(folder, labels[folder], total, learnt=learnt)
    return cloudy


def _tell(folder: str, labels: int, total: Totals, *, learnt: bool) -> None:
    (clear, light), (cloud, cloudlight), _ = total
    if not cloud:
        click.echo(f"{folder}: {labels} labels, no cloud", err=True)
        return
    ground, bright = light / max(clear, 1), cloudlight / cloud
    if not DARKEST < bright < BRIGHTEST:
        told = f"the clouds of {folder} have a mean reflectance of {bright:.2g}; expected {DARKEST} to {BRIGHTEST}"
        hint = f"is it scaled as the table of training/README.md says, and is 1 cloud? {SCALES}"
        if learnt:
            raise UsageError(told, hint=hint)
        click.echo(f"warning: {told}; {hint}", err=True)  # A few scenes may be of haze over water
    share = 100 * cloud / (clear + cloud)
    click.echo(
        f"{folder}: {labels} labels, {share:.1f} % cloud, of reflectance {bright:.2f}; the rest {ground:.2f}", err=True
    )
    if ground > bright:
        click.echo("warning: what the labels call cloud is darker than the rest: is 1 cloud in them?", err=True)


def _one_place(patch: Patch) -> None:
    """Raise where the files of a patch say themselves that they do not lie on each other.

    Raises:
        ContractError: the label has several bands, or another place or pixel size than a band.
    """
    files = dict.fromkeys([layer.path for layer in patch.layers] + ([patch.label] if patch.label else []))
    first = None
    for path in files:
        with opened(path) as raster:
            if path == patch.label and raster.count > 1:
                raise ContractError(f"{path} has {raster.count} bands; expected one of 0, 1 and 255")
            here = raster.crs, raster.transform, raster.bounds
            if raster.crs is None or raster.transform.is_identity:
                continue
        first = first or (path, *here)
        apart = np.abs(np.subtract(here[2], first[3])).max()
        if here[0] != first[1] or apart > abs(first[2].a):
            raise ContractError(
                f"{path} lies elsewhere than {first[0]}: {here[0]}, {tuple(here[1])[:6]}, not {first[1]}, "
                f"{tuple(first[2])[:6]}",
                hint="all bands and the mask of a patch must lie on one grid: gdalwarp puts a mask on an image's",
            )
