"""Documents of an OUT: JSON, the same bytes for the same document."""

import json
import math
from typing import Any

from shapely.errors import ShapelyError

ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, ShapelyError)
"""What a document raises whose members are not there, or of other types than they should be."""


def parse(data: bytes) -> Any:
    """A JSON document.

    Raises:
        ValueError: it is none; NaN, Infinity and what is nested too deep are none either.
    """
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def dump(document: Any) -> bytes:
    """A JSON document as bytes: the same document gives the same bytes. Numbers that JSON has not become null."""
    try:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(document), indent=1, ensure_ascii=False)
    return (text + "\n").encode(errors="backslashreplace")  # Half a pair of surrogates has no UTF-8, but an escape


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
