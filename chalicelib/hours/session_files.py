"""The session parts of each version of an hour: a Parquet file beside the lake; of several the last one counts."""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chalicelib.base.data_bucket import DataBucket, Stamp
from chalicelib.base.object_keys import sessions_folder
from chalicelib.base.time_windows import day_of, hour_of_day, hour_start_ms, hours_between
from chalicelib.hours.session_parts import COLUMNS, Columns, SessionPart
from chalicelib.lake.lake import COMPRESSION
from chalicelib.lake.merging import BATCH_ROWS, batches
from chalicelib.rollups.sketches import HASH_BYTES, hash_user

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
PREFIX, SUFFIX = "hr=", ".parquet"  # with the hour, a dash and the version in between
NOTHING: Mapping[str, Any] = {}


class Listed(NamedTuple):
    """The file of an hour; the name of another version differs."""

    name: str
    stamp: Stamp


class Written(NamedTuple):
    """A file that needs not be fetched while it has this ETag."""

    etag: str
    content: bytes


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """A file stands for what one version of an hour holds. A run that is late with an older one changes nothing."""

    bucket: DataBucket

    def write(self, project: str, hour: str, version: str, blocks: Iterable[list[SessionPart]]) -> Written:
        """Write the parts of an hour's version; raises Unavailable when the bucket refuses."""
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, SCHEMA, compression=COMPRESSION) as writer:
            for block in blocks:
                columns = {name: [getattr(part, name) for part in block] for name in COLUMNS if name != "user"}
                columns["user"] = [hash_user(part.user) if part.user else None for part in block]
                writer.write_table(pa.table(columns, schema=SCHEMA))
        content = buffer.getvalue()
        return Written(self.bucket.put(f"{_hour_prefix(project, hour)}{version}{SUFFIX}", content), content)

    def versions(self, project: str, hour: str) -> list[str]:
        """Return the versions of the hour that there are parts of, in order."""
        return sorted(name.removesuffix(SUFFIX) for name in self.bucket.sizes(_hour_prefix(project, hour)))

    def listed(self, project: str, first: str, last: str) -> dict[str, Listed]:
        """The last version of each hour from `first` to `last`, both included; another one since makes it differ."""
        found: dict[str, Listed] = {}
        days = {day_of(hour) for hour in hours_between(hour_start_ms(first), hour_start_ms(last) + 1)}
        for day in sorted(days):
            for name, stamp in sorted(self.bucket.stamps(sessions_folder(project, day)).items()):
                hour = f"{day}T{name.removeprefix(PREFIX)[:2]}"
                if first <= hour <= last:
                    found[hour] = Listed(name, stamp)
        return found

    def clean(self, project: str, hour: str, keep: int = 1) -> None:
        """Delete the parts of all but the hour's last versions."""
        for version in self.versions(project, hour)[:-keep]:
            self.bucket.delete(f"{_hour_prefix(project, hour)}{version}{SUFFIX}")

    def read(
        self, project: str, listed: Mapping[str, Listed], at_hand: Mapping[str, Written] = NOTHING
    ) -> Iterator[Columns]:
        """Yield the parts of the hours, in shares that memory can hold; all of a session are in one share.

        `at_hand` is what has just been written, by hour.
        """
        shares = 1 + sum(stamp.size_bytes for _, stamp in listed.values()) // SHARE_BYTES
        for share in range(shares):
            found: list[pa.RecordBatch] = []
            for hour, (name, stamp) in listed.items():
                written = at_hand.get(hour)
                if written and written.etag == stamp.etag:
                    source: io.BytesIO | io.RawIOBase = io.BytesIO(written.content)
                else:
                    source = self.bucket.open(sessions_folder(project, day_of(hour)) + name, stamp.size_bytes)
                with pq.ParquetFile(source, pre_buffer=True) as file:
                    found += [
                        batch.filter(pa.array(batch["key"].to_numpy() % shares == share))
                        for batch in batches(file, BATCH_ROWS, None)
                    ]
            yield _columns(pa.Table.from_batches(found, SCHEMA))


def _hour_prefix(project: str, hour: str) -> str:
    return f"{sessions_folder(project, day_of(hour))}{PREFIX}{hour_of_day(hour)}-"


def _columns(table: pa.Table) -> Columns:
    def column(field: pa.Field) -> Any:
        if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type):
            return table[field.name].to_numpy()
        encoded = table[field.name].combine_chunks().dictionary_encode()  # each value is one object, however often
        values = np.array([*encoded.dictionary.to_pylist(), None], object)
        return values[encoded.indices.fill_null(len(values) - 1).to_numpy()]

    return Columns(*(column(SCHEMA.field(name)) for name in COLUMNS))
