from base64 import b64encode
from typing import Any

import pytest

from chalicelib.events.contracts import MAX_ID_LENGTH
from chalicelib.events.events import Unreadable
from chalicelib.ingest.cloudevents import from_headers, identity, pointer, to_native

EVENT: dict[str, Any] = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.placed"}


def test_attributes_become_fields_and_the_others_context() -> None:
    native = to_native(
        {
            **EVENT,
            "time": "2026-11-21T10:00:00Z",
            "subject": "order 7",
            "dataschema": "urn:order",
            "datacontenttype": "application/json",
            "userid": "ada",
            "anonymousid": "a1",
            "sessionid": "s1",
            "tenant": "t1",
            "data": {"total": 9.5},
        }
    )

    assert native == {
        "event_id": "/shop 7",
        "event_type": "order.placed",
        "timestamp": "2026-11-21T10:00:00Z",
        "user_id": "ada",
        "anonymous_id": "a1",
        "session_id": "s1",
        "properties": {"total": 9.5},
        "context": {"source": "/shop", "subject": "order 7", "dataschema": "urn:order", "tenant": "t1"},
    }


def test_the_same_id_of_two_sources_is_two_events() -> None:
    assert identity("/a", "1") != identity("/b", "1")
    assert identity("/a", "1" * 300) != identity("/a", "1" * 301)
    assert len(identity("/a", "1" * 300)) <= MAX_ID_LENGTH


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"specversion": "0.3"}, "/specversion"),
        ({"specversion": None}, "/specversion"),
        ({"id": ""}, "/id"),
        ({"source": 7}, "/source"),
        ({"type": None}, "/type"),
        ({"data_base64": "!"}, "/data_base64"),
        ({"data_base64": 7}, "/data_base64"),
        ({"data_base64": b64encode(b"text").decode()}, "/data_base64"),
    ],
)
def test_what_is_no_cloud_event_says_where(change: dict[str, Any], path: str) -> None:
    read = to_native({**EVENT, **change})

    assert isinstance(read, Unreadable)
    assert (read.code, read.path, read.sent) == ("invalid_cloudevent", path, {**EVENT, **change})


def test_data_may_come_as_base64_of_json() -> None:
    assert to_native({**EVENT, "data_base64": b64encode(b'{"a": 1}').decode()})["properties"] == {"a": 1}


def test_headers_are_percent_decoded_and_unquoted() -> None:
    headers = {
        "content-type": "application/json",
        "CE-SpecVersion": "1.0",
        "ce-id": "%C3%A9%25",
        "ce-source": '"/a\\"b"',
        "ce-type": "x",
        "ce-tenant": '"',
    }

    native = from_headers(headers, {"a": 1})

    assert native["event_id"] == '/a"b é%'
    assert native["context"] == {"source": '/a"b', "tenant": '"'}
    assert native["properties"] == {"a": 1}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("", ""),
        ("/event_id", "/id"),
        ("/event_type", "/type"),
        ("/timestamp", "/time"),
        ("/user_id", "/userid"),
        ("/properties", "/data"),
        ("/properties/a~1b/0", "/data/a~1b/0"),
        ("/context/tenant", "/tenant"),
        ("/source", "/source"),
    ],
)
def test_pointers_lead_into_the_cloud_event(ours: str, theirs: str) -> None:
    assert pointer(ours) == theirs


@pytest.mark.parametrize("event", [None, 7, "x", []])
def test_what_is_no_object_is_left_for_its_verdict(event: Any) -> None:
    assert to_native(event) == event
