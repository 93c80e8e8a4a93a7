"""A file as GDAL opens it: an image at an address that an item may name, patiently but never for ever."""

import errno
import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyproj
import rasterio
from rasterio._err import CPLE_BaseError  # What rasterio lets through of GDAL's own errors
from rasterio.crs import CRS
from requests.utils import requote_uri

from cloudjob.errors import KeysMissingError, OutageError, PassingError, SceneError, UnaskedError, UnseenError, redact
from cloudjob.scene import outside
from cloudjob.scene.scene import Band, Scene

KINDS = ("uint8", "uint16", "int16", "float32")
"""Of numbers in files. Others may be wider than a float32 tells apart."""

BYTES = "its numbers are bytes, as of a picture to look at, and no scale tells what reflectance they stand for"

JPEG_2000 = re.compile(r"\.(jp2|j2k|jpx|jpf)$", re.IGNORECASE)
"""Names of such files. All others are opened as GeoTIFF (of which COGs are some), whatever they are called. GDAL has
150 more drivers; some of them read any file of this machine, or any address, that their text names (VRT, WMS…)."""

PATIENT = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # never ask a server for .aux and .msk beside every file
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",  # seconds, doubled each time
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",  # give up on a server that sends less than
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",  # … bytes a second for that long
    "GDAL_HTTP_TIMEOUT": "300",  # and on an answer that takes longer than this
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    # GDAL remembers that a file could not be opened; a retry must ask the server again.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",
}

MAX_SIDE = 100_000
"""Pixels; Sentinel-2 and Landsat have about 11,000. What is larger is a mistake, and its tiles are never listed."""

LARGEST_FILE = 2**32
"""Bytes of a file that are read to learn whether its disk is at fault; larger ones hold no band of a satellite."""

LARGEST_BLOCK = 2**27
"""Pixels of one block of a file, which a reader unpacks whole; all 10980² of a Sentinel-2 tile are fewer."""

EQUIVALENT = 50
"""Percent that GDAL must be sure of a file's EPSG code: so much it is of HLS's "UTM Zone 33, Northern Hemisphere" on an
unknown datum upon the ellipsoid of WGS 84."""

FAULTS = (RuntimeError, OSError, ValueError, rasterio.errors.RasterioError, CPLE_BaseError)
"""What rasterio raises when a file cannot be opened or read."""

_REMOTE = re.compile(r"(https?|s3|gs|az)://|/vsi(curl/https?://|(s3|gs|az|adls)/)", re.IGNORECASE)
_ABSENT = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ),  # The last of names that Windows and macOS refuse
}
"""What says that a file is not there, or not for us. All others are said of the disk: EIO, ESTALE, ENOTCONN…"""

_HEADLESS = re.compile(r"response code: (400|501)\b")
"""Of servers that may know no HEAD; 403 may mean that a signature holds for GET alone. So to ask costs connections."""

_SCHEME = re.compile(r"[a-z][a-z0-9+._-]+:|/vsi|<", re.IGNORECASE)  # One letter is a drive's


_FOREIGN = re.compile(r"zarr|netcdf|hdf|grib|zip", re.IGNORECASE)
_FOREIGN_NAME = re.compile(r"[^/]*\.((zarr|nc|h5|hdf|grib2?)(?=/|$)|zip$)", re.IGNORECASE)  # In x.zip/ it is unpacked

_NOWHERE = re.compile(r"( at)? (row|col|column|scanline|strip|tile) 4294967295,?")
"""What libtiff says, −1 without its sign, where it does not know the place."""


def env(**other: str) -> rasterio.Env:
    """A context with these settings, and `other` ones; variables of the environment win.

    (What `rasterio.Env` is told would go before them.)
    """
    return rasterio.Env(**{name: value for name, value in (PATIENT | other).items() if name not in os.environ})


def is_remote(href: str) -> bool:
    """Whether an address is one of a server or of an object store."""
    return _REMOTE.match(href) is not None


def foreign(href: str, kind: str) -> str:
    """What an asset is, or lies in, by its media type or its name, if that is neither GeoTIFF nor JPEG 2000; else "".

    Servers answer such an address in many ways (a listing, 404, 403), and none of them says so.
    """
    named = _FOREIGN_NAME.search(urlsplit(href).path)
    return kind if _FOREIGN.search(kind) else named[0] if named else ""


def open_file(href: str) -> Any:
    """Open an image for reading; call it in `env`.

    Args:
        href: an address (http, s3, gs, az), or the path of a regular file. GDAL's own names of files within files, or
            of what is no file, are refused.

    Raises:
        SceneError: what this is nobody reads, or it is larger than any image of a satellite.
        UnseenError: there is no such file on this machine, or it may not be read.
        OutageError: its disk does not answer.
        KeysMissingError: it lies in a bucket that wants keys.
        RasterioError: it cannot be opened as GeoTIFF or JPEG 2000.
    """
    parts, settings = urlsplit(href), {}
    if not is_remote(href):
        path = _path(href)
        if _SCHEME.match(path) or "\0" in path:
            raise SceneError(
                f"{redact(href)[:200]!r} is not an address that scenes are read from",
                hint="expected http(s)://, s3://, gs:// or az://, or the path of a file",
            )
        try:
            kind = Path(path).stat().st_mode
        except OSError as error:
            raise (UnseenError if error.errno in _ABSENT else OutageError)(f"{path}: {error.strerror}") from None
        if not stat.S_ISREG(kind):  # Who opens a FIFO waits for ever
            raise SceneError(f"{path!r} is not a regular file")
        if not os.access(path, os.R_OK):
            raise UnseenError(f"{path}: {os.strerror(errno.EACCES)}")
        if os.path.exists(f"{path}.msk"):  # noqa: PTH110 -- its mask, as rasterio writes one; a name too long is none
            settings = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE", "GDAL_PAM_ENABLED": "NO"}  # Never an .aux.xml
    outside.check_keys(href)
    if parts.scheme in ("http", "https"):
        href = requote_uri(href)  # Spaces and letters beyond ASCII, which curl refuses
    driver = "JP2OpenJPEG" if JPEG_2000.search(parts.path) else "GTiff"
    try:
        with rasterio.Env(**settings):
            return _bounded(rasterio.open(href, driver=driver))
    except rasterio.errors.RasterioIOError as error:
        headless = _HEADLESS.search(str(error)) or (parts.query and "403" in str(error))
        if not headless and not ("not recognized" in str(error) and outside.empty_by_head(href)):
            raise
    with rasterio.Env(CPL_VSIL_CURL_USE_HEAD="NO"):
        return _bounded(rasterio.open(href, driver=driver))


def _path(href: str) -> str:
    """Of a file on a disk, whose address may be one of `file:`."""
    parts = urlsplit(href)
    return url2pathname(parts.path) if parts.scheme == "file" and not parts.netloc else href


def _disk_fault(href: str) -> str:
    """Why this machine cannot read a file, however it is packed, if that is why GDAL could not, which does not tell."""
    if is_remote(href):
        return ""
    try:
        with Path(_path(href)).open("rb", buffering=0) as file:
            for _ in range(LARGEST_FILE // 2**20):
                if not file.read(2**20):
                    break
    except OSError as error:
        return "" if error.errno in _ABSENT else f" ({error.strerror})"
    except ValueError:
        return ""  # A name in letters that this machine has no code for: GDAL has refused it, too
    return ""


def _bounded(file: Any) -> Any:
    """Let a file pass that says of itself what can be read; some bytes of a header may tell of terabytes."""
    height, width = max(file.block_shapes)
    if max(file.shape) <= MAX_SIDE and height * width <= LARGEST_BLOCK:
        return file
    says = f"{file.height} × {file.width} pixels in blocks of {height} × {width}"
    file.close()
    raise SceneError(f"{says}; expected at most {MAX_SIDE} a side, and {LARGEST_BLOCK} in a block")


def failed(error: BaseException, scene: Scene, band: Band) -> SceneError:
    """What GDAL said of a band's file, with all its causes, as an error of ours."""
    told = []
    cause: BaseException | None = error
    while cause is not None:
        told.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = " ← ".join(dict.fromkeys(line.strip() for line in told if line.strip()))
    return _fault(f"scene {scene.id}, asset {band.key}", band.href, _NOWHERE.sub("", text), band.key)


def _fault(what: str, href: str, text: str, key: str) -> SceneError:
    """What GDAL said (`text`) of a file, as an error of the kind that `outside.kind` finds in it."""
    kind, disk = outside.kind(href, text), _disk_fault(href)
    if kind is KeysMissingError:
        return outside.keys_missing(outside.source(href))
    told = f"{what}: {redact(text)}{disk or outside.denied(href, text)}"
    return (OutageError if disk else kind)(told, asset=key)


def explained(fault: SceneError, href: str) -> SceneError:
    """The error; where its server does something else than to send the file (`outside.instead`), it is out."""
    if type(fault) is not PassingError or (told := outside.instead(href)) == "":
        return fault
    kind = UnaskedError if told is None else OutageError
    return kind(f"{fault}{told or ''}", asset=fault.asset)


def on_ground(crs: CRS | None) -> CRS | None:
    """A file's projection; of one that has heights, too (compound), the one on the ground."""
    told = crs.to_wkt() if crs else ""
    return CRS.from_wkt(pyproj.CRS(told).sub_crs_list[0].to_wkt()) if told.startswith("COMPD_CS") else crs


def header(href: str, what: str, key: str = "") -> tuple[int, Sequence[float], tuple[int, int]]:
    """EPSG code, affine transform and shape (y, x) in a raster file's own header.

    Args:
        href: the address to open, signed where it has to be.
        what: the file as an error names it.
        key: of the asset.

    Raises:
        SceneError: it cannot be opened, or its coordinate reference system has no EPSG code.
        PassingError: it could not be opened for a reason that may pass.
        OutsideError: its source is out, refuses, or wants keys.
    """
    try:
        with env(), open_file(href) as file:
            crs = on_ground(file.crs)
            epsg = crs.to_epsg(EQUIVALENT) if crs else None
            unit = crs.units_factor[1] if crs else 0
            if epsg and not math.isclose(CRS.from_epsg(epsg).units_factor[1], unit, rel_tol=1e-6):
                epsg = None  # So sure it is also of the same in feet
            transform, shape, known = tuple(file.transform)[:6], file.shape, bool(crs)
    except SceneError as error:
        raise type(error)(f"{what}: {error}", hint=error.hint, asset=key) from None
    except FAULTS as error:
        raise explained(_fault(what, href, str(error), key), href) from None
    if not epsg:
        says = "its coordinate reference system has no EPSG code" if known else "its file does not tell where it lies"
        hint = "write proj:code, proj:shape and proj:transform into its item, or give the file such a projection"
        raise SceneError(f"{what}: {says}", hint=hint, asset=key)
    return epsg, transform, shape
