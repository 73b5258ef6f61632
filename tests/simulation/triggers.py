"""What else triggers functions: a queue, notifications of a bucket, schedules."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

from localcloud.queue_pump import lambda_record
from localcloud.schedule import period_seconds, scheduled_event, wait_seconds
from tests.simulation.functions import Functions
from tests.simulation.ports.s3 import S3
from tests.simulation.ports.sqs import SQS, URL
from tests.simulation.scene import Scene

ASYNC_ATTEMPTS = 3  # of an asynchronous invocation: Lambda retries twice …
ASYNC_RETRY_SECONDS = (60.0, 120.0)  # … after so long
POLLERS = 5
POLL_SECONDS = 0.1


@dataclass
class Trigger:
    """What all have."""

    scene: Scene
    trigger: Mapping[str, Any]
    functions: Functions
    rnd: random.Random

    def __post_init__(self) -> None:
        self.function: str = self.trigger["function"]

    def waiting(self) -> int:
        """How much there is that the function is not done with."""
        return 0


@dataclass
class QueueTrigger(Trigger):
    """An SQS queue: batches, partial failures; what is not deleted comes again when it is visible again."""

    sqs: SQS | None = None
    busy: int = 0
    planned: bool = False

    def wake(self) -> None:
        """Something may be there to receive."""
        if not self.planned and self.busy < POLLERS:
            self.planned = True
            self.scene.scheduler.after(self.rnd.random() * POLL_SECONDS, self._turn)

    def waiting(self) -> int:
        assert self.sqs is not None
        self.wake()
        return len(self.sqs.queues[self.trigger["queue"]].messages)

    def _turn(self) -> None:
        assert self.sqs is not None
        self.planned = False
        url = URL + self.trigger["queue"]
        most = min(10, self.trigger["batch_size"])
        if self.rnd.random() < self.scene.mix.small_batches:
            most = self.rnd.randint(1, 3)
        messages = self.sqs.receive_message(url, most).get("Messages", [])
        if not messages:
            self._look_again()
            return
        self.busy += 1
        arn = f"arn:aws:sqs:us-east-1:000000000000:{self.trigger['queue']}"
        event = {"Records": [lambda_record(message, arn) for message in messages]}
        self.functions.invoke(self.function, event, lambda result, error: self._ended(messages, result, error))
        if self.rnd.random() < self.scene.mix.again:
            self.scene.reached("a message delivered while it is under way")
            for message in messages:
                self.sqs.change_message_visibility(url, message["ReceiptHandle"], VisibilityTimeout=0)
        self.wake()

    def _ended(self, messages: list[dict[str, Any]], result: Any, error: BaseException | None) -> None:
        assert self.sqs is not None
        self.busy -= 1
        failed: set[str] = set()
        if error is None and self.trigger["partial_results"] and result:
            failed = {failure.get("itemIdentifier") for failure in result.get("batchItemFailures", [])}
        for message in messages if error is None else ():
            if message["MessageId"] in failed:
                self.scene.reached("a message that came back from its batch")
            elif self.rnd.random() < self.scene.mix.again:
                self.scene.reached("a message delivered again though it was done")
            else:
                self.sqs.delete_message(URL + self.trigger["queue"], message["ReceiptHandle"])
        self.wake()

    def _look_again(self) -> None:
        """When the next message is visible again."""
        assert self.sqs is not None
        hidden = [message.visible_at for message in self.sqs.queues[self.trigger["queue"]].messages]
        if hidden and not self.planned:
            self.planned = True
            self.scene.scheduler.at(min(hidden) + POLL_SECONDS, self._turn)


@dataclass
class BucketTrigger(Trigger):
    """Notifications of a bucket, each invoked asynchronously: at least once, given up after the third failure."""

    s3: S3 | None = None
    under_way: int = 0  # notifications
    numbers: int = 0

    def waiting(self) -> int:
        return self.under_way

    def created(self, bucket: str, key: str) -> None:
        """An object was written."""
        if bucket != self.trigger["bucket"] or not key.startswith(self.trigger["prefix"] or ""):
            return
        if self.rnd.random() < self.scene.mix.lost_notice:
            self.scene.reached("a notification that never comes")
            return
        event = {"Records": [self._record(bucket, key)]}
        for _ in range(1 + (self.rnd.random() < self.scene.mix.twice)):
            late = self.rnd.random() * 300 if self.rnd.random() < self.scene.mix.tardy else self.rnd.random()
            self.under_way += 1
            self.scene.scheduler.after(late, lambda: self._invoke(event, 1))

    def _record(self, bucket: str, key: str) -> dict[str, Any]:
        assert self.s3 is not None
        self.numbers += 1
        found = self.s3.buckets[bucket].objects[key]
        described = {"key": quote_plus(key), "size": len(found.content), "eTag": found.etag.strip('"')}
        return {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "eventTime": f"{datetime.fromtimestamp(self.scene.scheduler.now, UTC):%Y-%m-%dT%H:%M:%S}.000Z",
            "s3": {"bucket": {"name": bucket}, "object": {**described, "sequencer": f"{self.numbers:016d}"}},
        }

    def _invoke(self, event: dict[str, Any], attempt: int) -> None:
        def ended(_result: Any, error: BaseException | None) -> None:
            if error is None or attempt == ASYNC_ATTEMPTS:
                self.under_way -= 1
                if error is not None:
                    self.scene.reached("a notification that was given up")
                return
            self.scene.scheduler.after(ASYNC_RETRY_SECONDS[attempt - 1], lambda: self._invoke(event, attempt + 1))

        self.functions.invoke(self.function, event, ended)


@dataclass
class ScheduleTrigger(Trigger):
    """A schedule of EventBridge: at least once, late at times; `every` leaves out all firings but one of so many."""

    every: int = 1
    fired: int = 0
    ran_at: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Begin to fire."""
        self.scene.scheduler.after(wait_seconds(self.trigger["expression"], self.scene.scheduler.now), self._due)

    def _due(self) -> None:
        self.scene.scheduler.after(period_seconds(self.trigger["expression"]) * self.every, self._due)
        times = 1
        if self.rnd.random() < self.scene.mix.twice:
            self.scene.reached("a schedule that fires twice")
            times = 2
        for _ in range(times):
            late = 0.0
            if self.rnd.random() < self.scene.mix.tardy:
                self.scene.reached("a schedule that fires late")
                late = self.rnd.random() * 1800
            self.scene.scheduler.after(late + self.rnd.random() * 2, self.fire)

    def fire(self) -> None:
        """Invoke the function now."""
        self.fired += 1
        self.functions.invoke(self.function, scheduled_event(self.function), lambda _result, _error: None)
