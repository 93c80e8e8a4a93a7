"""One scene: its pixels as a lazy chunked xarray, and as reflectance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import stackstac
import xarray as xr
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from stackstac.rio_reader import AutoParallelRioReader, SingleThreadedRioDataset

from cloudjob.grid import Grid

NO_DATA = 0
"""The number that says no data in every Sentinel-2 product."""


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
    """

    name: str
    key: str
    href: str
    grid: Grid
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Scene:
    """What a STAC item says of a scene, read once when planning.

    Attributes:
        id: the item's id.
        collection: the item's collection, or "".
        item: the source item as a plain dict with absolute, unsigned hrefs, without the assets no job reads.
        group: name of the store's group: the MGRS tile, or tile (or EPSG code), origin and shape.
        grid: the pixel grid masks are made on.
        time: `datetime` of the item, UTC.
        platform: such as "sentinel-2a".
        sensing: the datastrip's sensing time, UTC; `time` where the item does not tell.
        baseline: `s2:processing_baseline` ("05.10") or "".
        generated: `s2:generation_time` (ISO 8601) or "".
        bands: in the network's order.
        scl: the scene classification's asset, or None.
        fingerprint: changes when the scene's pixels may have changed.
        provider_cloud_cover: `eo:cloud_cover` of the item, percent, or None.
        signing: how hrefs are signed when opened (`signing.open_href`), or "".
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

    @property
    def assets(self) -> dict[str, str]:
        """Common band name → asset key, as `metadata.describe` was told."""
        return {band.name: band.key for band in (*self.bands, self.scl) if band}


def open_scene(
    scene: Scene,
    bands: Sequence[Band],
    grid: Grid,
    *,
    hrefs: Mapping[str, str] | None = None,
    chunks: tuple[Any, Any] = (1024, -1),
    resampling: Resampling = Resampling.nearest,
) -> xr.DataArray:
    """Open assets of one scene as a lazy array of raw numbers.

    Args:
        scene: the scene.
        bands: which of its assets.
        grid: the grid to read them on. Where it is an asset's own grid nothing is resampled.
        hrefs: band name → the address to open, when it has to be signed.
        chunks: of the y and x axes, in any form Dask understands.
        resampling: for assets that lie on another grid.

    Returns:
        (band, y, x), unsigned or signed integers as in the files, 0 where there are no data; y and x are the
        coordinates of pixel centres.

    Raises:
        SceneError, PassingError: on computing, when a read fails. (Nothing is ever filled in for it.)
    """
    # stackstac reads nothing but these fields; built anew because catalogs put theirs in many places, and because
    # pystac rewrites `proj:epsg` to `proj:code`, which stackstac 0.5 does not know.
    item = {
        "id": scene.id,
        "properties": {"datetime": scene.time.isoformat(), "proj:epsg": grid.epsg, "proj:bbox": grid.bounds},
        "assets": {band.name: {"href": (hrefs or {}).get(band.name, band.href)} for band in bands},
    }
    cube: xr.DataArray = stackstac.stack(
        [item],
        assets=[band.name for band in bands],
        epsg=grid.epsg,
        resolution=(grid.dx, grid.dy),
        bounds=grid.bounds,
        snap_bounds=False,  # True moves grids that lie off the lattice by half a pixel
        xy_coords="center",  # the default shifts every mask by half a pixel
        rescale=False,  # it knows only STAC 1.0's `raster:bands`
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(NO_DATA),  # type: ignore[arg-type]  # an int, which it asks for, it then refuses
        errors_as_nodata=(),  # a failed read must fail the scene, not pass for no data
        chunksize=chunks,
        resampling=resampling,
        reader=_Reader,
        properties=False,
        band_coords=False,
    )
    return cube.isel(time=0, drop=True).drop_vars("id", errors="ignore")


class _Reader(AutoParallelRioReader):
    """Takes 0 for no data where a file does not say so: at the edge of a swath averages would mix both."""

    def _open(self) -> Any:
        opened = super()._open()
        zero = {"src_nodata": NO_DATA, "nodata": NO_DATA, "add_alpha": False}
        if isinstance(opened, SingleThreadedRioDataset):  # JPEG 2000 and the like
            if opened.vrt and opened.vrt.src_nodata is None:
                opened.vrt = WarpedVRT(opened.ds, resampling=self.resampling, **self.spec.vrt_params, **zero)
        elif opened._vrt_params and opened._vrt_params["src_nodata"] is None:  # type: ignore[attr-defined]  # noqa: SLF001
            opened._vrt_params |= zero  # type: ignore[attr-defined]  # noqa: SLF001
            opened.close()  # what is open; it opens again with these
        return opened


def reflectance(raw: npt.NDArray[np.uint16], bands: Sequence[Band]) -> npt.NDArray[np.float32]:
    """Turn numbers into reflectance.

    Args:
        raw: (band, y, x), 0 for no data.
        bands: whose scale and offset to use, in the order of the first axis.

    Returns:
        (band, y, x) float32, about 0 to 1 (clouds and snow above), NaN in every band where one has no data.
    """
    scale = np.array([band.scale for band in bands], np.float32)[:, None, None]
    offset = np.array([band.offset for band in bands], np.float32)[:, None, None]
    values = raw.astype(np.float32)
    values *= scale
    values += offset
    empty = (raw == NO_DATA).any(axis=0)
    if empty.any():
        values[:, empty] = np.nan
    return values
