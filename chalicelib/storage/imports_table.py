"""The control table's imports: `imports#<project>` / `<import id>`, of which the last began last.

state     domain/imports.STATES
rows      in the file, once they are counted
parts     {number: [rows, accepted, rejected]} as `transform` has judged them
ranges    {number: [new, known]} as `store` has put them into the lake; `planned`: how many there are
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
from botocore.exceptions import ClientError

from chalicelib.domain.imports import STATES, Import
from chalicelib.domain.time_windows import iso_ms, parse_ms

KEPT_SECONDS = 400 * 86_400
FIRST = "~"  # sorts after every id


@dataclass(frozen=True, slots=True)
class ImportsTable:
    """Every call is one request and right when repeated."""

    client: Any
    name: str

    def begin(self, one: Import) -> None:
        """Show the import, unless it is shown already."""
        item = {
            **_key(one.project, one.id),
            "state": {"S": "validating"},
            "file": {"S": one.file},
            "started_ms": {"N": str(one.started_ms)},
            "parts": {"M": {}},
            "ranges": {"M": {}},
            "expires_at": {"N": str(one.started_ms // 1000 + KEPT_SECONDS)},
        }
        try:
            self.client.put_item(TableName=self.name, Item=item, ConditionExpression="attribute_not_exists(pk)")
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise

    def advance(self, one: Import, state: str, **numbers: int) -> None:
        """The import has come to a state, with what is known of it by now; of one that is further a late call changes
        nothing.
        """
        names = {f"#{name}": name for name in numbers}
        sets = ["#state = :state", *(f"#{name} = :{name}" for name in numbers)]
        before = {f":state{n}": {"S": each} for n, each in enumerate(STATES[: STATES.index(state) + 1])}
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self._update(
                one,
                f"SET {', '.join(sets)}",
                {":state": {"S": state}, **{f":{name}": {"N": str(n)} for name, n in numbers.items()}, **before},
                {"#state": "state", **names},
                ConditionExpression=f"#state IN ({', '.join(before)})",
            )

    def count(self, one: Import, kind: str, number: int, *counts: int) -> None:
        """What a part or a range came to; `kind` is parts or ranges."""
        self._update(
            one,
            "SET #kind.#number = :counts",
            {":counts": {"L": [{"N": str(count)} for count in counts]}},
            {"#kind": kind, "#number": str(number)},
        )

    def end(self, one: Import, state: str, ended_ms: int, outcome: Mapping[str, Any]) -> bool:
        """The import is over; False when it is done already, which nothing changes."""
        try:
            self.client.update_item(
                TableName=self.name,
                Key=_key(one.project, one.id),
                UpdateExpression="SET #state = :state, ended_ms = if_not_exists(ended_ms, :now), report = :report",
                ConditionExpression="attribute_exists(pk) AND #state <> :done",
                ExpressionAttributeNames={"#state": "state"},
                ExpressionAttributeValues={
                    ":state": {"S": state},
                    ":done": {"S": "done"},
                    ":now": {"N": str(ended_ms)},
                    ":report": {"B": orjson.dumps(outcome)},
                },
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def get(self, project: str, import_id: str) -> dict[str, Any] | None:
        """One import as it is shown."""
        key = _key(project, import_id)
        item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item")
        return _shown(item) if item else None

    def latest(self, project: str, before: str | None) -> Iterator[dict[str, Any]]:
        """Those with ids before the one that is named, the latest first."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND sk < :before",
            ExpressionAttributeValues={":pk": {"S": f"imports#{project}"}, ":before": {"S": before or FIRST}},
            ScanIndexForward=False,
            ConsistentRead=True,
        )
        for page in pages:
            yield from map(_shown, page["Items"])

    def going_on(self, project: str, ended_after_ms: int) -> list[int]:
        """When the imports began that are not over, or were not then, in Unix milliseconds."""
        return [
            parse_ms(one["started_at"])
            for one in self.latest(project, None)
            if one["ended_at"] is None or parse_ms(one["ended_at"]) > ended_after_ms
        ]

    def page(self, project: str, limit: int, before: str | None) -> dict[str, Any]:
        """A page of the project's imports, the latest first; `next` is the `before` of the page after it."""
        found = list(islice(self.latest(project, before), limit + 1))
        return {"imports": found[:limit], "next": found[limit - 1]["id"] if len(found) > limit else None}

    def _update(
        self, one: Import, expression: str, values: dict[str, Any], names: dict[str, str], **condition: str
    ) -> None:
        self.client.update_item(
            TableName=self.name,
            Key=_key(one.project, one.id),
            UpdateExpression=expression,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            **condition,
        )


def _key(project: str, import_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"imports#{project}"}, "sk": {"S": import_id}}


def _shown(item: Mapping[str, Any]) -> dict[str, Any]:
    def total(kind: str, place: int) -> int:
        return sum(int(counts["L"][place]["N"]) for counts in item[kind]["M"].values())

    def number(name: str) -> int | None:
        return int(item[name]["N"]) if name in item else None

    outcome = orjson.loads(item["report"]["B"]) if "report" in item else {}
    ended_ms = number("ended_ms")
    return {
        "id": item["sk"]["S"],
        "file": item["file"]["S"],
        "state": item["state"]["S"],
        "rows": number("rows"),
        "accepted": total("parts", 1),
        "rejected": total("parts", 2),
        "stored": total("ranges", 0),
        "duplicates": total("ranges", 1),
        "progress": _progress(item),
        "reasons": outcome.get("reasons", {}),
        "error": outcome.get("error"),
        "started_at": iso_ms(int(item["started_ms"]["N"])),
        "ended_at": None if ended_ms is None else iso_ms(ended_ms),
    }


def _progress(item: Mapping[str, Any]) -> float:
    """How much is done, from 0 to 1: rows are judged in the first third, stored in the rest."""
    if item["state"]["S"] == "done":
        return 1.0
    rows = int(item["rows"]["N"]) if "rows" in item else 0
    judged = sum(int(counts["L"][0]["N"]) for counts in item["parts"]["M"].values())
    planned = int(item["planned"]["N"]) if "planned" in item else 0
    share = judged / rows / 3 if rows else 0.0
    return round(share + (len(item["ranges"]["M"]) / planned * 2 / 3 if planned else 0.0), 3)
