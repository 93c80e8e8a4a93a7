"""Masks of scenes, days and longer times as Cloud-Optimized GeoTIFFs, coloured, for QGIS and its like."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import numpy as np

from cloudjob.catalog.dates import parse_dates
from cloudjob.classes import CLEAR, CLOUD, NO_DATA, SHADOW, THIN_CLOUD, Class
from cloudjob.errors import SceneError, UsageError, did_you_mean, unwritten
from cloudjob.store import cog, listing
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.out import Out


@dataclass(frozen=True)
class Exported:
    """One file that was written.

    Attributes:
        path: of the file; beside it lies `.aux.xml` with the classes' names, which GDAL and QGIS read.
        scenes: ids of the scenes in it.
    """

    path: Path
    scenes: tuple[str, ...]


def export(out: Out, what: str | None, path: str | Path, *, group: Collection[str] = ()) -> Iterator[Exported]:
    """Write masks that are done to GeoTIFFs: (y, x) uint8, in the values of the masks.

    A scene is one file, and so is each day of each group. Where several scenes of a day overlap, a pixel that is cloud
    in one of them is cloud, else thin cloud, else shadow, else clear, else no data.

    Args:
        what: a scene's id; a day, month or interval as `--dates` takes them (UTC); None for every scene, a file each.
        path: of the file to write, replaced at once where it exists; a folder where there are several.
        group: only of these groups, or of all windows of these tiles.

    Yields:
        The files, as they are written.

    Raises:
        UsageError: there is no such scene, day or group, there are several and `path` is no folder, or a file cannot be
            written.
        SceneError: at the end, if a mask is damaged: its file is not written.
        UnreachableError: the store does not answer, or the disk is full: what was there before stays.
    """
    ledger = ledgers.read(out)
    wanted = {each for name in group for each in listing.groups_like(ledger, name)}
    ledger.say_damage(wanted)
    files = _files(out, ledger, what, wanted)
    values, damaged = cog.values(out), list[SceneError]()
    for target, chosen in _targets(files, what, Path(path)).items():
        try:
            mosaic = _mosaic(out, chosen)
        except SceneError as error:
            damaged.append(error)
            continue
        _write(target, cog.encode(mosaic, *cog.place(ledger, chosen[0].group), values), values)
        yield Exported(target, tuple(entry.id for entry in chosen))
    cog.tell(damaged)


def _files(out: Out, ledger: Ledger, what: str | None, wanted: Collection[str]) -> dict[str, list[Done]]:
    """Name of each file → the scenes in it, by time."""
    within = [entry for entry in ledger.by_time if not wanted or entry.group in wanted]
    named = f" in {', '.join(sorted(wanted))}" if wanted else ""
    if what is None:
        if not within:
            raise UsageError(f"{out} holds no mask{named}")
        return {entry.id: [entry] for entry in within}
    if what in ledger.done:
        return {what: [ledger.done[what]]}
    if what in ledger.failures:
        raise UsageError(f"scene {what} has no mask: it failed: {ledger.failures[what].reason}")
    if not what[:1].isdecimal():
        raise UsageError(
            f"{out} has no mask of a scene {what}",
            hint=f"{did_you_mean(what, ledger.done)} (or a day such as 2024-06-01)",
        )
    interval = parse_dates(what, datetime.now(UTC).date())
    files: dict[str, list[Done]] = {}
    for entry in within:
        if interval.touches(datetime.fromisoformat(entry.time)):
            files.setdefault(f"{entry.time[:10]}_{entry.group}", []).append(entry)
    if not files:
        raise UsageError(f"{out} has no mask of {what}{named}", hint="`cloudjob list` shows what there is")
    return files


def _targets(files: dict[str, list[Done]], what: str | None, path: Path) -> dict[Path, list[Done]]:
    """Path of each file → the scenes in it: in a folder, which is made, unless there can only be one."""
    if len(files) == 1 and not path.is_dir() and what is not None:
        (only,) = files.values()
        return {path: only}
    if path.suffix in (".tif", ".tiff") or path.is_file():
        told = ", ".join(sorted(files)[:3]) + (" …" if len(files) > 3 else "")
        hint = "choose one with --group" if len({chosen[0].time[:10] for chosen in files.values()}) == 1 else None
        raise UsageError(f"{what} makes {len(files)} files ({told}), and {path} is no folder", hint=hint)
    if not path.is_dir() and path.parent.is_dir():
        try:
            path.mkdir()
        except OSError as error:
            raise unwritten(f"{path} cannot be made", error) from None
    return {path / f"{quote(name, safe='')}.tif": chosen for name, chosen in files.items()}


def _mosaic(out: Out, chosen: list[Done]) -> groups.Mask:
    # How much each value tells, so that the one that tells most wins.
    rank = np.zeros(256, np.uint8)
    rank[[NO_DATA, CLEAR, SHADOW, THIN_CLOUD, CLOUD]] = 1, 2, 3, 4, 5
    mosaic = cog.read(out, chosen[0])
    for entry in chosen[1:]:
        mask = cog.read(out, entry)
        mosaic = np.where(rank[mask] > rank[mosaic], mask, mosaic)
    return mosaic


def _write(path: Path, data: bytes, values: Sequence[Class]) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder, so {path.name} cannot be written there")
    files = {path.with_name(f"{path.name}.aux.xml"): _category_names(values).encode(), path: data}
    unfinished = {each: each.with_name(f".{each.name}.{os.getpid()}{each.suffix}") for each in files}
    try:
        try:
            for each, content in files.items():
                unfinished[each].write_bytes(content)
            for each in files:
                unfinished[each].replace(each)
        finally:
            for each in unfinished.values():
                each.unlink(missing_ok=True)  # On a read-only file system that, too, is an error
    except OSError as error:
        raise unwritten(f"{path} cannot be written", error) from None


def _category_names(values: Sequence[Class]) -> str:
    """GDAL's side file with the classes' names, which QGIS puts into the legend; GeoTIFF has no place for them."""
    names = {value: name for value, name, _ in values}
    rows = "".join(f"<Category>{names.get(value, '')}</Category>" for value in range(256))
    return f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{rows}</CategoryNames></PAMRasterBand></PAMDataset>\n'
