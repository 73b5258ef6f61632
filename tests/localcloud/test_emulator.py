"""What is saved of the services' state, and what comes back."""

import json
import uuid
from typing import Any

import orjson

from tests.localcloud.conftest import Services


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


def test_stream_records_that_no_trigger_took_come_back(services: Services) -> None:
    name, arn = table(services, "a", "b", "c")
    first = records(services, arn)[0]["dynamodb"]["SequenceNumber"]

    services.server.call(services.emulator.save({"worker": first}, lambda _arn: first))
    services.emulator._dynamodb._stream_records.pop_scoped("000000000000", "us-east-1", name, None)
    checkpoints = services.server.call(services.emulator.restore_streams())

    assert checkpoints == {"worker": first}
    assert keys(services, arn) == ["b", "c"]


def test_records_that_every_trigger_passed_are_dropped_and_readers_go_on(services: Services) -> None:
    _, arn = table(services, "a", "b", "c")
    second = records(services, arn)[1]["dynamodb"]["SequenceNumber"]

    services.server.call(services.emulator.trim_streams(lambda _arn: second))

    assert keys(services, arn) == ["c"]


def test_each_file_of_a_save_is_whole(services: Services) -> None:
    services.server.call(services.emulator.save({}, lambda _arn: ""))

    folder = services.emulator._folder
    saved = {path.name: orjson.loads(path.read_bytes()) for path in folder.glob("*.json")}
    assert "dynamodb.json" in saved
    assert all("payload" in document for document in saved.values())
    assert not list(folder.glob("*.draft"))
