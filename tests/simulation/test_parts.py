"""The parts of the simulation that have no other cloud to be compared with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from greenlet import getcurrent

from tests.simulation.limits import SMALL
from tests.simulation.ports.client import Client
from tests.simulation.ports.dynamodb import DynamoDB
from tests.simulation.ports.quirks import Quirks
from tests.simulation.ports.table_stream import RETENTION_SECONDS, TableStream
from tests.simulation.ports.tables import Index, Table
from tests.simulation.resources import ROOT
from tests.simulation.scheduler import Actor, Killed, Scheduler

START = 1_800_000_000.0


class App:
    """What the scheduler knows of the app."""

    current_request = None


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(START, App())


def act(scheduler: Scheduler, work: Callable[[], object], deadline: float | None = None) -> list[object]:
    """Start an actor; what becomes of it is the list's one element, in the end."""
    outcome: list[object] = []
    ended = lambda result, error: outcome.append(error or result)  # noqa: E731
    scheduler.start(Actor(scheduler, "actor", work, ended, deadline=deadline))
    return outcome


def test_actors_go_on_in_the_order_of_time(scheduler: Scheduler) -> None:
    said: list[str] = []

    def say(name: str, *pauses: float) -> Callable[[], None]:
        def work() -> None:
            for seconds in pauses:
                scheduler.pause(seconds)
                said.append(f"{name} {scheduler.now - START:.0f}")

        return work

    act(scheduler, say("a", 2, 2))
    act(scheduler, say("b", 1, 2))
    scheduler.run(START + 10)

    assert said == ["b 1", "a 2", "b 3", "a 4"]
    assert scheduler.now == START + 10


def test_nobody_goes_beyond_the_end_of_a_run(scheduler: Scheduler) -> None:
    def work() -> str:
        scheduler.pause(5)
        return "done"

    outcome = act(scheduler, work)

    scheduler.run(START + 4)

    assert outcome == []
    scheduler.run(START + 5)
    assert outcome == ["done"]


def test_an_actor_is_killed_at_its_deadline_and_does_nothing_more(scheduler: Scheduler) -> None:
    did: list[str] = []

    def work() -> None:
        try:
            scheduler.pause(3)
            scheduler.pause(3)
            did.append("went on")
        finally:
            with pytest.raises(Killed):
                scheduler.pause(1)
            did.append("cleaned up")

    [error] = [act(scheduler, work, deadline=START + 4)]
    scheduler.run(START + 10)

    assert isinstance(error[0], Killed)
    assert did == ["cleaned up"]


def test_the_hub_is_who_made_the_scheduler(scheduler: Scheduler) -> None:
    assert scheduler.hub is getcurrent()
    scheduler.pause(5)
    assert scheduler.now == START


class Late(Quirks):
    """An index that shows the first change late."""

    def __init__(self) -> None:
        self.lags = [10.0, 0.0, 0.0]

    def lag_seconds(self) -> float:
        return self.lags.pop(0)


def test_an_index_lags_and_shows_the_changes_of_an_item_in_their_order() -> None:
    now = [START]
    quirks = Late()
    table = Table("t", {"open": Index("open", "written_at", whole=True)}, quirks=quirks)
    client = Client(DynamoDB(lambda: now[0], {"t": table}))

    def put(sk: str, at: int) -> None:
        item = {"pk": {"S": "p"}, "sk": {"S": sk}, "open": {"S": "x"}, "written_at": {"N": str(at)}}
        client.put_item(TableName="t", Item=item)

    def shown() -> list[tuple[str, str]]:
        items = client.scan(TableName="t", IndexName="open")["Items"]
        return [(item["sk"]["S"], item["written_at"]["N"]) for item in items]

    put("a", 1)
    put("b", 2)
    put("a", 3)

    assert shown() == [("b", "2")]
    now[0] += 9.9
    assert shown() == [("b", "2")]
    now[0] += 0.1
    assert shown() == [("b", "2"), ("a", "3")]


class Reads(Quirks):
    """Counts those that may be late."""

    found = 0

    def late_read(self) -> None:
        self.found += 1


@pytest.mark.parametrize("consistent", [True, False])
def test_a_read_that_does_not_ask_for_what_is_there_now_is_known(*, consistent: bool) -> None:
    client = Client(DynamoDB(lambda: START, {"t": Table("t")}, quirks := Reads()))
    key, asked = {"pk": {"S": "p"}, "sk": {"S": "s"}}, {"ConsistentRead": consistent}
    client.put_item(TableName="t", Item=key)

    client.get_item(TableName="t", Key=key, **asked)
    client.batch_get_item(RequestItems={"t": {"Keys": [key], **asked}})
    client.query(TableName="t", KeyConditionExpression="pk = :p", ExpressionAttributeValues={":p": {"S": "p"}}, **asked)
    client.scan(TableName="t", **asked)

    assert quirks.found == (0 if consistent else 4)


def test_what_has_expired_is_there_until_it_is_deleted() -> None:
    stream = TableStream("arn")
    table = Table("t", stream=stream)
    client = Client(DynamoDB(lambda: START, {"t": table}))
    for sk, until in (("a", START - 1), ("b", START + 1)):
        client.put_item(TableName="t", Item={"pk": {"S": "p"}, "sk": {"S": sk}, "expires_at": {"N": str(int(until))}})

    before = client.scan(TableName="t")["Count"]
    deleted = table.expire(START)

    assert (before, deleted) == (2, 1)
    assert [item["sk"]["S"] for item in client.scan(TableName="t")["Items"]] == ["b"]
    removed = stream.shards[0].records[-1].to_json("arn")
    assert removed["eventName"] == "REMOVE"
    assert removed["userIdentity"]["principalId"] == "dynamodb.amazonaws.com"


def test_a_split_shard_takes_nothing_more_and_keeps_its_day() -> None:
    stream = TableStream("arn")
    table = Table("t", stream=stream)
    client = Client(DynamoDB(lambda: START, {"t": table}))

    def put(number: int) -> None:
        client.put_item(TableName="t", Item={"pk": {"S": f"p{number}"}, "sk": {"S": "s"}})

    for number in range(20):
        put(number)
    stream.split(stream.shards[0])
    for number in range(20, 40):
        put(number)

    parent, *children = stream.shards
    assert [len(parent.records), sum(len(child.records) for child in children)] == [20, 20]
    assert all(child.records for child in children)
    assert all(child.parent is parent for child in children)
    assert parent.trimmed(START + RETENTION_SECONDS - 1) == 0
    assert parent.trimmed(START + RETENTION_SECONDS) == 20


def test_the_bounds_that_are_made_small_exist() -> None:
    code = "\n".join(path.read_text() for path in Path(ROOT / "chalicelib").rglob("*.py"))

    assert [name for name in SMALL if f"\n{name} = " not in code] == []
