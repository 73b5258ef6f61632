"""Retention: of the users who began in a day, week or month, how many came back in each one after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from marshmallow import ValidationError, fields, post_load, validate

from chalicelib.base.time_windows import from_ms
from chalicelib.numbers.questions import CALENDAR, calendar_starts
from chalicelib.sql.report_questions import (
    WHO,
    RangeParameters,
    Report,
    Row,
    Sql,
    TimeRange,
    an_event_type,
    ratio,
    take_range,
)

FIRST_TIME, RECURRING = "first_time", "recurring"
MAX_PERIODS = 100


@dataclass(frozen=True, slots=True)
class Retention:
    """The question."""

    within: TimeRange
    event_type: str | None
    returning: str | None
    interval: str
    mode: str

    def periods(self) -> list[date]:
        """Return the first days of the periods that the range touches."""
        starts = calendar_starts(self.within.start_ms, self.within.end_ms, self.interval, self.within.zone)
        return [from_ms(ms).astimezone(self.within.zone).date() for ms in starts]


class RetentionParameters(RangeParameters):
    """The query string of `GET /reports/retention`."""

    event_type = an_event_type("What makes a user one of a cohort; any event unless said.")
    returning = an_event_type("What counts as coming back; any event unless said.")
    interval = fields.String(load_default="day", validate=validate.OneOf(CALENDAR))
    mode = fields.String(
        load_default=FIRST_TIME,
        validate=validate.OneOf([FIRST_TIME, RECURRING]),
        metadata={
            "description": "Cohorts of those who did it for the first time ever, or of all who did it in the period."
        },
    )

    @post_load
    def _retention(self, data: dict[str, Any], **_: Any) -> Retention:
        retention = Retention(take_range(data), **data)
        if (count := len(retention.periods())) > MAX_PERIODS:
            raise ValidationError(f"the range has {count} periods; the limit is {MAX_PERIODS}", "interval")
        return retention


def sql(retention: Retention) -> Sql:
    """Rows of cohort and period, by their first days: how many of the cohort's users came in the period.

    The period is NULL where the row tells the cohort's size. The whole first period is read, though the range may begin
    within it; who has done it before is known only from all that was.
    """
    periods = retention.periods()
    asked = retention.within
    within = TimeRange(
        calendar_starts(asked.start_ms, asked.end_ms, retention.interval, asked.zone)[0],
        asked.end_ms,
        asked.zone,
        asked.filter,
    )
    condition, values = within.events(before_ms=None if retention.mode == FIRST_TIME else 0)
    values |= {"zone": retention.within.zone.key, "first_period": periods[0].isoformat()}
    joins, returns = ["true", "true"]
    if retention.event_type:
        joins, values["joins"] = "event_type = :joins", retention.event_type
    if retention.returning:
        returns, values["returns"] = "event_type = :returns", retention.returning
    members = {
        FIRST_TIME: "SELECT who, min(period) AS cohort FROM seen WHERE joins GROUP BY who",
        RECURRING: "SELECT DISTINCT who, period AS cohort FROM seen WHERE joins",
    }[retention.mode]
    day = "cast(occurred_at AT TIME ZONE :zone AS date)"
    text = f"""WITH seen AS (
        SELECT DISTINCT {WHO} AS who, cast(date_trunc('{retention.interval}', {day}) AS date) AS period,
            {joins} AS joins, {returns} AS returns
        FROM events WHERE {WHO} IS NOT NULL AND {condition}
    ), members AS (
        SELECT who, cohort FROM ({members}) AS joined WHERE cohort >= cast(:first_period AS date)
    ), came AS (
        SELECT DISTINCT who, period FROM seen WHERE returns
    )
    SELECT cast(cohort AS varchar) AS cohort, cast(NULL AS varchar) AS period, count(*) AS users
    FROM members GROUP BY 1
    UNION ALL
    SELECT cast(cohort AS varchar), cast(period AS varchar), count(*)
    FROM members JOIN came ON members.who = came.who WHERE period > cohort GROUP BY 1, 2
    ORDER BY 1, 2"""
    return text, values


def answer(retention: Retention, rows: Sequence[Row]) -> dict[str, Any]:
    """The cohorts in order, those of nobody too; `retained` has the periods after the cohort's own, as far as read."""
    found = {(row["cohort"], row["period"]): row["users"] for row in rows}
    periods = [period.isoformat() for period in retention.periods()]
    cohorts = []
    for number, cohort in enumerate(periods):
        size = found.get((cohort, None), 0)
        users = [found.get((cohort, period), 0) for period in periods[number + 1 :]]
        retained = [{"users": count, "rate": ratio(count, size)} for count in users]
        cohorts.append({"start": cohort, "users": size, "retained": retained})
    return {**retention.within.told(), "interval": retention.interval, "mode": retention.mode, "cohorts": cohorts}


REPORT = Report(RetentionParameters, sql, answer)
