"""The hot store is put back from the lake: each chunk under the key that it had, and what was said of users.

The stream carries what is put back, marked as counted and archived before. What is there already stays as it is, so a
rebuild may be stopped and run again, and run on a table that has lost only some of its items.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chalicelib.base.errors import Unavailable
from chalicelib.base.time_windows import DAY_MS
from chalicelib.events.chunks import chunks_of
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.events import MAX_AGE_DAYS, StoredEvent
from chalicelib.events.events_table import EventsTable
from chalicelib.events.identity import Said
from chalicelib.events.regrouping import messages_of
from chalicelib.events.users_table import UsersTable
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import Lake
from chalicelib.rollups.hours_table import HoursTable


class NotConsolidated(Exception):
    """An hour's files are not in order yet."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many chunks were put back, were there already, and had expired, and the events of those put back."""

    written: int = 0
    there: int = 0
    expired: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class Rebuilder:
    """Writes the events table as it was, as far as its items would not have expired."""

    lake: Lake
    folders: HourFolders
    hours: HoursTable
    events: EventsTable
    users: UsersTable
    erased: ErasedUsers

    def rebuild(self, project: str, hours: Iterable[str], now_ms: int) -> Rebuilt:
        """Put back the chunks of the hours, which come in order; raises NotConsolidated of a dirty one.

        A request's chunk has the key it had when all hours that its events occurred in are among them.
        """
        written = there = expired = events = 0
        for message in messages_of(project, self._events(project, hours)):
            chunks = list(chunks_of(message))
            if message.received_ms + MAX_AGE_DAYS * DAY_MS <= now_ms:
                expired += len(chunks)
                continue
            for chunk in chunks:
                if self.events.restore(chunk):
                    written += 1
                    events += chunk.count
                else:
                    there += 1
            said = Said()
            for event in message.events:
                said.hear(event)
            left = self.users.learn(project, said)
            if missed := len(left.links) + len(left.users) + left.busy:
                raise Unavailable(f"{missed} links and profiles could not be put back; run it again")
        return Rebuilt(written, there, expired, events)

    def _events(self, project: str, hours: Iterable[str]) -> Iterator[tuple[int, StoredEvent]]:
        for hour in hours:
            state, keys = self.folders.keys(self.hours, project, hour)
            if state.is_dirty:
                raise NotConsolidated(f"{project} {hour} has files that are not consolidated yet: ops consolidate")
            for row in self.lake.rows(sorted(keys)):
                if self.erased.kept(project, [row.event]):
                    yield row.received_ms, row.event
