"""Of which users times ahead of our clock were clamped lately, in the events table beside the pins.

`?ahead#project` / `~<half-day>#<bucket>`   one of the bucket's users, in that half-day
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.base import waits
from chalicelib.base.dynamo import Table, key, put
from chalicelib.base.errors import Unavailable
from chalicelib.events.events import StoredEvent, user_of
from chalicelib.events.pins import FLAG_MS, UNSURE, Unsure, bucket_of, recent
from chalicelib.events.records import NO_CHUNK

FLAG_SECONDS = FLAG_MS // 1000
# Until flags that could not be read are asked for again. Where nothing answers, asking takes 21 s, for which a client
# waits; nothing is wrong meanwhile, for everybody counts as flagged.
UNKNOWN_SECONDS = 120

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Flags:
    """What a container knows of a project's flags, of this half-day and of the one before."""

    read_at: float
    put: set[str] = field(default_factory=set)  # sort keys
    buckets: set[str] = field(default_factory=set)
    all: bool = False  # they cannot be read: anybody may be flagged


@dataclass(frozen=True, slots=True)
class FlagsTable:
    """What the edge asks and tells of users who are ahead. `clock` is Unix time."""

    client: Any
    name: str
    clock: Callable[[], float] = time.time
    known: dict[str, Flags] = field(default_factory=dict)  # by project

    def flag(self, project: str, events: Sequence[StoredEvent], received_ms: int) -> None:
        """Flag the users of clamped events, and mark the events of flagged users.

        Raises Unavailable when a flag cannot be put: a later try would not know of this one.
        """
        for event in [event for event in events if UNSURE in event]:
            if event[UNSURE] == Unsure.CLAMPED:
                self._put(project, bucket_of(user_of(event)))
        flags = self._flags(project)
        if flags.all or flags.buckets:
            for event in recent(events, received_ms):
                if flags.all or bucket_of(user_of(event)) in flags.buckets:
                    event[UNSURE] = Unsure.FLAGGED

    def _put(self, project: str, bucket: str) -> None:
        half_day = int(self.clock() // FLAG_SECONDS)
        sort_key = f"{NO_CHUNK}{half_day}#{bucket}"
        flags = self._flags(project)
        if sort_key in flags.put:
            return
        item = {"project": project, "expires_at": (half_day + 3) * FLAG_SECONDS}
        try:
            self._table.write(put({**key(_partition(project), sort_key), **item}))
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"storage did not accept the flag of a user whose clock is ahead: {error}") from error
        flags.put.add(sort_key)
        flags.buckets.add(bucket)

    def _flags(self, project: str) -> Flags:
        known, now = self.known.get(project), self.clock()
        lasts = UNKNOWN_SECONDS if known and known.all else waits.FLAGS_FRESH_MS / 1000
        if known is None or not 0 <= now - known.read_at < lasts:
            try:
                put = self._read(project, int(now // FLAG_SECONDS) - 1)
                known = Flags(now, put, {sort_key.rpartition("#")[2] for sort_key in put})
            except (BotoCoreError, ClientError) as error:
                log.warning("flags unknown", extra={"project": project, "reason": str(error)})
                known = Flags(self.clock(), all=True)  # when the answer was given up: waiting for it took its time
            self.known[project] = known
        return known

    def _read(self, project: str, first_half_day: int) -> set[str]:
        first = {"first": f"{NO_CHUNK}{first_half_day}"}
        return {item["sk"] for item in self._table.query(_partition(project), "sk >= :first", first, fields="sk")}

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _partition(project: str) -> str:
    return f"?ahead#{project}"
