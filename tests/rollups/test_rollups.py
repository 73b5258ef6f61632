import math
import zlib
from itertools import product
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.rollups.codec import MAX_ITEM_BYTES, decode, encode, encode_document
from chalicelib.rollups.facets import OVERVIEW, content_of, facets_of, needed
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
    frequency,
    merge_all,
)
from chalicelib.rollups.sketches import Uniques, hash_user

SPEC = RollupSpec(dimensions=("path",), measures=("latency_ms",))

events = st.builds(
    lambda kind, minute, user, path, latency: (
        {
            "event_type": kind,
            "occurred_at": minute * 60_000,
            "properties": {"path": path, "latency_ms": latency},
        },
        hash_user(user),
    ),
    st.sampled_from(["page_view", "click"]),
    st.integers(0, 59),
    st.text(max_size=2),
    st.sampled_from(["/", "/a", None]),
    st.integers(-5, 5),
)


def folded(items: list[tuple[dict[str, Any], bytes]]) -> bytes:
    folding = Folding()
    for event, user_hash in items:
        folding.add(event["event_type"], event, folding.user(user_hash), SPEC)
    return encode_document(folding.document())


def fold(items: list[tuple[dict[str, Any], bytes]]) -> Rollups:
    return decode(folded(items))


def counted(rollup: Rollup) -> dict[str, Values]:
    """The values of its dimensions, and only how many events they are of."""
    return {
        name: Values({value: Cell(cell.count) for value, cell in values.items()})
        for name, values in rollup.dimensions.items()
    }


@settings(max_examples=60)
@given(st.lists(events), st.lists(events), st.lists(events))
def test_merging_parts_in_any_order_is_folding_the_whole(a: list[Any], b: list[Any], c: list[Any]) -> None:
    whole = encode(fold(a + b + c))

    assert encode(merge_all([fold(a), fold(b), fold(c)])) == whole
    assert encode(merge_all([fold(c), merge_all([fold(b), fold(a)])])) == whole


@settings(max_examples=30)
@given(st.lists(events))
def test_rollups_survive_being_bytes(items: list[Any]) -> None:
    data = encode(fold(items))

    assert encode(decode(data)) == data


@settings(max_examples=30)
@given(st.lists(events, min_size=1))
def test_reading_a_part_of_bytes_is_cutting_it_from_the_whole(items: list[Any]) -> None:
    whole = fold(items)
    for data in (folded(items), encode(fold(items))):  # a delta's, and those of what is merged or closed
        for name, facet in product(whole, facets_of(SPEC)):
            assert encode(decode(data, needed(name, facet))) == encode(Rollups({name: content_of(whole[name], facet)}))
        for name, rollup in whole.items():
            total = encode(Rollups({name: Rollup(rollup.count)}))
            assert encode(decode(data, needed(name, "n", totals=True))) == total
            by_path = encode(Rollups({name: Rollup(dimensions=counted(rollup))}))
            assert encode(decode(data, needed(name, "n|path", totals=True))) == by_path
        for facet in ("n", "u"):
            every_type = Rollups({name: content_of(rollup, facet) for name, rollup in whole.items()})
            assert encode(decode(data, needed(None, facet))) == encode(every_type)


@settings(max_examples=30)
@given(st.lists(events))
def test_an_overview_is_the_whole_with_counts_alone_of_the_values_of_dimensions(items: list[Any]) -> None:
    whole = fold(items)
    whole.ledger.stored = 7
    overview = decode(encode(whole), OVERVIEW)
    for rollup in whole.values():
        rollup.dimensions = counted(rollup)

    assert encode(overview) == encode(whole)


@pytest.mark.parametrize("minutes", [[[5, 7], [1, 2]], "[[5,7],[1,2]]"])
@pytest.mark.parametrize("buckets", [[[0, 35], [1, 2]], "[[0,35],[1,2]]"])
def test_columns_are_read_as_they_are_and_as_text(minutes: object, buckets: object) -> None:
    click = {"n": 3, "u": [0], "t": minutes, "m": {"ms": [3, 5.0, 1.0, 2.0, buckets]}}
    document = {"users": "AAAAAAAB", "types": {"click": click}, "ledger": [3, 0, 0]}

    rollup = decode(zlib.compress(orjson.dumps(document)))["click"]

    assert (rollup.count, rollup.users.estimate(), rollup.minutes) == (3, 1, {5: 1, 7: 2})
    assert rollup.measures == {"ms": Measure(3, 5.0, 1.0, 2.0, {0: 1, 35: 2})}


@settings(max_examples=30)
@given(st.lists(events))
def test_a_value_of_a_dimension_holds_what_its_events_alone_would(items: list[Any]) -> None:
    for event_type, rollup in fold(items).items():
        for path, cell in rollup.dimensions.get("path", {}).items():
            alone = fold([item for item in items if item[0]["properties"]["path"] == path])[event_type]
            assert cell.count == alone.count
            assert cell.users.hashes == alone.users.hashes
            assert cell.measures == alone.measures


def test_a_value_of_a_dimension_has_each_measure_under_its_name_in_whatever_order_the_contract_lists_them() -> None:
    spec = RollupSpec(("path",), ("width", "area", "height"))
    folding = Folding()
    folding.add(
        "box", {"occurred_at": 0, "properties": {"path": "/", "width": 3, "area": 6, "height": 2}}, NOBODY, spec
    )

    cell = decode(encode_document(folding.document()))["box"].dimensions["path"]["/"]

    assert {name: measure.total for name, measure in cell.measures.items()} == {"width": 3, "area": 6, "height": 2}


def test_merging_leaves_the_parts_as_they_were() -> None:
    part = fold([({"event_type": "click", "occurred_at": 0, "properties": {"path": "/"}}, hash_user("a"))])
    before = encode(part)

    merge_all([part, part, part])

    assert encode(part) == before


def test_values_beyond_the_bound_are_counted_together() -> None:
    many = MAX_DIMENSION_VALUES + 500
    rollups = fold(
        [
            ({"event_type": "click", "occurred_at": 0, "properties": {"path": f"/{i}"}}, hash_user("a"))
            for i in range(many)
        ]
    )

    paths = rollups["click"].dimensions["path"]

    assert paths[OTHER].count == 500
    assert sum(cell.count for cell in paths.values()) == many == rollups["click"].count


def test_an_item_of_too_many_types_keeps_those_with_contracts_and_the_count_of_all() -> None:
    junk = [({"event_type": f"junk{i % 900}", "occurred_at": 0}, hash_user(str(i))) for i in range(240_000)]
    bought = [({"event_type": "purchase", "occurred_at": 0, "properties": {"latency_ms": 5}}, hash_user("a"))]

    data = encode(fold(junk + bought))

    kept = decode(data)
    assert len(data) <= MAX_ITEM_BYTES
    assert kept["purchase"].count == 1
    assert sum(rollup.count for rollup in kept.values()) == 240_001


def test_an_item_fits_however_widely_its_measures_are_spread() -> None:
    rollups = fold(
        [
            (
                {"event_type": f"t{i % 40}", "occurred_at": 0, "properties": {"latency_ms": 1.02 ** (i % 30_000)}},
                b"x" * 8,
            )
            for i in range(120_000)
        ]
    )

    data = encode(rollups)

    assert len(data) <= MAX_ITEM_BYTES
    assert sum(r.measures["latency_ms"].count for r in decode(data).values()) == 120_000


@pytest.mark.parametrize("value", [2**64 - 1, 1e308, -1e308, 5e-324])
def test_extreme_values_can_be_kept_and_merged(value: float) -> None:
    event = {"event_type": "purchase", "occurred_at": 0, "properties": {"latency_ms": value}}
    part = fold([(event, b"x" * 8)] * 3)

    merged = decode(encode(merge_all([decode(encode(part)), part])))

    assert merged["purchase"].measures["latency_ms"].count == 6
    assert math.isfinite(merged["purchase"].measures["latency_ms"].total)


def test_an_item_fits_however_long_the_values_are() -> None:
    rollups = fold(
        [
            (
                {
                    "event_type": f"t{i % 50}",
                    "occurred_at": 0,
                    "properties": {"path": hash_user(str(i)).hex() * 8},
                },
                hash_user(str(i)),
            )
            for i in range(30_000)
        ]
    )

    data = encode(rollups)

    assert len(data) <= MAX_ITEM_BYTES
    assert sum(r.count for r in decode(data).values()) == 30_000
    assert all(sum(cell.count for cell in r.dimensions["path"].values()) == r.count for r in decode(data).values())


def test_a_value_of_a_dimension_keeps_its_measures_apart_in_whatever_order_they_are_listed() -> None:
    spec = RollupSpec(dimensions=("path",), measures=("total", "items", "revenue"))
    folding = Folding()
    properties = {"path": "/", "total": 3.0, "items": 1.0, "revenue": 2.0}
    folding.add("purchase", {"occurred_at": 0, "properties": properties}, NOBODY, spec)

    found = decode(encode_document(folding.document()))["purchase"]

    for cell in (found, found.dimensions["path"]["/"]):
        assert {name: measure.total for name, measure in cell.measures.items()} == {
            "total": 3,
            "items": 1,
            "revenue": 2,
        }


def test_a_value_that_is_rare_in_each_share_and_frequent_in_all_is_kept() -> None:
    shares = [
        Rollups(
            {
                "click": Rollup(
                    dimensions={"path": Values({f"/{n}-{i}": Cell(2) for i in range(900)} | {"/steady": Cell(1)})}
                )
            }
        )
        for n in range(24)
    ]

    paths = decode(encode(merge_all(shares)))["click"].dimensions["path"]

    assert paths["/steady"].count == 24
    assert len(paths) == MAX_DIMENSION_VALUES + 1
    assert sum(cell.count for cell in paths.values()) == 24 * 1801


@pytest.mark.parametrize("facet", ["u|path", "q:ms|path"])
def test_of_facets_without_counts_the_largest_values_are_kept(facet: str) -> None:
    def cell(size: int) -> Cell:
        return Cell(
            size, Uniques([hash_user(f"{n}") for n in range(size)]), {"ms": Measure(size, size, 1, 1, {0: size})}
        )

    values = Values({f"/{n:04}": cell(1) for n in range(MAX_DIMENSION_VALUES + 5)} | {"/zone": cell(3)})
    whole = Rollup(dimensions={"path": values})

    for _ in range(2):  # what a part shares with the whole stays as it was
        paths = decode(encode(Rollups({"": content_of(whole, facet)})))[""].dimensions["path"]
        assert "/zone" in paths
        assert frequency(paths[OTHER]) == (1 if facet[0] == "u" else 6)
