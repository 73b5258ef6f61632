"""Keys and their limits over real HTTP: made, exceeded, rotated and revoked as an operator does it."""

import json
from typing import Any

import pytest

from tests.end_to_end.client import Api, eventually
from tests.end_to_end.operator import ops, ops_process
from tests.localcloud.running import KEY_CACHE_SECONDS, Stack


@pytest.fixture
def api(stack: Stack) -> Api:
    return Api(stack.rest_url)


def clicks(count: int) -> list[dict[str, Any]]:
    return [{"event_type": "click", "user_id": f"u{n}"} for n in range(count)]


def test_a_key_that_sends_too_much_is_told_when_to_send_again(stack: Stack, api: Api) -> None:
    ops(stack, "projects", "create", "--project", "limited")
    limits = ("--rate", "0.01", "--burst", "20")
    made = ops(stack, "keys", "create", "--project", "limited", "--scopes", "write", "read", *limits)
    assert api.post(clicks(15), made["key"]).status == 202

    refused = api.post(clicks(10), made["key"])
    body = json.dumps({"batch": [{"type": "track", "event": "click", "userId": "u"}] * 10}).encode()
    sdk = api.call("POST", "/v1/batch", key=made["key"], body=body)
    last = api.post(clicks(5), made["key"])

    for answer in (refused, sdk):
        assert answer.status == 429
        assert answer.body["code"] == "rate_limited"
        assert answer.headers["retry-after"] == answer.headers["x-ratelimit-reset"] == "300"
    assert "10 events; the key may send 5 now. Its limit is 0.01 a second" in refused.body["message"]
    assert last.status == 202
    eventually(lambda: sum(hour["received"] for hour in api.ledger(made["key"])), 20, seconds=20)


def test_a_quota_is_counted_and_shown(stack: Stack, api: Api) -> None:
    ops(stack, "projects", "create", "--project", "counted", "--monthly-quota", "12")
    made = ops(stack, "keys", "create", "--project", "counted", "--scopes", "write")
    assert api.post(clicks(10), made["key"]).status == 202

    refused = api.post(clicks(3), made["key"])

    assert (refused.status, refused.body["code"]) == (429, "quota_exceeded")
    assert int(refused.headers["retry-after"]) <= 300
    (listed,) = ops_process(stack, "keys", "list", "--project", "counted")
    assert (listed["monthly_quota"], listed["used"]) == (12, 10)


def test_a_rotated_key_ends_by_itself_and_a_revoked_one_within_the_cache_time(stack: Stack, api: Api) -> None:
    ops(stack, "projects", "create", "--project", "rotating")
    old = ops(stack, "keys", "create", "--project", "rotating", "--scopes", "write")
    new = ops(stack, "keys", "rotate", "--project", "rotating", old["id"], "--grace", "5s", "--yes")
    assert api.post(clicks(1), new["key"]).status == 202

    eventually(lambda: api.post(clicks(1), old["key"]).status, 401, seconds=10)
    assert api.post(clicks(1), new["key"]).status == 202  # from now on it is cached
    ops(stack, "keys", "revoke", "--project", "rotating", new["id"], "--yes")

    eventually(lambda: api.post(clicks(1), new["key"]).status, 401, seconds=KEY_CACHE_SECONDS)
