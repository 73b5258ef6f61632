"""Writes that are made together: what a refusal says, and whom it must not deceive."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib.access.access import ApiKey, Project, Scope
from chalicelib.access.quotas import UNLIMITED
from chalicelib.base.dynamo import NEW, Action, Table, key, put
from chalicelib.base.errors import Unavailable
from chalicelib.base.retries import MAX_TRIES
from chalicelib.events.events import Mode
from chalicelib.privacy.profile import Profiler
from tests.stores import Stores, empty_stores

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("chalicelib.base.retries.time.sleep", found.append)
    return found


def meets(stores: Stores, *codes: str, times: int = MAX_TRIES) -> None:
    """The next transactions are cancelled for these reasons."""
    left = [times]

    def refuse(operation: str, _arguments: Any) -> None:
        if operation == "transact_write_items" and left[0]:
            left[0] -= 1
            answer = {"Error": {"Code": "TransactionCanceledException"}}
            reasons = [{"Code": code} for code in codes]
            error = stores.connections.client.exceptions.TransactionCanceledException
            raise error({**answer, "CancellationReasons": reasons}, operation)

    stores.calls.listeners.append(refuse)


def a_put(condition: str = "") -> Action:
    return put(key("x", "x"), condition)


def control(stores: Stores) -> Table:
    return Table(stores.connections.client, "control")


def test_a_condition_that_does_not_hold_is_a_lost_race(stores: Stores, pauses: list[float]) -> None:
    new = a_put(NEW)

    assert [control(stores).write_together(new) for _ in range(2)] == [True, False]
    assert pauses == []


@pytest.mark.parametrize(
    "codes",
    [
        ("TransactionConflict",),
        ("None", "TransactionConflict"),
        ("ThrottlingError",),
        ("ProvisionedThroughputExceeded", "TransactionConflict"),
    ],
)
def test_a_transaction_that_meets_another_or_is_throttled_is_tried_again(
    stores: Stores, codes: tuple[str, ...], pauses: list[float]
) -> None:
    meets(stores, *codes, times=MAX_TRIES - 1)

    assert control(stores).write_together(a_put())
    assert len(pauses) == MAX_TRIES - 1
    assert sum(pauses) < 1.6


@pytest.mark.parametrize("code", ["TransactionConflict", "ThrottlingError"])
def test_whoever_meets_others_each_time_is_told_and_does_not_take_it_for_a_lost_race(stores: Stores, code: str) -> None:
    meets(stores, code)

    with pytest.raises(ClientError):
        control(stores).write_together(a_put())


@pytest.mark.parametrize("other", ["None", "TransactionConflict", "ThrottlingError"])
def test_a_condition_decides_where_there_is_a_conflict_too(stores: Stores, other: str) -> None:
    meets(stores, other, "ConditionalCheckFailed", times=1)

    assert not control(stores).write_together(a_put())


@pytest.mark.parametrize(
    "codes", [("None", "ValidationError"), ("ConditionalCheckFailed", "ItemCollectionSizeLimitExceeded"), ()]
)
def test_a_transaction_that_is_none_is_no_lost_race(
    stores: Stores, codes: tuple[str, ...], pauses: list[float]
) -> None:
    """Taken for one, it would be tried for ever, by whoever comes next, and nobody would be told."""
    meets(stores, *codes)

    with pytest.raises(ClientError):
        control(stores).write_together(a_put())
    assert pauses == []  # it would be none the next time either


# What False would say to whom


def an_erasure(stores: Stores) -> bool:
    profiler = Profiler(stores.events, stores.users, stores.erasures, lambda now_ms: f"id-{now_ms}")
    receipt = profiler.request_erasure("shop", "ada", 1000)
    return stores.erasures.get("shop", receipt["id"]) is not None and len(stores.erasures.open()) == 1


def a_key(digest: str = "d") -> ApiKey:
    return ApiKey("shop", digest, (Scope.READ,), "reads", NOW)


def a_key_revoked(stores: Stores) -> bool:
    return stores.access.revoke_key(a_key("old"), NOW)


def a_key_replaced(stores: Stores) -> bool:
    return stores.access.replace_key(a_key("old"), a_key("new"), NOW)


@pytest.mark.parametrize("does", [an_erasure, a_key_revoked, a_key_replaced], ids=lambda does: does.__name__)
def test_what_was_acknowledged_is_done_though_its_transaction_met_another(
    stores: Stores, does: Callable[[Stores], bool]
) -> None:
    stores.access.put_project(Project("shop", Mode.INFER), UNLIMITED, NOW)
    stores.access.put_key(a_key("old"))
    meets(stores, "TransactionConflict", times=1)

    assert does(stores)


def test_an_erasure_that_comes_while_another_is_being_done_is_stored(stores: Stores) -> None:
    assert an_erasure(stores)
    [before] = stores.erasures.open()

    def ends(operation: str, arguments: Any) -> None:
        """Between the request that was refused and the look at who is in its way."""
        if operation == "get_item" and arguments["Key"]["pk"] == {"S": "erasures"}:
            stores.calls.listeners.remove(ends)
            stores.erasures.finish(before, 2000)

    stores.calls.listeners.append(ends)
    profiler = Profiler(stores.events, stores.users, stores.erasures, lambda _: "second")
    receipt = profiler.request_erasure("shop", "ada", 3000)

    assert receipt["id"] == "second"
    assert [each.id for each in stores.erasures.open()] == ["second"]


def test_an_erasure_whose_place_is_taken_by_one_that_is_not_there_is_not_acknowledged(stores: Stores) -> None:
    """As after the table was put back to an earlier time, or by hand."""
    assert an_erasure(stores)
    [lost] = stores.erasures.open()
    key = {"pk": {"S": "erasures#shop"}, "sk": {"S": lost.id}}
    stores.connections.client.delete_item(TableName="control", Key=key)

    with pytest.raises(Unavailable):
        an_erasure(stores)


def test_an_erasure_that_could_not_be_stored_is_not_acknowledged(stores: Stores) -> None:
    meets(stores, "TransactionConflict")

    with pytest.raises(ClientError):
        an_erasure(stores)
