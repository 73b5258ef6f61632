"""One bad or busy message, user, tenant or key costs the others of its batch neither their place nor their time."""

import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from chalicelib.base.batches import MAX_FAILURES, PAUSED_SECONDS
from chalicelib.base.retries import MAX_TRIES
from chalicelib.events.chunks import Message, encode_message
from chalicelib.events.erasure import FOR_EVER_MS, MAX_IDS, Marker, digest_of_user
from chalicelib.events.events_table import EventsTable
from chalicelib.events.identity import Link, Said
from chalicelib.events.pins_table import PIN
from chalicelib.events.users_table import BECAME, PROFILE, WAS, Unlearned, UsersTable
from chalicelib.ingest.process import LEARN_SECONDS, PIN_SECONDS, Processor
from tests.stores import Stores, empty_stores

RECEIVED = 1_795_226_700_123
TIMED_OUT = ConnectTimeoutError(endpoint_url="nowhere")


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


class Clock:
    """Time that passes when somebody sleeps, or says so."""

    def __init__(self) -> None:
        self.now = RECEIVED / 1000

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Client:
    """DynamoDB with some trouble: `refuse` raises it, for an operation and the partition key of an item."""

    def __init__(self, client: Any, refuse: Any, clock: Clock | None = None, seconds: float = 0.0) -> None:
        self.client, self.refuse, self.clock, self.seconds = client, refuse, clock, seconds
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)

        def called(**arguments: Any) -> Any:
            self.calls.append(name)
            if self.clock:
                self.clock.sleep(self.seconds)
            writes = arguments.get("RequestItems", {}).get("events", []) if name == "batch_write_item" else []
            put = [each["PutRequest"]["Item"] for each in writes]
            for item in put or [arguments.get("Item") or arguments.get("Key") or {}]:
                self.refuse(name, item.get("pk", {}).get("S", ""), item.get("sk", {}).get("S", ""))
            return call(**arguments)

        return called if name in ("put_item", "get_item", "batch_get_item", "batch_write_item") else call


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutItem")


def record(identity: str, *events: dict[str, Any], project: str = "demo") -> dict[str, Any]:
    [(text, _)] = encode_message(Message(project, RECEIVED, list(events)))
    return {"messageId": identity, "body": text}


def event(event_id: str, user: str, event_type: str = "click", **more: Any) -> dict[str, Any]:
    found = {"event_id": event_id, "event_type": event_type, "user_id": user, "occurred_at": RECEIVED}
    return {**found, "timestamp": 1, **more}


def identify(event_id: str, user: str, **traits: Any) -> dict[str, Any]:
    return event(event_id, user, "identify", anonymous_id=f"visitor of {event_id}", properties=traits)


def processor(stores: Stores, clock: Clock, users: Any = None, events: Any = None, **more: Any) -> Processor:
    found = events or stores.events
    table = UsersTable(users or stores.users.client, "events", clock=clock, sleep=clock.sleep)
    return Processor(found, table, stores.bucket, stores.erased, more.pop("ledger", stores.ledger), clock, **more)


def chunks(stores: Stores) -> list[str]:
    return sorted(item["pk"]["S"] for item in stores.items("events") if "body" in item)


@pytest.mark.parametrize("code", ["ConditionalCheckFailedException", "ProvisionedThroughputExceededException"])
def test_a_hot_profile_costs_no_message_its_place_and_others_nothing(
    stores: Stores, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    def hot(operation: str, key: str, sort_key: str) -> None:
        if operation == "put_item" and key == "demo#guest":
            raise refusal(code)

    clock = Clock()
    caplog.set_level(logging.INFO)
    records = [record(f"m{n}", identify(f"g{n}", "guest", page=n)) for n in range(8)]
    records += [record("other", identify("o", "ada", plan="pro"), project="other")]

    failed = processor(stores, clock, Client(stores.users.client, hot)).process(records)

    assert failed == []
    assert len(chunks(stores)) == 9
    assert {name: value for name, (_, value) in stores.users.traits("other", "ada").items()} == {"plan": "pro"}
    assert stores.users.links("other", "ada") == (["visitor of o"], [])
    assert clock.now - RECEIVED / 1000 < LEARN_SECONDS
    [missed] = [found.__dict__ for found in caplog.records if "TraitsNotLearned" in found.__dict__]
    assert missed["TraitsNotLearned"] >= 1


def test_a_profile_that_others_write_is_kept_once_they_have_had_their_turn(stores: Stores) -> None:
    conflicts = iter(range(6))

    def busy(operation: str, key: str, sort_key: str) -> None:
        if operation == "put_item" and sort_key == PROFILE and next(conflicts, None) is not None:
            raise refusal("ConditionalCheckFailedException")

    clock = Clock()
    failed = processor(stores, clock, Client(stores.users.client, busy)).process([record("m", identify("e", "u", a=1))])

    assert failed == []
    assert stores.users.traits("demo", "u")["a"][1] == 1
    assert 0 < clock.now - RECEIVED / 1000 < LEARN_SECONDS


def test_learning_ends_in_time_and_what_is_left_comes_again(stores: Stores) -> None:
    clock = Clock()
    slow = Client(stores.users.client, lambda *_: None, clock, seconds=0.4)
    records = [record(f"m{n}", identify(f"e{n}", f"u{n}", a=1)) for n in range(20)]

    rounds = 0
    while records:
        began = clock.now
        failed = processor(stores, clock, slow).process(records)
        assert clock.now - began <= LEARN_SECONDS + 0.4 * 2  # one that had begun, and another
        assert len(chunks(stores)) == 20  # once
        assert len(failed) < len(records)  # what was learned stays so
        records = [each for each in records if each["messageId"] in failed]
        rounds += 1

    assert rounds > 1
    assert all(stores.users.traits("demo", f"u{n}")["a"][1] == 1 for n in range(20))
    assert all(stores.users.links("demo", f"u{n}") == ([f"visitor of e{n}"], []) for n in range(20))


@pytest.mark.parametrize("what", [PROFILE, WAS, BECAME])
def test_words_that_a_table_did_not_take_come_again_alone(stores: Stores, what: str) -> None:
    """Without the link, an erasure would not find who somebody was."""
    broken = {"is": True}

    def refuse(operation: str, key: str, sort_key: str) -> None:
        if broken["is"] and sort_key.startswith(what) and key in ("demo#u1", "demo#visitor of e1"):
            raise TIMED_OUT

    client = Client(stores.users.client, refuse)
    records = [record(f"m{n}", identify(f"e{n}", f"u{n}", a=1), project="demo" if n < 2 else "b") for n in range(4)]
    failed = processor(stores, Clock(), client).process([*records, record("click", event("c", "u1"))])

    assert "m1" in failed
    assert not {"m2", "m3", "click"} & {*failed}
    broken["is"] = False
    assert processor(stores, Clock(), client).process(records[:2]) == []
    assert stores.users.links("demo", "u1") == (["visitor of e1"], [])
    assert stores.users.links("demo", "visitor of e1") == ([], ["u1"])
    assert stores.users.traits("demo", "u1")["a"][1] == 1


def test_many_users_are_learned_with_few_calls_when_nothing_is_new(stores: Stores) -> None:
    client = Client(stores.users.client, lambda *_: None)
    many = record("m", *(identify(f"e{n}", f"u{n}", a=1) for n in range(250)))
    assert processor(stores, Clock(), client).process([many]) == []
    client.calls.clear()

    assert processor(stores, Clock(), client).process([many]) == []

    assert client.calls.count("batch_get_item") == 3
    assert client.calls.count("batch_write_item") == 20  # the links, which another container cannot know
    assert client.calls.count("put_item") == 0


def test_no_project_s_users_take_the_time_of_another_s(stores: Stores) -> None:
    clock = Clock()
    slow = Client(stores.users.client, lambda *_: None, clock, seconds=0.2)
    records = [record(f"m{n}", identify(f"e{n}", f"u{n}", a=1)) for n in range(40)]
    records += [record("other", identify("o", "ada", plan="pro"), project="other")]

    processor(stores, clock, slow).process(records)

    assert stores.users.traits("other", "ada")["plan"][1] == "pro"


class Throttled:
    """A table one of whose partitions is hot, and which is slow."""

    def __init__(self, client: Any, hot: str) -> None:
        self.client, self.hot, self.calls = client, hot, 0

    def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> Any:
        self.calls += 1
        [(table, requests)] = RequestItems.items()
        hot = [each for each in requests if each["PutRequest"]["Item"]["pk"]["S"].startswith(self.hot)]
        rest = [each for each in requests if each not in hot]
        if not rest:
            raise refusal("ProvisionedThroughputExceededException")
        self.client.batch_write_item(RequestItems={table: rest})
        return {"UnprocessedItems": {table: hot}} if hot else {}


def test_a_hot_partition_gives_back_its_own_messages_alone(stores: Stores) -> None:
    clock = Clock()
    table = EventsTable(Throttled(stores.events.client, "demo#hot"), "events", sleep=clock.sleep)
    records = [record(f"h{n}", event(f"h{n}", "hot"), event(f"i{n}", f"cold{n}")) for n in range(20)]
    records += [record(f"o{n}", event(f"o{n}", f"u{n}"), project="other") for n in range(20)]

    failed = processor(stores, clock, events=table).process(records)

    assert failed == [f"h{n}" for n in range(20)]
    assert len(chunks(stores)) == 40
    assert clock.now - RECEIVED / 1000 < PAUSED_SECONDS + 2


def test_many_throttled_chunks_do_not_take_the_function_s_minute(stores: Stores) -> None:
    clock = Clock()
    throttled = Throttled(stores.events.client, "demo#")
    table = EventsTable(throttled, "events", sleep=clock.sleep)
    many = record("many", *(event(f"e{n}", f"u{n}") for n in range(2000)))

    failed = processor(stores, clock, events=table).process([many, record("o", event("o", "u"), project="other")])

    assert failed == ["many"]
    assert chunks(stores) == ["other#u"]
    assert clock.now - RECEIVED / 1000 < PAUSED_SECONDS + 2
    assert throttled.calls < 2000 / 25 * 2 + MAX_TRIES * 8


def test_a_table_that_does_not_answer_is_not_asked_until_the_minute_is_over(stores: Stores) -> None:
    class Down:
        calls = 0

        def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> Any:
            self.calls += 1
            raise TIMED_OUT

    table = EventsTable(Down(), "events")
    records = [record(f"m{n}", *(event(f"e{n}{u}", f"u{n}{u}") for u in range(25))) for n in range(10)]

    failed = processor(stores, Clock(), events=table).process(records)

    assert failed == [f"m{n}" for n in range(10)]
    assert table.client.calls == MAX_FAILURES


@pytest.mark.parametrize(
    "more",
    [
        {"properties": ["no", "object"]},
        {"context": {"page": 7, "ip": {}}, "properties": 5},
        {"user_id": {"no": "text"}},
        {"timestamp": "no time"},
        {"event_id": ["no", "text"]},
    ],
)
def test_a_message_that_is_not_as_the_edge_writes_it_is_kept_alone(stores: Stores, more: dict[str, Any]) -> None:
    records = [record("good", event("a", "u")), record("bad", event("b", "v") | more), record("fine", event("c", "w"))]

    failed = processor(stores, Clock()).process(records)

    assert failed == []
    assert len(chunks(stores)) >= 2
    assert stores.objects() in ([], ["quarantine/unreadable/bad"])
    assert (len(chunks(stores)) == 3) == (stores.objects() == [])


def test_a_project_whose_erased_users_cannot_be_read_keeps_no_other_waiting(stores: Stores) -> None:
    class Erased:
        asked = 0

        def split(self, project: str, events: list[Any]) -> tuple[list[Any], list[Any]]:
            if project == "demo":
                self.asked += 1
                raise TIMED_OUT
            return events, []

    erased: Any = Erased()
    found = Processor(stores.events, stores.users, stores.bucket, erased, stores.ledger, Clock())
    records = [record(f"m{n}", event(f"a{n}", "u")) for n in range(3)]

    assert found.process([*records, record("o", event("b", "u"), project="other")]) == ["m0", "m1", "m2"]
    assert chunks(stores) == ["other#u"]
    assert erased.asked == 1  # it takes 21 s each time


def test_a_ledger_that_takes_no_receipt_gives_back_the_one_message_that_has_one(stores: Stores) -> None:
    class Ledger:
        def put(self, *_: Any) -> None:
            raise TIMED_OUT

    stores.erased.put("demo", Marker(digest_of_user("demo", "gone"), RECEIVED, FOR_EVER_MS))
    records = [record("m", event("a", "gone"), event("b", "u")), record("o", event("c", "v"))]

    failed = processor(stores, Clock(), ledger=Ledger()).process(records)

    assert failed == ["m"]
    assert chunks(stores) == ["demo#v"]  # of the message that comes again nothing is stored, so nothing counts twice


def ahead(event_id: str, user: str) -> dict[str, Any]:
    return event(event_id, user, timestamp=RECEIVED + 10**7, unsure="clamped")


def test_many_doubtful_events_keep_others_waiting_for_a_bounded_time(stores: Stores) -> None:
    clock = Clock()
    slow = Client(stores.users.client, lambda *_: None, clock, seconds=0.1)
    records = [record(f"many{n}", *(ahead(f"m{n} {e}", "u") for e in range(150))) for n in range(4)]
    records += [record("few", ahead("f", "ada"), project="other"), record("none", event("n", "bob"), project="other")]

    failed = processor(stores, clock, slow).process(records)

    assert failed == ["many2", "many3"]  # which come again, and go on from the pins that are there
    assert chunks(stores) == ["demo#u", "demo#u", "other#ada", "other#bob"]
    assert clock.now - RECEIVED / 1000 < PIN_SECONDS + 150 * 0.1 + 5


def test_when_a_pin_cannot_be_put_its_message_alone_comes_again(stores: Stores) -> None:
    def refuse(operation: str, key: str, sort_key: str) -> None:
        if sort_key.startswith(PIN) and key == "demo#u":
            raise TIMED_OUT

    client = Client(stores.users.client, refuse)
    records = [record("m", ahead("a", "u")), record("o", ahead("b", "v")), record("p", event("c", "w"))]

    assert processor(stores, Clock(), client).process(records) == ["m"]
    assert chunks(stores) == ["demo#v", "demo#w"]


def test_pins_are_found_by_their_user_and_removed_with_them(stores: Stores) -> None:
    processor(stores, Clock()).process([record("m", ahead("a", "u"))])

    keys = stores.events.items_of("demo", "u")
    assert [key for key in keys if key.startswith(PIN)]
    assert set(keys.values()) == {RECEIVED}
    stores.events.delete("demo", "u", keys)
    assert stores.events.items_of("demo", "u") == {}


def test_a_profile_fits_its_item_whatever_is_said(stores: Stores) -> None:
    rng = random.Random(1)

    def noise(length: int) -> str:
        return "".join(chr(rng.randrange(0x10000, 0x10FFFF)) for _ in range(length))

    said = Said()
    for number in range(260):
        said.hear(identify(noise(256), "u", **{f"t{number}": noise(250)}) | {"occurred_at": RECEIVED + number})
    said.links.clear()

    assert stores.users.learn("demo", said) == Unlearned()
    known = stores.users.traits("demo", "u")
    assert "t259" in known
    assert len(known) >= 100
    assert stores.users.learn("demo", said) == Unlearned()
    assert stores.users.traits("demo", "u") == known


def test_profiles_that_a_read_of_many_leaves_out_are_kept(stores: Stores) -> None:
    class Partial:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.users.client, name)

        def batch_get_item(self, **_: Any) -> dict[str, Any]:
            return {"Responses": {}}

    first, then = Said(), Said()
    for user in ("u", "v"):
        first.hear(identify(f"a{user}", user, old=1))
        then.hear(identify(f"b{user}", user, new=2))
    stores.users.learn("demo", first)

    assert UsersTable(Partial(), "events", sleep=lambda _: None).learn("demo", then) == Unlearned()

    assert {name: value for name, (_, value) in stores.users.traits("demo", "u").items()} == {"old": 1, "new": 2}


def test_all_projects_together_take_the_time_of_one(stores: Stores) -> None:
    clock = Clock()
    slow = Client(stores.users.client, lambda *_: None, clock, seconds=0.2)
    records = [
        record(f"m{p}{n}", identify(f"e{n}", f"u{n}", a=1), project=f"p{p}") for p in range(5) for n in range(20)
    ]

    processor(stores, clock, slow).process(records)

    assert clock.now - RECEIVED / 1000 < LEARN_SECONDS + 5 * 3 * 0.2


def test_of_a_user_with_very_many_earlier_ids_a_bounded_number_is_read(stores: Stores) -> None:
    said = Said({}, {Link(f"v{number:04}", "guest") for number in range(MAX_IDS + 200)})

    stores.users.learn("demo", said)

    assert len(stores.users.links("demo", "guest")[0]) == MAX_IDS
