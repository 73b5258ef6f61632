"""A table's stream: shards that split, records that are forgotten after a day, as Lambda hands them to a function."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any
from zlib import crc32

from tests.simulation.ports.items import Item, item_size

RETENTION_SECONDS = 24 * 3600
FULL_RANGE = 1 << 32
FIRST_SEQUENCE = 10**20


@dataclass(slots=True)
class StreamRecord:
    """One change of an item."""

    event: str  # INSERT, MODIFY or REMOVE
    keys: Item
    image: Item | None
    created: float
    sequence: int
    event_id: str
    by_ttl: bool
    _json: dict[str, Any] | None = None

    def to_json(self, arn: str) -> dict[str, Any]:
        """As it stands in a function's event."""
        if self._json is None:
            change: dict[str, Any] = {
                "ApproximateCreationDateTime": int(self.created),
                "Keys": self.keys,
                "SequenceNumber": str(self.sequence),
                "SizeBytes": item_size(self.keys) + (item_size(self.image) if self.image else 0),
                "StreamViewType": "NEW_IMAGE",
            }
            if self.image is not None:
                change["NewImage"] = {name: _readable(value) for name, value in self.image.items()}
            self._json = {
                "eventID": self.event_id,
                "eventName": self.event,
                "eventVersion": "1.1",
                "eventSource": "aws:dynamodb",
                "awsRegion": "us-east-1",
                "dynamodb": change,
                "eventSourceARN": arn,
            }
            if self.by_ttl:
                self._json["userIdentity"] = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
        return self._json


@dataclass
class Shard:
    """A range of hashed partition keys, until it splits; the children come after all of its records."""

    name: str
    first: int
    end: int
    parent: "Shard | None" = None
    closed: bool = False
    records: list[StreamRecord] = field(default_factory=list)

    def trimmed(self, now: float) -> int:
        """How many of the records are forgotten by now."""
        count = 0
        while count < len(self.records) and self.records[count].created + RETENTION_SECONDS <= now:
            count += 1
        return count


@dataclass
class TableStream:
    """Sequence numbers rise within a shard, and say nothing about two shards."""

    arn: str
    begins_with: int = 1  # shards; a new table of AWS has about four
    shards: list[Shard] = field(default_factory=list)
    appended: int = 0
    appended_to: Callable[["TableStream"], None] = lambda _stream: None

    def __post_init__(self) -> None:
        for number in range(self.begins_with):
            first, end = (FULL_RANGE * part // self.begins_with for part in (number, number + 1))
            self.shards.append(Shard(f"shardId-{number:04d}", first, end))

    def append(
        self, key: tuple[str, str], before: Item | None, after: Item | None, now: float, *, by_ttl: bool
    ) -> None:
        """Note a change."""
        event = "REMOVE" if after is None else "MODIFY" if before else "INSERT"
        at = crc32(key[0].encode())
        shard = next(shard for shard in self.shards if not shard.closed and shard.first <= at < shard.end)
        self.appended += 1
        sequence = FIRST_SEQUENCE + self.appended * 11 + (at % 7)
        event_id = md5(f"{self.arn} {sequence}".encode(), usedforsecurity=False).hexdigest()
        keys = {"pk": {"S": key[0]}, "sk": {"S": key[1]}}
        self.newest = StreamRecord(event, keys, after, now, sequence, event_id, by_ttl)
        shard.records.append(self.newest)
        self.appended_to(self)

    def split(self, shard: Shard) -> None:
        """Close the shard; what is written from now on goes to its two children."""
        middle = (shard.first + shard.end) // 2
        shard.closed = True
        for first, end in ((shard.first, middle), (middle, shard.end)):
            self.shards.append(Shard(f"shardId-{len(self.shards):04d}", first, end, shard))


def _readable(value: dict[str, Any]) -> dict[str, Any]:
    """A value with its binary parts as base64."""
    [(kind, content)] = value.items()
    match kind:
        case "B":
            return {"B": b64encode(content).decode()}
        case "BS":
            return {"BS": [b64encode(each).decode() for each in content]}
        case "M":
            return {"M": {name: _readable(each) for name, each in content.items()}}
        case "L":
            return {"L": [_readable(each) for each in content]}
    return value
