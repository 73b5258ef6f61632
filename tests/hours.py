"""What takes hours to their end, on any clients: those of a process that dies, or is watched, too."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from chalicelib.close import Closer
from chalicelib.consolidate import Consolidator
from chalicelib.domain.contracts import Contracts
from chalicelib.finish import Finisher
from chalicelib.rearchive import Rearchiver
from chalicelib.sessionize import Sessionizer
from chalicelib.storage.closed_table import ClosedTable
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.erasures_table import ErasuresTable
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.hour_folders import HourFolders
from chalicelib.storage.hours_table import HoursTable
from chalicelib.storage.lake import Lake
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.record_sets import RecordSets
from chalicelib.storage.rollups_table import RollupsTable
from chalicelib.storage.session_files import SessionFiles

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
