"""Rollups as the bytes of one item.

The document, compressed JSON with short names:

users   the hashes of all users who are kept whole, one after another, as base64
types   by name {n: count, u: users, t: minutes, m: {measure: values}, d: {dimension: {value: cell}}, x: bounds,
        y: doubt of the type}
cell    [count, users, values of the first measure of `m`, of the second, …]
users   of a type or cell: the numbers of hashes, or the registers of a sketch as base64
values  [count, sum, min, max, counts of the buckets], or null where there are none
counts  [[key, …], [count, …]], of minutes and of buckets: as `Folding` tells them, or as text, which only who needs
        them has to parse; of buckets a third column is their floor, where there is one
bounds  by dimension [missed] or [missed, [doubt, …]], in the order of the values; of each that has OTHER or misses any.
        Where OTHER has none, an older version wrote it, which did not know: then any value may be in it
o       how many events a type that is not named has at most, `missed` of the types
ledger  rollups/ledger.py
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import orjson
from isal import isal_zlib

from chalicelib.rollups.facets import COUNTS, OVERVIEW, USERS, Excerpt, quantiles_of
from chalicelib.rollups.ledger import Ledger
from chalicelib.rollups.rollups import (
    MAX_DIMENSION_VALUES,
    OTHER,
    Cell,
    Measure,
    Rollup,
    Rollups,
    Values,
    frequency,
)
from chalicelib.rollups.sketches import HASH_BYTES, MAX_BUCKETS, NO_FLOOR, Uniques

MAX_ITEM_BYTES = 350 * 1024  # of an encoded document; DynamoDB allows 400 KB with names and keys
COMPRESSION_LEVEL = 1
OBJECT_BYTES = 48  # of memory for each byte of JSON at most, of five users of one digit; mostly some 20
DECODING_BYTES = 60  # while it is decoded
# Where a document would not fit: how many values of a dimension, and buckets of a measure, are kept at each try.
REDUCTIONS = (
    *((most_values, MAX_BUCKETS) for most_values in (800, 600, 450, 300, 200, 140, 100)),
    *((70, 1024), (50, 1024), (30, 1024), (20, 512), (10, 512), (5, 256), (0, 128)),
)


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Return a document as the bytes of an item; reduced as `encode` does where it would not fit."""
    data = _compressed(document)
    return data if len(data) <= MAX_ITEM_BYTES else encode(_rollups(document))


def encode(rollups: Rollups) -> bytes:
    """Return rollups as compressed JSON that fits an item; the same rollups give the same bytes.

    Where they would not fit, they are reduced: rare values of the dimensions are counted as OTHER, low values of the
    measures together, and at last rare types as OTHER. The count of all events stays exact.
    """
    for rollup in rollups.values():
        _reduce(rollup, MAX_DIMENSION_VALUES, MAX_BUCKETS)
    data = _compressed(_document(rollups))
    kept = MAX_DIMENSION_VALUES
    for most_values, most_buckets in REDUCTIONS:
        if len(data) <= MAX_ITEM_BYTES:
            break
        if most_values * len(data) > kept * MAX_ITEM_BYTES:
            continue  # frequent values take more bytes than rare ones, so these would not fit either
        if [rollup for rollup in rollups.values() if _reduce(rollup, most_values, most_buckets)]:
            data = _compressed(_document(rollups))
            kept = most_values
    while len(data) > MAX_ITEM_BYTES and len(rollups) > 1:
        rollups.bound(len(rollups) // 2)
        data = _compressed(_document(rollups))
    return data


def decode(data: bytes, excerpt: Excerpt | None = None) -> Rollups:
    """Return the inverse of `encode`; with `excerpt`, only that, which spares most of the time."""
    text = isal_zlib.decompress(data)
    found = _rollups(orjson.loads(text), excerpt)
    found.weight_bytes = OBJECT_BYTES * len(text)
    return found


def weight(data: bytes) -> int:
    """Return how many bytes of memory `decode` may take for these, at most."""
    return DECODING_BYTES * len(isal_zlib.decompress(data))


def _compressed(document: Mapping[str, Any]) -> bytes:
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS
    return isal_zlib.compress(orjson.dumps(document, option=options), COMPRESSION_LEVEL)


def _document(rollups: Rollups) -> dict[str, Any]:
    numbers = {
        user_hash: number
        for number, user_hash in enumerate(
            sorted({h for rollup in rollups.values() for cell in _cells(rollup) for h in cell.users.hashes})
        )
    }
    types = {name: _type_document(rollup, numbers) for name, rollup in rollups.items()}
    users = b64encode(b"".join(numbers)).decode()
    document: dict[str, Any] = {"users": users, "types": types, "ledger": rollups.ledger.to_json()}
    if rollups.missed or OTHER in rollups:
        document["o"] = rollups.missed
        for name in types:
            if doubt := rollups.doubt(name):
                types[name]["y"] = doubt
    return document


def _cells(rollup: Rollup) -> list[Cell]:
    return [rollup, *(cell for values in rollup.dimensions.values() for cell in values.values())]


def _type_document(rollup: Rollup, numbers: Mapping[bytes, int]) -> dict[str, Any]:
    names = sorted({name for cell in _cells(rollup) for name in cell.measures})
    document: dict[str, Any] = {
        "n": rollup.count,
        "u": _users_document(rollup.users, numbers),
        "t": _counts_document(rollup.minutes),
    }
    if names:
        document["m"] = {name: _values_document(rollup.measures.get(name)) for name in names}
    if rollup.dimensions:
        document["d"] = {
            name: {
                value: [
                    cell.count,
                    _users_document(cell.users, numbers),
                    *(_values_document(cell.measures.get(n)) for n in names),
                ]
                for value, cell in values.items()
            }
            for name, values in rollup.dimensions.items()
        }
        bounds = {
            name: _bounds_document(values)
            for name, values in rollup.dimensions.items()
            if values.missed or OTHER in values
        }
        if bounds:
            document["x"] = bounds
    return document


def _bounds_document(values: Values) -> list[Any]:
    doubts = [values.doubt(value) for value in sorted(values)]
    return [values.missed, doubts] if any(doubts) else [values.missed]


def _users_document(users: Uniques, numbers: Mapping[bytes, int]) -> list[int] | str:
    if users.registers is not None:
        return b64encode(isal_zlib.compress(users.registers, COMPRESSION_LEVEL)).decode()
    return sorted(numbers[user_hash] for user_hash in users.hashes)


def _values_document(measure: Measure | None) -> list[Any] | None:
    if measure is None:
        return None
    columns: list[Any] = columns_of(measure.buckets)
    if measure.floor != NO_FLOOR:
        columns.append([measure.floor])
    return [measure.count, measure.total, measure.low, measure.high, orjson.dumps(columns).decode()]


def _counts_document(counts: Mapping[int, int]) -> str:
    return orjson.dumps(columns_of(counts)).decode()


def _rollups(document: Mapping[str, Any], excerpt: Excerpt | None = None) -> Rollups:
    types = document["types"]
    if excerpt is None or excerpt == OVERVIEW:
        hashes = _hashes(document["users"])
        rollups = {name: _type(data, hashes, counted=excerpt == OVERVIEW) for name, data in types.items()}
        found = Rollups(rollups, Ledger.from_json(document["ledger"]))
    else:
        names = types if excerpt.event_type is None else types.keys() & {excerpt.event_type}
        hashes = _hashes(document["users"]) if excerpt.aspect == USERS else []
        found = Rollups({name: _excerpt(types[name], hashes, excerpt) for name in names})
    if "o" in document:
        found.missed = document["o"]
        for name, rollup in found.items():
            rollup.cleared = found.missed - types[name].get("y", 0)
    elif OTHER in types:
        found.missed = types[OTHER]["n"]
    return found


def _hashes(users: str) -> list[bytes]:
    packed = b64decode(users)
    return [packed[i : i + HASH_BYTES] for i in range(0, len(packed), HASH_BYTES)]


def _excerpt(data: Mapping[str, Any], hashes: Sequence[bytes], excerpt: Excerpt) -> Rollup:
    if excerpt.totals and excerpt.dimension is None:
        return Rollup(data["n"])
    names = list(data.get("m", {}))
    if excerpt.dimension is not None:
        cells = data.get("d", {}).get(excerpt.dimension, {})
        values = {
            value: Cell(cell[0]) if excerpt.totals else _cut(excerpt.aspect, cell, names, hashes)
            for value, cell in cells.items()
        }
        return Rollup(dimensions={excerpt.dimension: _bounded(data, excerpt.dimension, values)} if values else {})
    cell = _cut(excerpt.aspect, [data["n"], data["u"], *data.get("m", {}).values()], names, hashes)
    minutes = _counts(data["t"]) if excerpt.aspect == COUNTS else {}
    return Rollup(cell.count, cell.users, cell.measures, minutes)


def _bounded(data: Mapping[str, Any], dimension: str, cells: dict[str, Cell]) -> Values:
    """A dimension's cells, in the order they were written in, with what is known of those that are not told apart."""
    bounds = data.get("x", {}).get(dimension)
    if bounds is None:
        return Values(cells, frequency(cells[OTHER]) if OTHER in cells else 0)
    missed, doubts = bounds[0], bounds[1] if len(bounds) > 1 else repeat(0)
    for cell, doubt in zip(cells.values(), doubts, strict=False):
        cell.cleared = missed - doubt
    return Values(cells, missed)


def _cut(aspect: str, cell: Sequence[Any], names: Sequence[str], hashes: Sequence[bytes]) -> Cell:
    count, users, *columns = cell
    if aspect == USERS:
        return Cell(users=_users(users, hashes))
    found = [(name, values) for name, values in zip(names, columns, strict=True) if values]
    if aspect == COUNTS:
        return Cell(count, measures={name: Measure(*values[:4]) for name, values in found})
    return Cell(measures={name: _measure(values) for name, values in found if quantiles_of(name) == aspect})


def _type(data: Mapping[str, Any], hashes: Sequence[bytes], *, counted: bool = False) -> Rollup:
    """Return a whole type; or, where the values of its dimensions are only `counted`, an overview."""
    measures = data.get("m", {})
    names = list(measures)

    def cell(count: int, users: list[int] | str, *columns: Sequence[Any]) -> Cell:
        if counted:
            return Cell(count)
        found = {name: _measure(values) for name, values in zip(names, columns, strict=True) if values}
        return Cell(count, _users(users, hashes), found)

    return Rollup(
        count=data["n"],
        users=_users(data["u"], hashes),
        measures={name: _measure(values) for name, values in measures.items() if values},
        minutes=_counts(data["t"]),
        dimensions={
            name: _bounded(data, name, {value: cell(*kept) for value, kept in cells.items()})
            for name, cells in data.get("d", {}).items()
        },
    )


def _users(data: list[int] | str, hashes: Sequence[bytes]) -> Uniques:
    if isinstance(data, str):
        return Uniques(registers=bytearray(isal_zlib.decompress(b64decode(data))))
    return Uniques([hashes[number] for number in data])


def _measure(values: Sequence[Any]) -> Measure:
    count, total, low, high, columns = values
    keys, counts, *floor = orjson.loads(columns) if isinstance(columns, str) else columns
    return Measure(count, total, low, high, dict(zip(keys, counts, strict=True)), floor[0][0] if floor else NO_FLOOR)


def columns_of(counts: Mapping[int, int]) -> list[list[int]]:
    """Counts by number as they are encoded."""
    keys = sorted(counts)
    return [keys, [counts[key] for key in keys]]


def _counts(columns: Sequence[Sequence[int]] | str) -> dict[int, int]:
    keys, counts = orjson.loads(columns) if isinstance(columns, str) else columns
    return dict(zip(keys, counts, strict=True)) if keys else {}


def _reduce(rollup: Rollup, most_values: int, most_buckets: int) -> bool:
    """Keep no more than so many; returns whether there were more."""
    reduced = [values for values in rollup.dimensions.values() if values.bound(most_values)]
    measures = [measure for cell in _cells(rollup) for measure in cell.measures.values()]
    collapsed = [measure for measure in measures if measure.collapse(most_buckets)]
    return bool(reduced or collapsed)
