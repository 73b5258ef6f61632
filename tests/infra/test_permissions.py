"""Each function run through its handler: every call it makes is one its policy allows, and no permission is idle."""

import json
import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from threading import RLock
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from chalice.test import Client

import app as handlers
from chalicelib import wiring
from chalicelib.access.access import ApiKey, Project, Scope
from chalicelib.access.access_table import AccessTable, digest_of
from chalicelib.access.quotas import Limits
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.dynamo import typed
from chalicelib.base.object_keys import hour_folder, quarantine_key, spill_key, tail_name, unreadable_key
from chalicelib.base.time_windows import HOUR_MS, hour_of, parse_ms
from chalicelib.events.chunks import Message, Parcel, chunks_of, encode_message, to_spill
from chalicelib.events.enrichment import NOBODY
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.events.events import Mode, StoredEvent
from chalicelib.events.pins import UNSURE
from chalicelib.hours.compact import MIN_FOLD
from chalicelib.hours.new_days import NewDays
from chalicelib.imports.imports import Import
from chalicelib.lake.lake import Row, encode, table_of
from chalicelib.lake.manifests import Manifest
from chalicelib.lake.record_sets import RecordSets, records_of
from chalicelib.live.connection import Connection
from chalicelib.notices.notices import Anomaly, Subject
from chalicelib.quarantine.files import QuarantineFile, Record
from chalicelib.rollups.deltas import Merged
from chalicelib.rollups.ledger import Receipt
from chalicelib.rollups.rollups import Rollups
from chalicelib.rollups.rollups_table import _merged_item
from chalicelib.rollups.signatures import Signature
from chalicelib.settings import BUFFERS
from chalicelib.sql.queries_table import Asked
from infra.policies import documents
from tests.simulation.ports import client as ports
from tests.simulation.ports.client import Answer, Effect, Service
from tests.simulation.ports.dynamodb import DynamoDB
from tests.simulation.ports.kinesis import Kinesis
from tests.simulation.ports.notices import SNS, EventBridge
from tests.simulation.ports.s3 import S3, Bucket
from tests.simulation.ports.sockets import Connections
from tests.simulation.ports.sqs import SQS, URL, Queue
from tests.simulation.ports.stepfunctions import StepFunctions
from tests.simulation.ports.tables import Table
from tests.stores import TABLES, VISIBILITY_SECONDS, rollup_indexes, stream_record

REGION, ACCOUNT = "us-east-1", "123456789012"
HOUR = "2026-11-21T09"
THE_HOUR = {"hours": [{"project": "shop", "hour": HOUR}], "failed": 0}
SOCKETS = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:abc/prod"
# Lambda's or Athena's calls in the function's name: no code of ours makes them.
NOT_OURS = {
    "dynamodb:DescribeStream",
    "dynamodb:GetRecords",
    "dynamodb:GetShardIterator",
    "dynamodb:ListStreams",
    "glue:GetDatabase",
    "glue:GetTable",
    "kinesis:DescribeStream",
    "kinesis:DescribeStreamSummary",
    "kinesis:GetRecords",
    "kinesis:GetShardIterator",
    "kinesis:ListShards",
    "kinesis:ListStreams",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "s3:AbortMultipartUpload",
    "s3:GetBucketLocation",
    "s3:ListMultipartUploadParts",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
}

UNREACHABLE = EndpointConnectionError(endpoint_url="nowhere")
GONE = ClientError({"Error": {"Code": "GoneException"}}, "PostToConnection")


class Call(NamedTuple):
    """What IAM is asked. `key`: what a condition looks at, the item's partition key or the listing's prefix."""

    action: str
    resource: str
    key: str | None = None


class Recorder:
    """The calls of every client, as IAM names them. `broken`: what raises, by a pattern of action and resource."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.broken: dict[str, Exception] = {}
        self.listening = False
        self._one_at_a_time = RLock()

    def __call__(self, service: str, operation: str, arguments: dict[str, Any], effect: Effect) -> Answer:
        """Note a call, and carry it out."""
        with self._one_at_a_time:
            if self.listening:
                for call in actions(service, "".join(map(str.title, operation.split("_"))), arguments):
                    self.calls.append(call)
                    for pattern, error in self.broken.items():
                        if fnmatchcase(f"{call.action} {call.resource}", pattern):
                            raise error
            return effect(**arguments)

    @contextmanager
    def function(self, **broken: Exception) -> Iterator[None]:
        """The time that the function runs; what is arranged before is not its own."""
        self.broken = broken
        self.listening = True
        yield
        self.listening = False


@dataclass
class Athena(Service):
    """Finds no rows, whatever it is asked."""

    asked: dict[str, str] = field(default_factory=dict)
    name: str = "athena"

    def start_query_execution(self, QueryString: str, **_: Any) -> Answer:
        query_id = f"q{len(self.asked)}"
        self.asked[query_id] = QueryString
        return {"QueryExecutionId": query_id}

    def get_query_execution(self, QueryExecutionId: str) -> Answer:
        location = {"OutputLocation": f"s3://tidemark-prod-results-{ACCOUNT}/athena/{QueryExecutionId}.csv"}
        status, query = {"State": "SUCCEEDED"}, self.asked[QueryExecutionId]
        return {"QueryExecution": {"Status": status, "Query": query, "ResultConfiguration": location}}

    def get_query_results(self, QueryExecutionId: str, MaxResults: int) -> Answer:
        return {"ResultSet": {"Rows": [], "ResultSetMetadata": {"ColumnInfo": []}}}

    def stop_query_execution(self, QueryExecutionId: str) -> Answer:
        return {}


def actions(service: str, operation: str, parameters: dict[str, Any]) -> Iterator[Call]:
    """What IAM is asked for a call."""
    table = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/"
    match service, operation:
        case "dynamodb", "TransactWriteItems":
            for item in parameters["TransactItems"]:
                (kind, write), *_ = item.items()
                key = (write.get("Key") or write["Item"])["pk"]["S"]
                yield Call(f"dynamodb:{kind}Item", table + write["TableName"], key)
        case "dynamodb", "BatchGetItem" | "BatchWriteItem":
            for name in parameters["RequestItems"]:
                yield Call(f"dynamodb:{operation}", table + name)
        case "dynamodb", _:
            index = f"/index/{parameters['IndexName']}" if "IndexName" in parameters else ""
            item = parameters.get("Key") or parameters.get("Item") or {}
            key = item.get("pk") or parameters.get("ExpressionAttributeValues", {}).get(":pk", {})
            yield Call(f"dynamodb:{operation}", table + parameters["TableName"] + index, key.get("S"))
        case "s3", "GetObject":  # of an object that is gone S3 says so to whom may list its key, and to nobody else
            yield Call("s3:GetObject", f"arn:aws:s3:::{parameters['Bucket']}/{parameters['Key']}")
            yield Call("s3:ListBucket", f"arn:aws:s3:::{parameters['Bucket']}", parameters["Key"])
        case "s3", "HeadObject":
            yield from actions(service, "GetObject", parameters)
        case "s3", "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload":
            yield from actions(service, "PutObject", parameters)
        case "s3", "ListObjectsV2":
            yield Call("s3:ListBucket", f"arn:aws:s3:::{parameters['Bucket']}", parameters["Prefix"])
        case "s3", _:
            yield Call(f"s3:{operation}", f"arn:aws:s3:::{parameters['Bucket']}/{parameters['Key']}")
        case "sqs", _:
            queue = parameters["QueueUrl"].rpartition("/")[2]
            yield Call(f"sqs:{operation}", f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}")
        case "kinesis", _:
            stream = parameters["StreamName"]
            yield Call(f"kinesis:{operation}", f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{stream}")
        case "stepfunctions", "StartExecution":
            yield Call("states:StartExecution", parameters["stateMachineArn"])
        case "sns", "Publish":
            yield Call("sns:Publish", parameters["TopicArn"])
        case "events", "PutEvents":
            for entry in parameters["Entries"]:
                yield Call("events:PutEvents", f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{entry['EventBusName']}")
        case "athena", _:
            yield Call(f"athena:{operation}", f"arn:aws:athena:{REGION}:{ACCOUNT}:workgroup/tidemark-prod")
        case "apigatewaymanagementapi", _:
            method = {"PostToConnection": "POST", "DeleteConnection": "DELETE"}[operation]
            yield Call("execute-api:ManageConnections", f"{SOCKETS}/{method}/@connections/{parameters['ConnectionId']}")
        case _:
            raise AssertionError(f"{service}:{operation} has no entry here")


def allows(document: dict[str, Any], call: Call) -> bool:
    """Whether an allow-only policy allows the call."""
    return any(
        call.action in statement["Action"]
        and any(
            fnmatchcase(call.resource, r.replace("${aws:PrincipalAccount}", ACCOUNT)) for r in statement["Resource"]
        )
        and any(reaches(pattern, call) for pattern in key_patterns(statement))
        for statement in document["Statement"]
    )


def key_patterns(statement: dict[str, Any]) -> list[str | None]:
    """The keys that a statement is limited to; [None] of one that has no limit."""
    match statement.get("Condition"):
        case None:
            return [None]
        case {
            "ForAllValues:StringLike": {"dynamodb:LeadingKeys": [*patterns]},
            "Null": {"dynamodb:LeadingKeys": "false"},
        }:
            return patterns
        case {"StringLike": {"s3:prefix": [*patterns]}}:
            return patterns
        case unknown:
            raise AssertionError(f"{unknown} has no entry here")


def reaches(pattern: str | None, call: Call) -> bool:
    """Whether the call's key is one of the pattern's."""
    return pattern is None or (call.key is not None and fnmatchcase(call.key, pattern))


@pytest.fixture
def buffer() -> str:
    """What the stage has between the edge and the pipeline; tests of both name it themselves."""
    return BUFFERS[0]


@pytest.fixture
def recorder(buffer: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Production's services in memory, empty but for a key, and the app wired to them."""
    found = Recorder()
    environment = {
        "STAGE": "prod",
        "EVENTS_TABLE": "tidemark-prod-events",
        "ROLLUPS_TABLE": "tidemark-prod-rollups",
        "CONTROL_TABLE": "tidemark-prod-control",
        "EVENTS_QUEUE_URL": f"{URL}tidemark-prod-events",
        "BUFFER": buffer,
        "BUFFER_STREAM": "tidemark-prod-events",
        "BUS_PROJECT": "shop",
        "DATA_BUCKET": f"tidemark-prod-data-{ACCOUNT}",
        "RESULTS_BUCKET": f"tidemark-prod-results-{ACCOUNT}",
        "ATHENA_DATABASE": "tidemark_prod",
        "ATHENA_WORKGROUP": "tidemark-prod",
        "ALERTS_TOPIC_ARN": f"arn:aws:sns:{REGION}:{ACCOUNT}:tidemark-prod-alerts",
        "EVENT_BUS": "tidemark-prod",
        "HOURLY_WORKFLOW_ARN": f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:tidemark-prod-hourly",
        "IMPORT_WORKFLOW_ARN": f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:tidemark-prod-import",
        "WEBSOCKET_URL": "wss://abc",
        "WEBSOCKET_MANAGEMENT_URL": "",
        "AWS_DEFAULT_REGION": REGION,
        "TEST_KEY": "secret",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clients = {service.name: ports.Client(service, found) for service in services()}
    forget_wiring()
    monkeypatch.setattr(wiring, "client", lambda service, _url=None: clients[service])
    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", unheard)
    access = AccessTable(clients["dynamodb"], "tidemark-prod-control")
    access.put_project(Project("shop", Mode.INFER), Limits(100.0, None, 1_000_000), datetime.now(UTC))
    access.put_key(ApiKey("shop", digest_of("secret"), tuple(Scope), "", datetime.now(UTC)))
    yield found
    monkeypatch.undo()
    forget_wiring()


def unheard(_client: Any, operation: str, _parameters: Any) -> None:
    """In place of every call of a client that `wiring` did not make."""
    raise AssertionError(f"{operation} is not recorded")


def services() -> list[Service]:
    """Every service that a function calls, with what the template makes there, as far as calls can tell."""
    tables, objects, queues, streams = DynamoDB(time.time), S3(time.time), SQS(time.time), Kinesis(time.time)
    for name in TABLES:
        tables.tables[f"tidemark-prod-{name}"] = Table(
            f"tidemark-prod-{name}", rollup_indexes() if name == "rollups" else {}
        )
    for name in ("data", "results"):
        objects.buckets[f"tidemark-prod-{name}-{ACCOUNT}"] = Bucket()
    queues.queues["tidemark-prod-events"] = Queue(VISIBILITY_SECONDS)
    streams.create_stream("tidemark-prod-events")
    return [tables, objects, queues, streams, SNS(), EventBridge(), StepFunctions(), Connections(), Athena()]


def forget_wiring() -> None:
    """Clients and stores are made anew for the environment as it is."""
    for made in vars(wiring).values():
        if hasattr(made, "cache_clear"):
            made.cache_clear()


def chunk_records() -> list[dict[str, Any]]:
    """A batch of the events table's stream."""
    event = StoredEvent(
        event_id="1", event_type="page_view", occurred_at=now_ms(), user_id="u", properties={"path": "/"}
    )
    (chunk,) = chunks_of(Message("shop", now_ms(), [event]))
    return [
        stream_record(chunk, 1),
        {"eventID": "bad", "eventName": "INSERT", "dynamodb": {"SequenceNumber": "100002"}},
    ]


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def connect(identity: str) -> None:
    """A dashboard that is connected and subscribed."""
    until = datetime.now(UTC) + timedelta(hours=1)
    domain = f"abc.execute-api.{REGION}.amazonaws.com"
    connection = Connection(identity, "shop", domain, "prod", until, ("events",), "2026-01-01T00")
    wiring.stores().connections.put(connection)


def socket_event(body: str = "", query: dict[str, str] | None = None) -> dict[str, Any]:
    """API Gateway's event of a WebSocket route."""
    domain = f"abc.execute-api.{REGION}.amazonaws.com"
    context = {"apiId": "abc", "connectionId": "c1", "domainName": domain, "stage": "prod"}
    return {"requestContext": context, "body": body, "queryStringParameters": query}


def run_api_handler(recorder: Recorder) -> None:
    headers = {"x-api-key": os.environ["TEST_KEY"], "content-type": "application/json"}
    good = json.dumps({"event_type": "page_view", "properties": {"path": "/"}}).encode()
    ahead = json.dumps({"event_type": "click", "event_id": "1", "timestamp": "2999-01-01T00:00:00Z"}).encode()
    wiring.settings()  # before the client puts the stage's own in place of the fixture's
    with Client(handlers.app, stage_name="prod") as client:
        with recorder.function(**{"sqs:SendMessage *": UNREACHABLE, "kinesis:PutRecords *": UNREACHABLE}):
            assert client.http.post("/events", headers=headers, body=good).status_code == 202
        quarantined("new")
        quarantined("newer", "users")
        with recorder.function():
            replay_everything(client, headers)
            assert client.http.post("/events", headers=headers, body=ahead).status_code == 202
            assert client.http.post("/events", headers=headers, body=b'[{"event_type": 1}]').status_code == 400
            assert client.http.get("/realtime/metrics", headers=headers).status_code == 200
            assert client.http.get("/aggregations/events?date=2026-11-21", headers=headers).status_code == 200
            assert client.http.get("/users/ada", headers=headers).status_code == 404
            assert client.http.get("/users/ada/events", headers=headers).status_code == 200
            erased = client.http.delete("/users/ada", headers=headers)
            assert erased.status_code == 202
            assert client.http.delete("/users/ada", headers=headers).json_body == erased.json_body
            assert client.http.get(f"/erasures/{erased.json_body['id']}", headers=headers).status_code == 200
            assert client.http.get("/erasures", headers=headers).status_code == 200
            assert client.http.post("/realtime/tickets", headers=headers).status_code == 201
            watch_something(client, headers)
            ask_something(client, headers)
            ask_every_list(client, headers)


def ask_every_list(client: Client, headers: dict[str, str]) -> None:
    """Each GET route whose path is fixed, so that a new one cannot do without its grants."""
    days, steps = "start=2026-11-20&end=2026-11-21", "steps=page_view,purchase"
    asked = {
        "/analytics": f"metric=events&{days}",
        "/reports/funnel": f"{steps}&{days}",
        "/reports/retention": days,
        "/reports/sessions": days,
        "/reports/top": f"of=path&{days}",
        "/reports/paths": days,
        "/sourceConfig": f"writeKey={headers['x-api-key']}",
    }
    for path, methods in handlers.app.routes.items():
        if "GET" in methods and "{" not in path:
            answer = client.http.get(f"{path}?{asked.get(path, '')}".rstrip("?"), headers=headers)
            assert answer.status_code in (200, 202), f"GET {path}: {answer.status_code} {answer.body[:200]!r}"


def ask_something(client: Client, headers: dict[str, str]) -> None:
    """A query that is saved, asked, as rows and as Parquet, ended and removed; and a report."""
    sql = "SELECT count(*) AS n FROM events"
    saved = json.dumps({"name": "all", "sql": sql}).encode()
    assert client.http.post("/queries", headers=headers, body=saved).status_code == 200
    assert len(client.http.get("/queries", headers=headers).json_body["queries"]) == 1
    started = client.http.post("/query", headers=headers, body=b'{"name": "all"}')
    assert started.status_code == 200
    again = client.http.get(f"/query/{started.json_body['id']}", headers=headers)
    assert again.status_code == 200
    assert client.http.delete(f"/query/{started.json_body['id']}", headers=headers).status_code == 200
    parquet = json.dumps({"sql": sql, "format": "parquet"}).encode()
    assert client.http.post("/query", headers=headers, body=parquet).status_code == 200
    asked = "start=2026-11-20&end=2026-11-21&of=path"
    assert client.http.get(f"/reports/top?{asked}", headers=headers).status_code == 200
    assert client.http.delete("/queries/all", headers=headers).status_code == 200


def replay_everything(client: Client, headers: dict[str, str]) -> None:
    """Of what was rejected once some is taken, and some rejected for another reason."""
    listed = client.http.get("/quarantine", headers=headers)
    assert [event["code"] for event in listed.json_body["events"]] == ["unknown_event_type"] * 3
    assert client.http.post("/quarantine/replay", headers=headers, body=b"{}").json_body["replayed"] == 2


def watch_something(client: Client, headers: dict[str, str]) -> None:
    """An alert that is made and removed, and an annotation whose id is sent again."""
    alert = json.dumps({"name": "many", "metric": "page_views", "comparison": "above", "threshold": 9}).encode()
    made = client.http.post("/alerts", headers=headers, body=alert)
    assert made.status_code == 201
    assert client.http.get("/alerts", headers=headers).json_body["alerts"][0]["id"] == made.json_body["id"]
    assert client.http.delete(f"/alerts/{made.json_body['id']}", headers=headers).status_code == 200
    at = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    for title, status in (("Version 7", 201), ("Version 8", 200)):
        annotation = json.dumps({"id": "deploy-7", "title": title, "at": at}).encode()
        assert client.http.post("/annotations", headers=headers, body=annotation).status_code == status
    assert len(client.http.get("/annotations", headers=headers).json_body["annotations"]) == 1
    assert client.http.get("/anomalies", headers=headers).json_body["anomalies"] == []
    assert client.http.get("/imports", headers=headers).json_body["imports"] == []


def quarantined(*event_types: str) -> None:
    """One request's rejected events, of types that the project did not take then."""
    records = [
        Record(n, f"q{n}", "unknown_event_type", "", "", None, {"event_type": name, "event_id": f"q{n}"})
        for n, name in enumerate(event_types)
    ]
    file = QuarantineFile("shop", now_ms(), None, NOBODY, records)
    wiring.stores().bucket.put_gzip(quarantine_key("shop", now_ms(), file.content()), file.encode())


def run_websocket_connect(recorder: Recorder) -> None:
    wiring.stores().connections.put_ticket("ticket", "shop", datetime.now(UTC) + timedelta(minutes=1))
    with recorder.function():
        assert handlers.socket_connect(socket_event(query={"ticket": "ticket"}), None) == {"statusCode": 200}


def run_websocket_message(recorder: Recorder) -> None:
    wiring.stores().rollups.note_types("shop", {"page_view"}, {"page_view"})
    connect("c1")
    frame = json.dumps({"action": "subscribe", "topics": ["events"]})
    with recorder.function(**{"* */POST/*": GONE}):
        handlers.socket_message(socket_event(frame), None)


def run_websocket_disconnect(recorder: Recorder) -> None:
    connect("c1")
    with recorder.function():
        handlers.socket_disconnect(socket_event(), None)


def run_process(recorder: Recorder) -> None:
    event = StoredEvent(
        event_id="1", event_type="identify", occurred_at=now_ms(), user_id="u", properties={"plan": "pro"}
    )
    other = {**event, "event_id": "2", "user_id": "v", UNSURE: "clamped"}
    ((body, _),) = encode_message(Message("shop", now_ms(), [event, other]))
    ((gone, _),) = encode_message(Message("shop", now_ms(), [{**event, "user_id": "erased"}]))
    wiring.stores().erased.put("shop", Marker(digest_of_user("shop", "erased"), now_ms(), FOR_EVER_MS))
    ((alone, _),) = encode_message(Message("shop", now_ms(), [{**event, "user_id": "w"}]))
    records = [{"messageId": str(n), "body": text} for n, text in enumerate((body, "unreadable", gone, body, alone))]
    with recorder.function():
        for some in (records[:-1], records[-1:]):
            assert handlers.process({"Records": some}, None) == {"batchItemFailures": []}


def run_aggregate(recorder: Recorder) -> None:
    records = chunk_records()
    handlers.aggregate({"Records": records}, None)
    wiring.stages().compactor.compact(now_ms() // 1000 + 3600)
    wiring.stores().rollups.known_types.clear()
    with recorder.function():
        handlers.aggregate({"Records": records}, None)  # meets the tombstone


def run_archive(recorder: Recorder) -> None:
    with recorder.function():
        handlers.archive({"Records": chunk_records()}, None)


def run_live(recorder: Recorder) -> None:
    handlers.aggregate({"Records": chunk_records()}, None)
    images = wiring.client("dynamodb").scan(TableName="tidemark-prod-rollups")["Items"]
    for image in (image for image in images if "body" in image):
        image["body"] = {"B": b64encode(image["body"]["B"]).decode()}
    images += [{**image, "hour": {"S": "2026-01-01T00"}} for image in images if "hour" in image]  # one that is late
    records = [{"eventID": "1", "eventName": "INSERT", "dynamodb": {"NewImage": image}} for image in images]
    connect("c1")
    with recorder.function(**{"* */POST/*": UNREACHABLE}):
        handlers.live({"Records": records}, None)


def run_reinject(recorder: Recorder) -> None:
    bucket = os.environ["DATA_BUCKET"]
    wiring.stores().bucket.put("spill/shop/1", b"message")
    record = {"s3": {"bucket": {"name": bucket}, "object": {"key": "spill/shop/1"}}}
    with recorder.function():
        handlers.reinject({"Records": [record]}, None)


def run_take_bus_event(recorder: Recorder) -> None:
    sent = {
        "version": "0",
        "id": "1",
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "detail-type": "Sold",
        "detail": {},
    }
    event = {**sent, "source": "tidemark.shop", "account": ACCOUNT, "region": REGION, "resources": []}
    with recorder.function(**{"sqs:SendMessage *": UNREACHABLE, "kinesis:PutRecords *": UNREACHABLE}):
        handlers.take_bus_event(event, None)
    with recorder.function():
        handlers.take_bus_event({**event, "time": "2999-01-01T00:00:00Z"}, None)
        handlers.take_bus_event({**event, "detail-type": "#"}, None)


def run_compact(recorder: Recorder) -> None:
    now, (record, _) = now_ms() // 1000, chunk_records()
    for n in range(MIN_FOLD + 1):  # merged items enough to be folded
        wiring.stages().aggregator.aggregate([{**record, "eventID": f"r{n}"}], now - 4000)
        wiring.stages().compactor.compact(now - 3000)
    wiring.stages().aggregator.aggregate([{**record, "eventID": "last"}], now)
    with recorder.function():
        assert wiring.stages().compactor.compact(now + 3600)


def run_consolidate(recorder: Recorder) -> None:
    """As a task, until nothing is left to do; what the next task does is not its own."""
    folder = two_tails()
    with recorder.function():
        handlers.consolidate({}, None)
    handlers.close(THE_HOUR, None)
    one_tail_more()
    with recorder.function():
        wiring.lake_stages().finisher.consolidate_due(now_ms() + HOUR_MS)
    handlers.close(THE_HOUR, None)
    an_old_version()
    with recorder.function():
        wiring.lake_stages().finisher.consolidate_due(now_ms() + 30 * HOUR_MS)
    assert wiring.stores().hours.waiting() == []
    with recorder.function(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("chalicelib.base.data_bucket.UPLOAD_PART_BYTES", 10)
        large = wiring.stores().bucket.writer(f"{folder}hour-1-0000.parquet")
        large.write(b"more than ten bytes")
        large.discard()
        assert sum(map(len, wiring.stores().lake.batches([next(wiring.stores().bucket.keys(folder))]))) == 3


def two_tails() -> str:
    """Two tail files of an hour, noted, and live items of it; the hour's folder."""
    folder = hour_folder("shop", HOUR)
    for number in (1, 2):
        row = Row({"event_id": f"e{number}", "event_type": "click", "occurred_at": number, "user_id": "u"}, number, 1)
        content = encode(table_of([row]), records_of([(number, 1)]))
        wiring.stores().lake.put(folder + tail_name(1, f"r{number}", content), content)
        wiring.stores().hours.note("shop", HOUR)
    merged = Merged(f"{HOUR}#000001#000001#m", HOUR, 1, 1, "m", 1, Signature(2, 3), Rollups())
    item = typed(_merged_item("shop", merged))
    wiring.client("dynamodb").put_item(TableName=wiring.settings().rollups_table, Item=item)
    return folder


def one_tail_more() -> None:
    """A tail file with what is not live."""
    row = Row({"event_id": "e3", "event_type": "click", "occurred_at": 3, "user_id": "u"}, 3, 2)
    content = encode(table_of([row]), records_of([(3, 1)]))
    wiring.stores().lake.put(hour_folder("shop", HOUR) + tail_name(2, "r3", content), content)
    wiring.stores().hours.note("shop", HOUR)


def an_old_version() -> None:
    """What lies beside the lake of a version before the hour's."""
    version = "0000000000001-old"
    wiring.stores().folders.manifests.write("shop", HOUR, version, Manifest())
    RecordSets(wiring.stores().bucket).write("shop", HOUR, version, {})
    wiring.lake_stages().finisher.sessionizer.files.write("shop", HOUR, version, [])


def run_close(recorder: Recorder) -> None:
    """Of an hour whose files hold what is live, and then something more that nothing is known of."""
    two_tails()
    with recorder.function():
        assert handlers.close(THE_HOUR, None) == {"closed": 1, "waiting": 0}
    one_tail_more()
    event = StoredEvent(event_id="e4", event_type="click", occurred_at=parse_ms(f"{HOUR}:10:00Z"), user_id="u")
    wiring.stores().events.write(chunks_of(Message("shop", now_ms() - HOUR_MS, [event])))
    with recorder.function():
        found = handlers.close(THE_HOUR, None)
        assert found == {"closed": 0, "waiting": 1}  # for what the hot store has
        found = handlers.close(THE_HOUR, None)
        assert found == {"closed": 1, "waiting": 0}


def history() -> dict[str, Any]:
    """A file of two events, one of them in an hour that has something, and one that is rejected."""
    two_tails()
    lines = [
        {"event_type": "click", "event_id": "h1", "timestamp": "2013-01-01T10:00:00Z"},
        {"event_type": "click", "event_id": "h2", "timestamp": "2026-11-21T09:10:00Z"},
        {"no": "type"},
    ]
    key = "raw/shop/a.ndjson"
    wiring.stores().bucket.put(key, b"\n".join(json.dumps(line).encode() for line in lines))
    one = Import.of(key, wiring.stores().bucket.head(key)[1], "1", now_ms() + 24 * HOUR_MS)
    assert one is not None
    return {"import": one.to_json()}


def run_import(task: str) -> Callable[[Recorder], None]:
    """Run the tasks; the one of that name is recorded."""

    def run(recorder: Recorder) -> None:
        whose = history()
        later = now_ms() + 24 * HOUR_MS

        def maybe(name: str) -> AbstractContextManager[None]:
            return recorder.function() if name == task else nullcontext()

        with maybe("import_validate"):
            file = handlers.import_validate(whose, None)
        with maybe("import_transform"):
            handlers.import_transform({**whose, "digest": file["digest"], "part": 1}, None)
        whose = {**whose, "parts": file["parts"]}
        with maybe("import_aggregate"):
            total = handlers.import_aggregate(whose, None)
        with maybe("import_store"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(NewDays, "finish", lambda *_: False)  # as when somebody comes in between
            stored = [wiring.lake_stages().importer.store({**whose, "range": span}, later) for span in total["ranges"]]
        one_tail_more()
        with maybe("import_store"):
            stored += [wiring.lake_stages().importer.store({**whose, "range": span}, later) for span in total["ranges"]]
        with maybe("import_fail"):
            handlers.import_fail({**whose, "error": {"Error": "x", "Cause": "y"}}, None)
        with maybe("import_notify"):
            handlers.import_notify({**whose, "stored": stored}, None)

    return run


def run_start_hourly(recorder: Recorder) -> None:
    with recorder.function():
        wiring.stores().hourly_workflow.start("20261121T10", {})


def run_start_import(recorder: Recorder) -> None:
    with recorder.function():
        wiring.stores().import_workflow.start("one", {})


def run_reconcile(recorder: Recorder) -> None:
    """An hour is repaired by the very calls that closed it; beside them, numbers are compared."""
    run_close(recorder)
    with recorder.function():
        assert wiring.lake_stages().reconciler.run(wiring.stores().access.names(), now_ms() // 1000 + 86_400) == 24


def run_audit(recorder: Recorder) -> None:
    wiring.stores().ledger.put("shop", hour_of(now_ms()), Receipt("c", received=1), now_ms() // 1000)
    earlier = now_ms() - 5 * 3_600_000  # an hour that balances, and leaves the index
    wiring.stores().ledger.put("shop", hour_of(earlier), Receipt("c", received=1, quarantined=1), earlier // 1000)
    wiring.stores().bucket.put("spill/shop/1", b"message")
    with recorder.function():
        assert wiring.stages().collector.sweep(datetime.now(UTC) + timedelta(hours=1)) == 0
        assert wiring.stages().auditor.audit(now_ms() // 1000, spilled=0)["EventsInFlight"] == 1


def run_erase(recorder: Recorder) -> None:
    """Of a user who is everywhere: in the hour's files, among what was rejected, imported, spilled and asked."""
    run_close(recorder)
    ada = StoredEvent(event_id="1", event_type="identify", occurred_at=now_ms(), user_id="u", anonymous_id="v")
    ((text, _),) = encode_message(Message("shop", now_ms(), [ada]))
    ((other, _),) = encode_message(Message("shop", now_ms(), [ada, {**ada, "user_id": "w"}]))
    handlers.process({"Records": [{"messageId": "1", "body": text}]}, None)
    bucket = wiring.stores().bucket
    bucket.put(spill_key("shop", b""), to_spill([Parcel(text, 1)]))
    bucket.put(unreadable_key("m1"), text.encode())
    bucket.put(unreadable_key("m2"), other.encode())
    for name, users in (("one", "u"), ("two", "uw")):
        events = [{"event_type": name, "event_id": f"{name}{user}", "user_id": user} for user in users]
        records = [Record(n, event["event_id"], "unknown", "", "", None, event) for n, event in enumerate(events)]
        file = QuarantineFile("shop", now_ms(), None, NOBODY, records)
        bucket.put_gzip(quarantine_key("shop", now_ms(), name.encode()), file.encode())
    bucket.put("raw/shop/a.ndjson", b'{"event_type": "click", "user_id": "u", "timestamp": "2013-01-01T10:00:00Z"}')
    one = Import.of("raw/shop/a.ndjson", "", "1", now_ms())
    assert one is not None
    wiring.stores().imports.begin(one)
    wiring.stores().imports.end(one, "done", now_ms(), {})
    bucket.put(one.rows_key(1), b"")
    wiring.stores().queries.put("q1", Asked("shop", "SELECT 1", "folder"), datetime.now(UTC) + timedelta(days=7))
    results = DataBucket(wiring.client("s3"), wiring.settings().results_bucket)
    results.put("athena/q1.csv", b"")
    receipt = wiring.stages().profiler.request_erasure("shop", "u", now_ms())

    def later(minutes: int) -> int:
        return now_ms() + minutes * 60_000 + 30 * HOUR_MS

    for minutes in (0, 17, 200, 300):
        with recorder.function():
            assert wiring.stores().erasures.open()
            replace(wiring.lake_stages().eraser, now=partial(later, minutes)).run()
    assert wiring.stages().profiler.erasure("shop", receipt["id"])["state"] == "done"


def run_watch(recorder: Recorder) -> None:
    words = {"name": "nobody comes", "metric": "page_views", "comparison": "below", "threshold": 1}
    wiring.stages().watcher.create("shop", words, now_ms() - 3_600_000)
    with recorder.function():
        assert wiring.stages().watcher.watch(now_ms()) == 1


def an_anomaly() -> Anomaly:
    """Recorded, in the hour before this one."""
    hour = hour_of(now_ms() - 3_600_000)
    anomaly = Anomaly("shop", Subject("page_views"), hour, "spike", "high", 90.0, 30.0, 9.5, "seasonal")
    wiring.stores().anomalies.put(anomaly, now_ms() // 1000)
    return anomaly


def run_detect(recorder: Recorder) -> None:
    handlers.aggregate({"Records": chunk_records()}, None)
    anomaly = an_anomaly()
    with recorder.function():
        assert not wiring.stores().anomalies.put(anomaly, now_ms() // 1000)  # as when an hour is judged again
        assert wiring.lake_stages().detector.detect(now_ms()) == 0
        assert len(wiring.stores().anomalies.between("shop", anomaly.hour, anomaly.hour)) == 1


def run_notify(recorder: Recorder) -> None:
    connect("c1")
    an_anomaly()
    with recorder.function(**{"* */POST/*": GONE}):
        assert wiring.lake_stages().detector.tell(now_ms()) == 1


IMPORT_TASKS = [f"import_{task}" for task in ("validate", "transform", "aggregate", "store", "notify", "fail")]
RUNS: dict[str, Callable[[Recorder], None]] = {
    "api_handler": run_api_handler,
    "websocket_connect": run_websocket_connect,
    "websocket_message": run_websocket_message,
    "websocket_disconnect": run_websocket_disconnect,
    "process": run_process,
    "aggregate": run_aggregate,
    "archive": run_archive,
    "live": run_live,
    "reinject": run_reinject,
    "take_bus_event": run_take_bus_event,
    "compact": run_compact,
    "consolidate": run_consolidate,
    "reconcile": run_reconcile,
    "erase": run_erase,
    "audit": run_audit,
    "watch": run_watch,
    "detect": run_detect,
    "close": run_close,
    "notify": run_notify,
    "start_hourly": run_start_hourly,
    "start_import": run_start_import,
    **{name: run_import(name) for name in IMPORT_TASKS},
}


SENDING = ("api_handler", "take_bus_event", "reinject", "audit", "erase")  # to the buffer


@pytest.mark.parametrize(
    ("function", "buffer"), [*((name, "sqs") for name in RUNS), *((name, "kinesis") for name in SENDING)]
)
def test_a_function_may_do_what_it_does_and_nothing_else(function: str, buffer: str, recorder: Recorder) -> None:
    RUNS[function](recorder)

    policy = documents("prod", buffer)[f"policy-{function}-prod.json"]
    # What a service does in the function's name.
    others = {"api_handler": {"s3:GetObject", "s3:ListBucket"}, "take_bus_event": {"sqs:SendMessage"}}.get(
        function, set()
    )
    idle = [
        (action, pattern)
        for statement in policy["Statement"]
        for action in statement["Action"]
        for pattern in key_patterns(statement)
        if not any(call.action == action and reaches(pattern, call) for call in recorder.calls)
    ]
    assert [call for call in recorder.calls if not allows(policy, call)] == []
    assert [(action, pattern) for action, pattern in idle if action not in NOT_OURS | others] == []


@pytest.mark.parametrize("function", RUNS)
def test_no_function_can_make_or_remove_an_api_key_or_a_project(function: str) -> None:
    policy = documents("prod")[f"policy-{function}-prod.json"]
    control = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/tidemark-prod-control"

    for operation in ("PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"):
        for key in ("key#hash", "keys#shop", "project#shop", "projects", None):
            assert not allows(policy, Call(f"dynamodb:{operation}", control, key))


def test_the_buffer_makes_a_difference_to_those_that_send_and_to_no_other() -> None:
    queue, stream = documents("prod", "sqs"), documents("prod", "kinesis")

    assert {name for name in queue if queue[name] != stream[name]} == {f"policy-{name}-prod.json" for name in SENDING}


def test_every_function_is_run_here() -> None:
    assert {f"policy-{function}-prod.json" for function in RUNS} == documents("prod").keys()


def test_athena_may_look_up_the_default_database_for_a_query() -> None:
    policy = documents("prod")["policy-api_handler-prod.json"]

    assert allows(policy, Call("glue:GetDatabase", f"arn:aws:glue:{REGION}:{ACCOUNT}:database/default"))


@pytest.mark.parametrize(("function", "folder"), [("api_handler", "lake"), ("reinject", "spill"), ("audit", "spill")])
def test_the_data_is_listed_in_one_folder_only(function: str, folder: str) -> None:
    policy = documents("prod")[f"policy-{function}-prod.json"]
    bucket = f"arn:aws:s3:::tidemark-prod-data-{ACCOUNT}"

    assert allows(policy, Call("s3:ListBucket", bucket, f"{folder}/"))
    assert not allows(policy, Call("s3:ListBucket", bucket, "quarantine/"))
    assert not allows(policy, Call("s3:ListBucket", bucket))


def test_what_nobody_could_read_is_for_operators_only() -> None:
    policy = documents("prod")["policy-api_handler-prod.json"]
    bucket = f"arn:aws:s3:::tidemark-prod-data-{ACCOUNT}"

    assert allows(policy, Call("s3:GetObject", f"{bucket}/quarantine/project=shop/dt=2026-11-21/1"))
    assert not allows(policy, Call("s3:GetObject", f"{bucket}/quarantine/unreadable/1"))
    assert not allows(policy, Call("s3:ListBucket", bucket, "quarantine/unreadable/"))
