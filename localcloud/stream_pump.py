"""A shard of a stream as a function's trigger, as Lambda does it: in order, a failed batch again from its start."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from localcloud.filters import compile_patterns
from localcloud.pump import BACKOFF_SECONDS, MAX_PAYLOAD_BYTES, Pump, Waker
from localcloud.shards import Shard
from localcloud.wire import FunctionFailed, FunctionsApi, Unreachable

log = logging.getLogger("localcloud.triggers")

GATHER_SECONDS = 0.02  # records of one write come together; Lambda itself looks a few times a second


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it goes into the payload."""

    sequence: str
    json: bytes


class StreamPump(Pump):
    """One trigger on one shard. `checkpoints` maps its key to the last sequence number that is done with."""

    def __init__(
        self,
        trigger: Mapping[str, Any],
        shard: Shard,
        functions: FunctionsApi,
        checkpoints: dict[str, str],
        waker: Waker,
    ) -> None:
        super().__init__(f"{trigger['function']} (stream)", functions, waker)
        self.trigger = trigger
        self.shard = shard
        self.checkpoints = checkpoints
        self.key = checkpoint_key(trigger, shard.source)
        self.accepts = compile_patterns(trigger["patterns"])
        self.pending: list[Record] = []
        self.read_through = checkpoints.get(self.key, "")
        self.limit: int = trigger["batch_size"]
        self.bisected_through = ""

    def turn(self) -> bool:
        """Read on, and deliver a batch when there is one."""
        found = self._read()
        if not self.pending:
            self._done(self.read_through)
            return found
        self.busy = True
        self._gather()
        self._deliver()
        self.busy = bool(self.pending)
        return True

    def _read(self) -> bool:
        """Add what the stream has, up to a batch; whether it had anything."""
        found = False
        while len(self.pending) < self.trigger["batch_size"] and not self._full():
            records = self.shard.read(self.read_through)
            if not records:
                break
            found = True
            self.read_through = records[-1][0]
            self.pending += [
                Record(sequence, orjson.dumps(record)) for sequence, record in records if self.accepts(record)
            ]
        return found

    def _gather(self) -> None:
        """Wait for the window, or until the batch is full."""
        until = time.monotonic() + (self.trigger["window_seconds"] or GATHER_SECONDS)
        while not (self.stopping or self.hurried or self._full() or self.attempts):
            left = until - time.monotonic()
            if left <= 0 or len(self.pending) >= self.limit:
                return
            seen = self.waker.written
            if not self._read():
                self.waker.wait(seen, min(left, 0.1))
            time.sleep(min(max(left, 0), 0.005))

    def _full(self) -> bool:
        return sum(len(record.json) for record in self.pending) >= MAX_PAYLOAD_BYTES

    def _batch(self) -> list[Record]:
        size = 0
        batch: list[Record] = []
        for record in self.pending[: self.limit]:
            size += len(record.json) + 1
            if batch and size > MAX_PAYLOAD_BYTES:
                break
            batch.append(record)
        return batch

    def _deliver(self) -> None:
        batch = self._batch()
        payload = b'{"Records":[' + b",".join(record.json for record in batch) + b"]}"
        try:
            result = self.functions.invoke(self.trigger["function"], payload)
        except Unreachable:
            return  # never called: no attempt
        except FunctionFailed as error:
            self._failed(batch, str(error))
            return
        self.deliveries += 1
        first_failed = self._first_failed(batch, result)
        if first_failed is None:
            self.attempts = 0
            self._advance(len(batch))
        else:
            self._advance(first_failed)
            self._failed(batch[first_failed:], "it reported a record that failed")

    def _first_failed(self, batch: list[Record], result: Any) -> int | None:
        """Return where the batch starts over; None when all of it is done."""
        if not self.trigger["partial_results"] or not result or not result.get("batchItemFailures"):
            return None
        numbers = {failure.get("itemIdentifier") for failure in result["batchItemFailures"]}
        positions = [index for index, record in enumerate(batch) if record.sequence in numbers]
        return min(positions) if len(positions) == len(numbers) else 0  # an unknown number fails the whole batch

    def _failed(self, batch: list[Record], why: str) -> None:
        retries = self.trigger["maximum_retries"]
        if self.trigger["bisect"] and len(batch) > 1:
            self.bisected_through = max(self.bisected_through, batch[-1].sequence)
            self.limit = len(batch) // 2
            return
        self.attempts += 1
        if 0 <= retries < self.attempts:
            log.error("%s: %s; %d records are given up after %d retries", self.name, why, len(batch), retries)
            self.attempts = 0
            self._advance(len(batch))
            return
        log.warning("%s: %s; the batch of %d comes again", self.name, why, len(batch))
        self.pause(BACKOFF_SECONDS[min(self.attempts - 1, len(BACKOFF_SECONDS) - 1)])
        self._read()  # what came in the meantime joins the batch, as far as it has room

    def _advance(self, count: int) -> None:
        """The first `count` pending records are done with."""
        if count:
            done = self.pending[count - 1].sequence
            del self.pending[:count]
            self._done(done if self.pending else self.read_through)
            if self.limit < self.trigger["batch_size"] and done >= self.bisected_through:
                self.limit = self.trigger["batch_size"]

    def _done(self, sequence: str) -> None:
        if sequence > self.checkpoints.get(self.key, ""):  # a pump that was replaced may come late
            self.checkpoints[self.key] = sequence


def checkpoint_key(trigger: Mapping[str, Any], source: str) -> str:
    """Two triggers on one shard have a checkpoint each."""
    return f"{trigger['function']} {source}"
