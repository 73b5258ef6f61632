"""Sessions that go over hours: what one hour holds of a session is a *part*, and parts put together are sessions.

A session is the events that carry one session id of one client (its anonymous id, else its user id). Where they carry
none it is those of one user of which none is half an hour after the one before. It belongs to the hour in which it
began and is followed through REACH_HOURS hours of the clock, that one included; what comes later is in no session,
until one begins. A session id begins where none of the REACH_HOURS - 1 hours before has it. So the sessions of an hour
depend on the parts of so many hours on either side, in whatever order those become known.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from chalicelib.base.time_windows import HOUR_MS
from chalicelib.events.events import StoredEvent, user_of
from chalicelib.events.sessions import INACTIVITY_MS, REACH_HOURS

BLOCK_PARTS = 100_000  # bounds memory
KEY_BYTES = 8  # of four million sessions in reach of an hour, two then meet with a chance of 1 in two million
PAGES = {"page_view": "path", "screen_view": "name"}  # the events that show a page, and the property that names it

Integers = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]


@dataclass(slots=True)
class SessionPart:
    """What an hour holds of a session; times are Unix milliseconds."""

    key: int  # 64 bits that stand for the client and its session id, or for the user
    own: bool  # whether the client named the session
    user: str | None  # of the last event
    first_ms: int
    last_ms: int
    events: int = 0
    pages: int = 0
    entry: str | None = None  # the first page, and the last one
    exit: str | None = None

    def add(self, event: StoredEvent) -> None:
        """Take in an event that is not earlier than the last one."""
        self.user, self.last_ms = user_of(event), event["occurred_at"]
        self.events += 1
        named_by = PAGES.get(event["event_type"])
        if named_by:
            name = (event.get("properties") or {}).get(named_by)
            self.exit = name if isinstance(name, str) else None
            self.entry = self.entry if self.pages else self.exit
            self.pages += 1


@dataclass(frozen=True, slots=True)
class Columns:
    """Parts by column; those of one key are in order of time, or it is seen by their times."""

    key: Integers
    own: npt.NDArray[np.bool_]
    user: Objects  # the bytes of `hash_user`, or None
    first_ms: Integers
    last_ms: Integers
    events: Integers
    pages: Integers
    entry: Objects
    exit: Objects

    def take(self, rows: Any) -> "Columns":
        """Return some of the parts, by a mask or by their places."""
        return Columns(*(getattr(self, name)[rows] for name in COLUMNS))


COLUMNS = tuple(Columns.__dataclass_fields__)


def parts_of(events: Iterable[StoredEvent]) -> Iterator[list[SessionPart]]:
    """Yield the parts of an hour's events, which come in order of time, some at a time; a session may be in several.

    Bots have no sessions, and what has neither a user nor a session id is in none.
    """
    current: dict[object, SessionPart] = {}
    over: list[SessionPart] = []
    for event in events:
        if (event.get("enrichment") or {}).get("bot"):
            continue
        name: object = event.get("session_id")
        own = bool(name)
        name = (event.get("anonymous_id") or event.get("user_id"), name) if own else user_of(event)
        if name is None:
            continue
        at = event["occurred_at"]
        part = current.get(name)
        if part is None or (not own and at - part.last_ms >= INACTIVITY_MS):
            if len(current) + len(over) >= BLOCK_PARTS:
                yield [*over, *current.values()]
                current, over = {}, []
            elif part is not None:
                over.append(part)
            key = int.from_bytes(blake2b(orjson.dumps(name), digest_size=KEY_BYTES).digest(), signed=True)
            part = current[name] = SessionPart(key, own, None, at, at)
        part.add(event)
    if current:
        yield [*over, *current.values()]


def sessions_of(parts: Columns, first: int, last: int) -> Iterator[tuple[int, list[tuple[bytes | None, StoredEvent]]]]:
    """The sessions that began in the hours from `first` to `last` (hours since 1970), as (hour, (user, session)s).

    A session is in the form of an event of its first moment. `parts` are all those of the hours that are fewer than
    REACH_HOURS away from one of them.
    """
    parts = parts.take(np.lexsort((parts.first_ms, parts.key)))  # stable: of one millisecond, as they come
    hours = parts.first_ms // HOUR_MS
    near = np.where(
        parts.own[1:], hours[1:] - hours[:-1] < REACH_HOURS, parts.first_ms[1:] - parts.last_ms[:-1] < INACTIVITY_MS
    )
    begins = np.ones(len(hours), bool)
    begins[1:] = (parts.key[1:] != parts.key[:-1]) | ~near
    began = hours[begins][np.cumsum(begins) - 1]
    for hour in np.unique(began[(began >= first) & (began <= last)]).tolist():
        of_hour = (began == hour) & (hours - hour < REACH_HOURS)
        yield hour, _together(parts.take(of_hour), np.flatnonzero(begins[of_hour]))


def _together(parts: Columns, starts: Integers) -> list[tuple[bytes | None, StoredEvent]]:
    """Return the sessions whose parts begin at these places."""
    count = len(parts.key)
    places = np.arange(count)
    ends = np.append(starts[1:], count) - 1
    pages = np.add.reduceat(parts.pages, starts)
    events = np.add.reduceat(parts.events, starts)
    # Of a session without a page the first part, which has neither.
    entries = np.where(pages > 0, np.minimum.reduceat(np.where(parts.pages > 0, places, count), starts), starts)
    exits = np.where(pages > 0, np.maximum.reduceat(np.where(parts.pages > 0, places, -1), starts), starts)
    columns = zip(
        parts.user[ends].tolist(),
        parts.first_ms[starts].tolist(),
        ((parts.last_ms[ends] - parts.first_ms[starts]) / 1000).tolist(),
        pages.tolist(),
        ((pages == 1) | (events == 1)).tolist(),
        parts.entry[entries].tolist(),
        parts.exit[exits].tolist(),
        strict=True,
    )
    return [(user, _as_event(first_ms, *told)) for user, first_ms, *told in columns]


def _as_event(
    first_ms: int, duration_seconds: float, pages: int, bounced: bool, entry: str | None, exit_page: str | None
) -> StoredEvent:
    properties = {
        "duration_seconds": duration_seconds,
        "pages": pages,
        "bounced": int(bounced),
        "entry_page": entry,
        "exit_page": exit_page,
    }
    return {"occurred_at": first_ms, "properties": properties}
