"""First stage: a request's events are judged, the good ones made durable in the queue, the others in quarantine.

Nothing is acknowledged before it is durable. When the queue refuses, the message is spilled to S3 and comes
back through `reinject`; when S3 refuses too, the caller is told to try again.
"""

import gzip
import logging
import zlib
from dataclasses import dataclass
from typing import Any

import orjson
from marshmallow import EXCLUDE, Schema, ValidationError, fields

from chalicelib.domain import segment
from chalicelib.domain.access import Project
from chalicelib.domain.chunks import Message, encode_message
from chalicelib.domain.errors import InvalidRequest, PayloadTooLarge, Unavailable
from chalicelib.domain.events import MAX_EVENT_BYTES, Admission, Admitter
from chalicelib.domain.partitions import quarantine_key, spill_key
from chalicelib.domain.time_windows import iso_ms
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.queue import EventQueue

MAX_BODY_BYTES = 1024 * 1024  # on the wire
MAX_INFLATED_BYTES = 4 * 1024 * 1024
MAX_EVENTS = 500
MAX_SHARED_CONTEXT_BYTES = 8 * 1024  # of a Segment batch
_GZIP_MAGIC = b"\x1f\x8b"

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Collector:
    """Takes requests of one project each."""

    admitter: Admitter
    queue: EventQueue
    bucket: DataBucket

    def collect(self, request: Request, project: Project, received_ms: int) -> Admission:
        """Judge and store; returns only when every event is in the queue, in the spill or in quarantine.

        Raises Unavailable when neither the queue nor the bucket takes them.
        """
        admission, texts = self._admit(request, project, received_ms, check_sizes=request.size_bytes > MAX_EVENT_BYTES)
        if admission.rejections:
            self._quarantine(admission, request, project, received_ms)
            counts = {"accepted": len(admission.event_ids), "rejected": len(admission.rejections)}
            log.info("events rejected", extra={"project": project.id, **counts})
        for text in texts:
            self._send(text, project.id)
        return admission

    def reinject(self, key: str) -> None:
        """Bring a spilled message back to the queue; twice is harmless, its chunks have the same keys."""
        content = self.bucket.get(key)
        if content is not None:
            self.queue.send(content.decode())
            self.bucket.delete(key)

    def _admit(
        self, request: Request, project: Project, received_ms: int, *, check_sizes: bool
    ) -> tuple[Admission, list[str]]:
        """The verdicts, and the messages of what was taken."""
        admission = self.admitter.admit(
            request.events, mode=project.mode, received_ms=received_ms, sent_at=request.sent_at, check_sizes=check_sizes
        )
        if not admission.events:
            return admission, []
        try:
            return admission, encode_message(Message(project.id, received_ms, admission.events))
        except TypeError:  # orjson.JSONEncodeError: some event is nested too deep, which checking each one tells
            if check_sizes:
                raise
            return self._admit(request, project, received_ms, check_sizes=True)

    def _send(self, text: str, project: str) -> None:
        try:
            self.queue.send(text)
        except Unavailable as refusal:
            try:
                self.bucket.put(spill_key(project, text), text.encode())
                log.warning("message spilled", extra={"project": project, "reason": refusal.message})
            except Unavailable as error:
                raise Unavailable(f"neither the queue nor the spill takes events: {refusal.message}") from error

    def _quarantine(self, admission: Admission, request: Request, project: Project, received_ms: int) -> None:
        try:
            lines = [orjson.dumps({**r.answer(), "event": r.event}) for r in admission.rejections]
        except TypeError:  # nested too deep to be written again: the request is kept as it came
            lines = [*(orjson.dumps(r.answer()) for r in admission.rejections), request.body]
        key = quarantine_key(project.id, received_ms, b"\n".join(lines))
        stamped = orjson.dumps({"received_at": iso_ms(received_ms), "project": project.id})
        self.bucket.put(key, gzip.compress(b"\n".join([stamped, *lines]), mtime=0))


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
