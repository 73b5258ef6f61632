"""Chunks that are put back from the lake go through the running stack's streams, and nobody counts them."""

import time
import uuid

import pytest

from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.events_table import EventsTable
from tests.end_to_end.client import Api, eventually
from tests.localcloud.running import Stack


@pytest.mark.timeout(120)
def test_what_is_put_back_is_in_the_timeline_and_in_no_number(stack: Stack) -> None:
    api, marker = Api(stack.rest_url), f"rebuilt_{uuid.uuid4().hex[:8]}"
    now_ms = int(time.time() * 1000)
    events = [
        {"event_id": f"{marker}-{n}", "event_type": marker, "occurred_at": now_ms, "user_id": marker} for n in range(3)
    ]
    table = EventsTable(stack.client("dynamodb"), "tidemark-dev-events")
    (chunk,) = chunks_of(Message("demo", now_ms, events))

    assert [table.restore(chunk), table.restore(chunk)] == [True, False]
    api.post([{"event_type": marker, "event_id": f"{marker}-new", "user_id": marker}])  # comes after it in the stream

    def counted() -> tuple[int, int]:
        found = api.call("GET", f"/users/{marker}/events", key="demo-read").body["events"]
        return api.total(metric=marker), len(found)

    eventually(counted, (1, 4), seconds=30)
    sql = f"SELECT count(*) FROM events WHERE event_type = '{marker}'"
    eventually(lambda: api.sql(sql), [[1]], seconds=30)
