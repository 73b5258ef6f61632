"""Beside aggregation: new chunks from the same stream become tail files of the lake."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib.domain.partitions import lake_folder, tail_key
from chalicelib.domain.records import ChunkRecord, read_chunk
from chalicelib.storage.lake import Lake, Row

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archiver:
    """Writes one tail file per project and hour of a stream batch."""

    lake: Lake

    def archive(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Write the batch's files and return how many events they hold.

        Files are named by the batch's first record: a retry, longer or not, rewrites its own. A record that cannot
        be read is skipped here, because aggregation keeps it in quarantine.
        """
        folders: dict[str, list[Row]] = {}
        for record in records:
            chunk = read_chunk(record)
            if isinstance(chunk, ChunkRecord):
                for event in chunk.events:
                    folder = lake_folder(chunk.project, event["occurred_at"])
                    folders.setdefault(folder, []).append(Row(event, chunk.received_ms))
        for folder, rows in folders.items():
            self.lake.write(tail_key(folder, records[0]["eventID"]), rows)
        events = sum(map(len, folders.values()))
        if events:
            log.info("archived", extra={"batch": records[0]["eventID"], "files": len(folders), "events": events})
        return events
