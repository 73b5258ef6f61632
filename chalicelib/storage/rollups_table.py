"""The rollups table: deltas, merged items and tombstones under `project#live#hour`, and which hours and types exist.

sk d#<record>   a delta, or in its place the tombstone with the tidemark
sk m#<minute>#… the merged item of some deltas
pk project#hours, sk <hour>; pk project#types, sk <event type>: what there is data of
"""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.deltas import Delta, HourView, Merged, NewDelta
from chalicelib.domain.rollup_codec import decode, encode
from chalicelib.domain.rollups import OTHER

OPEN_INDEX = "open"  # sparse: holds the deltas that compaction has not absorbed
OPEN = "delta"
TOMBSTONE_SECONDS = 48 * 3600  # twice the stream's retention: no batch that old can still be retried
MAX_MADE_UP_TYPES = 1000  # of a project, without a contract: each costs a write once, and a place in every answer
MAX_MERGE = 50  # a transaction takes 100 items and 4 MB


@dataclass(frozen=True, slots=True)
class RollupsTable:
    """Each write is idempotent by its key; `known_…` spare repeated index calls within one container."""

    client: Any
    name: str
    clock: Callable[[], float] = time.time
    known_hours: set[tuple[str, str]] = field(default_factory=set)
    known_types: dict[str, set[str]] = field(default_factory=dict)

    def put_delta(self, delta: NewDelta) -> int | None:
        """Write the delta, or return the tidemark of the tombstone that stands in its place."""
        item = {
            **_delta_key(delta.project, delta.hour, delta.id),
            "open": {"S": OPEN},
            "project": {"S": delta.project},
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
            key = _delta_key(delta.project, delta.hour, delta.id)
            tombstone = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True)["Item"]
            return int(tombstone["tidemark"]["S"])
        return None

    def remember_hour(self, project: str, hour: str) -> None:
        """Note that the hour has data; done before the delta, so a reader never overlooks one."""
        if (project, hour) not in self.known_hours:
            self._note(f"{project}#hours", hour)
            self.known_hours.add((project, hour))

    def names(self, project: str, event_types: Iterable[str], contracted: Container[str]) -> dict[str, str]:
        """Under which name each type is counted: its own, or OTHER once a project has made up too many."""
        known = self.known_types.get(project)
        if known is None:
            known = self.known_types[project] = set(self.event_types(project))
        made_up = sum(name not in contracted for name in known)
        for event_type in event_types:
            if event_type not in known and (event_type in contracted or made_up < MAX_MADE_UP_TYPES):
                self._note(f"{project}#types", event_type)
                known.add(event_type)
                made_up += event_type not in contracted
        return {event_type: event_type if event_type in known else OTHER for event_type in event_types}

    def _note(self, pk: str, sk: str) -> None:
        self.client.put_item(TableName=self.name, Item={"pk": {"S": pk}, "sk": {"S": sk}})

    def hours(self, project: str, first: str, last: str) -> list[str]:
        """The hours with data from `first` to `last`, both included, in order."""
        values = {":pk": {"S": f"{project}#hours"}, ":first": {"S": first}, ":last": {"S": last}}
        return [item["sk"]["S"] for item in self._query("pk = :pk AND sk BETWEEN :first AND :last", values)]

    def event_types(self, project: str) -> list[str]:
        """Every event type the project ever sent."""
        return [item["sk"]["S"] for item in self._query("pk = :pk", {":pk": {"S": f"{project}#types"}})]

    def read_hour(self, project: str, hour: str) -> HourView:
        """The hour, exact while compaction runs: deltas first, merged items second."""
        pk = {"S": f"{project}#live#{hour}"}
        deltas = [
            delta_of(item)
            for item in self._query("pk = :pk AND begins_with(sk, :kind)", {":pk": pk, ":kind": {"S": "d#"}})
            if "tidemark" not in item
        ]
        merged = [
            _merged(i) for i in self._query("pk = :pk AND begins_with(sk, :kind)", {":pk": pk, ":kind": {"S": "m#"}})
        ]
        return HourView.of(hour, deltas, merged)

    def open_hours(self, written_before: int) -> list[tuple[str, str]]:
        """(project, hour) of every delta that was written before the epoch second and is not absorbed yet."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            IndexName=OPEN_INDEX,
            KeyConditionExpression="#open = :open AND written_at < :before",
            ExpressionAttributeNames={"#open": "open"},
            ExpressionAttributeValues={":open": {"S": OPEN}, ":before": {"N": str(written_before)}},
        )
        keys = {item["pk"]["S"] for page in pages for item in page["Items"]}
        return sorted((project, hour) for project, _, hour in (key.rsplit("#", 2) for key in keys))

    def absorb(self, deltas: Sequence[Delta], merged: Merged) -> bool:
        """Put the merged item and the tombstones in one transaction.

        False when a delta has changed since it was read: nothing is written, and the next run tries again.
        """
        first = deltas[0]
        expires_at = int(self.clock()) + TOMBSTONE_SECONDS
        merged_put = {
            "Item": {
                "pk": {"S": f"{first.project}#live#{first.hour}"},
                "sk": {"S": f"m#{merged.minute}#{first.id}"},
                "absorbed": {"SS": sorted(merged.absorbed)},
                "merged_at": {"N": str(merged.merged_at)},
                "body": {"B": encode(merged.rollups)},
            },
            "ConditionExpression": "attribute_not_exists(pk)",
        }
        puts = [merged_put, *(_tombstone_put(delta, expires_at) for delta in deltas)]
        try:
            self.client.transact_write_items(TransactItems=[{"Put": {"TableName": self.name, **put}} for put in puts])
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


def _delta_key(project: str, hour: str, delta_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#live#{hour}"}, "sk": {"S": f"d#{delta_id}"}}


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


def _sequence(number: int) -> str:
    return f"{number:040d}"  # up to 40 digits, and a DynamoDB number keeps 38


def delta_of(item: Mapping[str, Any]) -> Delta:
    """The delta that an item of the table holds."""
    return Delta(
        project=item["project"]["S"],
        hour=item["hour"]["S"],
        id=item["sk"]["S"].removeprefix("d#"),
        last=int(item["last"]["S"]),
        written_at=int(item["written_at"]["N"]),
        rollups=decode(item["body"]["B"]),
    )


def _merged(item: dict[str, Any]) -> Merged:
    return Merged(
        minute=item["sk"]["S"].split("#")[1],
        absorbed=frozenset(item["absorbed"]["SS"]),
        merged_at=int(item["merged_at"]["N"]),
        rollups=decode(item["body"]["B"]),
    )
