"""Where the first try put events whose hour another try could change, in the events table beside its chunks.

`project#user` / `~pin#<event and timestamp>`   when it occurred, kept as long as its chunk, or until its user is erased
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chalicelib.base.dynamo import NEW, Item, Table, key, put
from chalicelib.events.events import MAX_AGE_DAYS, StoredEvent, user_of
from chalicelib.events.pins import UNSURE, name_of
from chalicelib.events.records import NO_CHUNK

PIN = f"{NO_CHUNK}pin#"


@dataclass(frozen=True, slots=True)
class PinsTable:
    """Pins events; doing it again, with whatever the client sent as well, changes nothing."""

    client: Any
    name: str

    def pin(self, project: str, events: Iterable[StoredEvent], received_ms: int) -> None:
        """Put each event that is unsure where its first try is, and take out why the edge was unsure."""
        for event in events:
            if event.pop(UNSURE, None):
                event["occurred_at"] = self._pinned_at(project, event, received_ms)

    def _pinned_at(self, project: str, event: StoredEvent, received_ms: int) -> int:
        occurred_ms: int = event["occurred_at"]
        item = {
            **_key(project, event),
            "project": project,
            "occurred_at": occurred_ms,
            "received_at": received_ms,
            "expires_at": received_ms // 1000 + MAX_AGE_DAYS * 86_400,
        }
        is_first, there = Table(self.client, self.name).write_showing(put(item, NEW))
        return occurred_ms if is_first else int(there["occurred_at"])


def _key(project: str, event: StoredEvent) -> Item:
    """Under the user, by whom an erasure finds it; those of nobody are spread as their chunks are."""
    user, name = user_of(event), name_of(event)
    return key(f"{project}#{user}" if user else f"?{name[-2:]}#{project}", f"{PIN}{name}")
