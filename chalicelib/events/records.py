"""Records as triggers hand them over: of the buffer, and of the streams of the events and rollups tables.

The tables' have NEW_IMAGE, with binary as base64.
"""

from base64 import b64decode
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from chalicelib.base.values import most_in
from chalicelib.events.chunks import UNCOUNTED_BYTES, events_of, unpack
from chalicelib.events.events import StoredEvent
from chalicelib.rollups.ledger import Receipt


class ChunkRecord(NamedTuple):
    """One new chunk, as the stream brought it; a tuple, which is made in a quarter of the time."""

    event_id: str  # of the stream record, unique
    project: str
    user: str | None
    received_ms: int
    receipt: Receipt | None
    position: int | None  # of the first event in the count of the receipt's container; older versions gave none
    plain_bytes: int  # of the events as JSON
    events: list[StoredEvent]  # as its reader asked for them
    values: int  # of the events as JSON, at most; what they take as Python objects follows from both (base/values.py)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A chunk that was stored before: the same request, received again."""

    project: str
    received_ms: int
    receipt: Receipt | None
    position: int | None
    count: int  # of events


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A chunk that cannot be read; `raw` is what came."""

    event_id: str
    raw: Mapping[str, Any]
    reason: str


# Begins the sort keys of items in the events table that are no chunks. It sorts after every time, and the filters in
# infra/triggers.json pass times only.
NO_CHUNK = "~"
# Marks chunks that were put back from the lake: what it holds has been through the stream before. When the client sends
# such a chunk again, it is rewritten without the mark, and counts as any other that was sent again.
REBUILT = "rebuilt"


def delivered(record: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return a record of either buffer: by which name its trigger wants to hear of a failure, and its content."""
    if "kinesis" in record:
        return record["kinesis"]["sequenceNumber"], b64decode(record["kinesis"]["data"])
    return record["messageId"], record["body"].encode()


def sequence_of(record: Mapping[str, Any]) -> int:
    """Return the sequence number of a stream record; increases within a shard."""
    return int(record["dynamodb"]["SequenceNumber"])


def read_chunk(
    record: Mapping[str, Any], events_of: Callable[[bytes], list[StoredEvent]] = events_of
) -> ChunkRecord | Rewrite | BadRecord | None:
    """What a record of the events table says; None of a removal, which is the TTL's, and of what is no new chunk.

    BadRecord of what cannot be read, and of what would fill the memory, which is not parsed then. `events_of` parses
    the events, and raises ValueError for those that lack what the stages rely on.
    """
    if record["eventName"] == "REMOVE":
        return None
    try:
        image = record["dynamodb"]["NewImage"]
        if image["sk"]["S"].startswith(NO_CHUNK) or REBUILT in image:
            return None
        project, received_ms = image["project"]["S"], int(image["received_at"]["N"])
        receipt = Receipt.from_text(image["receipt"]["S"]) if "receipt" in image else None
        position = int(image["position"]["N"]) if "position" in image else None
        if record["eventName"] == "MODIFY":
            return Rewrite(project, received_ms, receipt, position, int(image["events"]["N"]))
        plain = unpack(a2b_base64(image["body"]["B"]))
        return ChunkRecord(
            event_id=record["eventID"],
            project=project,
            user=image.get("user", {}).get("S"),
            received_ms=received_ms,
            receipt=receipt,
            position=position,
            plain_bytes=len(plain),
            events=events_of(plain),
            values=most_in(plain, UNCOUNTED_BYTES),
        )
    except (KeyError, ValueError, TypeError) as error:
        return BadRecord(record["eventID"], record, repr(error))
