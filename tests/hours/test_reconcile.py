"""Reconciling: what is wrong in closed numbers is told exactly and put right, whatever dies meanwhile."""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import HOUR_MS, parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.hours.compact import Compactor
from chalicelib.hours.reconcile import (
    AGREES,
    DIFFERS,
    FUNCTION_SECONDS,
    NO_FILE,
    REPAIRED,
    WAITS,
    Reconciled,
    Reconciler,
    hours_due,
)
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from chalicelib.rollups.codec import decode, encode
from chalicelib.rollups.differences import Difference
from chalicelib.rollups.facets import ALL_TYPES
from chalicelib.rollups.history import History
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.rollups import Rollups, RollupSpec
from chalicelib.rollups.sketches import Uniques
from tests.hours.finishing import finisher_of
from tests.mortal import Died, Mortal
from tests.stores import Stores, empty_stores, stream_record

HOUR, DAY = "2026-11-20T09", "2026-11-20"
NINE = parse_ms("2026-11-20T09:00:00Z")
NIGHT = parse_ms("2026-11-21T03:40:00Z") // 1000
PLAIN = Contracts({"sale": Contract("sale", "1-0-0", "sales", RollupSpec())})
CONTRACTS = Contracts({"sale": Contract("sale", "1-0-0", "sales", RollupSpec(("country",), ("amount",)))})


def a_sale(number: int, hours: int = 0) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "event_type": "sale" if number % 3 else "click",
        "occurred_at": NINE + hours * HOUR_MS + number * 60_000,
        "user_id": f"u{number % 4}",
        "properties": {"country": ("DE", "FR")[number % 2], "amount": number + 0.5},
    }


@dataclass
class World:
    """Stores, and what works on them; `clients` are those of one process."""

    stores: Stores
    dynamodb: Any = None
    s3: Any = None
    seconds: float = 0.0  # of the process's own clock
    now: int = NIGHT - 2 * 3600
    contracts: Contracts = CONTRACTS
    runs: Iterator[int] = field(default_factory=itertools.count)
    records: Iterator[int] = field(default_factory=itertools.count)

    @property
    def reconciler(self) -> Reconciler:
        dynamodb, s3 = self.dynamodb or self.stores.rollups.client, self.s3 or self.stores.bucket.client
        finisher = finisher_of(self.contracts, dynamodb, s3, lambda: self.now * 1000, self.runs)
        history = History(finisher.closer.rollups, finisher.closer.closed)
        lake, folders = finisher.consolidator.lake, finisher.consolidator.folders
        return Reconciler(
            self.contracts, history, lake, folders, finisher.hours, finisher, "test", lambda: self.seconds
        )

    @property
    def hours(self) -> HoursTable:
        return replace(self.stores.hours, clock=lambda: self.now)

    def receive(self, *events: dict[str, Any], aggregated: bool = True, archived: bool = True) -> list[dict[str, Any]]:
        """The events arrive, each in a message of its own; returns their stream records."""
        chunks = [chunk for event in events for chunk in chunks_of(Message("shop", NINE, [event]))]
        records = [stream_record(chunk, next(self.records)) for chunk in chunks]
        if aggregated:
            self.aggregate(records)
        if archived:
            Archiver(Lake(self.stores.bucket), self.hours, self.stores.erased).archive(records)
        return records

    def aggregate(self, records: list[dict[str, Any]]) -> None:
        """The records are counted."""
        Aggregator(self.contracts, self.stores.rollups, self.stores.bucket).aggregate(records, self.now * 1000)

    def close(self, *events: dict[str, Any]) -> None:
        """The events arrive, and their hours are closed."""
        self.receive(*events)
        self.consolidate()

    def consolidate(self) -> None:
        """What the schedule does, an hour later each time."""
        self.now += 3600
        Compactor(replace(self.stores.rollups, clock=lambda: self.now), self.hours).compact(self.now)
        finisher = self.reconciler.finisher
        found = finisher.consolidate_due(self.now * 1000)
        assert finisher.finish_all(found["hours"], self.now * 1000)["waiting"] == found["failed"] == 0
        finisher.closer.close_days("shop", self.now * 1000)

    def hour(self, hour: str = HOUR, *, repair: bool = True, **how: bool) -> Reconciled:
        return self.reconciler.hour("shop", hour, NIGHT, repair=repair, **how)

    def day(self, *, repair: bool = True) -> Reconciled:
        return self.reconciler.day("shop", DAY, NIGHT, repair=repair)

    def run(self, now: int = NIGHT) -> int:
        return self.reconciler.run(["shop"], now)

    def items(self) -> list[dict[str, Any]]:
        """Every item, in order."""
        return sorted(self.stores.items("rollups"), key=lambda item: (item["pk"]["S"], item["sk"]["S"]))

    def answers(self) -> list[Any]:
        analytics = Analytics(self.contracts, self.stores.history)
        asked = [
            {},
            {"agg": "users", "interval": "day"},
            {"agg": "sum", "measure": "amount"},
            {"agg": "p95", "measure": "amount", "interval": "day"},
            {"group_by": "country"},
            {"metric": "events", "group_by": "event_type"},
        ]
        days = {"metric": "sales", "start": "2026-11-19", "end": "2026-11-21"}
        return [analytics.answer("shop", read_question(days | question), NIGHT * 1000) for question in asked]

    def counts(self) -> list[Any]:
        """The sales and their users, by the day."""
        analytics = Analytics(self.contracts, self.stores.history)
        days = {"metric": "sales", "start": "2026-11-19", "end": "2026-11-21", "interval": "day"}
        asked = [days, days | {"agg": "users"}]
        return [analytics.answer("shop", read_question(each), NIGHT * 1000)["total"] for each in asked]

    def change(self, event_type: str, key: str, change: Any) -> None:
        """Corrupt an item by hand: `change` is handed its rollups."""
        pk, client = {"S": f"shop#{event_type}#2026"}, self.stores.rollups.client
        item = client.get_item(TableName="rollups", Key={"pk": pk, "sk": {"S": key}}, ConsistentRead=True)["Item"]
        rollups = decode(item["body"]["B"])
        change(rollups)
        client.put_item(TableName="rollups", Item={**item, "body": {"B": encode(rollups)}})

    def forget(self, event_type: str, key: str) -> None:
        """Lose an item."""
        self.stores.rollups.client.delete_item(
            TableName="rollups", Key={"pk": {"S": f"shop#{event_type}#2026"}, "sk": {"S": key}}
        )


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as stores:
        found = World(stores)
        found.close(*map(a_sale, range(8)), a_sale(60))
        yield found


def two_more(rollups: Rollups) -> None:
    rollups[HOUR].count += 2


def test_what_is_right_agrees_and_nothing_is_written(world: World) -> None:
    before = world.items()

    assert world.hour() == Reconciled("shop", HOUR, AGREES, 8, [])
    assert world.day() == Reconciled("shop", DAY, AGREES)
    assert world.hour("2026-11-20T15").state == AGREES  # without events
    assert world.items() == before


def test_a_wrong_count_is_told_exactly_and_repaired_once(world: World) -> None:
    right = world.answers()
    world.change("sale", f"n#d#{DAY}", two_more)
    wrong = world.items()
    differences = [Difference(HOUR, "sale", "n", "count", 7, 5)]

    assert world.hour(repair=False) == Reconciled("shop", HOUR, DIFFERS, 8, differences)
    assert world.items() == wrong
    assert world.answers() != right
    assert world.hour() == Reconciled("shop", HOUR, REPAIRED, 8, differences)

    repaired = world.items()
    assert world.answers() == right
    assert world.hour() == Reconciled("shop", HOUR, AGREES, 8, [])
    assert world.day().state == AGREES
    assert world.items() == repaired


def wrong_sum(rollups: Rollups) -> None:
    rollups[""].dimensions["country"]["FR"].measures["amount"].total += 10


def no_users(rollups: Rollups) -> None:
    rollups[""].users = Uniques()


def other_user(rollups: Rollups) -> None:
    rollups[""].users = Uniques([*sorted(rollups[""].users.hashes)[1:], b"nobody"])


def other_buckets(rollups: Rollups) -> None:
    buckets = rollups[""].measures["amount"].buckets
    buckets[max(buckets) + 100] = buckets.pop(max(buckets))


def other_minute(rollups: Rollups) -> None:
    rollups[HOUR].minutes[59] = rollups[HOUR].minutes.pop(1)


@pytest.mark.parametrize(
    ("event_type", "key", "change", "told"),
    [
        ("sale", f"n|country#h#{HOUR}", wrong_sum, [("n|country", "country=FR sum amount", 24.5, 14.5)]),
        ("sale", f"u#h#{HOUR}", no_users, [("u", "users", 0, 4)]),
        ("sale", f"u#h#{HOUR}", other_user, [("u", "users", 4, 4)]),
        ("sale", f"q:amount#h#{HOUR}", other_buckets, [("q:amount", "buckets amount", 5, 5)]),
        ("click", f"n#d#{DAY}", two_more, [("n", "count", 5, 3)]),
        (ALL_TYPES, f"u#h#{HOUR}", no_users, [("u", "users", 0, 4)]),
        ("sale", f"n#d#{DAY}", other_minute, [("n", "minute 1", 0, 1), ("n", "minute 59", 1, 0)]),
    ],
)
def test_every_kind_of_number_is_compared(
    world: World, event_type: str, key: str, change: Any, told: list[tuple[Any, ...]]
) -> None:
    right = world.answers()
    world.change(event_type, key, change)

    done = world.hour()

    assert [(d.facet, d.number, d.shown, d.stored) for d in done.differences] == told
    assert (done.state, world.hour().state, world.day().state) == (REPAIRED, AGREES, AGREES)
    assert world.answers() == right


def test_items_that_were_lost_are_written_again(world: World) -> None:
    right = world.answers()
    for key in (f"n#d#{DAY}", f"u#h#{HOUR}", f"q:amount#h#{HOUR}", f"u#d#{DAY}"):
        world.forget("sale", key)

    differences = world.hour().differences

    assert {each.facet for each in differences} == {"n", "u", "q:amount"}
    assert {each.number for each in differences} == {"items"}  # live items tell the numbers, as long as they are there
    assert world.day().state == AGREES
    assert world.answers() == right


def test_everything_lost_is_rebuilt_from_the_lake(world: World) -> None:
    right = world.answers()
    for item in world.items():
        key = {"pk": item["pk"], "sk": item["sk"]}
        world.stores.rollups.client.delete_item(TableName="rollups", Key=key)

    assert [world.hour(hour, force=True).state for hour in (HOUR, "2026-11-20T10")] == [REPAIRED, REPAIRED]
    assert world.answers() == right


def test_an_item_that_claims_epochs_yet_to_come_is_put_right(world: World) -> None:
    right = world.answers()
    client, key = world.stores.rollups.client, {"pk": {"S": "shop#sale#2026"}, "sk": {"S": f"u#h#{HOUR}"}}
    world.change("sale", key["sk"]["S"], no_users)
    item = client.get_item(TableName="rollups", Key=key, ConsistentRead=True)["Item"]
    client.put_item(TableName="rollups", Item={**item, "covers": {"M": {HOUR: {"S": "9:999999"}}}})

    assert (world.hour().state, world.hour().state) == (REPAIRED, AGREES)
    assert world.answers() == right
    world.now = NIGHT
    world.close(a_sale(10))
    assert world.hour() == Reconciled("shop", HOUR, AGREES, 9, [])


def test_an_item_that_claims_more_than_its_hour_has_closed_is_told_before_it_hides_what_comes_late(
    world: World,
) -> None:
    client, key = world.stores.rollups.client, {"pk": {"S": "shop#sale#2026"}, "sk": {"S": f"u#h#{HOUR}"}}
    item = client.get_item(TableName="rollups", Key=key, ConsistentRead=True)["Item"]
    cover, _ = item["covers"]["M"][HOUR]["S"].split(":")
    client.put_item(TableName="rollups", Item={**item, "covers": {"M": {HOUR: {"S": f"{cover}:999999"}}}})

    done = world.hour()

    assert [(d.event_type, d.facet, d.number) for d in done.differences] == [("sale", "u", "slots")]
    assert (done.state, world.hour().state) == (REPAIRED, AGREES)


@pytest.mark.parametrize("merged", [False, True])
def test_what_is_counted_and_on_its_way_to_the_lake_is_no_difference(world: World, merged: bool) -> None:
    world.receive(a_sale(20), archived=False)
    if merged:
        Compactor(world.stores.rollups, world.hours).compact(world.now + 120)
    before = world.stores.objects()

    assert world.hour() == Reconciled("shop", HOUR, WAITS)
    assert world.run() == 24
    assert world.stores.objects() == before


def test_forced_the_file_is_followed_where_live_numbers_were_lost_and_not_where_the_lake_lacks_them(
    world: World,
) -> None:
    world.receive(a_sale(20), archived=False)
    world.receive(a_sale(80), aggregated=False)
    Compactor(world.stores.rollups, world.hours).compact(world.now + 120)
    before = world.counts()

    assert world.hour(force=True, dirty_too=True).state == WAITS  # for what `archive` lost, which is counted
    assert world.hour("2026-11-20T10", force=True, dirty_too=True).state == REPAIRED  # what `aggregate` lost

    sales, users = before
    assert world.counts() == [sales + 1, users]


@pytest.mark.parametrize("comes", ["before it looks", "while it repairs"])
def test_a_repair_takes_no_event_for_lost_whose_file_came_before_its_delta(world: World, comes: str) -> None:
    sales, users = world.counts()
    late: list[dict[str, Any]] = []
    world.now = NIGHT

    def archive_one_more() -> None:
        late.extend([] if late else world.receive(a_sale(20), aggregated=False))

    if comes == "before it looks":
        archive_one_more()
    else:
        world.change("sale", f"n#d#{DAY}", two_more)
        world.dynamodb = Mortal(world.stores.rollups.client, look=archive_one_more)
    done = world.hour(dirty_too=True)
    world.aggregate(late)
    world.consolidate()

    assert done.state == WAITS
    assert world.counts() == [sales + 1, users]
    assert world.hour().state == AGREES


def test_a_day_that_is_not_the_sum_of_its_hours_is_put_together_again(world: World) -> None:
    right = world.answers()
    world.change("sale", f"u#d#{DAY}", no_users)
    wrong = world.items()

    assert world.hour().state == AGREES
    assert world.day(repair=False).differences == [Difference(DAY, "sale", "u", "users", 0, 4)]
    assert world.items() == wrong
    assert (world.day().state, world.day().state) == (REPAIRED, AGREES)
    assert world.answers() == right


def test_sessions_that_were_lost_are_counted_again(world: World) -> None:
    world.hour(force=True)  # which counts sessions as well
    world.reconciler.finisher.closer.close_days("shop", NIGHT * 1000)
    lost = [item for item in world.stores.items("rollups") if item["pk"]["S"].startswith("shop#(sessions)#")]
    assert world.day().state == AGREES
    for item in lost:
        world.stores.rollups.client.delete_item(TableName="rollups", Key={name: item[name] for name in ("pk", "sk")})

    assert world.day(repair=False).state == DIFFERS
    done = world.day()

    assert (done.state, [each.event_type for each in done.differences]) == (REPAIRED, ["(sessions)"])
    again = [item for item in world.stores.items("rollups") if item["pk"]["S"].startswith("shop#(sessions)#")]
    assert {item["sk"]["S"] for item in again} == {item["sk"]["S"] for item in lost}
    assert world.day().state == AGREES


def test_an_hour_whose_files_are_gone_is_told_and_left_alone(world: World) -> None:
    for key in world.stores.objects(hour_folder("shop", HOUR)):
        world.stores.bucket.delete(key)
    before = world.items()

    done = world.hour()

    assert (done.state, done.differences[0].stored) == (NO_FILE, 0)
    assert world.items() == before


def test_a_dirty_hour_waits_for_its_consolidation_unless_it_is_asked_for(world: World) -> None:
    world.hours.note("shop", HOUR)
    world.change("sale", f"n#d#{DAY}", two_more)

    assert world.hour() == Reconciled("shop", HOUR, WAITS)
    assert world.hour(repair=False, dirty_too=True) == Reconciled("shop", HOUR, WAITS)
    assert world.hours.get("shop", HOUR).is_dirty
    assert world.hour(dirty_too=True).state == REPAIRED
    assert world.hour().state == AGREES


def test_forced_an_hour_is_written_again_and_no_answer_changes(world: World) -> None:
    right, before = world.answers(), world.items()

    assert [world.hour(force=True).state for _ in range(2)] == [REPAIRED, REPAIRED]
    assert world.answers() == right
    assert world.items() != before


def test_dying_at_any_write_is_finished_by_whoever_comes_next() -> None:
    with empty_stores() as stores:
        world = World(stores, contracts=PLAIN)
        world.close(a_sale(1), a_sale(2))
        right = world.counts()

        deaths, died = 0, True
        while died:
            world.change("sale", f"n#d#{DAY}", two_more)
            world.change("sale", f"u#d#{DAY}", no_users)
            life: list[str] = []
            both = (stores.rollups.client, stores.bucket.client)
            clients = [Mortal(client, deaths + 1, life=life) for client in both]
            mortal = World(stores, clients[0], clients[1], runs=world.runs, contracts=PLAIN)
            try:
                mortal.hour(dirty_too=True)
                mortal.day()
                died = False
            except Died:
                deaths += 1
                world.hour(dirty_too=True)
                world.day()
            assert world.counts() == right
        assert (world.hour().state, world.day().state) == (AGREES, AGREES)
        assert deaths > 15


def test_an_hour_left_dirty_by_a_run_that_died_is_closed_by_the_schedule(world: World) -> None:
    right = world.answers()
    world.change("sale", f"n#d#{DAY}", two_more)
    mortal = World(world.stores, Mortal(world.stores.rollups.client, 3), runs=world.runs)
    with pytest.raises(Died):
        mortal.hour()
    assert world.hour().state == WAITS

    world.now = NIGHT
    world.consolidate()

    assert world.hour().state == AGREES
    assert world.answers() == right


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int]]:
    """What the runs measured."""
    found = [record.__dict__ for record in caplog.records if "HoursReconciled" in record.__dict__]
    return [(each["HoursReconciled"], each["NumbersDrifted"]) for each in found]


def test_a_night_compares_yesterday_and_measures_what_it_finds(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    right = world.answers()
    world.change("sale", f"n#d#{DAY}", two_more)
    world.change("click", f"u#d#{DAY}", no_users)

    assert [world.run(), world.run()] == [24, 0]

    assert world.answers() == right
    assert told(caplog) == [(24, 1), (0, 0)]  # the day was put together again with its hour


def test_a_run_whose_time_is_up_is_continued_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hours: list[str] = []
    compare = Reconciler.hour

    def slow(self: Reconciler, project: str, hour: str, now: int, **how: bool) -> Reconciled:
        world.seconds += FUNCTION_SECONDS / 10
        hours.append(hour)
        return compare(self, project, hour, now, **how)

    monkeypatch.setattr(Reconciler, "hour", slow)

    counts = [world.run() for _ in range(4)]

    assert sum(counts) == 24
    assert max(counts) <= 11
    assert hours == hours_due(None, NIGHT)


def test_a_day_whose_comparison_failed_is_compared_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = world.answers()
    world.change("click", f"u#d#{DAY}", no_users)
    compare, failed = Reconciler.day, list[int]()

    def at_first_not(self: Reconciler, *arguments: Any, **how: Any) -> Reconciled:
        if not failed:
            failed.append(1)
            raise OSError("storage does not answer")
        return compare(self, *arguments, **how)

    monkeypatch.setattr(Reconciler, "day", at_first_not)
    with pytest.raises(ExceptionGroup, match="1 projects were not reconciled"):
        world.run()

    assert world.run() == 1  # the day's last hour, and the day with it
    assert world.answers() == right


def test_a_project_that_cannot_be_compared_keeps_no_other_from_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = Reconciler.hour

    def broken(self: Reconciler, project: str, hour: str, now: int, **how: bool) -> Reconciled:
        if project == "blog":
            raise OSError("no file system")
        return compare(self, project, hour, now, **how)

    monkeypatch.setattr(Reconciler, "hour", broken)

    with pytest.raises(ExceptionGroup, match="1 projects were not reconciled"):
        world.reconciler.run(["blog", "shop"], NIGHT)
    assert world.stores.closed.reconciled_upto("shop") == "2026-11-20T23"
    assert world.stores.closed.reconciled_upto("blog") is None


def test_the_hours_that_are_due() -> None:
    assert hours_due(None, NIGHT) == [f"2026-11-20T{hour:02}" for hour in range(24)]
    assert hours_due("2026-11-20T21", NIGHT) == ["2026-11-20T22", "2026-11-20T23"]
    assert hours_due("2026-11-20T23", NIGHT) == []
    assert hours_due("2026-11-19T23", NIGHT - 3600) == []  # yesterday may not be all there yet
    assert len(hours_due("2026-01-01T00", NIGHT)) == 7 * 24
