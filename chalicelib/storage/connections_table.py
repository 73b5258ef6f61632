"""The control table's connections: the tickets that open them, where to push, and what was noted before a push.

ticket#<sha256> / ticket
connection#<id> / connection          whose it is
sockets#<project> / <connection id>   where to push, and what was subscribed to
late#<project> / <written at>#<hash>  deltas of older hours that were about to be pushed
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.access import Connection

_ZERO = {"N": "0"}
LATE_SECONDS = 3600  # so long notes of late deltas are kept; after some minutes the index has what they name


@dataclass(frozen=True, slots=True)
class ConnectionsTable:
    """Dashboards' connections; `expires_at` is the table's TTL, in Unix seconds, which may be days late."""

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

    def put(self, connection: Connection) -> None:
        """Register a connection, which is pushed to once it has topics."""
        owner = {**_key(f"connection#{connection.id}", "connection"), "project": {"S": connection.project}}
        place = {
            **_key(f"sockets#{connection.project}", connection.id),
            "domain": {"S": connection.domain},
            "stage": {"S": connection.stage},
            "topics": {"L": [{"S": topic} for topic in connection.topics]},
            "since": {"S": connection.since},
            "subscription": {"N": str(connection.subscription)},
            "subscribed_at": {"N": str(connection.subscribed_at)},
        }
        for item in (owner, place):
            self.client.put_item(TableName=self.name, Item={**item, **_expiry(connection.expires_at)})

    def subscribe(self, connection: Connection, topics: tuple[str, ...], since: str, now: int) -> Connection | None:
        """Have the connection pushed to from now on, under the next subscription; `now` is Unix seconds.

        None when the connection was forgotten meanwhile, which it then stays.
        """
        return self._change(
            connection,
            "attribute_exists(pk)",
            "SET topics = :topics, since = :since, subscribed_at = :now ADD subscription :one",
            {
                ":topics": {"L": [{"S": topic} for topic in topics]},
                ":since": {"S": since},
                ":now": {"N": str(now)},
                ":one": {"N": "1"},
            },
        )

    def unsubscribe(self, connection: Connection) -> None:
        """Push nothing more to the connection, unless it has subscribed again since it was read."""
        self._change(
            connection,
            "subscription = :mine",
            "SET topics = :none",
            {":mine": {"N": str(connection.subscription)}, ":none": {"L": []}},
        )

    def get(self, connection_id: str) -> Connection | None:
        """Return a registered connection by its id; None of one that is gone."""
        owner = self._get(f"connection#{connection_id}", "connection")
        if owner is None:
            return None
        item = self._get(f"sockets#{owner['project']['S']}", connection_id)
        return None if item is None else _connection(item)

    def of_project(self, project: str) -> list[Connection]:
        """Return every connection of a project."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"sockets#{project}"}},
            ConsistentRead=True,
        )
        return [_connection(item) for page in pages for item in page["Items"]]

    def forget(self, connection_id: str, project: str = "") -> None:
        """Remove a connection that is gone; again is no error. Without its project that is looked up."""
        if not project:
            owner = self._get(f"connection#{connection_id}", "connection")
            if owner is None:
                return
            project = owner["project"]["S"]
        # The place first: should the second delete not happen, nothing is pushed, and the TTL removes the rest.
        self.client.delete_item(TableName=self.name, Key=_key(f"sockets#{project}", connection_id))
        self.client.delete_item(TableName=self.name, Key=_key(f"connection#{connection_id}", "connection"))

    def note_late(self, project: str, written_at: int, digests: Mapping[str, str]) -> None:
        """Note deltas of older hours, by id and digest, before they are pushed; `written_at` is of the last of them."""
        content = sha256("".join(sorted(f"{name}={digest};" for name, digest in digests.items())).encode())
        item = {
            **_key(f"late#{project}", f"{written_at:012d}#{content.hexdigest()[:16]}"),
            "deltas": {"M": {name: {"S": digest} for name, digest in digests.items()}},
            "expires_at": {"N": str(written_at + LATE_SECONDS)},
        }
        self.client.put_item(TableName=self.name, Item=item)

    def late(self, project: str, written_after: int) -> dict[str, set[str]]:
        """The digests of deltas of older hours that were noted, by id: at least of all that were written since then."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND sk >= :first",
            ExpressionAttributeValues={":pk": {"S": f"late#{project}"}, ":first": {"S": f"{written_after:012d}"}},
            ConsistentRead=True,
        )
        noted: dict[str, set[str]] = defaultdict(set)
        for page in pages:
            for item in page["Items"]:
                for name, digest in item["deltas"]["M"].items():
                    noted[name].add(digest["S"])
        return dict(noted)

    def _change(
        self, connection: Connection, condition: str, update: str, values: Mapping[str, Any]
    ) -> Connection | None:
        """The connection as it is after the update; None when the condition does not hold."""
        try:
            item = self.client.update_item(
                TableName=self.name,
                Key=_key(f"sockets#{connection.project}", connection.id),
                ConditionExpression=condition,
                UpdateExpression=update,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
            )["Attributes"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return None
        return _connection(item)

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
        subscription=int(item.get("subscription", _ZERO)["N"]),  # an older version wrote none
        subscribed_at=int(item.get("subscribed_at", _ZERO)["N"]),
        expires_at=datetime.fromtimestamp(int(item["expires_at"]["N"]), UTC),
    )
