"""Shards that a trigger reads, of DynamoDB's streams and of Kinesis': what comes after a sequence number, as Lambda
gives it to a function."""

from collections.abc import Mapping
from typing import Any, Protocol

from localcloud.places import REGION
from localcloud.wire import ApiError, CloudApi

EXPIRED = {"ExpiredIteratorException", "TrimmedDataAccessException"}
READ_LIMIT = 1000  # records of one GetRecords; of Kinesis they are larger
KINESIS_READ_LIMIT = 200


class Shard(Protocol):
    """Sequence numbers are digits of one length: as text they are in order too."""

    @property
    def source(self) -> str:
        """Which stream, and which of its shards."""

    def read(self, after: str) -> list[tuple[str, dict[str, Any]]]:
        """Records with their sequence numbers, all greater than `after` (empty: from the start); none at the end."""


class TableShard:
    """The one shard of a table's stream in MiniStack."""

    def __init__(self, trigger: Mapping[str, Any], cloud: CloudApi) -> None:
        self.source: str = trigger["stream_arn"]
        self.cloud = cloud
        self.starting_position: str = trigger["starting_position"]
        self.iterator: str | None = None

    def read(self, after: str) -> list[tuple[str, dict[str, Any]]]:
        while True:
            if self.iterator is None:
                self.iterator = self._new_iterator("TRIM_HORIZON" if after else self.starting_position)
            try:
                answer = self.cloud.streams("GetRecords", ShardIterator=self.iterator, Limit=READ_LIMIT)
            except ApiError as error:
                self.iterator = None
                if error.code in EXPIRED:
                    continue
                raise
            self.iterator = answer.get("NextShardIterator")
            found = [(record["dynamodb"]["SequenceNumber"], record) for record in answer["Records"]]
            new = [(sequence, self._complete(record)) for sequence, record in found if sequence > after]
            if new or not found:
                return new

    def _complete(self, record: dict[str, Any]) -> dict[str, Any]:
        return record | {"eventSourceARN": self.source, "awsRegion": REGION, "eventSource": "aws:dynamodb"}

    def _new_iterator(self, kind: str) -> str:
        shards = self.cloud.streams("DescribeStream", StreamArn=self.source)["StreamDescription"]["Shards"]
        answer = self.cloud.streams(
            "GetShardIterator", StreamArn=self.source, ShardId=shards[0]["ShardId"], ShardIteratorType=kind
        )
        return str(answer["ShardIterator"])


class KinesisShard:
    """A shard of a Kinesis stream.

    Each read has an iterator of its own, because MiniStack's are places in a list from which records are dropped.
    """

    def __init__(self, stream_arn: str, shard_id: str, cloud: CloudApi) -> None:
        self.stream_arn = stream_arn
        self.shard_id = shard_id
        self.source = f"{stream_arn} {shard_id}"
        self.cloud = cloud

    def read(self, after: str) -> list[tuple[str, dict[str, Any]]]:
        start = {"ShardIteratorType": "TRIM_HORIZON"}
        if after:
            start = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": after}
        iterator = self.cloud.kinesis("GetShardIterator", StreamARN=self.stream_arn, ShardId=self.shard_id, **start)
        answer = self.cloud.kinesis("GetRecords", ShardIterator=iterator["ShardIterator"], Limit=KINESIS_READ_LIMIT)
        found = [(record["SequenceNumber"], self._as_lambda_has_it(record)) for record in answer["Records"]]
        return [(sequence, record) for sequence, record in found if sequence > after]

    def _as_lambda_has_it(self, record: dict[str, Any]) -> dict[str, Any]:
        return {
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": record["PartitionKey"],
                "sequenceNumber": record["SequenceNumber"],
                "data": record["Data"],
                "approximateArrivalTimestamp": record["ApproximateArrivalTimestamp"],
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{self.shard_id}:{record['SequenceNumber']}",
            "eventName": "aws:kinesis:record",
            "awsRegion": REGION,
            "eventSourceARN": self.stream_arn,
        }


def kinesis_shards(stream_arn: str, cloud: CloudApi) -> list[KinesisShard]:
    """Return all shards of a stream; ApiError when there is none."""
    shards = cloud.kinesis("ListShards", StreamARN=stream_arn)["Shards"]
    return [KinesisShard(stream_arn, shard["ShardId"], cloud) for shard in shards]
