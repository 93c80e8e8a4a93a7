"""What lies outside a scene: whether a source is out, refuses, or wants keys that nobody gave."""

import functools
import os
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

import obstore
import requests
import urllib3
from obstore.exceptions import BaseError
from obstore.store import S3Store

from cloudjob.catalog.answers import within
from cloudjob.errors import KeysMissingError, OutageError, OutsideError, PassingError, SceneError

if TYPE_CHECKING:
    from obstore.store import ClientConfig  # Exists for type checkers only

_VIRTUAL = {"vsis3": "s3", "vsigs": "gs", "vsiaz": "az", "vsiadls": "az"}
_CODE = r"(?:response code|error):? ?({codes})\b"

# Words of GDAL (port/cpl_aws.cpp, cpl_google_cloud.cpp, cpl_azure.cpp): there are no keys in the environment.
_MISSING = re.compile(
    r"AWS_SECRET_ACCESS_KEY and AWS_NO_SIGN_REQUEST|GS_SECRET_ACCESS_KEY\+GS_ACCESS_KEY_ID"
    r"|AZURE_STORAGE_(?:ACCOUNT|CONNECTION_STRING)|None\.blob\.core\.windows\.net"
)
_GONE = re.compile(_CODE.format(codes="404|410") + "|specified (?:key|blob) does not exist|No such object|URL rejected")
# Of an object store GDAL tells the message alone, neither code nor status: words of Amazon's, Google's and Azure's.
_REFUSED = re.compile(
    _CODE.format(codes="401|407")
    + "|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|Access Key Id you provided|signature we calculated"
    "|provided token (?:has expired|is malformed)|authorization header is malformed|using the specified endpoint"
    "|failed to authenticate the request|Invalid Credentials|specified (?:bucket|container) does not exist"
    "|access to this object has been disabled|problem with your AWS account|storage\\.objects\\.get access",
    re.IGNORECASE,
)
# All that a server answers instead of the file, but that there is none (404, 410) or that it is shorter (416).
_OUT = re.compile(
    _CODE.format(codes=r"30\d|4(?!04|10|16)\d\d|5\d\d")
    + r"|CURL error|timed? ?out|resolve host|Access ?Denied|AuthenticationFailed|cannot sign"
    r"|reduce your request rate|encountered an internal error|unable to handle|server is busy|request time and the"
    r"|Invalid AWS response|Malformed AWS XML|not (?:authorized|permitted)",
    re.IGNORECASE,
)

_UNKNOWN = re.compile("Access Key Id you provided|specified bucket does not exist", re.IGNORECASE)
"""What Amazon says of keys and buckets of another store, as of the Copernicus Data Space."""

_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE; AWS_NO_SIGN_REQUEST=YES for a public bucket), "
    "and AWS_S3_ENDPOINT if it is not Amazon's,",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (or GS_ACCESS_KEY_ID and GS_SECRET_ACCESS_KEY; GS_NO_SIGN_REQUEST=YES)",
    "az": "AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_ACCESS_KEY (or AZURE_STORAGE_SAS_TOKEN)",
}
# Any of these may give keys. What they hold is for GDAL to judge.
_GIVEN = {
    "s3": (
        *("AWS_NO_SIGN_REQUEST", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ROLE_ARN"),
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "GDAL_CONFIG_FILE"),
    ),
    "az": ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_NO_SIGN_REQUEST", "GDAL_CONFIG_FILE"),
}
_FILES = {"s3": ("~/.aws/credentials", "~/.aws/config", "~/.gdal/gdalrc"), "az": ("~/.gdal/gdalrc",)}

_REDIRECTS = 5
_EXPLAINING = 30.0
"""Seconds in which a server may show what it sends; a lane waits for it."""

_BEGIN = 16
"""Bytes that tell an image from words."""

_WHOLE = 10 * 2**14
"""Bytes of a longest file that GDAL takes whole, where it asked for a part: ten times what it asks for first."""

_IMAGES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""How files begin as TIFF, BigTIFF, JPEG 2000 and its bare codestream; some servers call what they do not know text."""

_WORDS = re.compile(r"text/|application/([\w.-]+\+)?(json|xml)")
_PAGE = "text/html"

_METADATA = "http://169.254.169.254/latest/api/token"
"""Where a machine of Amazon's gets its role's keys (instance metadata service, version 2)."""


def source(href: str) -> str:
    """Where an asset comes from: scheme and host or bucket; "" for a file on a disk, and for what is no address.

    Scenes of one source share its outages and its keys.
    """
    if virtual := re.match(r"/(vsi\w+)/(.*)", href):
        kind, rest = virtual[1], virtual[2]
        return f"{_VIRTUAL[kind]}://{rest.split('/')[0]}" if kind in _VIRTUAL else source(rest)
    try:
        parts = urlsplit(href)
    except ValueError:  # "http://[x", of an asset that nobody reads, or behind GDAL's /vsicurl/
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""


def kind(href: str, told: str) -> type[SceneError]:
    """What kind of error it is that GDAL tells of a file, as far as its words allow to tell.

    Files on a disk do not heal. On a server 404 and 410 are answers about the file. Everything that is no sign of an
    outage may be a cut connection, which GDAL often reports as "not recognized as a supported file format": worth
    another attempt, but the scene's own if it lasts.
    """
    if not source(href):
        return SceneError
    if _MISSING.search(told):
        return KeysMissingError
    if _REFUSED.search(told):
        return OutsideError
    if _GONE.search(told):
        return SceneError
    return OutageError if _OUT.search(told) else PassingError


def denied(href: str, told: str) -> str:
    """Words to stand behind GDAL's where Amazon refuses: it says neither what is missing nor whose a bucket may be."""
    if not source(href).startswith("s3://"):
        return ""
    if "Access Denied" in told and not os.environ.get("AWS_REQUEST_PAYER"):
        return " (if its reader pays, set AWS_REQUEST_PAYER=requester where the workers run)"
    if _UNKNOWN.search(told) and not (os.environ.get("AWS_S3_ENDPOINT") or os.environ.get("GDAL_CONFIG_FILE")):
        return " (if it is not Amazon's, set AWS_S3_ENDPOINT where the workers run)"
    return ""


def instead(href: str) -> str | None:
    """What a server does in place of sending a file, where GDAL's words do not tell.

    It sends a page or an error, as many do that want a login; or it breaks off, or sends less than it says; or it sends
    whole files only, or packs them. An answer that agrees with itself is the file, empty or cut as it may be.

    Args:
        href: as it was opened, signed where it has to be.

    Returns:
        Words to stand behind GDAL's, "" where it sends the file, and None where nobody could look.
    """
    try:
        return within(_EXPLAINING, lambda: _instead(_over_http(href), time.monotonic() + _EXPLAINING))
    except TimeoutError:
        return None


def empty_by_head(href: str) -> bool:
    """Whether a server says, asked by HEAD, that a file has no bytes, as some do of every file; GDAL believes it."""
    if not href.startswith(("http://", "https://")):
        return False
    try:
        answer = within(_EXPLAINING, lambda: requests.head(href, allow_redirects=True, timeout=10))
    except (requests.RequestException, ValueError, TimeoutError):
        return False
    return answer.ok and answer.headers.get("Content-Length") == "0"


def _over_http(href: str) -> str:
    """The address under which a server has what GDAL reads as s3://, signed for a moment; others as they are.

    It is GDAL's own as far as variables tell it; "" where they give no keys, or a file of GDAL's settings may say
    another endpoint. A server that refuses it tells nothing.
    """
    if not href.startswith("s3://"):
        return href
    told = os.environ.get("AWS_S3_ENDPOINT")
    if not told and (os.environ.get("GDAL_CONFIG_FILE") or Path("~/.gdal/gdalrc").expanduser().exists()):
        return ""  # Else Amazon may be told of a bucket and a key that are not its own
    bucket, _, key = href.removeprefix("s3://").partition("/")
    scheme = "http" if _is_off(os.environ.get("AWS_HTTPS", "")) else "https"
    host = (told or "s3.amazonaws.com").rpartition("://")[2].rstrip("/")
    virtual = not _is_off(os.environ.get("AWS_VIRTUAL_HOSTING", "")) and "." not in bucket
    endpoint = f"{scheme}://{bucket}.{host}" if virtual else f"{scheme}://{host}"
    if not _is_off(os.environ.get("AWS_NO_SIGN_REQUEST") or "NO"):
        return f"{endpoint}/{quote(key if virtual else f'{bucket}/{key}')}"
    if not os.environ.get("AWS_ACCESS_KEY_ID"):  # obstore would ask the machine for its role
        return ""
    options: ClientConfig = {"allow_http": scheme == "http"}
    try:
        store = S3Store(bucket, endpoint=endpoint, virtual_hosted_style_request=virtual, client_options=options)
        return obstore.sign(store, "GET", key, timedelta(seconds=2 * _EXPLAINING))
    except BaseError:  # Of variables that GDAL understands, or does without
        return ""


def _is_off(value: str) -> bool:
    """Whether a setting of GDAL's says no."""
    return value.upper() in ("NO", "FALSE", "OFF", "0")


def _instead(href: str, ends: float) -> str | None:
    asking = urllib3.PoolManager(retries=False, timeout=10)
    try:
        answer = _answer(asking, href, {"Range": f"bytes=0-{_BEGIN - 1}"})
        if not answer or answer.status not in (200, 206):
            return None
        kind = answer.headers.get("Content-Type", "").partition(";")[0].lower()
        told = answer.headers.get("Content-Range" if answer.status == 206 else "Content-Length", "").rpartition("/")[2]
        begin = b"" if kind == _PAGE else answer.read(_BEGIN, decode_content=False)
        answer.close()  # Who sends it may send without end
        sends = ""
        if _WORDS.match(kind) and not begin.startswith(_IMAGES):
            sends = "a web page in its place; does it want a login?" if kind == _PAGE else f"{kind} in its place"
        elif (packed := answer.headers.get("Content-Encoding", "identity").lower()[:20]) != "identity":
            sends = f"it packed ({packed}), which nobody asked for"
        elif answer.status == 200 and told.isdecimal() and int(told) > _WHOLE:
            sends = "whole files only, no byte ranges: copy them, or serve them as nginx does"
        if sends:
            return f" (its server sends {sends})"
        size = _size(_answer(asking, href, {}), ends)
    except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
        return " (its server does not answer, or breaks off)"
    except (urllib3.exceptions.HTTPError, ValueError):
        return None  # GDAL has reached it, through a proxy or by certificates that we do not know
    if size is None:
        return None
    odd = told.isdecimal() and size != int(told)
    return f" (its server says {told} bytes and sends {size})" if odd else ""


def _size(answer: urllib3.BaseHTTPResponse | None, ends: float) -> int | None:
    """Bytes of a whole file as they come; None if it does not, or not by then."""
    if not answer or answer.status != 200:
        return None
    size = 0
    with answer:
        for part in answer.stream(decode_content=False):
            size += len(part)
            if time.monotonic() > ends:
                return None
    return size


def _answer(asking: urllib3.PoolManager, href: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse | None:
    """To a GET, wherever that leads; its body is not read yet."""
    for _ in range(_REDIRECTS):
        if not href.startswith(("http://", "https://")):
            break
        asked = {**headers, "Accept-Encoding": urllib3.util.SKIP_HEADER}  # As GDAL asks
        answer = asking.request("GET", href, redirect=False, preload_content=False, headers=asked)
        onward = answer.get_redirect_location()
        if not onward:
            return answer
        answer.close()
        href = urljoin(href, onward)
    return None


def check_keys(href: str) -> None:
    """Make sure that there are keys for a bucket, before GDAL asks Amazon's metadata service for them (40 s a file).

    Raises:
        KeysMissingError: there are none.
    """
    where = source(href)
    if (scheme := where.partition("://")[0]) in _GIVEN and not _keys(scheme):
        raise keys_missing(where)


def keys_missing(where: str) -> KeysMissingError:
    """The error of a source (`source`) that wants keys, naming the variables that give them."""
    variables = _VARIABLES.get(where.partition("://")[0], "its keys")
    return KeysMissingError(
        f"{where} wants keys, and there are none in the environment of the workers",
        hint=f"set {variables} where the workers run",
    )


@functools.cache
def _keys(scheme: str) -> bool:
    if any(os.environ.get(name) for name in _GIVEN[scheme]):
        return True
    if any(Path(name).expanduser().exists() for name in _FILES[scheme]):
        return True
    return scheme == "s3" and _has_role()


def _has_role() -> bool:
    """Whether this is a machine of Amazon's, which may have a role: asked for a second, not for forty."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    address = os.environ.get("CPL_AWS_EC2_API_ROOT_URL")
    try:
        answer = requests.put(
            f"{address}/latest/api/token" if address else _METADATA,
            headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
            timeout=1,
            proxies={"http": "", "https": ""},
        )
    except requests.RequestException:
        return False
    return answer.status_code == 200  # A proxy or a firewall may answer in its place, too
