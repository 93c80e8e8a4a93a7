"""What an OUT holds, scene by scene: date, cloud, share of valid pixels, and state; and groups by their short names."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cloudjob.catalog.dates import Interval
from cloudjob.catalog.values import UnreadableError, moment
from cloudjob.errors import UsageError, did_you_mean
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store.failures import Failure
from cloudjob.store.item import iso
from cloudjob.store.ledger import Ledger
from cloudjob.store.out import Out


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One scene of an OUT.

    Attributes:
        id: of the scene.
        group: of the store; "" where it is not known.
        datetime: of the scene (ISO 8601, UTC), or "" where it is not known.
        cloud_cover: percent of valid pixels, or None where there is none.
        valid: percent of the pixels asked for that hold data, or None.
        provider_cloud_cover: percent, by the provider of the scene, or None.
        state: done; failed (the next run tries again); abandoned; incomplete (a run was interrupted).
        reason: why it failed, or "".
        item: path of its STAC item in the OUT, or "".
    """

    id: str
    group: str
    datetime: str
    cloud_cover: float | None = None
    valid: float | None = None
    provider_cloud_cover: float | None = None
    state: Literal["done", "failed", "abandoned", "incomplete"]
    reason: str = ""
    item: str = ""


def scenes(out: Out, *, group: str | None = None, dates: Interval | None = None) -> list[Listed]:
    """Every scene of an OUT by time, then id.

    Args:
        group: only of this group, or of all windows of a tile ("33TUN").
        dates: only of this stretch of time.

    Raises:
        UsageError: there is no such group.
        ContractError: something in the OUT was not written by cloudjob.
    """
    ledger = ledgers.read(out)
    wanted = set(groups_like(ledger, group)) if group else None
    ledger.say_damage(wanted or ())
    found = [*_done(out, ledger, wanted), *_others(out, ledger)]
    if wanted is not None:
        found = [one for one in found if one.group in wanted]
    if dates:
        found = [one for one in found if one.datetime and dates.touches(datetime.fromisoformat(one.datetime))]
    return sorted(found, key=lambda one: (one.datetime, one.id))


def groups_like(ledger: Ledger, name: str) -> list[str]:
    """The group of that name, else all that begin with it and an underscore: windows of a tile.

    Raises:
        UsageError: there is none.
    """
    damaged = (path.split("/")[1] for path in ledger.damaged if path.startswith(f"{groups.MASKS}/"))
    known = sorted({*ledger.groups, *damaged, *(failure.group for failure in ledger.failures.values())} - {""})
    found = [group for group in known if group == name] or [group for group in known if group.startswith(f"{name}_")]
    if not found:
        raise UsageError(f"there is no group {name!r}", hint=did_you_mean(name, known) if known else None)
    return found


def group_named(ledger: Ledger, name: str) -> str:
    """The one group of that name, or the only window of that tile.

    Raises:
        UsageError: there is none, or there are several.
    """
    found = groups_like(ledger, name)
    if len(found) > 1:
        raise UsageError(f"{name!r} is short for {len(found)} groups: {', '.join(found)}", hint="give one of them")
    return found[0]


def _done(out: Out, ledger: Ledger, wanted: Iterable[str] | None) -> list[Listed]:
    entries = [entry for entry in ledger.done.values() if wanted is None or entry.group in wanted]
    items = out.each(out.get_json, [entry.path for entry in entries])
    return [
        Listed(
            id=entry.id,
            group=entry.group,
            datetime=entry.time,
            cloud_cover=entry.cloud_cover,
            valid=_valid((item or {}).get("properties", {}).get("cloudjob:pixels", {})),
            provider_cloud_cover=entry.provider_cloud_cover,
            state="done",
            item=entry.path,
        )
        for entry, item in zip(entries, items, strict=True)
    ]


def _others(out: Out, ledger: Ledger) -> list[Listed]:
    failed = [
        Listed(
            id=failure.id,
            group=failure.group,
            datetime=_time(failure),
            state="abandoned" if failure.abandoned else "failed",
            reason=failure.reason,
        )
        for failure in ledger.failures.values()
        if failure.id not in ledger.done
    ]
    begun = ledger.begun
    times = {name: groups.times(out, name) for name in {name for name, _ in begun.values()}}
    interrupted = [
        Listed(id=id_, group=name, datetime=iso(times[name][slot]) if slot in times[name] else "", state="incomplete")
        for id_, (name, slot) in begun.items()
    ]
    return failed + interrupted


def _time(failure: Failure) -> str:
    """Of the source item, else when it was sensed; "" where neither can be read."""
    properties = failure.item.get("properties")
    properties = properties if isinstance(properties, dict) else {}  # An item that was refused may hold anything
    for told in (properties.get("datetime"), properties.get("start_datetime"), failure.identity.get("sensing")):
        with contextlib.suppress(UnreadableError):
            if time := moment(told, "time"):
                return iso(time)
    return ""


def _valid(pixels: dict[str, int]) -> float | None:
    """Percent of the pixels computed that hold data."""
    counts = {name: count for name, count in pixels.items() if name != "not_computed"}
    total = sum(counts.values())
    return 100 * (total - counts.get("no_data", 0)) / total if total else None
