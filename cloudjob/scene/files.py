"""A scene's files as GDAL opens them: patiently but never for ever, and compared with what the item says."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import rasterio

from cloudjob.errors import KeysMissingError, SceneError, redact
from cloudjob.scene import outside
from cloudjob.scene.scene import Band, Scene

INTEGERS = ("uint8", "uint16")

PATIENT = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # never ask a server for .aux and .msk beside every file
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",  # seconds, doubled each time
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",  # give up on a server that sends less than
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",  # … bytes a second for that long
    # GDAL remembers that a file could not be opened; a retry must ask the server again.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",
}


def env(**other: str) -> rasterio.Env:
    """A context with these settings, and `other` ones; variables of the environment win.

    (What `rasterio.Env` is told would go before them.)
    """
    return rasterio.Env(**{name: value for name, value in (PATIENT | other).items() if name not in os.environ})


def check_files(scene: Scene, bands: Sequence[Band], hrefs: Mapping[str, str]) -> None:
    """Open each file once and compare its header with what the item says.

    Raises:
        SceneError: other pixels than the item describes, or other numbers than 8 or 16-bit unsigned integers.
        PassingError: it could not be opened for a reason that may pass.
        OutsideError: its source is out, refuses, or wants keys.
    """
    for band in bands:
        outside.check_keys(band.href)
        try:
            with env(), rasterio.open(hrefs.get(band.name, band.href)) as file:
                kind, count, transform, shape = file.dtypes[0], file.count, file.transform, file.shape
                epsg = file.crs.to_epsg() if file.crs else None
        except rasterio.errors.RasterioError as error:
            raise failed(error, scene, band) from None
        if kind not in INTEGERS or count != 1:
            raise SceneError(
                f"scene {scene.id}, asset {band.key}: {count} band(s) of {kind}; expected one of uint16 (or uint8)"
            )
        grid = band.grid
        if epsg not in (None, grid.epsg):
            raise SceneError(
                f"scene {scene.id}, asset {band.key}: the file is in EPSG:{epsg}, its item says {grid.epsg}"
            )
        tolerance = 1e-3 * min(grid.dx, grid.dy)  # a thousandth of a pixel
        said = (grid.dx, 0, grid.x0, 0, -grid.dy, grid.y0)
        if shape != grid.shape or not np.allclose(tuple(transform)[:6], said, rtol=0, atol=tolerance):
            raise SceneError(
                f"scene {scene.id}, asset {band.key}: the file has {shape[0]} × {shape[1]} pixels from "
                f"{transform.c:.10g}, {transform.f:.10g}; its item says {grid.height} × {grid.width} from "
                f"{grid.x0:.10g}, {grid.y0:.10g}",
                hint="the catalog describes another file; report it to whoever publishes it",
            )


def failed(error: BaseException, scene: Scene, band: Band | None = None) -> SceneError:
    """What GDAL said, with all its causes, as a scene's error of the kind that `outside.kind` finds in it."""
    told = []
    cause: BaseException | None = error
    while cause is not None:
        told.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = " ← ".join(dict.fromkeys(line.strip() for line in told if line.strip()))
    message = f"scene {scene.id}{f', asset {band.key}' if band else ''}: {redact(text)}"
    kinds = {outside.kind(each.href, text): each.href for each in ([band] if band else scene.bands)}
    kind = next((kind for kind in kinds if kind is not SceneError), SceneError)  # Some may lie on a disk
    return outside.keys_missing(outside.source(kinds[kind])) if kind is KeysMissingError else kind(message)


def header(href: str, what: str) -> tuple[int, Sequence[float], tuple[int, int]]:
    """EPSG code, affine transform and shape (y, x) in a raster file's own header.

    Args:
        href: the address to open, signed where it has to be.
        what: the file as an error names it.

    Raises:
        SceneError: it cannot be opened, or its coordinate reference system has no EPSG code.
        PassingError: it could not be opened for a reason that may pass.
        OutsideError: its source is out, refuses, or wants keys.
    """
    outside.check_keys(href)
    try:
        with env(), rasterio.open(href) as file:
            epsg = file.crs.to_epsg() if file.crs else None
            transform, shape = tuple(file.transform)[:6], file.shape
    except rasterio.errors.RasterioError as error:
        kind = outside.kind(href, str(error))
        if kind is KeysMissingError:
            raise outside.keys_missing(outside.source(href)) from None
        raise kind(f"{what}: {redact(str(error))}") from None
    if not epsg:
        raise SceneError(f"{what}: its coordinate reference system has no EPSG code")
    return epsg, transform, shape
