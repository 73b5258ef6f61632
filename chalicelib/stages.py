"""The stages that need no layer, put together from stores; each is made, and imported, when it is first asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from chalicelib.base.ids import new_container_id, new_event_id

if TYPE_CHECKING:
    from chalicelib.access.authorize import Authorizer
    from chalicelib.access.throttle import Throttle
    from chalicelib.alerts.annotate import Annotator
    from chalicelib.alerts.watch import Watcher
    from chalicelib.events.contracts import Contracts
    from chalicelib.hours.compact import Compactor
    from chalicelib.imports.start_import import ImportStarter
    from chalicelib.ingest.aggregate import Aggregator
    from chalicelib.ingest.audit import Auditor
    from chalicelib.ingest.collect import Collector
    from chalicelib.ingest.process import Processor
    from chalicelib.ingest.receive import Receiver
    from chalicelib.live.push import Pusher
    from chalicelib.live.subscribe import Subscriber
    from chalicelib.numbers.analytics import Analytics
    from chalicelib.numbers.realtime import Observer
    from chalicelib.numbers.summarize import Summarizer
    from chalicelib.privacy.profile import Profiler
    from chalicelib.quarantine.replay import Replayer
    from chalicelib.sql.query import QueryRunner
    from chalicelib.stores import Stores

PUSH_PAUSE_SECONDS = 0.5  # docs/decisions/0007: with one second, one event in ten would be late


class Stages:
    """Every stage that any function can run."""

    def __init__(self, stores: Stores, contracts: Callable[[], Contracts]) -> None:
        self.stores, self._contracts = stores, contracts

    # Requests

    @cached_property
    def authorizer(self) -> Authorizer:
        """Whose a request is."""
        from chalicelib.access.authorize import Authorizer

        return Authorizer(self.stores.access, time.time)

    @cached_property
    def throttle(self) -> Throttle:
        """How much a key may send."""
        from chalicelib.access.throttle import Throttle

        return Throttle(self.stores.quotas)

    @cached_property
    def collector(self) -> Collector:
        """Takes events in."""
        from chalicelib.events.events import Admitter
        from chalicelib.ingest.collect import Collector
        from chalicelib.rollups.ledger import Tally

        found, tally = self.stores, Tally(container=new_container_id())
        admitter = Admitter(self._contracts(), new_event_id)
        return Collector(admitter, found.buffer, found.bucket, found.ledger, tally, found.erased, found.flags)

    @cached_property
    def replayer(self) -> Replayer:
        """Shows what was rejected, and takes it in again."""
        from chalicelib.quarantine.replay import REPLAYED_HOURS, Replayer
        from chalicelib.rollups.ledger import Tally

        tally = Tally(container=new_container_id(), kept_hours=REPLAYED_HOURS)
        admitter, put = self.collector.admitter, self.collector.put
        return Replayer(admitter, put, self.stores.bucket, self.stores.ledger, tally, time.monotonic)

    @cached_property
    def analytics(self) -> Analytics:
        """Answers questions about any hours."""
        from chalicelib.numbers.analytics import Analytics

        return Analytics(self._contracts(), self.stores.history)

    @cached_property
    def summarizer(self) -> Summarizer:
        """Sums up days."""
        from chalicelib.numbers.summarize import Summarizer

        return Summarizer(self._contracts(), self.stores.history)

    @cached_property
    def observer(self) -> Observer:
        """Tells what happens now."""
        from chalicelib.numbers.realtime import Observer

        return Observer(self._contracts(), self.stores.rollups, self.stores.ledger)

    @cached_property
    def profiler(self) -> Profiler:
        """Shows users, and has them erased."""
        from chalicelib.privacy.profile import Profiler

        return Profiler(self.stores.events, self.stores.users, self.stores.erasures, new_event_id)

    @cached_property
    def annotator(self) -> Annotator:
        """Keeps what is known beside the numbers."""
        from chalicelib.alerts.annotate import Annotator

        return Annotator(self.stores.annotations, self.stores.anomalies)

    @cached_property
    def query_runner(self) -> QueryRunner:
        """Runs SQL and reports; its parser takes as long to load as all else of a request."""
        from chalicelib.sql.query import QueryRunner

        return QueryRunner(self.stores.athena, self.stores.queries, self.stores.hours, self.stores.folders)

    # WebSocket

    @cached_property
    def subscriber(self) -> Subscriber:
        """Answers what connections say."""
        from chalicelib.live.subscribe import Subscriber

        found = self.stores
        return Subscriber(
            found.connections, found.history, found.sockets, self._contracts(), found.settings.websocket_url
        )

    @cached_property
    def pusher(self) -> Pusher:
        """Pushes new numbers to connections."""
        from chalicelib.live.push import Pusher

        found = self.stores
        return Pusher(
            found.connections, found.sockets, self._contracts(), PUSH_PAUSE_SECONDS, stage=found.settings.stage
        )

    # Bus, buffer, stream, bucket and schedules

    @cached_property
    def receiver(self) -> Receiver:
        """Takes events of the bus in."""
        from chalicelib.ingest.receive import Receiver

        return Receiver(self.authorizer, self.collector, self.stores.settings.bus_project)

    @cached_property
    def import_starter(self) -> ImportStarter:
        """Has a file imported."""
        from chalicelib.imports.start_import import ImportStarter

        return ImportStarter(self.stores.import_workflow)

    @cached_property
    def processor(self) -> Processor:
        """Brings messages into the events table."""
        from chalicelib.ingest.process import Processor

        found = self.stores
        return Processor(
            found.events, found.users, found.bucket, found.erased, found.ledger, stage=found.settings.stage
        )

    @cached_property
    def aggregator(self) -> Aggregator:
        """Counts."""
        from chalicelib.ingest.aggregate import Aggregator

        return Aggregator(self._contracts(), self.stores.rollups, self.stores.bucket)

    @cached_property
    def compactor(self) -> Compactor:
        """Merges deltas."""
        from chalicelib.hours.compact import Compactor

        return Compactor(self.stores.rollups, self.stores.hours)

    @cached_property
    def auditor(self) -> Auditor:
        """Balances the ledger."""
        from chalicelib.ingest.audit import Auditor

        return Auditor(self.stores.ledger, self.stores.history, self.stores.settings.stage)

    @cached_property
    def watcher(self) -> Watcher:
        """Keeps alerts and watches them."""
        from chalicelib.alerts.recent_rollups import RecentRollups
        from chalicelib.alerts.watch import Watcher

        found = self.stores
        recent, event_types = RecentRollups(found.rollups), found.rollups.event_types
        return Watcher(found.alerts, recent, lambda: found.notices, self._contracts(), event_types)
