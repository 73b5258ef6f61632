"""Answers what is going on: the last five minutes by arrival, the last hour by minute, and the ledger."""

from dataclasses import dataclass
from typing import Any

from chalicelib.base import waits
from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, hour_of, hour_start_ms, iso_ms, minute_of
from chalicelib.events.contracts import Contracts
from chalicelib.numbers.questions import QUANTILES
from chalicelib.rollups.deltas import HourView
from chalicelib.rollups.facets import OVERVIEW, all_types
from chalicelib.rollups.ledger import Ledger
from chalicelib.rollups.ledger_table import LedgerTable
from chalicelib.rollups.rollups import Cell, Measure, Rollups, merge_all
from chalicelib.rollups.rollups_table import RollupsTable
from chalicelib.rollups.sketches import quantile

WINDOW_SECONDS = waits.LOOK_BACK_MS // 1000  # at least, and less than a minute more
TOP = 10


@dataclass(frozen=True, slots=True)
class Observer:
    """Reads live items only, which are kept for two hours after their own: three pages, however long the history."""

    contracts: Contracts
    rollups: RollupsTable
    ledger: LedgerTable

    def observe(self, project: str, now_ms: int) -> dict[str, Any]:
        """Return the answer to `GET /realtime/metrics`: the last five minutes by arrival, the last hour by minute.

        Merged items know the minute their deltas were written in, so the window starts with a whole minute.
        """
        recent: list[Rollups] = []
        per_minute: dict[int, int] = {}
        start_seconds = (now_ms // 1000 - WINDOW_SECONDS) // 60 * 60
        start_minute = minute_of(start_seconds * 1000)
        window_seconds = now_ms / 1000 - start_seconds
        ledgers: list[dict[str, Any]] = []
        hours = hour_of(now_ms - HOUR_MS), hour_of(now_ms)
        receipts = self.ledger.receipts(project, *hours)  # before the rest, which else would seem to have no origin
        views = self.rollups.read_live(project, *hours, excerpt=OVERVIEW)
        for hour in hours:
            view = views.get(hour, HourView(hour))
            ledger, start_ms = Ledger(), hour_start_ms(hour)
            for part in [*(item.rollups for item in view.merged), *(delta.rollups for delta in view.deltas)]:
                ledger.merge(part.ledger)
                for rollup in part.values():
                    for minute, count in rollup.minutes.items():
                        at = start_ms + minute * MINUTE_MS
                        per_minute[at] = per_minute.get(at, 0) + count
            ledger.note(*receipts.get(hour, ()))
            ledgers.append({"hour": hour, **ledger.balance()})
            recent += [delta.rollups for delta in view.deltas if delta.written_at >= start_seconds]
            recent += [merged.rollups for merged in view.merged if merged.minute >= start_minute]
        rollups = merge_all(recent)
        everything = all_types(rollups)
        this_minute = now_ms - now_ms % MINUTE_MS
        minutes = range(this_minute - 59 * MINUTE_MS, this_minute + 1, MINUTE_MS)
        return {
            "as_of": iso_ms(now_ms),
            "window_seconds": round(window_seconds),
            "events": everything.count,
            "events_per_second": round(everything.count / window_seconds, 3),
            "active_users": everything.users.estimate(),
            "error_rate": round(rollups["error"].count / everything.count, 5) if "error" in rollups else 0.0,
            "metrics": {self.contracts.metric_of(name): rollup.count for name, rollup in sorted(rollups.items())},
            "top": {
                f"{self.contracts.metric_of(name)}.{dimension}": _top(values)
                for name, rollup in sorted(rollups.items())
                for dimension, values in sorted(rollup.dimensions.items())
            },
            "measures": {
                f"{self.contracts.metric_of(name)}.{measure}": _summary(value)
                for name, rollup in sorted(rollups.items())
                for measure, value in sorted(rollup.measures.items())
            },
            "ledger": ledgers,
            "minutes": [{"start": minute_of(m) + "Z", "events": per_minute.get(m, 0)} for m in minutes],
        }


def _top(values: dict[str, Cell]) -> list[dict[str, Any]]:
    ranked = sorted(values.items(), key=lambda pair: (-pair[1].count, pair[0]))[:TOP]
    return [{"value": value, "count": cell.count} for value, cell in ranked]


def _summary(measure: Measure) -> dict[str, Any]:
    return {
        "count": measure.count,
        "avg": measure.total / measure.count,
        "min": measure.low,
        "max": measure.high,
        **{name: quantile(measure.buckets, q) for name, q in QUANTILES.items()},
    }
