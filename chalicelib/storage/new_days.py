"""Days of which nothing is known yet, taken and closed as a whole: some transactions in place of thousands of writes.

A day that an import brings, and of which there is neither an item of dirty_hours.py nor one of the rollups, needs none
of the care of an hour that was live: nobody reads or writes what is put. So its items go in by transactions, each on
condition that nobody came in between; where somebody did, nothing of the transaction is written, and the day is
finished hour by hour like any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.partitions import TAIL
from chalicelib.storage.closed_table import Closed, closed_item, day_key
from chalicelib.storage.dirty_hours import dirty_key
from chalicelib.storage.rollups_table import state_key

MAX_ITEMS = 100  # TransactWriteItems limit
MAX_BYTES = 3 * 1024 * 1024  # its limit is 4 MB, names and keys included
NEW = "attribute_not_exists(pk)"

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewDays:
    """Each call is right when repeated: what was done by the same run before answers False, and is finished by hour."""

    client: Any
    table: str  # of the rollups

    def is_new(self, project: str, day: str) -> bool:
        """Whether no item says anything of the day's hours."""
        ranges = [
            ("lake#dirty", f"{project}#{day}T00", f"{project}#{day}T23"),
            (f"{project}#hours", f"{day}T00", f"{day}T23"),
            (f"{project}#merged", f"{day}T00", f"{day}T23~"),
        ]
        return not any(map(self._any, ranges))

    def take(self, project: str, day: str, hours: Sequence[str], run: str, now_ms: int) -> bool:
        """Begin: the hours are dirty, frozen in their first epoch, and their day lacks them; False when one is not new.

        Frozen first, so that what comes in meanwhile is counted beside what will be put.
        """
        dirty = {"tail": {"S": run}, "since": _n(now_ms), "run": {"S": run}, "began_at": _n(now_ms)}
        puts = [{**dirty_key(project, hour), **dirty} for hour in hours]
        puts += [{**state_key(project, hour), "frozen": _n(0)} for hour in hours]
        note = {**day_key(project, day), "token": {"S": run}}
        return self._transact([*({"Put": {"Item": item, "ConditionExpression": NEW}} for item in puts), _put(note)])

    def put(self, project: str, items: Sequence[tuple[str, str, str, Closed]]) -> bool:
        """Put closed items, each with its event type, facet and grain; False when one was there."""
        whole = True
        for share in _shares([closed_item(project, *item) for item in items]):
            whole = self._transact([{"Put": {"Item": i, "ConditionExpression": NEW}} for i in share]) and whole
        return whole

    def finish(self, project: str, versions: Mapping[str, str], run: str, now_ms: int) -> bool:
        """The hours are closed and clean, each with the version of its file; `forget_day` is to follow.

        False when another run has begun with one of them: all stay dirty then.
        """
        actions: list[dict[str, Any]] = []
        for hour, version in versions.items():
            actions.append(
                _update(
                    dirty_key(project, hour),
                    "SET version = :version, upto = :upto, retired = :none, consolidated_at = :now "
                    "REMOVE tail, since, began_at",
                    {":version": {"S": version}, ":upto": {"S": TAIL}, ":none": {"M": {}}, ":now": _n(now_ms)},
                    "run = :run AND tail = :run",
                    {":run": {"S": run}},
                )
            )
            actions.append(
                _update(
                    state_key(project, hour),
                    "SET closed = :epoch, closed_at = :now",
                    {":epoch": _n(0), ":now": _n(now_ms // 1000)},
                    "frozen = :epoch AND attribute_not_exists(closed)",
                    {},
                )
            )
        return self._transact(actions)

    def _any(self, where: tuple[str, str, str]) -> bool:
        pk, first, last = where
        answer = self.client.query(
            TableName=self.table,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={":pk": {"S": pk}, ":first": {"S": first}, ":last": {"S": last}},
            ConsistentRead=True,
            Limit=1,
        )
        return bool(answer["Items"])

    def _transact(self, actions: Sequence[Mapping[str, Any]]) -> bool:
        items = [{kind: {"TableName": self.table, **action}} for each in actions for kind, action in each.items()]
        try:
            self.client.transact_write_items(TransactItems=items)
        except ClientError as error:
            if error.response["Error"]["Code"] != "TransactionCanceledException":
                raise
            return False
        return True


def _put(item: Item) -> dict[str, Any]:
    return {"Put": {"Item": item}}


def _update(key: Item, expression: str, values: Item, condition: str, more: Item) -> dict[str, Any]:
    return {
        "Update": {
            "Key": key,
            "UpdateExpression": expression,
            "ConditionExpression": condition,
            "ExpressionAttributeValues": {**values, **more},
        }
    }


def _n(number: int) -> Item:
    return {"N": str(number)}


def _shares(items: Sequence[Item]) -> Iterator[list[Item]]:
    """The items in transactions that are small enough."""
    share: list[Item] = []
    size_bytes = 0
    for item in items:
        item_bytes = len(item["body"]["B"]) + 1024
        if share and (len(share) == MAX_ITEMS or size_bytes + item_bytes > MAX_BYTES):
            yield share
            share, size_bytes = [], 0
        share.append(item)
        size_bytes += item_bytes
    if share:
        yield share
