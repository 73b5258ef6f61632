"""Sets of positions on a line of numbers, as spans: a union says the same however often something is added."""

from collections.abc import Iterable
from dataclasses import dataclass, field

Span = tuple[int, int]  # the first position, and the one after the last


@dataclass(slots=True, eq=False)
class Spans:
    """A set of positions, and beside it how many there are of which only the number is kept."""

    added: list[Span] = field(default_factory=list)  # in any order until they are joined
    uncertain: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and (self.joined(), self.uncertain) == (other.joined(), other.uncertain)

    def joined(self) -> list[Span]:
        """Return the positions as the fewest spans, in order."""
        self.added = join(self.added)
        return self.added

    def merge(self, other: "Spans") -> None:
        """Take in another set. Positions of both are there once; those of which only the number is known add up."""
        self.added = self.added + other.added
        self.uncertain += other.uncertain

    def to_json(self) -> list[int]:
        """The number that is uncertain, then by span how far it is from the one before, and how long; [] if empty."""
        numbers = [self.uncertain]
        end = 0
        for start, stop in self.joined():
            numbers += (start - end, stop - start)
            end = stop
        return numbers if len(numbers) > 1 or self.uncertain else []

    @classmethod
    def from_json(cls, numbers: list[int]) -> "Spans":
        """Return the inverse of `to_json`."""
        added = []
        end = 0
        for gap, length in zip(numbers[1::2], numbers[2::2], strict=True):
            start = end + gap
            end = start + length
            added.append((start, end))
        return cls(added, numbers[0] if numbers else 0)


def join(spans: Iterable[Span]) -> list[Span]:
    """Return the same positions as the fewest spans, in order."""
    joined: list[Span] = []
    first, last = 0, -1
    for start, end in sorted(spans):
        if start > last:
            if last > first:
                joined.append((first, last))
            first, last = start, end
        elif end > last:
            last = end
    if last > first:
        joined.append((first, last))
    return joined


def size(joined: Iterable[Span]) -> int:
    """Return how many positions there are in spans that do not overlap."""
    return sum(end - start for start, end in joined)


def size_from(joined: Iterable[Span], least: int) -> int:
    """Return how many of the positions are not below `least`."""
    return sum(end - max(start, least) for start, end in joined if end > least)
