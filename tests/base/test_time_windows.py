from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.base.time_windows import (
    HOUR_MS,
    MAX_UNIX_MS,
    MIN_UNIX_MS,
    MINUTE_MS,
    UNIX_ZERO,
    correct_skew,
    day_of,
    day_start_ms,
    from_ms,
    hour_of,
    hour_of_day,
    hour_start_ms,
    hours_between,
    hours_of,
    is_last_of_day,
    iso_ms,
    minute_of,
    parse_ms,
    to_ms,
)

RECEIVED = parse_ms("2026-11-21T10:05:00Z")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-11-21T12:05:00+02:00", "2026-11-21T10:05:00Z"),
        ("2026-11-21T10:05:00", "2026-11-21T10:05:00Z"),
        ("2026-11-21T10:05:00.000999Z", "2026-11-21T10:05:00Z"),
        ("2026-11-21", "2026-11-21T00:00:00Z"),
    ],
)
def test_a_time_is_read_as_utc_milliseconds(text: str, same: str) -> None:
    assert parse_ms(text) == parse_ms(same)


def test_a_number_is_unix_milliseconds() -> None:
    assert iso_ms(parse_ms(1_795_226_700_123)) == "2026-11-21T02:05:00.123Z"


@pytest.mark.parametrize(
    "value", ["yesterday", "", None, True, -1, 1e300, float("nan"), [], "0001-01-01T00:00:00+14:00"]
)
def test_what_is_no_time_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"RFC 3339|Unix milliseconds|years"):
        parse_ms(value)


@given(st.integers(0, 253_402_300_799_999))
def test_an_instant_survives_being_a_datetime(ms: int) -> None:
    assert to_ms(from_ms(ms)) == ms
    assert hour_start_ms(hour_of(ms)) <= ms < hour_start_ms(hour_of(ms)) + HOUR_MS


@given(st.datetimes(timezones=st.timezones()))
def test_a_zone_and_a_part_of_a_millisecond_change_no_time(moment: datetime) -> None:
    exact = (moment - UNIX_ZERO) // timedelta(milliseconds=1)

    assert to_ms(moment) == exact
    if MIN_UNIX_MS <= exact <= MAX_UNIX_MS:
        assert parse_ms(moment.isoformat()) == exact
    else:
        with pytest.raises(ValueError, match="outside the years 1 to 9999"):
            parse_ms(moment.isoformat())


def test_a_client_clock_that_is_right_is_left_alone() -> None:
    assert correct_skew(RECEIVED - 40_000, RECEIVED - 59_999, RECEIVED) == RECEIVED - 40_000


def test_a_skewed_clock_is_corrected_by_whole_minutes() -> None:
    sent = RECEIVED - 90 * MINUTE_MS - 7_000

    assert correct_skew(sent - 1_000, sent, RECEIVED) == sent - 1_000 + 90 * MINUTE_MS


def test_a_retry_of_a_skewed_event_lands_on_the_same_time() -> None:
    skew = 90 * MINUTE_MS + 20_000
    client = RECEIVED - skew - 1_000

    first = correct_skew(client, RECEIVED - skew, RECEIVED)
    retried = correct_skew(client, RECEIVED - skew + 30_000, RECEIVED + 30_500)

    assert first == retried


def test_the_future_is_clamped_to_the_moment_of_receipt() -> None:
    assert correct_skew(RECEIVED + HOUR_MS, None, RECEIVED) == RECEIVED
    assert correct_skew(RECEIVED + MINUTE_MS + 1, RECEIVED - 5, RECEIVED) == RECEIVED


@pytest.mark.parametrize("ahead_ms", [1, 45_000, MINUTE_MS])
def test_up_to_a_minute_ahead_a_time_stands_as_it_is(ahead_ms: int) -> None:
    assert correct_skew(RECEIVED + ahead_ms, None, RECEIVED) == RECEIVED + ahead_ms


@pytest.mark.parametrize(("skew_ms", "minutes"), [(59_999, 0), (60_000, 1), (119_999, 1), (-59_999, 0), (-60_000, -1)])
def test_less_than_a_whole_minute_is_no_skew(skew_ms: int, minutes: int) -> None:
    at = RECEIVED - HOUR_MS

    assert correct_skew(at, RECEIVED - skew_ms, RECEIVED) == at + minutes * MINUTE_MS


def test_a_range_touches_the_hours_of_its_half_open_ends() -> None:
    start, end = parse_ms("2026-11-21T10:59:00Z"), parse_ms("2026-11-21T12:00:00Z")

    assert hours_between(start, end) == ["2026-11-21T10", "2026-11-21T11"]


def test_an_hour_knows_its_day_and_a_day_its_hours() -> None:
    hours = hours_between(day_start_ms("2026-11-21"), day_start_ms("2026-11-22"))

    assert {day_of(hour) for hour in hours} == {"2026-11-21"}
    assert [hour_of_day(hour) for hour in hours] == [f"{number:02}" for number in range(24)]
    assert hours_of("2026-11-21") == (hours[0], hours[-1])
    assert hours_of("2026-11-21", "2026-11-23") == ("2026-11-21T00", "2026-11-23T23")
    assert [hour for hour in hours if is_last_of_day(hour)] == [hours[-1]]
    assert minute_of(day_start_ms("2026-11-21") + 605 * MINUTE_MS) == "2026-11-21T10:05"
