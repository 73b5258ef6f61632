"""Small named grants, of which infra/functions.py composes what each function may do.

A grant is one statement of an IAM policy; what no grant allows is denied. Chalice adds nothing to a policy file, so
reading the source of a trigger is a grant too. `{stage}` in a resource stands for the name of the stage.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from infra.names import dead_letters

Statement = dict[str, Any]

PARTITION = "aws"  # aws-cn in China, aws-us-gov in GovCloud: IAM substitutes nothing here
ACCOUNT = "${aws:PrincipalAccount}"  # IAM substitutes it in the resource part of an ARN only
EVENTS, ROLLUPS, CONTROL = "events", "rollups", "control"  # the tables
DATA = f"arn:{PARTITION}:s3:::tidemark-{{stage}}-data-{ACCOUNT}"
RESULTS = f"arn:{PARTITION}:s3:::tidemark-{{stage}}-results-{ACCOUNT}"
BUFFER_NAME = "tidemark-{stage}-events"  # of the queue and of the Kinesis stream


@dataclass(frozen=True, slots=True)
class Grant:
    """One statement that allows `actions` on `resources`.

    `keys`: only items whose partition keys match one of these patterns. `prefix`: only listings of keys that begin so.
    `buffer`: only in stages whose buffer is this one.
    """

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    keys: tuple[str, ...] = ()
    prefix: str = ""
    buffer: str = ""

    def statement(self, stage: str) -> Statement:
        """Return the statement in a policy of this stage."""
        made: Statement = {
            "Effect": "Allow",
            "Action": sorted(self.actions),
            "Resource": [resource.replace("{stage}", stage) for resource in self.resources],
        }
        if self.keys:
            made["Condition"] = {
                "ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(self.keys)},
                "Null": {"dynamodb:LeadingKeys": "false"},  # `ForAllValues` is true of a request without keys
            }
        if self.prefix:
            made["Condition"] = {"StringLike": {"s3:prefix": [f"{self.prefix}*"]}}
        return made


# What a grant is made of


def arn(service: str, resource: str) -> str:
    """Return the ARN of a resource in the function's own region and account."""
    return f"arn:{PARTITION}:{service}:*:*:{resource}"


def table_arn(table: str) -> str:
    """Return the ARN of one of the three tables."""
    return arn("dynamodb", f"table/tidemark-{{stage}}-{table}")


def items(table: str, *operations: str, keys: Iterable[str] = (), indexes: Iterable[str] = ()) -> Grant:
    """Allow DynamoDB's operations on a table and these of its indexes."""
    resources = (table_arn(table), *(f"{table_arn(table)}/index/{index}" for index in indexes))
    return Grant(tuple(f"dynamodb:{operation}" for operation in operations), resources, keys=tuple(keys))


def control(kinds: str, *operations: str) -> Grant:
    """Allow operations on items of the control table whose partition key begins with one of the kinds, as `key#…`."""
    return items(CONTROL, *operations, keys=(f"{kind}#*" for kind in kinds.split()))


def objects(paths: str, *operations: str) -> Grant:
    """Allow S3's operations on objects of the data bucket at these paths."""
    return Grant(tuple(f"s3:{each}" for each in operations), tuple(f"{DATA}/{path}" for path in paths.split()))


def lists(prefix: str, bucket: str = DATA) -> Grant:
    """Allow listing what is below the prefix; without it S3 answers 403 in place of 404 for an object that is gone."""
    return Grant(("s3:ListBucket",), (bucket,), prefix=prefix)


# Triggers


def reads_stream(table: str) -> tuple[Grant, ...]:
    """Allow Lambda to read a table's stream for the function."""
    reading = ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator")
    return Grant(reading, (f"{table_arn(table)}/stream/*",)), Grant(("dynamodb:ListStreams",), ("*",))


def reads_buffer() -> tuple[Grant, ...]:
    """Allow reading either buffer, so that what is left in one is read after a stage has changed to the other."""
    reading = ("DescribeStream", "DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards")
    return (
        Grant(("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"), (arn("sqs", BUFFER_NAME),)),
        Grant(tuple(f"kinesis:{each}" for each in reading), (arn("kinesis", f"stream/{BUFFER_NAME}"),)),
        Grant(("kinesis:ListStreams",), ("*",)),
    )


def keeps_failed_events() -> Grant:
    """Allow Lambda to put an event that the function failed with three times on the dead letters: infra/triggers.py."""
    return Grant(("sqs:SendMessage",), (arn("sqs", dead_letters("{stage}")),))


# The way of an event


def sends_to_buffer() -> tuple[Grant, ...]:
    """Allow writing to the stage's buffer, and not to the other one."""
    return (
        Grant(("sqs:SendMessage",), (arn("sqs", BUFFER_NAME),), buffer="sqs"),
        Grant(("kinesis:PutRecords",), (arn("kinesis", f"stream/{BUFFER_NAME}"),), buffer="kinesis"),
    )


def collects() -> tuple[Grant, ...]:
    """Allow taking events in: into the buffer, or into quarantine or the spill."""
    return (
        knows_erased_users(),
        items(EVENTS, "PutItem", "Query", keys=["?ahead#*"]),
        writes_receipts(),
        *sends_to_buffer(),
        objects("quarantine/project=* spill/*", "PutObject"),
    )


def reinjects() -> tuple[Grant, ...]:
    """Allow bringing spilled messages back to the buffer."""
    return objects("spill/*", "DeleteObject", "GetObject"), lists("spill/"), *sends_to_buffer()


def knows_erased_users() -> Grant:
    """Allow asking which users are erased."""
    return control("erased", "Query")


def writes_receipts() -> Grant:
    """Allow entries of the ledger that an invocation makes anew."""
    return items(ROLLUPS, "PutItem", keys=["*#ledger"])


def keeps_unreadable() -> Grant:
    """Allow keeping messages and records that cannot be read."""
    return objects("quarantine/unreadable/*", "PutObject")


# Numbers


def reads_rollups() -> Grant:
    """Allow reading rollups, and the index of what is open."""
    return items(ROLLUPS, "Query", indexes=["open"])


def reads_history() -> tuple[Grant, ...]:
    """Allow reading the numbers of any range of hours."""
    return reads_rollups(), items(ROLLUPS, "BatchGetItem")


def reads_open_index(operation: str) -> Grant:
    """Allow reading the index of what is open, and not the table."""
    return Grant((f"dynamodb:{operation}",), (f"{table_arn(ROLLUPS)}/index/open",))


# The life of an hour


def marks_hours(*operations: str) -> Grant:
    """Allow operations on the items that tell what is left to do of an hour of the lake."""
    return items(ROLLUPS, *operations, keys=["*#hours"])


def consolidates() -> tuple[Grant, ...]:
    """Allow making one file of an hour of the lake."""
    return (
        knows_erased_users(),
        marks_hours("GetItem", "UpdateItem"),
        objects("lake/*", "AbortMultipartUpload", "GetObject", "PutObject"),
        objects("manifests/* records/*", "GetObject", "PutObject"),
        lists("lake/"),
        lists("manifests/"),
        lists("records/"),
    )


def clears_hours() -> tuple[Grant, ...]:
    """Allow deleting what an hour that is closed no longer needs."""
    return (
        objects("lake/* manifests/* records/* sessions/*", "DeleteObject"),
        items(ROLLUPS, "DeleteItem", "Query", keys=["*#merged"]),
        lists("sessions/"),
    )


def closes() -> tuple[Grant, ...]:
    """Allow closing an hour: consolidating it, comparing live and lake, writing its numbers and its sessions."""
    return (
        *consolidates(),
        items(ROLLUPS, "BatchGetItem", "DeleteItem", "GetItem", "PutItem"),
        items(ROLLUPS, "Query"),
        items(EVENTS, "Scan"),
        objects("sessions/*", "GetObject", "PutObject"),
        lists("sessions/"),
    )


# Who is told


def pushes(*methods: str) -> Grant:
    """Allow API Gateway's methods on connections of dashboards: POST sends a frame, DELETE ends the connection."""
    connections = (arn("execute-api", f"*/{{stage}}/{method}/@connections/*") for method in methods)
    return Grant(("execute-api:ManageConnections",), tuple(connections))


def ends_connections() -> Grant:
    """Allow removing what is kept of a connection."""
    return control("connection sockets", "DeleteItem")


def notifies() -> tuple[Grant, ...]:
    """Allow publishing notices: to the alerts topic and on the stage's event bus."""
    return (
        Grant(("sns:Publish",), (arn("sns", "tidemark-{stage}-alerts"),)),
        Grant(("events:PutEvents",), (arn("events", "event-bus/tidemark-{stage}"),)),
    )


def starts(workflow: str) -> Grant:
    """Allow starting a workflow."""
    return Grant(("states:StartExecution",), (arn("states", f"stateMachine:tidemark-{{stage}}-{workflow}"),))


# Imports


def reads_raw() -> tuple[Grant, ...]:
    """Allow reading files of history and their mappings."""
    return objects("raw/*", "GetObject"), lists("raw/")


def reads_staged(*more: str) -> tuple[Grant, ...]:
    """Allow reading, and these other operations on, what an import's tasks hand on to each other."""
    return objects("imports/*", "GetObject", *more), lists("imports/")


def notes_progress() -> Grant:
    """Allow changing the item of an import that has begun."""
    return control("imports", "UpdateItem")


# REST


def answers_requests() -> tuple[Grant, ...]:
    """Allow reading numbers, and reading and keeping what routes manage, such as saved queries and annotations."""
    return (
        control("key project query", "GetItem"),
        control("asked query ticket", "PutItem"),
        control("queries", "DeleteItem", "GetItem", "PutItem", "Query"),
        control("quota", "UpdateItem"),
        control("annotation annotations", "PutItem"),
        control("annotations anomalies imports", "Query"),
        items(CONTROL, "DeleteItem", "PutItem", "Query", keys=["alerts"]),
        items(CONTROL, "GetItem", "PutItem", keys=["erasures"]),
        control("erasures", "GetItem", "PutItem", "Query"),
        items(EVENTS, "GetItem", "Query"),
        *reads_history(),
    )


def replays() -> tuple[Grant, ...]:
    """Allow reading and removing projects' rejected events."""
    return objects("quarantine/project=*", "DeleteObject", "GetObject"), lists("quarantine/project=")


def queries_lake() -> tuple[Grant, ...]:
    """Allow SQL of Athena, and what Athena does in the caller's name."""
    asking = ("GetQueryExecution", "GetQueryResults", "StartQueryExecution", "StopQueryExecution")
    results = ("s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject")
    catalogue = (
        "catalog",
        "database/default",  # which Athena looks up for every query
        "database/tidemark_{stage}",
        "table/tidemark_{stage}/events",
    )
    return (
        Grant(tuple(f"athena:{each}" for each in asking), (arn("athena", "workgroup/tidemark-{stage}"),)),
        Grant(("glue:GetDatabase", "glue:GetTable"), tuple(arn("glue", each) for each in catalogue)),
        objects("lake/*", "GetObject"),
        Grant(("s3:GetBucketLocation",), (DATA, RESULTS)),
        lists("lake/"),
        Grant(("s3:ListBucket",), (RESULTS,)),  # of any prefix: what Athena lists there is not documented
        Grant(results, (f"{RESULTS}/athena/*",)),
    )


# Erasure


def follows_erasures() -> tuple[Grant, ...]:
    """Allow taking up requests for erasure, and marking users as erased."""
    return (
        items(CONTROL, "DeleteItem", "Query", keys=["erasures"]),
        control("erasures", "GetItem", "UpdateItem"),
        control("erased", "PutItem"),
        control("project query", "GetItem"),
        control("asked imports", "Query"),
        control("asked query", "DeleteItem"),
    )


def erases_everywhere() -> tuple[Grant, ...]:
    """Allow removing users' events from the hot store, the lake, quarantine, the spill, imports and query results."""
    return (
        items(EVENTS, "BatchWriteItem", "DeleteItem", "GetItem", "Query"),
        *closes(),
        *clears_hours(),
        objects("quarantine/*", "DeleteObject", "GetObject", "PutObject"),
        lists("quarantine/"),
        *reinjects(),
        objects("raw/*", "DeleteObject", "GetObject"),
        lists("raw/"),
        Grant(("s3:DeleteObject",), (f"{DATA}/imports/*", f"{RESULTS}/athena/*")),
        lists("imports/"),
        lists("athena/", bucket=RESULTS),
    )
