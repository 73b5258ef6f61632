"""Quarantine: what was rejected of a request, with the reasons, as it lies in a file, and how it is judged again.

A file is NDJSON: a line that says whose it is, when it came and how many records follow; a line for each record; and,
where an event is nested too deep to be written again, the body of its request as it came.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import orjson

from chalicelib.base.time_windows import DAY_MS, iso_ms, parse_ms
from chalicelib.events.addresses import hidden_in_text
from chalicelib.events.contracts import MESSAGE_LENGTH
from chalicelib.events.enrichment import Client
from chalicelib.events.erasure import mentioned_in, mentions
from chalicelib.events.events import MAX_AGE_DAYS, MAX_EVENT_BYTES, Admitter, Mode, Rejection, StoredEvent, Unreadable

TOO_OLD = "too_old"
# How a record keeps its event: in our form, as it was sent where it could not be put in our form, or in the body only.
OURS, SENT, IN_BODY = "event", "sent", "body"


@dataclass(frozen=True, slots=True)
class Record:
    """A rejected event and why; `index` is its place in its request."""

    index: int
    event_id: str | None
    code: str
    message: str
    path: str
    schema_version: str | None  # of the contract that it broke, if that was the reason
    event: Any
    kept_as: str = OURS

    @classmethod
    def of(cls, rejection: Rejection, judged: object) -> "Record":
        """Return the record of a verdict on what stood in the request, in our form."""
        kept_as = SENT if isinstance(judged, Unreadable) else OURS
        try:
            orjson.dumps([rejection.event])  # as deep as it lies in its line
        except TypeError:  # nested too deep
            kept_as = IN_BODY
        return cls(
            rejection.index,
            rejection.event_id,
            rejection.code,
            rejection.message,
            rejection.path,
            rejection.schema_version,
            None if kept_as == IN_BODY else rejection.event,
            kept_as,
        )

    @property
    def event_type(self) -> str | None:
        """The type that the event names, if it does."""
        found = self.event.get("event_type") if isinstance(self.event, dict) else None
        return found if isinstance(found, str) else None

    def names(self, ids: Sequence[str], body: bytes) -> bool:
        """Whether the event is of one of the user ids; of one in the body of its request only, whether that has one."""
        return mentioned_in(body, ids) if self.kept_as == IN_BODY else mentions(self.event, ids)

    def to_json(self) -> dict[str, Any]:
        """Return the record's line."""
        line = {name: getattr(self, name) for name in _LINE}
        return line if self.kept_as == IN_BODY else {**line, self.kept_as: self.event}


_LINE = ("index", "event_id", "code", "message", "path", "schema_version")


@dataclass(frozen=True, slots=True)
class QuarantineFile:
    """The rejected share of one request. `received_ms` is Unix milliseconds; `sent_at` is the client's own word."""

    project: str
    received_ms: int
    sent_at: object
    client: Client
    records: Sequence[Record]
    body: bytes = b""  # of the request, kept only where a record needs it

    def content(self) -> bytes:
        """Return all but the first line: the same for the same events and reasons."""
        lines = bytearray()  # into which each is copied at once: orjson keeps a large block for each text that it makes
        for record in self.records:
            lines += b"\n" if lines else b""
            lines += orjson.dumps(record.to_json())
        if any(record.kept_as == IN_BODY for record in self.records):
            lines += b"\n" + self.body
        return hidden_in_text(bytes(lines))  # of what could be read, the edge has cut the addresses before

    def encode(self) -> bytes:
        """Return the file, not yet compressed."""
        # A time is a text or a number; of what is neither, the name of its type is as invalid, and can be written.
        sent_at = self.sent_at if isinstance(self.sent_at, str | int | float | None) else type(self.sent_at).__name__
        head = {
            "project": self.project,
            "received_at": iso_ms(self.received_ms),
            "sent_at": sent_at,
            "client": self.client.to_json(),
            "records": len(self.records),
        }
        return orjson.dumps(head) + b"\n" + self.content()

    @classmethod
    def decode(cls, content: bytes) -> "QuarantineFile":
        """Return the inverse of `encode`; raises ValueError for what is no such file."""
        try:
            first, *rest = content.split(b"\n", 1)
            head = orjson.loads(first)
            parts = rest[0].split(b"\n", head["records"])
            records = [_record(orjson.loads(line)) for line in parts[: head["records"]]]
            body = b"".join(parts[head["records"] :])
            received_ms = parse_ms(head["received_at"])
            return cls(head["project"], received_ms, head["sent_at"], Client(**head["client"]), records, body)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"not a quarantine file: {error!r}") from error


def _record(line: dict[str, Any]) -> Record:
    named = {name: line[name] for name in _LINE}
    kept_as = next((name for name in (OURS, SENT) if name in line), IN_BODY)
    return Record(**named, event=line.get(kept_as), kept_as=kept_as)


@dataclass(frozen=True, slots=True)
class Retrial:
    """What becomes of some records of a file when they are judged again."""

    events: list[StoredEvent] = field(default_factory=list)  # each id once
    taken: set[int] = field(default_factory=set)  # the indexes they come from, those of repeated ids included
    kept: dict[int, Record] = field(default_factory=dict)  # index -> the record with its new reason

    def codes(self) -> Counter[str]:
        """Return how many stay, by reason."""
        return Counter(record.code for record in self.kept.values())

    def rest(self, file: QuarantineFile) -> QuarantineFile:
        """The file without what was taken, and with the new reasons."""
        left = [self.kept.get(record.index, record) for record in file.records if record.index not in self.taken]
        return replace(file, records=left)


def retry(
    file: QuarantineFile, records: Iterable[Record], place: str, admitter: Admitter, mode: Mode, now_ms: int
) -> Retrial:
    """Judge some records of the file by today's contracts and mode, as received when they were received.

    An event without an id gets one that is the same at each replay: made of the file's `place` and its own. What
    occurred longer ago than the hot store keeps chunks is kept, as `too_old`: it could be counted twice.
    """
    trial = Retrial()
    ids: set[str] = set()
    for record in records:
        if record.kept_as != OURS:  # no contract makes it readable
            trial.kept[record.index] = record
            continue
        event = _identified(record, place)
        admission = admitter.admit([event], mode=mode, received_ms=file.received_ms, sent_at=file.sent_at)
        if admission.rejections:
            [verdict] = admission.rejections
            reason = {name: getattr(verdict, name) for name in ("code", "message", "path", "schema_version")}
            trial.kept[record.index] = replace(record, **reason)
            continue
        [stored] = admission.events
        if stored["occurred_at"] < now_ms - MAX_AGE_DAYS * DAY_MS:
            message = f"the event occurred at {iso_ms(stored['occurred_at'])}; the limit is {MAX_AGE_DAYS} days ago"
            trial.kept[record.index] = replace(record, code=TOO_OLD, message=message, path="/timestamp")
            continue
        trial.taken.add(record.index)
        if stored["event_id"] not in ids:
            ids.add(stored["event_id"])
            trial.events.append(stored)
    return trial


def _identified(record: Record, place: str) -> Any:
    event = record.event
    if not isinstance(event, dict) or event.get("event_id") not in (None, ""):
        return event
    name = f"{place}#{record.index}".encode() + orjson.dumps(event)
    return {**event, "event_id": blake2b(name, digest_size=16).hexdigest()}


def shown(record: Record, file: QuarantineFile, identity: str) -> tuple[dict[str, Any], int]:
    """Return what `GET /quarantine` answers of a record, and its size in bytes.

    An event that is larger than any that is taken, or nested too deep, is null, and long words are cut: they are in
    the file.
    """
    words = {name: getattr(record, name) for name in _LINE if name != "index"} | {"event_type": record.event_type}
    line = {name: word and word[:MESSAGE_LENGTH] for name, word in words.items()}
    try:
        size_bytes = len(orjson.dumps([[[record.event]]]))  # as deep as it lies in the answer
    except TypeError:
        size_bytes = MAX_EVENT_BYTES + 1
    shows = record.event if size_bytes <= MAX_EVENT_BYTES else None
    received = {"id": identity, "received_at": iso_ms(file.received_ms)}
    size_bytes = len(orjson.dumps([received, line])) + (0 if shows is None else size_bytes)
    return {**received, **line, "event": shows}, size_bytes
