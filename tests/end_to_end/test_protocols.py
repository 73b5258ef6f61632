"""What each protocol is answered, over real HTTP."""

import json
import uuid
from typing import Any

import pytest

from tests.end_to_end.client import Answer, Api, eventually
from tests.localcloud.running import Stack

PAGE = "https://shop.example"


@pytest.fixture
def api(stack: Stack) -> Api:
    return Api(stack.rest_url)


def api_request(n: int) -> dict[str, Any]:
    """The properties of an event with a contract; the 42nd breaks it."""
    return {"latency_ms": "slow" if n == 42 else n}


def native(n: int) -> dict[str, Any]:
    return {"event_type": "api_request", "event_id": f"{n}-{uuid.uuid4()}", "properties": api_request(n)}


def segment(n: int) -> dict[str, Any]:
    return {"type": "track", "event": "API Request", "messageId": f"{n}-{uuid.uuid4()}", "properties": api_request(n)}


def cloud_event(n: int) -> dict[str, Any]:
    source = {"specversion": "1.0", "source": "/s", "type": "api_request"}
    return {**source, "id": f"{n}-{uuid.uuid4()}", "data": api_request(n)}


def lines(events: list[dict[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(event).encode() for event in events)


HUNDRED = range(100)
BODIES: dict[str, tuple[str, str, int, str, bytes]] = {
    "array": ("/events", "application/json", 202, "/properties/latency_ms",
              json.dumps([native(n) for n in HUNDRED]).encode()),
    "beacon": ("/events", "text/plain;charset=UTF-8", 202, "/properties/latency_ms",
               json.dumps({"events": [native(n) for n in HUNDRED]}).encode()),
    "ndjson": ("/events", "application/x-ndjson", 202, "/properties/latency_ms", lines([native(n) for n in HUNDRED])),
    "undeclared-ndjson": ("/events", "application/json", 202, "/properties/latency_ms",
                          lines([native(n) for n in HUNDRED])),
    "cloudevents": ("/events", "application/cloudevents-batch+json", 202, "/data/latency_ms",
                    json.dumps([cloud_event(n) for n in HUNDRED]).encode()),
    "segment": ("/v1/batch", "application/json", 200, "/properties/latency_ms",
                json.dumps({"batch": [segment(n) for n in HUNDRED]}).encode()),
    "segment-browser": ("/v1/b", "text/plain", 200, "/properties/latency_ms",
                        json.dumps({"batch": [segment(n) for n in HUNDRED]}).encode()),
    "segment-beacon": ("/beacon/v1/batch?writeKey=demo-write", "text/plain", 200, "/properties/latency_ms",
                       json.dumps({"batch": [segment(n) for n in HUNDRED]}).encode()),
}  # fmt: skip


@pytest.mark.parametrize("protocol", BODIES)
def test_one_bad_event_of_a_hundred_costs_the_others_nothing(api: Api, protocol: str) -> None:
    path, content_type, status, pointer, body = BODIES[protocol]
    key = None if "?" in path else "demo-write"

    answer = api.call("POST", path, key=key, body=body, headers={"Content-Type": content_type})

    assert (answer.status, answer.body["accepted"]) == (status, 99), answer
    [rejected] = answer.body["rejected"]
    assert (rejected["index"], rejected["code"], rejected["path"]) == (42, "contract_violation", pointer)
    assert rejected["event_id"].removeprefix("/s ").startswith("42-")
    ids = ", ".join(f"'{event_id}'" for event_id in answer.body["event_ids"])
    eventually(lambda: api.sql(f"SELECT count(*) FROM events WHERE event_id IN ({ids})"), [[99]], seconds=30)


@pytest.mark.parametrize("short", ["track", "identify", "page", "screen", "group", "alias"])
@pytest.mark.parametrize("letters", [1, None])
def test_each_call_has_two_routes_and_the_key_may_be_in_the_body(api: Api, short: str, letters: int | None) -> None:
    message = {"event": "Looked Around", "userId": "ada", "previousId": "a", "groupId": "g", "writeKey": "demo-write"}

    answer = api.call(
        "POST", f"/v1/{short[:letters]}", body=json.dumps(message).encode(), headers={"Content-Type": "text/plain"}
    )

    assert (answer.status, answer.body["success"], answer.body["accepted"]) == (200, True, 1)


def test_what_analytics_js_measures_of_itself_is_dropped(api: Api) -> None:
    answer = api.call("POST", "/v1/m", body=b'{"series": []}', headers={"Content-Type": "text/plain"})

    assert (answer.status, answer.body) == (200, {"success": True})


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v1/projects/demo-write/settings", ("integrations", "Segment.io", "apiHost")),
        ("/v1/projects/demo-write/settings/", ("integrations", "Segment.io", "apiHost")),
        ("/sourceConfig?writeKey=demo-write", ("source", "writeKey")),
        ("/sourceConfig/?writeKey=demo-write", ("source", "writeKey")),
    ],
)
def test_settings_send_an_sdk_here(api: Api, path: str, place: tuple[str, ...]) -> None:
    found: Any = api.call("GET", path).body
    for name in place:
        found = found[name]

    assert found in ("demo-write", api.url.removeprefix("http://") + "/v1")


@pytest.mark.parametrize("path", ["/v1/projects/wrong/settings", "/sourceConfig?writeKey=wrong", "/sourceConfig"])
def test_settings_of_a_key_that_is_not_known_are_refused(api: Api, path: str) -> None:
    assert api.call("GET", path).status == 401


def assert_readable(answer: Answer) -> None:
    exposed = answer.headers["access-control-expose-headers"].split(",")
    assert {"Retry-After", "X-RateLimit-Reset"} <= set(exposed)


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/v1/t", "demo-write", 200),
        ("POST", "/v1/t", "wrong", 401),
        ("POST", "/v1/t", "demo-read", 403),
        ("POST", "/v1/dance", "demo-write", 404),
        ("PUT", "/events", "demo-write", 405),
        ("GET", "/sourceConfig", "demo-write", 200),
        ("GET", "/health", None, 200),
    ],
)
def test_every_answer_can_be_read_by_the_page_that_asked(
    api: Api, method: str, path: str, key: str | None, status: int
) -> None:
    body = b'{"event": "x"}' if method != "GET" else None
    answer = api.call(method, path, key=key, body=body, headers={"Origin": PAGE})

    assert answer.status == status
    assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (PAGE, "Origin")
    assert_readable(answer)


@pytest.mark.parametrize("path", ["/events", "/v1/t", "/beacon/v1/batch", "/sourceConfig", "/v1/projects/k/settings"])
def test_a_preflight_allows_what_browser_sdks_send(api: Api, path: str) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}

    answer = api.call("OPTIONS", path, headers=asked)

    allowed = {name.lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert {"authorization", "content-type", "x-retry-count", "anonymousid", "sentat", "rsa-retry-attempt"} <= allowed
    assert_readable(answer)
