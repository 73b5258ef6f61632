"""Beside aggregation: new chunks from the same stream become tail files of the lake."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chalicelib.base.object_keys import hour_folder, tail_name
from chalicelib.base.time_windows import hour_of
from chalicelib.base.values import held_bytes
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.records import ChunkRecord, read_chunk
from chalicelib.lake.lake import Lake, Row, encode, table_of
from chalicelib.lake.record_sets import records_of
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.signatures import hash_of, slot_of

MAX_SHARE_BYTES = 256 * 1024 * 1024  # of memory that unpacked events take; the function has 1,024 MB

log = logging.getLogger(__name__)

Place = tuple[str, str, int]  # project, hour, slot


@dataclass(frozen=True, slots=True)
class Archiver:
    """Writes one tail file per project, hour and slot of a stream batch."""

    lake: Lake
    hours: HoursTable
    erased: ErasedUsers

    def archive(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Write the batch's files and return how many events they hold.

        A file is named by its first record and its content, so a repeat writes the same object again, and a batch that
        came otherwise writes another one beside it. Both say which records they hold, and a consolidation keeps each
        once. What unpacks to more than memory should hold is written in shares. A record that cannot be read is skipped
        here, because aggregation keeps it in quarantine.
        """
        events = 0
        share: list[tuple[int, ChunkRecord]] = []
        share_bytes = 0
        for record in records:
            chunk = read_chunk(record)
            if isinstance(chunk, ChunkRecord):
                chunk_bytes = held_bytes(chunk.values, chunk.plain_bytes)
                if share and share_bytes + chunk_bytes > MAX_SHARE_BYTES:
                    events += self._write(share)
                    share, share_bytes = [], 0
                share.append((slot_of(record), chunk))
                share_bytes += chunk_bytes
        return events + self._write(share)

    def _write(self, share: Sequence[tuple[int, ChunkRecord]]) -> int:
        events = 0
        tails = _tails(share)
        for (project, hour, slot), tail in tails.items():
            kept = [row for row in tail.rows if self.erased.kept(project, [row.event])]
            content = encode(table_of(kept), records_of(tail.received))
            self.lake.put(hour_folder(project, hour) + tail_name(slot, tail.first, content), content)
            self.hours.note(project, hour)  # after the put: noted before, it could be taken for done
            events += len(kept)
        if events:
            log.info("archived", extra={"batch": share[0][1].event_id, "files": len(tails), "events": events})
        return events


@dataclass(slots=True)
class _Tail:
    first: str
    rows: list[Row] = field(default_factory=list)
    received: list[tuple[int, int]] = field(default_factory=list)  # hash of each record, and its rows, erased or not


def _tails(share: Sequence[tuple[int, ChunkRecord]]) -> dict[Place, _Tail]:
    tails: dict[Place, _Tail] = {}
    for slot, chunk in share:
        for hour, rows in _by_hour(chunk, slot):
            place = chunk.project, hour, slot
            tail = tails.get(place)
            if tail is None:
                tail = tails[place] = _Tail(chunk.event_id)
            tail.rows += rows
            tail.received.append((hash_of(chunk.event_id), len(rows)))
    return tails


def _by_hour(chunk: ChunkRecord, slot: int) -> Iterator[tuple[str, list[Row]]]:
    hours: dict[str, list[Row]] = {}
    for event in chunk.events:
        hours.setdefault(hour_of(event["occurred_at"]), []).append(Row(event, chunk.received_ms, slot))
    yield from hours.items()
