"""Athena's answers from DuckDB: the table, what a query can reach, and the dialect."""

import io
import json
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config

from localcloud import athena
from localcloud.athena_dialect import MACROS, named_tables, only_projects, to_duckdb
from localcloud.athena_executions import ENDED, Answered, Asked, QueryCancelled
from localcloud.athena_values import as_athena
from tests.localcloud.analysts import ENDLESS
from tests.localcloud.services import Services

COLUMNS = [("event_id", "string"), ("user_id", "string"), ("occurred_at", "timestamp"), ("n", "bigint")]
Row = dict[str, Any]


class Lake:
    """A Glue table over a bucket."""

    def __init__(self, services: Services, parameters: dict[str, str]) -> None:
        self.s3, self.glue, self.athena = (services.client(name) for name in ("s3", "glue", "athena"))
        self.bucket = f"lake-{uuid.uuid4().hex}"
        self.database = f"db_{uuid.uuid4().hex}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.glue.create_database(DatabaseInput={"Name": self.database})
        self.glue.create_table(
            DatabaseName=self.database,
            TableInput={
                "Name": "events",
                "Parameters": parameters,
                "StorageDescriptor": {
                    "Location": f"s3://{self.bucket}/lake/",
                    "Columns": [{"Name": name, "Type": kind} for name, kind in COLUMNS],
                },
                "PartitionKeys": [{"Name": name, "Type": "string"} for name in ("project", "dt", "hr")],
            },
        )

    def put(self, project: str, rows: list[Row], *, hour: str = "05", name: str = "tail") -> str:
        """Write one file; its key."""
        for row in rows:
            row.setdefault("occurred_at", datetime(2026, 11, 21, int(hour), 30, tzinfo=UTC))
        schema = pa.schema(
            [
                (column, kind)
                for column, kind in (
                    ("event_id", pa.string()),
                    ("user_id", pa.string()),
                    ("occurred_at", pa.timestamp("us", "UTC")),
                    ("n", pa.int64()),
                )
                if any(column in row for row in rows)
            ]
        )
        body = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema), body)
        key = f"lake/project={project}/dt=2026-11-21/hr={hour}/{name}.parquet"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body.getvalue())
        return key

    def execute(self, sql: str) -> dict[str, Any]:
        """The finished execution."""
        query = self.athena.start_query_execution(
            QueryString=sql,
            QueryExecutionContext={"Database": self.database},
            ResultConfiguration={"OutputLocation": f"s3://{self.bucket}/results/"},
        )["QueryExecutionId"]
        return self.over(query)

    def over(self, query: str) -> dict[str, Any]:
        """The execution when it has ended."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            execution: dict[str, Any] = self.athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]
            if execution["Status"]["State"] not in ("QUEUED", "RUNNING"):
                return execution
            time.sleep(0.01)
        raise AssertionError("the query does not end")

    def rows(self, sql: str) -> list[list[str | None]]:
        """The rows as text."""
        execution = self.execute(sql)
        assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"].get("StateChangeReason")
        found = self.athena.get_query_results(QueryExecutionId=execution["QueryExecutionId"])["ResultSet"]["Rows"]
        return [[cell.get("VarCharValue") for cell in row["Data"]] for row in found[1:]]

    def reason(self, sql: str) -> str:
        """Why a query failed."""
        execution = self.execute(sql)
        assert execution["Status"]["State"] == "FAILED"
        return str(execution["Status"]["StateChangeReason"])


@pytest.fixture
def lake(services: Services) -> Lake:
    return Lake(services, {})


@pytest.fixture
def injected(services: Services) -> Lake:
    """A lake whose queries have to name their projects, as the product's does."""
    return Lake(services, {"projection.enabled": "true", "projection.project.type": "injected"})


def test_a_table_is_its_files_with_partitions_as_text_and_plain_utc_times(lake: Lake) -> None:
    lake.put("demo", [{"event_id": "a", "n": 1}])
    lake.put("demo", [{"event_id": "b", "n": 2}], hour="06", name="base")

    rows = lake.rows("SELECT event_id, n, occurred_at, project, dt, hr FROM events ORDER BY event_id")

    assert rows == [
        ["a", "1", "2026-11-21 05:30:00.000", "demo", "2026-11-21", "05"],
        ["b", "2", "2026-11-21 06:30:00.000", "demo", "2026-11-21", "06"],
    ]


def test_a_table_without_files_is_empty_and_has_its_columns(lake: Lake) -> None:
    assert lake.rows("SELECT count(*), max(occurred_at), max(project) FROM events") == [["0", None, None]]


def test_a_column_that_files_lack_is_null(lake: Lake) -> None:
    lake.put("demo", [{"event_id": "a"}])
    lake.put("demo", [{"event_id": "b", "n": 2}], name="new")

    assert lake.rows("SELECT event_id, n, user_id FROM events ORDER BY 1") == [["a", None, None], ["b", "2", None]]


def test_a_query_of_one_project_opens_no_file_of_another(lake: Lake) -> None:
    lake.put("demo", [{"event_id": "a"}])
    lake.s3.put_object(Bucket=lake.bucket, Key="lake/project=other/dt=2026-11-21/hr=05/x.parquet", Body=b"broken")

    sql = "SELECT event_id FROM (SELECT * FROM events WHERE \"project\" = 'demo') AS mine"

    assert lake.rows(sql) == [["a"]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT event_id FROM events",
        "SELECT event_id FROM events WHERE project LIKE 'd%'",
        "SELECT event_id FROM events WHERE project = 'demo' OR n = 1",
        "SELECT event_id FROM events WHERE project = 'demo' UNION ALL SELECT event_id FROM events",
    ],
)
def test_a_query_that_names_no_project_of_an_injected_column_fails(injected: Lake, sql: str) -> None:
    injected.put("demo", [{"event_id": "a"}])

    assert injected.reason(sql).startswith(
        "CONSTRAINT_VIOLATION: For the injected projected partition column project, the WHERE clause must contain"
    )


def test_a_query_that_names_its_projects_of_an_injected_column_is_answered(injected: Lake) -> None:
    for project in ("a", "b", "c"):
        injected.put(project, [{"event_id": project}])

    assert injected.rows("SELECT event_id FROM events WHERE project = 'a'") == [["a"]]
    assert injected.rows("SELECT event_id FROM events WHERE project IN ('a', 'c') ORDER BY 1") == [["a"], ["c"]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_parquet('/**/*.parquet')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM nothing",
        "SELECT getenv('HOME')",
        "COPY (SELECT 1) TO '/tmp/x'",
        "SELECT 1; SELECT 2",
    ],
)
def test_a_query_reaches_nothing_but_its_tables(lake: Lake, sql: str) -> None:
    lake.put("demo", [{"event_id": "a"}])

    assert lake.reason(sql)


def test_files_replaced_while_queries_run_are_seen_before_or_after(lake: Lake) -> None:
    keys = [lake.put("demo", [{"event_id": str(n)}], name=f"tail-{n}") for n in range(20)]
    started = [
        lake.athena.start_query_execution(
            QueryString="SELECT count(*) FROM events",
            QueryExecutionContext={"Database": lake.database},
            ResultConfiguration={"OutputLocation": f"s3://{lake.bucket}/results/"},
        )["QueryExecutionId"]
        for _ in range(3)
    ]

    for key in keys:
        lake.s3.delete_object(Bucket=lake.bucket, Key=key)

    for query in started:
        until = time.monotonic() + 10
        while (status := lake.athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"])[
            "State"
        ] not in ("SUCCEEDED", "FAILED"):
            assert time.monotonic() < until
        assert status["State"] == "SUCCEEDED", status.get("StateChangeReason")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("7 / 2", "3"),
        ("7.0 / 2", "3.5"),
        ("date_diff('minute', timestamp '2026-01-01 00:00:50', timestamp '2026-01-01 00:01:10')", "0"),
        ("date_diff('day', date '2026-01-01', date '2026-01-03')", "2"),
        ("date_trunc('hour', timestamp '2026-01-01 10:20:30')", "2026-01-01 10:00:00.000"),
        ("format_datetime(timestamp '2026-01-02 03:04:05', 'yyyy-MM-dd HH:mm:ss')", "2026-01-02 03:04:05"),
        ("date_format(timestamp '2026-01-02 03:04:05', '%Y-%m-%d %H:%i')", "2026-01-02 03:04"),
        ("to_iso8601(timestamp '2026-01-02 03:04:05')", "2026-01-02T03:04:05.000"),
        ("hour(at_timezone(timestamp '2026-01-02 03:04:05', 'Europe/Berlin'))", "4"),
        ("hour(timestamp '2026-07-02 03:04:05' AT TIME ZONE 'Europe/Berlin')", "5"),
        ("from_iso8601_timestamp('2026-01-02T03:04:05Z')", "2026-01-02 03:04:05.000 UTC"),
        ('json_extract_scalar(\'{"a": {"b": "x"}}\', \'$.a.b\')', "x"),
        ("approx_distinct(1)", "1"),
        ("count_if(true)", "1"),
        ("element_at(split('a-b', '-'), 2)", "b"),
        ("CAST(1 AS double)", "1.0"),
        ("CAST(123456789 AS double)", "1.23456789E8"),
        ("ARRAY[1, 2]", "[1, 2]"),
        ("1 = 1", "true"),
        ("try_cast('x' AS integer)", None),
    ],
)
def test_athenas_dialect(lake: Lake, expression: str, expected: str | None) -> None:
    assert lake.rows(f"SELECT {expression}") == [[expected]]


def test_a_name_that_a_common_table_expression_takes_is_no_table() -> None:
    assert named_tables("WITH a AS (SELECT * FROM events), events AS (SELECT 1) SELECT * FROM a") == [("", "events")]
    assert named_tables("WITH events AS (SELECT 1) SELECT * FROM events") == []


@pytest.mark.parametrize(
    ("sql", "projects"),
    [
        ("SELECT * FROM events WHERE project = 'a'", {"a"}),
        ("SELECT * FROM events WHERE n > 1 AND project = 'a' AND dt = 'x'", {"a"}),
        (
            "SELECT * FROM events WHERE project = 'a' UNION ALL SELECT * FROM events WHERE project = 'b'",
            {"a", "b"},
        ),
        ("SELECT * FROM events WHERE project IN ('a', 'b')", {"a", "b"}),
        ("SELECT * FROM events AS x JOIN other AS y ON x.n = y.n WHERE x.project = 'a'", {"a"}),
        ("SELECT * FROM events AS x JOIN other AS y ON x.n = y.n WHERE y.project = 'a'", None),
        ("SELECT * FROM events AS x, events AS y WHERE x.project = 'a' AND y.project = 'b'", {"a", "b"}),
        ("SELECT * FROM events WHERE project NOT IN ('a')", None),
        ("SELECT * FROM events WHERE project IN (SELECT user_id FROM other)", None),
        ("SELECT * FROM events WHERE project = user_id", None),
        ("SELECT * FROM events WHERE project = 'a' OR n = 1", None),
        ("SELECT * FROM events", None),
        ("SELECT * FROM events WHERE project = 'a' AND n IN (SELECT n FROM events)", None),
        ("SELECT * FROM events AS x, events AS y WHERE x.project = 'a'", None),
    ],
)
def test_projects_that_a_query_names(sql: str, projects: set[str] | None) -> None:
    assert only_projects(sql, "events") == projects


@pytest.mark.parametrize(
    ("value", "text"), [(0.001, "0.001"), (1e7, "1.0E7"), (0.00012, "1.2E-4"), (float("nan"), "NaN"), (0.0, "0.0")]
)
def test_doubles_are_written_as_java_does(value: float, text: str) -> None:
    assert as_athena(value) == text


def test_a_result_that_is_too_large_to_be_kept_fails(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(athena, "MAX_ANSWER_BYTES", 2 * 1024 * 1024)

    numbers = "SELECT x FROM UNNEST(sequence(1, 10000)) AS t(x) CROSS JOIN UNNEST(sequence(1, 10)) AS u(y)"
    assert "keeps 2 MB of a result" in lake.reason(numbers)


# A query that is stopped


class Connection:
    """DuckDB's own, on which an interrupt takes as long as it can: until the connection is closed, if it is."""

    def __init__(self) -> None:
        self.own: Any = None
        self.begun, self.closed = threading.Event(), threading.Event()
        self.interrupting = self.closed_meanwhile = False

    def connect(self, place: str) -> "Connection":
        """In place of duckdb.connect."""
        self.own = CONNECT(place)
        return self

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed_meanwhile = self.interrupting
        self.own.close()
        self.closed.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def sql(self, text: str) -> Any:
        assert self.begun.wait(10)
        return self.own.sql(text)

    def interrupt(self) -> None:
        self.interrupting = True
        self.begun.set()
        self.closed.wait(0.5)
        self.interrupting = False


CONNECT = duckdb.connect


def run(asked: Asked, folder: Path) -> Answered:
    return athena._run(asked, to_duckdb(asked.query), [], folder)


def test_a_connection_is_closed_when_nobody_can_interrupt_it_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection, asked = Connection(), Asked("SELECT 1", "default")
    monkeypatch.setattr(duckdb, "connect", connection.connect)
    monkeypatch.setattr(athena, "WATCH_SECONDS", 0.001)
    asked.stopped.set()

    run(asked, tmp_path / "query")

    assert connection.closed.is_set()
    assert not connection.closed_meanwhile


def test_many_queries_that_are_stopped_as_they_end_leave_no_error_in_any_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(athena, "WATCH_SECONDS", 0)

    for number in range(20):
        asked = Asked("SELECT 1", "default")
        asked.stopped.set()
        with suppress(QueryCancelled):
            run(asked, tmp_path / str(number))
        assert athena.WATCHER not in [thread.name for thread in threading.enumerate()]


def test_a_query_is_stopped_while_its_tables_are_made_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = "CREATE TABLE slow AS SELECT sum(a.range * b.range % 7) FROM range(100000) AS a, range(50000) AS b"
    monkeypatch.setattr(athena, "MACROS", [*MACROS, slow])
    asked = Asked("SELECT 1", "default")
    asked.stopped.set()

    with pytest.raises(QueryCancelled):
        run(asked, tmp_path / "query")


def test_a_query_is_stopped_before_it_begins(services: Services, lake: Lake) -> None:
    from ministack.core.responses import set_request_account_id, set_request_region
    from ministack.services import athena as ministack

    async def start_and_stop() -> str:
        set_request_account_id("000000000000")
        set_request_region("us-east-1")
        place = {"OutputLocation": f"s3://{lake.bucket}/results/"}
        started = ministack._start_query_execution({"QueryString": "SELECT 1", "ResultConfiguration": place})
        query_id: str = json.loads(started[2])["QueryExecutionId"]
        ministack._stop_query_execution({"QueryExecutionId": query_id})
        return query_id

    query_id = services.server.call(start_and_stop())

    assert lake.over(query_id)["Status"]["State"] == "CANCELLED"


def test_a_query_is_stopped_between_its_answer_and_its_end(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = athena._run
    ids: list[str] = []

    def run_and_stop(*arguments: Any) -> Answered:
        answered = real(*arguments)
        ids.extend(lake.athena.list_query_executions(MaxResults=1)["QueryExecutionIds"][-1:])
        lake.athena.stop_query_execution(QueryExecutionId=ids[0])
        return answered

    monkeypatch.setattr(athena, "_run", run_and_stop)

    execution = lake.execute("SELECT 1")

    assert (execution["QueryExecutionId"], execution["Status"]["State"]) == (ids[0], "CANCELLED")


def test_a_query_that_ran_when_the_cloud_ended_has_failed_at_the_next_start(services: Services, lake: Lake) -> None:
    from ministack.services import athena as ministack

    query_id = lake.execute("SELECT 1")["QueryExecutionId"]
    ministack._executions._data["000000000000", "us-east-1", query_id]["Status"]["State"] = "RUNNING"

    services.queries.fail_unfinished()

    status = lake.athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]["Status"]
    assert (status["State"], status["StateChangeReason"]) == ("FAILED", ENDED)


def test_a_query_that_runs_when_the_cloud_is_to_end_ends(services: Services, lake: Lake) -> None:
    query_id = lake.athena.start_query_execution(
        QueryString=ENDLESS,
        QueryExecutionContext={"Database": lake.database},
        ResultConfiguration={"OutputLocation": f"s3://{lake.bucket}/results/"},
    )["QueryExecutionId"]

    services.server.call(services.queries.stop_all())

    assert lake.over(query_id)["Status"]["State"] == "CANCELLED"


def test_services_answer_while_a_query_is_read(services: Services, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = Config(read_timeout=5, retries={"total_max_attempts": 1})
    s3 = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{services.port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=impatient,
    )

    def read_and_ask(query: str) -> Any:
        s3.head_bucket(Bucket=lake.bucket)
        return to_duckdb(query)

    monkeypatch.setattr(athena, "to_duckdb", read_and_ask)

    assert lake.rows("SELECT 1") == [["1"]]
    s3.close()


def test_what_a_files_name_says_is_in_its_rows_as_athena_has_it(lake: Lake) -> None:
    lake.put("a%20b", [{"event_id": "a"}])

    rows = lake.rows('SELECT project, dt, hr, "$path" FROM events')

    path = f"s3://{lake.bucket}/lake/project=a%20b/dt=2026-11-21/hr=05/tail.parquet"
    assert rows == [["a b", "2026-11-21", "05", path]]


def test_a_query_finds_its_files_though_others_are_deleted_one_after_another(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while an hour's work is cleaned up: no listing stays true until all of its files are linked."""
    client, bucket = services.client("s3"), f"b-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    kept, doomed = [f"lake/kept-{n}.parquet" for n in range(3)], [f"lake/old-{n:02d}.parquet" for n in range(30)]
    for key in [*kept, *doomed]:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    source = athena._Source("db", {"Name": "t", "StorageDescriptor": {}}, bucket, "lake/", ["lake/"])
    listed = source._keys

    def keys() -> list[str]:
        found = list(listed())
        client.delete_object(Bucket=bucket, Key=doomed.pop(0))
        return found

    monkeypatch.setattr(source, "_keys", keys)

    linked = source.link(tmp_path)

    names = {f"lake/{file.name}" for file in linked.files}
    assert {*kept} <= names <= {*kept, *doomed, "lake/old-01.parquet"}
    assert all(file.exists() for file in linked.files)
