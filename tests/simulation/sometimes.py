"""What some history has to reach: a simulation that reaches nothing proves nothing."""

from collections import Counter

ENOUGH_SEEDS = 300  # with so many, everything is reached
MUST: tuple[str, ...] = ()


def unreached(reached: Counter[str]) -> list[str]:
    """What was to be reached, and was not."""
    return [what for what in MUST if not reached[what]]
