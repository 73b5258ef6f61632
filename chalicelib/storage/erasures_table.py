"""Erasures in the control table: `erasures#<project>` / `<id>`, kept as receipts, and `erasures` / `<project>#<hash>`,
of the user, which there is once, until it is done.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.erasure import Erasure, State
from chalicelib.storage.transactions import written

OPEN = "erasures"
TURN_MS = 16 * 60_000  # longer than a run may take
LAST = "~"  # sorts after every id

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ErasuresTable:
    """Every call is right when repeated; times are Unix milliseconds."""

    client: Any
    name: str

    def request(self, erasure: Erasure) -> bool:
        """Keep a new one, and that it is open, together; False, and nothing is written, while the user has another."""
        item = {
            **_key(erasure),
            "state": {"S": erasure.state.value},
            "requested_ms": {"N": str(erasure.requested_ms)},
            "digest": {"S": erasure.digest},
            "user": {"S": str(erasure.user)},
            "ids": {"L": [{"S": each} for each in erasure.ids]},
            "removed": {"M": {}},
        }
        place = {**_open_key(erasure), "id": {"S": erasure.id}}
        return written(self.client, self.name, *({"Put": {"Item": each, **_NEW}} for each in (item, place)))

    def open(self) -> list[Erasure]:
        """Those of all projects that are not done, the oldest first."""
        found = (self._at(item) for item in self._query(OPEN))
        return sorted((one for one in found if one is not None), key=lambda one: (one.requested_ms, one.id))

    def open_of_project(self, project: str) -> list[Erasure]:
        """Those of the project that are not done."""
        return [one for one in self.open() if one.project == project]

    def open_of(self, project: str, digest: str) -> Erasure | None:
        """The one of the user of that hash that is not done, if there is any."""
        key = {"pk": {"S": OPEN}, "sk": {"S": f"{project}#{digest}"}}
        item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item")
        return self._at(item) if item else None

    def _at(self, place: Item) -> Erasure | None:
        return self.get(place["sk"]["S"].rpartition("#")[0], place["id"]["S"])

    def get(self, project: str, erasure_id: str) -> Erasure | None:
        """One of the project, or None."""
        key = {"pk": {"S": f"erasures#{project}"}, "sk": {"S": erasure_id}}
        item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item")
        return None if item is None else _erasure(item)

    def page(self, project: str, limit: int, before: str | None) -> dict[str, Any]:
        """A page of receipts, the latest first; `next` is the `before` of the page after it."""
        found = list(islice(map(_erasure, self._query(f"erasures#{project}", before=before or LAST)), limit + 1))
        shown = [one.shown() for one in found[:limit]]
        return {"erasures": shown, "next": found[limit - 1].id if len(found) > limit else None}

    def take(self, erasure: Erasure, now_ms: int) -> bool:
        """Take it for this run; False while another one has it."""
        return self._update(
            erasure,
            "SET leased_ms = :until",
            {":until": {"N": str(now_ms + TURN_MS)}, ":now": {"N": str(now_ms)}},
            "attribute_not_exists(leased_ms) OR leased_ms <= :now",
        )

    def release(self, erasure: Erasure) -> None:
        """Give it back."""
        self._update(erasure, "REMOVE leased_ms")

    def begin(self, erasure: Erasure, ids: Iterable[str], marked_ms: int, until_ms: int) -> None:
        """Whose events are removed is known so far, and their markers are there."""
        values = {
            ":ids": {"L": [{"S": each} for each in ids]},
            ":marked": {"N": str(marked_ms)},
            ":until": {"N": str(until_ms)},
        }
        sets = "SET #state = :state, ids = :ids, marked_ms = :marked, until_ms = :until"
        self._update(erasure, sets, {**values, ":state": {"S": State.REMOVING}})

    def removed(self, erasure: Erasure, place: str, count: int) -> None:
        """Some more was removed at a place; of a run that dies right before, the receipt says too little."""
        if count:
            names = {"#removed": "removed", "#place": place}
            sets = "SET #removed.#place = if_not_exists(#removed.#place, :none) + :count"
            self._update(erasure, sets, {":count": {"N": str(count)}, ":none": {"N": "0"}}, names=names)

    def files_done(self, erasure: Erasure) -> None:
        """All but the lake is done."""
        self._update(erasure, "SET files_done = :yes", {":yes": {"BOOL": True}})

    def found_on(self, erasure: Erasure, day: str) -> None:
        """The lake has something on the day, which is to be looked at again."""
        self._update(erasure, "ADD days :day", {":day": {"SS": [day]}})

    def swept_before(self, erasure: Erasure, day: str) -> None:
        """The days of the lake before this one were looked through."""
        self._update(erasure, "SET next_day = :day", {":day": {"S": day}})

    def swept(self, erasure: Erasure, now_ms: int) -> None:
        """All days were looked through, or found to need it once more."""
        values = {":now": {"N": str(now_ms)}, ":state": {"S": State.WAITING}}
        self._update(erasure, "SET swept_ms = :now, #state = :state", values)

    def finish(self, erasure: Erasure, now_ms: int) -> None:
        """It is done, and no longer open: from now on nothing here names the user."""
        update = {
            "Key": _key(erasure),
            "UpdateExpression": "SET #state = :done, done_ms = :now REMOVE #user, ids, days, leased_ms",
            "ConditionExpression": "attribute_exists(pk) AND #state <> :done",
            "ExpressionAttributeNames": {"#state": "state", "#user": "user"},
            "ExpressionAttributeValues": {":done": {"S": State.DONE}, ":now": {"N": str(now_ms)}},
        }
        # Together: what is done can't be taken any more, so a place that was left open would stay so for ever.
        written(self.client, self.name, {"Update": update}, {"Delete": {"Key": _open_key(erasure)}})

    def _update(
        self,
        erasure: Erasure,
        expression: str,
        values: Item | None = None,
        condition: str = "",
        names: dict[str, str] | None = None,
    ) -> bool:
        """False, and nothing is changed, where the condition does not hold, or it is done: for a run that is late."""
        there = "attribute_exists(pk) AND #state <> :done"
        condition = f"{there} AND ({condition})" if condition else there
        names, values = {**(names or {}), "#state": "state"}, {**(values or {}), ":done": {"S": State.DONE}}
        try:
            self.client.update_item(
                TableName=self.name,
                Key=_key(erasure),
                UpdateExpression=expression,
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
                ExpressionAttributeNames=names,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def _query(self, pk: str, before: str | None = None) -> Iterator[Item]:
        condition, values = "pk = :pk", {":pk": {"S": pk}}
        if before is not None:
            condition, values = f"{condition} AND sk < :sk", {**values, ":sk": {"S": before}}
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            ScanIndexForward=before is None,
            ConsistentRead=True,
        )
        for page in pages:
            yield from page["Items"]


_NEW = {"ConditionExpression": "attribute_not_exists(pk)"}


def _key(erasure: Erasure) -> Item:
    return {"pk": {"S": f"erasures#{erasure.project}"}, "sk": {"S": erasure.id}}


def _open_key(erasure: Erasure) -> Item:
    return {"pk": {"S": OPEN}, "sk": {"S": f"{erasure.project}#{erasure.digest}"}}


def _erasure(item: Item) -> Erasure:
    def number(name: str) -> int | None:
        return int(item[name]["N"]) if name in item else None

    return Erasure(
        id=item["sk"]["S"],
        project=item["pk"]["S"].removeprefix("erasures#"),
        state=State(item["state"]["S"]),
        requested_ms=int(item["requested_ms"]["N"]),
        digest=item["digest"]["S"],
        user=item["user"]["S"] if "user" in item else None,
        ids=tuple(each["S"] for each in item.get("ids", {"L": []})["L"]),
        marked_ms=number("marked_ms"),
        until_ms=number("until_ms"),
        files_done="files_done" in item,
        next_day=item["next_day"]["S"] if "next_day" in item else "",
        swept_ms=number("swept_ms"),
        days=frozenset(item["days"]["SS"]) if "days" in item else frozenset(),
        removed={place: int(count["N"]) for place, count in item["removed"]["M"].items()},
        done_ms=number("done_ms"),
    )
