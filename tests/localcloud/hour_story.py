"""The story of an hour, the lake in which it happens, its readers, and the process that dies in it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, from_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contracts
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.hours.compact import Compactor
from chalicelib.hours.finish import Finisher
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.rollups_table import RollupsTable
from chalicelib.sql.query import GOING_ON
from chalicelib.sql.query_requests import ROWS, QueryRequest
from tests.hours.finishing import finisher_of
from tests.localcloud.analysts import Place
from tests.localcloud.memory_place import MemoryPlace
from tests.stores import stream_record

NINE = 1_795_251_600_000
HOUR = "2026-11-21T09"
FOLDER = hour_folder("demo", HOUR)
OVER = NINE + HOUR_MS + 11 * MINUTE_MS
SQL = "SELECT event_id, to_iso8601(received_at) FROM events WHERE dt = '2026-11-21'"
QUERY = QueryRequest(SQL, None, {}, ROWS, 1000)
CONTRACTS = Contracts({})
CLICK = {"event_type": "click", "user_id": "u"}


class Died(BaseException):
    """The process was killed, which no handler of exceptions notices."""


@dataclass
class World:
    """A lake, its readers, and a process that dies before the write of a number.

    Counted are the writes that a query may see something of: objects, but for sessions, and the items of hours. What
    is live and closed is written by others, or dies in tests/hours/test_close.py.
    """

    place: MemoryPlace | Place
    at: int = 0
    watched: int = 1000  # writes from then on
    now_ms: int = NINE
    writes: int = 0
    between: Callable[[], None] = lambda: None
    floor: set[str] = field(default_factory=set)  # what a query has to find
    ceiling: set[str] = field(default_factory=set)  # what it may find

    def __post_init__(self) -> None:
        self.bucket, self.table, self.query_runner = self.place.bucket, self.place.table, self.place.query_runner
        self.runs = count()
        # Clients of their own for the process that dies.
        self.mortal = {service: self.place.telling_client(service, self._before) for service in ("s3", "dynamodb")}
        self.alive = {service: self.place.client(service) for service in ("s3", "dynamodb")}
        dynamodb = self.alive["dynamodb"]
        self.rollups = RollupsTable(dynamodb, self.table, lambda: self.now_ms / 1000)
        self.hours = HoursTable(dynamodb, self.table, lambda: self.now_ms / 1000)
        self.markers = ErasedUsers(dynamodb, self.table)
        self.lake = Lake(DataBucket(self.alive["s3"], self.bucket))
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
        return self.finisher(self.alive["dynamodb"], self.alive["s3"])

    def _before(self, operation: str, arguments: dict[str, Any]) -> None:
        if is_seen(operation, arguments):
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
        answer: str = self.query_runner.run(QUERY, "demo", from_ms(self.now_ms))["id"]
        return answer

    def rows(self, query_id: str) -> list[tuple[str, str]]:
        """What it finds, however long that takes on a busy machine."""
        until = time.monotonic() + 120
        while (state := self.query_runner.athena.state(query_id)).state in GOING_ON:
            assert time.monotonic() < until
            time.sleep(0.002)
        assert state.state == "SUCCEEDED", state.reason
        return [tuple(row) for row in self.query_runner.athena.rows(query_id, 1000).rows]

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
            self.now_ms += 25 * MINUTE_MS  # so that queries of the time before still run
            self.run()
        raise AssertionError(f"still {self.hours.unsettled('demo')}")


def is_seen(operation: str, arguments: dict[str, Any]) -> bool:
    """Whether a query may see something of what the call writes."""
    if operation in ("put_object", "delete_object", "complete_multipart_upload"):
        return not arguments["Key"].startswith("sessions/")
    return operation == "update_item" and arguments["Key"]["pk"]["S"] == "demo#hours"


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
