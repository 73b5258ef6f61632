"""Athena: starts a query, tells its state, reads its rows."""

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.errors import InvalidRequest

_NUMBERS = {"tinyint": int, "smallint": int, "integer": int, "bigint": int, "float": float, "double": float}


@dataclass(frozen=True, slots=True)
class QueryState:
    """`state` is Athena's: QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED."""

    state: str
    reason: str
    scanned_bytes: int


@dataclass(frozen=True, slots=True)
class Athena:
    """Queries in one workgroup, whose configuration limits what a query may scan."""

    client: Any
    database: str
    workgroup: str

    @property
    def lake_table(self) -> str:
        """The table over the whole lake."""
        return f"{self.database}.events"

    def start(self, sql: str) -> str:
        """The id of the started query; raises InvalidRequest when Athena refuses the text."""
        try:
            query_id: str = self.client.start_query_execution(
                QueryString=sql, QueryExecutionContext={"Database": self.database}, WorkGroup=self.workgroup
            )["QueryExecutionId"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidRequestException":
                raise
            raise InvalidRequest(error.response["Error"]["Message"], code="invalid_sql") from error
        return query_id

    def state(self, query_id: str) -> QueryState:
        """Where the query stands."""
        execution = self.client.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
        status = execution["Status"]
        scanned = execution.get("Statistics", {}).get("DataScannedInBytes", 0)
        return QueryState(status["State"], status.get("StateChangeReason", ""), scanned)

    def rows(self, query_id: str, limit: int) -> tuple[list[dict[str, str]], list[list[Any]]]:
        """Columns as {name, type} and up to `limit` rows; numbers and booleans as such, all else as text."""
        pages = self.client.get_paginator("get_query_results").paginate(
            QueryExecutionId=query_id, PaginationConfig={"MaxItems": limit + 1}
        )
        columns: list[dict[str, str]] = []
        rows: list[list[Any]] = []
        for number, page in enumerate(pages):
            info = page["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
            columns = [{"name": column["Name"], "type": column["Type"]} for column in info]
            data = page["ResultSet"]["Rows"][number == 0 :]  # a SELECT's first row repeats the names
            rows += [
                [_value(cell, column["Type"]) for cell, column in zip(row["Data"], info, strict=True)] for row in data
            ]
        return columns, rows


def _value(cell: dict[str, str], kind: str) -> Any:
    text = cell.get("VarCharValue")
    if text is None:
        return None
    if kind == "boolean":
        return text.lower() == "true"
    return _NUMBERS.get(kind, str)(text)
