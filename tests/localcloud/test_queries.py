"""POST /query and what belongs to it, on the local Athena: pages, links, limits, cancelling, saved queries."""

import csv
import io
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
import pytest

from chalicelib.base.errors import InvalidRequest, NotFound
from chalicelib.events.events import StoredEvent
from chalicelib.http.calls import REPORT_NAMES
from chalicelib.sql import query
from chalicelib.sql.query_requests import (
    PARQUET,
    ROWS,
    QueryRequest,
    ResultPage,
    read_query,
    read_result,
    read_saved,
)
from chalicelib.sql.reports import REPORTS
from tests.localcloud.analysts import ENDLESS, NOW, Place
from tests.localcloud.services import Services

NINE = 1_795_251_600_000
NUMBERS = "SELECT n FROM UNNEST(sequence(1, 2500)) AS t(n) ORDER BY 1"


@pytest.fixture(scope="module")
def place(services: Services) -> Place:
    """A lake with two events."""
    found = Place(services)
    found.write("demo", [event("e1", "ada"), event("e2", 'b"o, b')])
    return found


def event(event_id: str, user_id: str) -> StoredEvent:
    return StoredEvent(event_id=event_id, event_type="click", user_id=user_id, occurred_at=NINE)


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
    return content


def message(place: Place, sql: str, code: str = "query_failed") -> str:
    with pytest.raises(InvalidRequest) as refused:
        place.ask(sql)
    assert refused.value.code == code
    return refused.value.message


def test_pages_follow_one_another_without_a_gap(place: Place) -> None:
    answer = place.ask(NUMBERS, limit=1000)
    found = answer["rows"]
    sizes = [len(found)]
    while answer["next"]:
        answer = place.page(answer["id"], 700, answer["next"])
        found, sizes = found + answer["rows"], [*sizes, len(answer["rows"])]

    assert found == [[n] for n in range(1, 2501)]
    assert sizes == [1000, 700, 700, 100]


@pytest.mark.parametrize("page", ["garbage", "-1", "1.5"])
def test_a_page_that_no_answer_named_is_refused(place: Place, page: str) -> None:
    answer = place.ask(NUMBERS, limit=10)

    with pytest.raises(InvalidRequest, match="page: the value is not the `next` of an answer"):
        place.page(answer["id"], 10, page)


def test_a_page_holds_as_many_rows_as_fit_and_the_next_goes_on_behind_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "MAX_ANSWER_BYTES", 1000)

    first = place.ask("SELECT n, lpad('x', 100, 'x') FROM UNNEST(sequence(1, 30)) AS t(n) ORDER BY 1")
    second = place.page(first["id"], 1000, first["next"])

    assert [row[0] for row in first["rows"] + second["rows"]] == list(range(1, 19))
    assert "one row has more than 1000 bytes" in message(place, "SELECT lpad('x', 2000, 'x')", "row_too_large")


def test_a_link_leads_to_all_rows_as_csv(place: Place) -> None:
    [download] = place.ask("SELECT event_id, user_id, session_id FROM events ORDER BY 1", limit=1)["downloads"]

    assert download["format"] == "csv"
    lines = list(csv.reader(io.StringIO(read(download["url"]).decode())))
    assert lines == [["event_id", "user_id", "session_id"], ["e1", "ada", ""], ["e2", 'b"o, b', ""]]


def test_parquet_is_files_behind_links(place: Place) -> None:
    answer = place.ask("WITH a AS (SELECT event_id, 7 AS n FROM events) SELECT * FROM a ORDER BY 1", form=PARQUET)

    [download] = answer["downloads"]
    content = read(download["url"])
    assert (answer["rows"], download["format"], download["size_bytes"]) == ([], "parquet", len(content))
    assert pq.read_table(io.BytesIO(content)).to_pylist() == [{"event_id": "e1", "n": 7}, {"event_id": "e2", "n": 7}]
    assert place.page(answer["id"], 10)["downloads"][0]["size_bytes"] == len(content)


def test_a_link_is_signed_and_ends(place: Place) -> None:
    [download] = place.ask("SELECT 1")["downloads"]

    assert "X-Amz-Signature=" in download["url"]
    assert "X-Amz-Expires=900" in download["url"]


def test_a_query_belongs_to_its_project(place: Place) -> None:
    query_id = place.ask("SELECT 1")["id"]

    asks: list[Callable[[], Any]] = [
        lambda: place.page(query_id, 1, project="other"),
        lambda: place.query_runner.cancel(query_id, "other"),
        lambda: place.page("unknown", 1),
        lambda: place.page("x" * 5000, 1),
    ]
    for ask in asks:
        with pytest.raises(NotFound):
            ask()


def test_a_query_that_takes_long_is_answered_by_its_id_and_can_be_cancelled(place: Place) -> None:
    hurried = replace(place.query_runner, clock=iter(range(0, 1000, 15)).__next__, sleep=lambda _: None)

    answer = hurried.run(QueryRequest(ENDLESS, None, {}, ROWS, 10), "demo", NOW)

    assert answer["state"] in ("QUEUED", "RUNNING")
    assert answer.keys() == {"id", "state", "scanned_bytes"}
    assert place.page(answer["id"], 10)["state"] == "RUNNING"
    place.query_runner.cancel(answer["id"], "demo")
    until = time.monotonic() + 20
    while place.query_runner.athena.state(answer["id"]).state == "RUNNING":
        assert time.monotonic() < until, "it goes on"
    with pytest.raises(InvalidRequest) as refused:
        place.page(answer["id"], 10)
    assert (refused.value.code, refused.value.message) == (
        "query_cancelled",
        "the query was cancelled: Query was cancelled by user",
    )


def test_cancelling_what_has_ended_changes_nothing(place: Place) -> None:
    query_id = place.ask("SELECT 1")["id"]

    assert place.query_runner.cancel(query_id, "demo") == {"id": query_id, "state": "SUCCEEDED"}
    assert place.page(query_id, 1)["rows"] == [[1]]


def test_a_query_that_reads_more_than_the_workgroup_allows_is_cancelled(services: Services) -> None:
    small = Place(services, most_bytes=100)
    small.write("demo", [event("e1", "ada")])

    assert message(small, "SELECT * FROM events", "query_cancelled").endswith("Bytes scanned limit was exceeded")
    assert small.rows("SELECT 1") == [[1]]


def test_what_was_read_is_told(place: Place) -> None:
    assert place.ask("SELECT count(*) FROM events")["scanned_bytes"] > 1000
    assert place.ask("SELECT 1")["scanned_bytes"] == 0


def test_an_error_has_the_engines_words_and_the_place_in_the_query_as_it_was_written(place: Place) -> None:
    assert message(place, "SELECT event_id,\n  nothing FROM events") == (
        "the query failed: COLUMN_NOT_FOUND: line 2:3: Column 'nothing' cannot be resolved"
    )
    assert "Could not convert string" in message(place, "SELECT cast(event_id AS bigint) FROM events")
    assert message(place, "SELECT\n 1 FROM nothing", "invalid_sql").startswith("'nothing' is no table here")


def test_parameters_go_with_the_query(place: Place) -> None:
    sql = "SELECT event_id FROM events WHERE user_id IN (:users) AND event_type = :type LIMIT :n"

    rows = place.rows(sql, parameters={"users": ["ada", "'; DROP"], "type": "click", "n": 5})

    assert rows == [["e1"]]


def test_a_saved_query_is_asked_by_its_name_within_its_project(place: Place) -> None:
    text = "SELECT count(*) FROM events WHERE user_id = :user"
    saved = place.query_runner.save(read_saved({"name": "of-user", "sql": text, "description": "d"}), "demo", NOW)

    assert saved["parameters"] == ["user"]
    assert place.query_runner.show_saved("demo") == {"queries": [saved]}
    asked = read_query({"name": "of-user", "parameters": {"user": "ada"}})
    assert place.query_runner.run(asked, "demo", NOW)["rows"] == [[1]]
    with pytest.raises(NotFound):
        place.query_runner.run(asked, "other", NOW)
    with pytest.raises(NotFound):
        place.query_runner.forget("of-user", "other")
    place.query_runner.forget("of-user", "demo")
    with pytest.raises(NotFound):
        place.query_runner.run(asked, "demo", NOW)


def test_only_what_may_be_asked_can_be_saved_and_not_without_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MAX_SAVED", 1)
    with pytest.raises(InvalidRequest, match="no table here"):
        place.query_runner.save(read_saved({"name": "a", "sql": "SELECT * FROM secrets"}), "full", NOW)

    place.query_runner.save(read_saved({"name": "a", "sql": "SELECT 1"}), "full", NOW)
    place.query_runner.save(read_saved({"name": "a", "sql": "SELECT 2"}), "full", NOW)

    assert [saved["sql"] for saved in place.query_runner.show_saved("full")["queries"]] == ["SELECT 2"]
    with pytest.raises(InvalidRequest, match="has 1 saved queries; the limit is 1"):
        place.query_runner.save(read_saved({"name": "b", "sql": "SELECT 1"}), "full", NOW)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "sql: the body needs either sql"),
        ({"sql": "SELECT 1", "name": "x"}, "sql: the body needs either sql"),
        ({"sql": 1}, "sql: Not a valid string. (it is 1)"),
        (
            {"sql": "SELECT 1", "limit": 1001},
            "limit: Must be greater than or equal to 1 and less than or equal to 1000",
        ),
        ({"sql": "SELECT 1", "format": "xml"}, "format: Must be one of: rows, parquet. (it is 'xml')"),
        ({"name": "A b"}, "name: a letter, then 63 of a-z, 0-9, _ and - at most (it is 'A b')"),
        ({"sql": "SELECT 1", "more": 1}, "more: Unknown field. (it is 1); known are sql, name, parameters, format"),
    ],
)
def test_a_body_that_does_not_fit_is_told_what_does(body: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_query(body)

    assert told in refused.value.message


def test_a_page_that_is_none_is_refused() -> None:
    assert read_result({"limit": "5", "page": "x"}) == ResultPage(5, "x")
    with pytest.raises(InvalidRequest, match="page: "):
        read_result({"page": ""})


def test_each_report_has_a_route() -> None:
    assert tuple(REPORTS) == REPORT_NAMES


def test_a_report_that_takes_long_is_answered_by_its_id(place: Place) -> None:
    hurried = replace(place.query_runner, clock=iter([0.0, *[100.0] * 50]).__next__, sleep=lambda _: None)
    parameters = {"start": "2026-11-21", "end": "2026-11-21", "of": "event_type"}

    begun = hurried.report("top", parameters, "demo", datetime(2026, 11, 22, tzinfo=UTC))
    until = time.monotonic() + 20
    while (answer := place.page(begun["id"], 10))["state"] != "SUCCEEDED":
        assert time.monotonic() < until, "it goes on"

    assert answer["values"] == [{"value": "click", "number": 2, "share": 1.0}]
