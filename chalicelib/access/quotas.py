"""How much a key may send, and how a container spends its share of that without asking for every event.

What all containers may spend together is counted in the control table. A container takes a *lease* on some of it, more
than the request at hand needs, and spends it in memory. Leases are taken on condition that their sum stays within the
limit, so the limit holds however many containers there are. What a container leased and never spent is lost to
the key, which is why a lease grows with what the same container has spent: docs/decisions/0017-quota-leases.md has the
bounds. Times are Unix microseconds.
"""

import math
from dataclasses import dataclass

SHARE = 10  # a lease beyond what is needed is at most one tenth: of what was spent, or of what is plentiful
SECOND = 1_000_000
LEAST_BURST = 2500  # events of the largest request (ingest/bodies.py), where the key says nothing else
BURST_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may send; None is no limit. `burst` is how many events may come at once, and needs a rate."""

    rate_per_second: float | None = None
    burst: int | None = None
    monthly_quota: int | None = None

    def otherwise(self, default: "Limits") -> "Limits":
        """These limits, and the default's where there are none; a burst goes with its rate."""
        rate = default if self.rate_per_second is None else self
        quota = default.monthly_quota if self.monthly_quota is None else self.monthly_quota
        return Limits(rate.rate_per_second, rate.burst, quota)

    @property
    def bucket(self) -> "Bucket | None":
        """The token bucket, if there is a rate."""
        if self.rate_per_second is None:
            return None
        burst = max(LEAST_BURST, math.ceil(self.rate_per_second * BURST_SECONDS))
        return Bucket(self.rate_per_second, self.burst or burst)


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the sender of a request may still send: the limits, and the counter that its keys share."""

    counter: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket, written as the time at which it will be full again, which only ever moves on."""

    rate: float  # tokens a second
    burst: int

    def level(self, full_at: int, now: int) -> int:
        """Return the whole tokens in it."""
        return math.floor(self.burst - max(full_at - now, 0) * self.rate / SECOND)

    def cost(self, tokens: int) -> int:
        """By how much taking tokens puts off the time at which it is full."""
        return math.ceil(tokens * SECOND / self.rate)

    def latest(self, tokens: int, now: int) -> int:
        """Return the latest `full_at` at which as many tokens are in it."""
        return now + math.floor((self.burst - tokens) * SECOND / self.rate)

    @property
    def lease_time(self) -> int:
        """How long a lease may be spent: what was leased before counts a tenth of the burst at most."""
        return math.floor(self.burst * SECOND / self.rate / SHARE)


@dataclass(slots=True)
class RateLease:
    """A container's share of a bucket. What is leased in a period is spent in it or lost."""

    full_at: int = 0  # of the bucket, as last seen
    held: int = 0
    until: int = 0  # the end of the period
    spent: int = 0  # in the period
    spent_before: int = 0  # in the one before
    paused_until: int = 0  # after a refusal, who needs more than `paused_level` is refused without asking
    paused_level: int = 0

    def missing(self, events: int, now: int) -> int:
        """Return how many tokens the events need that are not held."""
        return max(events - (self.held if now < self.until else 0), 0)

    def ask(self, bucket: Bucket, events: int, now: int, *, more: bool) -> tuple[int, int]:
        """Return how many tokens to lease for the events, and how many must stay in the bucket then.

        What is missing, or 0 when the bucket does not hold it. With `more`, what the next requests may need too: a
        tenth of what the period before spent, or of what the upper half of the bucket holds, which leaves the lower
        half to requests: what is lost is a tenth of the rate and half of the burst at most.
        """
        missing, level = self.missing(events, now), bucket.level(self.full_at, now)
        if missing > level or (now < self.paused_until and missing > self.paused_level):
            return 0, 0
        if not more:
            return missing, 0
        before = self.spent if self.until <= now < self.until + bucket.lease_time else self.spent_before
        tokens, half = max(missing, min(before // SHARE, level)), bucket.burst // 2
        plenty = (level - half) // SHARE
        return (plenty, half) if plenty > tokens else (tokens, 0)

    def take(self, bucket: Bucket, leased: int, full_at: int, now: int) -> None:
        """Hold what was leased."""
        if now >= self.until:
            recent = now < self.until + bucket.lease_time
            self.spent_before, self.spent, self.held = (self.spent if recent else 0), 0, 0
            self.until = now + bucket.lease_time
        self.full_at = full_at
        self.held += leased

    def spend(self, events: int) -> None:
        """Let the events through."""
        self.held -= events
        self.spent += events

    def refuse(self, bucket: Bucket, now: int) -> None:
        """Remember a refusal for a while, so that a flood of requests costs no calls."""
        if now >= self.paused_until:
            self.paused_until = now + min(bucket.lease_time, SECOND)
            self.paused_level = max(bucket.level(self.full_at, now), 0)

    def wait(self, bucket: Bucket, events: int, now: int) -> int:
        """The microseconds until the bucket may hold what is missing, if nobody else takes it."""
        wait = self.full_at - bucket.latest(self.missing(events, now), now)
        return max(wait, self.paused_until - now, 0)


@dataclass(slots=True)
class MonthLease:
    """A container's share of a month's quota."""

    month: str  # 2026-11
    leased: int = 0  # by all containers, as last seen
    held: int = 0
    spent: int = 0

    def missing(self, events: int) -> int:
        """Return how many events are not covered by what is held."""
        return max(events - self.held, 0)

    def ask(self, quota: int, events: int, *, more: bool) -> int:
        """Return how many events to lease: what is missing, or 0 when the quota does not leave it.

        With `more`, a tenth of what this container has spent, so that all containers together never hold more than a
        tenth of what they have spent.
        """
        missing, left = self.missing(events), quota - self.leased
        if missing > left:
            return 0
        return max(missing, min(self.spent // SHARE, left)) if more else missing

    def take(self, leased: int, total: int) -> None:
        """Hold what was leased."""
        self.leased = total
        self.held += leased

    def spend(self, events: int) -> None:
        """Let the events through."""
        self.held -= events
        self.spent += events
