"""Move the dead letters back to the queue, once the reason is put right.

  python -m ops redrive --stage prod --dry-run
  python -m ops redrive --stage prod

Each message is put on the queue before it is deleted from the dead letters; an event of the bus is handed to its
function instead. What is moved twice, because the command was stopped in between, rewrites what it stored, and counts
once.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from tqdm import tqdm

from chalicelib.events.chunks import decode_message
from infra.functions import BUS_FUNCTION
from infra.project import OperatorError
from ops.stages import add_common, client, environment, show

RECEIVED = 10  # messages of one ReceiveMessage at most
HIDDEN_SECONDS = 60  # what is received comes back by itself after this time
WAIT_SECONDS = 2  # asks all of the queue's servers, so that an empty answer means an empty queue
UNREADABLE = "(unreadable)"
BUS = "(event bus)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops redrive`."""
    add_common(parser)
    parser.add_argument("--dry-run", action="store_true", help="tell what is there, and leave it there")
    parser.add_argument(
        "--messages", type=_count, default=100, metavar="N", help="how many messages --dry-run reads (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tell, or move."""
    sqs, queue = client(arguments.stage, "sqs"), environment(arguments.stage)["EVENTS_QUEUE"]
    letters = DeadLetters(
        sqs, _url(sqs, f"{queue}-dlq"), _url(sqs, queue), lambda event: _take_bus_event(arguments.stage, event)
    )
    waiting = letters.count()
    print(f"{waiting:,} dead letters, approximately", file=sys.stderr)
    if arguments.dry_run:
        show(arguments, [summary.row() for _, summary in sorted(letters.summaries(arguments.messages).items())])
        return 0
    moved = 0
    with tqdm(total=waiting, unit=" messages", desc="moved", disable=None) as line:
        for _ in letters.move(waiting):
            moved += 1
            line.update()
    show(arguments, [{"moved": moved, "left": letters.count()}])
    return 0


@dataclass
class Summary:
    """Dead letters of one project."""

    project: str
    messages: int = 0
    events: int = 0
    size_bytes: int = 0
    oldest_seconds: int = 0

    def row(self) -> dict[str, Any]:
        """The columns that are shown."""
        return {
            "project": self.project,
            "messages": self.messages,
            "events": self.events,
            "bytes": self.size_bytes,
            "oldest_seconds": self.oldest_seconds,
        }


@dataclass(frozen=True)
class DeadLetters:
    """The dead-letter queue `url` of the queue `target`, and of events of the bus, which `take` takes once more."""

    sqs: Any
    url: str
    target: str
    take: Callable[[Any], None]
    clock: Callable[[], float] = time.time

    def count(self) -> int:
        """Return how many wait, those that somebody reads just now included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(found.get(name, 0)) for name in names)

    def move(self, most: int) -> Iterator[str]:
        """The ids of messages that are moved, each once it is.

        Stops after about `most`, so that messages that fail again at once are not moved for ever.
        """
        moved = 0
        while batch := self._receive():
            for message in batch:
                if (event := _bus_event(message["Body"])) is not None:
                    self.take(event)
                else:
                    self.sqs.send_message(QueueUrl=self.target, MessageBody=message["Body"])
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                moved += 1
                yield message["MessageId"]
            if moved >= most:
                return

    def summaries(self, most: int) -> dict[str, Summary]:
        """Return what is in up to `most` messages, by project; they are there for others again when this returns."""
        found: dict[str, Summary] = {}
        held: dict[str, str] = {}  # message id -> receipt handle
        try:
            while len(held) < most:
                new = [message for message in self._receive(most - len(held)) if message["MessageId"] not in held]
                if not new:
                    break
                for message in new:
                    held[message["MessageId"]] = message["ReceiptHandle"]
                    self._note(found, message)
        finally:
            for handle in held.values():
                with suppress(ClientError):  # then it is there again already
                    self.sqs.change_message_visibility(QueueUrl=self.url, ReceiptHandle=handle, VisibilityTimeout=0)
        return found

    def _receive(self, most: int = RECEIVED) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=min(most, RECEIVED),
            VisibilityTimeout=HIDDEN_SECONDS,
            WaitTimeSeconds=WAIT_SECONDS,
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])
        return messages

    def _note(self, found: dict[str, Summary], message: dict[str, Any]) -> None:
        try:
            read = decode_message(message["Body"])
            project, events = read.project, len(read.events)
        except ValueError:
            project, events = (UNREADABLE, 0) if _bus_event(message["Body"]) is None else (BUS, 1)
        summary = found.setdefault(project, Summary(project))
        summary.messages += 1
        summary.events += events
        summary.size_bytes += len(message["Body"])
        age = int(self.clock() - int(message["Attributes"]["SentTimestamp"]) / 1000)
        summary.oldest_seconds = max(summary.oldest_seconds, age)


def _bus_event(body: str) -> Any:
    """The event in what Lambda says of an invocation that failed; None of a message of ours."""
    try:
        return json.loads(body).get("requestPayload")
    except (ValueError, AttributeError):
        return None


def _take_bus_event(stage: str, event: Any) -> None:
    """As EventBridge does: the answer only says that Lambda has it."""
    name = f"tidemark-{stage}-{BUS_FUNCTION}"
    client(stage, "lambda").invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))


def _url(sqs: Any, name: str) -> str:
    try:
        url: str = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    except sqs.exceptions.QueueDoesNotExist as error:
        raise OperatorError(f"there is no queue {name} in {sqs.meta.region_name}; check the region") from error
    return url


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of messages from 1 to 10,000")
    return int(text)
