"""Beside aggregation: new chunks from the same stream become tail files of the lake."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib.domain.partitions import hour_folder, tail_name
from chalicelib.domain.records import ChunkRecord, read_chunk
from chalicelib.domain.time_windows import hour_of
from chalicelib.storage.dirty_hours import DirtyHours
from chalicelib.storage.erased_users import ErasedUsers
from chalicelib.storage.lake import Lake, Row

MAX_SHARE_BYTES = 32 * 1024 * 1024  # of unpacked events; as Python objects some ten times that

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archiver:
    """Writes one tail file per project and hour of a stream batch."""

    lake: Lake
    dirty: DirtyHours
    erased: ErasedUsers

    def archive(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Write the batch's files and return how many events they hold.

        Files are named by the batch's first record, so a retry writes its own again; a longer one writes another
        beside it, with the same rows and more, and the consolidation keeps each event once. What unpacks to more than
        memory should hold is written in shares, each named by its own first record; a retry makes the same shares. A
        record that cannot be read is skipped here, because aggregation keeps it in quarantine.
        """
        events = 0
        share: list[ChunkRecord] = []
        share_bytes, first = 0, records[0] if records else {}
        for record in records:
            chunk = read_chunk(record)
            if isinstance(chunk, ChunkRecord):
                if share and share_bytes + chunk.plain_bytes > MAX_SHARE_BYTES:
                    events += self._write(share, first)
                    share, share_bytes, first = [], 0, record
                share.append(chunk)
                share_bytes += chunk.plain_bytes
        return events + self._write(share, first)

    def _write(self, share: list[ChunkRecord], first: Mapping[str, Any]) -> int:
        hours: dict[tuple[str, str], list[Row]] = {}
        for chunk in share:
            for event in self.erased.kept(chunk.project, chunk.events):
                key = (chunk.project, hour_of(event["occurred_at"]))
                hours.setdefault(key, []).append(Row(event, chunk.received_ms))
        events = sum(map(len, hours.values()))
        for (project, hour), rows in hours.items():
            created = int(first["dynamodb"].get("ApproximateCreationDateTime", 0))
            name = tail_name(created, first["eventID"], len(rows))
            self.lake.write(hour_folder(project, hour) + name, rows)
            self.dirty.note(project, hour, name)
        if events:
            log.info("archived", extra={"batch": first["eventID"], "files": len(hours), "events": events})
        return events
