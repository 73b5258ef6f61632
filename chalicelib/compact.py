"""Every minute: deltas that are some minutes old are merged, so that reading an hour stays cheap.

Merging writes the merged item and a tombstone in each delta's place in one transaction. A crash anywhere leaves
whole transactions; the next run does the rest.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from chalicelib.domain.deltas import Delta, Merged
from chalicelib.domain.rollups import merge_all
from chalicelib.domain.time_windows import from_ms
from chalicelib.storage.rollups_table import MAX_MERGE, RollupsTable

SETTLE_SECONDS = 120  # a stream batch that is still being retried rewrites its delta; after this it is rare

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compactor:
    """Merges the deltas of every project."""

    rollups: RollupsTable

    def compact(self, now: int) -> int:
        """Merge what has settled by `now` (epoch seconds); returns how many deltas were absorbed.

        Raises an ExceptionGroup, after all the others are done, when an hour could not be compacted.
        """
        before = now - SETTLE_SECONDS
        absorbed = 0
        failures: list[Exception] = []
        for project, hour in self.rollups.open_hours(before):
            try:
                absorbed += self._compact_hour(project, hour, before, now)
            except Exception as error:  # noqa: BLE001 - one hour's trouble must not keep all others from compaction
                log.warning("hour not compacted", extra={"project": project, "hour": hour, "reason": repr(error)})
                failures.append(error)
        if absorbed:
            log.info("deltas absorbed", extra={"deltas": absorbed})
        if failures:
            raise ExceptionGroup(f"{len(failures)} hours were not compacted", failures)
        return absorbed

    def _compact_hour(self, project: str, hour: str, before: int, now: int) -> int:
        absorbed = 0
        settled = [d for d in self.rollups.read_hour(project, hour).deltas if d.written_at < before]
        for minute, deltas in _by_minute(settled):
            for start in range(0, len(deltas), MAX_MERGE):
                absorbed += self._merge(minute, deltas[start : start + MAX_MERGE], now)
        return absorbed

    def _merge(self, minute: str, deltas: list[Delta], now: int) -> int:
        merged = Merged(minute, frozenset(d.id for d in deltas), now, merge_all(d.rollups for d in deltas))
        return len(deltas) if self.rollups.absorb(deltas, merged) else 0


def _by_minute(deltas: Iterable[Delta]) -> Iterable[tuple[str, list[Delta]]]:
    """Deltas by the minute they were written in, which keeps `the last five minutes` answerable after merging."""
    ordered = sorted(deltas, key=lambda d: (d.written_at, d.id))
    for minute, group in groupby(ordered, key=lambda d: d.written_at // 60):
        yield f"{from_ms(minute * 60_000):%Y-%m-%dT%H:%M}", list(group)
