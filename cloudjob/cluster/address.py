"""Addresses of schedulers as people write them: checked without Dask."""

import re

from cloudjob.errors import UsageError, redact


def check_address(address: str) -> None:
    """Make sure that something may be a scheduler's address, without asking whether one answers.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(r"(tcp|tls)://[^\s/@]+:\d+", address):
        hint = "expected one such as tcp://host:8786"
        raise UsageError(f"{redact(address)!r} is no scheduler's address", hint=hint)
