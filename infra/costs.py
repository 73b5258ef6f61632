"""What a million events cost, from prices and measured sizes: `python -m infra.costs` prints the tables.

Sizes are those that the app's own code makes of sample events. Everything assumed is a field of Scenario.
"""

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from chalicelib.events.chunks import MAX_KEY_BYTES, Message, chunks_of, encode_message, pack
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import StoredEvent
from chalicelib.rollups.codec import encode_document
from chalicelib.rollups.folding import Folding
from chalicelib.rollups.sketches import hash_user
from chalicelib.settings import BUFFERS
from infra.functions import BY_NAME

ROOT = Path(__file__).resolve().parent.parent
MILLION = 1e6
LAKE_BYTES_PER_EVENT = 60  # Parquet with zstd, consolidated; measured
KEY_BYTES = 150  # of an item's keys, names and small attributes
LOG_BYTES = 500  # a Lambda invocation's own three lines
SQS_UNIT_BYTES = 64 * 1024  # what is billed as one request
BATCH_MESSAGES = 10  # app.py: batch_size of `process`
KINESIS_UNIT_BYTES = 1024  # to which a record is rounded up
SHARDS = 4  # of an on-demand stream, to begin with; Lambda looks into each once a second
STREAM_POLLS_PER_SECOND = 4  # Lambda looks into a shard so often

# US dollars in us-east-1; per million unless the name says otherwise.
API_REQUESTS = 3.50
SOCKET_MESSAGES = 1.00
SOCKET_MINUTES = 0.25
INVOCATIONS = 0.20
GB_SECONDS = 16.67  # x86
QUEUE_REQUESTS = 0.40
KINESIS_IN_GB = 0.08
KINESIS_OUT_GB = 0.04
KINESIS_HOURS = 40_000.0  # of a stream
KINESIS_KEPT_GB_MONTH = 0.10  # beyond a day
WRITE_UNITS = 0.625  # of 1 KB
TABLE_GB_MONTH = 0.25
PUTS = 5.00
OBJECT_GB_MONTH = 0.023
LOGS_GB = 0.50
TRANSITIONS = 25.00
HOURLY_TRANSITIONS = 14  # of infra/workflows/hourly.asl.json when nothing fails: both rounds


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who sends, how fast, and who watches. Seconds are of billed Lambda time."""

    name: str
    events_per_request: int
    users_per_request: int
    events_per_second: float = 100.0
    buffer: str = "sqs"
    dashboards: int = 10
    pushes_per_second: float = 2.0  # chalicelib/stages.py: PUSH_PAUSE_SECONDS
    api_seconds: float = 0.02
    process_seconds: float = 0.1
    aggregate_seconds: float = 0.05
    archive_seconds: float = 1.0
    live_seconds: float = 0.1
    compact_seconds: float = 0.5
    consolidate_seconds: float = 12.0  # of the two runs in an hour
    close_seconds: float = 6.0
    audit_seconds: float = 0.2
    watch_seconds: float = 0.2
    erase_seconds: float = 0.05  # that there is nothing to do; an erasure reads the lake once
    reconcile_seconds: float = 5.0  # of an hour's events folded once more; all of a day's at night
    detect_seconds: float = 5.0
    notify_seconds: float = 1.0

    @property
    def requests(self) -> float:
        return MILLION / self.events_per_request

    @property
    def seconds(self) -> float:
        """How long a million events take to come in."""
        return MILLION / self.events_per_second

    @property
    def containers(self) -> float:
        """Of the edge, busy at the same time; at least one."""
        return max(1.0, self.events_per_second / self.events_per_request * self.api_seconds)

    @property
    def deltas(self) -> float:
        """One for each batch of the events table's stream."""
        return self.seconds * min(STREAM_POLLS_PER_SECOND, self.events_per_second / self.events_per_request)


@dataclass(frozen=True, slots=True)
class Line:
    """One position: what it is, how it is computed, and US dollars."""

    name: str
    formula: str
    dollars: float


SCENARIOS = (
    Scenario("browsers, one event a request", 1, 1),
    Scenario("servers, 100 events of 20 users a request", 100, 20),
)

BUFFER_RATES = (10, 100, 1000)


def sample(count: int, users: int) -> list[StoredEvent]:
    """Page views as a site sends them; always the same."""
    source = random.Random(1)
    start = 1_790_000_000_000
    return [
        StoredEvent(
            event_id=str(uuid.UUID(int=source.getrandbits(128))),
            event_type="page_view",
            occurred_at=start + number * 97,
            timestamp=start + number * 97,
            user_id=f"user-{number % users}",
            session_id=f"session-{number % users}",
            properties={
                "path": f"/products/{source.randrange(500)}",
                "title": "Product",
                "referrer": "https://example.com/",
            },
            context={"locale": "en-US", "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"},
        )
        for number in range(count)
    ]


def line(name: str, quantity: float, unit: str, price: float) -> Line:
    """Return a number of things at a price for a million."""
    return Line(name, f"{quantity:,.0f} {unit} × ${price:g}/M", quantity * price / MILLION)


def function(name: str, calls: float, seconds: float) -> Line:
    """Return a Lambda function's invocations."""
    gb = round(BY_NAME[name].memory_mb / 1024, 2)
    formula = f"{calls:,.0f} × (${INVOCATIONS:g}/M + {gb:g} GB × {seconds:g} s × ${GB_SECONDS:g}/M)"
    return Line(f"Lambda {name}", formula, calls * (INVOCATIONS + gb * seconds * GB_SECONDS) / MILLION)


def queue_lines(s: Scenario, message: Message) -> tuple[float, list[Line]]:
    """SQS: how many batches `process` gets, and what the queue costs."""
    texts = [len(text) for text, _ in encode_message(message)]
    send_units = sum(ceil(size / SQS_UNIT_BYTES) for size in texts)
    receive_units = ceil(BATCH_MESSAGES * max(texts) / SQS_UNIT_BYTES)
    batches = s.requests * len(texts) / BATCH_MESSAGES
    return batches, [
        line("SQS send", s.requests * send_units, "requests", QUEUE_REQUESTS),
        line("SQS receive and delete", batches * (receive_units + 1), "requests", QUEUE_REQUESTS),
    ]


def stream_lines(s: Scenario, message: Message) -> tuple[float, list[Line]]:
    """Return the same of Kinesis, on demand, kept for a week."""
    records = [len(parcel.text) + MAX_KEY_BYTES for parcel in pack(message, by_user=True)]
    units = sum(ceil(size / KINESIS_UNIT_BYTES) for size in records)
    gb, kept = s.requests * units * KINESIS_UNIT_BYTES / 1e9, 6 / 30
    hours = s.seconds / 3600
    dollars = gb * (KINESIS_IN_GB + KINESIS_OUT_GB + kept * KINESIS_KEPT_GB_MONTH)
    formula = f"{gb:.2f} GB × (${KINESIS_IN_GB:g} + ${KINESIS_OUT_GB:g} + {kept:g} months × ${KINESIS_KEPT_GB_MONTH:g})"
    return min(s.requests * len(records), s.seconds * SHARDS), [
        Line("Kinesis in, out and kept", formula, dollars),
        line("Kinesis stream", hours, "hours", KINESIS_HOURS),
    ]


def lines(s: Scenario) -> Iterator[Line]:
    """Yield every position of a million events; storage as one month of what they add."""
    message = Message("project", 1_790_000_000_000, sample(s.events_per_request, s.users_per_request))
    chunks = [len(chunk.body) + KEY_BYTES for chunk in chunks_of(message)]
    chunk_units = sum(ceil(size / 1024) for size in chunks)
    delta_events = max(1, round(MILLION / s.deltas))
    delta_units = ceil((delta_bytes(delta_events) + KEY_BYTES) / 1024)
    batches, buffer = queue_lines(s, message) if s.buffer == "sqs" else stream_lines(s, message)

    yield line("API Gateway", s.requests, "requests", API_REQUESTS)
    yield function("api_handler", s.requests, s.api_seconds)
    yield from buffer
    yield function("process", batches, s.process_seconds)
    yield line("events table, writes", s.requests * chunk_units, "write units", WRITE_UNITS)
    hot_gb = s.requests * sum(chunks) / 1e9
    yield Line("events table, 30 days", f"{hot_gb:.2f} GB × ${TABLE_GB_MONTH:g}", hot_gb * TABLE_GB_MONTH)
    yield function("aggregate", s.deltas, s.aggregate_seconds)
    # The delta and its index entry; the tombstone that takes its place, in a transaction (twice), and the index again.
    yield line("rollups table, writes", s.deltas * (delta_units + 1 + 2 * delta_units + 1), "write units", WRITE_UNITS)
    # Each busy container of the edge puts its totals once a second at most, with their index entry.
    receipts = min(s.requests, s.seconds * s.containers)
    yield line("receipts, writes", receipts * 2, "write units", WRITE_UNITS)
    yield function("archive", s.seconds / 60, s.archive_seconds)
    yield line("S3 puts", s.seconds / 60, "files", PUTS)
    lake_gb = MILLION * LAKE_BYTES_PER_EVENT / 1e9
    yield Line("lake, a month", f"{lake_gb:.2f} GB × ${OBJECT_GB_MONTH:g}", lake_gb * OBJECT_GB_MONTH)
    yield function("live", s.seconds * s.pushes_per_second, s.live_seconds)
    yield line("WebSocket pushes", s.dashboards * s.seconds * s.pushes_per_second, "messages", SOCKET_MESSAGES)
    yield line("WebSocket connections", s.dashboards * s.seconds / 60, "minutes", SOCKET_MINUTES)
    yield function("compact", s.seconds / 60, s.compact_seconds)
    yield function("audit", s.seconds / 60, s.audit_seconds)
    yield function("consolidate", s.seconds / 1800, s.consolidate_seconds)
    yield function("close", s.seconds / 1800, s.close_seconds)
    yield function("reconcile", s.seconds / 3600, s.reconcile_seconds)
    yield function("erase", s.seconds / 300, s.erase_seconds)
    yield function("watch", s.seconds / 60, s.watch_seconds)
    yield function("detect", s.seconds / 3600, s.detect_seconds)
    yield function("notify", s.seconds / 3600, s.notify_seconds)
    yield line("Step Functions", s.seconds / 3600 * HOURLY_TRANSITIONS, "transitions", TRANSITIONS)
    calls = s.requests + batches + s.deltas + s.seconds * (s.pushes_per_second + 4 / 60)
    log_gb = calls * LOG_BYTES / 1e9
    yield Line("logs", f"{calls:,.0f} invocations × {LOG_BYTES} B × ${LOGS_GB:g}/GB", log_gb * LOGS_GB)


def delta_bytes(events: int) -> int:
    """Return the size of a delta of so many page views."""
    spec = Contracts.load(ROOT / "schemas").spec("page_view")
    folding = Folding()
    for event in sample(min(events, 5000), 200):
        folding.add("page_view", event, folding.user(hash_user(event["user_id"])), spec)
    return len(encode_document(folding.document()))


def buffers() -> str:
    """Markdown: both buffers with `process`, for each scenario at several rates."""
    rows = ["| who sends | events/s | SQS, US$ | Kinesis, US$ |", "|---|---:|---:|---:|"]
    for scenario in SCENARIOS:
        for rate in BUFFER_RATES:
            found = [
                sum(
                    each.dollars
                    for each in lines(replace(scenario, buffer=buffer, events_per_second=rate))
                    if each.name.startswith(("SQS", "Kinesis", "Lambda process"))
                )
                for buffer in BUFFERS
            ]
            rows.append(f"| {scenario.name} | {rate:,} | {found[0]:.3f} | {found[1]:.3f} |")
    return "\n".join(rows) + "\n"


def table() -> str:
    """Markdown, a table for each scenario."""
    made = []
    for scenario in SCENARIOS:
        found = list(lines(scenario))
        rows = [f"| {line.name} | {line.formula} | {line.dollars:.3f} |" for line in found]
        total = sum(line.dollars for line in found)
        head = (
            f"**{scenario.name[0].upper()}{scenario.name[1:]}**, at {scenario.events_per_second:g} events/s "
            f"with {scenario.dashboards} dashboards open: **${total:.2f}** per million events"
        )
        made.append("\n".join([head, "", "| position | quantity × price | US$ |", "|---|---|---:|", *rows]))
    return "\n\n".join(made) + "\n"


if __name__ == "__main__":
    print(table())
    print(buffers())
