"""From the hours of a project to what people, programs and dashboards are told, whatever dies in between."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chalicelib.access.access import Project
from chalicelib.access.quotas import UNLIMITED
from chalicelib.alerts.annotate import Annotator
from chalicelib.alerts.annotations import read_anomalies
from chalicelib.alerts.annotations_table import AnnotationsTable
from chalicelib.alerts.anomalies_table import AnomaliesTable
from chalicelib.alerts.detect import COUNTED_MS, JUDGED_HOURS, TOP_VALUES, Detector
from chalicelib.alerts.hourly_arrays import RollupHistory
from chalicelib.alerts.scoring import HISTORY_HOURS
from chalicelib.base.time_windows import HOUR_MS, hour_of, to_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.events.events import Mode
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.live.connection import Connection
from chalicelib.live.sockets import Sockets
from chalicelib.notices.notices import Anomaly, Notice, Subject
from chalicelib.notices.publisher import NotPublished
from chalicelib.rollups.closed_table import ClosedTable
from chalicelib.rollups.history import History
from chalicelib.rollups.rollups import OTHER, RollupSpec
from tests.live.live_world import Gateway
from tests.stores import Stores, empty_stores, stream_record
from tests.told import Told

NOW = datetime(2026, 8, 21, 10, 10, tzinfo=UTC)
NOW_MS = to_ms(NOW)
LAST = "2026-08-21T09"  # the last hour that is over
LENGTH = HISTORY_HOURS + JUDGED_HOURS
SPEC = RollupSpec(("path",), ("load_ms",))
CONTRACTS = Contracts.of([Contract("page_view", "1-0-0", "page_views", SPEC)])

Series = dict[str, NDArray[np.float64]]


@dataclass
class Hours:
    """A history that is made up: by type, and by type and dimension or measure."""

    counts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    dimensions: dict[str, Series] = field(default_factory=dict)
    latencies: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)
    broken: bool = False

    def event_types(self, project: str) -> list[str]:
        if self.broken and project == "broken":
            raise OSError("no numbers")
        return list(self.counts)

    def hourly(
        self,
        project: str,
        metric: str,
        start_ms: int,
        end_ms: int,
        *,
        agg: str = "count",
        measure: str | None = None,
        group_by: str | None = None,
    ) -> Mapping[str, NDArray[np.float64]]:
        self.asked.append((start_ms, end_ms))
        event_type = CONTRACTS.type_of(metric) or metric
        if group_by:
            return self.dimensions.get(group_by, {})
        if measure:
            return {"": self.latencies.get(measure, np.full(LENGTH, np.nan))}
        return {"": self.counts[event_type]}


def steady(level: float = 500, last: float | None = None, seed: int = 1) -> NDArray[np.float64]:
    """The same every hour, but for noise; `last` is the last hour."""
    counts = np.random.default_rng(seed).poisson(level, LENGTH).astype(float)
    if last is not None:
        counts[-1] = last
    return counts


@dataclass
class World:
    stores: Stores
    hours: Hours = field(default_factory=Hours)
    told: Told = field(default_factory=Told)
    gateway: Gateway = field(default_factory=Gateway)

    def __post_init__(self) -> None:
        client = self.stores.connections.client
        self.table = AnomaliesTable(client, "control")
        self.projects = ["shop"]
        self.detector = Detector(
            lambda: self.projects,
            self.hours,
            CONTRACTS,
            self.table,
            self.told.notices,
            self.stores.connections,
            Sockets(lambda _: self.gateway),
        )
        self.annotator = Annotator(AnnotationsTable(client, "control"), self.table)

    def run(self, now_ms: int) -> int:
        """Both tasks, as the workflow has them: whoever can be told of is, when another project fails."""
        failures: list[BaseExceptionGroup[Exception]] = []
        try:
            self.detector.detect(now_ms)
        except ExceptionGroup as error:
            failures.append(error)
        published = self.detector.tell(now_ms)
        for failure in failures:
            raise failure
        return published

    def listed(self, **parameters: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.annotator.show_anomalies("shop", read_anomalies(parameters))["anomalies"]
        return found

    def connect(self, connection_id: str, *topics: str) -> None:
        until = NOW + timedelta(hours=1)
        self.stores.connections.put(Connection(connection_id, "shop", "d", "s", until, topics, "2026-08-21T00"))


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as stores:
        yield World(stores)


def test_an_anomaly_is_listed_and_everybody_is_told_once(world: World) -> None:
    world.hours.counts = {"page_view": steady(last=1500), "click": steady(seed=2)}
    world.connect("c1", "events")
    world.connect("c2", "clicks")

    published = [world.run(NOW_MS + minutes * 60_000) for minutes in (0, 1, 49)]

    (shown,) = world.listed()
    assert published == [1, 0, 0]
    assert (shown["metric"], shown["hour"], shown["kind"], shown["direction"]) == ("page_views", LAST, "spike", "high")
    assert (shown["observed"], round(shown["expected"], -2)) == (1500, 500)
    assert world.told.details == [shown]
    assert world.told.entries[0]["Source"] == "tidemark.anomalies"
    assert world.told.entries[0]["EventBusName"] == "bus"
    assert world.told.mails[0]["Subject"].startswith("spike: page_views is 1500 in 2026-08-21T09Z")
    assert world.told.mails[0]["MessageAttributes"]["project"]["StringValue"] == "shop"
    assert world.gateway.frames == {"c1": [{"type": "anomaly", "anomaly": shown}]}


def test_what_was_found_and_not_told_is_not_found_again(world: World) -> None:
    world.hours.counts = {"page_view": steady(last=1500)}

    assert [world.detector.detect(NOW_MS), world.detector.detect(NOW_MS)] == [1, 0]


def test_only_hours_that_are_over_and_counted_are_judged(world: World) -> None:
    world.hours.counts = {"page_view": steady()}

    world.detector.judge("shop", to_ms(datetime(2026, 8, 21, 10, tzinfo=UTC)) + COUNTED_MS - 1)
    world.detector.judge("shop", to_ms(datetime(2026, 8, 21, 10, tzinfo=UTC)) + COUNTED_MS)

    assert {hour_of(end - HOUR_MS) for _, end in world.hours.asked} == {"2026-08-21T08", LAST}
    assert {(end - start) // HOUR_MS for start, end in world.hours.asked} == {LENGTH}


def test_an_hour_whose_run_failed_is_judged_by_the_next(world: World) -> None:
    counts = steady()
    counts[-3] = 2000
    world.hours.counts = {"page_view": counts}

    world.run(NOW_MS)

    assert [anomaly["hour"] for anomaly in world.listed()] == ["2026-08-21T07"]


def test_what_goes_on_is_listed_by_the_hour_and_told_once(world: World) -> None:
    counts = steady()
    counts[-3:] = 0
    world.hours.counts = {"page_view": counts}

    published = world.run(NOW_MS)
    world.hours.counts = {"page_view": np.append(counts[1:], 0)}
    again = world.run(NOW_MS + HOUR_MS)

    assert (published, again, len(world.told.entries)) == (1, 0, 1)
    assert [(a["hour"][-2:], a["since"][-2:], a["kind"]) for a in world.listed()] == [
        ("10", "07", "silence"),
        ("09", "07", "silence"),
        ("08", "07", "silence"),
        ("07", "07", "silence"),
    ]


def test_the_other_direction_is_another_matter(world: World) -> None:
    counts = steady()
    counts[-2:] = 0, 2000
    world.hours.counts = {"page_view": counts}

    assert world.run(NOW_MS) == 2


@pytest.mark.parametrize("failure", ["down", "refusing"])
def test_what_was_recorded_and_not_told_is_told_by_the_next_run(world: World, failure: str) -> None:
    world.hours.counts = {"page_view": steady(last=1500)}
    setattr(world.told, failure, True)
    with pytest.raises(ExceptionGroup, match="1 projects were not told of"):
        world.run(NOW_MS)
    before = len(world.listed())
    setattr(world.told, failure, False)

    assert (before, world.run(NOW_MS), world.run(NOW_MS)) == (1, 1, 0)
    assert len(world.told.entries) == 1
    assert {mail["Message"] for mail in world.told.mails} == {world.told.mails[0]["Message"]}


def test_a_run_that_dies_before_the_mark_tells_twice_under_one_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hours.counts = {"page_view": steady(last=1500)}
    with monkeypatch.context() as dying:
        dying.setattr(AnomaliesTable, "mark_published", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(ExceptionGroup):
            world.run(NOW_MS)

    world.run(NOW_MS)

    assert [detail["id"] for detail in world.told.details] == [world.listed()[0]["id"]] * 2


def test_one_projects_trouble_keeps_no_other_from_being_told(world: World) -> None:
    world.projects = ["broken", "shop"]
    world.hours.counts, world.hours.broken = {"page_view": steady(last=1500)}, True

    with pytest.raises(ExceptionGroup):
        world.run(NOW_MS)

    assert [detail["project"] for detail in world.told.details] == ["shop"]


def test_a_dimensions_value_is_judged_unless_its_whole_metric_does_the_same(world: World) -> None:
    world.hours.counts = {"page_view": steady(level=5000)}
    quiet = {"/a": steady(seed=4), "/b": steady(last=0, seed=5), "/rare": np.zeros(LENGTH), OTHER: steady(last=0)}
    world.hours.dimensions = {"path": quiet}
    world.run(NOW_MS)
    alone = world.listed()

    world.hours.counts["page_view"][-1] = 0
    world.hours.dimensions["path"]["/a"][-1] = 0
    world.run(NOW_MS)

    assert [(a["dimension"], a["value"], a["kind"]) for a in alone] == [("path", "/b", "silence")]
    assert [a["value"] for a in world.listed() if a not in alone] == [None]


def test_a_project_that_falls_silent_altogether_is_one_notice(world: World) -> None:
    world.hours.counts = {name: steady(last=0, seed=n) for n, name in enumerate(("page_view", "click", "search"))}
    world.hours.dimensions = {"path": {"/a": steady(last=0)}}

    assert world.run(NOW_MS) == 1
    assert [(a["metric"], a["kind"]) for a in world.listed()] == [("events", "silence")]


def test_two_metrics_that_do_the_same_are_two_matters(world: World) -> None:
    world.hours.counts = {name: steady(last=1500, seed=n) for n, name in enumerate(("page_view", "click"))}

    assert world.run(NOW_MS) == 2


def test_of_a_dimension_the_values_with_the_most_events_are_judged(world: World) -> None:
    world.hours.counts = {"page_view": steady(level=100_000)}
    values = {f"/{n:02d}": steady(level=1000 - n * 10, last=0) for n in range(TOP_VALUES + 5)}
    world.hours.dimensions = {"path": values}

    world.run(NOW_MS)

    assert sorted(a["value"] for a in world.listed()) == sorted(values)[:TOP_VALUES]


def test_latency_is_judged_where_enough_was_measured(world: World) -> None:
    rng = np.random.default_rng(6)
    load = np.exp(rng.normal(np.log(200), 0.05, LENGTH))
    load[-1] = 700
    world.hours.counts, world.hours.latencies = {"page_view": steady()}, {"load_ms": load}
    world.run(NOW_MS)
    world.hours.counts["page_view"][-2], load[-2] = 5, 9000  # five slow ones are no anomaly
    world.run(NOW_MS)

    slow = [a for a in world.listed() if a["measure"]]
    assert [(a["agg"], a["measure"], a["hour"], a["kind"]) for a in slow] == [("p95", "load_ms", LAST, "spike")]


def test_a_new_project_and_types_that_share_a_name_alarm_nobody(world: World) -> None:
    young = np.zeros(LENGTH)
    young[-20:] = 5000
    world.hours.counts = {"page_view": young, "click": np.zeros(LENGTH), OTHER: steady(last=0)}

    assert world.run(NOW_MS) == 0


def test_a_dashboard_that_is_gone_is_forgotten_and_one_that_fails_is_not(world: World) -> None:
    world.hours.counts = {"page_view": steady(last=1500)}
    for name in ("gone", "failing", "fine"):
        world.connect(name, "page_view")
    world.gateway.gone.add("gone")
    world.gateway.failing.add("failing")

    world.run(NOW_MS)

    assert {c.id for c in world.stores.connections.of_project("shop")} == {"failing", "fine"}
    assert list(world.gateway.frames) == ["fine"]


def test_anomalies_are_listed_in_pages_by_filter_and_time(world: World) -> None:
    made = Anomaly("shop", Subject("page_views"), "2026-08-20T00", "spike", "high", 9.0, 1.0, 8.0, "seasonal")
    for hour in range(24):
        direction, kind = ("low", "drop") if hour % 2 else ("high", "spike")
        world.table.put(replace(made, hour=f"2026-08-20T{hour:02d}", direction=direction, kind=kind), 0)
    world.table.put(replace(made, project="other"), 0)

    pages: list[list[str]] = []
    parameters = {"limit": "5", "direction": "low", "start": "2026-08-20T03:00:00Z", "end": "2026-08-20T20:30:00Z"}
    while True:
        page = world.annotator.show_anomalies("shop", read_anomalies(parameters))
        pages.append([a["hour"][-2:] for a in page["anomalies"]])
        if page["next"] is None:
            break
        parameters["before"] = page["next"]

    assert pages == [["19", "17", "15", "13", "11"], ["09", "07", "05", "03"]]
    assert len(world.listed(start="2026-08-20", end="2026-08-20")) == 24
    assert world.listed(end="2026-08-19") == world.listed(start="2026-08-21") == world.listed(metric="clicks") == []
    assert world.listed(before="2026-01-01T00#") == []


def test_the_rollups_of_events_are_read_as_hours(world: World) -> None:
    start_ms = to_ms(datetime(2026, 8, 21, 6, tzinfo=UTC))
    for number, (hour, path) in enumerate([(1, "/a"), (1, "/b"), (3, "/a")]):
        event = {
            "event_id": f"e{number}",
            "event_type": "page_view",
            "occurred_at": start_ms + hour * HOUR_MS,
            "properties": {"path": path, "load_ms": 100.0 * hour},
        }
        (chunk,) = chunks_of(Message("shop", NOW_MS, [event]))
        aggregator = Aggregator(CONTRACTS, world.stores.rollups, world.stores.bucket)
        aggregator.aggregate([stream_record(chunk, number)], NOW_MS // 1000)
    closed = ClosedTable(world.stores.rollups.client, world.stores.rollups.name)
    history = RollupHistory(CONTRACTS, History(world.stores.rollups, closed))
    span = ("shop", "page_views", start_ms, start_ms + 4 * HOUR_MS)

    assert history.event_types("shop") == ["page_view"]
    assert history.hourly(*span)[""].tolist() == [0, 2, 0, 1]
    by_path = history.hourly(*span, group_by="path")
    assert {path: hours.tolist() for path, hours in by_path.items()} == {"/a": [0, 1, 0, 1], "/b": [0, 1, 0, 0]}
    latency = history.hourly(*span, agg="p95", measure="load_ms")[""]
    assert np.isnan(latency[[0, 2]]).all()
    assert latency[[1, 3]] == pytest.approx([100, 300], rel=0.01)


def test_every_project_is_judged(world: World) -> None:
    for name in ("shop", "blog"):
        world.stores.access.put_project(Project(name, Mode.INFER), UNLIMITED, NOW)

    assert sorted(world.stores.access.names()) == ["blog", "shop"]


def test_a_bus_that_refuses_says_so(world: World) -> None:
    world.told.refusing = True
    anomaly = Anomaly("shop", Subject("page_views"), LAST, "spike", "high", 9.0, 1.0, 8.0, "seasonal")
    with pytest.raises(NotPublished, match="ThrottlingException"):
        world.told.notices.publish(Notice.of_anomaly(anomaly))
