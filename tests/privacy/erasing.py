"""A project whose events go all the way on stores in memory, the eraser at work, and a search through every byte."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import orjson
import pyarrow.parquet as pq
from isal import isal_zlib

from chalicelib.access.access import Project
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.time_windows import from_ms, parse_ms
from chalicelib.events.chunks import Chunk
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.erasure import Arrivals
from chalicelib.events.erasures_table import ErasuresTable
from chalicelib.events.events import Admission, Admitter, Mode
from chalicelib.events.events_table import EventsTable
from chalicelib.events.users_table import UsersTable
from chalicelib.hours.compact import Compactor
from chalicelib.imports.imports_table import ImportsTable
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.ingest.bodies import read_native
from chalicelib.ingest.collect import Collector
from chalicelib.ingest.process import Processor
from chalicelib.lake.lake import Lake
from chalicelib.privacy.erase import Eraser
from chalicelib.privacy.forget import Forgetter
from chalicelib.privacy.profile import Profiler
from chalicelib.rollups.ledger import Tally
from chalicelib.sql.queries_table import Asked, QueriesTable
from tests.hours.finishing import finisher_of
from tests.imports import importing
from tests.stores import empty_stores, stream_record

TEN = parse_ms("2026-11-21T10:00:00Z")
MINUTE_MS = 60_000
TABLES = ("events", "rollups", "control")


@dataclass
class World(importing.World):
    """Time goes on as told. `erase` may be given clients of a process that dies."""

    arrivals: Arrivals = Arrivals.DROP
    seen: set[tuple[str, str]] = field(default_factory=set)
    records: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.now_ms = TEN + 5 * MINUTE_MS
        self.queries = QueriesTable(self.stores.connections.client, "control")
        self.stores.bucket.client.create_bucket(Bucket="results")
        self.erased = replace(self.stores.erased, clock=lambda: self.now_ms / 1000, known={})
        self.stores = self.stores.but(erased=self.erased)

    @property
    def collector(self) -> Collector:
        admitter = Admitter(self.contracts, lambda ms: f"made-{ms}")
        tally = Tally(f"c{next(self.runs)}")
        return Collector(
            admitter, self.stores.buffer, self.stores.bucket, self.stores.ledger, tally, self.erased, self.stores.flags
        )

    @property
    def processor(self) -> Processor:
        stores = self.stores
        return Processor(stores.events, stores.users, stores.bucket, self.erased, stores.ledger, self._seconds)

    @property
    def profiler(self) -> Profiler:
        return Profiler(self.stores.events, self.stores.users, self.stores.erasures, self._new_id)

    def receive(self, *events: dict[str, Any], mode: Mode = Mode.INFER) -> Admission:
        """POST /events, up to the buffer."""
        return self.collector.collect(read_native(orjson.dumps(list(events)), {}), Project("demo", mode), self.now_ms)

    def flow(self) -> None:
        """What the buffer holds goes on, to deltas and tail files."""
        while messages := self.stores.messages():
            sent = [{"messageId": str(number), "body": text} for number, text in enumerate(messages)]
            assert self.processor.process(sent) == []
        records = list(self._new_records())
        if records:
            Aggregator(self.contracts, self.rollups, self.stores.bucket).aggregate(records, self.now_ms)
            Archiver(self.lake, self.hours, self.erased).archive(records)

    def hourly(self) -> None:
        """The schedules: merge what is live, consolidate and close what is due, delete what was absorbed."""
        Compactor(self.rollups, self.hours).compact(self.now_ms // 1000)
        found = self.finisher.consolidate_due(self.now_ms)
        self.finisher.finish_all(found["hours"], self.now_ms)

    def wait(self, minutes: int) -> None:
        """The clock goes on, and what is scheduled happens once."""
        self.now_ms += minutes * MINUTE_MS
        self.hourly()

    def ask_sql(self, query_id: str, sql: str) -> None:
        """A query was asked, and has a result."""
        self.queries.put(query_id, Asked("demo", sql), from_ms(self.now_ms) + timedelta(days=7))
        self.stores.bucket.client.put_object(Bucket="results", Key=f"athena/{query_id}.csv", Body=sql.encode())

    def eraser(self, dynamodb: Any = None, s3: Any = None) -> Eraser:
        """That of one process."""
        dynamodb, s3 = dynamodb or self.stores.events.client, s3 or self.stores.bucket.client
        bucket, table = DataBucket(s3, "data"), ImportsTable(dynamodb, "control")
        finisher = finisher_of(self.contracts, dynamodb, s3, self._now, self.runs)

        def rewrite(project: str, hour: str, now_ms: int) -> bool:
            finisher.finish(project, hour, now_ms, anew=True)
            return True

        forgetter = Forgetter(
            bucket,
            DataBucket(s3, "results"),
            table,
            QueriesTable(dynamodb, "control"),
            self.collector.reinject,
            self._now,
        )
        return Eraser(
            table=ErasuresTable(dynamodb, "control"),
            erased=ErasedUsers(dynamodb, "control"),
            events=EventsTable(dynamodb, "events", sleep=lambda _: None),
            users=UsersTable(dynamodb, "events"),
            files=forgetter.places(),
            forget_queries=forgetter.queries,
            lake=Lake(bucket),
            hours=finisher.hours,
            folders=finisher.consolidator.folders,
            rewrite=rewrite,
            clean=finisher.clean_day,
            arrivals=lambda _: self.arrivals,
            importing=table.going_on,
            stage="test",
            now=self._now,
        )

    def erase(self, user: str) -> dict[str, Any]:
        """DELETE /users/{id}, and all the runs it takes; the receipt."""
        receipt = self.profiler.request_erasure("demo", user, self.now_ms)
        for _ in range(60):
            self.eraser().run()
            if self.receipt(receipt["id"])["state"] == "done":
                return self.receipt(receipt["id"])
            self.wait(5)
        raise AssertionError(f"still {self.receipt(receipt['id'])} after five hours")

    def receipt(self, erasure_id: str) -> dict[str, Any]:
        """GET /erasures/{id}."""
        return self.profiler.erasure("demo", erasure_id)

    def traces(self, *words: str) -> list[str]:
        """Where one of the words stands: in any object, item or message, unpacked."""
        found = []
        for place, content in self._everything():
            found += [f"{word} in {place}" for word in words if word.encode() in content]
        return found

    def _everything(self) -> Iterator[tuple[str, bytes]]:
        for table in TABLES:
            for item in self.stores.items(table):
                key = f"{table} {item['pk']['S']} / {item['sk']['S']}"
                for name, value in item.items():
                    plain = _unpacked(bytes(value["B"])) if "B" in value else b""
                    yield f"{key} {name}", json.dumps(value, default=str).encode() + plain
        for bucket in ("data", "results"):
            client = self.stores.bucket.client
            for item in client.list_objects_v2(Bucket=bucket).get("Contents", []):
                content = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
                yield f"{bucket} {item['Key']}", item["Key"].encode() + content + _unpacked(content)

    def _new_records(self) -> Iterator[dict[str, Any]]:
        for item in self.stores.items("events"):
            key = item["pk"]["S"], item["sk"]["S"]
            if key in self.seen or "body" not in item:
                continue
            self.seen.add(key)
            self.records += 1
            chunk = Chunk(
                project=item["project"]["S"],
                user=item.get("user", {}).get("S"),
                sort_key=item["sk"]["S"],
                received_ms=int(item["received_at"]["N"]),
                receipt=None,
                count=int(item["events"]["N"]),
                body=bytes(item["body"]["B"]),
            )
            yield stream_record(chunk, self.records)

    def _new_id(self, now_ms: int) -> str:
        return f"{now_ms}-{next(self.runs):04d}"

    def _now(self) -> int:
        return self.now_ms

    def _seconds(self) -> float:
        return self.now_ms / 1000


def _unpacked(content: bytes) -> bytes:
    if content[:4] == b"PAR1":
        return json.dumps(pq.read_table(io.BytesIO(content)).to_pylist(), default=str).encode()
    for unpack in (gzip.decompress, isal_zlib.decompress):
        with suppress(OSError, EOFError, zlib.error, Exception):
            return bytes(unpack(content))
    return b""


@contextmanager
def world(arrivals: Arrivals = Arrivals.DROP) -> Iterator[World]:
    """An empty one."""
    with empty_stores() as stores:
        yield World(stores, arrivals=arrivals)
