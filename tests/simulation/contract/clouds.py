"""The three clouds that a case runs on, and how each makes what the case needs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.simulation.ports.client import Client
from tests.simulation.ports.dynamodb import DynamoDB
from tests.simulation.ports.kinesis import Kinesis
from tests.simulation.ports.s3 import S3, Bucket
from tests.simulation.ports.sqs import SQS, URL, Queue
from tests.simulation.ports.table_stream import Shard, TableStream
from tests.simulation.ports.tables import Index, Table
from tests.stores import KEYS

_numbers = count()
INDEX = "open"  # of every table: items with `open`, a text, and `written_at`, a number


@dataclass
class Cloud:
    """Clients, and what is made for one case."""

    name: str
    client: Callable[[str], Any]
    made: list[str] = field(default_factory=list)

    @property
    def dynamodb(self) -> Any:
        """A client of DynamoDB."""
        return self.client("dynamodb")

    @property
    def s3(self) -> Any:
        """A client of S3."""
        return self.client("s3")

    @property
    def sqs(self) -> Any:
        """A client of SQS."""
        return self.client("sqs")

    def new_name(self) -> str:
        """A name that nothing has."""
        return f"contract-{self.name}-{next(_numbers)}"

    def table(self) -> str:
        """A table with an index and a stream; its name."""
        name = self.new_name()
        self.dynamodb.create_table(
            TableName=name,
            KeySchema=KEYS,
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": kind}
                for name, kind in {"pk": "S", "sk": "S", "open": "S", "written_at": "N"}.items()
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": INDEX,
                    "KeySchema": [
                        {"AttributeName": "open", "KeyType": "HASH"},
                        {"AttributeName": "written_at", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
        )
        return name

    def changes(self, table: str) -> list[tuple[str, str, Any]]:
        """(event, sort key, image) of each record of a table's stream."""
        streams = self.client("dynamodbstreams")
        arn = self.dynamodb.describe_table(TableName=table)["Table"]["LatestStreamArn"]
        found = []
        for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
            iterator = streams.get_shard_iterator(
                StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            for record in streams.get_records(ShardIterator=iterator)["Records"]:
                change = record["dynamodb"]
                found.append((record["eventName"], change["Keys"]["sk"]["S"], change.get("NewImage")))
        return found

    def bucket(self) -> str:
        """An empty bucket."""
        name = self.new_name()
        self.s3.create_bucket(Bucket=name)
        return name

    def queue(self, visibility_seconds: int = 30, max_receives: int = 0) -> str:
        """A queue's URL; with `max_receives` it has another for dead letters, of its name and `-dead`."""
        name, attributes = self.new_name(), {"VisibilityTimeout": str(visibility_seconds)}
        attributes["MaximumMessageSize"] = "1048576"
        if max_receives:
            dead = self.sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
            arn = self.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            attributes["RedrivePolicy"] = f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": {max_receives}}}'
        return str(self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def stream(self, shards: int) -> str:
        """A Kinesis stream."""
        name = self.new_name()
        self.client("kinesis").create_stream(StreamName=name, ShardCount=shards)
        return name


class MemoryCloud(Cloud):
    """The ports of the simulation."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

        def clock() -> float:
            return self.now

        self.tables, self.objects = DynamoDB(clock), S3(clock)
        self.queues, self.streams = SQS(clock), Kinesis(clock)
        services = {each.name: each for each in (self.tables, self.objects, self.queues, self.streams)}
        super().__init__("memory", lambda service: Client(services[service]))

    def table(self) -> str:
        name = self.new_name()
        index = Index("open", "written_at", whole=True)
        self.tables.tables[name] = Table(name, {INDEX: index}, TableStream(f"arn:{name}"))
        return name

    def changes(self, table: str) -> list[tuple[str, str, Any]]:
        stream = self.tables.tables[table].stream
        assert stream is not None
        return [(r.event, r.keys["sk"]["S"], r.image) for shard in stream.shards for r in shard.records]

    def shards(self, table: str) -> list[Shard]:
        """Of the table's stream."""
        stream = self.tables.tables[table].stream
        assert stream is not None
        return stream.shards

    def bucket(self) -> str:
        name = self.new_name()
        self.objects.buckets[name] = Bucket()
        return name

    def queue(self, visibility_seconds: int = 30, max_receives: int = 0) -> str:
        name = self.new_name()
        self.queues.queues[f"{name}-dead"] = Queue()
        dead = f"{name}-dead" if max_receives else ""
        self.queues.queues[name] = Queue(visibility_seconds, dead_letters=dead, max_receives=max_receives)
        return URL + name


def cases(names: Iterable[str], **gaps: dict[str, str]) -> list[Any]:
    """The cases as parameters; `gaps` says by cloud and case why it does not hold there."""
    marks = {name: {cloud: found[name] for cloud, found in gaps.items() if name in found} for name in names}
    return [pytest.param(name, marks=pytest.mark.gap(**found) if found else ()) for name, found in marks.items()]


def refused(call: Callable[..., Any], **arguments: Any) -> str:
    """The code of the error that a call ends in."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def reasons(call: Callable[..., Any], **arguments: Any) -> list[str]:
    """Why each write of a transaction could not be made."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == "TransactionCanceledException"
    return [reason["Code"] for reason in caught.value.response["CancellationReasons"]]
