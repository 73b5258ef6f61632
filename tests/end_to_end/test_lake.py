"""The lake of a running stack: an hour before and after its consolidation."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.end_to_end.client import Api, eventually
from tests.end_to_end.operator import ops
from tests.localcloud.running import Stack


def test_an_hour_holds_each_event_once_before_and_after_it_becomes_one_file(stack: Stack) -> None:
    api = Api(stack.rest_url)
    occurred = datetime.now(UTC) - timedelta(hours=5)
    hour = f"{occurred:%Y-%m-%dT%H}"
    event_type = f"lake_{uuid.uuid4().hex[:8]}"

    def send(first: int, last: int) -> None:
        events: list[dict[str, Any]] = [
            {
                "event_id": f"{event_type}-{n}",
                "event_type": event_type,
                "user_id": "u",
                "timestamp": occurred.isoformat(),
            }
            for n in range(first, last)
        ]
        assert api.post(events).status == 202

    def counts() -> list[list[Any]]:
        return api.sql(f"SELECT count(*), count(DISTINCT event_id) FROM events WHERE event_type = '{event_type}'")

    send(0, 40)
    eventually(counts, [[40, 40]], seconds=30)
    send(20, 60)  # twenty of them again, in another batch and so in another chunk
    eventually(counts, [[60, 60]], seconds=30)

    words = ["consolidate", "--project", "demo", "--hour", hour]
    [done] = ops(stack, *words)

    assert done["rows"] >= 60
    assert done["files"] == 1
    assert counts() == [[60, 60]]
    send(60, 70)
    eventually(counts, [[70, 70]], seconds=30)
    ops(stack, *words)
    assert counts() == [[70, 70]]
