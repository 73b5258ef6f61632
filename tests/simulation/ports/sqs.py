"""SQS in memory: at least once and in no order; visibility, redrive to a dead-letter queue, and partial failures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import md5
from itertools import count
from typing import Any

from tests.simulation.ports.client import Answer, Service, refusal
from tests.simulation.ports.quirks import ORDINARY, Quirks

MAX_BYTES = 1024 * 1024
MAX_BATCH = 10
URL = "https://sqs.us-east-1.amazonaws.com/000000000000/"


@dataclass
class Message:
    """One message; `receipt` is the handle that the last receive gave out."""

    id: str
    body: str
    sent_at: float
    visible_at: float
    attributes: dict[str, Any] = field(default_factory=dict)
    received: int = 0
    first_received_at: float = 0.0
    receipt: str = ""


@dataclass
class Queue:
    """One queue; with `dead_letters`, a message that was received `max_receives` times goes there."""

    visibility_seconds: float = 30.0
    retention_seconds: float = 14 * 86_400.0
    dead_letters: str = ""
    max_receives: int = 0
    messages: list[Message] = field(default_factory=list)


@dataclass
class SQS(Service):
    """Queues by name; a queue's URL ends with it. `sent` is called with the queue's name after each message."""

    clock: Callable[[], float]
    queues: dict[str, Queue] = field(default_factory=dict)
    quirks: Quirks = ORDINARY
    sent: Callable[[str], None] = lambda _queue: None
    numbers: Any = field(default_factory=count)
    name: str = "sqs"

    def get_queue_url(self, QueueName: str) -> Answer:
        """A queue's URL."""
        self._queue(URL + QueueName)
        return {"QueueUrl": URL + QueueName}

    def send_message(self, QueueUrl: str, MessageBody: str, DelaySeconds: int = 0, **more: Any) -> Answer:
        """Put a message into the queue."""
        queue = self._queue(QueueUrl)
        if not MessageBody:
            raise refusal("MissingParameter", "The request must contain the parameter MessageBody.")
        if len(MessageBody.encode()) > MAX_BYTES:
            raise refusal(
                "InvalidParameterValue", "One or more parameters are invalid. Message must be shorter than 1 MiB"
            )
        now = self.clock()
        message = Message(f"message-{next(self.numbers)}", MessageBody, now, now + DelaySeconds)
        message.attributes = more.get("MessageAttributes", {})
        queue.messages.append(message)
        self.sent(_name(QueueUrl))
        return {"MessageId": message.id, "MD5OfMessageBody": _md5(MessageBody)}

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> Answer:
        """Put up to ten messages, of 1 MiB together, into the queue; some may be refused."""
        _check_batch(Entries)
        if sum(len(entry["MessageBody"].encode()) for entry in Entries) > MAX_BYTES:
            raise refusal("AWS.SimpleQueueService.BatchRequestTooLong", "Batch requests cannot be longer than 1 MiB")
        done = len(Entries) - self.quirks.left_undone(len(Entries))
        answer: Answer = {"Successful": []}
        for entry in Entries[:done]:
            rest = {name: value for name, value in entry.items() if name != "Id"}
            answer["Successful"].append({"Id": entry["Id"], **self.send_message(QueueUrl, **rest)})
        failed = [{"Id": e["Id"], "Code": "InternalError", "SenderFault": False} for e in Entries[done:]]
        return answer | ({"Failed": failed} if failed else {})

    def receive_message(self, QueueUrl: str, MaxNumberOfMessages: int = 1, **request: Any) -> Answer:
        """Some messages that are visible, which are hidden from now on for the visibility time-out."""
        queue, now = self._queue(QueueUrl), self.clock()
        if not 1 <= MaxNumberOfMessages <= MAX_BATCH:
            raise refusal("InvalidParameterValue", f"MaxNumberOfMessages is {MaxNumberOfMessages}; it must be 1 to 10")
        queue.messages = [each for each in queue.messages if each.sent_at + queue.retention_seconds > now]
        hidden_seconds = request.get("VisibilityTimeout", queue.visibility_seconds)
        found: list[Message] = []
        for message in self.quirks.shuffled([each for each in queue.messages if each.visible_at <= now]):
            if len(found) == MaxNumberOfMessages:
                break
            if queue.max_receives and message.received >= queue.max_receives:
                queue.messages.remove(message)
                message.received = 0
                self._queue(URL + queue.dead_letters).messages.append(message)
                continue
            message.received += 1
            message.first_received_at = message.first_received_at or now
            message.visible_at = now + hidden_seconds
            message.receipt = f"{message.id}#{next(self.numbers)}"
            found.append(message)
        return {"Messages": [_shown(message) for message in found]} if found else {}

    def delete_message(self, QueueUrl: str, ReceiptHandle: str) -> Answer:
        """Remove a message, also by a handle of an earlier receive; again is no error."""
        queue, message_id = self._queue(QueueUrl), ReceiptHandle.partition("#")[0]
        queue.messages = [each for each in queue.messages if each.id != message_id]
        return {}

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> Answer:
        """Remove up to ten messages; some may be left."""
        _check_batch(Entries)
        done = len(Entries) - self.quirks.left_undone(len(Entries))
        for entry in Entries[:done]:
            self.delete_message(QueueUrl, entry["ReceiptHandle"])
        answer: Answer = {"Successful": [{"Id": entry["Id"]} for entry in Entries[:done]]}
        failed = [{"Id": e["Id"], "Code": "InternalError", "SenderFault": False} for e in Entries[done:]]
        return answer | ({"Failed": failed} if failed else {})

    def change_message_visibility(self, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> Answer:
        """Hide a message for so long from now on."""
        for message in self._queue(QueueUrl).messages:
            if message.receipt == ReceiptHandle:
                message.visible_at = self.clock() + VisibilityTimeout
        return {}

    def get_queue_attributes(self, QueueUrl: str, AttributeNames: list[str] | None = None) -> Answer:
        """How many messages there are."""
        queue, now = self._queue(QueueUrl), self.clock()
        visible = sum(message.visible_at <= now for message in queue.messages)
        counts = {
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(len(queue.messages) - visible),
        }
        return {"Attributes": counts}

    def move(self, source: str, target: str) -> int:
        """What StartMessageMoveTask does: every message of a dead-letter queue goes back; returns how many."""
        moved, self.queues[source].messages = self.queues[source].messages, []
        for message in moved:
            message.received, message.visible_at = 0, self.clock()
            self.queues[target].messages.append(message)
        return len(moved)

    def _queue(self, url: str) -> Queue:
        if _name(url) not in self.queues:
            raise refusal("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
        return self.queues[_name(url)]


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def _check_batch(entries: list[dict[str, Any]]) -> None:
    if not entries:
        raise refusal("AWS.SimpleQueueService.EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > MAX_BATCH:
        raise refusal("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", f"The request has {len(entries)} entries")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise refusal("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", "Two or more entries have the same Id")


def _shown(message: Message) -> dict[str, Any]:
    return {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "Body": message.body,
        "MD5OfBody": _md5(message.body),
        "Attributes": {
            "ApproximateReceiveCount": str(message.received),
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
            "SenderId": "SIMULATION",
        },
        "MessageAttributes": message.attributes,
    }
