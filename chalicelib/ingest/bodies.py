"""Request bodies: from the bytes of a client to the events in our form, under caps of size and number.

Events are not judged here; events/events.py does that.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import orjson

from chalicelib.base import values
from chalicelib.base.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from chalicelib.events.events import MAX_EVENT_VALUES, MAX_EVENTS, TOO_MANY_VALUES, Rejection, Unreadable
from chalicelib.ingest import cloudevents, repair, segment

MAX_BODY_BYTES = 5 * 1024 * 1024  # on the wire: one SDK sends 4 MiB and a last event; Lambda takes 6 MB
MAX_INFLATED_BYTES = 5 * 1024 * 1024
MAX_BODY_VALUES = 500_000  # 50 MB as Python objects at most; 5 MiB of usual events have fewer
MAX_COPIED_BYTES = 4 * 1024 * 1024  # of the context that a Segment batch shares, once each message has it
WITH_TRAITS = 2  # times its own size an SDK's message has in our form at most: traits of the context are copied
JSON, NDJSON = "application/json", "application/x-ndjson"
# JSON under the names that browsers' beacons and SDKs give it, and, beside these, whatever ends in +json.
MEDIA_TYPES = (JSON, NDJSON, "text/plain", "application/x-www-form-urlencoded", "application/gzip")
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Request:
    """The events of one request, in our form, not yet judged."""

    events: list[Any]
    sent_at: object
    body: bytes  # as it came, inflated
    size_bytes: int  # of the events in our form, at most
    values: int  # of the events in our form, at most
    write_key: str | None = None  # of SDKs that send the key in the body
    pointer: Callable[[int, str], str] = lambda _, path: path  # index, and path in our form -> path in the client's

    def answer(self, rejection: Rejection) -> dict[str, Any]:
        """Return what the client is told of an event that was not taken; `path` points into what it sent."""
        return {**rejection.answer(), "path": self.pointer(rejection.index, rejection.path)}


def media_type_of(headers: Mapping[str, str]) -> str:
    """Return what the body is declared as, JSON where nothing is said; raises UnsupportedMediaType."""
    return _media_type(headers.get("content-type", JSON))


@lru_cache(maxsize=64)  # clients declare a few, and each request asks twice
def _media_type(declared: str) -> str:
    media_type = declared.partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            f"the body is {media_type[:64]!r}; supported are {', '.join(MEDIA_TYPES)} and …+json"
        )
    return media_type


def read_native(body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Request:
    """One event, an array of events, `{"events": [...]}`, NDJSON, or CloudEvents in each mode of the HTTP binding.

    Raises InvalidRequest, PayloadTooLarge or UnsupportedMediaType.
    """
    media_type = media_type_of(headers)
    data = opened(body)
    if media_type in (cloudevents.STRUCTURED, cloudevents.BATCH) or cloudevents.VERSION_HEADER in headers:
        return _read_cloudevents(data, media_type, headers)
    if media_type == NDJSON or _has_lines(data):
        lines = [line for line in data.splitlines() if line.strip()]
        if len(lines) > MAX_EVENTS:  # before each is parsed
            message = f"events: the batch has {len(lines)} events; the limit is {MAX_EVENTS}"
            raise InvalidRequest(message, code="invalid_envelope")
        document: Any = {"events": [_parse_line(line) for line in lines]}
    else:
        document = _parse(data)
    if isinstance(document, dict) and "events" not in document:
        return Request([document], None, data, len(data), _most_in(data))  # without an envelope, there is none to load
    envelope = {"events": document} if isinstance(document, list) else document
    events = envelope["events"] if isinstance(envelope, dict) else None
    if not (isinstance(events, list) and 0 < len(events) <= MAX_EVENTS):  # what is right is not put through the schema
        _native(envelope)
    return Request(envelope["events"], envelope.get("sent_at"), data, len(data), _most_in(data))


def _read_cloudevents(data: bytes, media_type: str, headers: Mapping[str, str]) -> Request:
    texts = [data]
    if media_type in (cloudevents.STRUCTURED, cloudevents.BATCH):
        document = _parse(data)
        sent = _native({"events": document})["events"] if media_type == cloudevents.BATCH else [document]
        texts += cloudevents.encoded(sent)
        _check_values(texts)  # what is JSON within JSON is parsed now
        events = [cloudevents.to_native(event) for event in sent]
    else:
        events = [cloudevents.from_headers(headers, _parse(data) if data else None)]
    most = sum(map(_most_in, texts))
    return Request(events, None, data, len(data), most, pointer=lambda _, path: cloudevents.pointer(path))


def read_segment(body: bytes, kind: str) -> Request:
    """A batch (`kind` is batch) or one call (track, page, …) of a Segment-compatible SDK."""
    data = opened(body)
    document = _parse(data)
    if kind == segment.BATCH:
        from chalicelib.ingest.envelopes import SEGMENT_ENVELOPE, load

        loaded = load(SEGMENT_ENVELOPE, document)
        messages = loaded["batch"]
        copied_bytes, copied_values = _copied(loaded["context"], len(messages))
        times = WITH_TRAITS if any(map(segment.copies_traits, messages)) else 1
        return Request(
            [segment.to_native(message, shared=loaded["context"]) for message in messages],
            loaded["sent_at"],
            data,
            len(data) * WITH_TRAITS + copied_bytes,
            _most_in(data) * times + copied_values,
            _text(loaded["write_key"]),
            pointer=lambda index, path: segment.pointer(path, messages[index]),
        )
    return Request(
        [segment.to_native(document, kind=kind)],
        None,
        data,
        len(data) * WITH_TRAITS,
        _most_in(data) * WITH_TRAITS,
        _text(document.get("writeKey")) if isinstance(document, dict) else None,
        pointer=lambda _, path: segment.pointer(path, document, kind=kind),
    )


def _copied(context: object, times: int) -> tuple[int, int]:
    """How many bytes and values a batch's context has, once each of its messages has it; raises InvalidRequest."""
    try:
        text = orjson.dumps(context)
    except TypeError as error:  # orjson.JSONEncodeError is one: it is nested too deeply
        raise InvalidRequest(f"context: {error}; the limit is 252 levels", code="invalid_envelope") from error
    for unit, each, limit in (
        ("bytes", len(text), MAX_COPIED_BYTES),
        ("JSON values", values.count(text), MAX_BODY_VALUES),
    ):
        if each * times > limit:
            message = f"context: copied into each event it has {each * times} {unit}; the limit is {limit}"
            raise InvalidRequest(message, code="invalid_envelope")
    return len(text) * times, values.most_in(text, 0) * times


def read_object(body: bytes) -> dict[str, Any]:
    """Return a JSON object, such as the body of a query."""
    document = _parse(opened(body))
    if not isinstance(document, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {type(document).__name__}", code="invalid_envelope")
    return document


def opened(body: bytes) -> bytes:
    """Return the body, unpacked, if it has no more values than memory is to hold; none is parsed otherwise."""
    data = inflate(body)
    if len(data) >= values.LEAST_BYTES * MAX_BODY_VALUES:  # a shorter one cannot have so many
        _check_values([data])
    return data


def _check_values(texts: list[bytes]) -> None:
    """Raises PayloadTooLarge where JSON texts of one request have too many values together."""
    most, limit = sum(values.most_in(text, values.LEAST_BYTES * MAX_BODY_VALUES - 1) for text in texts), MAX_BODY_VALUES
    if most > limit and sum(values.count(text, limit + 1) for text in texts) > limit:
        raise PayloadTooLarge(f"the body has over {limit} JSON values, which is the limit", code=TOO_MANY_VALUES)


def _most_in(text: bytes) -> int:
    return values.most_in(text, values.LEAST_BYTES * MAX_EVENT_VALUES - 1)


def inflate(body: bytes) -> bytes:
    """Return the body, unpacked if it is gzip, whatever its headers say; never more than the limit is unpacked."""
    if len(body) > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"the body has {len(body)} bytes; the limit is {MAX_BODY_BYTES}")
    if not body.startswith(_GZIP_MAGIC):
        return body
    data = b""
    while body:  # a gzip file may have several members
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            data += inflater.decompress(body, MAX_INFLATED_BYTES + 1 - len(data))
        except zlib.error as error:
            raise InvalidRequest(f"the body is not valid gzip: {error}", code="malformed_gzip") from error
        if len(data) > MAX_INFLATED_BYTES:
            raise PayloadTooLarge(f"the body inflates to more than the limit of {MAX_INFLATED_BYTES} bytes")
        if not inflater.eof:
            raise InvalidRequest("the gzip body ends too early", code="malformed_gzip")
        body = inflater.unused_data
    return data


def _parse(data: bytes) -> Any:
    try:
        return repair.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="malformed_json") from error


def _has_lines(data: bytes) -> bool:
    """Return whether this is NDJSON under another name: several lines, the first of which is an object by itself."""
    first, newline, rest = data.lstrip().partition(b"\n")
    return bool(newline and rest.strip()) and first.startswith(b"{") and isinstance(_parse_line(first), dict)


def _parse_line(line: bytes) -> Any:
    """Return a line's event, or Unreadable: a bad line costs the others nothing."""
    try:
        return repair.loads(line)
    except orjson.JSONDecodeError as error:
        return Unreadable(line.decode(errors="replace"), "malformed_json", f"the line is not JSON: {error}")


def _native(document: Any) -> dict[str, Any]:
    """Return a native request's envelope, checked; raises InvalidRequest."""
    from chalicelib.ingest.envelopes import ENVELOPE, load  # here: what loads schemas takes as long as all of the edge

    return load(ENVELOPE, document)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
