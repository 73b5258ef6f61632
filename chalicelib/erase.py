"""Every few minutes: the erasures that were asked for go on, until nothing of their users is left anywhere.

A run takes each one as far as it can: whose ids are meant is settled, and markers are put that drop what still arrives;
what the tables and the smaller files have is removed; the lake is looked through, day by day, and each hour that has
rows of the users is consolidated without them and closed again, so that metrics and SQL go on to agree. The files
before that are deleted when no query can be reading them any more; a last look finds nothing then. Every step may run
any number of times, and die at any point.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from chalicelib import metrics
from chalicelib.domain.erasure import (
    FOR_EVER_MS,
    READY_MS,
    Arrivals,
    Erasure,
    Marker,
    State,
    digest_of_user,
)
from chalicelib.domain.partitions import hour_folder
from chalicelib.domain.time_windows import HOUR_MS, from_ms, hour_of, hour_start_ms, hours_between
from chalicelib.storage.dirty_hours import DirtyHours, Unsettled
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.erasures_table import ErasuresTable
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.lake import Lake
from chalicelib.storage.user_rows import UserRows
from chalicelib.storage.users_table import UsersTable

SETTLED_MS = 10 * 60_000  # after an hour's end, it is written again at the earliest: most of its events are there
BUSY_MS = 15 * 60_000  # what another run may take with an hour
GRACE_MS = 65 * 60_000  # after that, files that were absorbed are deleted
FUNCTION_SECONDS = 780  # of the function's 900
BYTES_PER_SECOND = 1024 * 1024  # of Parquet written again, closed and cut into sessions: a careful guess
RESULTS_DAYS = 7  # as long as the results bucket and what was asked are kept
IMPORT_MS = 24 * HOUR_MS  # none goes on for longer

log = logging.getLogger(__name__)

Places = Mapping[str, Callable[[str, Sequence[str]], int]]  # by name: removes, of a project, some ids; how many it was
Rewrite = Callable[[str, str, int, UserRows], object]  # an hour, without the rows; and has it closed again


@dataclass(frozen=True, slots=True)
class Eraser:
    """Does the work; times are epoch milliseconds.

    `files` has what is looked through once nothing arrives any more. `seconds` is what a run may take; None: for ever.
    """

    table: ErasuresTable
    erased: ErasedUsers
    events: EventsTable
    users: UsersTable
    files: Places
    forget_queries: Callable[[str, datetime], int]  # of a project, those that expire before a time
    lake: Lake
    dirty: DirtyHours
    rewrite: Rewrite
    arrivals: Callable[[str], Arrivals]
    importing_since: Callable[[str], int | None]  # when the oldest import that goes on began
    stage: str
    seconds: float | None = FUNCTION_SECONDS
    clock: Callable[[], float] = time.monotonic

    def run(self, now_ms: int) -> int:
        """Take every open erasure as far as it goes; returns how many are done.

        Raises an ExceptionGroup, after all the others had their turn, when one failed; the next run tries it again.
        """
        started = self.clock()
        open_ones = self.table.open()
        leased = [one for one in open_ones if self.table.lease(one, now_ms)]
        failures: list[Exception] = []
        for group in _together(leased):
            try:
                self._go_on(group, now_ms, started)
            except Exception as error:  # noqa: BLE001 - one project's trouble must not keep all others from their turn
                log.warning("erasure failed", extra={"project": group[0].project, "reason": repr(error)})
                failures.append(error)
        for one in leased:
            self.table.release(one)
        oldest = min((one.requested_ms for one in open_ones), default=now_ms)
        metrics.emit(self.stage, now_ms, {"ErasureOldestSeconds": (now_ms - oldest) // 1000})
        if failures:
            raise ExceptionGroup(f"{len(failures)} erasures failed", failures)
        return len(open_ones) - len(self.table.open())

    def _go_on(self, group: list[Erasure], now_ms: int, started: float) -> None:
        """Erasures of one project that are at the same point."""
        first = group[0]
        if first.state is State.REQUESTED:
            for one in group:
                self._begin(one, now_ms)
        elif first.state is State.REMOVING:
            removed = [self._remove(one, now_ms) for one in group]
            if all(removed):
                self._sweep(group, now_ms, started)
        else:
            for one in group:
                self._look_again(one, now_ms, started)

    def _begin(self, one: Erasure, now_ms: int) -> None:
        ids = self.users.ids_of(one.project, str(one.user))
        until_ms = FOR_EVER_MS if self.arrivals(one.project) is Arrivals.DROP else now_ms + READY_MS
        for each in ids:
            self.erased.put(one.project, Marker(digest_of_user(one.project, each), now_ms, until_ms))
        self.table.begin(one, ids, now_ms, until_ms)
        self._forget(one, ids)

    def _remove(self, one: Erasure, now_ms: int) -> bool:
        """Whether nothing of the user is left outside of the lake, nor arrives any more."""
        if one.files_done:
            return True
        self._forget(one, one.ids)
        ready_ms = (one.marked_ms or now_ms) + READY_MS
        since = self.importing_since(one.project)
        # An import that began before may store what it judged then.
        if now_ms < ready_ms or (since is not None and now_ms - IMPORT_MS < since < ready_ms):
            return False
        self._clear(one)
        self.table.files_done(one)
        return True

    def _clear(self, one: Erasure) -> int:
        """Look through the smaller files; returns how much was removed."""
        found = {name: remove(one.project, one.ids) for name, remove in self.files.items()}
        for name, count in found.items():
            self.table.removed(one, name, count)
        return sum(found.values())

    def _forget(self, one: Erasure, ids: Sequence[str]) -> None:
        """Remove what the events table has, the links first: they say where their other ends are."""
        for each in ids:
            self.table.removed(one, "identity_links", self.users.unlink(one.project, each))
        for each in ids:
            self.table.removed(one, "hot_store", self.events.forget(one.project, each))

    def _sweep(self, group: list[Erasure], now_ms: int, started: float) -> None:
        """Look through the lake, from where the last run stopped."""
        project, since = group[0].project, group[0].next_day
        last_hour = hour_of(max((one.marked_ms or now_ms) for one in group) + READY_MS)  # nothing occurs later
        for day in self.lake.days(project):
            if not since <= day <= last_hour[:10]:
                continue
            for one in group:
                self.table.swept_before(one, day)
            if not self._clean(group, day, now_ms, started)[1]:
                return
        if hour_start_ms(last_hour) + HOUR_MS + SETTLED_MS > now_ms:  # its events may come into the lake yet
            return
        for one in group:
            self.table.swept(one, now_ms)

    def _look_again(self, one: Erasure, now_ms: int, started: float) -> None:
        """Once what was absorbed is deleted: look at the days with a find, until there is none."""
        due_ms = (one.swept_ms or 0) + GRACE_MS
        if now_ms < due_ms or any(at <= due_ms for state in self.dirty.of(one.project) for at in state.retired):
            return
        looked = [self._clean([one], day, now_ms, started) for day in sorted(one.days)]
        left = self._clear(one) + sum(found for found, _ in looked)
        if not left and all(complete for _, complete in looked):
            # Before the lake was looked through; what was asked since has not seen the user.
            before = from_ms(one.swept_ms or now_ms) + timedelta(days=RESULTS_DAYS)
            self.table.removed(one, "query_results", self.forget_queries(one.project, before))
            self.table.finish(one, now_ms)
            log.info("erased", extra={"project": one.project, "erasure": one.id})

    def _clean(self, group: list[Erasure], day: str, now_ms: int, started: float) -> tuple[bool, bool]:
        """Have each hour of the day without the users' rows: (whether a file has one still, whether all was done)."""
        project = group[0].project
        owner = {user: one for one in group for user in one.ids}
        rows = UserRows({user: until for one in group for user, until in one.until.items()})
        unsettled = {state.hour: state for state in self.dirty.between(project, f"{day}T00", f"{day}T23")}
        start_ms = hour_start_ms(f"{day}T00")
        found, complete = False, True
        for hour in hours_between(start_ms, start_ms + 24 * HOUR_MS):
            folder, state = hour_folder(project, hour), unsettled.get(hour)
            files = self.lake.files(folder)
            theirs = {name: self.lake.rows_of(folder + name, size, rows) for name, size in files.items()}
            found |= any(theirs.values())
            absorbed = state.retired_names if state else set()
            current = sum((users for name, users in theirs.items() if name not in absorbed), Counter[str]())
            if not current:
                continue
            counts = Counter[str]()
            for user, count in current.items():
                counts[owner[user].id] += count
            whose = [one for one in group if counts[one.id]]
            for one in whose:
                self.table.found_on(one, day)
            if not _is_free(hour, state, now_ms) or not self._fits(hour, sum(files.values()), started):
                complete = False
                continue
            self.rewrite(project, hour, now_ms + int((self.clock() - started) * 1000), rows)
            for one in whose:
                self.table.removed(one, "lake", counts[one.id])
        return found, complete

    def _fits(self, hour: str, size_bytes: int, started: float) -> bool:
        if self.seconds is None or self.clock() - started + size_bytes / BYTES_PER_SECOND <= self.seconds:
            return True
        log.warning("hour left for another run", extra={"hour": hour, "size_bytes": size_bytes})
        return False


def _is_free(hour: str, state: Unsettled | None, now_ms: int) -> bool:
    """Whether the hour is over, and nobody else at work on it."""
    if hour_start_ms(hour) + HOUR_MS + SETTLED_MS > now_ms:
        return False
    return state is None or state.began_at is None or state.began_at + BUSY_MS <= now_ms


def _together(erasures: Sequence[Erasure]) -> list[list[Erasure]]:
    """Those of a project that are at the same point, so that the lake is looked through once for all of them."""

    def point(one: Erasure) -> tuple[Any, ...]:
        return one.project, one.state.value, one.files_done, one.next_day

    return [list(group) for _, group in groupby(sorted(erasures, key=point), point)]
