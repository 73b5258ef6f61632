"""Every few minutes: the erasures that were asked for go on, until nothing of their users is left anywhere.

A run takes each one as far as it can: whose ids are meant is decided, and markers are put that drop what still arrives;
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

from chalicelib.base import metrics, waits
from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import HOUR_MS, day_of, day_start_ms, from_ms, hour_of, hour_start_ms, hours_between
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.erasure import (
    FOR_EVER_MS,
    Arrivals,
    Erasure,
    Marker,
    State,
    digest_of_user,
)
from chalicelib.events.erasures_table import ErasuresTable
from chalicelib.events.events_table import EventsTable
from chalicelib.events.users_table import UsersTable
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import Lake
from chalicelib.lake.manifests import ManifestGone
from chalicelib.lake.user_rows import UserRows
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.hours_table import HoursTable

FUNCTION_SECONDS = 780  # of the function's 900
BYTES_PER_SECOND = 1024 * 1024  # of Parquet written again, closed and cut into sessions: a careful guess
RUN_MS = 5 * 60_000  # between two runs

log = logging.getLogger(__name__)

# By name: removes what is of some ids of a project, and was received before a time; returns how much it was.
Places = Mapping[str, Callable[[str, Sequence[str], int], int]]
# Has an hour written without the rows of erased users, and closed again; False when other runs were there.
Rewrite = Callable[[str, str, int], bool]


@dataclass(frozen=True, slots=True)
class Eraser:
    """Does the work; times are Unix milliseconds.

    `files` has what is looked through once nothing arrives any more. `seconds` is what a run may take; None: for ever.
    """

    table: ErasuresTable
    erased: ErasedUsers
    events: EventsTable
    users: UsersTable
    files: Places
    forget_queries: Callable[[str, datetime], int]  # of a project, those that expire before a time
    lake: Lake
    hours: HoursTable
    folders: HourFolders
    rewrite: Rewrite
    clean: Callable[[str, str, int], bool]  # of a day, delete what was replaced; whether none of its hours waits
    arrivals: Callable[[str], Arrivals]
    importing: Callable[[str, int], list[int]]  # when imports began that were not over at some time
    stage: str
    seconds: float | None = FUNCTION_SECONDS
    now: Callable[[], int] = lambda: int(time.time() * 1000)

    def run(self) -> None:
        """Take every open erasure as far as it goes.

        Raises an ExceptionGroup, after all the others had their turn, when one failed; the next run tries it again.
        """
        end_ms = None if self.seconds is None else self.now() + int(self.seconds * 1000)
        open_ones = self.table.open()
        failures: list[Exception] = []
        for group in _groups(open_ones, self.now()):
            taken = [one for one in group if self.table.take(one, self.now())]
            try:
                if taken and not self._is_over(end_ms):
                    self._go_on(taken, end_ms)
            except Exception as error:  # noqa: BLE001 - one project's trouble must not keep all others from their turn
                log.warning("erasure failed", extra={"project": group[0].project, "reason": repr(error)})
                failures.append(error)
            for one in taken:
                self.table.release(one)
        now_ms = self.now()
        oldest = min((one.requested_ms for one in open_ones), default=now_ms)
        metrics.emit(self.stage, now_ms, {"ErasureOldestSeconds": (now_ms - oldest) // 1000})
        if failures:
            raise ExceptionGroup(f"{len(failures)} erasures failed", failures)

    def _go_on(self, group: list[Erasure], end_ms: int | None) -> None:
        """Erasures of one project that are at the same point."""
        first = group[0]
        if first.state is State.REQUESTED:
            for one in group:
                self._mark(one, self.users.ids_of(one.project, str(one.user), self.events.is_user))
                self._forget(one)
        elif first.state is State.REMOVING:
            removed = [self._remove(one) for one in group]
            if all(removed):
                self._sweep(group, end_ms)
        else:
            for one in group:
                self._look_again(one, end_ms)

    def _mark(self, one: Erasure, ids: Sequence[str]) -> None:
        """Put the markers of all ids; the time in which functions may not know them begins anew."""
        now_ms = self.now()
        until_ms = FOR_EVER_MS if self.arrivals(one.project) is Arrivals.DROP else now_ms + waits.READY_MS
        for each in ids:
            self.erased.put(one.project, Marker(digest_of_user(one.project, each), now_ms, until_ms))
        self.table.begin(one, ids, self.now(), until_ms)

    def _remove(self, one: Erasure) -> bool:
        """Remove what is outside of the lake; return whether nothing of it is left, nor arrives any more."""
        if one.files_done:
            return True
        # What was on its way when the first markers were put may have told of earlier ids.
        found = self.users.ids_of(one.project, str(one.user), self.events.is_user)
        if not {*found} <= {*one.ids}:
            self._mark(one, list(dict.fromkeys([*one.ids, *found])))
            return False
        self._forget(one)
        now_ms, ready_ms = self.now(), (one.marked_ms or 0) + waits.READY_MS
        if now_ms < ready_ms:
            return False
        # An import that began before may store what it judged then, its tasks also for a while after it failed.
        started = self.importing(one.project, now_ms - waits.READY_MS)
        if any(now_ms - waits.IMPORT_MS < each < ready_ms for each in started):
            return False
        self._clear(one)
        self.table.files_done(one)
        return True

    def _clear(self, one: Erasure) -> int:
        """Look through the smaller files; returns how much was removed."""
        found = {name: remove(one.project, one.ids, one.until_ms or 0) for name, remove in self.files.items()}
        for name, count in found.items():
            self.table.removed(one, name, count)
        return sum(found.values())

    def _forget(self, one: Erasure) -> int:
        """Remove what the events table has; returns how many items it was.

        Other ends of links first, which only these items tell. Of who is accepted again, what came since is left.
        """
        now_ms, until_ms, removed = self.now(), one.until_ms or FOR_EVER_MS, 0
        for each in one.ids:
            items = self.events.items_of(one.project, each)
            theirs = [key for key, at in items.items() if (now_ms if at is None else at) < until_ms]
            self.table.removed(one, "identity_links", self.users.unlink(one.project, each, theirs))
            self.events.delete(one.project, each, theirs)
            self.table.removed(one, "hot_store", len(theirs))
            removed += len(theirs)
        return removed

    def _sweep(self, group: list[Erasure], end_ms: int | None) -> None:
        """Look through the lake, from where the last run stopped."""
        project, since = group[0].project, group[0].next_day
        last_hour = hour_of(max((one.marked_ms or 0) for one in group) + waits.READY_MS)  # nothing occurs later
        for day in self.lake.days(project):
            if not since <= day <= day_of(last_hour):
                continue
            for one in group:
                self.table.swept_before(one, day)
            if not self._clean(group, day, end_ms).complete:
                return
        if hour_start_ms(last_hour) + HOUR_MS + waits.ARRIVAL_MS > self.now():  # its events may come into the lake yet
            return
        for one in group:
            self.table.swept(one, self.now())

    def _look_again(self, one: Erasure, end_ms: int | None) -> None:
        """Once what was absorbed is deleted: look at the days with a find, and all else, until there is nothing."""
        if self.now() < (one.swept_ms or 0) + waits.LAST_LOOK_MS:
            return
        for day in sorted(one.days):
            if not self.clean(one.project, day, self.now()):
                return
            looked = self._clean([one], day, end_ms)
            if looked.found or not looked.complete:
                return
        if self._clear(one) or self._forget(one):
            return
        # Also what was asked since the lake was looked through: of an hour that is one of many open ones, a query sees
        # files that were replaced, until they are deleted.
        before = from_ms(self.now()) + timedelta(milliseconds=waits.RESULTS_MS)
        self.table.removed(one, "query_results", self.forget_queries(one.project, before))
        self.table.finish(one, self.now())
        log.info("erased", extra={"project": one.project, "erasure": one.id})

    def _clean(self, group: list[Erasure], day: str, end_ms: int | None) -> "Looked":
        """Have each hour of the day without the users' rows, as far as the time goes."""
        project = group[0].project
        rows = UserRows({user: until for one in group for user, until in one.until.items()})
        start_ms = day_start_ms(day)
        found, complete = False, True
        for hour in hours_between(start_ms, start_ms + 24 * HOUR_MS):
            if self._is_over(end_ms):
                return Looked(found, complete=False)
            folder = hour_folder(project, hour)
            files = self.lake.files(folder)
            if not files:
                continue
            try:
                state, held = self.folders.look(self.hours, project, hour)
            except ManifestGone:
                complete = False
                continue
            theirs = {name: self.lake.rows_of(folder + name, size, rows) for name, size in files.items()}
            found |= any(theirs.values())
            everybody = sum(theirs.values(), Counter[str]())
            for one in group:  # also where a consolidation left them out: what was before it is there yet
                if any(everybody[each] for each in one.ids):
                    self.table.found_on(one, day)
            used = {*held.current, *held.fresh}
            current = any(users for name, users in theirs.items() if name in used)
            if not current:
                continue
            if not self._may_rewrite(hour, state, sum(files.values()), end_ms):
                complete = False
            else:
                complete = self.rewrite(project, hour, self.now()) and complete
        return Looked(found, complete)

    def _may_rewrite(self, hour: str, state: Hour, size_bytes: int, end_ms: int | None) -> bool:
        """Return whether the hour is over, nobody else at work on it, and enough of the time left."""
        now_ms = self.now()
        if hour_start_ms(hour) + HOUR_MS + waits.ARRIVAL_MS > now_ms:
            return False
        if state.began_ms > state.consolidated_ms and state.began_ms + waits.TURN_MS > now_ms:
            return False
        if self._is_over(end_ms, size_bytes * 1000 // BYTES_PER_SECOND):
            log.warning("hour left for another run", extra={"hour": hour, "size_bytes": size_bytes})
            return False
        return True

    def _is_over(self, end_ms: int | None, needed_ms: int = 0) -> bool:
        return end_ms is not None and self.now() + needed_ms > end_ms


@dataclass(frozen=True, slots=True)
class Looked:
    """Whether a file of the day has rows of the users still, and whether all that could be done was."""

    found: bool
    complete: bool


def _groups(erasures: Sequence[Erasure], now_ms: int) -> list[list[Erasure]]:
    """Return those of a project that are at the same point, so that the lake is looked through once for all of them.

    New ones first, for markers are put in no time; the others begin with another project in each run.
    """

    def point(one: Erasure) -> tuple[Any, ...]:
        return one.project, one.state.value, one.files_done, one.next_day

    groups = [list(group) for _, group in groupby(sorted(erasures, key=point), point)]
    new = [group for group in groups if group[0].state is State.REQUESTED]
    old = [group for group in groups if group[0].state is not State.REQUESTED]
    turn = now_ms // RUN_MS % len(old) if old else 0
    return [*new, *old[turn:], *old[:turn]]
