"""Bodies that nobody means well with: each is answered with a verdict on every event, and costs bounded memory.

`tests/corpus/` holds bodies that once broke something, or easily could; the others are made from a seed.
"""

import gzip
import json
import random
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import pytest

import app
from chalicelib import wiring

CORPUS = sorted(path for path in (Path(__file__).parents[1] / "corpus").iterdir() if path.is_file())
SEED, COUNT = 20_261_121, 1_000
MAX_PEAK_BYTES = 96 * 2**20  # of one request; the function has 1024 MB
SETTINGS = {
    "STAGE": "test",
    "EVENTS_TABLE": "events",
    "ROLLUPS_TABLE": "rollups",
    "CONTROL_TABLE": "control",
    "EVENTS_QUEUE_URL": "https://queue.invalid/events",
    "DATA_BUCKET": "data",
    "RESULTS_BUCKET": "results",
    "ATHENA_DATABASE": "d",
    "ATHENA_WORKGROUP": "w",
    "ALERTS_TOPIC_ARN": "arn:aws:sns:us-east-1:000000000000:alerts",
    "EVENT_BUS": "bus",
    "HOURLY_WORKFLOW_ARN": "arn:aws:states:us-east-1:000000000000:stateMachine:hourly",
    "IMPORT_WORKFLOW_ARN": "arn:aws:states:us-east-1:000000000000:stateMachine:import",
    "WEBSOCKET_URL": "wss://socket.invalid",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}
ROUTES = ("/events", "/v1/batch", "/v1/track")
GOOD: dict[str, Any] = {
    "event_type": "page_view",
    "event_id": "e-1",
    "user_id": "ada",
    "timestamp": "2026-11-21T10:05:00Z",
    "sent_at": "2026-11-21T10:05:01Z",
    "properties": {"path": "/", "load_ms": 7.5},
    "context": {"ip": "203.0.113.7", "userAgent": "Mozilla/5.0", "page": {"url": "https://a.example/?utm_source=x"}},
}
CALL = {"type": "track", "event": "Signed Up", "messageId": "m-1", "userId": "ada", "timestamp": "2026-11-21T10:05:00Z"}
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, -1e308, 2**53 + 1, 2**63, 2**64, 10**400,
    "", " ", "\x00", "\ufffe", "é" * 300, "x" * 70_000, "\U0001f4a5", "../../etc/passwd", "'; DROP TABLE events; --",
    "${jndi:ldap://x}", "__proto__", "#", "(other)", "users", "NaN", "0000-00-00T00:00:00Z", "2026-02-30",
    "9999-12-31T23:59:59.999999Z", "-271821-04-20T00:00:00Z", [], {}, [[]], [None] * 600,
    {"a": {"b": {"c": []}}}, {"": ""}, {"$ref": "#"}, {"type": "object"},
)  # fmt: skip


def sdk_call(_client: Any, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Every store works, and every key is a write key."""
    if operation == "GetItem" and arguments["Key"]["sk"]["S"] == "key":
        return {"Item": {"project": {"S": "p"}, "scopes": {"L": [{"S": "write"}]}}}
    if operation == "GetItem":
        return {"Item": {"project": {"S": "p"}, "mode": {"S": "infer"}}}
    if operation == "PutObject":
        return {"ETag": '"e"'}
    return {"Items": []} if operation == "Query" else {}


@pytest.fixture(scope="module")
def send() -> Iterator[Callable[[str, bytes], tuple[int, Any]]]:
    """POSTs a body through the app; returns the status and the answer."""

    def post(path: str, body: bytes) -> tuple[int, Any]:
        event = {
            "requestContext": {
                "httpMethod": "POST",
                "resourcePath": "/v1/{kind}" if path.startswith("/v1/") else path,
                "path": path,
                "identity": {"sourceIp": "203.0.113.7"},
            },
            "headers": {"x-api-key": "k", "content-type": "application/json"},
            "multiValueQueryStringParameters": None,
            "pathParameters": {"kind": path.removeprefix("/v1/")} if path.startswith("/v1/") else {},
            "stageVariables": {},
            "body": b64encode(body).decode(),
            "isBase64Encoded": True,
        }
        answer = app.app(event, None)
        return answer["statusCode"], orjson.loads(answer["body"])

    caches = [made for made in vars(wiring).values() if hasattr(made, "cache_clear")]
    with patch("botocore.client.BaseClient._make_api_call", sdk_call), patch.dict("os.environ", SETTINGS):
        for made in caches:
            made.cache_clear()
        yield post
    for made in caches:
        made.cache_clear()


def hostile(rng: random.Random) -> bytes:
    """A body: a good one with strange values, or its text damaged, or packed in a strange way."""
    events = [json.loads(json.dumps(rng.choice((GOOD, CALL)))) for _ in range(rng.randint(1, 5))]
    for _ in range(rng.randint(0, 4)):
        target: Any = rng.choice(events)
        if not isinstance(target, dict):
            continue
        if rng.random() < 0.5:
            target = rng.choice([v for v in target.values() if isinstance(v, dict)] or [target])
        name = rng.choice([*target, "event_type", "event_id", "writeKey", "context", "properties", "traits", "x"])
        target[name] = deepcopy(rng.choice(STRANGE))
    if rng.random() < 0.1:
        events[rng.randrange(len(events))] = deepcopy(rng.choice(STRANGE))
    shape = rng.choice(("one", "array", "events", "batch", "lines"))
    document: Any = {"one": events[0], "array": events, "events": {"events": events}}.get(shape, {"batch": events})
    if isinstance(document, dict) and rng.random() < 0.2:
        document[rng.choice(("sent_at", "sentAt", "context", "writeKey", "events", "batch"))] = deepcopy(
            rng.choice(STRANGE)
        )
    text = "\n".join(map(json.dumps, events)) if shape == "lines" else json.dumps(document)
    body = text.encode()
    damage = rng.random()
    if damage < 0.1:
        body = body[: rng.randrange(len(body) + 1)]
    elif damage < 0.2:
        at = rng.randrange(len(body))
        body = body[:at] + rng.randbytes(rng.randint(1, 8)) + body[at + 1 :]
    elif damage < 0.25:
        body = text.replace('"', '"\\ud800', 1).encode()
    elif damage < 0.3:
        body = text.encode("utf-16")
    packing = rng.random()
    if packing < 0.1:
        body = gzip.compress(body)
    elif packing < 0.15:
        body = gzip.compress(body)[: rng.randrange(1, 60)]
    elif packing < 0.2:
        body = zlib.compress(body)
    return body


def check(status: int, answer: Any) -> None:
    """Nothing is unanswered: an error says what it is, and an accepted request judges each event."""
    assert status < 500, answer
    if "accepted" not in answer:
        assert isinstance(answer["code"], str)
        assert isinstance(answer["message"], str)
        return
    rejected = answer["rejected"]
    assert all(isinstance(r["code"], str) and isinstance(r["message"], str) and r["path"] is not None for r in rejected)
    assert len({r["index"] for r in rejected}) == len(rejected)
    assert answer["accepted"] == len(answer["event_ids"])
    assert answer["accepted"] + len(rejected) > 0


@pytest.mark.parametrize("path", ROUTES)
def test_a_thousand_hostile_bodies_are_each_answered(send: Callable[[str, bytes], tuple[int, Any]], path: str) -> None:
    rng = random.Random(f"{SEED}{path}")
    statuses = []
    for _ in range(COUNT // len(ROUTES) + 1):
        status, answer = send(path, hostile(rng))
        check(status, answer)
        statuses.append(status)

    assert {200, 202} & set(statuses)
    assert 400 in statuses


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("body", CORPUS, ids=lambda body: body.name)
def test_a_body_of_the_corpus_is_answered_in_bounded_memory(
    send: Callable[[str, bytes], tuple[int, Any]], path: str, body: Path
) -> None:
    content = body.read_bytes()
    tracemalloc.start()
    try:
        status, answer = send(path, content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    check(status, answer)
    assert peak < MAX_PEAK_BYTES


def test_a_request_whose_headers_are_no_text_is_answered(send: Callable[[str, bytes], tuple[int, Any]]) -> None:
    """What a gateway makes of bytes that are no UTF-8 may be half of a surrogate pair."""
    event = {
        "requestContext": {
            "httpMethod": "POST",
            "resourcePath": "/events",
            "path": "/events",
            "identity": {"sourceIp": "203.0.113.7"},
        },
        "headers": {"x-api-key": "k", "content-type": "application/json", "user-agent": "Mozilla/5.0 \ud83d"},
        "multiValueQueryStringParameters": None,
        "pathParameters": {},
        "stageVariables": {},
        "body": '{"event_type": "wave"}',
        "isBase64Encoded": False,
    }

    answer = app.app(event, None)

    assert answer["statusCode"] == 202, answer


@pytest.mark.parametrize("levels", [240, 600, 1000])
def test_a_session_that_is_nested_is_rejected(send: Callable[[str, bytes], tuple[int, Any]], levels: int) -> None:
    call = {**CALL, "context": {"sessionId": 0}}
    body = json.dumps(call).replace('"sessionId": 0', f'"sessionId": {"[" * levels}{"]" * levels}').encode()

    status, answer = send("/v1/track", body)

    assert (status, answer["accepted"]) == (200, 0), answer
