"""Both sides of the ledger, through collector, processor and aggregator."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, cast

import orjson
import pytest
from botocore.exceptions import EndpointConnectionError

from chalicelib.access.access import Project
from chalicelib.base import waits
from chalicelib.base.errors import Unavailable
from chalicelib.base.time_windows import HOUR_MS
from chalicelib.events.chunks import Parcel, chunks_of, decode_message
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import Admitter, Mode
from chalicelib.ingest import audit
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.audit import Auditor
from chalicelib.ingest.bodies import read_native
from chalicelib.ingest.collect import SWEEP_SECONDS, Collector
from chalicelib.numbers.realtime import Observer
from chalicelib.rollups.codec import encode_document
from chalicelib.rollups.deltas import Delta
from chalicelib.rollups.folding import Folding
from chalicelib.rollups.ledger import Receipt, Tally
from chalicelib.rollups.ledger_table import PARTITIONS, LedgerTable, OpenHour
from chalicelib.rollups.signatures import NOTHING
from tests.stores import RefusingBuffer, Stores, empty_stores, stream_record

DEMO = Project("demo", Mode.INFER)
NINE = 1_795_251_600_000
GOOD = [{"event_type": "click", "event_id": f"e{n}", "timestamp": "2026-11-21T09:00:00Z"} for n in range(3)]


class Down:
    """A store that takes nothing."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> None:
            raise Unavailable("down")

        return refuse


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def collector(stores: Stores, container: str = "c", queue: Any = None, bucket: Any = None) -> Collector:
    admitter = Admitter(Contracts({}), new_id=lambda _: "made")
    stored = queue or stores.buffer, bucket or stores.bucket, stores.ledger
    return Collector(admitter, *stored, Tally(container), stores.erased, stores.flags)


def receive(collector: Collector, *events: Any, at: int = NINE) -> None:
    collector.collect(read_native(orjson.dumps(list(events))), DEMO, at)


def store(stores: Stores, seen: set[str]) -> None:
    """What the queue holds, through the stream; a chunk that was there before is a rewrite."""
    aggregate(stores, stores.messages(), seen)


def aggregate(stores: Stores, texts: list[str], seen: set[str]) -> None:
    """Messages, in the order they are processed in."""
    records: list[dict[str, Any]] = []
    for text in texts:
        for chunk in chunks_of(decode_message(text)):
            name = "MODIFY" if chunk.sort_key in seen else "INSERT"
            seen.add(chunk.sort_key)
            records.append(stream_record(chunk, len(seen) + len(records), name=name))
    if records:
        Aggregator(Contracts({}), stores.rollups, stores.bucket).aggregate(records, NINE)


def balance(stores: Stores) -> dict[str, int]:
    [_, hour] = Observer(Contracts({}), stores.rollups, stores.ledger).observe("demo", NINE)["ledger"]
    assert hour.pop("hour") == "2026-11-21T09"
    found: dict[str, int] = hour
    return found


def test_what_is_received_is_in_flight_until_it_is_stored(stores: Stores) -> None:
    receive(collector(stores), *GOOD)
    before = balance(stores)
    store(stores, set())

    assert (before["received"], before["stored"], before["in_flight"]) == (3, 0, 3)
    assert balance(stores) == {
        "received": 3,
        "stored": 3,
        "duplicate": 0,
        "quarantined": 0,
        "erased": 0,
        "in_flight": 0,
        "surplus": 0,
        "bots": 0,
    }


def test_a_request_that_is_sent_again_is_a_duplicate_also_through_another_container(stores: Stores) -> None:
    seen: set[str] = set()
    receive(collector(stores, "a"), *GOOD)
    receive(collector(stores, "b"), *GOOD, at=NINE + 5)
    store(stores, seen)

    found = balance(stores)
    assert (found["received"], found["stored"], found["duplicate"], found["in_flight"]) == (6, 3, 3, 0)


def test_what_is_rejected_or_repeated_is_accounted_for(stores: Stores) -> None:
    one = collector(stores)
    receive(one, {"event_type": 7})
    alone = balance(stores)
    receive(one, *GOOD, GOOD[0], {"event_type": ""})
    store(stores, set())

    assert (alone["received"], alone["quarantined"]) == (1, 1)
    found = balance(stores)
    assert (found["received"], found["stored"], found["duplicate"], found["quarantined"]) == (6, 3, 1, 2)
    assert found["in_flight"] == 0


def test_what_no_store_took_was_not_received(stores: Stores) -> None:
    with pytest.raises(Unavailable):
        receive(collector(stores, queue=RefusingBuffer(), bucket=Down()), *GOOD)
    one = collector(stores, "d")
    receive(one, GOOD[0])
    store(stores, set())

    found = balance(stores)
    assert (found["received"], found["stored"], found["in_flight"]) == (1, 1, 0)


THREE_USERS = [{**event, "user_id": f"u{n}"} for n, event in enumerate(GOOD)]


class TakingOne:
    """A buffer in which each user's events are a parcel, and which takes the first before something happens to it."""

    by_user = True

    def __init__(self, buffer: Any, happens: type[BaseException] | None = None) -> None:
        self.buffer, self.happens = buffer, happens

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        self.buffer.send(parcels[:1])
        if self.happens:
            raise self.happens
        return parcels[1:]


def test_what_a_store_took_in_part_is_accounted_for_though_nothing_follows(stores: Stores) -> None:
    with pytest.raises(Unavailable):
        receive(collector(stores, queue=TakingOne(stores.buffer), bucket=Down()), *THREE_USERS)
    store(stores, set())

    found = balance(stores)
    assert (found["received"], found["stored"], found["in_flight"]) == (1, 1, 0)


def test_a_container_that_dies_between_two_parcels_leaves_nothing_in_flight(stores: Stores) -> None:
    with pytest.raises(KeyboardInterrupt):
        receive(collector(stores, queue=TakingOne(stores.buffer, KeyboardInterrupt)), *THREE_USERS)
    receive(collector(stores, "d"), *THREE_USERS)
    store(stores, set())

    found = balance(stores)
    assert (found["received"], found["stored"] + found["duplicate"], found["in_flight"]) == (4, 4, 0)


def test_a_process_that_is_killed_between_the_sends_of_two_threads_leaves_nothing_in_flight(stores: Stores) -> None:
    class Meanwhile:
        by_user = False

        def send(self, parcels: list[Parcel]) -> list[Parcel]:
            receive(replace(one, buffer=stores.buffer), GOOD[1])  # another thread's request, which is done in this time
            raise KeyboardInterrupt

    one = collector(stores, queue=Meanwhile())
    with pytest.raises(KeyboardInterrupt):
        receive(one, GOOD[0])
    receive(collector(stores, "d"), GOOD[0])
    store(stores, set())

    found = balance(stores)
    assert (found["received"], found["stored"], found["in_flight"]) == (2, 2, 0)


def test_a_receipt_that_is_put_late_shrinks_nothing(stores: Stores) -> None:
    hour = "2026-11-21T09"
    later = Receipt("c", received=2, refused=1)
    stores.ledger.put("demo", hour, later, 1)
    stores.ledger.put("demo", hour, Receipt("c", received=2), 1)
    assert stores.ledger.receipts("demo", hour, hour) == {hour: [later]}

    stores.ledger.put("demo", hour, later, 2)
    assert stores.ledger.open_hours(2) == [OpenHour("demo", hour, 2, frozenset("c"))]


def test_receipts_are_put_once_a_second_and_the_messages_bring_the_others(stores: Stores) -> None:
    one = collector(stores)
    for n in range(5):
        receive(one, {**GOOD[0], "event_id": f"x{n}"}, at=NINE + n * 100)
    put = stores.ledger.receipts("demo", "2026-11-21T09", "2026-11-21T09")["2026-11-21T09"]
    store(stores, set())

    assert [receipt.received for receipt in put] == [1]
    assert balance(stores)["received"] == 5


def test_the_first_receipt_of_an_hour_is_put_however_soon_it_comes_after_the_last_of_the_one_before(
    stores: Stores,
) -> None:
    one = collector(stores)
    receive(one, GOOD[0], at=NINE + HOUR_MS - 10)
    receive(one, GOOD[1], at=NINE + HOUR_MS)  # and its container dies, and its message is lost

    put = stores.ledger.receipts("demo", "2026-11-21T10", "2026-11-21T10")
    assert [receipt.received for receipt in put["2026-11-21T10"]] == [1]


def test_receipts_that_wait_are_put_with_whatever_request_comes_after_a_second(stores: Stores) -> None:
    one = collector(stores)
    for number, at in enumerate((-1500, -1400, -1300)):
        receive(one, GOOD[number], at=NINE + HOUR_MS + at)

    one.collect(read_native(orjson.dumps(GOOD[:1])), Project("other", Mode.INFER), NINE + HOUR_MS)

    put = stores.ledger.receipts("demo", "2026-11-21T09", "2026-11-21T09")
    assert [receipt.received for receipt in put["2026-11-21T09"]] == [3]
    assert one.puts.waiting == {}


def test_a_receipt_that_could_not_be_put_waits_for_another_request(stores: Stores) -> None:
    class Failing:
        def put(self, *_: object) -> None:
            raise EndpointConnectionError(endpoint_url="nowhere")

    failing = cast("Any", Failing())
    one = collector(stores)
    receive(replace(one, ledger=failing), *GOOD)
    one.collect(read_native(orjson.dumps(GOOD[:1])), Project("other", Mode.INFER), NINE + 500)
    early = stores.ledger.receipts("demo", "2026-11-21T09", "2026-11-21T09")
    one.collect(read_native(orjson.dumps(GOOD[:1])), Project("other", Mode.INFER), NINE + 1000)

    put = stores.ledger.receipts("demo", "2026-11-21T09", "2026-11-21T09")
    assert (early, [receipt.received for receipt in put["2026-11-21T09"]]) == ({}, [3])


def test_a_container_puts_no_more_than_two_receipts_with_a_request_and_each_project_s_once_a_second(
    stores: Stores,
) -> None:
    puts: list[tuple[int, str]] = []

    class Counting:
        def put(self, project: str, *_: object) -> None:
            puts.append((at, project))

    one = replace(collector(stores), ledger=cast("Any", Counting()))
    requests = range(NINE, NINE + 6000, 50)
    for number, at in enumerate(requests):
        project = Project(f"p{number % 7}", Mode.INFER)
        one.collect(read_native(orjson.dumps(GOOD[:1])), project, at)

    assert max(Counter(at for at, _ in puts).values()) <= 2
    for name in {name for _, name in puts}:
        times = [at for at, project in puts if project == name]
        assert all(later - earlier >= 1000 for earlier, later in pairwise(times))
    assert len(puts) >= 7 * 5


def test_receipts_are_spread_over_the_index_and_each_has_one_place_in_it(stores: Stores) -> None:
    for number in range(100):
        for received in (1, 2):
            stores.ledger.put("demo", "2026-11-21T09", Receipt(f"c{number}", received=received), received)

    places = Counter(item["receipts"]["S"] for item in stores.items("rollups"))
    [hour] = stores.ledger.open_hours(0)
    assert (len(hour.containers), hour.received) == (100, 2)
    assert len(places) == len(PARTITIONS)
    assert max(places.values()) < 20


DAY = 86_400
END = NINE // 1000 + 3600


def test_an_hour_stays_in_view_until_it_balances_whoever_looked_when(stores: Stores) -> None:
    receive(collector(stores), *GOOD)
    auditor = Auditor(stores.ledger, stores.history, "test")

    missing = [auditor.audit(END + after, spilled=0)["EventsMissing"] for after in (3 * 3600, DAY, 7 * DAY)]
    store(stores, set())
    balanced = auditor.audit(END + 8 * DAY, spilled=0)

    assert missing == [3, 3, 3]
    assert (balanced["EventsMissing"], balanced["EventsReceived"]) == (0, 0)
    assert stores.ledger.open_hours(0) == []


def test_what_balances_is_in_the_quantities_for_two_hours_and_leaves_the_view_then(stores: Stores) -> None:
    receive(collector(stores), *GOOD)
    store(stores, set())
    auditor = Auditor(stores.ledger, stores.history, "test")

    found = [auditor.audit(END + after, spilled=0)["EventsStored"] for after in (waits.IN_FLIGHT_MS // 1000, 7100)]
    assert (found, len(stores.ledger.open_hours(0))) == ([3, 3], 1)
    assert auditor.audit(END + 7200, spilled=0)["EventsStored"] == 0
    assert stores.ledger.open_hours(0) == []

    receive(collector(stores, "late"), *GOOD, at=NINE + 5)  # as a replay, or a receipt that waited
    assert [hour.hour for hour in stores.ledger.open_hours(0)] == ["2026-11-21T09"]
    assert auditor.audit(END + 7200, spilled=0)["EventsMissing"] == 3


def test_what_is_replayed_into_an_old_hour_is_in_flight_for_a_quarter_of_an_hour(stores: Stores) -> None:
    stores.ledger.put("demo", "2026-11-21T09", Receipt("replay", received=3), END + DAY)
    auditor = Auditor(stores.ledger, stores.history, "test")

    found = [auditor.audit(END + DAY + after, spilled=0)["EventsMissing"] for after in (60, waits.IN_FLIGHT_MS // 1000)]

    assert found == [0, 3]


def test_what_was_dropped_of_erased_users_keeps_no_hour_in_view(stores: Stores) -> None:
    stores.ledger.put("demo", "2026-11-21T09", Receipt("c", received=2), NINE // 1000)
    stores.ledger.put("demo", "2026-11-21T09", Receipt("c", received=2, dropped=((0, 2),)), NINE // 1000, "erased-1")

    found = Auditor(stores.ledger, stores.history, "test").audit(END + DAY, spilled=0)

    assert (found["EventsMissing"], found["EventsSurplus"]) == (0, 0)
    assert stores.ledger.open_hours(0) == []


def test_a_receipt_that_grows_while_the_audit_looks_stays_in_view(stores: Stores) -> None:
    hour = "2026-11-21T09"
    stores.ledger.put("demo", hour, Receipt("c", received=1, quarantined=1), NINE // 1000)
    [found] = stores.ledger.open_hours(0)
    stores.ledger.put("demo", hour, Receipt("c", received=2, quarantined=1), NINE // 1000)

    stores.ledger.take_out(found, [Receipt("c", received=1, quarantined=1)])
    assert len(stores.ledger.open_hours(0)) == 1
    stores.ledger.take_out(found, [Receipt("c", received=2, quarantined=1)])
    assert stores.ledger.open_hours(0) == []


def test_a_run_takes_out_of_view_what_it_has_the_time_for(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_BALANCED", 2)
    for number in range(5):
        receipt = Receipt(f"c{number}", received=1, quarantined=1)
        stores.ledger.put("demo", "2026-11-21T09", receipt, NINE // 1000)
    auditor = Auditor(stores.ledger, stores.history, "test")

    left = []
    for _ in range(3):
        auditor.audit(END + DAY, spilled=0)
        left.append(sum(len(hour.containers) for hour in stores.ledger.open_hours(0)))

    assert left == [3, 1, 0]


def test_what_older_versions_put_is_audited_for_two_hours(stores: Stores) -> None:
    stores.ledger.put("demo", "2026-11-21T09", Receipt("c", received=1), NINE // 1000)
    [item] = stores.items("rollups")
    stores.rollups.client.put_item(TableName="rollups", Item={**item, "receipts": {"S": "all"}})

    assert len(stores.ledger.open_hours(NINE // 1000)) == 1
    assert stores.ledger.open_hours(NINE // 1000 + 1) == []


def test_an_hour_that_does_not_balance_is_missing_events_once_it_should(stores: Stores) -> None:
    receive(collector(stores), *GOOD)
    auditor = Auditor(stores.ledger, stores.history, "test")
    end = NINE // 1000 + 3600

    during = auditor.audit(end - 1, spilled=0)
    after = auditor.audit(end + waits.IN_FLIGHT_MS // 1000, spilled=2)

    assert (during["EventsInFlight"], during["EventsMissing"]) == (3, 0)
    assert (after["EventsInFlight"], after["EventsMissing"], after["MessagesSpilled"]) == (3, 3, 2)


def test_a_message_delivered_again_after_its_repetition_counts_once_and_hides_nothing_missing(stores: Stores) -> None:
    one = collector(stores)
    receive(one, *GOOD)
    receive(one, *GOOD, at=NINE + 5)
    seen: set[str] = set()
    texts = stores.messages()
    receive(one, *[{**event, "event_id": f"lost-{event['event_id']}"} for event in GOOD], at=NINE + 2000)
    aggregate(stores, [*texts, texts[0], texts[1], texts[0]], seen)

    found = balance(stores)
    values = Auditor(stores.ledger, stores.history, "test").audit(
        NINE // 1000 + 3600 + waits.IN_FLIGHT_MS // 1000, spilled=0
    )

    assert (found["received"], found["stored"], found["duplicate"], found["in_flight"]) == (9, 3, 3, 3)
    assert (values["EventsSurplus"], values["EventsMissing"]) == (0, 3)


def test_a_surplus_of_one_hour_hides_nothing_missing_in_another(stores: Stores) -> None:
    stores.ledger.put("demo", "2026-11-21T09", Receipt("c", received=1), NINE // 1000)
    stores.ledger.put("demo", "2026-11-21T08", Receipt("c", received=3), NINE // 1000)
    folding = Folding()
    folding.ledger.take(Receipt("c", received=1), None, 4, again=False)
    delta = Delta("demo", "2026-11-21T09", 1, "r1", 1, 1, NOTHING, NINE // 1000, encode_document(folding.document()))
    stores.rollups.put_delta(delta)

    values = Auditor(stores.ledger, stores.history, "test").audit(
        NINE // 1000 + 3600 + waits.IN_FLIGHT_MS // 1000, spilled=0
    )

    assert (values["EventsSurplus"], values["EventsMissing"]) == (3, 3)


def test_one_event_that_is_lost_and_one_that_is_counted_twice_both_show_until_either_is_over(stores: Stores) -> None:
    receive(collector(stores), *[{**event, "user_id": f"u{number}"} for number, event in enumerate(GOOD)])
    chunks = [chunk for text in stores.messages() for chunk in chunks_of(decode_message(text))]
    aggregator = Aggregator(Contracts({}), stores.rollups, stores.bucket)
    for number, chunk in ((0, chunks[0]), (1, chunks[1]), (2, chunks[1])):  # the last is lost
        aggregator.aggregate([stream_record(chunk, number)], 1)
    auditor = Auditor(stores.ledger, stores.history, "test")

    shown = [auditor.audit(END + after, spilled=0) for after in (waits.IN_FLIGHT_MS // 1000, 47 * 3600, 49 * 3600)]
    aggregator.aggregate([stream_record(chunks[2], 3)], 1)
    after = auditor.audit(END + 49 * 3600, spilled=0)

    terms = ("EventsReceived", "EventsStored", "EventsDuplicate", "EventsInFlight")
    assert [shown[0][name] for name in terms] == [3, 2, 0, 1]
    assert [(values["EventsMissing"], values["EventsSurplus"]) for values in shown] == [(1, 1), (1, 1), (1, 0)]
    assert (after["EventsMissing"], after["EventsSurplus"]) == (0, 0)
    assert stores.ledger.open_hours(0) == []


def test_a_request_that_was_refused_and_yet_arrives_hides_no_other_that_is_lost(stores: Stores) -> None:
    class Taking:
        """A buffer and a spill whose answers are lost."""

        by_user = False

        def send(self, parcels: list[Parcel]) -> list[Parcel]:
            stores.buffer.send(parcels)
            return parcels

        def put(self, *_: object) -> None:
            raise Unavailable("down")

    one, taking = collector(stores), cast("Any", Taking())
    receive(one, *[{**event, "event_id": f"lost-{event['event_id']}"} for event in GOOD])
    stores.messages()
    with pytest.raises(Unavailable):
        receive(replace(one, **dict.fromkeys(("buffer", "bucket"), taking)), *GOOD, at=NINE + 5)
    receive(one, *GOOD, at=NINE + 10)
    store(stores, set())

    found = balance(stores)
    assert (found["received"], found["stored"], found["duplicate"], found["in_flight"]) == (9, 3, 3, 3)


def test_a_sweep_ends_in_time_for_the_audit_and_counts_what_it_did_not_try(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(5):
        stores.bucket.put(f"spill/demo/{n}", b"\xff" if n == 0 else b" text")
    seconds = iter(range(0, 1000, SWEEP_SECONDS // 2))  # by a clock that shows half of the time each time it is read
    slow = replace(collector(stores, queue=RefusingBuffer()), clock=lambda: next(seconds))
    quick = replace(collector(stores), clock=lambda: 0)

    assert slow.sweep(datetime(2100, 1, 1, tzinfo=UTC)) == 5
    assert len(caplog.messages) == 1  # of the one that was tried
    assert quick.sweep(datetime(2100, 1, 1, tzinfo=UTC)) == 1
    assert stores.objects("spill/") == ["spill/demo/0"]  # no text of ours, which costs the others nothing


def test_a_swept_message_leaves_the_spill_and_is_on_the_queue(stores: Stores) -> None:
    receive(collector(stores, queue=RefusingBuffer()), *GOOD)
    long_after = datetime(2100, 1, 1, tzinfo=UTC)

    young = collector(stores).sweep(datetime(2020, 1, 1, tzinfo=UTC))
    assert (young, len(stores.objects("spill/"))) == (0, 1)
    assert collector(stores, queue=RefusingBuffer()).sweep(long_after) == 1
    assert collector(stores).sweep(long_after) == 0

    assert stores.objects("spill/") == []
    assert len(stores.messages()) == 1


def test_what_is_received_and_stored_while_the_audit_reads_is_not_missing(stores: Stores) -> None:
    receive(collector(stores), *GOOD)

    class Meanwhile(LedgerTable):
        __slots__ = ()

        def receipts(self, *asked: str) -> dict[str, list[Receipt]]:
            found = super().receipts(*asked)
            store(stores, set())
            return found

    table = Meanwhile(stores.ledger.client, stores.ledger.name)
    values = Auditor(table, stores.history, "test").audit(NINE // 1000 + 3600 + waits.IN_FLIGHT_MS // 1000, spilled=0)

    assert (values["EventsStored"], values["EventsMissing"]) == (3, 0)
