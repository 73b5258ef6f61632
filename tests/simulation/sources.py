"""The shards that stream triggers read: of a table's stream, and of Kinesis."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.simulation.ports.items import item_size
from tests.simulation.ports.kinesis import KinesisShard, KinesisStream
from tests.simulation.ports.table_stream import Shard, TableStream


@dataclass(frozen=True)
class TableSource:
    """A shard of a table's stream."""

    stream: TableStream
    shard: Shard

    @property
    def name(self) -> str:
        return f"{self.stream.arn}/{self.shard.name}"

    def count(self) -> int:
        return len(self.shard.records)

    def trimmed(self, now: float) -> int:
        return self.shard.trimmed(now)

    def parent(self) -> "TableSource | None":
        return TableSource(self.stream, self.shard.parent) if self.shard.parent else None

    def matched(self, number: int) -> Mapping[str, Any]:
        record = self.shard.records[number]
        return {"eventName": record.event, "dynamodb": {"Keys": record.keys}}

    def read(self, number: int) -> dict[str, Any]:
        return self.shard.records[number].to_json(self.stream.arn)

    def size(self, number: int) -> int:
        image = self.shard.records[number].image
        return 600 + (item_size(image) * 4 // 3 if image else 0)

    def named(self, number: int) -> str:
        return str(self.shard.records[number].sequence)


@dataclass(frozen=True)
class KinesisSource:
    """A shard of a Kinesis stream, whose records are kept for longer than any history."""

    arn: str
    stream: KinesisStream
    shard: KinesisShard

    @property
    def name(self) -> str:
        return f"{self.arn}/{self.shard.name}"

    def count(self) -> int:
        return len(self.shard.records)

    def trimmed(self, now: float) -> int:
        return 0

    def parent(self) -> "KinesisSource | None":
        return None

    def matched(self, number: int) -> Mapping[str, Any]:
        return {}

    def read(self, number: int) -> dict[str, Any]:
        record = self.shard.records[number]
        return {
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": record.key,
                "sequenceNumber": record.sequence,
                "data": b64encode(record.data).decode(),
                "approximateArrivalTimestamp": record.arrived_at,
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{self.shard.name}:{record.sequence}",
            "eventName": "aws:kinesis:record",
            "awsRegion": "us-east-1",
            "eventSourceARN": self.arn,
        }

    def size(self, number: int) -> int:
        return 600 + len(self.shard.records[number].data) * 4 // 3

    def named(self, number: int) -> str:
        return self.shard.records[number].sequence
