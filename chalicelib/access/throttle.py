"""Between the key and the collector: a request whose key has sent too much is refused as a whole.

A key without limits passes at the cost of one comparison; one with limits spends leases (access/quotas.py), so that
most requests write nothing. When the counters do not answer, events are let in: availability over quota.
"""

import logging
import threading
from dataclasses import dataclass, field
from math import ceil

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.access.quota_table import QuotaTable
from chalicelib.access.quotas import SECOND, Allowance, Bucket, MonthLease, RateLease
from chalicelib.base.errors import MAX_RETRY_SECONDS, PayloadTooLarge, TooManyRequests
from chalicelib.base.time_windows import from_ms, month_after, month_of

PAUSE_MS = 5000  # after a failure, in which the counters are not asked: each time-out would delay a request
# Whether to ask for more than needed. A lease that is refused is asked for again with the counter as it is now, at last
# no larger than needed; a third refusal means that others were quicker.
TRIES = (True, True, False)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Leases:
    """What this container holds of one counter."""

    rate: RateLease = field(default_factory=RateLease)
    month: MonthLease = field(default_factory=lambda: MonthLease(""))
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class Throttle:
    """Holds the leases of a container; threads may share it."""

    counters: QuotaTable
    leases: dict[str, Leases] = field(default_factory=dict)
    resume_ms: int = 0  # when the counters are asked again

    def take(self, allowance: Allowance | None, events: int, now_ms: int) -> None:
        """Count a request's events; raises TooManyRequests, or PayloadTooLarge of what no waiting would let in."""
        if allowance is None or now_ms < self.resume_ms:
            return
        limits, bucket = allowance.limits, allowance.limits.bucket
        if bucket and events > bucket.burst:
            raise PayloadTooLarge(f"the request has {events} events; the key's burst is {bucket.burst}: send fewer")
        leases = self.leases.setdefault(allowance.counter, Leases())
        with leases.lock:
            try:
                if bucket:
                    self._hold_rate(allowance.counter, leases.rate, bucket, events, now_ms)
                if limits.monthly_quota is not None:
                    month = month_of(now_ms)
                    if month != leases.month.month:
                        leases.month = MonthLease(month)
                    self._hold_month(allowance.counter, leases.month, limits.monthly_quota, events, now_ms)
            except (BotoCoreError, ClientError) as error:
                self.resume_ms = now_ms + PAUSE_MS
                log.warning("quota not counted", extra={"counter": allowance.counter, "reason": str(error)})
                return
            if bucket:
                leases.rate.spend(events)
            if limits.monthly_quota is not None:
                leases.month.spend(events)

    def _hold_rate(self, counter: str, lease: RateLease, bucket: Bucket, events: int, now_ms: int) -> None:
        now = now_ms * 1000
        if not lease.missing(events, now):
            return
        for more in TRIES:
            tokens, kept = lease.ask(bucket, events, now, more=more)
            if not tokens:
                break
            given, lease.full_at = self.counters.lease_rate(counter, bucket, tokens, kept, lease.full_at, now)
            if given:
                lease.take(bucket, tokens, lease.full_at, now)
                return
        lease.refuse(bucket, now)
        wait = lease.wait(bucket, events, now)
        left = bucket.level(lease.full_at, now) + events - lease.missing(events, now)
        raise TooManyRequests(
            f"the request has {events} events; the key may send {max(left, 0)} now. "
            f"Its limit is {bucket.rate:g} a second and {bucket.burst} at once",
            retry_seconds=_retry_seconds(ceil(wait / SECOND)),
        )

    def _hold_month(self, counter: str, lease: MonthLease, quota: int, events: int, now_ms: int) -> None:
        if not lease.missing(events):
            return
        for more in TRIES:
            asked = lease.ask(quota, events, more=more)
            if not asked:
                break
            given, total = self.counters.lease_month(counter, lease.month, asked, quota)
            if given:
                lease.take(asked, total)
                return
            lease.leased = total
        left = max(quota - lease.leased, 0) + lease.held
        raise TooManyRequests(
            f"the request has {events} events; {left} are left in {lease.month} (UTC). "
            f"The key's quota is {quota} a month",
            code="quota_exceeded",
            retry_seconds=_retry_seconds(ceil((month_after(now_ms) - from_ms(now_ms)).total_seconds())),
        )


def _retry_seconds(seconds: int) -> int:
    return min(max(seconds, 1), MAX_RETRY_SECONDS)
