import gzip
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from botocore.exceptions import EndpointConnectionError

from chalicelib.access.access import Project
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.errors import Unavailable
from chalicelib.base.values import held_bytes
from chalicelib.events.chunks import Parcel, chunks_of, decode_message
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import MAX_EVENT_BYTES, Admitter, Mode
from chalicelib.events.records import ChunkRecord, read_chunk
from chalicelib.ingest.bodies import read_native, read_segment
from chalicelib.ingest.bus import read_bus_event
from chalicelib.ingest.collect import Collector
from chalicelib.rollups.ledger import Tally
from chalicelib.settings import BUFFERS
from tests.stores import RefusingBuffer, Stores, empty_stores, stream_record

DEMO = Project("demo", Mode.INFER)
RECEIVED = 1_795_226_700_123


@pytest.fixture(params=BUFFERS)
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with empty_stores(request.param) as found:
        yield found


class Refusing:
    """A bucket that is down."""

    def put(self, key: str, content: bytes) -> None:
        raise Unavailable("down")

    put_gzip = put


def collector(stores: Stores, buffer: Any = None, bucket: Any = None, tally: Tally | None = None) -> Collector:
    admitter = Admitter(Contracts({}), new_id=lambda _: "made")
    stored = buffer or stores.buffer, bucket or stores.bucket, stores.ledger
    return Collector(admitter, *stored, tally or Tally("c1"), stores.erased, stores.flags)


def request(*events: Any) -> bytes:
    return orjson.dumps({"events": list(events)})


def test_what_is_accepted_is_in_the_buffer(stores: Stores) -> None:
    body = request({"event_type": "click", "event_id": "a"}, {"event_type": "click", "event_id": "b"})

    admission = collector(stores).collect(read_native(body), DEMO, RECEIVED)

    [text] = stores.messages()
    message = decode_message(text)
    assert admission.event_ids == ["a", "b"]
    assert (message.project, message.received_ms) == ("demo", RECEIVED)
    assert [e["event_id"] for e in message.events] == ["a", "b"]


def test_rejected_events_are_kept_with_their_reasons_once_however_often_they_are_sent(stores: Stores) -> None:
    body = request({"event_type": "click", "event_id": "a"}, {"event_type": 7, "event_id": "b"})

    for attempt in range(2):
        collector(stores).collect(read_native(body), DEMO, RECEIVED + attempt)

    [key] = stores.objects("quarantine/")
    lines = [orjson.loads(line) for line in gzip.decompress(stores.bucket.get(key) or b"").splitlines()]
    assert key.startswith("quarantine/project=demo/dt=2026-11-21/")
    assert lines[1]["code"] == "contract_violation"
    assert lines[1]["event"] == {"event_type": 7, "event_id": "b"}


@pytest.mark.parametrize("depth", [251, 252, 253, 300, 900])
def test_an_event_that_is_nested_too_deep_costs_the_others_nothing(stores: Stores, depth: int) -> None:
    deep = b'{"event_type": "click", "event_id": "deep", "properties": {"x": ' + b"[" * depth + b"]" * depth + b"}}"
    body = b'{"events": [{"event_type": "click", "event_id": "a"}, ' + deep + b"]}"

    admission = collector(stores).collect(read_native(body), DEMO, RECEIVED)

    [key] = stores.objects("quarantine/")
    assert admission.event_ids == ["a"]
    assert [(r.event_id, r.code) for r in admission.rejections] == [("deep", "too_deep")]
    kept = gzip.decompress(stores.bucket.get(key) or b"")
    assert deep.replace(b" ", b"") in kept.replace(b" ", b"")


DEEP = b'{"event_type": "click", "event_id": "deep", "properties": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}"
ADDRESS = b'{"event_type": "click", "context": {"ip": "203.0.113.77"}'


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/x-ndjson", ADDRESS + b"\n" + ADDRESS + b"}\n"),
        ("application/cloudevents+json", b'{"specversion": "0.3", "id": "1", "source": "s", "ip": "203.0.113.77"}'),
        ("application/json", b"[" + ADDRESS + b"}, " + DEEP + b"]"),
        ("application/json", b'{"event_type": "click", "context": [{"ip": "203.0.113.77"}]}'),
    ],
    ids=["a line that is no JSON", "no CloudEvent", "beside one that is too deep", "a context that is a list"],
)
def test_whatever_is_rejected_no_whole_address_is_kept(stores: Stores, media_type: str, body: bytes) -> None:
    collector(stores).collect(read_native(body, {"content-type": media_type}), DEMO, RECEIVED)

    [key] = stores.objects("quarantine/")
    kept = gzip.decompress(stores.bucket.get(key) or b"") + b"".join(
        orjson.dumps(decode_message(text).events) for text in stores.messages()
    )
    assert b"203.0.113.0" in kept
    assert b"203.0.113.77" not in kept


def test_an_identify_whose_traits_would_be_stored_twice_is_limited_as_it_is_stored(stores: Stores) -> None:
    traits = {"noise": "x" * (MAX_EVENT_BYTES * 2 // 3)}
    body = orjson.dumps({"messageId": "1", "userId": "u", "context": {"traits": traits}})

    admission = collector(stores).collect(read_segment(body, "identify"), DEMO, RECEIVED)

    assert len(body) < MAX_EVENT_BYTES
    assert [rejection.code for rejection in admission.rejections] == ["event_too_large"]


@pytest.mark.parametrize("events", [1, 20])
def test_an_event_of_too_many_values_costs_the_others_nothing_and_is_kept(stores: Stores, events: int) -> None:
    lists = {"event_type": "click", "event_id": "lists", "properties": {"x": [[]] * 25_000}}
    others = [{"event_type": "click", "event_id": f"e{number}"} for number in range(events)]

    admission = collector(stores).collect(read_native(request(lists, *others)), DEMO, RECEIVED)

    [key] = stores.objects("quarantine/")
    kept = gzip.decompress(stores.bucket.get(key) or b"").splitlines()[1]
    assert len(admission.event_ids) == events
    assert [(r.event_id, r.code) for r in admission.rejections] == [("lists", "too_many_values")]
    assert orjson.loads(kept)["event"] == lists


def test_of_what_the_door_takes_each_chunk_and_so_each_stage_is_bounded(stores: Stores) -> None:
    """A request as full of values as one may be, of which everything is taken."""
    body = request(
        *(
            {"event_type": "click", "event_id": f"e{n}", "user_id": "u", "properties": {"x": [[]] * 19_900}}
            for n in range(25)
        )
    )
    assert len(gzip.compress(body)) < 9_000

    admission = collector(stores).collect(read_native(body), DEMO, RECEIVED)

    [text] = stores.messages()
    chunks = list(chunks_of(decode_message(text)))
    read = [read_chunk(stream_record(chunk, number)) for number, chunk in enumerate(chunks)]
    assert len(admission.event_ids) == sum(chunk.count for chunk in chunks) == 25
    assert max(held_bytes(each.values, each.plain_bytes) for each in read if isinstance(each, ChunkRecord)) < 2**24


def test_when_the_buffer_is_down_the_batch_is_spilled_and_comes_back(stores: Stores) -> None:
    body = request({"event_type": "click", "event_id": "a"})
    collector(stores, buffer=RefusingBuffer()).collect(read_native(body), DEMO, RECEIVED)
    [key] = stores.objects("spill/")

    for _ in range(2):
        collector(stores).reinject(key)

    [text] = stores.messages()
    assert decode_message(text).events[0]["event_id"] == "a"
    assert stores.objects("spill/") == []


def test_while_the_buffer_stays_down_a_spilled_batch_stays(stores: Stores) -> None:
    collector(stores, buffer=RefusingBuffer()).collect(read_native(request({"event_type": "click"})), DEMO, RECEIVED)
    [key] = stores.objects("spill/")

    with pytest.raises(Unavailable):
        collector(stores, buffer=RefusingBuffer()).reinject(key)

    assert stores.objects("spill/") == [key]


@pytest.mark.parametrize("event", [{"event_type": "click"}, {"event_type": 7}])
def test_when_nothing_is_durable_nothing_is_acknowledged(stores: Stores, event: dict[str, Any]) -> None:
    with pytest.raises(Unavailable):
        collector(stores, buffer=RefusingBuffer(), bucket=Refusing()).collect(
            read_native(request(event)), DEMO, RECEIVED
        )


def test_a_bucket_that_does_not_exist_is_a_bucket_that_is_down(stores: Stores) -> None:
    with pytest.raises(Unavailable, match="did not accept"):
        DataBucket(stores.bucket.client, "missing").put("key", b"")


class TakingTheFirst:
    """A buffer that takes one parcel and no more."""

    by_user = True

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        return [*self.buffer.send(parcels[:1]), *parcels[1:]]


def test_what_the_buffer_refuses_of_a_request_is_spilled_alone_and_comes_back(stores: Stores) -> None:
    body = request(*({"event_type": "click", "event_id": f"e{n}", "user_id": f"u{n}"} for n in range(3)))

    admission = collector(stores, buffer=TakingTheFirst(stores.buffer)).collect(read_native(body), DEMO, RECEIVED)

    [key] = stores.objects("spill/")
    [first] = stores.messages()
    collector(stores).reinject(key)
    assert admission.event_ids == ["e0", "e1", "e2"]
    found = {first, *stores.messages()}
    assert sorted(e["event_id"] for text in found for e in decode_message(text).events) == ["e0", "e1", "e2"]


def test_the_ledger_counts_as_refused_only_what_the_buffer_did_not_take(stores: Stores) -> None:
    body = request(*({"event_type": "click", "event_id": f"e{n}", "user_id": f"u{n}"} for n in range(3)))
    tally = Tally("c1")

    with pytest.raises(Unavailable):
        collector(stores, TakingTheFirst(stores.buffer), Refusing(), tally).collect(read_native(body), DEMO, RECEIVED)

    with tally.borrowed() as totals:
        [total] = totals.by_hour.values()
    taken = {e["event_id"] for text in stores.messages() for e in decode_message(text).events}
    assert (total.received, total.refused, taken) == (3, 2, {"e0"})


def test_a_rejected_event_is_kept_where_nobody_can_tell_who_is_erased(stores: Stores) -> None:
    class Down:
        def get_paginator(self, _name: str) -> Any:
            raise EndpointConnectionError(endpoint_url="nowhere")

    found = replace(collector(stores), erased=replace(stores.erased, client=Down(), known={}))

    found.collect(read_native(request({"event_type": 1})), DEMO, RECEIVED)

    assert len(stores.objects("quarantine/")) == 1


@pytest.mark.parametrize(
    ("detail", "stored"),
    [({"x": "\ud83d"}, 1), ({"x": 2**64}, 1), ({"x": float("nan")}, 1), ("\ud83d", 0), ({"x": [[]] * 30_000}, 0)],
)
def test_what_arrives_on_the_bus_is_stored_or_in_quarantine_and_in_the_ledger(
    stores: Stores, detail: Any, stored: int
) -> None:
    event = {"id": "1", "source": "tidemark.shop", "detail-type": "Sold", "time": "2026-11-21T02:05:00Z"}
    tally = Tally("c1")

    collector(stores, tally=tally).collect(read_bus_event({**event, "detail": detail}), DEMO, RECEIVED)

    [totals] = tally.idle
    [receipt] = totals.by_hour.values()
    assert (receipt.received, receipt.quarantined) == (1, 1 - stored)
    assert len(stores.messages()) == stored
    assert len(stores.objects("quarantine/")) == 1 - stored
