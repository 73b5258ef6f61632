"""Athena: starts a query, tells its state, reads its rows, ends it; and links to its results."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from chalicelib.base.errors import InvalidRequest

_NUMBERS = {"tinyint": int, "smallint": int, "integer": int, "bigint": int, "float": float, "double": float}
MAX_RESULTS = 1000  # GetQueryResults' limit of a page
UNLOADED = "athena/unloaded/"  # in the results bucket, below what the workgroup's results have


@dataclass(frozen=True, slots=True)
class QueryState:
    """`state` is Athena's: QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED."""

    state: str
    reason: str
    scanned_bytes: int
    sent: str  # the query string
    location: str  # of the results, s3://…


@dataclass(frozen=True, slots=True)
class Rows:
    """A part of a result: columns as {name, type}, and the token with which it goes on."""

    columns: list[dict[str, str]]
    rows: list[list[Any]]
    next: str | None


@dataclass(frozen=True, slots=True)
class Athena:
    """Queries in one workgroup, whose configuration limits what a query may scan."""

    client: Any
    s3: Any
    database: str
    workgroup: str
    results_bucket: str

    @property
    def lake_table(self) -> str:
        """The table over the whole lake."""
        return f"{self.database}.events"

    def start(self, sql: str) -> str:
        """Start a query, and return its id; raises InvalidRequest, with Athena's words, when it refuses the text."""
        try:
            query_id: str = self.client.start_query_execution(
                QueryString=sql, QueryExecutionContext={"Database": self.database}, WorkGroup=self.workgroup
            )["QueryExecutionId"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidRequestException":
                raise
            raise InvalidRequest(error.response["Error"]["Message"], code="invalid_sql") from error
        return query_id

    def as_parquet(self, sql: str, folder: str) -> str:
        """Return the statement that writes the query's rows as Parquet into the folder, which must be empty."""
        target = f"s3://{self.results_bucket}/{UNLOADED}{folder}/"
        return f"UNLOAD ({sql}) TO '{target}' WITH (format = 'PARQUET', compression = 'SNAPPY')"

    def state(self, query_id: str) -> QueryState:
        """Return where the query stands."""
        execution = self.client.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
        status = execution["Status"]
        return QueryState(
            status["State"],
            status.get("StateChangeReason", ""),
            execution.get("Statistics", {}).get("DataScannedInBytes", 0),
            execution.get("Query", ""),
            execution.get("ResultConfiguration", {}).get("OutputLocation", ""),
        )

    def stop(self, query_id: str) -> None:
        """End the query; of one that has ended it changes nothing."""
        self.client.stop_query_execution(QueryExecutionId=query_id)

    def rows(self, query_id: str, limit: int, token: str | None = None) -> Rows:
        """`limit` rows from the token on; numbers and booleans as such, all else as text.

        Raises InvalidRequest for a token that Athena did not give.
        """
        columns: list[dict[str, str]] = []
        rows: list[list[Any]] = []
        named = bool(token)  # a SELECT's first row repeats the names
        while len(rows) < limit:
            page = self._page(query_id, min(limit - len(rows) + (not named), MAX_RESULTS), token)
            info = page["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
            columns = [{"name": column["Name"], "type": column["Type"]} for column in info]
            kinds = [column["type"] for column in columns]
            rows += [
                [_value(cell, kind) for cell, kind in zip(row["Data"], kinds, strict=True)]
                for row in page["ResultSet"]["Rows"][not named :]
            ]
            named, token = True, page.get("NextToken")
            if token is None:
                break
        return Rows(columns, rows, token)

    def link(self, location: str, seconds: int) -> str:
        """Return a link to the object at s3://…, by which whoever has it may read it for so long."""
        place = urlsplit(location)
        link: str = self.s3.generate_presigned_url(
            "get_object", Params={"Bucket": place.netloc, "Key": place.path.lstrip("/")}, ExpiresIn=seconds
        )
        return link

    def unloaded(self, folder: str, seconds: int) -> Iterator[tuple[str, int]]:
        """Yield a link to each file that was written as Parquet into the folder, and its size in bytes."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.results_bucket, Prefix=f"{UNLOADED}{folder}/"
        )
        for page in pages:
            for item in page.get("Contents", []):
                yield self.link(f"s3://{self.results_bucket}/{item['Key']}", seconds), item["Size"]

    def _page(self, query_id: str, limit: int, token: str | None) -> dict[str, Any]:
        more = {"NextToken": token} if token else {}
        try:
            page: dict[str, Any] = self.client.get_query_results(QueryExecutionId=query_id, MaxResults=limit, **more)
        except ClientError as error:
            if not token or error.response["Error"]["Code"] != "InvalidRequestException":
                raise
            raise InvalidRequest("page: the value is not the `next` of an answer", code="invalid_parameter") from error
        return page


def _value(cell: dict[str, str], kind: str) -> Any:
    text = cell.get("VarCharValue")
    if text is None:
        return None
    if kind == "boolean":
        return text.lower() == "true"
    return _NUMBERS.get(kind, str)(text)
