"""Pushes to many connections: side by side, within a time, in turns, and each connection's trouble its own."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, get_ident
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError

from chalicelib import wiring
from chalicelib.live.connection import Connection
from chalicelib.live.push import END_SECONDS, FORGET_SECONDS, PREPARE_SECONDS, PUSH_SECONDS
from chalicelib.live.sockets import Gone, PushFailed, Sockets
from chalicelib.live.subscribe import ANSWER_SECONDS
from chalicelib.stores import PUSH_THREADS

UNTIL = datetime(2026, 11, 21, tzinfo=UTC)
CONFIG = json.loads((Path(__file__).parents[2] / ".chalice" / "config.json").read_text())


def connection(name: str, project: str = "demo") -> Connection:
    return Connection(name, project, "domain", "stage", UNTIL)


@dataclass
class Gateway:
    """Takes `seconds` for each frame; hangs until the test is over for those that are `hung`."""

    seconds: float = 0.0
    hung: set[str] = field(default_factory=set)
    errors: dict[str, Exception] = field(default_factory=dict)
    over: Event = field(default_factory=Event)
    taken: list[tuple[str, bytes]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    under_way: int = 0
    most: int = 0
    lock: Any = field(default_factory=Lock)

    def post_to_connection(self, ConnectionId: str, Data: bytes) -> None:
        with self.lock:
            self.threads.add(get_ident())
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        if ConnectionId in self.hung:
            self.over.wait(60)
            return
        time.sleep(self.seconds)
        with self.lock:
            self.under_way -= 1
            if ConnectionId in self.errors:
                raise self.errors[ConnectionId]
            self.taken.append((ConnectionId, Data))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.over.set()


def test_one_that_hangs_costs_the_others_nothing_and_all_of_them_no_more_than_the_time(gateway: Gateway) -> None:
    gateway.hung = {"c3"}
    shares = [(connection(f"c{n}"), [b"1", b"2"]) for n in range(8)]
    begun = time.monotonic()

    outcomes = Sockets(lambda _: gateway).push_all(shares, 0.5)

    assert time.monotonic() - begun < 2
    assert [n for n, outcome in enumerate(outcomes) if outcome != 2] == [3]
    assert isinstance(outcomes[3], PushFailed)
    assert sorted(gateway.taken) == sorted((f"c{n}", frame) for n in range(8) if n != 3 for frame in (b"1", b"2"))


def test_a_project_whose_connections_all_hang_leaves_the_others_their_turns(gateway: Gateway) -> None:
    gateway.seconds = 0.002
    gateway.hung = {f"bad{n}" for n in range(300)}
    shares = [(connection(name, "bad"), [b"x"]) for name in sorted(gateway.hung)]
    shares += [(connection(f"good{n}", "good"), [b"x"]) for n in range(200)]

    outcomes = Sockets(lambda _: gateway).push_all(shares, 3)

    assert len(gateway.taken) == 200
    assert outcomes.count(1) == 200


def test_no_more_than_so_many_calls_are_under_way(gateway: Gateway) -> None:
    gateway.seconds = 0.01

    Sockets(lambda _: gateway, threads=4).push_all([(connection(f"c{n}"), [b"x"]) for n in range(40)], 30)

    assert (gateway.most, len(gateway.taken)) == (4, 40)


def test_what_is_not_sent_in_time_has_failed(gateway: Gateway) -> None:
    shares = [(connection(f"c{n}"), [b"1"] * 10) for n in range(400)]
    sockets = Sockets(lambda _: gateway, clock=lambda: len(gateway.taken) / 1000)  # a millisecond for each frame

    outcomes = sockets.push_all(shares, 0.5)

    whole = [n for n in range(400) if [name for name, _ in gateway.taken].count(f"c{n}") == 10]
    sent = [n for n, outcome in enumerate(outcomes) if outcome == 10]
    assert 0 < len(sent) < 400
    assert set(sent) <= set(whole)
    assert all(isinstance(outcome, PushFailed) for outcome in outcomes if outcome != 10)


def test_no_frame_is_sent_when_the_time_is_over(gateway: Gateway) -> None:
    sockets = Sockets(lambda _: gateway, threads=1, clock=lambda: float(len(gateway.taken)))  # a second for each frame

    outcomes = sockets.push_all([(connection("c1"), [b"x"] * 3), (connection("c2"), [b"x"] * 9)], 5)

    assert [name for name, _ in gateway.taken] == ["c1"] * 3 + ["c2"] * 2
    assert outcomes[0] == 3
    assert isinstance(outcomes[1], PushFailed)


def test_whatever_is_raised_for_a_connection_is_its_own_trouble(gateway: Gateway) -> None:
    gateway.errors = {"c1": ValueError("?"), "c2": ReadTimeoutError(endpoint_url="x"), "c3": TimeoutError()}

    outcomes = Sockets(lambda _: gateway).push_all([(connection(f"c{n}"), [b"x"]) for n in range(5)], 5)

    assert [type(outcome) for outcome in outcomes] == [int, PushFailed, PushFailed, PushFailed, int]


def test_with_one_thread_all_is_done_in_the_callers_own_and_projects_take_turns(gateway: Gateway) -> None:
    shares = [(connection(f"{project}{n}", project), [b"x"]) for project in "ab" for n in range(3)]

    outcomes = Sockets(lambda _: gateway, threads=1).push_all(shares, 5)

    assert outcomes == [1] * 6
    assert gateway.threads == {get_ident()}
    assert [name for name, _ in gateway.taken] == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_the_management_client_gives_up_on_a_server_that_does_not_answer() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = boto3.client(
            "apigatewaymanagementapi",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
            config=wiring.CONFIGS["apigatewaymanagementapi"],
        )
        begun = time.monotonic()

        with pytest.raises(PushFailed):
            Sockets(lambda _: client).push(connection("c1"), b"x")

        assert time.monotonic() - begun < PUSH_SECONDS


def test_that_is_the_client_of_every_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    config = wiring.client(
        "apigatewaymanagementapi", "https://abc.execute-api.us-east-1.amazonaws.com/test"
    ).meta.config

    assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (1, 2, 2)
    assert config.max_pool_connections >= PUSH_THREADS


def test_a_batch_and_an_answer_are_done_well_before_their_functions_time_is_over() -> None:
    live, message = (CONFIG["lambda_functions"][name] for name in ("live", "websocket_message"))

    assert live["lambda_timeout"] / 2 >= PREPARE_SECONDS + PUSH_SECONDS + FORGET_SECONDS + END_SECONDS
    assert "lambda_timeout" not in message
    assert CONFIG["lambda_timeout"] == 30
    assert ANSWER_SECONDS + 10 <= 29  # which API Gateway waits


def test_gone_is_told_from_failed(gateway: Gateway) -> None:
    gateway.errors = {"c1": Gone("c1")}

    (outcome,) = Sockets(lambda _: gateway).push_all([(connection("c1"), [b"x"])], 5)

    assert isinstance(outcome, Gone)
