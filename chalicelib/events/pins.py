"""Which events another try could put into another hour, and how all tries of one end in the same.

An event of one id and one timestamp is to be one row, however often it is sent, and in whatever company. Its hour
follows from its timestamp alone while its client's clock is right. It does not where the clock is corrected, by whole
minutes of the skew that one try had, or where the time lies ahead and is clamped to when one try was received. The edge
marks such events (UNSURE), and `process` pins them: whichever try is processed first writes down its `occurred_at`, and
each other one takes that. So neither the order in which tries are processed matters, nor how long they wait.

What is marked of one try alone, by `unsure_of`, is what other tries within JITTER_MS of its skew could put elsewhere.
That is not enough where one try is clamped, because a later one looks like any event in time. So the edge flags the
user of a clamped event before it acknowledges it, and marks what it receives of flagged users. A try that is received
so soon after a clamped one that its container may not know of the flag is marked for itself (waits.GUARD_MS).
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import orjson

from chalicelib.base import waits
from chalicelib.base.time_windows import AHEAD_MS, HOUR_MS, minutes_of

UNSURE = "unsure"  # in an admitted event, until `process` takes it out: the Unsure
JITTER_MS = 30_000  # by which the tries of an event differ in how long they are on their way
FLAG_MS = 12 * HOUR_MS  # how long SDKs try again, and so how long a flag holds, and up to twice as long
BUCKETS = 16_384  # of users: a flag holds for all of a bucket, so that a project's flags are a megabyte at most


class Unsure(StrEnum):
    """Why another try could put an event into another hour."""

    EDGE = "edge"  # of an hour: a minute more or less of correction lies across it
    CLAMPED = "clamped"  # because it lay ahead of our clock
    NEAR = "near"  # a moment before which a try just before was clamped, perhaps
    FLAGGED = "flagged"  # is its user, of whom a time was clamped lately


def unsure_of(client_ms: int, sent_ms: int | None, received_ms: int) -> Unsure | None:
    """Return whether tries of the event that this one cannot know of could end in another hour, and why."""
    occurred_ms = low_ms = high_ms = client_ms
    if sent_ms is not None:
        skew_ms = received_ms - sent_ms
        occurred_ms += minutes_of(skew_ms)
        low_ms += minutes_of(skew_ms - JITTER_MS)
        high_ms += minutes_of(skew_ms + JITTER_MS)
    if occurred_ms > received_ms + AHEAD_MS:
        return Unsure.CLAMPED
    if max(low_ms, 0) // HOUR_MS != max(high_ms, 0) // HOUR_MS:
        return Unsure.EDGE
    # An earlier try was clamped more than a minute before this time, and put into an hour before this one's.
    hour_ms = occurred_ms - occurred_ms % HOUR_MS
    return Unsure.NEAR if min(occurred_ms - AHEAD_MS, hour_ms) > received_ms - waits.GUARD_MS else None


def name_of(event: Mapping[str, Any]) -> str:
    """Return what stands for an event and its timestamp among the pins of its user."""
    return blake2b(orjson.dumps([event["event_id"], event.get("timestamp")]), digest_size=12).hexdigest()


def bucket_of(user: str | None) -> str:
    """Return the bucket of a user, or of everybody who names none."""
    number = int.from_bytes(blake2b((user or "").encode(), digest_size=2).digest())
    return f"{number % BUCKETS:04x}"


def recent(events: Iterable[dict[str, Any]], received_ms: int) -> Iterator[dict[str, Any]]:
    """Return the events that are not unsure themselves, of which another try was clamped lately, perhaps."""
    since_ms = received_ms - FLAG_MS
    return (
        event for event in events if event["occurred_at"] > since_ms and "timestamp" in event and UNSURE not in event
    )
