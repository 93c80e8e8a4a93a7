"""What all fuzzers share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _nothing_is_logged() -> Iterator[None]:
    """Records hold what strangers said, raw until a handler prints them: pytest-xdist cannot send half a surrogate."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
