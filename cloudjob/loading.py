"""Reflectance of many scenes on one grid with their masks beside it, lazily: what composites begin with."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rioxarray.exceptions import RioXarrayError  # And .rio

from cloudjob import spoken
from cloudjob.catalog.area import parse_bbox
from cloudjob.catalog.dates import parse_dates
from cloudjob.classes import NOT_COMPUTED
from cloudjob.errors import ContractError, UsageError, did_you_mean
from cloudjob.grid import Grid, Window
from cloudjob.model.coarse import coarsen
from cloudjob.scene.cube import open_cube
from cloudjob.scene.describe import bands_of
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.reflectance import reflectance
from cloudjob.scene.scene import Band, Scene
from cloudjob.store import cog, conventions, settings
from cloudjob.store import group as groups
from cloudjob.store import item as stac
from cloudjob.store import ledger as ledgers
from cloudjob.store.document import ODD
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.listing import groups_like
from cloudjob.store.out import Out

Values = npt.NDArray[Any]

MOST = 500_000
"""Pieces of a dataset, at most: Dask takes 60 microseconds and 3 kB to note each down."""

AT_ONCE = 2048**2
"""Pixels of a mask whose places are looked up at once: a coarse grid has thousands of them in each of its own."""


@dataclass(frozen=True)
class Look:
    """One scene that is loaded.

    Attributes:
        done: its entry in the ledger.
        scene: with the bands wanted.
        grid: of its mask.
        placed: whether the bands' own grids are known.
    """

    done: Done
    scene: Scene
    grid: Grid
    placed: bool = False


def load(
    what: str | Iterable[Any] | Any,
    out: str | Path,
    bands: Sequence[str] = ("red", "green", "blue"),
    geobox: Any = None,
    *,
    bbox: tuple[float, float, float, float] | None = None,
    group: str | None = None,
    assets: Mapping[str, str] | None = None,
    chunks: int = 2208,
) -> xr.Dataset:
    """Load reflectance of the scenes that an OUT has masks of, with the masks beside it, on one grid.

    Reflectance is that of the scenes' own files, by the scale and offset that their masks were made with; on a grid
    that is not theirs it is resampled (bilinear, or averaged where the grid is coarser). Masks are never interpolated:
    a pixel gets the value in which its centre lies; a coarser one is cloud where half of it is (`model.coarse`).

    Args:
        what: dates as `--dates` takes them, a date or a pair of dates; or STAC items (pystac's or dicts) of scenes.
        out: made by `cloudjob run`.
        bands: common names. By dates those that the network saw (red, green, blue, nir) can be had; from items any.
        geobox: the grid: an `odc.geo` GeoBox, or an xarray object that has a CRS and lies on it. Unless given it is
            that of the masks, in the UTM zone that most scenes lie in, and holds all of them.
        bbox: west, south, east, north in degrees: less of that grid.
        group: only scenes of this group, or of all windows of a tile ("33TUN").
        assets: common band name → asset key of items, where they are called otherwise.
        chunks: side in pixels of the pieces that are read at once; by default that of the shipped network's shards.

    Returns:
        Each band (time, y, x) float32, reflectance, NaN where there are no data; `cloud` (time, y, x) uint8, 255
        outside of the scene; coordinates `time`, `scene` (ids), `group`, `y`, `x`, `spatial_ref`. Sorted by time.

    Raises:
        UsageError: no scene of OUT is asked for, or an argument makes no sense.
        ContractError: OUT has no masks.
        SceneError: on computing, a file or a mask cannot be read.
        UnreachableError: the store does not answer.
    """
    place = Out.at(out)
    ledger = ledgers.read(place)
    bands = [bands] if isinstance(bands, str) else bands
    if not isinstance(bands, Iterable) or not all(isinstance(band, str) for band in bands):
        raise UsageError(f"bands is {bands!r}; expected common names", hint='for example ["red", "green", "blue"]')
    if not ledger.done:
        hint = ledger.damage() or settings.meant(place, "`cloudjob run --out` makes some")
        raise ContractError(f"{place} holds no masks", hint=hint)
    wanted = groups_like(ledger, group) if group else ()
    if lost := ledger.damage(wanted):
        warnings.warn(lost, stacklevel=2)
    if spoken.is_dates(what):
        looks = _by_dates(place, ledger, what, bands)
    else:
        looks = _by_items(place, ledger, what, bands, spoken.keys(assets))
    if group:
        looks = [look for look in looks if look.done.group in wanted]
    if not looks:
        raise UsageError(f"{place} has no mask of what was asked for", hint="`cloudjob list` shows what there is")
    grid = _cropped(_parsed(geobox) if geobox is not None else _together(looks), bbox)
    _check_pieces(grid, chunks, len(looks) * (len(bands) + 1))
    return _dataset(place, ledger, looks, grid, bands, chunks)


def _check_pieces(grid: Grid, side: int, layers: int) -> None:
    """Refuse what Dask would sit over for ever: scenes that lie far apart share a grid that is nearly empty."""
    if not (isinstance(side, int | np.integer) and side > 0):
        raise UsageError(f"chunks is {side!r}; expected pixels, a whole number above 0")
    pieces = math.ceil(grid.height / side) * math.ceil(grid.width / side) * layers
    if pieces > MOST:
        raise UsageError(
            f"a grid of {grid.height:,} × {grid.width:,} pixels is {pieces:,} pieces to read, for {layers:,} layers; "
            f"expected {MOST:,} at most",
            hint="load less at once, by group= or bbox=, or on a coarser geobox=",
        )


def _by_dates(out: Out, ledger: Ledger, dates: Any, bands: Sequence[str]) -> list[Look]:
    interval = parse_dates(spoken.interval(dates), datetime.now(UTC).date())
    wanted = [entry for entry in ledger.done.values() if interval.touches(datetime.fromisoformat(entry.time))]
    items = out.each(out.get_json, [entry.path for entry in wanted])
    looks = []
    for entry, item in zip(wanted, items, strict=True):
        grid = groups.grid_of(ledger.groups[entry.group])
        try:
            found = {band.name: band for band in stac.bands(item, grid)}
        except ODD as error:
            told = f"{type(error).__name__}: {error}"
            warnings.warn(f"{entry.path} says too little ({told}): it is left out; {groups.MEND}", stacklevel=3)
            continue
        for band in bands:
            if band not in found:
                raise UsageError(
                    f"the mask of {entry.id} was made without the band {band!r}",
                    hint=f"{did_you_mean(band, found)}; to load others, hand the items instead of dates",
                )
        looks.append(_look(entry, tuple(found[band] for band in bands), grid))
    return looks


def _by_items(
    out: Out, ledger: Ledger, items: Iterable[Any], bands: Sequence[str], assets: Mapping[str, str] | None
) -> list[Look]:
    looks = []
    for item in spoken.items_of("what", items):
        entry = ledger.done.get(item["id"])
        if entry is None:
            warnings.warn(f"{out} has no mask of {item['id']}: it is left out", stacklevel=3)
            continue
        found = bands_of(item, assets or {}, bands)
        looks.append(replace(_look(entry, found, groups.grid_of(ledger.groups[entry.group])), placed=True))
    return looks


def _look(entry: Done, bands: tuple[Band, ...], grid: Grid) -> Look:
    time = datetime.fromisoformat(entry.time)
    scene = Scene(
        id=entry.id,
        collection="",
        item={},
        group=entry.group,
        grid=grid,
        time=time,
        platform="",
        sensing=time,
        baseline="",
        generated="",
        bands=bands,
        scl=None,
        fingerprint=entry.fingerprint,
    )
    return Look(entry, scene, grid)


def _parsed(geobox: Any) -> Grid:
    """A grid as other libraries describe it.

    Raises:
        UsageError: it has no EPSG code, or is not north-up.
    """
    if isinstance(geobox, xr.DataArray | xr.Dataset):
        try:
            crs, transform, shape = geobox.rio.crs, geobox.rio.transform(), geobox.rio.shape
        except RioXarrayError as error:
            raise UsageError(f"geobox has no grid: {error}", hint="is it empty, or without y and x?") from None
    else:
        crs, transform, shape = (getattr(geobox, name, None) for name in ("crs", "transform", "shape"))
    if crs is None or transform is None or shape is None:
        raise UsageError(
            f"geobox is a {type(geobox).__name__} without CRS, transform or shape",
            hint="expected an odc.geo.geobox.GeoBox, or an xarray object with a CRS (.rio.write_crs)",
        )
    epsg = CRS.from_user_input(str(crs)).to_epsg()
    a, b, c, d, e, f = tuple(transform)[:6]
    if not epsg or b or d or a <= 0 or e >= 0:
        raise UsageError(f"geobox lies in {crs} with the transform {a, b, c, d, e, f}; expected an EPSG code, north up")
    height, width = (int(side) for side in shape)
    return Grid(epsg, c, f, a, -e, height, width)


def _together(looks: Sequence[Look]) -> Grid:
    """The grid of the masks in the zone that most scenes lie in, grown until it holds all of them."""
    zones = [look.grid.epsg for look in looks]
    epsg = max(sorted(set(zones)), key=zones.count)
    first = next(look.grid for look in looks if look.grid.epsg == epsg)
    boxes = []
    for grid in {look.grid for look in looks}:
        to = Transformer.from_crs(grid.epsg, epsg, always_xy=True)
        boxes.append(grid.bounds if grid.epsg == epsg else to.transform_bounds(*grid.bounds))
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return _around(first, (min(lefts), min(bottoms), max(rights), max(tops)))


def _cropped(grid: Grid, bbox: tuple[float, float, float, float] | None) -> Grid:
    area = spoken.box(bbox)
    if area is None:
        return grid
    inside = grid.project(parse_bbox(*area))
    if inside.is_empty:
        raise UsageError("bbox lies outside of the scenes' grid")
    left, bottom, right, top = inside.bounds
    x0, y0, x1, y1 = grid.bounds
    return _around(grid, (max(left, x0), max(bottom, y0), min(right, x1), min(top, y1)))


def _around(grid: Grid, bounds: tuple[float, float, float, float]) -> Grid:
    """The pixels of a grid, gone on in all directions, that hold some bounds."""
    left, bottom, right, top = bounds
    tiny = 1e-6  # of a pixel: edges that agree but for the last digits
    west, east = math.floor((left - grid.x0) / grid.dx + tiny), math.ceil((right - grid.x0) / grid.dx - tiny)
    north, south = math.floor((grid.y0 - top) / grid.dy + tiny), math.ceil((grid.y0 - bottom) / grid.dy - tiny)
    return grid.crop(Window(north, max(south, north + 1), west, max(east, west + 1)))


def _dataset(out: Out, ledger: Ledger, looks: list[Look], grid: Grid, bands: Sequence[str], chunks: int) -> xr.Dataset:
    looks = sorted(looks, key=lambda look: (look.done.time, look.done.id))
    variables: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {}
    for number, band in enumerate(bands):
        layers = [_lazy(grid, chunks, np.float32, partial(_read, look, number)) for look in looks]
        variables[band] = (("time", "y", "x"), da.stack(layers), {"long_name": f"{band} reflectance", "units": "1"})
    masks = [_lazy(grid, chunks, np.uint8, partial(_mask, out, look)) for look in looks]
    member = groups.member(ledger.groups[looks[0].done.group], "cloud")
    told = {name: member["attributes"][name] for name in ("long_name", "flag_values", "flag_meanings")}
    variables["cloud"] = (("time", "y", "x"), da.stack(masks), told)
    coordinates: dict[str, Any] = {
        "time": [np.datetime64(datetime.fromisoformat(look.done.time).replace(tzinfo=None), "ns") for look in looks],
        "scene": ("time", [look.done.id for look in looks]),
        "group": ("time", [look.done.group for look in looks]),
        **{name: (name, values, attributes) for name, (values, attributes) in conventions.coordinates(grid).items()},
    }
    made: xr.Dataset = xr.Dataset(variables, coordinates).rio.write_crs(grid.epsg)
    return made


def _lazy(grid: Grid, side: int, dtype: Any, read: Callable[[Grid], Values]) -> da.Array:
    """A lazy array (y, x) of a grid, each of its pieces read by `read`, as one task."""

    def piece(block_info: Any) -> Values:
        (top, bottom), (left, right) = block_info[None]["array-location"]
        return read(grid.crop(Window(top, bottom, left, right)))

    chunks = da.core.normalize_chunks(side, grid.shape)
    whole: da.Array = da.map_blocks(
        piece, name=f"cloudjob-{uuid4().hex}", chunks=chunks, dtype=dtype, meta=np.empty((0, 0), dtype)
    )
    return whole


def _read(look: Look, number: int, grid: Grid) -> npt.NDArray[np.float32]:
    """Reflectance (y, x) of one band on a grid, NaN where there are no data."""
    band = look.scene.bands[number]
    coarse = math.prod(grid.metres) > 2 * math.prod(look.grid.metres)
    with SceneFiles(replace(look.scene, bands=(band,), scl=None)) as files:
        for doubt in files.check([band], place=look.placed):
            warnings.warn(f"scene {look.scene.id}: {doubt}", stacklevel=2)
        cube = open_cube(
            files,
            [band],
            grid,
            dtype=files.dtype(),
            chunks=(-1, -1),
            resampling=Resampling.average if coarse else Resampling.bilinear,
        )
        raw = cube.compute(scheduler="synchronous").values
    values: npt.NDArray[np.float32] = reflectance(raw, [band])[0]
    return values


def _mask(out: Out, look: Look, grid: Grid) -> npt.NDArray[np.uint8]:
    """A scene's mask (y, x) on a grid: the value in which a pixel's centre lies, joined where pixels are coarser."""
    factor = max(1, round(math.sqrt(math.prod(grid.metres) / math.prod(look.grid.metres))))
    factor = min(factor, 1000)  # A million places in a pixel tell whether half of it is cloud
    result = np.full(grid.shape, NOT_COMPUTED, np.uint8)
    under = _under(look.grid, grid)
    height, width = under.shape
    step = max(1, AT_ONCE // (max(1, width) * factor**2))
    for top in range(under.top, under.top + height, step):
        strip = Window(top, min(top + step, under.bottom), under.left, under.right)
        part = grid.crop(strip)
        rows, columns = (side * factor for side in part.shape)
        fine = replace(part, dx=part.dx / factor, dy=part.dy / factor, height=rows, width=columns)
        result[strip.slices] = coarsen(_nearest(out, look, fine), factor)
    return result


def _under(scene: Grid, grid: Grid) -> Window:
    """The pixels of a grid under which a scene lies, and some around them: all, where that is hard to tell."""
    to = Transformer.from_crs(scene.epsg, grid.epsg, always_xy=True)
    left, bottom, right, top = to.transform_bounds(*scene.bounds)
    if not (left < right and all(map(math.isfinite, (left, bottom, right, top)))):  # Across the antimeridian, or far
        return Window(0, grid.height, 0, grid.width)
    first = math.floor((grid.y0 - top) / grid.dy) - 1, math.floor((left - grid.x0) / grid.dx) - 1
    last = math.ceil((grid.y0 - bottom) / grid.dy) + 1, math.ceil((right - grid.x0) / grid.dx) + 1
    (north, west), (south, east) = np.clip((first, last), 0, grid.shape).tolist()
    return Window(north, south, west, east)


def _nearest(out: Out, look: Look, grid: Grid) -> npt.NDArray[np.uint8]:
    """A scene's mask (y, x) on a grid: the value in which a pixel's centre lies."""
    y, x = np.meshgrid(*grid.centres, indexing="ij")
    if grid.epsg != look.grid.epsg:
        x, y = Transformer.from_crs(grid.epsg, look.grid.epsg, always_xy=True).transform(x, y)
    with np.errstate(invalid="ignore"):
        rows, columns = np.floor((look.grid.y0 - y) / look.grid.dy), np.floor((x - look.grid.x0) / look.grid.dx)
        inside = (rows >= 0) & (rows < look.grid.height) & (columns >= 0) & (columns < look.grid.width)
    result = np.full(grid.shape, NOT_COMPUTED, np.uint8)
    if inside.any():
        r, c = rows[inside].astype(int), columns[inside].astype(int)
        found = cog.read(out, look.done, slice(r.min(), r.max() + 1), slice(c.min(), c.max() + 1))
        result[inside] = found[r - r.min(), c - c.min()]
    return result
