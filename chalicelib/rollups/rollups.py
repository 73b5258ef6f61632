"""What is kept of an hour: per event type the count, the users, the measures and the minutes, and all but the last
again for each value of a dimension.

A rollup is folded from events (rollups/folding.py), merges with others (associative and commutative), and travels as
bytes (rollups/codec.py).

Of a dimension, and of the types, only the most frequent are told apart; the others are counted together as OTHER. What
is left out of one share may be named in another, so that its count there is of a part of its events only. Each share
therefore says of how many events a value that it does not name may be at most, its `missed`. In a merge these add up,
but not for the values that a share names: their cells remember how much of it they are `cleared` of. So every value has
a count and a `doubt`, and its true count lies between the count and the sum of both: the summaries of Misra and Gries
1982, merged as in Agarwal et al. 2013, with a bound of its own for each value.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from chalicelib.rollups.ledger import Ledger
from chalicelib.rollups.sketches import MAX_BUCKETS, NO_FLOOR, Uniques, collapse

MAX_DIMENSION_VALUES = 1000  # per dimension, type and item; the rest is counted under OTHER, so an item stays bounded
# Held while shares are added up: a value that is rare in each of them may be frequent in all. It bounds memory.
MAX_HELD_VALUES = 20 * MAX_DIMENSION_VALUES
OTHER = "(other)"
MAX_MERGED_BYTES = 96 * 1024 * 1024  # of memory, of what `merge_all` holds; what is kept in any case comes on top
# What objects take in memory, with their places in dictionaries and sets, measured and rounded up; a test holds them
# against tracemalloc. Bytes of JSON, or of what it is packed into, say little of it.
TYPE_BYTES, CELL_BYTES, MEASURE_BYTES, USER_BYTES, SKETCH_BYTES, BUCKET_BYTES = 2_500, 550, 750, 160, 2_200, 120

Key = TypeVar("Key", int, str)


@dataclass(slots=True)
class Measure:
    """Count, sum, extremes and quantile buckets of one numeric property.

    Values below the bucket `floor` may be counted in it: a quantile that is found there, or below, is at most so large.
    """

    count: int = 0
    total: float = 0
    low: float = math.inf
    high: float = -math.inf
    buckets: dict[int, int] = field(default_factory=dict)
    floor: int = NO_FLOOR

    def merge(self, other: "Measure") -> None:
        """Take in the values of another."""
        self.count += other.count
        self.total = finite(self.total + other.total)
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        add_counts(self.buckets, other.buckets)
        self.floor = max(self.floor, other.floor)
        self.collapse(MAX_BUCKETS)

    def collapse(self, most_buckets: int) -> bool:
        """Count the lowest values together where they lie in more buckets; returns whether they do."""
        if len(self.buckets) <= most_buckets:
            return False
        self.floor = max(self.floor, collapse(self.buckets, most_buckets))
        return True


@dataclass(slots=True)
class Cell:
    """Some events of one type: how many, whose, and what they measured.

    `cleared` is how much of what the whole it belongs to has `missed` cannot be of these.
    """

    count: int = 0
    users: Uniques = field(default_factory=Uniques)
    measures: dict[str, Measure] = field(default_factory=dict)
    cleared: int = field(default=0, kw_only=True)

    def merge(self, other: "Cell") -> None:
        """Take in other events of the same type, and of the same value."""
        self.count += other.count
        self.cleared += other.cleared
        self.users.merge(other.users)
        for name, measure in other.measures.items():
            mine = self.measures.get(name)
            if mine is None:
                mine = self.measures[name] = Measure()
            mine.merge(measure)

    def weight_bytes(self) -> int:
        """Return how much memory it takes, at most."""
        users = SKETCH_BYTES if self.users.registers is not None else USER_BYTES * len(self.users.hashes)
        buckets = sum([len(measure.buckets) for measure in self.measures.values()])
        return CELL_BYTES + users + MEASURE_BYTES * len(self.measures) + BUCKET_BYTES * buckets


class Values(dict[str, Cell]):
    """A dimension's values and their events, and of how many events a value that is not named may be at most.

    Cells are not changed in place but by `merge` and `bound`; who builds values of another's cells only reads them.
    """

    __slots__ = ("missed",)

    def __init__(self, cells: Mapping[str, Cell] | Iterable[tuple[str, Cell]] = (), missed: int = 0) -> None:
        super().__init__(cells)
        self.missed = missed

    def doubt(self, value: str) -> int:
        """Return by how many events more than are told the value may be at most; 0 where its count is exact."""
        if value == OTHER:
            return 0  # it is what it is
        return self.missed - self[value].cleared if value in self else self.missed

    def merge(self, more: "Values") -> None:
        """Add the values of another share; who encodes or shows them bounds them."""
        for value, cell in more.items():
            mine = self.get(value)
            if mine is None:
                mine = self[value] = Cell()
            mine.merge(cell)
        self.missed += more.missed
        if len(self) > MAX_HELD_VALUES:
            self.bound(MAX_HELD_VALUES // 2)

    def bound(self, most_values: int) -> bool:
        """Keep the most frequent values, of equally frequent ones the first by name, and count the rest together.

        Returns whether there were more of them.
        """
        if len(self) - (OTHER in self) <= most_values:
            return False
        other = Cell()  # a new one: the cells may be another's as well
        if OTHER in self:
            other.merge(self.pop(OTHER))
        ranked = sorted(self.items(), key=lambda pair: (-frequency(pair[1]), pair[0]))
        most = max(frequency(cell) + self.doubt(value) for value, cell in ranked[most_values:])
        more = max(most - self.missed, 0)
        self.clear()
        for value, cell in ranked[:most_values]:
            self[value] = replace(cell, cleared=cell.cleared + more) if more else cell
        for _, cell in ranked[most_values:]:
            other.merge(cell)
        self[OTHER] = other
        self.missed += more
        return True


@dataclass(slots=True)
class Rollup(Cell):
    """One event type in one hour (or, once merged, in any span of time)."""

    minutes: dict[int, int] = field(default_factory=dict)  # minute of the hour -> events
    dimensions: dict[str, Values] = field(default_factory=dict)

    def merge(self, other: Cell) -> None:
        """Take in another rollup of the same type."""
        Cell.merge(self, other)
        if isinstance(other, Rollup):
            add_counts(self.minutes, other.minutes)
            for name, values in other.dimensions.items():
                self.dimensions.setdefault(name, Values()).merge(values)

    def weight_bytes(self) -> int:
        """Return how much memory it takes, at most."""
        cells = (cell for values in self.dimensions.values() for cell in values.values())
        return TYPE_BYTES + Cell.weight_bytes(self) + sum(cell.weight_bytes() for cell in cells)


class Rollups(dict[str, Rollup]):
    """An hour's rollups by event type and, beside them, the ledger of what was received in it.

    `missed` is to the types what it is to the values of a dimension. `weight_bytes` is how much memory they take at
    most, where that is known without counting.
    """

    __slots__ = ("ledger", "missed", "weight_bytes")

    def __init__(
        self, types: Mapping[str, Rollup] | None = None, ledger: Ledger | None = None, missed: int = 0
    ) -> None:
        super().__init__(types or {})
        self.ledger = ledger or Ledger()
        self.missed = missed
        self.weight_bytes = 0

    def shed(self, most_bytes: int) -> None:
        """Keep fewer values where it takes more memory than that, in no case fewer than an item keeps."""
        self.weight_bytes = sum(rollup.weight_bytes() for rollup in self.values())
        most_values = MAX_HELD_VALUES
        while self.weight_bytes > most_bytes and most_values > MAX_DIMENSION_VALUES:
            most_values = max(most_values // 2, MAX_DIMENSION_VALUES)
            for rollup in self.values():
                for values in rollup.dimensions.values():
                    values.bound(most_values)
            self.weight_bytes = sum(rollup.weight_bytes() for rollup in self.values())

    def doubt(self, event_type: str) -> int:
        """Return by how many events more than are told the type may be at most; 0 where its count is exact."""
        if event_type == OTHER:
            return 0
        return self.missed - self[event_type].cleared if event_type in self else self.missed

    def bound(self, most_types: int) -> None:
        """Keep the most frequent types, those with dimensions or measures first, and count the rest together.

        What has neither has no contract.
        """
        if len(self) - (OTHER in self) <= most_types:
            return
        other = Rollup()
        if OTHER in self:
            other.merge(self.pop(OTHER))
        ranked = sorted(
            self.items(), key=lambda pair: (not (pair[1].dimensions or pair[1].measures), -pair[1].count, pair[0])
        )
        most = max(rollup.count + self.doubt(name) for name, rollup in ranked[most_types:])
        more = max(most - self.missed, 0)
        self.clear()
        for name, rollup in ranked[:most_types]:
            self[name] = replace(rollup, cleared=rollup.cleared + more)
        for _, rollup in ranked[most_types:]:
            other.merge(Rollup(rollup.count, rollup.users, {}, rollup.minutes))
        self[OTHER] = other
        self.missed += more


@dataclass(frozen=True, slots=True)
class RollupSpec:
    """Which top-level properties of an event type are rolled up."""

    dimensions: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()


def merge_all(parts: Iterable[Rollups]) -> Rollups:
    """Return the sum of rollups by event type; the parts are left as they are, and one at a time is looked at.

    Where the sum would take more than MAX_MERGED_BYTES of memory, rare values are counted together before the end.
    """
    merged = Rollups()
    for part in parts:
        merged.ledger.merge(part.ledger)
        merged.missed += part.missed
        for event_type, rollup in part.items():
            merged.setdefault(event_type, Rollup()).merge(rollup)
        merged.weight_bytes += part.weight_bytes
        if merged.weight_bytes > MAX_MERGED_BYTES:
            merged.shed(MAX_MERGED_BYTES // 2)
    return merged


def frequency(cell: Cell) -> int:
    """Return how many events, or what is kept of them: values of a measure, or users."""
    measured = (measure.count for measure in cell.measures.values())
    return cell.count or max(measured, default=0) or cell.users.estimate()


def finite(total: float) -> float:
    """A sum that JSON can keep: the largest float stands for what is beyond it. Sums in units are left as they are."""
    return total if total.__class__ is int else max(-sys.float_info.max, min(sys.float_info.max, total))


def add_counts(into: dict[Key, int], more: Mapping[Key, int]) -> None:
    """Add counts by key."""
    if not into:
        into.update(more)
        return
    for key, count in more.items():
        into[key] = into.get(key, 0) + count
