"""The control table's anomalies: anomalies#<project> / <hour>#<id>, with `published_at` once everybody was told."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.domain.notices import Anomaly

KEPT_DAYS = 90
LAST = "~"  # sorts after every hour and id


@dataclass(frozen=True, slots=True)
class AnomaliesTable:
    """An anomaly is put once; what was put first stays."""

    client: Any
    name: str

    def put(self, anomaly: Anomaly, now: int) -> bool:
        """Whether it was new; `now` in Unix seconds."""
        item = {
            **_key(anomaly),
            "body": {"B": orjson.dumps(anomaly.to_json())},
            "expires_at": {"N": str(now + KEPT_DAYS * 86_400)},
        }
        try:
            self.client.put_item(TableName=self.name, Item=item, ConditionExpression="attribute_not_exists(pk)")
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def mark_published(self, anomaly: Anomaly, now: int) -> None:
        """Everybody was told; again changes nothing that matters."""
        self.client.update_item(
            TableName=self.name,
            Key=_key(anomaly),
            UpdateExpression="SET published_at = :now",
            ConditionExpression="attribute_exists(pk)",
            ExpressionAttributeValues={":now": {"N": str(now)}},
        )

    def between(self, project: str, first: str, last: str) -> list[tuple[Anomaly, bool]]:
        """Those of the hours from `first` to `last`, both included, in order, and whether everybody was told."""
        pages = self.client.get_paginator("query").paginate(**self._range(project, first, f"{last}{LAST}"))
        return [(_anomaly(item), "published_at" in item) for page in pages for item in page["Items"]]

    def latest(self, project: str, first: str, before: str) -> Iterator[tuple[str, Anomaly]]:
        """Those from hour `first` on that sort before `before`, the latest first, each with its place."""
        if first > before:  # which DynamoDB refuses
            return iter(())
        pages = self.client.get_paginator("query").paginate(
            **self._range(project, first, before), ScanIndexForward=False
        )
        places = ((item["sk"]["S"], item) for page in pages for item in page["Items"])
        return ((place, _anomaly(item)) for place, item in places if place < before)

    def _range(self, project: str, first: str, last: str) -> dict[str, Any]:
        values = {":pk": f"anomalies#{project}", ":first": first, ":last": last}
        return {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :first AND :last",
            "ExpressionAttributeValues": {name: {"S": value} for name, value in values.items()},
            "ConsistentRead": True,
        }


def _key(anomaly: Anomaly) -> dict[str, Any]:
    return {"pk": {"S": f"anomalies#{anomaly.project}"}, "sk": {"S": f"{anomaly.hour}#{anomaly.id}"}}


def _anomaly(item: dict[str, Any]) -> Anomaly:
    return Anomaly.from_json(orjson.loads(item["body"]["B"]))
