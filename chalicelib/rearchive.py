"""What the hot store has of an hour and the lake lacks is archived again: the way back when `archive` lost a batch."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chalicelib import metrics
from chalicelib.domain.events import StoredEvent
from chalicelib.domain.partitions import hour_folder, import_tail_name, tail_name
from chalicelib.domain.time_windows import hour_of
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.hour_folders import HourFolders
from chalicelib.storage.hours_table import HoursTable
from chalicelib.storage.lake import Lake, Row, encode, table_of
from chalicelib.storage.record_sets import records_of

FUNCTION_SECONDS = 240  # of a function's 900, which closes other hours besides
ROWS_AT_ONCE = 20_000  # of a tail; bounds memory
RUN = "rearchived"

log = logging.getLogger(__name__)


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
        for rows in self.missing(project, hour, slot):
            self._write(project, hour, slot, rows)
            found += len(rows)
        if found:
            log.warning("events archived again", extra={"project": project, "hour": hour, "events": found})
            metrics.emit(self.stage, now_ms, {"EventsRearchived": found})
        return found

    def missing(self, project: str, hour: str, slot: int | None) -> Iterator[list[Row]]:
        """Yield events of the hour that no file has, each once, some at a time; raises TooLarge."""
        _, keys = self.folders.keys(self.hours, project, hour)
        there = {event_id for batch in self.lake.batches(keys, ["event_id"]) for event_id in _ids(batch)}
        rows: list[Row] = []
        for received_ms, event in self._hot(project, hour):
            if event["event_id"] not in there:
                there.add(event["event_id"])
                rows.append(Row(event, received_ms, slot))
            if len(rows) == ROWS_AT_ONCE:
                yield rows
                rows = []
        if rows:
            yield rows

    def _hot(self, project: str, hour: str) -> Iterator[tuple[int, StoredEvent]]:
        until = None if self.seconds is None else self.clock() + self.seconds
        for chunk in self.events.every_chunk(project):
            if until is not None and self.clock() > until:
                raise TooLarge(f"the hot store of {project} takes more than {self.seconds:.0f} s: ops rearchive")
            of_hour = [event for event in chunk.events if hour_of(event["occurred_at"]) == hour]
            for event in self.erased.kept(project, of_hour) if of_hour else ():
                yield chunk.received_ms, event

    def _write(self, project: str, hour: str, slot: int | None, rows: list[Row]) -> None:
        content = encode(table_of(rows), records_of([]))
        name = import_tail_name(RUN, content) if slot is None else tail_name(slot, RUN, content)
        self.lake.put(hour_folder(project, hour) + name, content)
        self.hours.note(project, hour)


def _ids(batch: object) -> list[str]:
    ids: list[str] = batch.column("event_id").to_pylist()  # type: ignore[attr-defined]
    return ids
