"""Scenes whose masks were found damaged: the next run looks for them, whatever its dates, and masks them again."""

from collections.abc import Collection, Mapping
from datetime import date, datetime

from cloudjob.errors import ContractError
from cloudjob.store.out import Out

FILE = "again.json"


def read(out: Out) -> dict[str, date]:
    """Scene id → its day (UTC)."""
    try:
        found = out.get_json(FILE) or {}
        return {str(id_): datetime.fromisoformat(time).date() for id_, time in found.items()}
    except (ContractError, ValueError, TypeError, AttributeError):
        return {}  # `check` finds what is damaged anew


def mark(out: Out, scenes: Mapping[str, date]) -> None:
    """Have the next run look for scenes (id → day), beside those that are marked already."""
    _write(out, {**read(out), **scenes})


def settle(out: Out, done: Collection[str]) -> None:
    """Forget the scenes that have been done."""
    marked = read(out)
    if marked.keys() & done:
        _write(out, {id_: day for id_, day in marked.items() if id_ not in done})


def _write(out: Out, scenes: Mapping[str, date]) -> None:
    if scenes:
        out.put_json(FILE, {id_: day.isoformat() for id_, day in sorted(scenes.items())})
    else:
        out.delete([FILE])
