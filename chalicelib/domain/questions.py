"""What `GET /analytics` may be asked: the parameters, checked, and the time buckets of the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, pre_load, validate

from chalicelib.domain.parameters import read_parameters
from chalicelib.domain.time_windows import HOUR_MS, MINUTE_MS, from_ms, parse_ms, to_ms

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
MEASURED = ("sum", "avg", "min", "max", *QUANTILES)
USERS = "users"  # the metric of distinct users of any event type
AGGREGATIONS = ("count", "users", *MEASURED)
INTERVALS = ("minute", "hour", "day")
DEFAULT_INTERVAL_DAYS = 3  # a longer range is answered by day when no interval is asked for
MAX_BUCKETS = 10_000
LATEST_MS = 253_370_764_799_999  # 9998-12-31: a day more must still be a date
EPOCH_SECONDS_DIGITS = 10  # longer numbers are milliseconds
MAX_GROUPS = 100


@dataclass(frozen=True, slots=True)
class Question:
    """A checked question. Times are epoch milliseconds, the range is half-open."""

    metric: str
    start_ms: int
    end_ms: int
    interval: str
    agg: str
    measure: str | None
    group_by: str | None
    zone: ZoneInfo

    def buckets(self) -> list[int]:
        """The starts of the answer's buckets, in order; the first holds `start_ms`.

        Days are those of the zone, so one may have 23 or 25 hours.
        """
        if self.interval == "day":
            return _day_starts(self.start_ms, self.end_ms, self.zone)
        step = {"minute": MINUTE_MS, "hour": HOUR_MS}[self.interval]
        return list(range(self.start_ms - self.start_ms % step, self.end_ms, step))

    def show(self, ms: int) -> str:
        """An instant in the question's zone, as RFC 3339."""
        return from_ms(ms).astimezone(self.zone).isoformat().replace("+00:00", "Z")


class QuestionParameters(Schema):
    """The query string of `GET /analytics`; an unknown parameter is an error that names those known."""

    class Meta:
        unknown = RAISE

    metric = fields.String(required=True, validate=validate.Length(1, 128))
    start = fields.String(required=True)
    end = fields.String(required=True)
    interval = fields.String(load_default=None, validate=validate.OneOf(INTERVALS))
    agg = fields.String(load_default="count", validate=validate.OneOf(AGGREGATIONS))
    measure = fields.String(load_default=None)
    group_by = fields.String(load_default=None)
    timezone = fields.String(load_default="UTC")

    @pre_load
    def _interval_as_group(self, data: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """`group_by=hour` is understood as `interval=hour`."""
        data = dict(data)
        if data.get("group_by") in INTERVALS:
            data.setdefault("interval", data.pop("group_by"))
        return data

    @post_load
    def _question(self, data: dict[str, Any], **_: Any) -> Question:
        zone = _zone(data["timezone"])
        start_ms = instant("start", data["start"], zone, of_end=False)
        end_ms = instant("end", data["end"], zone, of_end=True)
        if end_ms <= start_ms:
            raise ValidationError(f"{data['end']!r} is not after start {data['start']!r}", "end")
        if data["metric"] == USERS and data["agg"] not in ("count", "users"):
            raise ValidationError(f"metric=users has no {data['agg']}; it counts users", "agg")
        if data["metric"] == USERS:
            data["agg"] = "users"
        if data["agg"] in MEASURED and data["measure"] is None:
            raise ValidationError(f"agg={data['agg']} needs a measure, such as latency_ms", "measure")
        if data["group_by"] and data["agg"] != "count":
            raise ValidationError(f"group_by is answered for agg=count, not for agg={data['agg']}", "group_by")
        long = end_ms - start_ms > DEFAULT_INTERVAL_DAYS * 24 * HOUR_MS
        interval = data["interval"] or ("day" if long else "hour")
        if interval == "minute" and (data["agg"] != "count" or data["group_by"]):
            raise ValidationError("minutes are kept for agg=count without group_by; ask for interval=hour", "interval")
        step = {"minute": MINUTE_MS, "hour": HOUR_MS, "day": 24 * HOUR_MS}[interval]
        if (count := (end_ms - start_ms) // step) > MAX_BUCKETS:
            raise ValidationError(f"the range has {count} buckets; the limit is {MAX_BUCKETS}", "interval")
        # Counts are kept by the minute, all else by the hour: the answer covers what the range touches, and says so.
        grain = MINUTE_MS if data["agg"] == "count" and not data["group_by"] else HOUR_MS
        if interval == "day" and grain == HOUR_MS and start_ms % HOUR_MS:
            raise ValidationError(
                f"days of {zone.key} begin within an hour; only agg=count is kept by the minute", "timezone"
            )
        start_ms -= start_ms % grain
        end_ms += -end_ms % grain
        return Question(
            data["metric"], start_ms, end_ms, interval, data["agg"], data["measure"], data["group_by"], zone
        )


_PARAMETERS = QuestionParameters()


def read_question(parameters: Mapping[str, str]) -> Question:
    """Raises InvalidRequest naming the parameter, the value and what is allowed."""
    question: Question = read_parameters(_PARAMETERS, parameters)
    return question


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, malformed, or the name of a folder
        raise ValidationError("not an IANA time zone such as Europe/Berlin", "timezone") from None


def instant(name: str, text: str, zone: ZoneInfo, *, of_end: bool) -> int:
    """A date stands for its midnight in the zone, at the end for the midnight after; a time is as it is.

    Epoch milliseconds; raises ValidationError of the parameter `name`.
    """
    try:
        if text.isdigit() and len(text) > EPOCH_SECONDS_DIGITS:
            ms = parse_ms(int(text))
        elif len(text) == len("2026-11-21"):
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


def _day_starts(start_ms: int, end_ms: int, zone: ZoneInfo) -> list[int]:
    starts = []
    day = from_ms(start_ms).astimezone(zone).date()
    while (midnight := to_ms(datetime.combine(day, time(), zone))) < end_ms:
        starts.append(midnight)
        day += timedelta(days=1)
    return starts
