"""Events that AWS services put on the account's bus, in our form.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-structure.html
"""

from collections.abc import Mapping
from typing import Any

import orjson

from chalicelib.base import values
from chalicelib.events.addresses import hidden_in_text
from chalicelib.events.events import Unreadable
from chalicelib.ingest import repair, segment
from chalicelib.ingest.bodies import Request
from chalicelib.notices.notices import SOURCES

_CONTEXT = ("source", "account", "region", "resources")


def is_notice(event: Mapping[str, Any]) -> bool:
    """Return whether we sent it: a notice that somebody forwards must not be counted, alarm again, and come back."""
    return event.get("source") in SOURCES.values()


def read_bus_event(event: Mapping[str, Any]) -> Request:
    """Return one event of EventBridge as a request; `Object Created` is object_created.

    Its id and time are the sender's, so the same event delivered twice is the same request twice. Nobody is told when
    one cannot be taken, so each becomes a request: one that no parser reads with its text, for quarantine.
    """
    body = hidden_in_text(repair.as_json(event))  # many say from which address something was done
    most = values.most_in(body, 0)
    try:
        event = repair.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"the event cannot be read: {error}"
        return Request([Unreadable(body.decode(), "malformed_json", message)], None, body, len(body), most)
    native = {
        "event_type": segment.event_type("track", event.get("detail-type")),
        "event_id": event.get("id"),
        "timestamp": event.get("time"),
        "properties": event.get("detail"),
        "context": {name: event[name] for name in _CONTEXT if event.get(name)},
    }
    return Request([native], None, body, len(body), most)
