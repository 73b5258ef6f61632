"""A part of a lake file, found by what the footer says of its row groups, against a look at every row."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chalicelib.base.time_windows import DAY_MS, parse_ms
from chalicelib.events.events import StoredEvent
from chalicelib.lake import lake
from chalicelib.lake.lake import Lake, Row
from chalicelib.lake.user_rows import UserRows
from tests.stores import Stores, empty_stores

MIDNIGHT = parse_ms("2025-03-05T00:00:00Z")
EDGES = [day + ms for day in (MIDNIGHT, MIDNIGHT + DAY_MS) for ms in (-1, 0, 1)]
USERS = "abc"
ROWS = st.lists(st.tuples(st.sampled_from(EDGES), st.sampled_from(USERS)), max_size=10)
of_files = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    """A file of these has several row groups, many of one time or one user."""
    monkeypatch.setattr(lake, "TAIL_GROUP_ROWS", 3)
    with empty_stores() as found:
        yield found


def written(stores: Stores, rows: list[tuple[int, str]]) -> Lake:
    """The lake with a file of the rows (occurred_at, user), numbered in their order."""
    events = [
        StoredEvent(event_id=f"e{number:02}", event_type="click", user_id=user, occurred_at=at)
        for number, (at, user) in enumerate(rows)
    ]
    stores.lake.write("file", [Row(event, MIDNIGHT) for event in events])
    return stores.lake


@of_files
@given(rows=ROWS, cuts=st.sets(st.sampled_from(EDGES)))
def test_ranges_that_follow_one_another_hold_each_row_once(
    stores: Stores, rows: list[tuple[int, str]], cuts: set[int]
) -> None:
    found = written(stores, rows)

    for first, end in pairwise([min(EDGES), *sorted(cuts), max(EDGES) + 1]):
        inside = sorted((at, f"e{number:02}") for number, (at, _) in enumerate(rows) if first <= at < end)
        tables = [(file, file.between(first, end)) for file in found.sorted_files(["file"], first, end)]
        assert [event_id for _, table in tables for event_id in table["event_id"].to_pylist()] == [i for _, i in inside]
        assert all(file.rows_between(first, end) >= table.num_rows for file, table in tables)


@of_files
@given(rows=ROWS, asked=st.dictionaries(st.sampled_from(USERS), st.sampled_from(EDGES)))
def test_every_row_of_a_user_is_found_up_to_their_time(
    stores: Stores, rows: list[tuple[int, str]], asked: dict[str, int]
) -> None:
    found = written(stores, rows)

    counted = found.rows_of("file", found.bucket.sizes("file")[""], UserRows(asked))

    assert counted == Counter(user for at, user in rows if user in asked and at < asked[user])
