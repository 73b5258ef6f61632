from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib.base.errors import InvalidRequest, NotFound
from chalicelib.base.time_windows import parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from chalicelib.numbers.realtime import Observer
from chalicelib.rollups.rollups import RollupSpec
from tests.stores import Stores, empty_stores, stream_record

NINE = parse_ms("2026-11-21T09:00:00Z")
MINUTE = 60_000
CONTRACTS = Contracts(
    {
        "page_view": Contract("page_view", "1-0-0", "page_views", RollupSpec(("path",), ("load_ms",))),
    }
)


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def send(stores: Stores, *events: tuple[str, int, str, dict[str, Any]], project: str = "demo", first: int = 0) -> None:
    """Aggregate events of (type, occurred at, user, properties) as one stream batch."""
    stored = [
        {"event_id": f"e{first + i}", "event_type": kind, "occurred_at": at, "user_id": user, "properties": properties}
        for i, (kind, at, user, properties) in enumerate(events)
    ]
    records = [stream_record(chunk, first + n) for n, chunk in enumerate(chunks_of(Message(project, NINE, stored)))]
    Aggregator(CONTRACTS, stores.rollups, stores.bucket).aggregate(records, NINE)


def ask(stores: Stores, **parameters: str) -> dict[str, Any]:
    defaults = {"metric": "page_views", "start": "2026-11-21T08:00:00Z", "end": "2026-11-21T11:00:00Z"}
    return Analytics(CONTRACTS, stores.history).answer("demo", read_question({**defaults, **parameters}), NINE)


def values(answer: dict[str, Any]) -> list[Any]:
    return [point["value"] for point in answer["series"]]


def view(at: int, user: str = "u1", **properties: Any) -> tuple[str, int, str, dict[str, Any]]:
    return ("page_view", at, user, properties)


def test_a_series_is_filled_with_zeros_and_totalled(stores: Stores) -> None:
    send(stores, view(NINE), view(NINE + 59 * MINUTE), view(NINE + 60 * MINUTE))

    answer = ask(stores)

    assert values(answer) == [0, 2, 1]
    assert answer["total"] == 3
    assert answer["series"][1]["start"] == "2026-11-21T09:00:00Z"


def test_a_metric_is_asked_by_its_public_name_or_its_event_type_or_all_together(stores: Stores) -> None:
    send(stores, view(NINE), ("wave", NINE, "u1", {}))

    assert [ask(stores, metric=m)["total"] for m in ("page_views", "page_view", "wave", "events")] == [1, 1, 1, 2]


def test_an_unknown_metric_is_refused_with_those_known(stores: Stores) -> None:
    with pytest.raises(NotFound, match="'nonsense' is unknown; known are events, page_views, sessions, users"):
        ask(stores, metric="nonsense")


def test_another_projects_events_are_never_counted(stores: Stores) -> None:
    send(stores, view(NINE), project="other")

    assert ask(stores)["total"] == 0


def test_counts_are_exact_to_the_minute_also_at_the_ends_of_the_range(stores: Stores) -> None:
    send(stores, view(NINE), view(NINE + 10 * MINUTE), view(NINE + 20 * MINUTE))

    answer = ask(stores, start="2026-11-21T09:05:00Z", end="2026-11-21T09:20:00Z")

    assert answer["total"] == 1


def test_minutes_can_be_asked_for(stores: Stores) -> None:
    send(stores, view(NINE), view(NINE + 2 * MINUTE))

    answer = ask(stores, start="2026-11-21T09:00:00Z", end="2026-11-21T09:03:00Z", interval="minute")

    assert values(answer) == [1, 0, 1]


def test_users_are_counted_by_union_never_by_adding(stores: Stores) -> None:
    send(stores, view(NINE, "a"), view(NINE, "b"), view(NINE + 60 * MINUTE, "b"))

    answer = ask(stores, agg="users")

    assert (values(answer), answer["total"]) == ([0, 2, 1], 2)
    assert answer["relative_error"] == 0.045


def test_measures_are_summed_averaged_and_ranked(stores: Stores) -> None:
    send(stores, *(view(NINE, f"u{i}", load_ms=i) for i in range(1, 101)))

    found = {agg: ask(stores, agg=agg, measure="load_ms")["total"] for agg in ("sum", "avg", "min", "max", "p95")}

    assert found == {"sum": 5050, "avg": 50.5, "min": 1, "max": 100, "p95": pytest.approx(95, rel=0.01)}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"agg": "p50", "measure": "revenue"}, "rolled up are load_ms"),
        ({"group_by": "color"}, "'color' is not rolled up for page_views"),
    ],
)
def test_what_is_not_kept_of_a_metric_is_refused_by_name(stores: Stores, asked: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        ask(stores, **asked)


def test_one_hours_trouble_does_not_keep_others_from_compaction(stores: Stores) -> None:
    send(stores, view(NINE))
    send(stores, view(NINE), project="bad", first=10)
    [delta] = stores.rollups.deltas_of("bad", "2026-11-21T09")
    key = {"pk": {"S": "bad#live#2026-11-21T09"}, "sk": {"S": f"d#{delta.id}"}}
    stores.rollups.client.update_item(
        TableName="rollups",
        Key=key,
        UpdateExpression="SET body = :junk",
        ExpressionAttributeValues={":junk": {"B": b"junk"}},
    )

    with pytest.raises(ExceptionGroup, match="1 hours were not compacted"):
        Compactor(stores.rollups, stores.hours).compact(NINE // 1000 + 300)

    assert stores.rollups.read_hour("demo", "2026-11-21T09").deltas == []


def test_where_nothing_was_measured_there_is_no_value(stores: Stores) -> None:
    send(stores, view(NINE))

    assert ask(stores, agg="avg", measure="load_ms")["total"] is None


def test_groups_are_the_most_frequent_values_first(stores: Stores) -> None:
    send(stores, view(NINE, path="/"), view(NINE, path="/a"), view(NINE + 60 * MINUTE, path="/a"))

    groups = ask(stores, group_by="path")["groups"]

    assert [(g["key"], g["total"], values(g)) for g in groups] == [("/a", 2, [0, 1, 1]), ("/", 1, [0, 1, 0])]


def test_the_range_before_is_compared_by_the_same_groups(stores: Stores) -> None:
    before = NINE - 180 * MINUTE
    send(stores, view(before, path="/old"), view(before, path="/old"), view(before, path="/a"), view(NINE, path="/a"))

    answer = ask(stores, group_by="path", limit="1", compare="previous")

    assert [(g["key"], g["total"]) for g in answer["groups"]] == [("/a", 1)]
    assert [(g["key"], g["total"]) for g in answer["previous"]["groups"]] == [("/a", 1), ("(other)", 2)]


def test_a_group_that_was_not_there_before_was_nothing(stores: Stores) -> None:
    send(stores, view(NINE, path="/new"))

    answer = ask(stores, group_by="path", compare="previous")

    assert [(g["key"], values(g)) for g in answer["previous"]["groups"]] == [("/new", [0, 0, 0])]


def test_days_are_counted_in_the_zone_of_the_question(stores: Stores) -> None:
    send(stores, view(parse_ms("2026-11-21T18:29:00Z")), view(parse_ms("2026-11-21T18:30:00Z")))

    answer = ask(stores, start="2026-11-21", end="2026-11-22", interval="day", timezone="Asia/Kolkata")

    assert values(answer) == [1, 1]
    assert answer["series"][0]["start"] == "2026-11-21T00:00:00+05:30"


def test_days_begin_as_the_zone_has_them_also_between_ends_that_are_midnight_in_utc(stores: Stores) -> None:
    send(stores, view(parse_ms("2026-07-01T22:59:00Z")), view(parse_ms("2026-07-01T23:30:00Z"), "u2"))

    answer = ask(stores, agg="users", start="2026-01-01", end="2026-12-01", interval="day", timezone="Europe/London")

    found = {point["start"][:10]: point["value"] for point in answer["series"] if point["value"]}
    assert found == {"2026-07-01": 1, "2026-07-02": 1}


def test_merging_changes_no_answer(stores: Stores) -> None:
    for n in range(5):
        send(stores, view(NINE + n * MINUTE, f"u{n}", path="/", load_ms=n), first=10 * n)
    questions: list[dict[str, str]] = [{}, {"agg": "users"}, {"group_by": "path"}, {"agg": "p50", "measure": "load_ms"}]
    before = [ask(stores, **question) for question in questions]

    absorbed = Compactor(stores.rollups, stores.hours).compact(NINE // 1000 + 300)

    assert absorbed == 5
    assert [ask(stores, **question) for question in questions] == before


def test_the_last_minutes_are_told_by_arrival_and_by_minute(stores: Stores) -> None:
    send(
        stores, view(NINE, "a", path="/", load_ms=10), view(NINE - 30 * MINUTE, "b", path="/"), ("error", NINE, "a", {})
    )

    answer = Observer(CONTRACTS, stores.rollups, stores.ledger).observe("demo", NINE + MINUTE)
    later = Observer(CONTRACTS, stores.rollups, stores.ledger).observe("demo", NINE + 30 * MINUTE)

    assert (answer["events"], answer["active_users"], answer["error_rate"]) == (3, 2, 0.33333)
    assert answer["metrics"] == {"error": 1, "page_views": 2}
    assert answer["top"]["page_views.path"] == [{"value": "/", "count": 2}]
    assert answer["measures"]["page_views.load_ms"]["p95"] == pytest.approx(10, rel=0.01)
    assert len(answer["minutes"]) == 60
    assert [m for m in answer["minutes"] if m["events"]] == [
        {"start": "2026-11-21T08:30Z", "events": 1},
        {"start": "2026-11-21T09:00Z", "events": 2},
    ]
    assert later["events"] == 0


def test_the_last_minutes_are_the_same_before_and_after_merging(stores: Stores) -> None:
    send(stores, view(NINE, "a", path="/"))
    observer = Observer(CONTRACTS, stores.rollups, stores.ledger)
    before = observer.observe("demo", NINE + 5 * MINUTE)

    Compactor(stores.rollups, stores.hours).compact(NINE // 1000 + 120)

    assert before["events"] == 1
    assert observer.observe("demo", NINE + 5 * MINUTE) == before
    assert observer.observe("demo", NINE + 6 * MINUTE)["events"] == 0


def test_a_value_that_is_rare_in_each_hour_and_frequent_in_the_day_is_found(stores: Stores) -> None:
    for hour in range(4):
        at = parse_ms("2026-11-21T00:00:00Z") + hour * 60 * MINUTE
        paths = [f"/{hour}-{n}" for n in range(450)]
        send(stores, *(view(at, path=path) for path in [*paths, *paths, "/steady"]), first=1000 * hour)
    day = {"start": "2026-11-21", "end": "2026-11-21"}

    for interval in ("hour", "day"):
        assert ask(stores, **day, interval=interval, filter="path:/steady")["total"] == 4
    assert ask(stores, **day, interval="day", group_by="path")["groups"][0]["key"] == "/steady"


def test_a_filter_says_what_is_not_told_apart(stores: Stores) -> None:
    send(stores, *(view(NINE, path=f"/{n}") for n in range(1003)), view(NINE, path="/1002"))

    frequent, rare = ask(stores, filter="path:/1002"), ask(stores, filter="path:/999")

    assert (frequent["total"], frequent["other"]) == (2, 3)  # though a thousand others came first
    assert (rare["total"], rare["other"]) == (0, 3)
    assert "other" not in ask(stores, filter="path:/1", start="2026-11-21T08:00:00Z", end="2026-11-21T09:00:00Z")


def test_a_sum_of_nothing_is_zero(stores: Stores) -> None:
    answer = ask(stores, agg="sum", measure="load_ms")

    assert (values(answer), answer["total"]) == ([0, 0, 0], 0)


def test_the_largest_number_there_is_has_a_percentile(stores: Stores) -> None:
    send(stores, view(NINE, load_ms=1.79e308), view(NINE, load_ms=-1.79e308))

    assert ask(stores, agg="p50", measure="load_ms")["total"] == pytest.approx(-1.79e308, rel=0.01)
    assert ask(stores, agg="p99", measure="load_ms")["total"] == pytest.approx(1.79e308, rel=0.01)
    assert ask(stores, agg="max", measure="load_ms")["total"] == 1.79e308


def test_an_answer_of_too_many_points_is_refused(stores: Stores) -> None:
    send(stores, *(view(NINE, path=f"/{n}") for n in range(200)))
    asked = {"group_by": "path", "limit": "150", "interval": "hour", "start": "2026-11-01", "end": "2026-11-28"}

    with pytest.raises(InvalidRequest, match="151 groups of 672 buckets are 101472 points; the limit is 80000"):
        ask(stores, **asked)
    assert len(ask(stores, **{**asked, "limit": "100"})["groups"]) == 101
