"""The lake's files: Parquet, zstd, one schema for every event type; hot fields are columns, the rest is JSON."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from chalicelib.domain.events import StoredEvent
from chalicelib.storage.objects import DataBucket

_TIME = pa.timestamp("us", tz="UTC")  # Athena reads micro-, not nanoseconds
SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("schema_version", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("anonymous_id", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("occurred_at", _TIME, nullable=False),
        pa.field("received_at", _TIME, nullable=False),
        pa.field("client_timestamp", pa.string()),
        pa.field("properties", pa.string()),
        pa.field("context", pa.string()),
        pa.field("enrichment", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    """A stored event and when it was received, in epoch milliseconds."""

    event: StoredEvent
    received_ms: int


@dataclass(frozen=True, slots=True)
class Lake:
    """Writes whole files; a file of the same key replaces the one before."""

    bucket: DataBucket

    def write(self, key: str, rows: Iterable[Row]) -> None:
        """Write the rows, in order of time, as one Parquet file; raises Unavailable when the bucket refuses."""
        columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
        for row in sorted(rows, key=lambda row: row.event["occurred_at"]):
            event = row.event
            timestamp = event.get("timestamp")
            columns["event_id"].append(event["event_id"])
            columns["event_type"].append(event["event_type"])
            columns["schema_version"].append(event.get("schema_version"))
            columns["user_id"].append(event.get("user_id"))
            columns["anonymous_id"].append(event.get("anonymous_id"))
            columns["session_id"].append(event.get("session_id"))
            columns["occurred_at"].append(event["occurred_at"] * 1000)
            columns["received_at"].append(row.received_ms * 1000)
            columns["client_timestamp"].append(None if timestamp is None else str(timestamp))
            columns["properties"].append(_json(event.get("properties")))
            columns["context"].append(_json(event.get("context")))
            columns["enrichment"].append(_json(event.get("enrichment")))
        table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self.bucket.put(key, buffer.getvalue())


def _json(value: object) -> str | None:
    return orjson.dumps(value).decode() if value else None
