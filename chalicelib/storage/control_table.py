"""The control table's short-lived items: WebSocket tickets and connections.

Its projects and keys are in access_table.py, its counters in quota_table.py, queries in queries_table.py.
ticket#<sha256> / ticket
connection#<id> / connection          whose it is
sockets#<project> / <connection id>   where to push, and what was subscribed to
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from chalicelib.domain.access import Connection


@dataclass(frozen=True, slots=True)
class ControlTable:
    """Small items read by key; `expires_at` is the table's TTL, in epoch seconds, which may be days late."""

    client: Any
    name: str

    def put_ticket(self, ticket: str, project: str, expires_at: datetime) -> None:
        """A ticket that `take_ticket` accepts once."""
        item = {**_key(f"ticket#{_hash(ticket)}", "ticket"), "project": {"S": project}, **_expiry(expires_at)}
        self.client.put_item(TableName=self.name, Item=item)

    def take_ticket(self, ticket: str, now: datetime) -> str | None:
        """The ticket's project, once; None of a ticket that is unknown, used or over."""
        key = _key(f"ticket#{_hash(ticket)}", "ticket")
        taken = self.client.delete_item(TableName=self.name, Key=key, ReturnValues="ALL_OLD").get("Attributes")
        if not taken or int(taken["expires_at"]["N"]) <= now.timestamp():
            return None
        project: str = taken["project"]["S"]
        return project

    def put_connection(self, connection: Connection) -> None:
        """Register or renew a connection: from now on it is pushed to, once it has topics."""
        owner = {**_key(f"connection#{connection.id}", "connection"), "project": {"S": connection.project}}
        place = {
            **_key(f"sockets#{connection.project}", connection.id),
            "domain": {"S": connection.domain},
            "stage": {"S": connection.stage},
            "topics": {"L": [{"S": topic} for topic in connection.topics]},
            "since": {"S": connection.since},
        }
        for item in (owner, place):
            self.client.put_item(TableName=self.name, Item={**item, **_expiry(connection.expires_at)})

    def connection(self, connection_id: str) -> Connection | None:
        """A registered connection by its id."""
        owner = self._get(f"connection#{connection_id}", "connection")
        if owner is None:
            return None
        item = self._get(f"sockets#{owner['project']['S']}", connection_id)
        return None if item is None else _connection(item)

    def connections(self, project: str) -> list[Connection]:
        """Every connection of a project."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"sockets#{project}"}},
            ConsistentRead=True,
        )
        return [_connection(item) for page in pages for item in page["Items"]]

    def forget_connection(self, connection_id: str) -> None:
        """Remove a connection that is gone; again is no error."""
        owner = self._get(f"connection#{connection_id}", "connection")
        if owner is not None:
            # The place first: should the second delete not happen, nothing is pushed, and the TTL removes the rest.
            place = _key(f"sockets#{owner['project']['S']}", connection_id)
            self.client.delete_item(TableName=self.name, Key=place)
            self.client.delete_item(TableName=self.name, Key=_key(f"connection#{connection_id}", "connection"))

    def _get(self, pk: str, sk: str) -> dict[str, Any] | None:
        item: dict[str, Any] | None = self.client.get_item(
            TableName=self.name, Key=_key(pk, sk), ConsistentRead=True
        ).get("Item")
        return item


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _key(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _expiry(expires_at: datetime) -> dict[str, Any]:
    return {"expires_at": {"N": str(int(expires_at.timestamp()))}}


def _connection(item: dict[str, Any]) -> Connection:
    return Connection(
        id=item["sk"]["S"],
        project=item["pk"]["S"].removeprefix("sockets#"),
        domain=item["domain"]["S"],
        stage=item["stage"]["S"],
        topics=tuple(topic["S"] for topic in item["topics"]["L"]),
        since=item["since"]["S"],
        expires_at=datetime.fromtimestamp(int(item["expires_at"]["N"]), UTC),
    )
