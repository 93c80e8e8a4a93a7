"""What is known of one scene before any pixel is read: two small dataclasses."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudjob.grid import Grid

NO_DATA = 0
"""The number that says no data in every Sentinel-2 product."""

Numbers = npt.NDArray[np.uint16] | npt.NDArray[np.int16] | npt.NDArray[np.float32]
"""As they stand in files, before scale and offset."""

EMPTY: dict[str, float] = {"uint16": NO_DATA, "int16": -32768, "float32": float("nan")}
"""The number that says no data in arrays of each kind, whatever says it in the files."""


def is_empty(raw: Numbers) -> npt.NDArray[np.bool_]:
    """True where numbers are `EMPTY`."""
    return np.isnan(raw) if raw.dtype == np.float32 else raw == EMPTY[raw.dtype.name]


@dataclass(frozen=True)
class Band:
    """One asset of a scene.

    Attributes:
        name: common name ("red").
        key: the asset's key in the item ("red", "B04").
        href: where it lies, without signature.
        grid: its pixels as the item describes them.
        scale: reflectance = number × scale + offset.
        offset: see scale.
        dtype: of its numbers, as the item says: "uint16" where it says nothing.
        nodata: the number that says no data, as the item says; None where it says nothing: then the file's own tag
            counts, and where that is missing, too, what is usual (`EMPTY`).
        address: to open instead of `href` where the catalog gave a signed one; never stored, never shown.
        unsigned: whether its offset is ESA's, taken because nobody says that its numbers are signed.
        guessed: whether nobody tells if ESA's offset is in its numbers, so that none is taken off.
        assumed: whether its scale or its offset is the usual one, because its item does not tell it.
        settled: whether its offset is the run's, or what its item's flag says: whatever its file says.
        fault: why its grid cannot be told, where another band's stands in for it, or why it is left out; "" else.
    """

    name: str
    key: str
    href: str
    grid: Grid
    scale: float = 1.0
    offset: float = 0.0
    dtype: str = "uint16"
    nodata: float | None = None
    address: str = field(default="", repr=False)
    unsigned: bool = False
    guessed: bool = False
    assumed: bool = False
    settled: bool = False
    fault: str = ""


@dataclass(frozen=True)
class Scene:
    """What a STAC item says of a scene, read once when planning.

    Attributes:
        id: the item's id.
        collection: the item's collection, or "".
        item: the source item as a plain dict with absolute, unsigned hrefs, without the assets no job reads.
        group: name of the store's group: the MGRS tile, or tile (or EPSG code), origin and shape.
        grid: the pixels that the network sees.
        time: `datetime` of the item, UTC.
        platform: such as "sentinel-2a".
        sensing: the datastrip's sensing time, UTC; `time` where the item does not tell.
        baseline: `s2:processing_baseline` ("05.10") or "".
        generated: when the product was made (ISO 8601), or "".
        bands: in the network's order.
        scl: the scene classification's asset, or None.
        fingerprint: changes when the scene's pixels may have changed.
        product: ESA's name of it, however the publisher writes it, or "".
        provider_cloud_cover: `eo:cloud_cover` of the item, percent, or None.
        signing: how hrefs are signed when opened (`signing.open_href`), or "".
        coarser: so many of the network's pixels along y and x make one of the mask.
        optional: names of those of its bands that the network can do without.
        left_out: bands that its item has, and that it is masked without: their `fault` is what the item tells, or ""
            for a file that was at fault on too many nights.
    """

    id: str
    collection: str
    item: dict[str, Any]
    group: str
    grid: Grid
    time: datetime
    platform: str
    sensing: datetime
    baseline: str
    generated: str
    bands: tuple[Band, ...]
    scl: Band | None
    fingerprint: str
    provider_cloud_cover: float | None = None
    signing: str = ""
    product: str = ""
    coarser: int = 1
    optional: tuple[str, ...] = ()
    left_out: tuple[Band, ...] = ()

    @property
    def href(self) -> str:
        """Where the file of its first band lies, by which its source is known (`outside.source`)."""
        return self.bands[0].href

    @property
    def mask_grid(self) -> Grid:
        """The pixels of its mask."""
        return self.grid.coarsen(self.coarser)

    @property
    def assets(self) -> dict[str, str]:
        """Common band name → asset key, as `describe` was told."""
        return {band.name: band.key for band in (*self.bands, *self.left_out, self.scl) if band}

    def without(self, band: Band) -> "Scene":
        """The scene without an optional band: another one by its fingerprint, which still tells what the item says."""
        return replace(
            self,
            bands=tuple(each for each in self.bands if each != band),
            fingerprint=f"{self.fingerprint} without {band.name}",
            optional=(),
            left_out=(*self.left_out, replace(band, fault="")),
        )

    @property
    def spares(self) -> "list[Scene]":
        """The scene without one of its optional bands each; none of a scene that lacks one already."""
        return [self.without(band) for band in self.bands if band.name in self.optional]
