"""Third stage: new chunks from the events table's stream become deltas in the rollups table.

A stream batch writes one delta per project and hour, named by the batch's first record, so that a retry, longer
or not, overwrites its own. Where compaction has left a tombstone, the batch is cut at its tidemark and the rest goes
in under its own first record. docs/decisions/0003 has the reasons, tests/test_rollup_protocol.py random histories.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import Delta
from chalicelib.domain.folding import Folding, Names, Rows
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
        self._name_types(folded)
        for project, hour in folded:
            self._write(project, hour, folded[project, hour], records, now)
        if folded:
            log.info("aggregated", extra={"batch": records[0]["eventID"], "deltas": len(folded)})

    def fold(self, records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Folding]:
        """What is counted by (project, hour): events in the hour they occurred in, the ledger in the hour of receipt.

        One chunk at a time is unpacked. What cannot be read is kept, so that it neither blocks the shard nor vanishes.
        """
        batch = _Batch()
        for record in records:
            chunk = read_chunk(record)
            if isinstance(chunk, BadRecord):
                self._keep(chunk)
            elif chunk is not None:
                ledger = batch.folded[chunk.project, hour_of(chunk.received_ms)].ledger
                if chunk.receipt:
                    ledger.note(chunk.receipt)
                if isinstance(chunk, Rewrite):
                    ledger.rewritten += chunk.count
                else:
                    ledger.stored += len(chunk.events)
                    ledger.bots += self._fold_events(batch, chunk)
        return batch.folded

    def _fold_events(self, batch: "_Batch", chunk: ChunkRecord) -> int:
        """Gather the chunk's events where they are counted; returns how many are bots', which are not."""
        user_hash = hash_user(chunk.user) if chunk.user else None
        users: dict[int, int] = {}  # the user's number in an hour's folding
        bots = 0
        for event in chunk.events:
            if "enrichment" in event and event["enrichment"].get("bot"):
                bots += 1
                continue
            number, event_type = event["occurred_at"] // HOUR_MS, event["event_type"]
            place = batch.places.get((chunk.project, number, event_type))
            if place is None:
                folding = batch.folded[chunk.project, hour_of(event["occurred_at"])]
                place = folding, folding.rows_of(event_type, self.contracts.spec(event_type))
                batch.places[chunk.project, number, event_type] = place
            if number not in users:
                users[number] = place[0].user(user_hash)
            place[1].add(event, users[number])
        return bots

    def _name_types(self, folded: Mapping[tuple[str, str], Folding]) -> None:
        """Give the names that are left to the types that are the most frequent in the batch, not to the first ones."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for (project, _), folding in folded.items():
            counts[project].update({event_type: len(rows) for event_type, rows in folding.rows.items()})
        for project, types in counts.items():
            ranked = sorted(types, key=lambda event_type: (-types[event_type], event_type))
            self.rollups.names(project, ranked, self.contracts.by_type)

    def _names(self, project: str, hour: str) -> Names:
        return lambda event_types: self.rollups.names(project, event_types, self.contracts.by_type, hour=hour)

    def _write(self, project: str, hour: str, folding: Folding, records: Sequence[Mapping[str, Any]], now: int) -> None:
        while True:
            first, last = records[0]["eventID"], sequence_of(records[-1])
            body = encode_document(folding.document(self._names(project, hour)))
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


@dataclass(slots=True)
class _Batch:
    """What a stream batch comes to, by project and hour, and where the rows of each type gather."""

    folded: dict[tuple[str, str], Folding] = field(default_factory=lambda: defaultdict(Folding))
    places: dict[tuple[str, int, str], tuple[Folding, Rows]] = field(default_factory=dict)
