"""What a checkpoint's record may say: types and bounds of its numbers and texts, before anything is made of them.

A record comes from a file that anybody may have written. Nothing of it is believed before it has been here: a width of
2⁶², NaN in a mean or a list where a name belongs ends with an error that names it, not in a network of 14 GB.
"""

import math
from collections.abc import Mapping
from typing import Any

from cloudjob.errors import ContractError

NUMBERS: Mapping[str, tuple[float, float]] = {
    "mean": (-1000, 1000),
    "std": (-1e6, 1e6),
    "resolution": (0.01, 100_000),
    "outside_fill": (-1000, 1000),
    "absent_fill": (-1000, 1000),
    "brightest": (0, 1e6),
    "threshold": (0, 1),
    "buffer": (0, 100_000),
    "metrics": (-1e18, 1e18),
}
"""Lowest and highest, both allowed."""

COUNTS: Mapping[str, tuple[int, int]] = {
    "tile": (1, 8192),
    "halo": (0, 2048),
    "widths": (1, 4096),
    "stem": (1, 16),
    "dilation": (1, 64),
}
"""The same for whole numbers."""

TEXTS = ("name", "version", "bands", "optional_bands", "training_data")
LENGTH = 2000
"""Characters of a text, at most."""

MANY = 64
"""Values of a list, at most; of `widths` 10: each halves what is seen."""


def check(contract: Any) -> None:
    """Make sure that a contract's fields are of their types and within bounds.

    Raises:
        ContractError: one is not.
    """
    for name in (*TEXTS, *NUMBERS, *COUNTS):
        values = getattr(contract, name)
        if name == "outside_fill" and isinstance(values, str):  # the contract knows which
            continue
        if name == "metrics":
            values = tuple(values.values()) if isinstance(values, dict) and all(map(_is_line, values)) else None
        several = isinstance(values, tuple)
        if several != (name in ("bands", "optional_bands", "training_data", "mean", "std", "widths", "metrics")):
            raise ContractError(f"the checkpoint's {name} is {short(values)}; expected another type")
        for value in values if several else (values,):
            if fault := _fault(name, value):
                raise ContractError(f"the checkpoint's {name} is {short(value)}; expected {fault}")
        if several and len(values) > (10 if name == "widths" else MANY):
            raise ContractError(f"the checkpoint's {name} are {len(values)} values, too many")
    if not contract.widths or len(set(contract.bands)) < len(contract.bands):
        raise ContractError(f"the checkpoint's widths are {contract.widths}, and its bands {contract.bands}")


def _fault(name: str, value: Any) -> str:
    """What was expected of a value, or ""."""
    if name in TEXTS:
        return "" if _is_line(value) else f"a text of one line, of at most {LENGTH} characters"
    whole = name in COUNTS
    low, high = COUNTS[name] if whole else NUMBERS[name]
    if type(value) is int or (type(value) is float and not whole and math.isfinite(value)):
        return "" if low <= value <= high else f"{low:g} to {high:g}"
    return "a whole number" if whole else "a finite number"


def _is_line(value: Any) -> bool:
    """Whether it is a text that neither ends a line of a table or a log nor moves a terminal's cursor."""
    return isinstance(value, str) and len(value) <= LENGTH and value.isprintable()


def short(value: Any) -> str:
    """A value as an error quotes it: not 10,000 letters of a file that anybody may have written."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # An integer of 5,000 digits
        return "no such thing"
    return text if len(text) <= 80 else f"{text[:80]}…"
