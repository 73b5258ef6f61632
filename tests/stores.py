"""Real storage classes on services in memory, for the tests of the stages.

The services are the simulation's, which `tests/simulation/contract` holds to moto and to the local cloud: a tenth of
moto's time, transactions that are atomic, and AWS's limits.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from types import MappingProxyType
from typing import Any

from chalicelib.domain.chunks import Parcel
from chalicelib.storage.access_table import AccessTable
from chalicelib.storage.closed_table import ClosedTable
from chalicelib.storage.connections_table import ConnectionsTable
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
from tests.simulation.ports.client import Answer, Client, Effect
from tests.simulation.ports.dynamodb import DynamoDB
from tests.simulation.ports.kinesis import Kinesis
from tests.simulation.ports.quirks import Quirks
from tests.simulation.ports.s3 import S3, Bucket
from tests.simulation.ports.sqs import SQS, Queue
from tests.simulation.ports.tables import Index, Table

KEYS = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
TABLES = ("events", "control", "rollups")
# What was received does not come again by itself, however slow the machine.
VISIBILITY_SECONDS = 43_200.0
INDEXES = {"open": "ALL", "receipts": "KEYS_ONLY"}  # of the rollups table: hash key, and what is projected


class Calls:
    """Each call takes effect as a whole, whichever thread makes it; `listeners` are told of it before."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []
        self._one_at_a_time = RLock()

    def __call__(self, _service: str, operation: str, arguments: dict[str, Any], effect: Effect) -> Answer:
        for told in self.listeners:
            told(operation, arguments)
        with self._one_at_a_time:
            return effect(**arguments)


@dataclass(frozen=True)
class Stores:
    """Every store, empty."""

    events: EventsTable
    rollups: RollupsTable
    connections: ConnectionsTable
    access: AccessTable
    quotas: QuotaTable
    ledger: LedgerTable
    hours: HoursTable
    users: UsersTable
    erased: ErasedUsers
    erasures: ErasuresTable
    bucket: DataBucket
    buffer: EventQueue | EventStream
    calls: Calls

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
        items: list[dict[str, Any]] = self.events.client.scan(TableName=table, ConsistentRead=True)["Items"]
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


class ReadsOfNow(Quirks):
    """Tables are read with ConsistentRead: what depends on a read must not depend on what was there before."""

    def late_read(self) -> None:
        raise AssertionError("a table is read without ConsistentRead")


@contextmanager
def empty_stores(buffer: str = "sqs") -> Iterator[Stores]:
    """Stores that vanish afterwards."""
    tables = DynamoDB(time.time, quirks=ReadsOfNow())
    objects, queues, streams = S3(time.time), SQS(time.time), Kinesis(time.time)
    for name in TABLES:
        tables.tables[name] = Table(name, rollup_indexes() if name == "rollups" else {})
    objects.buckets["data"] = Bucket()
    queues.queues["events"] = Queue(VISIBILITY_SECONDS)
    streams.create_stream("events", 2)
    calls = Calls()
    dynamodb, sqs = Client(tables, calls), Client(queues, calls)
    yield Stores(
        events=EventsTable(dynamodb, "events", sleep=lambda _: None),
        rollups=RollupsTable(dynamodb, "rollups"),
        connections=ConnectionsTable(dynamodb, "control"),
        access=AccessTable(dynamodb, "control"),
        quotas=QuotaTable(dynamodb, "control"),
        ledger=LedgerTable(dynamodb, "rollups"),
        hours=HoursTable(dynamodb, "rollups"),
        users=UsersTable(dynamodb, "events"),
        erased=ErasedUsers(dynamodb, "control"),
        erasures=ErasuresTable(dynamodb, "control"),
        bucket=DataBucket(Client(objects, calls), "data"),
        buffer=EventQueue(sqs, sqs.get_queue_url(QueueName="events")["QueueUrl"])
        if buffer == "sqs"
        else EventStream(Client(streams, calls), "events", sleep=lambda _: None),
        calls=calls,
    )


def rollup_indexes() -> dict[str, Index]:
    """The indexes of the rollups table, empty."""
    return {key: Index(key, "written_at", kind == "ALL") for key, kind in INDEXES.items()}


class RefusingBuffer:
    """A buffer that is down."""

    by_user = False

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        return parcels


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

    It was created when the chunk was received, unless another Unix second is named.
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
