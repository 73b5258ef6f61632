"""A stream as a trigger: order, retries from the first record, limits, filters, checkpoints."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from localcloud import pump as pump_module
from localcloud import stream_pump as stream_pump_module
from localcloud.filters import compile_patterns
from localcloud.places import LocalCloudError
from localcloud.pump import Pump
from localcloud.shards import TableShard
from localcloud.stream_pump import StreamPump
from tests.localcloud.conftest import Recorder
from tests.localcloud.running import wait_for
from tests.localcloud.services import Services

Table = tuple[str, Callable[..., None]]


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pump_module, stream_pump_module):
        monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.02, 0.05))


@pytest.fixture
def table(services: Services) -> Table:
    """A stream's ARN, and a function that puts items."""
    client, name = services.client("dynamodb"), f"table-{uuid.uuid4().hex}"
    made = client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )

    def put(*keys: str) -> None:
        for key in keys:
            client.put_item(TableName=name, Item={"pk": {"S": key}, "body": {"B": key.encode()}})

    return made["TableDescription"]["LatestStreamArn"], put


@pytest.fixture
def start(
    services: Services, function: Recorder, pumps: list[Pump], table: Table
) -> Callable[..., tuple[StreamPump, dict[str, str]]]:
    """Starts a pump of the table's stream; keywords override the trigger."""

    def begin(checkpoints: dict[str, str] | None = None, **overrides: Any) -> tuple[StreamPump, dict[str, str]]:
        trigger = {
            "type": "stream",
            "function": "worker",
            "stream_arn": table[0],
            "batch_size": 10,
            "window_seconds": 0,
            "starting_position": "TRIM_HORIZON",
            "maximum_retries": -1,
            "bisect": False,
            "partial_results": False,
            "patterns": [],
            **overrides,
        }
        held = {} if checkpoints is None else checkpoints
        pump = StreamPump(trigger, TableShard(trigger, services.api), function.start(), held, services.waker)
        pump.start()
        pumps.append(pump)
        return pump, held

    return begin


def keys(event: dict[str, Any]) -> list[str]:
    """The keys of the records in an invocation."""
    return [record["dynamodb"]["Keys"]["pk"]["S"] for record in event["Records"]]


def test_records_come_in_order_in_lambdas_shape(function: Recorder, table: Table, start: Any) -> None:
    table[1]("a", "b")

    start()

    wait_for(lambda: sum(map(len, map(keys, function.events))) == 2, 5, "the records")
    record = function.events[0]["Records"][0]
    assert [key for event in function.events for key in keys(event)] == ["a", "b"]
    assert record["dynamodb"]["NewImage"]["body"] == {"B": "YQ=="}
    assert record["eventSourceARN"] == table[0]
    assert record["eventName"] == "INSERT"
    assert isinstance(record["dynamodb"]["ApproximateCreationDateTime"], int)


def test_a_failed_batch_comes_again_from_its_first_record_and_may_have_grown(
    function: Recorder, table: Table, start: Any
) -> None:
    def fail_twice(_event: dict[str, Any], number: int) -> None:
        if number == 1:
            table[1]("b", "c")
        if number <= 2:
            raise ValueError("not yet")

    function.behave = fail_twice
    table[1]("a")

    start()

    wait_for(lambda: len(function.events) >= 3, 5, "three invocations")
    assert keys(function.events[0]) == ["a"]
    assert keys(function.events[1]) == ["a", "b", "c"]
    assert keys(function.events[2]) == ["a", "b", "c"]


def test_a_batch_is_given_up_after_its_retries_and_the_next_one_goes_on(
    function: Recorder, table: Table, start: Any
) -> None:
    def poison(event: dict[str, Any], _number: int) -> None:
        if "a" in keys(event):
            raise ValueError("poison")

    function.behave = poison
    table[1]("a", "b")

    start(maximum_retries=2, batch_size=1)

    wait_for(lambda: function.events and keys(function.events[-1]) == ["b"], 5, "the next record")
    assert [keys(event) for event in function.events] == [["a"], ["a"], ["a"], ["b"]]


def test_a_reported_record_is_where_the_next_batch_begins(function: Recorder, table: Table, start: Any) -> None:
    def third_fails_once(event: dict[str, Any], number: int) -> Any:
        failed = [event["Records"][2]["dynamodb"]["SequenceNumber"]] if number == 1 else []
        return {"batchItemFailures": [{"itemIdentifier": sequence} for sequence in failed]}

    function.behave = third_fails_once
    table[1]("a", "b", "c", "d")

    start(partial_results=True)

    wait_for(lambda: len(function.events) >= 2, 5, "two invocations")
    assert keys(function.events[1]) == ["c", "d"]


def test_a_bisected_batch_finds_the_record_that_fails(function: Recorder, table: Table, start: Any) -> None:
    done: list[str] = []

    def poison(event: dict[str, Any], _number: int) -> None:
        if "c" in keys(event):
            raise ValueError("poison")
        done.extend(keys(event))

    function.behave = poison
    table[1]("a", "b", "c", "d")

    start(bisect=True, maximum_retries=1)

    wait_for(lambda: done == ["a", "b", "d"], 5, "all but the poison")


def test_a_batch_waits_for_its_window_or_until_it_is_full(function: Recorder, table: Table, start: Any) -> None:
    table[1]("a")

    start(window_seconds=60, batch_size=3)
    table[1]("b", "c")

    wait_for(lambda: function.events, 20, "a full batch")
    assert keys(function.events[0]) == ["a", "b", "c"]


def test_only_records_that_pass_the_filter_arrive_and_the_checkpoint_passes_the_others(
    function: Recorder, table: Table, start: Any
) -> None:
    table[1]("d#1", "m#1", "d#2", "m#2")

    pump, checkpoints = start(patterns=[{"dynamodb": {"Keys": {"pk": {"S": [{"prefix": "d#"}]}}}}])

    wait_for(lambda: checkpoints.get(pump.key) == pump.read_through != "", 5, "the checkpoint")
    assert [key for event in function.events for key in keys(event)] == ["d#1", "d#2"]


def test_a_new_pump_goes_on_after_the_checkpoint(function: Recorder, table: Table, start: Any) -> None:
    table[1]("a", "b")
    pump, checkpoints = start()
    wait_for(lambda: checkpoints.get(pump.key) == pump.read_through != "", 5, "the checkpoint")
    pump.stop()
    pump.join(5)
    function.stop()
    function.events.clear()

    table[1]("c")
    start(checkpoints)

    wait_for(lambda: function.events, 5, "the record written meanwhile")
    assert keys(function.events[0]) == ["c"]


def test_a_function_that_is_away_is_waited_for_and_nothing_counts_as_a_failure(
    function: Recorder, table: Table, start: Any
) -> None:
    pump, _ = start(maximum_retries=0)
    wait_for(lambda: pump.turns, 5, "the first look")
    function.stop()
    table[1]("a")

    function.start()

    wait_for(lambda: function.events, 5, "the record")
    assert keys(function.events[0]) == ["a"]


def test_an_unknown_filter_is_refused_by_name() -> None:
    with pytest.raises(LocalCloudError, match="numeric"):
        compile_patterns([{"dynamodb": {"NewImage": {"n": {"N": [{"numeric": [">", 1]}]}}}}])


@pytest.mark.parametrize(
    ("pattern", "record", "passes"),
    [
        ({"eventName": ["INSERT", "MODIFY"]}, {"eventName": "REMOVE"}, False),
        ({"eventName": ["INSERT"]}, {"eventName": "INSERT"}, True),
        ({"dynamodb": {"NewImage": [{"exists": False}]}}, {"dynamodb": {}}, True),
        ({"a": {"b": [{"exists": True}]}}, {"a": {"b": None}}, True),
        ({"a": [{"anything-but": ["x"]}]}, {"a": "x"}, False),
        ({"a": ["1"], "b": ["2"]}, {"a": "1", "b": "3"}, False),
    ],
)
def test_filter_patterns(pattern: dict[str, Any], record: dict[str, Any], passes: bool) -> None:
    assert compile_patterns([pattern])(record) is passes


def test_a_pump_that_comes_late_does_not_take_the_checkpoint_back(function: Recorder, table: Table, start: Any) -> None:
    ahead = "9" * 30
    held: dict[str, str] = {}

    def be_overtaken(_event: dict[str, Any], _number: int) -> None:
        held[f"worker {table[0]}"] = ahead

    function.behave = be_overtaken
    table[1]("a")

    pump, _ = start(held)

    wait_for(lambda: pump.turns, 5, "the end of the delivery")
    assert held == {f"worker {table[0]}": ahead}
