"""Third stage: new chunks from the events table's stream become deltas in the rollups table.

A stream batch writes one delta per project and hour, named by the batch's first record, so that a retry, longer
or not, overwrites its own. Where compaction has left a tombstone, the batch is cut at its tidemark and the rest goes
in under its own first record. docs/decisions/0003 has the reasons, tests/test_rollup_protocol.py random histories.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import Delta
from chalicelib.domain.folding import Folding
from chalicelib.domain.partitions import unreadable_key
from chalicelib.domain.records import BadRecord, ChunkRecord, Rewrite, read_chunk, sequence_of
from chalicelib.domain.rollup_codec import encode_document
from chalicelib.domain.sketches import hash_user
from chalicelib.domain.time_windows import HOUR_MS, hour_of
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.rollups_table import RollupsTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Folds stream batches; may run any number of times on the same records."""

    contracts: Contracts
    rollups: RollupsTable
    bucket: DataBucket

    def aggregate(self, records: Sequence[Mapping[str, Any]], now: int) -> None:
        """Write the batch's deltas; `now` is epoch seconds.

        Raises when a store does not answer: the batch then comes again.
        """
        folded = self.fold(records)
        for project, hour in folded:
            self._write(project, hour, folded[project, hour], records, now)
        if folded:
            log.info("aggregated", extra={"batch": records[0]["eventID"], "deltas": len(folded)})

    def fold(self, records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Folding]:
        """What is counted by (project, hour): events in the hour they occurred in, the ledger in the hour of receipt.

        One chunk at a time is unpacked. What cannot be read is kept, so that it neither blocks the shard nor vanishes.
        """
        folded: dict[tuple[str, str], Folding] = defaultdict(Folding)
        for record in records:
            chunk = read_chunk(record)
            if isinstance(chunk, BadRecord):
                self._keep(chunk)
            elif chunk is not None:
                ledger = folded[chunk.project, hour_of(chunk.received_ms)].ledger
                if chunk.receipt:
                    ledger.note(chunk.receipt)
                if isinstance(chunk, Rewrite):
                    ledger.rewritten += chunk.count
                else:
                    ledger.stored += len(chunk.events)
                    self._fold_events(folded, chunk)
        return folded

    def _fold_events(self, folded: dict[tuple[str, str], Folding], chunk: ChunkRecord) -> None:
        types = {event["event_type"] for event in chunk.events}
        names = self.rollups.names(chunk.project, types, self.contracts.by_type)
        user_hash = hash_user(chunk.user) if chunk.user else None
        hours: dict[int, tuple[Folding, int | None]] = {}  # an hour's folding, and the user's number in it
        for event in chunk.events:
            if "enrichment" in event and event["enrichment"].get("bot"):
                folded[chunk.project, hour_of(chunk.received_ms)].ledger.bots += 1
                continue
            number = event["occurred_at"] // HOUR_MS
            if number not in hours:
                folding = folded[chunk.project, hour_of(event["occurred_at"])]
                hours[number] = folding, folding.user(user_hash)
            folding, user = hours[number]
            event_type = event["event_type"]
            folding.add(names[event_type], event, user, self.contracts.spec(event_type))

    def _write(self, project: str, hour: str, folding: Folding, records: Sequence[Mapping[str, Any]], now: int) -> None:
        while True:
            first, last = records[0]["eventID"], sequence_of(records[-1])
            body = encode_document(folding.document())
            tidemark = self.rollups.put_delta(Delta(project, hour, first, last, now, body))
            if tidemark is None:
                return
            records = [record for record in records if sequence_of(record) > tidemark]
            rest = self.fold(records)
            if (project, hour) not in rest:
                return  # all of it is in the merged item already
            folding = rest[project, hour]

    def _keep(self, record: BadRecord) -> None:
        log.warning("record unreadable", extra={"event_id": record.event_id, "reason": record.reason})
        self.bucket.put(unreadable_key(record.event_id), orjson.dumps(record.raw, default=str))
