import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.rollups import ledger as module
from chalicelib.rollups.ledger import Ledger, Receipt, Tally, Totals

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
        "surplus": 0,
        "bots": 1,
    }


def test_a_chunk_that_comes_again_and_again_is_a_duplicate_once() -> None:
    ledger = Ledger()
    ledger.take(Receipt("a", received=5), 2, 3, again=False)
    for _ in range(3):
        ledger.take(Receipt("b", received=3), 0, 3, again=True)
        ledger.take(Receipt("a", received=5), 2, 3, again=True)  # a redelivery, after another had rewritten the chunk
        ledger = Ledger.from_json(ledger.to_json())

    found = ledger.balance()
    assert (found["stored"], found["duplicate"], found["in_flight"], found["surplus"]) == (3, 3, 2, 0)


def test_what_is_counted_twice_is_a_surplus_and_fills_no_gap_of_its_own_container() -> None:
    ledger = Ledger()
    ledger.take(Receipt("a", received=5), 2, 3, again=False)
    twice = Ledger.from_json(ledger.to_json())
    ledger.merge(twice)

    found = Ledger.from_json(ledger.to_json()).balance()
    assert (found["received"], found["stored"], found["duplicate"]) == (5, 3, 0)
    assert (found["in_flight"], found["surplus"]) == (2, 3)


def test_a_surplus_of_one_container_hides_nothing_that_another_lacks() -> None:
    ledger = Ledger()
    ledger.take(Receipt("old", received=3), None, 3, again=False)  # as older versions wrote chunks: without positions
    ledger.take(Receipt("old", received=3), None, 3, again=True)
    ledger.note(Receipt("new", received=3))

    found = ledger.balance()
    assert (found["received"], found["in_flight"], found["surplus"]) == (6, 3, 3)


def test_what_was_refused_and_taken_all_the_same_makes_up_for_nothing_else() -> None:
    ledger = Ledger()
    ledger.note(Receipt("a", received=7, quarantined=1, refused=3, attempted=3))
    ledger.take(Receipt("a", received=7, quarantined=1), 4, 3, again=False)

    found = ledger.balance()
    assert (found["received"], found["stored"], found["in_flight"], found["surplus"]) == (7, 3, 3, 0)


def test_what_was_dropped_of_an_erased_user_after_it_was_stored_counts_as_stored() -> None:
    ledger = Ledger()
    ledger.take(Receipt("a", received=4), 0, 3, again=False)
    ledger.note(Receipt.from_text(str(Receipt("a", received=4, dropped=((1, 2), (3, 4))))))

    found = ledger.balance()
    assert (found["stored"], found["erased"], found["in_flight"], found["surplus"]) == (3, 1, 0, 0)
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_what_older_versions_wrote_is_read() -> None:
    ledger = Ledger.from_json([5, 2, 1, "a:9:1:0:0", "erased-77:0:0:0:0:2"])
    ledger.take(Receipt.from_text("a:10:1:0:0"), 9, 1, again=False)

    assert ledger.balance() == {
        "received": 10,
        "stored": 6,
        "duplicate": 2,
        "quarantined": 1,
        "erased": 2,
        "in_flight": 0,
        "surplus": 1,
        "bots": 1,
    }
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_beyond_the_bound_numbers_stay_exact_and_what_comes_again_is_a_surplus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SPANS", 10)
    ledger = Ledger()
    for number in range(20):
        ledger.take(Receipt("many", received=100), 2 * number, 1, again=False)
        ledger.take(Receipt("many", received=100), 2 * number, 1, again=True)
    ledger.take(Receipt("few", received=7), 0, 5, again=False)
    before = ledger.balance()

    kept = Ledger.from_json(ledger.to_json())
    assert kept.balance() == before
    assert len(str(kept.to_json())) < 100
    kept.take(Receipt("few", received=7), 0, 5, again=True)
    assert kept.balance() == before
    for number in range(50):
        kept.take(Receipt("many", received=100), 2 * number, 2, again=True)
    after = kept.balance()
    assert (before["in_flight"], before["surplus"]) == (82, 0)
    assert (after["in_flight"], after["surplus"]) == (
        2,
        20,
    )  # of the one container what it lacks, of the other too many


def test_totals_after_a_refusal_have_another_name_so_that_the_refused_are_the_last_of_theirs() -> None:
    totals = Totals("c")
    totals.add("p", "h", received=3)
    refused = totals.add("p", "h", refused=2, attempted=3)
    after = totals.add("p", "h", received=1)

    assert (refused.container, refused.received, refused.refused, refused.attempted) == ("c", 3, 2, 3)
    assert after == Receipt("c.1", received=1)
    assert totals.add("q", "h", received=1) == Receipt("c.1", received=1)


def test_an_hour_that_is_counted_in_again_after_it_was_forgotten_has_another_name() -> None:
    totals = Totals("c")
    first = [totals.add("p", f"2026-11-21T0{hour}", received=1) for hour in range(1, 5)]

    again = totals.add("p", "2026-11-21T01", received=1)

    assert (again.container, first[0].container) == ("c.2", "c")


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
