"""Functions that nobody waits for, as Lambda calls them: `process` and `take_bus_event` of app.py, on real stores."""

import gzip
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import app
from chalicelib import wiring
from chalicelib.access.access import Project
from chalicelib.events.chunks import Message, decode_message, encode_message
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import Admitter, Mode
from chalicelib.events.events_table import EventsTable
from chalicelib.events.users_table import PROFILE, UsersTable
from chalicelib.imports.start_import import ImportStarter
from chalicelib.ingest.collect import Collector
from chalicelib.ingest.process import Processor
from chalicelib.ingest.receive import Receiver
from chalicelib.rollups.ledger import Tally
from tests.ingest.test_process_isolation import RECEIVED, TIMED_OUT, Client, Throttled, event, identify, refusal
from tests.stores import Stores, empty_stores


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


# process


def sent(message_id: str, *events: dict[str, Any], project: str = "demo") -> dict[str, Any]:
    [(text, _)] = encode_message(Message(project, RECEIVED, list(events)))
    return {"messageId": message_id, "body": text, "receiptHandle": "r"}


Process = Callable[..., list[str]]


@pytest.fixture
def process(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> Process:
    """Call the function with records; returns the ids of those that come again."""

    def called(*records: dict[str, Any], client: Any = None, erased: Any = None) -> list[str]:
        events = EventsTable(client or stores.events.client, "events", sleep=lambda _: None)
        users = UsersTable(client or stores.events.client, "events", sleep=lambda _: None)
        found = Processor(events, users, stores.bucket, erased or stores.erased, stores.ledger)
        monkeypatch.setattr(wiring, "stages", lambda: SimpleNamespace(processor=found))
        answer = app.process({"Records": list(records)}, None)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    return called


def stored(stores: Stores) -> list[str]:
    return sorted(item["pk"]["S"] for item in stores.items("events") if "body" in item)


def test_a_hot_profile_gives_back_no_message(stores: Stores, process: Process) -> None:
    def hot(operation: str, key: str, sort_key: str) -> None:
        if operation == "put_item" and (key, sort_key) == ("demo#guest", PROFILE):
            raise refusal("ConditionalCheckFailedException")

    records = [sent(f"m{n}", identify(f"e{n}", "guest", page=n)) for n in range(3)]
    records.append(sent("other", identify("o", "ada", plan="pro"), project="other"))

    assert process(*records, client=Client(stores.events.client, hot)) == []
    assert stored(stores) == ["demo#guest"] * 3 + ["other#ada"]
    assert stores.users.traits("other", "ada")["plan"][1] == "pro"


def test_a_throttled_partition_gives_back_its_own_messages(stores: Stores, process: Process) -> None:
    records = [sent("hot", event("a", "hot")), sent("cold", event("b", "u")), sent("o", event("c", "v"), project="o")]

    assert process(*records, client=Throttled(stores.events.client, "demo#hot")) == ["hot"]
    assert stored(stores) == ["demo#u", "o#v"]


def test_a_project_whose_settings_cannot_be_read_gives_back_its_own_messages(stores: Stores, process: Process) -> None:
    class Erased:
        def split(self, project: str, events: list[Any]) -> tuple[list[Any], list[Any]]:
            if project == "demo":
                raise TIMED_OUT
            return events, []

    records = [sent("m", event("a", "u")), sent("junk", event("b", "u")) | {"body": "junk"}]
    records.append(sent("o", event("c", "v"), project="o"))

    assert process(*records, erased=Erased()) == ["m"]
    assert stored(stores) == ["o#v"]
    assert stores.objects() == ["quarantine/unreadable/junk"]


def test_everything_at_once_names_only_what_was_not_stored(stores: Stores, process: Process) -> None:
    def trouble(operation: str, key: str, sort_key: str) -> None:
        if operation == "put_item" and sort_key == PROFILE and key == "demo#guest":
            raise refusal("ConditionalCheckFailedException")
        if operation == "batch_write_item" and key.startswith("down#"):
            raise TIMED_OUT

    records = [
        sent("guest", identify("a", "guest", x=1)),
        sent("junk", event("b", "u")) | {"body": "junk"},
        sent("odd", event("c", "u") | {"user_id": {"no": "text"}}),
        *(sent(f"good{n}", event(f"d{n}", f"u{n}"), project="other") for n in range(3)),
    ]

    assert process(*records, client=Client(stores.events.client, trouble)) == []
    assert stored(stores) == ["demo#guest", "other#u0", "other#u1", "other#u2"]
    assert stores.objects() == ["quarantine/unreadable/junk", "quarantine/unreadable/odd"]


# take_bus_event


SOLD = {
    "version": "0",
    "id": "6a7e8feb",
    "detail-type": "Sold",
    "source": "tidemark.shop",
    "account": "111122223333",
    "time": "2026-11-21T02:05:00Z",
    "region": "us-west-1",
    "resources": [],
    "detail": {"state": "sold"},
}
NOW = 1_795_226_709_000


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


STORED: dict[str, dict[str, Any]] = {
    "as usual": {},
    "half of a pair": {"detail": {"x": "\ud83d", "\udc00": 1}},
    "half of a pair as its id": {"id": "a\ud83d"},
    "half of a pair as its type": {"detail-type": "Sold \ud83d"},
    "an integer beyond 64 bits": {"detail": {"x": 2**64, "y": -(2**70)}},
    "an integer beyond a double": {"detail": {"x": 10**400}},
    "no number": {"detail": {"x": float("nan"), "y": float("inf")}},
    "no detail": {"detail": ...},
    "null for a detail": {"detail": None},
    "no id": {"id": ...},
    "no time": {"time": ...},
    "resources of any kind": {"resources": {"x": [2**64]}},
    "no source": {"source": ...},
}
KEPT: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a text for a detail": ({"detail": "sold"}, {"contract_violation"}),
    "a list for a detail": ({"detail": [1]}, {"contract_violation"}),
    "nested": ({"detail": {"x": deep(300)}}, {"too_deep"}),
    "nested too deep for a parser": ({"detail": {"x": deep(2_000)}}, {"too_deep", "malformed_json"}),
    "nested too deep for recursion": ({"detail": {"x": deep(50_000)}}, {"malformed_json"}),
    "a number for an id": ({"id": 7}, {"contract_violation"}),
    "a huge number for an id": ({"id": 2**70}, {"contract_violation"}),
    "a list for an id": ({"id": ["a"]}, {"contract_violation"}),
    "a number for a type": ({"detail-type": 7}, {"contract_violation"}),
    "no type": ({"detail-type": ...}, {"contract_violation"}),
    "a time that is none": ({"time": "yesterday"}, {"invalid_time"}),
    "a list for a time": ({"time": [deep(300)]}, {"contract_violation"}),
    "values without an end": ({"detail": {"x": [[]] * 30_000}}, {"too_many_values"}),
}


@pytest.fixture
def tally(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> Tally:
    """What the function counts that the fixture puts together."""
    found = Tally("c1")
    admitter = Admitter(Contracts({}), lambda _: "made")
    collector = Collector(
        admitter, stores.buffer, stores.bucket, stores.ledger, found, stores.erased, stores.flags, clock=lambda: 0.0
    )

    class Authorizer:
        def project_of_bus(self, name: str) -> Project:
            return Project("demo", Mode.INFER)

    authorizer: Any = Authorizer()
    receiver = Receiver(authorizer, collector, "demo")
    monkeypatch.setattr(wiring, "stages", lambda: SimpleNamespace(receiver=receiver))
    monkeypatch.setattr(app, "now_ms", lambda: NOW)
    return found


def come(changes: dict[str, Any]) -> None:
    """An event arrives on the bus; `...` leaves a field out."""
    app.take_bus_event({name: value for name, value in {**SOLD, **changes}.items() if value is not ...}, None)


def counted(tally: Tally) -> tuple[int, int]:
    [totals] = tally.idle
    [receipt] = totals.by_hour.values()
    return receipt.received, receipt.quarantined


def test_our_own_notices_are_not_taken_for_events(stores: Stores, tally: Tally) -> None:
    for source in ("tidemark.anomalies", "tidemark.alerts", "tidemark.imports"):
        come({"source": source})

    assert stores.messages() == []
    assert tally.idle == []


def test_a_file_below_raw_starts_an_import_and_what_lies_beside_it_starts_none(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, dict[str, Any]]] = []
    workflow: Any = SimpleNamespace(start=lambda *told: started.append(told))
    monkeypatch.setattr(wiring, "stages", lambda: SimpleNamespace(import_starter=ImportStarter(workflow)))

    for key in ("raw/shop/a+b.csv", "raw/shop/a+b.csv.mapping.json", "raw/shop/a+b.csv.report.json"):
        object_ = {"key": key, "eTag": "e", "sequencer": "1"}
        record = {"eventTime": "2026-11-21T09:00:00.000Z", "s3": {"bucket": {"name": "data"}, "object": object_}}
        app.start_import({"Records": [record]}, None)

    [(name, document)] = started
    assert name.startswith("20261121T090000-")
    assert document["import"]["key"] == "raw/shop/a b.csv"


@pytest.mark.parametrize("kind", STORED)
def test_what_comes_on_the_bus_is_stored(stores: Stores, tally: Tally, kind: str) -> None:
    come(STORED[kind])

    [text] = stores.messages()
    [event] = decode_message(text).events
    assert event["event_type"].startswith("sold")
    assert counted(tally) == (1, 0)
    assert stores.objects("quarantine/") == []


@pytest.mark.parametrize("kind", KEPT)
def test_what_comes_on_the_bus_and_cannot_be_stored_is_kept_with_its_reason(
    stores: Stores, tally: Tally, kind: str
) -> None:
    changes, codes = KEPT[kind]

    come(changes)

    [key] = stores.objects("quarantine/")
    head, record, *_ = gzip.decompress(stores.bucket.get(key) or b"").splitlines()
    assert json.loads(head)["project"] == "demo"
    assert json.loads(record)["code"] in codes
    assert counted(tally) == (1, 1)
    assert stores.messages() == []
