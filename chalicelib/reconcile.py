"""Closed hours are folded once more from the lake and compared, number by number, with what readers are shown.

What differs is put right the way an hour is closed at all: the hour becomes dirty, is consolidated, and is closed from
its file under a new epoch. So a run that dies leaves a dirty hour, which `consolidate` finishes if no later run does.
Yesterday's hours are compared every night, as far as the function's time goes; how far that was is kept after each
hour, and the next run, an hour later, goes on from there.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from chalicelib import metrics
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.drift import Drift, differences
from chalicelib.domain.facets import ALL_TYPES, COUNTS, DERIVED, SESSIONS, all_types, facets_of, is_empty, part_of
from chalicelib.domain.partitions import hour_folder
from chalicelib.domain.rollups import Rollup, Rollups, RollupSpec
from chalicelib.domain.time_windows import DAY_MS, HOUR_MS, hour_of, hour_start_ms, hours_between
from chalicelib.storage.closed_table import DAY, HOUR, WHOLE, Closed
from chalicelib.storage.dirty_hours import DirtyHours, Unsettled
from chalicelib.storage.history import Facet, History, total_of
from chalicelib.storage.lake import Lake

AGREES, REPAIRED, DIFFERS, WAITS, NO_FILE = "agrees", "repaired", "differs", "waits", "no file"
REST_MS = 3 * HOUR_MS  # after a day's end its last hours are consolidated, and what differed was waited for
MAX_NIGHTS = 7  # that were missed, and are made up for
FUNCTION_SECONDS = 780  # of the function's 900: an hour that does not fit is the next run's
BYTES_PER_SECOND = 1024 * 1024  # of Parquet folded, a careful guess

log = logging.getLogger(__name__)


class Consolidates(Protocol):
    """Makes an hour of the lake one file; what it gives has `files.keys`."""

    def consolidate(self, project: str, hour: str, now_ms: int) -> Any:
        """See chalicelib/consolidate.py."""

    def finish(self, consolidated: Any) -> bool:
        """See chalicelib/consolidate.py."""


class Closes(Protocol):
    """Closes hours and days from files."""

    def fold(
        self, project: str, hour: str, read: Callable[[], Iterable[dict[str, Any]]], *, note: bool = True
    ) -> Rollups:
        """See chalicelib/close.py."""

    def settle(self, project: str, hour: str, keys: Any, now: int) -> bool:
        """See chalicelib/close.py."""

    def close_days(self, project: str, now: int) -> int:
        """See chalicelib/close.py."""


class Sessionizes(Protocol):
    """Counts sessions."""

    def settle(self, project: str, hour: str, keys: Sequence[str]) -> int:
        """See chalicelib/sessionize.py."""

    def recount(self, project: str, day: str, *, write: bool) -> int:
        """See chalicelib/sessionize.py."""


class NotRepaired(Exception):
    """Numbers differ from the lake also after the hour or day was closed again."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of an hour or, as `start` tells, a day: `drift` is by what it differed before anything was done.

    `events` are those of its file, without bots; `state` is one of the words above.
    """

    project: str
    start: str
    state: str
    events: int = 0
    drift: list[Drift] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares, and repairs; times are epoch seconds."""

    contracts: Contracts
    history: History
    lake: Lake
    dirty: DirtyHours
    consolidator: Consolidates
    closer: Closes
    sessionizer: Sessionizes
    stage: str
    clock: Callable[[], float] = time.monotonic

    def hour(
        self, project: str, hour: str, now: int, *, repair: bool, dirty_too: bool = False, force: bool = False
    ) -> Reconciled:
        """Compare an hour and, with `repair`, close it again if it differs; with `force` in any case.

        A dirty hour is left to `consolidate`, unless it is asked for, too. Nothing is written without `repair`.
        Raises NotRepaired, or what a consolidation raises.
        """
        unsettled = next((state for state in self.dirty.of(project) if state.hour == hour), None)
        is_dirty = unsettled is not None and unsettled.tail is not None
        if is_dirty and not (repair and dirty_too):
            return Reconciled(project, hour, WAITS)
        done = self.consolidator.consolidate(project, hour, now * 1000) if is_dirty else None
        keys = done.files.keys if done else self._keys(project, hour, unsettled)
        events, drift, behind = self._compare(project, hour, keys)
        if not keys:
            if drift:
                log.warning("an hour with numbers has no file", extra={"project": project, "hour": hour})
            return Reconciled(project, hour, NO_FILE if drift else AGREES, 0, drift)
        state = self.history.rollups.state(project, hour)
        if not (drift or force or is_dirty or state.closed < state.frozen):  # the last is of a closing that died
            return Reconciled(project, hour, AGREES, events)
        if not repair:
            return Reconciled(project, hour, DIFFERS, events, drift)
        if behind > state.frozen and not self.history.rollups.freeze(state, behind):
            return Reconciled(project, hour, WAITS, events, drift)
        done = done or self.consolidator.consolidate(project, hour, now * 1000)
        self.sessionizer.settle(project, hour, done.files.keys)  # before the hour is closed
        if not self.closer.settle(project, hour, done.files.keys, now):
            return Reconciled(project, hour, WAITS, events, drift)
        self.consolidator.finish(done)
        if drift and (left := self._compare(project, hour, done.files.keys)[1]):
            raise NotRepaired(f"{project} {hour} was closed again, and {len(left)} numbers differ, such as {left[0]}")
        self._tell(project, hour, drift)
        return Reconciled(project, hour, REPAIRED, events, drift)

    def day(self, project: str, day: str, now: int, *, repair: bool) -> Reconciled:
        """Compare what is kept of a whole UTC day with its hours and, with `repair`, put it together again.

        So are its sessions, with what the hours' files hold of them.
        """
        sessions = self.sessionizer.recount(project, day, write=repair)
        recounted = [Drift(day, SESSIONS, "", "items", 0, sessions)] if sessions else []
        if day in self.history.closed.noted_days(project):  # it is told by its hours until then
            if repair:
                self.closer.close_days(project, now)
            self._tell(project, day, recounted)
            return Reconciled(project, day, REPAIRED if repair else WAITS, 0, recounted)
        drift = [*recounted, *self._compare_day(project, day)]
        if not drift or not repair:
            return Reconciled(project, day, DIFFERS if drift else AGREES, 0, drift)
        self.history.closed.note_day(project, day, f"reconciled#{now}")
        self.closer.close_days(project, now)
        if left := list(self._compare_day(project, day)):
            raise NotRepaired(f"{project} {day} was put together again, and {len(left)} numbers differ: {left[0]}")
        self._tell(project, day, drift)
        return Reconciled(project, day, REPAIRED, 0, drift)

    def run(self, projects: Iterable[str], now: int) -> int:
        """Go on with the hours up to yesterday's last, and put right what differs; returns how many were compared.

        Raises an ExceptionGroup, after all other projects are done, when one of a project could not be compared; the
        next run tries it again.
        """
        started = self.clock()
        compared, drifted = 0, 0
        failures: list[Exception] = []
        for project in projects:
            try:
                for done in self._go_on(project, now, started):
                    compared += len(done.start) > len("2026-11-21")
                    drifted += len(done.drift)
            except Exception as error:  # noqa: BLE001 - one project's trouble must not keep all others from their turn
                log.warning("project not reconciled", extra={"project": project, "reason": repr(error)})
                failures.append(error)
        metrics.emit(self.stage, now * 1000, {"HoursReconciled": compared, "NumbersDrifted": drifted})
        if failures:
            raise ExceptionGroup(f"{len(failures)} projects were not reconciled", failures)
        return compared

    def _go_on(self, project: str, now: int, started: float) -> Iterator[Reconciled]:
        for hour in hours_due(self.history.closed.reconciled_upto(project), now):
            seconds = self._seconds(project, hour)
            if self.clock() - started + min(seconds, FUNCTION_SECONDS) > FUNCTION_SECONDS:
                log.info("time is up", extra={"project": project, "hour": hour})
                return
            if seconds > FUNCTION_SECONDS:
                log.warning("hour too large for the function", extra={"project": project, "hour": hour})
            else:
                yield self.hour(project, hour, now, repair=True)
            if hour.endswith("T23"):
                yield self.day(project, hour[:10], now, repair=True)
            self.history.closed.mark_reconciled(project, hour)

    def _seconds(self, project: str, hour: str) -> float:
        return sum(self.lake.files(hour_folder(project, hour)).values()) / BYTES_PER_SECOND

    def _keys(self, project: str, hour: str, unsettled: Unsettled | None) -> list[str]:
        folder = hour_folder(project, hour)
        absorbed = unsettled.retired_names if unsettled else set()
        return sorted(folder + name for name in self.lake.files(folder) if name not in absorbed)

    def _compare(self, project: str, hour: str, keys: Iterable[str]) -> tuple[int, list[Drift], int]:
        """How many events the files hold, by what the numbers differ, and the last epoch that an item covers."""
        files = list(keys)
        truth = self.closer.fold(project, hour, lambda: self.lake.events(files), note=False)
        everything = all_types(truth)
        types = {*self.history.rollups.event_types(project), *truth, ALL_TYPES}
        wanted = [(name, facet) for name in sorted(types) for facet in facets_of(self._spec(name))]
        shown = self.history.facets(project, wanted, [hour])
        drift: list[Drift] = []
        for event_type, facet in wanted:
            whole = everything if event_type == ALL_TYPES else truth.get(event_type, Rollup())
            seen, part = shown.parts[event_type, facet].get(hour, Rollup()), part_of(whole, facet)
            drift += _drift(hour, (event_type, facet), seen, part)
            if ((event_type, facet), hour) not in shown.covers and not is_empty(part):
                drift.append(Drift(hour, event_type, facet, "items", 0, 1))  # live ones tell its numbers, if any
        return everything.count, drift, max(shown.covers.values(), default=-1)

    def _compare_day(self, project: str, day: str) -> Iterator[Drift]:
        closed = self.history.closed
        hours = hours_between(hour_start_ms(f"{day}T00"), hour_start_ms(f"{day}T00") + DAY_MS)
        for name in [*self.history.rollups.event_types(project), ALL_TYPES]:
            facets = [facet for facet in facets_of(self._spec(name)) if facet != COUNTS]
            names = [(name, f, grain, at) for f in facets for grain, at in [(DAY, day), *((HOUR, h) for h in hours)]]
            found = dict(closed.get_many(project, names))
            for facet in facets:
                parts = [found[key] for h in hours if (key := (name, facet, HOUR, h)) in found]
                whole = found.get((name, facet, DAY, day), Closed(day, {}, Rollups({WHOLE: Rollup()})))
                yield from _drift(day, (name, facet), whole.rollups[WHOLE], total_of(parts))
                epochs = {at: epoch for part in parts for at, epoch in part.covers.items()}
                if whole.covers != epochs:
                    yield Drift(day, name, facet, "epochs", sum(whole.covers.values()), sum(epochs.values()))

    def _spec(self, event_type: str) -> RollupSpec:
        return DERIVED.get(event_type) or self.contracts.spec(event_type)

    def _tell(self, project: str, start: str, drift: list[Drift]) -> None:
        if drift:
            extra = {"project": project, "start": start, "numbers": len(drift)}
            log.warning("closed numbers differed from the lake, and were written again", extra=extra)


def hours_due(upto: str | None, now: int) -> list[str]:
    """The hours after `upto`, or yesterday's, to the last of the day that is over for three hours or more."""
    end_ms = (now * 1000 - REST_MS) // DAY_MS * DAY_MS
    first_ms = end_ms - DAY_MS if upto is None else hour_start_ms(upto) + HOUR_MS
    first_ms = max(first_ms, end_ms - MAX_NIGHTS * DAY_MS)
    return [hour_of(ms) for ms in range(first_ms, end_ms, HOUR_MS)]


def _drift(start: str, facet: Facet, shown: Rollup, stored: Rollup) -> Iterator[Drift]:
    event_type, name = facet
    for number, before, now in differences(shown, stored):
        yield Drift(start, event_type, name, number, before, now)
