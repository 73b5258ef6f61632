"""What is put together from the parts of hours is what SQL finds in the events."""

import random
from collections.abc import Iterable

import numpy as np
import pytest

from chalicelib.base.time_windows import HOUR_MS
from chalicelib.hours import session_parts
from chalicelib.hours.session_parts import COLUMNS, Columns, SessionPart, parts_of, sessions_of
from chalicelib.rollups.sketches import hash_user
from tests.hours.session_oracle import FIRST, Event, by_hour, duckdb_of, some_events

FIRST_HOUR = FIRST // HOUR_MS
HOURS = 40  # more than three times as long as any session may be
NAMES = ("user", "at", "duration_seconds", "pages", "bounced", "entry_page", "exit_page")

Rows = list[tuple[object, ...]]


def in_order(events: Iterable[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (event["occurred_at"], event["event_id"]))


def columns_of(parts: list[SessionPart]) -> Columns:
    columns = {name: np.array([getattr(part, name) for part in parts]) for name in COLUMNS}
    for name in ("entry", "exit"):
        columns[name] = np.array([*(getattr(part, name) for part in parts), None], object)[:-1]
    users = [part.user and hash_user(part.user) for part in parts]
    return Columns(**{**columns, "user": np.array([*users, None], object)[:-1]})


def rows(columns: Columns, first: int, last: int) -> Rows:
    return [
        (user, session["occurred_at"], *(session["properties"][name] for name in NAMES[2:]))
        for _, sessions in sessions_of(columns, first, last)
        for user, session in sessions
    ]


def by_sql(events: list[Event], first: int, last: int) -> Rows:
    query = f'SELECT {", ".join(NAMES)} FROM sessions WHERE "at" // {HOUR_MS} BETWEEN {first} AND {last}'
    found = duckdb_of(events).execute(query.replace("user", '"user"').replace(" at", ' "at"')).fetchall()
    return [(user and hash_user(user), *told) for user, *told in found]


def key(row: tuple[object, ...]) -> str:
    return repr(row)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block_parts", [100_000, 3])
def test_sessions_are_those_that_sql_finds(seed: int, block_parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_parts, "BLOCK_PARTS", block_parts)
    events = some_events(1500, seed, HOURS)
    hours = by_hour(events)
    parts = [part for hour in sorted(hours) for block in parts_of(in_order(hours[hour])) for part in block]

    found = rows(columns_of(parts), FIRST_HOUR, FIRST_HOUR + HOURS)

    assert sorted(found, key=key) == sorted(by_sql(events, FIRST_HOUR, FIRST_HOUR + HOURS), key=key)
    assert len(found) > 200


def test_the_sessions_of_an_hour_depend_on_the_hours_within_reach_only() -> None:
    events = some_events(1500, 9, HOURS)
    hours = by_hour(events)
    parts = {hour: [part for block in parts_of(in_order(hours[hour])) for part in block] for hour in hours}
    every = columns_of([part for hour in sorted(parts) for part in parts[hour]])

    for number in random.Random(9).sample(range(FIRST_HOUR, FIRST_HOUR + HOURS), 10):
        near = every.take(abs(every.first_ms // HOUR_MS - number) < 12)
        assert rows(near, number, number) == rows(every, number, number)


def test_there_may_be_nothing() -> None:
    assert list(parts_of([])) == []
    assert list(sessions_of(columns_of([]), 0, 10**6)) == []
