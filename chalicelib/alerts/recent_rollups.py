"""What arrived in the last minutes, read from the rollups of this hour and the one before."""

from dataclasses import dataclass
from datetime import datetime

from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, hour_of, to_ms
from chalicelib.rollups.rollups import Rollups
from chalicelib.rollups.rollups_table import RollupsTable


@dataclass(frozen=True, slots=True)
class RecentRollups:
    """By the minute in which something was counted, so a minute that is over does not change any more."""

    rollups: RollupsTable

    def arrived(self, project: str, start_ms: int, end_ms: int) -> list[tuple[int, Rollups]]:
        """Rollups with the start of the minute of their arrival, in the half-open range of whole minutes.

        At most the last five, for so long compaction keeps minutes apart; several of a minute add up. Of events that
        occurred in the hour of the end or the one before.
        """
        found: list[tuple[int, Rollups]] = []
        for view in self.rollups.read_live(project, hour_of(end_ms - HOUR_MS), hour_of(end_ms)).values():
            found += [(delta.written_at * 1000 // MINUTE_MS * MINUTE_MS, delta.rollups) for delta in view.deltas]
            found += [(_start_ms(merged.minute), merged.rollups) for merged in view.merged]
        return [(minute_ms, rollups) for minute_ms, rollups in found if start_ms <= minute_ms < end_ms]


def _start_ms(minute: str) -> int:
    """Of a minute written as `2026-11-21T10:05`."""
    return to_ms(datetime.fromisoformat(f"{minute}Z"))
