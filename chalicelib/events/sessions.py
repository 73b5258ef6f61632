"""Sessions of one user: events of which none is half an hour after the one before it.

A client's own session id stands. Where it has none, the session is named by its first event; so it is made up only
where all of a user's events are at hand, because one more event may join two sessions or begin one.
"""

from collections.abc import Iterable
from hashlib import blake2b

from chalicelib.events.events import StoredEvent, moment_of

INACTIVITY_MS = 30 * 60_000
REACH_HOURS = 12  # of a session that is counted; what other products let a visit last at most, too


def session_ids(events: Iterable[StoredEvent]) -> dict[str, str]:
    """Return the session of each event that names none itself, by event id. The order of the events does not matter."""
    found: dict[str, str] = {}
    session, last_ms = "", -INACTIVITY_MS
    silent = (event for event in events if not event.get("session_id"))
    for event in sorted(silent, key=moment_of):
        if event["occurred_at"] - last_ms >= INACTIVITY_MS:
            session = "s_" + blake2b(event["event_id"].encode(), digest_size=8).hexdigest()
        found[event["event_id"]] = session
        last_ms = event["occurred_at"]
    return found
