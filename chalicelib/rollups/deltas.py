"""Deltas, merged items and tombstones: the values of the rollup protocol.

A delta is the share of one stream batch in one hour and slot of one project, named by the first record with something
there. Compaction merges deltas into an item that names them, and leaves a tombstone with a tidemark in their place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from chalicelib.rollups.closing import NOTHING_COVERED, Cover
from chalicelib.rollups.codec import decode
from chalicelib.rollups.facets import Excerpt
from chalicelib.rollups.rollups import Rollups, merge_all
from chalicelib.rollups.signatures import Signature


@dataclass(frozen=True)
class Delta:
    """The share of one attempt at a stream batch in one hour and slot of one project."""

    project: str
    hour: str
    slot: int
    first: str  # the `eventID` of the first record with something there
    attempt: int  # when the attempt began, Unix milliseconds: of two with the same name, the later one counts
    last: int  # the sequence number of the batch's last record
    signature: Signature
    written_at: int  # Unix seconds
    body: bytes  # of domain/rollup_codec
    excerpt: Excerpt | None = None  # where only that is wanted

    @property
    def id(self) -> str:
        """Its name among an hour's deltas."""
        return f"{self.slot}#{self.first}"

    @cached_property
    def rollups(self) -> Rollups:
        """What it counts; raises ValueError when the body is not one of ours."""
        return decode(self.body, self.excerpt)

    @property
    def digest(self) -> str:
        """Of what it holds: a delta that is put again, and has grown, has another."""
        return blake2b(self.body, digest_size=8).hexdigest()

    @property
    def frame_id(self) -> str:
        """Unique among a project's deltas: a batch writes one delta of the same id into each hour it touches."""
        return frame_id(self.hour, self.id)


def latest(deltas: Iterable[Delta]) -> list[Delta]:
    """Return each delta once, as its last attempt wrote it.

    An index that is read page by page shows a delta twice that was written again meanwhile.
    """
    found: dict[tuple[str, str], Delta] = {}
    for delta in deltas:
        name = delta.project, delta.frame_id
        if name not in found or found[name].attempt <= delta.attempt:
            found[name] = delta
    return list(found.values())


def frame_id(hour: str, delta_id: str) -> str:
    """Return what dashboards know a delta by."""
    return f"{hour}/{delta_id}"


def split_frame_id(name: str) -> tuple[str, str]:
    """Return the hour and the delta's id that a frame id is made of."""
    hour, _, delta_id = name.partition("/")
    return hour, delta_id


@dataclass(frozen=True, slots=True)
class Merged:
    """The sum of the deltas of one slot that it names; `minute` (`2026-11-21T10:05`) is when they were written.

    A base is the sum of a slot's older merged items, which it names as `folded`; its minute is the last of theirs. It
    names what was absorbed or folded lately, until nobody can have read that in its place of before.
    What closing the hour takes over is known by epoch and slot: see domain/closing.
    """

    name: str  # unique within a project; of a base, the same for all of an hour, epoch and slot
    hour: str
    epoch: int
    slot: int
    minute: str
    merged_at: int  # Unix seconds
    signature: Signature
    rollups: Rollups
    absorbed: Mapping[str, int] = field(default_factory=dict)  # delta id -> when it was merged, Unix seconds
    folded: Mapping[str, int] = field(default_factory=dict)  # name -> when it was folded, Unix seconds
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

    def total(self, cover: Cover = NOTHING_COVERED) -> Rollups:
        """The hour's rollups by event type, but for merged items that a closed item covers: what readers add to it."""
        merged = (item.rollups for item in self.merged if not cover.hides(item.epoch, item.slot))
        return merge_all([*merged, *(delta.rollups for delta in self.deltas)])
