"""Deltas, merged items and tombstones: the values of the rollup protocol.

A delta is the share of one stream batch in one hour of one project, named by the batch's first record. Compaction
merges deltas into an item that names them, and leaves a tombstone with a tidemark in each one's place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from chalicelib.domain.facets import Part
from chalicelib.domain.rollup_codec import decode
from chalicelib.domain.rollups import Rollups, merge_all


@dataclass(frozen=True)
class Delta:
    """`last` is the last sequence number of the batch, `written_at` epoch seconds, `body` of domain/rollup_codec."""

    project: str
    hour: str
    id: str
    last: int
    written_at: int
    body: bytes
    part: Part | None = None  # where only that is wanted

    @cached_property
    def rollups(self) -> Rollups:
        """What it counts; raises ValueError when the body is not one of ours."""
        return decode(self.body, self.part)

    @property
    def digest(self) -> str:
        """Of what it holds: a delta that is put again, and has grown, has another."""
        return blake2b(self.body, digest_size=8).hexdigest()

    @property
    def frame_id(self) -> str:
        """Unique among a project's deltas: a batch writes one delta of the same id into each hour it touches."""
        return frame_id(self.hour, self.id)


def frame_id(hour: str, delta_id: str) -> str:
    """What dashboards know a delta by."""
    return f"{hour}/{delta_id}"


def split_frame_id(name: str) -> tuple[str, str]:
    """The hour and the delta's id that a frame id is made of."""
    hour, _, delta_id = name.partition("/")
    return hour, delta_id


@dataclass(frozen=True, slots=True)
class Merged:
    """The sum of the deltas it names; `minute` (`2026-11-21T10:05`) is when they were written.

    A base is the sum of an hour's older merged items, which it names as `folded`; its minute is the last of theirs. It
    names what was absorbed or folded lately, until nobody can have read that in its place of before.
    What closing the hour takes over is told by the epoch: see domain/closing.
    """

    name: str  # unique within a project; of a base, the same for all of an hour and epoch
    hour: str
    epoch: int
    minute: str
    merged_at: int  # epoch seconds
    rollups: Rollups
    absorbed: Mapping[str, int] = field(default_factory=dict)  # delta id -> when it was merged, epoch seconds
    folded: Mapping[str, int] = field(default_factory=dict)  # name -> when it was folded, epoch seconds
    version: int = 0  # of a base: grows with each write


@dataclass(frozen=True, slots=True)
class HourView:
    """One hour of one project as a reader sees it: nothing twice, nothing missing."""

    hour: str
    deltas: list[Delta] = field(default_factory=list)
    merged: list[Merged] = field(default_factory=list)

    @classmethod
    def of(cls, hour: str, deltas: Iterable[Delta], merged: Iterable[Merged]) -> "HourView":
        """`deltas` must have been read before `merged`, and of those the bases last.

        What was merged, or folded into a base, in between is then seen once, not twice.
        """
        items = list(merged)
        absorbed = frozenset[str]().union(*(item.absorbed for item in items))
        folded = frozenset[str]().union(*(item.folded for item in items))
        return cls(
            hour,
            [delta for delta in deltas if delta.id not in absorbed],
            [item for item in items if item.name not in folded],
        )

    def total(self) -> Rollups:
        """The hour's rollups by event type."""
        return merge_all([*(item.rollups for item in self.merged), *(delta.rollups for delta in self.deltas)])
