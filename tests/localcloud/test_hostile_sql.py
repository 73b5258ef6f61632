"""Every statement of the corpus is refused, or answered as if no other project were there."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from chalicelib.base.errors import InvalidRequest
from chalicelib.events.events import StoredEvent
from tests.localcloud.analysts import Place
from tests.localcloud.services import Services

CORPUS = tomllib.loads((Path(__file__).parents[1] / "corpus" / "sql" / "hostile.toml").read_text())["statement"]
OTHER, MARK = "victim", "SECRET"
NINE = 1_795_251_600_000


def events(mark: str, count: int) -> list[StoredEvent]:
    """Events of two hours, whose every text tells whose they are."""
    return [
        StoredEvent(
            event_id=f"{mark}-{number}",
            event_type=f"{mark}_type_{number % 2}",
            user_id=f"{mark}-user-{number % 3}",
            occurred_at=NINE + number * 1_000_000,
            properties={"path": f"/{mark}"},
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def alone(services: Services) -> Place:
    """A lake with one project."""
    place = Place(services)
    place.write("demo", events("mine", 5))
    return place


@pytest.fixture(scope="module")
def shared(services: Services) -> Place:
    """The same with another project beside it."""
    place = Place(services)
    place.write("demo", events("mine", 5))
    place.write(OTHER, events(MARK, 9))
    return place


def outcome(place: Place, sql: str) -> tuple[str, Any]:
    """What became of a statement: its word in the corpus, and the rows or the message."""
    for name, value in {"database": place.database, "bucket": place.bucket, "other": OTHER}.items():
        sql = sql.replace(f"{{{name}}}", value)
    try:
        return "own", place.rows(sql)
    except InvalidRequest as error:
        return {"invalid_sql": "refused", "query_failed": "failed"}[error.code], error.message


def test_the_corpus_is_large_enough_and_of_every_kind() -> None:
    assert len(CORPUS) >= 60
    assert {statement["expected"] for statement in CORPUS} == {"refused", "failed", "own"}


def test_the_other_project_would_be_seen_by_who_may_see_it(shared: Place) -> None:
    assert MARK in repr(shared.rows("SELECT * FROM events", OTHER))


@pytest.mark.parametrize("statement", CORPUS, ids=lambda statement: statement["name"])
def test_a_statement_sees_nothing_of_another_project(statement: dict[str, str], alone: Place, shared: Place) -> None:
    word, found = outcome(shared, statement["sql"])

    assert (word, found) == (statement["expected"], found)
    assert MARK not in repr(found)
    if word == "own":
        assert sorted(map(repr, found)) == sorted(map(repr, outcome(alone, statement["sql"])[1]))
        assert found
