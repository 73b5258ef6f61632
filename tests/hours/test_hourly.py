"""The hour's tasks on real stores: consolidated, then closed; twice, with hours that fail, with more than fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import MINUTE_MS, parse_ms
from chalicelib.hours import finish
from chalicelib.hours.close import Closer, Closing
from chalicelib.lake.lake import Row
from tests.imports.importing import World, a_world
from tests.mortal import Died

HOURS = ["2026-11-20T07", "2026-11-20T08", "2026-11-20T09"]


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as found:
        for number, hour in enumerate(HOURS):
            tail(found, hour, f"e{number}")
        yield found


def tail(world: World, hour: str, event_id: str) -> None:
    event = {"event_id": event_id, "event_type": "visit", "user_id": "u", "occurred_at": parse_ms(f"{hour}:05:00Z")}
    name = f"tail-import-{event_id}.parquet"
    world.lake.write(hour_folder("demo", hour) + name, [Row(event, world.now_ms)])
    world.hours.note("demo", hour)


def close(world: World, found: dict[str, Any]) -> dict[str, int]:
    return world.finisher.finish_all(found["hours"], world.now_ms)


def dirty(world: World) -> list[str]:
    return [hour.hour for hour in world.hours.unsettled("demo") if hour.is_dirty]


def test_hours_are_dirty_until_they_are_closed(world: World) -> None:
    found = world.finisher.consolidate_due(world.now_ms)

    assert [hour["hour"] for hour in found["hours"]] == HOURS
    assert (found["failed"], found["more"]) == (0, False)
    assert dirty(world) == HOURS
    assert close(world, found) == {"closed": 3, "waiting": 0}
    assert dirty(world) == []
    assert world.total("visit") == 3


def test_a_task_that_died_leaves_what_it_closed_when_it_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world.finisher.consolidate_due(world.now_ms)
    close_one, begun = Closer.close, list[str]()

    def dying(self: Closer, project: str, hour: str, *of: Any, **how: Any) -> Closing:
        begun.append(hour)
        if begun == HOURS[:2]:
            raise Died
        return close_one(self, project, hour, *of, **how)

    monkeypatch.setattr(Closer, "close", dying)
    with pytest.raises(Died):
        close(world, found)

    assert close(world, found) == {"closed": 3, "waiting": 0}
    assert begun == [HOURS[0], HOURS[1], HOURS[1], HOURS[2]]
    assert world.total("visit") == 3


def test_what_does_not_fit_a_task_is_done_by_its_repetition(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = world.finisher.consolidate_due(world.now_ms)
    close_one, seconds = Closer.close, [0.0]

    def slow(self: Closer, *of: Any, **how: Any) -> Closing:
        seconds[0] += 0.6 * finish.FUNCTION_SECONDS
        return close_one(self, *of, **how)

    monkeypatch.setattr(Closer, "close", slow)
    finisher = replace(world.finisher, clock=lambda: seconds[0])

    done = [finisher.finish_all(found["hours"], world.now_ms) for _ in range(3)]

    assert done == [{"closed": 2, "waiting": 1}, {"closed": 3, "waiting": 0}, {"closed": 3, "waiting": 0}]
    assert seconds[0] == pytest.approx(3 * 0.6 * finish.FUNCTION_SECONDS)
    assert world.total("visit") == 3


def test_closing_again_after_a_death_changes_nothing(world: World) -> None:
    found = world.finisher.consolidate_due(world.now_ms)
    close(world, {"hours": found["hours"][:2]})

    close(world, found)

    assert world.total("visit") == 3
    assert dirty(world) == []


def test_hours_whose_workflow_died_are_taken_up_by_the_next(world: World) -> None:
    world.finisher.consolidate_due(world.now_ms)
    world.now_ms += 60 * MINUTE_MS

    found = world.finisher.consolidate_due(world.now_ms)

    assert close(world, found)["closed"] == 3
    assert world.total("visit") == 3


def test_what_comes_between_the_tasks_is_closed_with_the_rest(world: World) -> None:
    found = world.finisher.consolidate_due(world.now_ms)
    tail(world, HOURS[0], "late")

    assert close(world, found) == {"closed": 3, "waiting": 0}
    assert dirty(world) == []
    assert world.total("visit") == 4


def test_what_comes_after_an_hour_was_closed_is_closed_after_a_rest(world: World) -> None:
    close(world, world.finisher.consolidate_due(world.now_ms))
    tail(world, HOURS[0], "late")

    assert world.finisher.consolidate_due(world.now_ms)["hours"] == []
    world.now_ms += 31 * MINUTE_MS
    assert close(world, world.finisher.consolidate_due(world.now_ms))["closed"] == 1
    assert world.total("visit") == 4


def test_a_task_takes_some_hours_and_says_that_there_are_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MAX_HOURS", 2)

    first = world.finisher.consolidate_due(world.now_ms)
    close(world, first)
    second = world.finisher.consolidate_due(world.now_ms)

    assert [hour["hour"] for hour in first["hours"] + second["hours"]] == HOURS
    assert (first["more"], second["more"]) == (True, False)


def test_hours_that_nothing_came_of_yet_keep_no_others_from_their_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "MAX_HOURS", 1)
    for hour in ("2026-11-20T05", "2026-11-20T06"):
        world.hours.note("demo", hour)  # as by compaction, while `archive` is behind

    found: list[dict[str, Any]] = []
    while len(found) < 20 and (not found or found[-1]["more"]):
        found.append(world.finisher.consolidate_due(world.now_ms))

    assert [hour["hour"] for one in found for hour in one["hours"]] == ["2026-11-20T05", "2026-11-20T06", *HOURS]
    assert len(found) == 6


def test_an_hour_that_cannot_be_consolidated_is_counted_and_the_others_are_done(world: World) -> None:
    world.stores.bucket.put(hour_folder("demo", HOURS[1]) + "tail-x.parquet", b"no parquet")

    found = world.finisher.consolidate_due(world.now_ms)

    assert found["failed"] == 1
    assert close(world, found)["closed"] == 2


def test_an_hour_that_cannot_be_closed_fails_the_task_after_the_others_are_done(world: World) -> None:
    found = world.finisher.consolidate_due(world.now_ms)
    world.stores.bucket.put(hour_folder("demo", HOURS[0]) + "tail-x.parquet", b"no parquet")

    with pytest.raises(ExceptionGroup, match="1 hours were not closed"):
        close(world, found)

    assert dirty(world) == HOURS[:1]
    assert world.total("visit") == 2
