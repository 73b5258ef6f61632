"""Mergeable summaries: distinct counts (HyperLogLog) and quantiles (logarithmic buckets).

Both are written in plain Python so that the functions which serve REST can read them without numpy;
docs/decisions has the measurements behind that choice.
"""

import math
import sys
from bisect import bisect_left
from collections.abc import Iterable
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from typing import cast

PRECISION = 11
REGISTERS = 1 << PRECISION
UNIQUES_STANDARD_ERROR = 1.04 / math.sqrt(REGISTERS)  # Flajolet et al. 2007: 2.3 % at 2,048 registers
UNIQUES_ERROR = 1.96 * UNIQUES_STANDARD_ERROR  # 95 of 100 estimates lie within
EXACT_LIMIT = 256  # distinct hashes kept whole: below it the count is exact and the bytes are no more than a sketch's
HASH_BYTES = 6  # most of an item's bytes; a million users of an hour then meet with a chance of 1 in 560, once
NOBODY = cast("set[bytes]", frozenset())  # one for all, which cannot grow: most cells of most facets have no users
_EIGHTH_BITS = int.from_bytes(b"\x80" * REGISTERS, "big")
HASH_BITS = 8 * HASH_BYTES - PRECISION  # that are left of a hash once it has chosen a register

QUANTILE_ERROR = 0.01  # relative; Masson, Rim, Lee 2019 (DDSketch): buckets grow by (1 + e) / (1 - e)
_GAMMA = (1 + QUANTILE_ERROR) / (1 - QUANTILE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)
_LOG_LARGEST = math.log(sys.float_info.max)  # the bucket of the largest numbers reaches beyond it
ZERO_BUCKET = -10_000  # for values under 1e-9, which no bucket of ours distinguishes from zero
SMALLEST = 1e-9
MAX_BUCKETS = 2048  # of one measure; values over more than 17 powers of ten are needed to fill them
NO_FLOOR = -1_000_000  # below every bucket: no values are counted in a higher one than their own


def hash_user(user: str) -> bytes:
    """Return the few bytes that stand for a user in every sketch."""
    return blake2b(user.encode(), digest_size=HASH_BYTES).digest()


class Uniques:
    """A set of users, of which only the size is wanted: exact up to 256, then within 2.3 % (one standard error).

    Merging is associative, commutative and idempotent, whichever form either side has.
    """

    __slots__ = ("hashes", "registers")

    def __init__(self, hashes: Iterable[bytes] = (), registers: bytearray | None = None) -> None:
        self.hashes: set[bytes] = set(hashes) if hashes else NOBODY
        self.registers = registers
        if hashes:
            self._condense()

    def update(self, hashes: set[bytes]) -> None:
        """Count users by the bytes of `hash_user`."""
        if self.registers is not None:
            for hashed in hashes:
                _register(self.registers, hashed)
            return
        if self.hashes:
            self.hashes |= hashes
        else:
            self.hashes = set(hashes)
        if len(self.hashes) > EXACT_LIMIT:
            self._condense()

    def merge(self, other: "Uniques") -> None:
        """Take in the users of another set."""
        if other.registers is not None:
            mine = self.registers
            self.registers = bytearray(other.registers if mine is None else _larger(mine, other.registers))
            self._condense()
        elif other.hashes:
            self.update(other.hashes)

    def estimate(self) -> int:
        """Return how many distinct users there are."""
        if self.registers is None:
            return len(self.hashes)
        return round(_estimate(self.registers))

    def to_bytes(self) -> bytes:
        """Return one form byte, then the sorted hashes or the registers."""
        if self.registers is None:
            return b"\x00" + b"".join(sorted(self.hashes))
        return b"\x01" + bytes(self.registers)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Uniques":
        """Return the inverse of `to_bytes`."""
        if data[:1] == b"\x01":
            return cls(registers=bytearray(data[1:]))
        return cls(data[i : i + HASH_BYTES] for i in range(1, len(data), HASH_BYTES))

    def _condense(self) -> None:
        if self.registers is None:
            if len(self.hashes) <= EXACT_LIMIT:
                return
            self.registers = bytearray(REGISTERS)
        for hashed in self.hashes:
            _register(self.registers, hashed)
        self.hashes = NOBODY


def _larger(one: bytearray, other: bytearray) -> bytes:
    """The larger of each two registers; all at once, as numbers of 2,048 digits, which takes a twentieth of the time.

    A register has 6 bits, so the eighth of each byte is free to tell which one is not smaller.
    """
    a, b = int.from_bytes(one, "big"), int.from_bytes(other, "big")
    chosen = ((a | _EIGHTH_BITS) - b) & _EIGHTH_BITS
    mask = (chosen - (chosen >> 7)) | chosen
    return ((a & mask) | (b & ~mask)).to_bytes(REGISTERS, "big")


def _register(registers: bytearray, hashed: bytes) -> None:
    bits = int.from_bytes(hashed, "big")
    index = bits >> HASH_BITS
    rest = bits & ((1 << HASH_BITS) - 1)
    rank = HASH_BITS - rest.bit_length() + 1
    if rank > registers[index]:
        registers[index] = rank


def _estimate(registers: bytearray) -> float:
    """Ertl 2017, "New cardinality estimation algorithms for HyperLogLog sketches", algorithm 6: no bias tables."""
    counts, left, rank = [0] * (HASH_BITS + 2), REGISTERS, 0
    while left:  # the upper half of the ranks has no register, mostly
        counts[rank] = registers.count(rank)
        left -= counts[rank]
        rank += 1
    z = REGISTERS * _tau(1 - counts[HASH_BITS + 1] / REGISTERS)
    for rank in range(HASH_BITS, 0, -1):
        z = 0.5 * (z + counts[rank])
    z += REGISTERS * _sigma(counts[0] / REGISTERS)
    return REGISTERS * REGISTERS / (2 * math.log(2) * z)


def _sigma(x: float) -> float:
    if x == 1:
        return math.inf
    y, z = 1.0, x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0
    y, z = 1.0, 1 - x
    while True:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1 - x) ** 2 * y
        if z == before:
            return z / 3


def bucket_of(value: float) -> int:
    """Return the quantile bucket of a value: k covers (g^(k-1), g^k]; negative values mirror the positive ones.

    Buckets are in the order of their values.
    """
    size = abs(value)
    if size < SMALLEST:
        return ZERO_BUCKET
    index = math.ceil(math.log(size) / _LOG_GAMMA)
    # Indexes of positive values lie between -2,000 and 36,000; the mirror is kept apart by an offset.
    return index if value > 0 else -100_000 - index


@cache  # there are some 100,000 buckets at most
def _bucket_value(bucket: int) -> float:
    if bucket == ZERO_BUCKET:
        return 0.0
    if bucket < -50_000:
        return -_bucket_value(-100_000 - bucket)
    return math.exp(min(bucket * _LOG_GAMMA, _LOG_LARGEST)) * (2 / (_GAMMA + 1))


def collapse(buckets: dict[int, int], most: int) -> int:
    """Count the lowest values together where there are more buckets than `most`, as DDSketch does; return their bucket.

    Low quantiles of so wide a spread are then too high; the upper ones keep their bound. Of several shares, the same
    buckets are kept whichever are collapsed before they are added.
    """
    if len(buckets) <= most:
        return NO_FLOOR
    ordered = sorted(buckets)
    lowest = ordered[: len(ordered) - most + 1]
    buckets[lowest[-1]] = sum(buckets.pop(bucket) for bucket in lowest)
    return lowest[-1]


def raise_to(buckets: dict[int, int], floor: int) -> None:
    """Count the values below the bucket `floor` in it."""
    lower = [bucket for bucket in buckets if bucket < floor]
    if lower:
        buckets[floor] = buckets.get(floor, 0) + sum(buckets.pop(bucket) for bucket in lower)


def quantile(buckets: dict[int, int], q: float) -> float | None:
    """Return the q-quantile of the counted values, within 1 % of its true size; None of nothing.

    `buckets` maps `bucket_of` to counts. It is the value of the nearest rank, ceil(q * n), as SQL's percentile_disc has
    it: the smallest that is not less than a share q of all, so that of two latencies the 95th percentile is the longer.
    """
    ordered = sorted(buckets)
    upto = list(accumulate(buckets[bucket] for bucket in ordered))
    if not upto or not upto[-1]:
        return None
    rank = math.ceil(round(q * upto[-1], 6))  # 0.07 * 100 is 7.000000000000001
    return _bucket_value(ordered[bisect_left(upto, max(rank, 1))])
