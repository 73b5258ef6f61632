"""Which stream records something holds, in a few bytes: how live numbers and the lake's files are compared.

`aggregate` and `archive` read one stream apart from each other. Each signs what it got, by hour and *slot*, the hour
in which the stream record was made, which is the same for every consumer. Signatures add up however the batches were
cut, so two that are equal stand for the same records, whatever was counted of them.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from chalicelib.base import waits

SLOT_SECONDS = 3600
SLOT_OFFSET_SECONDS = 300  # a slot begins past the full hour, when the events of the hour before have come
HASHES = 1 << 64


class Signature(NamedTuple):
    """How many rows the records have in an hour, as they were received, and the sum of the records' hashes."""

    rows: int = 0
    hashes: int = 0

    def __add__(self, other: object) -> "Signature":
        """Return the signature of both together, where they share no record."""
        assert isinstance(other, Signature), f"{other!r} is no signature"
        return Signature(self.rows + other.rows, (self.hashes + other.hashes) % HASHES)

    def __str__(self) -> str:
        return f"{self.rows}:{self.hashes:x}"

    @classmethod
    def from_text(cls, text: str) -> "Signature":
        """Return the inverse of str(); raises ValueError."""
        rows, hashes = text.split(":")
        return cls(int(rows), int(hashes, 16))


NOTHING = Signature()


def hash_of(record_id: str) -> int:
    """64 bits that stand for a stream record, by its `eventID`."""
    return int.from_bytes(blake2b(record_id.encode(), digest_size=8).digest(), "big")


def total(signatures: Iterable[Signature]) -> Signature:
    """Return the signature of all of them together."""
    return sum(signatures, start=NOTHING)


def slot_of(record: Mapping[str, Any]) -> int:
    """The slot of a stream record: hours since 1970 of its creation, counted from five minutes past the full hour."""
    return (int(record["dynamodb"]["ApproximateCreationDateTime"]) - SLOT_OFFSET_SECONDS) // SLOT_SECONDS


def slot_end(slot: int) -> int:
    """Return the Unix second in which the slot is over."""
    return (slot + 1) * SLOT_SECONDS + SLOT_OFFSET_SECONDS


def is_forgotten(slot: int, now: int) -> bool:
    """Return whether the stream has forgotten the slot's records, and nothing of them can be on its way any more."""
    return now >= slot_end(slot) + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000
