"""The control table's anomalies: anomalies#<project> / <hour>#<id>, with `published_at` once everybody was told."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.base.dynamo import NEW, THERE, Item, Table, key, put, update
from chalicelib.notices.notices import Anomaly

KEPT_DAYS = 90
LAST = "~"  # sorts after every hour and id


@dataclass(frozen=True, slots=True)
class AnomaliesTable:
    """An anomaly is put once; what was put first stays."""

    client: Any
    name: str

    def put(self, anomaly: Anomaly, now: int) -> bool:
        """Put an anomaly; return whether it was new. `now` is in Unix seconds."""
        item = {
            **_key(anomaly),
            "body": orjson.dumps(anomaly.to_json()),
            "expires_at": now + KEPT_DAYS * 86_400,
        }
        return self._table.write(put(item, NEW))

    def mark_published(self, anomaly: Anomaly, now: int) -> None:
        """Everybody was told; again changes nothing that matters."""
        self._table.write(update(_key(anomaly), "SET published_at = :now", {"now": now}, THERE))

    def between(self, project: str, first: str, last: str) -> list[tuple[Anomaly, bool]]:
        """Return those of the hours from `first` to `last`, both included, in order, and whether everybody was told."""
        return [(_anomaly(item), "published_at" in item) for item in self._range(project, first, f"{last}{LAST}")]

    def latest(self, project: str, first: str, before: str) -> Iterator[tuple[str, Anomaly]]:
        """Return those from hour `first` on that sort before `before`, the latest first, each with its place."""
        if first > before:  # which DynamoDB refuses
            return iter(())
        items = self._range(project, first, before, backwards=True)
        return ((item["sk"], _anomaly(item)) for item in items if item["sk"] < before)

    def _range(self, project: str, first: str, last: str, *, backwards: bool = False) -> Iterator[Item]:
        between = {"first": first, "last": last}
        return self._table.query(f"anomalies#{project}", "sk BETWEEN :first AND :last", between, backwards=backwards)

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _key(anomaly: Anomaly) -> Item:
    return key(f"anomalies#{anomaly.project}", f"{anomaly.hour}#{anomaly.id}")


def _anomaly(item: Item) -> Anomaly:
    return Anomaly.from_json(orjson.loads(item["body"]))
