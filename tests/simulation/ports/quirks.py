"""What a service may do within its contract, and seldom does: small pages, late indexes, work left undone."""

from typing import TypeVar

Entry = TypeVar("Entry")


class Quirks:
    """Nothing out of the ordinary; the simulation's are drawn by the seed."""

    def page(self, most: int) -> int:
        """How many of at most so many entries a page holds."""
        return most

    def lag_seconds(self) -> float:
        """By how much an index is behind its table, for the next write."""
        return 0.0

    def late_read(self) -> None:
        """A table was read without asking for what is there now."""

    def left_undone(self, count: int) -> int:
        """How many of a batch's last requests are given back."""
        return 0

    def shuffled(self, entries: list[Entry]) -> list[Entry]:
        """The order in which a queue gives out what is in it."""
        return entries


ORDINARY = Quirks()
