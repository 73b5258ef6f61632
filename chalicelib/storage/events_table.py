"""The hot store: one item per chunk, kept for 30 days."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.domain.chunks import Chunk, unpack_events
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.events import MAX_AGE_DAYS, StoredEvent
from chalicelib.domain.records import NO_CHUNK, REBUILT

MAX_BATCH_ITEMS = 25  # BatchWriteItem limit
MAX_ATTEMPTS = 6  # with doubling pauses from 50 ms between them: 1.6 s
FIRST_PAUSE_SECONDS = 0.05
PAUSED_SECONDS = 5.0  # in all of a write, however many chunks are throttled: others wait for it, and a minute is short
MAX_FAILURES = 2  # of calls, which take up to 21 s each while nothing answers; then the rest is not tried
THROTTLED = frozenset({"ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"})
PAGE_ITEMS = 100  # of one read of a user's chunks, which are small


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it is read back."""

    sort_key: str
    received_ms: int
    events: list[StoredEvent]


@dataclass(slots=True)
class Unwritten:
    """The chunks of a write that are not stored, by their place among them, and why."""

    refused: dict[int, str] = field(default_factory=dict)  # now: they are to be written again
    invalid: dict[int, str] = field(default_factory=dict)  # for good: no item may be like that
    paused_seconds: float = 0.0
    failures: int = 0


Request = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventsTable:
    """Writes chunks; writing one again rewrites the same item."""

    client: Any
    name: str
    sleep: Callable[[float], None] = time.sleep

    def write(self, chunks: Iterable[Chunk]) -> Unwritten:
        """Store every chunk that the table takes, retrying what it throttles; returns which it does not take."""
        rounds: list[dict[tuple[str, str], int]] = []
        requests: list[Request] = []
        for number, chunk in enumerate(chunks):
            # One call may not name a key twice, and of a request that was sent again the second one counts too.
            key = chunk.partition_key, chunk.sort_key
            if (free := next((each for each in rounds if key not in each), None)) is None:
                rounds.append(free := {})
            free[key] = number
            requests.append({"PutRequest": {"Item": _item(chunk)}})
        unwritten = Unwritten()
        for each in rounds:
            numbers = list(each.values())
            for start in range(0, len(numbers), MAX_BATCH_ITEMS):
                self._write_batch({n: requests[n] for n in numbers[start : start + MAX_BATCH_ITEMS]}, unwritten)
        return unwritten

    def restore(self, chunk: Chunk) -> bool:
        """Put back a chunk whose events were counted and archived, marked so that neither is done again.

        False, and nothing is written, when it is there.
        """
        try:
            self.client.put_item(
                TableName=self.name,
                Item={**_item(chunk), REBUILT: {"BOOL": True}},
                ConditionExpression="attribute_not_exists(pk)",
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def items_of(self, project: str, user: str) -> dict[str, int | None]:
        """When each chunk of an id was received, by sort key; None of traits and links, which have no such time."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"{project}#{user}"}},
            ProjectionExpression="sk, received_at",
            ConsistentRead=True,
        )
        items = (item for page in pages for item in page["Items"])
        return {item["sk"]["S"]: int(item["received_at"]["N"]) if "received_at" in item else None for item in items}

    def is_user(self, project: str, user: str) -> bool:
        """Whether events of the last 30 days name the id as their user, and not only as a visitor."""
        chunk = next(self.chunks(project, [user]), None)
        return chunk is not None and any(event.get("user_id") == user for event in chunk.events)

    def delete(self, project: str, user: str, sort_keys: Iterable[str]) -> None:
        """Delete items of an id; raises Unavailable."""
        pk = {"S": f"{project}#{user}"}
        requests = [{"DeleteRequest": {"Key": {"pk": pk, "sk": {"S": key}}}} for key in sort_keys]
        unwritten = Unwritten()
        for start in range(0, len(requests), MAX_BATCH_ITEMS):
            self._write_batch(dict(enumerate(requests[start : start + MAX_BATCH_ITEMS], start)), unwritten)
        if reasons := [*unwritten.refused.values(), *unwritten.invalid.values()]:
            raise Unavailable(f"{len(reasons)} items were not deleted: {reasons[0]}")

    def chunks(self, project: str, users: Iterable[str], before: str | None = None) -> Iterator[StoredChunk]:
        """The chunks of some ids of a person, the latest first; `before` is the sort key to begin below."""
        return merge(
            *(self._chunks_of(project, user, before) for user in users), key=lambda chunk: chunk.sort_key, reverse=True
        )

    def _chunks_of(self, project: str, user: str, before: str | None) -> Iterator[StoredChunk]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND sk < :before",
            ExpressionAttributeValues={
                ":pk": {"S": f"{project}#{user}"},
                ":before": {"S": min(before or NO_CHUNK, NO_CHUNK)},
            },
            ScanIndexForward=False,
            PaginationConfig={"PageSize": PAGE_ITEMS},
        )
        for page in pages:
            for item in page["Items"]:
                events, _ = unpack_events(item["body"]["B"])
                yield StoredChunk(item["sk"]["S"], int(item["received_at"]["N"]), events)

    def _write_batch(self, requests: dict[int, Request], unwritten: Unwritten) -> None:
        """Write what one call may hold, by its place among all; what remains is noted."""
        pause_seconds, attempts = FIRST_PAUSE_SECONDS, 0
        if unwritten.failures == MAX_FAILURES:
            unwritten.refused |= dict.fromkeys(requests, "the table does not answer")
            return
        while True:
            try:
                answer = self.client.batch_write_item(RequestItems={self.name: list(requests.values())})
                left = [_key_of(each) for each in answer.get("UnprocessedItems", {}).get(self.name, [])]
                requests = {number: each for number, each in requests.items() if _key_of(each) in left}
                reason = "the table throttles them"
            except (BotoCoreError, ClientError) as error:
                reason, code = str(error), error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
                if code == "ValidationException":
                    self._write_halves(requests, unwritten, reason)
                    return
                if code not in THROTTLED:
                    unwritten.failures += 1
                    unwritten.refused |= dict.fromkeys(requests, reason)
                    return
            if not requests:
                return
            attempts += 1
            if attempts == MAX_ATTEMPTS or unwritten.paused_seconds >= PAUSED_SECONDS:
                unwritten.refused |= dict.fromkeys(requests, reason)
                return
            self.sleep(pause_seconds)
            unwritten.paused_seconds += pause_seconds
            pause_seconds *= 2

    def _write_halves(self, requests: dict[int, Request], unwritten: Unwritten, reason: str) -> None:
        """Write each half of a call that has an invalid item in it, until that one stands alone."""
        if len(requests) == 1:
            unwritten.invalid |= dict.fromkeys(requests, reason)
            return
        numbers = list(requests)
        for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]):
            self._write_batch({number: requests[number] for number in half}, unwritten)


def _key_of(request: Request) -> tuple[str, str]:
    """The key that a put or a deletion is about."""
    put, deletion = request.get("PutRequest"), request.get("DeleteRequest")
    key = put["Item"] if put else deletion["Key"] if deletion else {}
    return key["pk"]["S"], key["sk"]["S"]


def _item(chunk: Chunk) -> dict[str, Any]:
    return {
        "pk": {"S": chunk.partition_key},
        "sk": {"S": chunk.sort_key},
        "project": {"S": chunk.project},
        **({"user": {"S": chunk.user}} if chunk.user else {}),
        "events": {"N": str(chunk.count)},
        "received_at": {"N": str(chunk.received_ms)},
        **({"receipt": {"S": str(chunk.receipt)}} if chunk.receipt else {}),
        "expires_at": {"N": str(chunk.received_ms // 1000 + MAX_AGE_DAYS * 86_400)},
        "body": {"B": chunk.body},
    }
