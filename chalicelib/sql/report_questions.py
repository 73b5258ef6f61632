"""What every report may be asked, and the SQL that they share: whose event it was, when, and which are meant."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from chalicelib.base.parameters import read_parameters
from chalicelib.base.time_windows import HOUR_MS, from_ms
from chalicelib.events.sessions import INACTIVITY_MS
from chalicelib.numbers.questions import END, FILTER, START, Filter, instant, read_filter, zone_of
from chalicelib.sql.query_requests import Value

MAX_GROUPS = 1000
MAX_EVENT_TYPE = 128
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")  # of a property, so that it can stand in a JSON path
PROPERTY = validate.Regexp(
    re.compile(NAME.pattern + r"\Z"), error="a property's name has letters, digits and _, 64 at most"
)
WHO = "coalesce(user_id, anonymous_id)"
# Whose a session is: one that the client named goes on when its user signs in.
VISITOR = "coalesce(if(coalesce(session_id, '') = '', user_id, anonymous_id), anonymous_id, user_id, '')"
MILLISECONDS = "date_diff('millisecond', timestamp '1970-01-01 00:00:00', occurred_at)"
NO_BOTS = "coalesce(json_extract_scalar(enrichment, '$.bot'), 'false') <> 'true'"
LOOK_AROUND_MS = 24 * HOUR_MS  # what is read before and after a range to find where its sessions begin and end

Row = dict[str, Any]
Sql = tuple[str, dict[str, Value]]  # with parameters, and their values


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Unix milliseconds, half-open, and the zone in which days are meant."""

    start_ms: int
    end_ms: int
    zone: ZoneInfo
    filter: Filter | None = None

    def show(self, ms: int) -> str:
        """Return an instant in the zone, as RFC 3339."""
        return from_ms(ms).astimezone(self.zone).isoformat().replace("+00:00", "Z")

    def told(self) -> dict[str, Any]:
        """Return what every answer says of it."""
        return {"start": self.show(self.start_ms), "end": self.show(self.end_ms), "timezone": self.zone.key}

    def events(self, *, before_ms: int | None = 0, after_ms: int = 0) -> Sql:
        """Return the condition on events of the range, and of so much around it; None: of all that was before."""
        end = from_ms(self.end_ms + after_ms)
        conditions = [NO_BOTS, "occurred_at < cast(:end as timestamp)", "dt <= :last_day"]
        values: dict[str, Value] = {"end": f"{end:%Y-%m-%d %H:%M:%S.%f}"[:-3], "last_day": f"{end:%Y-%m-%d}"}
        if before_ms is not None:
            start = from_ms(max(self.start_ms - before_ms, 0))
            conditions += ["occurred_at >= cast(:start as timestamp)", "dt >= :first_day"]
            values |= {"start": f"{start:%Y-%m-%d %H:%M:%S.%f}"[:-3], "first_day": f"{start:%Y-%m-%d}"}
        if self.filter:
            conditions.append(f"{property_of(self.filter.dimension)} IN (:filtered)")
            values["filtered"] = list(self.filter.values)
        return " AND ".join(conditions), values


@dataclass(frozen=True, slots=True)
class Report:
    """A report: the schema of its parameters, the SQL that its question becomes, and the answer made of the rows."""

    schema: type[Schema]
    sql: Callable[[Any], Sql]
    answer: Callable[[Any, Sequence[Row]], dict[str, Any]]

    def read(self, parameters: Mapping[str, str]) -> Any:
        """Return the question; raises InvalidRequest naming the parameter, the value and what is allowed."""
        return read_parameters(self.schema(), parameters)


class RangeParameters(Schema):
    """What the query strings of all reports have."""

    class Meta:
        unknown = RAISE

    start = fields.String(required=True, metadata={"description": START, "example": "2026-11-20"})
    end = fields.String(required=True, metadata={"description": END, "example": "2026-11-21"})
    timezone = fields.String(load_default="UTC", metadata={"description": "An IANA zone.", "example": "Europe/Berlin"})
    filter = fields.String(load_default=None, metadata={"description": FILTER})


def limited(default: int, most: int, description: str) -> fields.Integer:
    """A parameter that says how many of something are shown."""
    return fields.Integer(load_default=default, validate=validate.Range(1, most), metadata={"description": description})


def an_event_type(description: str) -> fields.String:
    """A parameter that may name an event type."""
    return fields.String(
        load_default=None, validate=validate.Length(1, MAX_EVENT_TYPE), metadata={"description": description}
    )


def take_range(data: dict[str, Any]) -> TimeRange:
    """Take the four parameters out of what was loaded; raises ValidationError."""
    zone = zone_of(data.pop("timezone"))
    start, end, chosen = data.pop("start"), data.pop("end"), read_filter(data.pop("filter"))
    start_ms, end_ms = instant("start", start, zone, of_end=False), instant("end", end, zone, of_end=True)
    if end_ms <= start_ms:
        raise ValidationError(f"it is not after start {start!r}", "end")
    if chosen and not NAME.fullmatch(chosen.dimension):
        raise ValidationError("a property's name has letters, digits and _, 64 at most", "filter")
    return TimeRange(start_ms, end_ms, zone, chosen)


def property_of(name: str) -> str:
    """Return the SQL of a property's value as text, or of what was told of the client under that name."""
    if name == "event_type":
        return "event_type"
    assert NAME.fullmatch(name), name
    return f"coalesce(json_extract_scalar(properties, '$.{name}'), json_extract_scalar(enrichment, '$.{name}'))"


def sessioned(within: TimeRange, columns: str) -> Sql:
    """Common table expressions up to `sessions`: events with visitor, session_id, part and place, and the columns.

    A session is (visitor, session_id, part): a client's own stands; without one it ends with half an hour without
    events, as events/sessions.py has it. `place` counts a session's events from 1; `began` and `ended` are its Unix
    milliseconds. Sessions are those that began in the range, if none goes on for more than a day.
    """
    condition, values = within.events(before_ms=LOOK_AROUND_MS, after_ms=LOOK_AROUND_MS)
    order = "ORDER BY ms, said, event_id"
    text = f"""WITH seen AS (
        SELECT {WHO} AS who, {VISITOR} AS visitor,
            coalesce(session_id, '') AS session_id, coalesce(client_timestamp, '') AS said, event_id,
            {MILLISECONDS} AS ms, {columns}
        FROM events WHERE coalesce(user_id, anonymous_id, nullif(session_id, '')) IS NOT NULL AND {condition}
    ), gaps AS (
        SELECT seen.*, CASE
            WHEN session_id = '' AND ms - lag(ms) OVER (PARTITION BY visitor, session_id {order}) >= {INACTIVITY_MS}
            THEN 1 ELSE 0 END AS begins
        FROM seen
    ), parts AS (
        SELECT gaps.*, sum(begins) OVER (PARTITION BY visitor, session_id {order} ROWS UNBOUNDED PRECEDING) AS part
        FROM gaps
    ), placed AS (
        SELECT parts.*, row_number() OVER (PARTITION BY visitor, session_id, part {order}) AS place,
            min(ms) OVER (PARTITION BY visitor, session_id, part) AS began,
            max(ms) OVER (PARTITION BY visitor, session_id, part) AS ended
        FROM parts
    ), sessions AS (
        SELECT * FROM placed WHERE began >= {within.start_ms} AND began < {within.end_ms}
    )"""
    return text, values


def ratio(part: float | None, whole: float | None) -> float | None:
    """Rounded to six digits; None of nothing."""
    return round(part / whole, 6) if part is not None and whole else None


def seconds(milliseconds: float | None) -> float | None:
    """Rounded to the millisecond."""
    return None if milliseconds is None else round(milliseconds / 1000, 3)
