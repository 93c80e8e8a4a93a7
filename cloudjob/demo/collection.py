"""A small simulated Sentinel-2 L2A collection with its truth, as Earth Search v1 publishes the real one."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.warp import transform_geom

from cloudjob.classes import NO_DATA
from cloudjob.demo.fractal import Float, noise
from cloudjob.demo.simulate import CLOUD_OPACITY, overlay, sky
from cloudjob.demo.surface import SURFACES, ground
from cloudjob.grid import Grid
from cloudjob.scene.reflectance import OFFSET, SCALE, adds_offset

COLLECTION = "simulated-sentinel-2-l2a"
BANDS = ("red", "green", "blue", "nir")
"""Of 10 m; beside them `swir16`, of 20 m."""

STEP = 128
"""Numbers are rounded to multiples of this, 0.0128 of reflectance: noise that nobody can compress is left out."""

# Windows of two tiles that lie side by side, as in the Alps; sides are no multiples of any tile's.
TILES = {
    "33TUN": Grid(32633, 388_280, 5_240_040, 10, 10, 2104, 2152),
    "33TVN": Grid(32633, 409_800, 5_240_040, 10, 10, 2120, 2088),
}


@dataclass(frozen=True)
class Pass:
    """One acquisition of a tile.

    Attributes:
        tile: MGRS code.
        time: of the acquisition (ISO 8601, UTC).
        platform: such as "sentinel-2a".
        baseline: of the processing.
        cover: share of the scene that each layer of clouds covers.
        clouds: kinds of clouds, of `simulate.CLOUDS`.
        edge: share of the upper edge that the swath does not reach.
    """

    tile: str
    time: str
    platform: str
    baseline: str
    cover: float
    clouds: tuple[str, ...]
    edge: float = 0.0


PASSES = (
    Pass("33TUN", "2021-08-14T10:06:12.024Z", "sentinel-2b", "03.01", 0.25, ("stratocumulus",)),
    Pass("33TUN", "2024-06-03T10:05:59.101Z", "sentinel-2a", "05.10", 0.35, ("stratus", "cirrus")),
    Pass("33TUN", "2024-06-08T10:06:09.377Z", "sentinel-2b", "05.10", 0.97, ("overcast",)),
    Pass("33TVN", "2024-06-03T10:05:56.410Z", "sentinel-2a", "05.10", 0.35, ("stratocumulus",), edge=0.45),
    Pass("33TVN", "2024-06-08T10:06:06.840Z", "sentinel-2b", "05.10", 0.0, ()),
    Pass("33TVN", "2024-06-13T10:05:58.215Z", "sentinel-2a", "05.10", 0.30, ("cumulus", "stratus")),
)


def collection(folder: Path, *, seed: int = 7, shrink: int = 1) -> Path:
    """Write the scenes as COGs and describe them in an item collection.

    Args:
        folder: where to; made if it is not there.
        seed: the same seed gives the same pixels.
        shrink: divides the sides of the scenes, for tests.

    Returns:
        Path of items.json, with relative addresses. Assets: `red green blue nir` (uint16, 10 m), `swir16` (uint16,
        20 m), `scl` (uint8, 20 m) and `truth` (uint8: 0 clear, 1 cloud, 254 no data), which no job reads.
    """
    grids = {tile: _shrunk(grid, shrink) for tile, grid in TILES.items()}
    height, width = max(grid.height for grid in grids.values()), sum(grid.width for grid in grids.values())
    land, classes = _landscape(np.random.default_rng(seed), (height // 2, width // 2))
    left, places = 0, {}
    for tile, grid in grids.items():
        places[tile] = slice(0, grid.height // 2), slice(left, left + grid.width // 2)
        left += grid.width // 2

    def write(number: int) -> dict[str, Any]:
        one = PASSES[number]
        rows, columns = places[one.tile]
        rng = np.random.default_rng((seed, number))
        return _write_scene(folder, one, grids[one.tile], land[:, rows, columns], classes[rows, columns], rng)

    with ThreadPoolExecutor(2) as pool:
        items = list(pool.map(write, range(len(PASSES))))
    (folder / "collection.json").write_text(json.dumps(_collection(items), indent=1), encoding="utf-8")
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}, indent=1), encoding="utf-8")
    return path


def bounds(items: list[dict[str, Any]]) -> tuple[float, float, float, float]:
    """West, south, east, north of all items, degrees."""
    wests, souths, easts, norths = zip(*(item["bbox"] for item in items), strict=True)
    return min(wests), min(souths), max(easts), max(norths)


def _landscape(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Float, npt.NDArray[np.uint8]]:
    """Farmland and forest with a lake and a bright town in the west, and a snow-capped ridge in the east.

    Returns:
        (5, H, W) reflectance and (H, W) surface class, as `simulate.ground`, in pixels of 20 m.
    """
    rows, columns = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j].astype(np.float32)
    rugged = noise(rng, shape, slope=1.4, outer=shape[0] / 3)
    height = np.exp(-(((columns - 0.8 + 0.12 * (rows - 0.5)) / 0.1) ** 2)) + 0.10 * rugged
    lake = ((columns - 0.13) / 0.05) ** 2 + ((rows - 0.55) / 0.28) ** 2 + 0.25 * rugged
    town = ((columns - 0.24) / 0.05) ** 2 + ((rows - 0.42) / 0.13) ** 2 + 0.35 * rugged
    land, classes = ground(rng, shape, kinds=("farmland", "forest"))
    for kind, where in (("bare", height > 0.5), ("snow", height > 0.72), ("town", town < 1), ("water", lake < 1)):
        painted, its_classes = ground(rng, shape, kinds=(kind,))
        land = np.where(where, painted, land)
        classes[where] = its_classes[where]
    return land, classes


def _shrunk(grid: Grid, shrink: int) -> Grid:
    height, width = (side // shrink // 2 * 2 for side in grid.shape)
    return replace(grid, height=height, width=width)


def _write_scene(
    folder: Path, one: Pass, grid: Grid, land: Float, classes: npt.NDArray[np.uint8], rng: np.random.Generator
) -> dict[str, Any]:
    """Write the files of one scene and return its item."""
    # The ground is not quite the same every time.
    season = np.ones((len(land), 1, 1), np.float32)
    season[: len(BANDS)] += 0.04 * rng.standard_normal((len(BANDS), 1, 1), np.float32)
    # Made at 20 m and then doubled: a quarter of the work, and files that compress.
    clouds = sky(rng, classes.shape, cover=one.cover, kinds=one.clouds)
    seen, _ = overlay(land * season, clouds)
    missing = np.arange(grid.width) >= _swath_end(grid, one.edge, np.arange(grid.height))[:, None]
    name = f"S{one.platform[-2:].upper()}_{one.tile}_{one.time[:10].replace('-', '')}_0_L2A"
    coarse = grid.coarsen(2)
    offset = -OFFSET if adds_offset(one.baseline) else 0.0
    layers = [(band, _doubled(values), grid, missing) for band, values in zip(BANDS, seen[: len(BANDS)], strict=True)]
    for band, values, its_grid, nothing in (*layers, ("swir16", seen[-1], coarse, missing[::2, ::2])):
        steps = np.clip(np.rint((values - offset) / (SCALE * STEP)), 1, 65535 // STEP)
        steps[nothing] = 0
        _write_cog(folder / name / f"{band}.tif", steps.astype(np.uint16) * STEP, its_grid, Resampling.average)
    truth = (_doubled(clouds.opacity) >= CLOUD_OPACITY).astype(np.uint8)
    truth[missing] = NO_DATA
    _write_cog(folder / name / "truth.tif", truth, grid, Resampling.nearest, nodata=NO_DATA)
    scl = _classification(classes, clouds.opacity, clouds.shadow, rng)
    scl[missing[::2, ::2]] = 0
    _write_cog(folder / name / "scl.tif", scl, coarse, Resampling.nearest)
    share = 100 * float(np.isin(scl, (8, 9, 10)).sum() / max((scl > 0).sum(), 1))
    return _item(one, name, grid, coarse, offset, round(share, 6))


def _doubled(values: Float) -> Float:
    """(…, H, W) → (…, 2 H, 2 W), linear between pixel centres."""
    for axis in (-2, -1):
        along = np.moveaxis(values, axis, -1)
        before = np.concatenate([along[..., :1], along[..., :-1]], axis=-1)
        after = np.concatenate([along[..., 1:], along[..., -1:]], axis=-1)
        pair = np.stack([0.75 * along + 0.25 * before, 0.75 * along + 0.25 * after], axis=-1)
        values = np.moveaxis(pair.reshape(*along.shape[:-1], -1), -1, axis).astype(np.float32)
    return values


def _swath_end(grid: Grid, edge: float, rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The column where the swath ends, by row: a line that slants as the orbit does at these latitudes."""
    slant = 0.22 if edge else 0.0
    return np.asarray(grid.width * (1 - edge) + slant * np.asarray(rows), np.float64)


def _classification(
    classes: npt.NDArray[np.uint8], opacity: Float, shadow: Float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """What Sen2Cor might say: right for the most part, wrong where it is known to be.

    It takes some bright roofs and some snow for clouds, and misses the thin edges of clouds.
    """
    table = np.full(len(SURFACES), 5, np.uint8)
    for kinds, value in ((("farmland", "forest"), 4), (("water", "foam", "glint"), 6), (("snow", "ice"), 11)):
        table[[SURFACES.index(kind) for kind in kinds]] = value
    scl = table[classes]
    chance = rng.random(classes.shape, np.float32)
    scl[shadow > 0.4] = 3
    scl[(classes == SURFACES.index("town")) & (chance < 0.06)] = 9
    scl[(classes == SURFACES.index("snow")) & (chance < 0.03)] = 8
    for least, value in ((0.2, 10), (0.45, 8), (0.7, 9)):
        scl[opacity >= least] = value
    return scl


def _write_cog(path: Path, values: npt.NDArray[Any], grid: Grid, overviews: Resampling, nodata: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="COG",
        height=grid.height,
        width=grid.width,
        count=1,
        dtype=values.dtype,
        crs=f"EPSG:{grid.epsg}",
        transform=Affine(*grid.transform),
        nodata=nodata,
        compress="DEFLATE",
        predictor="YES",
        level=6,
        blocksize=1024,
        overview_resampling=overviews.name,
    ) as file:
        file.write(values, 1)


def _item(one: Pass, name: str, grid: Grid, coarse: Grid, offset: float, cloud_cover: float) -> dict[str, Any]:
    """The scene as Earth Search v1 describes it: STAC 1.0, projection 1.1 (element84/earth-search#64), raster 1.1."""
    left, bottom, _, top = grid.bounds
    swath = [left + grid.dx * min(column, grid.width) for column in _swath_end(grid, one.edge, [0, grid.height])]
    ring = [[left, bottom], [swath[1], bottom], [swath[0], top], [left, top], [left, bottom]]
    geometry = transform_geom(f"EPSG:{grid.epsg}", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    xs, ys = zip(*geometry["coordinates"][0], strict=True)
    sensed = datetime.fromisoformat(one.time)
    generated = (sensed + timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    strip = f"{sensed:%Y%m%dT%H%M%S}"
    product = f"{name[:3]}_MSIL2A_{strip}_N{one.baseline.replace('.', '')}_R022_T{one.tile}_{strip}.SAFE"
    numbers = {"data_type": "uint16", "nodata": 0, "spatial_resolution": 10, "scale": SCALE, "offset": offset}
    assets = {band: _asset(name, band, grid, ["data", "reflectance"], numbers) for band in BANDS}
    assets["swir16"] = _asset(name, "swir16", coarse, ["data", "reflectance"], numbers | {"spatial_resolution": 20})
    assets["scl"] = _asset(name, "scl", coarse, ["data"], {"data_type": "uint8", "nodata": 0, "spatial_resolution": 20})
    assets["truth"] = _asset(name, "truth", grid, ["metadata"], {"data_type": "uint8", "nodata": NO_DATA})
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
            "https://stac-extensions.github.io/mgrs/v1.0.0/schema.json",
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
        "id": name,
        "collection": COLLECTION,
        "geometry": geometry,
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
        "properties": {
            "datetime": one.time,
            "created": generated,
            "updated": generated,
            "platform": one.platform,
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "eo:cloud_cover": cloud_cover,
            "grid:code": f"MGRS-{one.tile}",
            "mgrs:utm_zone": int(one.tile[:2]),
            "mgrs:latitude_band": one.tile[2],
            "mgrs:grid_square": one.tile[3:],
            "proj:epsg": grid.epsg,
            "s2:sequence": name.split("_")[3],
            "s2:processing_baseline": one.baseline,
            "s2:product_uri": product,
            "s2:generation_time": generated,
            "s2:datastrip_id": f"{name[:3]}_OPER_MSI_L2A_DS_SIM_{strip}_S{strip}_N{one.baseline}",
            "earthsearch:boa_offset_applied": False,
            "description": "Simulated by cloudjob: not a real scene",
        },
        "links": [{"rel": "collection", "href": "./collection.json", "type": "application/json"}],
        "assets": assets,
    }


def _collection(items: list[dict[str, Any]]) -> dict[str, Any]:
    times = sorted(item["properties"]["datetime"] for item in items)
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": COLLECTION,
        "description": "Scenes simulated by cloudjob in the form of Earth Search's sentinel-2-l2a, with their truth",
        "license": "Apache-2.0",
        "extent": {
            "spatial": {"bbox": [bounds(items)]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "links": [],
    }


def _asset(name: str, key: str, grid: Grid, roles: list[str], band: dict[str, Any]) -> dict[str, Any]:
    return {
        "href": f"./{name}/{key}.tif",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": roles,
        "raster:bands": [band],
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform),
    }
