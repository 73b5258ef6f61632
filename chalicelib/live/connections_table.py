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

from chalicelib.base import waits
from chalicelib.base.dynamo import THERE, Item, Table, delete, key, put, update
from chalicelib.live.connection import Connection


@dataclass(frozen=True, slots=True)
class ConnectionsTable:
    """Dashboards' connections; `expires_at` is the table's TTL, in Unix seconds, which may be days late."""

    client: Any
    name: str

    def put_ticket(self, ticket: str, project: str, expires_at: datetime) -> None:
        """A ticket that `take_ticket` accepts once."""
        self._table.write(put({**_ticket_key(ticket), "project": project, **_expiry(expires_at)}))

    def take_ticket(self, ticket: str, now: datetime) -> str | None:
        """Use a ticket up, and return its project; None of a ticket that is unknown, used or over."""
        _, taken = self._table.write_showing(delete(_ticket_key(ticket)))
        if not taken or taken["expires_at"] <= now.timestamp():
            return None
        project: str = taken["project"]
        return project

    def put(self, connection: Connection) -> None:
        """Register a connection, which is pushed to once it has topics."""
        owner = {**_owner_key(connection.id), "project": connection.project}
        place = {
            **_place_key(connection.project, connection.id),
            "domain": connection.domain,
            "stage": connection.stage,
            "topics": connection.topics,
            "since": connection.since,
            "subscription": connection.subscription,
            "subscribed_at": connection.subscribed_at,
        }
        for item in (owner, place):
            self._table.write(put({**item, **_expiry(connection.expires_at)}))

    def subscribe(self, connection: Connection, topics: tuple[str, ...], since: str, now: int) -> Connection | None:
        """Have the connection pushed to from now on, under the next subscription; `now` is Unix seconds.

        None when the connection was forgotten meanwhile, which it then stays.
        """
        return self._change(
            connection,
            "SET topics = :topics, since = :since, subscribed_at = :now ADD subscription :one",
            {"topics": topics, "since": since, "now": now, "one": 1},
            THERE,
        )

    def unsubscribe(self, connection: Connection) -> None:
        """Push nothing more to the connection, unless it has subscribed again since it was read."""
        self._change(
            connection,
            "SET topics = :none",
            {"mine": connection.subscription, "none": []},
            "subscription = :mine",
        )

    def get(self, connection_id: str) -> Connection | None:
        """Return a registered connection by its id; None of one that is gone."""
        owner = self._table.get(_owner_key(connection_id))
        if owner is None:
            return None
        item = self._table.get(_place_key(owner["project"], connection_id))
        return None if item is None else _connection(item)

    def of_project(self, project: str) -> list[Connection]:
        """Return every connection of a project."""
        return [*map(_connection, self._table.query(f"sockets#{project}"))]

    def forget(self, connection_id: str, project: str = "") -> None:
        """Remove a connection that is gone; again is no error. Without its project that is looked up."""
        if not project:
            owner = self._table.get(_owner_key(connection_id))
            if owner is None:
                return
            project = owner["project"]
        # The place first: should the second delete not happen, nothing is pushed, and the TTL removes the rest.
        self._table.write(delete(_place_key(project, connection_id)))
        self._table.write(delete(_owner_key(connection_id)))

    def note_late(self, project: str, written_at: int, digests: Mapping[str, str]) -> None:
        """Note deltas of older hours, by id and digest, before they are pushed; `written_at` is of the last of them."""
        content = sha256("".join(sorted(f"{name}={digest};" for name, digest in digests.items())).encode())
        item = {
            **key(f"late#{project}", f"{written_at:012d}#{content.hexdigest()[:16]}"),
            "deltas": digests,
            "expires_at": written_at + waits.NOTED_MS // 1000,
        }
        self._table.write(put(item))

    def late(self, project: str, written_after: int) -> dict[str, set[str]]:
        """The digests of deltas of older hours that were noted, by id: at least of all that were written since then."""
        noted: dict[str, set[str]] = defaultdict(set)
        for item in self._table.query(f"late#{project}", "sk >= :first", {"first": f"{written_after:012d}"}):
            for name, digest in item["deltas"].items():
                noted[name].add(digest)
        return dict(noted)

    def _change(
        self, connection: Connection, change: str, values: Mapping[str, Any], condition: str
    ) -> Connection | None:
        """The connection as it is after the update; None when the condition does not hold."""
        place = _place_key(connection.project, connection.id)
        is_changed, item = self._table.write_showing(update(place, change, values, condition))
        return _connection(item) if is_changed else None

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _ticket_key(ticket: str) -> Item:
    return key(f"ticket#{sha256(ticket.encode()).hexdigest()}", "ticket")


def _owner_key(connection_id: str) -> Item:
    return key(f"connection#{connection_id}", "connection")


def _place_key(project: str, connection_id: str) -> Item:
    return key(f"sockets#{project}", connection_id)


def _expiry(expires_at: datetime) -> Item:
    return {"expires_at": int(expires_at.timestamp())}


def _connection(item: Item) -> Connection:
    return Connection(
        id=item["sk"],
        project=item["pk"].removeprefix("sockets#"),
        domain=item["domain"],
        stage=item["stage"],
        topics=tuple(item["topics"]),
        since=item["since"],
        subscription=item.get("subscription", 0),  # an older version wrote none
        subscribed_at=item.get("subscribed_at", 0),
        expires_at=datetime.fromtimestamp(item["expires_at"], UTC),
    )
