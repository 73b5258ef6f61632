"""A queue, a bucket and a schedule as triggers."""

import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from localcloud import queue_pump as queue_pump_module
from localcloud.places import LocalCloudError
from localcloud.pump import Pump, drained
from localcloud.queue_pump import QueuePump
from localcloud.schedule import Schedule, period_seconds, wait_seconds
from localcloud.triggers import Triggers
from tests.localcloud.conftest import Recorder
from tests.localcloud.running import wait_for
from tests.localcloud.services import Services


@pytest.fixture
def queue(services: Services) -> dict[str, str]:
    """A queue with a visibility time-out of one second, and a dead-letter queue after two receives."""
    client, name = services.client("sqs"), f"queue-{uuid.uuid4().hex}"
    dead = client.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    attributes = {
        "VisibilityTimeout": "1",
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2}),
    }
    return {
        "name": name,
        "url": client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"],
        "dead": dead,
    }


@pytest.fixture
def start(
    services: Services, function: Recorder, pumps: list[Pump], queue: dict[str, str]
) -> Callable[..., list[QueuePump]]:
    """Starts pollers of the queue; keywords override the trigger."""

    def begin(pollers: int = 1, **overrides: Any) -> list[QueuePump]:
        trigger = {
            "function": "worker",
            "queue": queue["name"],
            "batch_size": 10,
            "window_seconds": 0,
            "partial_results": False,
            **overrides,
        }
        functions = function.start()
        started = [QueuePump(trigger, services.api, functions, services.waker, n) for n in range(pollers)]
        for pump in started:
            pump.start()
        pumps.extend(started)
        return started

    return begin


def bodies(event: dict[str, Any]) -> list[str]:
    """The messages of an invocation."""
    return sorted(record["body"] for record in event["Records"])


def send(services: Services, queue: dict[str, str], *texts: str) -> None:
    """Send messages in one batch."""
    services.client("sqs").send_message_batch(
        QueueUrl=queue["url"], Entries=[{"Id": str(n), "MessageBody": text} for n, text in enumerate(texts)]
    )


def left(services: Services, url: str) -> int:
    """Messages in a queue, those in flight included."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = services.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def test_a_batch_is_delivered_in_lambdas_shape_and_deleted(
    services: Services, function: Recorder, queue: dict[str, str], start: Any
) -> None:
    send(services, queue, "one", "two")

    start()

    wait_for(lambda: left(services, queue["url"]) == 0, 5, "an empty queue")
    record = function.events[0]["Records"][0]
    assert bodies(function.events[0]) == ["one", "two"]
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"].endswith(queue["name"])
    assert record["attributes"]["ApproximateReceiveCount"] == "1"


def test_only_the_messages_that_failed_come_again(
    services: Services, function: Recorder, queue: dict[str, str], start: Any
) -> None:
    def fail_two(event: dict[str, Any], number: int) -> Any:
        failed = [record["messageId"] for record in event["Records"] if record["body"] == "two" and number == 1]
        return {"batchItemFailures": [{"itemIdentifier": message} for message in failed]}

    function.behave = fail_two
    send(services, queue, "one", "two", "three")

    start(partial_results=True)

    wait_for(lambda: len(function.events) == 2, 5, "the second invocation")
    assert bodies(function.events[1]) == ["two"]
    wait_for(lambda: left(services, queue["url"]) == 0, 5, "an empty queue")


def test_a_message_that_always_fails_ends_in_the_dead_letter_queue(
    services: Services, function: Recorder, queue: dict[str, str], start: Any
) -> None:
    def fail(_event: dict[str, Any], _number: int) -> None:
        raise ValueError("never")

    function.behave = fail
    send(services, queue, "poison")

    start()

    wait_for(lambda: left(services, queue["dead"]) == 1, 8, "the dead letter")
    assert len(function.events) == 2


def test_while_the_function_is_away_nothing_is_received(
    services: Services, function: Recorder, queue: dict[str, str], start: Any
) -> None:
    (pump,) = start()
    wait_for(lambda: pump.turns, 5, "the first look")
    function.stop()
    send(services, queue, "one")

    function.start()

    wait_for(lambda: left(services, queue["url"]) == 0, 5, "an empty queue")
    assert function.events[0]["Records"][0]["attributes"]["ApproximateReceiveCount"] == "1"


def test_slow_invocations_run_side_by_side(
    services: Services, function: Recorder, queue: dict[str, str], start: Any
) -> None:
    services.client("sqs").set_queue_attributes(QueueUrl=queue["url"], Attributes={"VisibilityTimeout": "60"})
    all_four = threading.Barrier(4, timeout=20)
    function.behave = lambda _event, _number: all_four.wait() and None
    send(services, queue, *"abcd")

    start(pollers=4, batch_size=1)

    wait_for(lambda: left(services, queue["url"]) == 0, 25, "an empty queue")
    assert len(function.events) == 4


def test_draining_ends_when_the_queue_is_empty(
    services: Services, function: Recorder, queue: dict[str, str], start: Any
) -> None:
    function.behave = lambda _event, _number: time.sleep(0.02)
    send(services, queue, *"abcdefgh")
    started = start(batch_size=1)

    assert drained(lambda: started, 8, lambda: False)

    assert len(function.events) == 8


def test_an_object_reaches_the_function_of_its_prefix(services: Services, function: Recorder) -> None:
    s3, bucket = services.client("s3"), f"bucket-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=bucket)

    def notify(trigger: dict[str, Any], queue_arn: str) -> None:
        rule = {"Name": "prefix", "Value": trigger["prefix"]}
        configuration = {"QueueArn": queue_arn, "Events": trigger["events"], "Filter": {"Key": {"FilterRules": [rule]}}}
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [configuration]}
        )

    triggers = Triggers(services.api, function.start(), {}, notify)
    trigger = {"type": "bucket", "bucket": bucket, "events": ["s3:ObjectCreated:*"], "prefix": "spill/", "suffix": None}
    try:
        triggers.configure([{**trigger, "function": "worker"}])
        s3.put_object(Bucket=bucket, Key="lake/a", Body=b"1")
        s3.put_object(Bucket=bucket, Key="spill/a b", Body=b"2")

        wait_for(lambda: function.events, 5, "the notification")
    finally:
        triggers.stop(5)
    (record,) = function.events[0]["Records"]
    assert record["s3"]["bucket"]["name"] == bucket
    assert record["s3"]["object"]["key"] == "spill/a+b"
    assert record["eventSource"] == "aws:s3"


def test_an_asynchronous_invocation_is_tried_three_times(
    services: Services, function: Recorder, queue: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_pump_module, "BACKOFF_SECONDS", (0.01,) * 5)

    def fail(_event: dict[str, Any], _number: int) -> None:
        raise ValueError("never")

    function.behave = fail
    send(services, queue, '{"Records": []}')
    trigger = {
        "function": "worker",
        "queue": queue["name"],
        "batch_size": 1,
        "window_seconds": 0,
        "partial_results": False,
    }
    pump = queue_pump_module.NotificationPump(trigger, services.api, function.start(), services.waker)

    pump.turn()

    assert len(function.events) == 3
    assert left(services, queue["url"]) == 0


def test_a_notification_that_the_end_interrupts_is_there_at_the_next_start(
    services: Services, function: Recorder, queue: dict[str, str]
) -> None:
    client = services.client("sqs")
    client.set_queue_attributes(QueueUrl=queue["url"], Attributes={"VisibilityTimeout": "900"})
    send(services, queue, '{"Records": []}')
    trigger = {"function": "worker", "queue": queue["name"], "batch_size": 1, "window_seconds": 0}
    functions = function.start()
    pump = queue_pump_module.NotificationPump(trigger, services.api, functions, services.waker)

    def end(_event: dict[str, Any], _number: int) -> None:
        pump.stop()
        raise ValueError("not now")

    function.behave = end
    pump.turn()

    assert client.receive_message(QueueUrl=queue["url"])["Messages"][0]["Body"] == '{"Records": []}'


def test_a_schedule_invokes_once_a_period(services: Services, function: Recorder) -> None:
    schedule = Schedule({"function": "worker", "expression": "rate(1 minute)"}, function.start(), services.waker)
    early = schedule.turn()
    schedule.due_at -= 60

    assert not early
    assert schedule.turn()
    assert not schedule.turn()
    assert function.events[0]["detail-type"] == "Scheduled Event"


def test_a_schedule_waits_for_its_function_though_eventbridge_would_not(
    services: Services, function: Recorder, pumps: list[Pump]
) -> None:
    running: list[int] = []
    together: list[int] = []

    def take_longer_than_a_period(_event: dict[str, Any], number: int) -> None:
        running.append(number)
        together.append(len(running))
        time.sleep(0.05)
        running.remove(number)

    function.behave = take_longer_than_a_period
    schedule = Schedule({"function": "worker", "expression": "rate(1 minute)"}, function.start(), services.waker)
    schedule.period, schedule.due_at = 0.02, 0.0

    pumps.append(schedule.start())

    wait_for(lambda: len(together) >= 4, 5, "four invocations")
    assert set(together) == {1}


def test_schedule_expressions() -> None:
    assert period_seconds("rate(2 hours)") == 7200
    assert period_seconds("cron(10 * * * ? *)") == 3600
    assert wait_seconds("rate(2 hours)", now=600.5) == 7200
    assert wait_seconds("cron(10 * * * ? *)", now=599.5) == 0.5
    assert wait_seconds("cron(10 * * * ? *)", now=601.0) == 3599
    with pytest.raises(LocalCloudError, match="cron"):
        period_seconds("cron(0 12 * * ? *)")
