"""Versions of hours: what goes into them, when they are made, what is left to others, what is deleted when."""

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from chalicelib.base import waits
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import hour_folder, import_tail_name, manifests_folder, records_folder, tail_name
from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS
from chalicelib.events.contracts import Contracts
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.hours import consolidate, finish
from chalicelib.hours.consolidate import (
    Consolidated,
    Consolidator,
    Overtaken,
    TooLate,
)
from chalicelib.hours.finish import Finisher
from chalicelib.lake.lake import Lake, Row, encode, table_of
from chalicelib.lake.manifests import Manifest
from chalicelib.lake.record_sets import records_of
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.signatures import NOTHING, Signature, hash_of, slot_end
from tests.hours.finishing import finisher_of
from tests.mortal import Died, Mortal
from tests.stores import Stores, empty_stores

NINE = 1_795_251_600_000
HOUR = "2026-11-21T09"
FOLDER = hour_folder("demo", HOUR)
DUE = NINE + HOUR_MS + 10 * MINUTE_MS
SLOT = (NINE // 1000 - 300) // 3600 + 1  # of what was received from 09:05 to 10:05


class World:
    """An hour's folder, and the schedule that works on it; time goes on as told."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.now_ms = DUE
        self.seconds = [0.0]  # that pass within a run when a test says so
        self.runs = count()
        self.hours = replace(stores.hours, clock=lambda: self.now_ms / 1000)
        self.lake = Lake(stores.bucket)

    def finisher(self, s3: Any = None, dynamodb: Any = None) -> Finisher:
        """That of one process."""
        return finisher_of(
            Contracts({}),
            dynamodb or self.stores.rollups.client,
            s3 or self.stores.bucket.client,
            lambda: self.now_ms,
            self.runs,
            lambda: self.seconds[0],
        )

    @property
    def consolidator(self) -> Consolidator:
        return self.finisher().consolidator

    @property
    def hour(self) -> Hour:
        return self.hours.get("demo", HOUR)

    def is_dirty(self) -> bool:
        return self.hour.is_dirty

    @property
    def manifest(self) -> Manifest:
        return self.stores.folders.manifests.read(self.hour)

    def consolidate(self, **more: Any) -> Consolidated:
        return self.consolidator.consolidate("demo", HOUR, self.now_ms, **more)

    def run(self) -> dict[str, Any]:
        """The hourly workflow; what its first task answers."""
        finisher = self.finisher()
        found = finisher.consolidate_due(self.now_ms)
        finisher.finish_all(found["hours"], self.now_ms)
        return found

    def run_until_settled(self) -> None:
        for _ in range(20):
            if self.hours.unsettled("demo") == []:
                return
            self.now_ms += 10 * MINUTE_MS
            self.run()
        raise AssertionError(f"still {self.hour}")

    def tail(
        self,
        number: int,
        *event_ids: str,
        hour: str = HOUR,
        slot: int | None = None,
        records: dict[str, int] | None = None,
        user: str = "u",
        note: bool = True,
    ) -> str:
        """A tail file of events; its name. Of an import, which no live number waits for, unless there is a slot."""
        rows = [
            Row(
                {"event_id": event_id, "event_type": "click", "user_id": user, "occurred_at": NINE + n},
                NINE + number,
                slot,
            )
            for n, event_id in enumerate(event_ids)
        ]
        signed = records_of((hash_of(record), rows) for record, rows in (records or {}).items())
        content = encode(table_of(rows), signed if slot is not None else None)
        first = next(iter(records), "r") if records else "r"
        name = import_tail_name(str(number), content) if slot is None else tail_name(slot, first, content)
        self.lake.put(hour_folder("demo", hour) + name, content)
        if note:
            self.hours.note("demo", hour)
        return name

    def names(self) -> list[str]:
        return [key.removeprefix(FOLDER) for key in self.stores.objects(FOLDER)]

    def ids(self) -> list[str]:
        """The ids of all rows that a reader finds, before copies are left out."""
        _, keys = self.stores.folders.keys(self.hours, "demo", HOUR)
        return sorted(e for batch in self.lake.batches(keys) for e in batch.column("event_id").to_pylist())


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as found:
        yield World(found)


def is_version(name: str) -> bool:
    return name.startswith("hour-")


def test_an_hour_becomes_one_file_and_tells_of_itself(world: World) -> None:
    world.tail(1, "a", "b")
    world.tail(2, "b", "c")

    found = world.consolidate()

    assert found.row() == {
        "project": "demo",
        "hour": HOUR,
        "rows": 3,
        "duplicates": 1,
        "merged": 2,
        "files": 1,
        "size_bytes": found.files.size_bytes,
    }
    assert found.version == world.hour.version == f"{DUE}-run0"
    assert found.files.keys == (f"{FOLDER}hour-{DUE}-run0-0000.parquet",)
    assert found.files.size_bytes == len(world.stores.bucket.get(found.files.keys[0]) or b"")
    assert world.ids() == ["a", "b", "c"]


def test_consolidating_again_finds_the_same_and_writes_nothing(world: World) -> None:
    world.tail(1, "a", "b")
    first = world.consolidate()
    before = world.stores.objects(), world.hour
    world.now_ms += 1

    second = world.consolidate()

    assert (second.version, second.files, second.merged) == (first.version, first.files, 0)
    assert (world.stores.objects(), world.hour) == before


def test_an_hour_without_files_has_none_and_is_not_made_an_item(world: World) -> None:
    found = world.consolidate()

    assert (found.version, found.files.keys, found.files.rows) == (None, (), 0)
    assert world.run()["hours"] == []
    assert world.stores.items("rollups") == []


def test_a_version_says_what_it_took_in(world: World) -> None:
    first = world.tail(1, "a", "b", slot=SLOT, records={"r1": 2})
    world.consolidate()
    version = world.hour.version
    assert version is not None
    assert world.manifest == Manifest({first: DUE}, {}, {SLOT: Signature(2, hash_of("r1"))})
    second = world.tail(2, "c", slot=SLOT + 1, records={"r2": 1})
    third = world.tail(3, "d")
    world.now_ms += HOUR_MS

    world.consolidate()

    assert world.manifest == Manifest(
        {first: DUE, second: DUE + HOUR_MS, third: DUE + HOUR_MS},
        {version: DUE + HOUR_MS},
        {SLOT: Signature(2, hash_of("r1")), SLOT + 1: Signature(1, hash_of("r2"))},
    )


def test_a_record_that_several_tails_hold_is_signed_once_whatever_came_in_between(world: World) -> None:
    """A batch comes again, grown, shrunk and split, before and after a consolidation."""
    world.tail(1, "a", "b", slot=SLOT, records={"r1": 1, "r2": 1})
    world.tail(2, "a", slot=SLOT, records={"r1": 1})
    world.consolidate()
    world.tail(3, "a", "b", "c", slot=SLOT, records={"r1": 1, "r2": 1, "r3": 1})
    world.tail(4, "b", slot=SLOT, records={"r2": 1})

    world.consolidate()

    every = NOTHING + Signature(1, hash_of("r1")) + Signature(1, hash_of("r2")) + Signature(1, hash_of("r3"))
    assert world.manifest.signatures == {SLOT: every}
    assert world.ids() == ["a", "b", "c"]


def test_records_are_forgotten_with_the_stream_and_signatures_are_not(world: World) -> None:
    world.tail(1, "a", slot=SLOT, records={"r1": 1})
    first = world.consolidate()
    records = world.consolidator.records
    assert records.read("demo", HOUR, first.version).keys() == {SLOT}
    world.now_ms = slot_end(SLOT) * 1000 + 25 * HOUR_MS
    late = (world.now_ms // 1000 - 300) // 3600
    world.tail(2, "b", slot=late, records={"r2": 1})

    second = world.consolidate()

    signed = {SLOT: Signature(1, hash_of("r1")), late: Signature(1, hash_of("r2"))}
    assert records.read("demo", HOUR, second.version).keys() == {late}
    assert world.manifest.signatures == signed
    world.tail(3, "c")
    world.consolidate()
    assert world.manifest.signatures == signed


def test_rows_of_erased_users_are_in_no_version_from_then_on_and_what_is_signed_stays(world: World) -> None:
    world.tail(1, "a", slot=SLOT, records={"r1": 1}, user="gone")
    world.tail(2, "b", slot=SLOT, records={"r2": 1})
    world.consolidate()
    signed = world.manifest.signatures
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "gone"), DUE, FOR_EVER_MS))

    untouched = world.consolidate()
    assert (untouched.merged, world.ids()) == (0, ["a", "b"])
    anew = world.consolidate(anew=True)

    assert (anew.merged, anew.files.rows, anew.duplicates) == (1, 1, 0)
    assert world.ids() == ["b"]
    assert world.manifest.signatures == signed
    world.tail(3, "c", user="gone")
    world.consolidate()
    assert world.ids() == ["b"]


def test_a_run_that_follows_an_erasure_s_knows_of_the_erased(world: World) -> None:
    """A tail of hers came after the erasure had been there: whoever unites it with that version must leave it out."""
    world.tail(1, "a", user="gone")
    world.tail(2, "b")
    erased: list[str] = []

    class Meanwhile(HoursTable):
        __slots__ = ()

        def get(self, project: str, hour: str) -> Hour:
            if not erased:
                erased.append("gone")
                world.stores.erased.put("demo", Marker(digest_of_user("demo", "gone"), DUE, FOR_EVER_MS))
                world.consolidate(anew=True)
                world.tail(3, "c", user="gone")
            return super().get(project, hour)

    late = replace(world.consolidator, hours=Meanwhile(world.hours.client, "rollups"))
    late.consolidate("demo", HOUR, DUE)

    assert world.ids() == ["b"]


def test_a_tail_that_sorts_before_those_absorbed_is_read(world: World) -> None:
    """Two shards: it was named before the last one that was absorbed, and written after it."""
    world.tail(1, "b", slot=SLOT, records={"r2": 1})
    world.consolidate()

    world.tail(2, "a", slot=SLOT, records={"r1": 1})

    assert world.ids() == ["a", "b"]
    world.consolidate()
    assert world.ids() == ["a", "b"]


def test_an_hour_of_which_all_is_erased_has_a_version_without_files(world: World) -> None:
    world.tail(1, "a", user="gone")
    world.run()
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "gone"), DUE, FOR_EVER_MS))

    world.finisher().finish("demo", HOUR, world.now_ms, anew=True)

    assert world.ids() == []
    world.run_until_settled()
    assert world.names() == []


def test_a_clock_that_goes_back_names_no_version_before_the_one_it_follows(world: World) -> None:
    world.tail(1, "a")
    first = world.consolidate()
    world.tail(2, "b")
    world.now_ms -= 5 * MINUTE_MS

    second = world.consolidate()

    assert first.version is not None
    assert second.version is not None
    assert second.version > first.version


@pytest.mark.parametrize(("now_ms", "done"), [(DUE - 1, 0), (DUE, 1)])
def test_an_hour_is_due_ten_minutes_after_its_end(world: World, now_ms: int, done: int) -> None:
    world.now_ms = NINE
    world.tail(1, "a")
    world.now_ms = now_ms

    assert len(world.run()["hours"]) == done


def test_late_events_open_an_hour_again_after_a_rest(world: World) -> None:
    world.tail(1, "a")
    world.run()
    world.tail(2, "b")

    world.now_ms = DUE + waits.REST_MS - 1
    assert world.run()["hours"] == []
    world.now_ms += 1
    assert len(world.run()["hours"]) == 1

    assert len([*filter(is_version, world.names())]) == 2


def test_what_was_replaced_is_deleted_after_its_grace_and_the_hour_is_settled(world: World) -> None:
    first = world.tail(1, "a")
    world.run()
    [version] = filter(is_version, world.names())
    second = world.tail(2, "b")
    world.now_ms += waits.REST_MS
    world.run()
    last = max(world.names()[:-2])

    world.now_ms = DUE + waits.GRACE_MS - 1
    world.run()
    assert {first, second, version, last} == {*world.names()}
    world.now_ms += 1
    world.run()
    assert {second, version, last} == {*world.names()}
    world.now_ms = DUE + waits.REST_MS + waits.GRACE_MS - 1
    world.run()
    assert {second, version, last} == {*world.names()}
    assert world.hour.unsettled
    world.now_ms += 1
    world.run()
    assert world.names() == [last]
    assert world.hours.unsettled("demo") == []
    assert len(world.stores.objects(manifests_folder("demo", HOUR))) == 1


def test_manifests_and_records_of_versions_without_files_go(world: World) -> None:
    for number in range(3):
        world.tail(number, f"e{number}")
        world.run()
        world.now_ms += 40 * MINUTE_MS
    world.run_until_settled()
    world.tail(4, "late")
    world.run()
    world.run_until_settled()

    for folder in (manifests_folder("demo", HOUR), records_folder("demo", HOUR)):
        [left] = world.stores.objects(folder)
        assert str(world.hour.version) in left


def test_an_absorbed_file_that_is_written_again_is_not_read_again(world: World) -> None:
    world.tail(1, "a")
    world.run()
    version = world.hour.version
    world.tail(1, "a")

    world.now_ms += waits.REST_MS
    world.run()

    assert (len(world.names()), world.hour.version) == (2, version)
    world.run_until_settled()
    assert world.names() == [f"hour-{version}-0000.parquet"]


@pytest.mark.parametrize("slot", [None, SLOT])
def test_an_absorbed_file_is_not_read_again_however_long_it_lies_there(world: World, slot: int | None) -> None:
    """As when nobody came to clean up for days."""
    name = world.tail(1, "a", slot=slot, records={"r1": 1}, user="gone")
    world.consolidate()
    signatures = world.manifest.signatures
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "gone"), DUE, FOR_EVER_MS))
    world.consolidate(anew=True)
    for number in range(2, 5):
        world.now_ms += 30 * HOUR_MS
        world.tail(number, f"b{number}")

        world.consolidate()

        assert name in world.names()
        assert "a" not in world.ids()
        assert world.manifest.signatures == signatures


def test_a_file_that_comes_meanwhile_keeps_the_hour_dirty(world: World) -> None:
    world.tail(1, "a")
    finisher = world.finisher()

    class Busy(Lake):
        def write_hour(self, *arguments: Any) -> Any:
            world.tail(2, "b")
            return super().write_hour(*arguments)

    busy = replace(finisher, consolidator=replace(finisher.consolidator, lake=Busy(world.stores.bucket)))
    assert not busy.finish("demo", HOUR, world.now_ms).closed

    assert world.is_dirty()
    assert world.ids() == ["a", "b"]
    world.now_ms += waits.REST_MS
    world.run()
    assert not world.is_dirty()
    assert [*filter(is_version, world.names())] != []


def test_what_follows_is_done_again_when_it_failed(world: World) -> None:
    world.tail(1, "a")
    given: list[Any] = []
    finisher = world.finisher()

    class Failing(type(finisher.sessionizer)):  # type: ignore[misc]
        __slots__ = ()

        def count(self, *arguments: Any) -> int:
            given.append(arguments)
            if len(given) < 3:
                raise RuntimeError("sessions were not counted")
            counted: int = super().count(*arguments)
            return counted

    sessions = finisher.sessionizer
    failing = replace(finisher, sessionizer=Failing(sessions.lake, sessions.files, sessions.closed, sessions.new_token))
    for _ in range(2):
        found = failing.consolidate_due(world.now_ms)
        with pytest.raises(ExceptionGroup, match="1 hours were not closed"):
            failing.finish_all(found["hours"], world.now_ms)
        world.now_ms += waits.REST_MS
        assert world.is_dirty()
    failing.finish_all(failing.consolidate_due(world.now_ms)["hours"], world.now_ms)

    assert not world.is_dirty()
    assert given[0] == given[1] == given[2]  # of the same version
    world.run_until_settled()


def test_one_hour_that_cannot_be_read_keeps_no_other_from_its_turn(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.now_ms = NINE
    world.tail(1, "a", hour="2026-11-21T08")
    world.stores.bucket.put(f"{hour_folder('demo', '2026-11-21T08')}tail-broken.parquet", b"no Parquet")
    world.tail(2, "b")
    world.now_ms = DUE + 2 * HOUR_MS

    with caplog.at_level(logging.INFO):
        assert world.run()["failed"] == 1

    assert any(map(is_version, world.names()))
    measured = next(record.__dict__ for record in caplog.records if hasattr(record, "LakeRowsConsolidated"))
    assert measured["LakeRowsConsolidated"] == 1
    assert measured["LakeFilesMerged"] == 1
    assert measured["LakeOldestDirtySeconds"] == 3 * 3600  # since 09:10, when the broken hour was due


def test_an_hour_that_another_run_works_on_is_left_to_it_until_that_must_be_dead(world: World) -> None:
    world.tail(1, "a")
    world.hours.begin(world.hour, DUE)

    world.now_ms = DUE + waits.TURN_MS - 1
    assert world.run()["hours"] == []
    world.now_ms += 1
    assert len(world.run()["hours"]) == 1


def test_an_hour_that_does_not_fit_into_the_functions_time_is_not_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.tail(1, "a")
    monkeypatch.setattr(finish, "BYTES_PER_SECOND", 1)

    assert world.run()["hours"] == []
    assert world.hour.began_ms == 0


def test_cleaning_up_ends_with_the_functions_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an import of years, whose hours all wait to be settled."""
    hours = [f"2026-11-21T{n:02}" for n in range(8)]
    for number, hour in enumerate(hours):
        world.tail(number, f"e{number}", hour=hour)
    world.run()
    world.now_ms += 2 * waits.GRACE_MS

    class Slow(Lake):
        def delete(self, key: str) -> None:
            world.seconds[0] += 300
            super().delete(key)

    finisher = world.finisher()
    slow = replace(finisher, consolidator=replace(finisher.consolidator, lake=Slow(world.stores.bucket)))
    slow.consolidate_due(world.now_ms)

    assert [hour.hour for hour in world.hours.unsettled("demo")] == hours[3:]
    world.run_until_settled()


def test_who_is_overtaken_takes_up_what_the_other_made_and_leaves_nothing_behind(world: World) -> None:
    world.tail(1, "a")
    second: list[Consolidated] = []

    class Racing(Lake):
        def write_hour(self, *arguments: Any) -> Any:
            made = super().write_hour(*arguments)
            if not second:
                second.append(world.consolidate())
            return made

    late = replace(world.consolidator, lake=Racing(world.stores.bucket)).consolidate("demo", HOUR, DUE)

    assert (late.version, late.files, late.merged) == (second[0].version, second[0].files, 0)
    assert world.hour.version == second[0].version
    assert world.ids() == ["a"]
    assert len(world.names()) == 3
    world.run()
    world.run_until_settled()
    assert world.names() == [f"hour-{second[0].version}-0000.parquet"]
    for folder in (manifests_folder("demo", HOUR), records_folder("demo", HOUR)):
        assert len(world.stores.objects(folder)) == 1


def test_who_is_overtaken_each_time_gives_up(world: World) -> None:
    world.tail(0, "a0")
    numbers = count(1)

    class Racing(Lake):
        def write_hour(self, *arguments: Any) -> Any:
            world.consolidate()
            number = next(numbers)
            world.tail(number, f"a{number}")
            return super().write_hour(*arguments)

    with pytest.raises(Overtaken, match="during each of 4 tries"):
        replace(world.consolidator, lake=Racing(world.stores.bucket)).consolidate("demo", HOUR, DUE)

    assert world.ids() == [f"a{n}" for n in range(next(numbers))]


def dies_before(world: World, number: int, then: Callable[[Finisher], object]) -> bool:
    """Whether the process dies that does this, before its write of a number, to whichever service."""
    life: list[str] = []
    s3 = Mortal(world.stores.bucket.client, number, life=life)
    dynamodb = Mortal(world.stores.rollups.client, number, life=life)
    try:
        then(world.finisher(s3, dynamodb))
    except Died:
        return True
    return False


def test_what_a_run_left_that_died_is_never_read_and_at_last_deleted(world: World) -> None:
    world.tail(1, "a")
    for number in count(1):
        if not dies_before(world, number, lambda one: one.consolidator.consolidate("demo", HOUR, world.now_ms)):
            break
        assert world.ids() == ["a"]
        assert not {*filter(is_version, world.names())} & {*world.stores.folders.held(world.hour).current}
    assert number > 4

    left = len(world.names())
    assert left > 2
    world.now_ms += waits.TURN_MS
    world.run()
    world.now_ms = DUE + waits.ORPHAN_MS - 1
    world.run()
    assert len(world.names()) == left - 1  # the tail is gone
    world.run_until_settled()
    assert world.names() == [f"hour-{world.hour.version}-0000.parquet"]
    assert len(world.stores.objects(manifests_folder("demo", HOUR))) == 1


def test_who_dies_at_an_hour_that_was_settled_leaves_it_to_be_looked_at(world: World) -> None:
    """It found a tail that nobody had noted; its own files must not be taken for the hour's."""
    world.tail(1, "a")
    world.run()
    world.run_until_settled()
    settled = world.hour.version
    world.tail(2, "b", note=False)

    for number in count(1):
        died = dies_before(world, number, lambda one: one.finish("demo", HOUR, world.now_ms))
        if len([*filter(is_version, world.names())]) > 1:
            [seen] = world.hours.unsettled("demo")
            assert seen.replaced
        if not died:
            break
        if world.hour.version != settled:
            break
    assert number > 3
    world.run_until_settled()
    assert world.names() == [f"hour-{world.hour.version}-0000.parquet"]
    assert world.ids() == ["a", "b"]


def test_an_hour_in_which_a_consolidation_began_is_not_settled(world: World) -> None:
    world.tail(1, "a")
    world.run()
    world.now_ms += waits.GRACE_MS
    world.finisher().clean(world.hour, world.now_ms - 1)
    before = world.hour
    assert before.unsettled

    world.hours.begin(before, world.now_ms)

    assert not world.hours.settle(before)
    assert not world.finisher().clean(world.hour, world.now_ms + waits.GRACE_MS - 1)
    assert world.finisher().clean(world.hour, world.now_ms + waits.GRACE_MS)
    assert not world.hour.unsettled


def test_a_tail_that_nobody_noted_is_found_while_the_hour_is_looked_at(world: World) -> None:
    world.tail(1, "a")
    world.run()
    world.tail(2, "b", note=False)
    assert not world.is_dirty()

    world.now_ms += waits.REST_MS
    world.run()
    assert world.is_dirty()
    world.run()

    assert not world.is_dirty()
    world.run_until_settled()
    assert world.names() == [f"hour-{world.hour.version}-0000.parquet"]
    assert world.ids() == ["a", "b"]


def test_an_hour_that_gets_something_late_all_the_time_is_cleaned_up_nevertheless(world: World) -> None:
    world.tail(0, "e0", user="u0")
    most = sessions = 0
    for number in range(1, 10):
        world.run()
        most = max(most, len(world.names()))
        sessions = max(sessions, len(world.stores.objects("sessions/")))
        world.now_ms += 50 * MINUTE_MS
        world.tail(number, f"e{number}", user=f"u{number}")
        world.now_ms += 10 * MINUTE_MS

    assert world.is_dirty()
    assert most <= 6  # versions and tails of the last two runs
    assert sessions <= 3
    assert world.ids() == sorted(f"e{n}" for n in range(10))


def test_who_takes_too_long_ends_before_files_it_read_may_be_gone(world: World) -> None:
    world.tail(1, "a")

    class Slow(Lake):
        def merge(self, *arguments: Any) -> Any:
            world.seconds[0] += waits.MAX_RUN_MS / 1000 + 1
            return super().merge(*arguments)

    with pytest.raises(TooLate, match="more than 2400 s"):
        replace(world.consolidator, lake=Slow(world.stores.bucket)).consolidate("demo", HOUR, DUE)

    assert [*filter(is_version, world.names())] == []
    assert world.hour.version is None


@pytest.mark.parametrize("died", [False, True])
def test_more_files_than_can_be_open_are_merged_in_several_steps(
    world: World, monkeypatch: pytest.MonkeyPatch, died: bool
) -> None:
    monkeypatch.setattr(consolidate, "MAX_FILES", 3)
    for number in range(20):
        world.tail(number, f"e{number:02}", f"e{number + 1:02}", user="gone" if number == 5 else "u")
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "gone"), DUE, FOR_EVER_MS))
    if died:
        assert dies_before(world, 7, lambda one: one.consolidator.consolidate("demo", HOUR, world.now_ms))
        assert len([*filter(is_version, world.names())]) > 2

    found = world.consolidate()

    # The erased user's rows are gone; of the same ids there are others, which came before and after.
    assert world.ids() == [f"e{n:02}" for n in range(21)]
    assert (found.files.rows, found.merged, len(found.files.keys)) == (21, 20, 1)
    assert found.duplicates == 17
    between = [name for name in filter(is_version, world.names()) if "." in name.removesuffix(".parquet")]
    assert between != []
    for name in between:
        rows = [row for batch in world.lake.batches([FOLDER + name]) for row in batch.to_pylist()]
        assert {row["user_id"] for row in rows} == {"u"}
    world.run_until_settled()
    assert [FOLDER + name for name in world.names()] == list(found.files.keys)


def test_large_files_are_written_and_read_part_by_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chalicelib.base.data_bucket.UPLOAD_PART_BYTES", 5 * 2**20)  # S3's least
    monkeypatch.setattr("chalicelib.base.data_bucket.WHOLE_BYTES", 1000)
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
    world.lake.write(FOLDER + "tail-import-1.parquet", rows)

    found = world.consolidate()

    assert found.files.size_bytes > 7 * 2**20
    assert world.lake.count(FOLDER, world.lake.files(FOLDER)).rows == 160_000
    assert world.ids() == [f"e{n:06}" for n in range(80_000)]


def test_a_write_that_fails_leaves_no_upload_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = DataBucket(world.stores.bucket.client, "data").writer("h/x")
    monkeypatch.setattr("chalicelib.base.data_bucket.UPLOAD_PART_BYTES", 10)
    writer.write(b"more than ten bytes")

    writer.discard()
    del writer

    assert world.stores.objects() == []
    assert "Uploads" not in world.stores.bucket.client.list_multipart_uploads(Bucket="data")
