"""The control table's annotations, each twice: by its id, which is whoever comes first's, and by its time.

annotation#<project>#<id> / annotation    annotations#<project> / <time>#<id>
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.domain.annotations import Annotation
from chalicelib.domain.time_windows import iso_ms, parse_ms

LAST = "~"  # sorts after every time


@dataclass(frozen=True, slots=True)
class AnnotationsTable:
    """The first annotation of an id stays; a second one changes nothing."""

    client: Any
    name: str

    def put(self, annotation: Annotation) -> Annotation:
        """The annotation of the id: this one, or the one that was there.

        By id first, and then by time what has the id: whoever died in between, the next one finishes it.
        """
        key = {"pk": {"S": f"annotation#{annotation.project}#{annotation.id}"}, "sk": {"S": "annotation"}}
        body = {"body": {"B": orjson.dumps(annotation.to_json())}}
        try:
            self.client.put_item(
                TableName=self.name, Item={**key, **body}, ConditionExpression="attribute_not_exists(pk)"
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True)["Item"]
            annotation, body = _read(annotation.project, item), {"body": item["body"]}
        place = f"{iso_ms(annotation.at_ms)}#{annotation.id}"
        self.client.put_item(
            TableName=self.name, Item={"pk": {"S": f"annotations#{annotation.project}"}, "sk": {"S": place}, **body}
        )
        return annotation

    def latest(self, project: str, start_ms: int, before: str) -> Iterator[tuple[str, Annotation]]:
        """Those from `start_ms` on that sort before `before`, the latest first, each with its place."""
        if iso_ms(start_ms) > before:  # which DynamoDB refuses
            return iter(())
        values = {":pk": f"annotations#{project}", ":first": iso_ms(start_ms), ":last": before}
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={name: {"S": value} for name, value in values.items()},
            ConsistentRead=True,
            ScanIndexForward=False,
        )
        places = ((item["sk"]["S"], item) for page in pages for item in page["Items"])
        return ((place, _read(project, item)) for place, item in places if place < before)


def _read(project: str, item: dict[str, Any]) -> Annotation:
    document = orjson.loads(item["body"]["B"])
    at_ms, tags = parse_ms(document.pop("at")), tuple(document.pop("tags"))
    return Annotation(project, at_ms=at_ms, tags=tags, **document)
