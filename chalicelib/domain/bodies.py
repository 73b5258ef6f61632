"""Request bodies: from the bytes of a client to the events in our form, under caps of size and number.

Events are not judged here; domain/events.py does that.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import orjson
from marshmallow import EXCLUDE, Schema, ValidationError, fields

from chalicelib.domain import segment
from chalicelib.domain.errors import InvalidRequest, PayloadTooLarge

MAX_BODY_BYTES = 1024 * 1024  # on the wire
MAX_INFLATED_BYTES = 4 * 1024 * 1024
MAX_EVENTS = 500
MAX_SHARED_CONTEXT_BYTES = 8 * 1024  # of a Segment batch
_GZIP_MAGIC = b"\x1f\x8b"


def _check_events(value: Any) -> None:
    if not isinstance(value, list):
        raise ValidationError(f"events is a list, and this is {type(value).__name__}")
    if not 1 <= len(value) <= MAX_EVENTS:
        raise ValidationError(f"the batch has {len(value)} events; the limit is {MAX_EVENTS}, and the least is 1")


class Envelope(Schema):
    """A native request once it is read; the events themselves are judged one by one."""

    class Meta:
        unknown = EXCLUDE

    events = fields.Raw(required=True, validate=_check_events)
    sent_at = fields.Raw(load_default=None)


class SegmentEnvelope(Schema):
    """A batch of a Segment-compatible SDK."""

    class Meta:
        unknown = EXCLUDE

    batch = fields.Raw(required=True, validate=_check_events)
    sent_at = fields.Raw(data_key="sentAt", load_default=None)
    write_key = fields.Raw(data_key="writeKey", load_default=None)
    context = fields.Dict(load_default=dict, allow_none=True)


ENVELOPE = Envelope()
SEGMENT_ENVELOPE = SegmentEnvelope()


@dataclass(frozen=True, slots=True)
class Request:
    """The events of one request, in our form, not yet judged."""

    events: list[Any]
    sent_at: object
    body: bytes  # as it came, inflated
    size_bytes: int  # of the events
    write_key: str | None = None  # of SDKs that send the key in the body


def read_native(body: bytes) -> Request:
    """One event, an array of events, or `{"events": [...]}`; raises InvalidRequest or PayloadTooLarge."""
    data = inflate(body)
    document = _parse(data)
    if isinstance(document, list):
        document = {"events": document}
    elif isinstance(document, dict) and "events" not in document:
        document = {"events": [document]}
    loaded = _load(ENVELOPE, document)
    return Request(loaded["events"], loaded["sent_at"], data, len(data))


def read_segment(body: bytes, kind: str) -> Request:
    """A batch (`kind` is batch) or one call (track, page, …) of a Segment-compatible SDK."""
    data = inflate(body)
    document = _parse(data)
    if kind == "batch":
        loaded = _load(SEGMENT_ENVELOPE, document)
        if (context_bytes := len(orjson.dumps(loaded["context"]))) > MAX_SHARED_CONTEXT_BYTES:
            message = (
                f"context: it has {context_bytes} bytes; the limit is {MAX_SHARED_CONTEXT_BYTES}, as each event gets it"
            )
            raise InvalidRequest(message, code="invalid_envelope")
        events = [segment.to_native(message, shared=loaded["context"]) for message in loaded["batch"]]
        size_bytes = len(data) + context_bytes * len(events)
        return Request(events, loaded["sent_at"], data, size_bytes, _text(loaded["write_key"]))
    write_key = document.get("writeKey") if isinstance(document, dict) else None
    return Request([segment.to_native(document, kind=kind)], None, data, len(data), _text(write_key))


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object, such as the body of a query."""
    document = _parse(inflate(body))
    if not isinstance(document, dict):
        raise InvalidRequest(
            f"the body is a JSON object, and this is {type(document).__name__}", code="invalid_envelope"
        )
    return document


def inflate(body: bytes) -> bytes:
    """The body, unpacked if it is gzip, whatever its headers say; never more than the limit is unpacked."""
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
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="malformed_json") from error


def _load(schema: Schema, document: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        messages = error.messages_dict
        first = next(iter(messages.values()))
        text = first[0] if isinstance(first, list) else str(first)
        name = next(iter(messages))
        raise InvalidRequest(text if name == "_schema" else f"{name}: {text}", code="invalid_envelope") from error
    return loaded


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
