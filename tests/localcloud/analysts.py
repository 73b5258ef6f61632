"""A lake with its catalogue, table and workgroup on the local services, and the analyst who asks about it."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import hour_folder, tail_name
from chalicelib.base.time_windows import hour_of
from chalicelib.events.events import StoredEvent
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import SCHEMA, SLOT, Lake, Row, encode, table_of
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.sql.athena import Athena
from chalicelib.sql.queries_table import QueriesTable
from chalicelib.sql.query import QueryRunner
from chalicelib.sql.query_requests import ROWS, QueryRequest, ResultPage
from tests.localcloud.services import Services
from tests.stores import INDEXES, create_table

ATHENA_TYPES = {"string": "string", "timestamp[us, tz=UTC]": "timestamp"}
NOW = datetime(2026, 11, 30, tzinfo=UTC)
ENDLESS = "SELECT count(*) FROM UNNEST(sequence(1, 300000)) a(x) "
ENDLESS += "CROSS JOIN UNNEST(sequence(1, 300000)) b(y) WHERE x * y = 7"


@dataclass
class Place:
    """One of its own for each test; `query_runner` is the product's, waiting in short steps."""

    services: Services
    most_bytes: int | None = None  # that a query may read
    tails: int = 0
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = uuid.uuid4().hex
        self.bucket, self.table, self.database = f"lake-{name}", f"table-{name}", f"db_{name}"
        s3, dynamodb, glue = (self.services.client(service) for service in ("s3", "dynamodb", "glue"))
        s3.create_bucket(Bucket=self.bucket)
        create_table(dynamodb, self.table, INDEXES)
        glue.create_database(DatabaseInput={"Name": self.database})
        columns = [{"Name": c.name, "Type": ATHENA_TYPES[str(c.type)]} for c in SCHEMA if c.name != SLOT]
        glue.create_table(
            DatabaseName=self.database,
            TableInput={
                "Name": "events",
                "Parameters": {"projection.enabled": "true", "projection.project.type": "injected"},
                "StorageDescriptor": {"Location": f"s3://{self.bucket}/lake/", "Columns": columns},
                "PartitionKeys": [{"Name": name, "Type": "string"} for name in ("project", "dt", "hr")],
            },
        )
        client = self.client("athena", parameter_validation=False)  # so that a limit can be small
        configuration: dict[str, Any] = {"ResultConfiguration": {"OutputLocation": f"s3://{self.bucket}/athena/"}}
        if self.most_bytes is not None:
            configuration["BytesScannedCutoffPerQuery"] = self.most_bytes
        client.create_work_group(Name=self.database, Configuration=configuration)
        athena = Athena(client, self.client("s3", signature_version="s3v4"), self.database, self.database, self.bucket)
        bucket = DataBucket(s3, self.bucket)
        self.lake, self.hours, queries = (
            Lake(bucket),
            HoursTable(dynamodb, self.table),
            QueriesTable(dynamodb, self.table),
        )
        self.query_runner = QueryRunner(
            athena, queries, self.hours, HourFolders(bucket), sleep=lambda _: time.sleep(0.02)
        )

    def client(self, service: str, **options: Any) -> Any:
        """A client of its own."""
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.services.port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(**options),
        )

    def telling_client(self, service: str, told: Callable[[str, dict[str, Any]], None]) -> Any:
        """A client of its own that says what it is about to call: the operation, and its arguments."""

        def tell(params: dict[str, Any], model: Any, **_: Any) -> None:
            told(xform_name(model.name), params)

        client = self.client(service)
        client.meta.events.register("provide-client-params", tell)
        return client

    def write(self, project: str, events: Iterable[StoredEvent]) -> None:
        """Put the events into the lake as tail files, an hour each, as `archive` does."""
        hours: dict[str, list[Row]] = {}
        for event in events:
            hours.setdefault(hour_of(event["occurred_at"]), []).append(Row(event, event["occurred_at"] + 500))
        for hour, rows in hours.items():
            self.tails += 1
            content = encode(table_of(rows))
            self.lake.put(hour_folder(project, hour) + tail_name(1, f"{self.tails:032x}", content), content)
            self.hours.note(project, hour)

    def ask(
        self,
        text: str,
        project: str = "demo",
        *,
        parameters: Mapping[str, Any] | None = None,
        limit: int = 1000,
        form: str = ROWS,
    ) -> dict[str, Any]:
        """The answer of POST /query."""
        answer = self.query_runner.run(QueryRequest(text, None, parameters or {}, form, limit), project, NOW)
        self.ids.append(answer["id"])
        return answer

    def rows(self, text: str, project: str = "demo", **more: Any) -> list[list[Any]]:
        """Its rows."""
        rows: list[list[Any]] = self.ask(text, project, **more)["rows"]
        return rows

    def page(self, query_id: str, limit: int, page: str | None = None, project: str = "demo") -> dict[str, Any]:
        """The answer of GET /query/{id}."""
        return self.query_runner.answer(query_id, project, ResultPage(limit, page))

    def report(self, name: str, **parameters: str) -> dict[str, Any]:
        """The answer of GET /reports/{name}."""
        return self.query_runner.report(name, parameters, "demo", NOW)
