from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.domain.columns import is_heavy, keep_for_lake, keep_for_rollups
from chalicelib.domain.folding import NOBODY, Folding
from chalicelib.domain.records import ChunkRecord
from chalicelib.domain.rollups import RollupSpec

SPEC = RollupSpec(dimensions=("a", "b", "c"), measures=("c", "d"))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.just("x" * 300),
    st.lists(st.integers(-9, 9), max_size=3),
    st.just([[]] * 100),
    st.dictionaries(st.text(max_size=2), st.integers(-9, 9), max_size=2),
)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {"event_id": st.just("e"), "event_type": st.just("t"), "occurred_at": st.integers(0, 3_600_000)},
        optional={
            "properties": st.dictionaries(st.sampled_from("abcdef"), VALUES, max_size=5),
            "enrichment": st.dictionaries(st.sampled_from("abz"), st.text(max_size=4), max_size=2),
            "context": st.dictionaries(st.sampled_from("ab"), VALUES),
        },
    ),
    max_size=6,
)


def folded(events: list[dict[str, Any]]) -> dict[str, Any]:
    folding = Folding()
    for event in events:
        folding.add("t", event, NOBODY, SPEC)
    return folding.document()


@given(EVENTS)
def test_what_is_kept_for_rollups_folds_to_the_same(events: list[dict[str, Any]]) -> None:
    before = folded(events)

    keep_for_rollups(events, lambda _: SPEC)

    assert folded(events) == before
    assert all({*event.get("properties", {})} <= {*"abcd"} and "context" not in event for event in events)


@given(EVENTS)
def test_what_is_kept_for_the_lake_is_written_as_the_same_json(events: list[dict[str, Any]]) -> None:
    before = orjson.dumps(events)

    keep_for_lake(events)

    assert orjson.dumps(events) == before


@pytest.mark.parametrize(("values", "plain_bytes", "heavy"), [(60, 600, False), (900, 1800, True), (10, 9000, True)])
def test_only_chunks_of_large_events_are_worth_it(values: int, plain_bytes: int, heavy: bool) -> None:
    assert is_heavy(ChunkRecord("r", "p", "u", 1, None, None, plain_bytes, [{}, {}], values)) is heavy
