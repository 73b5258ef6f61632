"""The session parts of each hour that was consolidated: one Parquet file an hour, beside the lake."""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chalicelib.domain.partitions import sessions_folder
from chalicelib.domain.session_parts import COLUMNS, Columns, Part
from chalicelib.domain.sketches import HASH_BYTES, hash_user
from chalicelib.domain.time_windows import hour_start_ms, hours_between
from chalicelib.storage.merging import BATCH_ROWS, batches
from chalicelib.storage.objects import DataBucket, Stamp

SCHEMA = pa.schema(
    [
        pa.field("key", pa.int64()),
        pa.field("own", pa.bool_()),
        pa.field("user", pa.binary(HASH_BYTES)),
        pa.field("first_ms", pa.int64()),
        pa.field("last_ms", pa.int64()),
        pa.field("events", pa.int64()),
        pa.field("pages", pa.int64()),
        pa.field("entry", pa.string()),
        pa.field("exit", pa.string()),
    ]
)
SHARE_BYTES = 16 * 1024 * 1024  # of files that are put together at a time: as Python objects some ten times that
PREFIX, SUFFIX = "hr=", ".parquet"
NOTHING: Mapping[str, Any] = {}

Listed = Mapping[str, Stamp]  # by hour


class Written(NamedTuple):
    """A file that needs not be fetched while it has this ETag."""

    etag: str
    content: bytes


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """A file stands for what one consolidated hour holds; it is replaced as a whole."""

    bucket: DataBucket

    def write(self, project: str, hour: str, blocks: Iterable[list[Part]]) -> Written:
        """Write an hour's parts in place of those before; raises Unavailable when the bucket refuses."""
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, SCHEMA, compression="zstd") as writer:
            for block in blocks:
                columns = {name: [getattr(part, name) for part in block] for name in COLUMNS if name != "user"}
                columns["user"] = [hash_user(part.user) if part.user else None for part in block]
                writer.write_table(pa.table(columns, schema=SCHEMA))
        content = buffer.getvalue()
        return Written(self.bucket.put(_key(project, hour), content), content)

    def listed(self, project: str, first: str, last: str) -> dict[str, Stamp]:
        """What there is of the hours from `first` to `last`, both included; it differs when one was written since."""
        found: dict[str, Stamp] = {}
        days = {hour[:10] for hour in hours_between(hour_start_ms(first), hour_start_ms(last) + 1)}
        for day in sorted(days):
            for name, stamp in self.bucket.stamps(sessions_folder(project, day)).items():
                hour = f"{day}T{name.removeprefix(PREFIX).removesuffix(SUFFIX)}"
                if first <= hour <= last:
                    found[hour] = stamp
        return found

    def read(self, project: str, listed: Listed, at_hand: Mapping[str, Written] = NOTHING) -> Iterator[Columns]:
        """The parts of the hours, in shares that memory can hold; all of a session are in one share.

        `at_hand` is what has just been written, by hour.
        """
        shares = 1 + sum(stamp.size_bytes for stamp in listed.values()) // SHARE_BYTES
        for share in range(shares):
            found: list[pa.RecordBatch] = []
            for hour, stamp in listed.items():
                written = at_hand.get(hour)
                if written and written.etag == stamp.etag:
                    source: io.BytesIO | io.RawIOBase = io.BytesIO(written.content)
                else:
                    source = self.bucket.open(_key(project, hour), stamp.size_bytes)
                with pq.ParquetFile(source, pre_buffer=True) as file:
                    found += [
                        batch.filter(pa.array(batch["key"].to_numpy() % shares == share))
                        for batch in batches(file, BATCH_ROWS, None)
                    ]
            yield _columns(pa.Table.from_batches(found, SCHEMA))


def _columns(table: pa.Table) -> Columns:
    def column(field: pa.Field) -> Any:
        if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type):
            return table[field.name].to_numpy()
        encoded = table[field.name].combine_chunks().dictionary_encode()  # each value is one object, however often
        values = np.array([*encoded.dictionary.to_pylist(), None], object)
        return values[encoded.indices.fill_null(len(values) - 1).to_numpy()]

    return Columns(*(column(SCHEMA.field(name)) for name in COLUMNS))


def _key(project: str, hour: str) -> str:
    return f"{sessions_folder(project, hour[:10])}{PREFIX}{hour[11:]}{SUFFIX}"
