"""Transactions, queries, indexes and streams of DynamoDB."""

from typing import Any

import pytest

from tests.simulation.contract.clouds import INDEX, Cloud, cases, reasons, refused
from tests.simulation.contract.test_dynamodb_items import item, key, read

NEW = {"ConditionExpression": "attribute_not_exists(pk)"}
THERE = {"ConditionExpression": "attribute_exists(pk)"}


def put(table: str, sk: str, **more: Any) -> dict[str, Any]:
    return {"Put": {"TableName": table, "Item": item(sk), **more}}


def test_a_transaction_is_made_as_a_whole(cloud: Cloud) -> None:
    table = cloud.table()
    for sk in "ab":
        cloud.dynamodb.put_item(TableName=table, Item=item(sk))
    update = {
        "Key": key("b"),
        "UpdateExpression": "SET n = :n",
        "ExpressionAttributeValues": {":n": {"N": "1"}},
    }

    cloud.dynamodb.transact_write_items(
        TransactItems=[
            put(table, "c", **NEW),
            {"Delete": {"TableName": table, "Key": key("a"), **THERE}},
            {"Update": {"TableName": table, **update}},
        ]
    )

    assert read(cloud, table, "a") is None
    assert read(cloud, table, "b") == item("b", n={"N": "1"})
    assert read(cloud, table, "c") == item("c")


def test_a_cancelled_transaction_says_why_of_each_write_and_changes_nothing(cloud: Cloud) -> None:
    table = cloud.table()
    for sk in "ay":
        cloud.dynamodb.put_item(TableName=table, Item=item(sk))

    found = reasons(
        cloud.dynamodb.transact_write_items,
        TransactItems=[
            put(table, "b", **NEW),
            put(table, "a", **NEW),
            {"ConditionCheck": {"TableName": table, "Key": key("x"), **THERE}},
            {"ConditionCheck": {"TableName": table, "Key": key("y"), **THERE}},
        ],
    )

    assert found == ["None", "ConditionalCheckFailed", "ConditionalCheckFailed", "None"]
    assert read(cloud, table, "b") is None


def test_a_cancelled_transaction_shows_what_stood_in_the_way(cloud: Cloud) -> None:
    table = cloud.table()
    cloud.dynamodb.put_item(TableName=table, Item=item("a", n={"N": "1"}))
    shown = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}

    with pytest.raises(cloud.dynamodb.exceptions.TransactionCanceledException) as caught:
        cloud.dynamodb.transact_write_items(TransactItems=[put(table, "a", **NEW, **shown)])

    [reason] = caught.value.response["CancellationReasons"]
    assert reason["Item"] == item("a", n={"N": "1"})


@pytest.mark.gap(moto="raises a ValidationException of its own")
def test_a_transaction_whose_item_grows_too_large_is_cancelled_as_invalid(cloud: Cloud) -> None:
    table = cloud.table()
    cloud.dynamodb.put_item(TableName=table, Item=item("a", body={"B": bytes(300 * 1024)}))
    update = {
        "TableName": table,
        "Key": key("a"),
        "UpdateExpression": "SET extra = :more",
        "ExpressionAttributeValues": {":more": {"B": bytes(200 * 1024)}},
    }

    found = reasons(cloud.dynamodb.transact_write_items, TransactItems=[{"Update": update}, put(table, "b")])

    assert found == ["ValidationError", "None"]
    assert read(cloud, table, "b") is None


@pytest.mark.parametrize(
    "what",
    cases(["one item twice", "101 items", "more than 4 MB"], moto={"more than 4 MB": "has no limit of bytes"}),
)
def test_transactions_that_are_invalid(cloud: Cloud, what: str) -> None:
    table = cloud.table()
    body = {"B": bytes(390 * 1024)}
    items = {
        "one item twice": [put(table, "a"), {"Delete": {"TableName": table, "Key": key("a")}}],
        "101 items": [put(table, f"{n}") for n in range(101)],
        "more than 4 MB": [{"Put": {"TableName": table, "Item": item(f"{n}", body=body)}} for n in range(11)],
    }[what]

    assert refused(cloud.dynamodb.transact_write_items, TransactItems=items) == "ValidationException"
    assert cloud.dynamodb.scan(TableName=table, Limit=1)["Count"] == 0


@pytest.mark.gap(moto="does not know tokens")
def test_a_transaction_that_comes_again_with_its_token_is_made_once(cloud: Cloud) -> None:
    table = cloud.table()
    add = {
        "TableName": table,
        "Key": key("a"),
        "UpdateExpression": "ADD n :n",
        "ExpressionAttributeValues": {":n": {"N": "1"}},
    }

    for _ in range(2):
        cloud.dynamodb.transact_write_items(TransactItems=[{"Update": add}], ClientRequestToken="token-of-the-first")

    assert read(cloud, table, "a") == item("a", n={"N": "1"})
    other = [{"Update": {**add, "Key": key("b")}}]
    code = refused(cloud.dynamodb.transact_write_items, TransactItems=other, ClientRequestToken="token-of-the-first")
    assert code == "IdempotentParameterMismatchException"


RANGES = {
    "pk = :pk": "abcd",
    "pk = :pk AND sk = :b": "b",
    "pk = :pk AND sk < :b": "a",
    "pk = :pk AND sk <= :b": "ab",
    "pk = :pk AND sk > :b": "cd",
    "pk = :pk AND sk >= :b": "bcd",
    "pk = :pk AND sk BETWEEN :b AND :c": "bc",
    "sk >= :b AND pk = :pk": "bcd",
}


@pytest.mark.parametrize("condition", RANGES)
@pytest.mark.parametrize("forward", [True, False])
def test_queries(cloud: Cloud, condition: str, forward: bool) -> None:
    table = cloud.table()
    for sk in "badc":
        cloud.dynamodb.put_item(TableName=table, Item=item(sk))
    cloud.dynamodb.put_item(TableName=table, Item=item("b", pk="other"))
    values = {":pk": {"S": "p"}, ":b": {"S": "b"}, ":c": {"S": "c"}}

    pages = cloud.dynamodb.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression=condition,
        ExpressionAttributeValues={name: value for name, value in values.items() if name in condition.split()},
        ScanIndexForward=forward,
        ConsistentRead=True,
        PaginationConfig={"PageSize": 1},
    )

    found = "".join(each["sk"]["S"] for page in pages for each in page["Items"])
    assert found == (RANGES[condition] if forward else RANGES[condition][::-1])


def test_keys_are_in_order_of_their_utf_8(cloud: Cloud) -> None:
    table = cloud.table()
    names = ["é", "a", "~", "\U0001f600", "￿", "Z"]
    for sk in names:
        cloud.dynamodb.put_item(TableName=table, Item=item(sk))

    answer = cloud.dynamodb.query(
        TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": "p"}}
    )

    assert [each["sk"]["S"] for each in answer["Items"]] == sorted(names, key=str.encode)


def test_a_page_ends_at_a_megabyte_before_the_filter(cloud: Cloud) -> None:
    table = cloud.table()
    for number in range(5):
        cloud.dynamodb.put_item(
            TableName=table, Item=item(f"{number}", n={"N": str(number)}, body={"B": bytes(300 * 1024)})
        )
    asked: dict[str, Any] = {
        "TableName": table,
        "KeyConditionExpression": "pk = :pk",
        "FilterExpression": "n > :n",
        "ExpressionAttributeValues": {":pk": {"S": "p"}, ":n": {"N": "3"}},
        "ProjectionExpression": "sk, #n",
        "ExpressionAttributeNames": {"#n": "n"},
    }

    first = cloud.dynamodb.query(**asked)
    second = cloud.dynamodb.query(**asked, ExclusiveStartKey=first["LastEvaluatedKey"])

    assert (first["Items"], first["ScannedCount"]) == ([], 3)
    assert second["Items"] == [{"sk": {"S": "4"}, "n": {"N": "4"}}]
    assert "LastEvaluatedKey" not in second


def test_an_index_has_the_items_with_its_keys_in_order(cloud: Cloud) -> None:
    table = cloud.table()
    for sk, at in (("a", "9"), ("b", "10"), ("c", "2")):
        cloud.dynamodb.put_item(TableName=table, Item=item(sk, open={"S": "x"}, written_at={"N": at}))
    cloud.dynamodb.put_item(TableName=table, Item=item("d", open={"S": "x"}))
    cloud.dynamodb.update_item(
        TableName=table,
        Key=key("a"),
        UpdateExpression="REMOVE #open",
        ExpressionAttributeNames={"#open": "open"},
    )
    asked = {"TableName": table, "IndexName": INDEX, "ExpressionAttributeNames": {"#open": "open"}}
    values = {":x": {"S": "x"}, ":at": {"N": "3"}}

    every = cloud.dynamodb.query(
        **asked, KeyConditionExpression="#open = :x", ExpressionAttributeValues={":x": values[":x"]}
    )
    later = cloud.dynamodb.query(
        **asked, KeyConditionExpression="#open = :x AND written_at >= :at", ExpressionAttributeValues=values
    )
    scanned = cloud.dynamodb.scan(
        TableName=table,
        IndexName=INDEX,
        FilterExpression="written_at < :at",
        ExpressionAttributeValues={":at": values[":at"]},
    )

    assert [each["sk"]["S"] for each in every["Items"]] == ["c", "b"]
    assert [each["sk"]["S"] for each in later["Items"]] == ["b"]
    assert [each["sk"]["S"] for each in scanned["Items"]] == ["c"]


def test_an_index_is_never_read_consistently(cloud: Cloud) -> None:
    code = refused(
        cloud.dynamodb.query,
        TableName=cloud.table(),
        IndexName=INDEX,
        KeyConditionExpression="#open = :x",
        ExpressionAttributeNames={"#open": "open"},
        ExpressionAttributeValues={":x": {"S": "x"}},
        ConsistentRead=True,
    )

    assert code == "ValidationException"


def test_the_stream_tells_what_changed(cloud: Cloud) -> None:
    table = cloud.table()
    cloud.dynamodb.put_item(TableName=table, Item=item("a", n={"N": "1"}))
    cloud.dynamodb.put_item(TableName=table, Item=item("a", n={"N": "2"}))
    cloud.dynamodb.delete_item(TableName=table, Key=key("a"))
    cloud.dynamodb.delete_item(TableName=table, Key=key("a"))

    found = cloud.changes(table)

    assert found == [
        ("INSERT", "a", item("a", n={"N": "1"})),
        ("MODIFY", "a", item("a", n={"N": "2"})),
        ("REMOVE", "a", None),
    ]


@pytest.mark.gap(moto="gives MODIFY for an identical put")
def test_an_identical_put_is_no_change(cloud: Cloud) -> None:
    table = cloud.table()

    for _ in range(2):
        cloud.dynamodb.put_item(TableName=table, Item=item("a", n={"N": "1"}))
        cloud.dynamodb.batch_write_item(RequestItems={table: [{"PutRequest": {"Item": item("b")}}]})

    assert [change[:2] for change in cloud.changes(table)] == [("INSERT", "a"), ("INSERT", "b")]


def test_a_cancelled_transaction_is_no_change(cloud: Cloud) -> None:
    table = cloud.table()
    cloud.dynamodb.put_item(TableName=table, Item=item("a"))

    reasons(cloud.dynamodb.transact_write_items, TransactItems=[put(table, "b"), put(table, "a", **NEW)])

    assert [change[:2] for change in cloud.changes(table)] == [("INSERT", "a")]
