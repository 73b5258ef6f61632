"""Unmodified clients of other products deliver to the running stack."""

import uuid
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from segment.analytics.client import Client

from tests.end_to_end.client import Api, eventually
from tests.localcloud.running import Stack


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    errors: list[object] = []
    found = Client("demo-write", host=stack.rest_url, on_error=lambda error, _: errors.append(error), sync_mode=False)
    yield found
    found.shutdown()
    assert errors == []


@pytest.mark.parametrize("compressed", [False, True])
def test_segment_for_python_delivers_each_event_once(stack: Stack, client: Client, compressed: bool) -> None:
    api = Api(stack.rest_url)
    name = f"Order {uuid.uuid4().hex[:12]}"
    kind = name.lower().replace(" ", "_")
    client.gzip = compressed

    for n in range(250):
        client.track(f"user-{n % 7}", name, {"revenue": n})
    client.flush()

    eventually(lambda: api.total(kind), 250, seconds=30)
    assert api.total(kind, agg="users") == 7
    eventually(
        lambda: api.sql(
            "SELECT count(*), sum(CAST(json_extract_scalar(properties, '$.revenue') AS DOUBLE)) "
            f"FROM events WHERE event_type = '{kind}'"
        ),
        [[250, float(sum(range(250)))]],
        seconds=30,
    )


def test_what_segment_for_python_says_of_a_user_is_known(stack: Stack, client: Client) -> None:
    api = Api(stack.rest_url)
    user, anonymous = f"ada+{uuid.uuid4().hex}@example.com", uuid.uuid4().hex
    path = f"/users/{quote(user, safe='')}"

    client.track(anonymous_id=anonymous, event="Looked Around")
    client.identify(user, {"plan": "free", "city": "Kiel"}, anonymous_id=anonymous)
    client.group(user, "club", {"name": "The Club"})
    client.identify(user, {"plan": "pro"}, anonymous_id=anonymous)
    client.flush()

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
