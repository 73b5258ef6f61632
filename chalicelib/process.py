"""Second stage: messages from the buffer become chunks in the hot store, and what they say of users is kept."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.domain.chunks import Chunk, chunks_of, decode_message
from chalicelib.domain.enrichment import enrich
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.identity import Said
from chalicelib.domain.partitions import unreadable_key
from chalicelib.domain.records import delivered
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.users_table import UsersTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Processor:
    """Stores what the buffer delivers, as often as it delivers it."""

    events: EventsTable
    users: UsersTable
    bucket: DataBucket

    def process(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store the chunks of every message; returns the ids of the messages to deliver again.

        Of a queue those come again, of a stream everything from the first of them on.

        A message that cannot be read is kept in quarantine and counts as done: delivering it again cannot help.
        """
        chunks: list[Chunk] = []
        said: dict[str, Said] = defaultdict(Said)
        readable: list[str] = []
        failed: list[str] = []
        for record in records:
            message_id, content = delivered(record)
            try:
                message = decode_message(content)
                heard = Said()
                for event in message.events:
                    enrich(event, message.client)
                    heard.hear(event)
                said[message.project].merge(heard)
                chunks.extend(chunks_of(message))
                readable.append(message_id)
            except ValueError as error:
                log.warning("message unreadable", extra={"message_id": message_id, "reason": str(error)})
                if not self._keep_unreadable(message_id, content):
                    failed.append(message_id)
        try:
            self.events.write(chunks)
            for project, what in said.items():
                self.users.learn(project, what)
        except (Unavailable, BotoCoreError, ClientError) as error:
            log.warning("messages not stored", extra={"messages": len(readable), "reason": str(error)})
            return failed + readable
        log.info("processed", extra={"messages": len(readable), "chunks": len(chunks), "failed": len(failed)})
        return failed

    def _keep_unreadable(self, message_id: str, content: bytes) -> bool:
        try:
            self.bucket.put(unreadable_key(message_id), content)
        except Unavailable:
            return False
        return True
