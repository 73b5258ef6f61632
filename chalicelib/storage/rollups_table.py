"""The rollups table: what is live of each hour, and which event types exist.

pk project#live#hour  sk d#<slot>#<record>                        a delta, or in its place the tombstone and tidemark
pk project#merged     sk <hour>#<epoch>#<slot>#<minute>#<record>  the merged item of some deltas of a slot
                      sk <hour>#<epoch>#<slot>#~                  the base: older merged items of the slot together
pk project#hours      sk <hour>                                   how far the hour is: storage/hours_table
pk project#types      sk <event type>                             named in every hour, or in those from `since` on

The index `open` holds the deltas that compaction has not absorbed, by project. It lags behind the table, so callers
that need the very last delta read the table (`read_hour`).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.deltas import Delta, HourView, Merged, latest
from chalicelib.domain.facets import Excerpt
from chalicelib.domain.rollup_codec import decode, encode
from chalicelib.domain.rollups import OTHER
from chalicelib.domain.signatures import Signature
from chalicelib.storage.hours_table import OPEN_INDEX, change_of
from chalicelib.storage.transactions import written

BASE = "~"  # sorts after every minute, so a reader meets the base last
TOMBSTONE_SECONDS = 48 * 3600  # twice the stream's retention: no batch that old can still be retried
MAX_MADE_UP_TYPES = 1000  # of a project, without a contract: each costs a write once, and a place in every answer
LIVE_SHARE = 0.5  # of these places are for types as they are met, so that nobody's flood takes them all; …
CLOSING_SHARE = 0.1  # … of those that are left, each closed hour gives so many to its most frequent types
REREAD_SECONDS = 60  # of the index, when a type is not in it that another container may have put there
MAX_MERGE = 97  # a transaction takes 100 items and 4 MB: the deltas, the merged item and the hour's own
MAX_KEYS = 100  # of one BatchGetItem
NAMED_SECONDS = 600  # a base names what it took in for as long; no reader takes that long, nor does a push


@dataclass(frozen=True, slots=True)
class KnownTypes:
    """The event types of a project, each with the first hour in which it has its name; `read_at` is Unix seconds."""

    read_at: float
    since: dict[str, str]

    def has(self, event_type: str, hour: str) -> bool:
        """Whether the type has its own name in the hour; of no hour, in any."""
        since = self.since.get(event_type)
        return since is not None and (not hour or since <= hour)

    def names(self, event_types: Iterable[str], hour: str) -> dict[str, str]:
        """Return under which name each type is counted in the hour: its own, or OTHER."""
        return {name: name if self.has(name, hour) else OTHER for name in event_types}


@dataclass(slots=True)
class _Places:
    """How many types without a contract may get a name yet: of live ones, and of all that are met now."""

    live: int
    left_over: int
    contracted: Container[str]

    @classmethod
    def left(cls, since: Mapping[str, str], contracted: Container[str], *, closing: bool) -> "_Places":
        """Return what is left by the types that have a name."""
        made_up = sum(name not in contracted for name in tuple(since))  # to which another thread may add
        live = int(LIVE_SHARE * MAX_MADE_UP_TYPES) - made_up
        of_closing = ceil(CLOSING_SHARE * (MAX_MADE_UP_TYPES - made_up)) if closing else 0
        return cls(live, max(live, of_closing), contracted)

    def are_for(self, event_type: str) -> bool:
        """Whether the new type has a place."""
        return event_type in self.contracted or self.left_over > 0

    def take(self, event_type: str, hour: str) -> str:
        """Take the new type's place; return the first hour in which it has its name, or nothing for all hours."""
        if event_type in self.contracted:
            return ""
        # While there are places for live types, no hour has counted any type as OTHER: an earlier one, which is
        # closed later, is to name this type too.
        since = hour if self.live <= 0 else ""
        self.live -= 1
        self.left_over -= 1
        return since


@dataclass(frozen=True, slots=True)
class RollupsTable:
    """Each write is idempotent by its key; `known_types` spares repeated index calls within one container."""

    client: Any
    name: str
    clock: Callable[[], float] = time.time
    known_types: dict[str, "KnownTypes"] = field(default_factory=dict)

    def put_delta(self, delta: Delta) -> int | None:
        """Write the delta in place of an earlier attempt's, or return up to which record it is there already.

        That is the tidemark of a tombstone, or the last record of a later attempt, which this one must not undo.
        """
        key = _delta_key(delta.project, delta.hour, delta.id)
        item = {
            **key,
            "open": {"S": delta.project},
            "hour": {"S": delta.hour},
            "attempt": {"N": str(delta.attempt)},
            "last": {"S": _sequence(delta.last)},
            "signature": {"S": str(delta.signature)},
            "written_at": {"N": str(delta.written_at)},
            "body": {"B": delta.body},
        }
        try:
            self.client.put_item(
                TableName=self.name,
                Item=item,
                ConditionExpression=_EARLIER,
                ExpressionAttributeValues={":attempt": item["attempt"]},
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            there = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True)["Item"]
            return int(there["tidemark" if "tidemark" in there else "last"]["S"])
        return None

    def note_types(
        self,
        project: str,
        event_types: Iterable[str],
        contracted: Container[str],
        *,
        hour: str = "",
        closing: bool = False,
    ) -> dict[str, str]:
        """Put new types that have a place into the index; return under which name each type is counted in the hour.

        That is its own, or OTHER where it has no place. `event_types` come the most frequent first; those of contracts
        always have a place. Of the others, live ones get places until half are taken, and a `closing` hour's types
        some of the rest: so a type that comes after thousands of others is OTHER until an hour in which it is frequent
        is closed, and has its name from then on.
        """
        asked = list(event_types)
        known = self.known(project)
        new = [name for name in asked if name not in known.since]
        if new and known.read_at + REREAD_SECONDS <= self.clock():
            known = self.known(project, again=True)
        places = _Places.left(known.since, contracted, closing=closing)
        for event_type in new:
            if event_type not in known.since and places.are_for(event_type):
                since = places.take(event_type, hour)
                if self._put_type(project, event_type, since):
                    known.since[event_type] = since
                else:
                    known = self.known(project, again=True)  # somebody else has named it in between
        return known.names(asked, hour)

    def _put_type(self, project: str, event_type: str, since: str) -> bool:
        """Put the type into the index; False where it is there."""
        item = {"pk": {"S": f"{project}#types"}, "sk": {"S": event_type}}
        try:
            self.client.put_item(
                TableName=self.name,
                Item=item | ({"since": {"S": since}} if since else {}),
                ConditionExpression="attribute_not_exists(pk)",
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def known(self, project: str, *, again: bool = False) -> "KnownTypes":
        """Return the types that have a name, as this container knows them, or as they are now."""
        known = self.known_types.get(project)
        if known is None or again:
            items = self._query("pk = :pk", {":pk": {"S": f"{project}#types"}})
            since = {item["sk"]["S"]: item["since"]["S"] if "since" in item else "" for item in items}
            known = self.known_types[project] = KnownTypes(self.clock(), since)
        return known

    def event_types(self, project: str) -> list[str]:
        """Every event type the project ever sent."""
        return [item["sk"]["S"] for item in self._query("pk = :pk", {":pk": {"S": f"{project}#types"}})]

    def read_deltas(
        self, project: str, first: str, last: str, exact: Collection[str] = (), excerpt: Excerpt | None = None
    ) -> dict[str, list[Delta]]:
        """The open deltas of the hours from `first` to `last`, both included; with `excerpt`, no more of them.

        As of some moments ago; the hours of `exact` up to the last delta, at the price of their tombstones.
        """
        deltas: dict[str, list[Delta]] = defaultdict(list)
        wanted = (d for d in self.open_deltas(project, excerpt) if first <= d.hour <= last and d.hour not in exact)
        for delta in latest(wanted):
            deltas[delta.hour].append(delta)
        for hour in exact:
            deltas[hour] = self.deltas_of(project, hour, excerpt)
        return deltas

    def views(
        self,
        project: str,
        first: str,
        last: str,
        deltas: Mapping[str, Sequence[Delta]],
        excerpt: Excerpt | None = None,
    ) -> dict[str, HourView]:
        """The hours that have live items; `deltas` were read before, and closed items in between, where there are any.

        In this order, because what moves on meanwhile is named, or covered, by what took it in.
        """
        merged: dict[str, list[Merged]] = defaultdict(list)
        for item in self.read_merged(project, first, last, excerpt):
            merged[item.hour].append(item)
        hours = sorted({*deltas, *merged})
        return {hour: HourView.of(hour, deltas.get(hour, ()), merged.get(hour, ())) for hour in hours}

    def read_live(self, project: str, first: str, last: str, excerpt: Excerpt | None = None) -> dict[str, HourView]:
        """The hours that have live items, for readers that take nothing from closed ones."""
        return self.views(project, first, last, self.read_deltas(project, first, last, excerpt=excerpt), excerpt)

    def read_hour(self, project: str, hour: str) -> HourView:
        """One hour up to the last delta."""
        return self.views(project, hour, hour, {hour: self.deltas_of(project, hour)})[hour]

    def deltas_of(self, project: str, hour: str, excerpt: Excerpt | None = None) -> list[Delta]:
        """The hour's open deltas, up to the last one."""
        items = self._query("pk = :pk", {":pk": {"S": f"{project}#live#{hour}"}})
        return [delta_of(item, excerpt) for item in items if "tidemark" not in item]

    def open_deltas(self, project: str, excerpt: Excerpt | None = None) -> Iterator[Delta]:
        """The deltas of a project that no merged item holds, or is about to, by when they were written.

        A merged item names what it took in for a while only, and the index may lag for longer: so what it shows as old
        is looked up in the table.
        """
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            IndexName=OPEN_INDEX,
            KeyConditionExpression="#open = :project",
            ExpressionAttributeNames={"#open": "open"},
            ExpressionAttributeValues={":project": {"S": project}},
        )
        named_since = int(self.clock()) - NAMED_SECONDS // 2
        for page in pages:
            deltas = [delta_of(item, excerpt) for item in page["Items"]]
            old = self._still_open([delta for delta in deltas if delta.written_at < named_since])
            yield from (delta for delta in deltas if delta.written_at >= named_since or delta.frame_id in old)

    def _still_open(self, deltas: Sequence[Delta]) -> set[str]:
        """The names, as dashboards have them, of those in whose place no tombstone stands."""
        names = {_place(_delta_key(delta.project, delta.hour, delta.id)): delta.frame_id for delta in deltas}
        keys = [{"pk": {"S": pk}, "sk": {"S": sk}} for pk, sk in names]
        found: set[str] = set()
        while keys:
            asked = {"Keys": keys[:MAX_KEYS], "ConsistentRead": True, "ProjectionExpression": "pk, sk, attempt"}
            answer = self.client.batch_get_item(RequestItems={self.name: asked})
            found |= {names[_place(item)] for item in answer["Responses"][self.name] if "attempt" in item}
            keys = [*answer["UnprocessedKeys"].get(self.name, {}).get("Keys", []), *keys[MAX_KEYS:]]
        return found

    def old_deltas(self, written_before: int) -> Iterator[Delta]:
        """The open deltas of all projects that were written before the Unix second."""
        pages = self.client.get_paginator("scan").paginate(
            TableName=self.name,
            IndexName=OPEN_INDEX,
            FilterExpression="attribute_exists(body) AND written_at < :before",
            ExpressionAttributeValues={":before": {"N": str(written_before)}},
        )
        for page in pages:
            yield from map(delta_of, page["Items"])

    def absorb(self, deltas: Sequence[Delta], merged: Merged) -> bool:
        """Put the merged item and the tombstones in one transaction, with one more change of the hour.

        False when a delta has changed since it was read, or the epoch before the item's is not the last frozen one:
        nothing is written, and the next run tries again.
        """
        first = deltas[0]
        now = self.clock()
        expires_at = int(now) + TOMBSTONE_SECONDS
        return written(
            self.client,
            self.name,
            {"Put": {"Item": _merged_item(first.project, merged), **_NEW}},
            *({"Put": _tombstone_put(delta, expires_at)} for delta in deltas),
            {"Update": change_of(first.project, merged.hour, now, frozen=merged.epoch - 1)},
        )

    def fold(self, project: str, items: Sequence[Merged], base: Merged) -> bool:
        """Put the base, whose version is one more than that which was read, and delete what it has folded in."""
        condition: dict[str, Any] = _NEW
        if base.version > 1:
            condition = {
                "ConditionExpression": "version = :before",
                "ExpressionAttributeValues": {":before": {"N": str(base.version - 1)}},
            }
        gone = ({"Delete": {"Key": _merged_key(project, item), **_THERE}} for item in items)
        return written(self.client, self.name, {"Put": {"Item": _merged_item(project, base), **condition}}, *gone)

    def read_merged(self, project: str, first: str, last: str, excerpt: Excerpt | None = None) -> Iterator[Merged]:
        """The merged items of the hours from `first` to `last`, by hour, epoch and slot, each slot's base last.

        Of what is folded while this reads, both an item and the base may come: see HourView.of.
        """
        values = {":pk": {"S": f"{project}#merged"}, ":first": {"S": first}, ":last": {"S": f"{last}#{BASE}"}}
        return (_merged(item, excerpt) for item in self._query("pk = :pk AND sk BETWEEN :first AND :last", values))

    def delete_merged(self, project: str, item: Merged) -> None:
        """Delete a merged item that closed ones cover."""
        self.client.delete_item(TableName=self.name, Key=_merged_key(project, item))

    def _query(self, condition: str, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            ConsistentRead=True,
        )
        for page in pages:
            yield from page["Items"]


_NEW = {"ConditionExpression": "attribute_not_exists(pk)"}
_EARLIER = "attribute_not_exists(tidemark) AND (attribute_not_exists(pk) OR attempt <= :attempt)"
_THERE = {"ConditionExpression": "attribute_exists(pk)"}


def _delta_key(project: str, hour: str, delta_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#live#{hour}"}, "sk": {"S": f"d#{delta_id}"}}


def _place(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def _merged_key(project: str, merged: Merged) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#merged"}, "sk": {"S": merged.name}}


def merged_name(hour: str, epoch: int, slot: int, minute: str, delta_id: str) -> str:
    """The name of a merged item: its sort key."""
    return f"{hour}#{epoch:06d}#{slot:06d}#{minute}#{delta_id}"


def base_name(hour: str, epoch: int, slot: int) -> str:
    """The name of a slot's base."""
    return f"{hour}#{epoch:06d}#{slot:06d}#{BASE}"


def _merged_item(project: str, merged: Merged) -> dict[str, Any]:
    item = {
        **_merged_key(project, merged),
        "minute": {"S": merged.minute},
        "merged_at": {"N": str(merged.merged_at)},
        "version": {"N": str(merged.version)},
        "signature": {"S": str(merged.signature)},
        "body": {"B": encode(merged.rollups)},
    }
    if merged.absorbed:
        item["absorbed"] = {"M": {str(at): {"SS": names} for at, names in _by_time(merged.absorbed).items()}}
    if merged.folded:
        item["folded"] = {"M": {name: {"N": str(at)} for name, at in merged.folded.items()}}
    return item


def _merged(item: Mapping[str, Any], excerpt: Excerpt | None = None) -> Merged:
    name = item["sk"]["S"]
    hour, epoch, slot, _ = name.split("#", 3)
    absorbed = item["absorbed"]["M"] if "absorbed" in item else {}
    return Merged(
        name=name,
        hour=hour,
        epoch=int(epoch),
        slot=int(slot),
        minute=item["minute"]["S"],
        merged_at=int(item["merged_at"]["N"]),
        signature=Signature.from_text(item["signature"]["S"]),
        rollups=decode(item["body"]["B"], excerpt),
        absorbed={name: int(at) for at, names in absorbed.items() for name in names["SS"]},
        folded={key: int(at["N"]) for key, at in item["folded"]["M"].items()} if "folded" in item else {},
        version=int(item["version"]["N"]),
    )


def _by_time(absorbed: Mapping[str, int]) -> dict[int, list[str]]:
    names: dict[int, list[str]] = defaultdict(list)
    for name in sorted(absorbed):
        names[absorbed[name]].append(name)
    return names


def _tombstone_put(delta: Delta, expires_at: int) -> dict[str, Any]:
    """In the delta's place, on condition that it is still the one that was read."""
    return {
        "Item": {
            **_delta_key(delta.project, delta.hour, delta.id),
            "tidemark": {"S": _sequence(delta.last)},
            "expires_at": {"N": str(expires_at)},
        },
        "ConditionExpression": "attempt = :attempt AND #last = :last",
        "ExpressionAttributeNames": {"#last": "last"},
        "ExpressionAttributeValues": {
            ":attempt": {"N": str(delta.attempt)},
            ":last": {"S": _sequence(delta.last)},
        },
    }


def _sequence(number: int) -> str:
    return f"{number:040d}"  # up to 40 digits, and a DynamoDB number keeps 38


def closing_of(item: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Project, hour and mark of the item of a closed hour; each closing gives another mark."""
    project, _, kind = item["pk"]["S"].rpartition("#")
    return (project, item["sk"]["S"], item["epoch"]["N"]) if kind == "hours" and "epoch" in item else None


def delta_of(item: Mapping[str, Any], excerpt: Excerpt | None = None) -> Delta:
    """The delta that an item of the table holds."""
    slot, _, first = item["sk"]["S"].removeprefix("d#").partition("#")
    return Delta(
        project=item["open"]["S"],
        hour=item["hour"]["S"],
        slot=int(slot),
        first=first,
        attempt=int(item["attempt"]["N"]),
        last=int(item["last"]["S"]),
        signature=Signature.from_text(item["signature"]["S"]),
        written_at=int(item["written_at"]["N"]),
        body=item["body"]["B"],
        excerpt=excerpt,
    )
