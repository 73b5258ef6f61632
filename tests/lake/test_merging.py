"""Sorted files in, one sorted stream out, each event id once: against the same done in memory."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.lake import merging
from chalicelib.lake.lake import SCHEMA, Lake, Row
from chalicelib.lake.merging import Merge, Unordered
from tests.stores import empty_stores

Rows = Sequence[tuple[int, str, int] | tuple[int, str, int, int | None]]  # occurred_at, event_id, received_at, slot
ROW = st.tuples(
    st.integers(0, 4), st.sampled_from("abcdefghü"), st.integers(0, 2), st.one_of(st.none(), st.integers(0, 2))
)
FILES = st.lists(st.lists(ROW, max_size=12), max_size=6)
LAST = 9  # after every slot


def parquet(rows: Rows, *, ordered: bool = True, row_group_size: int = 5, **more: pa.Array) -> bytes:
    """A file of the rows; with a column of slots where the rows have one each."""
    every = sorted(rows, key=lambda row: row[:2]) if ordered else list(rows)
    if any(len(row) == 4 for row in every):
        more["slot"] = pa.array([row[3] if len(row) == 4 else None for row in every], SCHEMA.field("slot").type)
    table = pa.table(
        {
            "event_id": pa.array([row[1] for row in every], pa.string()),
            "event_type": pa.array(["click"] * len(every), pa.string()),
            "occurred_at": pa.array([row[0] for row in every], SCHEMA.field("occurred_at").type),
            "received_at": pa.array([row[2] for row in every], SCHEMA.field("received_at").type),
            **more,
        },
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size)
    return sink.getvalue()


def merged(files: Mapping[str, bytes]) -> Merge:
    return Merge(list(files), lambda name: pq.ParquetFile(io.BytesIO(files[name])), SCHEMA)


def rows_of(merge: Merge) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for batch in merge.slices():
        times = [batch.column(name).cast(pa.int64()).to_pylist() for name in ("occurred_at", "received_at")]
        slots = batch.column("slot").to_pylist()
        found += zip(times[0], batch.column("event_id").to_pylist(), times[1], slots, strict=True)
    return found


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a handful of rows is cut, read and compared in several steps."""
    for name, value in (("SLICE_ROWS", 3), ("MIN_SLICE_ROWS", 1), ("BATCH_ROWS", 2), ("SAMPLE_ROWS", 1)):
        monkeypatch.setattr(merging, name, value)
    monkeypatch.setattr(merging, "COMPARED_IDS", 4)


@settings(max_examples=150)
@given(FILES)
def test_of_each_id_the_row_of_the_earliest_slot_is_there_once_and_in_order(files: list[Rows]) -> None:
    """Of the same slot the one received first, then the one that occurred first; an import's, without a slot, last."""
    merge = merged({f"{n}": parquet(rows) for n, rows in enumerate(files)})

    found = rows_of(merge)

    every = [row for rows in files for row in rows]
    first: dict[str, tuple[int, int, int]] = {}
    for occurred, event_id, received, slot in every:  # type: ignore[misc]
        claim = (LAST if slot is None else slot, received, occurred)
        first[event_id] = min(first.get(event_id, (LAST, LAST, LAST)), claim)
    kept = [
        (at, event_id, received, None if slot == LAST else slot) for event_id, (slot, received, at) in first.items()
    ]
    assert sorted(found, key=repr) == sorted(kept, key=repr)
    assert [row[:2] for row in found] == sorted(row[:2] for row in found)
    assert (merge.rows, merge.duplicates) == (len(found), len(every) - len(found))


@settings(max_examples=50)
@given(FILES, st.sets(st.integers(0, 2)))
def test_merging_what_was_merged_with_the_rest_is_merging_all_at_once(files: list[Rows], early: set[int]) -> None:
    """Whatever is consolidated first, and however often, the same rows stay."""
    every = {f"{n}": parquet(rows) for n, rows in enumerate(files)}
    some = {name: content for name, content in every.items() if int(name) in early}

    version = parquet(rows_of(merged(some)))

    rest = {name: content for name, content in every.items() if name not in some}
    assert rows_of(merged({**rest, "version": version})) == rows_of(merged(every))


@settings(max_examples=50)
@given(FILES)
def test_ids_whose_hashes_meet_are_told_apart(files: list[Rows]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "hash", lambda text: len(text), raising=False)
        found = rows_of(merged({f"{n}": parquet(rows) for n, rows in enumerate(files)}))

    assert sorted(row[1] for row in found) == sorted({row[1] for rows in files for row in rows})


def test_slices_have_about_the_size_asked_for_whatever_the_times_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SLICE_ROWS", 100)
    files = {f"{n}": parquet([(7, f"{n}-{i:04}", 0) for i in range(500)], row_group_size=100) for n in range(4)}

    sizes = [batch.num_rows for batch in merged(files).slices()]

    assert sum(sizes) == 2000
    assert max(sizes) <= 104


def test_files_from_before_there_were_slots_are_as_an_imports() -> None:
    old, new = parquet([(1, "a", 0), (2, "b", 0)]), parquet([(3, "a", 7, 5)])

    assert rows_of(merged({"old": old, "new": new})) == [(2, "b", 0, None), (3, "a", 7, 5)]


def test_rows_that_are_masked_are_in_no_slice_and_claim_nothing() -> None:
    """An erased user's row must not stand in the way of another of the same id, which is to stay."""
    users = pa.array(["gone", "ada"])
    files = {"a": parquet([(1, "a", 0, 0), (2, "b", 0, 0)], user_id=users, anonymous_id=pa.nulls(2, pa.string()))}
    files["b"] = parquet([(4, "a", 3, 3)], user_id=pa.array(["ada"]), anonymous_id=pa.nulls(1, pa.string()))

    class Gone:
        def mask(self, rows: pa.RecordBatch) -> Any:
            return np.asarray([user == "gone" for user in rows.column("user_id").to_pylist()], np.bool_)

    merge = Merge(list(files), lambda name: pq.ParquetFile(io.BytesIO(files[name])), SCHEMA, Gone())

    assert (merge.rows, merge.erased, merge.duplicates) == (2, 1, 0)
    assert rows_of(merge) == [(2, "b", 0, 0), (4, "a", 3, 3)]


def test_long_rows_make_smaller_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SLICE_ROWS", 1000)
    monkeypatch.setattr(merging, "SLICE_BYTES", 100_000)
    rows: Rows = [(n, f"e{n:04}", 0) for n in range(300)]

    assert merged({"a": parquet(rows)}).slice_rows == 1000
    assert merged({"a": parquet(rows, properties=pa.array([f"{n:01000}" for n in range(300)]))}).slice_rows < 110


def test_a_file_that_is_not_in_order_is_refused() -> None:
    files = {"a": parquet([(n % 7, f"{n}", 0) for n in range(20)], ordered=False)}

    with pytest.raises(Unordered, match="a is not in order"):
        rows_of(merged(files))


def test_columns_of_later_and_earlier_versions_are_kept_and_filled_in() -> None:
    merge = merged({"old": parquet([(1, "a", 0)]), "new": parquet([(2, "b", 0)], region=pa.array(["eu"]))})

    [rows] = [row for batch in merge.slices() for row in [batch.to_pylist()]]

    assert [(row["event_id"], row["region"], row["user_id"]) for row in rows] == [("a", None, None), ("b", "eu", None)]
    assert merge.schema.names == [*SCHEMA.names, "region"]


def test_an_hour_of_several_files_opens_alike_in_duckdb_pyarrow_and_polars(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("chalicelib.lake.lake.FILE_BYTES", 1_500)
    monkeypatch.setattr(merging, "SLICE_ROWS", 40)
    with empty_stores() as stores:
        lake = Lake(stores.bucket)
        for tail in range(4):
            events = [
                {"event_id": f"{tail}{n:03}", "event_type": "click", "occurred_at": n, "properties": {"n": n, "ü": "€"}}
                for n in range(100)
            ]
            lake.write(f"h/tail-{tail}.parquet", [Row(event, 5) for event in events])

        made = lake.write_hour("h/", "1", lake.merge("h/", lake.files("h/")), lambda: None)

        assert len(made.keys) > 2
        for key in made.keys:
            (tmp_path / key.removeprefix("h/")).write_bytes(stores.bucket.get(key) or b"")
        read = [row for batch in lake.batches(made.keys) for row in batch.to_pylist()]
        assert [row["event_id"] for row in lake.batches(made.keys, ["event_id"]).__next__().to_pylist()][:3] == [
            "0000",
            "1000",
            "2000",
        ]
    files = f"{tmp_path}/*.parquet"
    assert len(read) == made.rows == 400
    assert made.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert pa.Table.from_pylist(read, SCHEMA).equals(pq.read_table(tmp_path, schema=SCHEMA))
    by_duckdb = duckdb.read_parquet(files).to_arrow_table()
    assert [row["properties"] for row in by_duckdb.to_pylist()] == [row["properties"] for row in read]
    by_polars = polars.read_parquet(files)
    assert by_polars["event_id"].to_list() == [row["event_id"] for row in read]
    assert by_polars["occurred_at"].to_list() == [row["occurred_at"] for row in read]
    assert pq.ParquetFile(tmp_path / "hour-1-0000.parquet").metadata.row_group(0).sorting_columns
