"""The one way to DynamoDB: what was put comes back, all of it, as it is now; each write says whether it was made."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.base.batches import BatchWriter
from chalicelib.base.dynamo import MAX_KEYS, NEW, Table, delete, key, plain, put, typed, update
from chalicelib.base.errors import Unavailable
from chalicelib.base.retries import MAX_TRIES, Retries
from chalicelib.events.erasure import State
from tests.simulation.ports.client import refusal
from tests.stores import Stores, empty_stores

LARGE = b"x" * 300_000  # three fill a page
VALUES = st.recursive(
    st.text() | st.binary() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def table(stores: Stores, pauses: list[float]) -> Table:
    return Table(stores.rollups.client, "rollups", Retries(sleep=pauses.append))


def refuses(stores: Stores, operation: str, code: str, times: int = MAX_TRIES) -> list[str]:
    """The next calls of an operation are refused; returns those that came."""
    calls: list[str] = []

    def refuse(called: str, _arguments: dict[str, Any]) -> None:
        if called == operation:
            calls.append(called)
            if len(calls) <= times:
                raise refusal(code, "as the test says")

    stores.calls.listeners.append(refuse)
    return calls


# Values


@given(st.dictionaries(st.text(), VALUES))
def test_what_is_put_comes_back(item: dict[str, Any]) -> None:
    found = plain(typed(item))

    assert found == item
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in item.items()}


def test_a_tuple_comes_back_as_a_list_a_set_of_texts_as_a_set_and_an_enumeration_s_member_as_its_text() -> None:
    found = plain(typed({"tuple": (1, "a"), "set": {"b", "a"}, "state": State.DONE}))

    assert found == {"tuple": [1, "a"], "set": {"a", "b"}, "state": "done"}


@pytest.mark.parametrize("value", [None, 1j, object()])
def test_a_value_that_no_table_keeps_is_refused_before_it_is_sent(value: object) -> None:
    with pytest.raises(TypeError, match="is not a type that is kept in a table"):
        typed({"x": value})
    with pytest.raises(TypeError, match="NULL is not a type that is kept in a table"):
        plain({"x": {"NULL": True}})


def test_names_that_dynamodb_reserves_stand_for_themselves(table: Table) -> None:
    table.write(put({**key("p", "a"), "state": "open"}))

    assert table.write(
        update(key("p", "a"), "SET #state = :to REMOVE #hour", {"to": "done", "was": "open"}, "#state = :was")
    )
    assert table.get(key("p", "a")) == {**key("p", "a"), "state": "done"}


# Reads, of what is there now: the stores of these tests refuse any other


def test_a_query_reads_all_pages_in_either_order(table: Table, stores: Stores) -> None:
    for n in range(10):
        table.write(put({**key("p", f"{n}"), "body": LARGE, "n": n}))
    calls = refuses(stores, "query", "", times=0)

    assert [item["n"] for item in table.query("p")] == [*range(10)]
    assert len(calls) > 2
    assert [item["n"] for item in table.query("p", "sk < :end", {"end": "8"}, backwards=True)] == [*range(7, -1, -1)]
    assert [item["n"] for item in table.query("p", only="n > :least", values={"least": 7})] == [8, 9]
    assert {item["n"] for item in table.scan("n > :least", {"least": 7})} == {8, 9}


def test_a_query_of_few_items_a_page_reads_no_page_too_many(table: Table, stores: Stores) -> None:
    for n in range(10):
        table.write(put(key("p", f"{n}")))
    calls = refuses(stores, "query", "", times=0)

    assert next(table.query("p", page_items=2)) == key("p", "0")
    assert len(calls) == 1


def test_an_index_is_read_by_pages_to_its_end(table: Table) -> None:
    for n in range(10):
        table.write(put({**key("p", f"{n}"), "open": "mine", "written_at": n, "body": LARGE}))

    pages = [*table.index_pages("open", "#open = :mine", {"mine": "mine"})]

    assert len(pages) > 2
    assert [item["written_at"] for page in pages for item in page] == [*range(10)]


def test_any_number_of_items_is_read_by_their_keys(table: Table) -> None:
    count = 2 * MAX_KEYS + 1
    for n in range(count):
        table.write(put({**key("p", f"{n}"), "n": n}))

    found = [*table.get_many((key("p", f"{n}") for n in range(count + 50)), fields="n")]

    assert sorted(item["n"] for item in found) == [*range(count)]


class Unread:
    """A client that answers of the keys it is asked for as many as `answers` say, call by call, and then all."""

    def __init__(self, client: Any, *answers: int) -> None:
        self.client, self.answers = client, [*answers]

    def batch_get_item(self, RequestItems: dict[str, Any]) -> Any:
        [(name, asked)] = RequestItems.items()
        count = self.answers.pop(0) if self.answers else len(asked["Keys"])
        some, left = asked["Keys"][:count], asked["Keys"][count:]
        answer = self.client.batch_get_item(RequestItems={name: {**asked, "Keys": some}}) if some else {"Responses": {}}
        return {**answer, "UnprocessedKeys": {name: {**asked, "Keys": left}} if left else {}}


@pytest.mark.parametrize(("answers", "paused"), [((3, 3, 3), 0), ((0, 0, 5), 2), ((0, 5, 0, 1), 2)])
def test_items_that_a_batch_leaves_out_are_asked_for_again_after_a_pause_where_it_answered_none(
    table: Table, pauses: list[float], answers: tuple[int, ...], paused: int
) -> None:
    for n in range(10):
        table.write(put(key("p", f"{n}")))
    partial = Table(Unread(table.client, *answers), table.name, table.retries)

    assert len([*partial.get_many(key("p", f"{n}") for n in range(10))]) == 10
    assert len(pauses) == paused


def test_items_that_a_table_never_answers_of_are_not_taken_for_nothing(table: Table, pauses: list[float]) -> None:
    throttled = Table(Unread(table.client, *[0] * MAX_TRIES), table.name, table.retries)

    with pytest.raises(Unavailable, match="1 items were not read in 6 tries"):
        [*throttled.get_many([key("p", "a")])]
    assert len(pauses) == MAX_TRIES - 1


# Writes


def test_a_write_says_whether_its_condition_held(table: Table) -> None:
    assert [table.write(put({**key("p", "a"), "n": n}, NEW)) for n in (1, 2)] == [True, False]
    assert not table.write(update(key("p", "a"), "SET n = :n", {"n": 3, "was": 2}, "n = :was"))
    assert not table.write(delete(key("p", "a"), "n = :was", {"was": 2}))
    assert table.get(key("p", "a")) == {**key("p", "a"), "n": 1}


def test_a_write_shows_what_it_left_what_it_deleted_and_what_was_in_its_way(table: Table) -> None:
    first = {**key("p", "a"), "n": 1}

    assert table.write_showing(put(first, NEW)) == (True, {})
    assert table.write_showing(put({**first, "n": 2}, NEW)) == (False, first)
    assert table.write_showing(update(key("p", "a"), "SET n = :n", {"n": 3})) == (True, {**first, "n": 3})
    assert table.write_showing(delete(key("p", "a"), "n = :was", {"was": 1})) == (False, {**first, "n": 3})
    assert table.write_showing(delete(key("p", "a"))) == (True, {**first, "n": 3})
    assert table.write_showing(delete(key("p", "a"))) == (True, {})
    assert table.write_showing(update(key("p", "a"), "SET n = :n", {"n": 3}, "n = :n")) == (False, {})


@pytest.mark.parametrize("code", ["ValidationException", "ThrottlingException", "ResourceNotFoundException"])
def test_a_write_that_could_not_be_tried_is_no_condition_that_does_not_hold(
    table: Table, stores: Stores, code: str, pauses: list[float]
) -> None:
    calls = refuses(stores, "put_item", code, times=1)

    with pytest.raises(ClientError, match=code):
        table.write(put(key("p", "a"), NEW))
    assert len(calls) == 1  # the SDK has tried again what is worth it
    assert pauses == []


def test_a_write_that_meets_a_transaction_is_made_once_that_is_over(
    table: Table, stores: Stores, pauses: list[float]
) -> None:
    refuses(stores, "put_item", "TransactionConflictException", times=MAX_TRIES - 1)

    assert table.write(put(key("p", "a"), NEW))
    assert len(pauses) == MAX_TRIES - 1


def test_a_write_that_meets_transactions_each_time_is_no_condition_that_does_not_hold(
    table: Table, stores: Stores
) -> None:
    refuses(stores, "put_item", "TransactionConflictException")

    with pytest.raises(ClientError, match="TransactionConflictException"):
        table.write(put(key("p", "a"), NEW))


def test_a_batch_deletes_and_puts_any_number_of_items(table: Table) -> None:
    BatchWriter(table).write([put(key("p", f"{n}")) for n in range(60)])

    BatchWriter(table).write([delete(key("p", f"{n}")) for n in range(58)])

    assert [item["sk"] for item in table.query("p")] == ["58", "59"]


# The rule


def rule(pauses: list[float], chance: Callable[[], float], most: int = 8) -> Retries:
    return Retries(most, pauses.append, chance)


def test_pauses_grow_to_a_bound_and_follow_each_try_but_the_last(pauses: list[float]) -> None:
    left = [*rule(pauses, lambda: 1.0).tries()]

    assert left == [7, 6, 5, 4, 3, 2, 1, 0]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 0.8, 0.8]


def test_those_that_met_each_other_do_not_come_back_together(pauses: list[float]) -> None:
    chances = iter([0.5, 0.0, 0.25])

    assert len([*rule(pauses, lambda: next(chances), most=4).tries()]) == 4
    assert pauses == [0.025, 0.0, 0.05]


def test_a_call_is_tried_again_after_errors_that_pass_and_no_others(pauses: list[float]) -> None:
    met = refusal("TransactionConflictException", "")
    outcomes: list[Any] = [met, met, "done", refusal("ValidationException", "")]

    def do() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome

    retries = rule(pauses, lambda: 1.0)

    assert retries.call(do, lambda error: error is met) == "done"
    assert len(pauses) == 2
    with pytest.raises(ClientError, match="ValidationException"):
        retries.call(do, lambda error: error is met)
    assert len(pauses) == 2
