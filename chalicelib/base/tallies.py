"""How often each of very many values occurs, at 16 bytes a value: by its hash, not by its name.

By itself, because numpy is in the layer of some functions only.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_TALLIED = 2_000_000  # values of one hour; 32 MB, and four times as much while they are put together
BLOCK = 65_536  # counts that are put together at a time, at least

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Most:
    """The most frequent values: those `above` the frequency of the last one, and of those `tied` with it `places`.

    `missed` is how often a value may occur at most that is none of these.
    """

    above: frozenset[int]
    tied: Integers  # sorted
    places: int
    missed: int

    def is_tied(self, hashed: int) -> bool:
        """Return whether the value is as frequent as the last one."""
        place = int(np.searchsorted(self.tied, hashed))
        return place < len(self.tied) and int(self.tied[place]) == hashed


class Tally:
    """Counts are exact as long as there are no more than `most` values, whatever their order.

    Beyond, the least frequent give way, and each count is too small by `error` at most, which is at most the n-th part
    of all that was counted, n being `most`: Misra and Gries 1982, in the form that Agarwal et al. 2013 give it for many
    counts at once.
    """

    def __init__(self, most: int = MAX_TALLIED) -> None:
        self.most = most  # may be lowered at any time
        self.error = 0
        self._hashes: Integers = np.empty(0, np.int64)
        self._counts: Integers = np.empty(0, np.int64)
        self._new_hashes, self._new_counts = array("q"), array("q")

    def add(self, values: Iterable[tuple[str, int]]) -> None:
        """Count values, each so many times more.

        Values are hashed by Python's own 64 bits, keyed by the process, so that nobody can make some that meet. Of a
        million that do not try, two meet with a chance of 1 in 37 million, and then seem one that is more frequent.
        """
        for value, count in values:
            self._new_hashes.append(hash(value))
            self._new_counts.append(count)
        if len(self._new_hashes) >= max(BLOCK, len(self._hashes) // 2):
            self._put_together()

    def most_frequent(self, places: int) -> Most:
        """Return so many of the values, or all; nothing can be added after."""
        self._put_together()
        counts = self._counts
        if len(counts) <= places:
            return Most(frozenset(self._hashes.tolist()), self._hashes[:0], 0, self.error)
        last = int(np.partition(counts, -places)[-places])
        above, tied = self._hashes[counts > last], self._hashes[counts == last]
        left = places - len(above)
        rest = last if len(tied) > left else int(counts[counts < last].max(initial=0))
        return Most(frozenset(above.tolist()), tied, left, rest + self.error)

    def _put_together(self) -> None:
        hashes = np.concatenate([self._hashes, np.frombuffer(self._new_hashes, np.int64)])
        counts = np.concatenate([self._counts, np.frombuffer(self._new_counts, np.int64)])
        self._new_hashes, self._new_counts = array("q"), array("q")
        order = np.argsort(hashes, kind="stable")
        hashes, counts = hashes[order], counts[order]
        starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else order
        hashes, counts = hashes[starts], np.add.reduceat(counts, starts) if len(starts) else counts
        if len(counts) > self.most:
            less = int(np.partition(counts, -self.most - 1)[-self.most - 1])
            left = counts > less
            hashes, counts = hashes[left], counts[left] - less
            self.error += less
        self._hashes, self._counts = hashes, counts
