"""From CloudEvents 1.0 to our events: the JSON format and the HTTP binding's binary mode (https://cloudevents.io)."""

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

import orjson

from chalicelib.base import values
from chalicelib.base.errors import quoted
from chalicelib.events.contracts import MAX_ID_LENGTH
from chalicelib.events.events import MAX_EVENT_VALUES, TOO_MANY_VALUES, Unreadable

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
VERSION_HEADER = "ce-specversion"  # makes a request one event in binary mode

_FIELDS = {
    "type": "event_type",
    "time": "timestamp",
    "userid": "user_id",  # an extension of ours: no standard attribute names a person, and `subject` is a thing
    "anonymousid": "anonymous_id",
    "sessionid": "session_id",
}
_NO_CONTEXT = {"specversion", "id", "data", "data_base64", "datacontenttype", *_FIELDS}
_POINTERS = {"event_id": "id", "properties": "data", **{ours: theirs for theirs, ours in _FIELDS.items()}}


def to_native(event: Any) -> Any:
    """Return one event of the JSON format as an event of ours, or Unreadable; what is no object is handed on."""
    if not isinstance(event, dict):
        return event
    if (version := event.get("specversion")) != "1.0":
        return _invalid(event, f"specversion is {quoted(version)}; 1.0 is what is read", "/specversion")
    for name in ("id", "source", "type"):
        if not isinstance(event.get(name), str) or not event[name]:
            return _invalid(
                event, f"{name} is {quoted(event.get(name))}; it must be a text that is not empty", f"/{name}"
            )
    data = event.get("data")
    if "data_base64" in event:
        try:
            text = b64decode(event["data_base64"], validate=True)
            if values.exceed(text, MAX_EVENT_VALUES):
                message = f"data_base64 has over {MAX_EVENT_VALUES} JSON values; that is the limit of an event"
                return Unreadable(event, TOO_MANY_VALUES, message, "/data_base64")
            data = orjson.loads(text)
        except (ValueError, TypeError) as error:
            return _invalid(event, f"data_base64 does not hold JSON: {error}", "/data_base64")
    return {
        **{ours: event[theirs] for theirs, ours in _FIELDS.items() if event.get(theirs) is not None},
        "event_id": identity(event["source"], event["id"]),
        "properties": data,
        "context": {name: value for name, value in event.items() if name not in _NO_CONTEXT and value is not None},
    }


def encoded(events: Iterable[Any]) -> Iterator[bytes]:
    """Yield the JSON that events of the JSON format carry as base64, not yet parsed."""
    for event in events:
        if isinstance(event, dict) and isinstance(event.get("data_base64"), str):
            try:
                yield b64decode(event["data_base64"], validate=True)
            except ValueError:  # of which `to_native` says so
                continue


def from_headers(headers: Mapping[str, str], data: Any) -> Any:
    """Return the same of one event in binary mode: its attributes are `ce-` headers and `data` is the body."""
    attributes = {name.lower()[3:]: _decoded(headers[name]) for name in headers if name.lower().startswith("ce-")}
    return to_native({**attributes, "data": data})


def identity(source: str, event_id: str) -> str:
    """Return the event id of a source's event: both together identify it. No source, being a URI, has a space."""
    both = f"{source} {event_id}"
    return both if len(both) <= MAX_ID_LENGTH else blake2b(both.encode(), digest_size=16).hexdigest()


def pointer(path: str) -> str:
    """Return a JSON pointer into an event of ours as one into the CloudEvent that it was."""
    _, *steps = path.split("/")
    if steps and steps[0] == "context":
        steps = steps[1:]
    elif steps:
        steps[0] = _POINTERS.get(steps[0], steps[0])
    return "".join(f"/{step}" for step in steps)


def _decoded(value: str) -> str:
    """Return a header's value: a quoted string (RFC 9110) is unquoted, then what is percent-encoded is decoded."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote(value)


def _invalid(event: dict[str, Any], message: str, path: str) -> Unreadable:
    return Unreadable(event, "invalid_cloudevent", message, path)
