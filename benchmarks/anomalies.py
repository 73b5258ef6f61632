"""What the anomaly detection finds: `python -m benchmarks.anomalies`, recall and precision beside a plain z-score's.

Series like those of real sites, with anomalies put in where the weeks of history are over; each hour of the rest is
judged as `detect` would. Both detectors get the same series, history, support and least change; what they find in
hours close to each other is one alarm, as it is one notice. Seeded: the same table every time.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
from tqdm import tqdm

from chalicelib.alerts.scoring import DEFAULT, HIGH, HISTORY_HOURS, LOW, WEEK, Floats, find, plain_scores
from chalicelib.base.time_windows import HOUR_MS, from_ms, to_ms

SEED = 21
SERIES = 120
JUDGED_HOURS = 4 * WEEK
START_MS = to_ms(datetime(2026, 9, 1, tzinfo=UTC))  # Europe's clocks change among the hours that are judged
GAP_HOURS = 3  # between hours of one alarm, as in `detect`
GRACE_HOURS = 12  # after its end an anomaly may still be what an alarm is about: the day's level has it in it
PLAIN_THRESHOLDS = (2.0, 2.5, 3.0, 3.5)  # beside ours

Alarm = tuple[int, str, int, int]  # series, direction, first hour, last hour


@dataclass(frozen=True, slots=True)
class Injected:
    """An anomaly put in: hours `first` to `last` of a series."""

    series: int
    kind: str
    direction: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class World:
    """`values` is (series, HISTORY_HOURS + judged hours)."""

    values: Floats
    injected: list[Injected] = field(default_factory=list)


def world(seed: int, series: int = SERIES, judged_hours: int = JUDGED_HOURS) -> World:
    """Counts of events by the hour, with what is normal of them: seasons, growth, noise, bursts, holes, late starts."""
    rng = np.random.default_rng(seed)
    hours = HISTORY_HOURS + judged_hours
    made = World(np.empty((series, hours)))
    for row in range(series):
        rate = _rate(rng, hours)
        if row % 10 == 9:  # an outage of ours in the history, which was an anomaly then and is none now
            start = int(rng.integers(WEEK, HISTORY_HOURS - WEEK))
            rate[start : start + int(rng.integers(4, 20))] = 0
        for anomaly in _anomalies(rng, row, hours):
            rate[anomaly.first : anomaly.last + 1] *= _factors(rng, anomaly)
            made.injected.append(anomaly)
        made.values[row] = rng.poisson(rate)
        if row % 10 == 4:  # began during the history
            made.values[row, : int(rng.integers(WEEK, HISTORY_HOURS - 2 * WEEK))] = 0
        if row % 10 == 7:  # hours of which nothing is known
            start = int(rng.integers(0, HISTORY_HOURS - WEEK))
            made.values[row, start : start + int(rng.integers(6, 72))] = np.nan
    return made


def _rate(rng: np.random.Generator, hours: int) -> Floats:
    """Events an hour that are expected: people's days and weeks by their own clocks, growth, noise with a memory."""
    zone = ZoneInfo(str(rng.choice(["Europe/Berlin", "America/New_York", "UTC", "Asia/Tokyo"])))
    local = [from_ms(START_MS + n * HOUR_MS).astimezone(zone) for n in range(hours)]
    hour = np.array([moment.hour for moment in local])
    weekend = np.array([moment.weekday() >= 5 for moment in local])
    base = float(np.exp(rng.uniform(np.log(30), np.log(5000))))
    night = rng.uniform(0.08, 0.5)
    peak, width = rng.uniform(11, 20), rng.uniform(3.5, 6)
    away = np.minimum(np.abs(hour - peak), 24 - np.abs(hour - peak))
    day = night + (1 - night) * np.exp(-((away / width) ** 2))
    week = np.where(weekend, rng.uniform(0.4, 1.2), 1.0)
    growth = np.exp(np.arange(hours) / WEEK * rng.uniform(-0.03, 0.08))
    noise, shocks = np.empty(hours), rng.normal(0, rng.uniform(0.03, 0.12), hours)
    noise[0] = shocks[0]
    memory = rng.uniform(0.2, 0.7)
    for n in range(1, hours):
        noise[n] = memory * noise[n - 1] + np.sqrt(1 - memory**2) * shocks[n]
    rate: Floats = base * day * week * growth * np.exp(noise)
    return rate


def _anomalies(rng: np.random.Generator, row: int, hours: int) -> Iterator[Injected]:
    """Two of each series, each in its own half of the judged hours."""
    half = (hours - HISTORY_HOURS) // 2
    for start in (HISTORY_HOURS, HISTORY_HOURS + half):
        kind = str(rng.choice(["spike", "drop", "silence", "drift up", "drift down"]))
        length = int(rng.integers(60, 110)) if kind.startswith("drift") else int(rng.integers(1, 9))
        first = start + int(rng.integers(24, half - length - 24))
        direction = HIGH if kind in ("spike", "drift up") else LOW
        yield Injected(row, kind, direction, first, first + length - 1)


def _factors(rng: np.random.Generator, anomaly: Injected) -> Floats:
    """By what each hour of an anomaly is multiplied."""
    length = anomaly.last - anomaly.first + 1
    along: Floats = np.arange(1, length + 1) / length
    match anomaly.kind:
        case "spike":
            return np.full(length, rng.uniform(1.8, 4))
        case "drop":
            return np.full(length, rng.uniform(0.2, 0.5))
        case "silence":
            return np.zeros(length)
        case "drift up":
            last = rng.uniform(1.6, 2.2)
        case _:
            last = rng.uniform(0.35, 0.6)
    drift: Floats = last**along
    return drift


Flags = Callable[[Floats, int], list[tuple[int, str]]]


def ours(window: Floats, hour_ms: int) -> list[tuple[int, str]]:
    """Series and direction of what is found in the window's last hour."""
    return [(finding.series, finding.direction) for finding in find(window, hour_ms)]


def plain(threshold: float) -> Flags:
    """Return the plain z-score over the same hours, with the same support and least change."""

    def flags(window: Floats, _hour_ms: int) -> list[tuple[int, str]]:
        history, now = window[:, :-1], window[:, -1]
        scores = plain_scores(history, now)
        mean = np.nanmean(history, axis=1)
        matters = np.maximum(now, mean) >= DEFAULT.minimum_support
        matters &= np.abs(now - mean) >= DEFAULT.minimum_change * mean
        return [
            (int(row), HIGH if scores[row] > 0 else LOW)
            for row in np.flatnonzero(matters & (np.abs(scores) >= threshold))
        ]

    return flags


def alarms(made: World, flags: Flags, show: bool = False) -> list[Alarm]:
    """Return what a detector says of every judged hour, hours close to each other taken together."""
    found: list[Alarm] = []
    latest: dict[tuple[int, str], int] = {}
    hours = range(HISTORY_HOURS, made.values.shape[1])
    for hour in tqdm(hours, desc="judging", unit="hour", disable=None if show else True, leave=False):
        window = made.values[:, hour - HISTORY_HOURS : hour + 1]
        for row, direction in flags(window, START_MS + hour * HOUR_MS):
            place = latest.get((row, direction))
            if place is not None and hour - found[place][3] <= GAP_HOURS:
                found[place] = (row, direction, found[place][2], hour)
            else:
                latest[row, direction] = len(found)
                found.append((row, direction, hour, hour))
    return found


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of the anomalies that were found, in all and by kind, and of the alarms that were about one."""

    recall: float
    precision: float
    alarms: int
    by_kind: dict[str, float]


def score(made: World, found: list[Alarm]) -> Score:
    """An anomaly is found by an alarm of its direction that begins, or goes on, while it lasts."""

    def about(alarm: Alarm, anomaly: Injected, grace: int) -> bool:
        row, direction, first, last = alarm
        same = (row, direction) == (anomaly.series, anomaly.direction)
        return same and first <= anomaly.last + grace and last >= anomaly.first

    hit = [any(about(alarm, anomaly, 0) for alarm in found) for anomaly in made.injected]
    true = sum(any(about(alarm, anomaly, GRACE_HOURS) for anomaly in made.injected) for alarm in found)
    kinds = sorted({anomaly.kind for anomaly in made.injected})
    by_kind = {
        kind: float(np.mean([h for h, anomaly in zip(hit, made.injected, strict=True) if anomaly.kind == kind]))
        for kind in kinds
    }
    return Score(float(np.mean(hit)), true / len(found) if found else 1.0, len(found), by_kind)


def table(made: World, show: bool = False) -> str:
    """Markdown."""
    detectors: dict[str, Flags] = {
        f"ours, {DEFAULT.threshold:g}": ours,
        f"plain z-score, {DEFAULT.threshold:g}": plain(DEFAULT.threshold),
    }
    detectors |= {f"plain z-score, {threshold:g}": plain(threshold) for threshold in PLAIN_THRESHOLDS}
    scores = {name: score(made, alarms(made, flags, show)) for name, flags in detectors.items()}
    kinds = list(next(iter(scores.values())).by_kind)
    rows = [
        f"| detector, threshold | recall | precision | alarms | {' | '.join(kinds)} |",
        "|---|" + "---:|" * (3 + len(kinds)),
    ]
    for name, got in scores.items():
        shares = " | ".join(f"{got.by_kind[kind]:.2f}" for kind in kinds)
        rows.append(f"| {name} | {got.recall:.3f} | {got.precision:.3f} | {got.alarms:,} | {shares} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anomalies", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="of the series (default %(default)s)")
    made = world(parser.parse_args().seed)
    series, hours = made.values.shape
    print(f"{series} series, {hours - HISTORY_HOURS} hours of each judged, {len(made.injected)} anomalies\n")
    print(table(made, show=True))


if __name__ == "__main__":
    main()
