"""BatchGetItem may answer of a part of the keys: what is left out is asked for again, not taken for nothing."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from chalicelib.access.access import Project
from chalicelib.access.quotas import Limits
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import Mode
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.rollups.closed_table import HOUR, ClosedTable, one
from chalicelib.rollups.closing import Cover
from chalicelib.rollups.facets import COUNTS
from chalicelib.rollups.rollups import Rollup
from tests.stores import Stores, empty_stores, stream_record

HOURS = [f"2026-11-21T{hour:02}" for hour in range(20)]
RECEIVED_MS = 1_795_226_400_000


class Partial:
    """A client whose batches are answered by halves."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
        [(table, asked)] = RequestItems.items()
        half = (len(asked["Keys"]) + 1) // 2
        answer: dict[str, Any] = self._client.batch_get_item(
            RequestItems={table: {**asked, "Keys": asked["Keys"][:half]}}
        )
        left = asked["Keys"][half:]
        return {**answer, "UnprocessedKeys": {table: {**asked, "Keys": left}} if left else {}}


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def closed_items(stores: Stores, wrapped: Callable[[Any], Any]) -> int:
    closed = ClosedTable(stores.rollups.client, "rollups")
    for hour in HOURS:
        closed.put("demo", "click", COUNTS, HOUR, one(hour, Cover(1, 1), Rollup(3), 0))
    names = [("click", COUNTS, HOUR, hour) for hour in HOURS]
    return len(dict(replace(closed, client=wrapped(closed.client)).get_many("demo", names)))


def projects(stores: Stores, wrapped: Callable[[Any], Any]) -> int:
    for number in range(20):
        stores.access.put_project(Project(f"p{number}", Mode.INFER, b""), Limits(), datetime(2026, 11, 21, tzinfo=UTC))
    return len(replace(stores.access, client=wrapped(stores.access.client)).projects())


def open_deltas(stores: Stores, wrapped: Callable[[Any], Any]) -> int:
    for number in range(20):
        event = {"event_id": f"e{number}", "event_type": "click", "occurred_at": RECEIVED_MS}
        [chunk] = chunks_of(Message("demo", RECEIVED_MS, [event]))
        aggregator = Aggregator(Contracts({}), stores.rollups, stores.bucket)
        aggregator.aggregate([stream_record(chunk, number)], 1000)
    return len(list(replace(stores.rollups, client=wrapped(stores.rollups.client)).open_deltas("demo")))


@pytest.mark.parametrize("read", [closed_items, projects, open_deltas], ids=lambda read: read.__name__)
def test_what_a_batch_leaves_out_is_asked_for_again(read: Callable[..., int], stores: Stores) -> None:
    assert read(stores, Partial) == 20


def test_a_compaction_takes_deltas_of_partial_batches_once(stores: Stores) -> None:
    open_deltas(stores, Partial)

    absorbed = Compactor(replace(stores.rollups, client=Partial(stores.rollups.client)), stores.hours).compact(10_000)

    assert absorbed == 20
