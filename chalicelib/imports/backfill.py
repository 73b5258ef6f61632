"""Puts imported events into the lake and into the closed rollups, a day at a time.

A day of which nothing is known is written as it will stay: each hour's file, its closed items, and the day's. An hour
that has something already gets a tail file with what is new in it, and is consolidated and closed as the schedule
would do it. Both end in the same state; the first takes a hundredth of the requests, and a year has 8,760 hours.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chalicelib.base import waits
from chalicelib.base.object_keys import TAIL, hour_file_name, hour_folder, import_tail_name, version_name
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, day_of, day_start_ms, hour_of, hour_start_ms
from chalicelib.events.contracts import Contracts
from chalicelib.hours.new_days import NEW_COVER, NewDays
from chalicelib.hours.session_files import Written
from chalicelib.imports.imports import Import, Stored
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import Lake, SortedFile, encode, events_of, together
from chalicelib.rollups.closed_table import DAY, HOUR, WHOLE, Closed, one
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.facets import ALL_TYPES, COUNTS, DERIVED, all_types, content_of, facets_of, is_empty
from chalicelib.rollups.history import total_of
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.rollups import Rollup, Rollups

DAY_ROWS = 200_000  # of a day that is held as a whole; a larger one goes hour by hour, and file by file
STORE_SECONDS = 600  # of the function's 900: hours that are not closed by then are left to the hourly workflow
WRITERS = 8  # files that are put at the same time

log = logging.getLogger(__name__)

Fold = Callable[[str, str, Callable[[], Iterable[dict[str, Any]]]], Rollups]


@dataclass(frozen=True, slots=True)
class Backfiller:
    """Takes ranges of days; times are Unix milliseconds."""

    lake: Lake
    folders: HourFolders
    hours: HoursTable
    days: NewDays
    contracts: Contracts
    fold: Fold
    finish: Callable[[str, str], bool]  # consolidates and closes an hour; False when it stays dirty
    close_days: Callable[[str, Collection[str]], object]
    forget_day: Callable[[str, str, str], bool]  # the note that the items of a day lack something
    keep_sessions: Callable[[str, str, str, Iterable[dict[str, Any]]], Written | None]  # of an hour of a new day, …
    count_sessions: Callable[[str, Sequence[str], Mapping[str, Written]], object]  # … and then of all days of a range
    clock: Callable[[], float] = time.monotonic

    def store(self, whose: Import, files: Sequence[str], first: str, last: str, number: int, now_ms: int) -> Stored:
        """Store the events of the sorted files from day `first` to `last`, both included.

        Every event is in the lake when this returns; hours that are not closed are dirty, so that they will be.
        """
        work = _Work(whose, f"{whose.id}.{number}", now_ms, self.clock() + STORE_SECONDS)
        begin, end = day_start_ms(first), day_start_ms(last) + DAY_MS
        sources = self.lake.sorted_files(files, begin, end)
        for start in range(begin, end, DAY_MS):
            self._day(work, sources, start)
        if work.days:
            self.count_sessions(whose.project, list(work.days), work.sessions)
        for day, versions in work.days.items():
            if self.days.finish(whose.project, versions, work.now_ms):
                # A newer note is of the neighbouring range, whose sessions reach into this day: it lacks those.
                if not self.forget_day(whose.project, day, work.run):
                    work.lacking.add(day)
            else:
                log.warning("somebody came in between", extra={"project": whose.project, "day": day})
                work.lacking.add(day)
                self._finish_hours(work, versions)
        if work.lacking:
            self.close_days(whose.project, work.lacking)
        log.info("days stored", extra={"project": whose.project, "import": whose.id, "first": first, **work.counts()})
        return Stored(work.stored, work.duplicates, work.waiting)

    def _day(self, work: "_Work", files: Sequence[SortedFile], start: int) -> None:
        rows = sum(file.rows_between(start, start + DAY_MS) for file in files)
        if not rows:
            return
        day = day_of(hour_of(start))
        if rows > DAY_ROWS:
            work.lacking.add(day)
            for hour_start in range(start, start + DAY_MS, HOUR_MS):
                self._large_hour(work, files, hour_start)
            return
        table = together([file.between(start, start + DAY_MS) for file in files])
        if not table.num_rows:  # there are `rows` at most
            return
        hours = {hour: _each_once(found) for hour, found in _by_hour(table)}
        work.duplicates += table.num_rows - sum(found.num_rows for found in hours.values())
        if start + DAY_MS + waits.ARRIVAL_MS <= work.now_ms and self._new_day(work, day, hours):
            work.stored += sum(found.num_rows for found in hours.values())
            return
        work.lacking.add(day)
        for hour, found in hours.items():
            self._add(work, hour, found)
            self._finish(work, hour)

    def _large_hour(self, work: "_Work", files: Sequence[SortedFile], start: int) -> None:
        hour = hour_of(start)
        for file in files:
            table = file.between(start, start + HOUR_MS)
            if table.num_rows:
                once = _each_once(table)
                work.duplicates += table.num_rows - once.num_rows
                self._add(work, hour, once)
        self._finish(work, hour)

    # A day of which nothing is known

    def _new_day(self, work: "_Work", day: str, hours: dict[str, pa.Table]) -> bool:
        """Write the day as a whole, but for its sessions; False when something is there, or came in between."""
        project = work.project
        if self.lake.files_of_day(project, day) or not self.days.is_new(project, day):
            return False
        if not self.days.take(project, day, list(hours), work.run, work.now_ms):
            return False
        version = version_name(work.now_ms, work.run)
        with ThreadPoolExecutor(WRITERS) as writers:
            written = writers.map(lambda hour: self.lake.put(_file(project, hour, version), encode(hours[hour])), hours)
            items = list(self._closed(work, day, hours, version))
            list(written)  # raises what a writer raised
        if self.days.put(project, items):
            work.days[day] = dict.fromkeys(hours, version)
            return True
        log.warning("somebody came in between", extra={"project": project, "day": day})
        return False  # the day is added hour by hour: files that no hour's item names are nobody's

    def _finish_hours(self, work: "_Work", versions: Mapping[str, str]) -> None:
        """Have hours of a new day whose files are written, and which somebody else came into, finished one by one."""
        for hour, version in versions.items():
            key = _file(work.project, hour, version)
            content = self.lake.bucket.get(key)
            if content is not None:
                name = import_tail_name(work.run, content)
                self.lake.put(hour_folder(work.project, hour) + name, content)
                self.hours.note(work.project, hour)
                self.lake.delete(key)
            work.touched.add(hour)
            self._finish(work, hour)

    def _closed(
        self, work: "_Work", day: str, hours: dict[str, pa.Table], version: str
    ) -> Iterator[tuple[str, str, str, Closed]]:
        """Event type, facet, grain and item of everything that is kept of the day."""
        of_facet: dict[tuple[str, str], list[Closed]] = defaultdict(list)
        for hour, table in hours.items():
            events = list(events_of(table.to_batches()))
            if written := self.keep_sessions(work.project, hour, version, events):
                work.sessions[hour] = written
            truth = self.fold(work.project, hour, events.__iter__)
            for event_type, rollup in (*truth.items(), (ALL_TYPES, all_types(truth))):
                spec = DERIVED[ALL_TYPES] if event_type == ALL_TYPES else self.contracts.spec(event_type)
                for facet in facets_of(spec):
                    content = content_of(rollup, facet)
                    if not is_empty(content):
                        of_facet[event_type, facet].append(one(hour, NEW_COVER, content, 0))
        for (event_type, facet), items in of_facet.items():
            covers = {item.start: NEW_COVER for item in items}
            if facet == COUNTS:
                by_hour: dict[str, Rollup] = {item.start: item.rollups[WHOLE] for item in items}
                yield event_type, facet, DAY, Closed(day, covers, Rollups(by_hour))
                continue
            for item in items:
                yield event_type, facet, HOUR, item
            yield event_type, facet, DAY, Closed(day, covers, Rollups({WHOLE: total_of(items)}))

    # An hour that may have something

    def _add(self, work: "_Work", hour: str, table: pa.Table) -> None:
        """Put what the hour does not hold yet beside what it holds."""
        _, keys = self.folders.keys(self.hours, work.project, hour)
        new, ours = self._unknown(work, keys, table)
        work.stored += new.num_rows + ours
        work.duplicates += table.num_rows - new.num_rows - ours
        if new.num_rows:
            content = encode(new)
            self.lake.put(hour_folder(work.project, hour) + import_tail_name(work.run, content), content)
        # Also of a tail that an earlier try has put and died: until it is noted, nobody looks for it.
        if new.num_rows or any(TAIL in key for key in keys):
            self.hours.note(work.project, hour)
            work.touched.add(hour)

    def _unknown(self, work: "_Work", keys: Iterable[str], table: pa.Table) -> tuple[pa.Table, int]:
        """The rows whose ids none of the hour's files has, and how many of the others an earlier try has put there.

        An hour never loses an id: a file is replaced by one that has its rows.
        """
        known: dict[str, bool] = {}
        ours = work.whose.started_ms * 1000
        for key in keys:
            try:
                for batch in self.lake.batches([key], ["event_id", "received_at"]):
                    received = pc.cast(batch.column("received_at"), pa.int64()).to_pylist()
                    for event_id, at in zip(batch.column("event_id").to_pylist(), received, strict=True):
                        known[event_id] = known.get(event_id, False) or at == ours
            except FileNotFoundError:
                return table, 0
        ids = table.column("event_id").to_pylist()
        new = table.filter(pa.array([event_id not in known for event_id in ids], pa.bool_()))
        return new, sum(known.get(event_id, False) for event_id in ids)

    def _finish(self, work: "_Work", hour: str) -> None:
        """Have the hour finished, where it may be now, and anything is new."""
        state = self.hours.get(work.project, hour)
        if not state.is_dirty:
            return
        work.touched.add(hour)
        over = hour_start_ms(hour) + HOUR_MS + waits.ARRIVAL_MS <= work.now_ms
        if not over or self.clock() >= work.until or _is_taken(state, work):
            work.waiting += 1
            return
        try:
            if not self.finish(work.project, hour):
                work.waiting += 1
        except Exception as error:  # noqa: BLE001 - the hour is dirty, so the hourly workflow does it again
            log.warning("hour left for later", extra={"project": work.project, "hour": hour, "reason": repr(error)})
            work.waiting += 1


@dataclass(slots=True)
class _Work:
    """One range, and what became of it so far."""

    whose: Import
    run: str
    now_ms: int
    until: float
    stored: int = 0
    duplicates: int = 0
    waiting: int = 0
    touched: set[str] = field(default_factory=set)
    lacking: set[str] = field(default_factory=set)  # days whose items may have to be put together from their hours
    days: dict[str, dict[str, str]] = field(default_factory=dict)  # new ones, with the version of each hour's file
    sessions: dict[str, Written] = field(default_factory=dict)  # the parts of their hours

    @property
    def project(self) -> str:
        return self.whose.project

    def counts(self) -> dict[str, int]:
        """For logs."""
        return {"stored": self.stored, "duplicates": self.duplicates, "waiting": self.waiting}


def _is_taken(hour: Hour, work: _Work) -> bool:
    """Return whether another run is at work on the hour."""
    return hour.began_ms > hour.consolidated_ms and hour.began_ms + waits.TURN_MS > work.now_ms > hour.began_ms


def _file(project: str, hour: str, version: str) -> str:
    return hour_folder(project, hour) + hour_file_name(version, 0)


def _by_hour(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the sorted rows by their hour."""
    if not table.num_rows:
        return
    numbers = np.asarray(pc.cast(table.column("occurred_at"), pa.int64())) // (HOUR_MS * 1000)
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), table.num_rows]
    for first, end in pairwise(cuts):
        yield hour_of(int(numbers[first]) * HOUR_MS), table.slice(first, end - first)


def _each_once(table: pa.Table) -> pa.Table:
    """The sorted rows of an hour without later ones of the same event: of what came together the first is kept."""
    ids = table.column("event_id").to_pylist()
    if len(set(ids)) == len(ids):
        return table
    seen: set[str] = set()
    first = []
    for event_id in ids:
        first.append(event_id not in seen)
        seen.add(event_id)
    return table.filter(pa.array(first))
