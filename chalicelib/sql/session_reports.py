"""Two reports of sessions: how many, how long and how full they are, and the paths that they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from marshmallow import ValidationError, fields, post_load, validate

from chalicelib.base.time_windows import HOUR_MS, to_ms
from chalicelib.numbers.questions import CALENDAR, calendar_starts
from chalicelib.sql.report_questions import (
    MAX_GROUPS,
    PROPERTY,
    RangeParameters,
    Report,
    Row,
    Sql,
    TimeRange,
    an_event_type,
    limited,
    property_of,
    ratio,
    seconds,
    sessioned,
    take_range,
)

MAX_BUCKETS = 1000
MIN_DEPTH, MAX_DEPTH = 2, 10


@dataclass(frozen=True, slots=True)
class Sessions:
    """The question."""

    within: TimeRange
    interval: str
    group_by: str | None
    limit: int

    def buckets(self) -> list[int]:
        """Return the starts of the answer's buckets, in Unix milliseconds."""
        if self.interval == "hour":
            return list(range(self.within.start_ms - self.within.start_ms % HOUR_MS, self.within.end_ms, HOUR_MS))
        return calendar_starts(self.within.start_ms, self.within.end_ms, self.interval, self.within.zone)


@dataclass(frozen=True, slots=True)
class Paths:
    """The question."""

    within: TimeRange
    by: str
    event_type: str | None
    first: str | None
    depth: int
    limit: int


class SessionsParameters(RangeParameters):
    """The query string of `GET /reports/sessions`."""

    interval = fields.String(load_default="day", validate=validate.OneOf(["hour", *CALENDAR]))
    group_by = fields.String(
        load_default=None,
        validate=PROPERTY,
        metadata={"description": "A property of the session's first event.", "example": "utm_source"},
    )
    limit = limited(100, MAX_GROUPS, "How many groups are shown, the largest first.")

    @post_load
    def _sessions(self, data: dict[str, Any], **_: Any) -> Sessions:
        sessions = Sessions(take_range(data), **data)
        if (count := len(sessions.buckets())) > MAX_BUCKETS:
            raise ValidationError(f"the range has {count} buckets; the limit is {MAX_BUCKETS}", "interval")
        return sessions


class PathsParameters(RangeParameters):
    """The query string of `GET /reports/paths`."""

    by = fields.String(
        load_default="event_type",
        validate=PROPERTY,
        metadata={
            "description": "What a path is made of: event types, or the values of a property.",
            "example": "path",
        },
    )
    event_type = an_event_type("Only events of this type.")
    first = fields.String(
        load_default=None,
        validate=validate.Length(1, 1024),
        metadata={"description": "Where paths begin: at the first of this value in a session."},
    )
    depth = fields.Integer(
        load_default=5,
        validate=validate.Range(MIN_DEPTH, MAX_DEPTH),
        metadata={"description": "How many steps are looked at."},
    )
    limit = limited(50, MAX_GROUPS, "How many paths are shown, the most frequent first.")

    @post_load
    def _paths(self, data: dict[str, Any], **_: Any) -> Paths:
        return Paths(take_range(data), **data)


def sessions_sql(sessions: Sessions) -> Sql:
    """Return a row of all sessions, one of each bucket and, with `group_by`, one of each group."""
    group = property_of(sessions.group_by) if sessions.group_by else "cast(NULL AS varchar)"
    pages = "event_type IN ('page_view', 'screen_view')"
    text, values = sessioned(sessions.within, f"occurred_at, {pages} AS is_page, {group} AS dimension")
    if sessions.interval == "hour":  # of UTC: a zone's own clock has some hours twice
        bucket = "cast(date_trunc('hour', occurred_at) AS varchar)"
    else:
        values["zone"] = sessions.within.zone.key
        day = "cast(occurred_at AT TIME ZONE :zone AS date)"
        bucket = f"cast(cast(date_trunc('{sessions.interval}', {day}) AS date) AS varchar)"
    text += f""", each AS (
        SELECT max_by(who, place) AS who, max(CASE WHEN place = 1 THEN {bucket} END) AS bucket,
            max(CASE WHEN place = 1 THEN dimension END) AS grp, max(ended) - min(began) AS lasted, count(*) AS events,
            count_if(is_page) AS pages
        FROM sessions GROUP BY visitor, session_id, part
    ), summed AS (
        SELECT grouping(bucket) AS no_bucket, grouping(grp) AS no_group, bucket, grp,
            count(*) AS sessions, count(DISTINCT who) AS users, sum(events) AS events, avg(lasted) AS mean,
            approx_percentile(lasted, 0.5) AS median, count_if(pages = 1 OR events = 1) AS bounces
        FROM each GROUP BY GROUPING SETS ((), (bucket), (grp))
    ), ranked AS (
        SELECT summed.*, row_number() OVER (PARTITION BY no_bucket, no_group ORDER BY sessions DESC, grp) AS place
        FROM summed
    )
    SELECT * FROM ranked WHERE no_group = 1 OR place <= {sessions.limit if sessions.group_by else 0}
    ORDER BY no_bucket, no_group, place"""
    return text, values


def sessions_answer(sessions: Sessions, rows: Sequence[Row]) -> dict[str, Any]:
    """Numbers of all, of every bucket, and of the largest groups."""
    everything: Row = {}
    by_start: dict[int, Row] = {}
    groups = []
    for row in rows:
        if row["no_bucket"] and row["no_group"]:
            everything = row
        elif row["no_group"]:
            by_start[_start_of(row["bucket"], sessions)] = row
        else:
            groups.append({"key": row["grp"], **_numbers(row)})
    series = [{"start": sessions.within.show(ms), **_numbers(by_start.get(ms, {}))} for ms in sessions.buckets()]
    answered = {
        **sessions.within.told(),
        "interval": sessions.interval,
        "total": _numbers(everything),
        "series": series,
    }
    return answered | ({"groups": groups} if sessions.group_by else {})


def _start_of(bucket: str, sessions: Sessions) -> int:
    if sessions.interval == "hour":
        return to_ms(datetime.fromisoformat(f"{bucket[:19]}+00:00"))
    return to_ms(datetime.combine(date.fromisoformat(bucket[:10]), time(), sessions.within.zone))


def _numbers(row: Row) -> dict[str, Any]:
    count, events = row.get("sessions") or 0, row.get("events") or 0
    return {
        "sessions": count,
        "users": row.get("users") or 0,
        "events_per_session": ratio(events, count),
        "mean_seconds": seconds(row.get("mean")),
        "median_seconds": seconds(row.get("median")),
        "bounce_rate": ratio(row.get("bounces"), count),
    }


def paths_sql(paths: Paths) -> Sql:
    """Return a row of each path, the most frequent first: its steps, its sessions, and how many sessions there are."""
    text, values = sessioned(paths.within, f"event_type, {property_of(paths.by)} AS node")
    key = "visitor, session_id, part"
    only, begin = "node IS NOT NULL", "1"
    if paths.event_type:
        only, values["event_type"] = f"{only} AND event_type = :event_type", paths.event_type
    if paths.first:
        begin, values["first"] = "min(CASE WHEN node = :first THEN place END)", paths.first
        begin = f"{begin} OVER (PARTITION BY {key})"
    steps = [f"max(CASE WHEN place - beginning = {number} THEN node END)" for number in range(paths.depth)]
    named = ", ".join(f"{step} AS step_{number}" for number, step in enumerate(steps, 1))
    names = ", ".join(f"step_{number}" for number in range(1, paths.depth + 1))
    text += f""", nodes AS (
        SELECT {key}, place AS moment, node, lag(node) OVER (PARTITION BY {key} ORDER BY place) AS before
        FROM sessions WHERE {only}
    ), moves AS (
        SELECT {key}, node, row_number() OVER (PARTITION BY {key} ORDER BY moment) AS place
        FROM nodes WHERE node IS DISTINCT FROM before
    ), begun AS (
        SELECT moves.*, {begin} AS beginning FROM moves
    ), each AS (
        SELECT {key}, {named} FROM begun WHERE place >= beginning GROUP BY {key}
    )
    SELECT {names}, count(*) AS sessions, sum(count(*)) OVER () AS everything FROM each
    GROUP BY {names} ORDER BY count(*) DESC, {names} LIMIT {paths.limit}"""
    return text, values


def paths_answer(paths: Paths, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the paths with their share of the sessions that have one."""
    total = rows[0]["everything"] if rows else 0
    shown = []
    for row in rows:
        steps = [row[f"step_{number}"] for number in range(1, paths.depth + 1)]
        steps = [step for step in steps if step is not None]
        shown.append({"steps": steps, "sessions": row["sessions"], "share": ratio(row["sessions"], total)})
    return {**paths.within.told(), "by": paths.by, "depth": paths.depth, "sessions": total, "paths": shown}


SESSIONS = Report(SessionsParameters, sessions_sql, sessions_answer)
PATHS = Report(PathsParameters, paths_sql, paths_answer)
