"""A scene's assets as a lazy chunked xarray, by stackstac."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import stackstac
import xarray as xr
from rasterio.enums import Resampling

from cloudjob.grid import Grid
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.scene import EMPTY, Band


def open_cube(
    files: SceneFiles,
    bands: Sequence[Band],
    grid: Grid,
    *,
    dtype: npt.DTypeLike = "uint16",
    chunks: tuple[Any, Any] = (1024, -1),
    resampling: Resampling = Resampling.nearest,
) -> xr.DataArray:
    """Open assets of one scene as a lazy array of raw numbers.

    Args:
        files: of the scene; as long as they are open, the array can be computed again and again without opening any.
        bands: which of its assets.
        grid: the grid to read them on. Where it is an asset's own grid nothing is resampled.
        dtype: uint16, int16 or float32 (`SceneFiles.dtype`).
        chunks: of the y and x axes, in any form Dask understands.
        resampling: for assets that lie on another grid.

    Returns:
        (band, y, x), numbers as in the files, `scene.EMPTY` where there are no data; y and x are the coordinates of
        pixel centres.

    Raises:
        SceneError, PassingError: on computing, when a read fails. (Nothing is ever filled in for it.)
    """
    kind = np.dtype(dtype)
    # stackstac reads nothing but these fields; built anew because catalogs put theirs in many places, and because
    # pystac rewrites `proj:epsg` to `proj:code`, which stackstac 0.5 does not know. A file goes by its band's name.
    item = {
        "id": files.scene.id,
        "properties": {"datetime": files.scene.time.isoformat(), "proj:epsg": grid.epsg, "proj:bbox": grid.bounds},
        "assets": {band.name: {"href": band.name} for band in bands},
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
        dtype=kind,
        fill_value=np.array(EMPTY[kind.name], kind)[()],  # type: ignore[arg-type]  # an int, which it asks for, it then refuses
        errors_as_nodata=(),  # a failed read must fail the scene, not pass for no data
        chunksize=chunks,
        resampling=resampling,
        reader=functools.partial(_Reader, files, grid),  # type: ignore[arg-type]  # called as a class would be
        properties=False,
        band_coords=False,
    )
    return cube.isel(time=0, drop=True).drop_vars("id", errors="ignore")


class _Reader:
    """stackstac's `Reader` protocol on files that are held open: its own opens them anew at every computation."""

    def __init__(
        self,
        files: SceneFiles,
        grid: Grid,
        *,
        url: str,
        resampling: Resampling,
        dtype: np.dtype[Any],
        **_: object,
    ) -> None:
        self.files, self.grid, self.band, self.resampling, self.dtype = files, grid, url, resampling, dtype

    def read(self, window: Any, **_: object) -> npt.NDArray[Any]:
        return self.files.read(self.band, window, self.grid, self.dtype, self.resampling)
