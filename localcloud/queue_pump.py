"""An SQS queue as a function's trigger, as Lambda does it: batches, partial failures, redrive by the queue itself."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import orjson

from localcloud.places import ACCOUNT, REGION
from localcloud.pump import BACKOFF_SECONDS, MAX_PAYLOAD_BYTES, Pump, Waker
from localcloud.wire import CloudApi, FunctionFailed, FunctionsApi, Unreachable

log = logging.getLogger("localcloud.triggers")

RECEIVE_LIMIT = 10  # messages of one ReceiveMessage
ASYNC_ATTEMPTS = 3  # of an asynchronous invocation: Lambda retries twice


class QueuePump(Pump):
    """One of the pollers of a queue."""

    def __init__(
        self, trigger: Mapping[str, Any], cloud: CloudApi, functions: FunctionsApi, waker: Waker, number: int = 1
    ) -> None:
        super().__init__(f"{trigger['function']} (queue, poller {number})", functions, waker)
        self.trigger = trigger
        self.cloud = cloud
        self.url = queue_url(cloud, trigger["queue"])

    def turn(self) -> bool:
        """Receive a batch, invoke, and delete what was done; what was not comes again by its visibility time-out."""
        messages = self._receive(self.trigger["batch_size"])
        if not messages:
            return False
        self.busy = True
        try:
            until = time.monotonic() + self.trigger["window_seconds"]
            while len(messages) < self.trigger["batch_size"] and time.monotonic() < until and not self.hurried:
                more = self._receive(self.trigger["batch_size"] - len(messages))
                messages += more
                if not more:
                    self.waker.wait(self.waker.written, 0.05)
            for batch in _within_payload(messages):
                self._delete(self.deliver(batch))
                self.deliveries += 1
        finally:
            self.busy = False
        return True

    def deliver(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Invoke the function and return the messages that are done with."""
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.trigger['queue']}"
        payload = orjson.dumps({"Records": [lambda_record(message, arn) for message in messages]})
        try:
            result = self.invoke(payload)
        except FunctionFailed as error:
            log.warning("%s: %s; %d messages come again", self.name, error, len(messages))
            return []
        if not self.trigger["partial_results"] or not result or not result.get("batchItemFailures"):
            return messages
        failed = {failure.get("itemIdentifier") for failure in result["batchItemFailures"]}
        if not failed <= {message["MessageId"] for message in messages}:
            log.warning("%s: it named a message that is not in its batch, so all of it comes again", self.name)
            return []
        return [message for message in messages if message["MessageId"] not in failed]

    def invoke(self, payload: bytes) -> Any:
        """Invoke, and wait for a process that is away: what was never delivered has not failed."""
        while True:
            try:
                return self.functions.invoke(self.trigger["function"], payload)
            except Unreachable as error:
                if not self.functions.wait_reachable(lambda: self.stopping):
                    raise FunctionFailed("the cloud ends") from error

    def _receive(self, count: int) -> list[dict[str, Any]]:
        answer = self.cloud.sqs(
            "ReceiveMessage",
            QueueUrl=self.url,
            MaxNumberOfMessages=min(count, RECEIVE_LIMIT),
            WaitTimeSeconds=0,
            MessageSystemAttributeNames=["All"],
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        return messages

    def _delete(self, messages: list[dict[str, Any]]) -> None:
        for start in range(0, len(messages), 10):  # DeleteMessageBatch's limit
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages[start : start + 10])
            ]
            self.cloud.sqs("DeleteMessageBatch", QueueUrl=self.url, Entries=entries)


class NotificationPump(QueuePump):
    """Notifications of a bucket and events of the bus, which reach the function one by one, invoked asynchronously."""

    def deliver(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Invoke for each message, at most three times; then it is given up, and that is an error in the log."""
        for message in messages:
            if orjson.loads(message["Body"]).get("Event") == "s3:TestEvent":
                continue
            for attempt in range(1, ASYNC_ATTEMPTS + 1):
                try:
                    self.invoke(message["Body"].encode())
                    break
                except FunctionFailed as error:
                    if self.stopping:
                        self._release(message)
                        return []
                    again = attempt < ASYNC_ATTEMPTS
                    level = logging.WARNING if again else logging.ERROR
                    log.log(level, "%s: %s; %s", self.name, error, "it comes again" if again else "it is given up")
                    self.pause(BACKOFF_SECONDS[attempt + 1] if again else 0)
        return messages

    def _release(self, message: dict[str, Any]) -> None:
        """For the next start, which would wait for the end of a long visibility time-out."""
        self.cloud.sqs(
            "ChangeMessageVisibility", QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )


def queue_url(cloud: CloudApi, name: str) -> str:
    """Return the queue's URL; ApiError when there is none."""
    return str(cloud.sqs("GetQueueUrl", QueueName=name)["QueueUrl"])


def lambda_record(message: Mapping[str, Any], arn: str) -> dict[str, Any]:
    """Return a received message in the shape that Lambda gives to functions."""
    attributes = {
        name: {
            "stringValue": value.get("StringValue"),
            "binaryValue": value.get("BinaryValue"),
            "stringListValues": [],
            "binaryListValues": [],
            "dataType": value["DataType"],
        }
        for name, value in message.get("MessageAttributes", {}).items()
    }
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": attributes,
        "md5OfBody": message.get("MD5OfBody", ""),
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": REGION,
    }


def _within_payload(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Messages are up to 1 MiB each, an invocation 6 MiB with room for what surrounds them."""
    batches: list[list[dict[str, Any]]] = [[]]
    size = 0
    for message in messages:
        size += len(message["Body"]) + 2048
        if batches[-1] and size > MAX_PAYLOAD_BYTES:
            batches.append([])
            size = len(message["Body"]) + 2048
        batches[-1].append(message)
    return batches
