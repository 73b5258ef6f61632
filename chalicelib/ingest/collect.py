"""First stage: a request's events are judged, the good ones made durable in the buffer, the others in quarantine.

Nothing is acknowledged before it is durable. When the buffer refuses, the parcels are spilled to S3 and come
back through `reinject`; when S3 refuses too, the caller is told to try again.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.access.access import Project
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.errors import Unavailable
from chalicelib.base.object_keys import SPILL, quarantine_key, spill_key
from chalicelib.base.time_windows import hour_of
from chalicelib.events.addresses import hide_addresses
from chalicelib.events.chunks import Message, Parcel, from_spill, pack, to_spill
from chalicelib.events.enrichment import NOBODY, Client
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.events import MAX_EVENT_BYTES, MAX_EVENT_VALUES, Admission, Admitter
from chalicelib.events.flags_table import FlagsTable
from chalicelib.ingest.bodies import Request
from chalicelib.ingest.event_stream import EventStream
from chalicelib.ingest.queue import EventQueue
from chalicelib.quarantine.files import QuarantineFile, Record
from chalicelib.rollups.ledger import Puts, Receipt, Tally, Totals
from chalicelib.rollups.ledger_table import LedgerTable

SWEPT_SECONDS = 300
SWEEP_SECONDS = 10  # in which the last try begins, of the minute that `audit` has: one takes 40 while nothing answers
PUT_RECEIPT_MS = 1000  # between two puts of a project's receipt by one container

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collector:
    """Takes requests of one project each."""

    admitter: Admitter
    buffer: EventQueue | EventStream
    bucket: DataBucket
    ledger: LedgerTable
    tally: Tally
    erased: ErasedUsers
    flags: FlagsTable
    puts: Puts = field(default_factory=lambda: Puts(PUT_RECEIPT_MS))
    clock: Callable[[], float] = time.monotonic

    def collect(self, request: Request, project: Project, received_ms: int, client: Client = NOBODY) -> Admission:
        """Judge and store; returns only when every event is in the buffer, in the spill or in quarantine.

        Raises Unavailable when neither the buffer nor the bucket takes them, or when it cannot be written down that a
        time was clamped.
        """
        with self.tally.borrowed() as totals:
            return self._collect(request, project, received_ms, client, totals)

    def _collect(
        self, request: Request, project: Project, received_ms: int, client: Client, totals: Totals
    ) -> Admission:
        hide_addresses(request.events)
        hour = hour_of(received_ms)
        may_exceed = request.size_bytes > MAX_EVENT_BYTES or request.values > MAX_EVENT_VALUES
        admission = self._admit(request, project, received_ms, check_sizes=may_exceed)
        receipt = totals.add(project.id, hour, received=len(request.events), **_judged(admission))
        parcels: list[Parcel] = []
        sent = 0
        try:
            try:
                parcels = self._pack(Message(project.id, received_ms, admission.events, receipt, client))
            except TypeError:  # orjson.JSONEncodeError: some event is nested too deep, which checking each one tells
                before = _judged(admission)
                admission = self._admit(request, project, received_ms, check_sizes=True)
                more = {name: max(n - before[name], 0) for name, n in _judged(admission).items()}
                receipt = totals.add(project.id, hour, **more)
                parcels = self._pack(Message(project.id, received_ms, admission.events, receipt, client))
            if admission.rejections:
                self._quarantine(admission, request, project, received_ms, client)
                counts = {"accepted": len(admission.event_ids), "rejected": len(admission.rejections)}
                log.info("events rejected", extra={"project": project.id, **counts})
            refused = self.buffer.send(parcels)
            sent = len(admission.events) - sum(parcel.count for parcel in refused)
            if refused:
                self._spill(refused, project.id)
        except Exception:
            wanted = len(admission.events)
            receipt = totals.add(project.id, hour, refused=wanted - sent, attempted=wanted)
            # A single parcel that was taken, though its answer was lost, says all there is to say of the request.
            if sent or len(parcels) > 1:
                self._put_receipt(receipt, project.id, hour, received_ms, sent=False)
            raise
        self._put_receipt(receipt, project.id, hour, received_ms, sent=bool(parcels))
        return admission

    def put(self, message: Message) -> int:
        """Make a message durable as `collect` does; how many events are, fewer than all when no store takes them."""
        try:
            self.flags.flag(message.project, message.events, message.received_ms)
        except Unavailable:
            return 0
        refused = self.buffer.send(self._pack(message))
        try:
            if refused:
                self._spill(refused, message.project)
        except Unavailable:
            return len(message.events) - sum(parcel.count for parcel in refused)
        return len(message.events)

    def reinject(self, key: str) -> None:
        """Bring spilled parcels back to the buffer; twice is harmless, their chunks have the same keys.

        Raises Unavailable when some are refused still.
        """
        content = self.bucket.get(key)
        if content is not None:
            refused = self.buffer.send(from_spill(content))
            if refused:
                raise Unavailable(f"the buffer did not accept {len(refused)} parcels of {key}")
            self.bucket.delete(key)

    def sweep(self, now: datetime) -> int:
        """Bring back what `reinject` has given up on; returns how many messages still lie there after it.

        A message is swept when it is some minutes old, so that the two rarely do the same work, and harmlessly when so.
        What there is no time for is counted only.
        """
        left = 0
        until = self.clock() + SWEEP_SECONDS
        for key in self.bucket.keys(SPILL, older_than=now - timedelta(seconds=SWEPT_SECONDS)):
            if self.clock() >= until:
                left += 1
                continue
            try:
                self.reinject(key)
            except (Unavailable, BotoCoreError, ClientError, ValueError) as error:
                log.warning("spilled message not sent", extra={"key": key, "reason": str(error)})
                left += 1
        return left

    def _admit(self, request: Request, project: Project, received_ms: int, *, check_sizes: bool) -> Admission:
        admission = self.admitter.admit(
            request.events, mode=project.mode, received_ms=received_ms, sent_at=request.sent_at, check_sizes=check_sizes
        )
        self.flags.flag(project.id, admission.events, received_ms)
        return admission

    def _pack(self, message: Message) -> list[Parcel]:
        return pack(message, by_user=self.buffer.by_user) if message.events else []

    def _spill(self, parcels: list[Parcel], project: str) -> None:
        content = to_spill(parcels)
        try:
            self.bucket.put(spill_key(project, content), content)
        except Unavailable as error:
            raise Unavailable(f"neither the buffer nor S3 accepted the events: {error.message}") from error
        log.warning("parcels spilled", extra={"project": project, "parcels": len(parcels)})

    def _put_receipt(self, receipt: Receipt, project: str, hour: str, received_ms: int, *, sent: bool) -> None:
        """Put the totals now and then; what is not put comes with the messages, where there are any."""
        holder = project, hour, receipt.container
        for whose, latest in self.puts.due(holder, receipt, received_ms, at_once=not sent):
            is_put = True
            try:
                self.ledger.put(whose[0], whose[1], latest, received_ms // 1000)
            except (BotoCoreError, ClientError) as error:  # the events are safe; it waits for another request
                log.warning("receipt not put", extra={"project": whose[0], "reason": str(error)})
                is_put = False
            self.puts.done(whose, latest, is_put=is_put)

    def _quarantine(
        self, admission: Admission, request: Request, project: Project, received_ms: int, client: Client
    ) -> None:
        records = [
            Record.of(rejection, request.events[rejection.index])
            for rejection in admission.rejections
            if not self._is_erased(project.id, rejection.event, received_ms)
        ]
        if not records:
            return
        file = QuarantineFile(project.id, received_ms, request.sent_at, client, records, request.body)
        # Without an id an event is another one each time it is sent, and none of them may take another's place.
        unique = b"" if all(record.event_id for record in records) else self.admitter.new_id(received_ms).encode()
        self.bucket.put_gzip(quarantine_key(project.id, received_ms, file.content() + unique), file.encode())

    def _is_erased(self, project: str, rejected: object, received_ms: int) -> bool:
        """Return whether a rejected event is an erased user's; where that cannot be told now, it is kept."""
        try:
            return self.erased.is_theirs(project, rejected, received_ms)
        except (BotoCoreError, ClientError) as error:
            log.warning("erased users unknown", extra={"project": project, "reason": str(error)})
            return False


def _judged(admission: Admission) -> dict[str, int]:
    """Return what the edge counts of the verdicts."""
    return {
        "quarantined": len(admission.rejections),
        "repeated": len(admission.event_ids) - len(admission.events),
    }
