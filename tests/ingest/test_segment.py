from typing import Any

import pytest

from chalicelib.ingest.segment import pointer, settings, to_native


@pytest.mark.parametrize(
    ("message", "event_type"),
    [
        ({"type": "track", "event": "Order Completed"}, "order_completed"),
        ({"type": "track", "event": "purchase"}, "purchase"),
        ({"type": "track", "event": "注文 A"}, "注文_a"),
        ({"type": "track", "event": "!!"}, "!!"),
        ({"type": "page", "name": "Home"}, "page_view"),
        ({"type": "screen", "name": "Home"}, "screen_view"),
        ({"type": "identify", "traits": {"plan": "free"}}, "identify"),
    ],
)
def test_each_call_has_its_event_type(message: dict[str, Any], event_type: str) -> None:
    assert to_native(message)["event_type"] == event_type


def test_fields_are_carried_over() -> None:
    native = to_native(
        {
            "type": "page",
            "messageId": "m1",
            "userId": "",
            "anonymousId": "a1",
            "originalTimestamp": "2026-11-21T10:00:00Z",
            "name": "Home",
            "properties": {"path": "/"},
            "context": {"library": {"name": "x"}},
        },
        shared={"locale": "de"},
    )

    assert native == {
        "event_type": "page_view",
        "event_id": "m1",
        "user_id": None,
        "anonymous_id": "a1",
        "timestamp": "2026-11-21T10:00:00Z",
        "properties": {"name": "Home", "path": "/"},
        "context": {"locale": "de", "library": {"name": "x"}},
    }


def test_the_session_of_a_rudderstack_sdk_is_the_events() -> None:
    message = {"type": "track", "event": "click", "context": {"sessionId": 1700000000123}}

    assert to_native(message)["session_id"] == "1700000000123"
    assert pointer("/session_id", message) == "/context/sessionId"
    assert "session_id" not in to_native({"type": "track", "event": "click", "context": {}})


def test_traits_are_the_properties_of_an_identify() -> None:
    assert to_native({"traits": {"plan": "free"}}, kind="identify")["properties"] == {"plan": "free"}


@pytest.mark.parametrize("message", [None, "x", 7, [], {"type": 7}, {"type": "track", "event": None, "properties": []}])
def test_what_is_no_message_is_left_for_its_verdict(message: Any) -> None:
    native = to_native(message)

    assert native == message or not isinstance(native["event_type"], str)


def test_traits_in_the_context_are_those_of_an_identify_that_has_no_others() -> None:
    message = {"type": "identify", "context": {"traits": {"plan": "free"}}}

    assert to_native(message)["properties"] == {"plan": "free"}
    assert to_native({**message, "traits": {"plan": "pro"}})["properties"] == {"plan": "pro"}
    assert to_native({**message, "type": "track"})["properties"] == {}


@pytest.mark.parametrize(
    ("ours", "message", "theirs"),
    [
        ("", {"type": "track"}, ""),
        ("/event_type", {"type": "track", "event": 7}, "/event"),
        ("/event_type", {"type": 7}, "/type"),
        ("/event_id", {}, "/messageId"),
        ("/user_id", {}, "/userId"),
        ("/anonymous_id", {}, "/anonymousId"),
        ("/sent_at", {}, "/sentAt"),
        ("/timestamp", {"timestamp": "x"}, "/timestamp"),
        ("/timestamp", {"originalTimestamp": "x"}, "/originalTimestamp"),
        ("/context", {}, "/context"),
        ("/properties", {"type": "track"}, "/properties"),
        ("/properties/a~1b/0", {"type": "track", "properties": {"a/b": [1]}}, "/properties/a~1b/0"),
        ("/properties/name", {"type": "page", "name": 7}, "/name"),
        ("/properties/name", {"type": "page", "name": "x", "properties": {"name": 7}}, "/properties/name"),
        ("/properties/plan", {"type": "identify", "traits": {"plan": 7}}, "/traits/plan"),
        ("/properties/plan", {"type": "identify", "context": {"traits": {"plan": 7}}}, "/context/traits/plan"),
        ("/properties", {"type": "identify", "traits": {"plan": 7}}, "/traits"),
        ("/properties/group_id", {"type": "group", "groupId": 7}, "/groupId"),
        ("/properties/previous_id", {"type": "alias", "previousId": 7}, "/previousId"),
        ("", 7, ""),
    ],
)
def test_pointers_lead_into_the_message(ours: str, message: Any, theirs: str) -> None:
    assert pointer(ours, message) == theirs


def test_the_settings_of_a_browser_name_this_api_and_no_other_place() -> None:
    found = settings("k", "https://x.example/prod")

    assert found["integrations"] == {"Segment.io": {"apiKey": "k", "apiHost": "x.example/prod/v1", "protocol": "https"}}
    assert found["metrics"] == {"sampleRate": 0}
