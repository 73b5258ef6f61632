"""What takes hours to their end, on any clients: those of a process that dies, or is watched, too."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from chalicelib.base.data_bucket import DataBucket
from chalicelib.events.contracts import Contracts
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.erasures_table import ErasuresTable
from chalicelib.events.events_table import EventsTable
from chalicelib.hours.close import Closer
from chalicelib.hours.consolidate import Consolidator
from chalicelib.hours.finish import Finisher
from chalicelib.hours.rearchive import Rearchiver
from chalicelib.hours.session_files import SessionFiles
from chalicelib.hours.sessionize import Sessionizer
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import Lake
from chalicelib.lake.record_sets import RecordSets
from chalicelib.rollups.closed_table import ClosedTable
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.rollups_table import RollupsTable

RUNS = count()  # each has a name of its own, whichever process it is of


def finisher_of(
    contracts: Contracts,
    dynamodb: Any,
    s3: Any,
    now_ms: Callable[[], int],
    runs: Iterator[int] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    *,
    places: tuple[str, str, str, str] = ("data", "rollups", "control", "events"),
) -> Finisher:
    """A finisher on the tables and the bucket of tests/stores, or on others of these kinds."""
    runs = runs or RUNS
    data, rollups, control, events = places
    bucket = DataBucket(s3, data)
    lake, folders = Lake(bucket), HourFolders(bucket)
    hours = HoursTable(dynamodb, rollups, clock=lambda: now_ms() / 1000, sleep=lambda _: None)
    closed, erased = ClosedTable(dynamodb, rollups), ErasedUsers(dynamodb, control)
    rearchiver = Rearchiver(EventsTable(dynamodb, events), lake, folders, hours, erased, "test", None)
    closer = Closer(
        contracts,
        RollupsTable(dynamodb, rollups, clock=lambda: now_ms() / 1000),
        hours,
        closed,
        lake,
        folders,
        "test",
        rearchiver.is_incomplete,
    )
    records, erasures = RecordSets(bucket), ErasuresTable(dynamodb, control)
    consolidator = Consolidator(lake, folders, records, hours, erased, erasures, lambda: f"run{next(runs)}", clock)
    sessionizer = Sessionizer(lake, SessionFiles(bucket), closed, lambda: f"token{next(runs)}")
    return Finisher(hours, consolidator, sessionizer, closer, "test", clock)
