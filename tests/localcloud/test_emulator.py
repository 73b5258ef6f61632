"""What is saved of the services' state, and what comes back."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from localcloud.places import LocalCloudError
from tests.localcloud.services import Services


def table(services: Services, *keys: str) -> tuple[str, str]:
    """A table with a stream and items; its name and the stream's ARN."""
    name = f"table-{uuid.uuid4().hex}"
    made = services.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    for key in keys:
        services.client("dynamodb").put_item(TableName=name, Item={"pk": {"S": key}, "body": {"B": b"\0"}})
    return name, made["TableDescription"]["LatestStreamArn"]


def records(services: Services, arn: str) -> list[dict[str, Any]]:
    """What a reader of the stream finds."""
    client = services.client("dynamodbstreams")
    shard = client.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"][0]["ShardId"]
    iterator = client.get_shard_iterator(StreamArn=arn, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    found: list[dict[str, Any]] = client.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
    return found


def keys(services: Services, arn: str) -> list[str]:
    """The keys of the records in a stream."""
    return [record["dynamodb"]["Keys"]["pk"]["S"] for record in records(services, arn)]


def test_the_tables_are_saved_as_ministack_itself_would(services: Services) -> None:
    table(services, "a")
    emulator = services.emulator

    async def both() -> tuple[str, str]:
        own, theirs = emulator.tables(), emulator._dynamodb.get_state()
        encode = emulator._persistence._json_default
        return json.dumps(own, default=encode), json.dumps(theirs, default=encode)

    own, theirs = services.server.call(both())
    assert json.loads(own) == json.loads(theirs)


def save(services: Services, checkpoints: dict[str, str], passed: str = "") -> None:
    """Save as the cloud does, when every trigger has passed one record."""
    services.emulator.save(services.server.call(services.emulator.snapshot(checkpoints, lambda _arn: passed)))


def test_stream_records_that_no_trigger_took_come_back(services: Services) -> None:
    name, arn = table(services, "a", "b", "c")
    first = records(services, arn)[0]["dynamodb"]["SequenceNumber"]

    save(services, {"worker": first}, first)
    services.emulator._dynamodb._stream_records.pop_scoped("000000000000", "us-east-1", name, None)
    checkpoints = services.emulator.restore()

    assert checkpoints == {"worker": first}
    assert keys(services, arn) == ["b", "c"]


@pytest.mark.parametrize("ahead", ["checkpoint", "record"])
def test_a_record_follows_those_before_the_restart_though_the_clock_went_back(services: Services, ahead: str) -> None:
    name, arn = table(services, "a")
    first = records(services, arn)[0]["dynamodb"]
    later = f"{int(first['SequenceNumber']) + 60_000 * 10**10:030d}"  # of a clock that was a minute fast
    if ahead == "record":
        services.emulator._dynamodb._stream_records.get_scoped("000000000000", "us-east-1", name)[0]["dynamodb"][
            "SequenceNumber"
        ] = later

    save(services, {"worker": later if ahead == "checkpoint" else "1"})
    services.emulator.restore()
    services.client("dynamodb").put_item(TableName=name, Item={"pk": {"S": "b"}})

    assert records(services, arn)[-1]["dynamodb"]["SequenceNumber"] > later


def test_records_that_every_trigger_passed_are_dropped_and_readers_go_on(services: Services) -> None:
    _, arn = table(services, "a", "b", "c")
    second = records(services, arn)[1]["dynamodb"]["SequenceNumber"]

    services.server.call(services.emulator.trim_streams(lambda _arn: second))

    assert keys(services, arn) == ["c"]


def crash_at_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no file is replaced."""

    def crash(_draft: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)


def test_a_crash_during_a_save_leaves_the_last_one_whole(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    name, arn = table(services, "a")
    queue = services.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    services.client("sqs").send_message(QueueUrl=queue, MessageBody="b")
    save(services, {"worker": "1"})
    message = services.client("sqs").receive_message(QueueUrl=queue)["Messages"][0]
    services.client("sqs").delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    services.client("dynamodb").put_item(TableName=name, Item={"pk": {"S": "b"}})
    crash_at_replace(monkeypatch)
    with pytest.raises(KeyboardInterrupt):  # in its only step: nothing lies between tables, queues and checkpoints
        save(services, {"worker": "2"})
    checkpoints = services.emulator.restore()

    assert checkpoints == {"worker": "1"}
    assert services.client("dynamodb").scan(TableName=name)["Count"] == 1
    assert services.client("sqs").receive_message(QueueUrl=queue)["Messages"][0]["Body"] == "b"
    assert keys(services, arn) == ["a"]


@pytest.mark.parametrize(
    "text",
    ["", '{"services": {"dynamo', "[]", '{"services": {"sqs": {"format": 9999, "state": {}}}, "records": {}}'],
)
def test_a_state_that_cannot_be_read_is_refused_and_kept(services: Services, text: str) -> None:
    saved = services.emulator._saved
    saved.write_text(text)

    with pytest.raises(LocalCloudError, match=r"state\.json cannot be read .*make clean"):
        services.emulator.restore()

    assert saved.read_text() == text
    saved.unlink()


def executions(services: Services) -> dict[str, Any]:
    """What a snapshot has of Step Functions' executions, by their ARNs."""
    saved = json.loads(services.server.call(services.emulator.snapshot({}, lambda _arn: "")))
    found: dict[str, Any] = saved["services"]["stepfunctions"]["state"]["executions"]["data"]
    return {execution["executionArn"]: execution for execution in found.values()}


@pytest.fixture
def execution(services: Services) -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes one of Step Functions' own, which a thread brings to its end."""
    services.client("stepfunctions").list_state_machines()  # its module is there after its first request
    from ministack.services import stepfunctions

    names: list[tuple[str, str, str]] = []

    def make(**parts: Any) -> dict[str, Any]:
        arn = f"arn:aws:states:us-east-1:000000000000:execution:any:{uuid.uuid4().hex}"
        names.append(("000000000000", "us-east-1", arn))
        made = {"executionArn": arn, "status": "RUNNING", "stopDate": None, "events": [{"id": 1}], **parts}
        stepfunctions._executions.set_scoped(*names[-1], made)
        return made

    yield make
    for name in names:
        stepfunctions._executions.pop_scoped(*name)


def test_a_state_can_be_saved_while_executions_go_on(services: Services, execution: Any) -> None:
    class Meanwhile(str):
        """A value at whose copying the execution's thread is quicker."""

        def __deepcopy__(self, _memo: Any) -> str:
            made["error"], made["cause"] = "TimeoutError", "a store does not answer"
            return self

    made = execution(input=Meanwhile("{}"))
    threaded, ended = execution(), threading.Event()

    def go_on() -> None:
        while not ended.is_set():
            threaded["error"] = threaded["cause"] = "x"
            threaded["events"].append({"id": len(threaded["events"]) + 1})
            del threaded["error"], threaded["cause"], threaded["events"][100:]

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        for _ in range(20):
            assert {made["executionArn"], threaded["executionArn"]} <= executions(services).keys()
    finally:
        ended.set()
        thread.join()


def test_an_execution_whose_end_is_half_noted_is_saved_as_running(services: Services, execution: Any) -> None:
    half, whole = execution(status="SUCCEEDED"), execution(status="SUCCEEDED", stopDate="now")

    saved = executions(services)

    assert [saved[each["executionArn"]]["status"] for each in (half, whole)] == ["RUNNING", "SUCCEEDED"]
    assert half["status"] == "SUCCEEDED"


def test_executions_are_saved_as_ministack_itself_would(services: Services, execution: Any) -> None:
    execution(status="FAILED", stopDate="now", error="x")
    from ministack.services import stepfunctions

    encode = services.emulator._persistence._json_default
    own, theirs = services.emulator.workflows(), stepfunctions.get_state()
    assert json.loads(json.dumps(own, default=encode)) == json.loads(json.dumps(theirs, default=encode))
