"""Single items and batches of DynamoDB: conditions, updates, what is refused, and what comes back."""

from typing import Any

import pytest

from tests.simulation.contract.clouds import Cloud, cases, refused


def key(sk: str, pk: str = "p") -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def item(sk: str, pk: str = "p", **more: Any) -> dict[str, Any]:
    return {**key(sk, pk), **more}


def read(cloud: Cloud, table: str, sk: str) -> dict[str, Any] | None:
    found: dict[str, Any] = cloud.dynamodb.get_item(TableName=table, Key=key(sk), ConsistentRead=True)
    return found.get("Item")


def test_an_item_comes_back_as_it_was_put(cloud: Cloud) -> None:
    table = cloud.table()
    put = item(
        "a",
        text={"S": "ä"},
        number={"N": "12"},
        body={"B": b"\0\1"},
        texts={"SS": ["a", "b"]},
        nested={"M": {"x": {"L": [{"N": "1"}, {"BOOL": True}, {"NULL": True}]}}},
    )

    cloud.dynamodb.put_item(TableName=table, Item=put)

    found = read(cloud, table, "a")
    assert found == put
    assert read(cloud, table, "b") is None


@pytest.mark.parametrize(("sent", "kept"), [("1.50", "1.5"), ("0010", "10"), ("-0", "0"), ("1E2", "100")])
@pytest.mark.gap(moto="keeps a number as it was written")
def test_a_number_comes_back_without_zeros_that_say_nothing(cloud: Cloud, sent: str, kept: str) -> None:
    table = cloud.table()

    cloud.dynamodb.put_item(TableName=table, Item=item("a", n={"N": sent}))

    found = read(cloud, table, "a")
    assert found is not None
    assert found["n"] == {"N": kept}


def test_a_condition_that_fails_changes_nothing_and_shows_what_is_there(cloud: Cloud) -> None:
    table = cloud.table()
    cloud.dynamodb.put_item(TableName=table, Item=item("a", n={"N": "1"}))

    with pytest.raises(cloud.dynamodb.exceptions.ConditionalCheckFailedException) as caught:
        cloud.dynamodb.put_item(
            TableName=table,
            Item=item("a", n={"N": "2"}),
            ConditionExpression="attribute_not_exists(pk) OR n > :n",
            ExpressionAttributeValues={":n": {"N": "1"}},
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )

    assert caught.value.response["Item"] == item("a", n={"N": "1"})
    assert read(cloud, table, "a") == item("a", n={"N": "1"})


CONDITIONS = {
    "attribute_exists(pk) AND attribute_not_exists(x)": True,
    "n = :one": True,
    "n <> :one": False,
    "x <> :one": True,  # also what is not there is another value
    "x = :one": False,
    "x < :two": False,
    "n < :text": False,  # values of two types have no order
    "n < :two AND n >= :one": True,
    "n BETWEEN :one AND :two": True,
    "n IN (:two, :text)": False,
    "NOT n IN (:two, :text)": True,
    "begins_with(s, :text)": True,
    "contains(s, :text)": True,
    "contains(tags, :text)": True,
    "size(s) = :two": False,
    "(n = :two OR n = :one) AND s > :text": True,
    "m.inside = :one": True,
    "m.nowhere.inside = :one": False,
    "l[1] = :two": True,
}


@pytest.mark.parametrize(
    "condition", cases(CONDITIONS, moto={"n < :text": "compares a number with a text, and fails with a TypeError"})
)
def test_conditions(cloud: Cloud, condition: str) -> None:
    table = cloud.table()
    more: dict[str, Any] = {
        "n": {"N": "1"},
        "s": {"S": "abc"},
        "tags": {"SS": ["ab", "x"]},
        "m": {"M": {"inside": {"N": "1"}}},
    }
    cloud.dynamodb.put_item(TableName=table, Item=item("a", **more, l={"L": [{"N": "1"}, {"N": "2"}]}))
    values = {":one": {"N": "1.0"}, ":two": {"N": "2"}, ":text": {"S": "ab"}}
    values = {name: value for name, value in values.items() if name in condition}
    request: dict[str, Any] = {"ExpressionAttributeValues": values} if values else {}

    def delete() -> None:
        cloud.dynamodb.delete_item(TableName=table, Key=key("a"), ConditionExpression=condition, **request)

    if CONDITIONS[condition]:
        delete()
    else:
        assert refused(delete) == "ConditionalCheckFailedException"
    assert (read(cloud, table, "a") is None) == CONDITIONS[condition]


UPDATES: dict[str, dict[str, Any]] = {
    "SET n = n + :one, s = :text": {"n": {"N": "2"}, "s": {"S": "ab"}},
    "SET made = if_not_exists(made, :one)": {"made": {"N": "1"}},
    "SET n = if_not_exists(n, :text)": {"n": {"N": "1"}},
    "SET m.inside = :text": {"m": {"M": {"inside": {"S": "ab"}}}},
    "SET m.extra = if_not_exists(m.extra, :zero) + :one": {"m": {"M": {"inside": {"N": "1"}, "extra": {"N": "1"}}}},
    "ADD n :one, fresh :one": {"n": {"N": "2"}, "fresh": {"N": "1"}},
    "ADD tags :set": {"tags": {"SS": ["a", "b", "c"]}},
    "DELETE tags :set": {"tags": {"SS": ["a"]}},
    "SET s = :text REMOVE n": {"s": {"S": "ab"}},
    "SET l = list_append(l, :list)": {"l": {"L": [{"N": "1"}, {"N": "7"}]}},
    "SET n = :one, a = n": {"n": {"N": "1"}, "a": {"N": "1"}},
}


@pytest.mark.parametrize("update", UPDATES)
def test_updates(cloud: Cloud, update: str) -> None:
    table = cloud.table()
    before = item("a", n={"N": "1"}, tags={"SS": ["a", "b"]}, m={"M": {"inside": {"N": "1"}}}, l={"L": [{"N": "1"}]})
    cloud.dynamodb.put_item(TableName=table, Item=before)
    values: dict[str, Any] = {":one": {"N": "1"}, ":zero": {"N": "0"}, ":text": {"S": "ab"}, ":set": {"SS": ["b", "c"]}}
    values = {name: value for name, value in {**values, ":list": {"L": [{"N": "7"}]}}.items() if name in update}

    answer = cloud.dynamodb.update_item(
        TableName=table,
        Key=key("a"),
        UpdateExpression=update,
        ExpressionAttributeValues=values,
        ReturnValues="ALL_NEW",
    )

    removed = {"n"} if "REMOVE n" in update else set()
    expected = {name: value for name, value in before.items() if name not in removed} | UPDATES[update]
    assert _sorted(answer["Attributes"]) == _sorted(expected)
    assert _sorted(read(cloud, table, "a") or {}) == _sorted(expected)


@pytest.mark.gap(moto="UPDATED_NEW of a new item has its key, too")
def test_an_update_makes_the_item(cloud: Cloud) -> None:
    table = cloud.table()

    answer = cloud.dynamodb.update_item(
        TableName=table,
        Key=key("a"),
        UpdateExpression="ADD leased :n SET expires_at = :n",
        ExpressionAttributeValues={":n": {"N": "5"}},
        ReturnValues="UPDATED_NEW",
    )

    assert answer["Attributes"] == {"leased": {"N": "5"}, "expires_at": {"N": "5"}}
    assert read(cloud, table, "a") == item("a", leased={"N": "5"}, expires_at={"N": "5"})


def test_a_nested_update_needs_its_container(cloud: Cloud) -> None:
    table = cloud.table()
    cloud.dynamodb.put_item(TableName=table, Item=item("a"))

    code = refused(
        cloud.dynamodb.update_item,
        TableName=table,
        Key=key("a"),
        UpdateExpression="SET m.inside = :one",
        ExpressionAttributeValues={":one": {"N": "1"}},
    )

    assert code == "ValidationException"


def test_a_delete_returns_what_was_there_once(cloud: Cloud) -> None:
    table = cloud.table()
    cloud.dynamodb.put_item(TableName=table, Item=item("a", n={"N": "1"}))

    first, second = (
        cloud.dynamodb.delete_item(TableName=table, Key=key("a"), ReturnValues="ALL_OLD") for _ in range(2)
    )

    assert first["Attributes"] == item("a", n={"N": "1"})
    assert "Attributes" not in second


INVALID: dict[str, dict[str, Any]] = {
    "an empty key": {"Item": item("")},
    "no key": {"Item": {"pk": {"S": "p"}}},
    "an empty set": {"Item": item("a", tags={"SS": []})},
    "a value that is not used": {
        "Item": item("a"),
        "ConditionExpression": "attribute_not_exists(pk)",
        "ExpressionAttributeValues": {":n": {"N": "1"}},
    },
    "a name that is not used": {
        "Item": item("a"),
        "ConditionExpression": "attribute_not_exists(pk)",
        "ExpressionAttributeNames": {"#n": "n"},
    },
    "a value that is not there": {"Item": item("a"), "ConditionExpression": "n = :n"},
    "another type for a key of an index": {"Item": item("a", open={"S": "x"}, written_at={"S": "1"})},
    "401 KB": {"Item": item("a", body={"B": bytes(401 * 1024)})},
    "a sort key of 1,025 bytes": {"Item": item("a" * 1025)},
}


@pytest.mark.parametrize(
    "what",
    cases(
        INVALID,
        moto={
            "a value that is not used": "takes values that no expression uses",
            "a value that is not there": "fails with a KeyError",
            "another type for a key of an index": "does not look at indexes when it writes",
        },
    ),
)
def test_invalid_requests(cloud: Cloud, what: str) -> None:
    table = cloud.table()

    code = refused(cloud.dynamodb.put_item, TableName=table, **INVALID[what])

    assert code == "ValidationException"
    assert cloud.dynamodb.scan(TableName=table)["Count"] == 0


@pytest.mark.gap(moto="counts an item's size as its JSON")
def test_an_item_may_have_400_kb_with_its_names(cloud: Cloud) -> None:
    table = cloud.table()
    exact = item("a", body={"B": bytes(400 * 1024 - len("pkpskabody"))})
    above = item("a", body={"B": bytes(400 * 1024 - len("pkpskabody") + 1)})

    cloud.dynamodb.put_item(TableName=table, Item=exact)

    assert refused(cloud.dynamodb.put_item, TableName=table, Item=above) == "ValidationException"


def test_a_batch_writes_and_deletes(cloud: Cloud) -> None:
    table = cloud.table()
    cloud.dynamodb.put_item(TableName=table, Item=item("gone"))
    puts: list[dict[str, Any]] = [{"PutRequest": {"Item": item(f"{n:02d}")}} for n in range(24)]

    answer = cloud.dynamodb.batch_write_item(RequestItems={table: [*puts, {"DeleteRequest": {"Key": key("gone")}}]})

    assert not answer["UnprocessedItems"]
    found = cloud.dynamodb.query(
        TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": "p"}}
    )
    assert [each["sk"]["S"] for each in found["Items"]] == [f"{n:02d}" for n in range(24)]


@pytest.mark.gap(moto="takes a put and a delete of one key in a batch")
def test_a_batch_names_a_key_once_and_has_25_requests_at_most(cloud: Cloud) -> None:
    table = cloud.table()
    twice = [{"PutRequest": {"Item": item("a")}}, {"DeleteRequest": {"Key": key("a")}}]
    many = [{"PutRequest": {"Item": item(str(n))}} for n in range(26)]

    codes = {refused(cloud.dynamodb.batch_write_item, RequestItems={table: requests}) for requests in (twice, many)}

    assert codes == {"ValidationException"}


def test_a_batch_reads_what_there_is(cloud: Cloud) -> None:
    table = cloud.table()
    for sk in "abc":
        cloud.dynamodb.put_item(TableName=table, Item=item(sk, n={"N": "1"}))

    answer = cloud.dynamodb.batch_get_item(
        RequestItems={table: {"Keys": [key(sk) for sk in "abxc"], "ConsistentRead": True}}
    )

    assert not answer["UnprocessedKeys"]
    assert sorted(each["sk"]["S"] for each in answer["Responses"][table]) == ["a", "b", "c"]
    twice = {table: {"Keys": [key("a"), key("a")]}}
    assert refused(cloud.dynamodb.batch_get_item, RequestItems=twice) == "ValidationException"
    many = {table: {"Keys": [key(str(n)) for n in range(101)]}}
    assert refused(cloud.dynamodb.batch_get_item, RequestItems=many) == "ValidationException"


def test_a_table_that_is_not_there(cloud: Cloud) -> None:
    assert refused(cloud.dynamodb.get_item, TableName="nowhere", Key=key("a")) == "ResourceNotFoundException"


def _sorted(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {kind: sorted(v) if kind == "SS" else v for kind, v in value.items()} for name, value in found.items()
    }
