"""The item of an hour, in the rollups table: `<project>#hours` / `<hour>`. All fences of its life are conditions on it.

changes, done    how many tails were written and deltas merged; how many of them are closed: dirty while they differ
version          of the lake's files that hold what its manifest names, and consolidated_at: when it was committed
bare             whether the version has no manifest, as that of an import into an hour without anything
began_at         when a consolidation began last: whatever becomes of it, its files may lie beside those of the version
replaced         whether there were, or may be, files that are not the version's; they are deleted later
frozen           epochs up to this one take nothing more
epoch, upto      the last closing: which epochs, and which slots
settled          the hour's final slot: slots up to this one are never compared again
covered          {slot: signature} of what is closed, of the slots after the final one
open, written_at in the index `open`, while anything is left to do or to delete: spread over some partitions, by when
                 the oldest thing came that is not closed (Unix seconds)

Hours of a year are some two megabytes, so a project's are read as they are, not by an index that lags.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from botocore.exceptions import ClientError

from chalicelib.domain.closing import Hour
from chalicelib.domain.signatures import Signature

OPEN_INDEX = "open"
OPEN_PARTITIONS = 8  # a partition of an index takes some 1,000 writes a second
MAX_TRIES = 6  # at an item that a transaction is about to change


@dataclass(frozen=True, slots=True)
class HoursTable:
    """Each call is one request; those that rest on something read before have it as their condition."""

    client: Any
    table: str  # of the rollups
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def get(self, project: str, hour: str) -> Hour:
        """The hour; as nothing was ever done of it, where there is no item."""
        answer = self.client.get_item(TableName=self.table, Key=hour_key(project, hour), ConsistentRead=True)
        return _hour(answer["Item"]) if "Item" in answer else Hour(project, hour)

    def between(self, project: str, first: str, last: str) -> list[Hour]:
        """The hours from `first` to `last`, both included, of which there is an item, in order."""
        return list(self._query(project, {":first": {"S": first}, ":last": {"S": last}}, "sk BETWEEN :first AND :last"))

    def unsettled(self, project: str) -> list[Hour]:
        """The project's hours of which a query cannot take just any file, in order."""
        return list(self._query(project, {}, None, FilterExpression="attribute_exists(#open)", **_OPEN_NAME))

    def waiting(self) -> list[Hour]:
        """The hours of all projects that something is left to do of, as of some moments ago; each once."""
        found: dict[tuple[str, str], Hour] = {}  # one that is noted anew meanwhile is on two pages
        for partition in range(OPEN_PARTITIONS):
            pages = self.client.get_paginator("query").paginate(
                TableName=self.table,
                IndexName=OPEN_INDEX,
                KeyConditionExpression="#open = :partition",
                ExpressionAttributeValues={":partition": {"S": f"#hours{partition}"}},
                **_OPEN_NAME,
            )
            found |= {(each.project, each.hour): each for page in pages for each in map(_hour, page["Items"])}
        return list(found.values())

    def note(self, project: str, hour: str) -> None:
        """Something came, or is to be done again. Called once it is there, and by a repeat again.

        Not before: a closing in between would not find it, and yet take the note for done.
        """
        self._update(change_of(project, hour, self.clock()))

    def begin(self, hour: Hour, now_ms: int) -> None:
        """A consolidation begins: others rather do something else, and readers take files of the hour by name only.

        Before its first file: one that dies leaves files in an hour that nobody has to come to otherwise.
        """
        sets = "SET began_at = :now, replaced = :true, #open = :open, written_at = if_not_exists(written_at, :since)"
        values = {
            ":now": _n(now_ms),
            ":true": {"BOOL": True},
            ":open": {"S": open_partition(hour.project, hour.hour)},
            ":since": _n(now_ms // 1000),
        }
        self._update({**_action(hour, sets, values), **_OPEN_NAME})

    def commit(self, before: Hour, version: str, now_ms: int) -> bool:
        """Make the version the hour's current one; False when it is no longer the one that was read."""
        sets = "SET version = :version, consolidated_at = :now REMOVE bare"
        values = {":version": {"S": version}, ":now": _n(now_ms)}
        return self._changed(_action(before, sets, values, *_same_version(before)))

    def freeze(self, before: Hour) -> bool:
        """Let the next epoch take nothing more; False when another version, freezing or closing came meanwhile."""
        values = {":epoch": _n(before.frozen + 1)}
        conditions = [_same_version(before), _same("frozen", before.frozen), _same("epoch", before.epoch)]
        condition = " AND ".join(each for each, _ in conditions)
        more = {name: value for _, each in conditions for name, value in each.items()}
        return self._changed(_action(before, "SET frozen = :epoch", values, condition, more))

    def skip_to(self, before: Hour, epoch: int) -> bool:
        """Freeze all epochs up to this one, of an hour whose item was lost; False when another run was there."""
        condition, values = _same("frozen", before.frozen)
        return self._changed(_action(before, "SET frozen = :epoch", {":epoch": _n(epoch)}, condition, values))

    def mark(self, before: Hour, closed: Hour, now_ms: int) -> bool:
        """Note what is closed now, so that what it covers may go; False when another closing began since `before`.

        `before` is as the hour was when the epoch was frozen: one more is frozen now. What came since stays to be done.
        """
        values = {
            ":epoch": _n(closed.epoch),
            ":upto": _n(closed.upto),
            ":covered": {"M": {str(slot): {"S": str(each)} for slot, each in closed.covered.items()}},
            ":settled": _n(closed.final_slot),
            ":now": _n(now_ms),
            ":done": _n(closed.done),
            ":since": _n(closed.since_ms // 1000),
        }
        sets = "SET epoch = :epoch, upto = :upto, covered = :covered, settled = :settled, done = :done"
        sets += ", closed_at = :now, written_at = :since"
        return self._changed(_action(before, sets, values, "frozen = :epoch"))

    def settle(self, hour: Hour) -> bool:
        """Nothing is left to do of the hour; False when something came, or a consolidation began or ended, since."""
        conditions = [_same_version(hour), _same("changes", hour.changes), _same("began_at", hour.began_ms)]
        values = {name: value for _, each in conditions for name, value in each.items()}
        condition = " AND ".join(each for each, _ in conditions)
        action = _action(hour, "REMOVE #open, written_at", {}, condition, values)
        return self._changed({**action, **_OPEN_NAME})

    def _query(self, project: str, values: Mapping[str, Any], condition: str | None, **more: Any) -> Iterator[Hour]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression=f"pk = :pk AND {condition}" if condition else "pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"{project}#hours"}, **values},
            ConsistentRead=True,
            **more,
        )
        return (_hour(item) for page in pages for item in page["Items"])

    def _changed(self, action: Mapping[str, Any]) -> bool:
        try:
            self._update(action)
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _update(self, action: Mapping[str, Any]) -> None:
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                self.client.update_item(TableName=self.table, **action)
                return
            except ClientError as error:  # the SDK does not try again by itself
                if error.response["Error"]["Code"] != "TransactionConflictException" or not tries_left:
                    raise
                self.sleep(random.uniform(0.01, 0.05))


_OPEN_NAME: Mapping[str, Any] = {"ExpressionAttributeNames": {"#open": "open"}}


def hour_key(project: str, hour: str) -> dict[str, Any]:
    """The item of an hour."""
    return {"pk": {"S": f"{project}#hours"}, "sk": {"S": hour}}


def change_of(project: str, hour: str, now: float, frozen: int | None = None) -> dict[str, Any]:
    """The update that notes one more change of the hour; on condition, where named, that so many epochs are frozen."""
    action: dict[str, Any] = {
        "Key": hour_key(project, hour),
        "UpdateExpression": "SET #open = :open, written_at = if_not_exists(written_at, :now) ADD changes :one",
        "ExpressionAttributeValues": {
            ":open": {"S": open_partition(project, hour)},
            ":now": _n(int(now)),
            ":one": _n(1),
        },
        **_OPEN_NAME,
    }
    if frozen is not None:
        condition, values = _same("frozen", frozen)
        action["ConditionExpression"] = condition
        action["ExpressionAttributeValues"] |= values
    return action


def open_partition(project: str, hour: str) -> str:
    """Where the index has an hour that is not settled; no project's name begins so."""
    return f"#hours{crc32(f'{project}#{hour}'.encode()) % OPEN_PARTITIONS}"


def _action(
    hour: Hour, expression: str, values: Mapping[str, Any], condition: str = "", more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    action: dict[str, Any] = {"Key": hour_key(hour.project, hour.hour), "UpdateExpression": expression}
    if all_values := {**values, **(more or {})}:
        action["ExpressionAttributeValues"] = all_values
    return {**action, "ConditionExpression": condition} if condition else action


def _same(name: str, number: int) -> tuple[str, dict[str, Any]]:
    """The condition that a number is what was read; 0 stands for none, too."""
    if not number:
        return f"attribute_not_exists({name})", {}
    return f"{name} = :was_{name}", {f":was_{name}": _n(number)}


def _same_version(hour: Hour) -> tuple[str, dict[str, Any]]:
    if hour.version is None:
        return "attribute_not_exists(version)", {}
    return "version = :was_version", {":was_version": {"S": hour.version}}


def _n(number: int) -> dict[str, str]:
    return {"N": str(number)}


def _hour(item: Mapping[str, Any]) -> Hour:
    def number(name: str, default: int = 0) -> int:
        return int(item[name]["N"]) if name in item else default

    return Hour(
        project=item["pk"]["S"].removesuffix("#hours"),
        hour=item["sk"]["S"],
        changes=number("changes"),
        done=number("done"),
        since_ms=number("written_at") * 1000,
        began_ms=number("began_at"),
        version=item["version"]["S"] if "version" in item else None,
        consolidated_ms=number("consolidated_at"),
        bare="bare" in item,
        replaced="replaced" in item,
        frozen=number("frozen"),
        epoch=number("epoch"),
        upto=number("upto", -1),
        closed_ms=number("closed_at"),
        covered={int(s): Signature.from_text(each["S"]) for s, each in item.get("covered", {"M": {}})["M"].items()},
        final_slot=number("settled", -1),
        unsettled="open" in item,
    )
