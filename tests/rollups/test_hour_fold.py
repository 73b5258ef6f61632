import math
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.base.tallies import Tally
from chalicelib.rollups import hour_fold
from chalicelib.rollups.codec import decode, encode
from chalicelib.rollups.folding import MAX_DIMENSION_LENGTH
from chalicelib.rollups.hour_fold import EventsChanged, HourFold
from chalicelib.rollups.rollups import MAX_DIMENSION_VALUES, OTHER, Rollup, Rollups, RollupSpec
from chalicelib.rollups.sketches import hash_user

SPEC = RollupSpec(("path", "country"), ("ms",))
Event = dict[str, Any]

numbers = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from([0.1, 1e308, -1e308, 5e-324, -0.0, 1e16]))
events = st.builds(
    lambda kind, at, user, path, country, ms: {
        "event_type": kind,
        "occurred_at": at,
        "user_id": user,
        "properties": {"path": path, "ms": ms},
        "enrichment": {"country": country},
    },
    st.sampled_from(["view", "click"]),
    st.integers(0, 3_599_999),
    st.sampled_from(["", "a", "b", "c"]),
    st.one_of(st.none(), st.integers(0, 9), st.sampled_from([f"/{letter}" for letter in "abcdefghij"]), st.just(OTHER)),
    st.sampled_from(["DE", "FR", None]),
    numbers,
)


@contextmanager
def keeping(values: int, share: int = 5_000) -> Iterator[None]:
    """Keep so few values, and fold so few events at a time."""
    with patch.multiple(hour_fold, MAX_DIMENSION_VALUES=values, SHARE_EVENTS=share):
        yield


def fold(items: Sequence[Event], spec: RollupSpec = SPEC, **options: Any) -> Rollups:
    names = options.pop("names", None)
    folding = HourFold(lambda _: spec, **options)
    while True:
        for event in items:
            user = event.get("user_id")
            folding.add(event["event_type"], event, hash_user(user) if user else None)
        if not folding.again():
            return folding.rollups(names)


def views(paths: Iterable[str], user: Callable[[int], str] = str) -> list[Event]:
    return [
        {"event_type": "view", "occurred_at": n, "user_id": user(n), "properties": {"path": path, "ms": n % 7 / 10}}
        for n, path in enumerate(paths)
    ]


@settings(max_examples=60)
@given(st.lists(events, max_size=60), st.integers(1, 6), st.data())
def test_the_same_events_give_the_same_bytes_in_any_order_any_shares_and_any_memory(
    items: list[Event], most_values: int, data: st.DataObject
) -> None:
    with keeping(most_values):
        whole = encode(fold(items))

    shuffled = data.draw(st.permutations(items))
    memory = data.draw(st.sampled_from([0, 5_000, 100_000_000]))
    with keeping(most_values, data.draw(st.integers(1, 70))):
        assert encode(fold(shuffled, max_held_bytes=memory)) == whole


@settings(max_examples=60)
@given(st.lists(events, max_size=80), st.integers(1, 6), st.sampled_from([0, 100_000_000]))
def test_each_value_that_is_kept_has_what_its_events_alone_would_and_none_more_frequent_is_left_out(
    items: list[Event], most_values: int, memory: int
) -> None:
    with keeping(most_values, share=7):
        rollups = decode(encode(fold(items, max_held_bytes=memory)))

    for kind, rollup in rollups.items():
        for name, values in rollup.dimensions.items():
            told: dict[str, list[Event]] = {}
            for event in items:
                value = event["properties"].get(name)
                value = event["enrichment"].get(name) if value is None else value
                if event["event_type"] == kind and value is not None:
                    told.setdefault(str(value), []).append(event)
            ranked = sorted(told.keys() - {OTHER}, key=lambda value: (-len(told[value]), value))
            assert values.keys() - {OTHER} == set(ranked[:most_values])
            assert values.missed == max([len(told[value]) for value in ranked[most_values:]], default=0)
            for value, cell in values.items():
                of = (
                    told[value]
                    if value != OTHER
                    else [e for v, found in told.items() if v not in values or v == OTHER for e in found]
                )
                alone = fold(of)[kind]
                assert (cell.count, cell.users.to_bytes(), cell.measures) == (
                    alone.count,
                    alone.users.to_bytes(),
                    alone.measures,
                )
                assert value == OTHER or values.doubt(value) == 0


def test_a_page_that_comes_after_a_thousand_others_and_thinly_is_counted_exactly() -> None:
    paths = [f"/crawled/{n}" for n in range(1_500)] + [
        f"/thin/{n // 2}" if n % 5 else "/checkout" for n in range(20_000)
    ]
    items = views(paths, user=lambda n: f"u{n % 300}")

    values = fold(items)["view"].dimensions["path"]

    checkout = [event for event in items if event["properties"]["path"] == "/checkout"]
    assert values["/checkout"].count == 4_000 == len(checkout)
    assert values["/checkout"].measures["ms"].total == math.fsum(event["properties"]["ms"] for event in checkout)
    assert (values.doubt("/checkout"), values.doubt("/crawled/9"), values.missed) == (0, 2, 2)
    assert len(values) == MAX_DIMENSION_VALUES + 1
    assert sum(cell.count for cell in values.values()) == len(items)


def test_what_is_held_is_bounded_by_its_objects() -> None:
    rng = random.Random(3)
    items = views((f"/{rng.randrange(6_000)}" for _ in range(8_000)), user=lambda n: f"u{n % 1000}")

    def peak(most: int) -> int:
        tracemalloc.start()
        with keeping(100, share=500):
            fold(items, max_held_bytes=most)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    # What is kept, one share and the tally come on top.
    assert peak(1_000_000) < 2_500_000
    assert peak(10**9) > 5_000_000


def test_with_more_values_than_are_tallied_the_error_is_bounded_and_said() -> None:
    rng = random.Random(5)
    items = [f"/{int(rng.paretovariate(0.7))}" for _ in range(30_000)]
    true = Counter(items)

    with (
        keeping(20, share=500),
        patch.object(hour_fold, "MAX_TALLIED", 400),
        patch("chalicelib.base.tallies.BLOCK", 1),
    ):
        values = fold(views(items), RollupSpec(("path",)), max_held_bytes=0)["view"].dimensions["path"]

    assert len(values) == 21
    assert all(cell.count == true[value] for value, cell in values.items() if value != OTHER)
    left_out = max(count for value, count in true.items() if value not in values)
    assert left_out <= values.missed <= left_out + len(items) // 400
    assert true.most_common(3)[0][0] in values


def test_a_tally_counts_exactly_what_fits_it() -> None:
    tally = Tally(most=100_000)
    rng = random.Random(7)
    true = Counter(f"v{int(rng.paretovariate(0.5))}" for _ in range(200_000))
    for _ in range(3):
        tally.add(true.items())

    most = tally.most_frequent(10)

    ranked = true.most_common()
    last = ranked[9][1]
    assert most.above == {hash(value) for value, count in ranked if count > last}
    assert {hash(value) for value, count in ranked if count == last} == set(most.tied.tolist())
    assert tally.error == 0


def test_types_without_a_name_are_told_apart_by_frequency() -> None:
    items = [{"event_type": f"junk{n}", "occurred_at": n} for n in range(40)]
    items += [{"event_type": "real", "occurred_at": n} for n in range(30)]
    items += [{"event_type": "known", "occurred_at": 1}, {"event_type": "junk7", "occurred_at": 2}]
    asked: list[Sequence[str]] = []

    def names(types: Sequence[str]) -> dict[str, str]:
        asked.append(types)
        return {name: name if name in ("known", *[t for t in types if t != "known"][:2]) else OTHER for name in types}

    for memory in (0, 10**9):
        with keeping(5):
            found = fold(items, RollupSpec(), names=names, is_named=lambda name: name == "known", max_held_bytes=memory)
        assert {name: rollup.count for name, rollup in found.items()} == {"real": 30, "junk7": 2, "known": 1, OTHER: 39}
        assert (found.missed, found.doubt("real"), found.doubt("junk8")) == (1, 0, 1)
        assert found[OTHER].minutes == {0: 39}
    assert [types[:2] for types in asked] == [["real", "junk7"]] * 2
    assert len(asked[0]) == 6  # the five most frequent, and the one that has a name


def test_events_that_are_others_when_read_again_are_no_result() -> None:
    folding = HourFold(lambda _: SPEC, max_held_bytes=0)
    for event in views(f"/{n}" for n in range(1_500)):
        folding.add("view", event, None)

    assert folding.again()
    with pytest.raises(EventsChanged, match="1500 when first read, and 0"):
        folding.again()


def test_long_values_are_one_by_their_first_characters() -> None:
    long = "x" * MAX_DIMENSION_LENGTH

    values = fold(views([long + "a", long + "b", long]))["view"].dimensions["path"]

    assert {value: cell.count for value, cell in values.items()} == {long: 3}


@pytest.mark.parametrize(
    ("users", "buckets", "cells"), [(0, 0, 300), (1, 1, 300), (5, 0, 300), (21, 0, 300), (77, 30, 60), (300, 300, 30)]
)
def test_memory_is_told_by_objects(users: int, buckets: int, cells: int) -> None:
    def build() -> Rollup:
        folding = HourFold(lambda _: RollupSpec(("path",), ("ms",)))
        for n in range(max(users, buckets, 1)):
            for cell in range(cells):
                properties = {"path": f"/{cell:0100}", "ms": 1.03**n if n < buckets else None}
                user = hash_user(f"{cell} {n}") if n < users else None
                folding.add("view", {"occurred_at": n, "properties": properties}, user)
        folding.again()
        return folding.rollups()["view"]

    build()
    tracemalloc.start()
    rollup = build()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert taken <= rollup.weight_bytes() <= 4 * taken
