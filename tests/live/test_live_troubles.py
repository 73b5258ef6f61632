"""The live channel in trouble: what hangs, fails, races, lags or cannot be read costs no other dashboard a number."""

import random
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from botocore.exceptions import ClientError

from chalicelib.events.chunks import Message, chunks_of
from chalicelib.live import push as live
from chalicelib.live import subscribe
from chalicelib.live.connection import Connection
from chalicelib.live.connections_table import ConnectionsTable
from chalicelib.live.subscribe import AHEAD_MS
from chalicelib.rollups import known_types
from chalicelib.rollups.codec import encode_document
from chalicelib.rollups.deltas import Delta
from chalicelib.rollups.facets import Excerpt
from chalicelib.rollups.folding import Folding
from chalicelib.rollups.history import History
from chalicelib.rollups.rollups_table import RollupsTable
from tests.live.live_world import NINE_MS, NOW, World
from tests.stores import empty_stores, stream_record


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as stores:
        made = World(stores)
        yield made
        made.gateway.over.set()


# Connections that hang, fail or are gone


def test_a_connection_that_is_gone_is_forgotten_at_once(world: World) -> None:
    world.connect()
    world.gateway.gone.add("c1")

    world.push(world.aggregate(world.events(1)))

    assert world.stores.connections.of_project("demo") == []
    assert world.stores.connections.get("c1") is None
    assert world.gateway.ended == []


def test_a_connection_that_cannot_be_pushed_to_is_ended_and_costs_no_other_its_frame(world: World) -> None:
    world.connect("c1")
    world.connect("c2")
    world.gateway.failing.add("c1")

    world.push(world.aggregate(world.events(1)))

    assert world.gateway.ended == ["c1"]
    assert world.dashboard("c2").total == 1


def test_a_connection_that_hangs_is_ended_alone_and_within_the_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PUSH_SECONDS", 0.6)
    monkeypatch.setattr(live, "END_SECONDS", 0.2)
    for number in range(6):
        world.connect(f"c{number}")
    world.gateway.hung = {"c0", "c3"}
    records = world.aggregate(world.events(2))
    begun = time.monotonic()

    for _ in range(2):  # a batch that comes again is pushed again, and harms nobody
        world.push(records)

    assert time.monotonic() - begun < 3  # the second time, nobody hangs
    assert {c.id for c in world.stores.connections.of_project("demo")} == {"c1", "c2", "c4", "c5"}
    assert [world.dashboard(f"c{number}").total for number in range(6)] == [0, 2, 2, 0, 2, 2]
    world.gateway.hung.clear()
    world.connect("c6")
    assert world.dashboard("c6").total == 2


def test_a_project_whose_dashboards_hang_delays_no_other_project(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PUSH_SECONDS", 2.0)
    monkeypatch.setattr(live, "END_SECONDS", 0.2)
    for number in range(40):
        world.connect(f"bad{number}", project="bad")
        world.connect(f"good{number}", project="good")
    world.gateway.hung = {f"bad{number}" for number in range(40)}

    records = [world.aggregate(world.events(1, project=project)) for project in ("bad", "good")]
    world.push([*records[0], *records[1]])

    assert [world.dashboard(f"good{number}").total for number in range(40)] == [1] * 40
    assert world.stores.connections.of_project("bad") == []


def test_a_batch_that_has_more_for_a_connection_than_a_snapshot_ends_it_and_costs_no_other_a_frame(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_SHARE_BYTES", 20_000)
    world.connect("c1", project="large")
    world.connect("c2", '["type 7"]', project="large")
    world.connect("c3", project="small")
    many = [record for n in range(400) for record in world.events(1, f"type {n}", project="large")]
    records = [*world.aggregate(many), *world.aggregate(world.events(1, project="small"))]

    world.push(records)

    assert world.gateway.ended == ["c1"]
    assert [world.dashboard(name).total for name in ("c2", "c3")] == [1, 1]
    world.connect("c4", project="large")
    assert world.dashboard("c4").total == 400


def test_different_topics_together_hold_no_more_than_some_snapshots(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_HELD_BYTES", 2_000)
    for number in range(40):
        world.connect(f"c{number}", f'["click", "{number}"]')

    world.push(world.aggregate(world.events(1)))

    assert 5 < len(world.gateway.ended) < 40
    shown = [world.dashboard(f"c{number}").total for number in range(40)]
    assert sum(shown) == 40 - len(world.gateway.ended)


def test_a_project_that_takes_long_to_prepare_comes_after_those_that_do_not(world: World) -> None:
    world.connect("c1", project="large")
    world.connect("c2", project="small")
    many = [record for n in range(400) for record in world.events(1, f"type {n}", project="large")]
    records = [*world.aggregate(many), *world.aggregate(world.events(1, project="small"))]
    ticks = iter([0.0, 1.0])  # begun, the small one's turn; from then on it is too late
    sockets = replace(world.pusher.sockets, clock=lambda: next(ticks, live.PREPARE_SECONDS))

    replace(world.pusher, sockets=sockets).push(records, world.seconds)

    assert world.gateway.ended == ["c1"]
    assert world.dashboard("c2").total == 1


def test_a_connection_that_cannot_even_be_ended_blocks_nobody_and_is_ended_with_its_next_message(world: World) -> None:
    world.connect("c1")
    world.connect("c2")
    world.gateway.failing.add("c1")
    world.gateway.stuck = True

    world.push(world.aggregate(world.events(1)))

    assert [c.id for c in world.stores.connections.of_project("demo")] == ["c2"]
    assert world.dashboard("c2").total == 1
    world.gateway.stuck = False
    world.subscriber.message("c1", '{"action": "ping"}', NOW, "domain", "stage")  # no pong
    assert world.gateway.ended == ["c1"]


def test_a_connection_whose_snapshot_cannot_be_sent_is_ended(world: World) -> None:
    world.gateway.failing.add("c1")

    world.connect()

    assert world.gateway.ended == ["c1"]
    assert world.stores.connections.of_project("demo") == []


@dataclass(frozen=True, slots=True)
class Failing(ConnectionsTable):
    """A control table that refuses what is about a project or a connection."""

    refused: str = ""

    def of_project(self, project: str) -> list[Connection]:
        self._refuse(project)
        return ConnectionsTable.of_project(self, project)

    def forget(self, connection_id: str, project: str = "") -> None:
        self._refuse(connection_id)
        ConnectionsTable.forget(self, connection_id, project)

    def _refuse(self, name: str) -> None:
        if name == self.refused:
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, "Query")


@pytest.mark.parametrize("refused", ["bad", "c1"])
def test_while_a_projects_connections_cannot_be_read_or_forgotten_the_others_get_theirs(
    world: World, refused: str
) -> None:
    world.connect("c1", project="bad")
    world.connect("c2", project="good")
    world.gateway.failing.add("c1")
    records = [r for project in ("bad", "good") for r in world.aggregate(world.events(1, project=project))]
    pusher = replace(world.pusher, connections=Failing(world.stores.connections.client, "control", refused))

    with pytest.raises(ExceptionGroup):
        pusher.push(records, world.seconds)  # so the batch comes again

    assert world.dashboard("c2").total == 1
    world.gateway.failing.clear()
    world.push(records)
    assert [world.dashboard(name).total for name in ("c1", "c2")] == [1, 1]


# Subscriptions


@dataclass(frozen=True, slots=True)
class Interrupted(History):
    """A history in whose reading something else happens: before it or after it, once."""

    before: list[Callable[[], None]] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)

    def by_type(self, *args: Any, **named: Any) -> Any:
        while self.before:
            self.before.pop()()
        views = History.by_type(self, *args, **named)
        while self.after:
            self.after.pop()()
        return views


def interrupted(world: World) -> Interrupted:
    history = Interrupted(world.stores.rollups, world.stores.closed)
    world.subscriber = replace(world.subscriber, history=history)
    return history


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("pushed", [False, True])
def test_of_two_subscriptions_at_once_the_server_and_the_client_mean_the_same(
    world: World, moment: str, pushed: bool
) -> None:
    world.push(world.aggregate([*world.events(2, "click"), *world.events(5, "view")]))
    history = interrupted(world)

    def second() -> None:
        world.subscribe("c1", '["view"]')
        if pushed:
            world.push(world.aggregate([*world.events(1, "click"), *world.events(1, "view")]))

    getattr(history, moment).append(second)
    world.connect("c1", '["click"]')
    world.push(world.aggregate([*world.events(10, "click"), *world.events(10, "view")]))

    assert world.stores.connections.of_project("demo")[0].topics == ("view",)
    assert world.dashboard().counts() == {"view": 16 if pushed else 15}


def test_what_was_on_its_way_to_an_older_subscription_is_not_taken_for_the_newer(world: World) -> None:
    world.connect("c1", '["click"]')
    records = world.aggregate([*world.events(2, "click"), *world.events(5, "view")])

    class Slow(ConnectionsTable):
        """In which a subscription comes right after the connections were read."""

        def of_project(self, project: str) -> list[Connection]:
            found = ConnectionsTable.of_project(self, project)
            world.subscribe("c1", '["view"]')
            return found

    replace(world.pusher, connections=Slow(world.stores.connections.client, "control")).push(records, world.seconds)

    assert world.dashboard().counts() == {"view": 5}


def test_who_subscribes_anew_on_a_connection_sees_the_last_of_it_only(world: World) -> None:
    world.connect("c1", '["click"]')
    world.push(world.aggregate([*world.events(2, "click"), *world.events(5, "view")]))

    world.subscribe("c1", '["events"]')
    world.push(world.aggregate(world.events(1, "view")))

    assert world.dashboard().counts() == {"click": 2, "view": 6}


def test_a_connection_that_is_forgotten_while_it_subscribes_stays_forgotten(world: World) -> None:
    world.connect()
    connection = world.stores.connections.get("c1")
    assert connection is not None
    world.subscriber.disconnect("c1")

    assert world.stores.connections.subscribe(connection, ("events",), "2026-11-21T00", world.seconds) is None
    world.stores.connections.unsubscribe(connection)

    assert world.stores.items("control") == []


def test_a_place_without_an_owner_is_forgotten_too(world: World) -> None:
    world.connect()
    key = {"pk": {"S": "connection#c1"}, "sk": {"S": "connection"}}
    world.stores.connections.client.delete_item(TableName="control", Key=key)
    world.gateway.gone.add("c1")

    world.push(world.aggregate(world.events(1)))

    assert world.stores.items("control") == []


def test_a_failed_subscription_does_not_undo_a_later_one(world: World) -> None:
    world.connect()
    first = world.stores.connections.get("c1")
    assert first is not None
    world.subscribe()

    world.stores.connections.unsubscribe(first)

    assert world.stores.connections.of_project("demo")[0].topics == ("events",)


# Deltas of older hours, and an index that lags


@dataclass(frozen=True, slots=True)
class Lagging(RollupsTable):
    """A table whose index shows what it was some time ago: the first of `states`, where there is one."""

    states: list[list[Delta]] = field(default_factory=list)

    def open_deltas(self, project: str, excerpt: Excerpt | None = None) -> Iterator[Delta]:
        shown = self.states[0] if self.states else RollupsTable.open_deltas(self, project)
        yield from (replace(delta, excerpt=excerpt) for delta in shown if delta.project == project)

    def note(self) -> None:
        self.states.append(list(RollupsTable.open_deltas(self, "demo")))


def lagging(world: World) -> Lagging:
    table = Lagging(world.stores.rollups.client, "rollups")
    table.note()
    world.subscriber = replace(world.subscriber, history=History(table, world.stores.closed))
    return table


@pytest.mark.parametrize(
    ("minute", "hours_ago", "connected_after"),
    [(30, 2, 0), (30, 1, 0), (30, 20, 300), (52, 1, 300), (52, 2, 61), (59, 1, 0), (59, 1, 61), (59, 2, 300)],
)
def test_a_late_delta_that_was_pushed_and_is_not_in_the_index_yet_is_shown(
    world: World, minute: int, hours_ago: int, connected_after: int
) -> None:
    world.now = NOW.replace(minute=minute)
    lagging(world)
    world.push(world.aggregate(world.events(3, hours_ago=hours_ago)))
    world.wait(connected_after)

    world.connect()

    assert world.dashboard().total == 3


@pytest.mark.parametrize("seconds", [0, 60, 350])
def test_a_late_delta_that_the_index_shows_after_the_snapshot_and_that_is_pushed_then_is_shown(
    world: World, seconds: int
) -> None:
    lagging(world)
    records = world.aggregate(world.events(3, hours_ago=5))
    world.wait(seconds)
    world.connect()
    assert world.dashboard().total == 0  # written, not pushed, not in the index

    world.wait(600)
    world.push(records)

    assert world.dashboard().total == 3


@pytest.mark.parametrize("compacted", [False, True])
def test_a_late_delta_that_grew_and_of_which_the_index_shows_less_is_shown_whole(world: World, compacted: bool) -> None:
    batch = world.events(3, hours_ago=5)
    world.push(world.aggregate(batch))
    table = lagging(world)
    world.push(world.aggregate([*batch, *world.events(4, hours_ago=5)]))
    if compacted:
        world.wait(61)
        world.compactor.compact(world.seconds)
    world.connect()
    assert world.dashboard().total == 7

    table.states.clear()
    world.push(world.aggregate([*batch, *world.events(2, hours_ago=5)]))

    assert world.dashboard().total == world.accepted - (0 if compacted else 4)


def test_late_deltas_are_noted_before_the_connections_are_read(world: World) -> None:
    lagging(world)
    records = world.aggregate(world.events(3, hours_ago=5))

    class Slow(ConnectionsTable):
        """In which a dashboard comes right after the connections were read."""

        def of_project(self, project: str) -> list[Connection]:
            found = ConnectionsTable.of_project(self, project)
            world.connect()
            return found

    replace(world.pusher, connections=Slow(world.stores.connections.client, "control")).push(records, world.seconds)

    assert world.dashboard().total == 3


def test_without_late_deltas_nothing_is_noted(world: World) -> None:
    world.push(world.aggregate(world.events(3)))

    assert world.stores.items("control") == []


def test_where_the_index_does_not_lag_older_hours_are_not_read_for_their_tombstones(world: World) -> None:
    asked: list[str] = []

    def note(operation: str, arguments: dict[str, Any]) -> None:
        if operation == "query":
            asked.append(arguments["ExpressionAttributeValues"].get(":pk", {}).get("S", ""))

    world.stores.calls.listeners.append(note)
    for step in range(4):
        world.push(world.aggregate(world.events(3, hours_ago=5 + step % 2)))
        if step == 2:
            world.wait(61)
            world.compactor.compact(world.seconds)
    asked.clear()

    world.connect()

    assert world.dashboard().total == 12
    assert sorted(pk for pk in asked if "#live#" in pk) == ["demo#live#2026-11-21T08", "demo#live#2026-11-21T09"]


@pytest.mark.parametrize("seed", range(8))
def test_random_histories_are_exact_however_the_index_lags(world: World, seed: int) -> None:
    rng = random.Random(seed)
    table = lagging(world)
    world.now = NOW + timedelta(minutes=rng.randrange(60))
    kept: list[tuple[float, list[Delta]]] = [(world.now.timestamp(), table.states.pop())]
    waiting: list[dict[str, Any]] = []
    batches: list[list[dict[str, Any]]] = []
    clients = 0
    for _ in range(30):
        world.wait(rng.randint(1, 100))
        dice = rng.random()
        if dice < 0.25 and batches:  # a batch is retried, and has grown or not
            batches[-1] += world.events(rng.randint(0, 2), hours_ago=rng.choice((0, 1, 2, 9)))
            waiting += world.aggregate(batches[-1])
        else:
            batches.append(world.events(rng.randint(1, 3), hours_ago=rng.choice((0, 1, 1, 2, 9))))
            waiting += world.aggregate(batches[-1])
        if rng.random() < 0.3:
            world.compactor.compact(world.seconds)
            waiting += world.stream()
        kept.append((world.now.timestamp(), list(RollupsTable.open_deltas(table, "demo"))))
        if rng.random() < 0.7:
            world.push(waiting)
            waiting = []
        if rng.random() < 0.4:
            until = world.now.timestamp() - rng.randint(0, 300)
            table.states[:] = [[state for at, state in kept if at <= until or at == kept[0][0]][-1]]
            world.connect(f"c{(clients := clients + 1)}")
    world.push(waiting)

    assert [world.dashboard(f"c{n + 1}").total for n in range(clients)] == [world.accepted] * clients


# Hours that are closed


def closed_once(world: World, records: list[dict[str, Any]]) -> None:
    world.archiver.archive(records)
    world.wait(61)
    world.compactor.compact(world.seconds)
    world.wait(3600)
    assert world.finisher.finish("demo", "2026-11-21T09", world.seconds * 1000).closed


def test_numbers_that_closing_put_right_are_what_a_new_subscription_shows(world: World) -> None:
    world.connect("c1")
    world.connect("c2", '["view"]')
    event = {"event_id": "e0", "event_type": "click", "occurred_at": NINE_MS}
    messages = (Message("demo", NINE_MS, [{**event, "user_id": f"u{n}"}]) for n in range(3))  # sent again elsewhere
    batch = [stream_record(chunk, n) for n, message in enumerate(messages) for chunk in chunks_of(message)]
    world.push(world.aggregate(batch))
    closed_once(world, batch)
    closing = world.stream()
    assert world.dashboard("c1").total == 3 != world.analytics()

    world.push(closing)
    world.push(closing)

    assert [frame["type"] for frame in world.gateway.frames["c1"]] == ["snapshot", "delta", "resync"]
    book = world.dashboard("c1").shown
    assert book is not None
    assert book.resync
    world.subscribe("c1")
    assert world.dashboard("c1").total == world.analytics() == 1


def test_dashboards_come_back_after_each_closing_and_not_for_a_new_version_alone(world: World) -> None:
    world.connect("c1")
    event = {"event_id": "e0", "event_type": "click", "occurred_at": NINE_MS}
    messages = (Message("demo", NINE_MS, [{**event, "user_id": f"u{n}"}]) for n in range(2))  # sent again elsewhere
    first, again = ([stream_record(chunk, n) for chunk in chunks_of(message)] for n, message in enumerate(messages))
    world.push(world.aggregate(first))
    closed_once(world, first)
    world.push(world.stream())
    world.subscribe("c1")
    late = [
        {**record, "dynamodb": {**record["dynamodb"], "ApproximateCreationDateTime": world.seconds}} for record in again
    ]
    world.push(world.aggregate(late))
    world.archiver.archive(late)
    world.wait(7200)
    world.compactor.compact(world.seconds)
    told = len(world.gateway.frames["c1"])
    assert (world.dashboard("c1").total, world.analytics()) == (2, 2)

    world.finisher.consolidator.consolidate("demo", "2026-11-21T09", world.seconds * 1000)
    world.push(world.stream())
    assert [frame["type"] for frame in world.gateway.frames["c1"][told:]] == []

    assert world.finisher.finish("demo", "2026-11-21T09", world.seconds * 1000).closed
    world.push(world.stream())
    assert [frame["type"] for frame in world.gateway.frames["c1"][told:]] == ["resync"]
    world.subscribe("c1")
    assert world.dashboard("c1").total == world.analytics() == 1


def test_a_closing_whose_batch_comes_again_is_told_then(world: World) -> None:
    """Its connections could not be read the first time: the container must not take it for told."""
    world.connect()
    batch = world.events(3)
    world.push(world.aggregate(batch))
    closed_once(world, batch)
    closing = world.stream()
    pusher = replace(world.pusher, connections=Failing(world.stores.connections.client, "control", "demo"))
    with pytest.raises(ExceptionGroup):
        pusher.push(closing, world.seconds)

    replace(pusher, connections=world.pusher.connections).push(closing, world.seconds)

    assert [frame["type"] for frame in world.gateway.frames["c1"]] == ["snapshot", "delta", "resync"]


def test_closed_numbers_of_types_that_are_counted_together_are_shown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_types, "MAX_MADE_UP_TYPES", 1)
    batch = [*world.events(2, "click"), *world.events(3, "view")]
    world.aggregate(batch)
    closed_once(world, batch)

    world.wait(3 * 3600)
    hour = world.stores.hours.get("demo", "2026-11-21T09")
    assert world.finisher.closer.clean(hour, world.seconds * 1000)  # so that nothing live is left

    world.connect()

    assert world.dashboard().counts() == {"view": 3, "(other)": 2}
    assert world.dashboard().total == world.analytics()


def test_an_hour_that_a_dashboard_does_not_show_is_none_of_its_business(world: World) -> None:
    batch = world.events(3)
    world.push(world.aggregate(batch))
    world.wait(3600)
    world.connect()
    world.subscriber.message(
        "c1", '{"action": "subscribe", "topics": ["events"], "since": "2026-11-21T10:00"}', world.now
    )
    closed_once(world, batch)

    world.push(world.stream())

    assert [frame["type"] for frame in world.gateway.frames["c1"]] == ["snapshot", "snapshot"]


# What cannot be read


def unreadable(world: World) -> list[dict[str, Any]]:
    """Records that no decoder takes, and one that none can show."""
    (good,) = world.aggregate(world.events(1))
    image = good["dynamodb"]["NewImage"]
    strange = encode_document({**Folding().document(), "types": {"click": {"n": 1, "u": [], "t": [["x"], [1]]}}})
    bad: list[dict[str, Any]] = [
        {"body": {"B": "AAAA"}},
        {"body": {"B": "not base64"}},
        {"body": {"S": ""}},
        {"written_at": {"N": "soon"}},
        {"open": {"NULL": True}},
        {"body": {"B": b64encode(strange).decode()}},
    ]
    images = [{**image, "sk": {"S": f"d#bad{n}"}, **each} for n, each in enumerate(bad)]
    return [{**good, "eventID": f"bad{n}", "dynamodb": {"NewImage": each}} for n, each in enumerate(images)]


def test_a_delta_that_cannot_be_read_is_left_out_and_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    from chalicelib.base import logs

    logs.configure()
    world.connect()
    poison = unreadable(world)
    good = world.aggregate(world.events(2))

    world.push([*poison[:3], *good, *poison[3:], {"eventID": "empty", "dynamodb": {}}])

    assert world.dashboard().total == 2
    assert world.gateway.ended == []
    lines = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line["message"] == "delta unreadable" for line in lines) == 6
    assert [line["DeltasUnreadable"] for line in lines if "DeltasUnreadable" in line] == [6]


def test_a_dashboard_shows_all_but_what_cannot_be_read(world: World) -> None:
    world.aggregate(world.events(2))
    key = {"pk": {"S": "demo#live#2026-11-21T09"}, "sk": {"S": "d#1#bad"}}
    item = {
        **key,
        "open": {"S": "demo"},
        "hour": {"S": "2026-11-21T09"},
        "attempt": {"N": "1"},
        "last": {"S": "1"},
        "signature": {"S": "0:0"},
        "written_at": {"N": str(world.seconds)},
    }
    world.stores.rollups.client.put_item(TableName="rollups", Item={**item, "body": {"B": b"bad"}})

    world.connect()

    assert world.dashboard().total == 2


def test_a_snapshot_that_would_take_all_memory_to_read_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribe, "MAX_DECODED", 100)
    world.aggregate([record for n in range(80) for record in world.events(1, f"type {n}")])

    world.connect()

    (frame,) = world.gateway.frames["c1"]
    assert (frame["type"], frame["code"]) == ("error", "snapshot_too_large")
    assert world.stores.connections.of_project("demo")[0].topics == ()


def test_another_clock_may_be_ahead_by_a_minute() -> None:
    assert AHEAD_MS >= 60_000
