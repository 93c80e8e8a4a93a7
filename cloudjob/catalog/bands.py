"""Which asset of an item is which band: by its key, else by the common name it says and the size of its pixels."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from cloudjob.errors import SceneError

COMMON = ("red", "green", "blue", "nir", "swir16", "scl")
"""Common names (STAC's eo extension) that a job may ask for; "scl" is the scene classification, which has none."""

OPTIONAL = frozenset({"swir16", "scl"})
"""Bands that a scene may lack."""

# ESA's names, and Digital Earth Australia's. B08 is the near infrared of 10 m; B8A and nir08 are other bands.
_NAMES = {
    "red": r"B04|nbart_red",
    "green": r"B03|nbart_green",
    "blue": r"B02|nbart_blue",
    "nir": r"B08|nbart_nir_1",
    "swir16": r"B11|nbart_swir_2",
}
# With the size of its pixels, and as a file's name, whose date makes it another key in every item.
_NAMED = r"(?i)(?:.*20\d\d.*[._-])?(?:{})(?:[_-]\d0m)?(?:\.tiff?|\.jp2)?"
_WORD = r"(?i)(?:^|[^a-z\d])(?:{})(?:[^a-z\d]|$)"
# Among Landsat's bands B11 is thermal infrared (HLS L30), and nbart_swir_2 has 2.2 µm: Landsat has none of these.
_SENTINEL_2 = re.compile(_WORD.format("B08|B8A|B12|nbart_nir_1"))
# Copies of ESA's files in JPEG 2000, for which who reads them pays. One in 200 of Earth Search's items has these alone
# (Element84/earth-search#79): a guess makes nobody pay, nor ends every night's run because there are no keys.
_PAID = ("s3://sentinel-s2-l1c/", "s3://sentinel-s2-l2a/")
# The narrow near infrared of 20 m, which some say is "nir": the broad one is B08.
_NARROW = re.compile(_WORD.format("B8A"))
# Roles of STAC's best practices: of pictures, and of what is said of pixels, which may go by the name of its band.
_NOT_DATA = {
    *("overview", "thumbnail", "visual", "graphic", "metadata", "date", "noise-power", "saturation"),
    *("data-mask", "snow-ice", "land-water", "water-mask", "cloud", "cloud-shadow", "terrain-shadow"),
    *("incidence-angle", "azimuth", "sun-azimuth", "sun-elevation"),
}
# ESA's name of a band at the end of a file's. HLS's of Landsat are the same for these, USGS's have no nought.
_FILE = re.compile(r"(?:^|[_./-])(B0[2348]|B8A)(?:_\d0m)?\.(?:tiff?|jp2)$")
# B4 is red here, and near infrared of Landsat 5 and 7: only Sentinel-2 has such a band beside it.
_UNPADDED = re.compile(_WORD.format("B8A|B12"))


def find(assets: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str]) -> dict[str, str]:
    """Find bands among an item's assets.

    Args:
        assets: key → asset, as `item.parse` leaves it: `bands` with `name` and `eo:common_name`, `gsd`, `type`.
        wanted: band → key of its asset. A band whose key is its own common name is looked for where no asset has that
            key: among those that say the common name, and among the usual keys.

    Returns:
        Band → key, without the bands that are not there or for which two assets are equally likely.
    """
    found = {}
    for band, key in wanted.items():
        if key in assets:
            found[band] = key
        elif key == band and (likely := candidates(assets, band)) and len(likely) == 1:
            found[band] = likely[0]
    return found


def stands_for(name: str) -> str | None:
    """The band that a name such as B04 or NIR stands for, or None where that may be another one."""
    for band, names in _NAMES.items():
        if re.fullmatch(_NAMED.format(f"{band}|{names}"), name):
            return band
    return None


def contradiction(band: str, key: str, asset: Mapping[str, Any]) -> str:
    """What says of an asset that it is another band than the one it was found for, in words; "" if nothing does."""
    if band not in _NAMES:
        return ""
    common = _common_names(asset) - {""}
    file = _FILE.search(asset["href"].partition("?")[0])
    others = {
        "key": stands_for(key),
        "common name": min(common) if len(common) == 1 and common <= _NAMES.keys() else None,
        "band's name": next((name for name in _called(key, asset)[1:] if _NARROW.search(name)), None),
        "file's name": file and (stands_for(file[1]) or file[1]),
    }
    return ", ".join(f"its {what} that of {other}" for what, other in others.items() if other not in (None, band))


def candidates(assets: Mapping[str, Mapping[str, Any]], band: str) -> list[str]:
    """Keys of the assets that may be a band: those of the finest pixels, and of them cloud-optimized files."""
    data = {key: asset for key, asset in assets.items() if _is_data(asset) and not asset["href"].startswith(_PAID)}
    if band == "nir":
        data = {key: asset for key, asset in data.items() if not any(map(_NARROW.search, _called(key, asset)))}
    said = [key for key, asset in data.items() if _common_names(asset) == {band}]
    likely = said or _usual([key for key, asset in data.items() if not any(_common_names(asset))], assets, band)
    sizes = {key: _metres(key) or data[key].get("gsd") for key in likely}  # `gsd` may be the sensor's
    finest = min((size for size in sizes.values() if size), default=None)
    likely = [key for key in likely if sizes[key] in (finest, None)]
    likely = [key for key in likely if "tiff" in str(data[key].get("type"))] or likely
    # Some say "nir" of all bands from B05 to B8A
    return (_usual(likely, assets, band) if len(likely) > 1 else []) or likely


def missing(item: str, assets: Mapping[str, Mapping[str, Any]], lacking: Mapping[str, str]) -> SceneError:
    """The error where bands are not among an item's assets.

    Args:
        item: its id.
        assets: key → asset.
        lacking: band → the key that was looked for.
    """
    rasters = sorted(key for key, asset in assets.items() if _is_raster(key, asset))
    if not rasters:
        kinds = ", ".join(sorted({asset.get("type", key) for key, asset in assets.items()})[:10])
        says = f"item {item} has no raster assets{', only ' * bool(kinds)}{kinds}"
        return SceneError(says, hint="GeoTIFF and JPEG 2000 are read; is it the right collection? See --collection")
    says = f"scene {item} has no asset {', '.join(lacking.values())}; it has {', '.join(rasters[:40])}"
    for key, asset in assets.items():  # As openEO's results have them
        if lacking.keys() <= _common_names(asset) and len(asset["bands"]) > 1 and _is_data(asset):
            return SceneError(says, hint=f"{key} holds several bands; expected a file for each: export them one by one")
    flags = [f"--asset {band}={_guess(band, assets, rasters)}" for band in lacking]
    return SceneError(says, hint=f"name its assets, for example {' '.join(flags)}")


def meant(band: str, known: Iterable[str]) -> str:
    """What to do about the name of a band that nobody asks for."""
    names = list(dict.fromkeys([*known, *COMMON]))
    close = get_close_matches(band, names, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"bands are {', '.join(names)}"


def _guess(band: str, assets: Mapping[str, Mapping[str, Any]], rasters: Iterable[str]) -> str:
    """The key to paste: what a band is most likely called here, or KEY where nobody can tell."""
    likely = candidates(assets, band)
    loose = [key for key in rasters if re.search(_WORD.format(_names(assets, band)), key)]
    narrow = [key for key in rasters if band == "nir" and "nir08" in {key, *_common_names(assets[key])}]
    only = [key for key in narrow if not contradiction(band, key, assets[key])]  # Of Landsat, that has no other
    return (likely or loose or only or ["KEY"])[0]


def _usual(keys: Iterable[str], assets: Mapping[str, Mapping[str, Any]], band: str) -> list[str]:
    """Those of some assets that are called as a band usually is."""
    pattern = re.compile(_NAMED.format(_names(assets, band)))
    return [key for key in keys if any(map(pattern.fullmatch, _called(key, assets[key])))]


def _names(assets: Mapping[str, Mapping[str, Any]], band: str) -> str:
    """A pattern of the usual names of a band."""
    every = [name for key, asset in assets.items() for name in _called(key, asset)]
    if band not in _NAMES or (band == "swir16" and not any(map(_SENTINEL_2.search, every))):
        return re.escape(band)
    names = f"{band}|{_NAMES[band]}"
    return names.replace("B0", "B0?") if any(map(_UNPADDED.search, every)) else names


def _called(key: str, asset: Mapping[str, Any]) -> list[str]:
    """What an asset is called: its key, and the name of the band it holds if that is one."""
    listed = asset.get("bands", ())
    return [key, *(each.get("name", "") for each in listed if len(listed) == 1)]


def _common_names(asset: Mapping[str, Any]) -> set[str]:
    return {each.get("eo:common_name", "").lower() for each in asset.get("bands", ())}


def _is_data(asset: Mapping[str, Any]) -> bool:
    """Whether it may be measured numbers: a picture of one band, such as a preview, says so by its role or format."""
    roles = asset.get("roles") or ["data"]
    return not _NOT_DATA & set(roles) and "image/png" not in asset.get("type", "")


def _is_raster(key: str, asset: Mapping[str, Any]) -> bool:
    kind, path = asset.get("type", ""), str(asset.get("href", "")).partition("?")[0].lower()
    tells = kind.startswith("image/") and not re.search(r"image/(png|jpeg|webp)", kind)
    return bool(tells or asset.get("bands") or path.endswith((".tif", ".tiff", ".jp2")) or key in COMMON)


def _metres(key: str) -> float | None:
    """The pixels' size at the end of a key such as B04_10m."""
    told = re.search(r"[_-](\d{1,3})m$", key, re.IGNORECASE)
    return float(told[1]) if told else None
