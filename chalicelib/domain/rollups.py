"""What is kept of an hour: per event type the count, the users, the minutes, the measures and the dimensions.

A rollup is folded from events, merges with others (associative and commutative), and travels as bytes.
"""

import math
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from isal import isal_zlib

from chalicelib.domain.ledger import Ledger
from chalicelib.domain.sketches import MAX_BUCKETS, Uniques, bucket_of, collapse

MAX_DIMENSION_VALUES = 1000  # per dimension, type and item; the rest is counted under OTHER, so an item stays bounded
MAX_DIMENSION_LENGTH = 128  # characters of a value that are kept
MAX_ITEM_BYTES = 350 * 1024  # of encoded rollups; DynamoDB allows 400 KB with names and keys
OTHER = "(other)"

Key = TypeVar("Key", int, str)


@dataclass(slots=True)
class Measure:
    """Count, sum, extremes and quantile buckets of one numeric property."""

    count: int = 0
    total: float = 0
    low: float = math.inf
    high: float = -math.inf
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, value: float) -> None:
        value = float(value)  # sums of integers could pass the 64 bits that JSON keeps
        self.count += 1
        self.total = _finite(self.total + value)
        self.low = min(self.low, value)
        self.high = max(self.high, value)
        bucket = bucket_of(value)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        if len(self.buckets) > 2 * MAX_BUCKETS:
            collapse(self.buckets, MAX_BUCKETS)

    def merge(self, other: "Measure") -> None:
        self.count += other.count
        self.total = _finite(self.total + other.total)
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        _add_counts(self.buckets, other.buckets)
        collapse(self.buckets, MAX_BUCKETS)


@dataclass(slots=True)
class Rollup:
    """One event type in one hour (or, once merged, in any span of time)."""

    count: int = 0
    users: Uniques = field(default_factory=Uniques)
    minutes: dict[int, int] = field(default_factory=dict)  # minute of the hour -> events
    measures: dict[str, Measure] = field(default_factory=dict)
    dimensions: dict[str, dict[str, int]] = field(default_factory=dict)

    def merge(self, other: "Rollup") -> None:
        """Take in another rollup of the same type."""
        self.count += other.count
        self.users.merge(other.users)
        _add_counts(self.minutes, other.minutes)
        for name, measure in other.measures.items():
            self.measures.setdefault(name, Measure()).merge(measure)
        for name, values in other.dimensions.items():
            mine = self.dimensions.setdefault(name, {})
            _add_counts(mine, values)
            _bound(mine, MAX_DIMENSION_VALUES)


class Rollups(dict[str, Rollup]):
    """An hour's rollups by event type and, beside them, the ledger of what was received in it."""

    __slots__ = ("ledger",)

    def __init__(self, types: Mapping[str, Rollup] | None = None, ledger: Ledger | None = None) -> None:
        super().__init__(types or {})
        self.ledger = ledger or Ledger()


@dataclass(frozen=True, slots=True)
class RollupSpec:
    """Which top-level properties of an event type are rolled up."""

    dimensions: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()


def fold_event(
    rollups: Rollups, name: str, event: Mapping[str, Any], user_hash: bytes | None, spec: RollupSpec
) -> None:
    """Count one stored event under the name of its type (or OTHER) into the rollups of its hour."""
    rollup = rollups.get(name)
    if rollup is None:
        rollup = rollups[name] = Rollup()
    rollup.count += 1
    if user_hash is not None:
        rollup.users.add(user_hash)
    minute = event["occurred_at"] // 60_000 % 60
    rollup.minutes[minute] = rollup.minutes.get(minute, 0) + 1
    properties = event.get("properties") or {}
    enrichment = event.get("enrichment") or {}
    for name in spec.measures:
        value = properties.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            rollup.measures.setdefault(name, Measure()).add(value)
    for name in spec.dimensions:
        value = properties.get(name)
        if value is None:
            value = enrichment.get(name)
        if value is not None:
            values = rollup.dimensions.setdefault(name, {})
            text = dimension_text(value)
            if text not in values and len(values) >= MAX_DIMENSION_VALUES:
                text = OTHER
            values[text] = values.get(text, 0) + 1


def dimension_text(value: object) -> str:
    """A dimension value as it is shown and filtered by."""
    if isinstance(value, str):
        return value[:MAX_DIMENSION_LENGTH]
    return orjson.dumps(value).decode()[:MAX_DIMENSION_LENGTH]


def merge_all(parts: Iterable[Rollups]) -> Rollups:
    """The sum of rollups by event type; the parts are left as they are."""
    merged = Rollups()
    for part in parts:
        merged.ledger.merge(part.ledger)
        for event_type, rollup in part.items():
            merged.setdefault(event_type, Rollup()).merge(rollup)
    return merged


def encode(rollups: Rollups) -> bytes:
    """Rollups as compressed JSON that fits an item; the same rollups give the same bytes.

    Where they would not fit, they are reduced: rare values of the dimensions are counted as OTHER, low values of the
    measures together, and at last rare types as OTHER. The count of all events stays exact.
    """
    data = _encode(rollups)
    for most_values, most_buckets in ((200, MAX_BUCKETS), (50, 1024), (10, 512), (0, 128)):
        if len(data) <= MAX_ITEM_BYTES:
            break
        for rollup in rollups.values():
            for values in rollup.dimensions.values():
                _bound(values, most_values)
            for measure in rollup.measures.values():
                collapse(measure.buckets, most_buckets)
        data = _encode(rollups)
    while len(data) > MAX_ITEM_BYTES and len(rollups) > 1:
        _bound_types(rollups, len(rollups) // 2)
        data = _encode(rollups)
    return data


def _encode(rollups: Rollups) -> bytes:
    return isal_zlib.compress(
        orjson.dumps(
            {"types": {k: _to_json(rollup) for k, rollup in rollups.items()}, "ledger": rollups.ledger.to_json()},
            option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS,
        ),
        1,
    )


def decode(data: bytes) -> Rollups:
    """The inverse of `encode`."""
    document = orjson.loads(isal_zlib.decompress(data))
    types = {name: _from_json(rollup) for name, rollup in document["types"].items()}
    return Rollups(types, Ledger.from_json(document["ledger"]))


def _to_json(rollup: Rollup) -> dict[str, Any]:
    return {
        "n": rollup.count,
        "u": b64encode(rollup.users.to_bytes()).decode(),
        "t": rollup.minutes,
        "m": {k: [m.count, m.total, m.low, m.high, m.buckets] for k, m in rollup.measures.items()},
        "d": rollup.dimensions,
    }


def _from_json(data: dict[str, Any]) -> Rollup:
    return Rollup(
        count=data["n"],
        users=Uniques.from_bytes(b64decode(data["u"])),
        minutes={int(k): v for k, v in data["t"].items()},
        measures={
            name: Measure(count, total, low, high, {int(k): v for k, v in buckets.items()})
            for name, (count, total, low, high, buckets) in data["m"].items()
        },
        dimensions=data["d"],
    )


def _bound_types(rollups: Rollups, most_types: int) -> None:
    """Count the rarest types together, first those without dimensions and measures, which have no contract."""
    other = rollups.pop(OTHER, Rollup())

    def worth(pair: tuple[str, Rollup]) -> tuple[bool, int]:
        return bool(pair[1].dimensions or pair[1].measures), pair[1].count

    for name, rollup in sorted(rollups.items(), key=worth)[: max(len(rollups) - most_types, 0)]:
        other.merge(rollup)
        del rollups[name]
    rollups[OTHER] = other


def _finite(total: float) -> float:
    """A sum that JSON can keep: the largest float stands for what is beyond it."""
    return max(-sys.float_info.max, min(sys.float_info.max, total))


def _add_counts(into: dict[Key, int], more: Mapping[Key, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count


def _bound(values: dict[str, int], most_values: int) -> None:
    """Keep the most frequent values of a dimension and count the rest together."""
    if len(values) - (OTHER in values) <= most_values:
        return
    other = values.pop(OTHER, 0)
    ranked = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
    values.clear()
    values.update(ranked[:most_values])
    values[OTHER] = other + sum(count for _, count in ranked[most_values:])
