"""Unmodified SDKs over a network that loses one answer in five: all of them send again, and nothing counts twice.

Some seconds long; TIDEMARK_LOSSY_SECONDS=60 makes it a minute for each SDK.
"""

import os
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rudderstack.analytics.client
import segment.analytics.client

from tests.end_to_end.client import Api, eventually
from tests.localcloud.running import Stack
from tests.sdks.journey import Call
from tests.sdks.lossy_proxy import LossyProxy
from tests.sdks.running import run_browser, run_node, with_chromium, with_node

SECONDS = float(os.environ.get("TIDEMARK_LOSSY_SECONDS", "3"))
LOST = 0.2
BATCH = 20


def python_sdk(client_class: Callable[..., Any]) -> Callable[[str, list[Call], float], None]:
    """Drives a Python SDK."""

    def drive(address: str, calls: list[Call], per_second: float) -> None:
        errors: list[object] = []
        client = client_class(
            "demo-write", host=address, upload_size=BATCH, on_error=lambda error, _: errors.append(error)
        )
        start = time.monotonic()
        for n, call in enumerate(calls):
            time.sleep(max(start + n / per_second - time.monotonic(), 0))
            said = call.message
            client.track(said["userId"], said["event"], timestamp=datetime.fromisoformat(said["timestamp"]))
        client.flush()
        client.shutdown()
        assert errors == []

    return drive


def node_sdk(name: str) -> Callable[[str, list[Call], float], None]:
    """Drives a server's SDK."""
    return lambda address, calls, per_second: run_node(name, address, calls, per_second=per_second, flush_at=BATCH)


def browser_sdk(address: str, calls: list[Call], per_second: float) -> None:
    """Drives analytics.js, which sends each event by itself."""
    run_browser("segment", address, calls, per_second=per_second, seconds=SECONDS + 100)


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize(
    ("drive", "per_second", "users"),
    [
        pytest.param(python_sdk(segment.analytics.client.Client), 200, 7, id="segment-python"),
        pytest.param(python_sdk(rudderstack.analytics.client.Client), 200, 7, id="rudderstack-python"),
        pytest.param(node_sdk("segment"), 200, 7, id="segment-node", marks=with_node),
        pytest.param(node_sdk("rudderstack"), 200, 7, id="rudderstack-node", marks=with_node),
        pytest.param(browser_sdk, 40, 1, id="segment-browser", marks=with_chromium),
    ],
)
def test_an_answer_that_is_lost_makes_an_sdk_send_again_and_nothing_count_twice(
    stack: Stack, drive: Callable[[str, list[Call], float], None], per_second: float, users: int
) -> None:
    api, name, start = Api(stack.rest_url), f"Lossy {uuid.uuid4().hex[:12]}", datetime.now(UTC)
    event_type = name.lower().replace(" ", "_")
    calls = [
        Call(
            "track",
            {
                "userId": f"{event_type}-{n % users}",
                "anonymousId": event_type,
                "event": name,
                "properties": {"n": n},
                "timestamp": (start + timedelta(seconds=n / per_second)).isoformat(timespec="milliseconds"),
            },
        )
        for n in range(int(SECONDS * per_second))
    ]

    with LossyProxy(stack.rest_url, LOST, seed=7) as proxy:
        drive(proxy.url, calls, per_second)

    print(f"\n{len(calls)} events in {proxy.posts} requests, of which {proxy.dropped} had their answers lost")
    assert proxy.dropped > 0
    eventually(lambda: api.total(event_type), len(calls), seconds=30)
    query = f"SELECT count(*), count(DISTINCT event_id) FROM events WHERE event_type = '{event_type}'"
    eventually(lambda: api.sql(query), [[len(calls), len(calls)]], seconds=30)
    assert api.total(event_type) == len(calls)
