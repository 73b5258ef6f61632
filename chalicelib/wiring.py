"""Puts the stages together: lazy clients and stores, made once per container."""

import os
import secrets
import time
import uuid
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from chalicelib import __version__
from chalicelib.aggregate import Aggregator
from chalicelib.analytics import Analytics
from chalicelib.annotate import Annotator
from chalicelib.audit import Auditor
from chalicelib.authorize import Authorizer
from chalicelib.collect import Collector
from chalicelib.compact import Compactor
from chalicelib.domain.access import Connection
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.events import Admitter
from chalicelib.domain.ledger import Tally
from chalicelib.live import Pusher
from chalicelib.process import Processor
from chalicelib.profile import Profiler
from chalicelib.realtime import Observer
from chalicelib.replay import REPLAYED_HOURS, Replayer
from chalicelib.settings import Settings
from chalicelib.storage.access_table import AccessTable
from chalicelib.storage.alerts_table import AlertsTable
from chalicelib.storage.annotations_table import AnnotationsTable
from chalicelib.storage.anomalies_table import AnomaliesTable
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
from chalicelib.storage.imports_table import ImportsTable
from chalicelib.storage.ledger_table import LedgerTable
from chalicelib.storage.notices import Notices
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.queries_table import QueriesTable
from chalicelib.storage.queue import EventQueue
from chalicelib.storage.quota_table import QuotaTable
from chalicelib.storage.recent_rollups import RecentRollups
from chalicelib.storage.rollups_table import RollupsTable
from chalicelib.storage.sockets import Sockets
from chalicelib.storage.users_table import UsersTable
from chalicelib.storage.workflows import Workflow
from chalicelib.subscribe import Subscriber
from chalicelib.summarize import Summarizer
from chalicelib.throttle import Throttle
from chalicelib.watch import Watcher

if TYPE_CHECKING:
    from chalicelib.query import QueryRunner
    from chalicelib.wiring_lake import (
        archiver,
        detector,
        eraser,
        finisher,
        importer,
        reconciler,
    )

    __all__ = [
        "archiver",
        "detector",
        "eraser",
        "finisher",
        "importer",
        "reconciler",
    ]

ROOT = Path(__file__).parent.parent  # schemas/ and dashboard/ lie beside chalicelib/, here and in the zip
PUSH_PAUSE_SECONDS = 0.5  # docs/decisions/0007: with one second, one event in ten would be late

# The SDK's own retries are bounded so that a handler fails within its time-out and the trigger takes over.
CLIENT_CONFIG = Config(
    connect_timeout=2, read_timeout=5, retries={"mode": "standard", "max_attempts": 3}, max_pool_connections=32
)
PUSH_THREADS = 16
# A push that hangs is given up soon: the connection's client comes back for a snapshot.
PUSH_CONFIG = CLIENT_CONFIG.merge(
    Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})
)
# DynamoDB checks what it is sent itself; in the SDK that would be two fifths of the work of a large write.
DYNAMODB_CONFIG = Config(parameter_validation=False)


def new_event_id(received_ms: int) -> str:
    """A UUID version 7 (RFC 9562): time-ordered, 74 random bits."""
    random_bits = secrets.randbits(74)
    high, low = random_bits >> 62, random_bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=received_ms << 80 | 7 << 76 | high << 64 | 2 << 62 | low))


def now_ms() -> int:
    """The clock in Unix milliseconds."""
    return int(time.time() * 1000)


@cache
def settings() -> Settings:
    return Settings.from_environment(os.environ)


@cache
def client(service: str) -> Any:
    """A boto3 client; threads may share it."""
    return boto3.client(service, config=CLIENT_CONFIG.merge(DYNAMODB_CONFIG if service == "dynamodb" else Config()))


@cache
def signing_client() -> Any:
    """A client of S3 whose links every region and bucket takes; the SDK's default signs them as S3 once did."""
    return boto3.client("s3", config=CLIENT_CONFIG.merge(Config(signature_version="s3v4")))


@cache
def management_client(endpoint_url: str) -> Any:
    """The management API of one WebSocket endpoint."""
    return boto3.client("apigatewaymanagementapi", endpoint_url=endpoint_url, config=PUSH_CONFIG)


@cache
def contracts() -> Contracts:
    return Contracts.load(ROOT / "schemas")


@cache
def events_table() -> EventsTable:
    return EventsTable(client("dynamodb"), settings().events_table)


@cache
def users_table() -> UsersTable:
    return UsersTable(client("dynamodb"), settings().events_table)


@cache
def flags_table() -> FlagsTable:
    return FlagsTable(client("dynamodb"), settings().events_table)


@cache
def erased_users() -> ErasedUsers:
    return ErasedUsers(client("dynamodb"), settings().control_table)


@cache
def erasures_table() -> ErasuresTable:
    return ErasuresTable(client("dynamodb"), settings().control_table)


@cache
def connections_table() -> ConnectionsTable:
    return ConnectionsTable(client("dynamodb"), settings().control_table)


@cache
def rollups_table() -> RollupsTable:
    return RollupsTable(client("dynamodb"), settings().rollups_table)


@cache
def ledger_table() -> LedgerTable:
    return LedgerTable(client("dynamodb"), settings().rollups_table)


@cache
def hours_table() -> HoursTable:
    return HoursTable(client("dynamodb"), settings().rollups_table)


@cache
def history() -> History:
    return History(rollups_table(), closed_table())


@cache
def closed_table() -> ClosedTable:
    return ClosedTable(client("dynamodb"), settings().rollups_table)


@cache
def data_bucket() -> DataBucket:
    return DataBucket(client("s3"), settings().data_bucket)


@cache
def sockets() -> Sockets:
    def client_of(connection: Connection) -> Any:
        fixed = settings().websocket_management_url
        return management_client(fixed or f"https://{connection.domain}/{connection.stage}")

    return Sockets(client_of, PUSH_THREADS, time.monotonic)


@cache
def access_table() -> AccessTable:
    return AccessTable(client("dynamodb"), settings().control_table)


@cache
def anomalies_table() -> AnomaliesTable:
    return AnomaliesTable(client("dynamodb"), settings().control_table)


@cache
def notices() -> Notices:
    return Notices(client("sns"), client("events"), settings().alerts_topic_arn, settings().event_bus)


@cache
def authorizer() -> Authorizer:
    return Authorizer(access_table(), time.time)


@cache
def throttle() -> Throttle:
    return Throttle(QuotaTable(client("dynamodb"), settings().control_table))


@cache
def buffer() -> EventQueue | EventStream:
    if settings().buffer == "kinesis":
        return EventStream(client("kinesis"), settings().buffer_stream)
    return EventQueue(client("sqs"), settings().events_queue_url)


@cache
def collector() -> Collector:
    tally = Tally(container=secrets.token_hex(6))  # of thousands in an hour no two have the same
    admitter = Admitter(contracts(), new_event_id)
    return Collector(admitter, buffer(), data_bucket(), ledger_table(), tally, erased_users(), flags_table())


@cache
def replayer() -> Replayer:
    tally = Tally(container=secrets.token_hex(6), kept_hours=REPLAYED_HOURS)
    return Replayer(collector().admitter, collector().put, data_bucket(), ledger_table(), tally, time.monotonic)


@cache
def processor() -> Processor:
    return Processor(
        events_table(), users_table(), data_bucket(), erased_users(), ledger_table(), stage=settings().stage
    )


@cache
def aggregator() -> Aggregator:
    return Aggregator(contracts(), rollups_table(), data_bucket())


@cache
def imports_table() -> ImportsTable:
    return ImportsTable(client("dynamodb"), settings().control_table)


@cache
def import_workflow() -> Workflow:
    return Workflow(client("stepfunctions"), settings().import_workflow_arn)


@cache
def hourly_workflow() -> Workflow:
    return Workflow(client("stepfunctions"), settings().hourly_workflow_arn)


@cache
def compactor() -> Compactor:
    return Compactor(rollups_table(), hours_table())


@cache
def profiler() -> Profiler:
    return Profiler(events_table(), users_table(), erasures_table(), new_event_id)


@cache
def auditor() -> Auditor:
    return Auditor(ledger_table(), history(), settings().stage)


@cache
def analytics() -> Analytics:
    return Analytics(contracts(), history())


@cache
def summarizer() -> Summarizer:
    return Summarizer(contracts(), history())


@cache
def observer() -> Observer:
    return Observer(contracts(), rollups_table(), ledger_table())


@cache
def annotator() -> Annotator:
    return Annotator(AnnotationsTable(client("dynamodb"), settings().control_table), anomalies_table())


@cache
def watcher() -> Watcher:
    alerts = AlertsTable(client("dynamodb"), settings().control_table)
    return Watcher(alerts, RecentRollups(rollups_table()), notices, contracts(), rollups_table().event_types)


@cache
def query_runner() -> "QueryRunner":
    # Imported here because the SQL parser would double the cold start of every other route.
    from chalicelib.query import QueryRunner
    from chalicelib.storage.athena import Athena

    found = settings()
    athena = Athena(
        client("athena"), signing_client(), found.athena_database, found.athena_workgroup, found.results_bucket
    )
    return QueryRunner(athena, queries_table(), hours_table(), HourFolders(data_bucket()))


@cache
def queries_table() -> QueriesTable:
    return QueriesTable(client("dynamodb"), settings().control_table)


@cache
def subscriber() -> Subscriber:
    return Subscriber(connections_table(), history(), sockets(), contracts(), settings().websocket_url)


@cache
def pusher() -> Pusher:
    return Pusher(connections_table(), sockets(), contracts(), PUSH_PAUSE_SECONDS, stage=settings().stage)


def described(routes: Mapping[str, Mapping[str, Any]], statuses: Mapping[Any, int], server: str) -> dict[str, Any]:
    """The OpenAPI document of the app's routes."""
    # Imported here, and made at each call, because no other route needs it.
    from chalicelib.domain.answers import COMPONENTS
    from chalicelib.domain.openapi import document
    from chalicelib.domain.operations import OPERATIONS

    return document(
        routes,
        OPERATIONS,
        COMPONENTS,
        statuses=statuses,
        contracts=contracts(),
        version=__version__,
        server=server,
    )


def __getattr__(name: str) -> Any:
    """What is not here is in wiring_lake.py, which loads the lake's libraries: who has them asks for it."""
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(import_module("chalicelib.wiring_lake"), name)
