"""The quarantine, through collector, replayer, processor's chunks and aggregator."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from chalicelib.access.access import Project
from chalicelib.base import waits
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.errors import InvalidRequest, Unavailable
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, MINUTE_MS, hour_of, iso_ms
from chalicelib.events.chunks import Message, Parcel, chunks_of, decode_message
from chalicelib.events.contracts import Contracts
from chalicelib.events.enrichment import Client
from chalicelib.events.events import Admitter, Mode
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.audit import Auditor
from chalicelib.ingest.bodies import read_native
from chalicelib.ingest.collect import Collector
from chalicelib.ingest.queue import EventQueue
from chalicelib.quarantine import replay
from chalicelib.quarantine.replay import Replayer
from chalicelib.quarantine.selections import read_list, read_replay
from chalicelib.rollups.ledger import Tally
from chalicelib.rollups.ledger_table import LedgerTable
from tests.stores import RefusingBuffer, Stores, empty_stores, stream_record

DEMO = Project("demo", Mode.ENFORCE)
NINE = 1_795_251_600_000
LATER = NINE + 3 * HOUR_MS
SALE = {"event_type": "sale", "properties": {"price": "7"}}


class Died(BaseException):
    """The process was killed, which no handler of exceptions notices."""


@dataclass
class Fate:
    """When the process dies: at the call of that number, before or after its effect."""

    at: int = 0
    after: bool = False
    calls: int = 0

    def call(self, work: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls == self.at and not self.after:
            raise Died
        answer = work()
        if self.calls == self.at:
            raise Died
        return answer


class Mortal:
    """A client around whose calls the process may die."""

    def __init__(self, client: Any, fate: Fate) -> None:
        self._client, self._fate = client, fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in ("put_object", "get_object", "delete_object", "send_message", "put_item"):
            return found
        return lambda **arguments: self._fate.call(lambda: found(**arguments))


class Down:
    """A store that takes nothing."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> None:
            raise Unavailable("down")

        return refuse


@dataclass
class World:
    """The stores, and what the events table's stream brings of what is on the queue."""

    stores: Stores
    folder: Path
    images: dict[tuple[str, str], Any] = field(default_factory=dict)
    records: int = 0
    containers: int = 0

    @property
    def queue(self) -> EventQueue:
        """The buffer."""
        assert isinstance(self.stores.buffer, EventQueue)
        return self.stores.buffer

    def contract(self, event_type: str, price: str, version: str = "1-0-0") -> None:
        """Publish a contract that wants the price as that JSON type."""
        path = self.folder / event_type / f"{version}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"x-metric": event_type + "s", "properties": {"price": {"type": price}}}))

    def collector(self, buffer: Any = None, bucket: Any = None) -> Collector:
        """That of a new container, with the contracts as they are now."""
        self.containers += 1
        admitter = Admitter(Contracts.load(self.folder), new_id=lambda ms: f"made-{self.containers}-{ms}")
        tally = Tally(f"c{self.containers}")
        stored = buffer or self.stores.buffer, bucket or self.stores.bucket, self.stores.ledger
        return Collector(admitter, *stored, tally, self.stores.erased, self.stores.flags)

    def receive(self, *events: Any, at: int = NINE, project: Project = DEMO) -> None:
        self.collector().collect(read_native(orjson.dumps(list(events))), project, at)

    def replayer(self, fate: Fate | None = None, buffer: Any = None, spill: Any = None) -> Replayer:
        """That of a new container."""
        fate = fate or Fate()
        stores = self.stores
        bucket = DataBucket(Mortal(stores.bucket.client, fate), stores.bucket.name)
        ledger = LedgerTable(Mortal(stores.ledger.client, fate), stores.ledger.name)
        mortal = replace(stores.buffer, client=Mortal(stores.buffer.client, fate))
        collector = self.collector(buffer or mortal, spill)
        return Replayer(
            collector.admitter, collector.put, bucket, ledger, Tally(f"r{self.containers}", 1000), clock=lambda: 0.0
        )

    def replay(self, at: int = LATER, project: Project = DEMO, **parameters: Any) -> dict[str, Any]:
        return self.replayer().replay(project, read_replay(parameters), at)

    def show(self, **parameters: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.replayer().show("demo", read_list(parameters))["events"]
        return events

    def ids(self, **parameters: str) -> list[str]:
        return [event["event_id"] for event in self.show(**parameters)]

    def store(self) -> None:
        """What the queue holds, through the stream: a new chunk, one that differs from before, or no record."""
        records = []
        while received := self.queue.client.receive_message(QueueUrl=self.queue.url).get("Messages"):
            for message in received:
                for chunk in chunks_of(decode_message(message["Body"])):
                    key = (chunk.partition_key, chunk.sort_key)
                    if self.images.get(key) != chunk:
                        self.records += 1
                        name = "MODIFY" if key in self.images else "INSERT"
                        records.append(stream_record(chunk, self.records, name=name))
                        self.images[key] = chunk
                self.queue.client.delete_message(QueueUrl=self.queue.url, ReceiptHandle=message["ReceiptHandle"])
        if records:
            contracts = Contracts.load(self.folder)
            Aggregator(contracts, self.stores.rollups, self.stores.bucket).aggregate(records, LATER)

    def count(self, event_type: str, at: int = NINE) -> int:
        """What GET /analytics would say of the hour."""
        rollups = self.stores.rollups.read_hour("demo", hour_of(at)).total()
        return rollups[event_type].count if event_type in rollups else 0

    def balance(self, at: int = NINE) -> dict[str, int]:
        """The hour's ledger."""
        ledger = self.stores.rollups.read_hour("demo", hour_of(at)).total().ledger
        ledger.note(*self.stores.ledger.receipts("demo", hour_of(at), hour_of(at)).get(hour_of(at), ()))
        return ledger.balance()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with empty_stores() as stores:
        found = World(stores, tmp_path)
        found.contract("sale", "number")
        yield found


def sales(*names: str, **more: Any) -> list[dict[str, Any]]:
    """Sales whose price is a text, which the first contract refuses."""
    return [{**SALE, "event_id": name, "timestamp": iso_ms(NINE), **more} for name in names]


def test_a_rejected_event_is_shown_with_reason_version_and_what_was_sent(world: World) -> None:
    [event] = sales("a", user_id="ada")
    world.receive(event, at=NINE + 5)

    [shown] = world.show()

    identity = shown.pop("id")
    assert shown == {
        "received_at": "2026-11-21T09:00:00.005Z",
        "event_type": "sale",
        "event_id": "a",
        "code": "contract_violation",
        "message": '"7" is not of type "number"',
        "path": "/properties/price",
        "schema_version": "1-0-0",
        "event": event,
    }
    assert identity.startswith("2026-11-21/")


def test_the_last_minute_is_shown_first_across_days(world: World) -> None:
    for number, at in enumerate((NINE - DAY_MS, NINE, NINE + MINUTE_MS, NINE + 3 * HOUR_MS)):
        world.receive(*sales(f"s{number}"), at=at)

    assert world.ids() == ["s3", "s2", "s1", "s0"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"code": "contract_violation"}, ["b", "a"]),
        ({"code": "unknown_event_type"}, ["d", "c"]),
        ({"event_type": "sale"}, ["b", "a"]),
        ({"event_type": "gift", "code": "contract_violation"}, []),
        ({"start": "2026-11-21"}, ["d", "c", "b"]),
        ({"end": "2026-11-20"}, ["a"]),
        ({"start": "2026-11-21T09:00:00Z", "end": "2026-11-21T09:30:00Z"}, ["c", "b"]),
        ({"start": "2026-11-21T09:00:00.001Z", "end": "2026-11-21T09:30:00.001Z"}, ["d"]),
        ({"start": "2026-11-22"}, []),
    ],
)
def test_the_list_is_filtered_by_code_type_and_time_of_receipt(
    world: World, parameters: dict[str, str], expected: list[str]
) -> None:
    world.receive(*sales("a"), at=NINE - DAY_MS)
    world.receive(*sales("b"), {"event_type": "gift", "event_id": "c"}, at=NINE)
    world.receive({"event_type": "gift", "event_id": "d"}, at=NINE + HOUR_MS // 2)

    assert sorted(world.ids(**parameters)) == sorted(expected)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("files", [1, 200])
def test_the_pages_hold_every_event_once(world: World, monkeypatch: pytest.MonkeyPatch, limit: int, files: int) -> None:
    monkeypatch.setattr(replay, "MAX_FILES", files)
    for day in range(3):
        for minute in range(2):
            world.receive(*sales(*(f"{day}{minute}{n}" for n in range(3))), at=NINE - day * DAY_MS + minute * MINUTE_MS)

    found: list[str] = []
    parameters = {"limit": str(limit), "code": "contract_violation"}
    while True:
        page = world.replayer().show("demo", read_list(parameters))
        assert len(page["events"]) <= limit
        found += [event["event_id"] for event in page["events"]]
        if page["next"] is None:
            break
        parameters["cursor"] = page["next"]

    assert found == [f"{day}{minute}{n}" for day in range(3) for minute in (1, 0) for n in range(3)]


def test_a_page_fits_an_answer_and_leaves_out_what_is_too_large_to_be_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_SHOWN_BYTES", 400_000)
    large = [{**event, "context": {"text": "x" * 150_000}} for event in sales("a", "b", "c", "d", "e")]
    world.receive(*large, *sales("f", context={"text": "x" * 300_000}))

    first = world.replayer().show("demo", read_list({}))
    second = world.replayer().show("demo", read_list({"cursor": first["next"]}))
    third = world.replayer().show("demo", read_list({"cursor": second["next"]}))

    pages = [[event["event_id"] for event in page["events"]] for page in (first, second, third)]
    assert (pages, third["next"]) == ([["a", "b"], ["c", "d"], ["e", "f"]], None)
    assert [event["event"] is None for event in third["events"]] == [False, True]


def test_what_is_shown_and_answered_is_short_however_long_ids_and_pointers_are(world: World) -> None:
    long = "x" * 300_000
    world.receive(*sales(*(f"{n}{long}" for n in range(10))), {"event_type": long, "event_id": long})

    page = world.replayer().show("demo", read_list({}))

    assert len(page["events"]) == 11
    assert len(orjson.dumps(page)) < 100_000


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"limit": "0"}, "limit: .*500.*'0'"),
        ({"limit": "many"}, "limit: Not a valid integer"),
        ({"start": "yesterday"}, "start: neither a date .*'yesterday'"),
        ({"start": "2026-11-21", "end": "2026-11-20"}, "end: it is not after start"),
        ({"cursor": "abc"}, "cursor: the value is not the `next` of an answer .*'abc'"),
        ({"cursor": "é"}, "cursor: the value is not the"),
        ({"cursor": "Li4vLi4vb3RoZXIvMA"}, "cursor: the value is not the"),
        ({"codes": "x"}, "codes: Unknown field.*known are code, event_type"),
        ({"code": ""}, "code: "),
    ],
)
def test_a_bad_parameter_is_named_with_what_is_allowed(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        read_list(parameters)

    assert refused.value.code == "invalid_parameter"


@pytest.mark.parametrize("body", [{"dry_run": "perhaps"}, {"limit": 3}, {"code": 7}, {"start": 7}])
def test_a_replay_takes_the_documented_fields_only(body: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read_replay(body)


def test_other_projects_see_and_replay_nothing(world: World) -> None:
    world.receive(*sales("a"))
    other = Project("demo2", Mode.INFER)

    assert world.replayer().show(other.id, read_list({}))["events"] == []
    assert world.replay(project=other)["replayed"] == 0
    assert world.ids() == ["a"]


def test_a_replayed_event_lands_in_the_hour_it_happened_in_and_leaves_the_list(world: World) -> None:
    ten = NINE + HOUR_MS
    world.receive(*sales("a", "b"), *sales("late", timestamp=iso_ms(NINE - 5 * HOUR_MS)), at=ten)
    world.receive(*sales("skewed", timestamp=iso_ms(NINE), sent_at=iso_ms(NINE)), at=ten)
    world.receive(*sales("ahead", timestamp=iso_ms(LATER)), at=ten)
    world.contract("sale", "string", "2-0-0")

    answer = world.replay()
    world.store()

    assert answer == {"replayed": 5, "rejected": 0, "dry_run": False, "reasons": {}, "left": 0, "next": None}
    assert (world.count("sale", NINE - 5 * HOUR_MS), world.count("sale", NINE), world.count("sale", ten)) == (1, 2, 2)
    assert world.show() == []
    assert world.stores.objects("quarantine/") == []


def test_the_request_s_own_sent_at_corrects_the_clock_as_it_would_have(world: World) -> None:
    body = {"sent_at": iso_ms(NINE - 2 * HOUR_MS), "events": sales("a", timestamp=iso_ms(NINE - 2 * HOUR_MS))}
    world.collector().collect(read_native(orjson.dumps(body)), DEMO, NINE)
    world.contract("sale", "string", "2-0-0")

    world.replay()
    world.store()

    assert world.count("sale", NINE) == 1


def test_what_the_request_told_of_the_client_is_kept_for_enrichment(world: World) -> None:
    browser = Client(ip="203.0.113.0", country="DE", user_agent="Mozilla/5.0")
    world.collector().collect(read_native(orjson.dumps(sales("a"))), DEMO, NINE, browser)
    world.contract("sale", "string", "2-0-0")

    world.replay()

    [text] = world.stores.messages()
    assert decode_message(text).client == browser


def test_replaying_twice_changes_nothing_and_the_ledger_balances(world: World) -> None:
    world.receive(*sales("a", "b"), {"event_type": "unknown", "event_id": "c"})
    world.contract("sale", "string", "2-0-0")
    first = world.replay()
    world.store()
    objects = {key: world.stores.bucket.get(key) for key in world.stores.objects()}
    before = world.balance()

    again = world.replay()
    world.store()

    assert (first["replayed"], first["rejected"], first["reasons"]) == (2, 1, {"unknown_event_type": 1})
    assert (again["replayed"], again["rejected"]) == (0, 1)
    assert before == world.balance()
    assert before == {
        "received": 5,
        "stored": 2,
        "duplicate": 0,
        "quarantined": 3,
        "erased": 0,
        "in_flight": 0,
        "surplus": 0,
        "bots": 0,
    }
    assert {key: world.stores.bucket.get(key) for key in world.stores.objects()} == objects
    assert world.count("sale") == 2
    assert world.ids() == ["c"]


def test_a_dry_run_says_what_would_happen_and_does_nothing(world: World) -> None:
    world.receive(*sales("a"), {"event_type": "unknown", "event_id": "c"})
    world.contract("sale", "string", "2-0-0")

    answer = world.replay(dry_run=True)
    world.store()

    assert (answer["replayed"], answer["rejected"], answer["dry_run"]) == (1, 1, True)
    assert world.ids() == ["a", "c"]
    assert world.count("sale") == 0
    assert world.balance()["received"] == 2


def test_what_is_rejected_again_stays_with_the_reason_of_today(world: World) -> None:
    world.receive({"event_type": "gift", "event_id": "g", "properties": {"price": True}})
    world.contract("gift", "number", "1-2-3")

    assert world.replay()["reasons"] == {"contract_violation": 1}

    [shown] = world.show()
    assert (shown["code"], shown["path"], shown["schema_version"]) == (
        "contract_violation",
        "/properties/price",
        "1-2-3",
    )


def test_a_mode_that_takes_unknown_types_brings_them_in(world: World) -> None:
    world.receive({"event_type": "gift", "event_id": "g", "timestamp": iso_ms(NINE)})

    assert world.replay(project=Project("demo", Mode.INFER))["replayed"] == 1
    world.store()

    assert world.count("gift") == 1


def test_what_lay_in_quarantine_for_too_long_stays_there_as_too_old(world: World) -> None:
    world.receive(*sales("a"))
    world.contract("sale", "string", "2-0-0")

    answer = world.replay(at=NINE + 31 * DAY_MS)
    world.store()

    assert (answer["replayed"], answer["reasons"]) == (0, {"too_old": 1})
    [shown] = world.show()
    assert (shown["event_id"], shown["code"]) == ("a", "too_old")
    assert world.replay(at=NINE + 30 * DAY_MS)["replayed"] == 1


def test_the_same_events_without_ids_are_kept_each_time_and_counted_each_time(world: World) -> None:
    for _ in range(2):
        world.receive(SALE, SALE)
    world.contract("sale", "string", "2-0-0")

    assert len(world.show()) == 4
    assert world.replay()["replayed"] == 4
    world.store()

    assert world.count("sale") == 4
    assert world.balance()["in_flight"] == 0


def test_an_event_that_was_repeated_within_its_request_is_stored_once(world: World) -> None:
    world.receive(*sales("a", "a", "b"))
    world.contract("sale", "string", "2-0-0")

    assert world.replay()["replayed"] == 3
    world.store()

    assert world.count("sale") == 2
    assert world.balance() == {
        "received": 6,
        "stored": 2,
        "duplicate": 1,
        "quarantined": 3,
        "erased": 0,
        "in_flight": 0,
        "surplus": 0,
        "bots": 0,
    }


def test_what_the_client_sent_again_meanwhile_is_not_counted_twice(world: World) -> None:
    world.receive(*sales("a", user_id="ada"))
    world.contract("sale", "string", "2-0-0")
    world.receive(*sales("a", user_id="ada"))

    world.replay()
    world.store()

    assert world.count("sale") == 1
    assert world.balance()["in_flight"] == 0


def test_an_event_that_cannot_be_written_is_kept_and_costs_the_others_nothing(world: World) -> None:
    deep = b'{"event_type": "sale",\n "event_id": "deep", "properties": {"x": ' + b"[" * 300 + b"]" * 300 + b"}}"
    body = b'{"events": [' + deep + b", " + orjson.dumps(sales("a")[0]) + b"]}"
    lenient = Project("demo", Mode.INFER)
    world.collector().collect(read_native(body), lenient, NINE)
    world.contract("sale", "string", "2-0-0")

    shown = [(event["event_id"], event["code"], event["event"] is None) for event in world.show()]
    answer = world.replay(project=lenient)
    world.store()

    assert shown == [("deep", "too_deep", True), ("a", "contract_violation", False)]
    assert (answer["replayed"], answer["reasons"]) == (1, {"too_deep": 1})
    assert world.count("sale") == 1
    [key] = world.stores.objects("quarantine/")
    assert deep in gzip.decompress(world.stores.bucket.get(key) or b"")


def test_a_line_that_is_no_json_is_shown_as_it_was_sent_and_stays(world: World) -> None:
    body = b'{"event_type": "sale"\n' + orjson.dumps(sales("a")[0])
    world.collector().collect(read_native(body, {"content-type": "application/x-ndjson"}), DEMO, NINE)
    world.contract("sale", "string", "2-0-0")

    assert world.replay()["reasons"] == {"malformed_json": 1}

    [shown] = world.show()
    assert (shown["code"], shown["event"]) == ("malformed_json", '{"event_type": "sale"')


def test_a_file_that_is_not_ours_does_not_hide_the_others(world: World) -> None:
    world.receive(*sales("a"), at=NINE)
    world.receive(*sales("b"), at=NINE + MINUTE_MS)
    newest = world.stores.objects("quarantine/")[0]
    world.stores.bucket.put(newest, b"junk")

    assert world.ids() == ["a"]


def test_a_large_replay_goes_on_by_its_cursor(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_FILES", 2)
    for number in range(5):
        world.receive(*sales(f"s{number}"), at=NINE + number * MINUTE_MS)
        world.receive({"event_type": "unknown", "event_id": f"u{number}"}, at=NINE + number * MINUTE_MS)
    world.contract("sale", "string", "2-0-0")

    answers = [world.replay()]
    while answers[-1]["next"]:
        answers.append(world.replay(cursor=answers[-1]["next"]))
    world.store()

    assert [answer["left"] for answer in answers] == [8, 6, 4, 2, 0]
    assert sum(answer["replayed"] for answer in answers) == 5
    assert world.count("sale") == 5
    assert len(world.stores.objects("quarantine/")) == 5


def test_a_replay_ends_in_time_and_says_where(world: World) -> None:
    for number in range(3):
        world.receive(*sales(f"s{number}"), at=NINE + number * MINUTE_MS)
    world.contract("sale", "string", "2-0-0")
    seconds = iter(range(0, 1000, 5))
    slow = replace(world.replayer(), clock=lambda: float(next(seconds)))

    answer = slow.replay(DEMO, read_replay({}), LATER)

    assert (answer["replayed"], answer["left"]) == (2, 1)
    assert world.replay(cursor=answer["next"])["replayed"] == 1


def test_when_the_queue_is_down_the_replay_is_spilled(world: World) -> None:
    world.receive(*sales("a"))
    world.contract("sale", "string", "2-0-0")

    world.replayer(buffer=RefusingBuffer()).replay(DEMO, read_replay({}), LATER)
    [key] = world.stores.objects("spill/")
    world.collector().reinject(key)
    world.store()

    assert world.show() == []
    assert world.count("sale") == 1
    assert world.balance()["in_flight"] == 0


def test_when_no_store_takes_them_the_events_stay_in_quarantine(world: World) -> None:
    world.receive(*sales("a"))
    world.contract("sale", "string", "2-0-0")
    replayer = world.replayer(buffer=RefusingBuffer(), spill=Down())

    with pytest.raises(Unavailable, match="1 events"):
        replayer.replay(DEMO, read_replay({}), LATER)
    assert world.ids() == ["a"]
    replace(replayer, put=world.collector().put).replay(DEMO, read_replay({}), LATER)
    world.store()

    assert world.count("sale") == 1
    assert world.balance()["in_flight"] == 0


class TakingOne:
    """A buffer in which each user's events are a parcel, and which takes the first."""

    by_user = True

    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        return [*self.queue.send(parcels[:1]), *parcels[1:]]


def test_what_a_store_took_in_part_of_a_replay_is_accounted_for_though_another_container_goes_on(world: World) -> None:
    world.receive(*sales("a", user_id="ada"), *sales("b", user_id="bob"), *sales("c", user_id="cleo"))
    world.contract("sale", "string", "2-0-0")

    with pytest.raises(Unavailable, match="2 events"):
        world.replayer(buffer=TakingOne(world.queue), spill=Down()).replay(DEMO, read_replay({}), LATER)
    world.replay()
    world.store()

    assert world.count("sale") == 3
    assert world.balance()["in_flight"] == 0


@pytest.mark.parametrize("after", [False, True])
def test_a_replay_that_dies_anywhere_loses_nothing_and_counts_nothing_twice(world: World, after: bool) -> None:
    """Before the replay that follows, another contract is published, so that other events go in together."""
    deaths = 0
    for at in range(1, 100):
        kinds = [f"{kind}{at}{after:d}" for kind in ("one", "two")]
        names = [f"{kind}-{n}" for kind in kinds for n in range(2)]
        events = [{**SALE, "event_type": n.split("-")[0], "event_id": n, "timestamp": iso_ms(NINE)} for n in names]
        events[-1].pop("event_id")
        for kind in kinds:
            world.contract(kind, "number")
        world.receive(*events, {"event_type": "never", "event_id": f"n{at}"})
        world.receive({**SALE, "event_type": kinds[0], "user_id": "ada"}, at=NINE + MINUTE_MS)
        world.contract(kinds[0], "string", "2-0-0")
        died = False
        try:
            world.replayer(Fate(at, after)).replay(DEMO, read_replay({"event_type": kinds[0]}), LATER)
        except Died:
            died = True
        world.contract(kinds[1], "string", "2-0-0")

        for _ in range(2):
            world.replay()
            world.store()

        assert [world.count(kind) for kind in kinds] == [3, 2]
        assert world.balance()["in_flight"] == 0
        assert {event["event_type"] for event in world.show()} == {"never"}
        world.stores.bucket.delete(world.stores.objects("quarantine/")[0])
        if not died:
            break
        deaths += 1
    assert deaths >= 8  # two files: read, send, put the receipt, and put or delete the file


def test_replays_of_a_file_at_the_same_time_lose_nothing(world: World) -> None:
    world.contract("gift", "number")
    gift = {**SALE, "event_type": "gift", "event_id": "g", "timestamp": iso_ms(NINE)}
    world.receive(*sales("a"), gift)
    world.contract("sale", "string", "2-0-0")
    world.contract("gift", "string", "2-0-0")
    slow = world.replayer()
    read = slow.put

    def meanwhile(message: Any) -> int:
        world.replay(event_type="gift")
        return read(message)

    replace(slow, put=meanwhile).replay(DEMO, read_replay({"event_type": "sale"}), LATER)
    world.replay()
    world.store()

    assert (world.count("sale"), world.count("gift")) == (1, 1)
    assert world.balance()["in_flight"] == 0
    assert world.show() == []


def test_an_hour_with_a_replay_has_its_time_to_balance_before_events_are_missing(world: World) -> None:
    world.receive(*sales("a"))
    world.contract("sale", "string", "2-0-0")
    world.replay(at=LATER)
    auditor = Auditor(world.stores.ledger, world.stores.history, "test")

    at_once = auditor.audit(LATER // 1000 + 60, spilled=0)
    later = auditor.audit(LATER // 1000 + waits.IN_FLIGHT_MS // 1000, spilled=0)
    world.store()
    stored = auditor.audit(LATER // 1000 + waits.IN_FLIGHT_MS // 1000, spilled=0)

    assert (at_once["EventsMissing"], later["EventsMissing"], stored["EventsMissing"]) == (0, 1, 0)
    assert at_once["EventsReceived"] == 0  # of this hour and the one before


@pytest.mark.parametrize("buffer", ["sqs", "kinesis"])
def test_a_replayed_event_is_the_same_chunk_in_whatever_company_and_buffer(tmp_path: Path, buffer: str) -> None:
    with empty_stores(buffer) as stores:
        world = World(stores, tmp_path)
        world.contract("sale", "number")
        world.receive(*sales("a", "b", user_id="ada"), *sales("c"))
        world.contract("sale", "string", "2-0-0")

        world.replay()

        chunks = [chunk for text in stores.messages() for chunk in chunks_of(decode_message(text))]
    alone = [next(chunks_of(Message("demo", NINE, [event]))) for event in sales("a", "b", user_id="ada")]
    assert sorted(chunk.count for chunk in chunks) == [1, 1, 1]
    assert {(chunk.partition_key, chunk.sort_key) for chunk in alone} < {
        (chunk.partition_key, chunk.sort_key) for chunk in chunks
    }


def test_a_replayed_event_that_lay_ahead_has_its_user_flagged(world: World) -> None:
    ahead = {"event_type": "Sold", "event_id": "a", "user_id": "ada", "timestamp": NINE + 3_600_000}
    world.contract("sale", "number")
    world.receive({**ahead, "event_type": "sale", "properties": {"price": "9"}})
    world.contract("sale", "string", "2-0-0")
    world.replay()

    flagged = [item for item in world.stores.items("events") if item["pk"]["S"] == "?ahead#demo"]
    assert len(flagged) == 1
