"""What a query is sent as: which files of hours that are not settled it sees, and whose it is."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chalicelib.base.errors import NotFound
from chalicelib.base.object_keys import hour_folder, tail_name
from chalicelib.lake.manifests import Manifest
from chalicelib.sql.athena import QueryState, Rows
from chalicelib.sql.queries_table import Asked, QueriesTable
from chalicelib.sql.query import QueryRunner
from chalicelib.sql.query_requests import ROWS, QueryRequest, ResultPage
from tests.stores import Stores, empty_stores

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR, SLOT = "2026-11-21T09", 498_681


class Sent:
    """An engine that keeps what it is sent, and finds nothing."""

    lake_table = "lake.events"

    def __init__(self) -> None:
        self.sql = ""

    def start(self, sql: str) -> str:
        self.sql = sql
        return "q1"

    def state(self, query_id: str) -> QueryState:
        return QueryState("SUCCEEDED", "", 0, self.sql, "s3://results/q1.csv")

    def rows(self, *_: Any) -> Rows:
        return Rows([], [], None)

    def link(self, *_: Any) -> str:
        return "https://results"


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def sent(stores: Stores) -> str:
    """What a query of the project is sent as."""
    engine = Sent()
    request = QueryRequest("SELECT event_id FROM events", None, {}, ROWS, 10)
    query_runner(stores, engine).run(request, "demo", NOW)
    return engine.sql


def query_runner(stores: Stores, engine: Any) -> QueryRunner:
    return QueryRunner(engine, QueriesTable(stores.connections.client, "control"), stores.hours, stores.folders)


def a_tail(stores: Stores, first: str) -> str:
    """A tail file, which nobody reads here; its name."""
    name = tail_name(SLOT, first, first.encode())
    stores.bucket.put(hour_folder("demo", HOUR) + name, first.encode())
    stores.hours.note("demo", HOUR)
    return name


def test_of_an_open_hour_a_query_names_the_tails_that_its_version_does_not_hold(stores: Stores) -> None:
    absorbed, fresh = a_tail(stores, "r1"), a_tail(stores, "r2")
    version = f"{int(NOW.timestamp() * 1000)}-run"
    stores.folders.manifests.write("demo", HOUR, version, Manifest({absorbed: 1}))
    assert stores.hours.commit(stores.hours.get("demo", HOUR), version, 1)

    sql = sent(stores)

    assert version in sql
    assert fresh in sql
    assert absorbed not in sql
    assert "'tail-%'" not in sql


def test_each_open_hour_is_named_with_its_version_however_many_there_are(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that are beyond the bound the folders are not looked into, but nobody takes them for settled."""
    monkeypatch.setattr("chalicelib.sql.query.MAX_LISTED_HOURS", 1)
    hours = [f"2026-11-21T{number:02}" for number in range(6, 10)]
    versions = {hour: f"{int(NOW.timestamp() * 1000) + number}-run" for number, hour in enumerate(hours)}
    for hour, version in versions.items():
        stores.hours.note("demo", hour)
        stores.folders.manifests.write("demo", hour, version, Manifest({}))
        assert stores.hours.commit(stores.hours.get("demo", hour), version, 1)
        stores.hours.note("demo", hour)  # something late

    sql = sent(stores)

    assert [version for version in versions.values() if version not in sql] == []


def test_of_an_hour_without_a_version_a_query_sees_every_tail(stores: Stores) -> None:
    a_tail(stores, "r1")

    assert "'tail-%'" in sent(stores)


def test_a_query_of_another_project_does_not_exist(stores: Stores) -> None:
    found = query_runner(stores, Sent())
    found.queries.put("q1", Asked("demo", "SELECT 1"), NOW + timedelta(days=1))

    assert found.answer("q1", "demo", ResultPage(10))["state"] == "SUCCEEDED"
    with pytest.raises(NotFound):
        found.answer("q1", "other", ResultPage(10))
