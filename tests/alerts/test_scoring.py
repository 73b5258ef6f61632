"""What is out of the ordinary in an hour, and what is not."""

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks import anomalies as benchmark
from chalicelib.alerts.scoring import (
    DEFAULT,
    HISTORY_HOURS,
    MIN_PLAIN_HOURS,
    WEEK,
    Finding,
    Floats,
    alignments,
    find,
    median,
    median_of_others,
)
from chalicelib.base.time_windows import HOUR_MS, to_ms

ROOT = Path(__file__).parents[2]
SUMMER_MS = to_ms(datetime(2026, 8, 5, 12, tzinfo=UTC))  # no clock has changed for months
HOURS = np.arange(HISTORY_HOURS + 1)
NOW = -1


def seasonal(level: float = 1000, growth: float = 0.0, noise: float = 0.05, seed: int = 1) -> Floats:
    """A series whose day swings between a fifth and all of its level; (1, HISTORY_HOURS + 1), the last hour at noon."""
    rng = np.random.default_rng(seed)
    day = 0.6 + 0.4 * np.cos((HOURS - HISTORY_HOURS) % 24 / 24 * 2 * np.pi)
    weekend = np.where((HOURS - HISTORY_HOURS) // 24 % 7 >= 5, 0.5, 1.0)
    rate = level * day * weekend * np.exp(growth * HOURS / WEEK) * np.exp(rng.normal(0, noise, len(HOURS)))
    counts: Floats = rng.poisson(rate).astype(float)[None]
    return counts


def only(values: Floats, hour_ms: int = SUMMER_MS, *, counts: bool = True) -> Finding | None:
    """What is found in the one series."""
    found = find(values, hour_ms, counts=counts)
    assert len(found) <= 1
    return found[0] if found else None


def changed(values: Floats, factor: float, *, first: int = NOW) -> Floats:
    """With the hours from `first` on multiplied."""
    values = values.copy()
    values[:, first:] = np.round(values[:, first:] * factor)
    return values


def test_an_hour_like_those_before_is_no_anomaly() -> None:
    assert [only(seasonal(seed=seed)) for seed in range(50)] == [None] * 50


@pytest.mark.parametrize(
    ("factor", "kind", "direction"), [(2.0, "spike", "high"), (0.4, "drop", "low"), (0.0, "silence", "low")]
)
def test_a_spike_a_drop_and_silence_are_told_apart(factor: float, kind: str, direction: str) -> None:
    values = changed(seasonal(), factor)

    finding = only(values)

    assert finding is not None
    assert (finding.kind, finding.direction, finding.method) == (kind, direction, "seasonal")
    assert finding.observed == values[0, NOW]
    assert finding.expected == pytest.approx(1000, rel=0.1)


def test_what_is_a_spike_at_night_is_normal_at_noon() -> None:
    values = seasonal()
    night = np.roll(values, 12, axis=1)
    night[0, NOW] = values[0, NOW]

    assert only(values) is None
    assert (only(night) or pytest.fail("not found")).kind == "spike"


def test_growth_is_no_anomaly_and_a_missing_growth_is_none_either() -> None:
    assert [only(seasonal(growth=0.1, seed=seed)) for seed in range(20)] == [None] * 20
    assert [only(seasonal(growth=-0.1, seed=seed)) for seed in range(20)] == [None] * 20


def test_a_slow_drift_is_found_though_no_hour_of_it_stands_out() -> None:
    values = seasonal(noise=0.1)
    values[0, -72:] *= np.linspace(1, 0.62, 72)
    finding = only(np.round(values))

    assert finding is not None
    assert (finding.kind, finding.direction) == ("drift", "low")


def test_an_anomaly_does_not_spoil_the_baseline_of_the_weeks_after_it() -> None:
    for weeks in range(1, 6):
        spoiled = seasonal()
        spoiled[0, -1 - weeks * WEEK - 3 : -1 - weeks * WEEK + 3] *= 8

        assert only(spoiled) is None
        assert only(changed(spoiled, 2.0)) is not None


def test_an_outage_in_the_history_neither_alarms_nor_hides() -> None:
    values = seasonal()
    values[0, -400:-380] = 0

    assert only(values) is None
    assert only(changed(values, 0.3)) is not None


@pytest.mark.parametrize("known", [0, 1, 24, MIN_PLAIN_HOURS - 1])
def test_missing_history_never_alarms(known: int) -> None:
    for filler in (np.nan, 0.0):  # unknown, or before the series began
        values = changed(seasonal(), 50.0)
        values[0, : HISTORY_HOURS - known] = filler

        assert only(values) is None


def test_an_unknown_hour_is_no_anomaly() -> None:
    values = seasonal()
    values[0, NOW] = np.nan

    assert only(values) is None
    assert find(np.full((3, HISTORY_HOURS + 1), np.nan), SUMMER_MS) == []
    assert find(np.zeros((3, HISTORY_HOURS + 1)), SUMMER_MS) == []
    assert find(np.empty((0, HISTORY_HOURS + 1)), SUMMER_MS) == []


def test_with_a_short_history_only_the_unheard_of_is_found() -> None:
    short = seasonal()
    short[0, : -8 * 24] = np.nan

    assert only(short) is None
    finding = only(changed(short, 12.0))
    assert finding is not None
    assert (finding.kind, finding.method) == ("spike", "plain")


def test_scattered_holes_change_nothing() -> None:
    values = seasonal()
    holes = np.random.default_rng(3).random(HISTORY_HOURS) < 0.1
    values[0, :-1][holes] = np.nan

    assert only(values) is None
    assert only(changed(values, 2.0)) is not None


def test_a_flat_series_alarms_by_poissons_noise_and_not_at_the_first_event_more() -> None:
    flat = np.full((1, HISTORY_HOURS + 1), 100.0)

    for value, found in ((101, False), (120, False), (140, False), (160, True), (55, True)):
        flat[0, NOW] = value
        assert (only(flat) is not None) == found


def test_small_numbers_are_no_anomaly_however_large_the_factor() -> None:
    rare = np.zeros((1, HISTORY_HOURS + 1))
    rare[0, ::7] = 1
    rare[0, NOW] = DEFAULT.minimum_support - 1

    assert only(rare) is None


def test_a_significant_but_small_change_is_none() -> None:
    exact = np.full((1, HISTORY_HOURS + 1), 1_000_000.0)

    assert only(changed(exact, 1.2)) is None
    assert only(changed(exact, 1.3)) is not None


def test_a_slow_source_that_falls_silent_is_found_after_some_hours() -> None:
    rng = np.random.default_rng(5)
    slow = rng.poisson(3.0, (1, HISTORY_HOURS + 1)).astype(float)

    quiet = [only(changed(slow, 0.0, first=-hours)) for hours in (1, 2, 8)]

    assert quiet[:2] == [None, None]
    assert quiet[2] is not None
    assert quiet[2].kind == "silence"


def test_a_source_that_never_works_at_night_is_not_silent_in_the_morning() -> None:
    office = seasonal(level=200)
    office[0, HOURS % 24 != HISTORY_HOURS % 24] = 0  # an hour a day
    office[0, NOW] = 0
    asleep = np.roll(office, 6, axis=1)

    assert (only(office) or pytest.fail("not found")).kind == "silence"
    assert only(asleep) is None


def test_an_hour_that_a_change_of_the_clocks_explains_is_no_anomaly() -> None:
    steep = seasonal(noise=0.01)
    steep[0] *= np.where((HOURS - HISTORY_HOURS) % 24 == 0, 1.0, 0.4)  # an hour a day has more than twice the others
    earlier = np.roll(steep, -1, axis=1)
    values = np.concatenate([earlier[:, :-24], steep[:, -24:]], axis=1)  # since yesterday it is an hour later
    sunday_ms = to_ms(datetime(2026, 10, 25, 12, tzinfo=UTC))  # Europe's clocks went back in the night

    assert only(np.round(values), SUMMER_MS) is not None
    assert only(np.round(values), sunday_ms) is None


def test_alignments_follow_the_clocks_of_the_weeks_before() -> None:
    assert alignments(SUMMER_MS) == ((0, 0, 0, 0, 0),)
    europe = alignments(to_ms(datetime(2026, 10, 26, 12, tzinfo=UTC)))
    assert (-1, -1, -1, -1, -1) in europe
    assert europe[0] == (0, 0, 0, 0, 0)
    assert (1, 1, 0, 0, 0) not in europe
    assert (0, -1, -1, -1, -1) in alignments(to_ms(datetime(2026, 11, 2, 12, tzinfo=UTC)))


def test_latency_is_judged_on_its_own_scale_in_both_directions() -> None:
    rng = np.random.default_rng(2)
    latency: Floats = np.exp(rng.normal(np.log(120), 0.06, (1, HISTORY_HOURS + 1)))

    for factor, kind in ((1.0, None), (1.8, "spike"), (0.5, "drop")):
        values = latency.copy()
        values[0, NOW] = 120 * factor
        finding = only(values, counts=False)
        assert (finding and finding.kind) == kind


def test_a_series_is_judged_by_itself() -> None:
    values = np.concatenate([seasonal(seed=1), changed(seasonal(level=50, seed=2), 4.0), seasonal(level=9, seed=3)])

    assert [finding.series for finding in find(values, SUMMER_MS)] == [1]


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5\); it is \(series, 1009\)"):
        find(np.ones((1, 5)), SUMMER_MS)


def test_the_median_of_what_is_known_is_that_of_numpy() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(40, 7, 5))
    values[rng.random(values.shape) < 0.4] = np.nan
    values[:, :, 0] = 1.0

    assert np.allclose(median(values, axis=2), np.nanmedian(values, axis=2))
    assert np.isnan(median(np.full((2, 3), np.nan), axis=1)).all()


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # numpy's remark on what is asked of it
@pytest.mark.parametrize("unknown", [0.0, 0.4, 0.8])
def test_the_median_of_the_others_is_that_of_numpy_without_the_value(unknown: float) -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(0, 4, size=(30, 6, 9)).astype(float)  # many of them alike
    values[rng.random(values.shape) < unknown] = np.nan

    found = median_of_others(values)

    for place in range(values.shape[1]):
        others = np.nanmedian(np.delete(values, place, axis=1), axis=1)
        assert np.array_equal(found[:, place], others, equal_nan=True)


@pytest.mark.slow
def test_on_injected_anomalies_recall_and_precision_are_better_than_a_plain_z_scores() -> None:
    made = benchmark.world(benchmark.SEED)

    ours = benchmark.score(made, benchmark.alarms(made, benchmark.ours))
    for threshold in (DEFAULT.threshold, 3.0):
        plain = benchmark.score(made, benchmark.alarms(made, benchmark.plain(threshold)))
        assert ours.recall > plain.recall
        assert ours.precision > plain.precision
    decision = (ROOT / "docs" / "decisions" / "0021-anomalies.md").read_text()
    written = re.search(r"^\| ours, [\d.]+ \| ([\d.]+) \| ([\d.]+)", decision, re.MULTILINE)
    assert written
    assert [float(figure) for figure in written.groups()] == pytest.approx([ours.recall, ours.precision], abs=0.02)


def test_the_benchmarks_history_begins_before_what_it_judges() -> None:
    made = benchmark.world(1, series=20, judged_hours=2 * WEEK)

    assert made.values.shape == (20, HISTORY_HOURS + 2 * WEEK)
    assert min(anomaly.first for anomaly in made.injected) >= HISTORY_HOURS
    assert benchmark.START_MS % (24 * HOUR_MS) == 0
