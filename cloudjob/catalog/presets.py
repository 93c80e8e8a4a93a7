"""Catalogs by name, address or file, and how each names and signs its assets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cloudjob.catalog.signing import PLANETARY_COMPUTER
from cloudjob.errors import UsageError, redact

_COMMON_NAMES = {name: name for name in ("red", "green", "blue", "nir", "scl")}


@dataclass(frozen=True)
class Catalog:
    """Where items come from, and how their assets are named and opened.

    Attributes:
        address: of a STAC API, or the absolute path of a file with items.
        collection: the API's collection; "" for every item of a file.
        assets: a band's common name to the asset's key; the scene classification is "scl".
        signing: how hrefs are signed when they are opened (`signing.open_href`); "" for not at all.
    """

    address: str = field(repr=False)  # May hold somebody's token
    collection: str
    assets: Mapping[str, str]
    signing: str = ""

    @property
    def name(self) -> str:
        """The address as it may be shown."""
        return redact(self.address)

    @property
    def is_api(self) -> bool:
        """Whether this is a STAC API, else it is a file."""
        return self.address.startswith(("http://", "https://"))


PRESETS = {
    "earth-search": Catalog("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a", _COMMON_NAMES),
    "planetary-computer": Catalog(
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        "sentinel-2-l2a",
        {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08", "scl": "SCL"},
        PLANETARY_COMPUTER,
    ),
}


def catalog_for(
    name_or_address: str, *, collection: str | None = None, assets: Mapping[str, str] | None = None
) -> Catalog:
    """Return the catalog that `--catalog` names.

    Args:
        name_or_address: a preset's name, the http(s) address of a STAC API, or the path (or file:// address) of a
            file with one STAC item or an item collection.
        collection: instead of the preset's; an API of which nothing is known is asked for "sentinel-2-l2a", a file
            for all its items.
        assets: common name to asset key, where they differ from the preset's; elsewhere the two are the same.

    Raises:
        UsageError: if it is none of these, or the file does not exist.
    """
    catalog = _named(name_or_address)
    return replace(
        catalog,
        collection=catalog.collection if collection is None else collection,
        assets={**catalog.assets, **(assets or {})},
    )


def _named(name_or_address: str) -> Catalog:
    if name_or_address in PRESETS:
        return PRESETS[name_or_address]
    parts = urlsplit(name_or_address)
    if parts.scheme in ("http", "https") and parts.netloc:
        address = name_or_address.rstrip("/")
        preset = next((preset for preset in PRESETS.values() if preset.address == address), None)
        return preset or Catalog(address, "sentinel-2-l2a", _COMMON_NAMES)
    path = Path(url2pathname(parts.path) if parts.scheme == "file" else name_or_address)
    if path.is_file():
        return Catalog(str(path.resolve()), "", _COMMON_NAMES)
    hint = f"presets are {', '.join(PRESETS)}; else the address of a STAC API, or a file with STAC items"
    if path.is_dir():
        raise UsageError(f"catalog {str(path)!r} is a folder, expected a file with STAC items", hint=hint)
    if "/" in name_or_address or path.suffix:
        raise UsageError(f"catalog {name_or_address!r}: there is no such file", hint=hint)
    raise UsageError(f"catalog {name_or_address!r} is unknown", hint=hint)
