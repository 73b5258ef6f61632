"""What is kept of an hour: per event type the count, the users, the measures and the minutes, and all but the last
again for each value of a dimension.

A rollup is folded from events (domain/folding.py), merges with others (associative and commutative), and travels as
bytes (domain/rollup_codec.py).
"""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from chalicelib.domain.ledger import Ledger
from chalicelib.domain.sketches import MAX_BUCKETS, Uniques, collapse

MAX_DIMENSION_VALUES = 1000  # per dimension, type and item; the rest is counted under OTHER, so an item stays bounded
# Held while hours are added up: a value that is rare in each of them may be frequent in all. It bounds memory.
MAX_HELD_VALUES = 20 * MAX_DIMENSION_VALUES
OTHER = "(other)"

Key = TypeVar("Key", int, str)


@dataclass(slots=True)
class Measure:
    """Count, sum, extremes and quantile buckets of one numeric property."""

    count: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    buckets: dict[int, int] = field(default_factory=dict)

    def merge(self, other: "Measure") -> None:
        """Take in the values of another."""
        self.count += other.count
        self.total = finite(self.total + other.total)
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        add_counts(self.buckets, other.buckets)
        collapse(self.buckets, MAX_BUCKETS)


@dataclass(slots=True)
class Cell:
    """Some events of one type: how many, whose, and what they measured."""

    count: int = 0
    users: Uniques = field(default_factory=Uniques)
    measures: dict[str, Measure] = field(default_factory=dict)

    def merge(self, other: "Cell") -> None:
        """Take in other events of the same type."""
        self.count += other.count
        self.users.merge(other.users)
        for name, measure in other.measures.items():
            mine = self.measures.get(name)
            if mine is None:
                mine = self.measures[name] = Measure()
            mine.merge(measure)


@dataclass(slots=True)
class Rollup(Cell):
    """One event type in one hour (or, once merged, in any span of time)."""

    minutes: dict[int, int] = field(default_factory=dict)  # minute of the hour -> events
    dimensions: dict[str, dict[str, Cell]] = field(default_factory=dict)  # dimension -> value -> its events

    def merge(self, other: Cell) -> None:
        """Take in another rollup of the same type."""
        Cell.merge(self, other)
        if isinstance(other, Rollup):
            add_counts(self.minutes, other.minutes)
            for name, values in other.dimensions.items():
                merge_values(self.dimensions.setdefault(name, {}), values)


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


def merge_all(parts: Iterable[Rollups]) -> Rollups:
    """The sum of rollups by event type; the parts are left as they are."""
    merged = Rollups()
    for part in parts:
        merged.ledger.merge(part.ledger)
        for event_type, rollup in part.items():
            merged.setdefault(event_type, Rollup()).merge(rollup)
    return merged


def merge_values(into: dict[str, Cell], more: Mapping[str, Cell]) -> None:
    """Add a dimension's values to those of another share; who encodes or shows them bounds them."""
    for value, cell in more.items():
        mine = into.get(value)
        if mine is None:
            mine = into[value] = Cell()
        mine.merge(cell)
    if len(into) > MAX_HELD_VALUES:
        bound(into, MAX_HELD_VALUES // 2)


def bound(values: dict[str, Cell], most_values: int) -> None:
    """Keep the most frequent values of a dimension and count the rest together."""
    if len(values) - (OTHER in values) <= most_values:
        return
    other = Cell()  # a new one: the values may be another's as well
    if OTHER in values:
        other.merge(values.pop(OTHER))
    ranked = sorted(values.items(), key=lambda pair: (-frequency(pair[1]), pair[0]))
    values.clear()
    values.update(ranked[:most_values])
    for _, cell in ranked[most_values:]:
        other.merge(cell)
    values[OTHER] = other


def frequency(cell: Cell) -> int:
    """How many events, or what is kept of them: values of a measure, or users."""
    measured = (measure.count for measure in cell.measures.values())
    return cell.count or max(measured, default=0) or cell.users.estimate()


def finite(total: float) -> float:
    """A sum that JSON can keep: the largest float stands for what is beyond it."""
    return max(-sys.float_info.max, min(sys.float_info.max, total))


def add_counts(into: dict[Key, int], more: Mapping[Key, int]) -> None:
    """Add counts by key."""
    if not into:
        into.update(more)
        return
    for key, count in more.items():
        into[key] = into.get(key, 0) + count
