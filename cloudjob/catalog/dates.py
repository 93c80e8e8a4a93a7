"""Date ranges as people write them: an interval, a day, a month, a year, an open end, the last days."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from cloudjob.errors import UsageError

_HINT = (
    "write 2024-06-01/2024-06-30 (the end is included), 2024-06-01/.. (no end), "
    "2024-06-01, 2024-06, 2024, or 10d (the last ten days)"
)
_LAST_DAYS = re.compile(r"([0-9]{1,4000})d")  # Python makes no number of more than 4300
_PERIOD = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")


@dataclass(frozen=True)
class Interval:
    """A stretch of time.

    Attributes:
        start: its first moment, UTC.
        end: the first moment after it, UTC; None where it has no end.
    """

    start: datetime
    end: datetime | None

    @property
    def stac(self) -> str:
        """The interval as STAC's `datetime` parameter, both ends included (RFC 3339, UTC)."""
        # Sentinel-2's times have milliseconds; a finer end is refused by some servers.
        end = (self.end - timedelta(milliseconds=1)).isoformat(timespec="milliseconds") if self.end else ".."
        return f"{self.start.isoformat()}/{end}".replace("+00:00", "Z")

    def touches(self, first: datetime, last: datetime | None = None) -> bool:
        """Whether a moment, or what lasted from `first` to `last` (both included, UTC), shares a moment with this."""
        return (last or first) >= self.start and (self.end is None or first < self.end)


def parse_dates(text: str, today: date) -> Interval:
    """Read `--dates`.

    Args:
        text: `2024-06-01/2024-06-30`, its ends included (each may be a day, a month or a year), or one such period
            alone; `2024-06-01/..` without an end; `10d` for the ten days that end with `today`.
        today: the day, in UTC, that `10d` counts back from.

    Raises:
        UsageError: if the text is none of these, names a day no calendar has, or ends before it begins.
    """
    text = text.strip()
    if last := _LAST_DAYS.fullmatch(text):
        return _last_days(text, int(last[1]), today)
    first, slash, second = text.partition("/")
    start, end = _period(text, first)
    if second == "..":
        return Interval(start, None)
    if slash:
        begins, end = _period(text, second)
        if end <= start:
            raise UsageError(
                f"dates {text!r} end before they begin", hint=f"the other way round it is {second}/{first}"
            )
        if begins < start:  # Such as 2024-06-15/2024-06: both readings are defensible, so neither is taken.
            raise UsageError(f"dates {text!r} end in a period that begins before they do", hint=_HINT)
    return Interval(start, end)


def _last_days(text: str, days: int, today: date) -> Interval:
    if days < 1:
        raise UsageError(f"dates {text!r} are no days at all", hint="1d is today alone, in UTC")
    midnight = datetime.combine(today, time(), UTC)
    try:
        return Interval(midnight - timedelta(days=days - 1), midnight + timedelta(days=1))
    except OverflowError:
        raise UsageError(f"dates {text!r} begin before the calendar does", hint=_HINT) from None


def _period(text: str, part: str) -> tuple[datetime, datetime]:
    """First moment of a day, month or year, and of the next one."""
    match = _PERIOD.fullmatch(part)
    if not match:
        raise UsageError(f"dates {text!r} cannot be read ({part!r} is not a day, month or year)", hint=_HINT)
    year, month, day = match.groups(default="")
    try:
        start = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        if day:
            return start, start + timedelta(days=1)
        if month:
            return start, datetime(start.year + start.month // 12, start.month % 12 + 1, 1, tzinfo=UTC)
        return start, datetime(start.year + 1, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"dates {text!r}: {part!r} is in no calendar", hint=_HINT) from None
