"""Which pumps run, as the app's decorators change."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from localcloud.pump import Pump
from localcloud.triggers import Triggers
from tests.localcloud.conftest import Recorder
from tests.localcloud.running import wait_for
from tests.localcloud.services import Services


@pytest.fixture
def triggers(services: Services, function: Recorder) -> Iterator[Triggers]:
    """No pump yet; a bucket is asked as the cloud asks it."""

    def notify(trigger: dict[str, Any], _queue_arn: str) -> None:
        services.client("s3").get_bucket_notification_configuration(Bucket=trigger["bucket"])

    triggers = Triggers(services.api, function.start(), {}, notify)
    yield triggers
    triggers.stop(5)


def queue_trigger(services: Services) -> tuple[dict[str, Any], str]:
    """The trigger of a new queue, and the queue's URL."""
    name = f"queue-{uuid.uuid4().hex}"
    url = services.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    trigger = {"type": "queue", "function": "worker", "queue": name, "batch_size": 1, "window_seconds": 0}
    return {**trigger, "concurrency": 2, "partial_results": False}, url


@pytest.mark.parametrize("bucket", ["no-such-bucket", "not a name"])
def test_a_trigger_that_cannot_run_is_logged_and_the_others_run(
    services: Services,
    function: Recorder,
    triggers: Triggers,
    caplog: pytest.LogCaptureFixture,
    bucket: str,
) -> None:
    queue, url = queue_trigger(services)
    missing = {"type": "bucket", "function": "reinject", "bucket": bucket, "events": [], "prefix": "", "suffix": ""}
    services.client("sqs").send_message(QueueUrl=url, MessageBody="one")

    triggers.configure([missing, queue])

    wait_for(lambda: function.events, 5, "the queue's message")
    assert "the trigger of reinject cannot run: " in caplog.text


def test_a_pump_that_is_replaced_has_its_functions_time_to_end(
    services: Services, triggers: Triggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, _ = queue_trigger(services)
    triggers.configure([queue])
    triggers.functions.timeouts = {"worker": 120.0, "other": 10.0}
    allowed: list[float] = []
    monkeypatch.setattr(Pump, "join", lambda _pump, seconds: allowed.append(seconds))

    triggers.configure([])

    assert allowed == [130.0, 130.0]
