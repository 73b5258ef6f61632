"""An hour whose item was lost, while what it was closed to is there yet."""

from collections.abc import Iterator

import pytest

from chalicelib.base.dynamo import typed
from chalicelib.base.object_keys import hour_folder, import_tail_name
from chalicelib.base.time_windows import parse_ms
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.lake.lake import Row, encode, table_of
from chalicelib.rollups.hours_table import hour_key
from tests.imports.importing import World, a_world

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


def finish(world: World) -> None:
    world.finisher.finish("demo", HOUR, world.now_ms)


def lose_the_item(world: World) -> None:
    world.rollups.client.delete_item(TableName="rollups", Key=typed(hour_key("demo", HOUR)))


def test_who_was_erased_since_is_not_counted_any_more(world: World) -> None:
    a_tail(world, "e1", "e2")
    finish(world)
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "of e1"), NINE, FOR_EVER_MS))
    lose_the_item(world)

    finish(world)

    assert world.ids(HOUR) == ["e2"]
    assert world.total("click") == 1


def test_what_came_since_is_counted_with_what_was_closed_before(world: World) -> None:
    a_tail(world, "e1", "e2")
    finish(world)
    lose_the_item(world)
    a_tail(world, "e3")

    finish(world)

    assert sorted(world.ids(HOUR)) == ["e1", "e2", "e3"]
    assert world.total("click") == 3
