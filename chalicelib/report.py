"""Answers metric questions from the rollups: series over a range, and the last minutes."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import HourView
from chalicelib.domain.errors import InvalidRequest, NotFound
from chalicelib.domain.questions import MAX_GROUPS, QUANTILES, USERS, Question
from chalicelib.domain.rollups import Cell, Measure, Rollup, Rollups, merge_all
from chalicelib.domain.sketches import QUANTILE_ERROR, UNIQUES_STANDARD_ERROR, quantile
from chalicelib.domain.time_windows import HOUR_MS, MINUTE_MS, hour_of, hour_start_ms, iso_ms
from chalicelib.storage.ledger_table import LedgerTable
from chalicelib.storage.rollups_table import RollupsTable

EVENTS = "events"  # the metric of every event type together
REALTIME_WINDOW_SECONDS = 300  # at least, and less than a minute more
TOP = 10

NONE = Cell()

Series = list[tuple[int, Rollup]]  # bucket start -> what it holds


@dataclass(frozen=True, slots=True)
class Reporter:
    """Reads; writes nothing."""

    contracts: Contracts
    rollups: RollupsTable
    ledger: LedgerTable

    def analytics(self, project: str, question: Question, now_ms: int) -> dict[str, Any]:
        """The answer to `GET /analytics`; raises NotFound for a metric that no event of the project has."""
        types, agg = self._resolve(project, question), question.agg
        buckets = question.buckets()
        views = self.rollups.read_live(project, hour_of(question.start_ms), hour_of(question.end_ms - 1))
        by_hour = {hour: _of_types(view.total(), types) for hour, view in views.items()}
        answer: dict[str, Any] = {
            "metric": question.metric,
            "agg": agg,
            "start": question.show(question.start_ms),
            "end": question.show(question.end_ms),
            "interval": question.interval,
            "timezone": question.zone.key,
        }
        if agg == "count" and not question.group_by:
            counts = _counts(by_hour, question, buckets)
            answer["series"] = [{"start": question.show(b), "value": n} for b, n in zip(buckets, counts, strict=True)]
            answer["total"] = sum(counts)
        else:
            series = _series(by_hour, buckets)
            answer["series"] = [
                {"start": question.show(start), "value": _value(rollup, agg, question.measure)}
                for start, rollup in series
            ]
            answer["total"] = _value(_sum(rollup for _, rollup in series), agg, question.measure)
            if question.group_by:
                answer["groups"] = _groups(series, question)
        answer["open"] = question.end_ms > now_ms - HOUR_MS
        if agg == "users":
            answer["relative_standard_error"] = round(UNIQUES_STANDARD_ERROR, 4)
        elif agg in QUANTILES:
            answer["relative_error"] = QUANTILE_ERROR
        return answer

    def realtime(self, project: str, now_ms: int) -> dict[str, Any]:
        """The answer to `GET /realtime/metrics`: the last five minutes by arrival, the last hour by minute.

        Merged items know the minute their deltas were written in, so the window starts with a whole minute.
        """
        recent: list[Rollups] = []
        per_minute: dict[int, int] = {}
        start_seconds = (now_ms // 1000 - REALTIME_WINDOW_SECONDS) // 60 * 60
        start_minute = iso_ms(start_seconds * 1000)[:16]
        window_seconds = now_ms / 1000 - start_seconds
        ledgers: list[dict[str, Any]] = []
        hours = hour_of(now_ms - HOUR_MS), hour_of(now_ms)
        receipts = self.ledger.receipts(project, *hours)  # before the rest, which else would seem to have no origin
        views = self.rollups.read_live(project, *hours)
        for hour in hours:
            view = views.get(hour, HourView(hour))
            total = view.total()
            total.ledger.note(*receipts.get(hour, ()))
            ledgers.append({"hour": hour, **total.ledger.balance()})
            start_ms = hour_start_ms(hour)
            for rollup in total.values():
                for minute, count in rollup.minutes.items():
                    at = start_ms + minute * MINUTE_MS
                    per_minute[at] = per_minute.get(at, 0) + count
            recent += [delta.rollups for delta in view.deltas if delta.written_at >= start_seconds]
            recent += [merged.rollups for merged in view.merged if merged.minute >= start_minute]
        rollups = merge_all(recent)
        everything = _sum(rollups.values())
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
            "minutes": [{"start": iso_ms(m)[:16] + "Z", "events": per_minute.get(m, 0)} for m in minutes],
        }

    def _resolve(self, project: str, question: Question) -> set[str] | None:
        """The event types that the metric counts; None stands for all."""
        if question.metric in (EVENTS, USERS):
            return None
        known = self.contracts.type_of(question.metric)
        if known is None:
            seen = self.rollups.event_types(project)
            if question.metric not in seen:
                names = sorted({EVENTS, USERS, *(c.metric for c in self.contracts), *seen})
                raise NotFound(
                    f"metric: {question.metric!r} is not known; known are {', '.join(names[:50])}",
                    code="unknown_metric",
                )
            known = question.metric
        self._require(question.measure, self.contracts.spec(known).measures, "measure", question.metric)
        self._require(question.group_by, self.contracts.spec(known).dimensions, "group_by", question.metric)
        return {known}

    def _require(self, asked: str | None, kept: tuple[str, ...], parameter: str, metric: str) -> None:
        if asked is not None and asked not in kept:
            known = ", ".join(kept) or "none"
            raise InvalidRequest(
                f"{parameter}: {asked!r} is not kept of {metric}; kept are {known}", code="invalid_parameter"
            )


def _of_types(rollups: Rollups, types: set[str] | None) -> Rollup:
    return _sum(rollup for name, rollup in rollups.items() if types is None or name in types)


def _sum(rollups: Iterable[Rollup]) -> Rollup:
    total = Rollup()
    for rollup in rollups:
        total.merge(rollup)
    return total


def _series(by_hour: dict[str, Rollup], buckets: list[int]) -> Series:
    parts: list[list[Rollup]] = [[] for _ in buckets]
    for hour, rollup in by_hour.items():
        parts[max(bisect_right(buckets, hour_start_ms(hour)) - 1, 0)].append(rollup)
    return [(start, _sum(part)) for start, part in zip(buckets, parts, strict=True)]


def _counts(by_hour: dict[str, Rollup], question: Question, buckets: list[int]) -> list[int]:
    """Events per bucket, exact to the minute."""
    counts = [0] * len(buckets)
    for hour, rollup in by_hour.items():
        start_ms = hour_start_ms(hour)
        for minute, count in rollup.minutes.items():
            at = start_ms + minute * MINUTE_MS
            if question.start_ms <= at < question.end_ms:
                counts[bisect_right(buckets, at) - 1] += count
    return counts


def _value(rollup: Rollup, agg: str, measure: str | None) -> float | int | None:
    if agg == "count":
        return rollup.count
    if agg == "users":
        return rollup.users.estimate()
    found = rollup.measures.get(measure or "")
    if found is None or not found.count:
        return None
    if agg in QUANTILES:
        return quantile(found.buckets, QUANTILES[agg])
    return {"sum": found.total, "avg": found.total / found.count, "min": found.low, "max": found.high}[agg]


def _groups(series: Series, question: Question) -> list[dict[str, Any]]:
    """Counts by the values of a dimension, the most frequent first."""
    name = question.group_by or ""
    totals = _sum(rollup for _, rollup in series).dimensions.get(name, {})
    ranked = sorted(totals.items(), key=lambda pair: (-pair[1].count, pair[0]))[:MAX_GROUPS]
    return [
        {
            "key": key,
            "series": [
                {"start": question.show(start), "value": rollup.dimensions.get(name, {}).get(key, NONE).count}
                for start, rollup in series
            ],
            "total": total.count,
        }
        for key, total in ranked
    ]


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
