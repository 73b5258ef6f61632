"""Users' alerts: when they fire, when they end, who is told, whatever dies in between."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from chalicelib.alerts.alerts import MAX_WINDOW_MINUTES
from chalicelib.alerts.alerts_table import AlertsTable
from chalicelib.alerts.recent_rollups import RecentRollups
from chalicelib.alerts.watch import MAX_ALERTS, Watcher
from chalicelib.base.errors import InvalidRequest, NotFound
from chalicelib.base.time_windows import MINUTE_MS, to_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.rollups.codec import decode, encode_document
from chalicelib.rollups.folding import Folding
from chalicelib.rollups.rollups import Rollups, RollupSpec
from chalicelib.rollups.sketches import hash_user
from tests.stores import Stores, empty_stores, stream_record
from tests.told import Told

NOON_MS = to_ms(datetime(2026, 11, 21, 12, tzinfo=UTC))
SPEC = RollupSpec(("status",), ("latency_ms",))
CONTRACTS = Contracts.of([Contract("api_request", "1-0-0", "api_requests", SPEC)])
MANY = {"name": "many", "metric": "api_requests", "comparison": "above", "threshold": 10, "cooldown_minutes": 0}


@dataclass
class Minutes:
    """What arrived, by minute."""

    arrivals: list[tuple[int, Rollups]] = field(default_factory=list)
    broken: str = ""

    def arrived(self, project: str, start_ms: int, end_ms: int) -> list[tuple[int, Rollups]]:
        if project == self.broken:
            raise OSError("no numbers")
        return [(at, rollups) for at, rollups in self.arrivals if start_ms <= at < end_ms]


@dataclass
class World:
    stores: Stores
    told: Told = field(default_factory=Told)
    minutes: Minutes = field(default_factory=Minutes)
    minute: int = 0
    sent: list[str] = field(default_factory=list)  # event types that were ever sent

    def __post_init__(self) -> None:
        self.table = AlertsTable(self.stores.connections.client, "control")
        self.watcher = Watcher(self.table, self.minutes, lambda: self.told.notices, CONTRACTS, lambda _: self.sent)

    @property
    def now_ms(self) -> int:
        return NOON_MS + self.minute * MINUTE_MS + 1234

    def create(self, **words: Any) -> dict[str, Any]:
        return self.watcher.create("shop", {**MANY, **words}, self.now_ms)[0]

    def events(self, count: int, latency_ms: float = 100, status: str = "200") -> None:
        """So many arrive in this minute, each of another user."""
        folding = Folding()
        for n in range(count):
            event = {"occurred_at": 0, "properties": {"latency_ms": latency_ms, "status": status}}
            folding.add("api_request", event, folding.user(hash_user(f"{self.minute}-{n}")), SPEC)
        self.minutes.arrivals.append((NOON_MS + self.minute * MINUTE_MS, decode(encode_document(folding.document()))))

    def pass_minutes(self, count: int = 1) -> list[str]:
        """What programs are told in the minutes that follow, each of which the watcher looks at."""
        before = len(self.told.entries)
        for _ in range(count):
            self.minute += 1
            self.watcher.watch(self.now_ms)
        return [detail["state"] for detail in self.told.details[before:]]

    def shown(self) -> dict[str, Any]:
        (alert,) = self.watcher.show("shop")["alerts"]
        found: dict[str, Any] = alert
        return found


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as stores:
        yield World(stores)


def test_an_alert_fires_when_its_threshold_is_passed_and_resolves_when_it_is_not(world: World) -> None:
    made = world.create(window_minutes=2)
    world.events(11)

    told = [world.pass_minutes() for _ in range(4)]

    assert told == [["firing"], [], ["resolved"], []]
    firing, resolved = world.told.details
    assert (firing["value"], firing["at"], firing["alert"]["id"]) == (11, "2026-11-21T12:01:00.000Z", made["id"])
    assert (resolved["value"], resolved["id"]) == (0, f"{made['id']}-{(NOON_MS // MINUTE_MS) + 3}-resolved")
    assert world.told.entries[0]["Source"] == "tidemark.alerts"
    assert world.told.mails[0]["Subject"] == "firing: many: 11, above 10"
    assert world.shown()["state"] == "ok"


def test_a_minute_that_was_over_before_the_alert_is_none_of_its(world: World) -> None:
    world.events(11)
    world.minute += 1
    world.create(window_minutes=2)  # a second after the minute's end
    world.watcher.watch(world.now_ms + 5000)
    assert world.told.details == []

    assert world.pass_minutes() == ["firing"]
    assert world.shown()["changed_at"] > world.shown()["created_at"]


def test_the_threshold_itself_is_not_beyond_it(world: World) -> None:
    world.create()
    world.events(10)

    assert world.pass_minutes(3) == []


def test_a_minute_is_looked_at_once_it_is_over(world: World) -> None:
    world.create()
    world.events(11)

    assert world.watcher.watch(world.now_ms) == 0
    assert world.pass_minutes() == ["firing"]


def test_running_again_tells_nobody_again(world: World) -> None:
    world.create()
    world.events(11)
    world.pass_minutes()

    assert [world.watcher.watch(world.now_ms) for _ in range(3)] == [0, 0, 0]
    assert len(world.told.entries) == 1


def test_after_it_fired_an_alert_rests(world: World) -> None:
    world.create(window_minutes=1, cooldown_minutes=5)
    told = []
    for minute in range(8):
        if minute % 2 == 0:
            world.events(11)
        told += [(minute + 1, state) for state in world.pass_minutes()]

    assert told == [(1, "firing"), (2, "resolved"), (7, "firing"), (8, "resolved")]


def test_missing_data_fires_no_alert_but_one_that_asks_for_silence(world: World) -> None:
    for comparison in ("above", "below"):
        world.create(agg="p95", measure="latency_ms", comparison=comparison, threshold=50)
    world.create(name="quiet", comparison="above", threshold=0)
    assert world.pass_minutes(10) == []

    silence = world.create(name="silence", comparison="below", threshold=1, window_minutes=3)

    assert [world.pass_minutes() for _ in range(5)] == [[], [], [], ["firing"], []]
    assert world.told.details[-1]["alert"]["id"] == silence["id"]


def test_a_measure_that_nobody_sends_any_more_ends_its_alert(world: World) -> None:
    world.create(agg="p95", measure="latency_ms", threshold=500, window_minutes=1)
    world.events(3, latency_ms=900)

    assert world.pass_minutes(3) == ["firing", "resolved"]
    assert world.told.details[0]["value"] == pytest.approx(900, rel=0.01)
    assert (world.told.details[1]["value"], world.shown()["value"]) == (None, None)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ({"metric": "events"}, 24),
        ({"metric": "api_request"}, 24),
        ({"agg": "users"}, 20),
        ({"metric": "users"}, 20),
        ({"filter": {"status": "500"}}, 4),
        ({"filter": {"status": ["500", 200, "500"]}}, 24),
        ({"agg": "users", "filter": {"status": "500"}}, 4),
        ({"agg": "max", "measure": "latency_ms", "filter": {"status": "200"}}, 100),
        ({"agg": "sum", "measure": "latency_ms"}, 20 * 100 + 4 * 700),
        ({"agg": "avg", "measure": "latency_ms"}, 200),
        ({"agg": "min", "measure": "latency_ms"}, 100),
        ({"agg": "max", "measure": "latency_ms"}, 700),
    ],
)
def test_what_can_be_compared(world: World, words: dict[str, Any], value: float) -> None:
    world.create(**words, threshold=0)
    world.events(20)
    world.events(4, latency_ms=700, status="500")

    world.pass_minutes()

    assert world.told.details[0]["value"] == value


@pytest.mark.parametrize("failure", ["down", "refusing"])
def test_a_change_that_was_not_told_is_told_by_the_next_run(world: World, failure: str) -> None:
    world.create(window_minutes=1)
    world.events(11)
    setattr(world.told, failure, True)
    with pytest.raises(ExceptionGroup, match="alerts of 1 projects"):
        world.pass_minutes()
    setattr(world.told, failure, False)

    assert [world.pass_minutes() for _ in range(3)] == [["firing"], ["resolved"], []]
    assert world.told.details[0]["at"] == "2026-11-21T12:01:00.000Z"


@pytest.mark.parametrize("late_seconds", [0, 59])
def test_every_window_is_exact_while_compaction_goes_on(world: World, late_seconds: int) -> None:
    stores = world.stores
    recent, compactor = RecentRollups(stores.rollups), Compactor(stores.rollups, stores.hours)
    for minute in range(30):
        now = NOON_MS // 1000 + minute * 60
        for second in (0, 59):
            event = {"event_id": f"e{now + second}", "event_type": "api_request", "occurred_at": now * 1000}
            message = Message("shop", (now + second) * 1000, [{**event, "user_id": "u", "properties": {}}])
            records = [stream_record(chunk, now + second) for chunk in chunks_of(message)]
            Aggregator(CONTRACTS, stores.rollups, stores.bucket).aggregate(records, (now + second) * 1000)
        end_ms = (now + 60) * 1000
        compactor.compact(now + 60 + late_seconds)  # also between a minute's end and a watcher that is late
        for window in range(1, min(MAX_WINDOW_MINUTES, minute + 1) + 1):
            arrived = recent.arrived("shop", end_ms - window * MINUTE_MS, end_ms)
            assert sum(rollups["api_request"].count for _, rollups in arrived) == 2 * window, f"{window} at {minute}"


def test_a_run_that_dies_before_the_end_tells_twice_under_one_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create(window_minutes=5)
    world.events(11)
    with monkeypatch.context() as dying:
        dying.setattr(AlertsTable, "told", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(ExceptionGroup):
            world.pass_minutes()

    assert world.pass_minutes(2) == ["firing"]
    assert len({detail["id"] for detail in world.told.details}) == 1


def test_of_two_runs_that_see_a_change_one_makes_it(world: World) -> None:
    world.create()
    world.events(11)
    world.minute += 1
    (alert, state), *_ = world.table.alerts()
    changed = state.next(alert, 11, NOON_MS + MINUTE_MS)
    assert changed is not None

    assert [world.table.change(alert, state, changed) for _ in range(2)] == [True, False]
    assert [world.table.told(alert, changed) for _ in range(2)] == [True, False]
    assert not world.table.change(alert, state, changed)


def test_an_alert_that_was_deleted_is_not_told(world: World) -> None:
    made = world.create()
    world.events(11)
    (alert, state), *_ = world.table.alerts()
    world.watcher.delete("shop", made["id"])
    changed = state.next(alert, 11, NOON_MS + MINUTE_MS)
    assert changed is not None

    assert not world.table.change(alert, state, changed)
    assert world.pass_minutes(2) == []
    assert world.stores.items("control") == []
    with pytest.raises(NotFound, match=made["id"]):
        world.watcher.delete("shop", made["id"])


def test_an_alert_that_no_key_could_hold_does_not_exist(world: World) -> None:
    nowhere = AlertsTable(client=None, name="not asked")

    with pytest.raises(NotFound, match="does not exist"):
        replace(world.watcher, alerts=nowhere).delete("shop", "a" * 2000)


def test_one_projects_trouble_keeps_no_other_from_being_told(world: World) -> None:
    world.watcher.create("blog", MANY, world.now_ms)
    world.create()
    world.events(11)
    world.minutes.broken = "blog"

    with pytest.raises(ExceptionGroup):
        world.pass_minutes()

    assert [detail["project"] for detail in world.told.details] == ["shop"]


def test_the_same_alert_posted_again_is_one_alert_and_keeps_its_state(world: World) -> None:
    first = world.create()
    world.events(11)
    world.pass_minutes()

    again, new = world.watcher.create("shop", MANY, world.now_ms)
    other = world.create(threshold=11)

    assert (again["id"], new, again["state"]) == (first["id"], False, "firing")
    assert other["id"] != first["id"]
    assert len(world.watcher.show("shop")["alerts"]) == 2
    assert world.watcher.show("blog") == {"alerts": []}


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("api_reqests", "did you mean api_requests? Known are api_requests, events, parcel, users"),
        ("weather", "no event has 'weather' yet. Known are api_requests, events, parcel, users"),
        ("parcels", "did you mean parcel?"),
        ("parcel", None),
        ("api_request", None),
        ("users", None),
        ("events", None),
    ],
)
def test_a_metric_that_nobody_sent_is_taken_with_a_warning(world: World, metric: str, told: str | None) -> None:
    world.sent = ["parcel"]

    both = [world.create(metric=metric) for _ in range(2)]

    assert [("warnings" in made, made["metric"]) for made in both] == [(told is not None, metric)] * 2
    if told:
        assert told in both[0]["warnings"][0]
    assert "warnings" not in world.shown()


def test_a_project_has_a_bounded_number_of_alerts(world: World) -> None:
    for n in range(MAX_ALERTS):
        world.create(threshold=n)

    with pytest.raises(InvalidRequest, match=f"has {MAX_ALERTS} alerts; the limit is {MAX_ALERTS}"):
        world.create(threshold=-1)
    assert world.create(threshold=5)["threshold"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"threshold": "many"}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"comparison": "equals"}, "comparison.*above, below"),
        ({"window_minutes": 6}, "window_minutes.*5"),
        ({"window_minutes": 1.5}, "window_minutes"),
        ({"agg": "p95"}, "measure.*needs a measure"),
        ({"measure": "latency_ms"}, "measure.*takes none"),
        (
            {"agg": "p95", "measure": "weight"},
            "measure: 'weight' is not rolled up for api_requests; rolled up are latency_ms",
        ),
        ({"filter": {"colour": "red"}}, "filter: 'colour' is not rolled up for api_requests; rolled up are status"),
        ({"filter": {"status": []}}, "filter"),
        ({"filter": {"status": "1", "method": "GET"}}, "filter"),
        ({"metric": "sessions"}, "metric: 'sessions' are counted when their hour is over"),
        ({"surprise": 1}, "surprise: Unknown field"),
    ],
)
def test_an_alert_that_says_nothing_useful_is_refused(world: World, words: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        world.create(**words)
    assert world.stores.items("control") == []


def test_what_arrives_late_in_an_hour_is_counted_though_it_occurred_in_the_hour_before(world: World) -> None:
    arrived_ms = NOON_MS + 12 * MINUTE_MS
    event = {"event_id": "e", "event_type": "api_request", "occurred_at": NOON_MS - 20 * MINUTE_MS}
    (chunk,) = chunks_of(Message("shop", arrived_ms, [event]))
    Aggregator(CONTRACTS, world.stores.rollups, world.stores.bucket).aggregate([stream_record(chunk, 1)], arrived_ms)

    found = RecentRollups(world.stores.rollups).arrived("shop", NOON_MS + 8 * MINUTE_MS, NOON_MS + 13 * MINUTE_MS)

    assert sum(part["api_request"].count for _, part in found if part) == 1


def test_the_minutes_are_those_of_arrival_before_and_after_compaction(world: World) -> None:
    recent = RecentRollups(world.stores.rollups)
    aggregator = Aggregator(CONTRACTS, world.stores.rollups, world.stores.bucket)
    for number in range(4):
        event = {"event_id": f"e{number}", "event_type": "api_request", "occurred_at": NOON_MS - 1800_000}
        (chunk,) = chunks_of(Message("shop", NOON_MS, [event]))
        aggregator.aggregate([stream_record(chunk, number)], NOON_MS + number * MINUTE_MS + 30_000)

    def counted() -> dict[int, int]:
        found = recent.arrived("shop", NOON_MS + MINUTE_MS, NOON_MS + 3 * MINUTE_MS)
        return {(at - NOON_MS) // MINUTE_MS: part["api_request"].count for at, part in found if part}

    before = counted()
    Compactor(world.stores.rollups, world.stores.hours).compact((NOON_MS + 5 * MINUTE_MS) // 1000)

    assert before == counted() == {1: 1, 2: 1}
