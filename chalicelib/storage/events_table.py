"""The hot store: one item per chunk, kept for 30 days."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from typing import Any

from chalicelib.domain.chunks import Chunk, unpack_events
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.events import MAX_AGE_DAYS, StoredEvent
from chalicelib.domain.records import NO_CHUNK, REBUILT
from chalicelib.storage.batches import BatchWriter, Unwritten

PAGE_ITEMS = 100  # of one read of a user's chunks, which are small


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it is read back."""

    sort_key: str
    received_ms: int
    events: list[StoredEvent]


@dataclass(frozen=True, slots=True)
class EventsTable:
    """Writes chunks; writing one again rewrites the same item."""

    client: Any
    name: str
    sleep: Callable[[float], None] = time.sleep

    def write(self, chunks: Iterable[Chunk]) -> Unwritten:
        """Store every chunk that the table takes, retrying what it throttles; returns which it does not take."""
        return self._writer.write([{"PutRequest": {"Item": _item(chunk)}} for chunk in chunks])

    def restore(self, chunk: Chunk) -> bool:
        """Put back a chunk whose events were counted and archived, marked so that neither is done again.

        False, and nothing is written, when it is there.
        """
        try:
            self.client.put_item(
                TableName=self.name,
                Item={**_item(chunk), REBUILT: {"BOOL": True}},
                ConditionExpression="attribute_not_exists(pk)",
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def items_of(self, project: str, user: str) -> dict[str, int | None]:
        """When each chunk of an id was received, by sort key; None of traits and links, which have no such time."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"{project}#{user}"}},
            ProjectionExpression="sk, received_at",
            ConsistentRead=True,
        )
        items = (item for page in pages for item in page["Items"])
        return {item["sk"]["S"]: int(item["received_at"]["N"]) if "received_at" in item else None for item in items}

    def is_user(self, project: str, user: str) -> bool:
        """Whether events of the last 30 days name the id as their user, and not only as a visitor."""
        chunk = next(self.chunks(project, [user]), None)
        return chunk is not None and any(event.get("user_id") == user for event in chunk.events)

    def delete(self, project: str, user: str, sort_keys: Iterable[str]) -> None:
        """Delete items of an id; raises Unavailable."""
        pk = {"S": f"{project}#{user}"}
        requests = [{"DeleteRequest": {"Key": {"pk": pk, "sk": {"S": key}}}} for key in sort_keys]
        unwritten = self._writer.write(requests)
        if reasons := [*unwritten.refused.values(), *unwritten.invalid.values()]:
            raise Unavailable(f"{len(reasons)} items were not deleted: {reasons[0]}")

    def chunks(self, project: str, users: Iterable[str], before: str | None = None) -> Iterator[StoredChunk]:
        """The chunks of some ids of a person, the latest first; `before` is the sort key to begin below."""
        return merge(
            *(self._chunks_of(project, user, before) for user in users), key=lambda chunk: chunk.sort_key, reverse=True
        )

    def every_chunk(self, project: str) -> Iterator[StoredChunk]:
        """All that the table holds of a project, in no order: it reads the whole table."""
        pages = self.client.get_paginator("scan").paginate(
            TableName=self.name,
            FilterExpression="#project = :project AND attribute_exists(body)",
            ExpressionAttributeNames={"#project": "project"},
            ExpressionAttributeValues={":project": {"S": project}},
            ConsistentRead=True,
        )
        for page in pages:
            yield from _readable(project, page["Items"])

    def _chunks_of(self, project: str, user: str, before: str | None) -> Iterator[StoredChunk]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND sk < :before",
            ExpressionAttributeValues={
                ":pk": {"S": f"{project}#{user}"},
                ":before": {"S": min(before or NO_CHUNK, NO_CHUNK)},
            },
            ScanIndexForward=False,
            ConsistentRead=True,
            PaginationConfig={"PageSize": PAGE_ITEMS},
        )
        for page in pages:
            yield from _readable(project, page["Items"])

    @property
    def _writer(self) -> BatchWriter:
        return BatchWriter(self.client, self.name, self.sleep)


def _readable(project: str, items: Iterable[Mapping[str, Any]]) -> Iterator[StoredChunk]:
    """The chunks of items; one that cannot be read is left out, as stages leave it out, and hides no other."""
    for item in items:
        try:
            events, _ = unpack_events(item["body"]["B"])
        except ValueError as error:
            log.warning("chunk unreadable", extra={"project": project, "reason": str(error)})
            continue
        yield StoredChunk(item["sk"]["S"], int(item["received_at"]["N"]), events)


def _item(chunk: Chunk) -> dict[str, Any]:
    return {
        "pk": {"S": chunk.partition_key},
        "sk": {"S": chunk.sort_key},
        "project": {"S": chunk.project},
        **({"user": {"S": chunk.user}} if chunk.user else {}),
        "events": {"N": str(chunk.count)},
        "received_at": {"N": str(chunk.received_ms)},
        **({"receipt": {"S": str(chunk.receipt)}} if chunk.receipt else {}),
        **({"position": {"N": str(chunk.position)}} if chunk.position is not None else {}),
        "expires_at": {"N": str(chunk.received_ms // 1000 + MAX_AGE_DAYS * 86_400)},
        "body": {"B": chunk.body},
    }
