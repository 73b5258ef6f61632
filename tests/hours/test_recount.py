"""The independent count: what a closing makes of any rows is what it finds, and what a faulty one makes is told."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chalicelib.base.object_keys import hour_folder, import_tail_name
from chalicelib.base.time_windows import parse_ms
from chalicelib.events.contracts import Contract, Contracts
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.hours.close import Closer
from chalicelib.hours.consolidate import Consolidator
from chalicelib.hours.finish import Finisher
from chalicelib.hours.reconcile import AGREES, DIFFERS, REPAIRED, WAITS, NotRepaired, Reconciled, Reconciler
from chalicelib.lake.lake import Lake, Row, encode, table_of
from chalicelib.rollups.history import History
from chalicelib.rollups.rollups import OTHER, Cell, Rollup, Rollups, RollupSpec
from tests.hours.finishing import finisher_of
from tests.stores import Stores, empty_stores

HOUR = "2026-11-20T09"
NINE = parse_ms("2026-11-20T09:00:00Z")
NIGHT = parse_ms("2026-11-21T03:40:00Z") // 1000
CONTRACTS = Contracts(
    {"view": Contract("view", "1-0-0", "views", RollupSpec(("path", "country", "bot"), ("load_ms", "path")))}
)


class World:
    """An hour of a project, whose rows come by an import."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.lake = Lake(stores.bucket)

    @property
    def finisher(self) -> Finisher:
        return finisher_of(CONTRACTS, self.stores.rollups.client, self.stores.bucket.client, lambda: NIGHT * 1000)

    def put(self, *events: dict[str, Any]) -> None:
        rows = [Row({"occurred_at": NINE, "event_type": "view", **event}, NINE) for event in events]
        content = encode(table_of(rows))
        self.lake.put(hour_folder("shop", HOUR) + import_tail_name("i", content), content)
        self.stores.hours.note("shop", HOUR)

    def close(self) -> None:
        assert self.finisher.finish("shop", HOUR, NIGHT * 1000).closed

    def reconcile(self, *, repair: bool = False) -> Reconciled:
        finisher = self.finisher
        closer, consolidator = finisher.closer, finisher.consolidator
        history = History(closer.rollups, closer.closed)
        hours, folders = finisher.hours, consolidator.folders
        reconciler = Reconciler(CONTRACTS, history, consolidator.lake, folders, hours, finisher, "test", lambda: 0.0)
        return reconciler.hour("shop", HOUR, NIGHT, repair=repair)

    def told(self) -> set[tuple[str, str, str]]:
        """Type, facet and number of what differs."""
        return {(each.event_type, each.facet, each.number) for each in self.reconcile().differences}


@pytest.fixture
def world() -> Iterator[World]:
    with empty_stores() as stores:
        yield World(stores)


def views(paths: list[str]) -> list[dict[str, Any]]:
    """An event of each path, of the same few users."""
    return [
        {
            "event_id": f"e{number:05}",
            "occurred_at": NINE + number,
            "user_id": f"u{number % 7}",
            "properties": {"path": path, "load_ms": number + 0.5},
        }
        for number, path in enumerate(paths)
    ]


ODD_VALUES: list[Any] = [
    *("/", "", "é" * 127 + "xyz", "x" * 129, "x" * 128 + "y", OTHER, "null", "1", "true", "\U0001f600" * 128 + "!"),
    *(None, True, False, 0, 1, -1, 2**63, -(2**63), 1.0, 1.5, -0.0, 1e300, -1e300, 1e-300),
    *([1, "a"], {"a": {"b": None}}, [], {}, ["y" * 200]),
]


def odd_event(chance: random.Random, number: int) -> dict[str, Any]:
    """An event of anything that can be in a file."""
    maybe = chance.choice
    event: dict[str, Any] = {
        "event_id": f"e{number}",
        "event_type": maybe(["view", "view", "click", OTHER, f"made up {number % 40}"]),
        "occurred_at": NINE + chance.randrange(3_600_000),
    }
    for name in ("user_id", "anonymous_id"):
        if chance.random() < 0.7:
            event[name] = maybe(["", f"u{chance.randrange(400)}", f"v{chance.randrange(9)}"])
    if chance.random() < 0.9:
        event["properties"] = {
            name: maybe(ODD_VALUES) for name in ("path", "country", "load_ms", "more") if chance.random() < 0.8
        }
    if chance.random() < 0.5:
        event["enrichment"] = {name: maybe(ODD_VALUES) for name in ("path", "country") if chance.random() < 0.7}
        event["enrichment"]["bot"] = maybe([None, False, False, 0, "", True, "spider"])
    return event


@pytest.mark.parametrize("seed", range(6))
def test_of_any_rows_a_closing_and_the_count_find_the_same(world: World, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        world.put(*(odd_event(chance, chance.randrange(2000)) for _ in range(600)))
    world.close()

    done = world.reconcile()

    assert (done.state, done.differences) == (AGREES, [])
    assert done.events > 500


def test_of_many_values_the_most_frequent_are_told_apart_and_the_rest_counted_together(world: World) -> None:
    world.put(*views([f"/{number % 1500}" for number in range(1900)]))  # 400 of them twice
    world.close()

    done = world.reconcile()

    assert (done.state, done.differences) == (AGREES, [])


def test_a_sum_beyond_the_largest_number_is_that_number(world: World) -> None:
    world.put(*({**event, "properties": {"path": "/", "load_ms": 1.7e308}} for event in views(["/"] * 20)))
    world.close()

    assert world.reconcile().state == AGREES


Fault = Callable[[Rollups], object]


def left_out(truth: Rollups) -> None:
    """As when others came first: a frequent value is counted with the rest."""
    values = truth["view"].dimensions["path"]
    values.setdefault(OTHER, Cell()).merge(values.pop("/checkout"))


def short_of_one(truth: Rollups) -> None:
    """As when one share of the events had no place for a value that another one had."""
    values = truth["view"].dimensions["path"]
    values["/checkout"].count -= 1
    values.setdefault(OTHER, Cell()).count += 1


def twice(truth: Rollups) -> None:
    truth["view"].merge(truth["view"])


def without_last_minute(truth: Rollups) -> None:
    truth["view"].minutes.pop(max(truth["view"].minutes))


def without_a_user(truth: Rollups) -> None:
    truth["view"].users.hashes.pop()


def without_a_values_user(truth: Rollups) -> None:
    truth["view"].dimensions["path"]["/checkout"].users.hashes.pop()


def sum_of_others(truth: Rollups) -> None:
    truth["view"].dimensions["path"]["/checkout"].measures["load_ms"].total += 1


def smallest_of_others(truth: Rollups) -> None:
    truth["view"].dimensions["path"]["/checkout"].measures["load_ms"].low += 1


def largest_of_others(truth: Rollups) -> None:
    truth["view"].measures["load_ms"].high -= 1


def next_bucket(truth: Rollups) -> None:
    buckets = truth["view"].measures["load_ms"].buckets
    last = max(buckets)
    buckets[last + 1] = buckets.pop(last)


def without_measure(truth: Rollups) -> None:
    del truth["view"].measures["load_ms"]


def without_dimension(truth: Rollups) -> None:
    del truth["view"].dimensions["path"]


def no_room(truth: Rollups) -> None:
    """All values together, as of an item that has no room: of a few there is."""
    values = truth["view"].dimensions["country"]
    values[OTHER] = Cell()
    for value in [*values]:
        if value != OTHER:
            values[OTHER].merge(values.pop(value))


def other_type(truth: Rollups) -> None:
    truth["click"] = truth.pop("view")


def made_up(truth: Rollups) -> None:
    truth["view"].dimensions["path"]["/nowhere"] = Cell(1)


def a_bot(truth: Rollups) -> None:
    truth["view"].merge(Rollup(1, minutes={0: 1}))


FAULTS: dict[Fault, tuple[str, str]] = {
    left_out: ("n|path", "path=/checkout count"),
    short_of_one: ("n|path", "path=/checkout count"),
    twice: ("n", "count"),
    without_last_minute: ("n", "minute 0"),
    without_a_user: ("u", "users"),
    without_a_values_user: ("u|path", "path=/checkout users"),
    sum_of_others: ("n|path", "path=/checkout sum load_ms"),
    smallest_of_others: ("n|path", "path=/checkout min load_ms"),
    largest_of_others: ("n", "max load_ms"),
    next_bucket: ("q:load_ms", "buckets load_ms"),
    without_measure: ("n", "values load_ms"),
    without_dimension: ("n|path", "path=/checkout count"),
    no_room: ("n|country", "country=DE count"),
    other_type: ("n", "count"),
    made_up: ("n|path", "path=/nowhere count"),
    a_bot: ("n", "count"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_folding_is_seen_and_repaired_once_it_is_cured(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    fold = Closer.fold

    def faulty(self: Closer, *what: Any, **how: Any) -> Rollups:
        truth = fold(self, *what, **how)
        fault(truth)
        return truth

    events = views([*["/checkout"] * 40, *(f"/{number}" for number in range(300))])
    for event in events:
        event["properties"]["country"] = "DE"
    with monkeypatch.context() as patch:
        patch.setattr(Closer, "fold", faulty)
        world.put(*events)
        world.close()
        assert world.reconcile().state == DIFFERS
        assert ("view", *FAULTS[fault]) in world.told()
        with pytest.raises(NotRepaired):
            world.reconcile(repair=True)
    assert world.reconcile(repair=True).state == REPAIRED
    assert world.reconcile().state == AGREES


def test_what_is_shown_of_a_frequent_value_that_came_after_a_thousand_others_is_right_or_told(world: World) -> None:
    world.put(*views([*(f"/{number}" for number in range(1000)), *["/checkout"] * 40]))
    world.close()

    closed = world.stores.closed.get("shop", "view", "n|path", "h", HOUR)
    assert closed is not None
    shown = closed.rollups[""].dimensions["path"].get("/checkout", Cell()).count
    assert (shown == 40) == (world.reconcile().state == AGREES)


def test_a_file_that_has_an_event_twice_is_told_and_put_right(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(*views(["/a", "/b"]))
    world.close()
    folder = hour_folder("shop", HOUR)
    _, (key,) = world.stores.folders.keys(world.stores.hours, "shop", HOUR)
    rows = [*world.lake.rows([key])]
    world.lake.put(key, encode(table_of([*rows, rows[0]])))

    assert ("(all)", "n", "copies") in world.told()
    assert world.reconcile(repair=True).state == REPAIRED
    assert world.reconcile().differences == []
    assert key.startswith(folder)


def test_types_that_are_too_many_are_compared_together_also_once_their_users_are_erased(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chalicelib.rollups.known_types.MAX_MADE_UP_TYPES", 2)
    world.put(*({**event, "event_type": f"made up {number}"} for number, event in enumerate(views(["/"] * 6))))
    world.close()
    assert world.reconcile().state == AGREES
    assert world.stores.closed.get("shop", OTHER, "u", "h", HOUR) is not None

    for number in range(6):
        marker = Marker(digest_of_user("shop", f"u{number}"), NIGHT * 1000, FOR_EVER_MS)
        world.stores.erased.put("shop", marker)
    world.finisher.finish("shop", HOUR, NIGHT * 1000, anew=True)

    kept = world.stores.closed.get("shop", OTHER, "u", "h", HOUR)
    assert kept is not None
    assert kept.rollups[""].users.estimate() == 0
    assert world.reconcile() == Reconciled("shop", HOUR, AGREES, 0, [])


def test_bots_are_counted_by_nobody(world: World) -> None:
    world.put(*({**event, "enrichment": {"bot": True}} for event in views(["/a", "/b"])))
    world.close()

    assert world.reconcile() == Reconciled("shop", HOUR, AGREES, 0, [])


def test_many_users_are_compared_with_their_sketch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [{**event, "user_id": f"u{number}"} for number, event in enumerate(views(["/a"] * 3000))]
    world.put(*events)
    world.close()
    assert world.reconcile().state == AGREES

    closed = world.stores.closed.get("shop", "view", "u", "h", HOUR)
    assert closed is not None
    registers = closed.rollups[""].users.registers
    assert registers is not None
    registers[registers.index(0)] = 1  # one user more, whom 2,048 registers do not tell
    world.stores.closed.put("shop", "view", "u", "h", closed)

    assert world.told() == {("view", "u", "users")}


def test_an_estimate_that_is_far_off_is_told_although_the_sketch_is_right(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(*({**event, "user_id": f"u{number}"} for number, event in enumerate(views(["/a"] * 300))))
    world.close()

    monkeypatch.setattr("chalicelib.rollups.sketches._estimate", lambda _: 200.0)

    assert ("view", "u", "users") in world.told()


def test_an_hour_that_something_came_into_while_it_was_counted_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(*views(["/a"]))
    world.close()
    facets = History.facets

    def late(self: History, *of: Any) -> Any:
        world.stores.hours.note("shop", HOUR)
        return facets(self, *of)

    monkeypatch.setattr(History, "facets", late)

    assert world.reconcile().state == WAITS


def test_a_version_that_is_consolidated_by_another_run_is_no_trouble(world: World) -> None:
    world.put(*views(["/a"]))
    world.close()
    consolidator: Consolidator = world.finisher.consolidator
    consolidator.consolidate("shop", HOUR, NIGHT * 1000, anew=True)

    assert world.reconcile().state == AGREES
