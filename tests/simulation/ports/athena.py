"""Athena in memory: which of the lake's rows a query sees, by the conditions that the app asks with.

A full query is run by DuckDB. Most histories ask in short: the app's conditions, and whose rows; that takes a hundredth
of the time, and what is seen is decided by the same words.
"""

import io
import json
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.simulation.ports.client import Answer, Service
from tests.simulation.ports.s3 import S3

_PLACE = re.compile(r"lake/project=([^/]+)/dt=([^/]+)/hr=([^/]+)/([^/]+\.parquet)")
SHORT = "short"  # a query in short is JSON with this field
_TYPES = {bool: "boolean", int: "bigint", float: "double"}
COLUMNS = ["event_id", "event_type", "dt", "hr"]


def in_short(project: str, settled: str, unsettled: str | None) -> str:
    """A query in short: conditions on `name`, `dt` and `hr`; of what the second one sees, copies are left out."""
    return json.dumps({SHORT: True, "project": project, "settled": settled, "unsettled": unsettled})


@dataclass
class Athena(Service):
    """A query is over when it was started."""

    s3: S3
    answers: dict[str, Any] = field(default_factory=dict)
    name: str = "athena"

    def start_query_execution(self, QueryString: str, QueryExecutionContext: dict[str, str], **_: Any) -> Answer:
        """Run a query on what the lake's folders hold now."""
        number = f"query-{len(self.answers)}"
        if QueryString.startswith("{"):
            self.answers[number] = QueryString, COLUMNS, self._seen(json.loads(QueryString))
            return {"QueryExecutionId": number}
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET threads = 1")
            connection.register("lake", self._lake())
            connection.execute(f'CREATE SCHEMA "{QueryExecutionContext["Database"]}"')
            connection.execute(f'CREATE VIEW "{QueryExecutionContext["Database"]}".events AS SELECT * FROM lake')
            found = connection.sql(QueryString)
            self.answers[number] = QueryString, found.columns, found.fetchall()
        return {"QueryExecutionId": number}

    def get_query_execution(self, QueryExecutionId: str) -> Answer:
        """That it succeeded."""
        return {"QueryExecution": {"Status": {"State": "SUCCEEDED"}, "Query": self.answers[QueryExecutionId][0]}}

    def get_query_results(self, QueryExecutionId: str, MaxResults: int = 1000, NextToken: str = "") -> Answer:
        """A page of the rows, as text; the first one has the names."""
        _, columns, rows = self.answers[QueryExecutionId]
        every, first = [columns, *rows], int(NextToken or 0)
        page = [{"Data": [_cell(value) for value in row]} for row in every[first : first + MaxResults]]
        info = [{"Name": name, "Type": _type(row[place] for row in rows)} for place, name in enumerate(columns)]
        answer: Answer = {"ResultSet": {"Rows": page, "ResultSetMetadata": {"ColumnInfo": info}}}
        return answer | ({"NextToken": str(first + MaxResults)} if first + MaxResults < len(every) else {})

    def stop_query_execution(self, QueryExecutionId: str) -> Answer:
        """It is over already."""
        return {}

    def _seen(self, asked: dict[str, Any]) -> list[tuple[str, ...]]:
        """The rows of the files that the conditions take."""
        rows: list[tuple[str, ...]] = []
        copies: dict[tuple[str, str, str], tuple[str, ...]] = {}
        for bucket in self.s3.buckets.values():
            for key in bucket.order:
                place = _PLACE.fullmatch(key)
                if place is None or place[1] != asked["project"]:
                    continue
                dt, hr = place[2], place[3]
                found = [(*ids, dt, hr) for ids in _ids(bucket.objects[key].content)]
                if _holds(asked["settled"], place[4], dt, hr):
                    rows += found
                if asked["unsettled"] and _holds(asked["unsettled"], place[4], dt, hr):
                    copies |= {(dt, hr, row[0]): row for row in found}
        return [*rows, *copies.values()]

    def _lake(self) -> pa.Table:
        from chalicelib.lake.lake import SCHEMA  # late: the app is imported under the seed

        tables = []
        for name, bucket in self.s3.buckets.items():
            for key in bucket.order:
                if place := _PLACE.fullmatch(key):
                    table = pq.read_table(io.BytesIO(bucket.objects[key].content), use_threads=False)
                    values = (*place.groups()[:3], f"s3://{name}/{key}")
                    for column, value in zip(("project", "dt", "hr", "$path"), values, strict=True):
                        table = table.append_column(column, pa.repeat(pa.scalar(value), table.num_rows))
                    tables.append(table)
        places = pa.schema([(column, pa.string()) for column in ("project", "dt", "hr", "$path")])
        none = pa.unify_schemas([SCHEMA, places]).empty_table()
        return pa.concat_tables([none, *tables], promote_options="permissive")


def _type(values: Iterable[Any]) -> str:
    """Athena's name of a column's type, by the first value that is there."""
    found = next((value for value in values if value is not None), None)
    return _TYPES.get(type(found), "varchar")


def _cell(value: Any) -> dict[str, str]:
    return {} if value is None else {"VarCharValue": str(value)}


def _regexp_extract(text: str, pattern: str, group: int = 0) -> str | None:
    found = re.search(pattern, text)
    return found[group] if found else None


_sqlite = sqlite3.connect(":memory:", check_same_thread=False)
_sqlite.create_function("concat", -1, lambda *texts: "".join(texts))
_sqlite.create_function("regexp_extract", -1, _regexp_extract)


@lru_cache(maxsize=10_000)
def _holds(condition: str, name: str, dt: str, hr: str) -> bool:
    """SQLite reads what is used of Athena's words in the same way: comparisons of texts, LIKE, IN, AND, OR, NOT; it
    has been given two functions.
    """
    [found] = _sqlite.execute(
        f"SELECT {condition} FROM (SELECT ? AS name, ? AS dt, ? AS hr)", (name, dt, hr)
    ).fetchone()
    return bool(found)


@lru_cache(maxsize=1000)
def _ids(content: bytes) -> list[tuple[str, str]]:
    table = pq.ParquetFile(io.BytesIO(content)).read(columns=COLUMNS[:2], use_threads=False)  # a tenth of read_table
    return list(zip(table["event_id"].to_pylist(), table["event_type"].to_pylist(), strict=True))
