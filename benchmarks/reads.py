"""`python -m benchmarks.reads`: DynamoDB pages and milliseconds of what dashboards ask, over a year.

The tables hold a year of closed hours and, of the last two hours, what 200 deltas a minute leave. The time is the
handler's own, without that of the tables.
"""

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from tqdm import tqdm

from chalicelib.base import waits
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, day_of, hour_of, parse_ms
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from chalicelib.numbers.realtime import Observer
from chalicelib.rollups.closed_table import DAY, HOUR, WHOLE, Closed, ClosedTable, one
from chalicelib.rollups.closing import Cover
from chalicelib.rollups.codec import decode, encode_document
from chalicelib.rollups.deltas import Delta, Merged
from chalicelib.rollups.facets import ALL_TYPES, COUNTS, DERIVED, all_types, content_of, facets_of
from chalicelib.rollups.folding import Folding
from chalicelib.rollups.rollups import Rollups, RollupSpec, merge_all
from chalicelib.rollups.rollups_table import MAX_MERGE, RollupsTable, base_name, merged_name
from chalicelib.rollups.signatures import NOTHING
from chalicelib.rollups.sketches import hash_user
from tests.stores import Calls, empty_stores

NOW = parse_ms("2026-11-21T10:45:00Z")
SPEC = RollupSpec(("path", "referrer_host", "country", "device"), ("load_ms",))
CONTRACTS = Contracts({"page_view": Contract("page_view", "1-0-0", "page_views", SPEC)})
EVENTS_PER_HOUR = 2000
DELTAS_PER_MINUTE = 200
EVENTS_PER_DELTA = 30
COVER = Cover(epoch=1)
BASE_EVENTS = 45 * DELTAS_PER_MINUTE * EVENTS_PER_DELTA
ROUNDS = 20
DAYS = 366
DETAILED_DAYS = 40  # of which all facets are kept by the hour; before, those that a year is asked for, by the day
YEARLY = (COUNTS, "u", "n|country")

QUESTIONS: dict[str, dict[str, str]] = {
    "30 days by the hour": {"start": "2026-10-23", "end": "2026-11-21", "interval": "hour"},
    "30 days by the hour, in Berlin": {
        "start": "2026-10-23",
        "end": "2026-11-21",
        "interval": "hour",
        "timezone": "Europe/Berlin",
    },
    "30 days by the hour, p95": {
        "start": "2026-10-23",
        "end": "2026-11-21",
        "interval": "hour",
        "agg": "p95",
        "measure": "load_ms",
    },
    "30 days by the hour, by country": {
        "start": "2026-10-23",
        "end": "2026-11-21",
        "interval": "hour",
        "group_by": "country",
    },
    "12 months by the day": {"start": "2025-11-22", "end": "2026-11-21", "interval": "day"},
    "12 months by the day, in Berlin": {
        "start": "2025-11-22",
        "end": "2026-11-21",
        "interval": "day",
        "timezone": "Europe/Berlin",
    },
    "12 months by the day, users": {"start": "2025-11-22", "end": "2026-11-21", "interval": "day", "agg": "users"},
    "12 months by the day, by country": {
        "start": "2025-11-22",
        "end": "2026-11-21",
        "interval": "day",
        "group_by": "country",
    },
}


def rollups(events: int, at_ms: int, rng: random.Random) -> bytes:
    """Return a delta's body, of page views in one hour."""
    folding = Folding()
    for _ in range(events):
        event = {
            "occurred_at": at_ms + rng.randrange(HOUR_MS),
            "properties": {
                "path": f"/{min(int(rng.expovariate(0.05)), 199)}",
                "referrer_host": rng.choice(["", "news.example", "search.example"]),
                "country": rng.choice(["DE", "FR", "US", "GB", "IT"]),
                "device": rng.choice(["desktop", "mobile"]),
                "load_ms": rng.lognormvariate(6, 0.7),
            },
        }
        folding.add("page_view", event, folding.user(hash_user(f"u{rng.randrange(5000)}")), SPEC)
    return encode_document(folding.document())


def fill(live: RollupsTable, closed: ClosedTable) -> None:
    """A year of closed hours, of which those of a day are alike, and two live ones."""
    rng = random.Random(1)
    today = NOW - NOW % DAY_MS
    body = rollups(EVENTS_PER_HOUR, 0, rng)
    hour_rollups = decode(body)
    parts = {("page_view", SPEC): hour_rollups["page_view"], (ALL_TYPES, DERIVED[ALL_TYPES]): all_types(hour_rollups)}
    for number in tqdm(range(DAYS), desc="filling", unit="day", disable=None, leave=False):
        start = today - number * DAY_MS
        hours = [hour_of(start + n * HOUR_MS) for n in range(24) if start + n * HOUR_MS < NOW - NOW % HOUR_MS - HOUR_MS]
        day, covers = day_of(hour_of(start)), dict.fromkeys(hours, COVER)
        for (name, spec), rollup in parts.items():
            for facet in facets_of(spec):
                part = content_of(rollup, facet)
                if facet == COUNTS:
                    closed.put("demo", name, facet, DAY, Closed(day, covers, Rollups(dict.fromkeys(hours, part))))
                    continue
                if number and (number < DETAILED_DAYS or facet in YEARLY):
                    closed.put("demo", name, facet, DAY, Closed(day, covers, Rollups({WHOLE: part})))
                for hour in hours if number < DETAILED_DAYS else ():
                    closed.put("demo", name, facet, HOUR, one(hour, COVER, part, 0))
    closed.note_day("demo", day_of(hour_of(today)), "today")
    live.note_types("demo", {"page_view"}, CONTRACTS.by_type)
    put_live(live, rng)


def put_live(live: RollupsTable, rng: random.Random) -> None:
    """What is there three quarters through the hour: open deltas, merged items by the minute, and two bases."""
    hour_ms = NOW - NOW % HOUR_MS
    last, hour = hour_of(hour_ms - HOUR_MS), hour_of(hour_ms)
    seconds = NOW // 1000
    for which in (last, hour):
        total = merge_all(decode(rollups(20_000, hour_ms, rng)) for _ in range(BASE_EVENTS // 20_000))
        # It names no delta: what is folded was merged so long ago that no reader looks for it.
        live.fold("demo", [], Merged(base_name(which, 1, 0), which, 1, 0, "", seconds, NOTHING, total, {}, version=1))
    for minute in range(waits.FOLD_MS // 1000 // 60 + 1):
        for share, start in enumerate(range(0, DELTAS_PER_MINUTE, MAX_MERGE)):
            at = f"{hour}:{37 + minute:02d}"
            merged = min(MAX_MERGE, DELTAS_PER_MINUTE - start)
            total = decode(rollups(merged * EVENTS_PER_DELTA, hour_ms, rng))
            names = dict.fromkeys((f"0#{minute}-{share}-{n:030d}" for n in range(merged)), seconds)
            item = Merged(merged_name(hour, 1, 0, at, f"{share}"), hour, 1, 0, at, seconds, NOTHING, total, names)
            live.fold("demo", [], replace(item, version=1))
    for number in range(2 * DELTAS_PER_MINUTE):
        body = rollups(EVENTS_PER_DELTA, hour_ms, rng)
        written_at = seconds - number % 110
        live.put_delta(Delta("demo", hour, 0, f"{number:032x}", 1, number, NOTHING, written_at, body))


@dataclass
class Answers:
    """What the tables answered and, where that is `replayed`, answer again: what they do is no function's time."""

    found: list[Any] = field(default_factory=list)
    replayed: bool = False

    def call(self, arguments: dict[str, Any], effect: Callable[..., Any]) -> Any:
        """In place of a client's own."""
        self.found.append(self.found.pop(0) if self.replayed else effect(**arguments))
        return self.found[-1]


def measure(ask: Callable[[], object], rounds: int) -> tuple[int, float]:
    """Pages, and the 95th percentile of the handler's milliseconds."""
    answers, own = Answers(), []
    with patch.object(Calls, "__call__", lambda _self, _service, _operation, *call: answers.call(*call)):
        ask()
        pages, answers.replayed = len(answers.found), True
        gc.collect()
        gc.freeze()  # the tables are in this process, and no garbage of a function's
        for _ in range(rounds):
            start = time.perf_counter()
            ask()
            own.append((time.perf_counter() - start) * 1000)
    gc.unfreeze()
    return pages, statistics.quantiles(own, n=20)[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each question (default %(default)s)")
    rounds = parser.parse_args().rounds
    with empty_stores() as stores:
        fill(stores.rollups, stores.closed)
        analytics = Analytics(CONTRACTS, stores.history)
        observer = Observer(CONTRACTS, stores.rollups, stores.ledger)
        asked: dict[str, Callable[[], object]] = {}
        for name, parameters in QUESTIONS.items():
            question = read_question({"metric": "page_views", **parameters})
            asked[name] = lambda question=question: analytics.answer("demo", question, NOW)  # type: ignore[misc]
        asked["GET /realtime/metrics"] = lambda: observer.observe("demo", NOW)
        print(f"{'':34} {'pages':>6} {'handler, p95 ms':>16}")
        for name, ask in asked.items():
            pages, own = measure(ask, rounds)
            print(f"{name:34} {pages:>6} {own:>16.0f}", flush=True)


if __name__ == "__main__":
    main()
