"""Third stage: new chunks from the events table's stream become deltas in the rollups table.

A stream batch writes one delta for each project, hour and slot, named by the first record with something there, so
that a retry, longer or shorter, overwrites its own. Where a later attempt, or a tombstone of compaction, has records
already, the batch is cut behind them and the rest goes in under its own first record. docs/decisions/0003 has the
reasons, tests/test_rollup_protocol.py random histories.
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
from chalicelib.domain.signatures import NOTHING, Signature, hash_of, slot_of
from chalicelib.domain.sketches import hash_user
from chalicelib.domain.time_windows import HOUR_MS, hour_of
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.rollups_table import RollupsTable

log = logging.getLogger(__name__)

Place = tuple[str, str, int]  # project, hour, slot


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Folds stream batches; may run any number of times on the same records."""

    contracts: Contracts
    rollups: RollupsTable
    bucket: DataBucket

    def aggregate(self, records: Sequence[Mapping[str, Any]], now_ms: int) -> None:
        """Write the batch's deltas; `now_ms`, in Unix milliseconds, is when this attempt began.

        Raises when a store does not answer: the batch then comes again.
        """
        shares = self.fold(records)
        self._name_types(shares)
        for place, share in shares.items():
            self._write(place, share, records, now_ms)
        if shares:
            log.info("aggregated", extra={"batch": records[0]["eventID"], "deltas": len(shares)})

    def fold(self, records: Iterable[Mapping[str, Any]]) -> "dict[Place, Share]":
        """Return what is counted by project, hour and slot: events where they occurred, the ledger where received.

        One chunk at a time is unpacked. What cannot be read is kept, so that it neither blocks the shard nor vanishes.
        """
        batch = _Batch()
        for record in records:
            chunk = read_chunk(record)
            if isinstance(chunk, BadRecord):
                self._keep(chunk)
            elif chunk is not None:
                slot = slot_of(record)
                ledger = batch.share((chunk.project, hour_of(chunk.received_ms), slot), record).folding.ledger
                if isinstance(chunk, Rewrite):
                    ledger.take(chunk.receipt, chunk.position, chunk.count, again=True)
                else:
                    ledger.take(chunk.receipt, chunk.position, len(chunk.events), again=False)
                    ledger.bots += self._fold_events(batch, chunk, slot, record)
        return batch.shares

    def _fold_events(self, batch: "_Batch", chunk: ChunkRecord, slot: int, record: Mapping[str, Any]) -> int:
        """Gather the chunk's events where they are counted; returns how many are bots', which are not."""
        user_hash = hash_user(chunk.user) if chunk.user else None
        users: dict[int, int] = {}  # the user's number in an hour's folding
        received: dict[int, int] = {}  # by hour
        bots = 0
        for event in chunk.events:
            number, event_type = event["occurred_at"] // HOUR_MS, event["event_type"]
            received[number] = received.get(number, 0) + 1
            if "enrichment" in event and event["enrichment"].get("bot"):
                bots += 1
                continue
            place = batch.places.get((chunk.project, number, slot, event_type))
            if place is None:
                folding = batch.share((chunk.project, hour_of(event["occurred_at"]), slot), record).folding
                place = folding, folding.rows_of(event_type, self.contracts.spec(event_type))
                batch.places[chunk.project, number, slot, event_type] = place
            if number not in users:
                users[number] = place[0].user(user_hash)
            place[1].add(event, users[number])
        record_hash = hash_of(chunk.event_id)
        for number, rows in received.items():
            share = batch.share((chunk.project, hour_of(number * HOUR_MS), slot), record)
            share.signature += Signature(rows, record_hash)
        return bots

    def _name_types(self, shares: "Mapping[Place, Share]") -> None:
        """Give the names that are left to the types that are the most frequent in the batch, not to the first ones."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for (project, _, _), share in shares.items():
            counts[project].update({event_type: len(rows) for event_type, rows in share.folding.rows.items()})
        for project, types in counts.items():
            ranked = sorted(types, key=lambda event_type: (-types[event_type], event_type))
            self.rollups.note_types(project, ranked, self.contracts.by_type)

    def _names(self, project: str, hour: str) -> Names:
        return lambda event_types: self.rollups.note_types(project, event_types, self.contracts.by_type, hour=hour)

    def _write(self, place: Place, share: "Share", records: Sequence[Mapping[str, Any]], attempt: int) -> None:
        while True:
            body = encode_document(share.folding.document(self._names(*place[:2])))
            last = sequence_of(records[-1])
            delta = Delta(*place, share.first, attempt, last, share.signature, attempt // 1000, body)
            there = self.rollups.put_delta(delta)
            if there is None:
                return
            records = [record for record in records if sequence_of(record) > there]
            rest = self.fold(records)
            if place not in rest:
                return  # all of it is there already
            share = rest[place]

    def _keep(self, record: BadRecord) -> None:
        log.warning("record unreadable", extra={"event_id": record.event_id, "reason": record.reason})
        self.bucket.put(unreadable_key(record.event_id), orjson.dumps(record.raw, default=str))


@dataclass(slots=True)
class Share:
    """What a batch comes to in one place: `first` is the first record with something there."""

    first: str
    folding: Folding = field(default_factory=Folding)
    signature: Signature = NOTHING  # of the records with rows there, as received: bots' too


@dataclass(slots=True)
class _Batch:
    """What a stream batch comes to, and where the rows of each type gather."""

    shares: dict[Place, Share] = field(default_factory=dict)
    places: dict[tuple[str, int, int, str], tuple[Folding, Rows]] = field(default_factory=dict)

    def share(self, place: Place, record: Mapping[str, Any]) -> Share:
        """What there is in a place; where there is nothing yet, it is named by the record."""
        found = self.shares.get(place)
        if found is None:
            found = self.shares[place] = Share(record["eventID"])
        return found
