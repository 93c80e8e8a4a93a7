from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudjob.catalog.dates import Interval, parse_dates
from cloudjob.errors import UsageError

TODAY = date(2024, 3, 5)


def utc(*numbers):
    return datetime(*numbers, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024-06-01/2024-06-30", utc(2024, 6, 1), utc(2024, 7, 1)),
        ("2024-06-01/2024-06-01", utc(2024, 6, 1), utc(2024, 6, 2)),
        ("2024-06-01", utc(2024, 6, 1), utc(2024, 6, 2)),
        ("2024-02-29", utc(2024, 2, 29), utc(2024, 3, 1)),
        ("2024-06", utc(2024, 6, 1), utc(2024, 7, 1)),
        ("2024-12", utc(2024, 12, 1), utc(2025, 1, 1)),
        ("2024", utc(2024, 1, 1), utc(2025, 1, 1)),
        ("2024-06-01/..", utc(2024, 6, 1), None),
        ("2024/..", utc(2024, 1, 1), None),
        ("2023-11/2024", utc(2023, 11, 1), utc(2025, 1, 1)),
        (" 2024-06-01 ", utc(2024, 6, 1), utc(2024, 6, 2)),
        ("10d", utc(2024, 2, 25), utc(2024, 3, 6)),
        ("1d", utc(2024, 3, 5), utc(2024, 3, 6)),
    ],
)
def test_every_form(text, start, end):
    assert parse_dates(text, TODAY) == Interval(start, end)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2024-06-30/2024-06-01", "end before they begin"),
        ("2024-02-30", "in no calendar"),
        ("2023-02-29/2023-03-01", "'2023-02-29' is in no calendar"),
        ("2024-13", "in no calendar"),
        ("2024-00-10", "in no calendar"),
        ("0000", "in no calendar"),
        ("9999", "in no calendar"),
        ("2024-06-15/2024-06", "begins before"),
        ("yesterday", "cannot be read"),
        ("../2024-06-01", "cannot be read"),
        ("2024-06-01/", "cannot be read"),
        ("2024-6-1", "cannot be read"),
        ("2024-06-01T10:00:00Z", "cannot be read"),
        ("2024-06-01/2024-06-02/2024-06-03", "cannot be read"),
        ("٢٠٢٤", "cannot be read"),
        ("-3d", "cannot be read"),
        ("nan", "cannot be read"),
        ("", "cannot be read"),
        ("0d", "no days"),
        ("999999d", "before the calendar"),
        ("99999999999999999999d", "before the calendar"),
    ],
)
def test_a_date_that_is_none_is_named_and_explained(text, says):
    with pytest.raises(UsageError, match=says) as caught:
        parse_dates(text, TODAY)
    assert repr(text) in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_more_digits_than_python_reads_are_no_days():
    with pytest.raises(UsageError):
        parse_dates("9" * 5000 + "d", TODAY)


def test_the_other_way_round_is_offered():
    with pytest.raises(UsageError) as caught:
        parse_dates("2024-06-30/2024-06-01", TODAY)
    assert "2024-06-01/2024-06-30" in caught.value.hint


def test_the_end_is_included_in_what_an_api_is_asked():
    assert parse_dates("2024-06-01/2024-06-30", TODAY).stac == "2024-06-01T00:00:00Z/2024-06-30T23:59:59.999Z"
    assert parse_dates("2024-06-01/..", TODAY).stac == "2024-06-01T00:00:00Z/.."


days = st.dates(date(1980, 1, 1), date(2100, 1, 1))


@given(days, days)
def test_an_interval_holds_exactly_its_days(first, last):
    text = f"{first}/{last}"
    if last < first:
        with pytest.raises(UsageError):
            parse_dates(text, TODAY)
        return
    interval = parse_dates(text, TODAY)
    assert interval.end - interval.start == timedelta(days=(last - first).days + 1)
    evening = datetime.combine(last, datetime.max.time(), UTC)
    assert interval.touches(interval.start)
    assert interval.touches(evening)
    assert not interval.touches(interval.end)
    before = interval.start - timedelta(microseconds=1)
    assert not interval.touches(before)
    assert interval.touches(before, interval.start)  # An item that lasts, such as a composite


@given(days, st.integers(1, 400))
def test_the_last_days_are_as_many_as_asked_and_end_today(today, count):
    interval = parse_dates(f"{count}d", today)
    assert interval.end - interval.start == timedelta(days=count)
    assert interval.touches(datetime.combine(today, datetime.min.time(), UTC))


@given(st.text(alphabet="0123456789-/.dT: ", max_size=25))
def test_any_text_is_an_interval_or_a_usage_error(text):
    try:
        interval = parse_dates(text, TODAY)
    except UsageError:
        return
    assert interval.end is None or interval.start < interval.end
