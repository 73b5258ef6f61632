"""A rollups table that was lost, or put back to an earlier time: all files count, and none that matters is deleted."""

from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib.consolidate import GRACE_MS, ORPHAN_MS
from chalicelib.domain.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.domain.partitions import hour_folder, import_tail_name
from chalicelib.domain.time_windows import HOUR_MS, parse_ms
from chalicelib.storage.hours_table import hour_key
from chalicelib.storage.lake import Row, encode, table_of
from tests.importing import World, a_world

HOUR = "2026-11-20T09"
NINE = parse_ms("2026-11-20T09:00:00Z")


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as found:
        yield found


def a_tail(world: World, *ids: str) -> None:
    """Events that came late."""
    rows = [Row({"event_id": i, "event_type": "click", "occurred_at": NINE, "user_id": f"of {i}"}, NINE) for i in ids]
    content = encode(table_of(rows))
    world.lake.put(hour_folder("demo", HOUR) + import_tail_name("late", content), content)
    world.hours.note("demo", HOUR)


def finish(world: World, hours_later: int = 0) -> None:
    world.now_ms += hours_later * HOUR_MS
    world.finisher.finish("demo", HOUR, world.now_ms)


def settle(world: World) -> None:
    """The hour is closed, and what it absorbed is deleted."""
    finish(world)
    world.now_ms += 3 * HOUR_MS
    assert clean(world)


def item(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.rollups.client.get_item(TableName="rollups", Key=hour_key("demo", HOUR))["Item"]
    return found


def lose_the_item(world: World) -> None:
    world.rollups.client.delete_item(TableName="rollups", Key=hour_key("demo", HOUR))


def put_back(world: World, before: dict[str, Any]) -> None:
    world.rollups.client.put_item(TableName="rollups", Item=before)


def clean(world: World) -> bool:
    return world.finisher.clean(world.hours.get("demo", HOUR), world.now_ms)


def test_a_late_event_does_not_cost_an_hour_whose_item_was_lost_its_files(world: World) -> None:
    a_tail(world, "e1", "e2")
    settle(world)
    lose_the_item(world)

    a_tail(world, "e3")
    finish(world, hours_later=3)
    world.now_ms += ORPHAN_MS + GRACE_MS
    assert clean(world)

    assert sorted(world.ids(HOUR)) == ["e1", "e2", "e3"]
    assert len(world.stores.objects(hour_folder("demo", HOUR))) == 1


def test_an_hour_whose_item_was_lost_is_read_from_all_its_files(world: World) -> None:
    a_tail(world, "e1", "e2")
    settle(world)

    lose_the_item(world)

    assert set(world.ids(HOUR)) == {"e1", "e2"}


def test_an_hour_of_a_version_that_is_gone_takes_in_what_there_is(world: World) -> None:
    a_tail(world, "e1")
    finish(world)
    before = item(world)
    a_tail(world, "e2")
    finish(world, hours_later=3)
    world.now_ms += GRACE_MS
    clean(world)

    put_back(world, before)

    assert world.ids(HOUR) == ["e1", "e2"]
    assert not clean(world)
    assert world.hours.get("demo", HOUR).is_dirty  # so that the schedule does the rest
    found = world.finisher.consolidate_due(world.now_ms + HOUR_MS)
    assert world.finisher.finish_all(found["hours"], world.now_ms + HOUR_MS) == {"closed": 1, "waiting": 0}
    assert world.ids(HOUR) == ["e1", "e2"]
    assert world.total("click") == 2


def test_what_is_taken_in_has_nothing_of_who_was_erased(world: World) -> None:
    a_tail(world, "e1", "e2")
    finish(world)
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "of e1"), NINE, FOR_EVER_MS))
    lose_the_item(world)

    finish(world)

    assert world.ids(HOUR) == ["e2"]
    assert world.total("click") == 1


def test_a_version_that_was_not_committed_counts_once_with_the_tails_that_it_is_made_of(world: World) -> None:
    a_tail(world, "e1", "e2")
    finish(world)
    lose_the_item(world)  # as if the run had died before it was committed: its tails are there yet
    a_tail(world, "e3")

    finish(world)

    assert sorted(world.ids(HOUR)) == ["e1", "e2", "e3"]
    assert world.total("click") == 3
