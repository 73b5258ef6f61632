"""Third stage: new chunks from the events table's stream become deltas in the rollups table.

A stream batch writes one delta per project and hour, named by the batch's first record, so that a retry, longer
or not, overwrites its own. Where compaction has left a tombstone, the batch is cut at its tidemark and the rest goes
in under its own first record. docs/decisions/0003 has the reasons, tests/test_rollup_protocol.py random histories.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import Delta
from chalicelib.domain.partitions import unreadable_key
from chalicelib.domain.records import BadRecord, ChunkRecord, read_chunk, sequence_of
from chalicelib.domain.rollups import Rollups, fold_event
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
        chunks, bad = read_chunks(records)
        keep_bad(self.bucket, bad)
        if chunks:
            ids = [(sequence_of(record), record["eventID"]) for record in records]
            folded = fold(chunks, self.contracts)
            for (project, hour), rollups in folded.items():
                self._write(Delta(project, hour, ids[0][1], ids[-1][0], now, rollups), chunks, ids)
            log.info("aggregated", extra={"batch": ids[0][1], "chunks": len(chunks), "deltas": len(folded)})

    def _write(self, delta: Delta, chunks: list[ChunkRecord], ids: list[tuple[int, str]]) -> None:
        self.rollups.remember(delta.project, delta.hour, delta.rollups)
        while (tidemark := self.rollups.put_delta(delta)) is not None:
            ids = [(sequence, event_id) for sequence, event_id in ids if sequence > tidemark]
            rest = [chunk for chunk in chunks if chunk.sequence > tidemark]
            rollups = fold(rest, self.contracts).get((delta.project, delta.hour))
            if rollups is None:
                return  # all of it is in the merged item already
            delta = Delta(delta.project, delta.hour, ids[0][1], ids[-1][0], delta.written_at, rollups)


def read_chunks(records: Iterable[Mapping[str, Any]]) -> tuple[list[ChunkRecord], list[BadRecord]]:
    """The new chunks of a stream batch, and what of it cannot be read."""
    chunks: list[ChunkRecord] = []
    bad: list[BadRecord] = []
    for record in records:
        chunk = read_chunk(record)
        if isinstance(chunk, ChunkRecord):
            chunks.append(chunk)
        elif chunk is not None:
            bad.append(chunk)
    return chunks, bad


def keep_bad(bucket: DataBucket, bad: Iterable[BadRecord]) -> None:
    """Put unreadable records into quarantine, so that they neither block the shard nor vanish."""
    for record in bad:
        log.warning("record unreadable", extra={"event_id": record.event_id, "reason": record.reason})
        bucket.put(unreadable_key(record.event_id), orjson.dumps(record.raw, default=str))


def fold(chunks: Iterable[ChunkRecord], contracts: Contracts) -> dict[tuple[str, str], Rollups]:
    """Rollups by (project, hour) and event type; an event counts in the hour it occurred in."""
    folded: dict[tuple[str, str], Rollups] = {}
    hours: dict[int, str] = {}
    for chunk in chunks:
        user_hash = hash_user(chunk.user) if chunk.user else None
        for event in chunk.events:
            number = event["occurred_at"] // HOUR_MS
            hour = hours.get(number) or hours.setdefault(number, hour_of(event["occurred_at"]))
            rollups = folded.setdefault((chunk.project, hour), {})
            fold_event(rollups, event, user_hash, contracts.spec(event["event_type"]))
    return folded
