"""The lake's files: Parquet, zstd, one schema for every event type; hot fields are columns, the rest is JSON."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import day_folder, hour_file_name, project_folder
from chalicelib.base.time_windows import from_ms, to_ms
from chalicelib.events.events import StoredEvent
from chalicelib.lake.merging import BATCH_ROWS, Merge, batches
from chalicelib.lake.record_sets import Records, from_text, records_of, to_text
from chalicelib.lake.user_rows import COLUMNS, Masks, UserRows, may_be_theirs

_TIME = pa.timestamp("us", tz="UTC")  # Athena reads micro-, not nanoseconds
SLOT = "slot"
SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("schema_version", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("anonymous_id", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("occurred_at", _TIME, nullable=False),
        pa.field("received_at", _TIME, nullable=False),
        pa.field("client_timestamp", pa.string()),
        pa.field("properties", pa.string()),
        pa.field("context", pa.string()),
        pa.field("enrichment", pa.string()),
        # Of the row's stream record, for closing; null where the row came by an import. No column of the table.
        pa.field(SLOT, pa.int32()),
    ]
)

SORTED_BY = [pq.SortingColumn(SCHEMA.get_field_index(name)) for name in ("occurred_at", "event_id")]
SCANNED_ROWS = 65_536  # of three columns
TAIL_PAGE_BYTES = 64 * 1024  # what a merge of many files holds of each column of each
TAIL_GROUP_ROWS = 16_384  # so that a part of the time can be read without the rest
FILE_BYTES = 256 * 1024 * 1024  # then another file begins: an engine reads several at once
# Values that come again: as a dictionary they are read faster. A dictionary of ids would be given up half-way.
COMPRESSION = "zstd"  # of every file, those of sessions too
DICTIONARY = ["event_type", "schema_version", "user_id", "anonymous_id", "session_id", "context", "enrichment"]


_TEXTS = ["event_id", "event_type", "schema_version", "user_id", "anonymous_id", "session_id"]
FOLDED_COLUMNS = ["event_id", "event_type", "user_id", "anonymous_id", "session_id"]
FOLDED_COLUMNS += ["occurred_at", "properties", "enrichment"]
RECORDS = b"records"  # under this name a tail's footer has its stream records: storage/record_sets


@dataclass(frozen=True, slots=True)
class Row:
    """A stored event, when it was received, in Unix milliseconds, and the slot of its stream record, if it had one."""

    event: StoredEvent
    received_ms: int
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class HourFiles:
    """The files of one version of an hour, in the order of their rows."""

    keys: tuple[str, ...] = ()
    rows: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Lake:
    """Whole files, rows in order of (occurred_at, event_id); a file of the same key replaces the one before."""

    bucket: DataBucket

    def write(self, key: str, rows: Iterable[Row]) -> None:
        """Write the rows, in order of time, as one Parquet file; raises Unavailable when the bucket refuses."""
        self.put(key, encode(table_of(rows)))

    def put(self, key: str, content: bytes) -> None:
        """Write a file that `encode` made; raises Unavailable."""
        self.bucket.put(key, content)

    def files(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of each Parquet file of an hour's folder, by name."""
        return {name: size for name, size in self.bucket.sizes(folder).items() if name.endswith(".parquet")}

    def records(self, key: str, size_bytes: int) -> Records:
        """Return the stream records of a tail file; none of an import's."""
        with self._open(key, size_bytes) as file:
            found = (file.metadata.metadata or {}).get(RECORDS)
            return from_text(found) if found is not None else records_of([])

    def merge(self, folder: str, files: Mapping[str, int], without: Masks | None = None) -> Merge:
        """Return what the files hold together, each event once, and without the rows of erased users."""
        return Merge(list(files), lambda name: self._open(folder + name, files[name]), SCHEMA, without)

    def rows_of(self, key: str, size_bytes: int, users: UserRows) -> Counter[str]:
        """Return how many rows of a file each of the users has."""
        with self._open(key, size_bytes) as file:
            groups = may_be_theirs(file, users.until)
            if not groups:
                return Counter()
            return users.counted(file.iter_batches(SCANNED_ROWS, row_groups=groups, columns=COLUMNS, use_threads=False))

    def rows_by(self, keys: Sequence[str], users: UserRows) -> Iterator[Row]:
        """Yield those rows of the files that are some users'."""
        for batch in self.batches(keys):
            for row in batch.filter(pa.array(users.mask(batch))).to_pylist():
                yield Row(_stored(row), to_ms(row["received_at"]))

    def days(self, project: str) -> list[str]:
        """Return every UTC day that the project has a folder for, in order."""
        folder = project_folder(project)
        return sorted(name.removeprefix(f"{folder}dt=").rstrip("/") for name in self.bucket.folders(folder))

    def write_hour(self, folder: str, version: str, merge: Merge, each: Callable[[], None]) -> HourFiles:
        """Write the merged rows as the files of a version; before each write `each` is called, which may raise."""
        keys: list[str] = []
        size_bytes = 0
        slices = merge.slices()
        batch = next(slices, None)
        while batch is not None:
            key = folder + hour_file_name(version, len(keys))
            sink = self.bucket.writer(key)
            try:
                with pq.ParquetWriter(
                    sink, merge.schema, compression=COMPRESSION, use_dictionary=DICTIONARY, sorting_columns=SORTED_BY
                ) as writer:
                    while batch is not None and sink.size_bytes < FILE_BYTES:
                        each()
                        writer.write_batch(batch, row_group_size=batch.num_rows)
                        batch = next(slices, None)
                each()
                sink.finish()
            except BaseException:
                sink.discard()
                raise
            keys.append(key)
            size_bytes += sink.size_bytes
        return HourFiles(tuple(keys), merge.rows, size_bytes)

    def batches(self, keys: Sequence[str], columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of the files, one file after the other, some thousand at a time; all columns unless some are named.

        Raises FileNotFoundError for a file that is gone: one that was absorbed more than an hour ago.
        """
        for key in keys:
            with self._open(key) as file:
                yield from batches(file, BATCH_ROWS, columns)

    def events(self, keys: Sequence[str], upto: int | None = None) -> Iterator[dict[str, Any]]:
        """The events of the files as they were stored, as far as rollups need them; with `upto`, up to this slot.

        Those that came by an import are in any case.
        """
        batches = self.batches(keys, FOLDED_COLUMNS if upto is None else [*FOLDED_COLUMNS, SLOT])
        return events_of(batches if upto is None else (_up_to(batch, upto) for batch in batches))

    def sorted_files(self, keys: Sequence[str], first_ms: int, end_ms: int) -> list["SortedFile"]:
        """Those of the files, each in order of time, that may have rows of the half-open range; they stay open."""
        files = [SortedFile(self._open(key)) for key in keys]
        return [file for file in files if file.rows_between(first_ms, end_ms)]

    def files_of_day(self, project: str, day: str) -> dict[str, int]:
        """Return the size in bytes of every file of a day, by folder and name."""
        return self.bucket.sizes(day_folder(project, day))

    def rows(self, keys: Sequence[str]) -> Iterator[Row]:
        """Yield the rows of the files as `write` was given them."""
        for batch in self.batches(keys):
            for row in batch.to_pylist():
                yield Row(_stored(row), to_ms(row["received_at"]))

    def count(self, folder: str, files: Mapping[str, int]) -> HourFiles:
        """The files as they are; reads their footers only."""
        rows = 0
        for name in sorted(files):
            with self._open(folder + name, files[name]) as file:
                rows += file.metadata.num_rows
        return HourFiles(tuple(folder + name for name in sorted(files)), rows, sum(files.values()))

    def delete(self, key: str) -> None:
        """Remove a file; a missing one is no error."""
        self.bucket.delete(key)

    def _open(self, key: str, size_bytes: int | None = None) -> pq.ParquetFile:
        return pq.ParquetFile(self.bucket.open(key, size_bytes), pre_buffer=True)


@dataclass(frozen=True, slots=True)
class SortedFile:
    """A file in order of (occurred_at, event_id), of which only a range of time is read."""

    file: pq.ParquetFile

    def rows_between(self, first_ms: int, end_ms: int) -> int:
        """At most how many rows occurred in the half-open range, by the footer."""
        metadata = self.file.metadata
        return sum(metadata.row_group(group).num_rows for group in self._groups(first_ms, end_ms))

    def between(self, first_ms: int, end_ms: int) -> pa.Table:
        """Return the rows of the half-open range, in order."""
        groups = self._groups(first_ms, end_ms)
        if not groups:
            return SCHEMA.empty_table()
        table = self.file.read_row_groups(groups, use_threads=False)
        at = pc.cast(table.column("occurred_at"), pa.int64())
        return table.filter(pc.and_(pc.greater_equal(at, first_ms * 1000), pc.less(at, end_ms * 1000)))

    def _groups(self, first_ms: int, end_ms: int) -> list[int]:
        metadata = self.file.metadata
        return [g for g in range(metadata.num_row_groups) if _overlaps(metadata.row_group(g), first_ms, end_ms)]


def encode(table: pa.Table, records: Records | None = None) -> bytes:
    """Return a table of SCHEMA, in order of (occurred_at, event_id), as one Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({RECORDS: to_text(records)} if records is not None else None),
        buffer,
        compression=COMPRESSION,
        use_dictionary=DICTIONARY,
        data_page_size=TAIL_PAGE_BYTES,
        row_group_size=TAIL_GROUP_ROWS,
    )
    return buffer.getvalue()


def together(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of sorted tables in order of (occurred_at, event_id)."""
    some = [table for table in tables if table.num_rows]
    if len(some) < 2:
        return some[0] if some else SCHEMA.empty_table()
    return pa.concat_tables(some).sort_by([("occurred_at", "ascending"), ("event_id", "ascending")])


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Return the rows as a table of SCHEMA, in order of (occurred_at, event_id)."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for row in sorted(rows, key=lambda row: (row.event["occurred_at"], row.event["event_id"])):
        event = row.event
        timestamp = event.get("timestamp")
        columns["event_id"].append(event["event_id"])
        columns["event_type"].append(event["event_type"])
        columns["schema_version"].append(event.get("schema_version"))
        columns["user_id"].append(event.get("user_id"))
        columns["anonymous_id"].append(event.get("anonymous_id"))
        columns["session_id"].append(event.get("session_id"))
        columns["occurred_at"].append(event["occurred_at"] * 1000)
        columns["received_at"].append(row.received_ms * 1000)
        columns["client_timestamp"].append(None if timestamp is None else str(timestamp))
        columns["properties"].append(_json(event.get("properties")))
        columns["context"].append(_json(event.get("context")))
        columns["enrichment"].append(_json(event.get("enrichment")))
        columns[SLOT].append(row.slot)
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA)


def _up_to(rows: pa.RecordBatch, slot: int) -> pa.RecordBatch:
    if SLOT not in rows.schema.names:
        return rows
    slots = rows.column(SLOT)
    return rows.filter(pc.or_kleene(pc.is_null(slots), pc.less_equal(slots, slot)))


def _overlaps(group: Any, first_ms: int, end_ms: int) -> bool:
    """Return whether a row group may have rows of the half-open range."""
    statistics = group.column(SCHEMA.get_field_index("occurred_at")).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min < from_ms(end_ms) and statistics.max >= from_ms(first_ms))


def events_of(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """Yield the events of rows as they were stored, as far as rollups need them."""
    for batch in batches:
        for row in batch.select(FOLDED_COLUMNS).to_pylist():
            occurred_at = to_ms(row["occurred_at"])
            parts = {name: orjson.loads(row[name]) for name in ("properties", "enrichment") if row[name]}
            yield {**row, "occurred_at": occurred_at, "properties": None, "enrichment": None, **parts}


def _stored(row: Mapping[str, Any]) -> StoredEvent:
    event = {name: row[name] for name in _TEXTS if row[name] is not None}
    event["occurred_at"] = to_ms(row["occurred_at"])
    event |= {name: orjson.loads(row[name]) for name in ("properties", "context", "enrichment") if row[name]}
    if row["client_timestamp"] is not None:
        event["timestamp"] = _as_sent(row["client_timestamp"])
    return event


def _as_sent(timestamp: str) -> str | int | float:
    """Return a client's own word for a time: Unix milliseconds of any time this century have twelve digits or more."""
    whole, _, fraction = timestamp.partition(".")
    if not (whole.isdigit() and len(whole) >= 12 and (fraction.isdigit() or not fraction)):
        return timestamp
    return float(timestamp) if fraction else int(whole)


def _json(value: object) -> str | None:
    return orjson.dumps(value).decode() if value else None
