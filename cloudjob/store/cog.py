"""Masks as Cloud-Optimized GeoTIFFs, coloured: as bytes, and beside the items of an OUT as an asset of each."""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from affine import Affine
from rasterio.io import MemoryFile

from cloudjob import classes
from cloudjob.classes import BINARY, CLASSES, COLOURS, NOT_COMPUTED, Class
from cloudjob.store import folder, settings, stac
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

FOLDER = "cogs"
ASSET = "mask"
"""Key of the asset."""

MEDIA_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"


def encode(mask: groups.Mask, crs: str, transform: Affine, values: Sequence[Class] = CLASSES) -> bytes:
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


def read(out: Out, entry: Done) -> groups.Mask:
    """A finished scene's mask (y, x) uint8."""
    array = groups.open_array(out, entry.group, "cloud")
    with out.reached():
        return np.asarray(array[entry.slot], np.uint8)


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
    return f"{FOLDER}/{group}/{quote(scene_id, safe='')[:200]}.tif"


def attach(lock: Lock) -> Iterator[str]:
    """Write the COG of every finished scene that has none, and name it in the scene's item.

    The item is changed when the whole file is in place. A scene that is made anew gets a new item, which knows of no
    COG until the next call. Files of scenes that are gone are deleted.

    Args:
        lock: of an OUT.

    Yields:
        Path of each file written.

    Raises:
        UnreachableError: the store does not answer, or the lock is lost.
    """
    out, ledger = lock.out, ledgers.read(lock.out)
    there = set(out.tags(FOLDER))
    for entry in sorted(ledger.done.values(), key=lambda entry: (entry.time, entry.id)):
        item, file = out.get_json(entry.path), path(entry.group, entry.id)
        if not item or (ASSET in item["assets"] and file in there):
            continue
        crs, transform = place(ledger, entry.group)
        data = encode(read(out, entry), crs, transform, values(out))
        lock.check()
        out.put(file, data)
        item["assets"][ASSET] = asset(f"../../{file}", item)
        lock.check()
        out.put_json(entry.path, item)
        yield file
    lock.check()
    gone = there - {path(entry.group, entry.id) for entry in ledger.done.values()}
    out.delete(filter(folder.is_cog, gone))  # What somebody else put there stays
    contract, ledger = settings.read(out), ledgers.refresh(out)
    if contract:
        stac.write(out, contract, ledger)


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
