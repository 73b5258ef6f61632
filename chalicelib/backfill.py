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

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.facets import ALL_TYPES, COUNTS, DERIVED, all_types, facets_of, is_empty, part_of
from chalicelib.domain.imports import Import, Stored
from chalicelib.domain.partitions import TAIL, hour_file_name, hour_folder, import_tail_name, version_name
from chalicelib.domain.rollups import Rollup, Rollups
from chalicelib.domain.time_windows import DAY_MS, HOUR_MS, hour_of, hour_start_ms
from chalicelib.storage.closed_table import DAY, HOUR, WHOLE, Closed, one
from chalicelib.storage.dirty_hours import DirtyHours, Unsettled
from chalicelib.storage.history import total_of
from chalicelib.storage.lake import Lake, SortedFile, events_of, together
from chalicelib.storage.new_days import NewDays
from chalicelib.storage.session_files import Written

SETTLE_MS = 10 * 60_000  # after an hour's end, as `consolidate` waits
LEASE_MS = 15 * 60_000  # of another run's consolidation
DAY_ROWS = 200_000  # of a day that is held as a whole; a larger one goes hour by hour, and file by file
STORE_SECONDS = 600  # of the function's 900: hours that are not closed by then are left to the hourly workflow
WRITERS = 8  # files that are put at the same time

log = logging.getLogger(__name__)

Fold = Callable[[str, str, Callable[[], Iterable[dict[str, Any]]]], Rollups]


@dataclass(frozen=True, slots=True)
class Backfiller:
    """Takes ranges of days; times are epoch milliseconds."""

    lake: Lake
    dirty: DirtyHours
    days: NewDays
    contracts: Contracts
    fold: Fold
    settle: Callable[[str, str], bool]  # consolidates and closes an hour; False when it stays dirty
    close_days: Callable[[str, Collection[str]], object]
    forget_day: Callable[[str, str, str], bool]  # the note that the items of a day lack something
    keep_sessions: Callable[[str, str, Iterable[dict[str, Any]]], Written | None]  # of an hour of a new day, and then …
    count_sessions: Callable[[str, Sequence[str], Mapping[str, Written]], object]  # … of all new days of a range
    clock: Callable[[], float] = time.monotonic

    def store(self, whose: Import, files: Sequence[str], first: str, last: str, number: int, now_ms: int) -> Stored:
        """Store the events of the sorted files from day `first` to `last`, both included.

        Every event is in the lake when this returns; hours that are not closed are dirty, so that they will be.
        """
        work = _Work(whose, f"{whose.id}.{number}", now_ms, self.clock() + STORE_SECONDS)
        begin, end = hour_start_ms(f"{first}T00"), hour_start_ms(f"{last}T00") + DAY_MS
        sources = self.lake.sorted_files(files, begin, end)
        for start in range(begin, end, DAY_MS):
            self._day(work, sources, start)
        if work.days:
            self.count_sessions(whose.project, list(work.days), work.sessions)
        for day, versions in work.days.items():
            if self.days.finish(whose.project, versions, work.run, work.now_ms):
                # A newer note is of the neighbouring range, whose sessions reach into this day: it lacks those.
                if not self.forget_day(whose.project, day, work.run):
                    work.lacking.add(day)
            else:
                log.warning("somebody came in between", extra={"project": whose.project, "day": day})
                work.lacking.add(day)
                known = {
                    state.hour: state for state in self.dirty.between(whose.project, *_ends(hour_start_ms(f"{day}T00")))
                }
                for hour in versions:
                    self._settle(work, hour, known.get(hour))
        if work.lacking:
            self.close_days(whose.project, work.lacking)
        log.info("days stored", extra={"project": whose.project, "import": whose.id, "first": first, **work.counts()})
        return Stored(work.stored, work.duplicates, work.waiting)

    def _day(self, work: "_Work", files: Sequence[SortedFile], start: int) -> None:
        rows = sum(file.rows_between(start, start + DAY_MS) for file in files)
        if not rows:
            return
        day = hour_of(start)[:10]
        if rows > DAY_ROWS:
            work.lacking.add(day)
            for hour_start in range(start, start + DAY_MS, HOUR_MS):
                self._large_hour(work, files, hour_start)
            return
        table = together([file.between(start, start + DAY_MS) for file in files])
        if not table.num_rows:  # there are `rows` at most
            return
        hours = {hour: _each_once(part) for hour, part in _by_hour(table)}
        work.duplicates += table.num_rows - sum(part.num_rows for part in hours.values())
        if start + DAY_MS + SETTLE_MS <= work.now_ms and self._new_day(work, day, hours):
            work.stored += sum(part.num_rows for part in hours.values())
            return
        work.lacking.add(day)
        known = {state.hour: state for state in self.dirty.between(work.project, *_ends(start))}
        for hour, part in hours.items():
            self._add(work, hour, part, known.get(hour), 0)
            self._settle(work, hour, known.get(hour))

    def _large_hour(self, work: "_Work", files: Sequence[SortedFile], start: int) -> None:
        hour = hour_of(start)
        state = next(iter(self.dirty.between(work.project, hour, hour)), None)
        for number, file in enumerate(files):
            table = file.between(start, start + HOUR_MS)
            if table.num_rows:
                once = _each_once(table)
                work.duplicates += table.num_rows - once.num_rows
                self._add(work, hour, once, state, number)
        self._settle(work, hour, state)

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
            written = writers.map(
                lambda hour: self.lake.write_table(
                    hour_folder(project, hour) + hour_file_name(version, 0), hours[hour]
                ),
                hours,
            )
            items = list(self._closed(work, day, hours))
            list(written)  # raises what a writer raised
        if self.days.put(project, items):
            work.days[day] = dict.fromkeys(hours, version)
            return True
        log.warning("somebody came in between", extra={"project": project, "day": day})
        return False

    def _closed(self, work: "_Work", day: str, hours: dict[str, pa.Table]) -> Iterator[tuple[str, str, str, Closed]]:
        """Event type, facet, grain and item of everything that is kept of the day."""
        of_facet: dict[tuple[str, str], list[Closed]] = defaultdict(list)
        for hour, table in hours.items():
            events = list(events_of(table.to_batches()))
            if written := self.keep_sessions(work.project, hour, events):
                work.sessions[hour] = written
            truth = self.fold(work.project, hour, events.__iter__)
            for event_type, rollup in (*truth.items(), (ALL_TYPES, all_types(truth))):
                spec = DERIVED[ALL_TYPES] if event_type == ALL_TYPES else self.contracts.spec(event_type)
                for facet in facets_of(spec):
                    part = part_of(rollup, facet)
                    if not is_empty(part):
                        of_facet[event_type, facet].append(one(hour, 0, part, 0))
        for (event_type, facet), items in of_facet.items():
            covers = {item.start: 0 for item in items}
            if facet == COUNTS:
                by_hour: dict[str, Rollup] = {item.start: item.rollups[WHOLE] for item in items}
                yield event_type, facet, DAY, Closed(day, covers, Rollups(by_hour))
                continue
            for item in items:
                yield event_type, facet, HOUR, item
            yield event_type, facet, DAY, Closed(day, covers, Rollups({WHOLE: total_of(items)}))

    # An hour that may have something

    def _add(self, work: "_Work", hour: str, table: pa.Table, state: Unsettled | None, number: int) -> None:
        """Put what the hour does not hold yet beside what it holds."""
        files = self.lake.files(hour_folder(work.project, hour))
        new, ours = self._unknown(work, hour, files, table)
        work.stored += new.num_rows + ours
        work.duplicates += table.num_rows - new.num_rows - ours
        absorbed = state.retired_names if state else set()
        tail = next((name for name in files if name.startswith(TAIL) and name not in absorbed), None)
        if new.num_rows:
            tail = import_tail_name(work.import_seconds, f"{work.run}.{number}", new.num_rows)
            self.lake.write_table(hour_folder(work.project, hour) + tail, new)
        if tail is not None:  # also one that somebody has put and died: until it is noted, nobody looks for it
            self.dirty.note(work.project, hour, tail)
            work.touched.add(hour)

    def _unknown(self, work: "_Work", hour: str, files: Iterable[str], table: pa.Table) -> tuple[pa.Table, int]:
        """The rows whose ids no file of the hour has, and how many of the others an earlier try has put there.

        A folder never loses an id: a file is deleted when another one has its rows.
        """
        folder = hour_folder(work.project, hour)
        known: dict[str, bool] = {}
        ours = work.whose.started_ms * 1000
        for name in files:
            try:
                for batch in self.lake.batches([folder + name], ["event_id", "received_at"]):
                    received = pc.cast(batch.column("received_at"), pa.int64()).to_pylist()
                    for event_id, at in zip(batch.column("event_id").to_pylist(), received, strict=True):
                        known[event_id] = known.get(event_id, False) or at == ours
            except FileNotFoundError:
                return table, 0
        ids = table.column("event_id").to_pylist()
        new = table.filter(pa.array([event_id not in known for event_id in ids], pa.bool_()))
        return new, sum(known.get(event_id, False) for event_id in ids)

    def _settle(self, work: "_Work", hour: str, state: Unsettled | None) -> None:
        """Have the hour consolidated and closed, where it may be now, and anything is new."""
        if hour not in work.touched and (state is None or state.tail is None):
            return
        work.touched.add(hour)
        over = hour_start_ms(hour) + HOUR_MS + SETTLE_MS <= work.now_ms
        if not over or self.clock() >= work.until or _is_leased(state, work):
            work.waiting += 1
            return
        try:
            if not self.settle(work.project, hour):
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

    @property
    def import_seconds(self) -> int:
        return self.whose.started_ms // 1000

    def counts(self) -> dict[str, int]:
        """For logs."""
        return {"stored": self.stored, "duplicates": self.duplicates, "waiting": self.waiting}


def _is_leased(state: Unsettled | None, work: _Work) -> bool:
    """Whether another run is at work on the hour; an earlier try of this one is not."""
    if state is None or state.began_at is None or (state.run or "").startswith(work.whose.id):
        return False
    return state.began_at + LEASE_MS > work.now_ms


def _ends(start: int) -> tuple[str, str]:
    return hour_of(start), hour_of(start + DAY_MS - HOUR_MS)


def _by_hour(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The sorted rows by their hour."""
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
