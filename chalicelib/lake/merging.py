"""Many sorted Parquet files of one hour become one sorted stream in which each event id is there once.

Three passes, none of which holds the rows. The first hashes the ids: 8 bytes a row, and the only memory that grows with
the hour. Where hashes meet, the second compares the ids themselves and decides which row stays. The third merges:
the hour is cut into slices of nearly equal size, and each file is read on as far as the next cut.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chalicelib.lake.user_rows import COLUMNS, Mask, Masks

SLICE_ROWS = 131_072  # of a slice, which becomes a row group, …
SLICE_BYTES = 16 * 1024 * 1024  # … unless its rows are long; as Parquet counts them, in memory some four times that
BATCH_ROWS = 8_192  # decoded of a file at a time; of all files together, about a slice
SAMPLE_ROWS = 512  # every so many rows, a key is kept to choose the cuts from
MIN_SLICE_ROWS = 512
COMPARED_IDS = 250_000  # at a time
CLAIMS = ["slot", "received_at", "occurred_at"]  # by which one of several rows of an event stays
NO_SLOT = 2**31  # after every slot

Key = tuple[int, str]  # occurred_at in microseconds, event_id
Hashes = npt.NDArray[np.int64]


class Unordered(ValueError):
    """A file is not in order of (occurred_at, event_id), so it cannot be merged."""


@dataclass(slots=True)
class _Scan:
    """What the first two passes learn of a file."""

    name: str
    schema: pa.Schema
    first: Key | None
    size_bytes: int
    hashes: Hashes
    samples: list[Key]
    lost: Mask | None = None  # rows that are in another file, or further up, or an erased user's


@dataclass
class Merge:
    """The merge of files that `opened` gives by name; iterate `slices` once, then look at the counts."""

    names: Sequence[str]
    opened: Callable[[str], pq.ParquetFile]
    columns: pa.Schema
    without: Masks | None = None
    schema: pa.Schema = field(init=False)
    rows: int = field(init=False)
    duplicates: int = field(init=False)
    erased: int = field(init=False)
    slice_rows: int = field(init=False)
    _scans: list[_Scan] = field(init=False)

    def __post_init__(self) -> None:
        self._scans = [self._scan(name) for name in sorted(self.names)]
        self.schema = _schema(self.columns, [scan.schema for scan in self._scans])
        self.erased = self._lost()
        self._decide()
        self.duplicates = self._lost() - self.erased
        every = sum(len(scan.hashes) for scan in self._scans)
        self.rows = every - self._lost()
        row_bytes = sum(scan.size_bytes for scan in self._scans) // max(1, every)
        self.slice_rows = max(MIN_SLICE_ROWS, min(SLICE_ROWS, SLICE_BYTES // max(1, row_bytes)))

    def slices(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order of (occurred_at, event_id), about `slice_rows` at a time; raises Unordered."""
        waiting = sorted((s for s in self._scans if s.first is not None), key=lambda s: s.first or (0, ""))
        reading: list[_Cursor] = []
        batch_rows = max(64, min(BATCH_ROWS, self.slice_rows // max(1, len(waiting))))
        last: Key | None = None
        for cut in [*self._cuts(), None]:
            while waiting and (cut is None or (waiting[0].first or cut) < cut):
                scan = waiting.pop(0)
                reading.append(_Cursor(self.opened(scan.name), scan.lost, self.schema, batch_rows))
            taken = [batch for cursor in reading for batch in cursor.take_below(cut) if batch.num_rows]
            reading = [cursor for cursor in reading if not cursor.done]
            if not taken:
                continue
            rows = pa.concat_batches(taken)
            if len(taken) > 1:
                rows = rows.take(
                    pc.sort_indices(rows, sort_keys=[("occurred_at", "ascending"), ("event_id", "ascending")])
                )
            if last is not None and key_at(rows, 0) < last:
                names = ", ".join(scan.name for scan in self._scans)
                raise Unordered(f"one of {names[:500]} is not in order of occurred_at and event_id")
            last = key_at(rows, rows.num_rows - 1)
            yield rows

    def _lost(self) -> int:
        return sum(int(scan.lost.sum()) for scan in self._scans if scan.lost is not None)

    def _scan(self, name: str) -> _Scan:
        hashes: list[Hashes] = []
        erased: list[Mask] = []
        samples: list[Key] = []
        first: Key | None = None
        with self.opened(name) as file:
            for batch in batches(
                file, BATCH_ROWS, sorted({"event_id", *(COLUMNS if self.without else ["occurred_at"])})
            ):
                if self.without:
                    erased.append(self.without.mask(batch))
                # Python's own hash: 64 bits, keyed by the process, so that nobody can make ids that meet.
                ids = batch.column("event_id").to_pylist()
                hashes.append(np.fromiter(map(hash, ids), np.int64, len(ids)))
                first = first or key_at(batch, 0)
                samples += [key_at(batch, row) for row in range(0, batch.num_rows, SAMPLE_ROWS)]
            groups = range(file.num_row_groups)
            size_bytes = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            lost = np.concatenate(erased) if erased else None
            return _Scan(name, file.schema_arrow, first, size_bytes, _joined(hashes), samples, lost)

    def _cuts(self) -> list[Key]:
        """Keys between which about `slice_rows` rows lie."""
        keys = sorted(key for scan in self._scans for key in scan.samples)
        step = max(1, self.slice_rows // SAMPLE_ROWS)
        return sorted(set(keys[step::step]))

    def _decide(self) -> None:
        """Of the rows of an id, keep the one of the earliest slot, of those the one received first, the first that
        occurred, else by its place. Closing folds slot by slot, so what it has folded must not go to a later one. An
        erased user's row claims nothing: it must not take another one of its id with it.
        """
        every = _joined([scan.hashes for scan in self._scans])
        every.sort()
        meeting = np.unique(every[1:][every[1:] == every[:-1]])
        del every
        if not len(meeting):
            return
        found = [np.flatnonzero(np.isin(scan.hashes, meeting)) for scan in self._scans]
        shares = -(-sum(map(len, found)) // COMPARED_IDS)
        for share in range(shares):
            best: dict[str, tuple[int, int, int, int, int]] = {}
            for number, (scan, rows) in enumerate(zip(self._scans, found, strict=True)):
                scan.lost = np.zeros(len(scan.hashes), np.bool_) if scan.lost is None else scan.lost
                mine = rows[(scan.hashes[rows] % shares == share) & ~scan.lost[rows]]
                if not len(mine):
                    continue
                for event_id, slot, received, occurred, row in self._rows(scan.name, mine):
                    claim = (slot, received, occurred, number, row)
                    holder = best.setdefault(event_id, claim)
                    if claim < holder:
                        best[event_id], holder, claim = claim, claim, holder
                    if claim != holder:
                        loser = self._scans[claim[3]]
                        assert loser.lost is not None
                        loser.lost[claim[4]] = True

    def _rows(self, name: str, rows: npt.NDArray[np.intp]) -> Iterator[tuple[str, int, int, int, int]]:
        """(event_id, slot, received_at, occurred_at, row) of some rows of a file."""
        start = 0
        with self.opened(name) as file:
            for batch in batches(file, BATCH_ROWS, ["event_id", *CLAIMS]):
                here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + batch.num_rows)]
                some = batch.take(pa.array(here - start))
                claims = (_integers(some, name).to_pylist() for name in CLAIMS)
                yield from zip(some.column("event_id").to_pylist(), *claims, here.tolist(), strict=True)
                start += batch.num_rows


class _Cursor:
    """Reads a file on, and knows what of the last batch is left."""

    def __init__(self, file: pq.ParquetFile, lost: Mask | None, schema: pa.Schema, batch_rows: int) -> None:
        self._batches = batches(file, batch_rows, None)
        self._lost = lost
        self._schema = schema
        self._at = 0  # the row of the file that `_batch` begins with
        self._batch: pa.RecordBatch | None = None
        self.done = False

    def take_below(self, cut: Key | None) -> Iterator[pa.RecordBatch]:
        """Yield the rows before the cut, or all, that are not lost."""
        while True:
            if self._batch is None:
                self._batch = next(self._batches, None)
                if self._batch is None:
                    self.done = True
                    return
            count = self._batch.num_rows if cut is None else _count_below(self._batch, cut)
            if count:
                yield self._kept(self._batch.slice(0, count))
                self._at += count
            if count < self._batch.num_rows:
                self._batch = self._batch.slice(count)
                return
            self._batch = None

    def _kept(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if self._lost is not None:
            lost = self._lost[self._at : self._at + rows.num_rows]
            if lost.any():
                rows = rows.filter(pa.array(~lost))
        return _conform(rows, self._schema)


def _integers(rows: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column of CLAIMS. A row without a slot came by an import: one that is live, too, must go by its slot."""
    if name not in rows.schema.names:
        return pa.array([NO_SLOT] * rows.num_rows)
    return pc.fill_null(pc.cast(rows.column(name), pa.int64()), NO_SLOT)


def batches(file: pq.ParquetFile, batch_rows: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """Yield a file's batches, none empty; of a large one, memory holds one row group's bytes."""
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False):
            if batch.num_rows:
                yield batch


def key_at(rows: pa.RecordBatch, row: int) -> Key:
    """Return what the rows are sorted by."""
    return rows.column("occurred_at")[row].value, rows.column("event_id")[row].as_py()


def _count_below(rows: pa.RecordBatch, cut: Key) -> int:
    times = rows.column("occurred_at").cast(pa.int64()).to_numpy(zero_copy_only=False)
    low, high = (int(np.searchsorted(times, cut[0], side)) for side in ("left", "right"))
    ids = rows.column("event_id").slice(low, high - low).to_pylist()
    return low + bisect_left(ids, cut[1])


def _schema(columns: pa.Schema, found: Sequence[pa.Schema]) -> pa.Schema:
    """Return the lake's columns, then those that only files have: of a later version, which must not lose them."""
    more = {field.name: field for schema in found for field in schema if field.name not in columns.names}
    return pa.schema([*columns, *(more[name] for name in sorted(more))])


def _conform(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if rows.schema.equals(schema):
        return rows
    names = set(rows.schema.names)
    return pa.RecordBatch.from_arrays(
        [rows.column(f.name).cast(f.type) if f.name in names else pa.nulls(rows.num_rows, f.type) for f in schema],
        schema=schema,
    )


def _joined(parts: Sequence[Hashes]) -> Hashes:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
