"""What was sent, beside what each place says it has: nothing may differ, in either direction, anywhere."""

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from chalicelib.base.time_windows import HOUR_MS, iso_ms
from demo.client import Client
from tests.soak.sender import Sent
from tests.soak.traffic import NUMBER, Cell

SQL = (
    "SELECT event_type, dt || 'T' || hr, count(*), count(DISTINCT event_id), "
    f"sum(CAST(substr(event_id, {NUMBER.start + 1}) AS bigint)) FROM events WHERE dt >= '{{day}}' GROUP BY 1, 2"
)
TRIES = 60  # of a question to a stack that is being killed
LEDGER = ("received", "stored", "duplicate", "quarantined", "erased", "in_flight")


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one place; `expected` is what was sent."""

    what: str
    place: str
    expected: int
    found: int

    @property
    def difference(self) -> int:
        """Too much (positive) or too little."""
        return self.found - self.expected


@dataclass
class Found:
    """What the places have."""

    analytics: Counter[Cell] = field(default_factory=Counter)
    rows: Counter[Cell] = field(default_factory=Counter)  # of SQL
    ids: Counter[Cell] = field(default_factory=Counter)
    numbers: Counter[Cell] = field(default_factory=Counter)
    ledgers: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)  # by project and hour of receipt
    dashboards: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)  # by name: project and metric


def compare(sent: Sent, found: Found, metric_of: Callable[[str], str]) -> list[Row]:
    """Every number that is compared, those that differ among them."""
    rows: list[Row] = []
    places = {
        "GET /analytics": (sent.events, found.analytics),
        "SQL rows": (sent.events, found.rows),
        "SQL distinct ids": (sent.events, found.ids),
        "SQL sum of ids": (sent.numbers, found.numbers),
    }
    for place, (expected, there) in places.items():
        rows += [Row(" ".join(cell), place, expected[cell], there[cell]) for cell in sorted({*expected, *there})]
    shown: Counter[tuple[str, str]] = Counter()
    for (project, event_type, _), count in sent.events.items():
        shown[project, metric_of(event_type)] += count
    for name, counts in found.dashboards.items():
        keys = {key for key in shown if key[0] in {project for project, _ in counts} or not counts} | set(counts)
        rows += [Row(" ".join(key), f"dashboard {name}", shown[key], counts[key]) for key in sorted(keys)]
    return rows + _of_ledgers(sent, found.ledgers)


def _of_ledgers(sent: Sent, ledgers: Mapping[tuple[str, str], Mapping[str, int]]) -> list[Row]:
    stored: Counter[str] = Counter(sent.copies)
    for (project, _, _), count in sent.events.items():
        stored[project] += count
    rows = []
    for project in sorted(stored):
        terms = {name: sum(ledger[name] for (of, _), ledger in ledgers.items() if of == project) for name in LEDGER}
        missing = sum(max(ledger["in_flight"], 0) for (of, _), ledger in ledgers.items() if of == project)
        surplus = sum(surplus_of(ledger) for (of, _), ledger in ledgers.items() if of == project)
        refused = sent.refused[project]
        rows += [
            Row(f"{project} stored, copies in other groups included", "ledger", stored[project], terms["stored"]),
            Row(f"{project} quarantined, at least", "ledger", refused, min(refused, terms["quarantined"])),
            Row(f"{project} missing", "ledger", 0, missing),
            Row(f"{project} surplus", "ledger", 0, surplus),
        ]
    return rows


def surplus_of(ledger: Mapping[str, int]) -> int:
    """What an hour of receipt has more on the right side than on the left, where what is in flight may not hide it."""
    more = sum(ledger[name] for name in LEDGER[1:]) - ledger["received"]
    return ledger.get("surplus", 0) or max(more, -ledger["in_flight"], 0)


def table(rows: Iterable[Row], limit: int = 40) -> str:
    """The numbers that differ, the largest differences first."""
    wrong = sorted((row for row in rows if row.difference), key=lambda row: -abs(row.difference))
    lines = [("what", "place", "sent", "found", "difference")]
    lines += [
        (row.what, row.place, f"{row.expected:,}", f"{row.found:,}", f"{row.difference:+,}") for row in wrong[:limit]
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = [
        "  ".join([*(c.ljust(w) for c, w in zip(line[:2], widths[:2], strict=True)),
                   *(c.rjust(w) for c, w in zip(line[2:], widths[2:], strict=True))])
        for line in lines
    ]  # fmt: skip
    more = [f"and {len(wrong) - limit} more"] if len(wrong) > limit else []
    return "\n".join([text[0], "-" * len(text[0]), *text[1:], *more])


class Reader:
    """Asks a stack that may be killed meanwhile."""

    def __init__(self, url: str, *, wait: Callable[[float], object] = time.sleep) -> None:
        self.client, self.wait = Client(url), wait

    def ask(self, method: str, path: str, key: str, body: bytes | None = None) -> tuple[int, Any]:
        """Status and document, as soon as there is an answer that is none of a failure."""
        problem = ""
        for _ in range(TRIES):
            try:
                answer = self.client.request(method, path, key=key, body=body)
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
            else:
                if answer.status < 500 and answer.status != 429:
                    return answer.status, json.loads(answer.body)
                problem = f"{answer.status} {answer.body[:200]!r}"
            self.wait(1.0)
        raise RuntimeError(f"{method} {path} has no answer after {TRIES} tries: {problem}")

    def counts(self, project: str, event_type: str, start_ms: int, end_ms: int) -> dict[str, int]:
        """GET /analytics by hour, of hours that have something."""
        query = {"metric": event_type, "start": iso_ms(start_ms), "end": iso_ms(end_ms), "interval": "hour"}
        status, document = self.ask("GET", f"/analytics?{urlencode(query)}", f"{project}-read")
        if status == 404:
            return {}
        assert status == 200, document
        return {point["start"][:13]: point["value"] for point in document["series"] if point["value"]}

    def sql(self, project: str, text: str) -> list[list[Any]]:
        """The rows of a query."""
        key = f"{project}-read"
        status, document = self.ask("POST", "/query", key, json.dumps({"sql": text}).encode())
        while status == 202:
            self.wait(0.5)
            status, document = self.ask("GET", f"/query/{document['id']}", key)
        assert status == 200, document
        rows: list[list[Any]] = document["rows"]
        return rows

    def ledger(self, project: str) -> list[dict[str, Any]]:
        """Of this hour of receipt and the one before."""
        status, document = self.ask("GET", "/realtime/metrics", f"{project}-read")
        assert status == 200, document
        hours: list[dict[str, Any]] = document["ledger"]
        return hours

    def lake(self, projects: Iterable[str], found: Found, start_ms: int) -> None:
        """Count every row by SQL."""
        for project in projects:
            for event_type, hour, rows, ids, numbers in self.sql(project, SQL.format(day=iso_ms(start_ms)[:10])):
                cell = (project, event_type, hour)
                found.rows[cell], found.ids[cell], found.numbers[cell] = int(rows), int(ids), int(numbers)

    def metrics(self, cells: Iterable[Cell], found: Found, start_ms: int, end_ms: int) -> None:
        """Ask for every type of every project, by hour."""
        for project, event_type in sorted({cell[:2] for cell in cells}):
            of_type = self.counts(project, event_type, start_ms - start_ms % HOUR_MS, end_ms)
            for hour, count in of_type.items():
                found.analytics[project, event_type, hour] = count
