"""The life of an hour under the eyes of readers: killed at every write in turn, and asked between any two."""

import os
from dataclasses import replace

import pytest

from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, hour_of
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from tests.localcloud.analysts import Place
from tests.localcloud.conftest import NewPlace
from tests.localcloud.hour_story import FOLDER, HOUR, NINE, OVER, Died, World, assert_settled
from tests.localcloud.services import Services

APART = int(os.environ.get("DEATHS_APART", "9"))  # writes from one to die before to the next; 1: each, in a minute
LOOKS_APART = int(os.environ.get("LOOKS_APART", "5"))  # writes between two looks with the local cloud; 1: at each


def test_a_story_without_a_death_is_read_right_between_any_two_writes(new_place: NewPlace) -> None:
    world = World(new_place())
    world.between = world.check

    world.story()

    assert_settled(world)
    assert world.writes > 50


def test_the_local_cloud_reads_the_story_right_as_well(services: Services) -> None:
    world = World(Place(services))
    looks = 0

    def between() -> None:
        nonlocal looks
        if world.writes % LOOKS_APART == 0:
            looks += 1
            world.check()

    world.between = between

    world.story()

    assert_settled(world)
    assert looks * LOOKS_APART > 50


def test_a_query_finds_what_there_was_when_it_began_however_late_its_files_are_listed(new_place: NewPlace) -> None:
    world = World(new_place())
    begun: list[tuple[int, str, set[str]]] = []

    def between() -> None:
        for began_ms, query, ids in begun[-8::2]:
            if world.now_ms - began_ms <= 30 * MINUTE_MS:  # Athena ends a query then
                found = [row[0] for row in world.rows(world.query_runner.athena.start(query))]
                assert len(found) == len(set(found))
                assert ids <= set(found)
        begun.append((world.now_ms, world.query_runner.athena.state(world.ask()).sent, set(world.floor)))

    world.between = between

    world.story()

    assert_settled(world)


def test_killed_before_a_write_nothing_is_lost_doubled_or_misread(new_place: NewPlace) -> None:
    at, died = 1, True
    while died:
        # Before it dies, all is as in the story without a death; ten writes later, the dead run was made good.
        world = World(new_place(), at=at, watched=10)
        world.between = world.check

        world.story()

        assert_settled(world)
        died = world.writes >= at
        at += APART
    assert at > 50


@pytest.mark.parametrize("first", range(1, 5))
def test_who_is_late_with_an_older_version_changes_nothing_for_readers(new_place: NewPlace, first: int) -> None:
    """Before each write of a consolidation in turn, another process consolidates: a late event more, a user less."""
    for at in range(first, 20, 4):
        world = World(new_place())
        world.archive(100, [("a0", 10), ("a1", 11)], NINE + 40 * MINUTE_MS)
        world.archive(200, [("gone0", 12)], NINE + 41 * MINUTE_MS, user="gone")
        world.now_ms = OVER
        begun = world.writes
        came: list[int] = []

        def another(world: World = world, at: int = at, begun: int = begun, came: list[int] = came) -> None:
            if world.writes == begun + at - 1 and not came:
                came.append(at)
                writes, world.archiver = world.archiver, replace(world.archiver, hours=world.hours, lake=world.lake)
                world.archive(50, [("late", 13)], NINE + 42 * MINUTE_MS)
                world.archiver = writes
                world.floor -= {"gone0"}
                world.markers.put("demo", Marker(digest_of_user("demo", "gone"), world.now_ms, FOR_EVER_MS))
                world.another.finish("demo", HOUR, world.now_ms, anew=True)
                world.ceiling -= {"gone0"}
            world.check()

        world.between = another
        world.run()
        if not came:
            break
        world.settle()
        assert {event_id for event_id, _ in world.seen()} == {"a0", "a1", "late"} == world.ceiling
        assert len(world.lake.files(FOLDER)) == 1
    assert at > 6


@pytest.mark.parametrize("first", range(1, 5))
def test_a_run_that_dies_at_a_settled_hour_leaves_nothing_that_a_query_takes_for_the_hours(
    new_place: NewPlace, first: int
) -> None:
    """A tail that nobody noted brought it there; half an hour later its files are old enough for any query."""
    for at in range(first, 20, 4):
        world = World(new_place())
        world.archive(100, [("a0", 10), ("a1", 11)], NINE + 40 * MINUTE_MS)
        world.now_ms = OVER
        world.run()
        world.settle()
        world.archive_without_note(200, "b0")

        world.at = world.writes + at
        try:
            world.finisher().finish("demo", HOUR, world.now_ms)
            died = False
        except Died:
            died = True
        world.at = 0
        for _ in range(6):
            world.check()
            world.now_ms += 10 * MINUTE_MS
        if not died:
            break
        world.settle()
        world.check()
    assert at > 6


def test_a_tail_that_nobody_noted_is_seen_once_the_schedule_has_found_it(new_place: NewPlace) -> None:
    world = World(new_place())
    world.archive(100, [("a0", 10)], NINE + 40 * MINUTE_MS)
    world.now_ms = OVER
    world.run()
    world.archive_without_note(50, "b0")
    assert [row[0] for row in world.seen()] == ["a0"]

    world.run()

    assert sorted(row[0] for row in world.seen()) == ["a0", "b0"]
    world.floor |= {"b0"}
    world.settle()
    world.check()


@pytest.mark.parametrize("dirty", [False, True])
def test_with_more_open_hours_than_are_looked_into_no_replaced_version_is_read(
    new_place: NewPlace, dirty: bool
) -> None:
    """As in the hour after an erasure of hundreds of hours."""
    world = World(new_place())
    world.archive(100, [("a0", 10)], NINE + 40 * MINUTE_MS)
    world.archive(200, [("gone0", 12)], NINE + 41 * MINUTE_MS, user="gone")
    world.now_ms = OVER
    world.run()
    world.erase("gone", "gone0")
    for name in world.lake.files(FOLDER):
        if name.startswith("tail-") and dirty:  # those that it took in are read with their copies left out
            world.lake.delete(FOLDER + name)
    assert len(world.lake.files(FOLDER)) == (2 if dirty else 4)
    for number in range(201):
        world.hours.note("demo", hour_of(NINE - (number + 1) * HOUR_MS))
    if dirty:
        world.hours.note("demo", HOUR)

    world.check()

    assert len(world.hours.unsettled("demo")) == 202
    assert [row[0] for row in world.seen()] == ["a0"]
