"""Closed hours and days in the rollups table, by facet: domain/facets.

pk <project>#<event type>#<year>   sk <facet>#h#<hour>   one hour
                                   sk <facet>#d#<day>    one UTC day; of the facet `n`, its hours one by one
pk <project>#(ledger)#<year>       sk (ledger)#h#<hour>  the ledger of an hour
pk <project>#days                  sk <day>              of a day with an hour closed that its items do not have yet
pk <project>#reconciled            sk upto               the last hour that was compared with the lake

Each item says what it covers of which hours: domain/closing. A year of days is one query of a page or two.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.closing import NOTHING_COVERED, Cover
from chalicelib.domain.facets import COUNTS, Excerpt
from chalicelib.domain.ledger import Ledger
from chalicelib.domain.rollup_codec import decode, encode
from chalicelib.domain.rollups import Rollup, Rollups

HOUR, DAY = "h", "d"
WHOLE = ""  # under this name lies the only rollup of an item that is not kept hour by hour
LEDGER = "(ledger)"
MAX_TRIES = 5
MAX_KEYS = 100  # of one BatchGetItem

Name = tuple[str, str, str, str]  # of an item within a project: event type, facet, grain, hour or day


@dataclass(frozen=True, slots=True)
class Closed:
    """One closed item: `start` is the hour or day, `covers` what of the live items of each of its hours is in it."""

    start: str
    covers: Mapping[str, Cover]
    rollups: Rollups
    version: int = field(default=0, compare=False)  # grows with each write of the item


class Conflict(Exception):
    """Another writer was there in between."""


@dataclass(frozen=True, slots=True)
class ClosedTable:
    """Items are replaced as a whole; who changes one names the version that was read."""

    client: Any
    name: str  # of the rollups table

    def read(
        self,
        project: str,
        event_type: str,
        facet: str,
        grain: str,
        first: str,
        last: str,
        excerpt: Excerpt | None = None,
    ) -> Iterator[Closed]:
        """The items of the grain from `first` to `last`, both included, in order; with `excerpt`, no more of them."""
        for year in range(int(first[:4]), int(last[:4]) + 1):
            pages = self.client.get_paginator("query").paginate(
                TableName=self.name,
                KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
                ExpressionAttributeValues={
                    ":pk": {"S": f"{project}#{event_type}#{year}"},
                    ":first": {"S": f"{facet}#{grain}#{first}"},
                    ":last": {"S": f"{facet}#{grain}#{last}"},
                },
                ConsistentRead=True,
            )
            for page in pages:
                yield from (_closed(item, excerpt) for item in page["Items"])

    def get(self, project: str, event_type: str, facet: str, grain: str, start: str) -> Closed | None:
        """One item."""
        key = _key(project, event_type, facet, grain, start)
        item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item")
        return _closed(item) if item else None

    def get_many(self, project: str, names: Iterable[Name]) -> Iterator[tuple[Name, Closed]]:
        """The items there are of many names, in no order; far fewer calls than one by one."""
        wanted = {_place(_key(project, *name)): name for name in names}
        keys = [_key(project, *name) for name in wanted.values()]
        while keys:
            asked = {self.name: {"Keys": keys[:MAX_KEYS], "ConsistentRead": True}}
            answer = self.client.batch_get_item(RequestItems=asked)
            for item in answer["Responses"][self.name]:
                yield wanted[_place(item)], _closed(item)
            keys = [*answer["UnprocessedKeys"].get(self.name, {}).get("Keys", []), *keys[MAX_KEYS:]]

    def get_days(self, project: str, event_types: Iterable[str], days: Iterable[str]) -> Iterator[tuple[str, Closed]]:
        """(event type, its counts) of the days there are items of."""
        starts = list(days)
        names = [(event_type, COUNTS, DAY, day) for event_type in event_types for day in starts]
        return ((name[0], closed) for name, closed in self.get_many(project, names))

    def put(self, project: str, event_type: str, facet: str, grain: str, closed: Closed) -> None:
        """Write the item in place of the version before; raises Conflict when that is no longer the latest."""
        item = closed_item(project, event_type, facet, grain, closed)
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(pk)"}
        if closed.version:
            condition = {
                "ConditionExpression": "version = :before",
                "ExpressionAttributeValues": {":before": {"N": str(closed.version)}},
            }
        try:
            self.client.put_item(TableName=self.name, Item=item, **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                raise Conflict(f"{closed.start} of {event_type} was changed by another run") from error
            raise

    def change(
        self,
        project: str,
        event_type: str,
        facet: str,
        grain: str,
        start: str,
        change: Callable[[Closed | None], Closed | None],
    ) -> None:
        """Read, change, write; again when another run wrote in between. None leaves the item as it is."""
        for tries_left in reversed(range(MAX_TRIES)):
            changed = change(self.get(project, event_type, facet, grain, start))
            try:
                if changed:
                    self.put(project, event_type, facet, grain, changed)
                return
            except Conflict:
                if not tries_left:
                    raise

    def note_day(self, project: str, day: str, token: str) -> None:
        """Note, before an hour of the day is written, that the day's items will lack it; `token` is new each time."""
        self.client.put_item(TableName=self.name, Item={**day_key(project, day), "token": {"S": token}})

    def noted_days(self, project: str) -> dict[str, str]:
        """The days whose items lack hours, in order, with the last token of each."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"{project}#days"}},
            ConsistentRead=True,
        )
        return {item["sk"]["S"]: item["token"]["S"] for page in pages for item in page["Items"]}

    def forget_day(self, project: str, day: str, token: str) -> bool:
        """The day's items have every hour that was closed when the token was read; False where a newer note stays."""
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.delete_item(
                TableName=self.name,
                Key=day_key(project, day),
                ConditionExpression="#token = :token",
                ExpressionAttributeNames={"#token": "token"},
                ExpressionAttributeValues={":token": {"S": token}},
            )
            return True
        return False

    def reconciled_upto(self, project: str) -> str | None:
        """The last hour that was compared with the lake; None before the first."""
        answer = self.client.get_item(TableName=self.name, Key=_mark_key(project), ConsistentRead=True)
        return answer["Item"]["hour"]["S"] if "Item" in answer else None

    def mark_reconciled(self, project: str, hour: str) -> None:
        """The hour, and all before it, were compared; a run that is behind another one changes nothing."""
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.put_item(
                TableName=self.name,
                Item={**_mark_key(project), "hour": {"S": hour}},
                ConditionExpression="attribute_not_exists(pk) OR #hour < :hour",
                ExpressionAttributeNames={"#hour": "hour"},
                ExpressionAttributeValues={":hour": {"S": hour}},
            )

    def ledger(self, project: str, hour: str) -> tuple[Ledger, Cover]:
        """The ledger of a closed hour, and what it covers of it."""
        found = self.get(project, LEDGER, LEDGER, HOUR, hour)
        return (found.rollups.ledger, found.covers[hour]) if found else (Ledger(), NOTHING_COVERED)


def closed_item(project: str, event_type: str, facet: str, grain: str, closed: Closed) -> dict[str, Any]:
    """The item, as the version that follows the one that was read."""
    return {
        **_key(project, event_type, facet, grain, closed.start),
        "covers": {"M": {hour: {"S": str(cover)} for hour, cover in closed.covers.items()}},
        "version": {"N": str(closed.version + 1)},
        "body": {"B": encode(closed.rollups)},
    }


def one(start: str, cover: Cover, content: Rollup, version: int) -> Closed:
    """An hour's item."""
    return Closed(start, {start: cover}, Rollups({WHOLE: content}), version)


def _key(project: str, event_type: str, facet: str, grain: str, start: str) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#{event_type}#{start[:4]}"}, "sk": {"S": f"{facet}#{grain}#{start}"}}


def _place(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def day_key(project: str, day: str) -> dict[str, Any]:
    """The note of a day that lacks hours."""
    return {"pk": {"S": f"{project}#days"}, "sk": {"S": day}}


def _mark_key(project: str) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#reconciled"}, "sk": {"S": "upto"}}


def _closed(item: Mapping[str, Any], excerpt: Excerpt | None = None) -> Closed:
    return Closed(
        start=item["sk"]["S"].rpartition("#")[2],
        covers={hour: Cover.from_text(cover["S"]) for hour, cover in item["covers"]["M"].items()},
        rollups=decode(item["body"]["B"], excerpt),
        version=int(item["version"]["N"]),
    )
