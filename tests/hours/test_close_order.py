"""Closing in detail: what comes between two of its calls, and which of two steps has to be the first."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.base import waits
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, day_of
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.hours.sessionize import Sessionizer
from chalicelib.rollups.closed_table import HOUR as BY_HOUR
from chalicelib.rollups.closed_table import Conflict, one
from chalicelib.rollups.closing import NOTHING_COVERED
from chalicelib.rollups.rollups import Rollup
from chalicelib.rollups.signatures import slot_end
from tests.hours.test_close import HOUR, NINE, OVER, World, an_event
from tests.mortal import Died
from tests.stores import Stores, empty_stores

LATE = NINE + 2 * HOUR_MS  # what is received then has another slot


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.fixture
def world(stores: Stores) -> World:
    return World(stores)


class Interrupted:
    """A client before, or after, whose first call of a kind something else happens."""

    def __init__(
        self, client: Any, which: Callable[[str, dict[str, Any]], bool], *, before: Any = None, after: Any = None
    ):
        self.client, self.which = client, which
        self.before, self.after = before, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if name not in ("update_item", "put_item", "transact_write_items"):
            return found

        def call(**arguments: Any) -> Any:
            mine, self.which = self.which(name, arguments), self.which
            before, after = (self.before, self.after) if mine else (None, None)
            if mine:
                self.before = self.after = None
            if before:
                before()
            answer = found(**arguments)
            if after:
                after()
            return answer

        return call


def freezes(name: str, arguments: dict[str, Any]) -> bool:
    return name == "update_item" and arguments["UpdateExpression"].startswith("SET frozen")


def marks(name: str, arguments: dict[str, Any]) -> bool:
    return name == "update_item" and arguments["UpdateExpression"].startswith("SET epoch")


def test_what_is_merged_right_before_freezing_is_compared(world: World) -> None:
    world.receive(an_event(1))
    world.compact()
    world.receive(an_event(2))

    World(world.stores, Interrupted(world.stores.rollups.client, freezes, before=world.compact)).close()

    assert world.total() == 2
    assert world.stores.hours.get("demo", HOUR).upto == world.slot()  # the file has both, and so has what is live


def test_what_is_merged_right_after_freezing_is_not_compared(world: World) -> None:
    world.receive(an_event(1))
    world.compact()
    world.receive(an_event(2))

    closing = World(world.stores, Interrupted(world.stores.rollups.client, freezes, after=world.compact)).close()

    assert not closing.closed  # it is of the next epoch
    assert world.total() == 2
    assert world.close(OVER + 1).closed
    assert world.total() == 2


def test_what_is_merged_right_after_freezing_is_on_its_way(world: World) -> None:
    """When the stream has forgotten a slot, what is of the next epoch has to be waited for."""
    late = (slot_end(world.slot()) + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000) * 1000
    world.receive(an_event(1))
    world.compact()
    world.receive(an_event(2))

    client = Interrupted(world.stores.rollups.client, freezes, after=lambda: world.compact(late))
    assert not World(world.stores, client).close(late).closed

    assert world.total() == 2
    assert world.close(late + 1).closed
    assert world.total() == 2


def test_a_closing_begins_where_the_last_one_ended(world: World) -> None:
    """It holds what it read of the hour; a closing, or a version, that came since is another beginning."""
    hours = world.stores.hours
    world.receive(an_event(1))
    world.compact()
    world.close()
    before = hours.get("demo", HOUR)

    assert not hours.freeze(replace(before, epoch=before.epoch - 1))
    assert not hours.freeze(replace(before, frozen=before.frozen - 1))
    assert not hours.freeze(replace(before, version="0000000000001-earlier"))
    assert hours.freeze(before)


def test_a_closing_of_files_that_are_the_hour_s_no_more_changes_nothing(world: World) -> None:
    world.receive(an_event(1))
    world.compact()
    first = world.finisher.consolidator.consolidate("demo", HOUR, OVER)
    world.receive(an_event(2))
    world.finisher.consolidator.consolidate("demo", HOUR, OVER + 1)
    before = world.stores.hours.get("demo", HOUR)

    assert not world.closer.close("demo", HOUR, first.version, OVER).closed

    assert world.stores.hours.get("demo", HOUR) == before


def test_a_disagreement_does_not_end_while_something_is_on_its_way(world: World) -> None:
    late = (slot_end(world.slot()) + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000) * 1000
    world.receive(an_event(1))
    world.receive(an_event(2), archived=False)
    world.compact()
    world.receive(an_event(3))  # a delta that is not merged yet

    assert not world.close(late).closed
    assert world.total() == 3
    world.compact(late)
    assert world.close(late).closed
    assert world.total() == 2


def test_a_disagreement_does_not_end_while_a_file_is_unread(world: World) -> None:
    late = (slot_end(world.slot()) + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000) * 1000
    world.receive(an_event(1))
    world.compact()
    version = world.finisher.consolidator.consolidate("demo", HOUR, OVER).version
    world.receive(an_event(2))
    world.compact()

    assert not world.closer.close("demo", HOUR, version, late).closed

    assert world.total() == 2
    assert world.close(late).closed
    assert world.total() == 2


def test_what_is_covered_stays_covered(world: World) -> None:
    """Something late for an earlier slot, which only one of both has, does not undo the closing of a later slot."""
    world.receive(an_event(1), at=LATE)
    world.compact(LATE)
    assert world.close(LATE).closed
    upto = world.stores.hours.get("demo", HOUR).upto
    world.receive(an_event(2), archived=False)  # of an earlier slot
    world.compact(LATE)

    assert not world.close(LATE + 1).closed

    assert world.stores.hours.get("demo", HOUR).upto == upto
    assert world.total() == 2


def test_a_file_that_no_version_holds_keeps_its_hour_dirty(world: World) -> None:
    """Its tail was noted, and came after the version was made; nothing else may ever come."""
    world.receive(an_event(1))
    world.compact()
    version = world.finisher.consolidator.consolidate("demo", HOUR, OVER).version
    world.receive(an_event(2), aggregated=False)

    assert not world.closer.close("demo", HOUR, version, OVER).closed

    assert world.stores.hours.get("demo", HOUR).is_dirty


def test_what_comes_while_an_hour_is_written_keeps_it_dirty(world: World) -> None:
    world.receive(an_event(1))
    world.compact()

    client = Interrupted(world.stores.rollups.client, freezes, after=lambda: world.receive(an_event(2)))
    World(world.stores, client).close()

    assert world.stores.hours.get("demo", HOUR).is_dirty


def test_an_hour_is_marked_after_its_items(world: World) -> None:
    """What is marked may be cleaned up: it has to be in closed items by then."""
    world.receive(*map(an_event, range(10)))
    world.compact()
    right, seen = world.answers(), []

    def cleaned() -> None:
        seen.append(world.clean(OVER + waits.KEPT_MS + DAY_MS))
        assert world.answers() == right

    World(world.stores, Interrupted(world.stores.rollups.client, marks, after=cleaned)).close()

    assert seen == [True]


def test_live_items_stay_until_no_reader_can_need_them(world: World) -> None:
    world.receive(an_event(1))
    world.compact()
    closed_at = OVER + DAY_MS
    assert world.close(closed_at).closed

    assert not world.clean(closed_at + waits.CLEAN_MS - 1)
    assert world.clean(closed_at + waits.CLEAN_MS)


def test_live_items_of_slots_that_wait_are_not_deleted(world: World) -> None:
    world.receive(an_event(1))
    world.receive(an_event(2), at=LATE, archived=False)
    world.compact(LATE)
    assert not world.close(LATE).closed

    assert not world.clean(LATE + waits.KEPT_MS + DAY_MS)

    assert world.total() == 2


def test_an_hour_of_erased_users_alone_closes(world: World) -> None:
    """Its tail has no rows, and says yet which records it got."""
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "u2"), NINE, FOR_EVER_MS))
    world.receive(an_event(2))
    world.compact()

    assert world.close().closed
    assert world.total() == 0
    assert list(world.stores.closed.read("demo", "page_view", "u", BY_HOUR, HOUR, HOUR)) != []


def test_a_run_that_dies_with_sessions_half_counted_leaves_the_hour_dirty(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing had come: what it has written of sessions must be looked at again."""
    world.receive(an_event(1))
    world.compact()
    assert world.close().closed

    def die(*_: Any) -> int:
        raise Died

    monkeypatch.setattr(Sessionizer, "count", die)
    with pytest.raises(Died):
        world.close(OVER + 1)

    assert world.stores.hours.get("demo", HOUR).is_dirty


def test_a_final_slot_is_told_of_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is kept to compare a final slot with: compared again, it would differ, and alarm, each time."""
    world.receive(an_event(1))
    world.receive(an_event(2), archived=False)
    world.compact()
    late = (slot_end(world.slot()) + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000) * 1000
    assert world.close(late).closed
    world.receive(an_event(3), at=late)
    world.compact(late + HOUR_MS)
    caplog.clear()

    with caplog.at_level("INFO"):
        assert world.close(late + HOUR_MS).closed

    assert [record for record in caplog.records if hasattr(record, "EventsDrift")] == []


def test_a_day_s_note_stays_when_a_newer_one_came_while_it_was_put_together(world: World) -> None:
    closed, day = world.stores.closed, day_of(HOUR)
    closed.note_day("demo", day, "first")
    [token] = closed.noted_days("demo").values()
    closed.note_day("demo", day, "second")

    assert not closed.forget_day("demo", day, token)

    assert closed.noted_days("demo") == {day: "second"}
    assert closed.forget_day("demo", day, "second")


def test_deltas_of_several_slots_are_merged_apart(world: World) -> None:
    """Though they were written in the same minute: each slot is compared, and covered, by itself."""
    world.receive(an_event(1))
    world.receive(an_event(2), at=LATE)

    world.compact(LATE)

    items = world.stores.rollups.read_merged("demo", HOUR, HOUR)
    assert [(item.slot, item.signature.rows) for item in items] == [(world.slot(), 1), (world.slot(LATE), 1)]


def test_who_was_overtaken_marks_nothing(world: World) -> None:
    hours = world.stores.hours
    world.receive(an_event(1))
    before = hours.get("demo", HOUR)
    assert hours.freeze(before)
    assert hours.freeze(hours.get("demo", HOUR))
    after = hours.get("demo", HOUR)

    assert not hours.mark(before, replace(before, epoch=before.frozen + 1, done=before.changes), OVER)

    assert hours.get("demo", HOUR) == after


def test_a_closing_that_is_late_writes_no_item_over_a_later_one(world: World) -> None:
    """An erasure came, and ended, between its freezing and its first item."""
    world.receive(an_event(4), an_event(5))
    world.compact()

    client = Interrupted(world.stores.rollups.client, freezes, after=lambda: world.erase("u4"))
    assert not World(world.stores, client).close().closed

    assert (world.total(), world.total(metric="click")) == (1, 0)
    assert world.total(metric="click", agg="users", interval="day") == 0


def test_a_closed_item_is_written_over_the_version_that_was_read_alone(world: World) -> None:
    closed = world.stores.closed
    closed.put("demo", "click", "u", BY_HOUR, one(HOUR, NOTHING_COVERED, Rollup(), 0))
    [read] = closed.read("demo", "click", "u", BY_HOUR, HOUR, HOUR)
    closed.put("demo", "click", "u", BY_HOUR, read)

    with pytest.raises(Conflict):
        closed.put("demo", "click", "u", BY_HOUR, read)
    with pytest.raises(Conflict):
        closed.put("demo", "click", "u", BY_HOUR, replace(read, version=0))


def test_a_day_that_lacks_an_hour_is_told_by_its_hours(world: World) -> None:
    """Its item holds what was closed of the hour before, which the hour's own item holds as well."""
    question = {"metric": "page_views", "agg": "p50", "measure": "load_ms", "interval": "day"}
    world.receive(*map(an_event, (1, 2, 3)))
    world.compact()
    assert world.close(OVER + DAY_MS).closed
    world.receive(*map(an_event, (9, 10, 11, 13, 14)))
    world.compact()
    live = world.total(**question)
    version = world.finisher.consolidator.consolidate("demo", HOUR, OVER + DAY_MS).version

    assert world.closer.close("demo", HOUR, version, OVER + DAY_MS).closed

    assert world.total(**question) == live > 8
