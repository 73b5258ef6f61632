"""The control table's counters: how much of a key's rate and of its month is leased to containers.

quota#<project>#<key> / month#<2026-11>   leased: events, the sum of all leases
quota#<project>#<key> / rate              full_at: when the bucket is full again, in Unix microseconds
Each lease is one conditional update. The SDK repeats one whose answer is lost, which counts it twice: that is on the
safe side, the key gets a little less.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from chalicelib.access.quotas import SECOND, Bucket
from chalicelib.base.dynamo import Item, Table, key, update

KEPT_DAYS = 62  # of a month's counter after the month has begun: operators see the use of the one before
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class QuotaTable:
    """Counters that only grow; both leases return whether they were given, and the counter as it is now."""

    client: Any
    name: str

    def lease_month(self, counter: str, month: str, events: int, quota: int) -> tuple[bool, int]:
        """Lease events of a month's quota, which holds them at least if none are leased yet."""
        begun = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        values = {
            "events": events,
            "most": quota - events,
            "expires": int((begun + timedelta(days=KEPT_DAYS)).timestamp()),
        }
        return self._lease(
            key(f"quota#{counter}", f"month#{month}"),
            "leased",
            "ADD leased :events SET expires_at = :expires",
            "attribute_not_exists(leased) OR leased <= :most",
            values,
        )

    def lease_rate(
        self, counter: str, bucket: Bucket, tokens: int, kept: int, full_at: int, now: int
    ) -> tuple[bool, int]:
        """Lease tokens of the bucket if as many as `kept` stay in it; times in microseconds.

        `full_at` is what was last seen: a full bucket takes another update than one in use, and a wrong guess one more.
        """
        cost = bucket.cost(tokens)
        values = {"now": now, "expires": max(full_at, now) // SECOND + cost // SECOND + _DAY_SECONDS}
        if full_at > now:
            change, condition = "full_at + :cost", "full_at > :now AND full_at <= :latest"
            values |= {"cost": cost, "latest": bucket.latest(tokens + kept, now)}
        else:
            change, condition = ":full", "attribute_not_exists(full_at) OR full_at <= :now"
            values |= {"full": now + cost}
        sets = f"SET full_at = {change}, expires_at = :expires"
        return self._lease(key(f"quota#{counter}", "rate"), "full_at", sets, condition, values)

    def used(self, counter: str, month: str) -> int:
        """Return how much of a month is leased: at most a tenth more than was sent."""
        item = self._table.get(key(f"quota#{counter}", f"month#{month}")) or {}
        return int(item.get("leased", 0))

    def _lease(self, at: Item, attribute: str, change: str, condition: str, values: dict[str, int]) -> tuple[bool, int]:
        is_given, item = self._table.write_showing(update(at, change, values, condition))
        return is_given, int(item.get(attribute, 0))

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)
