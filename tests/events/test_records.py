import tracemalloc
from base64 import b64encode
from typing import Any

import orjson
import pytest
from isal import isal_zlib

from chalicelib.base.values import count, held_bytes
from chalicelib.events.chunks import MAX_CHUNK_VALUES, MAX_PLAIN_BYTES, Chunk, Message, chunks_of
from chalicelib.events.records import BadRecord, ChunkRecord, read_chunk
from tests.stores import stream_record

AT = 1_795_226_700_123


def event(number: int, **properties: Any) -> dict[str, Any]:
    found = {"event_id": f"e{number}", "event_type": "click", "occurred_at": AT, "user_id": "u"}
    return {**found, "properties": properties}


def record_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    """As the stream has a chunk that was written before chunks were bounded by values."""
    body = isal_zlib.compress(orjson.dumps(events), 1)
    return stream_record(Chunk("demo", "u", "2026-11-21T00:00:00.000Z#00", AT, None, len(events), body), 1)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([event(n, x=[[]] * 80_000) for n in range(4)], "JSON values; the limit is 200000"),
        ([event(n, x=[0] * 1000) for n in range(250)], "JSON values; the limit is 200000"),
        ([event(n, x="0" * 250_000) for n in range(40)], "over 1048576 bytes of JSON"),
    ],
    ids=["lists", "many events", "bytes"],
)
def test_a_chunk_that_would_fill_the_memory_is_refused_with_the_reason_and_not_parsed(
    events: list[dict[str, Any]], reason: str
) -> None:
    record = record_of(events)
    tracemalloc.start()
    try:
        read = read_chunk(record)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(read, BadRecord)
    assert reason in read.reason
    assert read.raw == record
    assert peak < 4 * 2**20  # its objects alone would take more, or its bytes


def test_a_chunk_of_usual_events_is_read_whatever_wrote_it() -> None:
    usual = {"path": "/products/17", "title": "A product, and its name", "price": 17.5, "tags": ["a", "b"]}
    events = [event(number, **usual) for number in range(4500)]
    assert len(orjson.dumps(events)) < MAX_PLAIN_BYTES

    read = read_chunk(record_of(events))

    assert isinstance(read, ChunkRecord)
    assert len(read.events) == 4500


def test_a_body_that_ends_too_early_is_no_chunk() -> None:
    record = record_of([event(1, x="y" * 900)])
    body = isal_zlib.compress(orjson.dumps([event(1, x="y" * 900)]), 1)
    record["dynamodb"]["NewImage"]["body"]["B"] = b64encode(body[:-9]).decode()

    read = read_chunk(record)

    assert isinstance(read, BadRecord)
    assert "not a chunk of ours" in read.reason


@pytest.mark.parametrize("properties", [{"x": [[]] * 19_000}, {"x": [{"a": {}}] * 6000}, {"x": "a,b:[{" * 40}, {}])
def test_a_chunk_says_how_many_values_it_has_and_so_what_memory_it_takes(properties: dict[str, Any]) -> None:
    [chunk] = chunks_of(Message("demo", AT, [event(number, **properties) for number in range(2)]))
    tracemalloc.start()
    try:
        read = read_chunk(stream_record(chunk, 1))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(read, ChunkRecord)
    assert read.values >= count(orjson.dumps(read.events))
    assert held < held_bytes(read.values, read.plain_bytes) + 16_384


@pytest.mark.parametrize("lists", [10, 1000, 19_000])
def test_what_is_written_as_chunks_is_read_whatever_is_in_it(lists: int) -> None:
    events = [event(number, x=[[]] * lists) for number in range(30)]

    chunks = list(chunks_of(Message("demo", AT, events)))
    read = [read_chunk(stream_record(chunk, number)) for number, chunk in enumerate(chunks)]

    assert sum(len(each.events) for each in read if isinstance(each, ChunkRecord)) == 30
    assert all(isinstance(each, ChunkRecord) and each.values < MAX_CHUNK_VALUES for each in read)
