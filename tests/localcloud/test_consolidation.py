"""The life of an hour under the eyes of readers: killed at every write in turn, and asked between any two."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import boto3
import pytest

from chalicelib.aggregate import Aggregator
from chalicelib.archive import Archiver
from chalicelib.compact import Compactor
from chalicelib.domain.chunks import Message, chunks_of
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.domain.partitions import hour_folder
from chalicelib.domain.query_requests import ROWS, QueryRequest
from chalicelib.domain.time_windows import HOUR_MS, MINUTE_MS, from_ms, hour_of
from chalicelib.finish import Finisher
from chalicelib.query import GOING_ON
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.hours_table import HoursTable
from chalicelib.storage.lake import Lake
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.rollups_table import RollupsTable
from tests.hours import finisher_of
from tests.localcloud.analysts import Place
from tests.localcloud.services import Services
from tests.stores import stream_record

NINE = 1_795_251_600_000
HOUR = "2026-11-21T09"
FOLDER = hour_folder("demo", HOUR)
OVER = NINE + HOUR_MS + 11 * MINUTE_MS
SQL = "SELECT event_id, to_iso8601(received_at) FROM events WHERE dt = '2026-11-21'"
QUERY = QueryRequest(SQL, None, {}, ROWS, 1000)
CONTRACTS = Contracts({})
CLICK = {"event_type": "click", "user_id": "u"}
APART = int(os.environ.get("DEATHS_APART", "9"))  # writes from one to die before to the next; 1: each, in five minutes


class Died(BaseException):
    """The process was killed, which no handler of exceptions notices."""


@dataclass
class World:
    """A lake, its readers, and a process that dies before the write of a number.

    Counted are the writes that a query may see something of: objects, but for sessions, and the items of hours. What
    is live and closed is written by others, or dies in tests/test_close.py.
    """

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
        self.place, self.bucket, self.table, self.analyst = place, place.bucket, place.table, place.analyst
        self.runs = count()
        # Clients of their own for the process that dies; those of everybody else are the services'.
        self.mortal = {service: self._client(service) for service in ("s3", "dynamodb")}
        dynamodb = self.services.client("dynamodb")
        self.rollups = RollupsTable(dynamodb, self.table, lambda: self.now_ms / 1000)
        self.hours = HoursTable(dynamodb, self.table, lambda: self.now_ms / 1000)
        self.markers = ErasedUsers(dynamodb, self.table)
        self.lake = Lake(DataBucket(self.services.client("s3"), self.bucket))
        # Knows until the end who was erased when it first looked.
        known = ErasedUsers(dynamodb, self.table, lambda: 0.0)
        hours = HoursTable(self.mortal["dynamodb"], self.table, lambda: self.now_ms / 1000)
        self.archiver = Archiver(Lake(DataBucket(self.mortal["s3"], self.bucket)), hours, known)

    def finisher(self, dynamodb: Any = None, s3: Any = None) -> Finisher:
        """That of the process that dies, unless it is given other clients."""
        return finisher_of(
            CONTRACTS,
            dynamodb or self.mortal["dynamodb"],
            s3 or self.mortal["s3"],
            lambda: self.now_ms,
            self.runs,
            places=(self.bucket, self.table, self.table, self.table),
        )

    @property
    def another(self) -> Finisher:
        """That of another process, which lives."""
        return self.finisher(self.services.client("dynamodb"), self.services.client("s3"))

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

    def _before(self, model: Any, params: Any, **_: Any) -> None:
        if is_seen(model.name, params):
            if self.at <= self.writes < self.at + self.watched:
                self.between()
            self.writes += 1
            if self.writes == self.at:
                raise Died

    def archive(self, first: int, events: list[tuple[str, int]], received_ms: int, *, user: str = "u") -> None:
        """Bring events (id, minute of the hour) as a stream batch, whose first record has that number."""
        self.ceiling |= {event_id for event_id, _ in events}
        batch = []
        for number, (event_id, minute) in enumerate(events):
            event = {**CLICK, "event_id": event_id, "user_id": user, "occurred_at": NINE + minute * MINUTE_MS}
            [chunk] = chunks_of(Message("demo", received_ms, [event]))
            batch.append(stream_record(chunk, first + number))
        Aggregator(CONTRACTS, self.rollups, self.lake.bucket).aggregate(batch, self.now_ms)
        self.surely(lambda: self.archiver.archive(batch))
        self.floor |= {event_id for event_id, _ in events}
        if not self.at or self.at <= self.writes < self.at + self.watched:
            self.check()  # it is seen at once, wherever its file's name stands among the others

    def archive_without_note(self, first: int, event_id: str) -> None:
        """Bring an event whose archiver dies between its put and its note, for good."""
        self.ceiling |= {event_id}
        [chunk] = chunks_of(Message("demo", NINE, [{**CLICK, "event_id": event_id, "occurred_at": NINE}]))
        record = stream_record(chunk, first)
        Aggregator(CONTRACTS, self.rollups, self.lake.bucket).aggregate([record], self.now_ms)
        self.at = self.writes + 2
        with pytest.raises(Died):
            self.archiver.archive([record])
        self.at = 0

    def run(self) -> None:
        """The schedules, until a run is lived through."""

        def hourly() -> None:
            Compactor(self.rollups, self.hours, workers=1).compact(self.now_ms // 1000)
            found = self.finisher().consolidate_due(self.now_ms)
            assert found["failed"] == 0
            self.finisher().finish_all(found["hours"], self.now_ms)

        self.surely(hourly)

    def erase(self, user: str, *event_ids: str) -> None:
        """Have the hour written without a user's rows; nobody finds them from then on."""
        self.floor -= {*event_ids}
        self.markers.put("demo", Marker(digest_of_user("demo", user), self.now_ms, FOR_EVER_MS))
        self.surely(lambda: self.finisher().finish("demo", HOUR, self.now_ms, anew=True))
        self.ceiling -= {*event_ids}

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
        return self.rows(self.ask())

    def ask(self) -> str:
        """The id of a query that begins now."""
        answer: str = self.analyst.run(QUERY, "demo", from_ms(self.now_ms))["id"]
        return answer

    def rows(self, query_id: str) -> list[tuple[str, str]]:
        """What it finds, however long that takes on a busy machine."""
        until = time.monotonic() + 120
        while (state := self.analyst.athena.state(query_id)).state in GOING_ON:
            assert time.monotonic() < until
            time.sleep(0.002)
        assert state.state == "SUCCEEDED", state.reason
        return [tuple(row) for row in self.analyst.athena.rows(query_id, 1000).rows]

    def check(self) -> None:
        """What is seen now: nothing twice, nothing missing, nothing that was not sent or that was erased."""
        ids = [event_id for event_id, _ in self.seen()]
        assert len(ids) == len(set(ids))
        assert self.floor <= set(ids) <= self.ceiling

    def story(self) -> None:
        """An hour is consolidated, opened by late events, a longer retry and another shard, erased of a user, settles,
        and is opened once more.
        """
        self.archive(100, [(f"a{n}", 10 + n) for n in range(5)], NINE + 40 * MINUTE_MS)
        second = [("b0", 20), ("a1", 11), ("b1", 5), ("a3", 30)]
        self.archive(200, second, NINE + 41 * MINUTE_MS)
        self.archive(210, [("gone0", 33)], NINE + 42 * MINUTE_MS, user="gone")
        self.now_ms = max(self.now_ms, OVER)
        self.run()
        self.archive(300, [("c0", 59), ("a0", 10), ("c1", 0)], self.now_ms)
        # Another shard, whose consumer is behind: its file's name stands before those of what was absorbed.
        self.archive(150, [("e0", 44), ("a2", 12)], NINE + 41 * MINUTE_MS)
        self.archive(200, [*second, ("b2", 21)], NINE + 41 * MINUTE_MS)  # the retried batch is longer
        self.erase("gone", "gone0")
        self.settle()
        # The hour is settled, and opened once more, also by what a function brings that does not know who is erased.
        self.archive(400, [("d0", 1), ("a0", 10)], self.now_ms)
        self.archive(410, [("gone1", 2)], self.now_ms, user="gone")
        self.floor -= {"gone1"}
        self.settle()
        self.ceiling -= {"gone1"}

    def settle(self) -> None:
        """The schedule goes on until nothing is left to do."""
        for _ in range(20):
            if self.hours.unsettled("demo") == []:
                return
            self.now_ms += 40 * MINUTE_MS
            self.run()
        raise AssertionError(f"still {self.hours.unsettled('demo')}")


def is_seen(call: str, params: Any) -> bool:
    """Whether a query may see something of what the call writes."""
    if call in ("PutObject", "DeleteObject", "CompleteMultipartUpload"):
        return "/sessions/" not in params["url_path"]
    return call == "UpdateItem" and b'demo#hours"' in params["body"]


def assert_settled(world: World) -> None:
    assert world.hours.unsettled("demo") == []
    names = list(world.lake.files(FOLDER))
    assert len(names) == 1
    assert names[0].startswith("hour-")
    for folder in ("manifests", "records"):
        assert len(world.lake.bucket.sizes(FOLDER.replace("lake/", f"{folder}/"))) == 1
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
    assert world.writes > 50


def test_a_query_finds_what_there_was_when_it_began_however_late_its_files_are_listed(services: Services) -> None:
    world = World(services)
    begun: list[tuple[int, str, set[str]]] = []

    def between() -> None:
        for began_ms, query, ids in begun[-8::2]:
            if world.now_ms - began_ms <= 30 * MINUTE_MS:  # Athena ends a query then
                found = [row[0] for row in world.rows(world.analyst.athena.start(query))]
                assert len(found) == len(set(found))
                assert ids <= set(found)
        begun.append((world.now_ms, world.analyst.athena.state(world.ask()).sent, set(world.floor)))

    world.between = between

    world.story()

    assert_settled(world)


def test_killed_before_a_write_nothing_is_lost_doubled_or_misread(services: Services) -> None:
    at, died = 1, True
    while died:
        # Before it dies, all is as in the story without a death; ten writes later, the dead run was made good.
        world = World(services, at=at, watched=10)
        world.between = world.check

        world.story()

        assert_settled(world)
        died = world.writes >= at
        at += APART
    assert at > 50


@pytest.mark.parametrize("first", range(1, 5))
def test_who_is_late_with_an_older_version_changes_nothing_for_readers(services: Services, first: int) -> None:
    """Before each write of a consolidation in turn, another process consolidates: a late event more, a user less."""
    for at in range(first, 20, 4):
        world = World(services)
        world.archive(100, [("a0", 10), ("a1", 11)], NINE + 40 * MINUTE_MS)
        world.archive(200, [("gone0", 12)], NINE + 41 * MINUTE_MS, user="gone")
        world.now_ms = OVER
        begun = world.writes
        came: list[int] = []

        def another(world: World = world, at: int = at, begun: int = begun, came: list[int] = came) -> None:
            if world.writes == begun + at - 1 and not came:
                came.append(at)
                writes, world.archiver = world.archiver, replace(world.archiver, hours=world.hours, lake=world.lake)
                world.archive(50, [("late", 13)], NINE + 42 * MINUTE_MS)
                world.archiver = writes
                world.floor -= {"gone0"}
                world.markers.put("demo", Marker(digest_of_user("demo", "gone"), world.now_ms, FOR_EVER_MS))
                world.another.finish("demo", HOUR, world.now_ms, anew=True)
                world.ceiling -= {"gone0"}
            world.check()

        world.between = another
        world.run()
        if not came:
            break
        world.settle()
        assert {event_id for event_id, _ in world.seen()} == {"a0", "a1", "late"} == world.ceiling
        assert len(world.lake.files(FOLDER)) == 1
    assert at > 6


@pytest.mark.parametrize("first", range(1, 5))
def test_a_run_that_dies_at_a_settled_hour_leaves_nothing_that_a_query_takes_for_the_hours(
    services: Services, first: int
) -> None:
    """A tail that nobody noted brought it there; half an hour later its files are old enough for any query."""
    for at in range(first, 20, 4):
        world = World(services)
        world.archive(100, [("a0", 10), ("a1", 11)], NINE + 40 * MINUTE_MS)
        world.now_ms = OVER
        world.run()
        world.settle()
        world.archive_without_note(200, "b0")

        world.at = world.writes + at
        try:
            world.finisher().finish("demo", HOUR, world.now_ms)
            died = False
        except Died:
            died = True
        world.at = 0
        for _ in range(6):
            world.check()
            world.now_ms += 10 * MINUTE_MS
        if not died:
            break
        world.settle()
        world.check()
    assert at > 6


def test_a_tail_that_nobody_noted_is_seen_once_the_schedule_has_found_it(services: Services) -> None:
    world = World(services)
    world.archive(100, [("a0", 10)], NINE + 40 * MINUTE_MS)
    world.now_ms = OVER
    world.run()
    world.archive_without_note(50, "b0")
    assert [row[0] for row in world.seen()] == ["a0"]

    world.run()

    assert sorted(row[0] for row in world.seen()) == ["a0", "b0"]
    world.floor |= {"b0"}
    world.settle()
    world.check()


@pytest.mark.parametrize("dirty", [False, True])
def test_with_more_open_hours_than_are_looked_into_no_replaced_version_is_read(services: Services, dirty: bool) -> None:
    """As in the hour after an erasure of hundreds of hours."""
    world = World(services)
    world.archive(100, [("a0", 10)], NINE + 40 * MINUTE_MS)
    world.archive(200, [("gone0", 12)], NINE + 41 * MINUTE_MS, user="gone")
    world.now_ms = OVER
    world.run()
    world.erase("gone", "gone0")
    for name in world.lake.files(FOLDER):
        if name.startswith("tail-") and dirty:  # those that it took in are read with their copies left out
            world.lake.delete(FOLDER + name)
    assert len(world.lake.files(FOLDER)) == (2 if dirty else 4)
    for number in range(201):
        world.hours.note("demo", hour_of(NINE - (number + 1) * HOUR_MS))
    if dirty:
        world.hours.note("demo", HOUR)

    world.check()

    assert len(world.hours.unsettled("demo")) == 202
    assert [row[0] for row in world.seen()] == ["a0"]
