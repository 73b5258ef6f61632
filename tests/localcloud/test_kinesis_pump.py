"""A Kinesis stream as a trigger: order by key, checkpoints of each shard, failures, what is kept over a restart."""

import json
import uuid
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest

from localcloud import pump as pump_module
from localcloud import stream_pump as stream_pump_module
from localcloud.pump import Pump
from localcloud.shards import KinesisShard, kinesis_shards
from localcloud.stream_pump import StreamPump, checkpoint_key
from localcloud.triggers import Triggers
from tests.localcloud.conftest import Recorder
from tests.localcloud.running import wait_for
from tests.localcloud.services import Services

SHARDS = 3


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pump_module, stream_pump_module):
        monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.02, 0.05))


@pytest.fixture
def trigger(services: Services) -> dict[str, Any]:
    """The trigger of a new stream."""
    name = f"stream-{uuid.uuid4().hex}"
    services.client("kinesis").create_stream(StreamName=name, ShardCount=SHARDS)
    arn = services.client("kinesis").describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    return {
        "type": "kinesis",
        "function": "worker",
        "stream_arn": arn,
        "batch_size": 10,
        "window_seconds": 0,
        "maximum_retries": -1,
        "bisect": False,
        "partial_results": True,
        "patterns": [],
    }


@pytest.fixture
def start(
    services: Services, function: Recorder, pumps: list[Pump], trigger: dict[str, Any]
) -> Callable[..., dict[str, str]]:
    """Starts a pump for each shard; returns their checkpoints."""

    def begin(checkpoints: dict[str, str] | None = None) -> dict[str, str]:
        held = {} if checkpoints is None else checkpoints
        functions = function.start()
        shards = kinesis_shards(trigger["stream_arn"], services.api)
        pumps.extend(StreamPump(trigger, shard, functions, held, services.waker).start() for shard in shards)
        return held

    return begin


def put(services: Services, trigger: dict[str, Any], *records: tuple[str, str]) -> None:
    """Put data under keys, in order."""
    for key, data in records:
        services.client("kinesis").put_record(StreamARN=trigger["stream_arn"], PartitionKey=key, Data=data.encode())


def texts(event: dict[str, Any]) -> list[str]:
    """The data of the records in an invocation."""
    return [b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]


def got(function: Recorder) -> list[str]:
    """All data so far."""
    return [text for event in list(function.events) for text in texts(event)]


def test_the_records_of_a_key_come_in_order_in_lambdas_shape(
    services: Services, function: Recorder, trigger: dict[str, Any], start: Any
) -> None:
    put(services, trigger, *((key, f"{key}{n}") for n in range(5) for key in "abcd"))

    start()

    wait_for(lambda: len(got(function)) == 20, 5, "the records")
    for key in "abcd":
        assert [text for text in got(function) if text[0] == key] == [f"{key}{n}" for n in range(5)]
    record = function.events[0]["Records"][0]
    assert record["eventSource"] == "aws:kinesis"
    assert record["eventSourceARN"] == trigger["stream_arn"]
    assert record["eventID"] == f"{record['eventID'].partition(':')[0]}:{record['kinesis']['sequenceNumber']}"
    assert record["kinesis"].keys() == {
        "kinesisSchemaVersion",
        "partitionKey",
        "sequenceNumber",
        "data",
        "approximateArrivalTimestamp",
    }


def test_a_reported_record_is_where_its_shard_begins_again(
    services: Services, function: Recorder, trigger: dict[str, Any], start: Any
) -> None:
    def second_fails_once(event: dict[str, Any], number: int) -> Any:
        failed = event["Records"][1:] if number == 1 else []
        return {"batchItemFailures": [{"itemIdentifier": r["kinesis"]["sequenceNumber"]} for r in failed]}

    function.behave = second_fails_once
    put(services, trigger, *(("a", text) for text in "123"))

    start()

    wait_for(lambda: len(function.events) >= 2, 5, "the second invocation")
    assert [texts(event) for event in function.events] == [["1", "2", "3"], ["2", "3"]]


def test_a_failing_record_holds_its_own_shard_only(
    services: Services, function: Recorder, trigger: dict[str, Any], start: Any
) -> None:
    def fail(event: dict[str, Any], _number: int) -> None:
        if "poison" in texts(event):
            raise ValueError("poison")

    function.behave = fail
    shards: dict[str, str] = {}
    for key in map(str, range(20)):
        answer = services.client("kinesis").put_record(StreamARN=trigger["stream_arn"], PartitionKey=key, Data=b"good")
        shards[answer["ShardId"]] = key
    held = start()
    wait_for(lambda: len(got(function)) == 20, 5, "the good records")
    first, *others = shards.values()

    put(services, trigger, (first, "poison"), *((key, "later") for key in others))

    wait_for(lambda: got(function).count("later") == SHARDS - 1, 5, "the other shards")
    wait_for(lambda: got(function).count("poison") >= 3, 5, "retries of the poison")
    assert len(held) == SHARDS


def test_a_new_pump_goes_on_after_the_checkpoint_also_when_old_records_are_dropped(
    services: Services, function: Recorder, pumps: list[StreamPump], trigger: dict[str, Any], start: Any
) -> None:
    triggers = Triggers(services.api, function.start(), {}, lambda *_: None)
    triggers.stream_triggers = [trigger]
    function.stop()
    put(services, trigger, ("a", "1"), ("b", "2"))
    held = start(triggers.checkpoints)
    wait_for(lambda: len(got(function)) == 2, 5, "the first records")
    wait_for(lambda: not any(pump.busy or pump.pending for pump in pumps), 5, "the checkpoints")
    for pump in pumps:
        pump.stop()
        pump.join(5)
    function.stop()

    services.server.call(services.emulator.trim_streams(triggers.oldest_needed))
    put(services, trigger, ("a", "3"))
    start(held)

    wait_for(lambda: len(got(function)) == 3, 5, "the record put meanwhile")
    kept = [record for shard in kinesis_shards(trigger["stream_arn"], services.api) for record in shard.read("")]
    assert sorted(got(function)) == ["1", "2", "3"]
    assert len(kept) == 1


def test_a_record_that_nobody_has_read_is_not_dropped(services: Services, trigger: dict[str, Any]) -> None:
    put(services, trigger, ("a", "1"))

    services.server.call(services.emulator.trim_streams(lambda _source: ""))

    shards: list[KinesisShard] = kinesis_shards(trigger["stream_arn"], services.api)
    assert sum(len(shard.read("")) for shard in shards) == 1
    assert len({checkpoint_key(trigger, shard.source) for shard in shards}) == SHARDS


def test_an_event_of_the_bus_that_matches_calls_the_function(services: Services, function: Recorder) -> None:
    name = f"worker-{uuid.uuid4().hex}"

    def subscribe(trigger: dict[str, Any], queue_arn: str) -> None:
        events = services.client("events")
        events.put_rule(Name=name, EventPattern=json.dumps(trigger["pattern"]))
        events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": queue_arn}])

    triggers = Triggers(services.api, function.start(), {}, subscribe)
    triggers.configure([{"type": "bus", "function": "worker", "pattern": {"source": [{"prefix": "tidemark."}]}}])
    entries = [
        {"Source": source, "DetailType": "Order Shipped", "Detail": json.dumps({"from": source})}
        for source in ("other.shop", "tidemark.shop")
    ]

    services.client("events").put_events(Entries=entries)

    wait_for(lambda: function.events, 5, "the event")
    triggers.stop(5)
    [event] = function.events
    assert event["detail-type"] == "Order Shipped"
    assert event["detail"] == {"from": "tidemark.shop"}
    assert event.keys() >= {"id", "source", "account", "time", "region", "resources"}


def test_what_is_dropped_between_an_iterator_and_its_read_moves_no_record_out_of_sight(
    services: Services, trigger: dict[str, Any]
) -> None:
    kinesis, arn = services.client("kinesis"), trigger["stream_arn"]
    sent = [kinesis.put_record(StreamARN=arn, PartitionKey="one", Data=str(n).encode()) for n in range(4)]
    numbers = [record["SequenceNumber"] for record in sent]
    after = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": numbers[1]}
    iterator = kinesis.get_shard_iterator(StreamARN=arn, ShardId=sent[0]["ShardId"], **after)["ShardIterator"]

    services.server.call(services.emulator.trim_streams(lambda source: numbers[1] if source.startswith(arn) else ""))

    found = kinesis.get_records(ShardIterator=iterator)["Records"]
    assert [record["SequenceNumber"] for record in found] == numbers[2:]
