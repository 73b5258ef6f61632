"""The WebSocket's own three events: a ticket is taken, topics are subscribed to, a connection ends."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from chalicelib.domain.access import Connection
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.errors import InvalidRequest, Unauthenticated
from chalicelib.domain.frames import snapshot_frames
from chalicelib.domain.time_windows import HOUR_MS, hour_of, parse_ms, to_ms
from chalicelib.storage.control_table import ControlTable
from chalicelib.storage.history import History
from chalicelib.storage.sockets import Gone, PushFailed, Sockets

TICKET_SECONDS = 60
CONNECTION_HOURS = 2  # API Gateway ends a connection after two hours
SNAPSHOT_HOURS = 24
MAX_SNAPSHOT_HOURS = 31 * 24
MAX_TOPICS = 50


class Command(Schema):
    """A frame from a client."""

    class Meta:
        unknown = EXCLUDE

    action = fields.String(required=True, validate=validate.OneOf(["subscribe", "ping"]))
    topics = fields.List(fields.String(validate=validate.Length(1, 128)), validate=validate.Length(1, MAX_TOPICS))
    since = fields.Raw(load_default=None)


COMMAND = Command()


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Handles what happens on a socket."""

    control: ControlTable
    history: History
    sockets: Sockets
    contracts: Contracts
    url: str

    def issue_ticket(self, project: str, now: datetime) -> dict[str, str]:
        """A single-use ticket: browsers cannot send a key with a WebSocket handshake."""
        ticket = secrets.token_urlsafe(24)
        expires_at = now + timedelta(seconds=TICKET_SECONDS)
        self.control.put_ticket(ticket, project, expires_at)
        return {
            "ticket": ticket,
            "url": f"{self.url}?ticket={ticket}",
            "expires_at": expires_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    def connect(self, connection_id: str, domain: str, stage: str, ticket: str | None, now: datetime) -> None:
        """Register the connection; raises Unauthenticated when the ticket is missing, unknown, used or over."""
        project = self.control.take_ticket(ticket, now) if ticket else None
        if project is None:
            raise Unauthenticated(
                "the ticket is missing, used or over: get one from POST /realtime/tickets", code="bad_ticket"
            )
        expires_at = now + timedelta(hours=CONNECTION_HOURS)
        self.control.put_connection(Connection(connection_id, project, domain, stage, expires_at))

    def message(self, connection_id: str, body: str, now: datetime) -> None:
        """Answer a client's frame on its own connection, also when it is wrong."""
        connection = self.control.connection(connection_id)
        if connection is None:
            return  # it is being closed
        try:
            frames = self._answer(connection, body, now)
        except InvalidRequest as error:
            frames = [orjson.dumps({"type": "error", "code": error.code, "message": error.message})]
        try:
            for frame in frames:
                self.sockets.push(connection, frame)
        except (Gone, PushFailed):  # without its snapshot a connection would show wrong numbers
            self.sockets.end(connection)
            self.control.forget_connection(connection_id)

    def disconnect(self, connection_id: str) -> None:
        """Forget the connection."""
        self.control.forget_connection(connection_id)

    def _answer(self, connection: Connection, body: str, now: datetime) -> list[bytes]:
        command = _read(body)
        if command["action"] == "ping":
            return [orjson.dumps({"type": "pong"})]
        if not command.get("topics"):
            raise InvalidRequest('topics: name at least one, such as "events"', code="invalid_frame")
        since = _since(command["since"], now)
        subscribed = replace(connection, topics=tuple(command["topics"]), since=since)
        # Registered before the snapshot is read: what is written in between is pushed, and at worst comes twice.
        self.control.put_connection(subscribed)
        hours = hour_of(to_ms(now) - HOUR_MS), hour_of(to_ms(now))  # whose last deltas may have been pushed already
        return snapshot_frames(
            self.history.by_type(connection.project, since, hours[1], exact=[hour for hour in hours if hour >= since]),
            topics=subscribed.topics,
            since=f"{since}:00:00Z",
            as_of=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            now=int(now.timestamp()),
            contracts=self.contracts,
        )


def _read(body: str) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
        if not isinstance(document, Mapping):
            raise InvalidRequest(
                f"a frame is a JSON object, and this is {type(document).__name__}", code="invalid_frame"
            )
        command: dict[str, Any] = COMMAND.load(document)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the frame is not JSON: {error}", code="invalid_frame") from error
    except ValidationError as error:
        name, problems = next(iter(error.messages_dict.items()))
        raise InvalidRequest(f"{name}: {problems}", code="invalid_frame") from error
    return command


def _since(value: object, now: datetime) -> str:
    """The first hour of the snapshot; the last 24 hours when none is asked for."""
    now_ms = to_ms(now)
    if value is None:
        return hour_of(to_ms(now - timedelta(hours=SNAPSHOT_HOURS - 1)))
    try:
        since_ms = min(parse_ms(value), now_ms)  # a client's clock may be ahead
    except ValueError as error:
        raise InvalidRequest(f"since: {error}", code="invalid_frame") from error
    if (hours := (now_ms - since_ms) // HOUR_MS) > MAX_SNAPSHOT_HOURS:
        raise InvalidRequest(f"since: it is {hours} hours ago; the limit is {MAX_SNAPSHOT_HOURS}", code="invalid_frame")
    return hour_of(since_ms)
