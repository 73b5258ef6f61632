"""Athena in memory: DuckDB runs the text on the lake's rows, with each row's file and the folders that it lies in.

The app's own queries are of a form that both engines read alike; what analysts may write is the local cloud's matter.
"""

import io
import re
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.simulation.ports.client import Answer, Service
from tests.simulation.ports.s3 import S3

_PLACE = re.compile(r"lake/project=([^/]+)/dt=([^/]+)/hr=([^/]+)/[^/]+\.parquet")


@dataclass
class Athena(Service):
    """A query is over when it was started."""

    s3: S3
    answers: dict[str, Any] = field(default_factory=dict)
    name: str = "athena"

    def start_query_execution(self, QueryString: str, QueryExecutionContext: dict[str, str], **_: Any) -> Answer:
        """Run a query on what the lake's folders hold now."""
        number = f"query-{len(self.answers)}"
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
        info = [{"Name": name, "Type": "varchar"} for name in columns]
        answer: Answer = {"ResultSet": {"Rows": page, "ResultSetMetadata": {"ColumnInfo": info}}}
        return answer | ({"NextToken": str(first + MaxResults)} if first + MaxResults < len(every) else {})

    def stop_query_execution(self, QueryExecutionId: str) -> Answer:
        """It is over already."""
        return {}

    def _lake(self) -> pa.Table:
        tables = []
        for name, bucket in self.s3.buckets.items():
            for key in bucket.order:
                if place := _PLACE.fullmatch(key):
                    table = pq.read_table(io.BytesIO(bucket.objects[key].content), use_threads=False)
                    values = (*place.groups(), f"s3://{name}/{key}")
                    for column, value in zip(("project", "dt", "hr", "$path"), values, strict=True):
                        table = table.append_column(column, pa.repeat(pa.scalar(value), table.num_rows))
                    tables.append(table)
        return (
            pa.concat_tables(tables, promote_options="default")
            if tables
            else pa.table({"project": pa.array([], "str")})
        )


def _cell(value: Any) -> dict[str, str]:
    return {} if value is None else {"VarCharValue": str(value)}
