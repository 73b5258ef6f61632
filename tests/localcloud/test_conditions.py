"""Queries and writes as MiniStack answers them, with conditions that are read once and with those that are not."""

import threading
import time
import uuid
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from localcloud import conditions
from tests.localcloud.services import Services

CONDITIONS: list[tuple[str, dict[str, str]]] = [
    ("pk = :pk", {":pk": "a"}),
    ("pk = :pk AND sk BETWEEN :first AND :last", {":pk": "a", ":first": "k2", ":last": "k4~"}),
    ("pk = :pk AND sk BETWEEN :first AND :last", {":pk": "a", ":first": "x", ":last": "y"}),
    ("pk = :pk AND begins_with(sk, :prefix)", {":pk": "b", ":prefix": "k"}),
    ("pk = :pk AND sk > :first", {":pk": "a", ":first": "k3"}),
    ("pk = :pk AND sk BETWEEN :first AND :last", {":pk": "nobody", ":first": "x", ":last": "y"}),
    ("#p = :pk", {":pk": "a"}),
]


@pytest.fixture(scope="module")
def table(services: Services) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    services.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
    for pk in ("a", "b"):
        for sk in ("k1", "k2", "k3", "k4", "k4~", "k5", "ü", "\U0001f600"):
            services.client("dynamodb").put_item(TableName=name, Item={"pk": {"S": pk}, "sk": {"S": sk}})
    return name


@pytest.mark.parametrize(("condition", "values"), CONDITIONS)
def test_an_answer_is_the_same_as_without(
    services: Services, table: str, condition: str, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"ExpressionAttributeNames": {"#p": "pk"}} if "#p" in condition else {}

    def found() -> list[Any]:
        pages = (
            services.client("dynamodb")
            .get_paginator("query")
            .paginate(
                TableName=table,
                KeyConditionExpression=condition,
                ExpressionAttributeValues={name: {"S": value} for name, value in values.items()},
                PaginationConfig={"PageSize": 2},
                **names,
            )
        )
        return [page["Items"] for page in pages]

    quick = found()
    monkeypatch.setattr(conditions, "_condition", lambda *_: None)
    monkeypatch.setattr(conditions, "_within", lambda _: None)

    assert quick == found()


def test_installed_once_more_it_is_not_wrapped_in_itself(services: Services, table: str) -> None:
    dynamodb = services.emulator._dynamodb
    before = dynamodb._query, dynamodb._evaluate_condition

    conditions.install(dynamodb)

    assert (dynamodb._query, dynamodb._evaluate_condition) == before


@pytest.mark.parametrize("quick", [True, False])
def test_a_transaction_puts_what_is_not_there_and_only_that(
    services: Services, table: str, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not quick:
        monkeypatch.setattr(conditions, "_condition", lambda *_: None)
    client = services.client("dynamodb")
    fresh = uuid.uuid4().hex

    def put(*sort_keys: str) -> None:
        items = [{"pk": {"S": "a"}, "sk": {"S": sk}} for sk in sort_keys]
        puts = [{"TableName": table, "Item": item, "ConditionExpression": conditions.NEW} for item in items]
        client.transact_write_items(TransactItems=[{"Put": each} for each in puts])

    put(f"{fresh}-1")
    with pytest.raises(client.exceptions.TransactionCanceledException) as caught:
        put(f"{fresh}-2", f"{fresh}-1")

    assert [reason["Code"] for reason in caught.value.response["CancellationReasons"]] == [
        "None",
        "ConditionalCheckFailed",
    ]
    assert "Item" not in client.get_item(TableName=table, Key={"pk": {"S": "a"}, "sk": {"S": f"{fresh}-2"}})


def remove_expired(dynamodb: Any, monkeypatch: pytest.MonkeyPatch) -> threading.Thread:
    """MiniStack's thread that removes expired items, which does so at once, and once."""
    waits = iter([60])

    def remove() -> None:
        with suppress(SystemExit):
            dynamodb._ttl_reaper()

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not thread:
            time.sleep(seconds)
        elif not next(waits, None):
            raise SystemExit

    monkeypatch.setattr(dynamodb, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))
    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    return thread


def test_what_expires_during_a_query_of_it_is_removed_though(
    services: Services, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamodb, client = services.emulator._dynamodb, services.client("dynamodb")
    threads: list[threading.Thread] = []
    evaluate = dynamodb._evaluate_condition

    def expire_meanwhile(*arguments: Any, **more: Any) -> Any:
        if not threads:
            threads.append(remove_expired(dynamodb, monkeypatch))
            threads[0].join(0.5)
        return evaluate(*arguments, **more)

    client.update_time_to_live(TableName=table, TimeToLiveSpecification={"AttributeName": "ends", "Enabled": True})
    client.put_item(TableName=table, Item={"pk": {"S": "old"}, "sk": {"S": "k"}, "ends": {"N": "1"}})
    monkeypatch.setattr(dynamodb, "_evaluate_condition", expire_meanwhile)

    client.query(
        TableName=table,
        KeyConditionExpression="pk = :pk AND begins_with(sk, :sk)",
        ExpressionAttributeValues={":pk": {"S": "old"}, ":sk": {"S": "k"}},
    )

    threads[0].join(10)
    assert "Item" not in client.get_item(TableName=table, Key={"pk": {"S": "old"}, "sk": {"S": "k"}})
