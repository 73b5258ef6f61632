"""From what a client sent to what is stored: one verdict per event.

A stored event is a JSON object: event_id, event_type, occurred_at (epoch ms, UTC, by our clock), and, where the
client sent them, timestamp (its own words), user_id, anonymous_id, session_id, properties, context.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.time_windows import DAY_MS, correct_skew, iso_ms, parse_ms

MAX_EVENT_BYTES = 256 * 1024  # a chunk of one event must fit a DynamoDB item of 400 KB, compressed or not
MAX_DEPTH = 252  # of nesting: orjson writes 254, and a message adds two
MAX_AGE_DAYS = 30  # the hot store's TTL; older history comes in through imports

StoredEvent = dict[str, Any]

_COPIED = ("user_id", "anonymous_id", "session_id", "timestamp", "properties", "context")


class Mode(StrEnum):
    """What a project does with event types that have no contract."""

    INFER = "infer"  # take them
    WARN = "warn"  # take them and say so in the answer
    ENFORCE = "enforce"  # quarantine them


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an event was not taken; `path` is a JSON pointer into the event."""

    index: int
    event_id: str | None
    code: str
    message: str
    path: str
    event: Any

    def answer(self) -> dict[str, Any]:
        """What the client is told."""
        return {
            "index": self.index,
            "event_id": self.event_id,
            "code": self.code,
            "message": self.message,
            "path": self.path,
        }


@dataclass(frozen=True, slots=True)
class Admission:
    """The verdicts on one request."""

    events: list[StoredEvent] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)  # of every event taken, repeats included
    rejections: list[Rejection] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Admitter:
    """Judges events; `new_id` makes time-ordered ids for those that come without."""

    contracts: Contracts
    new_id: Callable[[int], str]

    def admit(
        self,
        raw_events: Iterable[Any],
        *,
        mode: Mode,
        received_ms: int,
        sent_at: object = None,
        check_sizes: bool = True,
    ) -> Admission:
        """Judge each event; one bad event never costs a good one its place.

        `sent_at` holds for events that carry none of their own. Of several events with one id the first is kept.
        """
        admission = Admission()
        seen: set[str] = set()
        for index, raw in enumerate(raw_events):
            self._judge(admission, seen, index, raw, mode, received_ms, sent_at, check_sizes)
        return admission

    def _judge(
        self,
        admission: Admission,
        seen: set[str],
        index: int,
        raw: Any,
        mode: Mode,
        received_ms: int,
        sent_at: object,
        check_sizes: bool,
    ) -> None:
        sent = raw  # a rejection keeps the event as it was sent

        def reject(code: str, message: str, path: str = "") -> None:
            event_id = sent.get("event_id") if isinstance(sent, dict) else None
            shown = event_id if isinstance(event_id, str) else None
            admission.rejections.append(Rejection(index, shown, code, message, path, sent))

        if not isinstance(raw, dict):
            return reject("not_an_object", f"an event is a JSON object, and this is {type(raw).__name__}")
        for name in ("properties", "context"):
            if raw.get(name) is None:
                raw = {**raw, name: {}}
        event_type = raw.get("event_type")
        violation = self.contracts.validator(event_type).violation(raw)
        if violation:
            return reject("contract_violation", violation.message, violation.path)
        assert isinstance(event_type, str)
        if self.contracts.reserved(event_type):
            return reject(
                "reserved_event_type", f"{event_type!r} is the name of a metric; name the type otherwise", "/event_type"
            )
        if event_type not in self.contracts.by_type and mode is not Mode.INFER:
            message = f"event type {event_type!r} has no contract; known are {', '.join(self.contracts.by_type)}"
            if mode is Mode.ENFORCE:
                return reject("unknown_event_type", message, "/event_type")
            admission.warnings.append({"index": index, "code": "unknown_event_type", "message": message})
        if check_sizes:
            try:
                size_bytes = len(orjson.dumps([[raw]])) - len("[[]]")  # as deep as it lies in a message
            except TypeError as error:  # orjson.JSONEncodeError is one
                return reject("too_deep", f"the event cannot be stored: {error}; the limit is {MAX_DEPTH} levels")
            if size_bytes > MAX_EVENT_BYTES:
                return reject("event_too_large", f"the event has {size_bytes} bytes; the limit is {MAX_EVENT_BYTES}")

        field_name = "timestamp"
        try:
            client_ms = None if raw.get("timestamp") is None else parse_ms(raw["timestamp"])
            field_name = "sent_at"
            its_sent_at = raw.get("sent_at", sent_at)
            sent_ms = None if its_sent_at is None else parse_ms(its_sent_at)
        except ValueError as error:
            return reject("invalid_time", str(error), f"/{field_name}")
        occurred_ms = correct_skew(client_ms, sent_ms, received_ms)
        if occurred_ms < received_ms - MAX_AGE_DAYS * DAY_MS:
            return reject(
                "too_old",
                f"the event occurred at {iso_ms(occurred_ms)}; the limit is {MAX_AGE_DAYS} days ago",
                "/timestamp",
            )

        event_id = raw.get("event_id") or self.new_id(received_ms)
        admission.event_ids.append(event_id)
        if event_id in seen:
            return None
        seen.add(event_id)
        event: StoredEvent = {"event_id": event_id, "event_type": event_type, "occurred_at": occurred_ms}
        for name in _COPIED:
            value = raw.get(name)
            if value:
                event[name] = value
        admission.events.append(event)
        return None


def user_of(event: StoredEvent) -> str | None:
    """Who did it: the user id, else the anonymous id, else nobody."""
    return event.get("user_id") or event.get("anonymous_id")
