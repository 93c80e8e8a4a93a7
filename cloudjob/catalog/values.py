"""JSON values of unknown hands: each is read as one type and within bounds, or refused in words.

What cannot be is an `UnreadableError`; `flag`, `nodata` and `percentage` take it for nothing.
"""

import contextlib
import json
import math
import re
import reprlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

MAX_TEXT = 300
"""Letters of a name or a version; the longest that real catalogs have are product names of about 80."""

MOST = 100
"""Objects of a list; nobody's files have as many bands."""

_YEARS = range(1960, 2200)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class UnreadableError(ValueError):
    """A value is not what was expected. Its text says what it is, in printable letters."""


def load(data: bytes) -> Any:
    """Parse JSON of unknown hands; a whole number of very many digits becomes infinite, which every reader refuses.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(data, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))


def shown(value: Any) -> str:
    """A value as it may be printed: short, without letters that move a terminal's cursor."""
    return _SHORT.repr(value)


def text(value: Any, name: str, *, longest: int = MAX_TEXT) -> str | None:
    """A string of printable letters; numbers count as what they are written as; None for nothing."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(number(value, name))
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise UnreadableError(f"its {name} is {shown(value)}; expected up to {longest} printable letters")
    return value


def number(value: Any, name: str, least: float = -1e12, most: float = 1e12) -> float | None:
    """A finite number between bounds, also where it is written as a string; None for nothing."""
    if value is None:
        return None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UnreadableError(f"its {name} is {shown(value)}; expected a number from {least:g} to {most:g}")
    return value


def whole(value: Any, name: str, least: int, most: int) -> int | None:
    """A whole number between bounds, also where it is written as a string or as 3.0; None for nothing."""
    found = number(value, name, least, most)
    if found is not None and found != int(found):
        raise UnreadableError(f"its {name} is {shown(value)}; expected a whole number")
    return None if found is None else int(found)


def numbers(value: Any, name: str, lengths: Iterable[int]) -> list[float] | None:
    """A list of so many finite numbers; None for nothing."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) not in lengths:
        raise UnreadableError(
            f"its {name} is {shown(value)}; expected a list of {' or '.join(map(str, lengths))} numbers"
        )
    return [_some(number(each, name), name) for each in value]


def spelt(time: str) -> str:
    """A time of RFC 3339 as Python reads it: letters in upper case, and a leap second as the one before."""
    return re.sub(r":60(?=[.Z+-]|$)", ":59", time.upper())


def moment(value: Any, name: str) -> datetime | None:
    """A time of RFC 3339 (its letters in either case) as UTC; without a zone it is taken for UTC; None for nothing."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(spelt(value))
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (AttributeError, TypeError, ValueError, OverflowError):
        time = None
    if time is None or time.year not in _YEARS:
        raise UnreadableError(f"its {name} is {shown(value)}; expected a time such as 2024-06-01T10:15:59Z")
    return time


def records(value: Any, name: str) -> list[dict[str, Any]]:
    """A list of objects; empty for nothing."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MOST or not all(isinstance(each, dict) for each in value):
        raise UnreadableError(f"its {name} is {shown(value)}; expected a list of up to {MOST} objects")
    return value


def flag(value: Any) -> bool | None:
    """Whether, also where it is written as a string; None for everything else."""
    return {"true": True, "false": False}.get(str(value).lower())


def nodata(value: Any) -> float | None:
    """A number that says no data, also where it is written as a string; None for everything else, as for "nan"."""
    try:
        return number(float(value), "nodata") if type(value) in (int, float, str) else None
    except (ValueError, OverflowError):
        return None


def percentage(value: Any) -> float | None:
    """A percentage, also where it is written as a string; None for everything else: it only informs."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and 0 <= found <= 100 and not isinstance(value, bool) else None


def _some(value: float | None, name: str) -> float:
    if value is None:
        raise UnreadableError(f"its {name} holds null; expected numbers")
    return value
