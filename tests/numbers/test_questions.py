from itertools import pairwise

import pytest

from chalicelib.base.errors import InvalidRequest
from chalicelib.base.time_windows import HOUR_MS, parse_ms
from chalicelib.numbers.questions import Filter, read_question

BASE = {"metric": "page_views", "start": "2026-11-20", "end": "2026-11-21"}


def test_dates_stand_for_whole_days() -> None:
    question = read_question(BASE)

    assert question.start_ms == parse_ms("2026-11-20T00:00:00Z")
    assert question.end_ms == parse_ms("2026-11-22T00:00:00Z")
    assert (question.interval, question.agg) == ("hour", "count")


def test_days_are_those_of_the_time_zone_also_when_clocks_change() -> None:
    question = read_question(
        {**BASE, "start": "2026-10-24", "end": "2026-10-26", "interval": "day", "timezone": "Europe/Berlin"}
    )

    starts = [*question.buckets(), question.end_ms]

    assert [(b - a) // HOUR_MS for a, b in pairwise(starts)] == [24, 25, 24]
    assert question.show(starts[2]) == "2026-10-26T00:00:00+01:00"


def test_an_interval_is_also_understood_as_group_by() -> None:
    question = read_question({**BASE, "group_by": "day"})

    assert (question.interval, question.group_by) == ("day", None)


def test_unix_milliseconds_are_not_taken_for_a_date() -> None:
    assert read_question({**BASE, "start": "1790100112345", "end": "1795226700000"}).start_ms == 1_790_100_060_000


def test_a_plus_sign_that_was_not_escaped_is_understood() -> None:
    question = read_question({**BASE, "start": "2026-11-20T02:00:00 02:00"})

    assert question.start_ms == parse_ms("2026-11-20T00:00:00Z")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": "soon"}, r"start: .*date such as.*'soon'"),
        ({"end": "2026-13-01"}, r"end: .*'2026-13-01'"),
        ({"end": "2026-11-19"}, r"end: .*not after"),
        ({"interval": "year"}, r"interval: .*minute, hour, day.*'year'"),
        ({"agg": "median"}, r"agg: .*p99"),
        ({"agg": "p95"}, "measure: agg=p95 needs a measure"),
        ({"measure": "load_ms"}, "measure: agg=count takes no measure"),
        ({"group_by": "hour", "interval": "day"}, "group_by: 'hour' is an interval, and interval is 'day'"),
        ({"filter": ""}, "filter: write country:DE,FR"),
        ({"filter": '{"status": [[500]]}'}, "filter: write country:DE,FR"),
        ({"timezone": "Mars/Olympus"}, "timezone: .*IANA"),
        ({"timezone": "../etc"}, "timezone: .*IANA"),
        ({"end": "9999-12-31"}, "end: .*1970 to 9998"),
        ({"start": "0999-12-01"}, "start: .*1970 to 9998"),
        ({"metric": "users", "agg": "p95"}, "agg: metric=users does not support agg=p95"),
        ({"metric": "users", "interval": "minute"}, "interval: minutes are stored"),
        (
            {"interval": "day", "agg": "users", "timezone": "Asia/Kolkata"},
            "timezone: days of Asia/Kolkata begin within an hour",
        ),
        ({"metrics": "x"}, "metrics: Unknown field.*known are metric"),
        ({"start": "2020-01-01", "interval": "minute"}, "interval: .*limit is 10000"),
        ({"start": "20261120"}, r"start: .*'20261120'"),
        ({"end": "2026-W47-6"}, r"end: .*'2026-W47-6'"),
        (
            {"start": "2026-11-20T00:00:00Z", "interval": "day", "agg": "users", "timezone": "Asia/Kolkata"},
            "timezone: days of Asia/Kolkata begin within an hour",
        ),
        (
            {"start": "2026-04-01", "end": "2026-04-15", "agg": "users", "timezone": "Australia/Lord_Howe"},
            "timezone: days of Australia/Lord_Howe begin within an hour",
        ),
        (
            {"start": "2026-10-05", "end": "2026-10-05", "interval": "day", "agg": "users"}
            | {"timezone": "Australia/Lord_Howe", "compare": "previous"},
            "timezone: days of Australia/Lord_Howe begin within an hour",
        ),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value_and_what_is_allowed(change: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        read_question({**BASE, **change})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("status:500,502", ("500", "502")),
        ("status: 500, 502 ,", ("500", "502", "")),
        ('{"status": [500, "502", true]}', ("500", "502", "true")),
        ('{"status": " 500"}', (" 500",)),
    ],
)
def test_values_are_filtered_by_as_they_are_shown(text: str, values: tuple[str, ...]) -> None:
    assert read_question({**BASE, "filter": text}).filter == Filter("status", values)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"metric: Missing"):
        read_question({"start": "2026-11-20", "end": "2026-11-21"})


def test_months_are_limited_by_their_number_not_by_their_days() -> None:
    question = read_question({**BASE, "start": "1990-01-01", "end": "2026-12-31", "interval": "month"})

    assert len(question.buckets()) == 444


@pytest.mark.parametrize(("zone", "hours"), [("Asia/Kolkata", 24), ("Australia/Lord_Howe", 24), ("Europe/Berlin", 24)])
def test_hours_are_those_of_the_zones_clocks(zone: str, hours: int) -> None:
    """On 5 April 2026 those of Lord Howe go back by half an hour: one has ninety minutes."""
    question = read_question({**BASE, "start": "2026-04-05", "end": "2026-04-05", "timezone": zone, "interval": "hour"})

    shown = [question.show(start) for start in question.buckets()]
    assert {moment[14:19] for moment in shown} == {"00:00"}
    assert (shown[0][11:16], len(set(shown))) == ("00:00", hours)


def test_a_day_without_a_midnight_is_compared_with_the_whole_day_before() -> None:
    question = read_question({**BASE, "start": "2026-09-06", "end": "2026-09-06", "timezone": "America/Santiago"})

    assert question.show(question.previous().start_ms) == "2026-09-05T00:00:00-04:00"
