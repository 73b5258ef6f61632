"""The control table's alerts, of all projects in one place, because every minute all of them are looked at.

alerts / <project>#<id>   what the alert says, its state, and the notice that is pending
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.domain.alerts import Alert, AlertState

PARTITION = "alerts"


@dataclass(frozen=True, slots=True)
class AlertsTable:
    """Each change of state is one conditional update, so that of two that see it one makes it."""

    client: Any
    name: str

    def put(self, alert: Alert, now_ms: int) -> bool:
        """Whether it was new; one that is there keeps its state."""
        item = {
            **_key(alert),
            "body": {"B": orjson.dumps(alert.to_json())},
            "created_at": {"N": str(now_ms)},
            "changed_at": {"N": "0"},
        }
        try:
            self.client.put_item(TableName=self.name, Item=item, ConditionExpression="attribute_not_exists(pk)")
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def delete(self, project: str, alert_id: str) -> bool:
        """Whether there was one; a notice that was pending is not given any more."""
        key = {"pk": {"S": PARTITION}, "sk": {"S": f"{project}#{alert_id}"}}
        return "Attributes" in self.client.delete_item(TableName=self.name, Key=key, ReturnValues="ALL_OLD")

    def alerts(self, project: str | None = None) -> Iterator[tuple[Alert, AlertState]]:
        """Those of a project, or all, by project."""
        values = {":pk": {"S": PARTITION}} | ({":project": {"S": f"{project}#"}} if project else {})
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk" + (" AND begins_with(sk, :project)" if project else ""),
            ExpressionAttributeValues=values,
            ConsistentRead=True,
        )
        return (_read(item) for page in pages for item in page["Items"])

    def change(self, alert: Alert, before: AlertState, after: AlertState) -> bool:
        """From one state to the next, with its notice pending; False when it is no longer in the first."""
        value = {} if after.value is None else {"measured": {"N": repr(float(after.value))}}
        words = {
            "firing": {"BOOL": after.firing},
            "changed_at": {"N": str(after.changed_ms)},
            "fired_at": {"N": str(after.fired_ms)},
            "pending": {"B": orjson.dumps(after.pending)},
            **value,
        }
        update = "SET " + ", ".join(f"{name} = :{name}" for name in words)
        values = {f":{name}": word for name, word in words.items()} | {":before": {"N": str(before.changed_ms)}}
        return self._update(
            alert,
            update if value else f"{update} REMOVE measured",
            "changed_at = :before AND attribute_not_exists(pending)",
            values,
        )

    def told(self, alert: Alert, state: AlertState) -> bool:
        """Everybody was told of the pending notice; False when it was another one, or none."""
        return self._update(
            alert, "REMOVE pending", "pending = :pending", {":pending": {"B": orjson.dumps(state.pending)}}
        )

    def _update(self, alert: Alert, update: str, condition: str, values: dict[str, Any]) -> bool:
        try:
            self.client.update_item(
                TableName=self.name,
                Key=_key(alert),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True


def _key(alert: Alert) -> dict[str, Any]:
    return {"pk": {"S": PARTITION}, "sk": {"S": f"{alert.project}#{alert.id}"}}


def _read(item: dict[str, Any]) -> tuple[Alert, AlertState]:
    state = AlertState(
        created_ms=int(item["created_at"]["N"]),
        firing=item.get("firing", {}).get("BOOL", False),
        changed_ms=int(item["changed_at"]["N"]),
        fired_ms=int(item.get("fired_at", {}).get("N", "0")),
        value=float(item["measured"]["N"]) if "measured" in item else None,
        pending=orjson.loads(item["pending"]["B"]) if "pending" in item else None,
    )
    return Alert.from_json(orjson.loads(item["body"]["B"])), state
