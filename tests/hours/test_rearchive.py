"""What the hot store has and the lake lacks: seen, put back once, and closed with the rest."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from chalicelib.base import waits
from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import HOUR_MS, hour_of, parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.hours.compact import Compactor
from chalicelib.hours.finish import Finished
from chalicelib.hours.rearchive import Rearchiver
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake, Row, encode, table_of
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from chalicelib.rollups.rollups import RollupSpec
from tests.hours.finishing import finisher_of
from tests.stores import Stores, empty_stores, stream_record

HOUR = "2026-11-20T09"
NINE = parse_ms("2026-11-20T09:00:00Z")
SOON = NINE + 2 * HOUR_MS
LATER = NINE + 2 * HOUR_MS + waits.RETENTION_MS + waits.MARGIN_MS  # the stream has forgotten the hour's records
CONTRACTS = Contracts({"sale": Contract("sale", "1-0-0", "sales", RollupSpec(("country",), ("amount",)))})


def a_sale(number: int, hour: int = 0) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "event_type": "sale",
        "occurred_at": NINE + hour * HOUR_MS + number * 60_000,
        "user_id": f"u{number % 3}",
        "properties": {"country": ("DE", "FR")[number % 2], "amount": number},
    }


class World:
    """Events that are stored and counted, and of which `archive` may have lost some."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.records = count()
        self.now_ms = SOON
        self.hours = replace(stores.hours, clock=lambda: self.now_ms / 1000)
        self.lake = Lake(stores.bucket)

    @property
    def rearchiver(self) -> Rearchiver:
        stores = self.stores
        return Rearchiver(stores.events, self.lake, stores.folders, self.hours, stores.erased, "test", None)

    def receive(self, *events: dict[str, Any], archived: bool = True) -> None:
        chunks = list(chunks_of(Message("shop", NINE, list(events))))
        self.stores.events.write(chunks)
        records = [stream_record(chunk, next(self.records)) for chunk in chunks]
        Aggregator(CONTRACTS, self.stores.rollups, self.stores.bucket).aggregate(records, NINE)
        if archived:
            Archiver(self.lake, self.hours, self.stores.erased).archive(records)

    def finish(self, now_ms: int, hour: str = HOUR) -> Finished:
        self.now_ms = now_ms
        Compactor(self.stores.rollups, self.hours).compact(now_ms // 1000)
        finisher = finisher_of(CONTRACTS, self.stores.rollups.client, self.stores.bucket.client, lambda: now_ms)
        return finisher.finish("shop", hour, now_ms)

    def rows(self) -> list[str]:
        """What SQL sees."""
        _, keys = self.stores.folders.keys(self.hours, "shop", HOUR)
        return sorted(row.event["event_id"] for row in self.lake.rows(keys))

    def total(self, **question: str) -> Any:
        asked = {"metric": "sales", "start": "2026-11-20", "end": "2026-11-21", **question}
        return Analytics(CONTRACTS, self.stores.history).answer("shop", read_question(asked), SOON)["total"]

    def lose_rows(self, *kept: str) -> None:
        """A file of the hour's version loses all rows but these."""
        _, (key,) = self.stores.folders.keys(self.hours, "shop", HOUR)
        rows = [row for row in self.lake.rows([key]) if row.event["event_id"] in kept]
        slot = (NINE // 1000 - 300) // 3600
        self.lake.put(key, encode(table_of(Row(row.event, row.received_ms, slot) for row in rows)))


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as stores:
        yield World(stores)


def told(caplog: pytest.LogCaptureFixture, metric: str) -> list[int]:
    return [record.__dict__[metric] for record in caplog.records if metric in record.__dict__]


def test_events_of_nobody_that_archive_lost_are_put_back(world: World) -> None:
    nobodys = [{name: value for name, value in a_sale(n).items() if name != "user_id"} for n in (3, 4)]
    world.receive(a_sale(1), a_sale(2))
    world.receive(*nobodys, archived=False)

    world.finish(LATER)
    done = world.finish(LATER + HOUR_MS)

    assert done.closed
    assert world.rows() == ["e1", "e2", "e3", "e4"]
    assert world.total() == 4


def test_an_hour_of_which_archive_lost_a_batch_waits_and_its_live_numbers_stay(world: World) -> None:
    world.receive(a_sale(1), a_sale(2))
    world.receive(a_sale(3), a_sale(4), archived=False)

    closing = world.finish(SOON).closing

    assert (closing.closed, closing.waiting) == (False, (NINE // 1000 - 300) // 3600)
    assert world.rows() == ["e1", "e2"]
    assert world.total() == 4
    assert [[e["event_id"] for e, _ in rows] for _, rows in world.rearchiver.missing("shop", [HOUR], SOON)] in (
        [["e3", "e4"]],
        [["e4", "e3"]],
    )


def test_what_was_put_back_is_seen_at_once_and_counts_once_before_and_after_its_hour_is_closed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.receive(a_sale(1), a_sale(2))
    world.receive(a_sale(3), a_sale(4), archived=False)
    waiting = world.finish(SOON).closing.waiting

    assert world.rearchiver.put_back("shop", HOUR, waiting, SOON) == 2
    assert world.rearchiver.put_back("shop", HOUR, waiting, SOON) == 0
    assert world.rows() == ["e1", "e2", "e3", "e4"]
    assert world.total() == 4
    assert not world.finish(SOON).closed  # of its records the lake knows nothing until the stream has forgotten them
    assert world.total() == 4

    assert world.finish(LATER).closed
    assert world.rows() == ["e1", "e2", "e3", "e4"]
    assert (world.total(), world.total(agg="sum", measure="amount"), world.total(agg="users")) == (4, 10, 3)
    assert told(caplog, "EventsRearchived") == [2]


def test_the_same_id_in_two_hours_is_missing_in_both(world: World) -> None:
    world.receive(a_sale(1), archived=False)
    world.receive({**a_sale(1, hour=1), "user_id": "another"}, archived=False)
    hours = [HOUR, "2026-11-20T10"]

    found = {hour: len(rows) for hour, rows in world.rearchiver.missing("shop", hours, SOON + HOUR_MS)}

    assert found == dict.fromkeys(hours, 1)


def test_a_chunk_that_nobody_can_read_keeps_no_hour_open(world: World) -> None:
    world.receive(a_sale(1), a_sale(2))
    world.receive(a_sale(3), archived=False)
    unreadable = {"pk": "shop#x", "sk": "x", "project": "shop"}
    item = {name: {"S": text} for name, text in unreadable.items()} | {"body": {"B": b"no gzip"}}
    world.stores.events.client.put_item(TableName="events", Item=item | {"received_at": {"N": str(NINE)}})

    assert [world.finish(LATER).closed, world.finish(LATER).closed] == [False, True]
    assert world.rows() == ["e1", "e2", "e3"]


def test_closing_puts_back_by_itself_what_the_stream_has_forgotten(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.receive(a_sale(1), a_sale(2))
    world.receive(a_sale(3), a_sale(4), archived=False)

    assert [world.finish(LATER).closed, world.finish(LATER).closed] == [False, True]

    assert world.rows() == ["e1", "e2", "e3", "e4"]
    assert world.total() == 4
    assert told(caplog, "EventsRearchived") == [2]


def test_a_hot_store_too_large_for_the_function_is_told_and_the_hour_waits(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.receive(a_sale(1), archived=False)
    seconds = count(step=60)
    slow = replace(world.rearchiver, seconds=30.0, clock=lambda: float(next(seconds)))

    assert slow.is_incomplete("shop", HOUR, 1, LATER)

    assert told(caplog, "HoursNotRearchived") == [1]
    assert world.stores.objects("lake/") == []


def test_a_closed_hour_whose_file_lost_rows_gets_them_back_and_its_numbers_are_right(world: World) -> None:
    world.receive(*map(a_sale, range(1, 6)))
    assert world.finish(SOON).closed
    world.lose_rows("e1", "e4")
    assert world.rows() == ["e1", "e4"]

    assert world.rearchiver.put_back("shop", HOUR, None, SOON) == 3
    assert world.stores.hours.get("shop", HOUR).is_dirty  # else nobody would come to close it again
    assert world.finish(SOON).closed

    assert world.rows() == ["e1", "e2", "e3", "e4", "e5"]
    assert (world.total(), world.total(agg="sum", measure="amount")) == (5, 15)
    assert world.rearchiver.put_back("shop", HOUR, None, SOON) == 0


def test_who_was_erased_is_not_put_back(world: World) -> None:
    world.receive(a_sale(1), a_sale(2), archived=False)
    world.stores.erased.put("shop", Marker(digest_of_user("shop", "u1"), SOON, FOR_EVER_MS))

    assert world.rearchiver.put_back("shop", HOUR, 1, SOON) == 1
    assert world.rows() == ["e2"]


def test_hours_are_looked_for_together_and_each_event_goes_into_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chalicelib.hours.rearchive.ROWS_AT_ONCE", 2)
    world.receive(a_sale(1), *(a_sale(number, hour=1) for number in range(2, 7)), a_sale(7, hour=2), archived=False)
    world.receive(a_sale(6, hour=1), archived=False)  # once more, by another request
    hours = [hour_of(NINE + hour * HOUR_MS) for hour in (0, 1)]

    found = [(hour, len(rows)) for hour, rows in world.rearchiver.missing("shop", hours, SOON)]

    assert sorted(found) == [(hours[0], 1), (hours[1], 1), (hours[1], 2), (hours[1], 2)]


def test_what_was_just_received_is_on_its_way(world: World) -> None:
    world.receive(a_sale(1), archived=False)

    assert world.rearchiver.put_back("shop", HOUR, None, NINE + 14 * 60_000) == 0
    assert world.rearchiver.put_back("shop", HOUR, None, NINE + 16 * 60_000) == 1


def test_another_projects_events_are_not_put_back(world: World) -> None:
    world.stores.events.write(chunks_of(Message("blog", NINE, [a_sale(1)])))

    assert list(world.rearchiver.missing("shop", [HOUR], SOON)) == []
    assert world.stores.objects(hour_folder("shop", HOUR)) == []
