"""From events to rollups: the one place that says how an event is counted.

Rows are collected by hour and type and then folded column by column, straight into the form that is encoded: the
fold runs once for every event that is stored, and objects on the way would cost more than the counting.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from chalicelib.domain.ledger import Ledger
from chalicelib.domain.rollup_codec import columns_of
from chalicelib.domain.rollups import MAX_DIMENSION_VALUES, OTHER, RollupSpec, finite
from chalicelib.domain.sketches import bucket_of

MAX_DIMENSION_LENGTH = 128  # characters of a value that are kept
NOTHING: Mapping[str, Any] = {}

Row = tuple[int | None, int, Mapping[str, Any], Mapping[str, Any]]  # user's number, epoch ms, properties, enrichment


@dataclass(slots=True)
class Folding:
    """The events of one project and hour on their way to a document of `rollup_codec`, and the hour's ledger."""

    rows: dict[str, tuple[RollupSpec, list[Row]]] = field(default_factory=dict)  # by the type's name
    users: dict[bytes, int] = field(default_factory=dict)  # hash -> its number in the document
    ledger: Ledger = field(default_factory=Ledger)

    def user(self, user_hash: bytes | None) -> int | None:
        """The number that stands for a user in `add`."""
        return None if user_hash is None else self.users.setdefault(user_hash, len(self.users))

    def add(self, name: str, event: Mapping[str, Any], user: int | None, spec: RollupSpec) -> None:
        """Count one stored event under the name of its type (or OTHER)."""
        self.rows_of(name, spec).append(row_of(event, user))

    def rows_of(self, name: str, spec: RollupSpec) -> list[Row]:
        """Where the rows of a type gather, for who has many of them."""
        found = self.rows.get(name)
        if found is None:
            found = self.rows[name] = spec, []
        return found[1]

    def document(self) -> dict[str, Any]:
        """The rollups as `rollup_codec.encode_document` takes them."""
        return {
            "users": b64encode(b"".join(self.users)).decode(),
            "types": {name: _fold(rows, spec) for name, (spec, rows) in self.rows.items()},
            "ledger": self.ledger.to_json(),
        }


def row_of(event: Mapping[str, Any], user: int | None) -> Row:
    """What is counted of a stored event."""
    return user, event["occurred_at"], event.get("properties") or NOTHING, event.get("enrichment") or NOTHING


def _fold(rows: Sequence[Row], spec: RollupSpec) -> dict[str, Any]:
    users = [row[0] for row in rows]
    # In order of their names, as the codec reads them: a cell names no measure.
    columns = [column for name in sorted(spec.measures) if (column := _Column.of(name, rows)) is not None]
    rollup: dict[str, Any] = {
        "n": len(rows),
        "u": _distinct(users),
        "t": columns_of(Counter([row[1] // 60_000 % 60 for row in rows])),
    }
    if columns:
        rollup["m"] = {column.name: column.all() for column in columns}
    if spec.dimensions and (dimensions := _dimensions(frozenset(spec.dimensions), rows)):
        rollup["d"] = {
            name: {value: _cell(indexes, users, columns) for value, indexes in groups.items()}
            for name, groups in dimensions.items()
        }
    return rollup


def _dimensions(names: frozenset[str], rows: Sequence[Row]) -> dict[str, dict[str, list[int]]]:
    """The rows' numbers by dimension and value. Most events have few of a contract's dimensions."""
    found: dict[str, dict[str, list[int]]] = {name: {} for name in names}
    for index, (_, _, properties, enrichment) in enumerate(rows):
        for source in (properties, enrichment) if enrichment else (properties,):
            for name in names.intersection(source):
                value = source[name]
                if value is None or (source is enrichment and properties.get(name) is not None):
                    continue
                if value.__class__ is not str:
                    value = dimension_text(value)
                group = found[name].get(value)
                if group is not None:
                    group.append(index)
                else:
                    _begin(found[name], value, index)
    return {name: groups for name, groups in found.items() if groups}


def _begin(groups: dict[str, list[int]], value: str, index: int) -> None:
    """A value that has no group yet, or only under its first characters, or is one too many."""
    value = value[:MAX_DIMENSION_LENGTH]
    if value in groups or len(groups) < MAX_DIMENSION_VALUES:
        groups.setdefault(value, []).append(index)
    else:
        groups.setdefault(OTHER, []).append(index)


def _cell(indexes: Sequence[int], users: Sequence[int | None], columns: "Sequence[_Column]") -> list[Any]:
    if len(indexes) > 1:
        some_users = _distinct([users[index] for index in indexes])
        return [len(indexes), some_users, *[column.some(indexes) for column in columns]]
    index = indexes[0]
    user = users[index]
    return [1, [] if user is None else [user], *[column.one(index) for column in columns]]


def _distinct(users: Sequence[int | None]) -> list[int]:
    found = set(users)
    found.discard(None)
    return list(found)  # type: ignore[arg-type]


@dataclass(slots=True)
class _Column:
    """A measure's value in each row, and its quantile bucket; None where there is no number."""

    name: str
    values: list[float | None]
    buckets: list[int | None]

    @classmethod
    def of(cls, name: str, rows: Sequence[Row]) -> "_Column | None":
        found = [row[2].get(name) for row in rows]
        values = [
            float(v) if v.__class__ is float or v.__class__ is int else None  # sums of integers could pass 64 bits
            for v in found
        ]
        if not any(v is not None for v in values):
            return None
        return cls(name, values, [None if v is None else bucket_of(v) for v in values])

    def one(self, index: int) -> list[Any] | None:
        value = self.values[index]
        return None if value is None else [1, value, value, value, [[self.buckets[index]], [1]]]

    def some(self, indexes: Sequence[int]) -> list[Any] | None:
        values, buckets = self.values, self.buckets
        return _measure([values[i] for i in indexes], [buckets[i] for i in indexes])

    def all(self) -> list[Any] | None:
        return _measure(self.values, self.buckets)


def _measure(values: Sequence[float | None], buckets: Sequence[int | None]) -> list[Any] | None:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    counts = Counter(bucket for bucket in buckets if bucket is not None)
    return [len(numbers), finite(sum(numbers)), min(numbers), max(numbers), columns_of(counts)]


def dimension_text(value: object) -> str:
    """A dimension value as it is shown and filtered by."""
    if isinstance(value, str):
        return value[:MAX_DIMENSION_LENGTH]
    return orjson.dumps(value).decode()[:MAX_DIMENSION_LENGTH]
