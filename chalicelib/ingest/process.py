"""Second stage: messages from the buffer become chunks in the hot store, and what they say of users is kept.

A batch holds messages of many projects. Each stands for itself: what cannot be read, stored or looked up of one is
kept or given back alone, and what takes long waits until the others are stored.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.base import metrics
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.errors import Unavailable
from chalicelib.base.object_keys import unreadable_key
from chalicelib.base.time_windows import hour_of
from chalicelib.events.chunks import Chunk, Message, chunks_of, decode_message, positions_of
from chalicelib.events.enrichment import enrich
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.events import StoredEvent
from chalicelib.events.events_table import EventsTable
from chalicelib.events.identity import Said
from chalicelib.events.pins import UNSURE
from chalicelib.events.pins_table import PinsTable
from chalicelib.events.records import delivered
from chalicelib.events.users_table import UsersTable
from chalicelib.rollups.ledger import Receipt
from chalicelib.rollups.ledger_table import LedgerTable

# What content raises that is not as our edge writes it: it will not be another time either.
UNUSABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
PIN_SECONDS = 20  # in which the last message with unsure events begins, of the function's 60: one takes 10 at most
LEARN_SECONDS = 5  # for what all messages of a batch say of users

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


@dataclass(slots=True)
class Batch:
    """What becomes of a batch's messages."""

    shares: list[Share] = field(default_factory=list)  # not stored yet
    waiting: list[tuple[int, str, bytes]] = field(default_factory=list)  # how many unsure events, message id, content
    failed: list[str] = field(default_factory=list)  # to deliver again
    down: set[str] = field(default_factory=set)  # projects of which a table did not answer, which takes it 21 s


@dataclass(frozen=True, slots=True)
class Processor:
    """Stores what the buffer delivers, as often as it delivers it."""

    events: EventsTable
    users: UsersTable
    bucket: DataBucket
    erased: ErasedUsers
    ledger: LedgerTable
    clock: Callable[[], float] = time.time
    stage: str = ""

    @property
    def pins(self) -> PinsTable:
        """The pins, which lie beside the chunks."""
        return PinsTable(self.users.client, self.users.name)

    def process(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Store the chunks of every message; returns the ids of the messages to deliver again.

        Of a queue those come again, of a stream everything from the first of them on.

        A message that cannot be read, or that no table takes, is kept in quarantine and counts as done: delivering it
        again cannot help. Of a user whom many messages name at once not each word is kept; each event is.
        """
        batch, until = Batch(), self.clock() + PIN_SECONDS
        for record in records:
            self._take(batch, *delivered(record))
        stored = self._store(batch)
        # The fewest unsure events first, so that nobody's many keep others from their turn.
        for number, (_, message_id, content) in enumerate(sorted(batch.waiting)):
            if number and self.clock() > until:
                batch.failed.append(message_id)
            else:
                self._take(batch, message_id, content, pin=True)
        stored += self._store(batch)
        self._learn(batch, stored)
        chunks = sum(len(share.chunks) for share in stored)
        log.info("processed", extra={"messages": len(stored), "chunks": chunks, "failed": len(batch.failed)})
        return batch.failed

    def _take(self, batch: Batch, message_id: str, content: bytes, *, pin: bool = False) -> None:
        """Read a message; one with unsure events waits, unless they are to be pinned now."""
        project = ""
        try:
            message = decode_message(content)
            project = message.project
            if project in batch.down:
                batch.failed.append(message_id)
                return
            left, gone = self.erased.split(project, message.events)
            if pin:
                self.pins.pin(project, left, message.received_ms)
            elif unsure := sum(UNSURE in event for event in left):
                batch.waiting.append((unsure, message_id, content))
                return
            batch.shares.append(self._share(message_id, content, message, left, gone))
        except (Unavailable, BotoCoreError, ClientError) as error:
            log.warning("message not read", extra={"project": project, "reason": str(error)})
            batch.failed.append(message_id)
            if not pin:  # what is read then is the project's; pins are each user's
                batch.down.add(project)
        except UNUSABLE as error:
            batch.failed += self._keep_unreadable(message_id, content, repr(error))

    def _share(
        self, message_id: str, content: bytes, message: Message, left: list[StoredEvent], gone: list[StoredEvent]
    ) -> Share:
        """Return what the message brings without the events of erased users."""
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
        chunks = list(chunks_of(message, gone))
        return Share(message_id, content, message.project, hour_of(message.received_ms), chunks, said, dropped)

    def _store(self, batch: Batch) -> list[Share]:
        """Store what the messages bring that were read; returns those of which everything is stored."""
        shares = [share for share in batch.shares if self._put_receipts(batch, share)]
        batch.shares = []
        owners = [share for share in shares for _ in share.chunks]
        unwritten = self.events.write([chunk for share in shares for chunk in share.chunks])
        refused = {owners[number].message_id: reason for number, reason in unwritten.refused.items()}
        invalid = {owners[number].message_id: reason for number, reason in unwritten.invalid.items()}
        if refused:
            reason = next(iter(refused.values()))
            log.warning("messages not stored", extra={"messages": len(refused), "reason": reason})
        for share in shares:
            if share.message_id in refused:
                batch.failed.append(share.message_id)
            elif share.message_id in invalid:
                batch.failed += self._keep_unreadable(share.message_id, share.content, invalid[share.message_id])
        return [share for share in shares if share.message_id not in refused and share.message_id not in invalid]

    def _put_receipts(self, batch: Batch, share: Share) -> bool:
        """Put what no chunk brings to the ledger; False when that is to be tried again, with the whole message."""
        try:
            if share.dropped:
                name, receipt = share.dropped
                self.ledger.put(share.project, share.hour, receipt, int(self.clock()), name)
        except (BotoCoreError, ClientError) as error:
            log.warning("receipt not put", extra={"project": share.project, "reason": str(error)})
            batch.failed.append(share.message_id)
            return False
        return True

    def _learn(self, batch: Batch, shares: Iterable[Share]) -> None:
        """Keep what the messages say of users, within a bounded time, and of no project at the cost of another.

        A message whose words could not be kept comes again, except for those of a user whom many name at once.
        """
        by_project: dict[str, list[Share]] = defaultdict(list)
        for share in shares:
            if share.said.links or share.said.traits:
                by_project[share.project].append(share)
        for project, some in by_project.items():
            said = Said()
            for share in some:
                said.merge(share.said)
            left = self.users.learn(project, said, LEARN_SECONDS / len(by_project))
            again = [
                share.message_id
                for share in some
                if share.said.links & left.links or share.said.traits.keys() & left.users
            ]
            if again or left.busy:
                extra = {"project": project, "messages": len(again), "busy": left.busy}
                log.warning("users not learned", extra=extra)
            if left.busy:
                metrics.emit(self.stage, int(self.clock() * 1000), {"TraitsNotLearned": left.busy})
            batch.failed += again

    def _keep_unreadable(self, message_id: str, content: bytes, reason: str) -> list[str]:
        """Keep a message in quarantine; returns its id when that fails, for it is to be delivered again then."""
        log.warning("message unreadable", extra={"message_id": message_id, "reason": reason})
        try:
            self.bucket.put(unreadable_key(message_id), content)
        except Unavailable:
            return [message_id]
        return []
