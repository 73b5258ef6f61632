"""The WebSocket's own three events: a ticket is taken, topics are subscribed to, a connection ends."""

import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from chalicelib.base import waits
from chalicelib.base.errors import InvalidRequest, Unauthenticated
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, day_of, day_start_ms, hour_of, parse_ms, to_ms
from chalicelib.events.contracts import Contracts
from chalicelib.live.connection import Connection
from chalicelib.live.connections_table import ConnectionsTable
from chalicelib.live.frames import error_frame, is_wanted, snapshot_frames
from chalicelib.live.sockets import PushFailed, Sockets
from chalicelib.rollups.deltas import HourView
from chalicelib.rollups.history import History

TICKET_SECONDS = 60
CONNECTION_HOURS = 2  # API Gateway ends a connection after two hours
SNAPSHOT_HOURS = 24
MAX_SNAPSHOT_HOURS = 31 * 24
MAX_TOPICS = 50
MAX_DAY_TOTALS = 4000  # an event type's day each, of some kilobytes: three days of all that a project can make up
MAX_DECODED = 2_000_000  # a type, or one of its minutes, in a delta that is not merged yet: some 100 MB
AHEAD_MS = 60_000  # another clock may be in the next hour already
ANSWER_SECONDS = 18.0  # of the 29 that API Gateway waits: the rest is for reading

log = logging.getLogger(__name__)


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

    connections: ConnectionsTable
    history: History
    sockets: Sockets
    contracts: Contracts
    url: str

    def issue_ticket(self, project: str, now: datetime) -> dict[str, str]:
        """Return a single-use ticket: browsers cannot send a key with a WebSocket handshake."""
        ticket = secrets.token_urlsafe(24)
        expires_at = now + timedelta(seconds=TICKET_SECONDS)
        self.connections.put_ticket(ticket, project, expires_at)
        return {
            "ticket": ticket,
            "url": f"{self.url}?ticket={ticket}",
            "expires_at": expires_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    def connect(self, connection_id: str, domain: str, stage: str, ticket: str | None, now: datetime) -> None:
        """Register the connection; raises Unauthenticated when the ticket is missing, unknown, used or over."""
        project = self.connections.take_ticket(ticket, now) if ticket else None
        if project is None:
            raise Unauthenticated(
                "the ticket is missing, used or expired; get one from POST /realtime/tickets", code="bad_ticket"
            )
        expires_at = now + timedelta(hours=CONNECTION_HOURS)
        self.connections.put(Connection(connection_id, project, domain, stage, expires_at))

    def message(self, connection_id: str, body: str, now: datetime, domain: str = "", stage: str = "") -> None:
        """Answer a client's frame on its own connection, also when it is wrong.

        A connection that is not registered, at `domain` and `stage`, is ended: it was forgotten, so it gets nothing.
        """
        connection = self.connections.get(connection_id)
        if connection is None:
            if domain:
                self.sockets.end(Connection(connection_id, "", domain, stage, now))
            return
        try:
            frames = self._answer(connection, body, now)
        except InvalidRequest as error:
            frames = [error_frame(error.code, error.message)]
        (outcome,) = self.sockets.push_all([(connection, frames)], ANSWER_SECONDS)
        if not isinstance(outcome, int):  # without its snapshot a connection would show wrong numbers
            self.connections.forget(connection_id, connection.project)
            if isinstance(outcome, PushFailed):
                self.sockets.end(connection)

    def disconnect(self, connection_id: str) -> None:
        """Forget the connection."""
        self.connections.forget(connection_id)

    def _answer(self, connection: Connection, body: str, now: datetime) -> list[bytes]:
        command = _read(body)
        if command["action"] == "ping":
            return [orjson.dumps({"type": "pong"})]
        if not command.get("topics"):
            raise InvalidRequest('topics: name at least one, such as "events"', code="invalid_frame")
        since = _since(command["since"], now)
        # Registered before anything is read: what is written meanwhile is pushed, and at worst comes twice.
        subscribed = self.connections.subscribe(connection, tuple(command["topics"]), since, int(now.timestamp()))
        if subscribed is None:
            return []  # it is being closed
        try:
            return self._snapshot(subscribed, now)
        except InvalidRequest:
            self.connections.unsubscribe(subscribed)
            raise

    def _snapshot(self, subscribed: Connection, now: datetime) -> list[bytes]:
        now_ms, now_seconds = to_ms(now), int(now.timestamp())
        project, topics, since = subscribed.project, subscribed.topics, subscribed.since
        types = [t for t in self.history.rollups.event_types(project) if is_wanted(t, topics, self.contracts)]
        days = (now_ms - day_start_ms(day_of(since))) // DAY_MS + 1
        if len(types) * days > MAX_DAY_TOTALS:
            raise InvalidRequest(
                f"{len(types)} event types over {days} days are {len(types) * days} totals of a day; the limit is "
                f"{MAX_DAY_TOTALS}: name fewer topics or a later since",
                code="snapshot_too_large",
            )
        # Deltas of these hours may have been pushed already, whether or not the index shows them. Of older hours, those
        # that were pushed lately are noted, before they were pushed.
        hours = sorted({hour_of(now_ms - HOUR_MS), hour_of(now_ms), hour_of(now_ms + AHEAD_MS)})
        late = self.connections.late(project, now_seconds - waits.STALE_MS // 1000)
        views = self.history.by_type(
            project, since, hours[-1], [hour for hour in hours if hour >= since], late, event_types=types
        )
        return snapshot_frames(
            _readable(views),
            topics=topics,
            since=f"{since}:00:00Z",
            as_of=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            now=now_seconds,
            contracts=self.contracts,
            subscription=subscribed.subscription,
        )


def _readable(views: Iterable[HourView]) -> list[HourView]:
    """The hours without deltas that cannot be shown: one must not keep a project's dashboards from all other numbers.

    Raises InvalidRequest when there is more in them than memory is for.
    """
    decoded = 0
    found = []
    for view in views:
        deltas = []
        for delta in view.deltas:
            try:
                decoded += sum(1 + len(rollup.minutes) for rollup in delta.rollups.values())
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it; `live` has said so in a metric
                log.warning("delta unreadable", extra={"id": delta.frame_id, "reason": type(error).__name__})
                continue
            if decoded > MAX_DECODED:
                raise InvalidRequest(
                    f"what came lately has over {MAX_DECODED:,} minutes of event types, which is the limit: try again "
                    "in a minute",
                    code="snapshot_too_large",
                )
            deltas.append(delta)
        found.append(HourView(view.hour, deltas, view.merged))
    return found


def _read(body: str) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
        if not isinstance(document, Mapping):
            raise InvalidRequest(f"a frame must be a JSON object, not {type(document).__name__}", code="invalid_frame")
        command: dict[str, Any] = COMMAND.load(document)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the frame is not JSON: {error}", code="invalid_frame") from error
    except ValidationError as error:
        name, problems = next(iter(error.messages_dict.items()))
        raise InvalidRequest(f"{name}: {problems}", code="invalid_frame") from error
    return command


def _since(value: object, now: datetime) -> str:
    """Return the first hour of the snapshot; the last 24 hours when none is asked for."""
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
