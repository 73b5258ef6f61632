"""How an hour goes from its live items to closed ones without a reader seeing a count twice or not at all.

Deltas are merged into *epochs*. Closing an hour *freezes* the epoch: from then on deltas that are late are merged into
the next one, so what the epoch holds does not change any more. Then the closed items are written, each of which says
up to which epoch it *covers* the hour; a reader takes a closed item and adds the live items of later epochs only.
Closing is done again when a later epoch has something, and each step may be repeated.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HourState:
    """`frozen` is the last epoch that takes nothing more, -1 before the first; `touched` changes with each merge.

    `closed` is the epoch up to which all closed items cover the hour, since `closed_at` (epoch seconds).
    """

    project: str
    hour: str
    frozen: int = -1
    touched: str = ""
    closed: int = -1
    closed_at: int = 0

    @property
    def epoch(self) -> int:
        """The epoch that deltas are merged into."""
        return self.frozen + 1
