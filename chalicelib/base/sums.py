"""Sums of floats that depend on the summands alone, neither on their order nor on the shares they came in.

A sum is the exact one, rounded once. Between shares it is held in units of 2**-1074, the smallest float, as a whole
number, which is exact however large and small summands meet.
"""

import math
import sys
from collections.abc import Sequence

_UNIT_BITS = 1074
_UNITS_OF_ONE = 1 << _UNIT_BITS
_LARGEST = sys.float_info.max


def units_of(value: float) -> int:
    """Return a finite float in units."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_UNIT_BITS + 1 - denominator.bit_length())


def from_units(units: int) -> float:
    """Return the float next to so many units; the largest one stands for what is beyond it."""
    try:
        return units / _UNITS_OF_ONE
    except OverflowError:
        return _LARGEST if units > 0 else -_LARGEST


def exact_sum(values: Sequence[float]) -> float:
    """Return the sum of finite floats."""
    try:
        return math.fsum(values)
    except OverflowError:  # raised of a partial sum, so whether it is depends on the order
        return from_units(sum(map(units_of, values)))
