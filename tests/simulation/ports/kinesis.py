"""Kinesis in memory: shards by the hash of a record's key, and put_records that takes some records and not others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any

from tests.simulation.ports.client import Answer, Service, refusal
from tests.simulation.ports.quirks import ORDINARY, Quirks

MAX_RECORDS = 500
MAX_RECORD_BYTES = 1024 * 1024
MAX_REQUEST_BYTES = 5 * 1024 * 1024
MAX_READ = 10_000
KEY_RANGE = 1 << 128
FIRST_SEQUENCE = 49 * 10**54

REFUSED = (  # what a record is refused with
    {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded"},
    {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure."},
)


@dataclass(frozen=True, slots=True)
class KinesisRecord:
    """One record of a shard."""

    sequence: str
    key: str
    data: bytes
    arrived_at: float


@dataclass
class KinesisShard:
    """Part `number` of `of`."""

    number: int
    of: int
    records: list[KinesisRecord] = field(default_factory=list)
    forgotten: int = 0  # records before those

    @property
    def name(self) -> str:
        """Its id."""
        return f"shardId-{self.number:012d}"

    @property
    def first_key(self) -> int:
        """Where its range of hashed keys begins."""
        return KEY_RANGE * self.number // self.of


@dataclass
class KinesisStream:
    """One stream."""

    shards: list[KinesisShard]
    retention_seconds: float = 168 * 3600.0
    appended: int = 0


@dataclass
class Kinesis(Service):
    """Streams by name."""

    clock: Callable[[], float]
    streams: dict[str, KinesisStream] = field(default_factory=dict)
    quirks: Quirks = ORDINARY
    put: Callable[[str], None] = lambda _stream: None
    name: str = "kinesis"

    def create_stream(self, StreamName: str, ShardCount: int = 1) -> Answer:
        """Make a stream."""
        self.streams[StreamName] = KinesisStream([KinesisShard(number, ShardCount) for number in range(ShardCount)])
        return {}

    def put_records(self, Records: list[dict[str, Any]], StreamName: str) -> Answer:
        """Append up to 500 records; those of a shard that is throttled are refused one by one."""
        stream = self._stream(StreamName)
        if not 0 < len(Records) <= MAX_RECORDS:
            raise refusal("ValidationException", f"Member must have length less than or equal to 500: {len(Records)}")
        sizes = [len(record["Data"]) + len(record["PartitionKey"].encode()) for record in Records]
        if sum(sizes) > MAX_REQUEST_BYTES:
            raise refusal("InvalidArgumentException", "Records size exceeds 5 MB limit")
        for record in Records:
            if not 0 < len(record["PartitionKey"]) <= 256 or len(record["Data"]) > MAX_RECORD_BYTES:
                raise refusal("ValidationException", "a key has 1 to 256 characters, a record 1 MiB at most")
        refused = self.quirks.left_undone(len(Records))
        results: list[dict[str, str]] = []
        for number, record in enumerate(Records):
            if number < refused:  # the first ones: what follows is not in order any more
                results.append(REFUSED[number % len(REFUSED)])
            else:
                results.append(self._append(stream, record))
        self.put(StreamName)
        return {"FailedRecordCount": refused, "Records": results}

    def list_shards(self, StreamName: str) -> Answer:
        """The stream's shards."""
        return {"Shards": [{"ShardId": shard.name} for shard in self._stream(StreamName).shards]}

    def get_shard_iterator(
        self, StreamName: str, ShardId: str, ShardIteratorType: str, StartingSequenceNumber: str = ""
    ) -> Answer:
        """Where to read from: the oldest record, the end, or behind a sequence number."""
        shard = self._shard(StreamName, ShardId)
        places = {"TRIM_HORIZON": 0, "LATEST": len(shard.records)}
        after = [n for n, record in enumerate(shard.records, 1) if record.sequence <= StartingSequenceNumber]
        at = places.get(ShardIteratorType, after[-1] if after else 0)
        return {"ShardIterator": f"{StreamName}/{ShardId}/{shard.forgotten + at}"}

    def get_records(self, ShardIterator: str, Limit: int = MAX_READ) -> Answer:
        """The next records of a shard."""
        stream, shard_id, at = ShardIterator.rsplit("/", 2)
        shard = self._shard(stream, shard_id)
        first = max(0, int(at) - shard.forgotten)
        found = shard.records[first : first + Limit]
        return {
            "Records": [
                {
                    "SequenceNumber": r.sequence,
                    "PartitionKey": r.key,
                    "Data": r.data,
                    "ApproximateArrivalTimestamp": r.arrived_at,
                }
                for r in found
            ],
            "NextShardIterator": f"{stream}/{shard_id}/{shard.forgotten + first + len(found)}",
            "MillisBehindLatest": 0,
        }

    def _append(self, stream: KinesisStream, record: dict[str, Any]) -> dict[str, str]:
        hashed = int.from_bytes(md5(record["PartitionKey"].encode(), usedforsecurity=False).digest(), "big")
        shard = [each for each in stream.shards if each.first_key <= hashed][-1]
        stream.appended += 1
        sequence = str(FIRST_SEQUENCE + stream.appended * 16)
        shard.records.append(KinesisRecord(sequence, record["PartitionKey"], bytes(record["Data"]), self.clock()))
        return {"ShardId": shard.name, "SequenceNumber": sequence}

    def _shard(self, stream: str, shard_id: str) -> KinesisShard:
        """The shard, without what it has forgotten by now."""
        found = self._stream(stream)
        shard = next(each for each in found.shards if each.name == shard_id)
        while shard.records and shard.records[0].arrived_at + found.retention_seconds <= self.clock():
            del shard.records[0]
            shard.forgotten += 1
        return shard

    def _stream(self, name: str) -> KinesisStream:
        if name not in self.streams:
            raise refusal("ResourceNotFoundException", f"Stream {name} under account 000000000000 not found.")
        return self.streams[name]
