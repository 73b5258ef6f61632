from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.rollups.codec import decode
from chalicelib.rollups.rollups import OTHER, RollupSpec
from chalicelib.rollups.rollups_table import RollupsTable
from chalicelib.rollups.signatures import slot_of
from tests.stores import Stores, empty_stores, stream_record

NINE = 1_795_251_600_000
HOUR = "2026-11-21T09"


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def aggregator(stores: Stores) -> Aggregator:
    return Aggregator(Contracts({}), stores.rollups, stores.bucket)


def records(project: str, *occurred: int, first: int = 0) -> list[dict[str, Any]]:
    events = [{"event_id": f"e{at}", "event_type": "click", "user_id": f"u{at}", "occurred_at": at} for at in occurred]
    return [stream_record(chunk, first + n) for n, chunk in enumerate(chunks_of(Message(project, NINE, events)))]


def count(stores: Stores, project: str, hour: str = HOUR) -> int:
    return sum(rollup.count for rollup in stores.rollups.read_hour(project, hour).total().values())


def test_late_and_out_of_order_events_count_in_the_hour_they_occurred_in(stores: Stores) -> None:
    aggregator(stores).aggregate(records("demo", NINE + 1, NINE - 50 * 3_600_000, NINE), now_ms=1000)

    assert count(stores, "demo") == 2
    assert count(stores, "demo", "2026-11-19T07") == 1
    assert list(stores.rollups.read_live("demo", "2026-11-01T00", HOUR)) == ["2026-11-19T07", HOUR]


def test_a_rewritten_chunk_counts_nothing(stores: Stores) -> None:
    [record] = records("demo", NINE)

    aggregator(stores).aggregate([record, {**record, "eventName": "MODIFY", "eventID": "x"}], now_ms=1000)
    aggregator(stores).aggregate([{**record, "eventName": "REMOVE"}], now_ms=1000)

    assert count(stores, "demo") == 1


def test_a_bot_is_in_the_ledger_and_in_no_metric(stores: Stores) -> None:
    [person, bot] = [
        {
            "event_id": f"e{n}",
            "event_type": "click",
            "user_id": f"u{n}",
            "occurred_at": NINE,
            "enrichment": {"bot": True},
        }
        for n in range(2)
    ]
    person["enrichment"] = {"browser": "Firefox"}
    chunks = chunks_of(Message("demo", NINE, [person, bot]))

    aggregator(stores).aggregate([stream_record(chunk, n) for n, chunk in enumerate(chunks)], now_ms=1000)

    total = stores.rollups.read_hour("demo", HOUR).total()
    assert count(stores, "demo") == 1
    assert (total.ledger.stored, total.ledger.bots) == (2, 1)


def test_a_dimension_that_the_client_does_not_send_comes_from_the_enrichment(stores: Stores) -> None:
    spec = RollupSpec(dimensions=("country", "device"))
    contracts = Contracts({"click": Contract("click", "1-0-0", "clicks", spec)})
    event = {
        "event_id": "e",
        "event_type": "click",
        "occurred_at": NINE,
        "properties": {"country": "FR"},
        "enrichment": {"country": "DE", "device": "mobile"},
    }
    [chunk] = chunks_of(Message("demo", NINE, [event]))

    Aggregator(contracts, stores.rollups, stores.bucket).aggregate([stream_record(chunk, 1)], now_ms=1000)

    dimensions = stores.rollups.read_hour("demo", HOUR).total()["click"].dimensions
    assert {name: list(values) for name, values in dimensions.items()} == {"country": ["FR"], "device": ["mobile"]}


def test_projects_are_counted_apart(stores: Stores) -> None:
    aggregator(stores).aggregate(records("demo", NINE) + records("other", NINE, NINE + 1, first=5), now_ms=1000)

    assert (count(stores, "demo"), count(stores, "other")) == (1, 2)


def test_an_unreadable_record_is_kept_and_does_not_block_its_shard(stores: Stores) -> None:
    good = records("demo", NINE)
    broken = {
        "eventID": "bad",
        "eventName": "INSERT",
        "dynamodb": {"SequenceNumber": "1", "NewImage": {"pk": {"S": "x"}}},
    }

    for _ in range(2):
        aggregator(stores).aggregate([broken, *good], now_ms=1000)

    assert count(stores, "demo") == 1
    assert stores.objects() == ["quarantine/unreadable/bad"]


def test_the_types_and_users_of_a_project_are_known(stores: Stores) -> None:
    aggregator(stores).aggregate(records("demo", NINE, NINE + 1), now_ms=1000)

    assert stores.rollups.event_types("demo") == ["click"]
    assert stores.rollups.read_hour("demo", HOUR).total()["click"].users.estimate() == 2


def test_made_up_types_are_bounded_and_never_those_of_contracts(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chalicelib.rollups.known_types.MAX_MADE_UP_TYPES", 6)  # half of them while hours are live
    contract = Contract("purchase", "1-0-0", "purchases", RollupSpec())
    types = [*(f"junk{i}" for i in range(6)), "purchase"]
    events = [{"event_id": f"e{i}", "event_type": t, "user_id": "u", "occurred_at": NINE} for i, t in enumerate(types)]
    batch = [stream_record(chunk, 1) for chunk in chunks_of(Message("demo", NINE, events))]

    for _ in range(2):  # a container of its own each time
        table = RollupsTable(stores.rollups.client, "rollups")
        Aggregator(Contracts({"purchase": contract}), table, stores.bucket).aggregate(batch, now_ms=1000)

    total = stores.rollups.read_hour("demo", HOUR).total()
    assert total["purchase"].count == 1
    assert total[OTHER].count == 3
    assert len(stores.rollups.event_types("demo")) == 4


def test_a_type_may_come_from_another_thread_while_those_known_are_counted(stores: Stores) -> None:
    class Meanwhile(dict[str, Any]):
        def __contains__(self, name: object) -> bool:
            stores.rollups.known_types["demo"].since["of_the_other_thread"] = ""
            return False

    stores.rollups.note_types("demo", ["a", "b"], {})

    assert stores.rollups.note_types("demo", ["c"], Meanwhile()) == {"c": "c"}


def batch(*types: str, at: int = NINE) -> list[dict[str, Any]]:
    events = [{"event_id": f"e{i}", "event_type": t, "user_id": "u", "occurred_at": at} for i, t in enumerate(types)]
    return [stream_record(chunk, 1) for chunk in chunks_of(Message("demo", NINE, events))]


def test_a_place_goes_to_the_types_that_are_frequent_in_the_batch_not_to_the_first(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chalicelib.rollups.known_types.MAX_MADE_UP_TYPES", 4)

    aggregator(stores).aggregate(batch("a", "b", "c", "real", "real", "d", "real"), 1000)

    total = stores.rollups.read_hour("demo", HOUR).total()
    assert {name: rollup.count for name, rollup in total.items()} == {"real": 3, "a": 1, OTHER: 3}
    assert (total.doubt("real"), total.doubt("b")) == (0, 1)


def test_a_type_that_comes_after_thousands_is_named_from_the_first_closed_hour_in_which_it_is_frequent(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chalicelib.rollups.known_types.MAX_MADE_UP_TYPES", 20)
    now = [0.0]
    closer, other = (RollupsTable(stores.rollups.client, "rollups", clock=lambda: now[0]) for _ in range(2))
    junk = [f"junk{n}" for n in range(50)]
    for table in (other, closer):
        assert list(table.note_types("demo", junk, {}).values()).count(OTHER) == 40
    eight = "2026-11-21T08"

    assert other.note_types("demo", ["real"], {}) == {"real": OTHER}
    named = closer.note_types("demo", ["real", *junk], {}, hour=eight, closing=True)

    assert (named["real"], list(named.values()).count(OTHER)) == ("real", 40)  # a tenth of ten places
    assert closer.note_types("demo", ["real"], {}, hour="2026-11-21T07") == {"real": OTHER}  # as it was closed
    assert closer.note_types("demo", ["real"], {}, hour=HOUR) == {"real": "real"}
    assert other.note_types("demo", ["real"], {}, hour=HOUR) == {"real": OTHER}  # until it looks again
    now[0] = 61.0
    assert other.note_types("demo", ["real"], {}, hour=HOUR) == {"real": "real"}
    assert len(stores.rollups.event_types("demo")) == 11


def test_a_name_that_two_give_at_once_is_given_once(stores: Stores) -> None:
    one, two = (RollupsTable(stores.rollups.client, "rollups", clock=lambda: 0) for _ in range(2))
    assert (one.event_types("demo"), two.note_types("demo", [], {})) == ([], {})

    one.note_types("demo", ["real"], {})
    two.note_types("demo", ["real"], {}, hour=HOUR, closing=True)

    assert two.note_types("demo", ["real"], {}, hour="2026-11-21T07") == {"real": "real"}


def test_a_type_is_named_in_older_hours_that_are_closed_later_as_long_as_no_hour_went_without(stores: Stores) -> None:
    """Ranges of an import are stored side by side: the later days may well come first."""
    first, second = (RollupsTable(stores.rollups.client, "rollups", clock=lambda: 0) for _ in range(2))

    first.note_types("demo", ["real"], {}, hour=HOUR, closing=True)

    assert second.note_types("demo", ["real"], {}, hour="2026-10-01T07", closing=True) == {"real": "real"}


def test_each_slot_of_a_batch_has_a_delta_of_its_own(stores: Stores) -> None:
    """A batch that spans five past ten; what it holds is compared slot by slot when the hour is closed."""
    one, other = records("demo", NINE, NINE + 1)
    created = int(one["dynamodb"]["ApproximateCreationDateTime"])
    other["dynamodb"]["ApproximateCreationDateTime"] = created + 3600

    aggregator(stores).aggregate([one, other], now_ms=1000)

    deltas = sorted(stores.rollups.deltas_of("demo", HOUR), key=lambda delta: delta.slot)
    assert [delta.slot for delta in deltas] == [slot_of(one), slot_of(one) + 1]
    assert [delta.signature.rows for delta in deltas] == [1, 1]
    # Its rows as well, also of a type that both have: closing hides those of one slot and not those of the next.
    assert [decode(delta.body)["click"].count for delta in deltas] == [1, 1]
