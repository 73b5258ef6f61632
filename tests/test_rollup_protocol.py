"""The rollup protocol on the real table: whatever is retried, grown, interleaved or killed, each record counts once.

The design's executable model states the protocol; here the same histories run through Aggregator, Compactor and
RollupsTable. Before each call of the SDK another actor may act, and before or after it the process may die.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from chalicelib.aggregate import Aggregator
from chalicelib.compact import SETTLE_SECONDS, Compactor
from chalicelib.domain.chunks import Message, chunks_of
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import HourView
from chalicelib.storage.hours_table import HoursTable
from chalicelib.storage.rollups_table import RollupsTable
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

    history.now += SETTLE_SECONDS + 1
    while list(history.plain.settled_deltas(history.now)):
        history.alone("compact", lambda: history.compactor.compact(history.now + SETTLE_SECONDS))
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
                **{k: v for k, v in arguments.items() if k != "ConditionExpression"}
            )

    mutant = replace(stores, rollups=RollupsTable(Unconditional(), "rollups"))

    assert breaks(mutant, "put")


def test_a_reader_that_ignores_what_was_absorbed_counts_twice(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        HourView, "of", classmethod(lambda cls, hour, deltas, merged: cls(hour, list(deltas), list(merged)))
    )

    assert breaks(stores, "read")
