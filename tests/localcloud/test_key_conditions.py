"""Queries as MiniStack answers them, with key conditions that are read once and with those that are not."""

import uuid
from typing import Any

import pytest

from localcloud import key_conditions
from tests.localcloud.conftest import Services

CONDITIONS: list[tuple[str, dict[str, str]]] = [
    ("pk = :pk", {":pk": "a"}),
    ("pk = :pk AND sk BETWEEN :first AND :last", {":pk": "a", ":first": "k2", ":last": "k4~"}),
    ("pk = :pk AND sk BETWEEN :first AND :last", {":pk": "a", ":first": "x", ":last": "y"}),
    ("pk = :pk AND begins_with(sk, :prefix)", {":pk": "b", ":prefix": "k"}),
    ("pk = :pk AND sk > :first", {":pk": "a", ":first": "k3"}),
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
        answer = services.client("dynamodb").query(
            TableName=table,
            KeyConditionExpression=condition,
            ExpressionAttributeValues={name: {"S": value} for name, value in values.items()},
            **names,
        )
        items: list[Any] = answer["Items"]
        return items

    quick = found()
    monkeypatch.setattr(key_conditions, "_condition", lambda _: None)

    assert quick == found()
