"""The aggregator and the compactor, killed before each of their writes in turn, and so after: no answer changes."""

from typing import Any

import pytest

from chalicelib.base import waits
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.time_windows import HOUR_MS, parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.hours import compact
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.ledger import Receipt
from chalicelib.rollups.rollups import RollupSpec
from chalicelib.rollups.rollups_table import RollupsTable
from tests.mortal import Died, Mortal
from tests.stores import Stores, empty_stores, stream_record

NINE = parse_ms("2026-11-20T09:00:00Z")
START = NINE // 1000
HOURS = ("2026-11-20T09", "2026-11-20T10")
CONTRACTS = Contracts({"sale": Contract("sale", "1-0-0", "sales", RollupSpec(("country",), ("amount",)))})
QUESTIONS: tuple[dict[str, str], ...] = (
    {"metric": "events", "group_by": "event_type"},
    {"agg": "users"},
    {"group_by": "country", "agg": "sum", "measure": "amount"},
)
UNREADABLE = 2  # the number of the record that nobody can read


def records(first: int, end: int) -> list[dict[str, Any]]:
    """New chunks of the stream, of two hours."""
    found = []
    for number in range(first, end):
        event = {
            "event_id": f"e{number}",
            "event_type": "sale" if number % 3 else "made_up",
            "occurred_at": NINE + number % 2 * HOUR_MS + number * 1000,
            "user_id": f"u{number % 4}",
            "properties": {"country": ("DE", "FR", "IT")[number % 3], "amount": number},
        }
        message = Message("shop", NINE, [event], Receipt("c", received=number + 1))
        found += [stream_record(chunk, number) for chunk in chunks_of(message)]
        if number == UNREADABLE:
            found[-1]["dynamodb"]["NewImage"]["body"] = {"B": "AAAA"}
    return found


def answers(stores: Stores) -> list[Any]:
    """What readers are told, and what nobody could read."""
    analytics = Analytics(CONTRACTS, stores.history)
    days = {"metric": "sales", "start": "2026-11-20", "end": "2026-11-20"}
    numbers = [analytics.answer("shop", read_question(days | question), NINE) for question in QUESTIONS]
    return [*numbers, *(stores.history.ledger("shop", hour) for hour in HOURS), stores.objects("quarantine/")]


def aggregator(stores: Stores, *clients: Any) -> Aggregator:
    dynamodb, s3 = clients or (stores.rollups.client, stores.bucket.client)
    return Aggregator(CONTRACTS, RollupsTable(dynamodb, "rollups"), DataBucket(s3, "data"))


def mortal(stores: Stores, dies_at: int) -> Aggregator:
    """One whose process dies at that write, to the table or the bucket."""
    life: list[str] = []
    both = (stores.rollups.client, stores.bucket.client)
    return aggregator(stores, *(Mortal(client, dies_at, life=life) for client in both))


def compactor(client: Any) -> Compactor:
    return Compactor(RollupsTable(client, "rollups"), HoursTable(client, "rollups"), workers=1)


def expected(batch: list[dict[str, Any]]) -> list[Any]:
    """The answers where nothing dies."""
    with empty_stores() as stores:
        aggregator(stores).aggregate(batch, START * 1000)
        return answers(stores)


def test_an_aggregator_killed_at_any_write_counts_its_batch_once_when_it_comes_again() -> None:
    right, right_grown = expected(records(0, 7)), expected(records(0, 9))

    deaths, died = 0, True
    while died:
        with empty_stores() as stores:
            try:
                mortal(stores, deaths + 1).aggregate(records(0, 7), START * 1000)
                died = False
            except Died:
                deaths += 1
            aggregator(stores).aggregate(records(0, 7), (START + 1) * 1000)
            assert answers(stores) == right
            aggregator(stores).aggregate(records(0, 9), (START + 2) * 1000)  # a batch that comes again may have grown
            assert answers(stores) == right_grown

    assert deaths == 5  # two types, what nobody can read, and the deltas of two hours


def test_an_aggregator_killed_after_its_deltas_were_absorbed_adds_only_what_is_new() -> None:
    right = expected(records(0, 9))

    deaths, died = 0, True
    while died:
        with empty_stores() as stores:
            aggregator(stores).aggregate(records(0, 7), START * 1000)
            compactor(stores.rollups.client).compact(START + waits.MERGE_MS // 1000 + 1)
            try:
                mortal(stores, deaths + 1).aggregate(records(0, 9), (START + 300) * 1000)
                died = False
            except Died:
                deaths += 1
            aggregator(stores).aggregate(records(0, 9), (START + 301) * 1000)
            assert answers(stores) == right

    assert deaths >= 5  # more than without tombstones: a put that meets one is followed by another


def test_a_compactor_killed_at_any_write_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "MIN_FOLD", 2)
    late = START + waits.FOLD_MS // 1000 + 600
    right = expected(records(0, 9))

    deaths, died = 0, True
    while died:
        with empty_stores() as stores:
            for number in range(2):  # two merged items of each hour to fold, and a delta of each to merge
                aggregator(stores).aggregate(records(number * 3, number * 3 + 3), (START + number * 120) * 1000)
                compactor(stores.rollups.client).compact(START + number * 120 + waits.MERGE_MS // 1000 + 1)
            aggregator(stores).aggregate(records(6, 9), (late - waits.MERGE_MS // 1000 - 1) * 1000)

            def look(stores: Stores = stores) -> None:
                assert answers(stores) == right

            try:
                compactor(Mortal(stores.rollups.client, deaths + 1, look=look)).compact(late)
                died = False
            except Died:
                deaths += 1
            look()
            compactor(stores.rollups.client).compact(late)
            look()
            assert list(stores.rollups.old_deltas(late)) == []

    assert deaths == 4  # of each hour: merged, folded
