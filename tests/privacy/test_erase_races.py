"""Erasure against what happens beside it: late words, dead imports, half-written links, slow runs, other people."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from chalicelib.base.object_keys import SPILL
from chalicelib.base.time_windows import DAY_MS
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.erasure import FOR_EVER_MS, Arrivals, Erasure, Marker, digest_of_user
from chalicelib.imports.imports import Import
from chalicelib.privacy.erase import Eraser
from tests.mortal import Died, Mortal
from tests.privacy.erasing import MINUTE_MS, TEN, World, world
from tests.privacy.test_erase import HERS, THERE, an_event, her_identify, lived_in
from tests.privacy.test_export import exporter


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        yield made


def an_import(place: World, sequencer: str, started_ms: int) -> Import:
    one = Import.of("raw/demo/file.ndjson", "etag", sequencer, started_ms)
    assert one is not None
    place.table.begin(one)
    return one


def test_her_name_in_a_path_leaves_the_numbers_too(place: World) -> None:
    place.receive(an_event("a1", 1, properties={"path": f"/users/{HERS[0]}"}), an_event("b1", 1, THERE))
    place.flow()

    place.erase(HERS[0])

    assert place.traces(HERS[0]) == []


def test_each_import_that_goes_on_is_waited_for(place: World) -> None:
    an_import(place, "1", place.now_ms - 2 * DAY_MS)  # died
    an_import(place, "2", place.now_ms - MINUTE_MS)
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)

    for _ in range(10):
        place.eraser().run()
        place.wait(5)

    found = place.stores.erasures.get("demo", receipt["id"])
    assert found is not None
    assert not found.files_done


def test_an_import_that_has_just_failed_is_waited_for_as_well(place: World) -> None:
    """Its other tasks run for a while, and store what was judged before the markers."""
    one = an_import(place, "1", place.now_ms - 2 * MINUTE_MS)
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    done = []
    for minute in range(0, 35, 5):
        if minute == 10:
            place.table.end(one, "failed", place.now_ms, {"error": "a range failed"})
        place.eraser().run()
        found = place.stores.erasures.get("demo", receipt["id"])
        assert found is not None
        done.append(found.files_done)
        place.wait(5)

    assert done == [False, False, False, False, False, False, True]  # 16 minutes after the failure


@pytest.mark.parametrize("users", [(HERS[0], THERE), (THERE, HERS[0])])
def test_an_erasure_looks_through_days_that_another_one_has_done_with(
    place: World, users: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that was to begin with the second one dies, so that both are at the same point but for the day."""
    place.receive(an_event("a1", -60 * 26), an_event("b1", -60 * 26, THERE), an_event("c1", 1, "somebody"))
    place.flow()
    place.wait(60)
    first = place.profiler.request_erasure("demo", users[0], place.now_ms)
    for _ in range(5):
        place.eraser().run()
        place.wait(5)
    assert place.receipt(first["id"])["state"] != "done"  # it waits for the hour to be over
    second = place.profiler.request_erasure("demo", users[1], place.now_ms)
    sweep, deaths = Eraser._sweep, list[int]()

    def dies_first(self: Eraser, group: list[Erasure], end_ms: int | None) -> None:
        if not deaths and users[1] in [one.user for one in group]:
            deaths.append(1)
            raise Died
        sweep(self, group, end_ms)

    monkeypatch.setattr(Eraser, "_sweep", dies_first)
    while {place.receipt(each["id"])["state"] for each in (first, second)} != {"done"}:
        with suppress(Died):
            place.eraser().run()
        place.wait(5)
    place.wait(90)

    assert deaths
    assert place.traces(*HERS, THERE) == []


def test_an_erasure_waits_for_what_was_on_its_way(place: World) -> None:
    """What was accepted before the markers were known everywhere may be stored after the tables were looked through."""
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    done = []
    for _ in range(5):
        place.eraser().run()
        found = place.stores.erasures.get("demo", receipt["id"])
        assert found is not None
        done.append(found.files_done)
        place.wait(5)

    assert done == [False, False, False, False, True]  # after 16 minutes


def test_what_a_dead_import_left_goes(place: World) -> None:
    one = an_import(place, "1", place.now_ms - 2 * DAY_MS)
    place.stores.bucket.put(one.rows_key(1), orjson.dumps([{"user_id": HERS[0]}]))

    place.erase(HERS[0])

    assert place.traces(HERS[0]) == []


@pytest.mark.parametrize("marked", [True, False])
def test_an_earlier_id_that_was_on_its_way_is_erased_as_well(place: World, *, marked: bool) -> None:
    place.receive(an_event("a0", 0, None, anonymous_id=HERS[1]))
    place.flow()
    place.receive(her_identify())
    place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    if marked:
        place.eraser().run()
        place.flow()

    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    for _ in range(60):
        place.eraser().run()
        place.flow()
        place.wait(5)

    assert place.receipt(receipt["id"])["state"] == "done"
    assert place.traces(*HERS) == []


def test_a_link_of_which_one_half_was_written_goes(place: World) -> None:
    place.receive(an_event("a1", 1))
    place.flow()
    key = {"pk": {"S": f"demo#{HERS[0]}"}, "sk": {"S": f"~previous#{HERS[1]}"}}
    place.stores.events.client.put_item(TableName="events", Item={**key, "project": {"S": "demo"}})

    place.erase(HERS[0])

    assert place.traces(*HERS) == []


@pytest.mark.parametrize("arrivals", Arrivals)
def test_what_is_rejected_of_her_later_is_not_kept(arrivals: Arrivals) -> None:
    with world(arrivals) as place:
        place.receive(an_event("a1", 1, "18151815"))
        place.flow()
        place.erase("18151815")

        place.receive(an_event("late", 2, "18151815", event_type=""))
        place.receive({"event_id": "n", "event_type": "page_view", "user_id": 18151815, "timestamp": "2026-11-21"})
        place.receive(an_event("other", 2, "x", event_type="", anonymous_id="18151815"))

        assert place.traces("18151815") == []


def test_nobody_is_erased_because_others_claim_to_have_been_them(place: World) -> None:
    place.receive(an_event("b1", 1, THERE))
    place.flow()
    place.receive(an_event("m1", 2, "mallory", event_type="alias", properties={"previous_id": THERE}))
    place.flow()

    receipt = place.profiler.request_erasure("demo", "mallory", place.now_ms)

    assert receipt["ids"] == ["mallory"]
    assert place.profiler.request_erasure("demo", THERE, place.now_ms)["ids"] == [THERE]


def test_a_project_whose_name_begins_with_hers_keeps_everything(place: World) -> None:
    lived_in(place)
    bucket, table = place.stores.bucket, place.stores.events.client
    objects = {key.replace("demo", "demo-eu"): bucket.get(key) for key in place.stores.objects() if "demo" in key}
    for key, content in objects.items():
        bucket.put(key, content or b"")
    items = [
        item | {"pk": {"S": item["pk"]["S"].replace("demo#", "demo-eu#")}, "project": {"S": "demo-eu"}}
        for item in place.stores.items("events")
    ]
    for item in items:
        table.put_item(TableName="events", Item=item)

    place.erase(HERS[0])

    assert {key: bucket.get(key) for key in objects} == objects
    left = place.stores.items("events")
    assert [item for item in items if item not in left] == []


def test_who_was_renamed_there_and_back_can_be_erased(place: World) -> None:
    place.receive(an_event("k1", 1, "ada-2", event_type="alias", properties={"previous_id": "ada-1"}))
    place.receive(an_event("k2", 2, "ada-1", event_type="alias", properties={"previous_id": "ada-2"}))
    place.flow()

    receipts = [place.profiler.request_erasure("demo", user, place.now_ms) for user in ("ada-1", "ada-2")]

    assert [receipt["user_id"] for receipt in receipts] == ["ada-1", "ada-2"]


def test_what_others_say_is_theirs(place: World) -> None:
    place.receive(an_event("x1", 3, THERE, event_type="", properties={"size": "1815"}))
    history = an_event("f1", -9999, THERE, properties={"size": "1815"})
    place.drop(orjson.dumps(history))

    place.erase("1815")

    assert {trace.split()[3] for trace in place.traces(THERE)} >= {"raw/demo/a.ndjson"}
    assert any("quarantine" in trace for trace in place.traces(THERE))


def test_who_is_accepted_again_keeps_what_came_since() -> None:
    with world(Arrivals.ACCEPT) as place:
        an_import(place, "1", place.now_ms - MINUTE_MS)  # and is waited for
        receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
        place.eraser().run()
        place.wait(30)
        minute = (place.now_ms - TEN) / MINUTE_MS
        place.receive(an_event("new", minute, event_type="identify", properties={"email": "new@x.example"}))
        place.flow()

        for _ in range(5):
            place.eraser().run()

        assert place.receipt(receipt["id"])["state"] == "removing"
        assert place.profiler.user("demo", HERS[0])["traits"] == {"email": "new@x.example"}
        assert len(place.profiler.timeline("demo", HERS[0], 10, None)["events"]) == 1


def test_a_marker_that_was_put_late_is_seen_by_who_saw_later_ones(place: World) -> None:
    seconds = [0.0]
    reader = ErasedUsers(place.stores.connections.client, "control", lambda: seconds[0])
    event = {"event_id": "e", "occurred_at": 1}
    for user, at_ms in (("x", TEN + 15 * MINUTE_MS), ("y", TEN)):
        place.stores.erased.put("demo", Marker(digest_of_user("demo", user), at_ms, FOR_EVER_MS))
        seconds[0] += 3600
        assert reader.kept("demo", [{**event, "user_id": user}]) == []


def test_markers_and_ends_have_the_time_at_which_they_are_put(place: World) -> None:
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    times = iter(range(place.now_ms, place.now_ms + 10**9, MINUTE_MS))

    replace(place.eraser(), now=lambda: next(times)).run()

    found = place.stores.erasures.get("demo", receipt["id"])
    assert found is not None
    assert found.marked_ms is not None
    assert found.marked_ms > place.now_ms


def test_a_run_ends_in_time_and_the_next_goes_on(place: World) -> None:
    for day in range(5):
        place.receive(an_event(f"b{day}", -60 * 24 * day, THERE))
        place.flow()
    place.wait(120)
    place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    place.eraser().run()
    place.wait(90)
    looked: list[str] = []

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(place.lake, name)

        def rows_of(self, key: str, *arguments: Any) -> Any:
            looked.append(key)
            place.now_ms += 500_000
            return place.lake.rows_of(key, *arguments)

    eraser = replace(place.eraser(), lake=Slow())  # type: ignore[arg-type]
    eraser.run()
    first = len(looked)
    while place.stores.erasures.open()[0].state == "removing":
        place.now_ms += 17 * MINUTE_MS
        eraser.run()

    assert first == 2  # of which the second began in time
    assert len(looked) > first


def test_a_run_that_ends_before_it_read_a_day_leaves_that_day_to_the_next(place: World) -> None:
    for day in range(4):
        place.receive(an_event(f"h{day}", -60 * 24 * day, HERS[0]))
        place.flow()
    place.wait(120)
    ended: list[str] = []

    class Ending:
        def __getattr__(self, name: str) -> Any:
            return getattr(place.lake, name)

        def files(self, folder: str) -> dict[str, int]:
            day = folder.partition("dt=")[2][:10]
            if day not in ended:  # each day ends one run
                ended.append(day)
                raise TimeoutError("the bucket did not respond")
            return place.lake.files(folder)

    eraser = replace(place.eraser(), lake=Ending())  # type: ignore[arg-type]
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    for _ in range(60):
        with suppress(TimeoutError, ExceptionGroup):
            eraser.run()
        place.wait(5)

    assert len(ended) >= 4
    assert place.receipt(receipt["id"])["state"] == "done"
    assert place.traces(HERS[0]) == []


def test_what_is_done_stays_done(place: World) -> None:
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    late = place.stores.erasures.get("demo", receipt["id"])
    assert late is not None
    place.erase(HERS[0])

    place.stores.erasures.swept(late, place.now_ms)  # by a run that took longer
    place.stores.erasures.begin(late, [HERS[0]], place.now_ms, FOR_EVER_MS)

    assert place.receipt(receipt["id"])["state"] == "done"
    assert place.traces(*HERS) == []


def test_a_result_of_a_query_that_was_asked_after_the_lake_was_looked_through_goes_too(place: World) -> None:
    """Of one of many open hours a query sees replaced files, with her rows in them, until they are deleted."""
    place.receive(an_event("a1", 1))
    place.flow()
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    while place.receipt(receipt["id"])["state"] != "waiting":
        place.eraser().run()
        place.wait(20)
    place.ask_sql("asked-then", f"found {HERS[0]}")

    assert place.erase(HERS[0])["state"] == "done"
    assert place.traces(HERS[0]) == []


def test_who_is_erased_can_be_erased_again(place: World) -> None:
    before = place.erase(HERS[0])

    assert place.stores.erasures.open() == []
    assert place.profiler.request_erasure("demo", HERS[0], place.now_ms)["id"] != before["id"]


def test_no_death_leaves_her_name_in_a_link_of_somebody_else() -> None:
    """The other end of a link, which only her own items tell of: a run that dies in between must find them again."""
    for number in range(1, 40):
        life: list[str] = []
        with world() as place:
            place.receive(an_event("a1", 1))
            place.flow()
            place.receive(an_event("m1", 2, "mallory", event_type="alias", properties={"previous_id": HERS[0]}))
            place.flow()
            assert any("~previous#" in trace for trace in place.traces(HERS[0]))
            place.profiler.request_erasure("demo", HERS[0], place.now_ms)
            with suppress(Died):
                place.eraser(Mortal(place.stores.events.client, number, life=life)).run()
            place.wait(20)

            place.erase(HERS[0])

            place.wait(90)
            assert [each for each in place.traces(HERS[0]) if "~previous#" in each] == [], f"before write {number}"
        if len(life) < number:
            return
    raise AssertionError("an erasure takes more writes than were tried")


def test_an_erasure_that_died_at_its_end_ends_in_the_next_run(place: World) -> None:
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    while place.receipt(receipt["id"])["state"] != "waiting":
        place.eraser().run()
        place.wait(20)
    place.wait(90)
    for number in range(1, 9):
        life: list[str] = []
        with suppress(Died):
            place.eraser(Mortal(place.stores.events.client, number, life=life)).run()
        assert len(place.stores.erasures.open()) == (place.receipt(receipt["id"])["state"] != "done")
        place.wait(20)

    assert place.receipt(receipt["id"])["state"] == "done"


def test_a_spilled_object_that_nobody_can_read_stops_nothing(place: World) -> None:
    place.stores.bucket.put(f"{SPILL}demo/junk", b"\xff\xfe junk")

    assert place.erase(HERS[0])["state"] == "done"


def test_an_export_that_is_brought_up_to_date_has_nothing_of_the_erased(place: World, tmp_path: Path) -> None:
    place.receive(an_event("a1", -300), an_event("b1", 1, THERE))
    place.flow()
    place.wait(60)
    assert exporter(place).hour("demo", "2026-11-21T05", tmp_path) == 1

    place.erase(HERS[0])
    place.wait(90)

    assert exporter(place).hour("demo", "2026-11-21T05", tmp_path) == 0
    assert exporter(place).days("demo", tmp_path) == ["2026-11-21"]
    assert list(tmp_path.rglob("*.parquet")) == []
