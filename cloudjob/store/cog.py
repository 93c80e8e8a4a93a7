"""Masks as Cloud-Optimized GeoTIFFs, coloured: as bytes, and beside the items of an OUT as an asset of each."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from cloudjob import classes
from cloudjob.classes import BINARY, COLOURS, NOT_COMPUTED, Class
from cloudjob.errors import ContractError, SceneError
from cloudjob.store import check, folder, settings, stac
from cloudjob.store import group as groups
from cloudjob.store import item as items
from cloudjob.store import ledger as ledgers
from cloudjob.store.check import Fault
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

FOLDER = "cogs"
ASSET = "mask"
"""Key of the asset."""

MEDIA_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"


def encode(mask: groups.Mask, crs: str, transform: Affine, values: Sequence[Class]) -> bytes:
    """A mask (y, x) uint8 as a COG: palette, band's name, classes as tags; 255 is its no data."""
    with MemoryFile() as memory:
        with memory.open(
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
        return bytes(memory.read())


def read(out: Out, entry: Done, rows: slice = slice(None), columns: slice = slice(None)) -> groups.Mask:
    """Rows and columns of a finished scene's mask (y, x) uint8: all of it, unless given.

    Raises:
        SceneError: it is damaged.
    """
    try:
        with out.reached():
            return np.asarray(groups.open_array(out, entry.group, "cloud")[entry.slot, rows, columns], np.uint8)
    except check.WRONG as error:
        raise SceneError(f"scene {entry.id}: its mask cannot be read: {check.told(error)}") from None


def faults(out: Out) -> Iterator[Fault]:
    """Files that items name and that are not their scenes' masks, to the last pixel; nothing is written."""
    ledger = ledgers.read(out)
    for entry in sorted(ledger.done.values(), key=lambda entry: (entry.group, entry.slot)):
        try:
            named = ASSET in out.get_json(entry.path)["assets"]
            mask = read(out, entry) if named else None
        except (*check.WRONG, SceneError):  # `check.check` tells of these
            continue
        if mask is None:
            continue
        file = path(entry.group, entry.id)
        try:
            data = out.get(file)
        except ContractError as error:  # A folder lies there, or a link
            yield Fault(file, str(error), "by hand", entry.id)
            continue
        if what := _fault(data, mask, place(ledger, entry.group)[1]):
            yield Fault(file, what, "rebuild", entry.id)


def _fault(data: bytes | None, mask: groups.Mask, transform: Affine) -> str:
    if not data:
        return "it is missing, or empty; its item names it"
    try:
        with warnings.catch_warnings(), MemoryFile(data) as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(driver="GTiff") as found:
                same = found.shape == mask.shape and found.transform.almost_equals(transform)
                same = same and np.array_equal(found.read(1), mask)
    except (RasterioError, *check.WRONG):
        return "it cannot be read as a GeoTIFF"
    return "" if same else "its pixels are not the mask's"


def restore(lock: Lock, scene: str) -> str:
    """Write a scene's COG anew; what has become of it, "" where there is no mask to make it of."""
    ledger = ledgers.read(lock.out)
    entry = ledger.done.get(scene)
    if not entry:
        return ""
    try:
        data = encode(read(lock.out, entry), *place(ledger, entry.group), values(lock.out))
    except SceneError:
        return ""
    lock.check()
    lock.out.put(path(entry.group, entry.id), data)
    return "made anew from its mask"


def tell(damaged: Sequence[SceneError]) -> None:
    """Say at the end which masks could not be read: they cost no other.

    Raises:
        SceneError: there are some.
    """
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        hint = "`cloudjob check OUT --repair`, and the next run masks it again; all else is written"
        raise SceneError(f"{damaged[0]}{more}", hint=hint)


def values(out: Out) -> tuple[Class, ...]:
    """The values that the masks of an OUT can hold."""
    contract = settings.read(out)
    return classes.of(contract.classes if contract else BINARY)


def place(ledger: Ledger, group: str) -> tuple[str, Affine]:
    """A group's coordinate reference system and the transform of its pixels."""
    attributes = ledger.groups[group]["attributes"]
    return attributes["proj:code"], Affine(*attributes["spatial:transform"])


def path(group: str, scene_id: str) -> str:
    """Where in an OUT a scene's COG lies."""
    return f"{FOLDER}/{group}/{items.file_name(scene_id).removesuffix('.json')}.tif"


def attach(lock: Lock) -> Iterator[str]:
    """Write the COG of every finished scene that has none, and name it in the scene's item.

    The item is changed when the whole file is in place. A scene that is made anew gets a new item, which knows of no
    COG until the next call. Files of scenes that are gone are deleted.

    Yields:
        Path of each file written.

    Raises:
        SceneError: at the end, if a mask is damaged.
    """
    out, ledger = lock.out, ledgers.read(lock.out, named=())
    ledger.say_damage()
    there, labels, damaged = set(out.tags(FOLDER)), values(out), list[SceneError]()
    for entry in ledger.by_time:
        item, file = out.get_json(entry.path), path(entry.group, entry.id)
        if not item or (ASSET in item["assets"] and file in there):
            continue
        try:
            data = encode(read(out, entry), *place(ledger, entry.group), labels)
        except SceneError as error:
            damaged.append(error)
            continue
        lock.check()
        out.put(file, data)
        item["assets"][ASSET] = asset(f"../../{file}", item)
        lock.check()
        out.put_json(entry.path, item)
        yield file
    lock.check()
    if not ledger.damaged:  # Else nobody knows of which scenes they are
        gone = there - {path(entry.group, entry.id) for entry in ledger.done.values()}
        out.delete(filter(folder.is_cog, gone))  # What somebody else put there stays
    contract, ledger = settings.read(out), ledgers.refresh(out)
    if contract:
        stac.write(out, contract, ledger)
    tell(damaged)


def asset(href: str, item: dict[str, Any]) -> dict[str, Any]:
    """The asset of a COG, with the classes of the Zarr array that it was made of."""
    return {
        "href": href,
        "type": MEDIA_TYPE,
        "title": "Cloud mask as a Cloud-Optimized GeoTIFF",
        "roles": ["data", "cloud"],
        "data_type": "uint8",
        "nodata": NOT_COMPUTED,
        "classification:classes": item["assets"]["cloud"]["classification:classes"],
    }
