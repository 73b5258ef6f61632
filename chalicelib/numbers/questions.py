"""What `GET /analytics` may be asked: the parameters, checked, and the time buckets of the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from marshmallow import RAISE, Schema, ValidationError, fields, post_load, pre_load, validate

from chalicelib.base.errors import InvalidRequest
from chalicelib.base.parameters import read_parameters
from chalicelib.base.time_windows import DATE, HOUR_MS, MINUTE_MS, from_ms, parse_ms, to_ms
from chalicelib.rollups.folding import dimension_text

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
MEASURED = ("sum", "avg", "min", "max", *QUANTILES)
USERS = "users"  # the metric of distinct users of any event type
AGGREGATIONS = ("count", "users", *MEASURED)
INTERVALS = ("minute", "hour", "day", "week", "month")
CALENDAR = ("day", "week", "month")  # whose buckets begin at midnight in the question's zone
LEAST_MS = dict(zip(INTERVALS, (MINUTE_MS, HOUR_MS, 24 * HOUR_MS, 7 * 24 * HOUR_MS, 28 * 24 * HOUR_MS), strict=True))
DEFAULT_INTERVAL_DAYS = 3  # a longer range is answered by day when no interval is asked for
MAX_BUCKETS = 10_000
LATEST_MS = 253_370_764_799_999  # 9998-12-31: a month more must still be a date
UNIX_SECONDS_DIGITS = 10  # longer numbers are milliseconds
DEFAULT_GROUPS = 100
MAX_GROUPS = 1000
MAX_FILTER_VALUES = 100
PREVIOUS = "previous"
START = "A date, or an RFC 3339 time."
END = "A date, which is included, or an RFC 3339 time, which is not."
FILTER = 'country:DE,FR or, for values with commas, {"country": ["DE", "FR"]}'


@dataclass(frozen=True, slots=True)
class Filter:
    """Only events whose dimension has one of the values."""

    dimension: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A checked question. Times are Unix milliseconds, the range is half-open."""

    metric: str
    start_ms: int
    end_ms: int
    interval: str
    agg: str
    measure: str | None
    group_by: str | None
    zone: ZoneInfo
    filter: Filter | None = None
    limit: int = DEFAULT_GROUPS
    compare: str | None = None

    @property
    def dimension(self) -> str | None:
        """The dimension whose values the answer needs."""
        return self.group_by or (self.filter.dimension if self.filter else None)

    @property
    def by_minute(self) -> bool:
        """Whether the answer is exact to the minute: plain counts are kept so, all else by the hour."""
        return self.agg == "count" and not self.dimension

    def buckets(self) -> list[int]:
        """Return the starts of the answer's buckets, in order; the first holds `start_ms`.

        Days are those of the zone, so one may have 23 or 25 hours; weeks begin on Monday. Hours are those of its
        clocks where the answer is exact to the minute, else those of UTC: in some zones these are half an hour apart.
        """
        if self.interval in CALENDAR:
            return calendar_starts(self.start_ms, self.end_ms, self.interval, self.zone)
        if self.interval == "hour" and self.by_minute:
            return hour_starts(self.start_ms, self.end_ms, self.zone)
        step = {"minute": MINUTE_MS, "hour": HOUR_MS}[self.interval]
        return list(range(self.start_ms - self.start_ms % step, self.end_ms, step))

    def splits_hours(self) -> bool:
        """Return whether a bucket begins within an hour of UTC, as days do where the clocks are half an hour off."""
        return any(start % HOUR_MS for start in self.buckets())

    def previous(self) -> "Question":
        """The same question of the range of the same length before: whole days of the zone, if it is such a range."""
        start, end = (from_ms(ms).astimezone(self.zone) for ms in (self.start_ms, self.end_ms))
        before_ms = self.start_ms - (self.end_ms - self.start_ms)
        midnights = [_midnight_ms(each.date(), self.zone) for each in (start, end)]  # some days have no 00:00
        if midnights == [self.start_ms, self.end_ms]:
            before_ms = _midnight_ms(start.date() - (end.date() - start.date()), self.zone)
        if before_ms < 0:
            raise InvalidRequest(
                "compare: the period before the range would begin before 1970", code="invalid_parameter"
            )
        return replace(self, start_ms=before_ms, end_ms=self.start_ms, compare=None)

    def show(self, ms: int) -> str:
        """Return an instant in the question's zone, as RFC 3339."""
        return from_ms(ms).astimezone(self.zone).isoformat().replace("+00:00", "Z")


class QuestionParameters(Schema):
    """The query string of `GET /analytics`; an unknown parameter is an error that names those known."""

    class Meta:
        unknown = RAISE

    metric = fields.String(
        required=True,
        validate=validate.Length(1, 128),
        metadata={
            "description": "A public name, an event type, `events` for all, `users`, or `sessions`.",
            "example": "page_views",
        },
    )
    start = fields.String(required=True, metadata={"description": START, "example": "2026-11-20"})
    end = fields.String(required=True, metadata={"description": END, "example": "2026-11-21"})
    interval = fields.String(load_default=None, validate=validate.OneOf(INTERVALS))
    agg = fields.String(load_default="count", validate=validate.OneOf(AGGREGATIONS))
    measure = fields.String(
        load_default=None, metadata={"description": "What a sum, an average or a percentile is of: `latency_ms`."}
    )
    group_by = fields.String(load_default=None, metadata={"description": "A dimension, such as `path`."})
    filter = fields.String(load_default=None, metadata={"description": FILTER})
    limit = fields.Integer(
        load_default=DEFAULT_GROUPS,
        validate=validate.Range(1, MAX_GROUPS),
        metadata={"description": "The groups that are shown; the others are one."},
    )
    timezone = fields.String(load_default="UTC", metadata={"description": "An IANA zone.", "example": "Europe/Berlin"})
    compare = fields.String(
        load_default=None,
        validate=validate.OneOf([PREVIOUS]),
        metadata={"description": "With the range of the same length before."},
    )

    @pre_load
    def _interval_as_group(self, data: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """`group_by=hour` is understood as `interval=hour`."""
        data = dict(data)
        if data.get("group_by") in INTERVALS:
            interval = data.pop("group_by")
            if data.setdefault("interval", interval) != interval:
                raise ValidationError(f"{interval!r} is an interval, and interval is {data['interval']!r}", "group_by")
        return data

    @post_load
    def _question(self, data: dict[str, Any], **_: Any) -> Question:
        zone = zone_of(data["timezone"])
        start_ms = instant("start", data["start"], zone, of_end=False)
        end_ms = instant("end", data["end"], zone, of_end=True)
        if end_ms <= start_ms:
            raise ValidationError(f"{data['end']!r} is not after start {data['start']!r}", "end")
        if data["metric"] == USERS and data["agg"] not in ("count", "users"):
            raise ValidationError(f"metric=users does not support agg={data['agg']}; it counts users", "agg")
        if data["metric"] == USERS:
            data["agg"] = "users"
        if data["agg"] in MEASURED and data["measure"] is None:
            raise ValidationError(
                f"agg={data['agg']} needs a measure: a numeric property that is rolled up for the metric", "measure"
            )
        if data["agg"] not in MEASURED and data["measure"] is not None:
            raise ValidationError(f"agg={data['agg']} takes no measure; {', '.join(MEASURED)} do", "measure")
        long = end_ms - start_ms > DEFAULT_INTERVAL_DAYS * 24 * HOUR_MS
        question = Question(
            metric=data["metric"],
            start_ms=start_ms,
            end_ms=end_ms,
            interval=data["interval"] or ("day" if long else "hour"),
            agg=data["agg"],
            measure=data["measure"],
            group_by=data["group_by"],
            zone=zone,
            filter=read_filter(data["filter"], data["group_by"]),
            limit=data["limit"],
            compare=data["compare"],
        )
        return _of_whole_buckets(question)


_PARAMETERS = QuestionParameters()


def _of_whole_buckets(question: Question) -> Question:
    """The question over what is kept, by the minute or by the hour: the answer covers what the range touches."""
    interval, zone = question.interval, question.zone
    if interval == "minute" and not question.by_minute:
        raise ValidationError(
            "minutes are stored for agg=count without group_by and filter; use interval=hour", "interval"
        )
    if (count := (question.end_ms - question.start_ms) // LEAST_MS[interval]) > MAX_BUCKETS:
        raise ValidationError(f"the range has {count} buckets; the limit is {MAX_BUCKETS}", "interval")
    asked = [question, question.previous()] if question.compare else [question]
    if interval in CALENDAR and not question.by_minute and any(each.splits_hours() for each in asked):
        raise ValidationError(
            f"days of {zone.key} begin within an hour; only agg=count, without group_by and filter, is kept by the "
            "minute. POST /query can answer it",
            "timezone",
        )
    grain = MINUTE_MS if question.by_minute else HOUR_MS
    return replace(
        question,
        start_ms=question.start_ms - question.start_ms % grain,
        end_ms=question.end_ms + -question.end_ms % grain,
    )


def read_filter(text: str | None, group_by: str | None = None) -> Filter | None:
    """`country:DE,FR`, or as JSON `{"country": ["DE", "FR"]}` for values with commas, or spaces at their ends."""
    if text is None:
        return None
    told = f"write {FILTER}"
    if text.startswith("{"):
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ValidationError(told, "filter") from None
        (dimension, found), *more = document.items() or [("", [])]
        listed = found if isinstance(found, list) else [found]
        values = [dimension_text(value) if isinstance(value, int | float) else value for value in listed]
        if more:
            raise ValidationError("only one dimension can be filtered at a time; use POST /query for more", "filter")
    else:
        dimension, _, rest = text.partition(":")
        values = [value.strip() for value in rest.split(",")] if rest else []
    if not dimension or not values or not all(isinstance(value, str) for value in values):
        raise ValidationError(told, "filter")
    if len(values) > MAX_FILTER_VALUES:
        raise ValidationError(f"{len(values)} values; the limit is {MAX_FILTER_VALUES}", "filter")
    if group_by not in (None, dimension):
        raise ValidationError(
            f"{dimension} and group_by {group_by} are not rolled up together; name the same dimension in both. "
            "POST /query can answer it",
            "filter",
        )
    return Filter(dimension, tuple(dict.fromkeys(values)))


def read_question(parameters: Mapping[str, str]) -> Question:
    """Raises InvalidRequest naming the parameter, the value and what is allowed."""
    question: Question = read_parameters(_PARAMETERS, parameters)
    return question


def zone_of(name: str) -> ZoneInfo:
    """Raises ValidationError of the parameter `timezone`."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, malformed, or the name of a folder
        raise ValidationError("not an IANA time zone such as Europe/Berlin", "timezone") from None


def instant(name: str, text: str, zone: ZoneInfo, *, of_end: bool) -> int:
    """A date stands for its midnight in the zone, at the end for the midnight after; a time is as it is.

    Unix milliseconds; raises ValidationError of the parameter `name`.
    """
    try:
        if text.isdigit() and len(text) > UNIX_SECONDS_DIGITS:
            ms = parse_ms(int(text))
        elif not DATE.match(text):  # fromisoformat reads weeks, and dates without hyphens
            raise ValueError
        elif DATE.fullmatch(text):
            ms = to_ms(datetime.combine(date.fromisoformat(text) + timedelta(days=of_end), time(), zone))
        else:
            moment = datetime.fromisoformat(text.replace(" ", "+"))  # a plus sign that was not escaped is a space
            ms = to_ms(moment if moment.tzinfo else moment.replace(tzinfo=zone))
    except ValueError:
        raise ValidationError("neither a date such as 2026-11-21 nor an RFC 3339 time", name) from None
    except OverflowError:
        ms = -1
    if not 0 <= ms <= LATEST_MS:
        raise ValidationError("outside of the years 1970 to 9998", name)
    return ms


def calendar_starts(start_ms: int, end_ms: int, interval: str, zone: ZoneInfo) -> list[int]:
    """Return the starts of the zone's days, weeks or months that the range touches, in Unix milliseconds."""
    starts = []
    day = from_ms(start_ms).astimezone(zone).date()
    if interval == "week":
        day -= timedelta(days=day.weekday())
    elif interval == "month":
        day = day.replace(day=1)
    while (midnight := _midnight_ms(day, zone)) < end_ms:
        starts.append(midnight)
        if interval == "month":
            day = (day + timedelta(days=31)).replace(day=1)
        else:
            day += timedelta(days=7 if interval == "week" else 1)
    return starts


def hour_starts(start_ms: int, end_ms: int, zone: ZoneInfo) -> list[int]:
    """Return when the zone's clocks show a full hour, from the one before the start, in Unix milliseconds."""
    days = (*range(start_ms, end_ms, 24 * HOUR_MS), end_ms)  # clocks keep an offset for longer
    if all(_full_hour_ms(ms, zone) == ms - ms % HOUR_MS for ms in days):
        return list(range(start_ms - start_ms % HOUR_MS, end_ms, HOUR_MS))  # looking at each would take milliseconds
    starts = []
    at = _full_hour_ms(start_ms, zone)
    while at < end_ms:
        starts.append(at)
        after = _full_hour_ms(at + HOUR_MS, zone)
        while after <= at or _full_hour_ms(after, zone) != after:  # clocks were put by half an hour in between
            after += HOUR_MS
        at = after
    return starts


def _full_hour_ms(ms: int, zone: ZoneInfo) -> int:
    offset = zone.utcoffset(from_ms(ms).astimezone(zone)) or timedelta()
    return ms - (ms + offset // timedelta(minutes=1) * MINUTE_MS) % HOUR_MS


def _midnight_ms(day: date, zone: ZoneInfo) -> int:
    return to_ms(datetime.combine(day, time(), zone))
