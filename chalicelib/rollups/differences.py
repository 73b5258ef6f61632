"""By which numbers what readers are shown differs from what the events of the lake add up to.

Two rollups of the same events need not be the same bytes: sums depend on the order of addition, and what does not fit
an item counts rare values, or low buckets, together. Such are no differences, as long as the values that are told apart
are the most frequent ones, with all of their events, and those that are not are no more frequent than is said.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from chalicelib.rollups.rollups import OTHER, Cell, Measure, Rollup, Values, frequency
from chalicelib.rollups.sketches import collapse, raise_to

ROUNDING = 1e-9  # of a sum, relative to its summands; doubles have 16 digits
NOTHING, NO_VALUES = Cell(), Measure()

Number = float | int
Unequal = tuple[str, Number, Number]  # which number, as it is shown, as it is stored


@dataclass(frozen=True, slots=True)
class Difference:
    """One number that is not what the lake says; `start` is the hour or day of the item that has it."""

    start: str
    event_type: str
    facet: str
    number: str
    shown: Number
    stored: Number


def unequal(shown: Rollup, stored: Rollup) -> Iterator[Unequal]:
    """Yield every number of a facet that is shown otherwise than it is stored."""
    yield from _cell("", shown, stored)
    for minute in sorted({*shown.minutes, *stored.minutes}):
        before, now = shown.minutes.get(minute, 0), stored.minutes.get(minute, 0)
        if before != now:
            yield f"minute {minute}", before, now
    for name in sorted({*shown.dimensions, *stored.dimensions}):
        yield from _values(name, shown.dimensions.get(name, Values()), stored.dimensions.get(name, Values()))


def _values(name: str, shown: Values, stored: Values) -> Iterator[Unequal]:
    told = {*shown, *stored} - {OTHER}
    least = min((frequency(cell) for value, cell in shown.items() if value != OTHER), default=math.inf)
    left_out = stored.missed  # how frequent a value may be that is not shown
    doubts: list[tuple[int, int]] = []
    compared = set()
    for value in sorted(told):
        if value not in shown:
            count = frequency(stored[value])
            most = count + stored.doubt(value)
            left_out = max(left_out, most)
            if most <= shown.missed and count <= least:
                continue
        elif value not in stored:
            if frequency(shown[value]) + shown.doubt(value) <= stored.missed:
                continue
        else:
            doubts.append((shown.doubt(value), stored.doubt(value)))
        compared.add(value)
        yield from _cell(f"{name}={value} ", shown.get(value, NOTHING), stored.get(value, NOTHING))
    yield from _cell(f"{name}={OTHER} ", _rest(shown, compared), _rest(stored, compared))
    if any(one != other for one, other in doubts):
        yield f"{name} doubt", sum(one for one, _ in doubts), sum(other for _, other in doubts)
    if shown.missed > left_out:
        yield f"{name} missed", shown.missed, left_out


def _rest(values: Mapping[str, Cell], named: set[str]) -> Cell:
    rest = Cell()
    for value, cell in values.items():
        if value not in named:
            rest.merge(cell)
    return rest


def _cell(of: str, shown: Cell, stored: Cell) -> Iterator[Unequal]:
    if shown.count != stored.count:
        yield f"{of}count", shown.count, stored.count
    if shown.users.to_bytes() != stored.users.to_bytes():
        yield f"{of}users", shown.users.estimate(), stored.users.estimate()
    for name in sorted({*shown.measures, *stored.measures}):
        before, now = shown.measures.get(name, NO_VALUES), stored.measures.get(name, NO_VALUES)
        for number, difference in _measure(before, now):
            yield f"{of}{number} {name}", *difference


def _measure(shown: Measure, stored: Measure) -> Iterator[tuple[str, tuple[Number, Number]]]:
    if shown.count != stored.count:
        yield "values", (shown.count, stored.count)
    if not (shown.count and stored.count):
        return
    largest = max(map(abs, (shown.low, shown.high, stored.low, stored.high)))
    if abs(shown.total - stored.total) > ROUNDING * largest * max(shown.count, stored.count):
        yield "sum", (shown.total, stored.total)
    if shown.low != stored.low:
        yield "min", (shown.low, stored.low)
    if shown.high != stored.high:
        yield "max", (shown.high, stored.high)
    if not _same_buckets(shown, stored):
        yield "buckets", (sum(shown.buckets.values()), sum(stored.buckets.values()))


def _same_buckets(shown: Measure, stored: Measure) -> bool:
    one, other = dict(shown.buckets), dict(stored.buckets)
    if not (one and other):
        return one == other
    floor = max(shown.floor, stored.floor)
    raise_to(one, floor)
    raise_to(other, floor)
    if len(one) != len(other):  # an older version did not say up to where it had counted them together
        most = min(len(one), len(other))
        collapse(one, most)
        collapse(other, most)
    return one == other
