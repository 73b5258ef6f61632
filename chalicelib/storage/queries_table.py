"""Queries in the control table: whose each is, and those that a project saved under a name.

query#<id> / query            project, the SQL as it was written, and what its rows become; for a week
asked#<project> / <id>        that it was asked, and when, for as long
queries#<project> / <name>    a saved query
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked; of a report `report` names it and `question` holds its parameters."""

    project: str
    sql: str
    folder: str | None = None  # of the results bucket, where Parquet was asked for
    report: str | None = None
    question: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SavedQuery:
    """A query that is asked by its name; `parameters` are the names that its SQL has."""

    name: str
    sql: str
    description: str
    parameters: tuple[str, ...]
    saved_at: datetime


@dataclass(frozen=True, slots=True)
class QueriesTable:
    """Each call is one request, and right when it is repeated."""

    client: Any
    name: str

    def put(self, query_id: str, asked: Asked, expires_at: datetime) -> None:
        """Note whose query it is, before anyone can ask for it."""
        expiry = {"expires_at": {"N": str(int(expires_at.timestamp()))}}
        place = {**_key(f"asked#{asked.project}", query_id), **expiry}
        self.client.put_item(TableName=self.name, Item=place)
        question = orjson.dumps({"report": asked.report, "question": asked.question, "folder": asked.folder})
        item = {
            **_key(f"query#{query_id}", "query"),
            "project": {"S": asked.project},
            "sql": {"S": asked.sql},
            "question": {"B": question},
            **expiry,
        }
        self.client.put_item(TableName=self.name, Item=item)

    def asked(self, project: str, expiring_before: datetime) -> list[str]:
        """The ids of the project's queries that expire before then."""
        limit = int(expiring_before.timestamp())
        items = self._query(f"asked#{project}")
        return [item["sk"]["S"] for item in items if int(item["expires_at"]["N"]) < limit]

    def drop(self, project: str, query_id: str) -> None:
        """Forget a query that was asked; its place last, by which it is found again."""
        for key in (_key(f"query#{query_id}", "query"), _key(f"asked#{project}", query_id)):
            self.client.delete_item(TableName=self.name, Key=key)

    def get(self, query_id: str) -> Asked | None:
        """What was asked; None of an unknown query."""
        item = self._get(f"query#{query_id}", "query")
        if item is None:
            return None
        return Asked(item["project"]["S"], item["sql"]["S"], **orjson.loads(item["question"]["B"]))

    def save(self, project: str, query: SavedQuery) -> None:
        """Keep the query under its name, in place of one that has it."""
        item = {
            **_key(f"queries#{project}", query.name),
            "sql": {"S": query.sql},
            "description": {"S": query.description},
            "parameters": {"L": [{"S": name} for name in query.parameters]},
            "saved_at": {"S": query.saved_at.isoformat()},
        }
        self.client.put_item(TableName=self.name, Item=item)

    def saved(self, project: str, name: str) -> SavedQuery | None:
        """The query of that name, or None."""
        item = self._get(f"queries#{project}", name)
        return None if item is None else _saved(item)

    def all_saved(self, project: str) -> Iterator[SavedQuery]:
        """Those of a project, by name."""
        yield from map(_saved, self._query(f"queries#{project}"))

    def forget(self, project: str, name: str) -> bool:
        """Remove a saved query; False when there is none."""
        answer = self.client.delete_item(
            TableName=self.name, Key=_key(f"queries#{project}", name), ReturnValues="ALL_OLD"
        )
        return "Attributes" in answer

    def _query(self, pk: str) -> Iterator[dict[str, Any]]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": pk}},
            ConsistentRead=True,
        )
        for page in pages:
            yield from page["Items"]

    def _get(self, pk: str, sk: str) -> dict[str, Any] | None:
        item: dict[str, Any] | None = self.client.get_item(
            TableName=self.name, Key=_key(pk, sk), ConsistentRead=True
        ).get("Item")
        return item


def _key(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _saved(item: dict[str, Any]) -> SavedQuery:
    return SavedQuery(
        name=item["sk"]["S"],
        sql=item["sql"]["S"],
        description=item["description"]["S"],
        parameters=tuple(each["S"] for each in item["parameters"]["L"]),
        saved_at=datetime.fromisoformat(item["saved_at"]["S"]),
    )
