import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from demo.client import DemoError
from demo.sender import Outcome, Sender, retry_after_seconds
from demo.traffic import Batch

Reply = tuple[int, dict[str, str], dict[str, Any]]
DROP: Reply = (0, {}, {})


@contextmanager
def collector(reply: Callable[[int, bytes], Reply]) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A server that answers POST /events with `reply(number, body)`, and the keys and bodies it was sent."""
    seen: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.headers["x-api-key"], body))
            status, headers, document = reply(len(seen), body)
            if not status:
                self.close_connection = True
                return
            data = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        serving.join()


def accepted(_number: int, body: bytes) -> Reply:
    ids = [event["event_id"] for event in json.loads(body)["events"]]
    return 202, {}, {"accepted": len(ids), "rejected": [], "event_ids": ids}


def batch(*ids: str, duplicate: bool = False) -> Batch:
    body = json.dumps({"events": [{"event_type": "click", "event_id": event_id} for event_id in ids]}).encode()
    return Batch(0, body, dict.fromkeys(ids, "click"), duplicate)


def sender(url: str, waits: list[float], **options: Any) -> Sender:
    """Sends without waiting; what it would have waited is written down."""
    return Sender(url, "demo-write", threads=2, wait=waits.append, **options)


def test_what_is_sent_is_acknowledged_by_id_and_type() -> None:
    with collector(accepted) as (url, seen):
        outcome = sender(url, []).send([batch("a", "b"), batch("c"), batch("c", duplicate=True)])

    assert outcome.acknowledged == {"a": "click", "b": "click", "c": "click"}
    assert outcome.duplicates == 1
    assert outcome.failures == []
    assert {key for key, _ in seen} == {"demo-write"}


@pytest.mark.parametrize("trouble", [(429, {}, {}), (500, {}, {}), (503, {}, {}), DROP])
def test_a_batch_without_an_acknowledgement_is_sent_again_with_the_same_bytes(trouble: Reply) -> None:
    waits: list[float] = []

    with collector(lambda number, body: accepted(number, body) if number > 2 else trouble) as (url, seen):
        outcome = sender(url, waits).send([batch("a")])

    assert [body for _, body in seen] == [batch("a").body] * 3
    assert outcome.acknowledged == {"a": "click"}
    assert outcome.retries == 2
    assert 0 < waits[0] <= 0.25 < waits[1] * 2 <= 1


def test_the_pause_is_the_one_that_the_server_asks_for() -> None:
    waits: list[float] = []

    def reply(number: int, body: bytes) -> Reply:
        return (429, {"Retry-After": "7"}, {}) if number == 1 else accepted(number, body)

    with collector(reply) as (url, _):
        sender(url, waits).send([batch("a")])

    assert waits == [7.0]


def test_a_pause_may_also_be_a_date_or_nonsense() -> None:
    now = datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC)

    assert retry_after_seconds("Sat, 21 Nov 2026 10:00:09 GMT", now) == 9
    assert retry_after_seconds("Sat, 21 Nov 2026 09:00:00 GMT", now) == 0
    assert retry_after_seconds("soon", now) is None
    assert retry_after_seconds("²", now) is None
    assert retry_after_seconds(None, now) is None


def test_a_batch_that_is_never_taken_is_given_up_and_named() -> None:
    with collector(lambda _number, _body: (503, {"Retry-After": "5"}, {})) as (url, _):
        outcome = sender(url, [], patience_seconds=4).send([batch("a", "b")])

    assert outcome.acknowledged == {}
    assert outcome.failures == ["2 events: status 503 for 4 s"]


def test_rejected_events_are_told_from_those_taken() -> None:
    rejected = {"index": 0, "event_id": "a", "code": "contract_violation", "message": "no", "path": ""}

    with collector(lambda _n, _b: (202, {}, {"accepted": 1, "rejected": [rejected], "event_ids": ["b"]})) as (url, _):
        outcome = sender(url, []).send([batch("a", "b")])

    assert outcome.acknowledged == {"b": "click"}
    assert outcome.rejected == {"a": "contract_violation: no"}


def test_another_answer_is_a_failure_and_is_not_sent_again() -> None:
    with collector(lambda _n, _b: (413, {}, {"code": "payload_too_large", "message": "too much"})) as (url, seen):
        outcome = sender(url, []).send([batch("a")])

    assert len(seen) == 1
    assert outcome.failures == ["1 events: status 413: too much"]


def test_a_wrong_key_ends_the_run_and_is_named() -> None:
    with (
        collector(lambda _n, _b: (401, {}, {"message": "the API key is not known"})) as (url, _),
        pytest.raises(DemoError, match=r"write key.*not known.*--key"),
    ):
        sender(url, []).send([batch("a"), batch("b")])


def test_a_batch_is_sent_at_its_time() -> None:
    waits: list[float] = []

    with collector(accepted) as (url, _):
        Sender(url, "k", threads=1, clock=lambda: 100.0, wait=waits.append).send(
            [Batch(0, batch("a").body, {"a": "click"}), Batch(1.5, batch("b").body, {"b": "click"})]
        )

    assert waits == [1.5]


def test_what_a_thread_did_not_expect_ends_the_run_and_is_raised() -> None:
    def progress(_outcome: Outcome, _events: int) -> None:
        raise ZeroDivisionError

    with collector(accepted) as (url, seen), pytest.raises(ZeroDivisionError):
        sender(url, [], progress=progress).send([batch(str(number)) for number in range(100)])

    assert len(seen) < 100
