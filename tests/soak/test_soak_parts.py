"""The parts of a soak: what it sends, what it compares, what it takes for growth."""

import importlib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from random import Random

import pytest

from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, correct_skew, hour_of, parse_ms
from demo import people
from demo.traffic import Run
from tests.demo.test_demo_sender import Reply, collector
from tests.soak import troubles
from tests.soak.balance import Found, Row, compare, table
from tests.soak.picture import Panel, draw
from tests.soak.samples import FLAT_MB, FLAT_MB_PER_HOUR, Sample, Trend, lag_seconds, slope, trends
from tests.soak.sender import MOST_QUEUED, Sent, SoakSender
from tests.soak.traffic import NUMBER, PROJECTS, Delivery, deliveries

NOW = 1_795_251_600_000 + 30 * MINUTE_MS
NINE = "2026-11-21T09"
CELL, OTHER = ("demo", "click", NINE), ("demo", "search", NINE)
EXACT = {"received": 7, "stored": 5, "duplicate": 1, "quarantined": 1, "erased": 0, "in_flight": 0}


def sent() -> Sent:
    """Three clicks and a search, one of them in two groups."""
    events, numbers = Counter({CELL: 3, OTHER: 1}), Counter({CELL: 6, OTHER: 4})
    return Sent(events, numbers, copies=Counter(demo=1), refused=Counter(demo=1))


def found() -> Found:
    """The same, everywhere."""
    shown = Counter({("demo", "clicks"): 3, ("demo", "searches"): 1})
    return Found(
        Counter(sent().events), Counter(sent().events), Counter(sent().events), Counter(sent().numbers),
        {("demo", NINE): dict(EXACT)}, {"that stays": shown},
    )  # fmt: skip


def wrong(found: Found) -> set[tuple[str, str, int]]:
    """What differs."""
    rows = compare(sent(), found, {"click": "clicks", "search": "searches"}.__getitem__)
    return {(row.place, row.what, row.difference) for row in rows if row.difference}


def test_what_is_the_same_everywhere_is_exact() -> None:
    assert wrong(found()) == set()


@pytest.mark.parametrize("number", [-1, 1])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("GET /analytics", "analytics"),
        ("SQL rows", "rows"),
        ("SQL distinct ids", "ids"),
        ("SQL sum of ids", "numbers"),
    ],
)
def test_a_loss_and_a_surplus_of_one_event_are_seen_in_each_place(place: str, name: str, number: int) -> None:
    there = found()
    getattr(there, name)[CELL] += number

    assert wrong(there) == {(place, " ".join(CELL), number)}


def test_a_loss_here_and_a_surplus_there_do_not_cancel_out() -> None:
    there = found()
    there.analytics[CELL] -= 1
    there.analytics["demo", "click", "2026-11-21T08"] += 1

    assert {number for _, _, number in wrong(there)} == {-1, 1}


def test_events_of_a_type_or_project_that_nobody_sent_are_a_surplus() -> None:
    there = found()
    there.rows["other", "ghost", NINE] = 2
    there.dashboards["that stays"]["demo", "ghosts"] = 1

    assert wrong(there) == {("SQL rows", f"other ghost {NINE}", 2), ("dashboard that stays", "demo ghosts", 1)}


def test_a_dashboard_that_shows_nothing_differs() -> None:
    there = found()
    there.dashboards["that drops"] = Counter()

    assert wrong(there) == {("dashboard that drops", "demo clicks", -3), ("dashboard that drops", "demo searches", -1)}


@pytest.mark.parametrize(
    ("change", "what", "number"),
    [
        ({"stored": 4, "in_flight": 1}, "missing", 1),
        ({"duplicate": 2, "in_flight": -1}, "surplus", 1),
        ({"duplicate": 2, "surplus": 1}, "surplus", 1),
        ({"quarantined": 0, "in_flight": 1}, "quarantined, at least", -1),
    ],
)
def test_each_term_of_the_ledger_counts_by_itself(change: dict[str, int], what: str, number: int) -> None:
    there = found()
    there.ledgers["demo", NINE].update(change)

    assert ("ledger", f"demo {what}", number) in wrong(there)


def test_a_surplus_of_one_hour_of_receipt_hides_no_loss_of_another() -> None:
    there = found()
    there.ledgers["demo", NINE].update(stored=4, in_flight=1)
    there.ledgers["demo", "2026-11-21T10"] = {**EXACT, "received": 0, "stored": 1, "duplicate": 0, "quarantined": 0}
    there.ledgers["demo", "2026-11-21T10"]["in_flight"] = -1

    assert wrong(there) == {("ledger", "demo missing", 1), ("ledger", "demo surplus", 1)}


def test_the_table_shows_what_differs_and_nothing_else() -> None:
    text = table([Row("demo click", "SQL rows", 3, 2), Row("demo search", "SQL rows", 1, 1)])

    assert "demo click" in text
    assert "-1" in text
    assert "search" not in text


def life(*memory: float, pid: int = 7, start: float = 0.0, every: float = 10.0) -> list[Sample]:
    """Samples of one process."""
    return [
        Sample(start + number * every, 0, 0, 0, 0, {"functions": mb}, {"functions": pid})
        for number, mb in enumerate(memory)
    ]


def test_the_slope_is_that_of_most_points() -> None:
    noise = Random(1)
    points = [(float(at), 100 + at * 0.01 + noise.uniform(-1, 1)) for at in range(300)]
    points[40] = (40.0, 400.0)

    assert slope(points) == pytest.approx(0.01, abs=0.002)


def test_a_leak_is_growth_and_noise_and_one_step_are_not() -> None:
    noise = Random(2)
    flat = [200 + noise.uniform(-5, 5) for _ in range(60)]
    stepped = [mb + 40 * (number > 52) for number, mb in enumerate(flat)]
    leaking = [mb + 3 * number for number, mb in enumerate(flat)]  # 540 MB an hour

    assert [trends(life(*memory))[0].is_flat for memory in (flat, stepped)] == [True, True]
    assert not trends(life(*leaking, every=20.0))[0].is_flat


def test_only_the_last_life_in_the_second_half_is_judged() -> None:
    samples = life(*range(100, 700, 10), pid=7) + life(*[300.0] * 10, pid=8, start=600.0)

    (trend,) = trends(samples)

    assert (trend.process, trend.mb_per_hour, trend.seconds) == ("functions", 0.0, 90.0)


@pytest.mark.parametrize(
    ("mb_per_hour", "seconds", "flat"),
    [
        (FLAT_MB_PER_HOUR, 3600.0, True),
        (FLAT_MB_PER_HOUR + 1, 7200.0, False),
        (FLAT_MB / 300 * 3600, 300.0, True),  # too short for so few megabytes to mean anything
        (FLAT_MB / 300 * 3600 + 1, 300.0, False),
    ],
)
def test_flat_is_below_either_bound(mb_per_hour: float, seconds: float, flat: bool) -> None:
    assert Trend("rest", mb_per_hour, seconds, 100.0).is_flat is flat


def test_the_lag_is_how_long_ago_as_many_were_acknowledged() -> None:
    shown: Sequence[tuple[int, int]] = [(0, 0), (10, 0), (20, 10), (20, 20)]
    samples = [Sample(float(at), acknowledged, there, 0, 0, {}, {}) for at, (acknowledged, there) in enumerate(shown)]

    assert lag_seconds(samples) == [0.0, 1.0, 1.0, 0.0]


def made(seed: int, now_ms: int = NOW) -> list[Delivery]:
    """The deliveries of half a minute."""
    return list(deliveries(Run(seed, "20261121T093000Z-test", 100, now_ms), 30, lambda: now_ms))


def test_the_same_seed_sends_the_same() -> None:
    assert made(3) == made(3)
    assert [d.events for d in made(3)] != [d.events for d in made(4)]


@pytest.mark.parametrize("minute", [0, 1, 30, 58, 59])
def test_the_hour_of_an_event_is_certain_however_late_it_is_sent(minute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "WRONG_CLOCKS", 1.0)
    now = NOW - NOW % HOUR_MS + minute * MINUTE_MS + 30_000
    monkeypatch.setattr("demo.traffic.LATE", 1.0)  # of the apps' requests, at any minute of an hour
    for delivery in chain.from_iterable(made(seed, now) for seed in range(5, 9)):
        for event in delivery.events:
            cell = delivery.cells.get(event["event_id"])
            for attempt_ms in (now, now + 59_000, now + 170_000):
                sent_ms = None if delivery.skew_ms is None else attempt_ms + delivery.skew_ms
                occurred = correct_skew(parse_ms(event["timestamp"]), sent_ms, attempt_ms + 50)
                assert cell is None or hour_of(occurred) == cell[2]


def test_the_traffic_has_all_that_it_promises() -> None:
    found = made(6)
    hours = {hour for delivery in found for _, _, hour in delivery.cells.values()}
    copied = [delivery for delivery in found if delivery.copies]

    assert {delivery.project for delivery in found} == set(PROJECTS)
    assert {delivery.by_sdk for delivery in found} == {True, False}
    assert len(hours) >= 5
    assert any(delivery.skew_ms for delivery in found)
    assert any(delivery.refused for delivery in found)
    assert any(event["event_type"] == "identify" for delivery in found for event in delivery.events)
    assert any(delivery.duplicate and not delivery.copies for delivery in found)
    assert copied
    assert all(hour < hour_of(NOW) for delivery in copied for _, _, hour in delivery.cells.values())


def test_every_event_has_a_number_of_its_own() -> None:
    ids = [event_id for delivery in made(7) if not delivery.duplicate for event_id in delivery.cells]

    assert len({int(event_id[NUMBER]) for event_id in ids}) == len(ids) > 2000


def test_the_picture_is_a_document_with_its_lines() -> None:
    panel = Panel("memory, MB", {"rest": [(0.0, 100.0), (60.0, 120.0)]}, {"killed": [30.0]})

    picture = ET.fromstring(draw("a < b", [panel], 60.0))

    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "memory, MB", "rest", "killed (1)", "150"} <= set(texts)
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}polyline"))) == 1


def test_the_pauses_that_are_shortened_are_those_of_the_app_and_fit_together() -> None:
    for process, pauses in troubles.PAUSES.items():
        for name in pauses:
            module, _, constant = name.rpartition(".")
            assert hasattr(importlib.import_module(module), constant), (process, name)

    functions, age = troubles.PAUSES["functions"], "chalicelib.base.waits.VISIBLE_AGE_MS"
    assert functions[age] == troubles.PAUSES["rest"][age]
    assert 2 * functions[age] <= functions["chalicelib.base.waits.GRACE_MS"]


def test_what_was_acknowledged_is_added_up_once_and_copies_apart(tmp_path: Path) -> None:
    found = made(8)[:200]
    first = [delivery for delivery in found if not delivery.duplicate]
    victim = next(iter(first[3].cells))

    def reply(_number: int, body: bytes) -> Reply:
        refused = [{"event_id": victim, "code": "odd", "message": "no"}] if victim.encode() in body else []
        return 200, {}, {"rejected": refused}

    with collector(reply) as (url, seen):
        sent = SoakSender(url, threads=4, file=tmp_path / "sent.txt").run(found)

    cells = Counter(cell for delivery in first for cell in delivery.cells.values())
    cells[first[3].cells[victim]] -= 1
    assert +sent.events == +cells
    assert sent.total == len((tmp_path / "sent.txt").read_text().splitlines())
    assert sent.copies.total() == sum(delivery.copies for delivery in found)
    assert sent.refused.total() == sum(delivery.refused for delivery in found)
    assert set(sent.unexpected) == {"odd: no"}
    assert {key for key, _ in seen} == {"demo-write", "other-write"}


def test_nothing_is_sent_while_too_much_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak.sender.HOLD_SECONDS", 0.001)
    depths = iter([MOST_QUEUED + 1] * 3)

    with collector(lambda _number, _body: (202, {}, {"rejected": []})) as (url, seen):
        sender = SoakSender(url, threads=1, file=tmp_path / "sent.txt", queued=lambda: next(depths, 0))
        sender.run(made(9)[:5])

    assert len(seen) == 5
    assert sender.held_seconds == pytest.approx(0.003)
