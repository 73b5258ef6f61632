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

from chalicelib.base.dynamo import Item, Table, delete, key, put


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
        expiry = {"expires_at": int(expires_at.timestamp())}
        self._table.write(put({**key(f"asked#{asked.project}", query_id), **expiry}))
        question = orjson.dumps({"report": asked.report, "question": asked.question, "folder": asked.folder})
        item = {
            **key(f"query#{query_id}", "query"),
            "project": asked.project,
            "sql": asked.sql,
            "question": question,
            **expiry,
        }
        self._table.write(put(item))

    def asked(self, project: str, expiring_before: datetime) -> list[str]:
        """Return the ids of the project's queries that expire before then."""
        limit = int(expiring_before.timestamp())
        return [item["sk"] for item in self._table.query(f"asked#{project}") if item["expires_at"] < limit]

    def drop(self, project: str, query_id: str) -> None:
        """Forget a query that was asked; its place last, by which it is found again."""
        for place in (key(f"query#{query_id}", "query"), key(f"asked#{project}", query_id)):
            self._table.write(delete(place))

    def get(self, query_id: str) -> Asked | None:
        """Return what was asked; None of an unknown query."""
        item = self._table.get(key(f"query#{query_id}", "query"))
        if item is None:
            return None
        return Asked(item["project"], item["sql"], **orjson.loads(item["question"]))

    def save(self, project: str, query: SavedQuery) -> None:
        """Keep the query under its name, in place of one that has it."""
        item = {
            **key(f"queries#{project}", query.name),
            "sql": query.sql,
            "description": query.description,
            "parameters": query.parameters,
            "saved_at": query.saved_at.isoformat(),
        }
        self._table.write(put(item))

    def saved(self, project: str, name: str) -> SavedQuery | None:
        """Return the query of that name, or None."""
        item = self._table.get(key(f"queries#{project}", name))
        return None if item is None else _saved(item)

    def all_saved(self, project: str) -> Iterator[SavedQuery]:
        """Return those of a project, by name."""
        return map(_saved, self._table.query(f"queries#{project}"))

    def forget(self, project: str, name: str) -> bool:
        """Remove a saved query; False when there is none."""
        _, before = self._table.write_showing(delete(key(f"queries#{project}", name)))
        return bool(before)

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _saved(item: Item) -> SavedQuery:
    return SavedQuery(
        name=item["sk"],
        sql=item["sql"],
        description=item["description"],
        parameters=tuple(item["parameters"]),
        saved_at=datetime.fromisoformat(item["saved_at"]),
    )
