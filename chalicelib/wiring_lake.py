"""Puts the stages together that work on the lake or with arrays.

By itself, because pyarrow and numpy are in the layer of some functions only, and take longer to load than all else:
who needs a stage of these imports this module then and there.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial

from chalicelib.archive import Archiver
from chalicelib.backfill import Backfiller
from chalicelib.close import Closer
from chalicelib.consolidate import Consolidator, Overtaken
from chalicelib.detect import Detector
from chalicelib.domain.events import Admitter
from chalicelib.erase import Eraser
from chalicelib.finish import Finisher
from chalicelib.forget import Forgetter
from chalicelib.importing import Importer
from chalicelib.rearchive import Rearchiver
from chalicelib.reconcile import Reconciler
from chalicelib.sessionize import Sessionizer
from chalicelib.storage.hour_folders import HourFolders
from chalicelib.storage.lake import Lake
from chalicelib.storage.new_days import NewDays
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.record_sets import RecordSets
from chalicelib.storage.rollup_history import RollupHistory
from chalicelib.storage.session_files import SessionFiles, Written
from chalicelib.wiring import (
    access_table,
    anomalies_table,
    client,
    closed_table,
    collector,
    connections_table,
    contracts,
    data_bucket,
    erased_users,
    erasures_table,
    events_table,
    history,
    hours_table,
    imports_table,
    new_event_id,
    notices,
    now_ms,
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
    return Archiver(lake(), hours_table(), erased_users())


@cache
def hour_folders() -> HourFolders:
    return HourFolders(data_bucket())


@cache
def finisher() -> Finisher:
    new_run = partial(secrets.token_hex, 4)
    folders, records = hour_folders(), RecordSets(data_bucket())
    consolidator = Consolidator(lake(), folders, records, hours_table(), erased_users(), erasures_table(), new_run)
    sessionizer = Sessionizer(lake(), SessionFiles(data_bucket()), closed_table(), new_run)
    return Finisher(hours_table(), consolidator, sessionizer, closer(), settings().stage)


@cache
def closer() -> Closer:
    rearchiver = Rearchiver(events_table(), lake(), hour_folders(), hours_table(), erased_users(), settings().stage)
    return Closer(
        contracts(),
        rollups_table(),
        hours_table(),
        closed_table(),
        lake(),
        hour_folders(),
        settings().stage,
        rearchiver.is_incomplete,
    )


@cache
def reconciler() -> Reconciler:
    return Reconciler(
        contracts(),
        history(),
        lake(),
        hour_folders(),
        hours_table(),
        finisher(),
        settings().stage,
    )


@cache
def importer() -> Importer:
    def finish(project: str, hour: str) -> bool:
        return finisher().finish(project, hour, now_ms()).closed

    def close_days(project: str, days: Collection[str]) -> None:
        closer().close_days(project, now_ms(), days)

    new_days, sessionizer = NewDays(client("dynamodb"), settings().rollups_table), finisher().sessionizer

    def count_sessions(project: str, days: Sequence[str], written: Mapping[str, Written]) -> None:
        sessionizer.count_days(project, days, written, new_days.put)

    backfiller = Backfiller(
        lake(),
        hour_folders(),
        hours_table(),
        new_days,
        contracts(),
        closer().fold,
        finish,
        close_days,
        closed_table().forget_day,
        sessionizer.keep,
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
    )


@cache
def eraser() -> Eraser:
    def rewrite(project: str, hour: str, at_ms: int) -> bool:
        try:
            finisher().finish(project, hour, at_ms, anew=True)
        except Overtaken:
            return False
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
        hours=hours_table(),
        folders=hour_folders(),
        rewrite=rewrite,
        clean=finisher().clean_day,
        arrivals=access_table().arrivals,
        importing=imports_table().going_on,
        stage=settings().stage,
        now=now_ms,
    )


@cache
def detector() -> Detector:
    hours = RollupHistory(contracts(), history())
    return Detector(
        access_table().names, hours, contracts(), anomalies_table(), notices(), connections_table(), sockets()
    )
