"""Deltas, merged items and tombstones: the values of the rollup protocol.

A delta is the share of one stream batch in one hour of one project, named by the batch's first record. Compaction
merges deltas into an item that names them, and leaves a tombstone with a tidemark in each one's place.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from chalicelib.domain.rollups import Rollups, merge_all


@dataclass(frozen=True, slots=True)
class NewDelta:
    """A delta to be written; `body` is what `rollup_codec` makes of its rollups, the rest as in `Delta`."""

    project: str
    hour: str
    id: str
    last: int
    written_at: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta as it is read; `last` is the last sequence number of the batch, `written_at` epoch seconds."""

    project: str
    hour: str
    id: str
    last: int
    written_at: int
    rollups: Rollups

    @property
    def frame_id(self) -> str:
        """Unique among a project's deltas: a batch writes one delta of the same id into each hour it touches."""
        return frame_id(self.hour, self.id)


def frame_id(hour: str, delta_id: str) -> str:
    """What dashboards know a delta by."""
    return f"{hour}/{delta_id}"


@dataclass(frozen=True, slots=True)
class Merged:
    """The sum of the deltas it names; `minute` (`2026-11-21T10:05`) is when they were written."""

    minute: str
    absorbed: frozenset[str]
    merged_at: int  # epoch seconds
    rollups: Rollups


@dataclass(frozen=True, slots=True)
class HourView:
    """One hour of one project as a reader sees it: nothing twice, nothing missing."""

    hour: str
    deltas: list[Delta] = field(default_factory=list)
    merged: list[Merged] = field(default_factory=list)

    @classmethod
    def of(cls, hour: str, deltas: Iterable[Delta], merged: Iterable[Merged]) -> "HourView":
        """`deltas` must have been read before `merged`: what was merged in between is then seen once, not twice."""
        items = list(merged)
        absorbed = frozenset().union(*(item.absorbed for item in items))
        return cls(hour, [delta for delta in deltas if delta.id not in absorbed], items)

    def total(self) -> Rollups:
        """The hour's rollups by event type."""
        return merge_all([*(item.rollups for item in self.merged), *(delta.rollups for delta in self.deltas)])
