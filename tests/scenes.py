"""Small scenes on disk for tests: COGs and the STAC item that describes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine

BANDS = ("red", "green", "blue", "nir")


def write_cog(
    path: Path,
    values: np.ndarray,
    transform: tuple[float, ...],
    epsg: int | str | None = 32633,
    nodata: float | None = 0,
    blocksize: int = 128,
) -> None:
    """A COG with overviews, its projection by code or WKT, or untold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="COG",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs=epsg,
        transform=Affine(*transform[:6]),
        nodata=nodata,
        blocksize=blocksize,
        overview_resampling="average",
    ) as file:
        file.write(values, 1)


def make_item(
    folder: Path,
    name: str = "S2A_33UUP_20240601_0_L2A",
    *,
    shape: tuple[int, int] = (150, 139),
    transform: tuple[float, ...] = (10, 0, 600_000, 0, -10, 5_200_020),
    epsg: int = 32633,
    seed: int = 0,
    values: Mapping[str, np.ndarray] | None = None,
    nodata: float | None = 0,
    properties: Mapping[str, Any] | None = None,
    band: Mapping[str, Any] | None = None,
    blocksize: int = 128,
) -> dict[str, Any]:
    """Write one random scene and return its STAC item with absolute hrefs."""
    rng = np.random.default_rng(seed)
    from rasterio.warp import transform_geom

    assets = {}
    for key in BANDS:
        pixels = values[key] if values else rng.integers(1, 12_000, shape, np.uint16)
        write_cog(folder / name / f"{key}.tif", pixels, transform, epsg, nodata, blocksize)
        assets[key] = {
            "href": str(folder / name / f"{key}.tif"),
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data", "reflectance"],
            "raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 0.0001, "offset": 0, **(band or {})}],
            "proj:shape": list(pixels.shape),
            "proj:transform": list(transform[:6]),
        }
    height, width = pixels.shape
    left, top = transform[2], transform[5]
    right, bottom = left + width * transform[0], top + height * transform[4]
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    geometry = transform_geom(f"EPSG:{epsg}", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    xs, ys = zip(*geometry["coordinates"][0], strict=True)
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": geometry,
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
        "properties": {
            "datetime": "2024-06-01T10:15:59.024000Z",
            "platform": "sentinel-2a",
            "proj:epsg": epsg,
            **(properties or {}),
        },
        "links": [],
        "assets": assets,
    }
    told: dict[str, Any] = json.loads(json.dumps(item))  # lists where rasterio has tuples
    return told
