"""The buffer between the edge and the pipeline, when it is Kinesis: each user's events stay in order."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.base.retries import WAITED_FOR_TRIES, Retries
from chalicelib.events.chunks import MAX_KEY_BYTES, Parcel

MAX_PUT_RECORDS = 500  # PutRecords limit
MAX_PUT_BYTES = 5 * 1024 * 1024  # PutRecords takes 10 MiB, and took these until late in 2025, as emulators still do
NO_KEY = "?"  # of what was spilled when the buffer was SQS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EventStream:
    """Puts parcels, by user; those that `send` does not give back are durable. One put twice makes the same chunks."""

    by_user: ClassVar[bool] = True

    client: Any
    name: str
    sleep: Callable[[float], None] = time.sleep

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        """Returns the parcels that the stream did not take, after those of a throttled shard were tried again."""
        refused: list[Parcel] = []
        for batch in _batches(parcels):
            refused += self._put(batch)
        return refused

    def _put(self, parcels: list[Parcel]) -> list[Parcel]:
        reason = ""
        for _ in Retries(WAITED_FOR_TRIES, self.sleep).tries():
            records = [{"Data": parcel.text.encode(), "PartitionKey": parcel.key or NO_KEY} for parcel in parcels]
            try:
                answer = self.client.put_records(StreamName=self.name, Records=records)
            except (BotoCoreError, ClientError) as error:  # for which the SDK has tried three times
                reason = str(error)
                break
            if not answer["FailedRecordCount"]:
                return []
            results = list(zip(parcels, answer["Records"], strict=True))
            reason = next(result["ErrorCode"] for _, result in results if "ErrorCode" in result)
            parcels = [parcel for parcel, result in results if "ErrorCode" in result]
        log.warning("the stream took not all", extra={"refused": len(parcels), "reason": reason})
        return parcels


def _batches(parcels: list[Parcel]) -> Iterator[list[Parcel]]:
    """As many as one call takes; a request's hardly ever need a second."""
    batch: list[Parcel] = []
    size_bytes = 0
    for parcel in parcels:
        parcel_bytes = len(parcel.text) + MAX_KEY_BYTES
        if batch and (len(batch) == MAX_PUT_RECORDS or size_bytes + parcel_bytes > MAX_PUT_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(parcel)
        size_bytes += parcel_bytes
    if batch:
        yield batch
