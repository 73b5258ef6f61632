"""The rollup protocol on the real table: whatever is retried, grown, interleaved or killed, each record counts once.

The design's executable model states the protocol; here the same histories run through Aggregator, Compactor and
RollupsTable. Before each call of the SDK another actor may act, and before or after it the process may die.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from chalicelib.base import waits
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contracts
from chalicelib.hours import compact
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.rollups.deltas import HourView, Merged
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.rollups import merge_all
from chalicelib.rollups.rollups_table import RollupsTable, base_name
from tests.stores import Stores, empty_stores, stream_record

HOURS = (1_795_226_400_000, 1_795_230_000_000)  # two consecutive hours
NAMES = ("2026-11-21T02", "2026-11-21T03")


MAX_DEPTH = 2


class Died(BaseException):
    """The process was killed, which no handler of exceptions notices."""


class Unreliable:
    """A client before whose calls others may act, and around whose calls the process may die."""

    def __init__(self, client: Any, before: Callable[[], None], dies: Callable[[], bool]) -> None:
        self._client, self._before, self._dies = client, before, dies

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name == "get_paginator":
            return lambda operation: UnreliablePages(found(operation), self._before)
        if name not in ("put_item", "get_item", "transact_write_items", "query"):
            return found

        def call(**arguments: Any) -> Any:
            self._before()
            if self._dies():
                raise Died
            answer = found(**arguments)
            if self._dies():
                raise Died
            return answer

        return call


class UnreliablePages:
    """Pages between which others may act."""

    def __init__(self, paginator: Any, before: Callable[[], None]) -> None:
        self._paginator, self._before = paginator, before

    def paginate(self, **arguments: Any) -> Iterator[Any]:
        self._before()
        for page in self._paginator.paginate(**arguments, PaginationConfig={"PageSize": 8}):
            yield page
            self._before()


class History:
    """One random history of shards, an aggregator for each, a compactor and readers."""

    def __init__(self, seed: int, stores: Stores, prefix: str) -> None:
        self.random = random.Random(seed)
        self.now = 1_000_000
        self.project = prefix
        client = Unreliable(stores.rollups.client, self.interrupt, lambda: self.random.random() < 0.02)
        self.rollups = RollupsTable(client, "rollups", clock=lambda: self.now)
        self.aggregator = Aggregator(Contracts({}), self.rollups, stores.bucket)
        self.compactor = Compactor(self.rollups, HoursTable(client, "rollups"), workers=1)
        self.attempts = count()
        self.plain = RollupsTable(stores.rollups.client, "rollups")
        self.shards: list[list[dict[str, Any]]] = [[] for _ in range(self.random.randint(1, 3))]
        self.checkpoints = [0] * len(self.shards)
        self.retried: list[int | None] = [None] * len(self.shards)
        self.busy: set[object] = set()
        self.depth = 0  # of actors that interrupt actors
        self.accepted = 0
        self.visible = 0  # records that some reader has already been shown

    def interrupt(self) -> None:
        if self.depth < MAX_DEPTH and self.random.random() < 0.1:
            self.depth += 1
            self.step()
            self.depth -= 1

    def step(self) -> None:
        self.now += self.random.randint(1, 90)
        dice = self.random.random()
        if dice < 0.35:
            self.accept(self.random.randrange(len(self.shards)))
        elif dice < 0.7:
            self.alone(("aggregate", shard := self.random.randrange(len(self.shards))), lambda: self.aggregate(shard))
        elif dice < 0.85:
            self.alone("compact", lambda: self.compactor.compact(self.now))
        else:
            self.read()

    def alone(self, actor: object, act: Callable[[], object]) -> None:
        """A trigger runs one batch of a shard at a time."""
        if actor in self.busy:
            return
        self.busy.add(actor)
        try:
            act()
        except Died:
            pass
        finally:
            self.busy.discard(actor)

    def accept(self, shard: int) -> None:
        number = self.accepted
        self.accepted += 1
        event = {"event_id": f"e{number}", "event_type": "click", "occurred_at": self.random.choice(HOURS)}
        [chunk] = chunks_of(Message(self.project, HOURS[0], [event]))
        self.shards[shard].append(stream_record(chunk, number))

    def aggregate(self, shard: int) -> None:
        start = self.checkpoints[shard]
        size = self.random.randint(1, 5)
        if (before := self.retried[shard]) is not None:
            size = before + self.random.randint(0, 3)  # a retried batch starts where it did, and may have grown
        batch = self.shards[shard][start : start + size]
        if not batch:
            return
        self.retried[shard] = len(batch)
        self.aggregator.aggregate(batch, self.now * 1000 + next(self.attempts))
        if self.random.random() < 0.2:
            raise Died  # after the last write: the trigger does not learn of it
        self.checkpoints[shard], self.retried[shard] = start + len(batch), None

    def read(self) -> None:
        before = self.visible  # other readers may see more while this one reads
        shown = self.count(self.rollups)
        assert shown >= before, f"a reader missed {before - shown} records"
        assert shown <= self.accepted, f"a reader saw {shown - self.accepted} records twice"
        self.visible = max(self.visible, shown)

    def count(self, table: RollupsTable) -> int:
        views = table.read_live(self.project, *NAMES).values()
        return sum(rollup.count for view in views for rollup in view.total().values())

    def finish(self) -> None:
        """Let the triggers catch up, undisturbed by others but not by deaths."""
        self.depth = MAX_DEPTH
        for shard in range(len(self.shards)):
            while self.checkpoints[shard] < len(self.shards[shard]):
                self.alone(("aggregate", shard), lambda shard=shard: self.aggregate(shard))  # type: ignore[misc]
        assert self.count(self.plain) == self.accepted


def run(seed: int, stores: Stores, prefix: str, steps: int = 120) -> History:
    history = History(seed, stores, prefix)
    for _ in range(steps):
        history.step()
    history.finish()
    return history


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.mark.parametrize("seed", range(15))
def test_each_record_counts_once_whatever_happens(stores: Stores, seed: int) -> None:
    history = run(seed, stores, f"p{seed}")

    history.now += waits.MERGE_MS // 1000 + 1
    while list(history.plain.old_deltas(history.now)):
        history.alone("compact", lambda: history.compactor.compact(history.now + waits.MERGE_MS // 1000))
    assert history.count(history.plain) == history.accepted
    assert all(not history.plain.read_hour(history.project, hour).deltas for hour in NAMES)


def breaks(stores: Stores, name: str, seeds: int = 15) -> bool:
    for seed in range(seeds):
        try:
            run(seed, stores, f"{name}{seed}")
        except AssertionError:
            return True
    return False


def test_without_the_tombstone_condition_records_are_counted_twice(stores: Stores) -> None:
    real = stores.rollups.client

    class Unconditional:
        def __getattr__(self, name: str) -> Any:
            if name != "put_item":
                return getattr(real, name)
            return lambda **arguments: real.put_item(
                **{k: v for k, v in arguments.items() if k not in ("ConditionExpression", "ExpressionAttributeValues")}
            )

    mutant = stores.but(rollups=RollupsTable(Unconditional(), "rollups"))

    assert breaks(mutant, "put")


def test_a_reader_that_ignores_what_was_absorbed_counts_twice(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        HourView, "of", classmethod(lambda cls, hour, deltas, merged: cls(hour, list(deltas), list(merged)))
    )

    assert breaks(stores, "read")


# What is planted by tests/mutants, one rule each


def a_record(number: int, hour: int = 0) -> dict[str, Any]:
    event = {"event_id": f"e{number}", "event_type": "click", "occurred_at": HOURS[hour]}
    [chunk] = chunks_of(Message("demo", HOURS[0], [event]))
    return stream_record(chunk, number)


def counted(stores: Stores) -> int:
    views = stores.rollups.read_live("demo", *NAMES).values()
    return sum(rollup.count for view in views for rollup in view.total().values())


def test_an_earlier_attempt_that_is_late_changes_nothing(stores: Stores) -> None:
    aggregator = Aggregator(Contracts({}), stores.rollups, stores.bucket)
    records = [a_record(number) for number in range(5)]
    aggregator.aggregate(records[:2], 1000)
    [early] = stores.rollups.deltas_of("demo", NAMES[0])
    aggregator.aggregate(records, 2000)

    assert stores.rollups.put_delta(early) == 100_004  # a put that had timed out is done now
    assert counted(stores) == 5


def test_a_batch_that_comes_again_shorter_counts_once(stores: Stores) -> None:
    aggregator = Aggregator(Contracts({}), stores.rollups, stores.bucket)
    records = [a_record(number) for number in range(5)]
    aggregator.aggregate(records, 1000)

    aggregator.aggregate(records[:3], 2000)
    aggregator.aggregate(records[3:], 3000)

    assert counted(stores) == 5


def test_a_batch_that_begins_elsewhere_names_its_deltas_alike(stores: Stores) -> None:
    aggregator = Aggregator(Contracts({}), stores.rollups, stores.bucket)
    records = [a_record(0), a_record(1, hour=1)]

    aggregator.aggregate(records, 1000)
    aggregator.aggregate(records[1:], 2000)

    assert counted(stores) == 2


class OnePage:
    """A client whose pages of an index hold an item each; once the first one is read, something else is done."""

    def __init__(self, client: Any, meanwhile: Callable[[], Any]) -> None:
        self._client, self._meanwhile = client, [meanwhile]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_paginator(self, operation: str) -> Any:
        paginator = self._client.get_paginator(operation)

        class Pages:
            @staticmethod
            def paginate(**arguments: Any) -> Iterator[Any]:
                for page in paginator.paginate(**arguments, PaginationConfig={"PageSize": 1}):
                    yield page
                    if "IndexName" in arguments and self._meanwhile:
                        self._meanwhile.pop()()

        return Pages


def test_a_delta_that_is_written_again_between_two_pages_of_the_index_counts_once(stores: Stores) -> None:
    aggregator = Aggregator(Contracts({}), stores.rollups, stores.bucket)
    records = [a_record(number) for number in range(5)]
    aggregator.aggregate(records[:2], 1000)
    aggregator.aggregate([a_record(9)], 2000)

    def again() -> None:
        Aggregator(Contracts({}), replace(stores.rollups, clock=lambda: 5.0), stores.bucket).aggregate(records, 5000)

    rollups = replace(stores.rollups, client=OnePage(stores.rollups.client, again))

    [view] = rollups.read_live("demo", *NAMES).values()
    assert view.total()["click"].count == 6
    assert [delta.attempt for delta in view.deltas] == [5000, 2000]


def test_a_delta_that_is_written_again_while_compaction_reads_is_merged_once(stores: Stores) -> None:
    aggregator = Aggregator(Contracts({}), stores.rollups, stores.bucket)
    records = [a_record(number) for number in range(5)]
    aggregator.aggregate(records[:2], 1000)
    aggregator.aggregate([a_record(9)], 2000)
    client = OnePage(stores.rollups.client, lambda: aggregator.aggregate(records, 5000))

    absorbed = Compactor(replace(stores.rollups, client=client), stores.hours).compact(10_000)

    assert (absorbed, counted(stores)) == (2, 6)


def test_an_hour_that_is_noted_anew_between_two_pages_is_due_once(stores: Stores) -> None:
    names = [f"2026-11-20T{hour:02}" for hour in range(24)]  # so many that some lie beside each other in the index
    for hour in names:
        stores.hours.note("demo", hour)

    def settle_and_note() -> None:
        later = replace(stores.hours, clock=lambda: time.time() + 60)
        for hour in names:
            later.client.delete_item(TableName="rollups", Key={"pk": {"S": "demo#hours"}, "sk": {"S": hour}})
            later.note("demo", hour)

    hours = replace(stores.hours, client=OnePage(stores.hours.client, settle_and_note))

    assert sorted(hour.hour for hour in hours.waiting()) == names


def test_tombstones_outlive_what_the_stream_remembers(stores: Stores) -> None:
    Aggregator(Contracts({}), stores.rollups, stores.bucket).aggregate([a_record(0)], 1000)
    Compactor(replace(stores.rollups, clock=lambda: 1000), stores.hours).compact(1000)

    [tombstone] = [item for item in stores.items("rollups") if "tidemark" in item]
    assert int(tombstone["expires_at"]["N"]) > 1000 + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000


def test_two_folds_of_one_slot_lose_nothing(stores: Stores) -> None:
    """Both have read the same items; the second one has read the base of the first, or the one before."""
    aggregator = Aggregator(Contracts({}), stores.rollups, stores.bucket)
    for number in range(4):
        aggregator.aggregate([a_record(number)], 1000 + number * 60_000)
    Compactor(stores.rollups, stores.hours).compact(10_000)
    items = list(stores.rollups.read_merged("demo", *NAMES))
    name = base_name(NAMES[0], items[0].epoch, items[0].slot)

    def base_of(items: list[Merged], version: int) -> Merged:
        together = merge_all(item.rollups for item in items)
        folded = {item.name: 1 for item in items}
        return replace(items[0], name=name, rollups=together, absorbed={}, folded=folded, version=version)

    assert stores.rollups.fold("demo", items[:2], base_of(items[:2], 1))
    assert stores.rollups.fold("demo", items[2:3], base_of(items[:3], 2))

    assert not stores.rollups.fold("demo", items[3:], base_of([*items[:2], items[3]], 2))
    assert not stores.rollups.fold("demo", items[2:3], base_of([*items[:3], items[2]], 3))
    assert counted(stores) == 4


def test_a_reader_that_has_read_deltas_before_they_were_folded_counts_them_once(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "MIN_FOLD", 1)
    Aggregator(Contracts({}), stores.rollups, stores.bucket).aggregate([a_record(0)], 1000)
    deltas = stores.rollups.read_deltas("demo", *NAMES)
    compactor = Compactor(stores.rollups, stores.hours)
    compactor.compact(1000)
    Aggregator(Contracts({}), stores.rollups, stores.bucket).aggregate([a_record(1)], 1000)
    compactor.compact(1000 + waits.FOLD_MS // 1000 + 1)

    [view] = stores.rollups.views("demo", *NAMES, deltas).values()

    assert any(item.folded for item in view.merged)
    assert sum(rollup.count for rollup in view.total().values()) == 2
