"""From the messages of Segment-compatible SDKs to our events (https://segment.com/docs/connections/spec/)."""

import re
from collections.abc import Mapping
from typing import Any

_TYPES = {"page": "page_view", "screen": "screen_view", "identify": "identify", "group": "group", "alias": "alias"}
KINDS = frozenset({"track", *_TYPES})


def to_native(message: Any, *, kind: str | None = None, shared: Mapping[str, Any] | None = None) -> Any:
    """One SDK message as an event of ours; what is no message is handed on, for its verdict.

    `kind` is the call when the route names it; `shared` is the context that a batch holds once for all.
    """
    if not isinstance(message, dict):
        return message
    kind = kind or message.get("type")
    properties = message.get("properties") or {}
    if kind in ("identify", "group") and isinstance(message.get("traits"), dict):
        properties = {**properties, **message["traits"]} if isinstance(properties, dict) else properties
    if isinstance(properties, dict):
        named = {
            name: message[name] for name in ("name", "category") if kind in ("page", "screen") and message.get(name)
        }
        extra = {"previous_id": message.get("previousId"), "group_id": message.get("groupId")}
        properties = {**named, **{name: value for name, value in extra.items() if value}, **properties}
    context = message.get("context") or {}
    if shared and isinstance(context, dict):
        context = {**shared, **context}
    return {
        "event_type": event_type(kind, message.get("event")),
        "event_id": message.get("messageId"),
        "user_id": message.get("userId") or None,
        "anonymous_id": message.get("anonymousId") or None,
        "timestamp": message.get("timestamp") or message.get("originalTimestamp"),
        **({"sent_at": message["sentAt"]} if message.get("sentAt") else {}),
        "properties": properties,
        "context": context,
    }


def event_type(kind: object, name: object) -> object:
    """`page` is page_view, `screen` is screen_view; a tracked `Order Completed` is order_completed."""
    if kind == "track":
        return (re.sub(r"[\W_]+", "_", name).strip("_").lower() or name) if isinstance(name, str) else name
    return _TYPES.get(kind, kind) if isinstance(kind, str) else kind
