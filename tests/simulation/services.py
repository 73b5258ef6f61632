"""All services of a history, as the stage's template wants them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation import resources
from tests.simulation.ports.athena import Athena
from tests.simulation.ports.client import Client, Link, Service
from tests.simulation.ports.dynamodb import DynamoDB
from tests.simulation.ports.kinesis import Kinesis
from tests.simulation.ports.notices import SNS, EventBridge
from tests.simulation.ports.quirks import Quirks
from tests.simulation.ports.s3 import S3, Bucket
from tests.simulation.ports.sockets import Connections
from tests.simulation.ports.sqs import SQS, Queue
from tests.simulation.ports.stepfunctions import StepFunctions
from tests.simulation.ports.table_stream import TableStream
from tests.simulation.ports.tables import Index, Table

KINESIS_SHARDS = 2


@dataclass
class Services:
    """Every service, and the clients that handlers get."""

    clock: Callable[[], float]
    link: Link
    quirks: Quirks
    shards: int = 1  # of a table's stream
    clients: dict[str, Client] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dynamodb = DynamoDB(self.clock, quirks=self.quirks)
        self.s3 = S3(self.clock, quirks=self.quirks)
        self.sqs = SQS(self.clock, quirks=self.quirks)
        self.kinesis = Kinesis(self.clock, quirks=self.quirks)
        self.sockets = Connections()
        self.workflows = StepFunctions()
        self.sns, self.bus = SNS(), EventBridge(quirks=self.quirks)
        self.athena = Athena(self.s3)
        every: list[Service] = [self.dynamodb, self.s3, self.sqs, self.kinesis, self.sockets, self.workflows]
        for service in [*every, self.sns, self.bus, self.athena]:
            self.clients[service.name] = Client(service, self.link)
        self._make()

    def client(self, service: str) -> Client:
        """In place of boto3.client."""
        return self.clients[service]

    def stream(self, arn: str) -> TableStream:
        """A table's stream by its ARN."""
        for table in self.dynamodb.tables.values():
            if table.stream is not None and table.stream.arn == arn:
                return table.stream
        raise KeyError(arn)

    def _make(self) -> None:
        for table in resources.of_type("AWS::DynamoDB::Table").values():
            name = resources.name_of(table["TableName"])
            stream = (
                TableStream(resources.STREAM_ARN.format(name), self.shards) if "StreamSpecification" in table else None
            )
            indexes = {each["IndexName"]: _index(each) for each in table.get("GlobalSecondaryIndexes", ())}
            self.dynamodb.tables[name] = Table(name, indexes, stream, self.quirks)
        named = resources.of_type("AWS::SQS::Queue")
        for queue in named.values():
            redrive = queue.get("RedrivePolicy")
            dead = named[redrive["deadLetterTargetArn"].partition(".")[0]] if redrive else None
            self.sqs.queues[resources.name_of(queue["QueueName"])] = Queue(
                visibility_seconds=_seconds(queue.get("VisibilityTimeout", resources.DEFAULT_VISIBILITY_SECONDS)),
                retention_seconds=_seconds(queue["MessageRetentionPeriod"]),
                dead_letters=resources.name_of(dead["QueueName"]) if dead else "",
                max_receives=redrive["maxReceiveCount"] if redrive else 0,
            )
        for bucket in (resources.DATA_BUCKET, resources.RESULTS_BUCKET):
            self.s3.buckets[bucket] = Bucket()
        self.kinesis.create_stream(f"tidemark-{resources.STAGE}-events", KINESIS_SHARDS)


def _index(described: dict[str, Any]) -> Index:
    names = {key["KeyType"]: key["AttributeName"] for key in described["KeySchema"]}
    return Index(names["HASH"], names["RANGE"], described["Projection"]["ProjectionType"] == "ALL")


def _seconds(described: Any) -> float:
    """Of an `!If [IsLaptop, …, …]` the second, which is production's."""
    return float(described[2] if isinstance(described, list) else described)
