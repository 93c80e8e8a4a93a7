"""What an item says of one asset: where it lies, which band it is, its grid and numbers."""

from collections.abc import Mapping
from typing import Any

from cloudjob.catalog import values
from cloudjob.catalog.values import UnreadableError, shown

MAX_KEY = 100
MAX_HREF = 4000
_SHARED = ("data_type", "nodata", "raster:scale", "raster:offset")


def check_key(key: str) -> None:
    """Refuse a name of an asset that is none.

    Raises:
        UnreadableError: it is empty, very long, or holds what cannot be printed.
    """
    if not key or len(key) > MAX_KEY or not key.isprintable():
        raise UnreadableError(f"one of its assets is named {shown(key)}; expected up to {MAX_KEY} printable letters")


def read(key: str, told: Any) -> dict[str, Any]:
    """What every asset must have, what tells which band it is, and why `item.parse` has refused what else it says.

    Raises:
        UnreadableError: its href is none.
    """
    if not isinstance(told, dict) or not isinstance(told.get("href"), str) or not told["href"]:
        raise UnreadableError(f"its asset {key} has no href, which STAC demands of every asset")
    if len(told["href"]) > MAX_HREF:
        says = f"{shown(told['href'])}, {len(told['href'])} letters long"
        raise UnreadableError(f"its asset {key} lies at {says}; expected at most {MAX_HREF}")
    if not told["href"].isprintable():
        raise UnreadableError(f"its asset {key} lies at {shown(told['href'])}, which is no address")
    kept = {"href": told["href"], "bands": _bands(told)}
    if isinstance(told.get("refused"), str):
        kept["refused"] = told["refused"][:1000]
    if isinstance(told.get("type"), str):
        kept["type"] = told["type"][:200]
    if isinstance(told.get("roles"), list):
        kept["roles"] = [str(role)[:40] for role in told["roles"][:10] if isinstance(role, str)]
    if isinstance(told.get("gsd"), int | float) and 0 < told["gsd"] < 1e6:
        kept["gsd"] = told["gsd"]
    return {name: value for name, value in kept.items() if value}


def _bands(told: Mapping[str, Any]) -> list[dict[str, str]]:
    """Names of an asset's bands, which help to find it: STAC 1.1's `bands`, else `eo:bands` of the eo extension 1.x.

    Of one band the asset itself may tell the common name (eo extension 2).
    """
    for name in ("bands", "eo:bands"):
        listed = told.get(name)
        if isinstance(listed, list) and listed:
            each = [band if isinstance(band, dict) else {} for band in listed[:50]]
            return [
                {
                    "name": _short(band.get("name")),
                    "eo:common_name": _short(band.get("eo:common_name") or band.get("common_name")),
                }
                for band in each
            ]
    alone = _short(told.get("eo:common_name"))
    return [{"name": "", "eo:common_name": alone}] if alone else []


def _short(value: Any) -> str:
    return value[:40] if isinstance(value, str) else ""


def numbers(told: Mapping[str, Any], of_item: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What an asset says of its grid and numbers: STAC 1.1, else the raster extension of STAC 1.0.

    Args:
        told: the asset.
        of_item: the item's properties, which say it where the asset does not (common metadata of STAC 1.1, and the
            raster extension's version 2).

    Raises:
        UnreadableError: it says what cannot be.
    """
    found: dict[str, Any] = {}
    shared = {name: value for name, value in (of_item or {}).items() if name in _SHARED}
    first = (band for name in ("raster:bands", "bands") for band in values.records(told.get(name), name)[:1])
    for each in (shared, *first, told):
        for name in ("data_type", "nodata"):
            found |= {name: each[name]} if each.get(name) is not None else {}
        for name in ("scale", "offset"):
            stated = each.get(f"raster:{name}", each.get(name))
            if (value := values.number(stated, name, -1e6, 1e6)) is not None:
                found[f"raster:{name}"] = value
    kind = values.text(found.get("data_type"), "data_type", longest=20)
    kept = {
        **found,
        "data_type": kind and kind.lower(),  # GDAL writes UInt16
        "nodata": values.nodata(found.get("nodata")),
        "file:checksum": values.text(told.get("file:checksum"), "file:checksum"),
        **projection(told),
    }
    return {name: value for name, value in kept.items() if value is not None}


def projection(told: Mapping[str, Any]) -> dict[str, Any]:
    """What an item or an asset says of its grid, without what it says is null."""
    code, epsg = values.text(told.get("proj:code"), "proj:code"), told.get("proj:epsg")
    if isinstance(epsg, str) and epsg.upper().startswith("EPSG:"):
        code, epsg = code or values.text(epsg, "proj:epsg"), None
    shape = values.numbers(told.get("proj:shape"), "proj:shape", (2,)) or []
    transform = values.numbers(told.get("proj:transform"), "proj:transform", (6, 9))
    kept = {
        "proj:epsg": values.whole(epsg, "proj:epsg", 1, 999_999),
        "proj:code": code,
        "proj:shape": [values.whole(side, "proj:shape", 1, 10**12) for side in shape],
        "proj:transform": transform,
    }
    return {name: value for name, value in kept.items() if value}
