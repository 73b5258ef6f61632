"""The rollups table: what is live of each hour, and which event types exist.

pk project#live#hour  sk d#<record>                         a delta, or in its place the tombstone with the tidemark
pk project#merged     sk <hour>#<epoch>#<minute>#<record>   the merged item of some deltas
                      sk <hour>#<epoch>#~                   the base: older merged items of the hour, folded together
pk project#hours      sk <hour>                             how far the hour is closed: domain/closing
pk project#types      sk <event type>                       named in every hour, or in those from `since` on

The index `open` holds the deltas that compaction has not absorbed, by project. It lags behind the table by some
milliseconds, so who needs the very last delta reads the table (`read_hour`).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.closing import HourState
from chalicelib.domain.deltas import Delta, HourView, Merged
from chalicelib.domain.facets import Part
from chalicelib.domain.rollup_codec import decode, encode
from chalicelib.domain.rollups import OTHER

OPEN_INDEX = "open"
BASE = "~"  # sorts after every minute, so a reader meets the base last
TOMBSTONE_SECONDS = 48 * 3600  # twice the stream's retention: no batch that old can still be retried
MAX_MADE_UP_TYPES = 1000  # of a project, without a contract: each costs a write once, and a place in every answer
LIVE_SHARE = 0.5  # of these places are for types as they are met, so that nobody's flood takes them all; …
CLOSING_SHARE = 0.1  # … of those that are left, each closed hour gives so many to its most frequent types
REREAD_SECONDS = 60  # of the index, when a type is not in it that another container may have put there
MAX_MERGE = 97  # a transaction takes 100 items and 4 MB: the deltas, the merged item and the hour's state


@dataclass(frozen=True, slots=True)
class KnownTypes:
    """The event types of a project, each with the first hour in which it has its name; `read_at` is epoch seconds."""

    read_at: float
    since: dict[str, str]

    def names(self, event_type: str, hour: str) -> bool:
        """Whether the type has its own name in the hour; of no hour, in any."""
        since = self.since.get(event_type)
        return since is not None and (not hour or since <= hour)


@dataclass(frozen=True, slots=True)
class RollupsTable:
    """Each write is idempotent by its key; `known_types` spares repeated index calls within one container."""

    client: Any
    name: str
    clock: Callable[[], float] = time.time
    known_types: dict[str, "KnownTypes"] = field(default_factory=dict)

    def put_delta(self, delta: Delta) -> int | None:
        """Write the delta, or return the tidemark of the tombstone that stands in its place."""
        key = _delta_key(delta.project, delta.hour, delta.id)
        item = {
            **key,
            "open": {"S": delta.project},
            "hour": {"S": delta.hour},
            "last": {"S": _sequence(delta.last)},
            "written_at": {"N": str(delta.written_at)},
            "body": {"B": delta.body},
        }
        try:
            self.client.put_item(TableName=self.name, Item=item, ConditionExpression="attribute_not_exists(tidemark)")
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            tombstone = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True)["Item"]
            return int(tombstone["tidemark"]["S"])
        return None

    def names(
        self,
        project: str,
        event_types: Iterable[str],
        contracted: Container[str],
        *,
        hour: str = "",
        closing: bool = False,
        note: bool = True,
    ) -> dict[str, str]:
        """Return under which name each type is counted in the hour: its own, or OTHER where it has no place.

        `event_types` come the most frequent first; those of contracts always have a place. Of the others, live ones
        get places until half are taken, and a `closing` hour's types some of the rest: so a type that comes after
        thousands of others is OTHER until an hour in which it is frequent is closed, and has its name from then on.
        New ones are put into the index, unless `note` says that nothing is to be written.
        """
        asked = list(event_types)
        known = self.known(project)
        strange = [name for name in asked if name not in known.since]
        if strange and known.read_at + REREAD_SECONDS <= self.clock():
            known = self.known(project, again=True)
        if not note:
            known = KnownTypes(known.read_at, dict(known.since))
        made_up = sum(name not in contracted for name in known.since)
        places = int(LIVE_SHARE * MAX_MADE_UP_TYPES) - made_up
        if closing:
            places = max(places, ceil(CLOSING_SHARE * (MAX_MADE_UP_TYPES - made_up)))
        for event_type in strange:
            if event_type in known.since or (event_type not in contracted and places <= 0):
                continue
            since = hour if closing and event_type not in contracted else ""
            if note and not self._name(project, event_type, since):
                known = self.known(project, again=True)  # somebody else has named it in between
            else:
                known.since[event_type] = since
            places -= event_type not in contracted
        return {name: name if known.names(name, hour) else OTHER for name in asked}

    def _name(self, project: str, event_type: str, since: str) -> bool:
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

    def read_live(
        self, project: str, first: str, last: str, exact: Collection[str] = (), part: Part | None = None
    ) -> dict[str, HourView]:
        """The hours from `first` to `last`, both included, that have live items; with `part`, no more of them.

        As of some milliseconds ago; the hours of `exact` up to the last delta, at the price of their tombstones.
        """
        deltas: dict[str, list[Delta]] = defaultdict(list)
        for delta in self.open_deltas(project, part):
            if first <= delta.hour <= last and delta.hour not in exact:
                deltas[delta.hour].append(delta)
        for hour in exact:
            items = self._query("pk = :pk", {":pk": {"S": f"{project}#live#{hour}"}})
            deltas[hour] = [delta_of(item) for item in items if "tidemark" not in item]
        merged: dict[str, list[Merged]] = defaultdict(list)
        for item in self.read_merged(project, first, last, part):
            merged[item.hour].append(item)
        hours = sorted({*deltas, *merged})
        return {hour: HourView.of(hour, deltas.get(hour, ()), merged.get(hour, ())) for hour in hours}

    def read_hour(self, project: str, hour: str) -> HourView:
        """One hour up to the last delta."""
        return self.read_live(project, hour, hour, exact=[hour])[hour]

    def open_deltas(self, project: str, part: Part | None = None) -> Iterator[Delta]:
        """The deltas of a project that no merged item holds, or is about to, by when they were written."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            IndexName=OPEN_INDEX,
            KeyConditionExpression="#open = :project",
            ExpressionAttributeNames={"#open": "open"},
            ExpressionAttributeValues={":project": {"S": project}},
        )
        for page in pages:
            yield from (replace(delta_of(item), part=part) if part else delta_of(item) for item in page["Items"])

    def settled_deltas(self, written_before: int) -> Iterator[Delta]:
        """The open deltas of all projects that were written before the epoch second."""
        pages = self.client.get_paginator("scan").paginate(
            TableName=self.name,
            IndexName=OPEN_INDEX,
            FilterExpression="written_at < :before",
            ExpressionAttributeValues={":before": {"N": str(written_before)}},
        )
        for page in pages:
            yield from map(delta_of, page["Items"])

    def absorb(self, deltas: Sequence[Delta], merged: Merged, state: HourState) -> bool:
        """Put the merged item and the tombstones in one transaction, and mark the hour as touched.

        False when a delta, or how far the hour is closed, has changed since it was read: nothing is written, and the
        next run tries again.
        """
        first = deltas[0]
        expires_at = int(self.clock()) + TOMBSTONE_SECONDS
        return self._transact(
            [
                {"Put": {"Item": _merged_item(first.project, merged), **_NEW}},
                *({"Put": _tombstone_put(delta, expires_at)} for delta in deltas),
                {"Update": _touch(first.project, merged, state)},
            ]
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
        return self._transact([{"Put": {"Item": _merged_item(project, base), **condition}}, *gone])

    def read_merged(self, project: str, first: str, last: str, part: Part | None = None) -> Iterator[Merged]:
        """The merged items of the hours from `first` to `last`, by hour and epoch, each epoch's base last.

        Of what is folded while this reads, both an item and the base may come: see HourView.of.
        """
        values = {":pk": {"S": f"{project}#merged"}, ":first": {"S": first}, ":last": {"S": f"{last}#{BASE}"}}
        return (_merged(item, part) for item in self._query("pk = :pk AND sk BETWEEN :first AND :last", values))

    def state(self, project: str, hour: str) -> HourState:
        """How far the hour is closed."""
        key = state_key(project, hour)
        item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item", {})
        return HourState(
            project,
            hour,
            frozen=int(item["frozen"]["N"]) if "frozen" in item else -1,
            touched=item["touched"]["S"] if "touched" in item else "",
            closed=int(item["closed"]["N"]) if "closed" in item else -1,
            closed_at=int(item["closed_at"]["N"]) if "closed_at" in item else 0,
        )

    def freeze(self, state: HourState, epoch: int | None = None) -> bool:
        """Let the state's epoch, or all up to a later one, take nothing more.

        False when something was merged since the state was read.
        """
        conditions = ["attribute_not_exists(frozen)" if state.frozen < 0 else "frozen = :frozen"]
        conditions.append("touched = :touched" if state.touched else "attribute_not_exists(touched)")
        values = {":epoch": {"N": str(state.epoch if epoch is None else epoch)}}
        values |= {":frozen": {"N": str(state.frozen)}} if state.frozen >= 0 else {}
        values |= {":touched": {"S": state.touched}} if state.touched else {}
        try:
            self.client.update_item(
                TableName=self.name,
                Key=state_key(state.project, state.hour),
                UpdateExpression="SET frozen = :epoch",
                ConditionExpression=" AND ".join(conditions),
                ExpressionAttributeValues=values,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def mark_closed(self, project: str, hour: str, epoch: int, now: int) -> None:
        """Note that the closed items cover the hour up to this epoch, at least, so that its live items may go."""
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.update_item(
                TableName=self.name,
                Key=state_key(project, hour),
                UpdateExpression="SET closed = :epoch, closed_at = :now",
                ConditionExpression="attribute_not_exists(closed) OR closed < :epoch",
                ExpressionAttributeValues={":epoch": {"N": str(epoch)}, ":now": {"N": str(now)}},
            )

    def delete_merged(self, project: str, item: Merged) -> None:
        """Delete a merged item that closed ones cover."""
        self.client.delete_item(TableName=self.name, Key=_merged_key(project, item))

    def _transact(self, actions: Sequence[Mapping[str, Any]]) -> bool:
        items = [{kind: {"TableName": self.name, **action}} for each in actions for kind, action in each.items()]
        try:
            self.client.transact_write_items(TransactItems=items)
        except self.client.exceptions.TransactionCanceledException:
            return False
        return True

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
_THERE = {"ConditionExpression": "attribute_exists(pk)"}


def _delta_key(project: str, hour: str, delta_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#live#{hour}"}, "sk": {"S": f"d#{delta_id}"}}


def state_key(project: str, hour: str) -> dict[str, Any]:
    """The item that says how far an hour is closed."""
    return {"pk": {"S": f"{project}#hours"}, "sk": {"S": hour}}


def _merged_key(project: str, merged: Merged) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#merged"}, "sk": {"S": merged.name}}


def merged_name(hour: str, epoch: int, minute: str, delta_id: str) -> str:
    """The name of a merged item: its sort key."""
    return f"{hour}#{epoch:06d}#{minute}#{delta_id}"


def base_name(hour: str, epoch: int) -> str:
    """The name of an hour's base."""
    return f"{hour}#{epoch:06d}#{BASE}"


def _merged_item(project: str, merged: Merged) -> dict[str, Any]:
    item = {
        **_merged_key(project, merged),
        "minute": {"S": merged.minute},
        "merged_at": {"N": str(merged.merged_at)},
        "version": {"N": str(merged.version)},
        "body": {"B": encode(merged.rollups)},
    }
    if merged.absorbed:
        item["absorbed"] = {"M": {str(at): {"SS": names} for at, names in _by_time(merged.absorbed).items()}}
    if merged.folded:
        item["folded"] = {"M": {name: {"N": str(at)} for name, at in merged.folded.items()}}
    return item


def _merged(item: Mapping[str, Any], part: Part | None = None) -> Merged:
    name = item["sk"]["S"]
    hour, epoch, _ = name.split("#", 2)
    absorbed = item["absorbed"]["M"] if "absorbed" in item else {}
    return Merged(
        name=name,
        hour=hour,
        epoch=int(epoch),
        minute=item["minute"]["S"],
        merged_at=int(item["merged_at"]["N"]),
        rollups=decode(item["body"]["B"], part),
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
        "ConditionExpression": "attribute_not_exists(tidemark) AND #last = :last",
        "ExpressionAttributeNames": {"#last": "last"},
        "ExpressionAttributeValues": {":last": {"S": _sequence(delta.last)}},
    }


def _touch(project: str, merged: Merged, state: HourState) -> dict[str, Any]:
    """The hour has got something in an epoch that is not frozen yet."""
    frozen = "attribute_not_exists(frozen)" if state.frozen < 0 else "frozen = :frozen"
    values = {":touched": {"S": merged.name}} | ({":frozen": {"N": str(state.frozen)}} if state.frozen >= 0 else {})
    return {
        "Key": state_key(project, state.hour),
        "UpdateExpression": "SET touched = :touched",
        "ConditionExpression": frozen,
        "ExpressionAttributeValues": values,
    }


def _sequence(number: int) -> str:
    return f"{number:040d}"  # up to 40 digits, and a DynamoDB number keeps 38


def delta_of(item: Mapping[str, Any]) -> Delta:
    """The delta that an item of the table holds."""
    return Delta(
        project=item["open"]["S"],
        hour=item["hour"]["S"],
        id=item["sk"]["S"].removeprefix("d#"),
        last=int(item["last"]["S"]),
        written_at=int(item["written_at"]["N"]),
        body=item["body"]["B"],
    )
