"""The two buffers: what they take, what they give back, and whose events stay in order."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chalicelib.base.retries import WAITED_FOR_TRIES
from chalicelib.events.chunks import Message, Parcel, chunks_of, decode_message, from_spill, pack, to_spill
from chalicelib.ingest.event_stream import MAX_PUT_BYTES, MAX_PUT_RECORDS, EventStream
from chalicelib.ingest.queue import EventQueue
from tests.stores import Stores, empty_stores

DOWN = EndpointConnectionError(endpoint_url="nowhere")


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores("kinesis") as found:
        yield found


def message(*users: str | None) -> Message:
    """One event of each."""
    return Message(
        "demo",
        1,
        [
            {"event_id": f"e{n}", "event_type": "click", "occurred_at": 1, **({"user_id": user} if user else {})}
            for n, user in enumerate(users)
        ],
    )


class Stream:
    """Kinesis, which refuses what `refuse` says of a key in the so-many-eth call."""

    def __init__(self, refuse: Any = lambda key, call: False) -> None:
        self.refuse = refuse
        self.calls: list[list[str]] = []

    def put_records(self, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        keys = [record["PartitionKey"] for record in Records]
        self.calls.append(keys)
        refused = [self.refuse(key, len(self.calls)) for key in keys]
        results = [{"ErrorCode": "ProvisionedThroughputExceededException"} if no else {} for no in refused]
        return {"FailedRecordCount": sum(refused), "Records": results}


def test_a_stream_gets_one_record_for_each_user_of_a_request(stores: Stores) -> None:
    refused = stores.buffer.send(pack(message("ada", "bob", "ada"), by_user=True))

    assert isinstance(stores.buffer, EventStream)
    found = [[e["event_id"] for e in decode_message(text).events] for text in stores.messages()]
    assert refused == []
    assert sorted(found) == [["e0", "e2"], ["e1"]]


def test_a_users_events_have_one_key_and_nobodys_are_spread() -> None:
    (first, *_), (again, *_) = pack(message("ada", None), by_user=True), pack(message("ada", "bob"), by_user=True)
    nobodys = {pack(Message("demo", n, message(None).events), by_user=True)[0].key for n in range(5)}

    assert first.key == again.key
    assert len(nobodys) == 5
    assert first.key != pack(Message("other", 1, message("ada").events), by_user=True)[0].key


def test_a_key_is_short_however_long_the_user_id_is() -> None:
    [parcel] = pack(message("ü" * 256), by_user=True)

    assert len(parcel.key) == 32


def test_both_buffers_carry_the_same_chunks() -> None:
    whole = message("ada", None, "bob", "ada", None)

    def chunks(*, by_user: bool) -> set[tuple[str, str]]:
        parcels = pack(whole, by_user=by_user)
        return {(c.partition_key, c.sort_key) for p in parcels for c in chunks_of(decode_message(p.text))}

    assert chunks(by_user=True) == chunks(by_user=False)


def test_only_the_records_that_were_throttled_are_put_again() -> None:
    stream = Stream(lambda key, call: key == "b" and call < 3)
    pauses: list[float] = []
    parcels = [Parcel("x", 1, key) for key in "abc"]

    assert EventStream(stream, "events", pauses.append).send(parcels) == []
    assert stream.calls == [["a", "b", "c"], ["b"], ["b"]]
    assert len(pauses) == 2


def test_a_record_that_the_stream_refuses_for_any_reason_is_put_again_or_given_back() -> None:
    class Failing(Stream):
        def put_records(self, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
            answer = super().put_records(StreamName, Records)
            reasons = [{"ErrorCode": "InternalFailure"} if "ErrorCode" in each else {} for each in answer["Records"]]
            return {**answer, "Records": reasons}

    parcels = [Parcel("x", 1, key) for key in "ab"]

    assert EventStream(Failing(lambda key, call: key == "b"), "events", lambda _: None).send(parcels) == [parcels[1]]
    assert EventStream(Failing(lambda key, call: call < 2), "events", lambda _: None).send(parcels) == []


def test_what_stays_throttled_is_given_back_after_a_bounded_time() -> None:
    stream = Stream(lambda key, call: key == "b")
    pauses: list[float] = []
    parcels = [Parcel("x", 1, key) for key in "abc"]

    assert EventStream(stream, "events", pauses.append).send(parcels) == [parcels[1]]
    assert len(stream.calls) == WAITED_FOR_TRIES
    assert sum(pauses) < 0.5


def test_a_stream_that_does_not_answer_gives_everything_back() -> None:
    def fail(**_: object) -> None:
        raise DOWN

    stream = Stream()
    stream.put_records = fail  # type: ignore[method-assign, assignment]
    parcels = [Parcel("x", 1, "a")]

    assert EventStream(stream, "events").send(parcels) == parcels


@pytest.mark.parametrize(
    ("count", "size", "calls"), [(MAX_PUT_RECORDS, 1, 1), (MAX_PUT_RECORDS + 1, 1, 2), (6, MAX_PUT_BYTES // 5, 2)]
)
def test_a_call_puts_no_more_than_kinesis_takes(count: int, size: int, calls: int) -> None:
    stream = Stream()

    assert EventStream(stream, "events").send([Parcel("x" * size, 1, str(n)) for n in range(count)]) == []
    assert len(stream.calls) == calls
    assert sum(map(len, stream.calls)) == count


def test_a_queue_gives_back_what_it_has_not_taken() -> None:
    sent: list[str] = []

    class Queue:
        def send_message(self, QueueUrl: str, MessageBody: str) -> None:
            if len(sent) == 1:
                raise DOWN
            sent.append(MessageBody)

    parcels = [Parcel(text, 1) for text in "abc"]

    assert EventQueue(Queue(), "url").send(parcels) == parcels[1:]
    assert sent == ["a"]


def test_a_queue_or_a_stream_that_does_not_exist_takes_nothing(stores: Stores) -> None:
    parcels = [Parcel("a", 1, "k")]

    assert EventStream(stores.buffer.client, "missing").send(parcels) == parcels
    with empty_stores("sqs") as others:
        assert EventQueue(others.buffer.client, "https://queue.amazonaws.com/1/missing").send(parcels) == parcels


def test_spilled_parcels_keep_their_keys_and_boundaries() -> None:
    for by_user in (True, False):
        parcels = pack(message("ada", "bob"), by_user=by_user)

        assert [(p.text, p.key) for p in from_spill(to_spill(parcels))] == [(p.text, p.key) for p in parcels]


def test_what_a_queue_refused_can_go_into_a_stream(stores: Stores) -> None:
    spilled = to_spill(pack(message("ada", "bob"), by_user=False))

    assert stores.buffer.send(from_spill(spilled)) == []
    [text] = stores.messages()
    assert len(decode_message(text).events) == 2
