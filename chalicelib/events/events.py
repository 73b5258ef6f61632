"""From what a client sent to what is stored: one verdict per event.

A stored event is a JSON object: event_id, event_type, occurred_at (Unix milliseconds, by our clock), schema_version
where the type has a contract, and, where the client sent them, timestamp (its own words), user_id, anonymous_id,
session_id, properties, context. Until `process` has stored it, also `unsure`, where its hour is (events/pins.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from chalicelib.base import values
from chalicelib.base.time_windows import AHEAD_MS, DAY_MS, HOUR_MS, correct_skew, iso_ms, parse_ms
from chalicelib.events.contracts import MESSAGE_LENGTH, UNTYPED, Contract, Contracts, pointer
from chalicelib.events.pins import JITTER_MS, UNSURE, Unsure, unsure_of

MAX_EVENT_BYTES = 256 * 1024  # a chunk of one event must fit a DynamoDB item of 400 KB, compressed or not
MAX_EVENT_VALUES = 20_000  # 2 MB as Python objects at most; an event of 256 KiB usually has as many
MAX_DEPTH = 252  # of nesting: orjson writes 254, and a message adds two
TOO_MANY_VALUES = "too_many_values"
MAX_AGE_DAYS = 30  # the hot store's TTL; older history comes in through imports

MAX_EVENTS = 500  # of a request
MAX_MESSAGES = 2500  # of a Segment batch, as Segment's own: analytics.js gathers what it retries, and drops it at a 400
StoredEvent = dict[str, Any]

IDENTITY_TYPES = frozenset({"identify", "group", "alias"})  # what SDKs say of users; their properties are traits
_COPIED = ("user_id", "anonymous_id", "session_id", "timestamp", "properties", "context")


class Mode(StrEnum):
    """What a project does with event types that have no contract, and with properties that a contract does not list."""

    INFER = "infer"  # take them
    WARN = "warn"  # take them and say so in the answer
    ENFORCE = "enforce"  # quarantine them


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands in an event's place and cannot be put in our form; `path` points into what was sent."""

    sent: Any
    code: str
    message: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an event was not taken; `path` is a JSON pointer into the event in our form."""

    index: int
    event_id: str | None
    code: str
    message: str
    path: str
    event: Any
    schema_version: str | None = None  # of the contract that it broke

    def answer(self) -> dict[str, Any]:
        """Return what the client is told."""
        return {
            "index": self.index,
            "event_id": self.event_id and self.event_id[:MESSAGE_LENGTH],
            "code": self.code,
            "message": self.message,
            "path": self.path[:MESSAGE_LENGTH],
        }


@dataclass(frozen=True, slots=True)
class Admission:
    """The verdicts on one request."""

    events: list[StoredEvent] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)  # of every event taken, repeats included
    rejections: list[Rejection] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)


class _Refused(Exception):
    """An event that is not taken; raising costs the good events nothing."""

    def __init__(self, code: str, message: str, path: str = "", schema_version: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.path, self.schema_version = code, message, path, schema_version


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
        is_history: bool = False,
    ) -> Admission:
        """Judge each event; one bad event never costs a good one its place.

        `sent_at` holds for events that carry none of their own. History may be older than the hot store keeps, and has
        nothing that is still to come. Of several events with one id the first is kept; of history the first of each
        hour, so that nothing depends on where a file is cut.
        """
        admission = Admission()
        known, seen, strict = self.contracts.by_type, set(), mode is not Mode.INFER
        first_ms = None if is_history else received_ms - MAX_AGE_DAYS * DAY_MS
        for index, raw in enumerate(raw_events):
            try:
                event = self._read(raw, received_ms, sent_at, first_ms)
                event_id = event["event_id"]
                if strict or event["event_type"] not in known:
                    self._check_unknown(admission, index, event, mode)
                if check_sizes:
                    _check_size(raw)
            except _Refused as refused:
                sent_id = raw.get("event_id") if isinstance(raw, dict) else None
                shown = sent_id if isinstance(sent_id, str) else None
                sent = raw.sent if isinstance(raw, Unreadable) else raw
                reason = refused.code, refused.message, refused.path
                admission.rejections.append(Rejection(index, shown, *reason, sent, refused.schema_version))
                continue
            admission.event_ids.append(event_id)
            name = (event_id, event["occurred_at"] // HOUR_MS) if is_history else event_id
            if name not in seen:
                seen.add(name)
                admission.events.append(event)
        return admission

    def _read(self, raw: Any, received_ms: int, sent_at: object, first_ms: int | None) -> StoredEvent:
        """The event as it is stored; raises _Refused."""
        if not isinstance(raw, dict):
            if isinstance(raw, Unreadable):
                raise _Refused(raw.code, raw.message, raw.path)
            raise _Refused("not_an_object", f"an event must be a JSON object, not {type(raw).__name__}")
        get = raw.get
        event_type = get("event_type")
        # The contract speaks of `properties` as an object, so what is absent is checked as an empty one.
        whole = raw if get("properties") is not None else {**raw, "properties": {}}
        contract = self.contracts.by_type.get(event_type) if isinstance(event_type, str) else None
        if contract and (get("schema_version") is not None or not contract.validator.accepts(whole)):
            contract = self._other_version(contract, whole)
        elif contract is None and (violation := UNTYPED.violation(whole)):
            raise _Refused("contract_violation", violation.message, violation.path)
        event_id, timestamp = get("event_id"), get("timestamp")
        occurred_ms, unsure = _occurred_ms(timestamp, get("sent_at", sent_at), received_ms, first_ms)
        event = {
            "event_id": event_id or self.new_id(received_ms),
            "event_type": event_type,
            "occurred_at": occurred_ms,
        }
        if unsure and event_id:  # an event with an id of ours is another one each time
            event[UNSURE] = unsure
        if contract:
            event["schema_version"] = contract.version
        for name in _COPIED:
            if value := get(name):
                event[name] = value
        return event

    def _other_version(self, newest: Contract, whole: dict[str, Any]) -> Contract:
        """Return the version that the event names, else the newest of the older ones that it keeps; raises _Refused."""
        named = whole.get("schema_version")
        versions = self.contracts.versions(newest.event_type)
        if named is not None:
            versions = tuple(contract for contract in versions if contract.version == named)
            if not versions:
                known = ", ".join(contract.version for contract in self.contracts.versions(newest.event_type))
                message = f"{newest.event_type} has no version {named!r:.64}; it has {known}"
                raise _Refused("unknown_schema_version", message, "/schema_version")
        for contract in versions:
            if contract.validator.accepts(whole):
                return contract
        violation = versions[0].validator.violation(whole)
        assert violation, "what no version accepts has a violation"
        raise _Refused("contract_violation", violation.message, violation.path, versions[0].version)

    def _check_unknown(self, admission: Admission, index: int, event: StoredEvent, mode: Mode) -> None:
        """What becomes of a type without a contract, and of properties that the contract does not list."""
        event_type = event["event_type"]
        if event_type in self.contracts.by_type:
            versions = self.contracts.versions(event_type)
            contract = next(contract for contract in versions if contract.version == event["schema_version"])
            unknown = sorted(event.get("properties", {}).keys() - contract.properties)
            code, path = "unknown_property", f"/properties/{pointer(unknown[0])}" if unknown else ""
            listed = ", ".join(map(repr, unknown))[:MESSAGE_LENGTH]
            message = f"{event_type} {contract.version} does not list {listed}"
            if not unknown:
                return
        elif self.contracts.reserved(event_type):
            message = f"{event_type!r} is the name of a metric; name the type otherwise"
            raise _Refused("reserved_event_type", message, "/event_type")
        elif event_type in IDENTITY_TYPES:
            return
        else:
            code, path = "unknown_event_type", "/event_type"
            message = (
                f"event type {event_type!r} has no contract; contracts exist for {', '.join(self.contracts.by_type)}"
            )
        if mode is Mode.ENFORCE:
            raise _Refused(code, message, path, event.get("schema_version"))
        if mode is Mode.WARN:
            admission.warnings.append({"index": index, "code": code, "message": message, "path": path[:MESSAGE_LENGTH]})


def _check_size(raw: Any) -> None:
    try:
        text = orjson.dumps([[raw]])[1:-1]  # as deep as it lies in a message
    except TypeError as error:  # orjson.JSONEncodeError is one
        message = f"the event cannot be stored: {error}; the limit is {MAX_DEPTH} levels"
        raise _Refused("too_deep", message) from error
    if (size_bytes := len(text) - len("[]")) > MAX_EVENT_BYTES:
        raise _Refused("event_too_large", f"the event has {size_bytes} bytes; the limit is {MAX_EVENT_BYTES}")
    if values.exceed(text, MAX_EVENT_VALUES + 1):
        number = values.count(text) - 1
        raise _Refused(TOO_MANY_VALUES, f"the event has {number} JSON values; the limit is {MAX_EVENT_VALUES}")


def _occurred_ms(timestamp: object, sent: object, received_ms: int, first_ms: int | None) -> tuple[int, Unsure | None]:
    """When an event occurred, and whether another try of it could say otherwise; without `first_ms`, of history."""
    name = "timestamp"
    try:
        client_ms = None if timestamp is None else parse_ms(timestamp)
        name = "sent_at"
        sent_ms = None if sent is None else parse_ms(sent)
    except ValueError as error:
        raise _Refused("invalid_time", str(error), f"/{name}") from error
    is_steady = sent_ms is None or -JITTER_MS < received_ms - sent_ms < JITTER_MS
    if is_steady and client_ms is not None and first_ms is not None and first_ms <= client_ms <= received_ms:
        return client_ms, None  # as nearly all are
    occurred_ms = correct_skew(client_ms, sent_ms, received_ms)
    if first_ms is None:
        if client_ms is not None and client_ms > received_ms + AHEAD_MS:
            message = f"the event occurs at {iso_ms(client_ms)}, and the file came at {iso_ms(received_ms)}"
            raise _Refused("in_the_future", message, "/timestamp")
        return occurred_ms, None
    if occurred_ms < first_ms:
        message = f"the event occurred at {iso_ms(occurred_ms)}; the limit is {MAX_AGE_DAYS} days ago"
        raise _Refused("too_old", message, "/timestamp")
    return occurred_ms, None if client_ms is None else unsure_of(client_ms, sent_ms, received_ms)


def moment_of(event: StoredEvent) -> tuple[int, str, str]:
    """Return what a user's events are ordered by: within a millisecond by the client's own words, at last by id."""
    return event["occurred_at"], str(event.get("timestamp", "")), event["event_id"]


def user_of(event: StoredEvent) -> str | None:
    """Who did it: the user id, else the anonymous id, else nobody."""
    return event.get("user_id") or event.get("anonymous_id")
