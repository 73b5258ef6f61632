"""Where the first try put events whose hour another try could change, in the events table beside its chunks.

`project#user` / `~pin#<event and timestamp>`   when it occurred, kept as long as its chunk, or until its user is erased
`?ahead#project` / `~<half-day>`                of which users a time ahead of our clock was clamped: a bit for a bucket
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.errors import Unavailable
from chalicelib.domain.events import MAX_AGE_DAYS, StoredEvent, user_of
from chalicelib.domain.pins import FLAG_MS, UNSURE, Doubt, bucket_of, has_bucket, name_of, recent, with_bucket
from chalicelib.domain.records import NO_CHUNK

PIN = f"{NO_CHUNK}pin#"
FRESH_SECONDS = 30  # what a container knows of a project's flags may be as old
FLAG_SECONDS = FLAG_MS // 1000
MAX_ATTEMPTS = 8  # of flags that others write at the same time


@dataclass(frozen=True, slots=True)
class Flags:
    """What a container knows of a project's flags: of this half-day, and of the one before."""

    read_at: float
    half_day: int
    now: bytes = b""
    before: bytes = b""


@dataclass(frozen=True, slots=True)
class PinsTable:
    """Settles events; doing it again, with whatever the client sent as well, changes nothing. `clock` is Unix time."""

    client: Any
    name: str
    clock: Callable[[], float] = time.time
    known: dict[str, Flags] = field(default_factory=dict)  # by project

    def doubtful(self, project: str, events: list[StoredEvent], received_ms: int) -> int:
        """How many of a message's events `settle` has a write or a read for; of a right clock none."""
        return sum(UNSURE in event for event in events) + len(self._looked_up(project, events, received_ms))

    def settle(self, project: str, events: list[StoredEvent], received_ms: int) -> None:
        """Put each event where its first try is, and take out what the edge said of its doubt."""
        for event in self._looked_up(project, events, received_ms):
            if (pinned_ms := self._find(project, event)) is not None:
                event["occurred_at"] = pinned_ms
        for event in events:
            if doubt := event.pop(UNSURE, None):
                if doubt == Doubt.AHEAD:
                    self._flag(project, bucket_of(user_of(event)))
                event["occurred_at"] = self._pin(project, event, received_ms)

    def _looked_up(self, project: str, events: list[StoredEvent], received_ms: int) -> list[StoredEvent]:
        """Events that have a pin, perhaps, without a doubt of their own."""
        found = list(recent(events, received_ms))
        flags = self._flags(project) if found else None
        if flags is None or not (flags.now or flags.before):
            return []
        return [
            event
            for event in found
            if any(has_bucket(bits, bucket_of(user_of(event))) for bits in (flags.now, flags.before))
        ]

    def _pin(self, project: str, event: StoredEvent, received_ms: int) -> int:
        occurred_ms: int = event["occurred_at"]
        item = {
            **_key(project, event),
            "project": {"S": project},
            "occurred_at": {"N": str(occurred_ms)},
            "received_at": {"N": str(received_ms)},
            "expires_at": {"N": str(received_ms // 1000 + MAX_AGE_DAYS * 86_400)},
        }
        if self._put(item, "attribute_not_exists(pk)"):
            return occurred_ms
        pinned_ms = self._find(project, event)
        return occurred_ms if pinned_ms is None else pinned_ms  # None: it was erased just now

    def _find(self, project: str, event: StoredEvent) -> int | None:
        item = self._get(_key(project, event))
        return int(item["occurred_at"]["N"]) if item else None

    def _flag(self, project: str, bucket: int) -> None:
        """Have later events of the bucket's users looked up; raises Unavailable while others flag theirs."""
        for _ in range(MAX_ATTEMPTS):
            flags = self._flags(project)
            if has_bucket(flags.now, bucket):
                return
            bits = with_bucket(flags.now, bucket)
            item = {
                **_flags_key(project, flags.half_day),
                "project": {"S": project},
                "flags": {"B": bits},
                "expires_at": {"N": str((flags.half_day + 3) * FLAG_SECONDS)},
            }
            read = {":read": {"B": flags.now}} if flags.now else None
            if self._put(item, "flags = :read" if read else "attribute_not_exists(pk)", read):
                self.known[project] = Flags(flags.read_at, flags.half_day, bits, flags.before)
                return
            del self.known[project]
        raise Unavailable(f"the flags of a project were changed by others in each of {MAX_ATTEMPTS} attempts")

    def _flags(self, project: str) -> Flags:
        known, now = self.known.get(project), self.clock()
        half_day = int(now // FLAG_SECONDS)
        if known is None or known.half_day != half_day or not 0 <= now - known.read_at < FRESH_SECONDS:
            items = [self._get(_flags_key(project, number)) for number in (half_day, half_day - 1)]
            bits = [bytes(item["flags"]["B"]) if item else b"" for item in items]
            known = self.known[project] = Flags(now, half_day, *bits)
        return known

    def _put(self, item: dict[str, Any], condition: str, values: Mapping[str, Any] | None = None) -> bool:
        """Whether the condition held, and the item is written."""
        named = {"ExpressionAttributeValues": values} if values else {}
        try:
            self.client.put_item(TableName=self.name, Item=item, ConditionExpression=condition, **named)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def _get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        item: dict[str, Any] | None = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get(
            "Item"
        )
        return item


def _key(project: str, event: StoredEvent) -> dict[str, Any]:
    """Under the user, by whom an erasure finds it; those of nobody are spread as their chunks are."""
    user, name = user_of(event), name_of(event)
    owner = f"{project}#{user}" if user else f"?{name[-2:]}#{project}"
    return {"pk": {"S": owner}, "sk": {"S": f"{PIN}{name}"}}


def _flags_key(project: str, half_day: int) -> dict[str, Any]:
    return {"pk": {"S": f"?ahead#{project}"}, "sk": {"S": f"{NO_CHUNK}{half_day}"}}
