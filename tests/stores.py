"""Real storage classes on moto's tables, bucket and buffers, for the tests of the stages."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import boto3
from moto import mock_aws

from chalicelib.domain.chunks import Parcel
from chalicelib.storage.access_table import AccessTable
from chalicelib.storage.closed_table import ClosedTable
from chalicelib.storage.control_table import ControlTable
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.erasures_table import ErasuresTable
from chalicelib.storage.event_stream import EventStream
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.flags_table import FlagsTable
from chalicelib.storage.history import History
from chalicelib.storage.hour_folders import HourFolders
from chalicelib.storage.hours_table import HoursTable
from chalicelib.storage.ledger_table import LedgerTable
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.queue import EventQueue
from chalicelib.storage.quota_table import QuotaTable
from chalicelib.storage.rollups_table import RollupsTable
from chalicelib.storage.users_table import UsersTable
from tests import quick_tables

KEYS = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
# What was received does not come again by itself, however slow the machine.
QUEUE = {"MaximumMessageSize": "1048576", "VisibilityTimeout": "43200"}
INDEXES = {"open": "ALL", "receipts": "KEYS_ONLY"}  # of the rollups table: hash key, and what is projected


@dataclass(frozen=True)
class Stores:
    """Every store, empty."""

    events: EventsTable
    rollups: RollupsTable
    control: ControlTable
    access: AccessTable
    quotas: QuotaTable
    ledger: LedgerTable
    hours: HoursTable
    users: UsersTable
    erased: ErasedUsers
    erasures: ErasuresTable
    bucket: DataBucket
    buffer: EventQueue | EventStream

    @property
    def history(self) -> History:
        """Live and closed rollups together."""
        return History(self.rollups, self.closed)

    @property
    def closed(self) -> ClosedTable:
        """Closed rollups."""
        return ClosedTable(self.rollups.client, self.rollups.name)

    @property
    def flags(self) -> FlagsTable:
        """Of users that are ahead, as a new container knows them."""
        return FlagsTable(self.events.client, self.events.name)

    @property
    def folders(self) -> HourFolders:
        """Which file of the lake holds what."""
        return HourFolders(self.bucket)

    def objects(self, prefix: str = "") -> list[str]:
        """The keys in the data bucket."""
        listed = self.bucket.client.list_objects_v2(Bucket=self.bucket.name, Prefix=prefix)
        return [item["Key"] for item in listed.get("Contents", [])]

    def items(self, table: str) -> list[dict[str, Any]]:
        """Every item of a table."""
        items: list[dict[str, Any]] = self.events.client.scan(TableName=table)["Items"]
        return items

    def messages(self) -> list[str]:
        """The texts in the buffer: the queue's next ten, or all of the stream's."""
        if isinstance(self.buffer, EventStream):
            return [record["Data"].decode() for record in self.stream_records()]
        received = self.buffer.client.receive_message(QueueUrl=self.buffer.url, MaxNumberOfMessages=10)
        return [message["Body"] for message in received.get("Messages", [])]

    def stream_records(self) -> list[dict[str, Any]]:
        """What the Kinesis stream holds."""
        assert isinstance(self.buffer, EventStream)
        client, name = self.buffer.client, self.buffer.name
        records: list[dict[str, Any]] = []
        for shard in client.list_shards(StreamName=name)["Shards"]:
            start = {"StreamName": name, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
            records += client.get_records(ShardIterator=client.get_shard_iterator(**start)["ShardIterator"])["Records"]
        return records


@contextmanager
def empty_stores(buffer: str = "sqs") -> Iterator[Stores]:
    """Stores that vanish afterwards."""
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
    quick_tables.install()
    with mock_aws():
        dynamodb, s3, sqs = boto3.client("dynamodb"), boto3.client("s3"), boto3.client("sqs")
        create_table(dynamodb, "events")
        create_table(dynamodb, "control")
        create_table(dynamodb, "rollups", INDEXES)
        s3.create_bucket(Bucket="data")
        url = sqs.create_queue(QueueName="events", Attributes=QUEUE)["QueueUrl"]
        yield Stores(
            events=EventsTable(dynamodb, "events", sleep=lambda _: None),
            rollups=RollupsTable(dynamodb, "rollups"),
            control=ControlTable(dynamodb, "control"),
            access=AccessTable(dynamodb, "control"),
            quotas=QuotaTable(dynamodb, "control"),
            ledger=LedgerTable(dynamodb, "rollups"),
            hours=HoursTable(dynamodb, "rollups"),
            users=UsersTable(dynamodb, "events"),
            erased=ErasedUsers(dynamodb, "control"),
            erasures=ErasuresTable(dynamodb, "control"),
            bucket=DataBucket(s3, "data"),
            buffer=EventQueue(sqs, url) if buffer == "sqs" else _event_stream(),
        )


class RefusingBuffer:
    """A buffer that is down."""

    by_user = False

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        return parcels


def _event_stream() -> EventStream:
    kinesis = boto3.client("kinesis")
    kinesis.create_stream(StreamName="events", ShardCount=2)
    return EventStream(kinesis, "events", sleep=lambda _: None)


def create_table(dynamodb: Any, name: str, indexes: Mapping[str, str] = MappingProxyType({})) -> None:
    """A table as the template has it; `indexes`: hash key, and what is projected."""
    attributes = {"pk": "S", "sk": "S"} | ({**dict.fromkeys(indexes, "S"), "written_at": "N"} if indexes else {})
    made = [
        {
            "IndexName": key,
            "KeySchema": [
                {"AttributeName": key, "KeyType": "HASH"},
                {"AttributeName": "written_at", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": projected},
        }
        for key, projected in indexes.items()
    ]
    dynamodb.create_table(
        TableName=name,
        KeySchema=KEYS,
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": t} for n, t in attributes.items()],
        BillingMode="PAY_PER_REQUEST",
        **({"GlobalSecondaryIndexes": made} if made else {}),
    )


def stream_record(chunk: Any, number: int, *, name: str = "INSERT", created: int | None = None) -> dict[str, Any]:
    """A record of the events table's stream as a trigger hands it over; `number` is its place in the shard.

    It was created when the chunk was received, unless another epoch second is named.
    """
    from base64 import b64encode

    image: dict[str, Any] = {
        "pk": {"S": chunk.partition_key},
        "sk": {"S": chunk.sort_key},
        "project": {"S": chunk.project},
        "events": {"N": str(chunk.count)},
        "received_at": {"N": str(chunk.received_ms)},
        "body": {"B": b64encode(chunk.body).decode()},
    }
    if chunk.receipt:
        image["receipt"] = {"S": str(chunk.receipt)}
    if chunk.position is not None:
        image["position"] = {"N": str(chunk.position)}
    if chunk.user:
        image["user"] = {"S": chunk.user}
    return {
        "eventID": f"r{number:06d}",
        "eventName": name,
        "dynamodb": {
            "SequenceNumber": str(100_000 + number),
            "ApproximateCreationDateTime": chunk.received_ms // 1000 if created is None else created,
            "NewImage": image,
            "Keys": {},
        },
    }
