"""Puts the stages together that work on the lake or with arrays.

By itself, because pyarrow and numpy are in the layer of some functions only, and take longer to load than all else:
who needs a stage of these imports this module then and there.
"""

import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cache

from chalicelib.archive import Archiver
from chalicelib.backfill import Backfiller
from chalicelib.close import Closer
from chalicelib.consolidate import Consolidator, Overtaken
from chalicelib.detect import Detector
from chalicelib.domain.events import Admitter
from chalicelib.erase import Eraser
from chalicelib.forget import Forgetter
from chalicelib.importing import Importer
from chalicelib.reconcile import Reconciler
from chalicelib.sessionize import Sessionizer
from chalicelib.storage.lake import Lake
from chalicelib.storage.new_days import NewDays
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.rollup_history import RollupHistory
from chalicelib.storage.session_files import SessionFiles, Written
from chalicelib.storage.user_rows import UserRows
from chalicelib.wiring import (
    access_table,
    anomalies_table,
    client,
    closed_table,
    collector,
    contracts,
    control_table,
    data_bucket,
    dirty_hours,
    erased_users,
    erasures_table,
    events_table,
    history,
    imports_table,
    new_event_id,
    notices,
    now_ms,
    pins_table,
    queries_table,
    rollups_table,
    settings,
    sockets,
    users_table,
)


@cache
def lake() -> Lake:
    return Lake(data_bucket())


@cache
def archiver() -> Archiver:
    return Archiver(lake(), dirty_hours(), erased_users())


@cache
def consolidator() -> Consolidator:
    return Consolidator(lake(), dirty_hours(), settings().stage, lambda: secrets.token_hex(4))


@cache
def sessionizer() -> Sessionizer:
    files = SessionFiles(data_bucket())
    return Sessionizer(lake(), files, closed_table(), lambda: secrets.token_hex(4))


@cache
def closer() -> Closer:
    return Closer(contracts(), rollups_table(), closed_table(), settings().stage, lake())


def settle(project: str, hour: str, keys: Sequence[str]) -> bool:
    """What follows a consolidation: sessions before the closer, which puts together the days that they changed."""
    sessionizer().settle(project, hour, keys)
    return closer().settle(project, hour, keys, int(time.time()))


@cache
def reconciler() -> Reconciler:
    return Reconciler(
        contracts(),
        history(),
        lake(),
        dirty_hours(),
        consolidator(),
        closer(),
        sessionizer(),
        settings().stage,
    )


@cache
def importer() -> Importer:
    def settle_hour(project: str, hour: str) -> bool:
        done = consolidator().consolidate(project, hour, int(time.time() * 1000))
        sessionizer().settle(project, hour, done.files.keys)
        events = lake().events(done.files.keys)
        return closer().close(project, hour, events, int(time.time())).closed and consolidator().finish(done)

    def close_days(project: str, days: Collection[str]) -> None:
        closer().close_days(project, int(time.time()), days)

    new_days = NewDays(client("dynamodb"), settings().rollups_table)

    def count_sessions(project: str, days: Sequence[str], written: Mapping[str, Written]) -> None:
        sessionizer().settle_days(project, days, written, new_days.put)

    backfiller = Backfiller(
        lake(),
        dirty_hours(),
        new_days,
        contracts(),
        closer().fold,
        settle_hour,
        close_days,
        closed_table().forget_day,
        sessionizer().keep,
        count_sessions,
    )
    admitter = Admitter(contracts(), new_event_id)
    return Importer(
        data_bucket(),
        lake(),
        imports_table(),
        admitter,
        access_table().owner,
        backfiller.store,
        notices(),
        erased_users(),
        pins_table(),
    )


@cache
def eraser() -> Eraser:
    def rewrite(project: str, hour: str, at_ms: int, without: UserRows) -> bool:
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
        lake=lake(),
        dirty=dirty_hours(),
        rewrite=rewrite,
        settled=lambda project, day, at_ms: closer().is_cleaned(project, day, at_ms // 1000),
        arrivals=access_table().arrivals,
        importing=imports_table().going_on,
        stage=settings().stage,
        now=now_ms,
    )


@cache
def detector() -> Detector:
    hours = RollupHistory(contracts(), history())
    return Detector(access_table().names, hours, contracts(), anomalies_table(), notices(), control_table(), sockets())
