"""Every hour: the tail files of hours that ended become one sorted file, in which each event is once.

A consolidation reads an hour's folder, writes the files of a new version beside what is there, and makes it the current
one with one conditional write. What it absorbed is deleted when no query can be reading it any more. The folder as a
whole holds every event at all times, so a run that dies leaves nothing to repair: the hour is still dirty, and whatever
lies there goes into the next version.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib import metrics
from chalicelib.domain.partitions import TAIL, hour_folder, is_one_version, version_name
from chalicelib.domain.time_windows import HOUR_MS, hour_start_ms
from chalicelib.storage.dirty_hours import DirtyHours, Unsettled
from chalicelib.storage.lake import HourFiles, Lake
from chalicelib.storage.user_rows import UserRows

SETTLE_MS = 10 * 60_000  # after an hour's end most of its tail files are there
REST_MS = 30 * 60_000  # before late events have their hour written again
LEASE_MS = 15 * 60_000  # what a run may take on Lambda; a later one leaves its hour alone for as long
MAX_RUN_SECONDS = 40 * 60  # of one consolidation anywhere; with the next, no file is written after others are deleted
GRACE_MS = 60 * 60_000  # twice as long as Athena lets a query run
FUNCTION_SECONDS = 780  # of the function's 900: what does not fit is not begun
MAX_HOURS = 100  # of one task: a workflow hands on 256 KB at most
BYTES_PER_SECOND = 1024 * 1024  # of Parquet read, counted and cut into sessions: a careful guess
MAX_FILES = 128  # open at a time: some 2 MB each

log = logging.getLogger(__name__)


class Overtaken(Exception):
    """Another consolidation of the hour began meanwhile; it, or the next one, absorbs what this one wrote."""


class TooLate(Exception):
    """The consolidation took so long that files it read may be deleted; nothing has changed for readers."""


@dataclass(frozen=True, slots=True)
class Consolidated:
    """An hour whose `files` hold every event that was noted before, once, in order of (occurred_at, event_id).

    `merged` is how many files were read for it: 0 when it was consolidated already.
    """

    project: str
    hour: str
    files: HourFiles
    duplicates: int
    merged: int
    state: Unsettled

    def task(self) -> dict[str, Any]:
        """For the task that closes the hour."""
        hour = {"project": self.project, "hour": self.hour, "keys": list(self.files.keys)}
        return {**hour, "run": self.state.run, "tail": self.state.tail}

    def row(self) -> dict[str, Any]:
        """For logs and the operator."""
        return {
            "project": self.project,
            "hour": self.hour,
            "rows": self.files.rows,
            "duplicates": self.duplicates,
            "merged": self.merged,
            "files": len(self.files.keys),
            "size_bytes": self.files.size_bytes,
        }


def nothing_more(_: Consolidated) -> bool:
    """What follows a consolidation when nothing has to."""
    return True


@dataclass(frozen=True, slots=True)
class Consolidator:
    """Hours of the lake, one after the other; times are epoch milliseconds."""

    lake: Lake
    dirty: DirtyHours
    stage: str
    new_run: Callable[[], str]
    clock: Callable[[], float] = time.monotonic

    def compact(self, now_ms: int) -> dict[str, Any]:
        """A task of the hourly workflow: `run`, for MAX_HOURS at most, which stay dirty until `close_all` is done.

        Returns `{hours: [{project, hour, keys, run, tail}, …], failed, more}`: what `close_all` takes, how many
        hours could not be consolidated, and whether others may be due.
        """
        hours: list[dict[str, Any]] = []

        def keep(done: Consolidated) -> bool:
            hours.append(done.task())
            return False

        failed = 0
        try:
            self.run(now_ms, keep, MAX_HOURS)
        except ExceptionGroup as failures:
            failed = len(failures.exceptions)
        return {"hours": hours, "failed": failed, "more": len(hours) == MAX_HOURS}

    def close_all(
        self, hours: Sequence[Mapping[str, Any]], settle: Callable[[str, str, Sequence[str]], bool]
    ) -> dict[str, int]:
        """The next task: have the hours that `compact` gave closed by `settle`, which gets project, hour and files.

        Returns how many are `closed`, and so clean, and how many `waiting`: dirty, and to come again. Raises an
        ExceptionGroup, after all the others are done, when an hour could not be closed.
        """
        closed, failures = 0, list[Exception]()
        for task in hours:
            state = Unsettled(task["project"], task["hour"], tail=task["tail"], run=task["run"])
            try:
                closed += settle(state.project, state.hour, task["keys"]) and self.dirty.cleaned(state)
            except Exception as error:  # noqa: BLE001 - one hour's trouble must not keep all others from their turn
                fields = {"project": state.project, "hour": state.hour, "reason": repr(error)}
                log.warning("hour not closed", extra=fields)
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"{len(failures)} hours were not closed", failures)
        return {"closed": closed, "waiting": len(hours) - closed}

    def run(self, now_ms: int, then: Callable[[Consolidated], bool] = nothing_more, at_most: int | None = None) -> int:
        """Delete what nobody reads any more, then consolidate the hours that are due, oldest first; returns how many.

        `then` is handed each one before it counts as clean, so that what it does happens again when it dies; where it
        answers False, the hour stays dirty, and it is handed the same files again in a later run. Raises an
        ExceptionGroup, after all the others are done, when an hour could not be consolidated.
        """
        started = self.clock()
        found = self.dirty.all()
        failures: list[Exception] = []
        done: list[Consolidated] = []
        for state in sorted(found, key=lambda state: (state.hour, state.project)):
            if at_most is not None and len(done) >= at_most:
                break
            try:
                state = self._delete_retired(state, now_ms)
                if is_due(state, now_ms) and self._fits(state, self.clock() - started):
                    consolidated = self.consolidate(state.project, state.hour, now_ms + self._ms_since(started))
                    if then(consolidated):
                        self.finish(consolidated)
                    done.append(consolidated)
            except Exception as error:  # noqa: BLE001 - one hour's trouble must not keep all others from their turn
                fields = {"project": state.project, "hour": state.hour, "reason": repr(error)}
                log.warning("hour not consolidated", extra=fields)
                failures.append(error)
        self._measure(found, done, now_ms)
        if failures:
            raise ExceptionGroup(f"{len(failures)} hours were not consolidated", failures)
        return len(done)

    def consolidate(self, project: str, hour: str, now_ms: int, without: UserRows | None = None) -> Consolidated:
        """Merge the hour's files into a new version, unless there is one version only; `finish` it afterwards.

        Also that one is written again when there are rows that it must be `without`. Raises Overtaken, TooLate, or
        storage.merging.Unordered.
        """
        started = self.clock()
        state = self.dirty.begin(project, hour, self.new_run(), now_ms)
        folder = hour_folder(project, hour)
        absorbed = state.retired_names
        files = {name: size for name, size in self.lake.files(folder).items() if name not in absorbed}
        if is_one_version(files) and not without:
            return Consolidated(project, hour, self.lake.count(folder, files), 0, 0, state)

        def in_time() -> None:
            if self.clock() - started > MAX_RUN_SECONDS:
                raise TooLate(f"{project} {hour} took more than {MAX_RUN_SECONDS} s; nothing was changed")

        version = version_name(now_ms, str(state.run))
        rest, made_between, duplicates = self._gather(folder, files, version, in_time)
        merge = self.lake.merge(folder, rest, without)
        made = self.lake.write_hour(folder, version, merge, in_time)
        ended_ms = now_ms + self._ms_since(started)
        retired = {**state.retired, ended_ms + GRACE_MS: sorted({*files, *made_between})}
        upto = max((name for name in files if name.startswith(TAIL)), default=TAIL)
        if not self.dirty.commit(state, version, max(upto, state.upto), retired, ended_ms):
            self.dirty.note(project, hour, str(state.run))
            raise Overtaken(f"another consolidation of {project} {hour} began meanwhile; run it again")
        duplicates += merge.duplicates
        consolidated = Consolidated(project, hour, made, duplicates, len(files), state)
        log.info("hour consolidated", extra=consolidated.row())
        return consolidated

    def finish(self, consolidated: Consolidated) -> bool:
        """The hour is clean; False when a tail file was noted since the consolidation began, which is the next's."""
        return self.dirty.cleaned(consolidated.state)

    def _gather(
        self, folder: str, files: Mapping[str, int], version: str, in_time: Callable[[], None]
    ) -> tuple[dict[str, int], set[str], int]:
        """Merge the smallest files first, some at a time, until few enough are left: those; all that were made in
        between; and how many rows that spared.
        """
        rest, made, duplicates, number = dict(files), set[str](), 0, 0
        while len(rest) > MAX_FILES:
            number += 1
            share = dict(sorted(rest.items(), key=lambda item: (item[1], item[0]))[:MAX_FILES])
            merge = self.lake.merge(folder, share)
            keys = self.lake.write_hour(folder, f"{version}.{number}", merge, in_time).keys
            names = {key.removeprefix(folder) for key in keys}
            sizes = self.lake.files(folder)
            made |= names
            duplicates += merge.duplicates
            rest = {name: size for name, size in rest.items() if name not in share}
            rest |= {name: sizes[name] for name in names}
        return rest, made, duplicates

    def _delete_retired(self, state: Unsettled, now_ms: int) -> Unsettled:
        """Delete what is past its time, and forget an hour that is clean and has nothing left to delete."""
        due = [name for until, names in state.retired.items() if until <= now_ms for name in names]
        folder = hour_folder(state.project, state.hour)
        for name in due:
            self.lake.delete(folder + name)
        left = {until: names for until, names in state.retired.items() if until > now_ms}
        if due and not self.dirty.keep_retired(state, left):
            return state
        # Younger files of a settled hour are not seen by queries that began before; an import leaves none to delete.
        if not left and state.tail is None and state.consolidated_at + GRACE_MS <= now_ms:
            if is_one_version(self.lake.files(folder)):
                self.dirty.settle(state)
            else:  # left behind by a consolidation that was overtaken
                self.dirty.note(state.project, state.hour, "found")
        return state

    def _fits(self, state: Unsettled, seconds: float) -> bool:
        """Whether the hour can be consolidated in the rest of the function's time."""
        files = self.lake.files(hour_folder(state.project, state.hour))
        absorbed = state.retired_names
        size_bytes = sum(size for name, size in files.items() if name not in absorbed)
        if seconds + size_bytes / BYTES_PER_SECOND <= FUNCTION_SECONDS:
            return True
        fields = {"project": state.project, "hour": state.hour, "size_bytes": size_bytes}
        log.warning("hour left for another run", extra=fields)
        return False

    def _ms_since(self, started: float) -> int:
        return int((self.clock() - started) * 1000)

    def _measure(self, found: list[Unsettled], done: list[Consolidated], now_ms: int) -> None:
        clean = {(c.project, c.hour) for c in done}
        waiting = [_ready_at(s) for s in found if s.tail is not None and (s.project, s.hour) not in clean]
        values = {
            "LakeRowsConsolidated": sum(c.files.rows for c in done if c.merged),
            "LakeDuplicatesRemoved": sum(c.duplicates for c in done),
            "LakeFilesMerged": sum(c.merged for c in done),
            "LakeOldestDirtySeconds": max(0, *((now_ms - ready) // 1000 for ready in waiting), 0),
        }
        metrics.emit(self.stage, now_ms, values)


def is_due(state: Unsettled, now_ms: int) -> bool:
    """Whether the hour is dirty and ended a while ago, and no other run is at work on it."""
    if state.tail is None or _ready_at(state) > now_ms:
        return False
    return state.began_at is None or state.began_at + LEASE_MS <= now_ms


def _ready_at(state: Unsettled) -> int:
    ended = hour_start_ms(state.hour) + HOUR_MS + SETTLE_MS
    return max(ended, state.since, state.consolidated_at + REST_MS if state.consolidated_at else 0)
