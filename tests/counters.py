"""Counters with the semantics of QuotaTable, in memory: fast enough for many containers and many cases."""

import threading
from dataclasses import dataclass, field

from chalicelib.access.quotas import Bucket


@dataclass
class Counters:
    """Stands in for a QuotaTable; counts the writes, also those whose condition did not hold."""

    months: dict[tuple[str, str], int] = field(default_factory=dict)
    full_at: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lease_month(self, counter: str, month: str, events: int, quota: int) -> tuple[bool, int]:
        with self.lock:
            self.writes += 1
            leased = self.months.get((counter, month))
            if leased is not None and leased > quota - events:
                return False, leased
            self.months[counter, month] = (leased or 0) + events
            return True, (leased or 0) + events

    def lease_rate(
        self, counter: str, bucket: Bucket, tokens: int, kept: int, full_at: int, now: int
    ) -> tuple[bool, int]:
        with self.lock:
            self.writes += 1
            known = self.full_at.get(counter, 0)
            fits = now < known <= bucket.latest(tokens + kept, now) if full_at > now else known <= now
            if fits:
                self.full_at[counter] = max(known, now) + bucket.cost(tokens)
            return fits, self.full_at.get(counter, 0)
