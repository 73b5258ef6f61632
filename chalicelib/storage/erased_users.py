"""Markers of erased users in the control table, and until when each drops: `erased#<project>` / `<when put>#<hash>`.

Stages hold what arrives against them. A container reads a project's markers once, and then, once a minute, those that
were put since: most projects have none, and none of this costs a read for an event.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from chalicelib.domain.erasure import FOR_EVER_MS, Marker, digest_of_user, kept
from chalicelib.domain.events import StoredEvent, user_of

FRESH_SECONDS = 60  # what a container knows may be as old
OVERLAP_MS = 10 * 60_000  # clocks differ, and a put may take its time


@dataclass(slots=True)
class _Known:
    read_at: float
    until: dict[str, int]
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
        item = {
            "pk": {"S": f"erased#{project}"},
            "sk": {"S": f"{marker.marked_ms:013d}#{marker.digest}"},
            "until_ms": {"N": str(marker.until_ms)},
        }
        self.client.put_item(TableName=self.name, Item=item)

    def kept(self, project: str, events: Iterable[StoredEvent]) -> list[StoredEvent]:
        """The events that no marker drops."""
        until = self._until(project)
        return kept(events, until, project) if until else list(events)

    def is_theirs(self, project: str, rejected: object) -> bool:
        """Whether an event that was not taken is an erased user's, who is not accepted again."""
        until = self._until(project)
        if not (until and isinstance(rejected, dict)):
            return False
        user = user_of(rejected)
        return isinstance(user, str) and until.get(digest_of_user(project, user), 0) >= FOR_EVER_MS

    def _until(self, project: str) -> dict[str, int]:
        known = self.known.get(project)
        if known is None or self.clock() - known.read_at >= FRESH_SECONDS:
            now = self.clock()
            known = known or _Known(now, {})
            known = _Known(now, *self._read(project, known))
            self.known[project] = known
        return known.until

    def _read(self, project: str, known: _Known) -> tuple[dict[str, int], int]:
        until, upto_ms = dict(known.until), known.upto_ms
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND sk >= :since",
            ExpressionAttributeValues={
                ":pk": {"S": f"erased#{project}"},
                ":since": {"S": f"{max(0, upto_ms - OVERLAP_MS):013d}"},
            },
            ConsistentRead=True,
        )
        for item in (item for page in pages for item in page["Items"]):
            marked, _, digest = item["sk"]["S"].partition("#")
            until[digest] = max(until.get(digest, 0), int(item["until_ms"]["N"]))
            upto_ms = max(upto_ms, int(marked))
        return until, upto_ms
