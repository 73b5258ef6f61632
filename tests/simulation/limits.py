"""Bounds of the app made so small that short histories meet them: what is cut, shared out or put off is tried, too.

A bound that the code has no longer is passed over here, and named by tests/simulation/test_parts.py.
"""

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SMALL = {
    "BATCH_ROWS": 3,
    "COMPARED_IDS": 2,
    "SHARE_EVENTS": 2,
    "MAX_BATCH_ITEMS": 2,
    "MAX_DIMENSION_VALUES": 3,
    "MAX_FOLD": 3,
    "MAX_FRAME_BYTES": 900,
    "MAX_HELD": 3,
    "MAX_HOURS": 1,
    "MAX_KNOWN_LINKS": 1,
    "MAX_LISTED_HOURS": 1,
    "MAX_MARKS": 1,
    "MAX_MERGE": 2,
    "MAX_PUT_RECORDS": 2,
    "MAX_SHARE_BYTES": 20_000,
    "MIN_SLICE_ROWS": 2,
    "PART_ROWS": 2,
    "PIECE_MINUTES": 2,
    "RANGE_DAYS": 1,
    "RANGE_ROWS": 2,
    "ROWS_AT_ONCE": 2,
    "SAMPLE_ROWS": 1,
    "SHARE_BYTES": 2000,
    "SLICE_ROWS": 3,
    "MAX_HELD_BYTES": 4000,
}
OFTEN = 0.3  # of histories have some


def draw(rnd: random.Random) -> dict[str, int]:
    """The small bounds of a history."""
    if rnd.random() > OFTEN:
        return {}
    return {name: value for name, value in SMALL.items() if rnd.random() < 0.5}


@contextmanager
def small(bounds: Mapping[str, int]) -> Iterator[None]:
    """Have every module of the app use these."""
    before = [
        (module, name, getattr(module, name))
        for module_name, module in (list(sys.modules.items()) if bounds else ())
        if module_name.startswith("chalicelib.")
        for name in bounds
        if isinstance(getattr(module, name, None), int)
    ]
    try:
        for module, name, _ in before:
            setattr(module, name, bounds[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
