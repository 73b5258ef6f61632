"""The summary of a day is that of its events, whether its hours are live, closed, or half of each."""

import math
from collections import Counter
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import pytest

from chalicelib.base.errors import InvalidRequest, NotFound
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, hour_of, parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake
from chalicelib.numbers.summaries import Day, read_day
from chalicelib.numbers.summarize import Summarizer
from chalicelib.rollups.rollups import RollupSpec
from tests.hours.finishing import finisher_of
from tests.stores import Stores, empty_stores, stream_record

DAY = "2026-11-20"
MIDNIGHT = parse_ms("2026-11-20T00:00:00Z")
AFTER = MIDNIGHT + DAY_MS + 3 * HOUR_MS
CONTRACTS = Contracts({"sale": Contract("sale", "1-0-0", "sales", RollupSpec(("country",), ("amount",)))})
EVENTS: list[dict[str, Any]] = [
    {
        "event_id": f"e{n}",
        "event_type": "sale" if n % 4 else "click",
        "occurred_at": MIDNIGHT + (3 + n % 3 * 10) * HOUR_MS + n * 60_000,
        "user_id": f"u{n % 7}",
        "properties": {"country": ("DE", "FR", "DE", "IT")[n % 4], "amount": n / 4},
    }
    for n in range(40)
]
SALES = [event for event in EVENTS if event["event_type"] == "sale"]


def expected(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Of sales, from the events themselves; percentiles apart, which are estimated."""
    amounts = [event["properties"]["amount"] for event in events]
    countries = Counter(event["properties"]["country"] for event in events)
    ranked = sorted(countries.items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        "count": len(events),
        "users": len({event["user_id"] for event in events}),
        "measures": {
            "amount": {
                "count": len(amounts),
                "sum": sum(amounts),
                "avg": fmean(amounts),
                "min": min(amounts),
                "max": max(amounts),
            }
        },
        "top": {"country": [{"value": value, "count": count} for value, count in ranked]},
    }


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    """A summary without percentiles and its place in the day."""
    measures = {
        name: {key: value for key, value in numbers.items() if key not in ("p50", "p95")}
        for name, numbers in answer["measures"].items()
    }
    return {key: value for key, value in answer.items() if key not in ("start", "open")} | {"measures": measures}


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        records = [stream_record(chunk, n) for n, chunk in enumerate(chunks_of(Message("shop", MIDNIGHT, EVENTS)))]
        Aggregator(CONTRACTS, found.rollups, found.bucket).aggregate(records, MIDNIGHT)
        Archiver(Lake(found.bucket), found.hours, found.erased).archive(records)
        Compactor(found.rollups, found.hours).compact(MIDNIGHT // 1000 + 3600)
        yield found


def ask(stores: Stores, name: str = "sales", now_ms: int = AFTER, top: int = 10) -> dict[str, Any]:
    return Summarizer(CONTRACTS, stores.history).day("shop", name, Day(DAY, top), now_ms)


def close(stores: Stores, *hours: int) -> None:
    finisher = finisher_of(CONTRACTS, stores.rollups.client, stores.bucket.client, lambda: AFTER)
    for number in hours:
        assert finisher.finish("shop", f"{DAY}T{number:02}", AFTER).closed
    finisher.closer.close_days("shop", AFTER)


@pytest.mark.parametrize("closed", [(), (3,), (3, 13, 23)], ids=["live", "half", "closed"])
def test_each_hour_and_the_day_are_those_of_their_events(stores: Stores, closed: tuple[int, ...]) -> None:
    close(stores, *closed)

    answer = ask(stores)

    assert plain(answer["total"]) == expected(SALES)
    assert (answer["event_type"], answer["date"], answer["open"]) == ("sale", DAY, len(closed) < 3)
    assert [hour["start"] for hour in answer["hours"]] == [f"{DAY}T{hour:02}:00:00Z" for hour in range(24)]
    for number, hour in enumerate(answer["hours"]):
        events = [event for event in SALES if hour_of(event["occurred_at"]) == f"{DAY}T{number:02}"]
        assert hour["open"] == (bool(events) and number not in closed)
        if events:
            assert plain(hour) == expected(events)
        else:
            assert (hour["count"], hour["users"], hour["top"]) == (0, 0, {"country": []})


def test_percentiles_are_within_their_bound(stores: Stores) -> None:
    amounts = sorted(event["properties"]["amount"] for event in SALES)

    found = ask(stores)["total"]["measures"]["amount"]

    assert found["p50"] == pytest.approx(amounts[math.ceil(0.5 * len(amounts)) - 1], rel=0.01)
    assert found["p95"] == pytest.approx(amounts[math.ceil(0.95 * len(amounts)) - 1], rel=0.01)


def test_a_day_that_is_not_over_shows_the_hours_that_began(stores: Stores) -> None:
    answer = ask(stores, now_ms=MIDNIGHT + 14 * HOUR_MS + 1)

    assert answer["open"]
    assert len(answer["hours"]) == 15
    assert answer["hours"][14]["open"]
    assert not answer["hours"][5]["open"]


def test_all_types_together_have_the_types_as_their_values(stores: Stores) -> None:
    close(stores, 3, 13)

    total = ask(stores, "events")["total"]

    assert total == {
        "count": 40,
        "users": 7,
        "measures": {},
        "top": {"event_type": [{"value": "sale", "count": 30}, {"value": "click", "count": 10}]},
    }


def test_a_type_without_a_contract_has_events_and_users(stores: Stores) -> None:
    assert ask(stores, "click")["total"] == {"count": 10, "users": 7, "measures": {}, "top": {}}


def test_as_many_values_are_shown_as_are_asked_for(stores: Stores) -> None:
    assert [len(ask(stores, top=most)["total"]["top"]["country"]) for most in (0, 2, 10)] == [0, 2, 3]


def test_a_name_that_nobody_sent_is_refused_with_those_that_are_known(stores: Stores) -> None:
    with pytest.raises(NotFound, match="'sails' is unknown; known are click, events, sale, sales"):
        ask(stores, "sails")


@pytest.mark.parametrize("date", ["", "yesterday", "2026-11-21T10", "2026-W47-5", "1969-12-31", "9999-01-01"])
def test_a_day_has_to_be_one(date: str) -> None:
    with pytest.raises(InvalidRequest, match="date"):
        read_day({"date": date})
    with pytest.raises(InvalidRequest, match="top"):
        read_day({"date": DAY, "top": "101"})


def test_a_closed_hour_without_values_of_a_dimension_is_not_open() -> None:
    plain_sale = {"event_id": "e", "event_type": "sale", "occurred_at": MIDNIGHT, "user_id": "u", "properties": {}}
    with empty_stores() as stores:
        records = [
            stream_record(chunk, n) for n, chunk in enumerate(chunks_of(Message("shop", MIDNIGHT, [plain_sale])))
        ]
        Aggregator(CONTRACTS, stores.rollups, stores.bucket).aggregate(records, MIDNIGHT)
        Archiver(Lake(stores.bucket), stores.hours, stores.erased).archive(records)
        Compactor(stores.rollups, stores.hours).compact(MIDNIGHT // 1000 + 3600)
        assert ask(stores)["open"]

        close(stores, 0)

        assert not ask(stores)["open"]
        assert ask(stores)["total"]["count"] == 1
