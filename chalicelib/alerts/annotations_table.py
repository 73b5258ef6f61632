"""The control table's annotations, each twice: by its id, which is whoever comes first's, and by its time.

annotation#<project>#<id> / annotation    annotations#<project> / <time>#<id>
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.alerts.annotations import Annotation
from chalicelib.base.dynamo import NEW, Item, Table, key, put
from chalicelib.base.time_windows import iso_ms, parse_ms

LAST = "~"  # sorts after every time


@dataclass(frozen=True, slots=True)
class AnnotationsTable:
    """The first annotation of an id stays; a second one changes nothing."""

    client: Any
    name: str

    def put(self, annotation: Annotation) -> Annotation:
        """Put an annotation; return that of the id: this one, or the one that was there.

        By id first, and then by time what has the id: whoever died in between, the next one finishes it.
        """
        body = orjson.dumps(annotation.to_json())
        item = {**key(f"annotation#{annotation.project}#{annotation.id}", "annotation"), "body": body}
        is_first, there = self._table.write_showing(put(item, NEW))
        if not is_first:
            annotation, body = _read(annotation.project, there), there["body"]
        place = key(f"annotations#{annotation.project}", f"{iso_ms(annotation.at_ms)}#{annotation.id}")
        self._table.write(put({**place, "body": body}))
        return annotation

    def latest(self, project: str, start_ms: int, before: str) -> Iterator[tuple[str, Annotation]]:
        """Return those from `start_ms` on that sort before `before`, the latest first, each with its place."""
        if iso_ms(start_ms) > before:  # which DynamoDB refuses
            return iter(())
        between = {"first": iso_ms(start_ms), "last": before}
        items = self._table.query(f"annotations#{project}", "sk BETWEEN :first AND :last", between, backwards=True)
        return ((item["sk"], _read(project, item)) for item in items if item["sk"] < before)

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _read(project: str, item: Item) -> Annotation:
    document = orjson.loads(item["body"])
    at_ms, tags = parse_ms(document.pop("at")), tuple(document.pop("tags"))
    return Annotation(project, at_ms=at_ms, tags=tags, **document)
