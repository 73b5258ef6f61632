"""SQL on hours that are not settled: it has the rows that the numbers of GET /analytics are of."""

from collections.abc import Iterable

import pytest

from chalicelib.base.time_windows import DAY_MS, HOUR_MS, MINUTE_MS, from_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.lake import visible_files
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from chalicelib.rollups.closed_table import ClosedTable
from chalicelib.rollups.history import History
from chalicelib.sql.query_requests import ROWS, QueryRequest
from tests.localcloud.hour_story import CLICK, CONTRACTS, NINE, World
from tests.localcloud.memory_place import MemoryPlace
from tests.stores import stream_record

BY_HOUR = "SELECT dt || 'T' || hr, count(*) FROM events GROUP BY 1 ORDER BY 1"
MOMENTS = (NINE, NINE + HOUR_MS, NINE + DAY_MS)  # two hours of a day, and the first one's of the next day


def bring(world: World, first: int, event_id: str, moments: Iterable[int]) -> None:
    """Events of one id arrive, each in a request of its own."""
    events = [{**CLICK, "event_id": event_id, "occurred_at": moment + 10 * MINUTE_MS} for moment in moments]
    chunks = [chunk for event in events for chunk in chunks_of(Message("demo", world.now_ms, [event]))]
    records = [stream_record(chunk, first + number) for number, chunk in enumerate(chunks)]
    Aggregator(CONTRACTS, world.rollups, world.lake.bucket).aggregate(records, world.now_ms)
    world.archiver.archive(records)


def by_sql(world: World) -> dict[str, int]:
    """Events by hour, as POST /query finds them."""
    answer = world.query_runner.run(QueryRequest(BY_HOUR, None, {}, ROWS, 100), "demo", from_ms(world.now_ms))
    return dict(answer["rows"])


def by_analytics(world: World) -> dict[str, int]:
    """The same, as GET /analytics has them."""
    analytics = Analytics(CONTRACTS, History(world.rollups, ClosedTable(world.alive["dynamodb"], world.table)))
    asked = {"metric": "events", "interval": "hour", "start": "2026-11-21", "end": "2026-11-22"}
    series = analytics.answer("demo", read_question(asked), world.now_ms)["series"]
    return {point["start"][:13]: point["value"] for point in series if point["value"]}


def test_an_id_with_several_timestamps_is_an_event_in_each_of_their_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(MemoryPlace(), now_ms=MOMENTS[-1] + 20 * MINUTE_MS)
    once = {"2026-11-21T09": 1, "2026-11-21T10": 1, "2026-11-22T09": 1}

    bring(world, 100, "e", MOMENTS)

    assert by_sql(world) == by_analytics(world) == once
    world.now_ms += HOUR_MS
    world.run()
    assert by_sql(world) == by_analytics(world) == once
    with monkeypatch.context() as patch:
        patch.setattr(visible_files, "MAX_NAMED_HOURS", 1)  # then copies are left out everywhere
        assert by_sql(world) == once
    world.settle()
    assert by_sql(world) == by_analytics(world) == once
    bring(world, 200, "late", MOMENTS)
    assert by_sql(world) == by_analytics(world) == dict.fromkeys(once, 2)
    with monkeypatch.context() as patch:
        patch.setattr(visible_files, "MAX_NAMED_HOURS", 1)  # the late ones lie in tails of hours that are not named
        assert by_sql(world) == dict.fromkeys(once, 2)
