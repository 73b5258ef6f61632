"""The live channel: a dashboard that follows the client's rule shows exact numbers, whatever comes twice or late."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from chalicelib.base.errors import Unauthenticated
from chalicelib.live.frames import MAX_FRAME_BYTES
from chalicelib.live.subscribe import MAX_DAY_TOTALS, TICKET_SECONDS
from chalicelib.rollups.history import History
from tests.live.live_world import NOW, World
from tests.stores import empty_stores


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as stores:
        made = World(stores)
        yield made
        made.gateway.over.set()


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
        pytest.param(f'{{"action": "subscribe", "topics": [{",".join(["1"] * 10_000)}]}}', id="10,000 wrong topics"),
        pytest.param(f'{{"action": "{"x" * 30_000}"}}', id="a long action"),
    ],
)
def test_a_wrong_frame_is_answered_with_an_error_that_fits(world: World, frame: str) -> None:
    world.connect()

    world.subscriber.message("c1", frame, NOW)

    answer = world.gateway.frames["c1"][-1]
    assert (answer["type"], answer["code"]) == ("error", "invalid_frame")
    assert 0 < len(answer["message"]) < 2000
    assert world.stores.connections.of_project("demo")[0].topics == ("events",)


def test_a_ping_is_answered(world: World) -> None:
    world.connect()

    world.subscriber.message("c1", '{"action": "ping"}', NOW)

    assert world.gateway.frames["c1"][-1] == {"type": "pong"}


@pytest.mark.parametrize("seed", range(12))
def test_snapshot_and_deltas_add_up_whatever_is_repeated_reordered_grown_or_absorbed(world: World, seed: int) -> None:
    rng = random.Random(seed)
    waiting: list[dict[str, Any]] = []  # of the rollups stream, not pushed yet
    for step in range(25):
        world.wait(rng.randint(1, 60))
        batch = world.events(rng.randint(1, 4), hours_ago=rng.choice((0, 0, 5)))
        waiting += world.aggregate(batch)
        if rng.random() < 0.4:  # the batch is retried, and has grown
            batch += world.events(rng.randint(1, 3))
            waiting += world.aggregate(batch)
        if rng.random() < 0.4:
            world.compactor.compact(world.seconds)
            waiting += world.stream()
        if step in (8, 16):
            world.connect() if step == 8 else world.subscribe()
        if rng.random() < 0.6:
            share, waiting = waiting[:3], waiting[3:]
            for _ in range(rng.randint(1, 2)):  # the trigger may repeat a batch
                world.push(share)
    world.wait(rng.choice((0, 3600)))
    while waiting:
        world.push(waiting[:2])
        waiting = waiting[2:]

    assert world.dashboard().total == world.accepted == world.analytics()
    assert world.gateway.ended == []


class Reading(History):
    """A history that has something happen right after it was read."""

    then: Any = None

    def by_type(self, *args: Any, **named: Any) -> Any:
        views = super().by_type(*args, **named)
        if then := Reading.then:
            Reading.then = None
            then()
        return views


def after_reading(world: World, then: Any) -> None:
    Reading.then = then
    history = Reading(world.stores.rollups, world.stores.closed)
    world.subscriber = replace(world.subscriber, history=history)


def test_a_delta_that_comes_right_after_the_snapshot_was_read_is_pushed(world: World) -> None:
    world.push(world.aggregate(world.events(2)))
    after_reading(world, lambda: world.push(world.aggregate(world.events(3))))

    world.connect()

    assert [frame["type"] for frame in world.gateway.frames["c1"]] == ["delta", "snapshot"]
    assert world.dashboard().total == 5


def test_a_delta_that_is_pushed_long_after_it_was_absorbed_counts_once(world: World) -> None:
    late = world.aggregate(world.events(2))
    world.wait(61)
    world.compactor.compact(world.seconds)
    world.wait(1200)  # the snapshot no longer names it
    world.connect()

    world.push(late)

    assert world.dashboard().total == 2


@pytest.mark.parametrize(
    ("minutes", "absorbed"), [(0, True), (7, True), (8, False), (9, True), (12, True), (120, True)]
)
def test_a_push_counts_once_and_ends_nobody_however_late_it_is(world: World, minutes: int, absorbed: bool) -> None:
    before = world.aggregate(world.events(2))
    if absorbed:
        world.wait(70)
        world.compactor.compact(world.seconds)
    world.wait(minutes * 60)
    world.connect()
    after = world.aggregate(world.events(3))
    world.wait(7200)

    world.push(before + after)

    assert world.dashboard().total == 5
    assert world.gateway.ended == []


def test_a_delta_that_shrinks_out_of_a_topic_is_taken_back(world: World) -> None:
    click, view = world.events(2), world.events(3, "view")
    world.connect("c1", '["click"]')
    world.push(world.aggregate([view[0], *click]))
    assert world.dashboard().total == 2

    (shrunk,) = world.aggregate([view[0]])  # the batch comes again shorter, and is put in its own place

    world.push([shrunk])

    assert world.dashboard().total == 0


def test_only_what_was_subscribed_to_is_pushed(world: World) -> None:
    world.connect("c1", '["click"]')
    world.connect("c2", '["search"]')

    world.push(world.aggregate(world.events(2)))

    assert [f["type"] for f in world.gateway.frames["c1"]] == ["snapshot", "delta"]
    assert [f["type"] for f in world.gateway.frames["c2"]] == ["snapshot"]


def test_a_large_snapshot_and_a_large_delta_come_in_parts_that_fit(world: World) -> None:
    names = [f"type_{i:04d}\U0001f30a" * 12 for i in range(300)]
    world.aggregate([record for name in names for record in world.events(1, name)])
    world.connect()

    world.push(world.aggregate([record for name in names for record in world.events(1, name)]))

    frames = world.gateway.frames["c1"]
    assert sum(frame["type"] == "snapshot" for frame in frames) > 1
    assert sum(frame["type"] == "delta" for frame in frames) > 1
    assert world.dashboard().total == world.accepted == 600
    assert sum(n for (_, minute), n in world.dashboard().numbers().items() if minute) == 600
    assert MAX_FRAME_BYTES == 32 * 1024


def test_a_client_whose_clock_is_ahead_gets_its_snapshot(world: World) -> None:
    world.connect()

    world.subscriber.message(
        "c1", '{"action": "subscribe", "topics": ["events"], "since": "2026-11-21T10:00:01Z"}', NOW
    )

    assert world.gateway.frames["c1"][-1]["since"] == "2026-11-21T09:00:00Z"


def test_events_of_an_hour_that_has_not_begun_by_the_subscribers_clock_are_shown(world: World) -> None:
    world.wait(1800.2)
    record = world.aggregate(world.events(2, hours_ago=-1))  # 10:00
    world.push(record)
    world.wait(-1)

    world.connect()

    assert world.dashboard().total == 2


def test_a_snapshot_of_more_than_can_be_read_is_refused_and_nothing_is_pushed(world: World) -> None:
    types = [f"type {n}" for n in range(MAX_DAY_TOTALS // 30 + 1)]
    world.stores.rollups.note_types("demo", types, ())
    world.connect()
    ask = '{"action": "subscribe", "topics": %s, "since": "2026-10-23"}'

    for topics in ('["type 1"]', '["events"]'):
        world.subscriber.message("c1", ask % topics, NOW)
        world.push(world.aggregate(world.events(1, "type 1")))

    kinds = [(f["type"], f.get("subscription"), f.get("code")) for f in world.gateway.frames["c1"]]
    assert kinds == [
        ("snapshot", 1, None),
        ("snapshot", 2, None),
        ("delta", 2, None),
        ("error", None, "snapshot_too_large"),
    ]
    assert "later since" in world.gateway.frames["c1"][-1]["message"]


def test_pushes_are_kept_apart_and_silence_costs_no_time(world: World) -> None:
    pauses: list[float] = []
    pusher = replace(world.pusher, pause_seconds=0.5, sleep=pauses.append)
    records = world.aggregate(world.events(1))

    pusher.push(records, world.seconds)
    world.connect()
    pusher.push(records, world.seconds)

    assert pauses == [0.5]


def test_a_connection_ends_with_both_of_its_items(world: World) -> None:
    world.connect()

    world.subscriber.disconnect("c1")
    world.subscriber.disconnect("c1")

    assert world.stores.items("control") == []
