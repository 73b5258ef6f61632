"""How often what a service did not do is tried again, how long to pause before that, and after which errors.

This is for what the SDK does not try again by itself: items that a batch left out, and writes that met another one.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from botocore.exceptions import ClientError

MAX_TRIES = 6  # at most 1.6 s of pauses
WAITED_FOR_TRIES = 4  # while a client waits for its answer: 0.4 s
CONTENDED_TRIES = 8  # of an item that others write all the time: 3.2 s
FIRST_PAUSE_SECONDS = 0.05  # at most; twice as much before each further try, and of it a random share ("full jitter")
LONGEST_PAUSE_SECONDS = 0.8

THROTTLED = frozenset({"ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"})
# Another transaction was at the item just then, which says nothing of a condition.
MET_ANOTHER = frozenset({"TransactionConflictException"})

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Retries:
    """The rule; `most` is how often something is tried in all."""

    most: int = MAX_TRIES
    # As it is when the value is made: tests and the simulation put another one in its place.
    sleep: Callable[[float], None] = field(default_factory=lambda: time.sleep)
    chance: Callable[[], float] = random.random

    def tries(self) -> Iterator[int]:
        """Yield for each try how many are left after it, and pause before each but the first."""
        for number in range(self.most):
            if number:
                self.sleep(self.chance() * min(FIRST_PAUSE_SECONDS * 2 ** (number - 1), LONGEST_PAUSE_SECONDS))
            yield self.most - number - 1

    def call(self, do: Callable[[], Result], is_transient: Callable[[ClientError], bool]) -> Result:
        """Return what a call answers; raises its ClientError when that is not transient, or is met every time."""
        for tries_left in self.tries():
            try:
                return do()
            except ClientError as error:
                if not tries_left or not is_transient(error):
                    raise
        raise AssertionError("unreachable: the last try returns or raises")


def code_of(error: Exception) -> str:
    """Return the code of an error that a service answered, or nothing of one that it did not."""
    code: str = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    return code
