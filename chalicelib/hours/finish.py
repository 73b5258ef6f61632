"""The life of an hour, in one place: consolidate it, count its sessions, close it, and delete what was replaced.

The hourly workflow, imports, erasures, the reconciliation and the operator's commands all come here. Each step is
fenced by what it rests on, so a run may be repeated, be late, overlap with others, or die at any point: the hour is
dirty until all of it is done.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chalicelib.base import metrics, waits
from chalicelib.base.errors import HoursNotConsolidated
from chalicelib.base.time_windows import HOUR_MS, hour_start_ms, hours_of
from chalicelib.hours.close import Closer, Closing
from chalicelib.hours.consolidate import Consolidated, Consolidator, Overtaken
from chalicelib.hours.sessionize import Sessionizer
from chalicelib.lake.manifests import ManifestGone
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.hours_table import HoursTable

FUNCTION_SECONDS = 780  # of the function's 900: what does not fit is not begun
MAX_HOURS = 100  # of one task: a workflow hands on 256 KB at most
BYTES_PER_SECOND = 1024 * 1024  # of Parquet read, counted and cut into sessions: a careful guess

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of an hour."""

    consolidated: Consolidated
    closing: Closing

    @property
    def closed(self) -> bool:
        """Whether all that there was of it is closed."""
        return self.closing.closed


@dataclass(frozen=True, slots=True)
class Finisher:
    """Takes hours to their end; times are Unix milliseconds, by the clock that is handed over."""

    hours: HoursTable
    consolidator: Consolidator
    sessionizer: Sessionizer
    closer: Closer
    stage: str
    clock: Callable[[], float] = time.monotonic

    def finish(self, project: str, hour: str, now_ms: int, *, anew: bool = False, follow: bool = False) -> Finished:
        """Consolidate the hour, count its sessions and close it; with `anew`, also where nothing came since.

        With `follow`, what live items lack is closed by the files at once: after those were lost. Of erased users
        nothing is left. Raises Overtaken, and what storage and merging raise.
        """
        if anew:
            self.hours.note(project, hour)
        done = self.consolidator.consolidate(project, hour, now_ms, anew=anew)
        # Dirty from here on, in any case: a run that dies with sessions written of a version that is no longer the
        # hour's must be followed by one that puts them right.
        self.hours.note(project, hour)
        if done.version is not None:
            self.sessionizer.count(project, hour, done.version, done.files.keys)
        closing = self.closer.close(project, hour, done.version, now_ms, follow=follow)
        self.closer.close_days(project, now_ms)
        return Finished(done, closing)

    def clean(self, hour: Hour, now_ms: int) -> bool:
        """Delete what nobody reads any more of an hour; whether nothing is left to do of it.

        Files also of a dirty one: some hours get something late all the time.
        """
        try:
            files_are_clean = self.consolidator.clean(hour, now_ms)
        except ManifestGone:  # another version came since the hour was read
            return False
        if hour.is_dirty:
            self.sessionizer.files.clean(hour.project, hour.hour, keep=2)  # of which one may just have been listed
            return False
        live_is_clean = self.closer.clean(hour, now_ms)
        at_rest_ms = max(hour.consolidated_ms, hour.began_ms) + waits.GRACE_MS
        if not (live_is_clean and files_are_clean and at_rest_ms <= now_ms):
            return False
        self.sessionizer.files.clean(hour.project, hour.hour)
        return self.hours.settle(hour)

    def clean_day(self, project: str, day: str, now_ms: int) -> bool:
        """Do the same with every hour of a UTC day; whether none of them waits, nor has a live item that is closed."""
        hours = self.hours.between(project, *hours_of(day))
        for hour in hours:
            self.clean(hour, now_ms)
        return not any(hour.is_dirty or not self.closer.clean(hour, now_ms) for hour in hours)

    def consolidate_due(self, now_ms: int) -> dict[str, Any]:
        """Do the first task of the hourly workflow: clean up, and consolidate the hours that are due, oldest first.

        Returns `{hours: [{project, hour}, …], failed, more}`: MAX_HOURS at most, for `finish_all`; how many could not
        be consolidated; and whether others may be due.
        """
        started, failed = self.clock(), 0
        found = [self.hours.get(seen.project, seen.hour) for seen in self.hours.waiting()]
        done: list[Consolidated] = []
        for hour in _in_turn(found):
            if len(done) == MAX_HOURS:
                break
            at_ms = now_ms + self._ms_since(started)
            try:
                if self.clock() - started <= FUNCTION_SECONDS:
                    self.clean(hour, at_ms)
                if is_due(hour, at_ms) and self._fits(hour, self.clock() - started):
                    done.append(self.consolidator.consolidate(hour.project, hour.hour, at_ms))
            except Exception as error:  # noqa: BLE001 - one hour's trouble must not keep all others from their turn
                log.warning("hour not consolidated", extra={**_named(hour), "reason": repr(error)})
                failed += 1
        for each in done:
            if not each.merged:  # nothing else says that it had its turn, and the next task would begin with it again
                self.hours.begin(Hour(each.project, each.hour), now_ms)
        self._measure(found, done, now_ms)
        return {
            "hours": [{"project": each.project, "hour": each.hour} for each in done],
            "failed": failed,
            "more": len(done) == MAX_HOURS,
        }

    def finish_all(self, hours: Iterable[Mapping[str, str]], now_ms: int, *, failed: int = 0) -> dict[str, int]:
        """Do the next task: finish these hours, as far as the time goes; those that are closed already are left.

        Returns how many are `closed`, and how many `waiting`: dirty, and to come again. After all the others are done,
        raises an ExceptionGroup when an hour could not be closed, and HoursNotConsolidated when the task before this
        one `failed` at some.
        """
        started, closed, waiting = self.clock(), 0, 0
        failures: list[Exception] = []
        for task in hours:
            hour = self.hours.get(task["project"], task["hour"])
            if not hour.is_dirty:
                closed += 1
            elif not self._fits(hour, self.clock() - started):
                waiting += 1
            else:
                try:
                    done = self.finish(hour.project, hour.hour, now_ms + self._ms_since(started))
                    closed += done.closed
                    waiting += not done.closed
                except Overtaken:
                    waiting += 1
                except Exception as error:  # noqa: BLE001 - one hour's trouble must not keep all others from their turn
                    log.warning("hour not closed", extra={**_named(hour), "reason": repr(error)})
                    failures.append(error)
        if failures:
            raise ExceptionGroup(f"{len(failures)} hours were not closed", failures)
        if failed:
            raise HoursNotConsolidated(f"{failed} hours could not be consolidated; the log of `consolidate` says why")
        return {"closed": closed, "waiting": waiting}

    def _fits(self, hour: Hour, seconds: float) -> bool:
        """Return whether the hour can be finished in the rest of the function's time."""
        try:
            _, held = self.consolidator.folders.look(self.hours, hour.project, hour.hour)
        except ManifestGone:
            return False  # somebody else is at it
        size_bytes = sum(held.current.values()) + sum(held.fresh.values())
        if seconds + size_bytes / BYTES_PER_SECOND <= FUNCTION_SECONDS:
            return True
        log.warning("hour left for another run", extra={**_named(hour), "size_bytes": size_bytes})
        return False

    def _ms_since(self, started: float) -> int:
        return int((self.clock() - started) * 1000)

    def _measure(self, found: list[Hour], done: list[Consolidated], now_ms: int) -> None:
        ages = [(now_ms - ready_ms(hour)) // 1000 for hour in found if hour.is_dirty]
        values = {
            "LakeRowsConsolidated": sum(c.files.rows for c in done if c.merged),
            "LakeDuplicatesRemoved": sum(c.duplicates for c in done),
            "LakeFilesMerged": sum(c.merged for c in done),
            "LakeOldestDirtySeconds": max(0, *ages, 0),
        }
        metrics.emit(self.stage, now_ms, values)


def is_due(hour: Hour, now_ms: int) -> bool:
    """Whether the hour is dirty and ended a while ago, has rested since it was written, and no other run is at it."""
    if not hour.is_dirty or ready_ms(hour) > now_ms:
        return False
    if hour.consolidated_ms and hour.consolidated_ms + waits.REST_MS > now_ms:
        return False
    return hour.began_ms <= hour.consolidated_ms or hour.began_ms + waits.TURN_MS <= now_ms


def ready_ms(hour: Hour) -> int:
    """Since when the hour could have been closed, as far as it is dirty."""
    return max(hour_start_ms(hour.hour) + HOUR_MS + waits.ARRIVAL_MS, hour.since_ms)


def _in_turn(hours: Iterable[Hour]) -> list[Hour]:
    """Return the oldest hour of each project, then the second, and so on: no project waits for all hours of another."""
    places: dict[str, int] = {}
    ranked: list[tuple[int, str, str, Hour]] = []
    for hour in sorted(hours, key=lambda each: (not each.is_dirty, each.hour)):
        place = places[hour.project] = places.get(hour.project, -1) + 1
        ranked.append((place, hour.hour, hour.project, hour))
    return [hour for *_, hour in sorted(ranked, key=lambda each: each[:3])]


def _named(hour: Hour) -> dict[str, str]:
    return {"project": hour.project, "hour": hour.hour}
