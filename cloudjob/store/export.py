"""One scene's or one day's mask as a Cloud-Optimized GeoTIFF, coloured, for QGIS and its like."""

import os
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from cloudjob import classes
from cloudjob.classes import BINARY, CLEAR, CLOUD, COLOURS, NO_DATA, NOT_COMPUTED, SHADOW, THIN_CLOUD, Class
from cloudjob.errors import UsageError
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store import settings
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.out import Out


def export(out: Out, what: str, path: str | Path, *, group: str | None = None) -> list[str]:
    """Write masks that are done to one GeoTIFF: (y, x) uint8, in the values of the masks.

    Where several scenes of a day overlap, a pixel that is cloud in one of them is cloud, else thin cloud, else shadow,
    else clear, else no data.

    Args:
        out: the output.
        what: a scene's id, or a day such as 2024-06-01 (UTC).
        path: of the file to write; replaced, at once, where it exists.
        group: which group's day, when more than one has scenes of it.

    Returns:
        Ids of the scenes in the file.

    Raises:
        UsageError: there is no such scene or day, it is in several groups, or the file cannot be written.
        UnreachableError: the store does not answer.
    """
    ledger = ledgers.read(out)
    chosen = _choose(out, ledger, what, group)
    attributes = ledger.groups[chosen[0].group]["attributes"]
    contract = settings.read(out)
    values = classes.of(contract.classes if contract else BINARY)
    _write(Path(path), values, _mosaic(out, chosen), attributes["proj:code"], Affine(*attributes["spatial:transform"]))
    return [entry.id for entry in chosen]


def _choose(out: Out, ledger: Ledger, what: str, group: str | None) -> list[Done]:
    if what in ledger.done:
        return [ledger.done[what]]
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", what):
        if what in ledger.failures:
            raise UsageError(f"scene {what} has no mask: it failed: {ledger.failures[what].reason}")
        raise UsageError(f"{out} has no mask of a scene {what}", hint="give a scene's id or a day such as 2024-06-01")
    try:
        day = date.fromisoformat(what).isoformat()
    except ValueError:
        raise UsageError(f"{what} is in no calendar") from None
    chosen = [entry for entry in ledger.done.values() if entry.time[:10] == day and group in (None, entry.group)]
    found = sorted({entry.group for entry in chosen})
    if not found:
        raise UsageError(f"{out} has no mask of {day}" + (f" in group {group}" if group else ""))
    if len(found) > 1:
        raise UsageError(
            f"{day} has masks in {len(found)} groups: {', '.join(found)}", hint="choose one of them with --group"
        )
    return sorted(chosen, key=lambda entry: (entry.time, entry.id))


def _mosaic(out: Out, chosen: list[Done]) -> groups.Mask:
    array = groups.open_array(out, chosen[0].group, "cloud")
    # How much each value tells, so that the one that tells most wins.
    rank = np.zeros(256, np.uint8)
    rank[[NO_DATA, CLEAR, SHADOW, THIN_CLOUD, CLOUD]] = 1, 2, 3, 4, 5
    with out.reached():
        mosaic = np.asarray(array[chosen[0].slot], np.uint8)
        for entry in chosen[1:]:
            mask = np.asarray(array[entry.slot], np.uint8)
            mosaic = np.where(rank[mask] > rank[mosaic], mask, mosaic)
    return mosaic


def _write(path: Path, values: Sequence[Class], mask: groups.Mask, crs: str, transform: Affine) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder, so {path.name} cannot be written there")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tif")
    try:
        with rasterio.open(
            unfinished,
            "w",
            driver="COG",
            height=mask.shape[0],
            width=mask.shape[1],
            count=1,
            dtype="uint8",
            nodata=NOT_COMPUTED,
            crs=crs,
            transform=transform,
            compress="DEFLATE",
            overview_resampling="NEAREST",  # Averages of classes are none
        ) as file:
            file.write(mask, 1)
            file.write_colormap(1, {value: COLOURS[value] for value, _, _ in values})
            file.set_band_description(1, "cloud mask")
            file.update_tags(1, **{f"{value}": name for value, name, _ in values})
        path.with_name(f"{path.name}.aux.xml").write_text(_category_names(values), encoding="utf-8")
        unfinished.replace(path)
    except (OSError, rasterio.errors.RasterioError) as error:
        raise UsageError(f"{path} cannot be written: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _category_names(values: Sequence[Class]) -> str:
    """GDAL's side file with the classes' names, which QGIS puts into the legend; GeoTIFF has no place for them."""
    names = {value: name for value, name, _ in values}
    rows = "".join(f"<Category>{names.get(value, '')}</Category>" for value in range(256))
    return f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{rows}</CategoryNames></PAMRasterBand></PAMDataset>\n'
