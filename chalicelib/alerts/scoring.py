"""Which hours are out of the ordinary: a series' last hour against the same hour of the weeks before.

Everything is computed from the weeks before the hour, so an hour is judged alike whenever it is asked for. Arrays are
(series, hours) of float64, oldest hour first, NaN where nothing is known; counts in events, measures in their own
unit. docs/decisions/0021-anomalies.md has the reasons, and what it finds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from chalicelib.base.time_windows import HOUR_MS, from_ms

WEEK = 168  # hours
WEEKS = 6  # the hour's five predecessors, and a week before the oldest of them to tell its level
HISTORY_HOURS = WEEKS * WEEK
SAMPLES = WEEKS - 1
MIN_SAMPLES = 3  # of the same hour of the week; with fewer, a plain z-score is all there is
MIN_PLAIN_HOURS = 72  # three days: with less, a day's own rise and fall would alarm
MIN_DAYS = 4  # of a week that are known in both, or its level is not
MIN_DAY_HOURS = 18  # of a day
NEIGHBOUR_HOURS = 2  # of the day, on both sides, whose residuals tell the scale together
MEDIAN_NOISE = 1.2533  # times that of the mean
NORMAL = 1.4826  # times the median absolute deviation is the standard deviation of a normal distribution
PSEUDO_EVENTS = 20.0  # added to the counts of days: the level of a sparse series stays about what it was
MEASURE_FLOOR = 0.05  # relative; percentiles are known within 1 %, and of few events vary by more
SILENCE_EVENTS = 12.0  # that should have come: chance of none is e^-12, once in 160,000 hours
BLOCK_HOURS = 3
BLOCKS = 8  # of a day; the median of eight is not moved by an outage of some hours, which is none of drift's
BLOCK_EVENTS = 20.0
GOING_ON = 2  # of the latest blocks, which must not be on their way back
DRIFT_FLOOR = 0.03  # relative, of a day's level
GROWTH_FLOOR = 0.02  # relative, of a week's growth
# Places whose clocks change on different days; after a change there, the week's pattern may have moved by an hour.
ZONES = tuple(map(ZoneInfo, ("UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Sydney")))

Floats = NDArray[np.float64]
HIGH, LOW = "high", "low"
SPIKE, DROP, SILENCE, DRIFT = "spike", "drop", "silence", "drift"


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """From where on something is an anomaly; all three have to hold."""

    threshold: float = 4.5  # standard deviations
    minimum_change: float = 0.25  # of what was expected: what is significant may yet be small
    minimum_support: float = 20.0  # events in the hour, expected or observed


DEFAULT = Sensitivity()


@dataclass(frozen=True, slots=True)
class Finding:
    """One anomaly: `series` is the row, `score` in standard deviations, negative when low."""

    series: int
    kind: str  # spike, drop, silence, drift
    observed: float  # of the hour; of drift, of its last 24 hours on average
    expected: float
    score: float
    method: str  # seasonal or plain

    @property
    def direction(self) -> str:
        """`high` or `low`."""
        return HIGH if self.score > 0 else LOW


@dataclass(frozen=True, slots=True)
class _Scores:
    """Arrays of one number for each series; NaN is no finding."""

    kind: str
    method: str
    observed: Floats
    expected: Floats
    score: Floats


def find(values: Floats, hour_ms: int, *, counts: bool = True, sensitivity: Sensitivity = DEFAULT) -> list[Finding]:
    """Return the anomalies of the hour that begins at `hour_ms`, the last column; at most one of each series.

    `values` has HISTORY_HOURS + 1 columns. `counts`: numbers of events, whose noise is at least that of Poisson; else
    positive values of a measure. An hour that is NaN is never an anomaly. Raises ValueError for another shape.
    """
    if values.ndim != 2 or values.shape[1] != HISTORY_HOURS + 1:
        raise ValueError(f"values has the shape {values.shape}; it is (series, {HISTORY_HOURS + 1})")
    if counts:
        values = np.where(np.cumsum(np.nan_to_num(values), axis=1) > 0, values, np.nan)  # unknown until it begins
    else:
        values = np.where(values > 0, values, np.nan)
    weeks = _Weeks.of(values, hour_ms, counts)
    now = values[:, -1]
    tests = [_seasonal(weeks, now, sensitivity), _drift(weeks, now, sensitivity)]
    if counts:
        tests.insert(0, _silence(weeks, now))
    tests.append(_plain(values, now, np.isnan(weeks.expected), counts, sensitivity))
    return [
        Finding(row, test.kind or _kind(test, row), *_numbers(test, row), test.method)
        for row, test in _strongest(tests, len(values))
    ]


def plain_scores(history: Floats, now: Floats) -> Floats:
    """Return the plain z-score of the last hour, which the benchmark compares with: (x - mean) / standard deviation.

    `history` is (series, hours), `now` (series,).
    """
    mean = _mean(history)
    deviation = _deviation(history, mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: Floats = (now - mean) / deviation
    return scores


@dataclass(frozen=True, slots=True)
class _Weeks:
    """The weeks before the hour, the latest first. `weeks` is (series, WEEKS, WEEK).

    Column c of week j is the hour 168 * (j + 1) - c before the one that is judged.
    """

    weeks: Floats
    levelled: Floats  # the same at the level of the latest week
    others: Floats  # of each week and hour the median of the other weeks at that level
    alternatives: Floats  # (series, explanations): what the judged hour may be expected to be, NaN where unknown
    growth: Floats  # (series,): by what a week differs from the one before, as a factor, told without the latest week
    growth_noise: Floats  # (series,): how uncertain the level is that it leads to, relative
    noise: Floats  # (series,): standard deviation around that, on the scale of `_stable`, relative to `_unit`
    counts: bool

    @classmethod
    def of(cls, values: Floats, hour_ms: int, counts: bool) -> "_Weeks":
        weeks = values[:, :-1].reshape(len(values), WEEKS, WEEK)[:, ::-1]
        levels = _levels(weeks, counts)
        levelled = weeks * levels[:, :, None]
        others = median_of_others(levelled)
        growth, growth_noise = _growth(weeks, counts)
        trends = np.where(np.isnan(growth)[:, None], levels[:, 1:], growth[:, None] ** np.arange(1, WEEKS))
        alternatives = []
        for level in (levels[:, 1:], trends):
            for shifts in alignments(hour_ms):
                samples = values[:, [-1 - WEEK * (k + 1) + shift for k, shift in enumerate(shifts)]] * level
                known = np.sum(~np.isnan(samples), axis=1) >= MIN_SAMPLES
                alternatives.append(np.where(known, median(samples, axis=1), np.nan))
        found = np.stack(alternatives, axis=1)
        return cls(weeks, levelled, others, found, growth, growth_noise, _noise(levelled, others, counts), counts)

    @property
    def expected(self) -> Floats:
        """At the latest week's level, by the clock that does not change."""
        return self.alternatives[:, 0]

    def deviation(self, expected: Floats) -> Floats:
        """Standard deviations of the judged hour on the scale of `_stable`."""
        floor = 1.0 if self.counts else MEASURE_FLOOR  # Poisson's, on that scale
        return np.maximum(floor, self.noise * _unit(expected, self.counts))


def _levels(weeks: Floats, counts: bool) -> Floats:
    """(series, WEEKS): by what each week has to be multiplied to have the latest one's level.

    The median of seven ratios of days, so some odd days do not move it; each of the hours that are known in both.
    """
    days = weeks.reshape(*weeks.shape[:2], 7, 24)
    both = ~np.isnan(days) & ~np.isnan(days[:, :1])
    more = PSEUDO_EVENTS if counts else 0.0
    theirs = np.sum(np.where(both, days, 0.0), axis=3) + more
    ours = np.sum(np.where(both, days[:, :1], 0.0), axis=3) + more
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.sum(both, axis=3) >= MIN_DAY_HOURS, ours / theirs, np.nan)
    known = np.sum(~np.isnan(ratios), axis=2) >= MIN_DAYS
    levels: Floats = np.where(known, median(ratios, axis=2), np.nan)
    return levels


def _noise(levelled: Floats, others: Floats, counts: bool) -> Floats:
    """(series,): how far hours at about this time of the day lie from the median of the other weeks, robustly."""
    hour_of_day = np.arange(WEEK) % 24
    near = np.minimum(hour_of_day, 24 - hour_of_day) <= NEIGHBOUR_HOURS  # column 0 is the judged hour of the day
    columns, normal = levelled[:, :, near], others[:, :, near]
    residuals = (_stable(columns, counts) - _stable(normal, counts)) / _unit(normal, counts)
    return NORMAL * median(np.abs(residuals.reshape(len(residuals), WEEKS * np.count_nonzero(near))), axis=1)


def _seasonal(weeks: _Weeks, now: Floats, sensitivity: Sensitivity) -> _Scores:
    """Return the hour against the same hour of the week; what one of the alternatives explains is no anomaly.

    They are: clocks that changed or did not, and the level of the latest week or the one that growth has led to.
    """
    scores = np.stack(
        [
            (_stable(now, weeks.counts) - _stable(expected, weeks.counts)) / weeks.deviation(expected)
            for expected in weeks.alternatives.T
        ],
        axis=1,
    )
    expected = weeks.expected
    score = np.take_along_axis(scores, np.argmin(np.abs(scores), axis=1)[:, None], axis=1)[:, 0]
    split = np.min(scores, axis=1) * np.max(scores, axis=1) < 0  # between two of them
    counted = np.where(split | ~_matters(now, expected, weeks.counts, sensitivity), np.nan, score)
    return _Scores("", "seasonal", now, expected, np.where(np.abs(counted) >= sensitivity.threshold, counted, np.nan))


def _silence(weeks: _Weeks, now: Floats) -> _Scores:
    """Nothing has come for hours in which together some events would have: a slow source falls silent, too."""
    latest = weeks.weeks[:, 0]
    quiet = np.cumprod((latest == 0)[:, ::-1], axis=1)[:, ::-1].astype(bool)  # the hours up to the judged one
    missed = np.sum(np.where(quiet, np.nan_to_num(weeks.others[:, 0]), 0.0), axis=1) + weeks.expected
    dispersion = weeks.deviation(weeks.expected) ** 2  # of a source that comes in bursts more than 1
    silent = (now == 0) & (missed / dispersion >= SILENCE_EVENTS)
    score = -2 * np.sqrt(np.maximum(missed, 0) / dispersion)
    return _Scores(SILENCE, "seasonal", now, weeks.expected, np.where(silent, score, np.nan))


def _drift(weeks: _Weeks, now: Floats, sensitivity: Sensitivity) -> _Scores:
    """Return the last 24 hours against the same ones of the weeks before, which went on growing as they did.

    The hour's own test has the level of the latest week for normal, and so would not see it go.
    """
    past = weeks.weeks[:, 1:, -24:] * weeks.growth[:, None, None] ** np.arange(1, WEEKS)[:, None]
    expected, observed = median(past, axis=1), weeks.weeks[:, 0, -24:]
    blocks = _blocks(observed, expected, weeks.counts)
    change = median(np.log(blocks), axis=1)
    poisson = np.where(weeks.counts, MEDIAN_NOISE / np.sqrt(np.nansum(expected, axis=1) + 1), 0.0)
    noise = np.hypot(np.maximum(np.maximum(DRIFT_FLOOR, poisson), _day_noise(weeks)), weeks.growth_noise)
    score = change / noise
    enough = np.sum(~np.isnan(blocks), axis=1) >= BLOCKS - 2
    enough &= np.abs(np.expm1(change)) >= sensitivity.minimum_change
    enough &= _mean(np.log(blocks[:, -GOING_ON:])) * np.sign(change) >= np.abs(change)  # it goes on
    enough &= ~np.isnan(now) & (np.abs(score) >= sensitivity.threshold)
    return _Scores(DRIFT, "seasonal", _mean(observed), _mean(expected), np.where(enough, score, np.nan))


def _growth(weeks: Floats, counts: bool) -> tuple[Floats, Floats]:
    """(series,) twice: a week's typical growth before the latest week, and how uncertain that is, both relative.

    The slope is the median of those of all pairs of weeks (Theil 1950, Sen 1968): an odd week does not turn it.
    """
    with np.errstate(divide="ignore"):
        level = -np.log(_levels(weeks[:, 1:], counts))  # of the weeks before the latest
    pairs = [(level[:, i] - level[:, j]) / (j - i) for i in range(SAMPLES) for j in range(i + 1, SAMPLES)]
    enough = np.sum(~np.isnan(level), axis=1) >= MIN_SAMPLES
    slope: Floats = np.where(enough, median(np.stack(pairs, axis=1), axis=1), np.nan)
    rest: Floats = level + slope[:, None] * np.arange(1, WEEKS)
    spread = NORMAL * median(np.abs(rest - median(rest, axis=1)[:, None]), axis=1)
    return np.exp(slope), np.maximum(GROWTH_FLOOR, spread)


def _day_noise(weeks: _Weeks) -> Floats:
    """(series,): how far a day's level lies from that of the same day of the other weeks, robustly and relative."""
    blocks = _blocks(_by_day(weeks.levelled), _by_day(weeks.others), weeks.counts)
    changes = median(np.log(blocks), axis=1).reshape(len(weeks.levelled), WEEKS * 7)
    return NORMAL * median(np.abs(changes), axis=1)


def _by_day(hours: Floats) -> Floats:
    return hours.reshape(-1, 24)


def _blocks(observed: Floats, expected: Floats, counts: bool) -> Floats:
    """(…, BLOCKS): the ratio of each three hours of a day, NaN where little is expected or an hour is not known."""
    shape = (len(observed), BLOCKS, BLOCK_HOURS)
    theirs, ours = expected.reshape(shape).sum(axis=2), observed.reshape(shape).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.maximum(ours, 0.5) / theirs if counts else ours / theirs
    enough: Floats = np.where(theirs >= (BLOCK_EVENTS if counts else 0.0), ratios, np.nan)
    return enough


def _plain(values: Floats, now: Floats, short: NDArray[np.bool_], counts: bool, sensitivity: Sensitivity) -> _Scores:
    """While weeks are missing: the hour against all hours there are, whose rise and fall make the scale wide."""
    history = _stable(values[:, :-1], counts)
    short = short & (np.sum(~np.isnan(history), axis=1) >= MIN_PLAIN_HOURS)
    mean = _mean(history)
    expected = (mean / 2) ** 2 - 3 / 8 if counts else np.exp(mean)
    score = (_stable(now, counts) - mean) / np.maximum(_deviation(history, mean), 1.0 if counts else MEASURE_FLOOR)
    flagged = short & (np.abs(score) >= sensitivity.threshold) & _matters(now, expected, counts, sensitivity)
    return _Scores("", "plain", now, expected, np.where(flagged, score, np.nan))


def _matters(now: Floats, expected: Floats, counts: bool, sensitivity: Sensitivity) -> NDArray[np.bool_]:
    """Whether it is about enough events, and the change is large enough to speak of. Of measures the caller knows."""
    changed: NDArray[np.bool_] = np.abs(now - expected) >= sensitivity.minimum_change * expected
    return changed & (np.maximum(now, expected) >= sensitivity.minimum_support) if counts else changed


@lru_cache(maxsize=16)
def alignments(hour_ms: int) -> tuple[tuple[int, ...], ...]:
    """By how many hours the same local hour of the weeks before lies elsewhere in UTC; first, by none.

    One tuple of SAMPLES for each way in which clocks have changed since: a week's pattern follows its people's clocks.
    """
    weeks = [from_ms(hour_ms - k * WEEK * HOUR_MS) for k in range(SAMPLES + 1)]
    found: dict[tuple[int, ...], None] = {}
    for zone in ZONES:
        offsets = [(moment.astimezone(zone).utcoffset() or moment - moment).total_seconds() / 3600 for moment in weeks]
        found[tuple(int(offsets[0] - offset) for offset in offsets[1:])] = None
    return tuple(found)


def median(values: Floats, axis: int) -> Floats:
    """The median of what is known; NaN of nothing. Like numpy's, at a tenth of its time on short axes."""
    ordered = np.sort(values, axis=axis)  # NaN sorts last
    known = np.sum(~np.isnan(values), axis=axis, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(known - 1, 0) // 2, axis=axis)
    high = np.take_along_axis(ordered, np.minimum(known // 2, values.shape[axis] - 1), axis=axis)
    middle: Floats = np.squeeze(np.where(known > 0, (low + high) / 2, np.nan), axis=axis)
    return middle


def median_of_others(values: Floats) -> Floats:
    """Of each value along axis 1 the median of the others that are known; NaN where there is none.

    All of them from one sort: taking a value away moves those from it on by a place.
    """
    ordered = np.sort(values, axis=1)
    known = np.sum(~np.isnan(values), axis=1, keepdims=True)

    def at(place: NDArray[np.int64]) -> Floats:
        found: Floats = np.take_along_axis(ordered, np.clip(place, 0, values.shape[1] - 1), axis=1)
        return found

    def without(place: NDArray[np.int64]) -> Floats:
        here = at(place)
        return np.where(here < values, here, at(place + 1))

    of_all = (at((known - 1) // 2) + at(known // 2)) / 2
    of_others = (without((known - 2) // 2) + without((known - 1) // 2)) / 2
    return np.where(np.isnan(values), of_all, of_others)


def _mean(values: Floats) -> Floats:
    known = np.sum(~np.isnan(values), axis=1)
    mean: Floats = np.where(known > 0, np.nansum(values, axis=1) / np.maximum(known, 1), np.nan)
    return mean


def _deviation(values: Floats, mean: Floats) -> Floats:
    return np.sqrt(_mean((values - mean[:, None]) ** 2))


def _stable(values: Floats, counts: bool) -> Floats:
    """A scale on which noise is alike everywhere: Poisson's has the deviation 1 (Anscombe 1948)."""
    stable: Floats = 2 * np.sqrt(np.maximum(values, 0) + 3 / 8) if counts else np.log(values)
    return stable


def _unit(expected: Floats, counts: bool) -> Floats:
    """Return what relative noise is worth on the scale of `_stable`."""
    return np.sqrt(expected + 1) if counts else np.ones_like(expected)


def _kind(test: _Scores, row: int) -> str:
    if test.score[row] > 0:
        return SPIKE
    return SILENCE if test.observed[row] == 0 else DROP


def _numbers(test: _Scores, row: int) -> tuple[float, float, float]:
    return float(test.observed[row]), float(test.expected[row]), float(test.score[row])


def _strongest(tests: list[_Scores], rows: int) -> Iterator[tuple[int, _Scores]]:
    """Of each series the first test that found something: what it is called by does not depend on small numbers."""
    for row in range(rows):
        for test in tests:
            if not np.isnan(test.score[row]):
                yield row, test
                break
