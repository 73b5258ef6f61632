"""Reads files of history row by row, whatever they are: NDJSON, a JSON array, CSV or Parquet; gzip, zstd or plain.

What a file is, its first bytes and its name say. Memory holds some megabytes of it at a time, and one row as Python
objects. A row that cannot be read, or has more values than an event may have, is Unreadable, and costs the others
nothing; a file that cannot be read on raises ImportRefused.
"""

import codecs
import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from chalicelib.base import values
from chalicelib.events.events import MAX_EVENT_BYTES, MAX_EVENT_VALUES, TOO_MANY_VALUES, Unreadable
from chalicelib.imports.imports import ImportRefused, RowMapping
from chalicelib.ingest import repair

MAX_DIGITS = 300  # of a number; a double has no more
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
CHUNK_BYTES = 4 * 1024 * 1024
MAX_LINE_BYTES = 4 * MAX_EVENT_BYTES  # the rest of a longer line is not kept
SHOWN_CHARACTERS = 1000  # of a line that is too long
BATCH_ROWS = 4096
CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
PARQUET = b"PAR1"

MAX_COLUMNS = MAX_EVENT_VALUES // 2  # of a table: each has a name and a value

csv.field_size_limit(MAX_LINE_BYTES)


@dataclass
class RawFile:
    """The rows of an object; iterate `rows` once, after which `digest` stands for the content."""

    opened: Callable[[], Any]  # the object as a file to read
    name: str
    mapping: RowMapping | None
    _hash: Any = field(default_factory=lambda: blake2b(digest_size=12))

    @property
    def digest(self) -> str:
        """Of the content, unpacked: the same whether it was packed or not."""
        text: str = self._hash.hexdigest()
        return text

    def rows(self) -> Iterator[Any]:
        """Yield each row, an object or Unreadable; raises ImportRefused."""
        try:
            with self.opened() as source:
                head = source.read(4)
            if head == PARQUET:
                yield from self._parquet()
                return
            codec = next((codec for magic, codec in CODECS.items() if head.startswith(magic)), None)
            yield from self._text(codec)
        except (pa.ArrowException, OSError, EOFError) as error:
            raise ImportRefused(f"{self.name} cannot be read further: {error}"[:500]) from error

    def _text(self, codec: str | None) -> Iterator[Any]:
        chunks = self._chunks(codec)
        first = next((chunk for chunk in chunks if chunk.strip()), b"")
        if not first:
            raise ImportRefused(f"{self.name} is empty")
        first = first.removeprefix(b"\xef\xbb\xbf")

        def every() -> Iterator[bytes]:
            yield first
            yield from chunks

        if _is_csv(self.name):
            if self.mapping is None:
                raise ImportRefused(
                    f"{self.name} is CSV and has no mapping; upload the mapping as {self.name}.mapping.json, "
                    "and then the file again"
                )
            yield from _csv_rows(every(), self.mapping)
        elif first.lstrip()[:1] == b"[":
            yield from _array_rows(every())
        elif first.lstrip()[:1] == b"{":
            yield from map(_line, _lines(every()))
        else:
            raise ImportRefused(
                f"{self.name} begins with {first[:16]!r}; it must be NDJSON, a JSON array, Parquet, or CSV (.csv, .tsv)"
            )

    def _chunks(self, codec: str | None) -> Iterator[bytes]:
        with self.opened() as source:
            stream = source
            if codec is not None:
                stream = pa.CompressedInputStream(pa.PythonFile(_Ahead(source), "r"), codec)
            while chunk := stream.read(CHUNK_BYTES):
                self._hash.update(chunk)
                yield chunk

    def _parquet(self) -> Iterator[Any]:
        for _ in self._chunks(None):
            pass  # hashed
        with self.opened() as source, pq.ParquetFile(source) as file:
            if self.mapping:
                self.mapping.check(file.schema_arrow.names)
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                yield from _parquet_rows(batch)


@dataclass
class _Ahead:
    """Hands on in small pieces what it reads in large ones: each read of the source is a request."""

    source: Any
    closed: bool = False
    _buffer: memoryview = field(default_factory=lambda: memoryview(b""))

    def read(self, size: int) -> bytes:
        if not self._buffer:
            self._buffer = memoryview(self.source.read(CHUNK_BYTES))
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(piece)

    def close(self) -> None:
        self.closed = True


def _is_csv(name: str) -> bool:
    parts = name.lower().split(".")
    return any(part in ("csv", "tsv") for part in parts[-2:])


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes | Unreadable]:
    rest = b""
    overlong = False
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if overlong:  # the end of a line that was given up
                overlong = False
            elif line.strip():
                yield line
        if len(rest) > MAX_LINE_BYTES:
            if not overlong:
                yield _too_long(rest)
            rest, overlong = b"", True
    if rest.strip() and not overlong:
        yield rest


def _too_long(line: bytes) -> Unreadable:
    shown = line[:SHOWN_CHARACTERS].decode(errors="replace")
    return Unreadable(shown, "event_too_large", f"the line has over {MAX_LINE_BYTES} bytes; that is the limit")


def _line(line: bytes | Unreadable) -> Any:
    if isinstance(line, Unreadable):
        return line
    if values.exceed(line, MAX_EVENT_VALUES):
        return _too_many(line)
    try:
        return repair.loads(line)
    except orjson.JSONDecodeError as error:
        shown = line[: 4 * SHOWN_CHARACTERS].decode(errors="replace")
        return Unreadable(shown, "malformed_json", f"the line is not JSON: {error}")


def _too_many(row: bytes) -> Unreadable:
    shown = row[:SHOWN_CHARACTERS].decode(errors="replace")
    message = f"the row has {values.count(row)} JSON values; the limit is {MAX_EVENT_VALUES}"
    return Unreadable(shown, TOO_MANY_VALUES, message)


def _csv_rows(chunks: Iterator[bytes], mapping: RowMapping) -> Iterator[Any]:
    delimiter = mapping.delimiter
    lines = _Lines(_texts(chunks))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    try:
        for row in reader:
            lines.characters = 0
            if not columns:
                columns = row
                if len(columns) > MAX_COLUMNS:
                    raise ImportRefused(f"the header names {len(columns)} columns; the limit is {MAX_COLUMNS}")
                if len(set(columns)) < len(columns):
                    raise ImportRefused(f"the header names a column twice: {', '.join(columns)[:300]}")
                mapping.check(columns)
            elif len(row) == len(columns):
                yield dict(zip(columns, row, strict=True))
            elif row:
                message = f"the row has {len(row)} values, and the header {len(columns)}"
                yield Unreadable(delimiter.join(row)[:SHOWN_CHARACTERS], "wrong_columns", message)
    except csv.Error as error:
        raise ImportRefused(f"line {reader.line_num} is no CSV: {error}") from error


@dataclass
class _Lines:
    """The lines of a table on their way into `csv`, which puts those of a quoted value together."""

    lines: Iterator[str]
    characters: int = 0  # of the row that is being read

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            self.characters += len(line)
            if self.characters > MAX_LINE_BYTES:
                raise ImportRefused(f"a row has over {MAX_LINE_BYTES} characters; that is the limit")
            yield line


def _texts(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines with their ends, as `csv` wants them: a quoted value may hold line breaks."""
    number = 0
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            yield _decoded(line, number) + "\n"
        if len(rest) > MAX_LINE_BYTES:
            raise ImportRefused(f"line {number + 1} has over {MAX_LINE_BYTES} bytes; that is the limit")
    if rest:
        yield _decoded(rest, number + 1)


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ImportRefused(f"line {number} is not UTF-8: {error}") from error


def _array_rows(chunks: Iterator[bytes]) -> Iterator[Any]:
    """Yield the elements of a JSON array, of which only one has to fit into memory."""
    scanner = _Scanner(chunks)
    scanner.take("[")
    if scanner.peek() == "]":
        return
    while True:
        yield scanner.value()
        if scanner.peek() == "]":
            return
        scanner.take(",")


class _Scanner:
    """Reads JSON values one after the other out of chunks of text."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._decode = json.JSONDecoder(
            parse_constant=_nothing, parse_int=_number, parse_float=_number
        ).raw_decode  # as `repair` and orjson have it
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._chunks = chunks
        self._text = ""
        self._at = 0
        self._number = 0

    def peek(self) -> str:
        """The next character that is no white space; raises ImportRefused at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise ImportRefused(f"the array ends too early, after {self._number} elements")

    def take(self, expected: str) -> None:
        """Go on behind a character; raises ImportRefused when another one stands there."""
        if (found := self.peek()) != expected:
            raise ImportRefused(f"{found!r} follows element {self._number} of the array, not {expected!r}")
        self._at += 1

    def value(self) -> Any:
        """Return the next value; raises ImportRefused where none is."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                if end < len(self._text) or isinstance(value, dict | list | str) or not self._more():
                    return _checked(value, self._passed(end))
            except (ValueError, RecursionError) as error:
                deep = _end_of(self._text, self._at) if isinstance(error, RecursionError) else None
                if deep is not None:
                    shown = self._passed(deep)[: 4 * SHOWN_CHARACTERS]
                    return Unreadable(shown, "malformed_json", f"the element cannot be read: {error}")
                if len(self._text) - self._at > MAX_LINE_BYTES or not self._more():
                    what = f"element {self._number + 1} of the array is not JSON, or over {MAX_LINE_BYTES} bytes"
                    raise ImportRefused(f"{what}: {error}") from error

    def _passed(self, end: int) -> str:
        """Return the text up to there, behind which the scanner goes on."""
        text = self._text[self._at : end]
        self._at, self._number = end, self._number + 1
        return text

    def _more(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        try:
            text = self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise ImportRefused(f"element {self._number + 1} of the array is not UTF-8: {error}") from error
        self._text, self._at = self._text[self._at :] + text, 0
        return True


def _checked(value: Any, text: str) -> Any:
    """An element of an array, if it has no more values than an event may have, with its lone surrogates repaired."""
    if len(text) >= values.LEAST_BYTES * MAX_EVENT_VALUES:
        content = text.encode()
        if values.exceed(content, MAX_EVENT_VALUES):
            return _too_many(content)
        if len(content) > MAX_LINE_BYTES:
            return _too_long(content)
    return repair.loads(text.encode()) if "\\ud" in text or "\\uD" in text else value


def _end_of(text: str, at: int) -> int | None:
    """Return where the list or object ends that begins there; None when it does not."""
    depth = 0
    for match in _BRACKETS.finditer(text, at):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None


def _nothing(_: str) -> None:
    return None


def _number(text: str) -> float | int | None:
    """A number as it can be stored: beyond 64 bits it is a float, beyond that null."""
    if len(text) > MAX_DIGITS:
        return None
    if text.lstrip("-").isdigit() and -(2**63) <= (whole := int(text)) < 2**64:
        return whole
    return number if math.isfinite(number := float(text)) else None


def _parquet_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    """Yield the rows of a batch, some megabytes of them at a time as Python objects."""
    step = max(1, batch.num_rows * CHUNK_BYTES // max(batch.nbytes, 1))
    for start in range(0, batch.num_rows, step):
        rows = batch.slice(start, step)
        try:
            yield from map(_plain, rows.to_pylist())
        except UnicodeDecodeError as error:
            if rows.num_rows == 1:
                yield Unreadable(None, "malformed_json", f"the row has a text that is not UTF-8: {error}"[:500])
            else:
                for number in range(rows.num_rows):
                    yield from _parquet_rows(rows.slice(number, 1))


def _plain(row: dict[str, Any]) -> Any:
    """Return a Parquet row as JSON would have it: times as text."""
    try:
        text = orjson.dumps(row, default=str)
    except TypeError as error:
        return Unreadable(str(row)[:SHOWN_CHARACTERS], "malformed_json", f"the row cannot be put as JSON: {error}")
    return _too_many(text) if values.exceed(text, MAX_EVENT_VALUES) else orjson.loads(text)
