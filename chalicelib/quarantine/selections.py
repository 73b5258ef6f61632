"""Which part of the quarantine is meant: the filters, and the place where a page or a replay goes on."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from chalicelib.base.object_keys import quarantine_folder, reversed_minute
from chalicelib.base.parameters import read_parameters
from chalicelib.base.time_windows import day_of, hour_of
from chalicelib.numbers.questions import END, LATEST_MS, START, instant
from chalicelib.quarantine.files import QuarantineFile, Record

MAX_PAGE = 500
DONE = 9999  # after every record of a file: a request has fewer
_PLACE = re.compile(r"(\d{4}-\d\d-\d\d)/(\d{4}-[0-9a-f]{32})/(\d{1,4})", re.ASCII)
_UTC = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Place:
    """A record of a file: all before it, and itself, are done. Files come by day and minute, the last ones first."""

    date: str
    name: str
    index: int = DONE

    @classmethod
    def of(cls, key: str, index: int = DONE) -> "Place":
        """Return the place in the file of that key."""
        day, _, name = key.rpartition("/")
        return cls(day[-len("2026-11-21") :], name.removesuffix(".ndjson.gz"), index)

    @classmethod
    def from_cursor(cls, cursor: str) -> "Place":
        """Return the inverse of `cursor`; raises ValueError."""
        text = urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode()
        if (match := _PLACE.fullmatch(text)) is None:
            raise ValueError(f"{text!r} is not a place")
        return cls(match[1], match[2], int(match[3]))

    def cursor(self) -> str:
        """Return the place as clients see it, which they need not understand."""
        return urlsafe_b64encode(str(self).encode()).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.date}/{self.name}/{self.index}"

    def key(self, project: str) -> str:
        """Return the file's key."""
        return f"{quarantine_folder(project)}dt={self.date}/{self.name}.ndjson.gz"

    def before(self, project: str) -> str:
        """Return what sorts before the first key that is not done with."""
        key = self.key(project)
        return key if self.index == DONE else key[:-1]


@dataclass(frozen=True, slots=True)
class Selection:
    """Records by code, event type and time of receipt (Unix milliseconds, half-open)."""

    start_ms: int
    end_ms: int
    code: str | None = None
    event_type: str | None = None
    after: Place | None = None
    limit: int = MAX_PAGE  # of records that are listed
    dry_run: bool = False

    def days(self) -> tuple[str, str]:
        """Return the first and the last date that may hold files."""
        return day_of(hour_of(self.start_ms)), day_of(hour_of(self.end_ms - 1))

    def before(self, project: str, date: str) -> str:
        """Return what sorts before the first key of the day that may hold a record."""
        folder = f"{quarantine_folder(project)}dt={date}/"
        by_time = folder + reversed_minute(self.end_ms - 1) if date == self.days()[1] else ""
        by_place = self.after.before(project) if self.after and self.after.date == date else ""
        return max(by_time, by_place)

    def ends(self, place: Place) -> bool:
        """Return whether the file, and so all that follow on its day, was received before the selection starts."""
        return place.date == self.days()[0] and place.name[:4] > reversed_minute(self.start_ms)

    def chosen(self, file: QuarantineFile, place: Place) -> list[Record]:
        """Return the records of a file that are meant, in order."""
        if not self.start_ms <= file.received_ms < self.end_ms:
            return []
        done = self.after.index if self.after and (self.after.date, self.after.name) == (place.date, place.name) else -1
        return [
            record
            for record in file.records
            if record.index > done and self.code in (None, record.code) and self.event_type in (None, record.event_type)
        ]


class SelectionParameters(Schema):
    """What listing and replaying have in common."""

    class Meta:
        unknown = RAISE

    code = fields.String(
        load_default=None,
        validate=validate.Length(1, 128),
        metadata={"description": "The reason.", "example": "contract_violation"},
    )
    event_type = fields.String(load_default=None, validate=validate.Length(1, 128))
    start = fields.String(load_default=None, metadata={"description": f"Of receipt. {START}", "example": "2026-11-20"})
    end = fields.String(load_default=None, metadata={"description": END})
    cursor = fields.String(
        load_default=None, validate=validate.Length(1, 256), metadata={"description": "The `next` of an answer."}
    )

    @post_load
    def _selection(self, data: dict[str, Any], **_: Any) -> Selection:
        start, end, cursor = data.pop("start"), data.pop("end"), data.pop("cursor")
        start_ms = 0 if start is None else instant("start", start, _UTC, of_end=False)
        end_ms = LATEST_MS if end is None else instant("end", end, _UTC, of_end=True)
        if end_ms <= start_ms:
            raise ValidationError(f"it is not after start {start!r}", "end")
        try:
            after = None if cursor is None else Place.from_cursor(cursor)
        except ValueError:
            raise ValidationError("the value is not the `next` of an answer", "cursor") from None
        return Selection(start_ms, end_ms, after=after, **data)


class ListParameters(SelectionParameters):
    """The query string of `GET /quarantine`."""

    limit = fields.Integer(load_default=100, validate=validate.Range(1, MAX_PAGE))


class ReplayParameters(SelectionParameters):
    """The body of `POST /quarantine/replay`."""

    dry_run = fields.Boolean(
        load_default=False, truthy={True}, falsy={False}, metadata={"description": "Only tell what would be done."}
    )


_LIST, _REPLAY = ListParameters(), ReplayParameters()


def read_list(parameters: Mapping[str, str]) -> Selection:
    """Return what is to be listed; raises InvalidRequest."""
    selection: Selection = read_parameters(_LIST, parameters)
    return selection


def read_replay(parameters: Mapping[str, Any]) -> Selection:
    """Return what is to be replayed; raises InvalidRequest."""
    selection: Selection = read_parameters(_REPLAY, parameters)
    return selection
