"""Times as the pipeline counts them: Unix milliseconds, UTC hours, and the zone of a question."""

import math
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from chalicelib.base.errors import quoted

DATE = re.compile(r"\d{4}-\d\d-\d\d")
UNIX_ZERO = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
AHEAD_MS = MINUTE_MS  # so far ahead of our clock a time stands as it is
MIN_UNIX_MS = -62_135_596_800_000  # 0001-01-01T00:00:00Z, the first instant of datetime
MAX_UNIX_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last instant of datetime


def to_ms(moment: datetime) -> int:
    """Return an aware datetime as Unix milliseconds."""
    since = moment - UNIX_ZERO
    return since.days * DAY_MS + since.seconds * 1000 + since.microseconds // 1000


def from_ms(ms: int) -> datetime:
    """Unix milliseconds as an aware UTC datetime."""
    return UNIX_ZERO + timedelta(milliseconds=ms)


def month_of(ms: int) -> str:
    """Return the UTC month of Unix milliseconds, `2026-11`."""
    return from_ms(ms).strftime("%Y-%m")


def month_after(ms: int) -> datetime:
    """Return when the UTC month after it begins."""
    first = from_ms(ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=31)).replace(day=1)


def iso_ms(ms: int) -> str:
    """Unix milliseconds as `2026-11-21T10:05:00.123Z`."""
    return from_ms(ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def parse_ms(value: object) -> int:
    """Unix milliseconds of an RFC 3339 text (UTC when it names no zone) or of a number of milliseconds.

    Raises ValueError, naming the value.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value[:64]!r} is not an RFC 3339 time such as 2026-11-21T10:05:00Z") from None
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - UNIX_ZERO
        ms = since.days * DAY_MS + since.seconds * 1000 + since.microseconds // 1000  # as `to_ms`, without its call
        if MIN_UNIX_MS <= ms <= MAX_UNIX_MS:
            return ms
        raise ValueError(f"{value[:64]!r} lies outside the years 1 to 9999")
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if 0 <= value <= MAX_UNIX_MS:
            return int(value)
        raise ValueError(f"{value} is not a number of Unix milliseconds from 0 to {MAX_UNIX_MS}")
    raise ValueError(f"{quoted(value)} is neither an RFC 3339 time nor a number of Unix milliseconds")


def correct_skew(client_ms: int | None, sent_ms: int | None, received_ms: int) -> int:
    """Return when the event occurred, by our clock.

    A client whose clock is off by at least a minute is corrected by whole minutes, so that a retry of the same event
    lands on the same time; events/pins.py sees to those that do not. Up to a minute ahead a time stands as it is. What
    lies further ahead is clamped to the moment of receipt, what lies before 1970 to its start.
    """
    if client_ms is None:
        return received_ms
    occurred_ms = client_ms
    if sent_ms is not None and abs(skew_ms := received_ms - sent_ms) >= MINUTE_MS:
        occurred_ms += minutes_of(skew_ms)
    if occurred_ms > received_ms + AHEAD_MS:
        return received_ms
    return occurred_ms if occurred_ms > 0 else 0


def minutes_of(skew_ms: int) -> int:
    """Return the whole minutes of a skew, in milliseconds, by which it is corrected; of less than one, nothing."""
    return int(skew_ms / MINUTE_MS) * MINUTE_MS


def hour_of(ms: int) -> str:
    """The UTC hour that holds the instant, as `2026-11-21T10`."""
    return _hour_name(ms // HOUR_MS)


@lru_cache(maxsize=4096)
def _hour_name(number: int) -> str:
    return from_ms(number * HOUR_MS).strftime("%Y-%m-%dT%H")


def minute_of(ms: int) -> str:
    """Return the UTC minute that holds the instant, as `2026-11-21T10:05`."""
    return from_ms(ms).strftime("%Y-%m-%dT%H:%M")


def day_of(hour: str) -> str:
    """Return the day, `2026-11-21`, of an hour such as `2026-11-21T10`."""
    return hour[:10]


def hour_of_day(hour: str) -> str:
    """Return the two digits that an hour has within its day: `10` of `2026-11-21T10`."""
    return hour[11:]


def hours_of(day: str, last_day: str | None = None) -> tuple[str, str]:
    """Return the first and the last hour of a day, or of the days from `day` to `last_day`, both included."""
    return f"{day}T00", f"{last_day or day}T23"


def is_last_of_day(hour: str) -> bool:
    """Return whether the day ends with the hour."""
    return hour == hours_of(day_of(hour))[1]


def day_start_ms(day: str) -> int:
    """Return the first instant of a UTC day written as `2026-11-21`; raise ValueError for what is no such day."""
    return hour_start_ms(hours_of(day)[0])


@lru_cache(maxsize=16_384)  # over a year of them
def hour_start_ms(hour: str) -> int:
    """Return the first instant of an hour written as `2026-11-21T10`; raises ValueError for what is no such hour."""
    return to_ms(datetime.strptime(hour, "%Y-%m-%dT%H").replace(tzinfo=UTC))


def hours_between(start_ms: int, end_ms: int) -> list[str]:
    """Return the UTC hours that the half-open range touches, in order."""
    first = start_ms - start_ms % HOUR_MS
    return [hour_of(ms) for ms in range(first, end_ms, HOUR_MS)]
