"""The control table's counters: how much of a key's rate and of its month is leased to containers.

quota#<project>#<key> / month#<2026-11>   leased: events, the sum of all leases
quota#<project>#<key> / rate              full_at: when the bucket is full again, in Unix microseconds
Each lease is one conditional update. The SDK repeats one whose answer is lost, which counts it twice: that is on the
safe side, the key gets a little less.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from chalicelib.domain.quotas import SECOND, Bucket

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
            ":events": events,
            ":most": quota - events,
            ":expires": int((begun + timedelta(days=KEPT_DAYS)).timestamp()),
        }
        return self._update(
            counter,
            f"month#{month}",
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
        values = {":now": now, ":expires": max(full_at, now) // SECOND + cost // SECOND + _DAY_SECONDS}
        if full_at > now:
            change, condition = "full_at + :cost", "full_at > :now AND full_at <= :latest"
            values |= {":cost": cost, ":latest": bucket.latest(tokens + kept, now)}
        else:
            change, condition = ":full", "attribute_not_exists(full_at) OR full_at <= :now"
            values |= {":full": now + cost}
        update = f"SET full_at = {change}, expires_at = :expires"
        return self._update(counter, "rate", "full_at", update, condition, values)

    def used(self, counter: str, month: str) -> int:
        """How much of a month is leased: at most a tenth more than was sent."""
        key = {"pk": {"S": f"quota#{counter}"}, "sk": {"S": f"month#{month}"}}
        item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item", {})
        return int(item.get("leased", {}).get("N", 0))

    def _update(
        self, counter: str, sort_key: str, attribute: str, update: str, condition: str, values: dict[str, int]
    ) -> tuple[bool, int]:
        try:
            item = self.client.update_item(
                TableName=self.name,
                Key={"pk": {"S": f"quota#{counter}"}, "sk": {"S": sort_key}},
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeValues={name: {"N": str(value)} for name, value in values.items()},
                ReturnValues="UPDATED_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )["Attributes"]
            given = True
        except self.client.exceptions.ConditionalCheckFailedException as refusal:
            item, given = refusal.response.get("Item", {}), False
        return given, int(item.get(attribute, {}).get("N", 0))
