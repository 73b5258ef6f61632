"""The life of an hour: from live items to closed ones, without a reader seeing a count twice or not at all.

Deltas are merged into *epochs*, slot by slot. Closing *freezes* an epoch: from then on nothing joins it, and what is
late goes into the next one. A closed item *covers* live items: those of epochs and slots up to its own. A reader takes
the closed item and adds the live ones that it does not cover. All fences are conditions on the hour's one item.
docs/decisions/0028 has the protocol.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from chalicelib.rollups.signatures import Signature


@dataclass(frozen=True, slots=True)
class Cover:
    """Which live items a closed item stands for."""

    epoch: int = 0
    upto: int = -1  # the last slot

    def hides(self, epoch: int, slot: int) -> bool:
        """Return whether a merged item of this epoch and slot is in the closed item."""
        return epoch <= self.epoch and slot <= self.upto

    def __str__(self) -> str:
        return f"{self.epoch}:{self.upto}"

    @classmethod
    def from_text(cls, text: str) -> "Cover":
        """Return the inverse of str(); raises ValueError."""
        epoch, upto = text.split(":")
        return cls(int(epoch), int(upto))


NOTHING_COVERED = Cover()


@dataclass(frozen=True, slots=True)
class Hour:
    """How far an hour is; it is dirty while `changes`, of tails written and deltas merged, are more than were `done`.

    Times are Unix milliseconds.
    """

    project: str
    hour: str
    changes: int = 0
    done: int = 0
    since_ms: int = 0  # when the oldest thing came that is not closed
    began_ms: int = 0  # when a consolidation began last, whatever became of it
    version: str | None = None  # of the files that hold everything its manifest names
    consolidated_ms: int = 0  # when that was committed
    bare: bool = False  # whether the version has no manifest, because it took nothing in
    replaced: bool = False  # whether files may lie there, for a while, that are not the version's
    frozen: int = 0  # epochs up to this one take nothing more
    epoch: int = 0  # the last that was closed
    upto: int = -1  # up to which slot
    closed_ms: int = 0
    covered: Mapping[int, Signature] = field(default_factory=dict)  # what is closed of each slot
    final_slot: int = -1  # slots up to this one are never compared again
    unsettled: bool = False  # whether anything is yet to be done, or to be deleted: the folder is not settled

    @property
    def is_dirty(self) -> bool:
        """Whether something came that is not closed."""
        return self.changes > self.done

    @property
    def cover(self) -> Cover:
        """What every closed item of the hour covers."""
        return Cover(self.epoch, self.upto)
