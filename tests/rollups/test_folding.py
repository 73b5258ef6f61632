"""Which part of a chunk's events is parsed to be counted."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.events.chunks import events_of
from chalicelib.rollups.folding import counted_events

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=8), some, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=8), values, max_size=4)
stored_events = st.fixed_dictionaries(
    {"event_id": st.text(max_size=8), "event_type": st.text(max_size=8), "occurred_at": st.integers(0, 2**45)},
    optional={"properties": objects, "enrichment": objects, "context": values, "user_id": values, "ünknown": values},
)
COLUMNS = ("event_id", "event_type", "occurred_at", "properties", "enrichment")


def read(reader: Any, plain: bytes) -> list[Any] | None:
    """The columns that are counted; None where the reader refuses the chunk."""
    try:
        return [{name: event[name] for name in COLUMNS if name in event} for event in reader(plain)]
    except ValueError:
        return None


@given(st.lists(stored_events, max_size=4))
def test_what_is_counted_is_read_as_it_was_stored(events: list[dict[str, Any]]) -> None:
    plain = orjson.dumps(events)

    counted = counted_events(plain)

    assert repr(counted) == repr(
        [{name: event[name] for name in event if name in COLUMNS} for event in orjson.loads(plain)]
    )


@given(st.lists(stored_events, min_size=1, max_size=3), st.sampled_from(COLUMNS[:3]), st.none() | st.just(...) | values)
def test_a_chunk_is_refused_by_both_consumers_of_the_stream_or_by_none(
    events: list[dict[str, Any]], name: str, odd: Any
) -> None:
    if odd is ...:
        del events[-1][name]
    else:
        events[-1][name] = odd
    plain = orjson.dumps(events)

    assert repr(read(counted_events, plain)) == repr(read(events_of, plain))


def test_what_is_no_list_of_events_is_refused_by_both() -> None:
    for plain in (b"{}", b"7", b"[7]", b"[[]]", b'["event_id"]', b"", b"[", b"null", b"[null]", b'[{"event_id":"e"}]'):
        assert read(counted_events, plain) is None
        assert read(events_of, plain) is None


def test_what_is_nested_deeper_than_any_chunk_of_ours_is_refused_by_both() -> None:
    """An error of another kind would fail the stream's batch each time, and stop its shard."""
    deep = b'[{"event_id":"e","event_type":"t","occurred_at":1,"properties":' + b"[" * 5000 + b"]" * 5000 + b"}]"

    assert read(counted_events, deep) is None
    assert read(events_of, deep) is None


def test_an_event_as_deep_as_json_is_written_is_counted() -> None:
    deep: Any = 7
    for _ in range(248):
        deep = [deep]
    event = {"event_id": "e", "event_type": "t", "occurred_at": 1, "properties": {"a": deep, "b": 2}}

    assert counted_events(orjson.dumps([event])) == [event]
