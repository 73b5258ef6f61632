"""Unmodified Python clients of other products deliver to the running stack."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import rudderstack.analytics.client
import segment.analytics.client
from cloudevents.core.bindings.http import HTTPMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tests.end_to_end.client import Api, eventually
from tests.localcloud.running import Stack
from tests.sdks.journey import Call, Journey

WORDS = {"userId": "user_id", "anonymousId": "anonymous_id", "groupId": "group_id", "previousId": "previous_id"}


def make(client: Any, call: Call) -> None:
    """The call in the words of the Python clients."""
    words = {WORDS.get(name, name): value for name, value in call.message.items()}
    getattr(client, call.kind)(**words | {"timestamp": datetime.fromisoformat(words["timestamp"])})


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "client_class",
    [segment.analytics.client.Client, rudderstack.analytics.client.Client],
    ids=["segment", "rudderstack"],
)
def test_each_call_of_a_python_sdk_arrives_once_with_every_field(
    stack: Stack, client_class: Callable[..., Any], compressed: bool
) -> None:
    journey, errors = Journey(), []
    client = client_class(
        "demo-write", host=stack.rest_url, gzip=compressed, on_error=lambda error, _: errors.append(error)
    )

    for call in journey.calls():
        make(client, call)
    client.flush()
    client.shutdown()

    assert errors == []
    journey.check(Api(stack.rest_url), library="analytics-python")


def test_what_segment_for_python_says_of_a_user_is_known(stack: Stack) -> None:
    api, client = Api(stack.rest_url), segment.analytics.client.Client("demo-write", host=stack.rest_url)
    user, anonymous = f"ada+{uuid.uuid4().hex}@example.com", uuid.uuid4().hex
    path = f"/users/{quote(user, safe='')}"

    client.track(anonymous_id=anonymous, event="Looked Around")
    client.identify(user, {"plan": "free", "city": "Kiel"}, anonymous_id=anonymous)
    client.group(user, "club", {"name": "The Club"})
    client.identify(user, {"plan": "pro"}, anonymous_id=anonymous)
    client.flush()
    client.shutdown()

    eventually(
        lambda: (
            (found := api.call("GET", path, key="demo-read").body).get("traits")
            and (found["traits"], found["previous_ids"])
        ),
        ({"plan": "pro", "city": "Kiel", "group_id": "club"}, [anonymous]),
        seconds=30,
    )
    shown = api.call("GET", f"{path}/events", key="demo-read").body["events"]
    assert sorted(event["event_type"] for event in shown) == ["group", "identify", "identify", "looked_around"]
    assert len({event["session_id"] for event in shown}) == 1


def cloud_event(event_id: str, source: str, event_type: str, **more: Any) -> CloudEvent:
    attributes = {"specversion": "1.0", "id": event_id, "source": source, "type": event_type, **more}
    return CloudEvent(attributes=attributes, data={"total": 9.5, "of": "«ünïcode» ✓"})


@pytest.mark.parametrize("mode", [to_structured, to_binary], ids=["structured", "binary"])
def test_cloud_events_arrive_once_with_every_attribute(
    stack: Stack, mode: Callable[[Any, JSONFormat], HTTPMessage]
) -> None:
    api, run = Api(stack.rest_url), uuid.uuid4().hex[:12]  # an id that was sent before, of any type, is no new event
    event_type = f"com.shop.order.{run}"
    times = [datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=n) for n in range(3)]
    events = [
        cloud_event(f"{run}-1", "/shop/köln", event_type, time=times[0], subject="order 7", userid="ada", tenant="a%b"),
        cloud_event(f"{run}-1", "/shop/bonn", event_type, time=times[1]),
        cloud_event(f"{run}-2", "/shop/bonn", event_type, time=times[2]),
    ]

    for event in [*events, *events]:  # as a sender that saw no answer does
        message = mode(event, JSONFormat())
        answer = api.call("POST", "/events", key="demo-write", body=bytes(message.body), headers=dict(message.headers))
        assert (answer.status, answer.body["accepted"]) == (202, 1), answer

    columns = "event_id, user_id, client_timestamp, properties, context"
    query = f"SELECT {columns} FROM events WHERE event_type = '{event_type}' ORDER BY client_timestamp DESC"
    eventually(lambda: len(api.sql(query)), 3, seconds=30)
    rows = api.sql(query)
    assert api.total(event_type) == 3
    assert [row[0] for row in rows] == [f"/shop/köln {run}-1", f"/shop/bonn {run}-1", f"/shop/bonn {run}-2"]
    assert [row[1] for row in rows] == ["ada", None, None]
    assert [datetime.fromisoformat(row[2]) for row in rows] == times
    assert [json.loads(row[3]) for row in rows] == [{"total": 9.5, "of": "«ünïcode» ✓"}] * 3
    assert json.loads(rows[0][4]) == {"source": "/shop/köln", "subject": "order 7", "tenant": "a%b"}


def test_a_batch_of_cloud_events_has_a_verdict_for_each(stack: Stack) -> None:
    api, event_type = Api(stack.rest_url), f"t_{uuid.uuid4().hex[:12]}"
    events = [{"specversion": "1.0", "id": str(n), "source": "/s", "type": event_type} for n in range(100)]
    del events[42]["source"]

    answer = api.call(
        "POST",
        "/events",
        key="demo-write",
        body=json.dumps(events).encode(),
        headers={"Content-Type": "application/cloudevents-batch+json; charset=utf-8"},
    )

    assert (answer.status, answer.body["accepted"]) == (202, 99)
    [rejected] = answer.body["rejected"]
    assert (rejected["index"], rejected["code"], rejected["path"]) == (42, "invalid_cloudevent", "/source")
    eventually(lambda: api.total(event_type), 99, seconds=30)
