"""The hot store: one item per chunk, kept for 30 days."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Any

from chalicelib.domain.chunks import Chunk, unpack_events
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.events import MAX_AGE_DAYS, StoredEvent
from chalicelib.domain.records import NO_CHUNK, REBUILT

MAX_BATCH_ITEMS = 25  # BatchWriteItem limit
MAX_ATTEMPTS = 6  # with doubling pauses from 50 ms between them: 1.6 s, well within the function's minute
FIRST_PAUSE_SECONDS = 0.05
PAGE_ITEMS = 100  # of one read of a user's chunks, which are small


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

    def write(self, chunks: Iterable[Chunk]) -> None:
        """Store every chunk, retrying what the table throttles; raises Unavailable when some remain."""
        rounds: list[dict[tuple[str, str], dict[str, Any]]] = []
        for chunk in chunks:
            # One call may not name a key twice, and of a request that was sent again the second one counts too.
            key = chunk.partition_key, chunk.sort_key
            if (free := next((each for each in rounds if key not in each), None)) is None:
                rounds.append(free := {})
            free[key] = {"PutRequest": {"Item": _item(chunk)}}
        for each in rounds:
            requests = list(each.values())
            for start in range(0, len(requests), MAX_BATCH_ITEMS):
                self._write_batch(requests[start : start + MAX_BATCH_ITEMS])

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
        for start in range(0, len(requests), MAX_BATCH_ITEMS):
            self._write_batch(requests[start : start + MAX_BATCH_ITEMS])

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
        )
        for page in pages:
            for item in page["Items"]:
                events, _ = unpack_events(item["body"]["B"])
                yield StoredChunk(item["sk"]["S"], int(item["received_at"]["N"]), events)

    def _chunks_of(self, project: str, user: str, before: str | None) -> Iterator[StoredChunk]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND sk < :before",
            ExpressionAttributeValues={
                ":pk": {"S": f"{project}#{user}"},
                ":before": {"S": min(before or NO_CHUNK, NO_CHUNK)},
            },
            ScanIndexForward=False,
            PaginationConfig={"PageSize": PAGE_ITEMS},
        )
        for page in pages:
            for item in page["Items"]:
                events, _ = unpack_events(item["body"]["B"])
                yield StoredChunk(item["sk"]["S"], int(item["received_at"]["N"]), events)

    def _write_batch(self, requests: list[dict[str, Any]]) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                self.sleep(pause_seconds)
                pause_seconds *= 2
            answer = self.client.batch_write_item(RequestItems={self.name: requests})
            requests = answer.get("UnprocessedItems", {}).get(self.name, [])
            if not requests:
                return
        raise Unavailable(f"{len(requests)} chunks were still refused after {MAX_ATTEMPTS} attempts")


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
