"""Files of history, task by task of infra/workflows/import.asl.json: validate, transform, aggregate, store, notify.

Between two tasks, what was made of the file lies in `imports/<project>/<import id>/`. Every task may run any number of
times and die at any point: what it writes has names that follow from the file and from its own place in the workflow.
A task that raises ImportRefused is not tried again; any other error is.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
from isal import isal_zlib

from chalicelib.access.access import Project
from chalicelib.base import values
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import quarantine_key
from chalicelib.base.time_windows import HOUR_MS, day_of, hour_of
from chalicelib.events.addresses import hide_addresses
from chalicelib.events.enrichment import NOBODY, enrich
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.events import MAX_DEPTH, Admission, Admitter, Unreadable
from chalicelib.imports.imports import (
    MAX_ERROR_CHARACTERS,
    MAX_FILE_BYTES,
    MAX_PARTS,
    MAX_ROWS,
    PART_HELD_BYTES,
    PART_ROWS,
    SHOWN_REJECTIONS,
    Import,
    ImportRefused,
    RowMapping,
    Stored,
    Summary,
    ranges_of,
    with_id,
    without_clock,
)
from chalicelib.imports.imports_table import ImportsTable
from chalicelib.imports.raw_files import RawFile
from chalicelib.lake.lake import Lake, Row
from chalicelib.notices.notices import IMPORT, Notice
from chalicelib.notices.publisher import Notices
from chalicelib.quarantine.files import QuarantineFile, Record

QUARANTINED_AT_ONCE = 1000  # rejected rows of one quarantine file
QUARANTINED_BYTES = 4 * 1024 * 1024  # of one; a request's has 5 MiB at most
ADMITTED_AT_ONCE = 5000
GZIP = 31  # of zlib's window bits: gzip, with the largest window

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Importer:
    """The tasks; each takes and returns what JSON can hold. Times are Unix milliseconds."""

    bucket: DataBucket
    lake: Lake
    table: ImportsTable
    admitter: Admitter
    owner: Callable[[str], Project | None]
    store_days: Callable[[Import, Sequence[str], str, str, int, int], Stored]  # files, first, last, number, now
    notices: Notices
    erased: ErasedUsers

    def validate(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Read the file through, and put its rows in parts: `{rows, parts: [number, …], digest}`.

        Raises ImportRefused for a file that is too large, cannot be read, or has no row.
        """
        one = Import.from_json(task["import"])
        self.table.begin(one)
        if self.owner(one.project) is None:
            raise ImportRefused(f"there is no project {one.project!r}; upload the file below raw/<project>/")
        size_bytes = self._size(one)
        mapping = self._mapping(one)
        file = RawFile(lambda: self.bucket.open(one.key, size_bytes), one.file, mapping)
        rows, part = 0, 0
        for count, lines in _parts(map(_staged, file.rows())):
            part += 1
            if rows + count > MAX_ROWS or part > MAX_PARTS:
                raise ImportRefused(
                    f"{one.file} has over {MAX_ROWS:,} rows, or {MAX_PARTS:,} parts of {PART_HELD_BYTES:,} bytes of "
                    "memory, which is the limit; split the file"
                )
            self.bucket.put(one.rows_key(part), isal_zlib.compress(b"%d" % (rows + 1) + lines, 1, GZIP))
            rows += count
        if not rows:
            raise ImportRefused(f"{one.file} has no rows")
        self._size(one)
        self.table.advance(one, "transforming", rows=rows)
        return {"rows": rows, "parts": list(range(1, part + 1)), "digest": file.digest}

    def transform(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Judge a part's rows, as the collector judges events; the rejected ones go to quarantine.

        Returns `{part, rows, rejected}`.
        """
        one, part = Import.from_json(task["import"]), int(task["part"])
        project = self.owner(one.project)
        if project is None:
            raise ImportRefused(f"the project {one.project!r} no longer exists")
        mapping = self._mapping(one)
        found: list[Row] = []
        reasons, shown, repeated, erased, rows = Counter[str](), list[dict[str, Any]](), 0, 0, 0
        seen: set[tuple[str, int]] = set()  # an id is an event in each hour that it is in
        first_row, staged = self._rows(one, part)
        while share := list(islice(staged, ADMITTED_AT_ONCE)):
            raw = [self._raw(row, mapping, task["digest"], first_row + rows + n) for n, row in enumerate(share)]
            admission = self._admit(raw, project, one)
            left = self.erased.kept(one.project, admission.events)
            erased += len(admission.events) - len(left)
            for event in left:
                name = event["event_id"], event["occurred_at"] // HOUR_MS
                if name in seen:
                    repeated += 1
                    continue
                seen.add(name)
                enrich(event, NOBODY)
                found.append(Row(event, one.started_ms))
            repeated += len(admission.event_ids) - len(admission.events)
            reasons.update(rejection.code for rejection in admission.rejections)
            for rejection in admission.rejections[: SHOWN_REJECTIONS - len(shown)]:
                shown.append({"row": first_row + rows + rejection.index, **_told(rejection.answer())})
            self._quarantine(one, admission, raw, first_row + rows)
            rows += len(share)
        if erased:
            reasons["erased_user"] += erased
        days = Counter(day_of(hour_of(row.event["occurred_at"])) for row in found)
        summary = Summary(rows, repeated, days, reasons, shown)
        self.lake.write(one.events_key(part), found)
        self.bucket.put(one.summary_key(part), orjson.dumps(summary.to_json()))
        self.table.count(one, "parts", part, rows, summary.accepted, summary.rejected)
        return {"part": part, "rows": rows, "rejected": summary.rejected}

    def aggregate(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the parts came to together: `{accepted, rejected, ranges: [{number, first, last, events}, …]}`.

        Raises ImportRefused when every row was rejected.
        """
        one = Import.from_json(task["import"])
        summary = self._summary(one, task["parts"])
        if not summary.accepted:
            why = ", ".join(f"{count} {code}" for code, count in summary.reasons.items())
            raise ImportRefused(f"none of the {summary.rows} rows could be taken: {why}")
        ranges = ranges_of(summary.days)
        self.table.advance(one, "storing", planned=len(ranges))
        return {"accepted": summary.accepted, "rejected": summary.rejected, "ranges": ranges}

    def store(self, task: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
        """Bring a range of days into the lake and into the closed rollups.

        Returns `{number, stored, duplicates, waiting}`: events that are new, those that were there, and hours that
        the hourly workflow has yet to close.
        """
        one, span = Import.from_json(task["import"]), task["range"]
        files = [one.events_key(part) for part in task["parts"]]
        done = self.store_days(one, files, span["first"], span["last"], span["number"], now_ms)
        self.table.count(one, "ranges", span["number"], done.stored, done.duplicates)
        return {
            "number": span["number"],
            "stored": done.stored,
            "duplicates": done.duplicates,
            "waiting": done.waiting,
        }

    def notify(self, task: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
        """Put the outcome beside the file, publish it, and forget what lay between the tasks; return the outcome."""
        one = Import.from_json(task["import"])
        summary = self._summary(one, task["parts"])
        stored = sum(each["stored"] for each in task["stored"])
        outcome = {
            "id": one.id,
            "project": one.project,
            "file": one.file,
            "state": "done",
            "rows": summary.rows,
            "stored": stored,
            "duplicates": sum(each["duplicates"] for each in task["stored"]) + summary.repeated,
            "rejected": summary.rejected,
            "reasons": summary.reasons,
            "waiting_hours": sum(each["waiting"] for each in task["stored"]),
        }
        self.bucket.put(one.outcome_key, _pretty({**outcome, "rejections": summary.rejections}))
        title = f"{one.file} is imported: {stored:,} events of {summary.rows:,} rows, {summary.rejected:,} rejected"
        self.notices.publish(Notice(IMPORT, outcome, title))
        self.table.end(one, "done", now_ms, outcome)
        self._forget(one)
        return outcome

    def fail(self, task: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
        """Say why the file was not imported, beside it and in a notice; return the outcome.

        The file stays. Of what was stored before the failure nothing counts twice when it is dropped again.
        """
        one = Import.from_json(task["import"])
        code, reason = task["error"]["Error"], _reason(task["error"])
        outcome = {
            "id": one.id,
            "project": one.project,
            "file": one.file,
            "state": "failed",
            "code": code,
            "error": reason,
        }
        summary = self._together(self.bucket.keys(one.summaries))  # of the parts that were judged
        if summary.rows:
            outcome["reasons"] = summary.reasons
        self.table.begin(one)
        if self.table.end(one, "failed", now_ms, outcome):
            self.bucket.put(one.outcome_key, _pretty({**outcome, "rejections": summary.rejections}))
            self.notices.publish(Notice(IMPORT, outcome, f"{one.file} is not imported: {reason}"[:500]))
        log.warning("import failed", extra={"project": one.project, "import": one.id, "reason": code})
        return outcome

    def _size(self, one: Import) -> int:
        """Return the file's size; raises ImportRefused when it is not the one that was put, or too large."""
        size_bytes, etag = self.bucket.head(one.key)
        if etag != one.etag:
            raise ImportRefused(
                f"{one.file} has been replaced or removed since; the file that is there now is imported separately"
            )
        if size_bytes > MAX_FILE_BYTES:
            raise ImportRefused(f"{one.file} has {size_bytes:,} bytes; the limit is {MAX_FILE_BYTES:,}")
        return size_bytes

    def _mapping(self, one: Import) -> RowMapping | None:
        contents = (self.bucket.get(key) for key in one.mapping_keys)
        content = next((content for content in contents if content is not None), None)
        return None if content is None else RowMapping.read(content)

    def _rows(self, one: Import, part: int) -> tuple[int, Iterator[Any]]:
        """Return the number of the part's first row in the file, and its rows."""
        content = self.bucket.get(one.rows_key(part))
        if content is None:
            raise ImportRefused(f"part {part} no longer exists; upload the file again")
        first, *lines = isal_zlib.decompress(content, GZIP).split(b"\n")
        return int(first), map(_row, lines)

    def _raw(self, row: Any, mapping: RowMapping | None, digest: str, number: int) -> Any:
        raw = mapping.event(row) if mapping else row
        return raw if isinstance(raw, Unreadable) else with_id(without_clock(raw), digest, number)

    def _admit(self, raw: Sequence[Any], project: Project, one: Import) -> Admission:
        hide_addresses(raw)
        return self.admitter.admit(raw, mode=project.mode, received_ms=one.started_ms, is_history=True)

    def _quarantine(self, one: Import, admission: Admission, raw: Sequence[Any], first_row: int) -> None:
        left = (
            each for each in admission.rejections if not self.erased.is_theirs(one.project, each.event, one.started_ms)
        )
        for records in _files(Record.of(rejection, raw[rejection.index]) for rejection in left):
            file = QuarantineFile(one.project, one.started_ms, None, NOBODY, records)
            place = f"{one.id} {first_row}".encode()  # rows without ids of the same content are others
            self.bucket.put_gzip(quarantine_key(one.project, one.started_ms, file.content() + place), file.encode())

    def _summary(self, one: Import, parts: Iterable[int]) -> Summary:
        return self._together(one.summary_key(part) for part in parts)

    def _together(self, keys: Iterable[str]) -> Summary:
        contents = (self.bucket.get(key) for key in keys)
        return Summary.together(Summary(**orjson.loads(content)) for content in contents if content is not None)

    def _forget(self, one: Import) -> None:
        for key in list(self.bucket.keys(one.folder)):
            self.bucket.delete(key)


def _staged(row: Any) -> bytes:
    """A row as its part has it: `[row]`, or what is said of one that cannot be read."""
    if isinstance(row, Unreadable):
        return orjson.dumps([row.sent, row.code, row.message, row.path])
    try:
        return orjson.dumps([row])
    except TypeError as error:  # nested too deep
        return orjson.dumps(
            [None, "malformed_json", f"the row cannot be kept: {error}; the limit is {MAX_DEPTH} levels", ""]
        )


def _row(line: bytes) -> Any:
    row, *unreadable = orjson.loads(line)
    return Unreadable(row, *unreadable) if unreadable else row


def _parts(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """As many rows at a time as one task holds as Python objects: how many, and their lines, each behind its break."""
    part, count = bytearray(), 0
    left_bytes = PART_HELD_BYTES
    for line in lines:
        line_bytes = values.held_bytes(values.most_in(line, 0), len(line))
        if count and (count == PART_ROWS or line_bytes > left_bytes):
            yield count, bytes(part)
            part, count, left_bytes = bytearray(), 0, PART_HELD_BYTES
        part += b"\n" + line
        count += 1
        left_bytes -= line_bytes
    if count:
        yield count, bytes(part)


def _files(records: Iterable[Record]) -> Iterator[list[Record]]:
    """As many rejected rows at a time as one file of the quarantine has."""
    file: list[Record] = []
    size_bytes = 0
    for record in records:
        file.append(record)
        size_bytes += len(orjson.dumps(record.to_json()))
        if len(file) == QUARANTINED_AT_ONCE or size_bytes > QUARANTINED_BYTES:
            yield file
            file, size_bytes = [], 0
    if file:
        yield file


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("event_id", "code", "message", "path")}


def _pretty(document: Mapping[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def _reason(error: Mapping[str, Any]) -> str:
    """Return the words of a failed task: its cause is the exception as JSON, where it came from a function."""
    cause = str(error.get("Cause", ""))
    try:
        message = orjson.loads(cause)["errorMessage"]
    except (ValueError, KeyError, TypeError):
        message = cause
    return str(message)[:MAX_ERROR_CHARACTERS] or str(error.get("Error"))
