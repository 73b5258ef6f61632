"""What an hour's rows come to, counted once more, for comparison with what readers are shown.

By other means than `aggregate` and `close` count them: the files' columns are grouped as a database would, exactly and
whatever the number of values; nothing goes by way of domain/folding, the merging of rollups, or their encoding. Shared
are definitions only: which bucket a number is in, and the hash that stands for a user.
"""

import math
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from chalicelib.lake.lake import Lake
from chalicelib.lake.user_rows import user_column
from chalicelib.rollups.facets import ALL_TYPES, COUNTS, USERS
from chalicelib.rollups.rollups import OTHER, Cell, Measure, Rollup, RollupSpec
from chalicelib.rollups.sketches import EXACT_LIMIT, HASH_BITS, REGISTERS, UNIQUES_STANDARD_ERROR, bucket_of, hash_user

VALUE_CHARACTERS = 128  # of a dimension's value, by which it is told from others
ROUNDING = 1e-9  # of a sum, relative to its summands; doubles have 16 digits
SKETCH_ERROR = 6 * UNIQUES_STANDARD_ERROR  # one estimate in 500 million is further off
FEWEST_BUCKETS = 128  # an item never keeps less of a measure; where it has as many, low values may be counted together
FEWEST_VALUES = 10  # of a dimension, if an item keeps any
MAX_TOLD = 100  # values of a dimension that are left out, told by name
SCALE = 2.0**-64  # where a sum is beyond the largest float on the way, its summands are made so much smaller
COLUMNS = ["event_type", "user_id", "anonymous_id", "occurred_at", "properties", "enrichment"]
TYPE, MINUTE, USER = "type", "minute", "user"  # columns of what is counted, beside dimensions and measures
ALL_ROWS = pa.schema([(TYPE, pa.string()), (MINUTE, pa.int8()), (USER, pa.int64())])

Number = float | int
Document = Mapping[str, Any]  # a JSON object
Unequal = tuple[str, Number, Number]  # which number, as it is shown, as it is counted
Frequency = tuple[int, int]  # of a value: events, and how much of an aspect
Rows = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.int64]  # of distinct users
NO_HASHES: Hashes = np.empty(0, np.int64)
NO_VALUES = Measure()


@dataclass(frozen=True, slots=True)
class Exact:
    """What some rows come to, of one aspect."""

    count: int = 0
    users: Hashes = field(default_factory=lambda: NO_HASHES)
    measures: Mapping[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recount:
    """An hour's rows without bots, each event id once, in columns.

    `rows` has type, minute and user of each, `of_type` the same of one type, with its dimensions and measures.
    `copies` is how many rows were left out.
    """

    rows: pa.Table
    of_type: Mapping[str, pa.Table]
    spec_of: Callable[[str], RollupSpec]
    copies: int

    @property
    def events(self) -> int:
        """How many there are."""
        return int(self.rows.num_rows)

    def is_empty(self, event_type: str, facet: str) -> bool:
        """Return whether nothing is to be kept of a facet."""
        aspect, _, dimension = facet.partition("|")
        table = self._table(event_type)
        if dimension:
            table = _that_have(table, _dimension(dimension))
        elif aspect == USERS:
            table = _that_have(table, USER)
        elif aspect != COUNTS:
            table = _that_have(table, _measure(aspect.removeprefix("q:")))
        return not table.num_rows

    def differences(self, event_type: str, facet: str, shown: Rollup) -> Iterator[Unequal]:
        """Yield every number of a facet that is shown otherwise than it is counted."""
        aspect, _, dimension = facet.partition("|")
        table = self._table(event_type)
        if dimension:
            cells: Mapping[str, Cell] = shown.dimensions.get(dimension, {})
            yield from _of_values(_that_have(table, _dimension(dimension)), aspect, dimension, cells)
            return
        (exact,) = _groups(table, pa.repeat("", table.num_rows), aspect).values() or (Exact(),)
        yield from _of_cell("", shown, exact)
        if aspect == COUNTS:
            minutes = _counts(table.column(MINUTE))
            for minute in sorted({*minutes, *shown.minutes}):
                before, now = shown.minutes.get(minute, 0), minutes.get(minute, 0)
                if before != now:
                    yield f"minute {minute}", before, now

    def _table(self, event_type: str) -> pa.Table:
        if event_type == ALL_TYPES:
            return self.rows.append_column(_dimension("event_type"), self.rows.column(TYPE))
        found = self.of_type.get(event_type)
        return _with_columns(ALL_ROWS.empty_table(), [], [], self.spec_of(event_type)) if found is None else found


def recount(
    lake: Lake, keys: Sequence[str], spec_of: Callable[[str], RollupSpec], name_of: Callable[[str], str]
) -> Recount:
    """Count the rows of the files; `name_of` says under which name a type is counted. The files are read twice.

    Memory holds the columns that are counted: some 20 bytes a row, and its dimensions' values.
    """
    first, copies = _first_ones(lake.batches(keys, ["event_id"]))
    every: list[pa.Table] = []
    of_type: dict[str, list[pa.Table]] = defaultdict(list)
    start = 0
    for batch in lake.batches(keys, COLUMNS):
        enrichment = _documents(batch.column("enrichment"))
        bots = np.fromiter((bool(each.get("bot")) for each in enrichment), np.bool_, len(enrichment))
        counted = first[start : start + batch.num_rows] & ~bots
        start += batch.num_rows
        types = batch.column("event_type").dictionary_encode()
        names = pa.array([name_of(each) for each in types.dictionary.to_pylist()], pa.string()).take(types.indices)
        minutes = pc.cast(pc.minute(batch.column("occurred_at")), pa.int8())
        rows = pa.table([names, minutes, _user_hashes(batch)], schema=ALL_ROWS)
        every.append(rows.filter(pa.array(counted)))
        for number, event_type in enumerate(types.dictionary.to_pylist()):
            spec = spec_of(event_type)
            if spec.dimensions or spec.measures:
                places = np.flatnonzero(counted & (types.indices.to_numpy(zero_copy_only=False) == number))
                texts = batch.column("properties").take(pa.array(places)).to_pylist()
                documents = [orjson.loads(text) if text else {} for text in texts]
                enriched = [enrichment[place] for place in places]
                of_type[event_type].append(_with_columns(rows.take(pa.array(places)), documents, enriched, spec))
    tables = {name: pa.concat_tables(some).combine_chunks() for name, some in of_type.items()}
    together = pa.concat_tables([ALL_ROWS.empty_table(), *every]).sort_by(TYPE)
    return Recount(together, {**_by_type(together), **tables}, spec_of, copies)


def _by_type(rows: pa.Table) -> dict[str, pa.Table]:
    found, start = {}, 0
    for name, count in _counts(rows.column(TYPE)).items():  # in order of their first rows
        found[name] = rows.slice(start, count)
        start += count
    return found


def _first_ones(batches: Iterable[pa.RecordBatch]) -> tuple[Rows, int]:
    """True for each row that is the first of its event id, and how many are not."""
    # Python's own hash: 64 bits, keyed by the process, so that nobody can make ids that meet.
    hashes = [np.fromiter(map(hash, batch.column("event_id").to_pylist()), np.int64) for batch in batches]
    every = np.concatenate([np.empty(0, np.int64), *hashes])
    first = np.zeros(len(every), np.bool_)
    first[np.unique(every, return_index=True)[1]] = True
    return first, int(len(every) - first.sum())


def _documents(texts: pa.Array) -> list[Document]:
    """Return the JSON objects of a column; of equal ones, which most are, one is read."""
    encoded = texts.dictionary_encode()
    found = [orjson.loads(text) for text in encoded.dictionary.to_pylist()]
    return [{} if place is None else found[place] for place in encoded.indices.to_pylist()]


def _user_hashes(batch: pa.RecordBatch) -> pa.Array:
    users = user_column(batch).dictionary_encode()
    hashes = [int.from_bytes(hash_user(user)) if user else None for user in users.dictionary.to_pylist()]
    return pa.array(hashes, pa.int64()).take(users.indices)


def _with_columns(
    rows: pa.Table, properties: Sequence[Document], enrichment: Sequence[Document], spec: RollupSpec
) -> pa.Table:
    """Return the rows of a type with its dimensions and measures."""
    for name in spec.dimensions:
        pairs = zip(properties, enrichment, strict=True)
        values = [_text(one.get(name) if one.get(name) is not None else other.get(name)) for one, other in pairs]
        rows = rows.append_column(_dimension(name), pa.array(values, pa.string()))
    for name in spec.measures:
        numbers = [_number(each.get(name)) for each in properties]
        rows = rows.append_column(_measure(name), pa.array(numbers, pa.float64()))
    return rows


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value and value[:VALUE_CHARACTERS]
    return orjson.dumps(value).decode()[:VALUE_CHARACTERS]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _dimension(name: str) -> str:
    """Return the column of a dimension."""
    return f"d:{name}"


def _measure(name: str) -> str:
    """Return the column of a measure."""
    return f"m:{name}"


def _that_have(table: pa.Table, column: str) -> pa.Table:
    return table.filter(pc.is_valid(table.column(column)))


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {each["values"]: each["counts"] for each in pc.value_counts(column).to_pylist()}


# Groups


def _groups(table: pa.Table, keys: Any, aspect: str) -> dict[str, Exact]:
    """Return what the rows of each key come to."""
    table = table.append_column("key", keys)
    counts = _counts(table.column("key"))
    if aspect == USERS:
        return {key: Exact(users=users) for key, users in _users_by(table, counts).items()}
    names = [name.removeprefix("m:") for name in table.column_names if name.startswith("m:")]
    measures: dict[str, dict[str, Measure]] = {key: {} for key in counts}
    for name in names if aspect == COUNTS else [aspect.removeprefix("q:")]:
        for key, measure in _measures_by(table, name, with_buckets=aspect != COUNTS).items():
            measures[key][name] = measure
    return {key: Exact(count if aspect == COUNTS else 0, measures=measures[key]) for key, count in counts.items()}


def _users_by(table: pa.Table, keys: Iterable[str]) -> dict[str, Hashes]:
    pairs = _that_have(table, USER).group_by(["key", USER], use_threads=False).aggregate([]).sort_by("key")
    users = pairs.column(USER).to_numpy()
    found, start = dict.fromkeys(keys, NO_HASHES), 0
    for key, count in _counts(pairs.column("key")).items():  # in order of their first rows
        found[key] = users[start : start + count]
        start += count
    return found


def _measures_by(table: pa.Table, name: str, *, with_buckets: bool) -> dict[str, Measure]:
    some = _that_have(table, _measure(name)).select(["key", _measure(name)]).rename_columns(["key", "value"])
    some = some.append_column("small", pc.multiply(some.column("value"), SCALE))
    wanted = [("value", "count"), ("value", "sum"), ("small", "sum"), ("value", "min"), ("value", "max")]
    found = {
        row["key"]: Measure(row["value_count"], _sum(row), row["value_min"], row["value_max"])
        for row in some.group_by("key", use_threads=False).aggregate(wanted).to_pylist()
    }
    if with_buckets:
        values = some.column("value").combine_chunks().dictionary_encode()
        buckets = pa.array([bucket_of(value) for value in values.dictionary.to_pylist()], pa.int64())
        some = some.append_column("bucket", buckets.take(values.indices))
        for row in some.group_by(["key", "bucket"], use_threads=False).aggregate([([], "count_all")]).to_pylist():
            found[row["key"]].buckets[row["bucket"]] = row["count_all"]
    return found


def _sum(row: Mapping[str, float]) -> float:
    """A sum as it is kept: the largest float stands for what is beyond it."""
    if math.isfinite(row["value_sum"]):
        return row["value_sum"]
    return max(-sys.float_info.max, min(sys.float_info.max, row["small_sum"] / SCALE))


# Comparison


def _of_values(table: pa.Table, aspect: str, dimension: str, shown: Mapping[str, Cell]) -> Iterator[Unequal]:
    """Compare a dimension's values; those that are not told apart are counted together.

    Where there are too many, the most frequent are to be told apart, each with all of its events.
    """
    column = _dimension(dimension)
    values = table.column(column)
    told = {*shown} - {OTHER} | {*_left_out(table, column, aspect, shown)}
    named = pc.is_in(values, pa.array(sorted(told), pa.string()))
    exact = _groups(table, pc.if_else(named, values, OTHER), aspect)
    for value in sorted({*shown, *exact}):
        yield from _of_cell(f"{dimension}={value} ", shown.get(value, Cell()), exact.get(value, Exact()))


def _left_out(table: pa.Table, column: str, aspect: str, shown: Mapping[str, Cell]) -> list[str]:
    """The values that are not told apart and should be, the most frequent first."""
    frequencies = _frequencies(table, column, aspect)
    ranked = sorted(frequencies, key=lambda value: (-frequencies[value][0], value))
    others = [value for value in ranked if value not in shown and value != OTHER]
    if OTHER in shown:
        told = sorted(frequencies.get(value, (0, 0)) for value in shown if value != OTHER)
        if told or len(others) > FEWEST_VALUES:  # else there was no room for any
            least = list(accumulate((kept for _, kept in told), min))  # of the first, the first two, and so on
            others = [value for value in others if _comes_first(*frequencies[value], told, least, aspect)]
    return others[:MAX_TOLD]


def _comes_first(events: int, kept: int, told: Sequence[Frequency], least: Sequence[int], aspect: str) -> bool:
    """Whether a value has more events, and more of the aspect, than one that is told apart: by either they are chosen.

    `told` is in order of events; `least` has the least of the aspect up to each.
    """
    fewer = bisect_left(told, (events, 0))
    sketched = aspect == USERS and kept > EXACT_LIMIT  # so both are known within an error
    return fewer > 0 and kept > least[fewer - 1] * (1 + 2 * SKETCH_ERROR if sketched else 1)


def _frequencies(table: pa.Table, column: str, aspect: str) -> dict[str, Frequency]:
    """Return how many events each value has, and how much of the aspect: events, distinct users, or numbers."""
    counted: tuple[str, str] = (column, "count")
    if aspect == USERS:
        counted = (USER, "count_distinct")
    elif aspect != COUNTS:
        counted = (_measure(aspect.removeprefix("q:")), "count")
    grouped = table.group_by(column, use_threads=False).aggregate([([], "count_all"), counted])
    return {row[column]: (row["count_all"], row["_".join(counted)]) for row in grouped.to_pylist()}


def _of_cell(of: str, shown: Cell, exact: Exact) -> Iterator[Unequal]:
    if shown.count != exact.count:
        yield f"{of}count", shown.count, exact.count
    if not _are_users(shown, exact.users):
        yield f"{of}users", shown.users.estimate(), len(exact.users)
    for name in sorted({*shown.measures, *exact.measures}):
        before, now = shown.measures.get(name, NO_VALUES), exact.measures.get(name, NO_VALUES)
        for number, one, other in _of_measure(before, now):
            yield f"{of}{number} {name}", one, other


def _are_users(shown: Cell, users: Hashes) -> bool:
    """Return whether a sketch is that of the users, and says how many they are as exactly as it promises to."""
    size = len(users)
    if size <= EXACT_LIMIT:
        return shown.users.registers is None and {int.from_bytes(each) for each in shown.users.hashes} == {
            *users.tolist()
        }
    registers = np.zeros(REGISTERS, np.uint8)
    rest = users & ((1 << HASH_BITS) - 1)
    lengths = np.frexp(rest.astype(np.float64))[1]  # of their binary digits: fewer than a double's
    np.maximum.at(registers, users >> HASH_BITS, (HASH_BITS + 1 - lengths).astype(np.uint8))
    as_shown = bytes(shown.users.registers or b"")
    return as_shown == registers.tobytes() and abs(shown.users.estimate() - size) <= SKETCH_ERROR * size


def _of_measure(shown: Measure, exact: Measure) -> Iterator[Unequal]:
    if shown.count != exact.count:
        yield "values", shown.count, exact.count
    if not (shown.count and exact.count):
        return
    largest = max(map(abs, (shown.low, shown.high, exact.low, exact.high)))
    if abs(shown.total - exact.total) > min(sys.float_info.max, ROUNDING * largest * max(shown.count, exact.count)):
        yield "sum", shown.total, exact.total
    if shown.low != exact.low:
        yield "min", shown.low, exact.low
    if shown.high != exact.high:
        yield "max", shown.high, exact.high
    if not _are_buckets(shown.buckets, exact.buckets):
        yield "buckets", sum(shown.buckets.values()), sum(exact.buckets.values())


def _are_buckets(shown: Mapping[int, int], exact: Mapping[int, int]) -> bool:
    """Return whether the counts are the same; where there are many buckets, the lowest may stand for those below it."""
    if len(shown) < FEWEST_BUCKETS:
        return shown == exact
    lowest = min(shown)
    together = {bucket: count for bucket, count in exact.items() if bucket > lowest}
    together[lowest] = sum(count for bucket, count in exact.items() if bucket <= lowest)
    return shown == together
