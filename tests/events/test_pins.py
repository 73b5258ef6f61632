"""One event, tried again and again in other company and at other times, from the edge through `process`: one hour."""

import json
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chalicelib.base import waits
from chalicelib.base.errors import Unavailable
from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, hour_of, hour_start_ms, parse_ms
from chalicelib.events.chunks import Message, decode_message, encode_message, unpack_events
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import Admitter, Mode
from chalicelib.events.events_table import EventsTable
from chalicelib.events.flags_table import FlagsTable
from chalicelib.events.pins import UNSURE
from chalicelib.events.records import NO_CHUNK, read_chunk
from chalicelib.events.users_table import UsersTable
from chalicelib.ingest.process import Processor

ROOT = Path(__file__).parents[2]
ELEVEN = hour_start_ms("2026-11-21T11")
SECOND = 1000
ADMITTER = Admitter(Contracts({}), new_id=lambda _: "made")


class Table:
    """A table of DynamoDB in a dictionary, and the keys in the order in which they came in."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.inserted: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.broken = False

    def put_item(self, TableName: str, Item: dict[str, Any], **more: Any) -> dict[str, Any]:
        self.calls.append("PutItem")
        if self.broken:
            raise ClientError({"Error": {"Code": "InternalServerError"}}, "PutItem")
        key = Item["pk"]["S"], Item["sk"]["S"]
        there = self.items.get(key)
        if condition := more.get("ConditionExpression"):
            assert condition == "attribute_not_exists(pk)"
            if there is not None:
                assert more["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
                raise ClientError({"Error": {"Code": "ConditionalCheckFailedException"}, "Item": there}, "PutItem")
        if there is None:
            self.inserted.append(Item)
        self.items[key] = Item
        return {}

    def get_paginator(self, operation: str) -> "Table":
        return self

    def paginate(self, **query: Any) -> list[dict[str, Any]]:
        self.calls.append("Query")
        if self.broken:
            raise ClientError({"Error": {"Code": "InternalServerError"}}, "Query")
        values = query["ExpressionAttributeValues"]
        pk, first = values[":pk"]["S"], values[":first"]["S"]
        return [{"Items": [item for key, item in self.items.items() if key[0] == pk and key[1] >= first]}]

    def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> dict[str, Any]:
        for request in RequestItems["events"]:
            self.put_item("events", request["PutRequest"]["Item"])
        return {}


class Nobody:
    """Nobody is erased."""

    def split(self, project: str, events: list[Any]) -> tuple[list[Any], list[Any]]:
        return events, []


@dataclass
class World:
    """A table, containers of the edge, each of which remembers which flags it has read, and one of `process`."""

    table: Table = field(default_factory=Table)
    now_ms: int = 0

    def __post_init__(self) -> None:
        self.edges = [FlagsTable(self.table, "events", lambda: self.now_ms / 1000) for _ in range(3)]

    def send(self, *events: dict[str, Any], received_ms: int, sent_at: int | None = None, edge: int = 0) -> Message:
        """A request from the client to the table."""
        message = self.admit(*events, received_ms=received_ms, sent_at=sent_at, edge=edge)
        self.deliver(message)
        return message

    def admit(
        self, *events: dict[str, Any], received_ms: int, sent_at: int | None = None, edge: int = 0, delay_ms: int = 0
    ) -> Message:
        """A request from the client to the queue."""
        admission = ADMITTER.admit(events, mode=Mode.INFER, received_ms=received_ms, sent_at=sent_at)
        assert not admission.rejections
        self.now_ms = received_ms + delay_ms
        self.edges[edge].flag("demo", admission.events, received_ms)
        return Message("demo", received_ms, admission.events)

    def deliver(self, message: Message) -> None:
        """A message from the queue to the table."""
        events, users = EventsTable(self.table, "events"), UsersTable(self.table, "events")
        bucket, erased, ledger = None, Nobody(), None
        found = Processor(events, users, bucket, erased, ledger, lambda: 0.0)  # type: ignore[arg-type]
        [(text, _)] = encode_message(message)
        assert found.process([{"messageId": "m", "body": text}]) == []

    def hours(self, event_id: str = "e") -> set[str]:
        """Every hour that an event came into, by the chunks that the stream brings as new ones."""
        return {hour_of(event["occurred_at"]) for event in self.stored() if event["event_id"] == event_id}

    def stored(self) -> list[dict[str, Any]]:
        """The events of all new chunks, of some more than once."""
        chunks = [item for item in self.table.inserted if "body" in item]
        return [event for chunk in chunks for event in unpack_events(chunk["body"]["B"])[0]]

    def others(self) -> list[dict[str, Any]]:
        """The items that are no chunks."""
        return [item for (_, sort_key), item in self.table.items.items() if sort_key.startswith(NO_CHUNK)]


def event(at_ms: int, event_id: str = "e", user: str | None = "ada") -> dict[str, Any]:
    found = {"event_id": event_id, "event_type": "click", "timestamp": at_ms}
    return {**found, "user_id": user} if user else found


def company(name: str) -> dict[str, Any]:
    return event(ELEVEN - 20 * MINUTE_MS, f"company of {name}")


# Tries as (received, sent); each is regrouped. Written by the hour's edge at 11:00 of our clock.
def named(*tries: tuple[int, int | None], at: int) -> tuple[int, list[tuple[int, int | None]]]:
    return at, list(tries)


CASES = {
    "45 s ahead": named((ELEVEN - 20 * SECOND, None), (ELEVEN + 90 * SECOND, None), at=ELEVEN + 25 * SECOND),
    "90 s ahead, later no more": named(
        (ELEVEN - 10 * SECOND, None), (ELEVEN + 5 * MINUTE_MS, None), at=ELEVEN + 80 * SECOND
    ),
    "60 s ahead, and a little more": named(
        (ELEVEN - 30_100, None), (ELEVEN - 29_900, None), (ELEVEN + HOUR_MS, None), at=ELEVEN + 30 * SECOND
    ),
    "an hour ahead": named(
        (ELEVEN - 55 * MINUTE_MS, None), (ELEVEN + 10 * MINUTE_MS, None), at=ELEVEN + 50 * MINUTE_MS
    ),
    "clamped at two tries, then not": named(
        (ELEVEN - 55 * MINUTE_MS, None),
        (ELEVEN + 10 * MINUTE_MS, None),
        (ELEVEN + 3 * HOUR_MS, None),
        at=ELEVEN + 2 * HOUR_MS + 30 * MINUTE_MS,
    ),
    "a skew near two minutes": named(
        (ELEVEN + 119_900, ELEVEN), (ELEVEN + 300_100, ELEVEN + 180_000), at=ELEVEN - 90 * SECOND
    ),
    "a skew near the minute from which it counts": named(
        (ELEVEN + 59_900, ELEVEN), (ELEVEN + 130_100, ELEVEN + 70_000), at=ELEVEN - 30 * SECOND
    ),
    "a clock ahead by nearly two minutes": named(
        (ELEVEN, ELEVEN + 120_100), (ELEVEN + 60_000, ELEVEN + 179_900), at=ELEVEN + 90 * SECOND
    ),
    "60 s ahead of its own sent_at, and a little more": named(
        (ELEVEN - 30_100, ELEVEN - 30_100), (ELEVEN - 29_900, ELEVEN - 29_900), at=ELEVEN + 30 * SECOND
    ),
    "ahead, of another container, some seconds later": named(
        (ELEVEN - 10 * SECOND, None), (ELEVEN - 3 * SECOND, None), at=ELEVEN + 55 * SECOND
    ),
    "ahead of its own sent_at": named(
        (ELEVEN - 5 * MINUTE_MS, ELEVEN - 5 * MINUTE_MS), (ELEVEN + 40_000, ELEVEN + 40_000), at=ELEVEN + 30 * SECOND
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("user", ["ada", None])
@pytest.mark.parametrize("order", [1, -1])
def test_however_it_is_regrouped_an_event_ends_in_one_hour(name: str, user: str | None, order: int) -> None:
    at_ms, tries = CASES[name]
    world = World()
    for edge in range(3):  # each knows the flags of before
        world.admit(company("nobody"), received_ms=tries[0][0] - 1000, edge=edge)

    messages = [
        world.admit(
            event(at_ms, user=user),
            company(str(number)) | {"user_id": user},
            received_ms=received_ms,
            sent_at=sent_ms,
            edge=number % 3,
        )
        for number, (received_ms, sent_ms) in enumerate(tries)
    ]
    for message in messages[::order]:
        world.deliver(message)

    assert len(world.hours()) == 1
    assert len([e for e in world.stored() if e["event_id"] == "e"]) == len(tries)  # each a chunk of its own


EDGES = st.sampled_from((0, 1, 59_999, 60_000, 60_001, 119_900, 120_100, HOUR_MS, 5 * HOUR_MS))
OFF = st.one_of(st.integers(-99, 99), st.integers(-30_000, 0))
SKEWS = st.builds(lambda edge, off, sign: sign * edge + off, EDGES, OFF, st.sampled_from((1, -1)))
SPANS = st.one_of(
    st.integers(0, 12 * HOUR_MS), st.integers(0, 3 * MINUTE_MS), st.sampled_from((30_000, 60_000, 60_001))
)


@st.composite
def strict_tries(draw: st.DrawFn) -> tuple[int, list[tuple[int, int | None]]]:
    """With sent_at by a clock that is off by anything, and stays so but for what the network delays."""
    skew = draw(st.one_of(SKEWS, st.integers(-10 * HOUR_MS, 10 * HOUR_MS)))
    at_ms = ELEVEN - skew + draw(st.integers(-100 * SECOND, 100 * SECOND))
    tries: list[tuple[int, int | None]] = []
    for gap in sorted(draw(st.lists(SPANS, min_size=2, max_size=4))):
        sent_ms = at_ms + gap
        tries.append((sent_ms + skew + draw(st.integers(0, 30 * SECOND)), sent_ms))
    return at_ms, tries


@st.composite
def loose_tries(draw: st.DrawFn) -> tuple[int, list[tuple[int, int | None]]]:
    """Without sent_at, the first of them received before or after the time that is named."""
    at_ms = ELEVEN + draw(st.one_of(st.integers(-4 * MINUTE_MS, 4 * MINUTE_MS), st.integers(0, HOUR_MS)))
    ahead = draw(st.one_of(SKEWS, st.integers(-3 * HOUR_MS, 6 * HOUR_MS)))
    gaps = sorted(draw(st.lists(SPANS, min_size=2, max_size=4)))
    return at_ms, [(at_ms - ahead + gap, None) for gap in gaps]


@settings(max_examples=500, deadline=None)
@given(st.one_of(strict_tries(), loose_tries()), st.data())
def test_any_tries_of_an_event_end_in_one_hour(tried: tuple[int, list[tuple[int, int | None]]], data: Any) -> None:
    """Of whichever containers, as late as those live, and processed in any order."""
    at_ms, tries = tried
    world = World()
    edges, delays = st.integers(0, 2), st.integers(0, waits.EDGE_MS)
    work: list[tuple[int, int, dict[str, Any]]] = []  # when, number, what
    for number, (received_ms, sent_ms) in enumerate(tries):
        delay_ms = data.draw(delays)
        with_others = data.draw(st.booleans())
        together = [event(at_ms), *([company(str(number))] if with_others else [])]
        about = {"received_ms": received_ms, "sent_at": sent_ms, "edge": data.draw(edges), "delay_ms": delay_ms}
        work.append((received_ms + delay_ms, number, {"events": together, **about}))
        # Another request, by which a container comes to know the flags of just then.
        look_ms = received_ms + data.draw(st.integers(-waits.EDGE_MS, waits.EDGE_MS))
        look = {"events": [company("nobody")], "received_ms": look_ms, "edge": data.draw(edges)}
        work.append((look_ms, -1 - number, look))

    messages = [
        (number, world.admit(*about.pop("events"), **about)) for _, number, about in sorted(work, key=lambda w: w[:2])
    ]
    for _, message in data.draw(st.permutations([each for each in messages if each[0] >= 0])):
        world.deliver(message)

    assert len(world.hours()) == 1


@settings(max_examples=100, deadline=None)
@given(st.one_of(strict_tries(), loose_tries()))
def test_a_redelivered_message_makes_the_same_chunk(tried: tuple[int, list[tuple[int, int | None]]]) -> None:
    at_ms, [(received_ms, sent_ms), *_] = tried
    world = World()

    message = world.send(event(at_ms), company("it"), received_ms=received_ms, sent_at=sent_ms)
    first = dict(world.table.items)
    for _ in range(3):
        world.deliver(message)

    assert world.table.items == first
    assert len([item for item in world.table.items.values() if "body" in item]) == 1


def test_the_same_request_sent_again_makes_the_same_chunk_though_it_is_clamped_no_more() -> None:
    world = World()
    at_ms = ELEVEN + 10 * MINUTE_MS
    for received_ms in (ELEVEN - 20 * MINUTE_MS, ELEVEN + 30 * MINUTE_MS):
        world.send(event(at_ms), company("it"), received_ms=received_ms)

    [chunk] = [item for item in world.table.items.values() if "body" in item]
    events, _ = unpack_events(chunk["body"]["B"])
    assert [hour_of(e["occurred_at"]) for e in events] == ["2026-11-21T10"] * 2


@settings(max_examples=300, deadline=None)
@given(st.integers(-29_990, 29_990), st.integers(0, 12 * HOUR_MS), st.booleans())
@example(29_990, 0, True)
def test_a_clock_that_is_right_pays_nothing(skew_ms: int, age_ms: int, with_sent_at: bool) -> None:
    world, half_past = World(), ELEVEN + 30 * MINUTE_MS
    sent_ms = half_past - skew_ms
    at_ms = (sent_ms if with_sent_at else half_past) - age_ms

    for number in range(3):
        sent = event(at_ms, f"e{number}")
        message = world.send(sent, received_ms=half_past + number, sent_at=sent_ms if with_sent_at else None)
        assert all(UNSURE not in each for each in message.events)

    assert world.others() == []
    assert world.table.calls.count("Query") == 1  # the project's flags
    assert world.table.calls.count("PutItem") == 3


def test_what_says_that_an_hour_is_not_sure_is_stored_nowhere() -> None:
    world = World()

    message = world.send(event(ELEVEN + HOUR_MS), received_ms=ELEVEN)

    [(text, _)] = encode_message(message)
    assert UNSURE in decode_message(text).events[0]
    assert all(UNSURE not in stored for stored in world.stored())


def test_an_event_with_an_id_of_ours_is_not_pinned() -> None:
    world = World()
    sent = event(ELEVEN + HOUR_MS)
    del sent["event_id"]

    world.send(sent, received_ms=ELEVEN)

    assert world.others() == []


def test_a_pin_is_no_chunk_and_goes_when_chunks_do() -> None:
    world = World()
    world.send(event(ELEVEN + HOUR_MS), received_ms=ELEVEN)

    def record(item: dict[str, Any]) -> dict[str, Any]:
        image = {name: {"B": b64encode(v["B"]).decode()} if "B" in v else v for name, v in item.items()}
        return {"eventID": "r", "eventName": "INSERT", "dynamodb": {"SequenceNumber": "1", "NewImage": image}}

    [chunk] = [item for item in world.table.items.values() if "user" in item]
    [pin] = [item for item in world.others() if item["pk"] == {"S": "demo#ada"}]
    assert [read_chunk(record(item)) for item in world.others()] == [None, None]
    assert pin["expires_at"] == chunk["expires_at"]
    assert int(pin["occurred_at"]["N"]) == ELEVEN


def test_flags_are_of_some_users_and_end() -> None:
    world = World()
    world.send(event(ELEVEN + HOUR_MS, "a", "ahead"), received_ms=ELEVEN)

    def is_pinned(user: str, received_ms: int) -> bool:
        message = world.admit(event(received_ms - 1, f"{user}{received_ms}", user), received_ms=received_ms, edge=1)
        return UNSURE in message.events[0]

    assert [is_pinned("somebody else", ELEVEN + MINUTE_MS), is_pinned("ahead", ELEVEN + MINUTE_MS)] == [False, True]
    assert is_pinned("ahead", ELEVEN + 12 * HOUR_MS)
    assert not is_pinned("ahead", ELEVEN + 25 * HOUR_MS)


def test_users_that_are_ahead_are_flagged_with_a_write_each_and_no_more() -> None:
    world = World()

    for number in range(30):
        world.send(event(ELEVEN + HOUR_MS, f"e{number}", f"u{number % 5}"), received_ms=ELEVEN + number)

    assert len([item for item in world.table.inserted if item["pk"]["S"].startswith("?ahead")]) == 5
    assert world.table.calls.count("PutItem") == 30 + 30 + 5  # chunks, pins and flags


def test_what_cannot_be_flagged_is_not_acknowledged() -> None:
    world = World()
    world.table.broken = True

    with pytest.raises(Unavailable):
        world.admit(event(ELEVEN + HOUR_MS), received_ms=ELEVEN)


def test_while_flags_cannot_be_read_every_event_that_may_be_another_try_is_pinned() -> None:
    world = World()
    world.table.broken = True

    message = world.admit(event(ELEVEN - 1), company("it"), received_ms=ELEVEN)

    assert [UNSURE in each for each in message.events] == [True, True]


def test_a_flag_that_could_not_be_put_is_put_with_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    takes = world.table.put_item

    def refuse(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="nowhere")

    monkeypatch.setattr(world.table, "put_item", refuse)
    with pytest.raises(Unavailable):
        world.admit(event(ELEVEN + 90_000), received_ms=ELEVEN)
    monkeypatch.setattr(world.table, "put_item", takes)
    world.admit(event(ELEVEN + 90_000), received_ms=ELEVEN)

    [flag] = world.others()
    assert flag["pk"] == {"S": "?ahead#demo"}


def test_a_table_that_does_not_answer_is_not_waited_for_with_each_request() -> None:
    """It takes longer to give up than flags are good for; everybody counts as flagged, for minutes if need be."""
    world = World()
    answers = world.table.paginate

    def hang(**query: Any) -> Any:
        world.now_ms += 21_000
        return answers(**query)

    world.table.broken, world.table.paginate = True, hang  # type: ignore[method-assign]
    moments = [ELEVEN, *range(ELEVEN + 21_000, ELEVEN + 110_000, 1000)]  # the first one waits
    messages = [world.admit(event(ELEVEN - 1), received_ms=each) for each in moments]

    assert world.table.calls.count("Query") == 1
    assert all(UNSURE in each for message in messages for each in message.events)
    world.table.broken, world.table.paginate = False, answers  # type: ignore[method-assign]
    [later] = world.admit(event(ELEVEN - 1), received_ms=ELEVEN + 300_000).events
    assert UNSURE not in later


def test_the_guard_covers_what_a_container_may_not_know() -> None:
    assert waits.GUARD_MS >= waits.FLAGS_FRESH_MS + waits.EDGE_MS
    assert json.loads((ROOT / ".chalice" / "config.json").read_text())["lambda_timeout"] * 1000 == waits.EDGE_MS
    assert parse_ms("2026-11-21T11:00:00Z") == ELEVEN
