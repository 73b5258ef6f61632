import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chalicelib.base.time_windows import correct_skew, parse_ms
from chalicelib.events.contracts import Contracts
from demo.people import RHYTHM, population
from demo.traffic import DAY_MS, LATE_DAYS, UNKNOWN_TYPES, Batch, Run, batches

START_MS = int(datetime(2026, 11, 20, 15, tzinfo=UTC).timestamp() * 1000)
RUN = Run(seed=1, run_id="20261120T150000Z-test", rate=100, start_ms=START_MS)
SECONDS = 120
IMPORTED = {"departure"}  # from files of history only
SCHEMAS = Path(__file__).parents[2] / "schemas"


@pytest.fixture(scope="module")
def sent() -> list[Batch]:
    return list(batches(RUN, SECONDS))


@pytest.fixture(scope="module")
def events(sent: list[Batch]) -> list[dict[str, Any]]:
    return [event for batch in sent if not batch.duplicate for event in json.loads(batch.body)["events"]]


def test_the_same_seed_and_run_give_the_same_bytes(sent: list[Batch]) -> None:
    assert list(batches(RUN, SECONDS)) == sent


def test_a_longer_run_begins_with_the_same_requests(sent: list[Batch]) -> None:
    shorter = [batch for batch in batches(RUN, SECONDS / 2) if not batch.duplicate]

    assert [batch for batch in sent if not batch.duplicate][: len(shorter)] == shorter


@pytest.mark.parametrize(
    "other",
    [
        Run(2, RUN.run_id, RUN.rate, START_MS),
        Run(1, "20261120T150000Z-else", RUN.rate, START_MS),
        Run(1, RUN.run_id, 50, START_MS),
    ],
)
def test_another_run_shares_no_event_id(sent: list[Batch], other: Run) -> None:
    mine = {event_id for batch in sent for event_id in batch.event_types}
    theirs = {event_id for batch in batches(other, 10) for event_id in batch.event_types}

    assert not mine & theirs
    assert all(event_id.startswith(RUN.id_prefix) for event_id in mine)


def test_the_rate_is_kept(events: list[dict[str, Any]], sent: list[Batch]) -> None:
    assert len(events) == pytest.approx(RUN.rate * SECONDS, rel=0.02)
    assert [batch.at_seconds for batch in sent] == sorted(batch.at_seconds for batch in sent)


def test_duplicates_are_identical_to_an_earlier_request_and_later(sent: list[Batch]) -> None:
    first = {batch.body: batch for batch in reversed(sent) if not batch.duplicate}
    duplicates = [batch for batch in sent if batch.duplicate]

    assert len(duplicates) == pytest.approx(0.04 * len(first), rel=0.5)
    for batch in duplicates:
        assert batch.at_seconds > first[batch.body].at_seconds
        assert batch.event_types == first[batch.body].event_types


def test_every_id_is_sent_in_one_request_only(sent: list[Batch], events: list[dict[str, Any]]) -> None:
    bodies = [batch.body for batch in sent if not batch.duplicate]
    ids = [event["event_id"] for event in events]

    assert len(set(bodies)) == len(bodies)
    assert len(set(ids)) == len(ids)
    assert Counter(event["event_type"] for event in events) == Counter(
        kind for batch in sent if not batch.duplicate for kind in batch.event_types.values()
    )


def test_every_contract_and_some_unknown_types_occur_and_keep_their_contract(events: list[dict[str, Any]]) -> None:
    contracts = Contracts.load(SCHEMAS)

    assert {event["event_type"] for event in events} == {*contracts.by_type, *UNKNOWN_TYPES} - IMPORTED
    for event in events:
        assert contracts.validator(event["event_type"]).violation(event) is None


def test_the_mix_is_that_of_a_shop(events: list[dict[str, Any]]) -> None:
    counts = Counter(event["event_type"] for event in events)
    users = {event.get("user_id") or event.get("anonymous_id") for event in events}

    views = counts["page_view"] + counts["screen_view"]
    assert 0.2 < views / len(events) < 0.6
    assert 0.1 < counts["api_request"] / len(events) < 0.5
    assert counts["purchase"] < counts["add_to_cart"] < views
    assert 0 < counts["error"] / len(events) < 0.03
    assert len(users) > 200


def test_requests_fit_the_collector(sent: list[Batch]) -> None:
    assert max(len(batch.event_types) for batch in sent) <= 100
    assert max(len(batch.body) for batch in sent) < 100_000


def test_some_apps_deliver_what_happened_days_ago_and_none_what_is_to_come(sent: list[Batch]) -> None:
    ages_ms: list[int] = []
    for batch in sent:
        document = json.loads(batch.body)
        now_ms = START_MS + int(batch.at_seconds * 1000)
        sent_ms = parse_ms(document["sent_at"]) if "sent_at" in document else None
        times_ms = (parse_ms(event["timestamp"]) for event in document["events"])
        ages_ms += [now_ms - correct_skew(client_ms, sent_ms, now_ms) for client_ms in times_ms]

    assert min(ages_ms) >= 0
    assert DAY_MS < max(ages_ms) <= LATE_DAYS * DAY_MS + 5000  # a duplicate is sent some seconds later
    assert 0.005 < sum(age > 600_000 for age in ages_ms) / len(ages_ms) < 0.2


def test_some_devices_have_a_wrong_clock(sent: list[Batch]) -> None:
    skews_ms = {
        parse_ms(json.loads(batch.body)["sent_at"]) - START_MS - int(batch.at_seconds * 1000)
        for batch in sent
        if b'"sent_at"' in batch.body and not batch.duplicate
    }

    assert 0 in skews_ms
    assert len(skews_ms) > 1


def test_people_sleep_at_night_by_their_own_clock() -> None:
    people = population(Random(1), 500)
    nine_in_berlin_ms = int(datetime(2026, 11, 20, 20, tzinfo=UTC).timestamp() * 1000)
    german = next(person for person in people if person.country == "DE")
    japanese = next(person for person in people if person.country == "JP")

    assert german.activity(nine_in_berlin_ms) == 1
    assert japanese.activity(nine_in_berlin_ms) == RHYTHM[5] / max(RHYTHM)
    assert Counter(person.country for person in people).most_common(1)[0][0] == "US"
