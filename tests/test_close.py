"""Closing: whoever reads at whatever moment, and whatever dies or comes late, sees each event once."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from chalicelib.aggregate import Aggregator
from chalicelib.close import CLEAN_SECONDS, KEPT_SECONDS, PATIENCE_SECONDS, Closer, Closing
from chalicelib.compact import Compactor
from chalicelib.domain.chunks import Message, chunks_of
from chalicelib.domain.contracts import Contract, Contracts
from chalicelib.domain.ledger import Receipt
from chalicelib.domain.questions import read_question
from chalicelib.domain.rollups import RollupSpec
from chalicelib.domain.time_windows import HOUR_MS, parse_ms
from chalicelib.report import Reporter
from chalicelib.storage.closed_table import ClosedTable
from chalicelib.storage.history import History
from chalicelib.storage.rollups_table import RollupsTable
from tests.mortal import Died, Mortal
from tests.stores import Stores, empty_stores, stream_record

HOUR = "2026-11-20T09"
NINE = parse_ms("2026-11-20T09:00:00Z")
OVER = NINE // 1000 + 2 * 3600  # when it is over and everything has settled, in seconds
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
    """Events that are aggregated, and a file that holds each once."""

    def __init__(self, stores: Stores, client: Any = None) -> None:
        self.stores = stores
        self.rollups = RollupsTable(client or stores.rollups.client, "rollups")
        self.closed = ClosedTable(client or stores.rollups.client, "rollups")
        self.closer = Closer(CONTRACTS, self.rollups, self.closed, "test")
        self.file: dict[str, dict[str, Any]] = {}
        self.records = 0

    def aggregate(self, *events: dict[str, Any], archived: bool = True, receipt: Receipt | None = None) -> None:
        """Count the events as one stream batch, and put them into the file."""
        chunks = list(chunks_of(Message("demo", NINE, list(events), receipt)))
        records = [stream_record(chunk, self.records + n) for n, chunk in enumerate(chunks)]
        self.records += len(records)
        Aggregator(CONTRACTS, self.stores.rollups, self.stores.bucket).aggregate(records, NINE // 1000)
        if archived:
            self.file |= {event["event_id"]: event for event in events}

    def compact(self, now: int = OVER) -> None:
        Compactor(self.stores.rollups, self.stores.dirty).compact(now)

    def close(self, now: int = OVER) -> Closing:
        closing = self.closer.close("demo", HOUR, list(self.file.values()), now)
        self.closer.close_days("demo", now)
        return closing

    def answers(self) -> list[Any]:
        reporter = Reporter(CONTRACTS, History(self.stores.rollups, self.stores.closed))
        asked = (read_question({**RANGE, **question}) for question in QUESTIONS)
        return [reporter.analytics("demo", question, NINE + 48 * HOUR_MS) for question in asked]

    def total(self, **question: str) -> Any:
        reporter = Reporter(CONTRACTS, self.stores.history)
        return reporter.analytics("demo", read_question({**RANGE, "metric": "events", **question}), NINE)["total"]


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.fixture
def world(stores: Stores) -> World:
    return World(stores)


@pytest.mark.parametrize("now", [OVER, OVER + 86_400], ids=["on the same day", "when the day is over"])
def test_closing_changes_no_answer(world: World, now: int) -> None:
    for first in range(0, 60, 10):
        world.aggregate(*map(an_event, range(first, first + 10)))
    world.compact()
    before = world.answers()

    closing = world.close(now)
    closed = world.answers()
    cleaned = world.closer.clean("demo", now + KEPT_SECONDS + CLEAN_SECONDS + 3600)

    assert closing == Closing(True, 0, 60)
    assert closed == before
    assert cleaned == 1
    assert world.answers() == before
    assert list(world.stores.rollups.read_merged("demo", "0", "9")) == []


def test_an_hour_waits_for_open_deltas_and_for_what_is_not_in_the_file_yet(world: World) -> None:
    world.aggregate(an_event(1))
    assert not world.close().closed  # a delta is open

    world.compact()
    world.aggregate(an_event(2), archived=False)
    world.compact()
    assert world.close() == Closing(False, 1, 1)
    assert world.total() == 2


def test_what_still_differs_after_a_while_follows_the_file_and_is_told(world: World) -> None:
    world.aggregate(an_event(1))
    world.aggregate({**an_event(2), "event_id": "e1"})  # the same event in another batch
    world.compact(OVER)
    world.file = {"e1": an_event(1)}

    assert world.total() == 2
    assert not world.close(OVER + PATIENCE_SECONDS - 1).closed
    assert world.close(OVER + PATIENCE_SECONDS) == Closing(True, 1, 1)
    assert world.total() == 1


def test_what_comes_after_closing_is_counted_at_once_and_closed_again(world: World) -> None:
    world.aggregate(*map(an_event, range(10)))
    world.compact()
    world.close()

    world.aggregate(an_event(10), an_event(11))
    assert world.total() == 12
    world.compact()
    assert world.total() == 12
    before = world.answers()
    assert world.close(OVER + 60).closed
    assert world.answers() == before
    world.closer.clean("demo", OVER + 86_400)
    assert world.answers() == before


def test_an_import_of_an_hour_without_live_items_is_closed_from_its_file(world: World) -> None:
    world.file = {f"e{n}": an_event(n) for n in range(20)}
    world.stores.rollups.names("demo", {"page_view", "click"}, CONTRACTS.by_type)

    assert world.close(OVER) == Closing(True, 20, 20)
    assert world.total() == 20


def test_the_ledger_of_a_closed_hour_is_kept_once(world: World) -> None:
    world.aggregate(*map(an_event, range(10)), receipt=Receipt("c", received=12, quarantined=2))
    world.compact()
    before = world.stores.history.ledger("demo", HOUR).balance()
    world.close()
    world.close()

    assert before["received"] == 12
    assert before["in_flight"] == 0
    assert world.stores.history.ledger("demo", HOUR).balance() == before
    world.closer.clean("demo", OVER + 86_400)
    assert world.stores.history.ledger("demo", HOUR).balance() == before


def test_a_type_that_is_gone_from_the_file_is_gone_from_the_answers(world: World) -> None:
    world.aggregate(an_event(4), an_event(5))  # a click and a page view
    world.compact()
    world.close(OVER + 86_400)
    del world.file["e4"]

    assert world.close(OVER + 2 * 86_400).closed
    assert world.total() == 1
    assert world.total(metric="click") == 0
    assert world.total(metric="click", agg="users", interval="day") == 0


def test_dying_at_any_write_and_closing_again_changes_no_answer(stores: Stores) -> None:
    world = World(stores)
    for first in range(0, 12, 4):
        world.aggregate(*map(an_event, range(first, first + 4)))
    world.compact()
    world.close(OVER)
    world.aggregate(*map(an_event, range(12, 15)))  # late
    world.compact()
    right = world.answers()
    questions_seen = 0

    def look() -> None:
        nonlocal questions_seen
        questions_seen += 1
        assert world.answers() == right

    for number in count(1):
        mortal = World(stores, Mortal(stores.rollups.client, number))
        mortal.file = world.file
        try:
            assert mortal.close(OVER + 86_400).closed
            break
        except Died:
            assert world.answers() == right
    watched = World(stores, Mortal(stores.rollups.client, look=look))
    watched.file = world.file
    assert watched.close(OVER + 86_400).closed

    assert min(number, questions_seen) > 20
    assert world.close(OVER + 2 * 86_400).closed
    world.closer.clean("demo", OVER + 9 * 86_400)
    assert world.answers() == right


def test_a_day_that_is_put_together_while_an_hour_is_written_is_put_together_again(stores: Stores) -> None:
    world = World(stores)
    world.aggregate(*map(an_event, range(12)))
    world.compact()
    right = world.answers()
    others = World(stores)

    def look() -> None:
        others.closer.close_days("demo", OVER + 86_400)

    watched = World(stores, Mortal(stores.rollups.client, look=look))
    watched.file = world.file
    assert watched.closer.close("demo", HOUR, list(world.file.values()), OVER + 86_400).closed
    others.closer.close_days("demo", OVER + 86_400)
    others.closer.clean("demo", OVER + 9 * 86_400)

    assert world.answers() == right


def test_a_page_that_comes_after_a_thousand_others_has_all_of_its_views(world: World) -> None:
    crawled = [{**an_event(1), "event_id": f"c{n}", "properties": {"path": f"/crawled/{n}"}} for n in range(1_200)]
    paths = [f"/thin/{n // 2}" if n % 3 else "/checkout" for n in range(2_100)]
    views = [{**an_event(2), "event_id": f"v{n}", "properties": {"path": path}} for n, path in enumerate(paths)]
    for batch in (crawled, views[:1_500], views[1_500:]):
        world.aggregate(*batch)
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
