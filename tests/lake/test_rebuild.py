"""The hot store from the lake: the same items under the same keys, and nothing is counted or archived again."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib.base import waits
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, hour_of, hours_between, iso_ms, parse_ms
from chalicelib.events import regrouping
from chalicelib.events.chunks import Message, encode_message, unpack_events
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import MAX_AGE_DAYS
from chalicelib.events.events_table import EventsTable
from chalicelib.events.regrouping import messages_of
from chalicelib.events.users_table import UsersTable
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.ingest.process import Processor
from chalicelib.lake.lake import Lake
from chalicelib.lake.rebuild import NotConsolidated, Rebuilder, Rebuilt
from chalicelib.privacy.profile import Profiler
from tests.hours.finishing import finisher_of
from tests.mortal import Died, Mortal
from tests.stores import Stores, empty_stores

NINE = parse_ms("2026-11-20T09:00:00Z")
NOW = NINE + 6 * HOUR_MS
HOURS = hours_between(NINE - 3 * HOUR_MS, NINE + 3 * HOUR_MS)
CONTRACTS = Contracts({})


def an_event(name: str, minute: float, user: str | None = "ada", **more: Any) -> dict[str, Any]:
    at_ms = NINE + int(minute * 60_000)
    said = {"timestamp": iso_ms(at_ms), "properties": {"path": "/"}, "context": {"page": {"url": "/"}}}
    return {
        "event_id": name,
        "event_type": "page_view",
        "occurred_at": at_ms,
        **({"user_id": user} if user else {}),
        **said,
        **more,
    }


MESSAGES = [
    Message("shop", NINE + 30 * 60_000, [an_event("a1", 1), an_event("a2", 29.5), an_event("b1", 2, "bob")]),
    # Over the hour, late by hours, of nobody, and without the client's time or with a number.
    Message("shop", NINE + 61 * 60_000, [an_event("a3", 59), an_event("a4", 60.5), an_event("a5", -100)]),
    Message("shop", NINE + 62 * 60_000, [an_event("n1", 61, None), an_event("n2", 61.5, None)]),
    Message("shop", NINE + 63 * 60_000, [an_event("a6", 63, timestamp=NINE + 63 * 60_000)]),
    Message("shop", NINE + 64 * 60_000, [{k: v for k, v in an_event("a7", 64).items() if k != "timestamp"}]),
    Message("shop", NINE + 65 * 60_000, [an_event("i1", 65, event_type="identify", properties={"plan": "pro"})]),
]


def records_of(stores: Stores, name: str = "INSERT", first: int = 0) -> list[dict[str, Any]]:
    """What the table's stream says of the items there are, in records that begin with a number."""
    found = []
    chunks = [item for item in stores.items("events") if not item["sk"]["S"].startswith("~")]
    for number, item in enumerate(chunks, first):
        image = {**item, "body": {"B": b64encode(bytes(item["body"]["B"])).decode()}}
        created = int(item["received_at"]["N"]) // 1000
        stream = {"SequenceNumber": str(1000 + number), "ApproximateCreationDateTime": created}
        stream |= {"NewImage": image, "Keys": {}}
        found.append({"eventID": f"r{number}", "eventName": name, "dynamodb": stream})
    return found


def deliver(stores: Stores, *messages: Message) -> None:
    """The queue hands them over."""
    bodies = [text for message in messages for text, _ in encode_message(message)]
    sent = [{"messageId": str(number), "body": body} for number, body in enumerate(bodies)]
    assert Processor(stores.events, stores.users, stores.bucket, stores.erased, stores.ledger).process(sent) == []


def chunks(stores: Stores) -> dict[tuple[str, str], dict[str, Any]]:
    """The items but for the mark, by key, their events by id."""
    found = {}
    for item in stores.items("events"):
        if "body" in item and not item["sk"]["S"].startswith("~"):
            events, _ = unpack_events(bytes(item["body"]["B"]))
            rest = {k: v for k, v in item.items() if k not in ("pk", "sk", "body", "rebuilt")}
            found[item["pk"]["S"], item["sk"]["S"]] = rest | {"body": {event["event_id"]: event for event in events}}
    return found


def lose(stores: Stores) -> None:
    """The table is empty."""
    for item in stores.items("events"):
        stores.events.client.delete_item(TableName="events", Key={"pk": item["pk"], "sk": item["sk"]})


def rebuilder(stores: Stores, client: Any = None) -> Rebuilder:
    client = client or stores.events.client
    events, users = EventsTable(client, "events"), UsersTable(client, "events")
    return Rebuilder(Lake(stores.bucket), stores.folders, stores.hours, events, users, stores.erased)


def profiler(stores: Stores) -> Profiler:
    return Profiler(stores.events, stores.users, stores.erasures, str)


@pytest.fixture
def stores() -> Iterator[Stores]:
    """Events were stored, counted, archived and closed."""
    with empty_stores() as found:
        deliver(found, *MESSAGES)
        records = records_of(found)
        Aggregator(CONTRACTS, found.rollups, found.bucket).aggregate(records, NOW)
        Archiver(Lake(found.bucket), found.hours, found.erased).archive(records)
        Compactor(found.rollups, found.hours).compact(NOW // 1000 + waits.MERGE_MS // 1000 + 1)
        finisher = finisher_of(CONTRACTS, found.rollups.client, found.bucket.client, lambda: NOW)
        for hour in found.hours.unsettled("shop"):
            assert finisher.finish("shop", hour.hour, NOW).closed
        yield found


def test_what_was_lost_is_there_again_as_it_was(stores: Stores) -> None:
    before = chunks(stores)
    told = profiler(stores).timeline("shop", "ada", 100, None)
    lose(stores)

    rebuilt = rebuilder(stores).rebuild("shop", HOURS, NOW)

    assert rebuilt == Rebuilt(written=len(before), events=11)
    assert chunks(stores) == before
    assert profiler(stores).timeline("shop", "ada", 100, None) == told
    assert profiler(stores).user("shop", "ada")["traits"] == {"plan": "pro"}


def test_what_is_there_is_left_as_it_is(stores: Stores) -> None:
    before = stores.items("events")

    assert rebuilder(stores).rebuild("shop", HOURS, NOW) == Rebuilt(there=len(chunks(stores)))
    assert stores.items("events") == before


def test_nothing_that_was_put_back_is_counted_or_archived(stores: Stores) -> None:
    lose(stores)
    rebuilder(stores).rebuild("shop", HOURS, NOW)
    records, files = records_of(stores, first=100), stores.objects("lake/")
    before = stores.items("rollups")

    Aggregator(CONTRACTS, stores.rollups, stores.bucket).aggregate(records, NOW)

    assert len(records) > 5
    assert Archiver(Lake(stores.bucket), stores.hours, stores.erased).archive(records) == 0
    assert (stores.items("rollups"), stores.objects("lake/")) == (before, files)


def test_a_client_that_sends_again_what_was_put_back_meets_its_own_chunk(stores: Stores) -> None:
    lose(stores)
    rebuilder(stores).rebuild("shop", HOURS, NOW)
    keys = chunks(stores).keys()

    deliver(stores, *MESSAGES)
    Aggregator(CONTRACTS, stores.rollups, stores.bucket).aggregate(records_of(stores, "MODIFY", first=100), NOW)

    assert chunks(stores).keys() == keys
    assert all("rebuilt" not in item for item in stores.items("events"))
    ledgers = [stores.history.ledger("shop", hour) for hour in HOURS]
    assert sum(ledger.rewritten for ledger in ledgers) == 11
    assert sum(ledger.stored for ledger in ledgers) == 11  # as before


def test_what_would_have_expired_is_not_put_back(stores: Stores) -> None:
    before = len(chunks(stores))
    lose(stores)

    rebuilt = rebuilder(stores).rebuild("shop", HOURS, NINE + MAX_AGE_DAYS * DAY_MS + 61 * 60_000)

    assert (rebuilt.written, rebuilt.expired) == (before - 3, 3)
    assert len(chunks(stores)) == before - 3


def test_a_dirty_hour_is_refused_by_name(stores: Stores) -> None:
    stores.hours.note("shop", hour_of(NINE))

    with pytest.raises(NotConsolidated, match="shop 2026-11-20T09 has files that are not consolidated yet"):
        rebuilder(stores).rebuild("shop", HOURS, NOW)


def test_dying_at_any_write_and_running_again_rebuilds_the_same(stores: Stores) -> None:
    before = chunks(stores)
    deaths, died = 0, True
    while died:
        lose(stores)
        client = Mortal(stores.events.client, deaths + 1)
        try:
            rebuilder(stores, client).rebuild("shop", HOURS, NOW)
            died = False
        except Died:
            deaths += 1
            rebuilder(stores).rebuild("shop", HOURS, NOW)
        assert chunks(stores) == before
        assert profiler(stores).user("shop", "ada")["traits"] == {"plan": "pro"}

    assert deaths > len(before)


def test_of_too_many_that_wait_the_oldest_message_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regrouping, "MAX_HELD", 4)
    late = NINE + 100 * DAY_MS
    events = [(late + n % 2, an_event(f"e{n}", n)) for n in range(6)]

    messages = list(messages_of("shop", events))

    found = [(message.received_ms - late, [event["event_id"] for event in message.events]) for message in messages]
    assert found == [(0, ["e0", "e2"]), (0, ["e4"]), (1, ["e1", "e3", "e5"])]


def test_an_event_ahead_of_our_clock_is_of_the_message_that_brought_it() -> None:
    received = parse_ms("2026-11-21T10:00:00Z")
    ahead = [{"event_id": f"e{n}", "occurred_at": received + n * 1000} for n in (-30, 20, 60)]
    other = {"event_id": "o", "occurred_at": received + 40_000}
    events = [(received, ahead[0]), (received, ahead[1]), (received + 50_000, other), (received, ahead[2])]

    messages = {message.received_ms: message.events for message in messages_of("shop", events)}

    assert messages == {received: ahead, received + 50_000: [other]}
