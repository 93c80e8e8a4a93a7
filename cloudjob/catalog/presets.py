"""Catalogs by name, address or file, and how each names and signs its assets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cloudjob.catalog.bands import COMMON
from cloudjob.catalog.signing import PLANETARY_COMPUTER
from cloudjob.errors import UsageError, redact

_COMMON_NAMES = {name: name for name in COMMON}


@dataclass(frozen=True)
class Catalog:
    """Where items come from, and how their assets are named and opened.

    Attributes:
        address: of a STAC API, or the absolute path of a file with items.
        collection: the API's collection, or several with commas between them; "" for every item of a file.
        assets: a band's common name to the asset's key; the scene classification is "scl".
        signing: how hrefs are signed when they are opened (`signing.open_href`); "" for by their host alone.
        named: bands whose asset a person has named, who knows better than an item.
    """

    address: str = field(repr=False)  # May hold somebody's token
    collection: str
    assets: Mapping[str, str]
    signing: str = ""
    named: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The address as it may be shown."""
        return redact(self.address)

    @property
    def is_api(self) -> bool:
        """Whether this is a STAC API, else it is a file."""
        return self.address.startswith(("http://", "https://"))


_ESA_NAMES = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08", "swir16": "B11", "scl": "SCL"}

PRESETS = {
    "earth-search": Catalog("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a", _COMMON_NAMES),
    "planetary-computer": Catalog(
        "https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-2-l2a", _ESA_NAMES, PLANETARY_COMPUTER
    ),
    "cdse": Catalog(
        "https://stac.dataspace.copernicus.eu/v1",
        "sentinel-2-l2a",
        {
            "red": "B04_10m",
            "green": "B03_10m",
            "blue": "B02_10m",
            "nir": "B08_10m",
            "swir16": "B11_20m",
            "scl": "SCL_20m",
        },
    ),
    "digital-earth-africa": Catalog("https://explorer.digitalearth.africa/stac", "s2_l2a", _ESA_NAMES),
    # Analysis-ready data of its own processor, one collection a satellite; it has no scene classification of ESA's.
    "digital-earth-australia": Catalog(
        "https://explorer.dea.ga.gov.au/stac",
        "ga_s2am_ard_3,ga_s2bm_ard_3,ga_s2cm_ard_3",
        {
            "red": "nbart_red",
            "green": "nbart_green",
            "blue": "nbart_blue",
            "nir": "nbart_nir_1",
            "swir16": "nbart_swir_2",
        },
    ),
}


def catalog_for(
    name_or_address: str, *, collection: str | None = None, assets: Mapping[str, str] | None = None
) -> Catalog:
    """Return the catalog that `--catalog` names.

    Args:
        name_or_address: a preset's name, the http(s) address of a STAC API, or the path (or file:// address) of a
            file with one STAC item or an item collection.
        collection: instead of the preset's, several with commas between them; an API of which nothing is known is
            asked for "sentinel-2-l2a", a file for all its items.
        assets: common name to asset key, where they differ from the preset's; elsewhere, and in collections that are
            not the preset's, bands are looked for (`bands.find`).

    Raises:
        UsageError: if it is none of these, or the file does not exist.
    """
    catalog = _named(name_or_address)
    if collection is not None:
        asked = [name.strip() for name in collection.split(",")]
        # A preset's names are those of its own collections: elsewhere they are other bands, or none
        own = catalog.assets if set(asked) <= set(catalog.collection.split(",")) else _COMMON_NAMES
        catalog = replace(catalog, collection=",".join(asked), assets=own)
    return replace(catalog, assets={**catalog.assets, **(assets or {})}, named=frozenset(assets or ()))


def _named(name_or_address: str) -> Catalog:
    if name_or_address in PRESETS:
        return PRESETS[name_or_address]
    try:
        parts = urlsplit(name_or_address)
    except ValueError as error:  # "http://[x"
        raise UsageError(f"catalog {redact(name_or_address)!r} is no address: {error}") from None
    if parts.scheme in ("http", "https") and parts.netloc:
        address = name_or_address.rstrip("/")
        preset = next((preset for preset in PRESETS.values() if preset.address == address), None)
        return preset or Catalog(address, "sentinel-2-l2a", _COMMON_NAMES)
    path = Path(url2pathname(parts.path) if parts.scheme == "file" else name_or_address)
    if os.path.isfile(path):  # noqa: PTH113 -- also where nobody may look, or of a name too long
        return Catalog(str(path.resolve()), "", _COMMON_NAMES)
    hint = f"presets are {', '.join(PRESETS)}; else the address of a STAC API, or a file with STAC items"
    if os.path.isdir(path):  # noqa: PTH112
        if found := next(filter(os.path.isfile, (path / "items.json", path / "catalog.json")), None):
            hint = f"did you mean {found}?"
        elif next(path.glob("*.json"), None):
            hint = "in Python hand over its items: catalog=map(pystac.Item.from_file, Path(FOLDER).glob('*.json'))"
        raise UsageError(f"catalog {str(path)!r} is a folder, expected a file with STAC items", hint=hint)
    if "/" in name_or_address or path.suffix:
        raise UsageError(f"catalog {name_or_address!r}: there is no such file", hint=hint)
    raise UsageError(f"catalog {name_or_address!r} is unknown", hint=hint)
