"""Stream records of the events and rollups tables as a trigger hands them over (NEW_IMAGE, binary as base64)."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chalicelib.domain.chunks import unpack_events
from chalicelib.domain.events import StoredEvent


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One new chunk, as the stream brought it."""

    event_id: str  # of the stream record, unique
    sequence: int  # increases within a shard
    project: str
    user: str | None
    received_ms: int
    plain_bytes: int  # of the events as JSON
    events: list[StoredEvent]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A chunk that cannot be read; `raw` is what came."""

    event_id: str
    sequence: int
    raw: Mapping[str, Any]
    reason: str


def sequence_of(record: Mapping[str, Any]) -> int:
    """The sequence number of a stream record; increases within a shard."""
    return int(record["dynamodb"]["SequenceNumber"])


def read_chunk(record: Mapping[str, Any]) -> ChunkRecord | BadRecord | None:
    """The chunk of an INSERT; None of a rewrite or removal, which brings nothing new."""
    if record["eventName"] != "INSERT":
        return None
    sequence = sequence_of(record)
    try:
        image = record["dynamodb"]["NewImage"]
        events, plain_bytes = unpack_events(b64decode(image["body"]["B"]))
        return ChunkRecord(
            event_id=record["eventID"],
            sequence=sequence,
            project=image["project"]["S"],
            user=image.get("user", {}).get("S"),
            received_ms=int(image["received_at"]["N"]),
            plain_bytes=plain_bytes,
            events=events,
        )
    except (KeyError, ValueError, TypeError) as error:
        return BadRecord(record["eventID"], sequence, record, repr(error))
