"""GDAL's settings while files are opened and read: patient with servers, but never for ever."""

import os
import re

import rasterio

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


def may_pass(href: str, told: str) -> bool:
    """Whether a fault may soon be over, as far as GDAL's words allow to tell.

    Files on a disk do not heal. On a server 401, 404 and 410 are answers. 403 may be a signature that has expired, and
    everything else a cut connection, which GDAL often reports as "not recognized as a supported file format".
    """
    remote = href.startswith(("http", "s3:", "gs:", "az:", "/vsi"))
    return remote and not re.search(r"(response code|error):? ?(401|404|410)\b", told)
