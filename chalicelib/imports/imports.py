"""Files of history: whose they are, how their rows become events, and what is told of an import.

A *row* is what stands in a file, a *raw event* is what a client would have sent for it. A mapping, a JSON document
beside the file, says how the one becomes the other; without it a row is an event in our form already.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote_plus
from zoneinfo import ZoneInfo

import orjson
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from chalicelib.base.time_windows import DAY_MS, from_ms, parse_ms
from chalicelib.events.events import Unreadable

RAW = "raw/"
STAGED = "imports/"
MAPPING, OUTCOME = "mapping.json", "report.json"
MAX_FILE_BYTES = 2 * 1024**3  # as it lies in S3; `validate` reads it once, within Lambda's 15 minutes
MAX_ROWS = 10_000_000
PART_ROWS = 25_000  # of one task: some 150 MB as Python objects, if they are as large as usual
PART_HELD_BYTES = 300 * 1024**2  # of one task at most, of its 2048 MB
MAX_PARTS = 2000  # whose numbers, and the states of their tasks, a workflow of Step Functions can hold
RANGE_ROWS = 50_000  # of one task of `store`, unless one day has more
RANGE_DAYS = 31
SHOWN_REJECTIONS = 100  # in an outcome; the quarantine has all
MAX_ERROR_CHARACTERS = 1000

STATES = ("validating", "transforming", "storing", "done", "failed")


class ImportRefused(Exception):
    """The file cannot be imported as it is; trying again changes nothing. Says the problem, the value and the limit."""


@dataclass(frozen=True, slots=True)
class Import:
    """One file on its way in. `started_ms` is when it was put into the bucket; its events were received then."""

    id: str
    project: str
    key: str
    etag: str
    started_ms: int

    @classmethod
    def of_notification(cls, record: Mapping[str, Any]) -> "Import | None":
        """The import of what S3 says of a new object; None of what is no file to import."""
        found = record["s3"]["object"]
        key = unquote_plus(found["key"])
        return cls.of(key, found.get("eTag", ""), found.get("sequencer", ""), parse_ms(record["eventTime"]))

    @classmethod
    def of(cls, key: str, etag: str, sequencer: str, started_ms: int) -> "Import | None":
        """Return the import of an object; None of what is no file to import.

        The same notification gives the same id. The id is in order of time and names an execution and files.
        """
        _, _, rest = key.partition(RAW)
        project, _, name = rest.partition("/")
        last = name.rpartition("/")[2]
        if not project or not last or last in (MAPPING, OUTCOME) or last.endswith((f".{MAPPING}", f".{OUTCOME}")):
            return None
        digest = blake2b(f"{key}\n{etag}\n{sequencer}".encode(), digest_size=6).hexdigest()
        return cls(f"{from_ms(started_ms):%Y%m%dT%H%M%S}-{digest}", project, key, etag, started_ms)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Import":
        """Return the inverse of `to_json`."""
        return cls(**{name: document[name] for name in cls.__slots__})

    def to_json(self) -> dict[str, Any]:
        """As the workflow hands it from task to task."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def file(self) -> str:
        """The file's name below its project's folder."""
        return self.key.removeprefix(f"{RAW}{self.project}/")

    @property
    def folder(self) -> str:
        """Where its parts lie between two tasks."""
        return f"{STAGED}{self.project}/{self.id}/"

    @property
    def mapping_keys(self) -> tuple[str, str]:
        """Where its mapping may lie: its own, else its folder's."""
        return f"{self.key}.{MAPPING}", f"{self.key.rpartition('/')[0]}/{MAPPING}"

    @property
    def outcome_key(self) -> str:
        """Where its outcome is put: beside the file."""
        return f"{self.key}.{OUTCOME}"

    def rows_key(self, part: int) -> str:
        """Return the rows of a part, as `validate` read them."""
        return f"{self.folder}rows-{part:05d}.ndjson.gz"

    def events_key(self, part: int) -> str:
        """Return the events of a part, as `transform` judged them, in order of time."""
        return f"{self.folder}events-{part:05d}.parquet"

    def summary_key(self, part: int) -> str:
        """Return what `transform` says of a part."""
        return f"{self.summaries}{part:05d}.json"

    @property
    def summaries(self) -> str:
        """What the keys of all parts' summaries begin with."""
        return f"{self.folder}summary-"


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a part's rows; `days` is how many events each UTC day has, `rejections` the first of them."""

    rows: int = 0
    repeated: int = 0
    days: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    rejections: Sequence[Mapping[str, Any]] = ()

    @property
    def accepted(self) -> int:
        return sum(self.days.values())

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())

    @classmethod
    def together(cls, summaries: Iterable["Summary"]) -> "Summary":
        """That of several parts, in their order."""
        rows, repeated, days, reasons, rejections = 0, 0, Counter[str](), Counter[str](), list[Mapping[str, Any]]()
        for summary in summaries:
            rows, repeated = rows + summary.rows, repeated + summary.repeated
            days.update(summary.days)
            reasons.update(summary.reasons)
            rejections += summary.rejections[: SHOWN_REJECTIONS - len(rejections)]
        return cls(rows, repeated, dict(sorted(days.items())), dict(reasons.most_common()), rejections)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a range: events that are new, that were there, and how many hours are yet to be closed."""

    stored: int = 0
    duplicates: int = 0
    waiting: int = 0


def ranges_of(days: Mapping[str, int]) -> list[dict[str, Any]]:
    """The days in ranges, each of which one task stores: `first` and `last`, both included, and how many `events`."""
    ranges: list[dict[str, Any]] = []
    for day, count in sorted(days.items()):
        last = ranges[-1] if ranges else None
        if last and last["events"] + count <= RANGE_ROWS and _days_apart(last["first"], day) < RANGE_DAYS:
            last["last"], last["events"] = day, last["events"] + count
        else:
            ranges.append({"number": len(ranges) + 1, "first": day, "last": day, "events": count})
    return ranges


def _days_apart(first: str, last: str) -> int:
    return (parse_ms(last) - parse_ms(first)) // DAY_MS


# Mappings


class MappingSchema(Schema):
    """A mapping as it lies in its file; what each field takes is said in docs/api.md."""

    class Meta:
        unknown = RAISE

    event_type = fields.Raw(required=True)
    event_id = fields.Raw(load_default=None)
    user_id = fields.String(load_default=None)
    anonymous_id = fields.String(load_default=None)
    session_id = fields.String(load_default=None)
    timestamp = fields.Raw(required=True)
    properties = fields.Dict(keys=fields.String(), load_default=None)
    missing = fields.List(fields.String(), load_default=lambda: ["", "NA"])
    delimiter = fields.String(load_default=",", validate=validate.Length(1, 1))


class _Invalid(Exception):
    """A row that the mapping makes no event of: the reason's code, words, and column."""

    def __init__(self, code: str, message: str, column: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.column = code, message, column


Row = Mapping[str, Any]
TYPES = ("text", "integer", "number", "boolean")
_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


@dataclass(frozen=True, slots=True)
class RowMapping:
    """How a row becomes a raw event."""

    event_type: Callable[[Row], Any]
    timestamp: Callable[[Row], Any]
    texts: Mapping[str, str]  # field of the event -> column
    event_id: tuple[str, ...]
    properties: Mapping[str, tuple[str, str]] | None  # name -> column and type; None: every column not named otherwise
    named: frozenset[str]
    missing: frozenset[str]
    delimiter: str

    @classmethod
    def read(cls, content: bytes) -> "RowMapping":
        """Raises ImportRefused, naming what is wrong with the file."""
        try:
            document = MappingSchema().load(orjson.loads(content))
            ids = document["event_id"]
            texts = {name: document[name] for name in ("user_id", "anonymous_id", "session_id") if document[name]}
            event_type, type_column = _type_of(document["event_type"])
            timestamp, time_columns = _time_of(document["timestamp"])
            found = document["properties"]
            return cls(
                event_type=event_type,
                timestamp=timestamp,
                texts=texts,
                event_id=() if ids is None else _columns(ids, "event_id"),
                properties=None if found is None else {name: _property(name, told) for name, told in found.items()},
                named=frozenset({*texts.values(), *type_column, *time_columns}),
                missing=frozenset(document["missing"]),
                delimiter=document["delimiter"],
            )
        except ValidationError as error:
            raise ImportRefused(f"the mapping is wrong: {str(error.messages_dict)[:500]}") from error
        except ValueError as error:
            raise ImportRefused(f"the mapping is wrong: {error}"[:500]) from error

    def check(self, columns: Collection[str]) -> None:
        """Raises ImportRefused where the mapping names a column that a table does not have."""
        asked = {*self.named, *self.event_id, *(column for column, _ in (self.properties or {}).values())}
        if missing := sorted(asked.difference(columns)):
            raise ImportRefused(
                f"the mapping names {', '.join(missing)[:200]}, and the file has {', '.join(columns)[:200]}; what "
                f"parts them is {self.delimiter!r} in the mapping"
            )

    def event(self, row: Any) -> Any:
        """Return the raw event of a row, or Unreadable."""
        if isinstance(row, Unreadable):
            return row
        if not isinstance(row, dict):
            return Unreadable(row, "not_an_object", f"a row has named columns, and this is {type(row).__name__}")
        present = {name: value for name, value in row.items() if not self._is_missing(value)}
        try:
            event = {"event_type": self.event_type(present), "timestamp": self.timestamp(present)}
            if self.event_id:
                event["event_id"] = "-".join(str(_value(present, column)) for column in self.event_id)
            for name, column in self.texts.items():
                if (value := present.get(column)) is not None:
                    event[name] = str(value)
            event["properties"] = self._properties(present)
        except _Invalid as invalid:
            return Unreadable(row, invalid.code, invalid.message, f"/{invalid.column}" if invalid.column else "")
        return event

    def _is_missing(self, value: Any) -> bool:
        return value is None or (isinstance(value, str) and value in self.missing)

    def _properties(self, row: Row) -> dict[str, Any]:
        if self.properties is None:
            return {name: value for name, value in row.items() if name not in self.named}
        found = {}
        for name, (column, kind) in self.properties.items():
            value = row.get(column)
            if value is not None:
                found[name] = _typed(value, kind, column)
        return found


def _type_of(told: Any) -> tuple[Callable[[Row], Any], tuple[str, ...]]:
    if isinstance(told, str):
        return lambda _: told, ()
    (column,) = _columns(_only(told, "event_type", {"column"})["column"], "event_type")
    return lambda row: _value(row, column), (column,)


def _time_of(told: Any) -> tuple[Callable[[Row], Any], tuple[str, ...]]:
    if isinstance(told, str):
        return lambda row: _value(row, told), (told,)
    told = {"zone": "UTC", **_only(told, "timestamp", {"columns", "format", "zone"})}
    columns = _columns(told.get("columns"), "timestamp")
    form, zone = told.get("format"), told["zone"]
    if not isinstance(form, str):
        raise ValueError("timestamp needs a format, such as %Y-%m-%d %H:%M, of its columns joined by a space")
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"timestamp: {zone!r} is not a time zone such as America/New_York") from error
    return lambda row: _moment(" ".join(str(_value(row, column)) for column in columns), form, zone), columns


@lru_cache(maxsize=65536)
def _moment(text: str, form: str, zone: str) -> str:
    """RFC 3339, in UTC. Of an hour that a zone has twice, the first is meant."""
    try:
        moment = datetime.strptime(text, form)  # noqa: DTZ007 - the zone follows
    except ValueError as error:
        raise _Invalid("invalid_time", f"{text[:64]!r} does not have the form {form!r}") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(zone))
    return moment.astimezone(UTC).isoformat()


def _property(name: str, told: Any) -> tuple[str, str]:
    if isinstance(told, str):
        return told, "text"
    told = {"type": "text", "column": name, **_only(told, name, {"column", "type"})}
    if told["type"] not in TYPES:
        raise ValueError(f"properties: {name} has type {told['type']!r}; it must be one of {', '.join(TYPES)}")
    return _columns(told["column"], name)[0], told["type"]


def _only(told: Any, name: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(told, dict) or told.keys() - known:
        raise ValueError(f"{name} is {str(told)[:100]}; it takes {', '.join(sorted(known))}")
    return told


def _columns(told: Any, name: str) -> tuple[str, ...]:
    columns = [told] if isinstance(told, str) else told
    if not isinstance(columns, list) or not columns or not all(isinstance(column, str) for column in columns):
        raise ValueError(f"{name} names no columns: {str(told)[:100]}")
    return tuple(columns)


def _value(row: Row, column: str) -> Any:
    value = row.get(column)
    if value is None:
        raise _Invalid("missing_value", f"column {column!r} has no value", column)
    return value


def _typed(value: Any, kind: str, column: str) -> Any:
    if kind == "text":
        return value if isinstance(value, str) else str(value)
    try:
        if kind == "boolean":
            return value if isinstance(value, bool) else _boolean(str(value))
        number = float(value)
        if kind == "integer" and not (number.is_integer() and abs(number) < 2**63):
            raise ValueError
        return int(number) if kind == "integer" or (number.is_integer() and abs(number) < 2**53) else number
    except (ValueError, TypeError, OverflowError):
        raise _Invalid("invalid_value", f"{str(value)[:64]!r} is not of type {kind}", column) from None


def _boolean(text: str) -> bool:
    if text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    raise ValueError


def without_clock(raw: Any) -> Any:
    """The raw event without the time at which a client sent it: the file is no client whose clock could be off."""
    return {name: value for name, value in raw.items() if name != "sent_at"} if isinstance(raw, dict) else raw


def with_id(raw: Any, digest: str, row: int) -> Any:
    """The raw event with an id of its file's content and its row, unless it has one: a file dropped twice is one."""
    if isinstance(raw, dict) and not raw.get("event_id"):
        return {**raw, "event_id": f"{digest}-{row}"}
    return raw
