"""Hours of the lake that are not settled, in the rollups table: `lake#dirty` / `<project>#<hour>`.

tail     while the hour is dirty: the tail file noted last, which no consolidation has answered for yet
since    epoch milliseconds since when it is dirty
run      the consolidation that began last, and began_at: when
version  of the hour files that hold everything up to the tail file `upto`
retired  {epoch milliseconds: names}: absorbed files, and when they are deleted, after the last reader

An hour without an item is settled: its folder holds the files of one version and nothing else.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

PK = "lake#dirty"


@dataclass(frozen=True, slots=True)
class Unsettled:
    """An hour that readers look at closely; times are epoch milliseconds."""

    project: str
    hour: str
    tail: str | None = None  # of a dirty hour
    since: int = 0
    run: str | None = None
    began_at: int | None = None  # of a consolidation that is not over, or died
    consolidated_at: int = 0
    version: str | None = None
    upto: str = ""
    retired: Mapping[int, Sequence[str]] = field(default_factory=dict)

    @property
    def retired_names(self) -> set[str]:
        """Files whose rows the current version holds."""
        return {name for names in self.retired.values() for name in names}


@dataclass(frozen=True, slots=True)
class DirtyHours:
    """Each call is one request and right when repeated; those that end something have the run as their condition."""

    client: Any
    table: str  # of the rollups
    clock: Callable[[], float] = time.time

    def note(self, project: str, hour: str, tail: str) -> None:
        """The hour has a tail file that has to be absorbed. Called once the file is there, and by a repeat again.

        Not before: a consolidation in between would list the folder without the file, and take the note away.
        """
        self._update(
            project,
            hour,
            "SET tail = :tail, since = if_not_exists(since, :now)",
            {":tail": {"S": tail}, ":now": {"N": str(int(self.clock() * 1000))}},
        )

    def all(self) -> list[Unsettled]:
        """Every hour that is not settled."""
        return [_unsettled(item) for item in self._query("pk = :pk", {":pk": {"S": PK}})]

    def of(self, project: str) -> list[Unsettled]:
        """Those of a project."""
        values = {":pk": {"S": PK}, ":project": {"S": f"{project}#"}}
        return [_unsettled(item) for item in self._query("pk = :pk AND begins_with(sk, :project)", values)]

    def between(self, project: str, first: str, last: str) -> list[Unsettled]:
        """Those of the hours from `first` to `last`, both included."""
        values = {":pk": {"S": PK}, ":first": {"S": f"{project}#{first}"}, ":last": {"S": f"{project}#{last}"}}
        return [_unsettled(item) for item in self._query("pk = :pk AND sk BETWEEN :first AND :last", values)]

    def begin(self, project: str, hour: str, run: str, now_ms: int) -> Unsettled:
        """A consolidation begins, and no other that began before may commit; the hour is dirty until it is over."""
        answer = self._update(
            project,
            hour,
            "SET run = :run, began_at = :now, tail = if_not_exists(tail, :run), since = if_not_exists(since, :now)",
            {":run": {"S": run}, ":now": {"N": str(now_ms)}},
            ReturnValues="ALL_NEW",
        )
        return _unsettled(answer["Attributes"])

    def commit(self, state: Unsettled, version: str, upto: str, retired: Mapping[int, Sequence[str]], now: int) -> bool:
        """Make the version the hour's current one; False when another consolidation began since."""
        return self._updated(
            state,
            "SET version = :version, upto = :upto, retired = :retired, consolidated_at = :now, since = :began",
            {
                ":version": {"S": version},
                ":upto": {"S": upto},
                ":retired": _retired(retired),
                ":now": {"N": str(now)},
                ":began": {"N": str(state.began_at)},
            },
            "run = :run",
        )

    def cleaned(self, state: Unsettled) -> bool:
        """No longer dirty; False when a tail file was noted or a consolidation began since the state was read."""
        values = {":tail": {"S": state.tail}}
        return self._updated(state, "REMOVE tail, since, began_at", values, "run = :run AND tail = :tail")

    def keep_retired(self, state: Unsettled, retired: Mapping[int, Sequence[str]]) -> bool:
        """The files that are yet to be deleted; False when a consolidation began or ended since."""
        values = {":retired": _retired(retired), ":seen": {"N": str(state.consolidated_at)}}
        return self._updated(state, "SET retired = :retired", values, "run = :run AND consolidated_at = :seen")

    def settle(self, state: Unsettled) -> bool:
        """Forget a clean hour; False when it is dirty, or a consolidation began since."""
        try:
            self.client.delete_item(
                TableName=self.table,
                Key=dirty_key(state.project, state.hour),
                ConditionExpression="attribute_not_exists(tail) AND run = :run",
                ExpressionAttributeValues={":run": {"S": str(state.run)}},
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _update(self, project: str, hour: str, expression: str, values: dict[str, Any], **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.update_item(
            TableName=self.table,
            Key=dirty_key(project, hour),
            UpdateExpression=expression,
            ExpressionAttributeValues=values,
            **more,
        )
        return answer

    def _updated(self, state: Unsettled, expression: str, values: dict[str, Any], condition: str) -> bool:
        values = {**values, ":run": {"S": str(state.run)}}
        try:
            self._update(state.project, state.hour, expression, values, ConditionExpression=condition)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def _query(self, condition: str, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            ConsistentRead=True,
        )
        for page in pages:
            yield from page["Items"]


def dirty_key(project: str, hour: str) -> dict[str, Any]:
    """The item of an hour."""
    return {"pk": {"S": PK}, "sk": {"S": f"{project}#{hour}"}}


def _retired(retired: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    return {"M": {str(due): {"SS": sorted(names)} for due, names in retired.items()}}


def _unsettled(item: Mapping[str, Any]) -> Unsettled:
    project, _, hour = item["sk"]["S"].rpartition("#")
    return Unsettled(
        project,
        hour,
        tail=item["tail"]["S"] if "tail" in item else None,
        since=int(item["since"]["N"]) if "since" in item else 0,
        run=item["run"]["S"] if "run" in item else None,
        began_at=int(item["began_at"]["N"]) if "began_at" in item else None,
        consolidated_at=int(item["consolidated_at"]["N"]) if "consolidated_at" in item else 0,
        version=item["version"]["S"] if "version" in item else None,
        upto=item["upto"]["S"] if "upto" in item else "",
        retired={int(due): names["SS"] for due, names in item.get("retired", {"M": {}})["M"].items()},
    )
