"""SQS and Kinesis: what is sent, received, hidden, deleted, redriven, and in which shard it lies."""

from typing import Any

import pytest

from tests.simulation.contract.clouds import Cloud, refused

EMPTY_AFTER = 5  # receives that bring nothing


def receive(cloud: Cloud, url: str, **more: Any) -> list[dict[str, Any]]:
    answer = cloud.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0, **more)
    return list(answer.get("Messages", []))


def test_a_message_is_hidden_once_it_was_received(cloud: Cloud) -> None:
    url = cloud.queue()
    cloud.sqs.send_message(QueueUrl=url, MessageBody="ä")

    [message] = receive(cloud, url, MessageSystemAttributeNames=["All"])

    assert message["Body"] == "ä"
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert receive(cloud, url) == []


def test_a_message_comes_again_when_it_is_visible_again(cloud: Cloud) -> None:
    url = cloud.queue()
    cloud.sqs.send_message(QueueUrl=url, MessageBody="a")
    [first] = receive(cloud, url)

    cloud.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)

    [second] = receive(cloud, url, MessageSystemAttributeNames=["All"])
    assert second["MessageId"] == first["MessageId"]
    assert second["Attributes"]["ApproximateReceiveCount"] == "2"


def test_a_deleted_message_does_not_come_again(cloud: Cloud) -> None:
    url = cloud.queue(visibility_seconds=0)
    for body in "abc":
        cloud.sqs.send_message(QueueUrl=url, MessageBody=body)
    found = {message["Body"]: message["ReceiptHandle"] for message in receive(cloud, url)}

    cloud.sqs.delete_message(QueueUrl=url, ReceiptHandle=found["a"])
    cloud.sqs.delete_message_batch(QueueUrl=url, Entries=[{"Id": "0", "ReceiptHandle": found["b"]}])

    assert [message["Body"] for message in receive(cloud, url)] == ["c"]


def test_a_message_that_was_received_often_is_a_dead_letter(cloud: Cloud) -> None:
    url = cloud.queue(visibility_seconds=0, max_receives=2)
    cloud.sqs.send_message(QueueUrl=url, MessageBody="a")

    times = sum(len(receive(cloud, url)) for _ in range(EMPTY_AFTER))

    assert times == 2
    assert [message["Body"] for message in receive(cloud, f"{url}-dead")] == ["a"]


def test_a_batch_of_messages(cloud: Cloud) -> None:
    url = cloud.queue()
    entries = [{"Id": str(number), "MessageBody": f"m{number}"} for number in range(10)]

    answer = cloud.sqs.send_message_batch(QueueUrl=url, Entries=entries)

    assert sorted(each["Id"] for each in answer["Successful"]) == [str(number) for number in range(10)]
    assert not answer.get("Failed")
    assert sorted(message["Body"] for message in receive(cloud, url)) == [f"m{number}" for number in range(10)]


def test_batches_that_are_refused(cloud: Cloud) -> None:
    url = cloud.queue()
    prefix = "AWS.SimpleQueueService."
    batches: dict[str, list[dict[str, str]]] = {
        "TooManyEntriesInBatchRequest": [{"Id": str(n), "MessageBody": "a"} for n in range(11)],
        "EmptyBatchRequest": [],
        "BatchEntryIdsNotDistinct": [{"Id": "0", "MessageBody": "a"}] * 2,
        "BatchRequestTooLong": [{"Id": str(n), "MessageBody": "a" * 600_000} for n in range(2)],
    }

    codes = {refused(cloud.sqs.send_message_batch, QueueUrl=url, Entries=entries) for entries in batches.values()}

    assert {code.removeprefix(prefix) for code in codes} == batches.keys()


def test_a_message_of_more_than_a_mebibyte(cloud: Cloud) -> None:
    url = cloud.queue()

    assert refused(cloud.sqs.send_message, QueueUrl=url, MessageBody="a" * (1024 * 1024 + 1)) == "InvalidParameterValue"
    cloud.sqs.send_message(QueueUrl=url, MessageBody="a" * (1024 * 1024))


def test_a_queue_that_is_not_there(cloud: Cloud) -> None:
    url = cloud.queue().rpartition("/")[0] + "/contract-nowhere"

    code = refused(cloud.sqs.send_message, QueueUrl=url, MessageBody="a")

    assert code.removeprefix("AWS.SimpleQueueService.") in ("NonExistentQueue", "QueueDoesNotExist")


@pytest.mark.gap(moto="numbers the records of a shard 1, 2, …, 10, which as text are not in order")
def test_records_of_a_key_lie_in_one_shard_in_order(cloud: Cloud) -> None:
    kinesis, name = cloud.client("kinesis"), cloud.stream(shards=4)
    records = [{"Data": f"{key}{number}".encode(), "PartitionKey": key} for number in range(3) for key in "abcdefgh"]

    answer = kinesis.put_records(StreamName=name, Records=records)

    assert answer["FailedRecordCount"] == 0
    by_shard: dict[str, list[bytes]] = {}
    for shard in kinesis.list_shards(StreamName=name)["Shards"]:
        start = {"StreamName": name, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
        found = kinesis.get_records(ShardIterator=kinesis.get_shard_iterator(**start)["ShardIterator"])["Records"]
        assert [each["SequenceNumber"] for each in found] == sorted(each["SequenceNumber"] for each in found)
        by_shard[shard["ShardId"]] = [each["Data"] for each in found]
    assert len([shard for shard in by_shard.values() if shard]) > 1
    for key in "abcdefgh":
        [lies_in] = [data for data in by_shard.values() if f"{key}0".encode() in data]
        assert [each for each in lies_in if each.startswith(key.encode())] == [f"{key}{n}".encode() for n in range(3)]
    told = {each["ShardId"] for each in answer["Records"]}
    assert told == {shard for shard, data in by_shard.items() if data}


def test_reading_on_behind_a_record(cloud: Cloud) -> None:
    kinesis, name = cloud.client("kinesis"), cloud.stream(shards=1)
    for data in (b"a", b"b", b"c"):
        kinesis.put_records(StreamName=name, Records=[{"Data": data, "PartitionKey": "k"}])
    [shard] = kinesis.list_shards(StreamName=name)["Shards"]
    place = {"StreamName": name, "ShardId": shard["ShardId"]}
    first = kinesis.get_records(
        ShardIterator=kinesis.get_shard_iterator(**place, ShardIteratorType="TRIM_HORIZON")["ShardIterator"], Limit=1
    )

    after = kinesis.get_shard_iterator(
        **place,
        ShardIteratorType="AFTER_SEQUENCE_NUMBER",
        StartingSequenceNumber=first["Records"][0]["SequenceNumber"],
    )["ShardIterator"]

    assert [each["Data"] for each in kinesis.get_records(ShardIterator=after)["Records"]] == [b"b", b"c"]
    rest = kinesis.get_records(ShardIterator=first["NextShardIterator"])["Records"]
    assert [each["Data"] for each in rest] == [b"b", b"c"]


def test_500_records_at_most(cloud: Cloud) -> None:
    kinesis, name = cloud.client("kinesis"), cloud.stream(shards=1)
    records = [{"Data": b"a", "PartitionKey": "k"}] * 501

    code = refused(kinesis.put_records, StreamName=name, Records=records)

    assert code in ("ValidationException", "InvalidArgumentException")
