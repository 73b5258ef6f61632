"""Which events another try could put into another hour, and how it is kept where the first try put them.

An event of one id and one timestamp is to be one row, however often it is sent, and in whatever company. Its hour
follows from its timestamp alone while its client's clock is right. It does not where the clock is corrected, by whole
minutes of the skew that one try had, or where the time lies ahead and is clamped to when one try was received. The edge
marks such events (UNSURE), and `process` pins them: the first try that is processed writes down its `occurred_at`, and
each later one takes that. A clock that is right by half a minute, and not ahead, needs no pin and no look.

All tries of an event within twelve hours end in one hour if they name the same id, timestamp and user, and either
- come with `sent_at`, which the client's clock says anew at each try, not before the timestamp, and by skews that
  differ by JITTER_MS at most: where one of the tries is not marked, all would end in its hour, and else all
  are pinned;
- or come without it, or before their own timestamp. Then a try may be clamped and a later one not, which by itself sees
  no reason to look for a pin. So clamping flags the user, whose later events are looked up; a try that is received so
  soon after it that its container may not know of the flag is marked itself.

What no rule can tell without a read for every event remains: a client whose clock is set between two tries, or that
repeats an old `sent_at` while it regroups its events; two tries that are processed in another order than they came in,
or within half a minute of each other after waiting in the buffer, the first of which was clamped; and a pin that is
gone, because the events table was rebuilt. Events without a timestamp occur when they are received. The same request
sent again is the same chunk in any case, and counts once.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import orjson

from chalicelib.domain.time_windows import AHEAD_MS, HOUR_MS, minutes_of

UNSURE = "unsure"  # in an admitted event, until `process` takes it out: the Doubt
JITTER_MS = 30_000  # by which the tries of an event differ in how long they are on their way
GUARD_MS = 120_000  # in which every container knows of a flag, and what waits in the buffer is through it
FLAG_MS = 12 * HOUR_MS  # how long SDKs try again, and so how long a flag holds, and half as long again
BUCKETS = 1024  # of users: a flag holds for all of a bucket, so that a project's flags are 128 bytes


class Doubt(StrEnum):
    """Why another try could put an event into another hour."""

    EDGE = "edge"  # of an hour: a minute more or less of correction lies across it
    AHEAD = "ahead"  # of our clock: it is clamped, or was for a try just before


def doubt_of(client_ms: int, sent_ms: int | None, received_ms: int) -> Doubt | None:
    """Whether tries of the event that this one cannot know of could end in another hour, and why."""
    occurred_ms = low_ms = high_ms = client_ms
    if sent_ms is not None:
        skew_ms = received_ms - sent_ms
        occurred_ms += minutes_of(skew_ms)
        low_ms += minutes_of(skew_ms - JITTER_MS)
        high_ms += minutes_of(skew_ms + JITTER_MS)
    if occurred_ms > received_ms + AHEAD_MS:
        return Doubt.AHEAD
    if max(low_ms, 0) // HOUR_MS != max(high_ms, 0) // HOUR_MS:
        return Doubt.EDGE
    may_be_clamped = sent_ms is None or client_ms > sent_ms
    hour_ms = occurred_ms - occurred_ms % HOUR_MS
    return Doubt.AHEAD if may_be_clamped and occurred_ms > received_ms and hour_ms > received_ms - GUARD_MS else None


def name_of(event: Mapping[str, Any]) -> str:
    """What stands for an event and its timestamp among the pins of its user."""
    return blake2b(orjson.dumps([event["event_id"], event.get("timestamp")]), digest_size=12).hexdigest()


def bucket_of(user: str | None) -> int:
    """The bucket of a user, or of everybody who names none."""
    return int.from_bytes(blake2b((user or "").encode(), digest_size=2).digest()) % BUCKETS


def with_bucket(flags: bytes, bucket: int) -> bytes:
    """The flags of some buckets, a bit each, and of one more."""
    bits = bytearray(flags.ljust(BUCKETS // 8, b"\0"))
    bits[bucket // 8] |= 1 << bucket % 8
    return bytes(bits)


def has_bucket(flags: bytes, bucket: int) -> bool:
    """Whether a bucket is among the flags."""
    return bucket // 8 < len(flags) and bool(flags[bucket // 8] >> bucket % 8 & 1)


def recent(events: list[dict[str, Any]], received_ms: int) -> Iterator[dict[str, Any]]:
    """The events without a doubt of their own that could have been tried, and clamped, within the time of a flag."""
    since_ms = received_ms - FLAG_MS
    return (
        event for event in events if event["occurred_at"] > since_ms and "timestamp" in event and UNSURE not in event
    )
