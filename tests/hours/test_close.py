"""Closing: whoever reads at whatever moment, and whatever dies or comes late, sees each event once."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from chalicelib.base import waits
from chalicelib.base.dynamo import typed
from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.events.erasure import Marker, digest_of_user
from chalicelib.hours import compact
from chalicelib.hours.close import Closing
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake, Row
from chalicelib.lake.manifests import ManifestGone
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from chalicelib.rollups.closed_table import ClosedTable
from chalicelib.rollups.deltas import Merged
from chalicelib.rollups.history import History
from chalicelib.rollups.hours_table import hour_key
from chalicelib.rollups.ledger import Receipt
from chalicelib.rollups.rollups import RollupSpec
from chalicelib.rollups.rollups_table import RollupsTable
from chalicelib.rollups.signatures import slot_end
from tests.hours.finishing import finisher_of
from tests.mortal import Died, Mortal
from tests.stores import Stores, empty_stores, stream_record

HOUR = "2026-11-20T09"
NINE = parse_ms("2026-11-20T09:00:00Z")
OVER = NINE + 2 * HOUR_MS  # when it is over and everything has arrived
CONTRACTS = Contracts(
    {"page_view": Contract("page_view", "1-0-0", "page_views", RollupSpec(("path", "country"), ("load_ms",)))}
)
RANGE = {"metric": "page_views", "start": "2026-11-19", "end": "2026-11-21"}
QUESTIONS: tuple[dict[str, str], ...] = (
    {},
    {"metric": "events"},
    {"metric": "events", "group_by": "event_type"},
    {"metric": "users", "interval": "day"},
    {"interval": "minute", "start": "2026-11-20T09:00:00Z", "end": "2026-11-20T10:00:00Z"},
    {"agg": "users"},
    {"agg": "users", "interval": "day"},
    {"agg": "sum", "measure": "load_ms"},
    {"agg": "p95", "measure": "load_ms"},
    {"group_by": "path"},
    {"group_by": "path", "agg": "users", "interval": "week"},
    {"group_by": "country", "agg": "p50", "measure": "load_ms"},
    {"filter": "country:DE", "agg": "avg", "measure": "load_ms"},
    {"filter": "country:DE,FR", "agg": "count", "interval": "month"},
)


def an_event(number: int, minute: int | None = None) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "event_type": "page_view" if number % 4 else "click",
        "occurred_at": NINE + (number % 60 if minute is None else minute) * 60_000,
        "user_id": f"u{number % 7}",
        "properties": {"path": f"/{number % 5}", "country": ("DE", "FR", "IT")[number % 3], "load_ms": number},
    }


class World:
    """Events that are aggregated and archived, and what finishes their hour."""

    def __init__(self, stores: Stores, client: Any = None) -> None:
        self.stores = stores
        self.finisher = finisher_of(CONTRACTS, client or stores.rollups.client, stores.bucket.client, lambda: OVER)
        self.closer = self.finisher.closer
        self.records = 0

    def receive(
        self,
        *events: dict[str, Any],
        archived: bool = True,
        aggregated: bool = True,
        receipt: Receipt | None = None,
        at: int = NINE,
    ) -> None:
        """Count the events as one stream batch, and put them into the lake."""
        chunks = list(chunks_of(Message("demo", at, list(events), receipt)))
        records = [stream_record(chunk, self.records + n) for n, chunk in enumerate(chunks)]
        self.records += len(records)
        if aggregated:
            Aggregator(CONTRACTS, self.stores.rollups, self.stores.bucket).aggregate(records, NINE)
        if archived:
            Archiver(Lake(self.stores.bucket), self.stores.hours, self.stores.erased).archive(records)

    def compact(self, now_ms: int = OVER) -> None:
        Compactor(self.stores.rollups, self.stores.hours).compact(now_ms // 1000)

    def close(self, now_ms: int = OVER) -> Closing:
        return self.finisher.finish("demo", HOUR, now_ms).closing

    def clean(self, now_ms: int) -> bool:
        return self.closer.clean(self.stores.hours.get("demo", HOUR), now_ms)

    def erase(self, user: str) -> None:
        until_ms = NINE + 9 * HOUR_MS
        self.stores.erased.put("demo", Marker(digest_of_user("demo", user), NINE, until_ms))
        self.finisher.finish("demo", HOUR, OVER, anew=True)

    def slot(self, at: int = NINE) -> int:
        return (at // 1000 - 300) // 3600

    def answers(self) -> list[Any]:
        analytics = Analytics(CONTRACTS, History(self.stores.rollups, self.stores.closed))
        asked = (read_question({**RANGE, **question}) for question in QUESTIONS)
        return [analytics.answer("demo", question, NINE + 48 * HOUR_MS) for question in asked]

    def total(self, **question: str) -> Any:
        analytics = Analytics(CONTRACTS, self.stores.history)
        return analytics.answer("demo", read_question({**RANGE, "metric": "events", **question}), NINE)["total"]


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.fixture
def world(stores: Stores) -> World:
    return World(stores)


@pytest.mark.parametrize("now", [OVER, OVER + DAY_MS], ids=["on the same day", "when the day is over"])
def test_closing_changes_no_answer(world: World, now: int) -> None:
    for first in range(0, 60, 10):
        world.receive(*map(an_event, range(first, first + 10)))
    world.compact()
    before = world.answers()

    closing = world.close(now)
    closed = world.answers()
    cleaned = world.clean(now + waits.KEPT_MS + waits.CLEAN_MS)

    assert closing == Closing(True)
    assert closed == before
    assert cleaned
    assert world.answers() == before
    assert list(world.stores.rollups.read_merged("demo", "0", "9")) == []


def test_open_deltas_do_not_delay_closing(world: World) -> None:
    world.receive(an_event(1))
    world.compact()
    world.receive(an_event(2), at=NINE + 2 * HOUR_MS)

    closing = world.close()

    assert closing == Closing(False, world.slot(NINE + 2 * HOUR_MS))  # whose file has what no merged item has
    assert world.stores.hours.get("demo", HOUR).upto == world.slot()
    assert world.total() == 2
    world.compact()
    assert world.close().closed
    assert world.total() == 2


@pytest.mark.parametrize("lost", ["archived", "aggregated"])
def test_what_only_one_of_two_consumers_has_is_live_until_the_other_has_it(world: World, lost: str) -> None:
    world.receive(an_event(1))
    world.receive(an_event(2), an_event(3), **{lost: False})  # type: ignore[arg-type]
    world.compact()
    shown = world.total()

    for hours in range(20):
        assert not world.close(OVER + hours * HOUR_MS).closed
        assert world.total() == shown == (3 if lost == "archived" else 1)

    world.records -= 2
    world.receive(an_event(2), an_event(3), **{"archived" if lost == "aggregated" else "aggregated": False})  # type: ignore[arg-type]
    world.compact()
    assert world.close(OVER + 20 * HOUR_MS).closed
    assert world.total() == 3


def test_the_same_number_of_other_records_is_not_the_same(world: World) -> None:
    world.receive(an_event(1), archived=False)
    world.receive(an_event(2), aggregated=False)
    world.compact()

    assert not world.close().closed


def test_what_differs_for_longer_than_the_stream_remembers_is_put_back_from_the_hot_store(world: World) -> None:
    world.receive(an_event(1))
    world.receive(an_event(2), archived=False)
    world.stores.events.write(chunks_of(Message("demo", NINE, [an_event(2)])))
    world.compact()
    late = (NINE // 1000 + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000 + 2 * 3600) * 1000

    assert not world.close(late).closed  # what is put back is for the next run
    assert world.close(late).closed
    assert world.total() == 2
    assert ids_of(world) == ["e1", "e2"]


def test_what_is_gone_everywhere_but_live_follows_the_file_at_last_and_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.receive(an_event(1))
    world.receive(an_event(2), archived=False)
    world.compact()
    late = (slot_end(world.slot()) + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000) * 1000

    assert not world.close(late - 1000).closed
    assert world.total() == 2
    with caplog.at_level("INFO"):
        assert world.close(late).closed
    assert world.total() == 1
    assert [r.EventsDrift for r in caplog.records if hasattr(r, "EventsDrift")] == [1]
    world.receive(an_event(3), at=late)  # a final slot is not compared again
    world.compact(late + 3_600_000)
    assert world.close(late + 3_600_000).closed
    assert world.total() == 2


def test_the_same_event_in_another_batch_counts_twice_until_its_hour_is_closed(world: World) -> None:
    world.receive(an_event(1))
    world.receive({**an_event(2), "event_id": "e1"}, at=NINE + 1)
    world.compact()

    assert world.total() == 2
    assert world.close().closed
    assert world.total() == 1


def test_what_comes_after_closing_is_counted_at_once_and_closed_again(world: World) -> None:
    world.receive(*map(an_event, range(10)))
    world.compact()
    world.close()

    world.receive(an_event(10), an_event(11))
    assert world.total() == 12
    world.compact()
    assert world.total() == 12
    before = world.answers()
    assert world.close(OVER + 60_000).closed
    assert world.answers() == before
    world.clean(OVER + DAY_MS)
    assert world.answers() == before


def test_a_type_that_only_live_items_have_is_closed_with_nothing(world: World) -> None:
    """Its event is in the file of another hour's closing, or of another type: what counts is the file."""
    world.receive(an_event(1))
    world.receive(an_event(4), archived=False)
    world.compact()
    late = (slot_end(world.slot()) + (waits.RETENTION_MS + waits.MARGIN_MS) // 1000) * 1000

    assert world.close(late).closed
    assert world.total(metric="click") == 0
    assert world.total(metric="click", agg="users", interval="day") == 0
    assert world.total(metric="users", interval="day") == 1


def test_rows_of_an_import_are_closed_though_nothing_of_them_is_live(world: World) -> None:
    world.stores.rollups.note_types("demo", {"page_view", "click"}, CONTRACTS.by_type)
    lake = Lake(world.stores.bucket)
    lake.write(f"{hour_folder('demo', HOUR)}tail-import-1.parquet", [Row(an_event(n), NINE) for n in range(20)])
    world.stores.hours.note("demo", HOUR)

    assert world.close().closed
    assert world.total() == 20


def test_the_ledger_of_a_closed_hour_is_kept_once(world: World) -> None:
    world.receive(*map(an_event, range(10)), receipt=Receipt("c", received=12, quarantined=2))
    world.compact()
    before = world.stores.history.ledger("demo", HOUR).balance()
    world.close()
    world.close()

    assert before["received"] == 12
    assert before["in_flight"] == 0
    assert world.stores.history.ledger("demo", HOUR).balance() == before
    world.clean(OVER + DAY_MS)
    assert world.stores.history.ledger("demo", HOUR).balance() == before


def test_a_closing_that_dies_at_any_write_adds_nothing_to_the_ledger_twice(stores: Stores) -> None:
    world = World(stores)
    world.receive(*map(an_event, range(10)), receipt=Receipt("c", received=12, quarantined=2))
    world.receive(an_event(10), {**an_event(11), "enrichment": {"bot": True}})
    world.compact()
    before = stores.history.ledger("demo", HOUR)
    right = before.balance(), before.counted, before.bots

    for number in count(1):
        try:
            World(stores, Mortal(stores.rollups.client, number)).close(OVER + number)
            break
        except Died:
            found = stores.history.ledger("demo", HOUR)
            assert (found.balance(), found.counted, found.bots) == right

    assert number > 10
    found = stores.history.ledger("demo", HOUR)
    assert (found.balance(), found.counted, found.bots) == right


def test_what_is_erased_is_gone_from_the_answers(world: World) -> None:
    world.receive(an_event(4), an_event(5))  # a click of u4 and a page view of u5
    world.compact()
    world.close(OVER)

    world.erase("u4")

    assert world.total() == 1
    assert world.total(metric="click") == 0
    assert world.total(metric="click", agg="users", interval="day") == 0


def test_a_late_closing_of_a_version_that_an_erasure_replaced_changes_nothing(world: World) -> None:
    world.receive(an_event(4), an_event(5))
    world.compact()
    before = world.finisher.consolidator.consolidate("demo", HOUR, OVER)
    world.erase("u4")

    late = world.closer.close("demo", HOUR, before.version, OVER + 60_000)

    assert not late.closed
    assert world.total() == 1
    assert not world.stores.hours.get("demo", HOUR).is_dirty


def test_a_closing_whose_version_is_replaced_while_it_writes_changes_nothing() -> None:
    """At each of its writes in turn, an erasure comes in between and ends."""
    for number in count(1):
        with empty_stores() as found:
            world = World(found)
            world.receive(an_event(4), an_event(5))
            world.compact()
            mortal = Mortal(found.rollups.client, look=lambda: erase_once())
            done: list[int] = []

            def erase_once(world: World = world, done: list[int] = done, number: int = number) -> None:
                done.append(1)
                if len(done) == number:
                    world.erase("u4")

            World(found, mortal).close()
            world.close(OVER + 1)
            assert (world.total(), world.total(metric="click")) == (1, 0) if len(done) >= number else (2, 1)
            if len(done) < number:
                break
    assert number > 10


def test_dying_at_any_write_and_closing_again_changes_no_answer(stores: Stores) -> None:
    world = World(stores)
    for first in range(0, 12, 4):
        world.receive(*map(an_event, range(first, first + 4)))
    world.compact()
    world.close(OVER)
    world.receive(*map(an_event, range(12, 15)))  # late
    world.compact()
    right = world.answers()
    questions_seen = 0

    def look() -> None:
        nonlocal questions_seen
        questions_seen += 1
        assert world.answers() == right

    for number in count(1):
        try:
            World(stores, Mortal(stores.rollups.client, number)).close(OVER + DAY_MS)
            break
        except Died:
            assert world.answers() == right
    assert not stores.hours.get("demo", HOUR).is_dirty
    stores.hours.note("demo", HOUR)
    assert World(stores, Mortal(stores.rollups.client, look=look)).close(OVER + DAY_MS).closed

    assert min(number, questions_seen) > 20
    assert world.close(OVER + 2 * DAY_MS).closed
    world.clean(OVER + 9 * DAY_MS)
    assert world.answers() == right


def test_a_day_that_is_put_together_while_an_hour_is_written_is_put_together_again(stores: Stores) -> None:
    world = World(stores)
    world.receive(*map(an_event, range(12)))
    world.compact()
    right = world.answers()
    others = World(stores)

    def look() -> None:
        others.closer.close_days("demo", OVER + DAY_MS)

    assert World(stores, Mortal(stores.rollups.client, look=look)).close(OVER + DAY_MS).closed
    others.closer.close_days("demo", OVER + DAY_MS)
    others.clean(OVER + 9 * DAY_MS)

    assert world.answers() == right


def test_who_put_a_day_together_while_an_hour_was_written_does_not_take_the_later_note_away(stores: Stores) -> None:
    """It forgets the day after all is written, and by the note that it saw: the one of before."""
    world = World(stores)
    world.receive(*map(an_event, range(12)))
    world.compact()
    right = world.answers()
    forgets: list[tuple[str, str, str]] = []

    class Slow(ClosedTable):
        def forget_day(self, project: str, day: str, token: str) -> bool:
            forgets.append((project, day, token))
            return True

    other = replace(World(stores).closer, closed=Slow(stores.rollups.client, "rollups"))

    def look() -> None:
        """Another puts the day together once, right after the first note."""
        if not forgets:
            other.close_days("demo", OVER + DAY_MS)

    done = world.finisher.consolidator.consolidate("demo", HOUR, OVER + DAY_MS)
    closer = World(stores, Mortal(stores.rollups.client, look=look)).closer
    assert closer.close("demo", HOUR, done.version, OVER + DAY_MS).closed
    for each in forgets:
        stores.closed.forget_day(*each)
    noted = stores.closed.noted_days("demo")
    World(stores).closer.close_days("demo", OVER + DAY_MS)
    World(stores).clean(OVER + 9 * DAY_MS)

    assert forgets
    assert noted
    assert world.answers() == right


def test_an_hour_in_which_an_erased_user_came_alone_is_closed_at_once(world: World) -> None:
    """`process` stored the event before the marker was known, and `archive` knows it: no row, but the record."""
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "u1"), NINE, NINE + 9 * HOUR_MS))
    world.receive(an_event(1))
    world.compact()

    assert world.close().closed
    assert world.total() == 0


def ids_of(world: World) -> list[str]:
    """The ids of the hour's rows."""
    _, keys = world.stores.folders.keys(world.stores.hours, "demo", HOUR)
    return [e for batch in Lake(world.stores.bucket).batches(keys) for e in batch.column("event_id").to_pylist()]


def test_the_files_of_an_hour_whose_item_was_lost_are_taken_up_again(world: World) -> None:
    """As after the rollups table was put back to an earlier time: tails that a later version took in are gone."""
    world.receive(an_event(1))
    world.compact()
    world.close()
    earlier = world.stores.rollups.client.get_item(
        TableName="rollups", Key=typed(hour_key("demo", HOUR)), ConsistentRead=True
    )["Item"]
    world.receive(an_event(2))
    world.compact()
    world.close(OVER + HOUR_MS)
    hour = world.stores.hours.get("demo", HOUR)
    world.finisher.clean(hour, OVER + 9 * HOUR_MS)
    assert len(world.stores.objects("lake/")) == 1

    for item in (earlier, None):
        if item:
            world.stores.rollups.client.put_item(TableName="rollups", Item=item)
        else:
            world.stores.rollups.client.delete_item(TableName="rollups", Key=typed(hour_key("demo", HOUR)))
        with suppress(ManifestGone):
            world.finisher.consolidator.clean(world.stores.hours.get("demo", HOUR), OVER + 99 * HOUR_MS)
        world.finisher.consolidator.consolidate("demo", HOUR, OVER + 99 * HOUR_MS)

        assert ids_of(world) == ["e1", "e2"]


def test_bots_and_erased_users_do_not_disturb_closing(world: World) -> None:
    bot = {**an_event(1), "enrichment": {"bot": True}}
    world.stores.erased.put("demo", Marker(digest_of_user("demo", "u2"), NINE, NINE + 9 * HOUR_MS))
    world.receive(bot, an_event(2), an_event(3))
    world.compact()

    assert world.close().closed
    assert world.total() == 1
    assert ids_of(world) == ["e1", "e3"]


def test_nothing_joins_an_epoch_that_is_frozen(world: World) -> None:
    world.receive(an_event(1))
    hours, rollups = world.stores.hours, world.stores.rollups
    before = hours.get("demo", HOUR)
    [delta] = rollups.deltas_of("demo", HOUR)
    late = Merged("late", HOUR, before.frozen + 1, delta.slot, "m", 1, delta.signature, delta.rollups, {delta.id: 1})

    assert hours.freeze(before)

    assert not rollups.absorb([delta], late)
    assert [each.id for each in rollups.deltas_of("demo", HOUR)] == [delta.id]


def test_an_hour_whose_items_were_folded_closes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "MIN_FOLD", 1)
    for number in range(1, 4):
        world.receive(an_event(number))
        world.compact(OVER + number * 10 * 60_000)
    assert any(item.folded for item in world.stores.rollups.read_merged("demo", HOUR, HOUR))

    assert world.close(OVER + HOUR_MS).closed
    assert world.total() == 3


def test_a_closing_that_reads_while_items_are_folded_counts_them_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page with the items is read before they are folded, the next one, with their base, after it."""
    monkeypatch.setattr(compact, "MIN_FOLD", 1)
    world.receive(an_event(1), receipt=Receipt("c", received=1))
    world.compact()
    before = list(world.stores.rollups.read_merged("demo", HOUR, HOUR))
    world.receive(an_event(2), receipt=Receipt("c", received=2))
    world.compact(OVER + 20 * 60_000)
    after = list(world.stores.rollups.read_merged("demo", HOUR, HOUR))
    assert any(item.folded for item in after)
    monkeypatch.setattr(RollupsTable, "read_merged", lambda *_: iter([*before, *after]))

    assert world.close(OVER + HOUR_MS).closed
    monkeypatch.undo()
    assert world.stores.history.ledger("demo", HOUR).balance()["stored"] == 2


def test_a_merge_and_a_closing_between_two_reads_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with empty_stores() as stores:
        world = World(stores)
        world.receive(*map(an_event, range(10)))
        right = world.answers()
    read = ClosedTable.read

    def meanwhile(self: ClosedTable, *arguments: Any) -> Any:
        monkeypatch.setattr(ClosedTable, "read", read)
        world.compact()
        assert world.close().closed
        return read(self, *arguments)

    for question, answer in zip(QUESTIONS, right, strict=True):
        with empty_stores() as stores:
            world = World(stores)
            world.receive(*map(an_event, range(10)))
            monkeypatch.setattr(ClosedTable, "read", meanwhile)
            analytics = Analytics(CONTRACTS, History(stores.rollups, stores.closed))
            asked = read_question({**RANGE, **question})
            assert analytics.answer("demo", asked, NINE + 48 * HOUR_MS) == answer
            assert ClosedTable.read is read


def test_a_retried_close_takes_up_only_what_is_left(world: World) -> None:
    world.receive(an_event(1))
    world.compact()
    task = [{"project": "demo", "hour": HOUR}]

    assert world.finisher.finish_all(task, OVER) == {"closed": 1, "waiting": 0}
    epoch = world.stores.hours.get("demo", HOUR).epoch
    assert world.finisher.finish_all(task, OVER) == {"closed": 1, "waiting": 0}
    assert world.stores.hours.get("demo", HOUR).epoch == epoch


def test_a_page_that_comes_after_a_thousand_others_has_all_of_its_views(world: World) -> None:
    crawled = [{**an_event(1), "event_id": f"c{n}", "properties": {"path": f"/crawled/{n}"}} for n in range(1_200)]
    paths = [f"/thin/{n // 2}" if n % 3 else "/checkout" for n in range(2_100)]
    views = [{**an_event(2), "event_id": f"v{n}", "properties": {"path": path}} for n, path in enumerate(paths)]
    for batch in (crawled, views[:1_500], views[1_500:]):
        world.receive(*batch)
    question = {"metric": "page_views", "filter": "path:/checkout"}

    assert world.total(**question) == 700
    world.compact()
    world.close()

    assert world.total(**question) == 700
    assert world.total(**question, interval="day") == 700
    [item] = world.stores.closed.read("demo", "page_view", "n|path", "h", HOUR, HOUR)
    values = item.rollups[""].dimensions["path"]
    assert (values.doubt("/checkout"), values.missed, len(values)) == (0, 1, 1_001)
    assert sum(cell.count for cell in values.values()) == 3_300
