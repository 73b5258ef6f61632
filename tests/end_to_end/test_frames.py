"""Frames over a real socket: many long event types arrive whole, live and in a snapshot."""

import asyncio
import json
from uuid import uuid4

import pytest
import websockets

from chalicelib.live.frames import MAX_FRAME_BYTES
from tests.dashboard_client import Dashboard
from tests.end_to_end.client import Api
from tests.localcloud.running import Stack

TYPES = 150


@pytest.fixture
def api(stack: Stack) -> Api:
    return Api(stack.rest_url)


def test_many_long_event_types_are_shown_live_and_in_a_snapshot(api: Api) -> None:
    run = uuid4().hex[:8]
    names = [f"{run} {number:04d} ".ljust(128, "\U0001f30a") for number in range(TYPES)]

    async def watch(dashboard: Dashboard, *, send: bool) -> None:
        answer = await asyncio.to_thread(api.call, "POST", "/realtime/tickets", key="demo-read")
        async with asyncio.timeout(60), websockets.connect(answer.body["url"]) as socket:
            await socket.send(json.dumps({"action": "subscribe", "topics": ["events"]}))
            async for text in socket:
                assert len(str(text).encode()) <= MAX_FRAME_BYTES
                dashboard.take(json.loads(text))
                if send and dashboard.shown:
                    send = False
                    await asyncio.to_thread(api.post, [{"event_type": name} for name in names])
                counts = dashboard.counts()
                if not send and all(counts.get(name) == 1 for name in names):
                    return

    for dashboard, send in ((Dashboard(), True), (Dashboard(), False)):
        asyncio.run(watch(dashboard, send=send))

        in_minutes = sum(count for (name, minute), count in dashboard.numbers().items() if minute and run in name)
        assert in_minutes == TYPES
