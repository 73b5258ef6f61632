"""Second stage: messages from the buffer become chunks in the hot store, and what they say of users is kept."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.domain.chunks import Chunk, chunks_of, decode_message, positions_of
from chalicelib.domain.enrichment import enrich
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.identity import Said
from chalicelib.domain.ledger import Receipt
from chalicelib.domain.partitions import unreadable_key
from chalicelib.domain.records import delivered
from chalicelib.domain.time_windows import hour_of
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.ledger_table import LedgerTable
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.users_table import UsersTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Share:
    """What one message brings to the tables."""

    message_id: str
    content: bytes
    project: str
    hour: str  # of receipt
    chunks: list[Chunk]
    said: Said
    dropped: tuple[str, Receipt] | None  # a name, and what no chunk brings to the ledger: events of erased users


@dataclass(frozen=True, slots=True)
class Processor:
    """Stores what the buffer delivers, as often as it delivers it."""

    events: EventsTable
    users: UsersTable
    bucket: DataBucket
    erased: ErasedUsers
    ledger: LedgerTable
    clock: Callable[[], float] = time.time

    def process(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store the chunks of every message; returns the ids of the messages to deliver again.

        Of a queue those come again, of a stream everything from the first of them on.

        A message that cannot be read, or that no table takes, is kept in quarantine and counts as done: delivering it
        again cannot help.
        """
        shares: list[Share] = []
        failed: list[str] = []
        for record in records:
            message_id, content = delivered(record)
            try:
                shares.append(self._read(message_id, content))
            except ValueError as error:
                failed += self._keep_unreadable(message_id, content, str(error))
        failed += self._store(shares)
        chunks = sum(len(share.chunks) for share in shares)
        log.info("processed", extra={"messages": len(shares), "chunks": chunks, "failed": len(failed)})
        return failed

    def _read(self, message_id: str, content: bytes) -> Share:
        """What the message brings; raises ValueError."""
        message = decode_message(content)
        left, gone = self.erased.split(message.project, message.events)
        dropped = None
        said = Said()
        if gone:
            # Named by the message, so that it counts once, however often it is delivered.
            name = f"erased-{blake2b(content, digest_size=12).hexdigest()}"
            positions = positions_of(message, gone)
            receipt = message.receipt and replace(message.receipt, dropped=positions)
            dropped = name, receipt if receipt and positions else Receipt(name, erased=len(gone))
            now_ms = int(self.clock() * 1000)
            said.link(event for event in gone if self.erased.is_linked(message.project, event, now_ms))
            log.info("events of erased users dropped", extra={"project": message.project, "events": len(gone)})
        for event in left:
            enrich(event, message.client)
            said.hear(event)
        hour = hour_of(message.received_ms)
        return Share(message_id, content, message.project, hour, list(chunks_of(message, gone)), said, dropped)

    def _store(self, shares: list[Share]) -> list[str]:
        """Store what some messages bring; returns the ids of those to deliver again."""
        said: dict[str, Said] = defaultdict(Said)
        for share in shares:
            said[share.project].merge(share.said)
        try:
            self.events.write(chunk for share in shares for chunk in share.chunks)
            for project, what in said.items():
                self.users.learn(project, what)
            for share in shares:
                if share.dropped:
                    name, receipt = share.dropped
                    self.ledger.put(share.project, share.hour, receipt, int(self.clock()), name)
            return []
        except (Unavailable, BotoCoreError, ClientError) as error:
            if not _invalid(error):
                log.warning("messages not stored", extra={"messages": len(shares), "reason": str(error)})
                return [share.message_id for share in shares]
            if len(shares) == 1:
                return self._keep_unreadable(shares[0].message_id, shares[0].content, str(error))
        # Halves, until the one that DynamoDB finds invalid stands alone; what is stored already is rewritten as it is.
        middle = len(shares) // 2
        return self._store(shares[:middle]) + self._store(shares[middle:])

    def _keep_unreadable(self, message_id: str, content: bytes, reason: str) -> list[str]:
        """Keep a message in quarantine; returns its id when that fails, for it is to be delivered again then."""
        log.warning("message unreadable", extra={"message_id": message_id, "reason": reason})
        try:
            self.bucket.put(unreadable_key(message_id), content)
        except Unavailable:
            return [message_id]
        return []


def _invalid(error: Exception) -> bool:
    """Whether a table will never take it."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] == "ValidationException"
