"""Every number of GET /analytics against DuckDB's on the same events, each once.

Ninety days of events go through the aggregator, the compactor and the closer as they would in production: with
duplicates in other batches, events that are late by days, and out of order; the last two hours stay live. As many as
TIDEMARK_ORACLE_EVENTS says (2,000,000 take over an hour, and 4 GB of memory); a smaller history of the same kind in
every run.
"""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice, product
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from tqdm import tqdm

from chalicelib.base.time_windows import DAY_MS, HOUR_MS, hour_of, hour_start_ms, parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import QUANTILES, read_question
from chalicelib.rollups.deltas import Delta, HourView
from chalicelib.rollups.facets import Excerpt
from chalicelib.rollups.history import History
from chalicelib.rollups.rollups import RollupSpec
from chalicelib.rollups.rollups_table import RollupsTable
from tests.hours.finishing import finisher_of
from tests.stores import Stores, empty_stores, stream_record

EVENTS = int(os.environ.get("TIDEMARK_ORACLE_EVENTS", "6000"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + EVENTS // 100)]
ACTIVE_HOURS = 2160 if EVENTS > 1_000_000 else 20  # of the ninety days; a small history leaves most of them empty
FIRST = parse_ms("2026-08-23T00:00:00Z")
END = FIRST + 90 * DAY_MS
LIVE_FROM = END - 2 * HOUR_MS
SEED = 7
BATCH = 2000
RANDOM_QUESTIONS = 500 if EVENTS > 1_000_000 else 100
SPECS = {
    "order": RollupSpec(("country", "plan", "sku"), ("amount", "items")),
    "visit": RollupSpec(("country", "path"), ("load_ms",)),
}
CONTRACTS = Contracts({name: Contract(name, "1-0-0", f"{name}s", spec) for name, spec in SPECS.items()})
ZONES = ("UTC", "Europe/Berlin", "America/New_York")  # clocks change on 25 October and 1 November
START_DAY, END_DAY = "2026-08-23", "2026-11-20"


def some_events() -> list[dict[str, Any]]:
    """In order of time; half of all users come back, and a few values of each dimension are much more frequent."""
    rng = random.Random(SEED)
    hours = [*sorted(rng.sample(range(2158), min(ACTIVE_HOURS, 2158) - 2)), 2158, 2159]
    events = []
    for number in range(EVENTS):
        at = FIRST + rng.choice(hours) * HOUR_MS + rng.randrange(HOUR_MS)
        country = rng.choice(["DE", "DE", "DE", "FR", "FR", "IT"])
        if number % 3:
            kind, properties = (
                "visit",
                {"path": f"/{min(int(rng.expovariate(0.1)), 99)}", "load_ms": rng.lognormvariate(6, 1)},
            )
        else:
            kind = "order"
            properties = {"plan": rng.choice(["free", "pro"]), "sku": rng.randrange(30), "items": rng.randrange(1, 9)}
            if number % 2:
                properties["amount"] = rng.randrange(-5000, 100_000) / 4  # of quarters, so that sums are exact
        events.append(
            {
                "event_id": f"e{number}",
                "event_type": kind,
                "occurred_at": at,
                "user_id": f"u{int(rng.expovariate(20 / max(EVENTS, 1)))}",
                "properties": {"country": country, **properties},
            }
        )
    return sorted(events, key=lambda event: event["occurred_at"])


@dataclass
class Pipeline:
    """From events to closed hours."""

    stores: Stores
    now_ms: int = END
    hours: set[str] = field(default_factory=set)
    records: int = 0

    def __post_init__(self) -> None:
        client, s3 = self.stores.rollups.client, self.stores.bucket.client
        self.finisher = finisher_of(CONTRACTS, client, s3, lambda: self.now_ms)

    def arrive(self, batch: list[dict[str, Any]], now: int) -> None:
        """A request's events are stored, counted and archived."""
        records = []
        for chunk in chunks_of(Message("demo", now * 1000, batch)):
            records.append(stream_record(chunk, self.records))
            self.records += 1
        Aggregator(CONTRACTS, self.stores.rollups, self.stores.bucket).aggregate(records, now * 1000)
        Archiver(Lake(self.stores.bucket), self.stores.hours, self.stores.erased).archive(records)
        self.hours |= {hour_of(event["occurred_at"]) for event in batch}

    def close(self, hours: set[str], now: int) -> None:
        """Close hours from their files."""
        self.now_ms = now * 1000
        for hour in tqdm(sorted(hours), desc="closing", unit="hour", disable=None, leave=False):
            assert self.finisher.finish("demo", hour, self.now_ms).closed

    def clean(self, now: int) -> None:
        """Delete what is live of closed hours."""
        for hour in self.stores.hours.between("demo", "0", "9"):
            self.finisher.closer.clean(hour, now * 1000)


def batches(timely: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Of consecutive events; none has both what is to be closed and what stays live."""
    for _, together in groupby(timely, key=lambda event: event["occurred_at"] < LIVE_FROM):
        while batch := list(islice(together, BATCH)):
            yield batch


def run(stores: Stores, events: list[dict[str, Any]]) -> None:
    """Let the events arrive in order of time but for the late ones, some of them again, and close what is over."""
    rng = random.Random(SEED)
    pipeline = Pipeline(stores)
    late = [event for event in events if event["occurred_at"] < LIVE_FROM and rng.random() < 0.02]
    held = {event["event_id"] for event in late}
    timely = [event for event in events if event["event_id"] not in held]
    for batch in batches(timely):
        rng.shuffle(batch)
        now = batch[-1]["occurred_at"] // 1000
        again = [event for event in batch if event["occurred_at"] < LIVE_FROM and rng.random() < 0.01]
        pipeline.arrive(batch, now)
        if again:
            pipeline.arrive(again, now + 1)
    now = END // 1000
    compactor = Compactor(stores.rollups, stores.hours)
    compactor.compact(now - 3600)
    pipeline.close({hour for hour in pipeline.hours if hour_start_ms(hour) < LIVE_FROM}, now - 3600)
    rng.shuffle(late)
    for first in range(0, len(late), BATCH):
        pipeline.arrive(late[first : first + BATCH], now)
    compactor.compact(now + 600)
    reopened = {hour_of(event["occurred_at"]) for event in late}
    part = set(rng.sample(sorted(reopened), len(reopened) // 2))  # the others are read with what is late beside them
    pipeline.close(part, now + 600)
    # What closed items have taken over is gone from the live ones, but for the last hours, of which readers see both.
    pipeline.clean(now + 86_400)


VIEWS: dict[Excerpt | None, dict[str, HourView]] = {}


class Still(RollupsTable):
    """Nothing is written any more, so what is live is read once for each excerpt of it."""

    def read_deltas(self, *_: Any, excerpt: Excerpt | None = None, **__: Any) -> dict[str, list[Delta]]:
        if excerpt not in VIEWS:
            VIEWS[excerpt] = super().views(
                "demo", "0", "9", super().read_deltas("demo", "0", "9", excerpt=excerpt), excerpt
            )
        return {}

    def views(
        self, project: str, first: str, last: str, deltas: Mapping[str, Sequence[Delta]], excerpt: Excerpt | None = None
    ) -> dict[str, HourView]:
        return {hour: view for hour, view in VIEWS[excerpt].items() if first <= hour <= last}


@dataclass(frozen=True)
class Oracle:
    """Asks both."""

    analytics: Analytics
    database: Any

    def answer(self, **parameters: str) -> dict[str, Any]:
        question = read_question({"start": START_DAY, "end": END_DAY, **parameters})
        return self.analytics.answer("demo", question, END)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.database.execute(sql).fetchall()
        return found


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    events = some_events()
    columns = {
        "type": [event["event_type"] for event in events],
        "at": pa.array([event["occurred_at"] for event in events], pa.timestamp("ms", tz="UTC")),
        "user": [event["user_id"] for event in events],
        **{
            name: [event["properties"].get(name) for event in events]
            for name in ("country", "plan", "path", "amount", "items", "load_ms")
        },
        "sku": [None if "sku" not in event["properties"] else str(event["properties"]["sku"]) for event in events],
    }
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    database.execute("SET threads = 1")  # of a table this small, others only wait
    database.register("events", pa.table(columns))
    with empty_stores() as stores:
        run(stores, events)
        history = History(Still(stores.rollups.client, "rollups"), stores.closed)
        yield Oracle(Analytics(CONTRACTS, history), database)


EXPRESSIONS = {"count": "count(*)", "sum": "sum({0})", "min": "min({0})", "max": "max({0})", "avg": "avg({0})"}
ASKED = [("count", "visit", None), ("count", "order", None)] + [
    (agg, kind, measure)
    for agg in ("sum", "min", "max", "avg")
    for kind, measure in (("order", "amount"), ("order", "items"), ("visit", "load_ms"))
]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("interval", ["hour", "day", "week", "month"])
def test_counts_sums_and_extremes_are_duckdbs(oracle: Oracle, interval: str, zone: str) -> None:
    # Hours by path are too many for one answer.
    spans = (
        [(START_DAY, END_DAY)]
        if interval != "hour"
        else [(START_DAY, "2026-09-21"), ("2026-09-22", "2026-10-21"), ("2026-10-22", END_DAY)]
    )
    for (agg, kind, measure), (first, last) in product(ASKED, spans):
        value = EXPRESSIONS[agg].format(measure)
        bucket = f"date_trunc('{interval}', \"at\" AT TIME ZONE '{zone}') AT TIME ZONE '{zone}'"
        if interval == "hour":
            bucket = "date_trunc('hour', \"at\")"
        within = (
            f"type = '{kind}' AND \"at\" >= TIMESTAMP '{first}' AT TIME ZONE '{zone}' "
            f"AND \"at\" < (DATE '{last}' + 1)::TIMESTAMP AT TIME ZONE '{zone}'"
        )
        for dimension in (None, *SPECS[kind].dimensions):
            grouped = dimension or "''"
            parameters = {"metric": f"{kind}s", "agg": agg, "interval": interval, "timezone": zone, "limit": "1000"}
            parameters |= {"start": first, "end": last}
            parameters |= {"measure": measure} if measure else {}
            parameters |= {"group_by": dimension} if dimension else {}
            answer = oracle.answer(**parameters)
            groups = answer["groups"] if dimension else [{"key": "", **answer}]
            shown = {
                (group["key"], instant(point["start"])): point["value"]
                for group in groups
                for point in group["series"]
                if point["value"]
            }
            right = {
                (key, start): number
                for key, start, number in oracle.rows(
                    f"SELECT {grouped}, epoch_ms({bucket}), {value} FROM events "
                    f"WHERE {within} AND {grouped} IS NOT NULL GROUP BY ALL"
                )
                if number
            }
            assert shown.keys() == right.keys(), parameters
            assert shown == pytest.approx(right, rel=1e-9), parameters
            totals = {group["key"]: group["total"] for group in groups if group["total"]}
            expected = oracle.rows(
                f"SELECT {grouped}, {value} FROM events WHERE {within} AND {grouped} IS NOT NULL GROUP BY ALL"
            )
            assert totals == pytest.approx({key: number for key, number in expected if number}, rel=1e-9), parameters


def instant(text: str) -> int:
    return parse_ms(text)


def test_minutes_are_duckdbs_in_any_range(oracle: Oracle) -> None:
    rng = random.Random(SEED)
    for _ in range(20):
        start = FIRST + rng.randrange(88 * 1440) * 60_000
        end = start + rng.randrange(1, 4000) * 60_000
        answer = oracle.answer(metric="events", interval="minute", start=str(start), end=str(end))
        shown = {instant(point["start"]): point["value"] for point in answer["series"] if point["value"]}
        right = oracle.rows(
            "SELECT epoch_ms(date_trunc('minute', \"at\")), count(*) FROM events "
            f'WHERE epoch_ms("at") >= {start} AND epoch_ms("at") < {end} GROUP BY 1'
        )
        assert shown == dict(right)


def test_uniques_and_quantiles_are_within_the_stated_bound(oracle: Oracle) -> None:
    """Of the random questions at least 95 in 100."""
    rng = random.Random(SEED)
    within = []
    for _ in range(RANDOM_QUESTIONS):
        kind = rng.choice(sorted(SPECS))
        spec = SPECS[kind]
        agg = rng.choice(["users", *QUANTILES])
        start = FIRST + rng.randrange(80) * DAY_MS
        end = start + rng.randrange(1, 10) * DAY_MS
        parameters = {"metric": f"{kind}s", "agg": agg, "start": str(start), "end": str(end)}
        parameters["interval"] = rng.choice(["hour", "day", "week"])
        where = f'type = \'{kind}\' AND epoch_ms("at") >= {start} AND epoch_ms("at") < {end}'
        if rng.random() < 0.5:
            dimension = rng.choice(spec.dimensions)
            found = oracle.rows(f"SELECT DISTINCT {dimension} FROM events WHERE type = '{kind}' ORDER BY 1")
            value = rng.choice(found)[0]
            parameters["filter"] = f"{dimension}:{value}"
            where += f" AND {dimension} = '{value}'"
        if agg != "users":
            parameters["measure"] = rng.choice(spec.measures)
        answer = oracle.answer(**parameters)
        if agg == "users":
            [(right,)] = oracle.rows(f'SELECT count(DISTINCT "user") FROM events WHERE {where}')
            within.append(abs(answer["total"] - right) <= answer["relative_error"] * right)
        else:
            name = parameters["measure"]
            rank = f"quantile_disc({name}, {QUANTILES[agg]})"
            [(right,)] = oracle.rows(f"SELECT {rank} FROM events WHERE {where} AND {name} IS NOT NULL")
            if right is None:
                within.append(answer["total"] is None)
                continue
            within.append(abs(answer["total"] - right) <= answer["relative_error"] * abs(right) + 1e-9)
    assert sum(within) >= 0.95 * len(within)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("agg", ["count", "users"])
def test_a_series_has_a_point_for_every_bucket(oracle: Oracle, agg: str, zone: str) -> None:
    answer = oracle.answer(metric="events", agg=agg, interval="day", timezone=zone)

    assert len(answer["series"]) == 90
