"""The hour's tasks on real stores: compacted, then closed; twice, with hours that fail, with more than fit a task."""

from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib import finish
from chalicelib.domain.partitions import hour_folder
from chalicelib.domain.time_windows import MINUTE_MS, parse_ms
from chalicelib.storage.lake import Row
from tests.importing import World, a_world

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


def test_an_hour_that_cannot_be_compacted_is_counted_and_the_others_are_done(world: World) -> None:
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
