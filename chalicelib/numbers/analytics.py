"""Answers metric questions from the rollups: series over a range, whole or by the values of a dimension."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib.base.errors import InvalidRequest, NotFound
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, MINUTE_MS, day_of, day_start_ms, hour_of, hour_start_ms
from chalicelib.events.contracts import Contracts
from chalicelib.events.sessions import REACH_HOURS
from chalicelib.numbers.questions import CALENDAR, QUANTILES, USERS, Filter, Question
from chalicelib.rollups.facets import ALL_TYPES, COUNTS, DERIVED, SESSIONS, facet_of, quantiles_of
from chalicelib.rollups.facets import USERS as USERS_ASPECT
from chalicelib.rollups.folding import MAX_DIMENSION_LENGTH
from chalicelib.rollups.history import History
from chalicelib.rollups.rollups import OTHER, Cell, Rollup, RollupSpec, Values
from chalicelib.rollups.sketches import QUANTILE_ERROR, UNIQUES_ERROR, quantile

EVENTS = "events"  # the metric of every event type together
SESSIONS_METRIC = "sessions"
MAX_POINTS = 80_000  # of all groups: some 5 MB of JSON, and a function answers with 6 at most
NOTHING = Cell()


@dataclass(frozen=True, slots=True)
class Analytics:
    """Reads; writes nothing."""

    contracts: Contracts
    history: History

    def answer(self, project: str, question: Question, now_ms: int) -> dict[str, Any]:
        """Return the answer to `GET /analytics`; raises NotFound for a metric that no event of the project has."""
        event_type = self._resolve(project, question)
        now = self._numbers(project, event_type, question)
        answer: dict[str, Any] = {
            "metric": question.metric,
            "agg": question.agg,
            "start": question.show(question.start_ms),
            "end": question.show(question.end_ms),
            "interval": question.interval,
            "timezone": question.zone.key,
            **now,
            "open": question.end_ms > now_ms - HOUR_MS * (REACH_HOURS if event_type == SESSIONS else 1),
        }
        if question.compare:
            before = question.previous()
            shown = [group["key"] for group in now.get("groups", ())]
            numbers = self._numbers(project, event_type, before, shown)
            span = {"start": question.show(before.start_ms), "end": question.show(before.end_ms)}
            answer["previous"] = span | numbers
            answer["change"] = _change(numbers["total"], answer["total"])
        if question.agg == "users":
            answer["relative_error"] = round(UNIQUES_ERROR, 4)
        elif question.agg in QUANTILES:
            answer["relative_error"] = QUANTILE_ERROR
        return answer

    def _numbers(
        self, project: str, event_type: str | None, question: Question, shown: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return the series and their totals; of the groups that are `shown`, or else the largest."""
        parts = self._parts(project, event_type, question)
        buckets = question.buckets()
        starts = [question.show(start) for start in buckets]
        if question.by_minute:
            counts = _counts(parts, question, buckets)
            return {"series": _series(starts, counts), "total": sum(counts)}
        if not question.dimension:
            cells = [_sum(part) for part in _by_bucket(parts, buckets)]
            return _valued(starts, cells, question)
        values = [_values(part, question) for part in _by_bucket(parts, buckets)]
        numbers = _valued(starts, [_sum(cells.values()) for cells in values], question)
        if question.group_by:
            numbers["groups"] = _groups(starts, values, question, shown)
        if question.filter and (others := _others(parts.values(), question.filter.dimension)):
            numbers["other"] = _value(_sum(others), question)
        return numbers

    def _parts(self, project: str, event_type: str | None, question: Question) -> dict[int, Rollup]:
        """What is kept that the question needs, by the instant at which it begins: of hours, or of days if they do."""
        facet = facet_of(_aspect(question), question.dimension)
        first, last = hour_of(question.start_ms), hour_of(question.end_ms - 1)
        totals = question.agg == "count" and (bool(question.dimension) or not _within_hours(question))
        if facet != COUNTS and question.interval in CALENDAR and not _within_days(question):
            days = self.history.days(project, event_type, facet, day_of(first), day_of(last), totals=totals)
            return {day_start_ms(day): part for day, part in days.items()}
        hours = self.history.hours(project, event_type, facet, first, last, totals=totals)
        return {hour_start_ms(hour): part for hour, part in hours.items()}

    def _resolve(self, project: str, question: Question) -> str | None:
        """Return the event type that the metric counts; None stands for all."""
        if question.metric in (EVENTS, USERS):
            self._check(question, DERIVED[ALL_TYPES])
            return None
        if question.metric == SESSIONS_METRIC:
            self._check(question, DERIVED[SESSIONS])
            return SESSIONS
        known = self.contracts.type_of(question.metric)
        if known is None:
            seen = self.history.rollups.event_types(project)
            if question.metric not in seen:
                names = sorted({EVENTS, USERS, SESSIONS_METRIC, *(c.metric for c in self.contracts), *seen})
                raise NotFound(
                    f"metric: {question.metric!r} is unknown; known are {', '.join(names[:50])}",
                    code="unknown_metric",
                )
            known = question.metric
        self._check(question, self.contracts.spec(known))
        return known

    def _check(self, question: Question, spec: RollupSpec) -> None:
        _require(question.measure, spec.measures, "measure", question.metric)
        _require(question.group_by, spec.dimensions, "group_by", question.metric)
        if question.filter:
            _require(question.filter.dimension, spec.dimensions, "filter", question.metric)


def _require(asked: str | None, kept: Sequence[str], parameter: str, metric: str) -> None:
    if asked is not None and asked not in kept:
        known = ", ".join(kept) or "none"
        raise InvalidRequest(
            f"{parameter}: {asked!r} is not rolled up for {metric}; rolled up are {known}. POST /query can use every "
            "property",
            code="invalid_parameter",
        )


def _aspect(question: Question) -> str:
    if question.agg == "users":
        return USERS_ASPECT
    return quantiles_of(question.measure or "") if question.agg in QUANTILES else COUNTS


def _within_days(question: Question) -> bool:
    """Return whether a bucket, or the range, begins within a UTC day, so that hours are needed."""
    return any(start % DAY_MS for start in (question.start_ms, question.end_ms, *question.buckets()))


def _within_hours(question: Question) -> bool:
    """Return whether a bucket, or the range, begins within an hour, so that its minutes are needed."""
    return any(start % HOUR_MS for start in (question.start_ms, question.end_ms, *question.buckets()))


def _by_bucket(parts: Mapping[int, Rollup], buckets: Sequence[int]) -> list[list[Rollup]]:
    found: list[list[Rollup]] = [[] for _ in buckets]
    for start_ms, part in parts.items():
        found[max(bisect_right(buckets, start_ms) - 1, 0)].append(part)
    return found


def _counts(parts: Mapping[int, Rollup], question: Question, buckets: Sequence[int]) -> list[int]:
    """Events per bucket, exact to the minute."""
    counts = [0] * len(buckets)
    ends = [*buckets[1:], question.end_ms]
    for start_ms, part in parts.items():
        bucket = bisect_right(buckets, start_ms) - 1
        if start_ms >= question.start_ms and bucket >= 0 and start_ms + HOUR_MS <= min(ends[bucket], question.end_ms):
            counts[bucket] += part.count
            continue
        for minute, count in part.minutes.items():
            at = start_ms + minute * MINUTE_MS
            if question.start_ms <= at < question.end_ms:
                counts[bisect_right(buckets, at) - 1] += count
    return counts


def _values(parts: Iterable[Rollup], question: Question) -> Values:
    """Return the values of the dimension, as far as the filter goes."""
    shares = [_filtered(part.dimensions.get(question.dimension or "", Values()), question.filter) for part in parts]
    if len(shares) == 1:  # as with each bucket of an hour; it is read only, as sums are
        return shares[0]
    found = Values()
    for cells in shares:
        found.merge(cells)
    return found


def _others(parts: Iterable[Rollup], dimension: str) -> list[Cell]:
    """Return what is kept of values that are not told apart; some of it may be of those that are asked for."""
    values = (part.dimensions.get(dimension, Values()) for part in parts)
    return [cells[OTHER] for cells in values if OTHER in cells]


def _filtered(cells: Values, wanted: Filter | None) -> Values:
    if wanted is None:
        return cells
    names = {value[:MAX_DIMENSION_LENGTH] for value in wanted.values}
    return Values({name: cells[name] for name in names if name in cells}, cells.missed)


def _sum(cells: Iterable[Cell]) -> Cell:
    """Return the cells together; of one, itself, so nobody may change the sum."""
    shares = [cell for cell in cells if cell is not NOTHING]  # most are, of values that are rare
    if len(shares) == 1:
        return shares[0]
    total = Cell()
    for cell in shares:
        total.merge(cell)
    return total


def _valued(starts: Sequence[str], cells: Sequence[Cell], question: Question) -> dict[str, Any]:
    values = [_value(cell, question) for cell in cells]
    return {"series": _series(starts, values), "total": _value(_sum(cells), question)}


def _series(starts: Sequence[str], values: Sequence[float | int | None]) -> list[dict[str, Any]]:
    return [{"start": start, "value": value} for start, value in zip(starts, values, strict=True)]


def _groups(
    starts: Sequence[str], values: Sequence[Values], question: Question, chosen: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Those chosen, or else the largest first; what is beyond the limit, and what is not kept, together as OTHER."""
    names = {name for cells in values for name in cells}
    shown = _largest(values, question) if chosen is None else [name for name in chosen if name != OTHER]
    rest = sorted(names.difference(shown))
    _check_size(len(shown) + bool(rest), len(starts), question)
    groups = [
        {"key": name, **_valued(starts, [cells.get(name, NOTHING) for cells in values], question)} for name in shown
    ]
    if rest:
        others = [_sum(cells[name] for name in rest if name in cells) for cells in values]
        groups.append({"key": OTHER, **_valued(starts, others, question)})
    return groups


def _largest(values: Sequence[Values], question: Question) -> list[str]:
    totals: dict[str, Cell] = {}
    for cells in values:
        for name, cell in cells.items():
            if name != OTHER:
                totals.setdefault(name, Cell()).merge(cell)
    return sorted(totals, key=lambda name: (-_weight(totals[name], question), name))[: question.limit]


def _check_size(groups: int, buckets: int, question: Question) -> None:
    """Raises InvalidRequest for more than an answer can hold."""
    points = groups * buckets * (2 if question.compare else 1)
    if points > MAX_POINTS:
        raise InvalidRequest(
            f"interval: {groups} groups of {buckets} buckets are {points} points; the limit is {MAX_POINTS}. Ask for a "
            "longer interval, a shorter range, or a smaller limit",
            code="invalid_parameter",
        )


def _weight(cell: Cell, question: Question) -> float:
    """Return what groups are ranked by: the events, the users, or the values, that an aggregate is of."""
    if question.agg == "users":
        return cell.users.estimate()
    measure = cell.measures.get(question.measure or "")
    if question.agg == "sum":
        return measure.total if measure else 0.0
    return measure.count if measure else cell.count


def _value(cell: Cell, question: Question) -> float | int | None:
    if question.agg == "count":
        return cell.count
    if question.agg == "users":
        return cell.users.estimate()
    found = cell.measures.get(question.measure or "")
    if found is None or not found.count:
        return 0 if question.agg == "sum" else None
    if question.agg in QUANTILES:
        return quantile(found.buckets, QUANTILES[question.agg])
    stated = {"sum": found.total, "avg": found.total / found.count, "min": found.low, "max": found.high}
    return stated[question.agg]


def _change(before: float | None, now: float | None) -> float | None:
    """By which share of what was before it has grown; None where there was nothing."""
    return round(now / before - 1, 6) if before and now is not None else None
