"""`ops redrive` and `ops list-unreadable` on moto's queues and bucket."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import boto3
import pytest
from moto import mock_aws

from chalicelib.events.chunks import Message, encode_message
from infra.project import OperatorError
from ops import redrive, stages
from ops.__main__ import main
from ops.redrive import DeadLetters

SENT = 1_795_251_600_000


class Died(BaseException):
    """The operator's machine went out."""


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(redrive, "WAIT_SECONDS", 0)
    with mock_aws():
        for module in (redrive, stages):
            monkeypatch.setattr(module, "client", lambda _stage, service: moto(service))
        yield moto("sqs")


@cache
def moto(service: str) -> Any:
    """A client for all tests: making one takes longer than most of them."""
    return boto3.client(service)


@pytest.fixture
def letters(sqs: Any) -> DeadLetters:
    url, target = (
        sqs.create_queue(QueueName=f"tidemark-prod-events{suffix}", Attributes={"MaximumMessageSize": "1048576"})[
            "QueueUrl"
        ]
        for suffix in ("-dlq", "")
    )
    return DeadLetters(sqs, url, target, take=lambda _: None)


def dead(letters: DeadLetters, project: str, *names: str) -> str:
    """Put a dead letter there, and return its body."""
    events = [{"event_id": name, "event_type": "click", "occurred_at": SENT} for name in names]
    [(text, _)] = encode_message(Message(project, SENT, events))
    letters.sqs.send_message(QueueUrl=letters.url, MessageBody=text)
    return text


def bodies(letters: DeadLetters, url: str) -> list[str]:
    """What is on a queue, taken from it."""
    found = []
    while messages := letters.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            letters.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        found += [message["Body"] for message in messages]
    return sorted(found)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command prints as JSON."""
    assert main([*words, "--stage", "prod", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_dead_letter_is_moved_to_the_queue(letters: DeadLetters, capsys: pytest.CaptureFixture[str]) -> None:
    texts = sorted(dead(letters, "shop", f"e{number}") for number in range(23))

    assert answer(capsys, "redrive") == [{"moved": 23, "left": 0}]

    assert bodies(letters, letters.target) == texts
    assert bodies(letters, letters.url) == []


def test_an_event_of_the_bus_is_taken_again_by_its_function(
    letters: DeadLetters, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = {"detail-type": "Sold", "id": "1", "detail": {"price": 7}}
    failed = {"version": "1.0", "requestContext": {"condition": "RetriesExhausted"}, "requestPayload": event}
    letters.sqs.send_message(QueueUrl=letters.url, MessageBody=json.dumps(failed))
    text = dead(letters, "shop", "e")
    invoked: list[dict[str, Any]] = []

    class Lambda:
        def invoke(self, **arguments: Any) -> None:
            invoked.append(arguments)

    monkeypatch.setattr(redrive, "client", lambda _, name: Lambda() if name == "lambda" else letters.sqs)
    rows = answer(capsys, "redrive", "--dry-run")
    assert {(row["project"], row["messages"], row["events"]) for row in rows} == {("(event bus)", 1, 1), ("shop", 1, 1)}
    assert answer(capsys, "redrive") == [{"moved": 2, "left": 0}]

    [call] = invoked
    assert (call["FunctionName"], call["InvocationType"]) == ("tidemark-prod-take_bus_event", "Event")
    assert json.loads(call["Payload"]) == event
    assert bodies(letters, letters.target) == [text]


def test_a_dry_run_tells_projects_events_and_sizes_and_leaves_the_messages(
    letters: DeadLetters, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [dead(letters, "shop", "a", "b"), dead(letters, "blog", "c"), dead(letters, "shop", "d")]
    letters.sqs.send_message(QueueUrl=letters.url, MessageBody="junk")

    rows = answer(capsys, "redrive", "--dry-run")

    assert all(row.pop("oldest_seconds") < 60 for row in rows)
    assert rows == [
        {"project": "(unreadable)", "messages": 1, "events": 0, "bytes": 4},
        {"project": "blog", "messages": 1, "events": 1, "bytes": len(texts[1])},
        {"project": "shop", "messages": 2, "events": 3, "bytes": len(texts[0]) + len(texts[2])},
    ]
    assert bodies(letters, letters.target) == []
    assert bodies(letters, letters.url) == sorted([*texts, "junk"])


def test_a_dry_run_reads_no_more_than_it_is_asked_to(letters: DeadLetters, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(25):
        dead(letters, "shop", f"e{number}")

    [row] = answer(capsys, "redrive", "--dry-run", "--messages", "12")

    assert row["messages"] == 12
    assert len(bodies(letters, letters.url)) == 25


def test_a_dry_run_that_fails_gives_back_what_it_held(letters: DeadLetters) -> None:
    text = dead(letters, "shop", "a")

    def die() -> float:
        raise Died

    with pytest.raises(Died):
        replace(letters, clock=die).summaries(10)

    assert bodies(letters, letters.url) == [text]


def test_a_redrive_that_dies_loses_nothing(letters: DeadLetters) -> None:
    text = dead(letters, "shop", "a")

    class Dying:
        def __getattr__(self, name: str) -> Any:
            if name == "delete_message":
                raise Died
            return getattr(letters.sqs, name)

    with pytest.raises(Died):
        list(replace(letters, sqs=Dying()).move(1))

    assert bodies(letters, letters.target) == [text]
    assert letters.count() == 1


def test_what_becomes_a_dead_letter_again_at_once_does_not_keep_the_command_busy(letters: DeadLetters) -> None:
    dead(letters, "shop", "a")
    moved = 0

    for _ in letters.move(letters.count()):
        moved += 1
        dead(letters, "shop", "a")

    assert (moved, letters.count()) == (1, 1)


def test_a_stage_without_queues_is_named(sqs: Any) -> None:
    with pytest.raises(OperatorError, match="no queue tidemark-prod-events-dlq in us-east-1"):
        main(["redrive", "--stage", "prod"])


def test_what_nobody_could_read_is_listed(sqs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="tidemark-prod-data-123456789012")
    for name in ("quarantine/unreadable/m1", "quarantine/project=shop/dt=2026-11-21/x"):
        s3.put_object(Bucket="tidemark-prod-data-123456789012", Key=name, Body=b"junk")

    [row] = answer(capsys, "list-unreadable")

    assert (row["name"], row["bytes"]) == ("m1", 4)


def test_each_command_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("redrive", "list-unreadable"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"python -m ops {command} --stage prod" in capsys.readouterr().out
