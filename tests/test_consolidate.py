"""The schedule's hours: which are due, what is left to others, what is deleted when."""

import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from time_machine import travel

from chalicelib import consolidate
from chalicelib.consolidate import (
    GRACE_MS,
    LEASE_MS,
    MAX_RUN_SECONDS,
    REST_MS,
    Consolidated,
    Consolidator,
    Overtaken,
    TooLate,
)
from chalicelib.domain.partitions import hour_folder, tail_name
from chalicelib.domain.time_windows import HOUR_MS, MINUTE_MS
from chalicelib.storage.lake import Lake, Row
from tests.stores import Stores, empty_stores

NINE = 1_795_251_600_000
HOUR = "2026-11-21T09"
FOLDER = hour_folder("demo", HOUR)
DUE = NINE + HOUR_MS + 10 * MINUTE_MS


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.fixture
def clock() -> list[float]:
    """Seconds that pass when a test says so."""
    return [0.0]


@pytest.fixture
def consolidator(stores: Stores, clock: list[float]) -> Consolidator:
    runs = iter(f"run{n}" for n in range(100))
    return Consolidator(Lake(stores.bucket), stores.hours, "test", lambda: next(runs), lambda: clock[0])


def tail(stores: Stores, number: int, *event_ids: str, hour: str = HOUR, at: int = NINE) -> str:
    """A tail file of events, noted at the time; its name."""
    rows = [
        Row({"event_id": event_id, "event_type": "click", "occurred_at": NINE + n}, NINE)
        for n, event_id in enumerate(event_ids)
    ]
    name = tail_name(number, f"r{number}", len(rows))
    Lake(stores.bucket).write(hour_folder("demo", hour) + name, rows)
    replace(stores.hours, clock=lambda: at / 1000).note("demo", hour, name)
    return name


def names(stores: Stores) -> list[str]:
    return [key.removeprefix(FOLDER) for key in stores.objects(FOLDER)]


def ids(consolidator: Consolidator, consolidated: Consolidated) -> list[str]:
    return [
        event_id
        for batch in consolidator.lake.batches(consolidated.files.keys)
        for event_id in batch.column("event_id").to_pylist()
    ]


def test_an_hour_becomes_one_file_and_tells_of_itself(stores: Stores, consolidator: Consolidator) -> None:
    tail(stores, 1, "a", "b")
    tail(stores, 2, "b", "c")

    found = consolidator.consolidate("demo", HOUR, DUE)

    assert found.row() == {
        "project": "demo",
        "hour": HOUR,
        "rows": 3,
        "duplicates": 1,
        "merged": 2,
        "files": 1,
        "size_bytes": found.files.size_bytes,
    }
    assert found.files.keys == (f"{FOLDER}hour-{DUE}-run0-0000.parquet",)
    assert found.files.size_bytes == len(stores.bucket.get(found.files.keys[0]) or b"")
    assert sorted(ids(consolidator, found)) == ["a", "b", "c"]


def test_consolidating_again_finds_the_same_and_writes_nothing(stores: Stores, consolidator: Consolidator) -> None:
    tail(stores, 1, "a", "b")
    first = consolidator.consolidate("demo", HOUR, DUE)

    second = consolidator.consolidate("demo", HOUR, DUE + 1)

    assert (second.files, second.merged) == (first.files, 0)
    assert consolidator.finish(second)
    assert not consolidator.finish(first)


def test_an_hour_without_files_has_none(consolidator: Consolidator, stores: Stores) -> None:
    found = consolidator.consolidate("demo", HOUR, DUE)

    assert consolidator.finish(found)
    assert (found.files.keys, found.files.rows) == ((), 0)
    assert consolidator.run(DUE) == 0
    assert stores.hours.all() == []


@pytest.mark.parametrize(("now_ms", "done"), [(DUE - 1, 0), (DUE, 1)])
def test_an_hour_is_due_ten_minutes_after_its_end(
    stores: Stores, consolidator: Consolidator, now_ms: int, done: int
) -> None:
    tail(stores, 1, "a")

    assert consolidator.run(now_ms) == done


def test_late_events_open_an_hour_again_after_a_rest(stores: Stores, consolidator: Consolidator) -> None:
    tail(stores, 1, "a")
    consolidator.run(DUE)
    tail(stores, 2, "b", at=DUE + MINUTE_MS)

    assert consolidator.run(DUE + REST_MS - 1) == 0
    assert consolidator.run(DUE + REST_MS) == 1

    assert len([name for name in names(stores) if name.startswith("hour-")]) == 2


def test_what_was_absorbed_is_deleted_after_its_grace_and_the_hour_is_settled(
    stores: Stores, consolidator: Consolidator
) -> None:
    name = tail(stores, 1, "a")
    consolidator.run(DUE)

    consolidator.run(DUE + GRACE_MS - 1)
    assert name in names(stores)
    consolidator.run(DUE + GRACE_MS)
    assert names(stores) == [f"hour-{DUE}-run0-0000.parquet"]
    consolidator.run(DUE + GRACE_MS)
    assert stores.hours.all() == []


def test_an_absorbed_file_that_is_written_again_is_not_read_again(stores: Stores, consolidator: Consolidator) -> None:
    tail(stores, 1, "a")
    consolidator.run(DUE)
    tail(stores, 1, "a", at=DUE)

    consolidator.run(DUE + REST_MS)

    assert len(names(stores)) == 2
    for minutes in (60, 91, 152):
        consolidator.run(DUE + minutes * MINUTE_MS)
    assert names(stores) == [f"hour-{DUE}-run0-0000.parquet"]


def test_a_file_noted_meanwhile_keeps_the_hour_dirty(stores: Stores, consolidator: Consolidator) -> None:
    tail(stores, 1, "a")

    def meanwhile(_: Consolidated) -> bool:
        tail(stores, 2, "b", at=DUE)
        return True

    consolidator.run(DUE, meanwhile)

    [state] = stores.hours.all()
    assert state.tail == tail_name(2, "r2", 1)


def test_what_follows_is_done_again_when_it_failed_or_is_not_done(stores: Stores, consolidator: Consolidator) -> None:
    tail(stores, 1, "a")
    given: list[Consolidated] = []

    def fail_once(consolidated: Consolidated) -> bool:
        given.append(consolidated)
        if len(given) == 1:
            raise RuntimeError("the closing failed")
        return len(given) > 2

    with pytest.raises(ExceptionGroup, match="1 hours were not consolidated"):
        consolidator.run(DUE, fail_once)
    for rests in (1, 2, 3):
        consolidator.run(DUE + rests * REST_MS, fail_once)

    assert len(given) == 3
    assert given[0].files == given[1].files == given[2].files
    assert stores.hours.all() == []


def test_one_hour_that_cannot_be_read_keeps_no_other_from_its_turn(
    stores: Stores, consolidator: Consolidator, caplog: pytest.LogCaptureFixture
) -> None:
    tail(stores, 1, "a", hour="2026-11-21T08")
    stores.bucket.put(f"{hour_folder('demo', '2026-11-21T08')}tail-broken.parquet", b"no Parquet")
    tail(stores, 2, "b")

    with caplog.at_level(logging.INFO), pytest.raises(ExceptionGroup):
        consolidator.run(DUE + 2 * 3_600_000)

    assert any(name.startswith("hour-") for name in names(stores))
    [measured] = [record.__dict__ for record in caplog.records if record.message == "metrics"]
    assert measured["LakeRowsConsolidated"] == 1
    assert measured["LakeFilesMerged"] == 1
    assert measured["LakeOldestDirtySeconds"] == 3 * 3600  # since 09:10, when the broken hour was due


def test_an_hour_that_another_run_works_on_is_left_to_it_until_that_must_be_dead(
    stores: Stores, consolidator: Consolidator
) -> None:
    tail(stores, 1, "a")
    stores.hours.begin("demo", HOUR, "other", DUE)

    assert consolidator.run(DUE + LEASE_MS - 1) == 0
    assert consolidator.run(DUE + LEASE_MS) == 1


def test_an_hour_that_does_not_fit_into_the_functions_time_is_not_begun(
    stores: Stores, consolidator: Consolidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail(stores, 1, "a")
    monkeypatch.setattr(consolidate, "BYTES_PER_SECOND", 1)

    assert consolidator.run(DUE) == 0
    assert stores.hours.all()[0].run is None


def test_who_is_overtaken_changes_nothing_and_leaves_nothing_behind(stores: Stores, consolidator: Consolidator) -> None:
    tail(stores, 1, "a")
    second: list[Consolidated] = []

    class Racing(Lake):
        def write_hour(self, *arguments: Any) -> Any:
            if not second:
                second.append(consolidator.consolidate("demo", HOUR, DUE))
            return super().write_hour(*arguments)

    first = replace(consolidator, lake=Racing(stores.bucket))
    with pytest.raises(Overtaken):
        first.consolidate("demo", HOUR, DUE)

    assert stores.hours.all()[0].version == f"{DUE}-run1"
    for minutes in (45, 106, 107, 170):
        consolidator.run(DUE + minutes * MINUTE_MS)
    assert len(names(stores)) == 1
    assert stores.hours.all() == []


def test_what_an_overtaken_run_left_when_it_died_is_found(stores: Stores, consolidator: Consolidator) -> None:
    with travel(DUE / 1000):  # the bucket says when a file was last written
        tail(stores, 1, "a")
        consolidator.run(DUE)
        stores.bucket.put(f"{FOLDER}hour-{DUE}-dead-0000.parquet", stores.bucket.get(stores.objects(FOLDER)[0]) or b"")

    for minutes in (61, 92, 153, 154):
        with travel((DUE + minutes * MINUTE_MS) / 1000):
            consolidator.run(DUE + minutes * MINUTE_MS)

    assert len(names(stores)) == 1
    assert stores.hours.all() == []


def test_who_takes_too_long_ends_before_files_it_read_may_be_gone(
    stores: Stores, consolidator: Consolidator, clock: list[float]
) -> None:
    tail(stores, 1, "a")

    class Slow(Lake):
        def merge(self, *arguments: Any) -> Any:
            clock[0] += MAX_RUN_SECONDS + 1
            return super().merge(*arguments)

    with pytest.raises(TooLate, match="more than 2400 s"):
        replace(consolidator, lake=Slow(stores.bucket)).consolidate("demo", HOUR, DUE)

    assert [name for name in names(stores) if name.startswith("hour-")] == []


def test_more_files_than_can_be_open_are_merged_in_several_steps(
    stores: Stores, consolidator: Consolidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolidate, "MAX_FILES", 3)
    for number in range(20):
        tail(stores, number, f"e{number}", f"e{number + 1}")

    found = consolidator.consolidate("demo", HOUR, DUE)
    consolidator.finish(found)

    assert sorted(ids(consolidator, found)) == sorted(f"e{n}" for n in range(21))
    assert (found.duplicates, found.merged, len(found.files.keys)) == (19, 20, 1)
    consolidator.run(DUE + GRACE_MS)
    assert [FOLDER + name for name in names(stores)] == list(found.files.keys)
    consolidator.run(DUE + GRACE_MS)
    assert stores.hours.all() == []


def test_large_files_are_written_and_read_part_by_part(
    stores: Stores, consolidator: Consolidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chalicelib.storage.objects.PART_BYTES", 5 * 2**20)  # S3's least
    monkeypatch.setattr("chalicelib.storage.objects.WHOLE_BYTES", 1000)
    rng = random.Random(1)
    rows = [
        Row(
            {
                "event_id": f"e{n:06}",
                "event_type": "x",
                "occurred_at": NINE,
                "properties": {"x": rng.randbytes(90).hex()},
            },
            NINE,
        )
        for n in range(80_000)
    ]
    consolidator.lake.write(FOLDER + "tail-1.parquet", rows)

    found = consolidator.consolidate("demo", HOUR, DUE)

    assert found.files.size_bytes > 7 * 2**20
    assert consolidator.lake.count(FOLDER, consolidator.lake.files(FOLDER)).rows == 160_000
    assert ids(consolidator, found) == [f"e{n:06}" for n in range(80_000)]


def test_a_write_that_fails_leaves_no_upload_open(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = stores.bucket.writer("h/x")
    monkeypatch.setattr("chalicelib.storage.objects.PART_BYTES", 10)
    writer.write(b"more than ten bytes")

    writer.discard()
    del writer

    assert stores.objects() == []
    assert "Uploads" not in stores.bucket.client.list_multipart_uploads(Bucket="data")
