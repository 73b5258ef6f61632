from typing import Any

import pytest

from chalicelib.domain.segment import to_native


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


def test_traits_are_the_properties_of_an_identify() -> None:
    assert to_native({"traits": {"plan": "free"}}, kind="identify")["properties"] == {"plan": "free"}


@pytest.mark.parametrize("message", [None, "x", 7, [], {"type": 7}, {"type": "track", "event": None, "properties": []}])
def test_what_is_no_message_is_left_for_its_verdict(message: Any) -> None:
    native = to_native(message)

    assert native == message or not isinstance(native["event_type"], str)
