"""The control table's alerts, of all projects in one place, because every minute all of them are looked at.

alerts / <project>#<id>   what the alert says, its state, and the notice that is pending
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.alerts.alerts import Alert, AlertState
from chalicelib.base.dynamo import NEW, Item, Table, delete, key, put, update

PARTITION = "alerts"


@dataclass(frozen=True, slots=True)
class AlertsTable:
    """Each change of state is one conditional update, so that of two that see it one makes it."""

    client: Any
    name: str

    def put(self, alert: Alert, now_ms: int) -> bool:
        """Put an alert; return whether it was new. One that is there keeps its state."""
        item = {
            **_key(alert.project, alert.id),
            "body": orjson.dumps(alert.to_json()),
            "created_at": now_ms,
            "changed_at": 0,
        }
        return self._table.write(put(item, NEW))

    def delete(self, project: str, alert_id: str) -> bool:
        """Delete an alert; return whether there was one. A notice that was pending is not given any more."""
        _, before = self._table.write_showing(delete(_key(project, alert_id)))
        return bool(before)

    def alerts(self, project: str | None = None) -> Iterator[tuple[Alert, AlertState]]:
        """Return those of a project, or all, by project."""
        if project is None:
            return map(_read, self._table.query(PARTITION))
        return map(_read, self._table.query(PARTITION, "begins_with(sk, :project)", {"project": f"{project}#"}))

    def change(self, alert: Alert, before: AlertState, after: AlertState) -> bool:
        """From one state to the next, with its notice pending; False when it is no longer in the first."""
        value = {} if after.value is None else {"measured": float(after.value)}
        words = {
            "firing": after.firing,
            "changed_at": after.changed_ms,
            "fired_at": after.fired_ms,
            "pending": orjson.dumps(after.pending),
            **value,
        }
        sets = "SET " + ", ".join(f"{name} = :{name}" for name in words)
        return self._table.write(
            update(
                _key(alert.project, alert.id),
                sets if value else f"{sets} REMOVE measured",
                {**words, "before": before.changed_ms},
                "changed_at = :before AND attribute_not_exists(pending)",
            )
        )

    def told(self, alert: Alert, state: AlertState) -> bool:
        """Everybody was told of the pending notice; False when it was another one, or none."""
        pending = {"pending": orjson.dumps(state.pending)}
        return self._table.write(update(_key(alert.project, alert.id), "REMOVE pending", pending, "pending = :pending"))

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _key(project: str, alert_id: str) -> Item:
    return key(PARTITION, f"{project}#{alert_id}")


def _read(item: Item) -> tuple[Alert, AlertState]:
    state = AlertState(
        created_ms=item["created_at"],
        firing=item.get("firing", False),
        changed_ms=item["changed_at"],
        fired_ms=item.get("fired_at", 0),
        value=float(item["measured"]) if "measured" in item else None,
        pending=orjson.loads(item["pending"]) if "pending" in item else None,
    )
    return Alert.from_json(orjson.loads(item["body"])), state
