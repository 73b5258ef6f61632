"""An hour folded exactly, however many values it has: those that are kept are the most frequent of the whole hour.

Its events are read in shares, and each value has its cell as long as memory holds them. Where it does not, the values
of the largest dimensions are only counted, by hash (base/tallies.py), and once it is known which are the most
frequent, the events are read again for the cells of these. So the same events, in any order and any shares, in little
memory or much, give the same rollups, bit by bit.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, Generic, TypeVar

from chalicelib.base.sums import from_units, units_of
from chalicelib.base.tallies import MAX_TALLIED, Most, Tally
from chalicelib.rollups.folding import Column, Names, Rows
from chalicelib.rollups.rollups import (
    BUCKET_BYTES,
    CELL_BYTES,
    MAX_DIMENSION_VALUES,
    MEASURE_BYTES,
    OTHER,
    SKETCH_BYTES,
    TYPE_BYTES,
    USER_BYTES,
    Cell,
    Measure,
    Rollup,
    Rollups,
    RollupSpec,
    Values,
    add_counts,
)
from chalicelib.rollups.sketches import MAX_BUCKETS

SHARE_EVENTS = 5_000  # folded at a time
MAX_HELD_BYTES = 256 * 1024 * 1024  # of memory, of cells; those that are kept in any case come on top

Columns = Sequence[tuple[Column, Sequence[Any]]]  # each with the same numbers in units of domain/sums
C = TypeVar("C", bound=Cell)
S = TypeVar("S", bound=Sized)  # some events


class EventsChanged(Exception):
    """The second reading of the events brought others than the first."""


class HourFold:
    """Add all events, and all of them again as long as `again` says so; then take the rollups."""

    def __init__(
        self,
        spec_of: Callable[[str], RollupSpec],
        is_named: Callable[[str], bool] = lambda _: True,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        """Types of which `is_named` is false have no contract, and may be too many to be told apart."""
        self._spec_of = spec_of
        self._is_named = is_named
        self._max_held_bytes = max_held_bytes
        self._share: dict[str, Rows] = {}
        self._events = 0
        self._read: int | None = None  # how many events the last pass had
        self._named: dict[str, _TypeFold] = {}
        self._unnamed: _Ranked[_TypeFold] = _Ranked(lambda: _TypeFold(RollupSpec()), TYPE_BYTES)

    def add(self, event_type: str, event: Mapping[str, Any], user_hash: bytes | None) -> None:
        """Count one stored event."""
        rows = self._share.get(event_type)
        if rows is None:
            rows = self._share[event_type] = Rows(self._spec_of(event_type))
        rows.add(event, user_hash)
        self._events += 1
        if self._events % SHARE_EVENTS == 0:
            self._take_share()

    def again(self) -> bool:
        """Return whether the same events must be added once more; raises EventsChanged when they were others."""
        self._take_share()
        if self._read is not None and self._events != self._read:
            raise EventsChanged(f"the events were {self._read} when first read, and {self._events} when read again")
        self._read, self._events = self._events, 0
        for type_fold in self._type_folds():
            type_fold.is_whole = True
        wanting = [ranked for ranked in self._ranked() if ranked.end_pass()]
        return bool(wanting)

    def rollups(self, names: Names | None = None) -> Rollups:
        """Return the rollups by event type, or as `names` says, to which the most frequent types are given first."""
        folded = {**self._named, **self._unnamed.cells}
        ranked = sorted(folded, key=lambda event_type: (-folded[event_type].count, event_type))
        named = names(ranked) if names else {}
        found = Rollups({name: folded[name].finished() for name in ranked if named.get(name, name) != OTHER})
        others = [folded[name] for name in ranked if name not in found]
        if others or self._unnamed.rest.count:
            found.missed = max([self._unnamed.missed, *(other.count for other in others)])
            for rollup in found.values():
                rollup.cleared = found.missed
            found[OTHER] = Rollup()
            for other in [*others, self._unnamed.rest]:
                found[OTHER].merge(Rollup(other.count, other.users, {}, other.minutes))
        return found

    def _take_share(self) -> None:
        share, self._share = self._share, {}
        unnamed = {}
        for event_type, rows in share.items():
            if self._is_named(event_type):
                if event_type not in self._named:
                    self._named[event_type] = _TypeFold(self._spec_of(event_type))
                self._named[event_type].take(rows)
            else:
                unnamed[event_type] = rows
        self._unnamed.take(unnamed, _TypeFold.take)
        self._bound()

    def _bound(self) -> None:
        """Let go the cells of the largest dimensions, as far as memory is short."""
        growing = [ranked for ranked in self._ranked() if ranked.is_growing]
        held_bytes = sum(ranked.held_bytes for ranked in growing)
        large = [ranked for ranked in growing if len(ranked.cells) > MAX_DIMENSION_VALUES]
        for ranked in sorted(large, key=lambda ranked: -ranked.held_bytes):
            if held_bytes <= self._max_held_bytes:
                break
            held_bytes -= ranked.held_bytes
            ranked.count_only()
        tallies = [ranked.tally for ranked in self._ranked() if ranked.tally]
        for tally in tallies:
            tally.most = MAX_TALLIED // len(tallies)

    def _type_folds(self) -> "Iterator[_TypeFold]":
        yield from self._named.values()
        yield from self._unnamed.cells.values()

    def _ranked(self) -> "Iterator[_Ranked[Any]]":
        yield self._unnamed
        for type_fold in self._type_folds():
            yield from type_fold.ranked.values()


class _Ranked(Generic[C]):
    """Cells by value; where those are too many, of the most frequent values, and one for the rest."""

    def __init__(self, make: Callable[[], C], cell_bytes: int) -> None:
        self.cells: dict[str, C] = {}
        self.rest = make()
        self.missed = 0  # how many events a value has at most that is in the rest
        self.is_growing = True
        self.held_bytes = 0
        self.tally: Tally | None = None  # while values are only counted
        self._make, self._cell_bytes = make, cell_bytes
        self._most: Most | None = None  # while the cells of those found are filled
        self._tied: dict[str, C] = {}  # of the values that are equally frequent, the first by name have the last places
        self._last: str | None = None  # values that come after it have none

    def take(self, groups: Mapping[str, S], put: Callable[[C, S], int]) -> None:
        """Add events by value; `put` adds some to a cell, and returns by how many bytes it has grown."""
        if self.is_growing:
            for value, some in groups.items():
                cell = self.cells.get(value)
                if cell is None:
                    cell = self.cells[value] = self._make()
                    self.held_bytes += self._cell_bytes
                self.held_bytes += put(cell, some)
        elif self.tally:
            self.tally.add((value, len(some)) for value, some in groups.items() if value != OTHER)
        elif self._most:
            for value, some in groups.items():
                put(self._cell(value, self._most), some)

    def count_only(self) -> None:
        """Let go the cells: until the end of this pass values are counted, and in the next the cells are filled."""
        self.is_growing = False
        self.tally = Tally()
        self.tally.add((value, cell.count) for value, cell in self.cells.items() if value != OTHER)
        self.cells = {}

    def end_pass(self) -> bool:
        """Return whether it needs the events again."""
        self.is_growing = False
        if self._most:
            self._trim(self._most.places)
            self.cells |= self._tied
            self._most = None
        elif self.tally:
            self._most = self.tally.most_frequent(MAX_DIMENSION_VALUES)
            self.missed = self._most.missed
            self.tally = None
        return self._most is not None

    def _cell(self, value: str, most: Most) -> C:
        """Return the value's cell, or that of the rest."""
        cell = self.cells.get(value) or self._tied.get(value)
        if cell is not None:
            return cell
        hashed = hash(value)
        if value == OTHER:
            return self.rest
        if hashed in most.above:
            cell = self.cells[value] = self._make()
            return cell
        if not most.places or (self._last is not None and value > self._last) or not most.is_tied(hashed):
            return self.rest
        if len(self._tied) >= 2 * most.places:
            self._trim(most.places)
            return self._cell(value, most)
        cell = self._tied[value] = self._make()
        return cell

    def _trim(self, places: int) -> None:
        """Keep the first by name of the tied values; these have all of their events: none was ever let go."""
        ordered = sorted(self._tied)
        for value in ordered[places:]:
            self.rest.merge(self._tied.pop(value))
        if len(ordered) >= places > 0:
            self._last = ordered[places - 1]


class _TypeFold(Rollup):
    """A rollup on its way; sums of measures are in units of domain/sums."""

    __slots__ = ("is_whole", "ranked")

    def __init__(self, spec: RollupSpec) -> None:
        super().__init__()
        self.is_whole = False  # once a pass is over: then only values may be missing
        self.ranked: dict[str, _Ranked[Cell]] = {name: _Ranked(Cell, CELL_BYTES) for name in spec.dimensions}

    def take(self, rows: Rows) -> int:
        """Add events; returns by how many bytes it has grown, its dimensions apart."""
        columns: Columns = [
            (column, [None if value is None else units_of(value) for value in column.values])
            for column in rows.columns()
        ]

        def put(cell: Cell, places: Sequence[int]) -> int:
            return _put(cell, places, rows.users, columns)

        for name, ranked in self.ranked.items():
            ranked.take(rows.values[name], put)
        if self.is_whole:
            return 0
        add_counts(self.minutes, Counter(rows.minutes))
        return put(self, range(len(rows)))

    def finished(self) -> Rollup:
        """Return the rollup, with sums as they are kept; this one is not to be used any more."""
        for name, ranked in self.ranked.items():
            for cell in ranked.cells.values():
                cell.cleared = ranked.missed
            values = Values(ranked.cells, ranked.missed)
            if ranked.rest.count:
                values[OTHER] = ranked.rest
            values.bound(MAX_DIMENSION_VALUES)
            if values:
                self.dimensions[name] = values
        for cell in (self, *(cell for values in self.dimensions.values() for cell in values.values())):
            for measure in cell.measures.values():
                measure.total = from_units(int(measure.total))
        return Rollup(self.count, self.users, self.measures, self.minutes, self.dimensions)


def _put(cell: Cell, places: Sequence[int], users: Sequence[bytes | None], columns: Columns) -> int:
    """Add the events at the places to a cell; returns by how many bytes it has grown."""
    cell.count += len(places)
    grown = -_users_bytes(cell)
    if found := {user for place in places if (user := users[place]) is not None}:
        cell.users.update(found)
    grown += _users_bytes(cell)
    for column, units in columns:
        measured = [place for place in places if units[place] is not None]
        if not measured:
            continue
        measure = cell.measures.get(column.name)
        if measure is None:
            measure = cell.measures[column.name] = Measure()
            grown += MEASURE_BYTES
        values = [column.values[place] for place in measured]
        measure.count += len(measured)
        measure.total += sum([units[place] for place in measured])
        measure.low, measure.high = min(measure.low, min(values)), max(measure.high, max(values))
        before = len(measure.buckets)
        add_counts(measure.buckets, Counter([column.buckets[place] for place in measured]))
        measure.collapse(MAX_BUCKETS)
        grown += BUCKET_BYTES * (len(measure.buckets) - before)
    return grown


def _users_bytes(cell: Cell) -> int:
    return SKETCH_BYTES if cell.users.registers is not None else USER_BYTES * len(cell.users.hashes)
