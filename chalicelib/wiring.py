"""Puts the stages together: lazy clients and stores, made once per container."""

import os
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from chalicelib import __version__
from chalicelib.aggregate import Aggregator
from chalicelib.annotate import Annotator
from chalicelib.audit import Auditor
from chalicelib.authorize import Authorizer
from chalicelib.close import Closer
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
from chalicelib.report import Reporter
from chalicelib.settings import Settings
from chalicelib.storage.access_table import AccessTable
from chalicelib.storage.alerts_table import AlertsTable
from chalicelib.storage.annotations_table import AnnotationsTable
from chalicelib.storage.anomalies_table import AnomaliesTable
from chalicelib.storage.closed_table import ClosedTable
from chalicelib.storage.control_table import ControlTable
from chalicelib.storage.dirty_hours import DirtyHours
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.erasures_table import ErasuresTable
from chalicelib.storage.event_stream import EventStream
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.history import History
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
    from chalicelib.archive import Archiver
    from chalicelib.consolidate import Consolidator
    from chalicelib.detect import Detector
    from chalicelib.erase import Eraser
    from chalicelib.importing import Importer
    from chalicelib.query import Analyst
    from chalicelib.reconcile import Reconciler
    from chalicelib.sessionize import Sessionizer
    from chalicelib.storage.session_files import Written
    from chalicelib.storage.user_rows import UserRows

ROOT = Path(__file__).parent.parent  # schemas/ and dashboard/ lie beside chalicelib/, here and in the zip
PUSH_PAUSE_SECONDS = 0.5  # docs/decisions/0007: with one second, one event in ten would be late

# The SDK's own retries are bounded so that a handler fails within its time-out and the trigger takes over.
CLIENT_CONFIG = Config(
    connect_timeout=2, read_timeout=5, retries={"mode": "standard", "max_attempts": 3}, max_pool_connections=32
)
# DynamoDB checks what it is sent itself; in the SDK that would be two fifths of the work of a large write.
DYNAMODB_CONFIG = Config(parameter_validation=False)


def new_event_id(received_ms: int) -> str:
    """A UUID version 7 (RFC 9562): time-ordered, 74 random bits."""
    random_bits = secrets.randbits(74)
    high, low = random_bits >> 62, random_bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=received_ms << 80 | 7 << 76 | high << 64 | 2 << 62 | low))


def now_ms() -> int:
    """The clock in epoch milliseconds."""
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
    return boto3.client("apigatewaymanagementapi", endpoint_url=endpoint_url, config=CLIENT_CONFIG)


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
def erased_users() -> ErasedUsers:
    return ErasedUsers(client("dynamodb"), settings().control_table)


@cache
def erasures_table() -> ErasuresTable:
    return ErasuresTable(client("dynamodb"), settings().control_table)


@cache
def control_table() -> ControlTable:
    return ControlTable(client("dynamodb"), settings().control_table)


@cache
def rollups_table() -> RollupsTable:
    return RollupsTable(client("dynamodb"), settings().rollups_table)


@cache
def ledger_table() -> LedgerTable:
    return LedgerTable(client("dynamodb"), settings().rollups_table)


@cache
def dirty_hours() -> DirtyHours:
    return DirtyHours(client("dynamodb"), settings().rollups_table)


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

    return Sockets(client_of)


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
    tally = Tally(container=secrets.token_hex(4))
    admitter = Admitter(contracts(), new_event_id)
    return Collector(admitter, buffer(), data_bucket(), ledger_table(), tally, erased_users())


@cache
def replayer() -> Replayer:
    tally = Tally(container=secrets.token_hex(4), kept_hours=REPLAYED_HOURS)
    return Replayer(collector().admitter, collector().put, data_bucket(), ledger_table(), tally, time.monotonic)


@cache
def processor() -> Processor:
    return Processor(events_table(), users_table(), data_bucket(), erased_users(), ledger_table())


@cache
def aggregator() -> Aggregator:
    return Aggregator(contracts(), rollups_table(), data_bucket())


@cache
def archiver() -> "Archiver":
    # Imported here because pyarrow is in the layer of this function only, and takes longer to load than all else.
    from chalicelib.archive import Archiver
    from chalicelib.storage.lake import Lake

    return Archiver(Lake(data_bucket()), dirty_hours(), erased_users())


@cache
def consolidator() -> "Consolidator":
    # Imported here for the same reason.
    from chalicelib.consolidate import Consolidator
    from chalicelib.storage.lake import Lake

    return Consolidator(Lake(data_bucket()), dirty_hours(), settings().stage, lambda: secrets.token_hex(4))


@cache
def closer() -> Closer:
    from chalicelib.storage.lake import Lake

    return Closer(contracts(), rollups_table(), closed_table(), settings().stage, Lake(data_bucket()))


@cache
def reconciler() -> "Reconciler":
    # Imported here because pyarrow is in the layer of this function only.
    from chalicelib.reconcile import Reconciler
    from chalicelib.storage.lake import Lake

    lake = Lake(data_bucket())
    return Reconciler(
        contracts(),
        history(),
        lake,
        dirty_hours(),
        consolidator(),
        closer(),
        sessionizer().settle,
        settings().stage,
    )


@cache
def sessionizer() -> "Sessionizer":
    from chalicelib.sessionize import Sessionizer
    from chalicelib.storage.lake import Lake
    from chalicelib.storage.session_files import SessionFiles

    files = SessionFiles(data_bucket())
    return Sessionizer(Lake(data_bucket()), files, closed_table(), lambda: secrets.token_hex(4))


def settle(project: str, hour: str, keys: Sequence[str]) -> bool:
    """What follows a consolidation: sessions before the closer, which puts together the days that they changed."""
    sessionizer().settle(project, hour, keys)
    return closer().settle(project, hour, keys, int(time.time()))


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
def importer() -> "Importer":
    # Imported here, as above.
    from chalicelib.backfill import Backfiller
    from chalicelib.importing import Importer
    from chalicelib.storage.lake import Lake
    from chalicelib.storage.new_days import NewDays

    def settle(project: str, hour: str) -> bool:
        done = consolidator().consolidate(project, hour, int(time.time() * 1000))
        sessionizer().settle(project, hour, done.files.keys)
        events = lake.events(done.files.keys)
        return closer().close(project, hour, events, int(time.time())).closed and consolidator().finish(done)

    def close_days(project: str) -> None:
        closer().close_days(project, int(time.time()))

    lake = Lake(data_bucket())
    days = NewDays(client("dynamodb"), settings().rollups_table)

    def count_sessions(project: str, new: Sequence[str], written: "Mapping[str, Written]") -> None:
        sessionizer().settle_days(project, new, written, days.put)

    backfiller = Backfiller(
        lake,
        dirty_hours(),
        days,
        contracts(),
        closer().fold,
        settle,
        close_days,
        sessionizer().keep,
        count_sessions,
    )
    admitter = Admitter(contracts(), new_event_id)
    return Importer(
        data_bucket(),
        lake,
        imports_table(),
        admitter,
        access_table().owner,
        backfiller.store,
        notices(),
        erased_users(),
    )


@cache
def compactor() -> Compactor:
    return Compactor(rollups_table(), dirty_hours())


@cache
def profiler() -> Profiler:
    return Profiler(events_table(), users_table(), erasures_table(), new_event_id)


@cache
def eraser() -> "Eraser":
    # Imported here because pyarrow is in the layer of this function only.
    from chalicelib.consolidate import Overtaken
    from chalicelib.erase import Eraser
    from chalicelib.forget import Forgetter
    from chalicelib.storage.lake import Lake

    def rewrite(project: str, hour: str, at_ms: int, without: "UserRows") -> bool:
        try:
            done = consolidator().consolidate(project, hour, at_ms, without)
        except Overtaken:
            return False
        sessionizer().settle(project, hour, done.files.keys)
        if closer().settle(project, hour, done.files.keys, at_ms // 1000, follow=True):
            consolidator().finish(done)
        return True

    forgetter = Forgetter(
        data_bucket(),
        DataBucket(client("s3"), settings().results_bucket),
        imports_table(),
        queries_table(),
        collector().reinject,
        now_ms,
    )
    return Eraser(
        table=erasures_table(),
        erased=erased_users(),
        events=events_table(),
        users=users_table(),
        files=forgetter.places(),
        forget_queries=forgetter.queries,
        lake=Lake(data_bucket()),
        dirty=dirty_hours(),
        rewrite=rewrite,
        settled=lambda project, day, at_ms: closer().is_cleaned(project, day, at_ms // 1000),
        arrivals=access_table().arrivals,
        importing=imports_table().going_on,
        stage=settings().stage,
        now=now_ms,
    )


@cache
def auditor() -> Auditor:
    return Auditor(ledger_table(), history(), settings().stage)


@cache
def reporter() -> Reporter:
    return Reporter(contracts(), history())


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
def detector() -> "Detector":
    # Imported here because numpy is in the layer of this function only.
    from chalicelib.detect import Detector
    from chalicelib.storage.rollup_history import RollupHistory

    hours = RollupHistory(contracts(), history())
    return Detector(access_table().names, hours, contracts(), anomalies_table(), notices(), control_table(), sockets())


@cache
def analyst() -> "Analyst":
    # Imported here because the SQL parser would double the cold start of every other route.
    from chalicelib.query import Analyst
    from chalicelib.storage.athena import Athena

    found = settings()
    athena = Athena(
        client("athena"), signing_client(), found.athena_database, found.athena_workgroup, found.results_bucket
    )
    return Analyst(athena, queries_table(), dirty_hours())


@cache
def queries_table() -> QueriesTable:
    return QueriesTable(client("dynamodb"), settings().control_table)


@cache
def subscriber() -> Subscriber:
    return Subscriber(control_table(), history(), sockets(), contracts(), settings().websocket_url)


@cache
def pusher() -> Pusher:
    return Pusher(control_table(), sockets(), contracts(), PUSH_PAUSE_SECONDS)


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
