"""What a request is besides its events, checked by marshmallow, with errors that name the field."""

from collections.abc import Callable
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields

from chalicelib.base.errors import InvalidRequest
from chalicelib.events.events import MAX_EVENTS, MAX_MESSAGES


def _list_of(most: int) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not isinstance(value, list):
            raise ValidationError(f"events must be a list, not {type(value).__name__}")
        if not 1 <= len(value) <= most:
            raise ValidationError(f"the batch has {len(value)} events; the limit is {most}, the minimum 1")

    return check


class Envelope(Schema):
    """A native request once it is read; the events themselves are judged one by one."""

    class Meta:
        unknown = EXCLUDE

    events = fields.Raw(required=True, validate=_list_of(MAX_EVENTS))
    sent_at = fields.Raw(load_default=None)


class SegmentEnvelope(Schema):
    """A batch of a Segment-compatible SDK."""

    class Meta:
        unknown = EXCLUDE

    batch = fields.Raw(required=True, validate=_list_of(MAX_MESSAGES))
    sent_at = fields.Raw(data_key="sentAt", load_default=None)
    write_key = fields.Raw(data_key="writeKey", load_default=None)
    context = fields.Dict(load_default=dict, allow_none=True)


ENVELOPE = Envelope()
SEGMENT_ENVELOPE = SegmentEnvelope()


def load(schema: Schema, document: Any) -> dict[str, Any]:
    """Return what the schema makes of a document; raises InvalidRequest."""
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        messages = error.messages_dict
        first = next(iter(messages.values()))
        text = first[0] if isinstance(first, list) else str(first)
        name = next(iter(messages))
        raise InvalidRequest(text if name == "_schema" else f"{name}: {text}", code="invalid_envelope") from error
    return loaded
