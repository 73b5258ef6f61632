"""Rejected events and dead letters on the whole stack: seen, put right, and counted once."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from chalicelib.access.access import ApiKey, Project, Scope
from chalicelib.access.access_table import AccessTable, digest_of
from chalicelib.access.quotas import UNLIMITED
from chalicelib.base.time_windows import to_ms
from chalicelib.events.chunks import Message, encode_message
from chalicelib.events.events import Mode
from tests.end_to_end.client import Api, eventually
from tests.end_to_end.operator import ops
from tests.localcloud.running import Stack

TABLE = "tidemark-dev-control"
QUEUE = "tidemark-dev-events"


@pytest.fixture
def api(stack: Stack) -> Api:
    return Api(stack.rest_url)


def new_key(stack: Stack, project: str) -> str:
    """A key of the project with every scope, which no process has looked up before."""
    key = f"{project}-{uuid.uuid4().hex}"
    access = AccessTable(stack.client("dynamodb"), TABLE)
    access.put_key(ApiKey(project, digest_of(key), tuple(Scope), "test", datetime.now(UTC)))
    return key


def test_rejected_events_are_listed_and_counted_once_when_they_are_replayed(api: Api, stack: Stack) -> None:
    project = f"strict-{uuid.uuid4().hex[:8]}"
    access = AccessTable(stack.client("dynamodb"), TABLE)
    access.put_project(Project(project, Mode.ENFORCE), UNLIMITED, datetime.now(UTC))
    key = new_key(stack, project)
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    events = [
        {"event_type": "gift", "event_id": f"g{n}", "timestamp": hour_ago.isoformat(), "properties": {"n": n}}
        for n in range(20)
    ]
    bad = {"event_type": "page_view", "event_id": "bad", "properties": {"load_ms": "slow"}}
    good = {"event_type": "page_view", "event_id": "good", "properties": {"path": "/"}}

    answers = [api.post([*events[n : n + 5], bad, good], key=key) for n in range(0, 20, 5)]
    listed = api.call("GET", "/quarantine?code=unknown_event_type&limit=500", key=key)

    assert [(answer.body["accepted"], len(answer.body["rejected"])) for answer in answers] == [(1, 6)] * 4
    assert sorted(event["event"]["properties"]["n"] for event in listed.body["events"]) == list(range(20))
    assert listed.body["next"] is None

    access.change_project(project, Mode.INFER, {})
    key = new_key(stack, project)
    replays = [api.call("POST", "/quarantine/replay", key=key, body=b"{}").body for _ in range(2)]

    assert [replay["replayed"] for replay in replays] == [20, 0]
    assert replays[0]["reasons"] == {"contract_violation": 4}
    eventually(lambda: api.total("gift", key=key), 20, seconds=30)
    hour = hour_ago.strftime("%Y-%m-%dT%H:00:00Z")
    answer = api.call("GET", f"/analytics?metric=gift&start={hour}&end={datetime.now(UTC):%Y-%m-%d}", key=key)
    assert answer.body["series"][0] == {"start": hour, "value": 20}
    eventually(
        lambda: [(h["quarantined"], h["in_flight"]) for h in api.ledger(key=key) if h["received"]],
        [(24, 0)],
        seconds=30,
    )
    left = api.call("GET", "/quarantine", key=key).body["events"]
    assert {event["event_id"] for event in left} == {"bad"}
    eventually(
        lambda: api.sql("SELECT count(*), count(DISTINCT event_id) FROM events WHERE event_type = 'gift'", key=key),
        [[20, 20]],
        seconds=30,
    )


def test_the_quarantine_needs_an_admin_s_key_and_names_a_bad_parameter(api: Api) -> None:
    assert api.call("GET", "/quarantine", key="demo-read").status == 403
    assert api.call("POST", "/quarantine/replay", key="demo-write", body=b"{}").status == 403

    for answer in (
        api.call("GET", "/quarantine?limit=0", key="demo-admin"),
        api.call("POST", "/quarantine/replay", key="demo-admin", body=b'{"limit": 1}'),
    ):
        assert (answer.status, answer.body["code"]) == (400, "invalid_parameter")
        assert answer.body["message"].startswith("limit: ")


def test_dead_letters_are_told_then_moved_and_counted_once(api: Api, stack: Stack) -> None:
    sqs, kind, now_ms = stack.client("sqs"), f"t_{uuid.uuid4().hex[:12]}", to_ms(datetime.now(UTC))
    events = [{"event_id": f"{kind}{n}", "event_type": kind, "occurred_at": now_ms} for n in range(3)]
    [(text, _)] = encode_message(Message("demo", now_ms, events))
    letters = sqs.get_queue_url(QueueName=f"{QUEUE}-dlq")["QueueUrl"]
    for _ in range(2):  # a message that was moved, and then failed again
        sqs.send_message(QueueUrl=letters, MessageBody=text)

    [told] = ops(stack, "redrive", "--dry-run")
    moved = ops(stack, "redrive")

    assert (told["project"], told["messages"], told["events"]) == ("demo", 2, 6)
    assert moved == [{"moved": 2, "left": 0}]
    eventually(lambda: api.total(kind), 3, seconds=30)
    assert ops(stack, "redrive", "--dry-run") == []


def test_a_message_that_nobody_can_read_is_listed_for_the_operator(stack: Stack) -> None:
    sqs = stack.client("sqs")
    sent = sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"], MessageBody="junk")

    eventually(
        lambda: [row["bytes"] for row in ops(stack, "list-unreadable") if row["name"] == sent["MessageId"]],
        [4],
        seconds=30,
    )
