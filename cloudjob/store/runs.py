"""Records of runs: what each did, in the order in which they ran, whatever the clock said."""

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudjob.errors import ContractError, redact_all
from cloudjob.store.document import ODD, dump
from cloudjob.store.out import Out

FOLDER = "runs"

LOOKED_AT = 30
"""How many runs are looked at for one that masked any scene: most nights of a small area bring nothing."""

COSTS = ("seen", "read_seconds", "network_seconds", "write_seconds")
"""What is asked of a run's receipts."""

_STAMP = "%Y%m%dT%H%M%S.%fZ.json"
_STAMPED = re.compile(r"\d{8}T\d{6}\.\d{6}Z\.json")


def paths(out: Out) -> list[str]:
    """Of all records; the last is that of the last run."""
    return sorted(f"{FOLDER}/{name}" for name in out.names(FOLDER) if name.endswith(".json"))


def path_of(out: Out, started: datetime) -> str:
    """Where a run's record belongs: named by its start, but after all that are there, however clocks were moved."""
    known = [name for name in out.names(FOLDER) if _STAMPED.fullmatch(name)]
    named, last = f"{started.astimezone(UTC):{_STAMP}}", max(known, default="")
    if named <= last:
        with contextlib.suppress(ValueError, OverflowError):  # Of no date, or the last one that there is
            after = datetime.strptime(last, _STAMP).replace(tzinfo=UTC) + timedelta(microseconds=1)
            named = f"{after:{_STAMP}}"
    return f"{FOLDER}/{named}"


def write(out: Out, path: str, record: Mapping[str, Any]) -> None:
    """Write at `path_of` a run what it did, or that it has begun: JSON types; secrets are taken out of its texts."""
    out.put(path, dump(redact_all(record)))


def last(out: Out, damaged: dict[str, str]) -> dict[str, Any] | None:
    """The record of the last run, or None; what is wrong with it, if so, is put down in `damaged` by its path."""
    known = paths(out)
    if not known:
        return None
    try:
        return read(out, known[-1])
    except ContractError as error:
        damaged[known[-1]] = str(error)
        return None


def read(out: Out, path: str) -> dict[str, Any]:
    """A run's record.

    Raises:
        ContractError: it is none.
    """
    try:
        record: dict[str, Any] = out.get_json(path)
        datetime.fromisoformat(record["started"])
        f"{record['how']} {record['seconds']:g}"
    except (ContractError, *ODD) as error:
        raise ContractError(f"it is no record of a run: {type(error).__name__}: {error}") from None
    return record


def last_receipts(out: Out) -> list[dict[str, float]]:
    """What the scenes of the last run that masked any have cost (`COSTS`); of `LOOKED_AT` runs at most."""
    for path in paths(out)[::-1][:LOOKED_AT]:
        with contextlib.suppress(ContractError):
            if receipts := _costs(read(out, path)):
                return receipts
    return []


def _costs(record: dict[str, Any]) -> list[dict[str, float]]:
    """Of the receipts that tell all of them; those of another version may not."""
    scenes = record.get("scenes")
    receipts = [scene.get("receipt") for scene in scenes if isinstance(scene, dict)] if isinstance(scenes, list) else []
    known = [receipt for receipt in receipts if isinstance(receipt, dict)]
    costs: list[dict[str, Any]] = [{name: receipt.get(name) for name in COSTS} for receipt in known]
    return [cost for cost in costs if all(type(value) in (int, float) and value >= 0 for value in cost.values())]
