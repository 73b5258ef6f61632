"""A project's imports on stores in memory: the tasks as the workflow calls them, and what the product says then."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chalicelib.access.access import Project
from chalicelib.base.time_windows import parse_ms
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import Admitter, Mode
from chalicelib.hours.finish import Finisher
from chalicelib.hours.new_days import NewDays
from chalicelib.imports.backfill import Backfiller
from chalicelib.imports.importing import Importer
from chalicelib.imports.imports import Import
from chalicelib.imports.imports_table import ImportsTable
from chalicelib.lake.lake import Lake
from chalicelib.notices.publisher import Notices
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from tests.hours.finishing import finisher_of
from tests.stores import Stores, empty_stores
from tests.told import Told

CONTRACTS = Contracts.load(Path(__file__).parents[2] / "schemas")
NOW = parse_ms("2026-11-21T10:05:00Z")
FILE = "raw/demo/a.ndjson"


@dataclass
class World:
    """The stores, and the importer at work on them."""

    stores: Stores
    now_ms: int = NOW
    told: Told = field(default_factory=Told)
    drops: int = 0

    def __post_init__(self) -> None:
        self.table = ImportsTable(self.stores.connections.client, self.stores.connections.name)
        self.lake = Lake(self.stores.bucket)
        self.hours = replace(self.stores.hours, clock=lambda: self.now_ms / 1000)
        self.runs = iter(range(10**6))
        self.contracts = CONTRACTS
        self.rollups = replace(self.stores.rollups, clock=lambda: self.now_ms / 1000)

    @property
    def finisher(self) -> Finisher:
        """That of one process."""
        return finisher_of(
            self.contracts, self.rollups.client, self.stores.bucket.client, lambda: self.now_ms, self.runs
        )

    @property
    def importer(self) -> Importer:
        """That of one process."""
        finisher = self.finisher

        def close_days(project: str, days: Collection[str]) -> None:
            finisher.closer.close_days(project, self.now_ms, days)

        days = NewDays(self.rollups.client, self.rollups.name)
        backfiller = Backfiller(
            self.lake,
            self.stores.folders,
            self.hours,
            days,
            self.contracts,
            finisher.closer.fold,
            lambda project, hour: finisher.finish(project, hour, self.now_ms).closed,
            close_days,
            self.stores.closed.forget_day,
            finisher.sessionizer.keep,
            lambda project, new, written: finisher.sessionizer.count_days(project, new, written, days.put),
        )
        admitter = Admitter(self.contracts, lambda _: "made-up")
        notices = Notices(self.told, self.told, "topic", "bus")
        bucket, erased = self.stores.bucket, self.stores.erased
        return Importer(bucket, self.lake, self.table, admitter, self.owner, backfiller.store, notices, erased)

    def owner(self, project: str) -> Project | None:
        return Project(project, Mode.INFER) if project in ("demo", "shop") else None

    def put(self, content: bytes, key: str = FILE) -> Import:
        """Put the file into the bucket; the import of what S3 says of it."""
        self.drops += 1
        self.stores.bucket.put(key, content)
        _, etag = self.stores.bucket.head(key)
        found = Import.of(key, etag, f"{self.drops:04d}", self.now_ms + self.drops)
        assert found is not None
        return found

    def run(self, one: Import) -> dict[str, Any]:
        """The tasks in the workflow's order; what `notify` returns."""
        whose = {"import": one.to_json()}
        file = self.importer.validate(whose)
        for part in file["parts"]:
            self.importer.transform({**whose, "digest": file["digest"], "part": part})
        total = self.importer.aggregate({**whose, "parts": file["parts"]})
        stored = [
            self.importer.store({**whose, "parts": file["parts"], "range": span}, self.now_ms)
            for span in total["ranges"]
        ]
        return self.importer.notify({**whose, "parts": file["parts"], "stored": stored}, self.now_ms)

    def drop(self, content: bytes, key: str = FILE) -> dict[str, Any]:
        """Put and run."""
        return self.run(self.put(content, key))

    def shown(self, project: str = "demo") -> list[dict[str, Any]]:
        """GET /imports."""
        found: list[dict[str, Any]] = self.table.page(project, 100, None)["imports"]
        return found

    def ask(self, metric: str = "page_views", **more: str) -> Any:
        """GET /analytics, from 2013 to the end of 2026 unless something else is asked."""
        asked = {"metric": metric, "start": "2013-01-01", "end": "2026-12-31", "interval": "month", **more}
        analytics = Analytics(self.contracts, self.stores.history)
        return analytics.answer("demo", read_question(asked), self.now_ms)

    def total(self, metric: str = "page_views", **more: str) -> Any:
        """Its total."""
        return self.ask(metric, **more)["total"]

    def ids(self, hour: str, project: str = "demo") -> list[str]:
        """The ids of an hour's rows as a query finds them before copies are left out."""
        _, keys = self.stores.folders.keys(self.hours, project, hour)
        return [e for batch in self.lake.batches(keys, ["event_id"]) for e in batch.column("event_id").to_pylist()]


@contextmanager
def a_world() -> Iterator[World]:
    """An empty one."""
    with empty_stores() as stores:
        yield World(stores)


def ndjson(*events: dict[str, Any]) -> bytes:
    """A file of events."""
    return b"\n".join(json.dumps(event).encode() for event in events)


def view(at: str, **more: Any) -> dict[str, Any]:
    """A page view."""
    return {"event_type": "page_view", "timestamp": at, "user_id": "u1", "properties": {"path": "/"}, **more}
