"""Every minute: deltas that have settled are merged, and older merged items folded, so that reading stays cheap.

Each step is one transaction. A crash anywhere leaves whole transactions; the next run does the rest.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from chalicelib.domain.deltas import Delta, Merged
from chalicelib.domain.rollups import merge_all
from chalicelib.domain.time_windows import from_ms
from chalicelib.storage.dirty_hours import DirtyHours
from chalicelib.storage.rollups_table import MAX_MERGE, RollupsTable, base_name, merged_name

SETTLE_SECONDS = 60  # a stream batch that is still being retried rewrites its delta; after this it is rare
FOLD_SECONDS = 360  # after a delta was merged: alerts and realtime look back five whole minutes before this one
NAMED_SECONDS = 600  # a base names what it took in for as long; no reader takes that long, nor does a push
MIN_FOLD = 3  # fewer items are not worth rewriting the base, of 150 KB where 200 deltas come in a minute
MAX_FOLD = 90
MAX_HELD = 2000  # deltas in memory at a time; a backlog of hours is worked off in shares

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compactor:
    """Merges the deltas of every project."""

    rollups: RollupsTable
    dirty: DirtyHours

    def compact(self, now: int) -> int:
        """Merge what has settled by `now` (epoch seconds); returns how many deltas were absorbed.

        Raises an ExceptionGroup, after all the others are done, when an hour could not be compacted.
        """
        absorbed = 0
        failures: list[Exception] = []
        for project, hour, deltas in self._hours(now - SETTLE_SECONDS):
            try:
                self.dirty.note(project, hour, f"deltas of {now}")  # before: what is merged late closes its hour again
                absorbed += self._merge_hour(project, hour, deltas, now)
                self._fold_hour(project, hour, now)
            except Exception as error:  # noqa: BLE001 - one hour's trouble must not keep all others from compaction
                log.warning("hour not compacted", extra={"project": project, "hour": hour, "reason": repr(error)})
                failures.append(error)
        if absorbed:
            log.info("deltas absorbed", extra={"deltas": absorbed})
        if failures:
            raise ExceptionGroup(f"{len(failures)} hours were not compacted", failures)
        return absorbed

    def _hours(self, before: int) -> Iterator[tuple[str, str, list[Delta]]]:
        settled = self.rollups.settled_deltas(before)
        while held := list(islice(settled, MAX_HELD)):
            held.sort(key=lambda d: (d.project, d.hour, d.written_at, d.id))
            for (project, hour), deltas in groupby(held, key=lambda d: (d.project, d.hour)):
                yield project, hour, list(deltas)

    def _merge_hour(self, project: str, hour: str, deltas: list[Delta], now: int) -> int:
        absorbed = 0
        for minute, together in _by_minute(deltas):
            for start in range(0, len(together), MAX_MERGE):
                absorbed += self._merge(project, hour, minute, together[start : start + MAX_MERGE], now)
        return absorbed

    def _merge(self, project: str, hour: str, minute: str, deltas: list[Delta], now: int) -> int:
        state = self.rollups.state(project, hour)
        merged = Merged(
            name=merged_name(hour, state.epoch, minute, deltas[0].id),
            hour=hour,
            epoch=state.epoch,
            minute=minute,
            merged_at=now,
            rollups=merge_all(d.rollups for d in deltas),
            absorbed=dict.fromkeys((d.id for d in deltas), now),
        )
        return len(deltas) if self.rollups.absorb(deltas, merged, state) else 0

    def _fold_hour(self, project: str, hour: str, now: int) -> None:
        epoch = self.rollups.state(project, hour).epoch
        name = base_name(hour, epoch)
        items = {item.name: item for item in self.rollups.read_merged(project, hour, hour) if item.epoch == epoch}
        before = items.pop(name, None)
        old = [item for item in items.values() if item.merged_at < now - FOLD_SECONDS][:MAX_FOLD]
        if len(old) < MIN_FOLD:
            return
        parts = [before, *old] if before else old

        def lately(names: Iterable[tuple[str, int]]) -> dict[str, int]:
            return {name: at for name, at in names if at > now - NAMED_SECONDS}

        base = Merged(
            name=name,
            hour=hour,
            epoch=epoch,
            minute=old[-1].minute,
            merged_at=now,
            rollups=merge_all(part.rollups for part in parts),
            absorbed=lately(each for part in parts for each in part.absorbed.items()),
            folded=lately(before.folded.items() if before else ()) | {item.name: now for item in old},
            version=before.version + 1 if before else 1,
        )
        self.rollups.fold(project, old, base)


def _by_minute(deltas: Iterable[Delta]) -> Iterable[tuple[str, list[Delta]]]:
    """Deltas by the minute they were written in, which keeps `the last five minutes` answerable after merging."""
    for minute, group in groupby(deltas, key=lambda d: d.written_at // 60):
        yield f"{from_ms(minute * 60_000):%Y-%m-%dT%H:%M}", list(group)
