"""Last stage: deltas from the rollups table's stream are pushed to the dashboards that subscribed.

Running twice pushes a delta twice, which a client takes as the same: an id replaces what it brought before. What cannot
be pushed in time ends the connection, whose client then comes back for a snapshot: a number is late, never wrong.
"""

import logging
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib import metrics
from chalicelib.domain.access import Connection
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import Delta
from chalicelib.domain.frames import STALE_SECONDS, delta_json, delta_parts, frames_of, resync_frame
from chalicelib.domain.time_windows import HOUR_MS, hour_of
from chalicelib.storage.control_table import ControlTable
from chalicelib.storage.rollups_table import closing_of, delta_of
from chalicelib.storage.sockets import Gone, PushFailed, Sockets

# Of a batch: no project's connections delay another's for longer. Together with what follows, to forget and to end
# those that failed, it is two thirds of the function's 30 seconds.
PUSH_SECONDS = 10.0
FORGET_SECONDS = 5.0
END_SECONDS = 5.0
MAX_MARKS = 10_000  # hours whose last closing a container remembers

log = logging.getLogger(__name__)


@dataclass(slots=True)
class News:
    """What a stream batch has for a project."""

    deltas: dict[str, Delta] = field(default_factory=dict)  # by frame id; of one that grew, the last
    changed: set[str] = field(default_factory=set)  # of them, those in the place of an earlier version
    closed: dict[str, str] = field(default_factory=dict)  # hour -> mark of its closing
    parts: dict[tuple[str, tuple[str, ...]], list[bytes]] = field(default_factory=dict)  # by frame id and topics


@dataclass(frozen=True, slots=True)
class Pusher:
    """Sends each connection its share of a stream batch. `marks` are of the hours that the container saw closed."""

    control: ControlTable
    sockets: Sockets
    contracts: Contracts
    pause_seconds: float  # between pushes: what comes meanwhile travels together, so a busy project costs no more
    sleep: Callable[[float], None] = time.sleep
    stage: str = ""
    marks: dict[tuple[str, str], str] = field(default_factory=dict)

    def push(self, records: Iterable[Mapping[str, Any]], now: int) -> int:
        """Push the batch's deltas and return the number of frames sent; `now` is epoch seconds.

        Raises an ExceptionGroup, after all the others have their share, when a project's connections could not be
        read or one that failed could not be forgotten: the batch then comes again.
        """
        failures: list[Exception] = []
        shares: list[tuple[Connection, list[bytes]]] = []
        found, unreadable = self._read(records)
        for project, news in found.items():
            try:
                self._note_late(project, news, now)
                connections = self.control.connections(project)
            except (BotoCoreError, ClientError) as error:
                log.warning("project not pushed", extra={"project": project, "reason": str(error)})
                failures.append(error)
                continue
            mine = ((c, self._frames(c, news, unreadable)) for c in connections if c.topics)
            shares += [(connection, frames) for connection, frames in mine if frames]
        outcomes = self.sockets.push_all(shares, PUSH_SECONDS)
        failures += self._end([(share[0], outcome) for share, outcome in zip(shares, outcomes, strict=True) if outcome])
        if unreadable:
            metrics.emit(self.stage, now * 1000, {"DeltasUnreadable": len(unreadable)})
        if failures:
            raise ExceptionGroup("the batch is to come again", failures)
        self._remember(found)
        sent = sum(len(frames) for (_, frames), outcome in zip(shares, outcomes, strict=True) if outcome is None)
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
        first_exact = hour_of((now + STALE_SECONDS) * 1000 - HOUR_MS)
        late = [d for d in news.deltas.values() if d.hour < first_exact and d.written_at >= now - STALE_SECONDS]
        if late:
            written_at = max(delta.written_at for delta in late)
            self.control.note_late(project, written_at, {delta.frame_id: delta.digest for delta in late})

    def _frames(self, connection: Connection, news: News, unreadable: set[str]) -> list[bytes]:
        parts: list[bytes] = []
        for delta in news.deltas.values():
            # What is that old is in the snapshot for sure, which need not name it any more.
            fresh = delta.written_at >= connection.subscribed_at - STALE_SECONDS
            if fresh and delta.hour >= connection.since:
                parts += self._parts(delta, connection.topics, news, unreadable)
        frames = frames_of(parts, connection.subscription)
        if any(hour >= connection.since for hour in news.closed):
            frames.append(resync_frame(connection.subscription))
        return frames

    def _parts(self, delta: Delta, topics: tuple[str, ...], news: News, unreadable: set[str]) -> list[bytes]:
        """The delta as far as the topics go; none when it has nothing of them and takes nothing back."""
        name = delta.frame_id
        if (name, topics) not in news.parts:
            try:
                shown = delta_json(delta, topics, self.contracts)
                news.parts[name, topics] = delta_parts(shown) if shown["metrics"] or name in news.changed else []
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must not block the shard
                news.parts[name, topics] = []
                _leave_out(unreadable, name, error)
        return news.parts[name, topics]

    def _end(self, failed: Sequence[tuple[Connection, Gone | PushFailed]]) -> list[Exception]:
        """Forget these connections, for what comes next would be wrong without what they missed, and end them.

        Returns what could not be forgotten.
        """
        for connection, reason in failed:
            if isinstance(reason, PushFailed):
                log.warning("connection ended", extra={"connection_id": connection.id, "reason": str(reason)})
        connections = [connection for connection, _ in failed]
        forgotten = self.sockets.each(
            connections, lambda c: self.control.forget_connection(c.id, c.project), FORGET_SECONDS
        )
        there = [connection for connection, reason in failed if isinstance(reason, PushFailed)]
        self.sockets.each(there, self.sockets.end, END_SECONDS)
        return [failure for failure in forgotten if failure]

    def _remember(self, found: Mapping[str, News]) -> None:
        if len(self.marks) > MAX_MARKS:
            self.marks.clear()  # at worst a snapshot is asked for once more
        self.marks.update({(project, hour): mark for project, n in found.items() for hour, mark in n.closed.items()})


def read_delta(record: Mapping[str, Any]) -> Delta | None:
    """The delta of a stream record; None of merged items, tombstones and indexes."""
    image = record["dynamodb"].get("NewImage")
    if image is None or not image["sk"]["S"].startswith("d#") or "body" not in image:
        return None
    return delta_of({**image, "body": {"B": b64decode(image["body"]["B"])}})


def read_closing(record: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Project, hour and mark of a stream record that says how far an hour is closed; None of all others."""
    image = record["dynamodb"].get("NewImage")
    return None if image is None else closing_of(image)


def _leave_out(unreadable: set[str], name: str, error: Exception) -> None:
    if name not in unreadable:
        log.warning("delta unreadable", extra={"id": name, "reason": type(error).__name__})
    unreadable.add(name)
