"""Last stage: deltas from the rollups table's stream are pushed to the dashboards that subscribed.

Running twice pushes a delta twice, which a client takes as the same: an id replaces what it brought before. What cannot
be pushed in time ends the connection, whose client then comes back for a snapshot: a number is late, never wrong.
"""

import logging
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.base import metrics, waits
from chalicelib.base.dynamo import plain
from chalicelib.base.time_windows import HOUR_MS, hour_of
from chalicelib.events.contracts import Contracts
from chalicelib.live.connection import Connection
from chalicelib.live.connections_table import ConnectionsTable
from chalicelib.live.frames import (
    EVERYTHING,
    MAX_SNAPSHOT_BYTES,
    delta_json,
    delta_parts,
    frames_of,
    resync_frame,
)
from chalicelib.live.sockets import Gone, PushFailed, Sockets
from chalicelib.rollups.deltas import Delta
from chalicelib.rollups.facets import COUNTS, needed
from chalicelib.rollups.rollups_table import closing_of, delta_of

# Of a batch: for so long one project's trouble delays another's at most, all in all half of the function's 60 seconds.
PREPARE_SECONDS = 8.0
PUSH_SECONDS = 10.0
FORGET_SECONDS = 5.0
END_SECONDS = 5.0
# Of a batch, which may have 6 MB of compressed deltas: a connection is better off with a snapshot, which has no more.
MAX_SHARE_BYTES = MAX_SNAPSHOT_BYTES
MAX_HELD_BYTES = 4 * MAX_SHARE_BYTES  # of a project, for connections with different topics
MAX_MARKS = 10_000  # hours whose last closing a container remembers

log = logging.getLogger(__name__)


@dataclass(slots=True)
class News:
    """What a stream batch has for a project."""

    deltas: dict[str, Delta] = field(default_factory=dict)  # by frame id; of one that grew, the last
    changed: set[str] = field(default_factory=set)  # of them, those in the place of an earlier version
    closed: dict[str, str] = field(default_factory=dict)  # hour -> mark of its closing

    @property
    def size_bytes(self) -> int:
        """Of the deltas, as they are stored."""
        return sum(len(delta.body) for delta in self.deltas.values())


@dataclass(frozen=True, slots=True)
class Shown:
    """A delta as connections with the same topics are sent it."""

    hour: str
    written_at: int
    parts: list[bytes]


@dataclass(frozen=True, slots=True)
class Pusher:
    """Sends each connection its share of a stream batch. `marks` are of the hours that the container saw closed."""

    connections: ConnectionsTable
    sockets: Sockets
    contracts: Contracts
    pause_seconds: float  # between pushes: what comes meanwhile travels together, so a busy project costs no more
    sleep: Callable[[float], None] = time.sleep
    stage: str = ""
    marks: dict[tuple[str, str], str] = field(default_factory=dict)

    def push(self, records: Iterable[Mapping[str, Any]], now: int) -> int:
        """Push the batch's deltas and return the number of frames sent; `now` is Unix seconds.

        Raises an ExceptionGroup, after all the others have their share, when a project's connections could not be
        read or one that failed could not be forgotten: the batch then comes again.
        """
        failures: list[Exception] = []
        shares: list[tuple[Connection, Iterable[bytes]]] = []
        found, unreadable = self._read(records)
        prepared_by = self.sockets.clock() + PREPARE_SECONDS
        # Who has the least comes first, and so waits for nobody who has much.
        for project, news in sorted(found.items(), key=lambda pair: pair[1].size_bytes):
            try:
                self._note_late(project, news, now)
                connections = [c for c in self.connections.of_project(project) if c.topics]
            except (BotoCoreError, ClientError) as error:
                log.warning("project not pushed", extra={"project": project, "reason": str(error)})
                failures.append(error)
                continue
            shares += self._shares(connections, news, prepared_by, unreadable)
        outcomes = self.sockets.push_all(shares, PUSH_SECONDS)
        told = [(connection, outcome) for (connection, _), outcome in zip(shares, outcomes, strict=True)]
        failures += self._end([(connection, outcome) for connection, outcome in told if not isinstance(outcome, int)])
        if unreadable:
            metrics.emit(self.stage, now * 1000, {"DeltasUnreadable": len(unreadable)})
        if failures:
            raise ExceptionGroup("the batch is to come again", failures)
        self._remember(found)
        sent = sum(outcome for outcome in outcomes if isinstance(outcome, int))
        if sent:
            log.info("pushed", extra={"frames": sent})
            # After the push, not before it: the next batch then holds all that came, and goes out at once.
            self.sleep(self.pause_seconds)
        return sent

    def _read(self, records: Iterable[Mapping[str, Any]]) -> tuple[dict[str, News], set[str]]:
        """The batch by project, and the ids of records that say nothing: one that failed would come again for ever."""
        found: dict[str, News] = {}
        unreadable: set[str] = set()
        for record in records:
            try:
                delta = read_delta(record)
                closing = None if delta else read_closing(record)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must not block the shard
                _leave_out(unreadable, str(record.get("eventID")), error)
                continue
            if delta is not None:
                news = found.setdefault(delta.project, News())
                news.deltas[delta.frame_id] = delta
                if record.get("eventName") == "MODIFY":
                    news.changed.add(delta.frame_id)
            elif closing is not None and self.marks.get(closing[:2]) != closing[2]:
                found.setdefault(closing[0], News()).closed[closing[1]] = closing[2]
        return found, unreadable

    def _note_late(self, project: str, news: News, now: int) -> None:
        """Note deltas of hours that a snapshot reads by an index, which may lag behind this push.

        Before the connections are read. Who subscribes is registered before it reads the notes, so that it either finds
        a delta noted or is pushed it.
        """
        # The first hour that a snapshot reads from the table itself, also one of some minutes later.
        first_exact = hour_of((now + waits.STALE_MS // 1000) * 1000 - HOUR_MS)
        late = [
            d for d in news.deltas.values() if d.hour < first_exact and d.written_at >= now - waits.STALE_MS // 1000
        ]
        if late:
            written_at = max(delta.written_at for delta in late)
            self.connections.note_late(project, written_at, {delta.frame_id: delta.digest for delta in late})

    def _shares(
        self, connections: Sequence[Connection], news: News, prepared_by: float, unreadable: set[str]
    ) -> Iterator[tuple[Connection, Iterable[bytes]]]:
        """What each connection is to be sent. Frames are made as they are pushed: all together would be too many."""
        shown = self._shown({_topics(connection) for connection in connections}, news, prepared_by, unreadable)
        for connection in connections:
            mine = shown[_topics(connection)]
            if mine is None:
                yield connection, map(_refuse, (MAX_SHARE_BYTES,))
                continue
            # What is that old is in the snapshot for sure, which need not name it any more.
            since, stale = connection.since, connection.subscribed_at - waits.STALE_MS // 1000
            parts = [part for d in mine if d.hour >= since and d.written_at >= stale for part in d.parts]
            resync = [resync_frame(connection.subscription)] if any(hour >= since for hour in news.closed) else []
            if parts or resync:
                yield connection, chain(frames_of(parts, connection.subscription), resync)

    def _shown(
        self, all_topics: set[tuple[str, ...]], news: News, prepared_by: float, unreadable: set[str]
    ) -> dict[tuple[str, ...], list[Shown] | None]:
        """Return the deltas by topics; None where they are too large together, or take too long."""
        shown: dict[tuple[str, ...], list[Shown] | None] = {topics: [] for topics in sorted(all_topics)}
        held_bytes = dict.fromkeys(shown, 0)
        for delta in news.deltas.values():
            counts = replace(delta, excerpt=needed(None, COUNTS))  # decoded once for all topics, and not held
            for topics, before in shown.items():
                if self.sockets.clock() >= prepared_by:
                    return dict.fromkeys(shown)
                if before is None:
                    continue
                parts = self._parts(counts, topics, changed=delta.frame_id in news.changed, unreadable=unreadable)
                before.append(Shown(delta.hour, delta.written_at, parts))
                held_bytes[topics] += sum(map(len, parts))
                if held_bytes[topics] > MAX_SHARE_BYTES or sum(held_bytes.values()) > MAX_HELD_BYTES:
                    shown[topics], held_bytes[topics] = None, 0
        return shown

    def _parts(self, delta: Delta, topics: tuple[str, ...], *, changed: bool, unreadable: set[str]) -> list[bytes]:
        """Return the delta as far as the topics go; none when it has nothing of them, and takes nothing back."""
        try:
            shown = delta_json(delta, topics, self.contracts)
            return delta_parts(shown) if shown["metrics"] or changed else []
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must not block the shard
            _leave_out(unreadable, delta.frame_id, error)
            return []

    def _end(self, failed: Sequence[tuple[Connection, Gone | PushFailed]]) -> list[Exception]:
        """Forget these connections, for what comes next would be wrong without what they missed, and end them.

        Returns what could not be forgotten.
        """
        for connection, reason in failed:
            if isinstance(reason, PushFailed):
                log.warning("connection ended", extra={"connection_id": connection.id, "reason": str(reason)})
        connections = [connection for connection, _ in failed]
        forgotten = self.sockets.each(connections, lambda c: self.connections.forget(c.id, c.project), FORGET_SECONDS)
        there = [connection for connection, reason in failed if isinstance(reason, PushFailed)]
        self.sockets.each(there, self.sockets.end, END_SECONDS)
        return [failure for failure in forgotten if not isinstance(failure, int)]

    def _remember(self, found: Mapping[str, News]) -> None:
        if len(self.marks) > MAX_MARKS:
            self.marks.clear()  # at worst a snapshot is asked for once more
        self.marks.update({(project, hour): mark for project, n in found.items() for hour, mark in n.closed.items()})


def read_delta(record: Mapping[str, Any]) -> Delta | None:
    """Return the delta of a stream record; None of merged items, tombstones and indexes."""
    image = record["dynamodb"].get("NewImage")
    if image is None or not image["sk"]["S"].startswith("d#") or "body" not in image:
        return None
    return delta_of({**plain(image), "body": b64decode(image["body"]["B"])})


def read_closing(record: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Project, hour and mark of a stream record that says how far an hour is closed; None of all others."""
    image = record["dynamodb"].get("NewImage")
    return None if image is None else closing_of(plain(image))


def _topics(connection: Connection) -> tuple[str, ...]:
    """Return the connection's topics; the same for all that are sent the same."""
    return (EVERYTHING,) if EVERYTHING in connection.topics else tuple(sorted({*connection.topics}))


def _refuse(most_bytes: int) -> bytes:
    """Stand for the frames of a connection, whose failure it is then."""
    raise PushFailed(f"the batch has more for it than {most_bytes} bytes, or than can be prepared in time")


def _leave_out(unreadable: set[str], name: str, error: Exception) -> None:
    if name not in unreadable:
        log.warning("delta unreadable", extra={"id": name, "reason": type(error).__name__})
    unreadable.add(name)
