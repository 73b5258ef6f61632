"""Who a user is and what they did, from the hot store; and the request that all of it be erased."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chalicelib.base.errors import InvalidRequest, NotFound, Unavailable
from chalicelib.base.time_windows import iso_ms
from chalicelib.events.contracts import MAX_ID_LENGTH
from chalicelib.events.erasure import Erasure, State, digest_of_user
from chalicelib.events.erasures_table import ErasuresTable
from chalicelib.events.events import moment_of
from chalicelib.events.events_table import EventsTable
from chalicelib.events.sessions import session_ids
from chalicelib.events.users_table import UsersTable

MAX_LINKED = 50  # ids whose events make up one timeline
MAX_REQUESTS = 3  # of an erasure, each after another one of the user ended in between


@dataclass(frozen=True, slots=True)
class Profiler:
    """Reads, and writes down who is to be erased, which `erase` then does."""

    events: EventsTable
    users: UsersTable
    erasures: ErasuresTable
    new_id: Callable[[int], str]

    def user(self, project: str, user: str) -> dict[str, Any]:
        """Traits and linked ids.

        Raises NotFound of somebody who never sent an event in 30 days, nor was identified; InvalidRequest of a longer
        id than any event may have.
        """
        _check(user)
        traits = self.users.traits(project, user)
        previous, became = self.users.links(project, user)
        if not (traits or previous or became or next(self.events.chunks(project, [user]), None)):
            raise NotFound(f"user {user[:64]!r} is not known", code="unknown_user")
        return {
            "user_id": user,
            "traits": {name: value for name, (_, value) in sorted(traits.items()) if value is not None},
            "previous_ids": previous,
            "became": became,
        }

    def request_erasure(self, project: str, user: str, now_ms: int) -> dict[str, Any]:
        """The receipt of an erasure of the user and of the ids they had before, as `GET /erasures/{id}` shows it.

        The same as long as one goes on. Also of somebody unknown: the lake may remember who the hot store does not.
        Raises InvalidRequest of an earlier id of somebody else, with whom it is erased, and Unavailable when it could
        not be stored.
        """
        _check(user)
        digest = digest_of_user(project, user)
        for later in self.users.links(project, user)[1]:
            if user in self.users.ids_of(project, later, self.events.is_user):
                message = f"user_id: {user[:64]!r} is an earlier id of {later[:64]!r}; erase the later one"
                raise InvalidRequest(message, code="earlier_id")
        ids = self.users.ids_of(project, user, self.events.is_user)
        erasure = Erasure(self.new_id(now_ms), project, State.REQUESTED, now_ms, digest, user, tuple(ids))
        for _ in range(MAX_REQUESTS):
            if self.erasures.request(erasure):
                return erasure.shown()
            if open_one := self.erasures.open_of(project, digest):  # else it was done in between
                return open_one.shown()
        raise Unavailable(f"the erasure was not stored in {MAX_REQUESTS} tries; retry the request")

    def erasure(self, project: str, erasure_id: str) -> dict[str, Any]:
        """Return a receipt; raises NotFound."""
        found = self.erasures.get(project, erasure_id) if len(erasure_id) <= MAX_ID_LENGTH else None
        if found is None:
            raise NotFound(f"erasure {erasure_id[:64]!r} does not exist in this project")
        return found.shown()

    def timeline(self, project: str, user: str, limit: int, before: str | None) -> dict[str, Any]:
        """The latest events of a user and of the ids they had before, newest first, in pages of `limit` or some more.

        Events without a session get one where the page holds all there are. Raises InvalidRequest as `user` does.
        """
        _check(user)
        previous, _ = self.users.links(project, user)
        events: dict[str, dict[str, Any]] = {}
        chunks = self.events.chunks(project, [user, *previous[:MAX_LINKED]], before)
        following = None
        for chunk in chunks:
            if len(events) >= limit:
                break
            following = chunk.sort_key
            for event in chunk.events:
                events[event["event_id"]] = {**event, "received_at": iso_ms(chunk.received_ms)}
        else:
            following = None
        sessions = session_ids(events.values()) if following is None and before is None else {}
        shown = [
            {**event, "occurred_at": iso_ms(event["occurred_at"]), "session_id": _session(event, sessions)}
            for event in sorted(events.values(), key=moment_of, reverse=True)
        ]
        return {"user_id": user, "events": shown, "next": following}


def _check(user: str) -> None:
    if len(user) > MAX_ID_LENGTH:  # which a table's key might not hold
        raise InvalidRequest(
            f"user_id: it has {len(user)} characters; the limit is {MAX_ID_LENGTH}", code="invalid_parameter"
        )


def _session(event: dict[str, Any], sessions: dict[str, str]) -> str | None:
    return event.get("session_id") or sessions.get(event["event_id"])
