"""Beside aggregation: new chunks from the same stream become tail files of the lake."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib.domain.partitions import lake_folder, tail_key
from chalicelib.domain.records import ChunkRecord, read_chunk
from chalicelib.storage.lake import Lake, Row

MAX_SHARE_BYTES = 32 * 1024 * 1024  # of unpacked events; as Python objects some ten times that

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archiver:
    """Writes one tail file per project and hour of a stream batch."""

    lake: Lake

    def archive(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Write the batch's files and return how many events they hold.

        Files are named by the batch's first record: a retry, longer or not, rewrites its own. What unpacks to more
        than memory should hold is written in shares, each named by its own first record; a retry makes the same
        shares. A record that cannot be read is skipped here, because aggregation keeps it in quarantine.
        """
        events = 0
        share: list[tuple[str, ChunkRecord]] = []
        share_bytes = 0
        for record in records:
            chunk = read_chunk(record)
            if isinstance(chunk, ChunkRecord):
                if share and share_bytes + chunk.plain_bytes > MAX_SHARE_BYTES:
                    events += self._write(share)
                    share, share_bytes = [], 0
                share.append((records[0]["eventID"] if not events else record["eventID"], chunk))
                share_bytes += chunk.plain_bytes
        return events + self._write(share)

    def _write(self, share: list[tuple[str, ChunkRecord]]) -> int:
        folders: dict[str, list[Row]] = {}
        for _, chunk in share:
            for event in chunk.events:
                folder = lake_folder(chunk.project, event["occurred_at"])
                folders.setdefault(folder, []).append(Row(event, chunk.received_ms))
        events = sum(map(len, folders.values()))
        if events:
            name = share[0][0]
            for folder, rows in folders.items():
                self.lake.write(tail_key(folder, name), rows)
            log.info("archived", extra={"batch": name, "files": len(folders), "events": events})
        return events
