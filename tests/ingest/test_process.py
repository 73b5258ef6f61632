import random
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chalicelib.base.retries import MAX_TRIES
from chalicelib.events.chunks import Message, encode_message, unpack_events
from chalicelib.events.enrichment import Client
from chalicelib.events.events_table import EventsTable
from chalicelib.ingest.process import Processor
from chalicelib.rollups.ledger import Receipt
from chalicelib.settings import BUFFERS
from tests.stores import Stores, empty_stores

RECEIVED = 1_795_226_700_123


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


Deliver = Callable[[str, str], dict[str, Any]]
Record = Callable[..., dict[str, Any]]


def from_queue(identity: str, text: str) -> dict[str, Any]:
    return {"messageId": identity, "body": text}


def from_stream(identity: str, text: str) -> dict[str, Any]:
    return {"kinesis": {"sequenceNumber": identity, "data": b64encode(text.encode()).decode()}}


def processor(stores: Stores, table: EventsTable | None = None) -> Processor:
    return Processor(table or stores.events, stores.users, stores.bucket, stores.erased, stores.ledger)


@pytest.fixture(params=[from_queue, from_stream], ids=BUFFERS)
def deliver(request: pytest.FixtureRequest) -> Deliver:
    """A text as the one or the other buffer delivers it."""
    form: Deliver = request.param
    return form


@pytest.fixture
def record(deliver: Deliver) -> Record:
    """A delivered message of some events."""

    def make(identity: str, *ids: str, users: int = 1, received: int = RECEIVED) -> dict[str, Any]:
        events = [
            {"event_id": e, "event_type": "click", "user_id": f"u{i % users}", "timestamp": 1, "occurred_at": received}
            for i, e in enumerate(ids)
        ]
        [(text, _)] = encode_message(Message("demo", received, events))
        return deliver(identity, text)

    return make


def test_a_message_becomes_a_chunk_per_user(stores: Stores, record: Record) -> None:
    failed = processor(stores).process([record("m", *"abcdef", users=3)])

    items = stores.items("events")
    assert failed == []
    assert sorted(item["pk"]["S"] for item in items) == ["demo#u0", "demo#u1", "demo#u2"]
    assert {item["events"]["N"] for item in items} == {"2"}


def test_a_chunk_says_where_its_events_stand_in_the_count_of_their_container(stores: Stores, deliver: Deliver) -> None:
    events = [
        {"event_id": f"e{n}", "event_type": "click", "user_id": user, "occurred_at": RECEIVED}
        for n, user in enumerate(("ada", "bob", "ada"))
    ]
    [(text, _)] = encode_message(Message("demo", RECEIVED, events, Receipt("c", received=10)))

    processor(stores).process([deliver("m", text)])

    found = {item["user"]["S"]: (item["position"]["N"], item["receipt"]["S"]) for item in stores.items("events")}
    assert found == {"ada": ("7", "c:10:0:0:0"), "bob": ("9", "c:10:0:0:0")}


def test_redelivery_and_retried_requests_rewrite_the_same_items(stores: Stores, record: Record) -> None:
    found = processor(stores)
    again = record("m3", "a", "b", received=RECEIVED + 5_000)

    found.process([record("m1", "a", "b"), record("m2", "a", "b")])
    found.process([record("m1", "a", "b"), again])

    assert len(stores.items("events")) == 1


def test_both_of_a_request_and_its_repetition_reach_the_stream_when_they_come_together(
    stores: Stores, record: Record
) -> None:
    puts: list[int] = []

    class Counting:
        def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> dict[str, Any]:
            puts.append(len(RequestItems["events"]))
            return {}

    table = EventsTable(Counting(), "events")
    processor(stores, table).process([record("m1", "a"), record("m2", "a", received=RECEIVED + 5_000)])

    assert puts == [1, 1]


def test_stored_events_say_what_their_request_tells_of_the_client(stores: Stores, deliver: Deliver) -> None:
    client = Client(
        ip="203.0.113.0", country="DE", user_agent="Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Firefox/130.0"
    )
    events = [{"event_id": "e", "event_type": "click", "occurred_at": RECEIVED}]
    [(text, _)] = encode_message(Message("demo", RECEIVED, events, client=client))

    processor(stores).process([deliver("m", text)])

    [item] = stores.items("events")
    [stored], _ = unpack_events(item["body"]["B"])
    assert stored["enrichment"] == {
        "browser": "Firefox",
        "os": "Linux",
        "device": "desktop",
        "ip": "203.0.113.0",
        "country": "DE",
    }


def test_a_message_that_cannot_be_read_is_kept_and_blocks_nothing(
    stores: Stores, deliver: Deliver, record: Record
) -> None:
    failed = processor(stores).process([deliver("bad", "junk"), record("good", "a")])

    assert failed == []
    assert stores.bucket.get("quarantine/unreadable/bad") == b"junk"
    assert len(stores.items("events")) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"user_id": "x" * 3000},  # a key of more than 2,048 bytes
        {"properties": {"noise": random.Random(1).randbytes(400_000).hex()}},  # an item of more than 400 KB
    ],
    ids=["key", "item"],
)
def test_a_message_that_no_table_takes_is_kept_and_costs_the_others_nothing(
    stores: Stores, deliver: Deliver, record: Record, bad: dict[str, Any]
) -> None:
    events = [{"event_id": "e", "event_type": "click", "occurred_at": RECEIVED, **bad}]
    [(text, _)] = encode_message(Message("demo", RECEIVED, events))
    records = [record("m1", "a"), deliver("bad", text), record("m2", "b", users=2), record("m3", "c")]

    failed = processor(stores).process(records)

    assert failed == []
    assert len(stores.items("events")) == 3
    assert stores.objects() == ["quarantine/unreadable/bad"]
    assert stores.bucket.get("quarantine/unreadable/bad") == text.encode()


def test_ids_of_every_allowed_length_are_stored_and_linked(stores: Stores, deliver: Deliver) -> None:
    identify = {"event_id": "e", "event_type": "identify", "occurred_at": RECEIVED, "anonymous_id": "a" * 256}
    events = [identify | {"user_id": "\U0001f4a5" * 256}, identify | {"event_id": "f", "user_id": "\U0001f4a5" * 250}]
    [(text, _)] = encode_message(Message("demo", RECEIVED, events))

    assert processor(stores).process([deliver("m", text)]) == []

    assert stores.objects() == []
    assert stores.users.links("demo", "a" * 256) == ([], ["\U0001f4a5" * 250])


class Throttling:
    """A client that refuses the last of each batch a number of times."""

    def __init__(self, client: Any, times: int) -> None:
        self.client, self.times = client, times

    def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> Any:
        if self.times == 0:
            return self.client.batch_write_item(RequestItems=RequestItems)
        self.times -= 1
        [(table, requests)] = RequestItems.items()
        if requests[:-1]:
            self.client.batch_write_item(RequestItems={table: requests[:-1]})
        return {"UnprocessedItems": {table: requests[-1:]}}


def test_chunks_that_the_table_throttles_are_written_again(stores: Stores, record: Record) -> None:
    pauses: list[float] = []
    table = EventsTable(Throttling(stores.events.client, 3), "events", sleep=pauses.append)

    failed = processor(stores, table).process([record("m", *map(str, range(30)), users=30)])

    assert failed == []
    assert len(stores.items("events")) == 30
    assert len(pauses) == 3
    assert all(0 <= pause <= most for pause, most in zip(pauses, [0.05, 0.1, 0.2], strict=True))


def test_only_messages_whose_chunks_stay_refused_are_delivered_again(stores: Stores, record: Record) -> None:
    table = EventsTable(Throttling(stores.events.client, MAX_TRIES), "events", sleep=lambda _: None)

    failed = processor(stores, table).process([record("m1", "a"), record("m2", "b")])

    assert failed == ["m2"]
    assert len(stores.items("events")) == 1


def test_when_even_quarantine_is_down_an_unreadable_message_is_delivered_again(
    stores: Stores, deliver: Deliver
) -> None:
    stores.bucket.client.delete_bucket(Bucket="data")

    assert processor(stores).process([deliver("bad", "junk")]) == ["bad"]
