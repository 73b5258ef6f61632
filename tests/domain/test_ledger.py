import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.domain.ledger import Ledger, Receipt, Tally, Totals

steps = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


@given(steps, st.randoms(use_true_random=False))
def test_receipts_that_come_late_twice_or_in_any_order_say_the_same(steps: list[tuple[str, int, int]], random) -> None:  # type: ignore[no-untyped-def]
    tallies = {name: Totals(name) for name in "ab"}
    receipts = [tallies[name].add("p", "h", received=n, quarantined=q) for name, n, q in steps]
    last = Ledger()
    last.note(*receipts)
    shuffled = [*receipts, *random.choices(receipts, k=5)]
    random.shuffle(shuffled)

    shares = [Ledger(stored=1) for _ in range(3)]
    for receipt in shuffled:
        random.choice(shares).note(receipt)
    merged = Ledger()
    for share in shares:
        merged.merge(share)

    assert merged.receipts == last.receipts
    assert merged.balance()["received"] == sum(n for _, n, _ in steps)
    assert merged.balance()["quarantined"] == sum(q for _, _, q in steps)
    assert Ledger.from_json(merged.to_json()) == merged


def test_every_event_received_is_on_the_other_side_or_in_flight() -> None:
    ledger = Ledger(stored=5, rewritten=2, bots=1)
    ledger.note(Receipt("a", received=12, quarantined=1, repeated=1, refused=2))

    assert ledger.balance() == {
        "received": 10,
        "stored": 5,
        "duplicate": 3,
        "quarantined": 1,
        "erased": 0,
        "in_flight": 1,
        "bots": 1,
    }


def test_totals_are_one_request_s_at_a_time_and_are_gone_on_with() -> None:
    tally = Tally("c")
    with tally.borrowed() as first, tally.borrowed() as second:
        first.add("p", "h", received=1)
        second.add("p", "h", received=2)
    with pytest.raises(KeyError), tally.borrowed():
        raise KeyError
    with tally.borrowed() as one, tally.borrowed() as other:
        again = {total.container: total.received for total in (one.add("p", "h"), other.add("p", "h"))}

    assert again == {first.container: 1, second.container: 2}
    assert len(again) == 2


def test_totals_count_projects_and_hours_apart_and_forgets_old_hours() -> None:
    totals = Totals("c")
    totals.add("p", "2026-11-21T01", received=1)
    totals.add("p", "2026-11-21T02", received=2)
    totals.add("q", "2026-11-21T02", received=4)

    assert totals.add("p", "2026-11-21T02", received=8).received == 10
    totals.add("p", "2026-11-21T03", received=1)
    assert sorted(totals.by_hour) == [("p", "2026-11-21T02"), ("p", "2026-11-21T03"), ("q", "2026-11-21T02")]
