"""Third stage: new chunks from the events table's stream become deltas in the rollups table.

A stream batch writes one delta for each project, hour and slot, named by the first record with something there, so
that a retry, longer or shorter, overwrites its own. Where a later attempt, or a tombstone of compaction, has records
already, the batch is cut behind them and the rest goes in under its own first record. docs/decisions/0003 has the
reasons, tests/hours/test_rollup_protocol.py random histories.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import unreadable_key
from chalicelib.base.time_windows import HOUR_MS, hour_of
from chalicelib.events.contracts import Contracts
from chalicelib.events.records import BadRecord, ChunkRecord, Rewrite, read_chunk, sequence_of
from chalicelib.rollups.codec import encode_document
from chalicelib.rollups.deltas import Delta
from chalicelib.rollups.folding import Folding, Names, counted_events
from chalicelib.rollups.rollups_table import RollupsTable
from chalicelib.rollups.signatures import HASHES, Signature, hash_of, slot_of
from chalicelib.rollups.sketches import hash_user

log = logging.getLogger(__name__)

Place = tuple[str, str, int]  # project, hour, slot
_Spot = tuple[str, int, int]  # the same, with the hours since 1970: the name of an hour takes longer than counting


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
        shares: dict[_Spot, Share] = {}
        for record in records:
            chunk = read_chunk(record, counted_events)
            if isinstance(chunk, BadRecord):
                self._keep(chunk)
            elif chunk is not None:
                slot = slot_of(record)
                ledger = _share(shares, (chunk.project, chunk.received_ms // HOUR_MS, slot), record).folding.ledger
                if isinstance(chunk, Rewrite):
                    ledger.take(chunk.receipt, chunk.position, chunk.count, again=True)
                else:
                    ledger.take(chunk.receipt, chunk.position, len(chunk.events), again=False)
                    ledger.bots += self._fold_events(shares, chunk, slot, record)
        return {(project, hour_of(number * HOUR_MS), slot): share for (project, number, slot), share in shares.items()}

    def _fold_events(
        self, shares: "dict[_Spot, Share]", chunk: ChunkRecord, slot: int, record: Mapping[str, Any]
    ) -> int:
        """Gather the chunk's events where they are counted; returns how many are bots', which are not."""
        user_hash = hash_user(chunk.user) if chunk.user else None
        project, bots = chunk.project, 0
        hours: dict[int, list[Any]] = {}  # by number: the share, its rows by type, and the user's number
        for event in chunk.events:
            number = event["occurred_at"] // HOUR_MS
            hour = hours.get(number)
            if hour is None:
                share = _share(shares, (project, number, slot), record)
                hour = hours[number] = [share, share.folding.rows, None]
            if "enrichment" in event and event["enrichment"].get("bot"):
                bots += 1
                continue
            event_type = event["event_type"]
            rows = hour[1].get(event_type)
            if rows is None:
                rows = hour[0].folding.rows_of(event_type, self.contracts.spec(event_type))
            if hour[2] is None:
                hour[2] = hour[0].folding.user(user_hash)
            rows.add(event, hour[2])
        record_hash = hash_of(chunk.event_id)
        counts = Counter(event["occurred_at"] // HOUR_MS for event in chunk.events) if len(hours) > 1 else None
        for number, (share, *_) in hours.items():
            share.received += counts[number] if counts else len(chunk.events)
            share.hashes += record_hash
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
    received: int = 0  # rows of the records with some there, bots' too
    hashes: int = 0  # the sum of these records' hashes

    @property
    def signature(self) -> Signature:
        """Of the records with rows there."""
        return Signature(self.received, self.hashes % HASHES)


def _share(shares: dict[_Spot, Share], spot: _Spot, record: Mapping[str, Any]) -> Share:
    """Return what there is of an hour and slot; where there is nothing yet, the record names it."""
    found = shares.get(spot)
    if found is None:
        found = shares[spot] = Share(record["eventID"])
    return found
