"""What is left of erased users outside of the tables and the lake: files that were rejected, put aside or imported.

Each method removes, of a project, what is of one of the ids and was received before a time (Unix milliseconds), and
returns how much that was. Files are small and few, so each is read; doing it again finds nothing.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from chalicelib.base import waits
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import SPILL, UNREADABLE
from chalicelib.base.time_windows import parse_ms
from chalicelib.events.chunks import Message, decode_message, encode_message, from_spill
from chalicelib.events.erasure import mentioned_in, mentions
from chalicelib.events.events import Unreadable, user_of
from chalicelib.imports.imports import RAW, STAGED, Import, ImportRefused, RowMapping
from chalicelib.imports.imports_table import ImportsTable
from chalicelib.imports.raw_files import RawFile
from chalicelib.quarantine.files import IN_BODY
from chalicelib.quarantine.store import QuarantineFiles
from chalicelib.sql.athena import UNLOADED
from chalicelib.sql.queries_table import QueriesTable

RESULTS = "athena/"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forgetter:
    """Removes; `reinject` sends a spilled object on, to where its erased users' events are dropped."""

    bucket: DataBucket
    results: DataBucket
    imports: ImportsTable
    queries_table: QueriesTable
    reinject: Callable[[str], None]
    now: Callable[[], int]  # Unix milliseconds

    def places(self) -> dict[str, Callable[[str, Sequence[str], int], int]]:
        """Return all but `queries`, by the name that a receipt has for it."""
        return {
            "quarantine": self.quarantine,
            "spill": self.spill,
            "unreadable": self.unreadable,
            "imported_files": self.imported,
        }

    def quarantine(self, project: str, ids: Sequence[str], until_ms: int) -> int:
        """Rejected events that name an id anywhere."""
        removed = 0
        for key, file in QuarantineFiles(self.bucket).all(project):
            if file.received_ms >= until_ms:
                continue
            left = [record for record in file.records if not record.names(ids, file.body)]
            if len(left) == len(file.records):
                continue
            removed += len(file.records) - len(left)
            if left:
                body = file.body if any(record.kept_as == IN_BODY for record in left) else b""
                self.bucket.put_gzip(key, replace(file, records=left, body=body).encode())
            else:
                self.bucket.delete(key)
        return removed

    def spill(self, project: str, ids: Sequence[str], until_ms: int) -> int:
        """Messages that wait for the buffer; raises Unavailable as long as it takes none."""
        found = 0
        for key in list(self.bucket.keys(f"{SPILL}{project}/")):
            content = self.bucket.get(key)
            try:
                messages = [decode_message(parcel.text) for parcel in from_spill(content or b"")]
            except ValueError as error:  # the sweep tells of it, too
                log.warning("spilled message unreadable", extra={"key": key, "reason": str(error)})
                continue
            if any(_is_theirs(message, project, ids, until_ms) for message in messages):
                self.reinject(key)
                found += 1
        return found

    def unreadable(self, project: str, ids: Sequence[str], until_ms: int) -> int:
        """Messages that no table took, and stream records that nobody could read."""
        owners = [f"{project}#{each}" for each in ids]
        removed = 0
        for key in list(self.bucket.keys(UNREADABLE)):
            content = self.bucket.get(key) or b""
            try:
                message = decode_message(content)
            except ValueError:
                if mentioned_in(content, owners):
                    self.bucket.delete(key)
                    removed += 1
                continue
            if _is_theirs(message, project, ids, until_ms):
                left = [event for event in message.events if user_of(event) not in ids]
                removed += len(message.events) - len(left)
                [(text, _)] = encode_message(replace(message, events=left))
                if left:
                    self.bucket.put(key, text.encode())
                else:
                    self.bucket.delete(key)
        return removed

    def imported(self, project: str, ids: Sequence[str], until_ms: int) -> int:
        """Files of history that are imported, with their reports; others are their owner's, and stay.

        What lies between the tasks of an import that is over, or died, goes in any case: nothing needs it any more.
        """
        states: dict[str, str] = {}
        for one in self.imports.latest(project, None):
            started_ms = parse_ms(one["started_at"])
            states.setdefault(one["file"], one["state"] if started_ms < until_ms else "later")
            if one["ended_at"] is not None or started_ms < self.now() - waits.IMPORT_MS:
                for key in list(self.bucket.keys(f"{STAGED}{project}/{one['id']}/")):
                    self.bucket.delete(key)
        removed = 0
        for key in list(self.bucket.keys(f"{RAW}{project}/")):
            one_file = Import.of(key, "", "", 0)
            if one_file is None or not self._row_names(one_file, ids):
                continue
            state = states.get(one_file.file)
            if state != "done":
                if state != "later":
                    log.warning("a file of raw/ names an erased user", extra={"project": project, "key": key})
                continue
            self.bucket.delete(one_file.outcome_key)
            self.bucket.delete(key)
            removed += 1
        return removed

    def queries(self, project: str, expiring_before: datetime) -> int:
        """Remove what was asked, and its results, up to some time: any of them may show the user."""
        asked = self.queries_table.asked(project, expiring_before)
        for query_id in asked:
            query = self.queries_table.get(query_id)
            prefixes = [f"{RESULTS}{query_id}"]
            if query and query.folder:
                prefixes.append(f"{UNLOADED}{query.folder}/")
            for key in [key for prefix in prefixes for key in self.results.keys(prefix)]:
                self.results.delete(key)
            self.queries_table.drop(project, query_id)
        return len(asked)

    def _row_names(self, one: Import, ids: Sequence[str]) -> bool:
        """Return whether a row is of one of the ids: as its mapping reads it, where there is one."""
        content = next(filter(None, (self.bucket.get(key) for key in one.mapping_keys)), None)
        try:
            mapping = RowMapping.read(content) if content else None
            rows = RawFile(lambda: self.bucket.open(one.key), one.file, mapping).rows()
            return any(mentions(_sent(mapping.event(row) if mapping else row), ids) for row in rows)
        except (ImportRefused, FileNotFoundError):
            return False


def _sent(row: Any) -> Any:
    return row.sent if isinstance(row, Unreadable) else row


def _is_theirs(message: Message, project: str, ids: Sequence[str], until_ms: int) -> bool:
    of_project = message.project == project and message.received_ms < until_ms
    return of_project and any(user_of(event) in ids for event in message.events)
