"""Frames: whatever they are about, each fits, and together they add up to what was counted, minute by minute."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.base import waits
from chalicelib.base.errors import InvalidRequest
from chalicelib.events.contracts import Contracts
from chalicelib.live import frames as subject
from chalicelib.live.frames import (
    MAX_FRAME_BYTES,
    MAX_SNAPSHOT_BYTES,
    SPANS,
    anomaly_frame,
    delta_json,
    error_frame,
    snapshot_frames,
)
from chalicelib.live.subscribe import MAX_DAY_TOTALS
from chalicelib.notices.notices import Anomaly, Subject
from chalicelib.rollups.codec import encode
from chalicelib.rollups.deltas import Delta, HourView, Merged, frame_id
from chalicelib.rollups.rollups import Rollup, Rollups
from chalicelib.rollups.signatures import NOTHING
from tests.dashboard_client import Dashboard, Numbers, delta_frames, shown

HOUR = "2026-11-21T09"
NOW = 1_795_253_400  # 09:30
EVENTS = ("events",)
NONE = Contracts({})
MAX_64 = 2**63 - 1

# The longest an event type can be, of what takes the most bytes once it is JSON.
LONG_NAMES = [letter * 120 + f"{number:08d}" for letter in ("a", '"', "\U0001f30a") for number in range(340)]

names = st.one_of(st.text(st.characters(codec="utf-8"), min_size=1, max_size=128), st.sampled_from(LONG_NAMES))
minutes = st.dictionaries(st.integers(0, 59), st.integers(1, 10**15), max_size=60)


@st.composite
def rollups(draw: st.DrawFn) -> Rollups:
    """Few types of any kind, and up to a thousand long ones, each with up to an hour of minutes."""
    types = draw(st.dictionaries(names, minutes, max_size=12))
    for name in LONG_NAMES[: draw(st.integers(0, 1000))]:
        types[name] = dict.fromkeys(range(draw(st.sampled_from([0, 1, 60]))), draw(st.sampled_from([1, 10**15])))
    return made(types)


def made(types: dict[str, dict[int, int]], more: int = 0) -> Rollups:
    return Rollups({name: Rollup(count=sum(m.values()) + more, minutes=m) for name, m in types.items()})


def delta_of(counted: Rollups, name: str = "r1", hour: str = HOUR) -> Delta:
    delta = Delta("demo", hour, 0, name, 1, 1, NOTHING, NOW, encode(Rollups()))
    delta.rollups.update(counted)
    return delta


def merged_of(counted: Rollups, absorbed: Iterable[str] = (), hour: str = HOUR) -> Merged:
    return Merged("m", hour, 0, 0, "m", NOW, NOTHING, counted, dict.fromkeys(absorbed, NOW))


def truth(*counted: Rollups, hour: str = HOUR) -> Numbers:
    total: Numbers = Counter()
    for each in counted:
        for name, rollup in each.items():
            total[name, ""] += rollup.count
            for minute, count in rollup.minutes.items():
                total[name, f"{hour}:{minute:02d}Z"] += count
    return Counter({key: n for key, n in total.items() if n})


def snapshot(views: list[HourView], **more: Any) -> list[bytes]:
    return snapshot_frames(
        views, **{"topics": EVENTS, "since": "s", "as_of": "a", "now": NOW, "contracts": NONE, **more}
    )


def read(frames: list[bytes]) -> list[dict[str, Any]]:
    assert max(map(len, frames), default=0) <= MAX_FRAME_BYTES
    return [orjson.loads(frame) for frame in frames]


def test_a_frame_fits_the_gateway() -> None:
    assert MAX_FRAME_BYTES == 32 * 1024  # of a frame; of a message of several it takes 128 KB


@settings(max_examples=30, deadline=None)
@given(st.lists(rollups(), max_size=3), st.integers(1, 2**40))
def test_any_deltas_come_in_frames_that_fit_and_add_up(counted: list[Rollups], subscription: int) -> None:
    deltas = [delta_of(each, f"r{number}") for number, each in enumerate(counted)]
    dashboard = shown(read(snapshot([HourView(HOUR)], subscription=subscription)))

    for frame in read(delta_frames([delta_json(d, EVENTS, NONE) for d in deltas], subscription)):
        dashboard.take(frame)

    assert dashboard.numbers() == truth(*counted)


@settings(max_examples=30, deadline=None)
@given(rollups(), rollups(), st.integers(0, 4000))
def test_any_snapshot_comes_in_frames_that_fit_and_add_up(merged: Rollups, live: Rollups, absorbed: int) -> None:
    named = [f"{number:032d}" for number in range(absorbed)]
    view = HourView(HOUR, [delta_of(live)], [merged_of(merged, named)])

    frames = read(snapshot([view], subscription=7))

    assert [frame["part"] for frame in frames] == list(range(1, len(frames) + 1))
    assert {(frame["parts"], frame["subscription"]) for frame in frames} == {(len(frames), 7)}
    assert shown(frames).numbers() == truth(merged, live)
    assert Counter(n for f in frames for n in f["absorbed"]) == Counter(frame_id(HOUR, name) for name in named)


@pytest.mark.parametrize("types", [1, 12, 30, 60, 1000])
def test_a_delta_of_any_size_loses_no_minute(types: int) -> None:
    counted = made({name: dict.fromkeys(range(60), MAX_64 // 60) for name in LONG_NAMES[:types]})
    dashboard = shown(read(snapshot([HourView(HOUR)])))

    for frame in read(delta_frames([delta_json(delta_of(counted), EVENTS, NONE)])):
        dashboard.take(frame)

    assert dashboard.numbers() == truth(counted)


def test_a_delta_that_comes_again_in_parts_replaces_all_of_its_parts() -> None:
    few, many = (made({name: {1: n} for name in LONG_NAMES[:number]}) for number, n in ((400, 5), (700, 3)))
    first, second = (delta_frames([delta_json(delta_of(each), EVENTS, NONE)]) for each in (few, many))
    assert len(first) > 1

    sent = read([*snapshot([HourView(HOUR)]), *first, *first[:2], *second, *first, *second[:3], second[2], *second[3:]])

    assert shown(sent).numbers() == truth(many)


def test_of_a_delta_half_of_which_has_come_the_version_before_is_shown() -> None:
    few, many = (made({name: {1: 1} for name in LONG_NAMES[:number]}) for number in (400, 700))
    first, second = (delta_frames([delta_json(delta_of(each), EVENTS, NONE)]) for each in (few, many))

    sent = read([*snapshot([HourView(HOUR)]), *first, *second[:-1]])

    assert shown(sent).numbers() == truth(few)


def test_events_without_a_minute_are_counted() -> None:
    counted = made({"a": {}, "b": {3: 1}}, more=2)

    for frames in (
        [*snapshot([HourView(HOUR, [delta_of(counted)])])],
        [*snapshot([HourView(HOUR, [], [merged_of(counted)])])],
    ):
        assert shown(read(frames)).counts() == {"a": 2, "b": 3}


def test_types_of_one_metric_are_added_up() -> None:
    class Both(Contracts):
        def metric_of(self, event_type: str) -> str:
            return "both"

    frames = snapshot([HourView(HOUR, [delta_of(made({"a": {1: 1}, "b": {1: 2}}))])], contracts=Both({}))

    assert shown(read(frames)).numbers() == {("both", ""): 3, ("both", f"{HOUR}:01Z"): 3}


def test_a_name_that_no_frame_holds_is_counted_with_the_others() -> None:
    counted = made({"x" * 40_000: {1: 2}, "a": {1: 1}})

    dashboard = shown(read(snapshot([HourView(HOUR, [delta_of(counted)], [merged_of(counted)])])))

    assert dashboard.counts() == {"(other)": 4, "a": 2}


def test_what_is_long_ago_is_counted_in_spans_where_a_snapshot_would_be_too_large() -> None:
    hours = [f"2026-11-21T{hour:02d}" for hour in range(10)]
    full = made({f"type {n}": dict.fromkeys(range(60), 1) for n in range(1000)})
    views = [HourView(hour, [], [merged_of(full, hour=hour)]) for hour in hours]

    few, many = (read(snapshot(each)) for each in (views[-2:], views))

    assert {frame["span_minutes"] for frame in few} == {1}
    assert {(frame["span_minutes"], frame["fine_since"]) for frame in many} == {(15, "2026-11-21T08:00:00Z")}
    assert sum(map(len, snapshot(views))) <= MAX_SNAPSHOT_BYTES * 1.05
    dashboard = shown(many)
    assert dashboard.total == 10 * 60_000
    numbers = dashboard.numbers()
    assert [numbers["type 7", f"2026-11-21T07:{minute:02d}Z"] for minute in range(60)] == [15, *[0] * 14] * 4
    assert [numbers["type 7", f"2026-11-21T08:{minute:02d}Z"] for minute in range(60)] == [1] * 60


def test_a_snapshot_that_is_too_large_in_any_spans_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_SNAPSHOT_BYTES", 10_000)
    full = made({f"type {n}": {1: 1} for n in range(1000)})

    with pytest.raises(InvalidRequest, match="topics") as refused:
        snapshot([HourView(HOUR, [], [merged_of(full)])])

    assert refused.value.code == "snapshot_too_large"


@pytest.mark.parametrize("letter", ["a", '"', "\x01", "\U0001f30a"])
def test_anomalies_and_errors_fit(letter: str) -> None:
    longest = Subject(letter * 128, "p95", letter * 128, letter * 128, letter * 128)
    number = 1.7976931348623157e308
    anomaly = Anomaly("p" * 64, longest, HOUR, "silence", "high", number, -number, number, "seasonal", HOUR)

    frames = read([anomaly_frame(anomaly), error_frame("invalid_frame", letter * 500_000)])

    assert frames[0]["anomaly"]["value"] == letter * 128
    assert 500 < len(frames[1]["message"]) <= 1000


def test_frames_of_an_older_subscription_count_for_nothing() -> None:
    one, two = made({"a": {1: 1}}), made({"b": {1: 2}})
    old = [*snapshot([HourView(HOUR, [delta_of(one)])], subscription=1)]
    old += delta_frames([delta_json(delta_of(one, "r2"), EVENTS, NONE)], 1)
    new = snapshot([HourView(HOUR, [delta_of(two)])], subscription=2)

    assert shown(read([*old, *new])).counts() == {"b": 2}
    assert shown(read([*new, *old])).counts() == {"b": 2}
    assert Dashboard().numbers() == {}


def test_the_documented_limits_are_those_in_force() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "api.md").read_text().partition("## WebSocket")[2]

    assert f"frames of at most {MAX_FRAME_BYTES // 1024} KB" in documented
    assert f"more than {MAX_SNAPSHOT_BYTES >> 20} MB" in documented
    assert f"more than {MAX_DAY_TOTALS:,}\ndays of event types" in documented
    assert f"spans of `span_minutes` ({SPANS[1]}, else {SPANS[2]})" in documented


def test_a_snapshot_names_what_was_absorbed_for_longer_than_a_push_may_be_late() -> None:
    """Else a page would add a late delta to totals that have it."""
    merged = replace(merged_of(Rollups()), absorbed={"late": NOW - waits.STALE_MS // 1000})

    [frame] = read(snapshot([HourView(HOUR, merged=[merged])]))

    assert frame["absorbed"] == [frame_id(HOUR, "late")]
