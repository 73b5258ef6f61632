"""Tail files: which rows and which stream records they hold, what they are called, and when they are noted."""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.errors import Unavailable
from chalicelib.base.object_keys import slot_of_tail
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import SCHEMA, Lake
from chalicelib.lake.record_sets import signature_of, union
from chalicelib.rollups.signatures import Signature, hash_of, total
from tests.mortal import Died, Mortal
from tests.stores import Stores, empty_stores, stream_record

NINE = 1_795_251_600_000  # 2026-11-21T09:00:00Z
FOLDER = "lake/project=demo/dt=2026-11-21/hr=09/"
SLOT = (NINE // 1000 - 300) // 3600  # of what the stream got at nine


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def records(project: str, *occurred: int, created: int = NINE // 1000, first: int = 0) -> list[dict[str, Any]]:
    """A record for each event; of another user each."""
    events = [
        {"event_id": f"e{at}", "event_type": "click", "user_id": f"u{at}", "occurred_at": at, "properties": {"x": "ü"}}
        for at in occurred
    ]
    chunks = chunks_of(Message(project, NINE, events))
    return [stream_record(chunk, first + n, created=created) for n, chunk in enumerate(chunks)]


def archiver(stores: Stores, lake: Lake | None = None) -> Archiver:
    return Archiver(lake or Lake(stores.bucket), stores.hours, stores.erased)


def rows(stores: Stores, key: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(io.BytesIO(stores.bucket.get(key) or b"")).to_pylist()
    return found


def signature(stores: Stores, *keys: str) -> Signature:
    """What the files hold together, each record once."""
    lake, sizes = Lake(stores.bucket), stores.bucket.sizes("")
    return signature_of(union(lake.records(key, sizes[key]) for key in keys))


def test_events_lie_in_the_hour_they_occurred_in(stores: Stores) -> None:
    count = archiver(stores).archive(records("demo", NINE, NINE - 1, NINE + 1))

    assert count == 3
    before, of_nine = stores.objects("lake/")
    assert before.startswith(f"lake/project=demo/dt=2026-11-21/hr=08/tail-{SLOT}-r0000")
    assert of_nine.startswith(f"{FOLDER}tail-{SLOT}-r000000-")
    assert [len(rows(stores, key)) for key in (before, of_nine)] == [1, 2]
    noted = stores.hours.unsettled("demo")
    assert [(hour.hour, hour.changes, hour.is_dirty) for hour in noted] == [
        ("2026-11-21T08", 1, True),
        ("2026-11-21T09", 1, True),
    ]


def test_each_slot_of_the_stream_has_a_file_of_its_own(stores: Stores) -> None:
    """A batch that spans five past ten; what it holds is told slot by slot when the hour is closed."""
    ends = (SLOT + 1) * 3600 + 300
    batch = records("demo", NINE, NINE + 1, created=ends - 1) + records("demo", NINE + 2, created=ends, first=2)

    archiver(stores).archive(batch)

    keys = stores.objects("lake/")
    assert [slot_of_tail(key.removeprefix(FOLDER)) for key in keys] == [SLOT, SLOT + 1]
    assert [[row["slot"] for row in rows(stores, key)] for key in keys] == [[SLOT, SLOT], [SLOT + 1]]
    assert [signature(stores, key).rows for key in keys] == [2, 1]


def test_a_file_says_which_records_it_holds_and_how_many_rows_each_has_in_the_hour(stores: Stores) -> None:
    event = {"event_type": "click", "user_id": "u"}
    events = [
        {**event, "event_id": "e0", "occurred_at": NINE},
        {**event, "event_id": "e1", "occurred_at": NINE + 1, "enrichment": {"bot": True}},
        {**event, "event_id": "e2", "occurred_at": NINE - 1},
    ]
    [chunk] = chunks_of(Message("demo", NINE, events))

    archiver(stores).archive([stream_record(chunk, 7)])

    assert [signature(stores, key) for key in stores.objects("lake/")] == [
        Signature(1, hash_of("r000007")),
        Signature(2, hash_of("r000007")),
    ]


def test_rows_of_erased_users_are_dropped_and_their_records_are_told_of(stores: Stores) -> None:
    """Whether live numbers and the lake got the same does not depend on who was erased in between."""
    batch = records("demo", NINE, NINE + 1)
    stores.erased.put("demo", Marker(digest_of_user("demo", f"u{NINE}"), NINE, FOR_EVER_MS))

    assert archiver(stores).archive(batch) == 1

    keys = stores.objects("lake/")
    assert {str(row["event_id"]) for key in keys for row in rows(stores, key)} == {f"e{NINE + 1}"}
    ids = [record["eventID"] for record in batch]
    assert signature(stores, *keys) == total(Signature(1, hash_of(record)) for record in ids)


def test_a_row_holds_what_was_stored(stores: Stores) -> None:
    archiver(stores).archive(records("demo", NINE))

    [key] = stores.objects("lake/")
    [row] = rows(stores, key)
    assert pq.read_schema(io.BytesIO(stores.bucket.get(key) or b"")).equals(SCHEMA)
    assert row["properties"] == '{"x":"ü"}'
    assert row["session_id"] is None
    assert str(row["occurred_at"]) == "2026-11-21 09:00:00+00:00"


def test_a_retried_batch_rewrites_its_file_and_one_that_came_otherwise_writes_another_beside_it(
    stores: Stores,
) -> None:
    batch = records("demo", NINE, NINE + 1, NINE + 2)
    found = archiver(stores)

    found.archive(batch[:2])
    found.archive(batch[:2])
    assert len(stores.objects("lake/")) == 1
    found.archive(batch)
    found.archive(batch[:1])
    found.archive(batch[1:])

    keys = stores.objects("lake/")
    assert sorted(len(rows(stores, key)) for key in keys) == [1, 2, 2, 3]
    every = total(Signature(1, hash_of(record["eventID"])) for record in batch)
    assert signature(stores, *keys) == every


def test_as_many_rows_of_the_same_first_record_are_another_file(stores: Stores) -> None:
    """After an erasure, or when a batch comes again with something else behind its first record."""
    first, second, third = records("demo", NINE, NINE + 1, NINE + 2)
    found = archiver(stores)

    found.archive([first, second])
    found.archive([first, third])

    one, other = stores.objects("lake/")
    assert {len(rows(stores, one)), len(rows(stores, other))} == {2}
    assert signature(stores, one, other).rows == 3


def test_a_file_that_the_bucket_refuses_is_not_noted(stores: Stores) -> None:
    refusing = Lake(DataBucket(stores.bucket.client, "missing"))

    with pytest.raises(Unavailable):
        archiver(stores, refusing).archive(records("demo", NINE))

    assert stores.hours.unsettled("demo") == []


def test_a_file_is_noted_once_it_is_there(stores: Stores) -> None:
    """Noted before, the hour could be closed in between, and nobody would look for the file."""
    dying = Lake(DataBucket(Mortal(stores.bucket.client, 1), "data"))

    with pytest.raises(Died):
        archiver(stores, dying).archive(records("demo", NINE))

    assert not stores.hours.get("demo", "2026-11-21T09").is_dirty
    archiver(stores).archive(records("demo", NINE))
    archiver(stores).archive(records("demo", NINE))  # a repeat: it may have died before the note
    assert stores.hours.get("demo", "2026-11-21T09").changes == 2


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
    monkeypatch.setattr("chalicelib.ingest.archive.MAX_SHARE_BYTES", 24_000)

    for _ in range(2):
        assert archiver(stores).archive(batch) == 10

    keys = stores.objects("lake/")
    assert len(keys) > 1
    assert max(len(rows(stores, key)) for key in keys) == 3
    assert sorted(str(row["event_id"]) for key in keys for row in rows(stores, key)) == [
        f"e{NINE + n}" for n in range(10)
    ]
    assert signature(stores, *keys) == total(Signature(1, hash_of(record["eventID"])) for record in batch)
