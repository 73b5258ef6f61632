"""The stores of one stack: its tables, buckets, queue, topics and workflows, each made when it is first asked for.

The app, the operator's commands and the tests build their stages from one `Stores`. A store's module is imported where
the store is made, so that a function loads only what it runs: the lake's libraries take longer than all else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chalicelib.access.access_table import AccessTable
    from chalicelib.access.quota_table import QuotaTable
    from chalicelib.alerts.alerts_table import AlertsTable
    from chalicelib.alerts.annotations_table import AnnotationsTable
    from chalicelib.alerts.anomalies_table import AnomaliesTable
    from chalicelib.base.data_bucket import DataBucket
    from chalicelib.base.workflows import Workflow
    from chalicelib.events.erased_users import ErasedUsers
    from chalicelib.events.erasures_table import ErasuresTable
    from chalicelib.events.events_table import EventsTable
    from chalicelib.events.flags_table import FlagsTable
    from chalicelib.events.users_table import UsersTable
    from chalicelib.hours.new_days import NewDays
    from chalicelib.hours.session_files import SessionFiles
    from chalicelib.imports.imports_table import ImportsTable
    from chalicelib.ingest.event_stream import EventStream
    from chalicelib.ingest.queue import EventQueue
    from chalicelib.lake.hour_folders import HourFolders
    from chalicelib.lake.lake import Lake
    from chalicelib.lake.record_sets import RecordSets
    from chalicelib.live.connection import Connection
    from chalicelib.live.connections_table import ConnectionsTable
    from chalicelib.live.sockets import Sockets
    from chalicelib.notices.publisher import Notices
    from chalicelib.rollups.closed_table import ClosedTable
    from chalicelib.rollups.history import History
    from chalicelib.rollups.hours_table import HoursTable
    from chalicelib.rollups.ledger_table import LedgerTable
    from chalicelib.rollups.rollups_table import RollupsTable
    from chalicelib.settings import Settings
    from chalicelib.sql.athena import Athena
    from chalicelib.sql.queries_table import QueriesTable

PUSH_THREADS = 16


class Stores:
    """Every store, lazily. `client(service)` returns a boto3 client; `client(service, url)` one of another endpoint."""

    def __init__(self, settings: Settings, client: Callable[..., Any]) -> None:
        self.settings, self.client = settings, client

    # In the events table

    @cached_property
    def events(self) -> EventsTable:
        """Each event for 30 days, by user."""
        from chalicelib.events.events_table import EventsTable

        return EventsTable(self.client("dynamodb"), self.settings.events_table)

    @cached_property
    def users(self) -> UsersTable:
        """Traits and ids of users."""
        from chalicelib.events.users_table import UsersTable

        return UsersTable(self.client("dynamodb"), self.settings.events_table)

    @cached_property
    def flags(self) -> FlagsTable:
        """Users whose clocks are ahead."""
        from chalicelib.events.flags_table import FlagsTable

        return FlagsTable(self.client("dynamodb"), self.settings.events_table)

    # In the rollups table

    @cached_property
    def rollups(self) -> RollupsTable:
        """Deltas, and what they are merged into."""
        from chalicelib.rollups.rollups_table import RollupsTable

        return RollupsTable(self.client("dynamodb"), self.settings.rollups_table)

    @cached_property
    def closed(self) -> ClosedTable:
        """Rollups of closed hours and days."""
        from chalicelib.rollups.closed_table import ClosedTable

        return ClosedTable(self.client("dynamodb"), self.settings.rollups_table)

    @cached_property
    def history(self) -> History:
        """Live and closed rollups together."""
        from chalicelib.rollups.history import History

        return History(self.rollups, self.closed)

    @cached_property
    def hours(self) -> HoursTable:
        """How far each hour is."""
        from chalicelib.rollups.hours_table import HoursTable

        return HoursTable(self.client("dynamodb"), self.settings.rollups_table)

    @cached_property
    def new_days(self) -> NewDays:
        """Days of history that an import brings, of whose hours nothing was known."""
        from chalicelib.hours.new_days import NewDays

        return NewDays(self.client("dynamodb"), self.settings.rollups_table)

    @cached_property
    def ledger(self) -> LedgerTable:
        """What became of each event, counted."""
        from chalicelib.rollups.ledger_table import LedgerTable

        return LedgerTable(self.client("dynamodb"), self.settings.rollups_table)

    # In the control table

    @cached_property
    def access(self) -> AccessTable:
        """Projects and keys."""
        from chalicelib.access.access_table import AccessTable

        return AccessTable(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def quotas(self) -> QuotaTable:
        """How much each key has sent."""
        from chalicelib.access.quota_table import QuotaTable

        return QuotaTable(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def connections(self) -> ConnectionsTable:
        """Open WebSocket connections, and tickets for them."""
        from chalicelib.live.connections_table import ConnectionsTable

        return ConnectionsTable(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def erased(self) -> ErasedUsers:
        """Who is erased."""
        from chalicelib.events.erased_users import ErasedUsers

        return ErasedUsers(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def erasures(self) -> ErasuresTable:
        """Erasures, and how far each is."""
        from chalicelib.events.erasures_table import ErasuresTable

        return ErasuresTable(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def imports(self) -> ImportsTable:
        """Imports, and how far each is."""
        from chalicelib.imports.imports_table import ImportsTable

        return ImportsTable(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def queries(self) -> QueriesTable:
        """Queries that were asked, and saved ones."""
        from chalicelib.sql.queries_table import QueriesTable

        return QueriesTable(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def alerts(self) -> AlertsTable:
        """Thresholds that people set."""
        from chalicelib.alerts.alerts_table import AlertsTable

        return AlertsTable(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def annotations(self) -> AnnotationsTable:
        """What people wrote beside the numbers."""
        from chalicelib.alerts.annotations_table import AnnotationsTable

        return AnnotationsTable(self.client("dynamodb"), self.settings.control_table)

    @cached_property
    def anomalies(self) -> AnomaliesTable:
        """Hours with unusual numbers."""
        from chalicelib.alerts.anomalies_table import AnomaliesTable

        return AnomaliesTable(self.client("dynamodb"), self.settings.control_table)

    # In the data bucket, for functions without the layer

    @cached_property
    def bucket(self) -> DataBucket:
        """Quarantine, spill, imports and the lake's files, as bytes."""
        from chalicelib.base.data_bucket import DataBucket

        return DataBucket(self.client("s3"), self.settings.data_bucket)

    @cached_property
    def folders(self) -> HourFolders:
        """Which files of the lake hold an hour."""
        from chalicelib.lake.hour_folders import HourFolders

        return HourFolders(self.bucket)

    # In the data bucket, for functions with the layer: these read and write Parquet

    @cached_property
    def lake(self) -> Lake:
        """Rows of the lake's files."""
        from chalicelib.lake.lake import Lake

        return Lake(self.bucket)

    @cached_property
    def record_sets(self) -> RecordSets:
        """Which stream records an hour's files hold."""
        from chalicelib.lake.record_sets import RecordSets

        return RecordSets(self.bucket)

    @cached_property
    def session_files(self) -> SessionFiles:
        """Parts of sessions, by hour."""
        from chalicelib.hours.session_files import SessionFiles

        return SessionFiles(self.bucket)

    # Other services

    @cached_property
    def buffer(self) -> EventQueue | EventStream:
        """What `collect` puts messages in."""
        if self.settings.buffer == "kinesis":
            from chalicelib.ingest.event_stream import EventStream

            return EventStream(self.client("kinesis"), self.settings.buffer_stream)
        from chalicelib.ingest.queue import EventQueue

        return EventQueue(self.client("sqs"), self.settings.events_queue_url)

    @cached_property
    def sockets(self) -> Sockets:
        """What is pushed to connections."""
        from chalicelib.live.sockets import Sockets

        def client_of(connection: Connection) -> Any:
            url = self.settings.websocket_management_url or f"https://{connection.domain}/{connection.stage}"
            return self.client("apigatewaymanagementapi", url)

        return Sockets(client_of, PUSH_THREADS, time.monotonic)

    @cached_property
    def notices(self) -> Notices:
        """What people and programs are told."""
        from chalicelib.notices.publisher import Notices

        topic, bus = self.settings.alerts_topic_arn, self.settings.event_bus
        return Notices(self.client("sns"), self.client("events"), topic, bus)

    @cached_property
    def athena(self) -> Athena:
        """SQL over the lake."""
        from chalicelib.sql.athena import Athena

        database, workgroup = self.settings.athena_database, self.settings.athena_workgroup
        return Athena(self.client("athena"), self.client("s3"), database, workgroup, self.settings.results_bucket)

    @cached_property
    def results(self) -> DataBucket:
        """What Athena answered, as files."""
        from chalicelib.base.data_bucket import DataBucket

        return DataBucket(self.client("s3"), self.settings.results_bucket)

    @cached_property
    def hourly_workflow(self) -> Workflow:
        """Closes hours."""
        from chalicelib.base.workflows import Workflow

        return Workflow(self.client("stepfunctions"), self.settings.hourly_workflow_arn)

    @cached_property
    def import_workflow(self) -> Workflow:
        """Imports a file."""
        from chalicelib.base.workflows import Workflow

        return Workflow(self.client("stepfunctions"), self.settings.import_workflow_arn)
