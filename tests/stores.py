"""Real storage classes on services in memory, for the tests of the stages.

The services are the simulation's, which `tests/simulation/contract` holds to moto and to the local cloud: a tenth of
moto's time, transactions that are atomic, and AWS's limits.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from threading import RLock
from types import MappingProxyType
from typing import Any

from chalicelib import stores
from chalicelib.events.chunks import Parcel
from chalicelib.events.events_table import EventsTable
from chalicelib.events.flags_table import FlagsTable
from chalicelib.ingest.event_stream import EventStream
from chalicelib.ingest.queue import EventQueue
from chalicelib.settings import Settings
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
SETTINGS = Settings(
    stage="test",
    events_table="events",
    rollups_table="rollups",
    control_table="control",
    buffer="sqs",
    buffer_stream="events",
    bus_project="",
    events_queue_url="",
    data_bucket="data",
    results_bucket="results",
    alerts_topic_arn="alerts",
    event_bus="bus",
    hourly_workflow_arn="hourly",
    import_workflow_arn="import",
    athena_database="lake",
    athena_workgroup="lake",
    websocket_url="wss://live",
    websocket_management_url="",
)
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


class Stores(stores.Stores):
    """Every store, empty; none waits before it tries again."""

    def __init__(self, settings: Settings, client: Callable[..., Any], calls: Calls) -> None:
        super().__init__(settings, client)
        self.calls = calls

    def but(self, **members: object) -> "Stores":
        """The same, but for some members and for what is made of them."""
        found = Stores(self.settings, self.client, self.calls)
        found.__dict__ |= {
            name: made for name, made in vars(self).items() if name not in ("history", "folders", "lake")
        }
        found.__dict__ |= members
        return found

    @cached_property
    def events(self) -> EventsTable:
        """Each event for 30 days, by user."""
        return EventsTable(self.client("dynamodb"), self.settings.events_table, sleep=lambda _: None)

    @cached_property
    def buffer(self) -> EventQueue | EventStream:
        """What `collect` puts messages in."""
        found = super().buffer
        return replace(found, sleep=lambda _: None) if isinstance(found, EventStream) else found

    @property
    def flags(self) -> FlagsTable:
        """Of users that are ahead, as a new container knows them."""
        return FlagsTable(self.client("dynamodb"), self.settings.events_table)

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
def empty_stores(buffer: str = "sqs", clock: Callable[[], float] = time.time) -> Iterator[Stores]:
    """Stores that vanish afterwards; objects are stamped by the clock, in Unix seconds."""
    tables = DynamoDB(time.time, quirks=ReadsOfNow())
    objects, queues, streams = S3(clock), SQS(time.time), Kinesis(time.time)
    for name in TABLES:
        tables.tables[name] = Table(name, rollup_indexes() if name == "rollups" else {})
    objects.buckets["data"] = Bucket()
    queues.queues["events"] = Queue(VISIBILITY_SECONDS)
    streams.create_stream("events", 2)
    calls = Calls()
    clients: dict[str, Any] = {each.name: Client(each, calls) for each in (tables, objects, queues, streams)}
    url = clients["sqs"].get_queue_url(QueueName="events")["QueueUrl"]
    yield Stores(replace(SETTINGS, buffer=buffer, events_queue_url=url), clients.__getitem__, calls)


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
