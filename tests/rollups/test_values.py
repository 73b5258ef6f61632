"""Values of dimensions, and types, that do not all fit: what is told of them, and what may be missing."""

from collections import Counter
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from chalicelib.rollups import codec as rollup_codec
from chalicelib.rollups import folding, rollups
from chalicelib.rollups.codec import MAX_ITEM_BYTES, decode, encode, encode_document
from chalicelib.rollups.differences import unequal
from chalicelib.rollups.facets import all_types, content_of
from chalicelib.rollups.folding import NOBODY, Folding
from chalicelib.rollups.rollups import (
    MAX_DIMENSION_VALUES,
    OTHER,
    Cell,
    Measure,
    Rollup,
    Rollups,
    RollupSpec,
    Values,
    merge_all,
)
from chalicelib.rollups.sketches import NO_FLOOR, Uniques, bucket_of, hash_user

SPEC = RollupSpec(("path",), ("ms",))
MS = (0.0, 1e16, -0.0, 0.1, 1e308)

counts = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 9), max_size=10)


def delta(paths: list[Any], ms: float | None = None) -> bytes:
    """A delta of one view of each path."""
    share = Folding()
    for n, path in enumerate(paths):
        event = {"occurred_at": n, "properties": {"path": path, "ms": ms}}
        share.add("view", event, share.user(hash_user(str(n % 50))), SPEC)
    return encode_document(share.document())


def share_of(true: dict[str, int], most_values: int) -> Values:
    values = Values({value: Cell(count) for value, count in true.items()})
    values.bound(most_values)
    return values


def told(values: Values) -> dict[str, tuple[int, int]]:
    return {value: (cell.count, values.doubt(value)) for value, cell in values.items() if value != OTHER}


def test_of_a_delta_the_most_frequent_values_are_kept_whichever_came_first() -> None:
    paths = [f"/crawled/{n}" for n in range(1_000)] + ["/checkout"] * 4_000 + ["/about"] * 2

    values = decode(delta(paths))["view"].dimensions["path"]

    assert values["/checkout"].count == 4_000
    assert len(values) == MAX_DIMENSION_VALUES + 1
    assert (values[OTHER].count, values.missed) == (2, 1)
    assert (values.doubt("/about"), values.doubt("/crawled/999")) == (0, 1)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([None, "/", "/a", "/b", "/c", 1, 0.5, "x" * 200, OTHER]), max_size=30), st.randoms())
def test_a_share_gives_the_same_bytes_in_any_order(paths: list[Any], rng: Any) -> None:
    items = [
        ({"occurred_at": n * 1_000, "properties": {"path": path, "ms": MS[n % 5]}}, str(n % 3))
        for n, path in enumerate(paths)
    ]

    def bytes_of(events: list[Any]) -> bytes:
        share = Folding()
        for event, user in events:
            share.add("view", event, share.user(hash_user(user)), SPEC)
        return encode_document(share.document())

    with patch.object(folding, "MAX_DIMENSION_VALUES", 2):
        whole = bytes_of(items)
        rng.shuffle(items)
        assert bytes_of(items) == whole


def test_what_a_large_delta_is_reduced_to_does_not_depend_on_the_order_of_its_events() -> None:
    users = [f"u{n}" for n in range(4_000)]
    items = [(f"/{n % 700}", user) for n, user in enumerate(users * 8)]

    def bytes_of(events: list[tuple[str, str]]) -> bytes:
        share = Folding()
        for path, user in events:
            share.add("view", {"occurred_at": 0, "properties": {"path": path}}, share.user(hash_user(user)), SPEC)
        return encode_document(share.document())

    data = bytes_of(items)

    assert bytes_of(items[::-1]) == data == bytes_of(sorted(items))
    assert len(data) <= MAX_ITEM_BYTES


@settings(max_examples=100)
@given(st.lists(st.tuples(counts, st.integers(0, 5)), min_size=3, max_size=6))
def test_a_true_count_lies_between_what_is_told_and_that_with_its_doubt(
    shares: list[tuple[dict[str, int], int]],
) -> None:
    true = Counter[str]()
    merged = Values()
    for counted, most_values in shares:
        true.update(counted)
        merged.merge(share_of(counted, most_values))
        merged.bound(most_values + 3)

    for value in "abcdefghij":
        count = merged[value].count if value in merged else 0
        assert count <= true[value] <= count + merged.doubt(value)
        assert merged.doubt(value) <= merged.missed
    assert sum(cell.count for cell in merged.values()) == true.total()


@settings(max_examples=100)
@given(st.lists(st.tuples(counts, st.integers(0, 5)), min_size=3, max_size=3))
def test_merging_is_associative_and_commutative_doubt_included(shares: list[tuple[dict[str, int], int]]) -> None:
    def merged(*parts: Values) -> Values:
        whole = Values()
        for part in parts:
            whole.merge(part)
        return whole

    a, b, c = (share_of(*share) for share in shares)

    assert told(merged(a, b, c)) == told(merged(merged(c, b), a)) == told(merged(b, merged(a, c)))
    assert merged(a, b, c).missed == merged(merged(c, b), a).missed == a.missed + b.missed + c.missed


def test_what_every_share_names_is_beyond_doubt_and_what_none_does_may_be_missing_in_each() -> None:
    shares = [share_of({"a": 9, "b": 5 + n, "c": 3, f"x{n}": 4}, 3) for n in range(2)]

    merged = Values()
    for share in shares:
        merged.merge(share)

    assert [merged.doubt(value) for value in ("a", "b", "x0", "c")] == [0, 0, 3, 6]
    types = merge_all(
        Rollups({name: Rollup(5, cleared=missed)}, missed=missed) for name, missed in (("view", 2), ("click", 3))
    )
    assert [types.doubt(name) for name in ("view", "click", "buy")] == [3, 2, 5]


@pytest.mark.parametrize("order", [1, -1])
def test_of_equally_frequent_values_the_first_by_name_are_kept(order: int) -> None:
    cells = [(value, Cell(2)) for value in "abcdef"][::order]
    values = Values(cells)
    values.bound(4)

    types = Rollups({name: Rollup(2) for name, _ in cells})
    types.bound(4)

    assert values.keys() == types.keys() == {*"abcd", OTHER}


@settings(max_examples=60)
@given(st.lists(st.tuples(counts, st.integers(0, 5)), min_size=1, max_size=4))
def test_what_may_be_missing_survives_being_bytes(shares: list[tuple[dict[str, int], int]]) -> None:
    values = Values()
    for share in shares:
        values.merge(share_of(*share))
    whole = Rollups({"view": Rollup(1, dimensions={"path": values}), "click": Rollup(2, cleared=3)}, missed=5)

    again = decode(encode(whole))

    assert told(again["view"].dimensions["path"]) == told(values)
    assert again["view"].dimensions["path"].missed == values.missed
    assert [again.doubt(name) for name in ("view", "click", "buy")] == [5, 2, 5]
    assert encode(again) == encode(whole)
    for facet in ("n|path", "u|path", "q:ms|path"):
        part = content_of(again["view"], facet).dimensions.get("path", Values())
        assert [part.doubt(value) for value in values] == [values.doubt(value) for value in values]


def test_a_value_that_is_dropped_while_shares_are_added_comes_back_with_doubt() -> None:
    shares = [Values({f"/{n}-{i}": Cell(2) for i in range(30)} | {"/steady": Cell(1)}) for n in range(12)]

    with patch.object(rollups, "MAX_HELD_VALUES", 60):
        whole = Values()
        for share in shares:
            whole.merge(share)

    count = whole["/steady"].count if "/steady" in whole else 0
    assert count < 12 <= count + whole.doubt("/steady")


def test_where_memory_is_short_rare_values_are_counted_together_with_doubt() -> None:
    parts = []
    for n in range(6):
        share = {f"/{n}-{i}": Cell(1) for i in range(900)} | {"/steady": Cell(3)}
        parts.append(decode(encode(Rollups({"view": Rollup(dimensions={"path": Values(share)})}))))

    whole = merge_all(parts)["view"]
    with patch.object(rollups, "MAX_MERGED_BYTES", 1_500_000):
        bounded = merge_all(parts)["view"]

    assert len(whole.dimensions["path"]) == 5_401
    values = bounded.dimensions["path"]
    assert len(values) < 3_000
    assert (values["/steady"].count, values.doubt("/steady"), values.missed) == (18, 0, 2)
    assert sum(cell.count for cell in values.values()) == 5_418


def test_an_item_of_an_older_version_may_have_any_value_in_the_rest() -> None:
    text = isal_zlib.decompress(delta([f"/{n}" for n in range(1_003)]))
    document = orjson.loads(text)
    del document["types"]["view"]["x"]
    document["types"][OTHER] = {"n": 7, "u": [], "t": [[], []]}

    old = decode(isal_zlib.compress(orjson.dumps(document)))

    values = old["view"].dimensions["path"]
    assert (values.missed, values.doubt("/1"), values.doubt("/1002")) == (3, 3, 3)
    assert (old.missed, old.doubt("view"), old.doubt("buy")) == (7, 7, 7)


def test_a_value_that_is_called_like_the_rest_leaves_the_others_beyond_doubt() -> None:
    values = decode(delta(["/", OTHER, OTHER]))["view"].dimensions["path"]

    assert {value: cell.count for value, cell in values.items()} == {"/": 1, OTHER: 2}
    assert (values.missed, values.doubt("/"), values.doubt("/a")) == (0, 0, 0)


def test_types_that_do_not_fit_an_item_are_the_rare_ones_by_name() -> None:
    def types(order: int) -> Rollups:
        names = [f"junk{n:05}" for n in range(6_000)][::order]
        users = {name: Uniques([hash_user(name)]) for name in names}
        return Rollups({name: Rollup(1 + (name == "junk05999"), users[name], {}, {1: 1}) for name in names})

    with patch.object(rollup_codec, "MAX_ITEM_BYTES", 50_000):
        data = encode(types(1))
        assert data == encode(types(-1))

    found = decode(data)
    assert found["junk05999"].count == 2
    assert (found.doubt("junk00000"), found.doubt("junk05998")) == (0, 1)
    assert sum(rollup.count for rollup in found.values()) == 6_001
    whole = all_types(found).dimensions["event_type"]
    assert (whole.missed, whole.doubt("junk00000")) == (1, 0)


def test_a_type_without_a_name_counts_with_others_and_may_be_any_of_them() -> None:
    share = Folding()
    for event_type in ("a", "a", "b", "c", "c", "c"):
        share.add(event_type, {"occurred_at": 60_000}, NOBODY, RollupSpec())

    found = decode(encode_document(share.document(lambda names: dict.fromkeys(names, OTHER) | {names[0]: names[0]})))

    assert {name: (rollup.count, rollup.minutes) for name, rollup in found.items()} == {
        "c": (3, {1: 3}),
        OTHER: (3, {1: 3}),
    }
    assert (found.doubt("a"), found.doubt("c"), found.missed) == (2, 0, 2)


def test_buckets_that_were_counted_together_are_known() -> None:
    wide = dict.fromkeys(range(3000), 1)
    measure = Measure(3_000, 1.0, 0.0, 1.0, dict(wide))

    measure.merge(Measure(1, 1.0, 1.0, 1.0, {5: 1}))
    kept = decode(encode(Rollups({"view": Rollup(1, measures={"ms": measure})})))["view"].measures["ms"]

    assert (kept.floor, min(kept.buckets), kept.buckets[kept.floor]) == (952, 952, 954)
    together = Measure(1, 1.0, 1.0, 1.0, {5: 1})
    together.merge(Measure(1, 1.0, 1.0, 1.0, {7: 1}, floor=7))
    assert together.floor == 7
    assert (
        decode(encode(Rollups({"v": Rollup(1, measures={"ms": Measure(1, 1, 1, 1, {4: 1})})})))["v"]
        .measures["ms"]
        .floor
        == NO_FLOOR
    )


# What reconciling finds


def lake(paths: list[Any]) -> Rollup:
    """What the lake says."""
    return decode(delta(paths, ms=2.0))["view"]


MANY = [f"/{n:05}" for n in range(1_500) for _ in range(2 if n < 1_200 else 1)]


def test_what_does_not_fit_an_item_is_no_difference() -> None:
    shown, stored = lake(MANY), lake(MANY)
    shown.dimensions["path"].bound(200)

    assert list(unequal(shown, stored)) == []


def broken_choice(values: Values) -> None:
    """The most frequent one was not kept."""
    values[OTHER].merge(values.pop("/checkout"))


def hidden_choice(values: Values) -> None:
    """Nor was it, and it is said that anything may be missing."""
    broken_choice(values)
    values.missed += 4_000
    for cell in values.values():
        cell.cleared += 4_000


def partial(values: Values) -> None:
    """Some of its events are in the rest."""
    values["/checkout"].count -= 1
    values[OTHER].count += 1


def doubtful(values: Values) -> None:
    values["/checkout"].cleared -= 1


def lost(values: Values) -> None:
    values[OTHER].count -= 1


def invented(values: Values) -> None:
    """A value that is not there, at the cost of the rest."""
    values["/invented"] = Cell(7, cleared=values.missed)
    values[OTHER].count -= 7


def same_as_before(values: Values) -> None:
    """As an older version kept it: those that came first."""
    broken_choice(values)
    values.missed = values[OTHER].count
    for cell in values.values():
        cell.cleared = 0


def understated(values: Values) -> None:
    """It is said that nothing may be missing."""
    for cell in values.values():
        cell.cleared -= values.missed
    values.missed = 0


def overstated(values: Values) -> None:
    values.missed += 5
    for cell in values.values():
        cell.cleared += 5


@pytest.mark.parametrize(
    ("break_it", "number"),
    [
        (broken_choice, "path=/checkout count"),
        (hidden_choice, "path=/checkout count"),
        (partial, "path=/checkout count"),
        (doubtful, "path doubt"),
        (lost, "path=(other) count"),
        (invented, "path=/invented count"),
        (same_as_before, "path=/checkout count"),
        (understated, "path=/00900 count"),
        (overstated, "path missed"),
    ],
)
def test_a_wrong_value_is_a_difference_also_where_not_all_are_told_apart(break_it: Any, number: str) -> None:
    paths = [*MANY, *["/checkout"] * 4_000]
    shown, stored = lake(paths), lake(paths)
    shown.dimensions["path"].bound(900)
    break_it(shown.dimensions["path"])

    assert number in [name for name, _, _ in unequal(shown, stored)]


def test_buckets_are_compared_above_the_floor_of_either() -> None:
    def measured(most: int, more: int = 0) -> Rollup:
        values = [1.1**n for n in range(400)]
        measure = Measure(400, sum(values), min(values), max(values), Counter(map(bucket_of, values)))
        measure.collapse(most)
        measure.buckets[max(measure.buckets)] += more
        return Rollup(400, measures={"ms": measure})

    assert list(unequal(measured(100), measured(300))) == []
    assert list(unequal(measured(300), measured(100))) == []
    assert len(list(unequal(measured(100, more=1), measured(300)))) == 1

    one = Rollup(measures={"ms": Measure(4, 8.0, 1.0, 3.0, {5: 1, 100: 3}, floor=100)})
    other = Rollup(measures={"ms": Measure(4, 8.0, 1.0, 3.0, {5: 1, 7: 1, 100: 2})})
    assert list(unequal(one, other)) == list(unequal(other, one)) == []
