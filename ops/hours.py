"""What the commands that work on hours of the lake are made of."""

import secrets
from dataclasses import dataclass
from functools import cached_property, partial

from chalicelib.close import Closer
from chalicelib.consolidate import Consolidator
from chalicelib.domain.contracts import Contracts
from chalicelib.finish import Finisher
from chalicelib.rearchive import Rearchiver
from chalicelib.reconcile import Reconciler
from chalicelib.sessionize import Sessionizer
from chalicelib.storage.closed_table import ClosedTable
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.erasures_table import ErasuresTable
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.history import History
from chalicelib.storage.hour_folders import HourFolders
from chalicelib.storage.hours_table import HoursTable
from chalicelib.storage.lake import Lake
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.record_sets import RecordSets
from chalicelib.storage.rollups_table import RollupsTable
from chalicelib.storage.session_files import SessionFiles
from infra.project import ROOT
from ops.stages import client, environment
from ops.unreadable import bucket_of

# Why an hour is not closed that was just tried.
WAITING = (
    "live numbers and the lake do not hold the same yet, as while a consumer of the stream is behind; the next run of "
    "the hourly workflow tries again"
)


@dataclass(frozen=True)
class Hours:
    """A stage's hours, with what reads and finishes them; made as they are asked for."""

    stage: str

    @cached_property
    def lake(self) -> Lake:
        """Its files."""
        return Lake(DataBucket(client(self.stage, "s3"), bucket_of(self.stage)))

    @cached_property
    def folders(self) -> HourFolders:
        """Which file holds what."""
        return HourFolders(self.lake.bucket)

    @cached_property
    def table(self) -> HoursTable:
        """How far each hour is."""
        return HoursTable(client(self.stage, "dynamodb"), environment(self.stage)["ROLLUPS_TABLE"])

    @cached_property
    def events(self) -> EventsTable:
        """The hot store."""
        return EventsTable(client(self.stage, "dynamodb"), environment(self.stage)["EVENTS_TABLE"])

    @cached_property
    def erased(self) -> ErasedUsers:
        """Who is erased."""
        return ErasedUsers(client(self.stage, "dynamodb"), environment(self.stage)["CONTROL_TABLE"])

    @cached_property
    def rearchiver(self) -> Rearchiver:
        """Puts back what the lake lacks, for as long as that takes."""
        return Rearchiver(self.events, self.lake, self.folders, self.table, self.erased, self.stage, seconds=None)

    @cached_property
    def finisher(self) -> Finisher:
        """Consolidates and closes, as the hourly workflow does."""
        new_run = partial(secrets.token_hex, 4)
        records = RecordSets(self.lake.bucket)
        erasures = ErasuresTable(client(self.stage, "dynamodb"), environment(self.stage)["CONTROL_TABLE"])
        consolidator = Consolidator(self.lake, self.folders, records, self.table, self.erased, erasures, new_run)
        closed = ClosedTable(self.table.client, self.table.table)
        closer = Closer(
            Contracts.load(ROOT / "schemas"),
            RollupsTable(self.table.client, self.table.table),
            self.table,
            closed,
            self.lake,
            self.folders,
            self.stage,
            self.rearchiver.is_incomplete,
        )
        sessionizer = Sessionizer(self.lake, SessionFiles(self.lake.bucket), closed, new_run)
        return Finisher(self.table, consolidator, sessionizer, closer, self.stage)

    @cached_property
    def reconciler(self) -> Reconciler:
        """Compares what is closed with the lake."""
        closer = self.finisher.closer
        history = History(closer.rollups, closer.closed)
        return Reconciler(closer.contracts, history, self.lake, self.folders, self.table, self.finisher, self.stage)
