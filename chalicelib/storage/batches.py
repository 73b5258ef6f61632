"""Any number of items written to a table, 25 a call; one that the table does not take costs no other its place."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

MAX_BATCH_ITEMS = 25  # BatchWriteItem limit
MAX_TRIES = 6  # with doubling pauses from 50 ms between them: 1.6 s
FIRST_PAUSE_SECONDS = 0.05
PAUSED_SECONDS = 5.0  # in all of a write, however many items are throttled: others wait for it, and a minute is short
MAX_FAILURES = 2  # of calls, which take up to 21 s each while nothing answers; then the rest is not tried
THROTTLED = frozenset({"ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"})

Request = dict[str, Any]  # a PutRequest or a DeleteRequest


@dataclass(slots=True)
class Unwritten:
    """The requests that a table did not take, by their place among all, and why."""

    refused: dict[int, str] = field(default_factory=dict)  # now: they are to be made again
    invalid: dict[int, str] = field(default_factory=dict)  # for good: no item may be like that
    paused_seconds: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class BatchWriter:
    """Writes to one table."""

    client: Any
    name: str
    sleep: Callable[[float], None] = time.sleep

    def write(self, requests: Sequence[Request], goes_on: Callable[[], bool] = lambda: True) -> Unwritten:
        """Make every request, and those again that the table throttles; returns those that it did not take.

        Of those with one key the last one counts. `goes_on` is asked before each call whether there is time for it.
        """
        rounds: list[dict[tuple[str, str], int]] = []
        for number, request in enumerate(requests):
            # One call may not name a key twice.
            key = _key_of(request)
            if (free := next((each for each in rounds if key not in each), None)) is None:
                rounds.append(free := {})
            free[key] = number
        unwritten = Unwritten()
        for each in rounds:
            numbers = list(each.values())
            for start in range(0, len(numbers), MAX_BATCH_ITEMS):
                some = {number: requests[number] for number in numbers[start : start + MAX_BATCH_ITEMS]}
                if unwritten.failures == MAX_FAILURES:
                    unwritten.refused |= dict.fromkeys(some, "the table does not answer")
                elif not goes_on():
                    unwritten.refused |= dict.fromkeys(some, "there is no time left")
                else:
                    self._write_some(some, unwritten)
        return unwritten

    def _write_some(self, requests: dict[int, Request], unwritten: Unwritten) -> None:
        """Make the requests of one call; what remains is noted."""
        pause_seconds, attempts = FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                answer = self.client.batch_write_item(RequestItems={self.name: list(requests.values())})
                left = [_key_of(each) for each in answer.get("UnprocessedItems", {}).get(self.name, [])]
                requests = {number: each for number, each in requests.items() if _key_of(each) in left}
                reason = "the table throttles them"
            except (BotoCoreError, ClientError) as error:
                reason, code = str(error), code_of(error)
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
            if attempts == MAX_TRIES or unwritten.paused_seconds >= PAUSED_SECONDS:
                unwritten.refused |= dict.fromkeys(requests, reason)
                return
            self.sleep(pause_seconds)
            unwritten.paused_seconds += pause_seconds
            pause_seconds *= 2

    def _write_halves(self, requests: dict[int, Request], unwritten: Unwritten, reason: str) -> None:
        """Make each half of a call's requests of which one is invalid, until that one stands alone."""
        if len(requests) == 1:
            unwritten.invalid |= dict.fromkeys(requests, reason)
            return
        numbers = list(requests)
        for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]):
            if unwritten.failures == MAX_FAILURES:
                unwritten.refused |= dict.fromkeys(half, "the table does not answer")
            else:
                self._write_some({number: requests[number] for number in half}, unwritten)


def code_of(error: Exception) -> str:
    """The code of an error that DynamoDB answered, or nothing of one that it did not."""
    code: str = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    return code


def _key_of(request: Request) -> tuple[str, str]:
    """The key that a put or a deletion is about."""
    put, deletion = request.get("PutRequest"), request.get("DeleteRequest")
    key = put["Item"] if put else deletion["Key"] if deletion else {}
    return key["pk"]["S"], key["sk"]["S"]
