"""What an item says of the product it was made of, wherever its publisher put it: tile, platform, version, time."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

# S2A_MSIL2A_20240601T101031_N0510_R022_T33UUQ_20240601T150000.SAFE; the Planetary Computer's ids lack the N0510.
# https://sentiwiki.copernicus.eu/web/s2-products (naming convention). ESA's sen2like (levels 2F and 2H) puts its own
# version there: it adds what ESA does from 04.00 on, too; before, its products had N9999, and nothing added.
_NAME = re.compile(
    r"(S2[A-D])_(MSIL(?:[12][ABC]|2[FH](?=_\w{15}_N0)))_(\d{8}T\d{6})(?:_N(\d{2})(\d{2}))?_(R\d{3}_T(\d{2}[A-Z]{3}))_(\d{8}T\d{6})"
)
_FOLDER = re.compile(_NAME.pattern + r"\.SAFE/")
_TILE = re.compile(r"(\d{1,2})([C-HJ-NP-X][A-HJ-NP-Z]{2})")
_BASELINE = re.compile(r"N?(0\d|99)\.?(\d{2})")  # A version of somebody else's may be a year
# In names that are cut short or stand in a path, and in those of a datastrip or a granule. Those of L1C tell what
# somebody else's product was made of (Digital Earth Australia's).
_INSIDE = re.compile(r"S2[A-D]_(?:MSIL2A_\d{8}T\d{6}|OPER_MSI_L2A_(?:DS|TL)_\w+)_N(\d{2})\.?(\d{2})(?!\d)")

# What an address tells, as a word of its own. A tile beside an S2A or with its T only: 04RED is one, too.
_WORDS = {
    "baselines": re.compile(r"(?<![A-Za-z\d])N(\d{2})\.?(\d{2})(?![A-Za-z\d])"),
    "tiles": re.compile(r"(?:(?<![A-Za-z\d])T|(?<=S2[A-D]_))(\d{2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?![A-Za-z\d])"),
    "days": re.compile(r"(?<![A-Za-z\d])(20\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?![A-SU-Za-su-z\d])"),
}


def tile(item: Mapping[str, Any]) -> str:
    """The MGRS tile as ESA writes it, such as "33UUQ" or "01KAB"; "" where the item does not tell."""
    told = item["properties"]
    zones = [
        f"{told[f'{prefix}:utm_zone']}{told.get(f'{prefix}:latitude_band')}{told.get(f'{prefix}:grid_square')}"
        for prefix in ("mgrs", "sentinel")
        if f"{prefix}:utm_zone" in told
    ]
    for code in (told.get("grid:code"), told.get("s2:mgrs_tile"), *zones, told.get("odc:region_code")):
        if found := _TILE.fullmatch(re.sub(r"^(MGRS-)?T?", "", (code or "").upper())):
            return f"{int(found[1]):02}{found[2]}"
    if named := _esa_name(item):
        return named[7]
    # HLS.S30.T33UUQ.2024153T101559.v2.0, and Earth Engine's 20240601T101031_20240601T101559_T33UUQ
    listed = re.search(r"[._-]T(\d{2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?:[._-]|$)", item["id"])
    return listed[1] if listed else ""


def platform(item: Mapping[str, Any]) -> str:
    """Such as "sentinel-2a", however it is written; "" where the item does not tell."""
    told = re.sub(r"[\s_]+", "-", item["properties"].get("platform", "").lower())
    if not told and (named := _esa_name(item)):
        told = named[1].lower()
    return re.sub(r"^s(entinel)?-?2-?([a-d])$", r"sentinel-2\2", told)


def baseline(item: Mapping[str, Any]) -> str:
    """ESA's processing baseline such as "05.10"; "" where the item tells none: another processor's version is none."""
    told = item["properties"]
    for name in ("s2:processing_baseline", "sentinel:processing_baseline"):
        if told.get(name):
            return str(told[name])
    if found := _BASELINE.fullmatch(told.get("processing:version", "")):
        return f"{found[1]}.{found[2]}"
    if (named := _esa_name(item)) and named[4]:
        return f"{named[4]}.{named[5]}"
    names = (told.get(name) for name in ("s2:product_uri", "sentinel:product_id", "s2:datastrip_id", "s2:granule_id"))
    inside = (_INSIDE.search(name or "") for name in (*names, item["id"], told.get("title")))
    found = next(filter(None, inside), None)
    return f"{found[1]}.{found[2]}" if found else ""


def release(baseline: str) -> tuple[int, ...]:
    """A processing baseline as numbers: (5, 10) of "05.10", "N0510", and what is left of it as a number: 5.1, 510."""
    found = re.match(r"\D*(\d+?)(?:\D(\d+)|(\d\d))?(?!\d)", baseline)
    return (int(found[1]), int((found[2] or found[3] or "").ljust(2, "0"))) if found else ()


def name(item: Mapping[str, Any]) -> str:
    """ESA's name of the product without what publishers leave out of it; "" where the item does not tell."""
    if named := _esa_name(item):
        return "_".join(named.group(1, 2, 3, 6, 8))
    return str(item["properties"].get("s2:product_uri", "")).removesuffix(".SAFE")


def generated(item: Mapping[str, Any]) -> str:
    """When the product was made (ISO 8601), or ""."""
    told = item["properties"]
    if not told.get("s2:generation_time") and (named := _esa_name(item)):
        return _compact(named[8])
    return str(told.get("s2:generation_time") or told.get("odc:processing_datetime") or "")


def sensing(item: Mapping[str, Any]) -> datetime | None:
    """The sensing time in a datastrip's name: …_DS_2BPS_20240601T101559_S20240601T100600_N05.10; UTC."""
    found = re.search(r"_S(\d{8}T\d{6})", item["properties"].get("s2:datastrip_id", ""))
    try:
        return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None


def day_doubt(item: Mapping[str, Any]) -> str | None:
    """What is to be told where an item's time is not within a day of what ESA's name of its product tells, or None.

    Some say when they listed it, or made it: its mask would lie at another time.
    """
    told = item["properties"].get("datetime")
    if not (told and (named := _esa_name(item))):
        return None
    try:
        said, day = datetime.fromisoformat(told).date(), datetime.fromisoformat(named[3]).date()
    except ValueError:  # A name that tells no day
        return None
    if abs(said - day) <= timedelta(1):
        return None
    return f"its datetime is of {said}, but its product's name of {day}: its mask lies at {said}, as the item says"


def told_by(href: str) -> dict[str, set[str]]:
    """What a file's address tells of the product that it is of: products by ESA's names, baselines, tiles, and days."""
    path = urlsplit(href).path
    words = {kind: {"".join(match.groups()) for match in each.finditer(path)} for kind, each in _WORDS.items()}
    return {"products": {match[0] for match in _NAME.finditer(path)}, **words}


def _esa_name(item: Mapping[str, Any]) -> re.Match[str] | None:
    told = item["properties"]
    for place in (told.get("s2:product_uri"), told.get("sentinel:product_id"), item["id"], told.get("title")):
        if found := _NAME.match(place or ""):
            return found
    # Of items that somebody made of ESA's own files nothing else may tell
    inside = (_FOLDER.search(asset["href"]) for asset in item.get("assets", {}).values())
    return next(filter(None, inside), None)


def _compact(stamp: str) -> str:
    """20240601T150000 as ISO 8601."""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:]}Z"
