"""The ledger: what became of every event received, per project and hour of receipt.

received = stored + duplicate + quarantined + erased + in flight. The left side is counted at the edge, the right side
where chunks come out of the events table's stream, so an event that is lost between the two stays in flight, visibly.

Each container of the edge counts what it received in totals that only grow. A `Receipt` is a container's totals at one
moment: the largest one seen is the latest, however often and in whatever order receipts come. Receipts travel with
the messages and are put beside the rollups once a second, so counting costs no write per event, and a count that was
not put before its container died still comes with its messages.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any


@dataclass(frozen=True, slots=True)
class Receipt:
    """A container's totals of one project and hour."""

    container: str
    received: int = 0  # all that were judged
    quarantined: int = 0  # of them
    repeated: int = 0  # of them: the same event again in the same request
    refused: int = 0  # of them: neither queue nor spill took them, and the client was told so
    erased: int = 0  # not stored, because they are an erased user's; `process` counts these, for each message apart

    @classmethod
    @lru_cache(maxsize=4096)  # the chunks of a message have the same one
    def from_text(cls, text: str) -> "Receipt":
        """The inverse of str(); raises ValueError for what is no receipt."""
        container, received, quarantined, repeated, refused, *erased = text.split(":")
        return cls(container, *map(int, (received, quarantined, repeated, refused, *erased)))

    def __str__(self) -> str:
        text = f"{self.container}:{self.received}:{self.quarantined}:{self.repeated}:{self.refused}"
        return f"{text}:{self.erased}" if self.erased else text

    def counted(self) -> int:
        """More with everything that is added: of two receipts of a container, the later one has more."""
        return self.received + self.quarantined + self.repeated + self.refused + self.erased

    def latest(self, other: "Receipt") -> "Receipt":
        """Of two receipts of a container the later one: no total ever shrinks."""
        return Receipt(
            self.container,
            max(self.received, other.received),
            max(self.quarantined, other.quarantined),
            max(self.repeated, other.repeated),
            max(self.refused, other.refused),
            max(self.erased, other.erased),
        )


@dataclass(slots=True)
class Ledger:
    """One project and hour of receipt."""

    stored: int = 0
    rewritten: int = 0  # events of chunks that were stored before: a request that was sent again
    bots: int = 0  # of the stored; no metric counts them
    receipts: dict[str, Receipt] = field(default_factory=dict)

    def note(self, *receipts: Receipt) -> None:
        """Take in what containers say; again, or late, changes nothing."""
        for receipt in receipts:
            known = self.receipts.get(receipt.container)
            if known is receipt:
                continue
            self.receipts[receipt.container] = known.latest(receipt) if known else receipt

    def merge(self, other: "Ledger") -> None:
        """Take in another share of the same hour."""
        self.stored += other.stored
        self.rewritten += other.rewritten
        self.bots += other.bots
        self.note(*other.receipts.values())

    def balance(self) -> dict[str, int]:
        """Each term of the equation; what the client was told to send again counts on neither side."""
        receipts = self.receipts.values()
        received = sum(receipt.received - receipt.refused for receipt in receipts)
        quarantined = sum(receipt.quarantined for receipt in receipts)
        erased = sum(receipt.erased for receipt in receipts)
        duplicate = self.rewritten + sum(receipt.repeated for receipt in receipts)
        return {
            "received": received,
            "stored": self.stored,
            "duplicate": duplicate,
            "quarantined": quarantined,
            "erased": erased,
            "in_flight": received - self.stored - duplicate - quarantined - erased,
            "bots": self.bots,
        }

    def to_json(self) -> list[Any]:
        """As it lies in an item."""
        return [self.stored, self.rewritten, self.bots, *map(str, sorted(self.receipts.values(), key=str))]

    @classmethod
    def from_json(cls, data: list[Any]) -> "Ledger":
        """The inverse of `to_json`."""
        stored, rewritten, bots, *texts = data
        ledger = cls(stored, rewritten, bots)
        ledger.note(*map(Receipt.from_text, texts))
        return ledger


@dataclass(slots=True)
class Totals:
    """What was counted so far by one container, or by one of the threads of a container."""

    container: str
    kept_hours: int = 2  # the edge counts in the hour it is
    by_hour: dict[tuple[str, str], Receipt] = field(default_factory=dict)  # (project, hour) -> the totals

    def add(
        self, project: str, hour: str, *, received: int = 0, quarantined: int = 0, repeated: int = 0, refused: int = 0
    ) -> Receipt:
        """Add to the totals of an hour and return them."""
        known = self.by_hour.get((project, hour))
        if known is None:
            self._forget_old_hours(hour)
            known = Receipt(self.container)
        total = Receipt(
            self.container,
            known.received + received,
            known.quarantined + quarantined,
            known.repeated + repeated,
            known.refused + refused,
        )
        self.by_hour[project, hour] = total
        return total

    def _forget_old_hours(self, hour: str) -> None:
        """Keep the last: a total that was forgotten and then counted in again would have shrunk."""
        kept = sorted({hour, *(of for _, of in self.by_hour)})[-self.kept_hours :]
        self.by_hour = {key: total for key, total in self.by_hour.items() if key[1] in kept}


@dataclass(slots=True)
class Tally:
    """The totals of this container; threads may share it.

    Each request in progress has totals of its own: in shared ones, a receipt that went out with one request would
    count another's events, and if the process died then, those would be in flight for ever.
    """

    container: str
    kept_hours: int = 2
    idle: list[Totals] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def borrowed(self) -> Iterator[Totals]:
        """Totals that nobody else adds to meanwhile."""
        try:
            totals = self.idle.pop()
        except IndexError:
            totals = Totals(f"{self.container}-{next(self.numbers)}", self.kept_hours)
        try:
            yield totals
        finally:
            self.idle.append(totals)
