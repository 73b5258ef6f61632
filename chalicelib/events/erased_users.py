"""Markers of erased users in the control table, and until when each drops: `erased#<project>` / `<when put>#<hash>`.

Stages hold what arrives against them. A container reads a project's markers once, and then, once a minute, those that
were put since: most projects have none, and none of this costs a read for an event.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chalicelib.base import waits
from chalicelib.base.dynamo import Table, key, put
from chalicelib.base.time_windows import parse_ms
from chalicelib.events.erasure import Marker, digest_of_user, split, words_of
from chalicelib.events.events import StoredEvent, user_of


@dataclass(slots=True)
class _Known:
    read_at: float
    markers: dict[str, Marker]
    upto_ms: int = 0


@dataclass(frozen=True, slots=True)
class ErasedUsers:
    """Putting a marker again changes nothing."""

    client: Any
    name: str
    clock: Callable[[], float] = time.monotonic
    known: dict[str, _Known] = field(default_factory=dict)

    def put(self, project: str, marker: Marker) -> None:
        """From a minute from now on, what arrives of the user is dropped everywhere."""
        place = key(f"erased#{project}", f"{marker.marked_ms:013d}#{marker.digest}")
        Table(self.client, self.name).write(put({**place, "until_ms": marker.until_ms}))

    def split(self, project: str, events: Iterable[StoredEvent]) -> tuple[list[StoredEvent], list[StoredEvent]]:
        """Return the events that no marker drops, and the others."""
        markers = self._markers(project)
        return split(events, markers, project) if markers else (list(events), [])

    def kept(self, project: str, events: Iterable[StoredEvent]) -> list[StoredEvent]:
        """Return the events that no marker drops."""
        return self.split(project, events)[0]

    def markers(self, project: str) -> Mapping[str, Marker]:
        """Return the project's markers by digest, as of now."""
        return self._read(project, _Known(0, {}), 0).markers

    def is_linked(self, project: str, event: StoredEvent, now_ms: int) -> bool:
        """Whether a dropped event may still say which ids its user had before, because the erasure has just begun."""
        marker = self._markers(project).get(digest_of_user(project, str(user_of(event))))
        return marker is not None and now_ms < marker.marked_ms + waits.LINKED_MS

    def is_theirs(self, project: str, rejected: Any, received_ms: int) -> bool:
        """Return whether an event that was not taken, in whatever form, is an erased user's of before their time."""
        markers = self._markers(project)
        if not markers:
            return False
        found = (markers.get(digest_of_user(project, word)) for word in words_of(rejected))
        until_ms = max((marker.until_ms for marker in found if marker), default=0)
        return _occurred_at(rejected, received_ms) < until_ms

    def _markers(self, project: str) -> dict[str, Marker]:
        known = self.known.get(project)
        if known is None or self.clock() - known.read_at >= waits.MARKERS_FRESH_MS / 1000:
            now = self.clock()
            known = self._read(project, known or _Known(now, {}), now)
            self.known[project] = known
        return known.markers

    def _read(self, project: str, known: _Known, now: float) -> _Known:
        markers, upto_ms = dict(known.markers), known.upto_ms
        since = {"since": f"{max(0, upto_ms - waits.MARKERS_OVERLAP_MS):013d}"}
        for item in Table(self.client, self.name).query(f"erased#{project}", "sk >= :since", since):
            marked, _, digest = item["sk"].partition("#")
            found = Marker(digest, int(marked), item["until_ms"])
            before = markers.get(digest)
            if before is None or found.until_ms >= before.until_ms:
                markers[digest] = found
            upto_ms = max(upto_ms, int(marked))
        return _Known(now, markers, upto_ms)


def _occurred_at(rejected: Any, received_ms: int) -> int:
    timestamp = rejected.get("timestamp") if isinstance(rejected, dict) else None
    try:
        return parse_ms(timestamp)
    except (ValueError, TypeError, OverflowError):
        return received_ms
