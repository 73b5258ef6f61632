"""A user is erased: what they did is gone from the timeline, and what they still send is dropped."""

import uuid

from tests.end_to_end.client import Api, eventually
from tests.end_to_end.operator import ops, ops_process
from tests.localcloud.running import Stack


def test_an_erased_user_is_gone_from_the_timeline_at_once_and_stays_away(stack: Stack) -> None:
    api, user = Api(stack.rest_url), f"erased-{uuid.uuid4().hex[:8]}"

    def send(name: str) -> None:
        assert api.post([{"event_type": user, "event_id": f"{user}-{name}", "user_id": user}]).status == 202

    def timeline() -> list[str]:
        return [event["event_id"] for event in api.call("GET", f"/users/{user}/events", key="demo-read").body["events"]]

    send("first")
    eventually(timeline, [f"{user}-first"], seconds=30)

    asked = api.call("DELETE", f"/users/{user}", key="demo-admin")
    ops_process(stack, "erasures", "run")

    assert asked.status == 202
    receipt = api.call("GET", f"/erasures/{asked.body['id']}", key="demo-admin").body
    assert (receipt["state"], receipt["removed"]) == ("removing", {"hot_store": 1})
    assert timeline() == []
    listed = ops(stack, "erasures", "list", "--project", "demo")
    assert [each["id"] for each in listed if each["user_id"] == user] == [receipt["id"]]
