"""Users through the processor: what identify says, what the timeline shows."""

from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib.base.errors import InvalidRequest, NotFound
from chalicelib.events.chunks import Message, encode_message
from chalicelib.events.contracts import Contracts
from chalicelib.events.users_table import UsersTable
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.process import Processor
from chalicelib.privacy.profile import Profiler
from tests.mortal import Died, Mortal
from tests.stores import Stores, empty_stores

NINE = 1_795_251_600_000
MINUTE = 60_000


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def process(stores: Stores, *events: dict[str, Any], users: Any = None) -> list[str]:
    records = [
        {"messageId": f"m{n}", "body": text}
        for n, event in enumerate(events)
        for text, _ in encode_message(Message("demo", NINE, [event]))
    ]
    return Processor(stores.events, users or stores.users, stores.bucket, stores.erased, stores.ledger).process(records)


def event(event_id: str, event_type: str, minute: int, **more: Any) -> dict[str, Any]:
    at = NINE + minute * MINUTE
    return {"event_id": event_id, "event_type": event_type, "occurred_at": at, "timestamp": at, **more}


def profiler(stores: Stores) -> Profiler:
    return Profiler(stores.events, stores.users, stores.erasures, lambda ms: f"e-{ms}")


def test_a_user_is_what_was_said_last_however_often_and_in_whatever_order(stores: Stores) -> None:
    late = event("i1", "identify", 1, user_id="ada", anonymous_id="anon", properties={"plan": "free", "city": "Kiel"})
    early = event("i2", "identify", 2, user_id="ada", properties={"plan": "pro"})

    for _ in range(2):
        process(stores, early)
        process(stores, late)

    assert profiler(stores).user("demo", "ada") == {
        "user_id": "ada",
        "traits": {"plan": "pro", "city": "Kiel"},
        "previous_ids": ["anon"],
        "became": [],
    }
    assert profiler(stores).user("demo", "anon")["became"] == ["ada"]


def test_a_timeline_holds_the_events_from_before_the_user_was_known(stores: Stores) -> None:
    process(stores, event("a", "page_view", 0, anonymous_id="anon"), event("b", "page_view", 40, anonymous_id="anon"))
    process(stores, event("c", "identify", 41, user_id="ada", anonymous_id="anon"))

    found = profiler(stores).timeline("demo", "ada", 100, None)

    ids = [(shown["event_id"], shown["session_id"]) for shown in found["events"]]
    assert [event_id for event_id, _ in ids] == ["c", "b", "a"]
    assert ids[0][1] == ids[1][1] != ids[2][1]
    assert found["next"] is None


@pytest.mark.parametrize("before", ["~", "~profile", "~zzz", "óþ\U00109c68"])
def test_a_page_before_what_is_no_place_is_the_first_page(stores: Stores, before: str) -> None:
    process(stores, event("a", "identify", 0, user_id="ada", anonymous_id="anon", properties={"plan": "pro"}))

    found = profiler(stores).timeline("demo", "ada", 100, before)

    assert [shown["event_id"] for shown in found["events"]] == ["a"]


def test_an_id_that_no_event_may_have_is_refused_before_a_table_is_asked(stores: Stores) -> None:
    with pytest.raises(InvalidRequest, match="257 characters; the limit is 256"):
        profiler(stores).user("demo", "u" * 257)
    with pytest.raises(InvalidRequest, match="257 characters; the limit is 256"):
        profiler(stores).timeline("demo", "u" * 257, 100, None)


def test_pages_of_a_timeline_hold_each_event_once(stores: Stores) -> None:
    process(stores, *(event(f"e{n}", "click", n, user_id="ada") for n in range(7)))
    seen: list[str] = []
    before: str | None = None

    for _ in range(4):
        page = profiler(stores).timeline("demo", "ada", 3, before)
        seen += [shown["event_id"] for shown in page["events"]]
        before = page["next"]
        if before is None:
            break

    assert seen == ["e6", "e5", "e4", "e3", "e2", "e1", "e0"]


def test_a_profile_that_another_writes_meanwhile_loses_neither_word(stores: Stores) -> None:
    class Interrupted:
        interrupted = False

        def __getattr__(self, name: str) -> Any:
            return getattr(stores.users.client, name)

        def put_item(self, **arguments: Any) -> Any:
            if not self.interrupted:
                self.interrupted = True
                process(stores, event("i2", "identify", 2, user_id="ada", properties={"b": 2}))
            return stores.users.client.put_item(**arguments)

    interrupted = UsersTable(Interrupted(), "events")
    process(stores, event("i1", "identify", 1, user_id="ada", properties={"a": 1}), users=interrupted)

    assert profiler(stores).user("demo", "ada")["traits"] == {"a": 1, "b": 2}


class Refusing:
    """A client that throttles what has one sort key, however often it is written, and takes all else."""

    def __init__(self, client: Any, refused: str) -> None:
        self.client, self.refused = client, refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> Any:
        [(table, requests)] = RequestItems.items()
        some = [each for each in requests if each["PutRequest"]["Item"]["sk"]["S"] != self.refused]
        if some:
            self.client.batch_write_item(RequestItems={table: some})
        return {"UnprocessedItems": {table: [each for each in requests if each not in some]}}


def erased_with(stores: Stores, user: str) -> list[str]:
    """The ids that an erasure of the user would be of."""
    return stores.users.ids_of("demo", user, stores.events.is_user)


WHO_IS_WHO = [
    event("i", "identify", 1, user_id="ada", anonymous_id="anon", properties={"plan": "pro"}),
    event("a", "alias", 2, user_id="ada", properties={"previous_id": "lead"}),
]


def test_who_is_said_to_have_become_somebody_is_erased_with_them_wherever_a_process_died() -> None:
    """Its message never comes again: it lies among the dead letters, or comes when links are not kept any more."""
    for number in range(1, 20):
        with empty_stores() as stores:
            mortal = Mortal(stores.users.client, number)
            died = False
            try:
                process(stores, *WHO_IS_WHO, users=UsersTable(mortal, "events"))
            except Died:
                died = True

            for previous in ("anon", "lead"):
                became = stores.users.links("demo", previous)[1]
                assert not became or previous in erased_with(stores, "ada"), f"before write {number}"
        if not died:
            assert number > 3
            return
    raise AssertionError("it takes more writes than were tried")


@pytest.mark.parametrize("refused", ["~previous#anon", "~user#ada"])
def test_who_is_said_to_have_become_somebody_is_erased_with_them_whichever_end_was_refused(
    stores: Stores, refused: str
) -> None:
    users = UsersTable(Refusing(stores.users.client, refused), "events", sleep=lambda _: None)

    failed = process(stores, *WHO_IS_WHO, users=users)

    became = [previous for previous in ("anon", "lead") if stores.users.links("demo", previous)[1]]
    assert failed
    assert set(became) <= set(erased_with(stores, "ada"))


def test_what_is_known_of_users_is_no_event(stores: Stores) -> None:
    process(stores, event("i1", "identify", 1, user_id="ada", anonymous_id="anon", properties={"a": 1}))
    profiles = [item for item in stores.items("events") if item["sk"]["S"].startswith("~")]
    records = [
        {"eventID": f"r{n}", "eventName": "INSERT", "dynamodb": {"SequenceNumber": str(n), "NewImage": item}}
        for n, item in enumerate(profiles)
    ]

    folded = Aggregator(Contracts({}), stores.rollups, stores.bucket).fold(records)

    assert len(profiles) == 3
    assert folded == {}
    assert stores.objects() == []


def test_somebody_nobody_heard_of_is_not_found(stores: Stores) -> None:
    with pytest.raises(NotFound, match="'nobody' is not known"):
        profiler(stores).user("demo", "nobody")

    assert profiler(stores).timeline("demo", "nobody", 10, None) == {"user_id": "nobody", "events": [], "next": None}


def test_a_chunk_that_nobody_can_read_hides_no_other(stores: Stores) -> None:
    process(stores, event("a", "click", 0, user_id="ada"), event("b", "click", 1, user_id="ada"))
    item = next(item for item in stores.items("events") if item["sk"]["S"].startswith("2026"))
    stores.events.client.put_item(TableName="events", Item={**item, "body": {"B": b"no chunk"}})

    found = profiler(stores).timeline("demo", "ada", 100, None)

    assert len(found["events"]) == 1
