"""From the messages of Segment-compatible SDKs to our events (https://segment.com/docs/connections/spec/)."""

import re
from collections.abc import Mapping
from typing import Any

_TYPES = {"page": "page_view", "screen": "screen_view", "identify": "identify", "group": "group", "alias": "alias"}
BATCH, METRICS = "batch", "metrics"
KINDS = (BATCH, "track", *_TYPES)
# The last step of a path below /v1 and what it takes; browsers use first letters.
ROUTES = {kind: kind for kind in KINDS} | {kind[0]: kind for kind in (*KINDS, METRICS)}
_NAMED_KINDS = ("page", "screen")  # these have `name` and `category` beside their properties
_TRAITS_KINDS = ("identify", "group")
_POINTERS = {
    "event_id": "messageId",
    "user_id": "userId",
    "anonymous_id": "anonymousId",
    "sent_at": "sentAt",
}
_EXTRA = {"previous_id": "previousId", "group_id": "groupId"}


def to_native(message: Any, *, kind: str | None = None, shared: Mapping[str, Any] | None = None) -> Any:
    """Return one SDK message as an event of ours; what is no message is handed on, for its verdict.

    `kind` is the call when the route names it; `shared` is the context that a batch holds once for all.
    """
    if not isinstance(message, dict):
        return message
    kind = kind or message.get("type")
    properties = message.get("properties") or {}
    if isinstance(properties, dict):
        if traits := _traits(message, kind)[1]:
            properties = {**properties, **traits}
        named = {name: message[name] for name in ("name", "category") if kind in _NAMED_KINDS and message.get(name)}
        extra = {ours: message[theirs] for ours, theirs in _EXTRA.items() if message.get(theirs)}
        properties = {**named, **extra, **properties}
    context = message.get("context") or {}
    if shared and isinstance(context, dict):
        context = {**shared, **context}
    session = context.get("sessionId") if isinstance(context, dict) else None  # RudderStack's, a number
    return {
        "event_type": event_type(kind, message.get("event")),
        "event_id": message.get("messageId"),
        "user_id": message.get("userId") or None,
        "anonymous_id": message.get("anonymousId") or None,
        **({"session_id": str(session) if isinstance(session, int | float) else session} if session else {}),
        "timestamp": message.get("timestamp") or message.get("originalTimestamp"),
        **({"sent_at": message["sentAt"]} if message.get("sentAt") else {}),
        "properties": properties,
        "context": context,
    }


def copies_traits(message: Any) -> bool:
    """Return whether the traits of a message's context are its properties as well, which has them twice in our form."""
    return isinstance(message, dict) and message.get("type") in _TRAITS_KINDS


def event_type(kind: object, name: object) -> object:
    """`page` is page_view, `screen` is screen_view; a tracked `Order Completed` is order_completed."""
    if kind == "track":
        return (re.sub(r"[\W_]+", "_", name).strip("_").lower() or name) if isinstance(name, str) else name
    return _TYPES.get(kind, kind) if isinstance(kind, str) else kind


def pointer(path: str, message: Any, *, kind: str | None = None) -> str:
    """Return a JSON pointer into the event that `to_native` made of the message as one into the message."""
    _, *steps = path.split("/")
    if not isinstance(message, dict) or not steps:
        return path
    kind = kind or message.get("type")
    match steps:
        case ["event_type"]:
            steps = ["event" if kind == "track" else "type"]
        case ["timestamp"] if not message.get("timestamp"):
            steps = ["originalTimestamp"]
        case ["session_id"]:
            steps = ["context", "sessionId"]
        case ["properties", *inner]:
            steps = _into_properties(inner, message, kind)
        case [first, *rest]:
            steps = [_POINTERS.get(first, first), *rest]
    return "".join(f"/{step}" for step in steps)


def _traits(message: dict[str, Any], kind: object) -> tuple[list[str], dict[str, Any]]:
    """Return where the message has the traits it is about, and which; some SDKs identify by their context alone."""
    context = message.get("context")
    if kind not in _TRAITS_KINDS:
        return [], {}
    if isinstance(message.get("traits"), dict):
        return ["traits"], message["traits"]
    if kind == "identify" and isinstance(context, dict) and isinstance(context.get("traits"), dict):
        return ["context", "traits"], context["traits"]
    return [], {}


def _into_properties(inner: list[str], message: dict[str, Any], kind: object) -> list[str]:
    (place, traits), properties = _traits(message, kind), message.get("properties")
    name = inner[0].replace("~1", "/").replace("~0", "~") if inner else None
    if name in traits or (name is None and traits and not properties):
        return [*place, *inner]
    if name is not None and not (isinstance(properties, dict) and name in properties):
        if name in _EXTRA:
            return [_EXTRA[name], *inner[1:]]
        if kind in _NAMED_KINDS and name in ("name", "category"):
            return inner
    return ["properties", *inner]


def settings(key: str, address: str) -> dict[str, Any]:
    """What analytics.js asks a CDN for before it sends: that everything goes to `address`, and nothing elsewhere."""
    protocol, _, host = address.partition("://")
    return {
        "integrations": {"Segment.io": {"apiKey": key, "apiHost": f"{host}/v1", "protocol": protocol}},
        "plan": {"track": {"__default": {"enabled": True, "integrations": {}}}},
        "edgeFunction": {},
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "remotePlugins": [],
        "metrics": {"sampleRate": 0},
    }


def source_config(key: str | None, project: str) -> dict[str, Any]:
    """Return what a RudderStack SDK asks for before it sends: a source without destinations of its own."""
    off = {"enabled": False}
    return {
        "source": {
            "id": project,
            "name": project,
            "writeKey": key,
            "enabled": True,
            "workspaceId": project,
            "config": {"statsCollection": {"errors": off, "metrics": off}},
            "destinations": [],
            "connections": [],
            "dataplanes": {},
        }
    }
