"""A scene's assets as a lazy chunked xarray, by stackstac."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import stackstac
import xarray as xr
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from stackstac.rio_reader import AutoParallelRioReader, SingleThreadedRioDataset

from cloudjob.grid import Grid
from cloudjob.scene.scene import NO_DATA, Band, Scene


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
