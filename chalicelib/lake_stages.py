"""The stages that read and write Parquet or work on arrays: functions that run them need the layer.

Put together as those of `stages.py` are. This module alone loads neither pyarrow nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from chalicelib.base.clock import now_ms
from chalicelib.base.ids import new_event_id, new_run_id

if TYPE_CHECKING:
    from chalicelib.alerts.detect import Detector
    from chalicelib.events.contracts import Contracts
    from chalicelib.hours.close import Closer
    from chalicelib.hours.consolidate import Consolidator
    from chalicelib.hours.finish import Finisher
    from chalicelib.hours.rearchive import Rearchiver
    from chalicelib.hours.reconcile import Reconciler
    from chalicelib.hours.session_files import Written
    from chalicelib.hours.sessionize import Sessionizer
    from chalicelib.imports.importing import Importer
    from chalicelib.ingest.archive import Archiver
    from chalicelib.lake.rebuild import Rebuilder
    from chalicelib.privacy.erase import Eraser
    from chalicelib.privacy.export import Exporter
    from chalicelib.stores import Stores


class LakeStages:
    """Every stage of the lake.

    `reinject` brings a spilled object back to the buffer. With `unhurried`, on an operator's machine, none gives up
    because its time is over.
    """

    def __init__(
        self,
        stores: Stores,
        contracts: Callable[[], Contracts],
        reinject: Callable[[str], None],
        *,
        unhurried: bool = False,
    ) -> None:
        self.stores, self._contracts, self._reinject = stores, contracts, reinject
        self._unhurried = unhurried

    @cached_property
    def archiver(self) -> Archiver:
        """Writes what the stream brings into the lake."""
        from chalicelib.ingest.archive import Archiver

        return Archiver(self.stores.lake, self.stores.hours, self.stores.erased)

    @cached_property
    def consolidator(self) -> Consolidator:
        """Makes one version of an hour's files."""
        from chalicelib.hours.consolidate import Consolidator

        found = self.stores
        return Consolidator(
            found.lake, found.folders, found.record_sets, found.hours, found.erased, found.erasures, new_run_id
        )

    @cached_property
    def sessionizer(self) -> Sessionizer:
        """Counts sessions."""
        from chalicelib.hours.sessionize import Sessionizer

        return Sessionizer(self.stores.lake, self.stores.session_files, self.stores.closed, new_run_id)

    @cached_property
    def rearchiver(self) -> Rearchiver:
        """Puts back what the lake lacks."""
        from chalicelib.hours.rearchive import Rearchiver

        found = self.stores
        made = Rearchiver(
            found.events,
            found.lake,
            found.folders,
            found.hours,
            found.erased,
            found.settings.stage,
        )
        return replace(made, seconds=None) if self._unhurried else made

    @cached_property
    def closer(self) -> Closer:
        """Writes an hour's numbers from its files."""
        from chalicelib.hours.close import Closer

        found = self.stores
        return Closer(
            self._contracts(),
            found.rollups,
            found.hours,
            found.closed,
            found.lake,
            found.folders,
            found.settings.stage,
            self.rearchiver.is_incomplete,
        )

    @cached_property
    def finisher(self) -> Finisher:
        """Consolidates, counts sessions and closes, in this order."""
        from chalicelib.hours.finish import Finisher

        hours, stage = self.stores.hours, self.stores.settings.stage
        return Finisher(hours, self.consolidator, self.sessionizer, self.closer, stage)

    @cached_property
    def reconciler(self) -> Reconciler:
        """Compares what is closed with the lake."""
        from chalicelib.hours.reconcile import Reconciler

        found = self.stores
        return Reconciler(
            self._contracts(),
            found.history,
            found.lake,
            found.folders,
            found.hours,
            self.finisher,
            found.settings.stage,
        )

    @cached_property
    def importer(self) -> Importer:
        """Imports files of history."""
        from chalicelib.events.events import Admitter
        from chalicelib.imports.backfill import Backfiller
        from chalicelib.imports.importing import Importer

        found = self.stores

        def finish(project: str, hour: str) -> bool:
            return self.finisher.finish(project, hour, now_ms()).closed

        def close_days(project: str, days: Collection[str]) -> None:
            self.closer.close_days(project, now_ms(), days)

        def count_sessions(project: str, days: Sequence[str], written: Mapping[str, Written]) -> None:
            self.sessionizer.count_days(project, days, written, found.new_days.put)

        backfiller = Backfiller(
            found.lake,
            found.folders,
            found.hours,
            found.new_days,
            self._contracts(),
            self.closer.fold,
            finish,
            close_days,
            found.closed.forget_day,
            self.sessionizer.keep,
            count_sessions,
        )
        return Importer(
            found.bucket,
            found.lake,
            found.imports,
            Admitter(self._contracts(), new_event_id),
            found.access.owner,
            backfiller.store,
            found.notices,
            found.erased,
        )

    @cached_property
    def eraser(self) -> Eraser:
        """Carries out erasures."""
        from chalicelib.hours.consolidate import Overtaken
        from chalicelib.privacy.erase import Eraser
        from chalicelib.privacy.forget import Forgetter

        found = self.stores

        def rewrite(project: str, hour: str, at_ms: int) -> bool:
            try:
                self.finisher.finish(project, hour, at_ms, anew=True)
            except Overtaken:
                return False
            return True

        forgetter = Forgetter(found.bucket, found.results, found.imports, found.queries, self._reinject, now_ms)
        made = Eraser(
            table=found.erasures,
            erased=found.erased,
            events=found.events,
            users=found.users,
            files=forgetter.places(),
            forget_queries=forgetter.queries,
            lake=found.lake,
            hours=found.hours,
            folders=found.folders,
            rewrite=rewrite,
            clean=self.finisher.clean_day,
            arrivals=found.access.arrivals,
            importing=found.imports.going_on,
            stage=found.settings.stage,
            now=now_ms,
        )
        return replace(made, seconds=None) if self._unhurried else made

    @cached_property
    def detector(self) -> Detector:
        """Finds unusual hours, and tells of them."""
        from chalicelib.alerts.detect import Detector
        from chalicelib.alerts.hourly_arrays import RollupHistory

        found, hours = self.stores, RollupHistory(self._contracts(), self.stores.history)
        return Detector(
            found.access.names,
            hours,
            self._contracts(),
            found.anomalies,
            found.notices,
            found.connections,
            found.sockets,
        )

    # Of the operator's commands alone

    @cached_property
    def rebuilder(self) -> Rebuilder:
        """Writes the events table again."""
        from chalicelib.lake.rebuild import Rebuilder

        found = self.stores
        return Rebuilder(found.lake, found.folders, found.hours, found.events, found.users, found.erased)

    @cached_property
    def exporter(self) -> Exporter:
        """Copies what is kept of a user, or a project's events."""
        from chalicelib.privacy.export import Exporter
        from chalicelib.quarantine.store import QuarantineFiles

        found = self.stores
        files = QuarantineFiles(found.bucket)
        return Exporter(
            found.lake,
            found.folders,
            found.hours,
            found.events,
            found.users,
            lambda project, user: found.users.ids_of(project, user, found.events.is_user),
            lambda project, ids: (record.to_json() for record in files.naming(project, ids)),
        )
