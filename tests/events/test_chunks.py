import base64
import json
import os
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.events import chunks
from chalicelib.events.chunks import (
    MAX_CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PLAIN_BYTES,
    Chunk,
    Message,
    chunks_of,
    decode_message,
    encode_message,
    pack,
    positions_of,
    unpack_events,
)
from chalicelib.events.enrichment import UTM
from chalicelib.rollups.ledger import Receipt
from localcloud.filters import compile_patterns

RECEIVED = 1_795_226_700_123


def event(number: int, user: str | None = "u1", **more: Any) -> dict[str, Any]:
    found = {"event_id": f"e{number}", "event_type": "click", "occurred_at": RECEIVED, **more}
    return {**found, "user_id": user} if user else found


def keys(message: Message) -> set[tuple[str, str]]:
    return {(chunk.partition_key, chunk.sort_key) for chunk in chunks_of(message)}


def test_a_retried_request_has_the_same_keys_whenever_it_is_received() -> None:
    events = [event(1, timestamp="2026-11-21T01:00:00Z"), event(2, "u2", timestamp="2026-11-21T01:00:01Z")]

    first = keys(Message("demo", RECEIVED, events))
    retried = keys(Message("demo", RECEIVED + 86_400_000, events[::-1]))

    assert first == retried
    assert len(first) == 2


def test_the_order_of_a_user_s_events_names_no_other_chunk() -> None:
    events = [event(n, timestamp="2026-11-21T01:00:00Z") for n in range(3)]

    assert keys(Message("demo", RECEIVED, events)) == keys(Message("demo", RECEIVED, events[::-1]))


def test_without_client_times_a_retry_within_the_hour_has_the_same_keys() -> None:
    assert keys(Message("demo", RECEIVED, [event(1)])) == keys(Message("demo", RECEIVED + 60_000, [event(1)]))


def test_ids_with_a_long_common_prefix_are_told_apart() -> None:
    prefix = "x" * 200

    one = keys(Message("demo", RECEIVED, [event(1) | {"event_id": prefix + "1"}]))
    two = keys(Message("demo", RECEIVED, [event(1) | {"event_id": prefix + "2"}]))

    assert one != two


def test_ids_that_contain_each_others_separators_are_told_apart() -> None:
    two = Message("demo", RECEIVED, [event(1) | {"event_id": "a"}, event(1) | {"event_id": "b"}])

    assert keys(two) != keys(Message("demo", RECEIVED, [event(1) | {"event_id": "a\0b"}]))


@pytest.mark.parametrize("by_user", [True, False])
def test_a_parcel_s_receipt_counts_no_event_that_comes_in_a_later_one(by_user: bool) -> None:
    events = [event(n, f"u{n % 3}", noise=os.urandom(100_000).hex()) for n in range(24)]
    receipt = Receipt("c", received=130, quarantined=4, repeated=2)

    parcels = pack(Message("demo", RECEIVED, events, receipt), by_user=by_user)

    sent = 130 - 24
    assert len(parcels) > 3
    for parcel in parcels:
        sent += parcel.count
        assert decode_message(parcel.text).receipt == Receipt("c", sent, 4, 2)
    assert sent == 130


@pytest.mark.parametrize("function", ["aggregate", "archive"])
@pytest.mark.parametrize("timestamp", ["0001-01-01T00:00:00Z", "3000-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"])
def test_the_streams_filters_pass_a_chunk_of_any_time_that_a_client_may_name(function: str, timestamp: str) -> None:
    settings = json.loads(Path("infra/triggers.json").read_text())[function]
    [passed] = [json.loads(each["Pattern"]) for each in settings["FilterCriteria"]["Filters"]]
    [(partition_key, sort_key)] = keys(Message("demo", RECEIVED, [event(1, timestamp=timestamp)]))

    keys_of_record = {"pk": {"S": partition_key}, "sk": {"S": sort_key}}
    assert compile_patterns([passed])({"eventName": "INSERT", "dynamodb": {"Keys": keys_of_record}})


def test_a_chunk_is_split_by_what_it_unpacks_to() -> None:
    zeros = "0" * 200_000

    chunks = list(chunks_of(Message("demo", RECEIVED, [event(i, properties={"zeros": zeros}) for i in range(20)])))

    assert all(unpack_events(chunk.body)[1] <= MAX_PLAIN_BYTES for chunk in chunks)
    assert sum(chunk.count for chunk in chunks) == 20


def test_events_of_nobody_are_spread_and_keep_their_project() -> None:
    partitions = {key for i in range(400) for key, _ in keys(Message("demo", RECEIVED, [event(i, None)]))}

    assert len(partitions) > 100
    assert all(re.fullmatch("[?][0-9a-f]{2}#demo", key) for key in partitions)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=30))
def test_every_event_is_in_exactly_one_chunk(items: list[tuple[int, int]]) -> None:
    events = [event(number, f"u{user}") for number, user in items]

    stored = [e for chunk in chunks_of(Message("demo", RECEIVED, events)) for e in unpack_events(chunk.body)[0]]

    assert sorted(e["event_id"] for e in stored) == sorted(e["event_id"] for e in events)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30), st.booleans(), st.integers(0, 9))
def test_each_event_keeps_its_position_whatever_is_dropped_beside_it(
    items: list[tuple[int, bool]], apart: bool, before: int
) -> None:
    events = [
        event(number, f"u{user}", timestamp=f"2026-11-21T09:00:{number * 7 % 31:02}Z")
        for number, (user, _) in enumerate(items)
    ]
    gone = [each for each, (_, is_gone) in zip(events, items, strict=True) if is_gone]
    receipt = Receipt("c", received=before + len(events))
    message = Message("demo", RECEIVED, events, receipt, apart=apart)

    def positions(of: Iterable[Chunk]) -> dict[str, int]:
        return {
            e["event_id"]: (chunk.position or 0) + n for chunk in of for n, e in enumerate(unpack_events(chunk.body)[0])
        }

    with patch.object(chunks, "CUT_BYTES", 1200):  # three events
        all_of_them, left = positions(chunks_of(message)), positions(chunks_of(message, gone))
        dropped = {number for start, end in positions_of(message, gone) for number in range(start, end)}

    assert sorted(all_of_them.values()) == [*range(before, before + len(events))]
    assert all(all_of_them[name] == position for name, position in left.items())
    assert dropped == {all_of_them[each["event_id"]] for each in gone}


def test_without_a_receipt_or_with_one_of_fewer_events_there_are_no_positions() -> None:
    events = [event(1), event(2, "u2")]

    for receipt in (None, Receipt("c", received=1)):
        message = Message("demo", RECEIVED, events, receipt)
        assert [chunk.position for chunk in chunks_of(message)] == [None, None]
        assert positions_of(message, events[:1]) == ()


def test_a_chunk_that_would_not_fit_an_item_is_split_the_same_way_each_time() -> None:
    noise = base64.b64encode(os.urandom(150_000)).decode()
    message = Message("demo", RECEIVED, [event(i, properties={"noise": noise}) for i in range(4)])

    chunks = list(chunks_of(message))

    assert all(len(chunk.body) <= MAX_CHUNK_BYTES for chunk in chunks)
    assert sum(chunk.count for chunk in chunks) == 4
    assert keys(message) == {(chunk.partition_key, chunk.sort_key) for chunk in chunks}


def test_a_message_that_would_not_fit_the_queue_is_split() -> None:
    noise = base64.b64encode(os.urandom(200_000)).decode()
    message = Message("demo", RECEIVED, [event(i, properties={"noise": noise}) for i in range(6)])

    texts = [text for text, _ in encode_message(message)]

    assert all(len(text) <= MAX_MESSAGE_BYTES for text in texts)
    assert [e for text in texts for e in decode_message(text).events] == message.events


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "aGVsbG8=",
        encode_message(Message("demo", 1, []))[0][0][:-8],
        encode_message(Message("demo", 1, [{}]))[0][0],
    ],
)
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a message of ours"):
        decode_message(text)


NOISE = base64.b85encode(random.Random(1).randbytes(200_000)).decode()
SIZES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from((10, 20_000, 120_000, 240_000)), st.booleans()),
    min_size=1,
    max_size=14,
)


def sent_events(sizes: list[tuple[int, int, bool]]) -> list[dict[str, Any]]:
    """Some users' events of those sizes, as they are stored."""
    return [
        event(number, f"u{user}", properties={"x": NOISE[:size]}) | ({"timestamp": RECEIVED - number} if timed else {})
        for number, (user, size, timed) in enumerate(sizes)
    ]


@given(SIZES, st.data())
def test_cuts_depend_on_nothing_that_another_try_may_change(sizes: list[tuple[int, int, bool]], data: Any) -> None:
    events = sent_events(sizes)
    first = keys(Message("demo", RECEIVED, events, Receipt("c", 1)))

    tried = data.draw(st.permutations(events))
    added = data.draw(st.dictionaries(st.sampled_from(["utm_source", "os"]), st.text(min_size=900, max_size=900)))
    ours = {"occurred_at": RECEIVED + 600_000, "schema_version": "17-0-0", "enrichment": added}
    again = keys(Message("demo", RECEIVED + 60_000, [each | ours for each in tried], Receipt("another", 10**9, 10**9)))

    assert first == again


@given(SIZES, st.integers(2, 6), st.booleans())
def test_a_message_in_parts_makes_the_chunks_of_the_whole(
    sizes: list[tuple[int, int, bool]], parts: int, by_user: bool
) -> None:
    message = Message("demo", RECEIVED, sent_events(sizes))
    whole = keys(message)

    with patch("chalicelib.events.chunks.MAX_MESSAGE_BYTES", 1_000_000 // parts):
        parcels = pack(message, by_user=by_user)

    decoded = [decode_message(parcel.text) for parcel in parcels]
    assert set().union(*map(keys, decoded)) == whole
    assert sum(len(each.events) for each in decoded) == len(message.events)


def test_a_chunk_fits_an_item_however_badly_it_is_compressed_and_whatever_is_added() -> None:
    rng = random.Random(1)
    noise = ["".join(chr(rng.randrange(0x20, 0x7FF)) for _ in range(700)) for _ in range(600)]
    added = {name: text[:256] for name, text in zip(UTM, noise, strict=False)}
    events = [event(n, properties={"url": text}, enrichment=added | {"n": n}) for n, text in enumerate(noise)]

    chunks = list(chunks_of(Message("demo", RECEIVED, events)))

    assert sum(chunk.count for chunk in chunks) == 600
    assert max(len(chunk.body) for chunk in chunks) <= MAX_CHUNK_BYTES
