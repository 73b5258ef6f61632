"""What the hot store has of an hour and the lake lacks is archived again: the way back when `archive` lost a batch."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chalicelib.base import metrics, waits
from chalicelib.base.object_keys import hour_folder, import_tail_name, tail_name
from chalicelib.base.time_windows import hour_of
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.events import StoredEvent
from chalicelib.events.events_table import EventsTable
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import Lake, Row, encode, table_of
from chalicelib.lake.record_sets import records_of
from chalicelib.rollups.hours_table import HoursTable

FUNCTION_SECONDS = 100  # of a function's 900, of which closing other hours takes up to 780
ROWS_AT_ONCE = 20_000  # of a tail; bounds memory
RUN = "rearchived"

log = logging.getLogger(__name__)

Received = tuple[StoredEvent, int]  # with the Unix milliseconds of its receipt
Hashes = npt.NDArray[np.int64]


class TooLarge(Exception):
    """The hot store could not be looked through in the time that there was."""


@dataclass(frozen=True, slots=True)
class Rearchiver:
    """Looks through the hot store of a project; running twice finds nothing the second time."""

    events: EventsTable
    lake: Lake
    folders: HourFolders
    hours: HoursTable
    erased: ErasedUsers
    stage: str
    seconds: float | None = FUNCTION_SECONDS  # None: for as long as it takes
    clock: Callable[[], float] = time.monotonic

    def is_incomplete(self, project: str, hour: str, slot: int, now_ms: int) -> bool:
        """Put back what there is, and tell whether there was anything, or may be: then the hour waits."""
        try:
            return self.put_back(project, hour, slot, now_ms) > 0
        except TooLarge as error:
            log.warning("hour not archived again", extra={"project": project, "hour": hour, "reason": str(error)})
            metrics.emit(self.stage, now_ms, {"HoursNotRearchived": 1})
            return True

    def put_back(self, project: str, hour: str, slot: int | None, now_ms: int) -> int:
        """Put events of the hour that no file has into a tail of the slot; returns how many, each once.

        Under the slot that closing waits for, the rows are folded when it follows the file; without a slot they are
        folded at once, which is right of an hour that is closed. Raises TooLarge.
        """
        found = 0
        for _, rows in self.missing(project, [hour], now_ms):
            self._write(project, hour, slot, rows)
            found += len(rows)
        if found:
            log.warning("events archived again", extra={"project": project, "hour": hour, "events": found})
            metrics.emit(self.stage, now_ms, {"EventsRearchived": found})
        return found

    def missing(self, project: str, hours: Collection[str], now_ms: int) -> Iterator[tuple[str, list[Received]]]:
        """Yield each hour with events of it that no file has, each once, some at a time; raises TooLarge.

        What was just received is left to `archive`. The hot store is looked through once; memory holds eight bytes for
        each row of the hours.
        """
        there = {hour: self._ids(project, hour) for hour in hours}
        new: set[tuple[str, str]] = set()  # by hour: the same id with two timestamps is two events
        found: dict[str, list[Received]] = defaultdict(list)
        for hour, received_ms, event in self._hot(project, there, now_ms - waits.IN_FLIGHT_MS):
            if (hour, event["event_id"]) not in new and not _has(there[hour], event["event_id"]):
                new.add((hour, event["event_id"]))
                found[hour].append((event, received_ms))
                if len(found[hour]) == ROWS_AT_ONCE:
                    yield hour, found.pop(hour)
        yield from sorted(found.items())

    def _ids(self, project: str, hour: str) -> Hashes:
        # Python's own hash: 64 bits, keyed by the process, so that nobody can make ids that meet.
        _, keys = self.folders.keys(self.hours, project, hour)
        batches = self.lake.batches(keys, ["event_id"])
        hashes = [np.fromiter(map(hash, batch.column("event_id").to_pylist()), np.int64) for batch in batches]
        return np.sort(np.concatenate([np.empty(0, np.int64), *hashes]))

    def _hot(self, project: str, hours: Container[str], before_ms: int) -> Iterator[tuple[str, int, StoredEvent]]:
        until = None if self.seconds is None else self.clock() + self.seconds
        for chunk in self.events.every_chunk(project):
            if until is not None and self.clock() > until:
                raise TooLarge(f"the hot store of {project} takes more than {self.seconds:.0f} s: ops rearchive")
            if chunk.received_ms >= before_ms:
                continue
            of_hours = [event for event in chunk.events if hour_of(event["occurred_at"]) in hours]
            for event in self.erased.kept(project, of_hours) if of_hours else ():
                yield hour_of(event["occurred_at"]), chunk.received_ms, event

    def _write(self, project: str, hour: str, slot: int | None, rows: list[Received]) -> None:
        content = encode(table_of(Row(event, received_ms, slot) for event, received_ms in rows), records_of([]))
        name = import_tail_name(RUN, content) if slot is None else tail_name(slot, RUN, content)
        self.lake.put(hour_folder(project, hour) + name, content)
        self.hours.note(project, hour)


def _has(ids: Hashes, event_id: str) -> bool:
    hashed = hash(event_id)
    place = int(np.searchsorted(ids, hashed))
    return place < len(ids) and int(ids[place]) == hashed
