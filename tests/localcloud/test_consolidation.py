"""Consolidation under the eyes of readers: killed at every write in turn, and asked between any two."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from chalicelib.storage.dirty_hours import DirtyHours

from chalicelib.archive import Archiver
from chalicelib.consolidate import Consolidator
from chalicelib.domain.chunks import Message, chunks_of
from chalicelib.domain.partitions import hour_folder
from chalicelib.domain.query_requests import ROWS, QueryRequest
from chalicelib.domain.snapshots import Open, Snapshot
from chalicelib.domain.sql import confine, read
from chalicelib.domain.time_windows import HOUR_MS, MINUTE_MS, from_ms
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.lake import Lake
from chalicelib.storage.objects import DataBucket
from tests.localcloud.analysts import Place
from tests.localcloud.conftest import Services
from tests.stores import stream_record

NINE = 1_795_251_600_000
HOUR = "2026-11-21T09"
FOLDER = hour_folder("demo", HOUR)
SQL = "SELECT event_id, to_iso8601(received_at) FROM events WHERE dt = '2026-11-21'"
QUERY = QueryRequest(SQL, None, {}, ROWS, 1000)
SHARES = 8  # of the writes to die before, one test each
WRITES = {"PutObject", "DeleteObject", "UpdateItem", "DeleteItem", "CompleteMultipartUpload"}


class Died(BaseException):
    """The process was killed, which no handler of exceptions notices."""


@dataclass
class World:
    """A lake, its readers, and a process that dies before the write of a number."""

    services: Services
    at: int = 0
    watched: int = 1000  # writes from then on
    now_ms: int = NINE
    writes: int = 0
    between: Callable[[], None] = lambda: None
    floor: set[str] = field(default_factory=set)  # what a query has to find
    ceiling: set[str] = field(default_factory=set)  # what it may find

    def __post_init__(self) -> None:
        place = Place(self.services)
        self.bucket, self.table, self.analyst = place.bucket, place.table, place.analyst
        # Clients of their own for the process that dies; those of the readers are the services'.
        clients = {service: self._client(service) for service in ("s3", "dynamodb")}
        self.lake = Lake(DataBucket(clients["s3"], self.bucket))
        self.dirty = DirtyHours(clients["dynamodb"], self.table, lambda: self.now_ms / 1000)
        self.erased = ErasedUsers(clients["dynamodb"], place.table)
        self.clock = 0.0
        self.consolidator = Consolidator(
            self.lake, self.dirty, "test", lambda: uuid.uuid4().hex[:8], lambda: self.clock
        )

    def _client(self, service: str) -> Any:
        client = boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.services.port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.meta.events.register("before-call", self._before)
        return client

    def _before(self, model: Any, **_: Any) -> None:
        if model.name in WRITES:
            if self.at <= self.writes < self.at + self.watched:
                self.between()
            self.writes += 1
            if self.writes == self.at:
                raise Died

    def archive(self, first: int, events: list[tuple[str, int]], received_ms: int) -> None:
        """Bring events (id, minute of the hour) as a stream batch, whose first record has that number."""
        self.ceiling |= {event_id for event_id, _ in events}
        batch = []
        for number, (event_id, minute) in enumerate(events):
            event = {
                "event_id": event_id,
                "event_type": "click",
                "user_id": "u",
                "occurred_at": NINE + minute * MINUTE_MS,
            }
            [chunk] = chunks_of(Message("demo", received_ms, [event]))
            record = stream_record(chunk, first + number)
            record["dynamodb"]["ApproximateCreationDateTime"] = first
            batch.append(record)
        self.surely(lambda: Archiver(self.lake, self.dirty, self.erased).archive(batch))

    def run(self) -> None:
        """The schedule, until it lives through a run."""
        self.surely(lambda: self.consolidator.run(self.now_ms))

    def surely(self, work: Callable[[], object]) -> None:
        """As the trigger does: again, when the process dies, and after a while."""
        for _ in range(3):
            try:
                work()
            except Died:
                self.now_ms += 16 * MINUTE_MS
            else:
                return
        raise AssertionError("it dies every time")

    def seen(self) -> list[tuple[str, str]]:
        """(event id, when it was received) of every row that a query finds now."""
        answer = self.analyst.run(QUERY, "demo", from_ms(self.now_ms))
        return [tuple(row) for row in answer["rows"]]

    def check(self) -> None:
        """What is seen now: nothing twice, nothing missing, nothing that was not sent."""
        ids = [event_id for event_id, _ in self.seen()]
        assert len(ids) == len(set(ids))
        assert self.floor <= set(ids) <= self.ceiling

    def story(self) -> None:
        """An hour is consolidated, opened again by late events and a longer retry, settles, and is opened once more."""
        first = [(f"a{n}", 10 + n) for n in range(5)]
        second = [("b0", 20), ("a1", 11), ("b1", 5), ("a3", 30)]
        self.archive(100, first, NINE + 40 * MINUTE_MS)
        self.floor |= {event_id for event_id, _ in first}
        self.archive(200, second, NINE + 41 * MINUTE_MS)
        self.floor |= {event_id for event_id, _ in second}
        self.now_ms = max(self.now_ms, NINE + HOUR_MS + 11 * MINUTE_MS)
        self.run()
        self.archive(300, [("c0", 59), ("a0", 10), ("c1", 0)], self.now_ms)
        self.floor |= {"c0", "c1"}
        self.archive(200, [*second, ("b2", 21)], NINE + 41 * MINUTE_MS)  # the retried batch is longer
        self.wait(30)
        self.floor |= {"b2"}
        self.wait(80)
        # The hour is settled, and opened once more.
        self.archive(400, [("d0", 1), ("a0", 10)], self.now_ms)
        self.floor |= {"d0"}
        self.wait(80)

    def wait(self, minutes: int) -> None:
        """The schedule goes on."""
        until = self.now_ms + minutes * MINUTE_MS
        while self.now_ms < until:
            self.now_ms += 10 * MINUTE_MS
            self.run()


def assert_settled(world: World) -> None:
    assert world.dirty.all() == []
    names = list(world.lake.files(FOLDER))
    assert len(names) == 1
    assert names[0].startswith("hour-")
    world.check()
    received = dict(world.seen())
    assert received.keys() == world.floor == world.ceiling
    assert received["a0"].startswith("2026-11-21T09:40")  # of its three rows, the one received first
    assert received["a3"].startswith("2026-11-21T09:40")


def test_a_story_without_a_death_is_read_right_between_any_two_writes(services: Services) -> None:
    world = World(services)
    world.between = world.check

    world.story()

    assert_settled(world)
    assert world.writes > 15


def test_a_query_finds_what_there_was_when_it_began_however_late_its_files_are_listed(services: Services) -> None:
    world = World(services)
    begun: list[tuple[int, str, set[str]]] = []

    def between() -> None:
        for began_ms, query, ids in begun:
            if world.now_ms - began_ms <= 30 * MINUTE_MS:  # Athena ends a query then
                found = [row[0] for row in world.analyst.athena.rows(finished(world, query), 100).rows]
                assert len(found) == len(set(found))
                assert ids <= set(found)
        hours = [Open(u.hour, u.version, u.upto) for u in world.analyst.dirty.of("demo")] + [Open("2026-11-21T20")]
        query = confine(
            read(SQL),
            project="demo",
            lake_table=world.analyst.athena.lake_table,
            snapshot=Snapshot(world.now_ms, hours),
        )
        begun.append((world.now_ms, query, set(world.floor)))

    world.between = between

    world.story()

    assert_settled(world)


def finished(world: World, query: str) -> str:
    query_id = world.analyst.athena.start(query)
    until = time.monotonic() + 10
    while (state := world.analyst.athena.state(query_id)).state in ("QUEUED", "RUNNING"):
        assert time.monotonic() < until
        time.sleep(0.002)
    assert state.state == "SUCCEEDED", state.reason
    return query_id


@pytest.mark.parametrize("first", range(1, SHARES + 1))
def test_killed_before_every_write_in_turn_nothing_is_lost_doubled_or_misread(services: Services, first: int) -> None:
    at, died = first, True
    while died:
        # Before it dies, all is as in the story without a death; ten writes later, the dead run was made good.
        world = World(services, at=at, watched=10)
        world.between = world.check

        world.story()

        assert_settled(world)
        died = world.writes >= at
        at += SHARES
    assert at > 30
