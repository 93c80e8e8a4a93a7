"""Addresses that need a signature to be opened: signed at the last moment, and stored without.

The Planetary Computer's rule (its own client does the same): assets on Azure's blob storage are opened with a token,
one per storage account and container, that `GET SAS_URL/<account>/<container>` gives out for less than an hour.
That is small enough to do here: the client has no time-out, and a worker that waits forever is a lost worker.
"""

import os
import re
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from cloudjob.catalog.answers import MAX_SECONDS, within
from cloudjob.errors import OutageError, OutsideError

PLANETARY_COMPUTER = "planetary-computer"
SAS_URL = "https://planetarycomputer.microsoft.com/api/sas/v1/token"

_TIMEOUT_S = (10, 30)
_RETRY = Retry(3, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), respect_retry_after_header=False)
# A token must outlive the reading of a scene, or most of it; what takes longer is signed again after its 403.
_LEAST_LIFE = timedelta(minutes=15)
# The public thumbnails' account gives out no tokens.
_BLOB = re.compile(r"(?!ai4edatasetspublicassets\.)([a-z0-9]+)\.blob\.core\.windows\.net")
# Storage accounts of the Planetary Computer's optical collections; whoever lists files there means these.
_ACCOUNTS = frozenset({"sentinel2l2a01", "landsateuwest", "hlseuwest", "hls2euwest", "modiseuwest"})
# Buckets that anybody may read, without an account, by HTTPS.
_PUBLIC = {
    "deafrica-sentinel-2": "https://deafrica-sentinel-2.s3.af-south-1.amazonaws.com",
    "deafrica-sentinel-2-l2a-c1": "https://deafrica-sentinel-2-l2a-c1.s3.af-south-1.amazonaws.com",
    "dea-public-data": "https://dea-public-data.s3.ap-southeast-2.amazonaws.com",
    "sentinel-cogs": "https://sentinel-cogs.s3.us-west-2.amazonaws.com",
}
# "/vsicurl?url=https%3A…" is one, too, and may stand behind another name of GDAL's
_ADDRESS = re.compile(r"://|^/vsi|/vsi\w*\?", re.IGNORECASE)
_USER = re.compile(r"(://)[^/@]*@")

_given: dict[tuple[str, str, str], str] = {}
_tokens: dict[tuple[str, str], tuple[str, datetime]] = {}
_lock = threading.Lock()


def unsigned(href: str) -> str:
    """Return an address as it may be stored: without user name, password, query and fragment.

    A query may be a signature under any name. What a file cannot be opened without is kept apart (`remember`).
    """
    if href.startswith("/") and not _ADDRESS.search(href):
        return href  # a path, in which those signs mean nothing
    bare = re.split(r"[?#]", href, maxsplit=1)[0]
    return _USER.sub(r"\1", bare)


def remember(asset: tuple[str, str, str], href: str) -> str:
    """Return the address of an asset as it may be stored, and keep the one the run was given for opening it.

    Args:
        asset: collection, id and key.
        href: as the catalog gives it, perhaps signed by its user.
    """
    bare = unsigned(href)
    if bare != href and not _is_signed_here(bare):
        _given[asset] = href
    return bare


def given(asset: tuple[str, str, str], href: str) -> str:
    """Return the address to open an asset with: the signed one that the run was given, else `href`."""
    signed = _given.get(asset, "")
    return signed if unsigned(signed) == href else href


def open_href(signing: str, href: str) -> str:
    """Return the address to open `href` with. Never store or log it: it may be signed.

    Args:
        signing: how the catalog's assets are signed: "planetary-computer", or "" for not at all.
        href: an asset's unsigned address.

    Raises:
        OutageError: if no token is to be had at the moment.
        OutsideError: if none is given out.
    """
    container = _container(signing, href)
    if container is None:
        return _by_https(href)
    with _lock:  # The bands of a scene are opened at once, and one token serves them all.
        token, expiry = _tokens.get(container, ("", datetime.min.replace(tzinfo=UTC)))
        if expiry - datetime.now(UTC) < _LEAST_LIFE:
            token, expiry = _tokens[container] = _fetch_token(*container)
    return f"{href}?{token}"


def forget(signing: str, href: str) -> None:
    """Drop the token that `open_href` would use for `href`: it was refused (HTTP 403)."""
    container = _container(signing, href)
    if container is not None:
        with _lock:
            _tokens.pop(container, None)


def _container(signing: str, href: str) -> tuple[str, str] | None:
    """(storage account, container) of an address that needs a token, else None."""
    if signing not in ("", PLANETARY_COMPUTER):
        raise ValueError(f"signing is {signing!r}, expected '' or {PLANETARY_COMPUTER!r}")
    parts = urlsplit(href)
    blob = _BLOB.fullmatch(parts.netloc)
    if blob is None or parts.query or not (signing or blob[1] in _ACCOUNTS):
        return None
    return blob[1], parts.path.split("/")[1]


def _is_signed_here(href: str) -> bool:
    """Whether a token of ours opens an address: the one it came with may have expired in a saved file."""
    return _container("", href) is not None


def _by_https(href: str) -> str:
    """An address in a public bucket by HTTPS: no keys, region or endpoint need be known for it."""
    bucket, _, key = href.removeprefix("s3://").partition("/")
    return f"{_PUBLIC[bucket]}/{key}" if href.startswith("s3://") and bucket in _PUBLIC else href


def _fetch_token(account: str, container: str) -> tuple[str, datetime]:
    """(token, its expiry) for a container. The environment's names are those of Microsoft's client."""
    address = f"{os.environ.get('PC_SDK_SAS_URL', SAS_URL)}/{account}/{container}"
    key = os.environ.get("PC_SDK_SUBSCRIPTION_KEY")
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=_RETRY))
            headers = {"Ocp-Apim-Subscription-Key": key} if key else None
            answer = within(MAX_SECONDS, lambda: session.get(address, headers=headers, timeout=_TIMEOUT_S))
    except OSError as error:
        if type(error) is OSError:  # There is no REQUESTS_CA_BUNDLE
            raise OutsideError(f"cannot sign: {address} cannot be asked: {error}") from None
        raise OutageError(f"cannot sign: {address} does not answer ({type(error).__name__})") from None
    except ValueError as error:  # A key of other letters: what is said of it may show it
        raise OutsideError(f"cannot sign: {address} cannot be asked ({type(error).__name__})") from None
    if answer.status_code != requests.codes.ok:
        raise OutsideError(f"cannot sign: {address} answers HTTP {answer.status_code}")
    try:
        told = answer.json()
        return str(told["token"]), datetime.fromisoformat(told["msft:expiry"]).astimezone(UTC)
    except (ValueError, KeyError, TypeError):
        # What it did answer is not shown: it may hold a token.
        raise OutsideError(f"cannot sign: what {address} answers is not a token") from None
