"""The dashboard's page: its rule for exact numbers under node, fed with the server's own frames, and its limits."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from chalicelib.base.time_windows import MINUTE_MS, hour_start_ms
from chalicelib.events.contracts import Contracts
from chalicelib.live.frames import delta_json, snapshot_frames
from chalicelib.rollups.codec import encode
from chalicelib.rollups.deltas import Delta, HourView, Merged
from chalicelib.rollups.rollups import Rollup, Rollups, merge_all
from chalicelib.rollups.signatures import NOTHING
from tests.dashboard_client import delta_frames

PAGE = Path(__file__).parents[2] / "dashboard" / "index.html"
HARNESS = Path(__file__).with_name("dashboard_state.js")
HOUR = "2026-11-21T10"
START_MS = hour_start_ms(HOUR)
CONTRACTS = Contracts({})
TOPICS = ("events",)
TYPES = ("page_view", "click", "purchase")

with_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

Frame = dict[str, Any]


def run(*histories: dict[str, Any]) -> list[Any]:
    """What the page makes of each history."""
    done = subprocess.run(
        ["node", str(HARNESS), str(PAGE)],
        input="\n".join(json.dumps(history) for history in histories),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(frames: list[Frame], *, from_ms: int = START_MS, now_ms: int = START_MS) -> dict[str, Any]:
    return {"frames": frames, "from_ms": from_ms, "now_ms": now_ms + 59 * MINUTE_MS, "minutes": 60}


def delta(name: str, count: int, metric: str = "clicks", minute: int = 5) -> Frame:
    minutes = {f"{HOUR}:{minute:02d}Z": count}
    return {"id": name, "hour": HOUR, "metrics": {metric: {"count": count, "minutes": minutes}}}


def deltas(*shown: Frame) -> Frame:
    return {"type": "delta", "deltas": list(shown)}


def parts_of(*counts: int) -> list[Frame]:
    """Delta `a` in parts, each with a minute of its own."""
    numbered = [delta("a", count, minute=minute) for minute, count in enumerate(counts)]
    return [{**each, "part": number, "parts": len(counts)} for number, each in enumerate(numbered, 1)]


def parts(*counts: int) -> list[Frame]:
    return [deltas(part) for part in parts_of(*counts)]


def twice(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames for _ in range(2)]


def of(subscription: int, *frames: Frame) -> list[Frame]:
    return [{**frame, "subscription": subscription} for frame in frames]


def snapshot(*shown: Frame, total: int = 0, absorbed: tuple[str, ...] = (), part: int = 1, parts: int = 1) -> Frame:
    totals = {"clicks": {"count": total, "minutes": {f"{HOUR}:00Z": total}}} if total else {}
    head = {"type": "snapshot", "since": f"{HOUR}:00:00Z", "as_of": f"{HOUR}:30:00.000Z", "part": part, "parts": parts}
    return {**head, "totals": totals, "deltas": list(shown), "absorbed": list(absorbed)}


@with_node
@pytest.mark.parametrize(
    ("frames", "total"),
    [
        pytest.param([snapshot(total=7)], 7, id="a snapshot's totals"),
        pytest.param([snapshot(delta("a", 2), total=7), deltas(delta("b", 3))], 12, id="and deltas"),
        pytest.param([snapshot(total=7), deltas(delta("a", 2)), deltas(delta("a", 2))], 9, id="a delta pushed twice"),
        pytest.param([snapshot(delta("a", 2)), deltas(delta("a", 5))], 5, id="a delta that grew"),
        pytest.param([snapshot(), deltas(delta("a", 5)), deltas(delta("a", 2))], 2, id="the latest replaces"),
        pytest.param([deltas(delta("a", 2)), snapshot(total=7)], 9, id="a delta before the snapshot is kept"),
        pytest.param([deltas(delta("a", 5)), snapshot(delta("a", 2))], 5, id="grown while the snapshot was read"),
        pytest.param(
            [deltas(delta("a", 2)), snapshot(delta("a", 5)), deltas(delta("a", 5))], 5, id="older than the snapshot"
        ),
        pytest.param([deltas(delta("a", 2)), snapshot(delta("a", 5))], 2, id="shrunk while the snapshot was read"),
        pytest.param([deltas(delta("a", 2)), snapshot(total=7, absorbed=("a",))], 7, id="absorbed, pushed before"),
        pytest.param([snapshot(total=7, absorbed=("a",)), deltas(delta("a", 2))], 7, id="absorbed, pushed later"),
        pytest.param(
            [snapshot(delta("b", 1), part=2, parts=2), deltas(delta("c", 4)), snapshot(total=7, parts=2)],
            12,
            id="parts in any order",
        ),
        pytest.param([snapshot(total=7), {"type": "pong"}, {"message": "hm"}], 7, id="other frames"),
        pytest.param([snapshot(total=7), snapshot(total=7)], 7, id="a snapshot twice"),
        pytest.param([snapshot(), *parts(2, 3, 4)], 9, id="a delta in parts"),
        pytest.param([snapshot(), *parts(2, 3), *parts(2, 3)], 5, id="parts that come again"),
        pytest.param([snapshot(), *parts(2, 3), *parts(4, 5, 6)], 15, id="parts that grew"),
        pytest.param([snapshot(), *parts(4, 5, 6), *parts(1)], 1, id="parts that shrank"),
        pytest.param([snapshot(), *parts(2, 3), *parts(4, 5, 6)[:2]], 5, id="not all parts of the next version yet"),
        pytest.param([snapshot(), *parts(1, 2)[:1], *parts(1, 2, 4)], 7, id="parts that begin anew"),
        pytest.param([snapshot(), *twice(parts(1, 2, 4))], 7, id="each part twice"),
        pytest.param([*parts(1, 2)[:1], snapshot(delta("a", 9)), *parts(1, 2)[1:]], 3, id="a snapshot between parts"),
        pytest.param([snapshot(*parts_of(1, 2), delta("b", 4))], 7, id="parts in a snapshot"),
        pytest.param(
            [snapshot(parts_of(1, 2)[1], part=2, parts=2), snapshot(parts_of(1, 2)[0], parts=2)],
            3,
            id="parts in the parts of a snapshot",
        ),
        pytest.param(
            [snapshot(*parts_of(1, 2), absorbed=("a",), total=7), *parts(1, 2)], 7, id="parts that are absorbed"
        ),
    ],
)
def test_a_number_is_the_totals_plus_the_latest_delta_of_each_id(frames: list[Frame], total: int) -> None:
    (shown,) = run(history(frames))

    assert shown["ready"]
    assert shown["total"] == total
    assert shown["metrics"] == {"clicks": total}


@with_node
@pytest.mark.parametrize(
    ("frames", "total", "ready"),
    [
        pytest.param([*of(1, snapshot(total=7)), *of(2, snapshot(total=3))], 3, True, id="a later one"),
        pytest.param([*of(2, snapshot(total=3)), *of(1, snapshot(total=7))], 3, True, id="an older one"),
        pytest.param([*of(1, snapshot(total=7)), *of(2, deltas(delta("a", 3)))], 7, True, id="not whole yet"),
        pytest.param([*of(1, snapshot(total=7, parts=2)), *of(2, snapshot(part=2, parts=2))], 0, False, id="halves"),
        pytest.param(
            [*of(2, deltas(delta("a", 3))), *of(1, deltas(delta("b", 1))), *of(2, snapshot(total=7))],
            10,
            True,
            id="pushed before its snapshot",
        ),
        pytest.param(
            [*of(1, snapshot(delta("a", 5))), *of(2, snapshot(total=5)), *of(1, deltas(delta("a", 6)))],
            5,
            True,
            id="what was on its way to the older",
        ),
        pytest.param(
            [*of(1, snapshot(), *parts(1, 2)[:1]), *of(2, snapshot(), *parts(1, 2)[1:])],
            0,
            True,
            id="half a delta",
        ),
    ],
)
def test_the_last_subscription_is_shown_as_soon_as_it_is_whole(frames: list[Frame], total: int, ready: bool) -> None:
    (shown,) = run(history(frames))

    assert (shown["total"], shown["ready"]) == (total, ready)


@with_node
def test_metrics_may_have_any_name() -> None:
    (shown,) = run(history([snapshot(delta("a", 2, "__proto__")), deltas(delta("b", 3, "constructor"))]))

    assert shown["total"] == 5
    assert shown["metrics"] == {"constructor": 3, "__proto__": 2}


@with_node
def test_nothing_is_shown_before_the_whole_snapshot_has_come() -> None:
    (shown,) = run(history([deltas(delta("a", 2)), snapshot(total=7, parts=2)]))

    assert not shown["ready"]
    assert shown["changed"] == [False, False]


@with_node
def test_a_day_begins_at_its_first_minute_and_the_hour_ends_with_the_current_one() -> None:
    frames = [snapshot(delta("a", 2, minute=5), delta("b", 3, minute=6), delta("c", 4, minute=59))]

    (shown,) = run(history(frames, from_ms=START_MS + 6 * MINUTE_MS))

    assert shown["total"] == 7
    assert {minute: count for minute, count in enumerate(shown["series"]) if count} == {5: 2, 6: 3, 59: 4}


@with_node
def test_metrics_are_ranked_by_count() -> None:
    (shown,) = run(history([snapshot(delta("a", 2, "b"), delta("b", 9, "c"), delta("c", 2, "a"), delta("d", 0, "z"))]))

    assert list(shown["metrics"]) == ["c", "a", "b"]


@with_node
def test_random_histories_of_the_servers_own_frames_end_in_the_truth() -> None:
    expected, histories = zip(*(simulated(Random(seed)) for seed in range(100)), strict=True)

    shown = run(*histories)

    assert [row["metrics"] for row in shown] == list(expected)
    assert [sum(row["series"]) for row in shown] == [sum(metrics.values()) for metrics in expected]


def a_delta(first: str, step: int, rollups: Rollups) -> Delta:
    delta = Delta("p", HOUR, 0, first, step, step, NOTHING, step, encode(Rollups()))
    delta.rollups.update(rollups)
    return delta


def simulated(random: Random) -> tuple[dict[str, int], dict[str, Any]]:
    """Deltas grow and are absorbed; a snapshot is read in between; pushes keep their order, come twice, come early.

    Returns the truth and the history of one connection.
    """
    open_deltas: dict[str, Delta] = {}
    merged: list[Merged] = []
    pushes: list[Delta] = []
    registered_at = 0
    view = HourView(HOUR)
    register_step, read_step = sorted(random.sample(range(40), 2))
    for step in range(40):
        if step == register_step:
            registered_at = len(pushes)
        if step == read_step:
            view = HourView.of(HOUR, list(open_deltas.values()), list(merged))
        dice = random.random()
        if dice < 0.45 or not open_deltas:
            new = a_delta(f"record-{step}", step, some_rollups(random))
            open_deltas[new.id] = new
            pushes.append(new)
        elif dice < 0.8:
            old = open_deltas[random.choice(sorted(open_deltas))]
            grown = merge_all([old.rollups, some_rollups(random)])
            open_deltas[old.id] = a_delta(old.first, step, grown)
            pushes.append(open_deltas[old.id])
        else:
            taken = random.sample(sorted(open_deltas), random.randint(1, len(open_deltas)))
            rollups = merge_all(open_deltas.pop(name).rollups for name in taken)
            absorbed = dict.fromkeys(taken, 0)
            merged.append(Merged(f"m{step}", HOUR, 1, 0, f"{HOUR}:{step:02d}", 0, NOTHING, rollups, absorbed))

    frames = snapshot_frames(
        [view], topics=TOPICS, since=f"{HOUR}:00:00Z", as_of=f"{HOUR}:30:00Z", now=0, contracts=CONTRACTS
    )
    # Pushes may be late, and so may the snapshot be; what was written before the registration may come or not.
    first = random.randint(0, registered_at)
    pushed = [frame for push in repeated(random, pushes[first:]) for frame in frames_of(push)]
    place = random.randint(0, len(pushed))
    sent = [orjson.loads(frame) for frame in [*pushed[:place], *frames, *pushed[place:]]]

    everything = merge_all([*(item.rollups for item in merged), *(d.rollups for d in open_deltas.values())])
    return {name: rollup.count for name, rollup in sorted(everything.items(), key=ranked)}, history(sent)


def repeated(random: Random, pushes: list[Delta]) -> list[Delta]:
    """As a stream batch that is retried is pushed again from its first record on."""
    sent: list[Delta] = []
    for number, push in enumerate(pushes):
        sent.append(push)
        if random.random() < 0.15:
            sent += pushes[max(0, number - random.randint(0, 3)) : number + 1]
    return sent


def frames_of(push: Delta) -> list[bytes]:
    return delta_frames([delta_json(push, TOPICS, CONTRACTS)])


def some_rollups(random: Random) -> Rollups:
    rollups = Rollups()
    many = [f"{'x' * 100}{n}" for n in range(random.choice((*[0] * 20, 500)))]  # what takes a frame or two
    for event_type in (*random.sample(TYPES, random.randint(1, len(TYPES))), *many):
        count = random.randint(1, 9)
        rollups[event_type] = Rollup(count=count, minutes={random.randrange(60): count})
    return rollups


def ranked(pair: tuple[str, Rollup]) -> tuple[int, str]:
    return -pair[1].count, pair[0]


@with_node
def test_a_scale_begins_at_zero_holds_the_highest_value_and_has_few_whole_lines() -> None:
    highest = [0, 1, 2, 3, 7, 10, 42, 99, 100, 101, 1750, 123456]

    for value, ticks in zip(highest, run(*({"call": "ticks", "arguments": [v]} for v in highest)), strict=True):
        assert ticks[0] == 0
        assert ticks[-1] >= value
        assert 2 <= len(ticks) <= 6
        assert all(tick == int(tick) for tick in ticks)


@with_node
def test_reconnecting_waits_longer_each_time_up_to_half_a_minute() -> None:
    calls = [{"call": "backoffMs", "arguments": [attempt, 1]} for attempt in (0, 1, 2, 10, 50)]

    assert run(*calls) == [500, 1000, 2000, 30000, 30000]


@with_node
def test_a_connection_that_is_lost_for_long_is_stale() -> None:
    calls = [{"call": "stateOf", "arguments": arguments} for arguments in ([True, 99999], [False, 1], [False, 20001])]

    assert run(*calls) == ["live", "reconnecting", "stale"]


@with_node
def test_an_anomaly_that_comes_again_is_one_and_the_latest_hours_come_first() -> None:
    def found(name: str, hour: int) -> dict[str, str]:
        return {"id": name, "hour": f"2026-11-21T{hour:02d}"}

    many = [found(str(n), n % 24) for n in range(30)]
    calls = [
        {"call": "news", "arguments": [[found("a", 9)], [found("b", 11), found("a", 9), found("c", 10)]]},
        {"call": "news", "arguments": [many[:15], many[10:]]},
    ]

    few, bounded = run(*calls)

    assert [anomaly["id"] for anomaly in few] == ["b", "c", "a"]
    assert len(bounded) == 20
    assert bounded[0]["hour"] == "2026-11-21T23"


@with_node
def test_every_script_parses() -> None:
    for script in re.findall(r"<script[^>]*>(.*?)</script>", PAGE.read_text(), re.DOTALL):
        subprocess.run(["node", "--check", "-"], input=script, text=True, check=True, timeout=60)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = PAGE.read_text()

    addresses = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"')]*""", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}
    assert not re.search(r"<script[^>]+src=|<link[^>]+stylesheet|@import|\beval\(|innerHTML|\son\w+=", page)
    assert len(page.splitlines()) < 400
