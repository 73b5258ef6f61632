"""Last stage: deltas from the rollups table's stream are pushed to the dashboards that subscribed.

Running twice pushes a delta twice, which a client takes as the same: an id replaces what it brought before. What
cannot be pushed ends the connection, whose client then comes back for a snapshot: a number is late, never wrong.
"""

import logging
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chalicelib.domain.access import Connection
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import Delta
from chalicelib.domain.frames import STALE_SECONDS, delta_frames, delta_json
from chalicelib.storage.control_table import ControlTable
from chalicelib.storage.rollups_table import delta_of
from chalicelib.storage.sockets import Gone, PushFailed, Sockets

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pusher:
    """Sends each connection its share of a stream batch."""

    control: ControlTable
    sockets: Sockets
    contracts: Contracts
    pause_seconds: float  # between pushes: what comes meanwhile travels together, so a busy project costs no more
    sleep: Callable[[float], None] = time.sleep

    def push(self, records: Iterable[Mapping[str, Any]], now: int) -> int:
        """Push the batch's deltas and return the number of frames sent; `now` is epoch seconds."""
        by_project: dict[str, dict[str, Delta]] = {}
        for record in records:
            delta = read_delta(record)
            if delta is not None:
                by_project.setdefault(delta.project, {})[delta.frame_id] = (
                    delta  # of a delta that grew, the last counts
                )
        sent = 0
        for project, deltas in by_project.items():
            connections = [c for c in self.control.connections(project) if c.topics]
            if connections:
                fresh = [delta for delta in deltas.values() if delta.written_at > now - STALE_SECONDS]
                for connection in connections:
                    sent += self._push_to(connection, fresh, complete=len(fresh) == len(deltas))
        if sent:
            log.info("pushed", extra={"frames": sent})
            # After the push, not before it: the next batch then holds all that came, and goes out at once.
            self.sleep(self.pause_seconds)
        return sent

    def _push_to(self, connection: Connection, deltas: list[Delta], *, complete: bool) -> int:
        try:
            if not complete:
                raise PushFailed("a delta is too old to be told apart from what the snapshot holds")
            wanted = [d for d in deltas if d.hour >= connection.since]
            shown = [delta_json(delta, connection.topics, self.contracts) for delta in wanted]
            frames = delta_frames(delta for delta in shown if delta["metrics"])
            for frame in frames:
                self.sockets.push(connection, frame)
        except Gone:
            self.control.forget_connection(connection.id)
            return 0
        except PushFailed as error:
            log.warning("connection ended", extra={"connection_id": connection.id, "reason": str(error)})
            self.sockets.end(connection)
            self.control.forget_connection(connection.id)
            return 0
        return len(frames)


def read_delta(record: Mapping[str, Any]) -> Delta | None:
    """The delta of a stream record; None of merged items, tombstones and indexes."""
    image = record["dynamodb"].get("NewImage")
    if image is None or not image["sk"]["S"].startswith("d#") or "body" not in image:
        return None
    return delta_of({**image, "body": {"B": b64decode(image["body"]["B"])}})
