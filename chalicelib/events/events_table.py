"""The hot store: one item per chunk, kept for 30 days."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Any

from chalicelib.base.batches import BatchWriter, Unwritten
from chalicelib.base.dynamo import NEW, Item, Table, delete, key, put
from chalicelib.base.errors import Unavailable
from chalicelib.base.retries import Retries
from chalicelib.events.chunks import Chunk, unpack_events
from chalicelib.events.events import MAX_AGE_DAYS, StoredEvent
from chalicelib.events.records import NO_CHUNK, REBUILT

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
        return BatchWriter(self._table).write([put(_item(chunk)) for chunk in chunks])

    def restore(self, chunk: Chunk) -> bool:
        """Put back a chunk whose events were counted and archived, marked so that neither is done again.

        False, and nothing is written, when it is there.
        """
        return self._table.write(put({**_item(chunk), REBUILT: True}, NEW))

    def items_of(self, project: str, user: str) -> dict[str, int | None]:
        """When each chunk of an id was received, by sort key; None of traits and links, which have no such time."""
        items = self._table.query(f"{project}#{user}", fields="sk, received_at")
        return {item["sk"]: item.get("received_at") for item in items}

    def is_user(self, project: str, user: str) -> bool:
        """Return whether events of the last 30 days name the id as their user, and not only as a visitor."""
        chunk = next(self.chunks(project, [user]), None)
        return chunk is not None and any(event.get("user_id") == user for event in chunk.events)

    def delete(self, project: str, user: str, sort_keys: Iterable[str]) -> None:
        """Delete items of an id; raises Unavailable."""
        deletions = [delete(key(f"{project}#{user}", sort_key)) for sort_key in sort_keys]
        unwritten = BatchWriter(self._table).write(deletions)
        if reasons := [*unwritten.refused.values(), *unwritten.invalid.values()]:
            raise Unavailable(f"{len(reasons)} items were not deleted: {reasons[0]}")

    def chunks(self, project: str, users: Iterable[str], before: str | None = None) -> Iterator[StoredChunk]:
        """Return the chunks of some ids of a person, the latest first; `before` is the sort key to begin below."""
        return merge(
            *(self._chunks_of(project, user, before) for user in users), key=lambda chunk: chunk.sort_key, reverse=True
        )

    def every_chunk(self, project: str) -> Iterator[StoredChunk]:
        """All that the table holds of a project, in no order: it reads the whole table."""
        items = self._table.scan("#project = :project AND attribute_exists(body)", {"project": project})
        yield from _readable(project, items)

    def _chunks_of(self, project: str, user: str, before: str | None) -> Iterator[StoredChunk]:
        below = {"before": min(before or NO_CHUNK, NO_CHUNK)}
        items = self._table.query(f"{project}#{user}", "sk < :before", below, backwards=True, page_items=PAGE_ITEMS)
        yield from _readable(project, items)

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name, Retries(sleep=self.sleep))


def _readable(project: str, items: Iterable[Item]) -> Iterator[StoredChunk]:
    """Yield the chunks of items; one that cannot be read is left out, as stages leave it out, and hides no other."""
    for item in items:
        try:
            events, _ = unpack_events(item["body"])
        except ValueError as error:
            log.warning("chunk unreadable", extra={"project": project, "reason": str(error)})
            continue
        yield StoredChunk(item["sk"], item["received_at"], events)


def _item(chunk: Chunk) -> Item:
    item = {
        "pk": chunk.partition_key,
        "sk": chunk.sort_key,
        "project": chunk.project,
        "events": chunk.count,
        "received_at": chunk.received_ms,
        "expires_at": chunk.received_ms // 1000 + MAX_AGE_DAYS * 86_400,
        "body": chunk.body,
    }
    if chunk.user:
        item["user"] = chunk.user
    if chunk.receipt:
        item["receipt"] = str(chunk.receipt)
    if chunk.position is not None:
        item["position"] = chunk.position
    return item
