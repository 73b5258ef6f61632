"""Which rows of a lake file are some users': who are to be erased, or exported."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chalicelib.events.erasure import Marker, Until, digest_of_user

COLUMNS = ["occurred_at", "user_id", "anonymous_id"]  # that tell it; a merge reads the first in any case
Mask = npt.NDArray[np.bool_]


class Masks(Protocol):
    """Tells some rows of a batch that has COLUMNS."""

    def mask(self, rows: pa.RecordBatch) -> Mask:
        """True where a row is one of them."""


@dataclass(frozen=True, slots=True)
class ErasedRows:
    """Tells the rows that a project's markers drop, and counts them by user; each id is looked up once a batch."""

    project: str
    markers: Mapping[str, Marker]  # by digest
    counts: Counter[str] = field(default_factory=Counter)  # by digest, of all batches so far

    def mask(self, rows: pa.RecordBatch) -> Mask:
        """True where a row is an erased user's; the batch has COLUMNS."""
        users = user_column(rows).dictionary_encode()
        digests = pa.array([digest_of_user(self.project, user) for user in users.dictionary.to_pylist()], pa.string())
        found = (self.markers.get(digest) for digest in digests.to_pylist())
        until = pa.array([marker.until_ms * 1000 if marker else None for marker in found], pa.int64())
        limits = until.take(users.indices)
        theirs = pc.fill_null(pc.less(pc.cast(rows.column("occurred_at"), pa.int64()), limits), False)
        self.counts.update(digests.take(users.indices.filter(theirs)).to_pylist())
        return np.asarray(theirs)


@dataclass(frozen=True, slots=True)
class UserRows:
    """Tells the rows of these users, as far as they occurred before each one's time."""

    until: Until

    def mask(self, rows: pa.RecordBatch) -> Mask:
        """True where a row is one of theirs; the batch has COLUMNS."""
        return np.asarray(pc.is_valid(self._owners(rows)))

    def counted(self, batches: Iterator[pa.RecordBatch]) -> Counter[str]:
        """Return how many rows each of them has."""
        found: Counter[str] = Counter()
        for batch in batches:
            found.update(self._owners(batch).drop_null().to_pylist())
        return found

    def _owners(self, rows: pa.RecordBatch) -> pa.Array:
        """Of each row which of them it is of, or null."""
        user = user_column(rows)
        place = pc.index_in(user, pa.array(list(self.until), pa.string()))
        if place.null_count == len(place):
            return pa.nulls(len(place), pa.string())
        limits = pa.array([ms * 1000 for ms in self.until.values()], pa.int64()).take(place)
        theirs = pc.less(pc.cast(rows.column("occurred_at"), pa.int64()), limits)
        return pc.if_else(theirs, user, None)


def user_column(rows: pa.RecordBatch) -> pa.Array:
    """Of each row whose it is, as `user_of` has it, or null."""
    user = rows.column("user_id")
    user = pc.if_else(pc.equal(user, ""), None, user)
    return pc.coalesce(user, rows.column("anonymous_id"))


def may_be_theirs(file: pq.ParquetFile, until: Until) -> list[int]:
    """The row groups of a file that may have rows of the users: the footer has the least and the largest id of each."""
    ids = sorted(until)
    names = file.schema_arrow.names
    places = [names.index(name) for name in ("user_id", "anonymous_id")]
    return [
        group
        for group in range(file.num_row_groups)
        if any(_may_hold(file.metadata.row_group(group).column(place).statistics, ids) for place in places)
    ]


def _may_hold(statistics: pq.Statistics | None, ids: list[str]) -> bool:
    if statistics is None:
        return True
    if not statistics.has_min_max:  # of a column without a value, or with one too long for a footer
        return bool(statistics.num_values)
    return any(statistics.min <= each <= statistics.max for each in ids)
