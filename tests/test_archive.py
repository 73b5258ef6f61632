import io
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from chalicelib.archive import Archiver
from chalicelib.domain.chunks import Message, chunks_of
from chalicelib.domain.errors import Unavailable
from chalicelib.storage.lake import SCHEMA, Lake
from chalicelib.storage.objects import DataBucket
from tests.stores import Stores, empty_stores, stream_record

NINE = 1_795_251_600_000  # 2026-11-21T09:00:00Z
HOUR = 3_600_000


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def records(project: str, *occurred: int) -> list[dict[str, object]]:
    events = [
        {"event_id": f"e{at}", "event_type": "click", "user_id": f"u{at}", "occurred_at": at, "properties": {"x": "ü"}}
        for at in occurred
    ]
    return [stream_record(chunk, n) for n, chunk in enumerate(chunks_of(Message(project, NINE, events)))]


def archiver(stores: Stores, lake: Lake | None = None) -> Archiver:
    return Archiver(lake or Lake(stores.bucket), stores.hours, stores.erased)


def rows(stores: Stores, key: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(io.BytesIO(stores.bucket.get(key) or b"")).to_pylist()
    return found


def test_events_lie_in_the_hour_they_occurred_in(stores: Stores) -> None:
    count = archiver(stores).archive(records("demo", NINE, NINE - 1, NINE + 1))

    assert count == 3
    assert stores.objects("lake/") == [
        "lake/project=demo/dt=2026-11-21/hr=08/tail-0000000000-r000000-1.parquet",
        "lake/project=demo/dt=2026-11-21/hr=09/tail-0000000000-r000000-2.parquet",
    ]
    assert [(dirty.hour, dirty.tail) for dirty in stores.hours.all()] == [
        ("2026-11-21T08", "tail-0000000000-r000000-1.parquet"),
        ("2026-11-21T09", "tail-0000000000-r000000-2.parquet"),
    ]


def test_a_row_holds_what_was_stored(stores: Stores) -> None:
    archiver(stores).archive(records("demo", NINE))

    [key] = stores.objects("lake/")
    [row] = rows(stores, key)
    assert pq.read_schema(io.BytesIO(stores.bucket.get(key) or b"")).equals(SCHEMA)
    assert row["properties"] == '{"x":"ü"}'
    assert row["session_id"] is None
    assert str(row["occurred_at"]) == "2026-11-21 09:00:00+00:00"


def test_a_retried_batch_rewrites_its_file_and_one_that_grew_writes_another_beside_it(stores: Stores) -> None:
    batch = records("demo", NINE, NINE + 1, NINE + 2)
    found = archiver(stores)

    found.archive(batch[:2])
    found.archive(batch[:2])
    found.archive(batch)

    assert [[row["event_id"] for row in rows(stores, key)] for key in stores.objects("lake/")] == [
        [f"e{NINE + i}" for i in range(count)] for count in (2, 3)
    ]


def test_a_file_that_the_bucket_refuses_is_not_noted(stores: Stores) -> None:
    refusing = Lake(DataBucket(stores.bucket.client, "missing"))

    with pytest.raises(Unavailable):
        archiver(stores, refusing).archive(records("demo", NINE))

    assert stores.hours.all() == []


def test_rewritten_chunks_and_unreadable_records_add_no_rows(stores: Stores) -> None:
    [record] = records("demo", NINE)
    rewritten = {**record, "eventName": "MODIFY"}
    broken = {**record, "dynamodb": {"SequenceNumber": "9", "NewImage": {}}}

    assert archiver(stores).archive([broken, rewritten, record]) == 1
    assert archiver(stores).archive([broken, rewritten]) == 0


def test_what_memory_should_not_hold_at_once_is_written_in_shares(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = records("demo", *(NINE + n for n in range(10)))
    monkeypatch.setattr("chalicelib.archive.MAX_SHARE_BYTES", 400)

    for _ in range(2):
        assert archiver(stores).archive(batch) == 10

    keys = stores.objects("lake/")
    assert keys[0].endswith("tail-0000000000-r000000-3.parquet")
    assert len(keys) > 1
    assert sorted(str(row["event_id"]) for key in keys for row in rows(stores, key)) == [
        f"e{NINE + n}" for n in range(10)
    ]
