"""The live channel: a dashboard that follows the client's rule shows exact numbers, whatever comes twice or late."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.aggregate import Aggregator
from chalicelib.compact import Compactor
from chalicelib.domain.chunks import Message, chunks_of
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import Delta, HourView, Merged
from chalicelib.domain.errors import Unauthenticated
from chalicelib.domain.frames import MAX_FRAME_BYTES, delta_json, snapshot_frames
from chalicelib.domain.rollup_codec import encode
from chalicelib.domain.rollups import Rollup, Rollups
from chalicelib.live import Pusher
from chalicelib.storage.sockets import Sockets
from chalicelib.subscribe import TICKET_SECONDS, Subscriber
from tests.stores import Stores, empty_stores, stream_record

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
NINE_MS = 1_795_251_600_000


@dataclass
class Gateway:
    """Stands for the management API: keeps what each connection was sent, and fails as it is told to."""

    frames: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    stuck: bool = False

    def post_to_connection(self, ConnectionId: str, Data: bytes) -> None:
        if ConnectionId in self.gone:
            raise ClientError({"Error": {"Code": "GoneException"}}, "PostToConnection")
        if ConnectionId in self.failing:
            raise ClientError({"Error": {"Code": "LimitExceededException"}}, "PostToConnection")
        self.frames.setdefault(ConnectionId, []).append(orjson.loads(Data))

    def delete_connection(self, ConnectionId: str) -> None:
        if self.stuck:
            raise ClientError({"Error": {"Code": "LimitExceededException"}}, "DeleteConnection")
        self.ended.append(ConnectionId)


@dataclass
class World:
    """Every stage that dashboards see, on empty stores."""

    stores: Stores
    gateway: Gateway = field(default_factory=Gateway)
    now: datetime = NOW
    accepted: int = 0
    stream: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        sockets = Sockets(lambda _: self.gateway)
        contracts = Contracts({})
        self.subscriber = Subscriber(self.stores.control, self.stores.history, sockets, contracts, "ws://x")
        self.pusher = Pusher(self.stores.control, sockets, contracts, pause_seconds=0)
        self.aggregator = Aggregator(contracts, self.stores.rollups, self.stores.bucket)
        self.compactor = Compactor(self.stores.rollups, self.stores.hours)

    @property
    def seconds(self) -> int:
        return int(self.now.timestamp())

    def connect(self, connection_id: str = "c1", topics: str = '["events"]') -> None:
        ticket = self.subscriber.issue_ticket("demo", self.now)["ticket"]
        self.subscriber.connect(connection_id, "domain", "stage", ticket, self.now)
        self.subscriber.message(connection_id, f'{{"action": "subscribe", "topics": {topics}}}', self.now)

    def events(self, number: int, event_type: str = "click") -> list[dict[str, Any]]:
        events = [
            {"event_id": f"e{self.accepted + i}", "event_type": event_type, "user_id": f"u{i}", "occurred_at": NINE_MS}
            for i in range(number)
        ]
        records = [
            stream_record(chunk, self.accepted + n)
            for n, chunk in enumerate(chunks_of(Message("demo", NINE_MS, events)))
        ]
        self.accepted += number
        return records

    def aggregate(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Aggregate a batch, and return the rollup stream's record of its delta."""
        self.aggregator.aggregate(records, self.seconds)
        item = self.stores.rollups.client.get_item(
            TableName="rollups",
            Key={"pk": {"S": "demo#live#2026-11-21T09"}, "sk": {"S": f"d#{records[0]['eventID']}"}},
        )["Item"]
        return as_lambda_sends_it(item)


def as_lambda_sends_it(item: dict[str, Any]) -> dict[str, Any]:
    from base64 import b64encode

    image = {k: {"B": b64encode(v["B"]).decode()} if "B" in v else v for k, v in item.items()}
    return {"eventName": "INSERT", "dynamodb": {"NewImage": image}}


def shown(frames: list[dict[str, Any]]) -> int:
    """The client's rule: the snapshot's totals, and by id the latest delta, but for those named as absorbed."""
    snapshots = [f for f in frames if f["type"] == "snapshot"]
    deltas: dict[str, int] = {}
    for frame in frames:
        for delta in frame.get("deltas", []):
            deltas[delta["id"]] = sum(metric["count"] for metric in delta["metrics"].values())
    absorbed = {name for frame in snapshots for name in frame["absorbed"]}
    totals: int = sum(metric["count"] for frame in snapshots for metric in frame["totals"].values())
    return totals + sum(count for name, count in deltas.items() if name not in absorbed)


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as stores:
        yield World(stores)


def test_a_ticket_opens_one_connection(world: World) -> None:
    ticket = world.subscriber.issue_ticket("demo", NOW)["ticket"]
    world.subscriber.connect("c1", "domain", "stage", ticket, NOW)

    with pytest.raises(Unauthenticated):
        world.subscriber.connect("c2", "domain", "stage", ticket, NOW)


@pytest.mark.parametrize("ticket", [None, "", "made-up"])
def test_without_a_good_ticket_there_is_no_connection(world: World, ticket: str | None) -> None:
    with pytest.raises(Unauthenticated):
        world.subscriber.connect("c1", "domain", "stage", ticket, NOW)


def test_a_ticket_is_soon_over(world: World) -> None:
    ticket = world.subscriber.issue_ticket("demo", NOW)["ticket"]

    with pytest.raises(Unauthenticated):
        world.subscriber.connect("c1", "domain", "stage", ticket, NOW + timedelta(seconds=TICKET_SECONDS))


@pytest.mark.parametrize(
    "frame",
    [
        "junk",
        "[]",
        "{}",
        '{"action": "dance"}',
        '{"action": "subscribe"}',
        '{"action": "subscribe", "topics": []}',
        '{"action": "subscribe", "topics": ["events"], "since": "soon"}',
        '{"action": "subscribe", "topics": ["events"], "since": "2020-01-01"}',
        '{"action": "subscribe", "topics": ["events"], "since": "0001-01-01"}',
    ],
)
def test_a_wrong_frame_is_answered_with_an_error(world: World, frame: str) -> None:
    world.connect()

    world.subscriber.message("c1", frame, NOW)

    answer = world.gateway.frames["c1"][-1]
    assert (answer["type"], answer["code"]) == ("error", "invalid_frame")
    assert answer["message"]


def test_a_ping_is_answered(world: World) -> None:
    world.connect()

    world.subscriber.message("c1", '{"action": "ping"}', NOW)

    assert world.gateway.frames["c1"][-1] == {"type": "pong"}


@pytest.mark.parametrize("seed", range(12))
def test_snapshot_and_deltas_add_up_whatever_is_repeated_reordered_grown_or_absorbed(world: World, seed: int) -> None:
    rng = random.Random(seed)
    connected = False
    waiting: list[dict[str, Any]] = []  # of the rollups stream, not pushed yet
    for step in range(25):
        world.now += timedelta(seconds=rng.randint(1, 60))
        batch = world.events(rng.randint(1, 4))
        waiting.append(world.aggregate(batch))
        if rng.random() < 0.4:  # the batch is retried, and has grown
            batch += world.events(rng.randint(1, 3))
            waiting.append(world.aggregate(batch))
        if rng.random() < 0.4:
            world.compactor.compact(world.seconds)
        if step == 8:
            world.connect()
            connected = True
        if rng.random() < 0.6:
            share, waiting = waiting[:3], waiting[3:]
            for _ in range(rng.randint(1, 2)):  # the trigger may repeat a batch
                world.pusher.push(share, world.seconds)
            if world.gateway.ended:  # a delta was too old for any snapshot to be sure of
                world.gateway.ended.clear()
                world.gateway.frames.clear()
                world.connect()
    assert connected
    while waiting:
        world.pusher.push(waiting[:2], world.seconds)
        waiting = waiting[2:]
        if world.gateway.ended:
            world.gateway.ended.clear()
            world.gateway.frames.clear()
            world.connect()

    assert shown(world.gateway.frames["c1"]) == world.accepted


def test_only_what_was_subscribed_to_is_pushed(world: World) -> None:
    world.connect("c1", '["click"]')
    world.connect("c2", '["search"]')

    world.pusher.push([world.aggregate(world.events(2))], world.seconds)

    assert [f["type"] for f in world.gateway.frames["c1"]] == ["snapshot", "delta"]
    assert [f["type"] for f in world.gateway.frames["c2"]] == ["snapshot"]


def test_a_connection_that_is_gone_is_forgotten_at_once(world: World) -> None:
    world.connect()
    world.gateway.gone.add("c1")

    world.pusher.push([world.aggregate(world.events(1))], world.seconds)

    assert world.stores.control.connections("demo") == []
    assert world.stores.control.connection("c1") is None


def test_a_connection_that_cannot_be_pushed_to_is_ended_and_costs_no_other_its_frame(world: World) -> None:
    world.connect("c1")
    world.connect("c2")
    world.gateway.failing.add("c1")

    world.pusher.push([world.aggregate(world.events(1))], world.seconds)

    assert world.gateway.ended == ["c1"]
    assert shown(world.gateway.frames["c2"]) == 1


def test_a_connection_that_cannot_even_be_ended_blocks_nobody(world: World) -> None:
    world.connect("c1")
    world.connect("c2")
    world.gateway.failing.add("c1")
    world.gateway.stuck = True

    world.pusher.push([world.aggregate(world.events(1))], world.seconds)

    assert [c.id for c in world.stores.control.connections("demo")] == ["c2"]
    assert shown(world.gateway.frames["c2"]) == 1
    world.subscriber.message("c1", '{"action": "ping"}', NOW)  # no pong: its client comes back by itself


def test_a_connection_whose_snapshot_cannot_be_sent_is_ended(world: World) -> None:
    world.gateway.failing.add("c1")

    world.connect()

    assert world.gateway.ended == ["c1"]
    assert world.stores.control.connections("demo") == []


def test_a_client_whose_clock_is_ahead_gets_its_snapshot(world: World) -> None:
    world.connect()

    world.subscriber.message(
        "c1", '{"action": "subscribe", "topics": ["events"], "since": "2026-11-21T10:00:01Z"}', NOW
    )

    assert world.gateway.frames["c1"][-1]["since"] == "2026-11-21T09:00:00Z"


def test_a_large_snapshot_comes_in_parts_that_fit(world: World) -> None:
    types = [f"type_{i:04d}" * 10 for i in range(90)]
    for _ in range(12):
        batch = [record for name in types for record in world.events(1, name)]
        world.aggregate(batch)

    world.connect()

    frames = world.gateway.frames["c1"]
    assert len(frames) > 1
    assert [frame["part"] for frame in frames] == list(range(1, len(frames) + 1))
    assert shown(frames) == world.accepted


def test_a_delta_that_would_not_fit_a_frame_comes_without_its_minutes(world: World) -> None:
    delta = Delta("demo", "2026-11-21T09", "r1", 1, world.seconds, encode(Rollups()))
    for number in range(100):
        rollup = delta.rollups.setdefault(f"type_{number}", Rollup(count=60))
        rollup.minutes.update(dict.fromkeys(range(60), 1))

    shown = delta_json(delta, ("events",), Contracts({}))

    assert len(orjson.dumps(shown)) < MAX_FRAME_BYTES
    assert sum(metric["count"] for metric in shown["metrics"].values()) == 6000


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 24), st.integers(0, 400))
def test_a_snapshot_of_any_size_comes_in_frames_that_fit_and_add_up(types: int, hours: int, absorbed: int) -> None:
    def item(hour: int) -> Merged:
        minutes = dict.fromkeys(range(60), 2)
        rollups = Rollups({f"type_{n}": Rollup(count=120, minutes=dict(minutes)) for n in range(types)})
        return Merged(
            "m",
            f"2026-11-21T{hour:02d}",
            0,
            "m",
            100,
            rollups,
            dict.fromkeys((f"{hour}-{n:032d}" for n in range(absorbed)), 100),
        )

    views = [HourView(f"2026-11-21T{hour:02d}", [], [item(hour)]) for hour in range(hours)]

    frames = snapshot_frames(views, topics=("events",), since="s", as_of="a", now=100, contracts=Contracts({}))

    assert all(len(frame) < 128 * 1024 for frame in frames)
    assert shown([orjson.loads(frame) for frame in frames]) == types * hours * 120
    assert len({name for frame in frames for name in orjson.loads(frame)["absorbed"]}) == hours * absorbed


def test_pushes_are_kept_apart_and_silence_costs_no_time(world: World) -> None:
    pauses: list[float] = []
    pusher = replace(world.pusher, pause_seconds=0.5, sleep=pauses.append)
    record = world.aggregate(world.events(1))

    pusher.push([record], world.seconds)
    world.connect()
    pusher.push([record], world.seconds)

    assert pauses == [0.5]


def test_a_connection_ends_with_both_of_its_items(world: World) -> None:
    world.connect()

    world.subscriber.disconnect("c1")
    world.subscriber.disconnect("c1")

    assert world.stores.items("control") == []
