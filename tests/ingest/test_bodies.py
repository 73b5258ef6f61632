import gzip
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from chalicelib.base.errors import InvalidRequest, PayloadTooLarge
from chalicelib.base.values import count
from chalicelib.events.events import MAX_EVENTS, MAX_MESSAGES
from chalicelib.ingest.bodies import (
    MAX_BODY_BYTES,
    MAX_BODY_VALUES,
    inflate,
    media_type_of,
    read_native,
    read_object,
    read_segment,
)


@pytest.mark.parametrize(
    "body",
    [
        b'{"event_type": "click"}',
        b'[{"event_type": "click"}]',
        b'{"events": [{"event_type": "click"}]}',
        gzip.compress(b'[{"event_type": "click"}]', mtime=0),
        gzip.compress(b'[{"event_type"', mtime=0) + gzip.compress(b': "click"}]', mtime=0),
    ],
)
def test_one_event_an_array_and_an_envelope_are_read_alike(body: bytes) -> None:
    assert read_native(body).events == [{"event_type": "click"}]


def test_a_segment_batch_is_read_with_its_key_and_context() -> None:
    read = read_segment(
        b'{"batch": [{"type": "track", "event": "x"}], "sentAt": "t", "writeKey": "k", "context": {"a": 1}}', "batch"
    )

    assert (read.write_key, read.sent_at) == ("k", "t")
    assert read.events[0]["context"] == {"a": 1}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "malformed_json"),
        (b"", "malformed_json"),
        (b'{"a": NaNa}', "malformed_json"),
        (b'"\xff"', "malformed_json"),
        (b'{"events": 7}', "invalid_envelope"),
        (b'{"events": []}', "invalid_envelope"),
        (b"[]", "invalid_envelope"),
        (b"7", "invalid_envelope"),
        (orjson.dumps([{}] * (MAX_EVENTS + 1)), "invalid_envelope"),
        (gzip.compress(b"{}", mtime=0)[:-4], "malformed_gzip"),
        (b"\x1f\x8bjunk", "malformed_gzip"),
        (gzip.compress(b"{}", mtime=0) + b"junk", "malformed_gzip"),
    ],
)
def test_a_body_that_cannot_be_used_says_why(body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read_native(body)

    assert refusal.value.code == code


def test_sizes_are_limited_on_the_wire_and_inflated() -> None:
    bomb = gzip.compress(bytes(20_000_000), compresslevel=1)
    assert len(bomb) < MAX_BODY_BYTES

    with pytest.raises(PayloadTooLarge, match=r"has 5242881 bytes; the limit is 5242880"):
        inflate(bytes(MAX_BODY_BYTES + 1))
    with pytest.raises(PayloadTooLarge, match=r"inflates to more than the limit of 5242880"):
        inflate(bomb)


def test_a_context_that_would_be_copied_into_each_event_is_limited() -> None:
    body = orjson.dumps({"batch": [{"type": "track", "event": "x"}] * 500, "context": {"x": "y" * 10_000}})

    with pytest.raises(InvalidRequest, match=r"copied into each event it has 5004000 bytes; the limit is 4194304"):
        read_segment(body, "batch")


LINES = b'{"event_type": "a"}\n\n{"event_type": \r\n{"event_type": "b"}\n7\n'


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {"content-type": "application/x-ndjson"}])
def test_a_bad_line_costs_the_others_nothing(headers: dict[str, str]) -> None:
    read = read_native(LINES, headers)

    first, bad, second, number = read.events
    assert [first, second, number] == [{"event_type": "a"}, {"event_type": "b"}, 7]
    assert (bad.code, bad.sent) == ("malformed_json", '{"event_type": ')


def test_lines_are_told_by_their_type_alone_where_the_first_is_bad() -> None:
    lines = b'{"event_type": \n{"event_type": "b"}'

    assert read_native(lines, {"content-type": "application/x-ndjson"}).events[1] == {"event_type": "b"}
    with pytest.raises(InvalidRequest, match="the body is not JSON"):
        read_native(lines)


@pytest.mark.parametrize(
    "body", [b'{\n"event_type": "a"\n}\n', b'{"event_type": "a"}\n  \n', b'[\n{"event_type": "a"}\n]']
)
def test_a_document_over_several_lines_is_one_document(body: bytes) -> None:
    assert read_native(body).events == [{"event_type": "a"}]


def test_a_batch_of_lines_is_limited_too() -> None:
    with pytest.raises(InvalidRequest, match="the batch has 501 events; the limit is 500"):
        read_native(b"{}\n" * (MAX_EVENTS + 1), {"content-type": "application/x-ndjson"})


@pytest.mark.parametrize("media_type", ["application/cloudevents+json; charset=utf-8", "application/vnd.shop+json"])
def test_what_ends_in_json_is_json(media_type: str) -> None:
    assert media_type_of({"content-type": media_type}) == media_type.partition(";")[0]


def test_a_sdk_may_gather_more_events_than_others() -> None:
    messages = [{"type": "track", "event": "x"}] * MAX_MESSAGES

    assert len(read_segment(orjson.dumps({"batch": messages}), "batch").events) == MAX_MESSAGES
    with pytest.raises(InvalidRequest, match="the limit is 2500"):
        read_segment(orjson.dumps({"batch": [*messages, {}]}), "batch")


def test_what_json_cannot_say_costs_no_event_its_place() -> None:
    body = rb'{"events": [{"event_type": "a", "properties": {"n": NaN, "s": "\ud83d"}}, {"event_type": "b"}]}'

    assert read_native(body).events == [
        {"event_type": "a", "properties": {"n": None, "s": "\ufffd"}},
        {"event_type": "b"},
    ]


LISTS = b"[" + b"[]," * MAX_BODY_VALUES + b"0]"
LINE = b'{"event_type": "a", "properties": {"x": ' + b"[" + b"[]," * 60_000 + b"0]}}"
HIDDEN = b"[" + b"[]," * 19_000 + b"0]"
CLOUDEVENT = {"specversion": "1.0", "source": "s", "type": "t", "data_base64": b64encode(HIDDEN).decode()}


def native(media_type: str) -> Callable[[bytes], Any]:
    return lambda body: read_native(body, {"content-type": media_type})


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (read_native, b'{"event_type": "a", "properties": {"x": ' + LISTS + b"}}"),
        (read_native, b'{"events": [{"event_type": "a", "properties": {"x": ' + LISTS + b"}}]}"),
        (native("application/x-ndjson"), b"\n".join([LINE] * 10)),
        (native("application/cloudevents+json"), b'{"specversion": "1.0", "data": ' + LISTS + b"}"),
        (native("application/cloudevents-batch+json"), b'[{"specversion": "1.0", "data": ' + LISTS + b"}]"),
        (
            native("application/cloudevents-batch+json"),
            orjson.dumps([{**CLOUDEVENT, "id": str(n)} for n in range(30)]),  # JSON within JSON
        ),
        (lambda body: read_native(body, {"ce-specversion": "1.0"}), LISTS),
        (lambda body: read_segment(body, "batch"), b'{"batch": [{"type": "track", "properties": ' + LISTS + b"}]}"),
        (lambda body: read_segment(body, "track"), b'{"event": "a", "properties": {"x": ' + LISTS + b"}}"),
        (read_object, b'{"sql": ' + LISTS + b"}"),
    ],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(read: Callable[[bytes], Any], body: bytes) -> None:
    packed = gzip.compress(body)
    assert len(packed) < 40_000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match="over 500000 JSON values, which is the limit") as refusal:
            read(packed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert refusal.value.code == "too_many_values"
    assert peak < 40 * 2**20  # parsed, its lists would take 32 beside the 20 that parsing takes


def test_texts_of_any_look_are_no_values() -> None:
    body = orjson.dumps([{"event_type": "a", "properties": {"x": "[{,:" * 300_000}}])

    assert len(read_native(body).events) == 1


def test_a_context_that_would_be_copied_into_each_event_is_limited_by_its_values() -> None:
    body = orjson.dumps({"batch": [{"type": "track", "event": "x"}] * 500, "context": {"x": [[]] * 1000}})

    with pytest.raises(InvalidRequest, match="copied into each event it has 501500 JSON values; the limit is 500000"):
        read_segment(body, "batch")


@pytest.mark.parametrize("kind", ["identify", "group", "track"])
def test_the_values_of_a_request_are_bounded_as_they_will_be_stored(kind: str) -> None:
    traits = {"x": [0] * 19_000}
    message = {"type": kind, "event": "x", "userId": "u", "groupId": "g", "traits": traits, "context": {"y": 1}}

    read = read_segment(orjson.dumps({"batch": [message], "context": {"z": [0] * 1000}}), "batch")

    stored = orjson.dumps(read.events)
    assert read.values >= count(stored)


def test_json_within_a_cloudevent_counts_as_its_values() -> None:
    content = {**CLOUDEVENT, "id": "1", "data_base64": b64encode(b"[" + b"[]," * 30_000 + b"0]").decode()}

    read = read_native(orjson.dumps(content), {"content-type": "application/cloudevents+json"})

    assert (read.events[0].code, read.events[0].path) == ("too_many_values", "/data_base64")
