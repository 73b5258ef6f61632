"""Closed hours are counted once more from the lake and compared, number by number, with what readers are shown.

Counted by other means than those that closed them: recount.py. What differs is put right the way an hour is closed at
all: the hour becomes dirty, is consolidated, and is closed from its file under a new epoch. So a run that dies leaves a
dirty hour, which `consolidate` finishes if no later run does.
Yesterday's hours are compared every night, as far as the function's time goes; how far that was is kept after each
hour, and the next run, an hour later, goes on from there.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from chalicelib.base import metrics, waits
from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import (
    DAY_MS,
    HOUR_MS,
    day_of,
    day_start_ms,
    hour_of,
    hour_start_ms,
    hours_between,
    is_last_of_day,
)
from chalicelib.events.contracts import Contracts
from chalicelib.hours.finish import Finisher
from chalicelib.hours.recount import recount
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import Lake
from chalicelib.rollups.closed_table import DAY, HOUR, WHOLE, Closed
from chalicelib.rollups.closing import Cover, Hour
from chalicelib.rollups.differences import Difference, unequal
from chalicelib.rollups.facets import ALL_TYPES, COUNTS, DERIVED, SESSIONS, facets_of
from chalicelib.rollups.history import Facet, History, total_of
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.rollups import OTHER, Rollup, Rollups, RollupSpec

AGREES, REPAIRED, DIFFERS, WAITS, NO_FILE = "agrees", "repaired", "differs", "waits", "no file"
MAX_NIGHTS = 7  # that were missed, and are made up for
FUNCTION_SECONDS = 780  # of the function's 900: an hour that does not fit is the next run's
FUNCTION_BYTES = 256 * 1024 * 1024  # of Parquet, which take some eight times as much of the function's 3 GB
BYTES_PER_SECOND = 1024 * 1024  # of Parquet counted, a careful guess

log = logging.getLogger(__name__)


class NotRepaired(Exception):
    """Numbers differ from the lake also after the hour or day was closed again."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of an hour or, as `start` tells, a day: by what `differences` it was found to be wrong.

    `events` are those of its file, without bots; `state` is one of the words above.
    """

    project: str
    start: str
    state: str
    events: int = 0
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Compared:
    """An hour's events by its files, and by what readers are shown otherwise.

    `epoch` is the last that an item covers; `moves`: something comes in or is closed meanwhile, so nothing can be said.
    """

    events: int
    differences: list[Difference]
    epoch: int
    moves: bool


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares, and repairs; times are Unix seconds."""

    contracts: Contracts
    history: History
    lake: Lake
    folders: HourFolders
    hours: HoursTable
    finisher: Finisher
    stage: str
    clock: Callable[[], float] = time.monotonic

    def hour(
        self, project: str, hour: str, now: int, *, repair: bool, dirty_too: bool = False, force: bool = False
    ) -> Reconciled:
        """Compare an hour and, with `repair`, close it again if it differs; with `force` in any case, and of what its
        files hold and live items lack.

        A dirty hour is left to the hourly workflow, unless it is asked for, too. Nothing is written without `repair`.
        Raises NotRepaired, or what finishing an hour raises.
        """
        state, keys = self.folders.keys(self.hours, project, hour)
        was_dirty = state.is_dirty
        if was_dirty:
            finish = self.finisher.finish
            if not (repair and dirty_too) or not finish(project, hour, now * 1000, follow=force).closed:
                return Reconciled(project, hour, WAITS)
            state, keys = self.folders.keys(self.hours, project, hour)
        found = self._compare(state, keys)
        events, differences = found.events, found.differences
        if found.moves:
            return Reconciled(project, hour, WAITS)
        if not keys and differences:
            log.warning("an hour with numbers has no file", extra={"project": project, "hour": hour})
            return Reconciled(project, hour, NO_FILE, 0, differences)
        if not (differences or (force and keys)):
            return Reconciled(project, hour, REPAIRED if was_dirty else AGREES, events)
        if not repair:
            return Reconciled(project, hour, DIFFERS, events, differences)
        if found.epoch > state.frozen and not self.hours.skip_to(state, found.epoch):  # the item is older than numbers
            return Reconciled(project, hour, WAITS, events, differences)
        done = self.finisher.finish(project, hour, now * 1000, anew=True, follow=force)
        if not done.closed:
            return Reconciled(project, hour, WAITS, events, differences)
        if differences:
            again = self._compare(*self.folders.keys(self.hours, project, hour))
            if again.moves:
                return Reconciled(project, hour, WAITS, events, differences)
            if again.differences:
                numbers = f"{len(again.differences)} numbers differ, such as {again.differences[0]}"
                raise NotRepaired(f"{project} {hour} was closed again, and {numbers}")
        self._tell(project, hour, differences)
        return Reconciled(project, hour, REPAIRED, events, differences)

    def day(self, project: str, day: str, now: int, *, repair: bool) -> Reconciled:
        """Compare what is kept of a whole UTC day with its hours and, with `repair`, put it together again.

        So are its sessions, with what the hours' files hold of them.
        """
        sessions = self.finisher.sessionizer.recount(project, day, write=repair)
        recounted = [Difference(day, SESSIONS, "", "items", 0, sessions)] if sessions else []
        if day in self.history.closed.noted_days(project):  # it is told by its hours until then
            if repair:
                self.finisher.closer.close_days(project, now * 1000)
            self._tell(project, day, recounted)
            return Reconciled(project, day, REPAIRED if repair else WAITS, 0, recounted)
        differences = [*recounted, *self._compare_day(project, day)]
        if not differences or not repair:
            return Reconciled(project, day, DIFFERS if differences else AGREES, 0, differences)
        self.history.closed.note_day(project, day, f"reconciled#{now}")
        self.finisher.closer.close_days(project, now * 1000)
        if left := list(self._compare_day(project, day)):
            raise NotRepaired(f"{project} {day} was put together again, and {len(left)} numbers differ: {left[0]}")
        self._tell(project, day, differences)
        return Reconciled(project, day, REPAIRED, 0, differences)

    def run(self, projects: Iterable[str], now: int) -> int:
        """Go on with the hours up to yesterday's last, and put right what differs; returns how many were compared.

        Raises an ExceptionGroup, after all other projects are done, when one of a project could not be compared; the
        next run tries it again.
        """
        started = self.clock()
        compared, differ = 0, 0
        failures: list[Exception] = []
        for project in projects:
            try:
                for done in self._go_on(project, now, started):
                    compared += len(done.start) > len("2026-11-21")
                    differ += len(done.differences)
            except Exception as error:  # noqa: BLE001 - one project's trouble must not keep all others from their turn
                log.warning("project not reconciled", extra={"project": project, "reason": repr(error)})
                failures.append(error)
        metrics.emit(self.stage, now * 1000, {"HoursReconciled": compared, "NumbersDrifted": differ})
        if failures:
            raise ExceptionGroup(f"{len(failures)} projects were not reconciled", failures)
        return compared

    def _go_on(self, project: str, now: int, started: float) -> Iterator[Reconciled]:
        for hour in hours_due(self.history.closed.reconciled_upto(project), now):
            size_bytes = sum(self.lake.files(hour_folder(project, hour)).values())
            seconds = min(size_bytes, FUNCTION_BYTES) / BYTES_PER_SECOND
            if self.clock() - started + seconds > FUNCTION_SECONDS:
                log.info("time is up", extra={"project": project, "hour": hour})
                return
            if size_bytes > FUNCTION_BYTES:
                log.warning("hour too large for the function", extra={"project": project, "hour": hour})
            else:
                yield self.hour(project, hour, now, repair=True)
            if is_last_of_day(hour):
                yield self.day(project, day_of(hour), now, repair=True)
            self.history.closed.mark_reconciled(project, hour)

    def _compare(self, state: Hour, keys: Iterable[str]) -> Compared:
        """Compare what readers are shown of an hour with its files, of which `state` says that they hold all."""
        project, hour = state.project, state.hour
        sent = set(self.history.rollups.event_types(project))

        def name_of(event_type: str) -> str:
            known = event_type in sent or event_type in self.contracts.by_type
            return event_type if known else OTHER  # as closing has no place for it

        counted = recount(self.lake, list(keys), self._spec, name_of)
        types = {*sent, *counted.of_type, ALL_TYPES, OTHER}
        wanted = [(name, facet) for name in sorted(types) for facet in facets_of(self._spec(name))]
        shown = self.history.facets(project, wanted, [hour])
        differences: list[Difference] = []
        if counted.copies:
            differences.append(Difference(hour, ALL_TYPES, COUNTS, "copies", 0, counted.copies))
        for event_type, facet in wanted:
            seen, cover = (
                shown.contents[event_type, facet].get(hour, Rollup()),
                shown.covers.get(((event_type, facet), hour)),
            )
            for number, before, now in counted.differences(event_type, facet, seen):
                differences.append(Difference(hour, event_type, facet, number, before, now))
            if cover is None and not counted.is_empty(event_type, facet):
                differences.append(
                    Difference(hour, event_type, facet, "items", 0, 1)
                )  # live ones tell its numbers, if any
            if cover is not None and cover.epoch != state.epoch:
                differences.append(Difference(hour, event_type, facet, "epoch", cover.epoch, state.epoch))
            elif cover is not None and cover.upto != state.upto:
                differences.append(Difference(hour, event_type, facet, "slots", cover.upto, state.upto))
        epoch = max((cover.epoch for cover in shown.covers.values()), default=0)
        return Compared(counted.events, differences, epoch, self._moves(state, epoch))

    def _moves(self, state: Hour, epoch: int) -> bool:
        """Whether there are live items that the hour's closing does not cover, or it has changed since it was read."""
        if epoch <= state.epoch:  # else the hour's item was lost, which is not the live ones' fault
            rollups = self.history.rollups
            deltas = {state.hour: rollups.deltas_of(state.project, state.hour)}
            for view in rollups.views(state.project, state.hour, state.hour, deltas).values():
                if view.deltas or any(not state.cover.hides(item.epoch, item.slot) for item in view.merged):
                    return True
        now = self.hours.get(state.project, state.hour)
        return (now.changes, now.done, now.epoch) != (state.changes, state.done, state.epoch)

    def _compare_day(self, project: str, day: str) -> Iterator[Difference]:
        closed = self.history.closed
        hours = hours_between(day_start_ms(day), day_start_ms(day) + DAY_MS)
        for name in [*self.history.rollups.event_types(project), ALL_TYPES]:
            facets = [facet for facet in facets_of(self._spec(name)) if facet != COUNTS]
            names = [(name, f, grain, at) for f in facets for grain, at in [(DAY, day), *((HOUR, h) for h in hours)]]
            found = dict(closed.get_many(project, names))
            for facet in facets:
                parts = [found[key] for h in hours if (key := (name, facet, HOUR, h)) in found]
                whole = found.get((name, facet, DAY, day), Closed(day, {}, Rollups({WHOLE: Rollup()})))
                yield from _differences(day, (name, facet), whole.rollups[WHOLE], total_of(parts))
                covers = {at: cover for part in parts for at, cover in part.covers.items()}
                if whole.covers != covers:
                    yield Difference(day, name, facet, "epochs", _epochs(whole.covers), _epochs(covers))

    def _spec(self, event_type: str) -> RollupSpec:
        return DERIVED.get(event_type) or self.contracts.spec(event_type)

    def _tell(self, project: str, start: str, differences: list[Difference]) -> None:
        if differences:
            extra = {"project": project, "start": start, "numbers": len(differences)}
            log.warning("closed numbers differed from the lake, and were written again", extra=extra)


def hours_due(upto: str | None, now: int) -> list[str]:
    """Return the hours after `upto`, or yesterday's, to the last of the day that is over for three hours or more."""
    end_ms = (now * 1000 - waits.NIGHT_MS) // DAY_MS * DAY_MS
    first_ms = end_ms - DAY_MS if upto is None else hour_start_ms(upto) + HOUR_MS
    first_ms = max(first_ms, end_ms - MAX_NIGHTS * DAY_MS)
    return [hour_of(ms) for ms in range(first_ms, end_ms, HOUR_MS)]


def _epochs(covers: Mapping[str, Cover]) -> int:
    return sum(cover.epoch for cover in covers.values())


def _differences(start: str, facet: Facet, shown: Rollup, stored: Rollup) -> Iterator[Difference]:
    event_type, name = facet
    for number, before, now in unequal(shown, stored):
        yield Difference(start, event_type, name, number, before, now)
