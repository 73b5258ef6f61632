"""A lake on services in memory, and the analyst who asks about it, in the local Athena's words.

The local Athena itself begins a DuckDB for each query, and is asked over HTTP whether it has answered: a look at a lake
takes it a fifth of a second, and this one a fiftieth.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa

from chalicelib.base.data_bucket import DataBucket
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import SCHEMA
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.sql.athena import Athena
from chalicelib.sql.queries_table import QueriesTable
from chalicelib.sql.query import QueryRunner
from localcloud.athena_dialect import MACROS, to_duckdb
from tests.simulation.ports import athena
from tests.simulation.ports.client import Answer, Client, Effect
from tests.simulation.ports.dynamodb import DynamoDB
from tests.simulation.ports.s3 import S3, Bucket
from tests.simulation.ports.tables import Index, Table
from tests.stores import INDEXES

Told = Callable[[str, dict[str, Any]], None]  # an operation as boto3's client has it, and its arguments
NO_ROWS = pa.schema([*SCHEMA, *((name, pa.string()) for name in ("project", "dt", "hr", "$path"))]).empty_table()


@dataclass
class Queries(athena.Athena):
    """A query is over when it was started."""

    connection: duckdb.DuckDBPyConnection = field(default_factory=lambda: duckdb.connect(":memory:"))

    def __post_init__(self) -> None:
        for words in ("SET TimeZone = 'UTC'", "SET threads = 1", *MACROS):
            self.connection.execute(words)

    def start_query_execution(self, QueryString: str, QueryExecutionContext: dict[str, str], **_: Any) -> Answer:
        """Run a query on what the lake's folders hold now."""
        number, database = f"query-{len(self.answers)}", QueryExecutionContext["Database"]
        self.connection.register("lake", self._lake())
        self.connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{database}"')
        self.connection.execute(f'CREATE OR REPLACE VIEW "{database}".events AS SELECT * FROM lake')
        found = self.connection.execute(_in_duckdbs_words(QueryString))
        self.answers[number] = QueryString, [column[0] for column in found.description or ()], found.fetchall()
        return {"QueryExecutionId": number}

    def _lake(self) -> pa.Table:
        """Its rows, with the table's columns also where a file has not all of them, or there is none."""
        return pa.concat_tables([NO_ROWS, super()._lake()], promote_options="default")


class MemoryPlace:
    """One of its own for each test."""

    def __init__(self) -> None:
        self.bucket, self.table = "lake", "table"
        tables, objects = DynamoDB(time.time), S3(time.time)
        indexes = {key: Index(key, "written_at", kind == "ALL") for key, kind in INDEXES.items()}
        tables.tables[self.table] = Table(self.table, indexes)
        objects.buckets[self.bucket] = Bucket()
        self._services = {"dynamodb": tables, "s3": objects, "athena": Queries(objects)}
        dynamodb, s3 = self.client("dynamodb"), self.client("s3")
        self.query_runner = QueryRunner(
            Athena(self.client("athena"), s3, "tidemark", "tidemark", self.bucket),
            QueriesTable(dynamodb, self.table),
            HoursTable(dynamodb, self.table),
            HourFolders(DataBucket(s3, self.bucket)),
        )

    def client(self, service: str) -> Any:
        """A client of a service."""
        return Client(self._services[service])

    def telling_client(self, service: str, told: Told) -> Any:
        """A client that says what it is about to call."""

        def tell(_service: str, operation: str, arguments: dict[str, Any], effect: Effect) -> Answer:
            told(operation, arguments)
            return effect(**arguments)

        return Client(self._services[service], tell)


@lru_cache(maxsize=100)
def _in_duckdbs_words(query: str) -> str:
    """The same text is asked again and again, about what the lake holds by then."""
    return to_duckdb(query).sql(dialect="duckdb")
