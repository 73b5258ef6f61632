"""The numbers of metric=sessions are DuckDB's on the same events, whatever comes late, first, twice, or dies."""

import random
from collections.abc import Callable, Iterator
from itertools import count, product
from typing import Any

import pytest

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.errors import InvalidRequest
from chalicelib.base.object_keys import hour_file_name, hour_folder
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, MINUTE_MS, hour_of, parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contracts
from chalicelib.events.sessions import REACH_HOURS
from chalicelib.hours.session_files import Listed, SessionFiles
from chalicelib.hours.sessionize import Sessionizer, Unsteady
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake, Row
from chalicelib.numbers.analytics import Analytics
from chalicelib.numbers.questions import read_question
from chalicelib.rollups.closed_table import ClosedTable
from tests.hours.finishing import finisher_of
from tests.hours.session_oracle import FIRST, Event, by_hour, duckdb_of, some_events
from tests.stores import Stores, empty_stores, stream_record

CONTRACTS = Contracts({})
RANGE = {"metric": "sessions", "start": "2026-11-20", "end": "2026-11-21", "interval": "hour", "limit": "1000"}
ZONES = ("UTC", "America/New_York")
AGGS: dict[str, list[str | None]] = {
    "count": [None],
    "avg": ["duration_seconds", "pages", "bounced"],
    "max": ["duration_seconds"],
}


VERSIONS = count(1)


def new_version() -> str:
    """Later than all before."""
    return f"{next(VERSIONS):013d}-run"


class World:
    """Consolidated hours of a lake, and what is made of them."""

    def __init__(self, stores: Stores, dynamodb: Any = None, s3: Any = None) -> None:
        self.stores = stores
        bucket = DataBucket(s3 or stores.bucket.client, "data")
        tokens = count()
        self.lake = Lake(stores.bucket)
        closed = ClosedTable(dynamodb or stores.rollups.client, "rollups")
        self.sessionizer = Sessionizer(Lake(bucket), SessionFiles(bucket), closed, lambda: f"token {next(tokens)}")

    def write(self, hour: str, version: str, events: list[Event]) -> list[str]:
        key = hour_folder("demo", hour) + hour_file_name(version, 0)
        self.lake.write(key, [Row(event, event["occurred_at"]) for event in events])
        return [key]

    def count(self, hour: str, events: list[Event], version: str | None = None) -> int:
        """The hour is consolidated: these are its events. The version is the last one, unless another is named."""
        version = version or new_version()
        return self.sessionizer.count("demo", hour, version, self.write(hour, version, events))

    def close_days(self, now_ms: int) -> int:
        finisher = finisher_of(CONTRACTS, self.stores.rollups.client, self.stores.bucket.client, lambda: now_ms)
        return finisher.closer.close_days("demo", now_ms)

    def answer(self, **parameters: str) -> dict[str, Any]:
        analytics = Analytics(CONTRACTS, self.stores.history)
        return analytics.answer("demo", read_question({**RANGE, **parameters}), FIRST + 9 * DAY_MS)

    def answers(self) -> list[Any]:
        asked: list[dict[str, str]] = [{}, {"agg": "users"}, {"agg": "p90", "measure": "duration_seconds"}]
        asked += [{"group_by": "entry_page"}, {"group_by": "exit_page", "agg": "avg", "measure": "bounced"}]
        return [self.answer(**parameters) for parameters in asked]


def assert_right(world: World, events: list[Event]) -> None:
    """Every aggregate, by the hour and by days of two zones, whole and by page."""
    connection = duckdb_of(events)
    asked = [(agg, measure) for agg, measures in AGGS.items() for measure in measures]
    for interval, zone in (("hour", "UTC"), *(("day", zone) for zone in ZONES)):
        local = f"make_timestamptz(\"at\" * 1000) AT TIME ZONE '{zone}'"
        bucket = f"epoch_ms(date_trunc('{interval}', {local}) AT TIME ZONE '{zone}')"
        for (agg, measure), dimension in product(asked, (None, "entry_page", "exit_page")):
            value = f"{agg}({measure or '*'})"
            key = dimension or "''"
            parameters = {"agg": agg, "interval": interval, "timezone": zone}
            parameters |= {"measure": measure} if measure else {}
            parameters |= {"group_by": dimension} if dimension else {}
            answer = world.answer(**parameters)
            shown = {
                (group["key"], parse_ms(point["start"])): point["value"]
                for group in (answer["groups"] if dimension else [{"key": "", **answer}])
                for point in group["series"]
                if point["value"]
            }
            found = connection.execute(
                f"SELECT {key}, {bucket}, {value} FROM sessions WHERE {key} IS NOT NULL GROUP BY ALL"
            ).fetchall()
            right = {(key, start): number for key, start, number in found if number}
            assert shown == pytest.approx(right, rel=1e-9), parameters
    [(users,)] = connection.execute('SELECT count(DISTINCT "user") FROM sessions').fetchall()
    assert world.answer(agg="users")["total"] == users


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.fixture
def world(stores: Stores) -> World:
    return World(stores)


def test_sessions_are_duckdbs_in_whatever_order_hours_and_late_events_come(world: World) -> None:
    rng = random.Random(1)
    events = some_events(150, seed=1, hours=6)
    early = by_hour([event for event in events if rng.random() < 0.95])
    whole = by_hour(events)
    opened_again = [hour for hour in whole if len(whole[hour]) != len(early.get(hour, []))]

    for hour in rng.sample(sorted(early), len(early)):
        world.count(hour, early[hour])
    for hour in rng.sample(opened_again, len(opened_again)):
        world.count(hour, whole[hour])

    assert_right(world, events)
    assert world.close_days(FIRST + 2 * DAY_MS) == 2
    assert_right(world, events)
    assert world.count(hour, whole[hour]) == 0  # nothing to write when it is done again


def view(number: int, minute: float, path: str = "/", **words: Any) -> Event:
    """`minute` counts from the first hour."""
    at = FIRST + int(minute * MINUTE_MS)
    event = {"event_id": f"e{number}", "event_type": "page_view", "occurred_at": at, "properties": {"path": path}}
    return {**event, "user_id": "ada", **words}


def hour_at(number: int) -> str:
    return hour_of(FIRST + number * HOUR_MS)


def test_a_late_event_joins_two_sessions_of_other_hours_and_another_parts_them_again(world: World) -> None:
    world.count(hour_at(0), [view(1, 50, "/in")])
    world.count(hour_at(1), [])
    world.count(hour_at(2), [view(2, 125, "/out")])
    assert [world.answer()["total"], world.answer(agg="avg", measure="bounced")["total"]] == [2, 1]

    late = [view(3, 75), view(4, 100)]
    world.count(hour_at(1), late)
    assert [world.answer()["total"], world.answer(agg="avg", measure="bounced")["total"]] == [1, 0]
    assert world.answer(agg="max", measure="duration_seconds")["total"] == 75 * 60
    assert [group["key"] for group in world.answer(group_by="entry_page")["groups"]] == ["/in"]
    assert [group["key"] for group in world.answer(group_by="exit_page")["groups"]] == ["/out"]

    world.count(hour_at(1), [])  # they were erased
    assert world.answer()["total"] == 2
    assert world.answer(filter="entry_page:/out")["total"] == 1


def test_a_late_event_leaves_sessions_whole_that_go_on_into_the_last_hour_of_its_reach(world: World) -> None:
    half_a_day_later = [view(1, 11 * 60 + 50), view(2, 12 * 60 + 15)]
    late = view(3, 30, user_id="bob")
    world.count(hour_at(11), half_a_day_later[:1])
    world.count(hour_at(12), half_a_day_later[1:])

    world.count(hour_at(0), [late])

    assert_right(world, [*half_a_day_later, late])


class Died(BaseException):
    """The process was killed."""


class Mortal:
    """A client that does something before its nth write: another run comes between, or the process dies."""

    def __init__(self, client: Any, writes: Iterator[int], at: int, then: Callable[[], None]) -> None:
        self.client, self.writes, self.at, self.then = client, writes, at, then

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if name not in ("put_object", "put_item", "update_item", "delete_item"):
            return found

        def write(**arguments: Any) -> Any:
            if next(self.writes) == self.at:
                self.then()
            return found(**arguments)

        return write


def mortal(stores: Stores, at: int, then: Callable[[], None]) -> World:
    writes = count(1)
    return World(
        stores, Mortal(stores.rollups.client, writes, at, then), Mortal(stores.bucket.client, writes, at, then)
    )


def die() -> None:
    raise Died


def test_dying_before_any_write_and_doing_it_again_changes_no_answer(stores: Stores) -> None:
    """A late event comes, and is erased, in turn; each time the process dies before another write."""
    world = World(stores)
    world.count(hour_at(0), [view(1, 50, "/in")])
    world.count(hour_at(1), [])
    right = {0: world.answers()}
    late = [view(3, 75)]
    world.count(hour_at(1), late)
    right[1] = world.answers()

    for number in count(1):
        come = number % 2
        found, version = late if come else [], new_version()
        try:
            mortal(stores, number, die).count(hour_at(1), found, version)
        except Died:
            world.count(hour_at(1), found, version if number % 3 else None)  # nothing came since, or something did
            assert world.answers() == right[come]
            continue
        break

    assert right[0] != right[1]
    assert number > 10


def test_two_runs_at_once_find_each_others_parts(stores: Stores) -> None:
    world = World(stores)
    world.count(hour_at(0), [view(1, 50, "/in")])

    def another() -> None:
        world.count(hour_at(2), [view(2, 125, "/out")])

    mortal(stores, 2, another).count(hour_at(1), [view(3, 75), view(4, 100)])  # it has read, and writes

    assert world.answer()["total"] == 1
    assert world.answer(agg="max", measure="duration_seconds")["total"] == 75 * 60


@pytest.mark.parametrize("number", range(1, 9))
def test_who_is_late_with_an_older_version_changes_nothing_whenever_it_comes(stores: Stores, number: int) -> None:
    """As a task of before an erasure, at any write of the run that counts what is left, or after it."""
    world = World(stores)
    older, newer = new_version(), new_version()
    world.count(hour_at(0), [view(1, 50, "/in")])
    right = world.answers()
    before = [view(3, 75), view(4, 76, user_id="gone")]
    came: list[int] = []

    def late() -> None:
        came.append(world.count(hour_at(1), before, older))

    mortal(stores, number, late).count(hour_at(1), [], newer)
    if not came:
        late()
        assert world.answers() == right
    world.count(hour_at(1), [], newer)  # the hour was dirty all the time

    assert world.answers() == right


def test_a_run_that_is_always_overtaken_gives_up_and_the_hour_comes_again(stores: Stores) -> None:
    world = World(stores)

    class Busy(SessionFiles):
        __slots__ = ()
        listings = count()

        def listed(self, *span: str) -> dict[str, Listed]:
            found = super().listed(*span)
            return {hour: Listed(f"{name}{next(self.listings)}", stamp) for hour, (name, stamp) in found.items()}

        def read(self, *_: Any) -> Iterator[Any]:
            return iter(())

    busy = Sessionizer(world.lake, Busy(stores.bucket), stores.closed, lambda: "token")
    with pytest.raises(Unsteady, match="during each of 5 passes"):
        busy.count("demo", hour_at(0), "1-a", world.write(hour_at(0), "1-a", [view(1, 50)]))


def test_a_day_that_is_put_together_meanwhile_is_put_together_again(stores: Stores) -> None:
    world = World(stores)
    world.count(hour_at(0), [view(1, 50)])
    now = FIRST + 2 * DAY_MS
    put_together = []

    # Before the fourth write: the parts, the note and the counts are there, the users are not.
    mortal(stores, 4, lambda: put_together.append(world.close_days(now))).count(
        hour_at(0), [view(1, 50), view(2, 51, user_id="bob")]
    )

    assert put_together == [1]
    assert world.answer(agg="users", interval="day")["total"] == 2
    assert world.close_days(now) == 1
    assert world.answer(agg="users", interval="day")["total"] == 2


def test_hours_without_sessions_cost_a_look_at_the_bucket_and_no_item(stores: Stores) -> None:
    world = World(stores)
    quiet = [view(1, 5, user_id=None), view(2, 6, enrichment={"bot": True})]

    assert World(stores, dynamodb=object()).count(hour_at(0), quiet) == 0
    assert World(stores, dynamodb=object()).count(hour_at(1), []) == 0
    assert len(stores.objects("sessions/")) == 2
    assert world.answer()["total"] == 0
    assert len(world.answer()["series"]) == 48


def test_sessions_follow_consolidation_also_of_what_comes_late(stores: Stores) -> None:
    world = World(stores)
    records = count()
    now = [FIRST + 400 * DAY_MS]
    finisher = finisher_of(CONTRACTS, stores.rollups.client, stores.bucket.client, lambda: now[0])

    def arrive(*events: Event) -> None:
        chunks = chunks_of(Message("demo", FIRST, list(events)))
        archiver = Archiver(world.lake, stores.hours, stores.erased)
        archiver.archive([stream_record(chunk, next(records)) for chunk in chunks])

    def hourly() -> None:
        due = finisher.consolidate_due(now[0])["hours"]
        assert finisher.finish_all(due, now[0])["waiting"] == 0
        now[0] += HOUR_MS

    arrive(view(1, 50, session_id="s"), view(1, 50, session_id="s"))
    hourly()
    assert world.answer()["total"] == 1
    arrive(view(2, 400, "/end", session_id="s"))
    hourly()

    assert world.answer()["total"] == 1
    assert world.answer(group_by="exit_page")["groups"][0]["key"] == "/end"
    for _ in range(3):
        hourly()
    assert stores.hours.unsettled("demo") == []
    assert len(stores.objects("sessions/")) == 2  # one for each hour
    assert world.answer()["total"] == 1


def test_sessions_are_open_for_as_long_as_they_may_go_on(world: World) -> None:
    analytics = Analytics(CONTRACTS, world.stores.history)
    question = read_question({**RANGE, "start": "2026-11-20T21:00:00Z", "end": "2026-11-20T22:00:00Z"})
    over = FIRST + HOUR_MS

    assert analytics.answer("demo", question, over + REACH_HOURS * HOUR_MS - 1)["open"]
    assert not analytics.answer("demo", question, over + REACH_HOURS * HOUR_MS)["open"]


@pytest.mark.parametrize("asked", [{"group_by": "country"}, {"agg": "avg", "measure": "load_ms"}, {"filter": "path:/"}])
def test_what_is_not_kept_of_sessions_is_refused(world: World, asked: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="is not rolled up for sessions; rolled up are "):
        world.answer(**asked)
