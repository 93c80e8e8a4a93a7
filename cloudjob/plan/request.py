"""What was asked for, checked as far as that goes without asking a catalog or a store."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from cloudjob.catalog.area import parse_bbox, read_geometry
from cloudjob.catalog.bands import COMMON, meant
from cloudjob.catalog.dates import Interval, parse_dates
from cloudjob.catalog.presets import Catalog, catalog_for
from cloudjob.errors import UnreachableError, UsageError
from cloudjob.model import source
from cloudjob.model.contract import Contract
from cloudjob.model.mlm import shipped
from cloudjob.scene.reflectance import DARKEST
from cloudjob.store.out import Out
from cloudjob.store.settings import Settings

EARLIEST = 2026
"""The year in which this was written: a clock that says an earlier one has not been set."""


@dataclass(frozen=True)
class Job:
    """What was asked for, checked as far as that goes without asking a catalog or a store.

    Attributes:
        out: where masks go.
        catalog: where scenes come from.
        area: polygons in longitude, latitude.
        dates: the stretch of time.
        contract: of the network.
        data: the checkpoint's file, for the workers; its weights are looked at by `job.run`.
        settings: what decides the values of a mask.
        clip: WKB of the area if masks are clipped to it, else None.
        max_cloud_cover: the highest `eo:cloud_cover` wanted, percent.
        limit: at most so many scenes.
        redo: whether other settings may replace those of the OUT.
        retry: ids of abandoned scenes that are tried all the same, or "all".
        offset: of reflectance, instead of what items say; None for what they say.
    """

    out: Out
    catalog: Catalog
    area: BaseGeometry
    dates: Interval
    contract: Contract
    data: bytes
    settings: Settings
    clip: bytes | None = None
    max_cloud_cover: float | None = None
    limit: int | None = None
    redo: bool = False
    retry: frozenset[str] = frozenset()
    offset: float | None = None


def request(
    *,
    dates: str,
    out: str | Path,
    bbox: tuple[float, float, float, float] | None = None,
    geometry: str | Path | Mapping[str, Any] | None = None,
    catalog: str | Path = "earth-search",
    collection: str | None = None,
    assets: Mapping[str, str] | None = None,
    max_cloud_cover: float | None = None,
    limit: int | None = None,
    checkpoint: str | Path | None = None,
    threshold: float | None = None,
    buffer: float | None = None,
    resolution: float | None = None,
    probability: bool = False,
    redo: bool = False,
    retry: Iterable[str] = (),
    offset: float | None = None,
) -> Job:
    """Check what was asked for, as far as that goes without asking a catalog or a store.

    Args:
        dates: an interval, a year, month or day, or "10d"; see `dates.parse_dates`.
        out: a folder, or an s3://, gs:// or az:// prefix.
        bbox: west, south, east, north in degrees.
        geometry: GeoJSON instead of `bbox`, a file or what one holds; masks are clipped to it.
        catalog: a preset's name, a STAC API's address or an item-collection file.
        collection: of the catalog, instead of the preset's.
        assets: common band name → asset key, where it differs from the preset's.
        max_cloud_cover: the highest `eo:cloud_cover` wanted, percent.
        limit: at most so many scenes, the newest.
        checkpoint: a file or a name (`source.read`) instead of the network that ships.
        threshold: probability from which a pixel is cloud; the checkpoint's unless given.
        buffer: metres by which clouds are widened; the checkpoint's unless given.
        resolution: of the masks in metres, a multiple of the checkpoint's; the checkpoint's unless given.
        probability: whether to keep probabilities, too.
        redo: whether to replace an OUT that was made with other settings.
        retry: ids of abandoned scenes to be tried all the same, or "all".
        offset: reflectance to add to number × scale of every scene, instead of what its item says.

    Raises:
        UsageError: an argument makes no sense.
        ContractError: the checkpoint cannot be used.
    """
    if bbox is None and geometry is None:
        raise UsageError("expected either a bbox or a geometry", hint="--bbox W S E N or --geometry FILE")
    if bbox is not None and geometry is not None:
        raise UsageError("expected either a bbox or a geometry, not both", hint="leave one out")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; expected 1 or more")
    wanted = parse_bbox(*bbox) if bbox else read_geometry(geometry or {})
    clip = None if bbox else wanted
    data = source.read(checkpoint)
    contract = source.contract(data, str(checkpoint or shipped()))
    if threshold is not None and len(contract.classes) > 1:
        raise UsageError(
            f"--threshold is {threshold:g}, but {contract.name} tells {len(contract.classes)} classes apart: the most "
            "likely one counts",
            hint="leave it out",
        )
    known = (*contract.bands, *COMMON)
    for band, key in (assets or {}).items():
        if band not in known:
            hint = f"the band comes first: --asset {key}={band}" if key in known else meant(band, contract.bands)
            raise UsageError(f"--asset names a band {band!r}", hint=hint)
    where = catalog_for(str(catalog), collection=collection, assets=assets)
    if missing := [band for band in contract.required_bands if band not in where.assets]:
        raise UsageError(
            f"the checkpoint wants the band(s) {', '.join(missing)}, whose assets are not known",
            hint=f"name them, for example --asset {missing[0]}=KEY",
        )
    return Job(
        out=Out.at(out),
        catalog=where,
        area=wanted,
        dates=parse_dates(dates, _today(dates)),
        contract=contract,
        data=data,
        settings=Settings(
            checkpoint=hashlib.sha256(data).hexdigest(),
            name=contract.name,
            version=contract.version,
            bands=contract.bands,
            threshold=between(0, threshold, 1, "threshold", contract.threshold),
            buffer=between(-1e-9, buffer, 10_000, "buffer in metres", contract.buffer),
            resolution=_multiple(
                between(0, resolution, 10_000, "resolution in metres", contract.resolution), contract.resolution
            ),
            probability=probability,
            geometry=hashlib.sha256(shapely.to_wkb(shapely.normalize(clip))).hexdigest() if clip else None,
            algorithm=contract.algorithm,
            classes=contract.labels,
        ),
        clip=shapely.to_wkb(clip) if clip else None,
        max_cloud_cover=max_cloud_cover,
        limit=limit,
        redo=redo,
        retry=frozenset(retry),
        offset=None if offset is None else between(-1, offset, DARKEST, "offset of reflectance", 0),
    )


def _today(dates: str) -> date:
    """The day in UTC.

    Raises:
        UnreachableError: the last days are asked for of a clock that nobody has set yet: a night would find nothing.
    """
    today = datetime.now(UTC).date()
    if dates.strip().endswith("d") and today.year < EARLIEST:
        raise UnreachableError(
            f"--dates is {dates}, and this machine's clock says {today}", hint="set it, or write the dates out"
        )
    return today


def _multiple(resolution: float, own: float) -> float:
    """A mask's pixel is made of whole pixels of the network's."""
    if abs(max(1, round(resolution / own)) * own - resolution) > 0.01 * resolution:
        raise UsageError(
            f"resolution is {resolution:g} m; expected {own:g} m, which the network sees, or a multiple of it",
            hint=f"such as {2 * own:g} or {6 * own:g}: clouds are found at {own:g} m, and their mask is made coarser",
        )
    return resolution


def between(low: float, value: float | None, high: float, name: str, default: float) -> float:
    """A number of a person's between two, neither of which is allowed, or the default where none was given.

    Raises:
        UsageError: it is another one.
    """
    if value is None:
        return default
    if not low < value < high:  # also refuses nan
        least = "0 or more" if -1 < low < 0 else f"above {low:g}"
        hint = f"{value:g} % is {value / 100:g}" if high == 1 < value < 100 else None
        raise UsageError(f"{name} is {value:g}; expected {least} and below {high:g}", hint=hint)
    return float(value)
