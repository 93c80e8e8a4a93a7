"""An object store as it is asked: with the keys of this machine, and again where it does not answer, or breaks off."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from obstore.exceptions import GenericError
from obstore.store import ObjectStore, from_url

from cloudjob.errors import UsageError

if TYPE_CHECKING:
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import ClientConfig, RetryConfig  # Exist for type checkers only

PATIENCE = timedelta(minutes=1)
"""A store that is back by then costs nobody anything; nothing is asked for again later."""

RETRY: "RetryConfig" = {
    "max_retries": 1000,  # The time decides
    "retry_timeout": PATIENCE,
    # A wait is random, up to `base` times the one before. With obstore's own base of 2 waits hardly grow: measured,
    # ten retries are over in 2 s.
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=15), "base": 4},
}

LIMITS: "ClientConfig" = {"read_timeout": timedelta(seconds=30), "timeout": timedelta(minutes=3)}
"""Of an answer: for standing still, and for all of it. obstore's own 30 s for all are too few over a slow network for
what tells of all scenes of a large OUT (60 MB for 100,000): it never came."""

PAUSES = (0.2, 1.0, 4.0)
"""Seconds before an answer that broke off is asked for again: obstore only asks again for what has not begun."""

_BROKEN = re.compile("body error|invalid list response")
"""What obstore says of such an answer."""

Answer = TypeVar("Answer")


def opened(address: str) -> ObjectStore:
    """The store at an address of s3://, gs:// or az://.

    Raises:
        UsageError: the profile that AWS_PROFILE names cannot be read.
    """
    # A plain http:// endpoint (a store of one's own) is refused by obstore unless told that it is meant.
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT", "")
    return from_url(
        address,
        client_options={"allow_http": endpoint.startswith("http://"), **LIMITS},
        retry_config=RETRY,
        credential_provider=_profile(address),
    )


def whole(ask: Callable[[], Answer]) -> Answer:
    """What the store answers, asked for again where it breaks off, or sends nothing: we put no empty object."""
    begun = time.monotonic()
    for pause in PAUSES:
        with may_break_off(begun):
            if (found := ask()) != b"":
                return found
        time.sleep(pause)
    return ask()


@contextmanager
def may_break_off(begun: float) -> Iterator[None]:
    """Pass over an error that says that an answer broke off, for as long as there is `PATIENCE` after `begun`."""
    try:
        yield
    except GenericError as error:
        if not _BROKEN.search(str(error)) or time.monotonic() - begun > PATIENCE.total_seconds():
            raise


def _profile(address: str) -> "Boto3CredentialProvider | None":
    """The credentials of AWS_PROFILE; None leaves it to obstore, which reads variables and roles but no profiles.

    Raises:
        UsageError: there is no such profile, or no boto3 to read it.
    """
    profile = os.environ.get("AWS_PROFILE")
    if not profile or not address.startswith("s3://") or "AWS_ACCESS_KEY_ID" in os.environ:
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 -- an extra

        return Boto3CredentialProvider()
    except ImportError:
        fault, hint = "boto3 is not installed", "pip install boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    except Exception as error:  # noqa: BLE001 -- its kind is botocore's
        fault, hint = str(error), "see ~/.aws"
    raise UsageError(f"the profile that AWS_PROFILE names, {profile!r}, cannot be read: {fault}", hint=hint)
