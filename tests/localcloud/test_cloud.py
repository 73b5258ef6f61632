"""The cloud process by itself: what it leaves behind."""

import json
import queue
from pathlib import Path
from typing import Any

import boto3

from localcloud.child import Child
from localcloud.environment import cloud_environment
from localcloud.places import Places, Ports, listen
from tests.localcloud.running import free_ports


def test_an_error_that_ends_the_cloud_loses_nothing(tmp_path: Path) -> None:
    places, ports = Places(tmp_path), Ports(*free_ports(3))
    cloud, websocket = listen(ports.cloud, "CLOUD_PORT"), listen(ports.websocket, "WS_PORT")
    reports: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    ends: queue.SimpleQueue[Child] = queue.SimpleQueue()
    sockets = (cloud.fileno(), websocket.fileno())
    child = Child(
        "cloud",
        {
            **cloud_environment(ports, places),
            "LOCALCLOUD_CLOUD_SOCKET": str(sockets[0]),
            "LOCALCLOUD_WEBSOCKET_SOCKET": str(sockets[1]),
            "LOCALCLOUD_FUNCTIONS_PORT": str(ports.rest),
        },
        places.logs,
        descriptors=sockets,
        on_report=lambda _child, message: reports.put(message),
        on_exit=ends.put,
        show=lambda _line: None,
    )
    try:
        reports.get(timeout=60)
        sqs = boto3.client(
            "sqs",
            endpoint_url=ports.cloud_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName="tidemark-dev-events")["QueueUrl"], MessageBody="kept")
        sqs.close()

        child.send(triggers=["no trigger"], timeouts={})

        assert ends.get(timeout=30).process.returncode == 1
    finally:
        child.stop(10)
        for each in (cloud, websocket, child.process.stdin, child.process.stderr):
            if each is not None:
                each.close()
    queues = json.loads(places.saved.read_text())["services"]["sqs"]["state"]["queues"]["data"]
    bodies = [message["body"] for each in queues.values() for message in each["messages"]]
    assert bodies == ["kept"]
