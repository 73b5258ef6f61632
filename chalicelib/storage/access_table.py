"""The control table's projects and API keys. A key is kept as its hash; only its user knows it.

project#<id> / project    its mode, salt and default limits    projects / <id>             that it exists
key#<sha256> / key        what lets requests in                keys#<project> / <key id>   what operators see of it
The items on the right make a list one query. Both items of a key change in one transaction: as a whole, and once.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from chalicelib.domain.access import ID_DIGITS, ApiKey, Credential, Project, Scope
from chalicelib.domain.erasure import Arrivals
from chalicelib.domain.events import Mode
from chalicelib.domain.quotas import UNLIMITED, Allowance, Limits
from chalicelib.storage.transactions import written

LISTED_DAYS = 90  # after a key has ended
BATCH_GET_ITEMS = 100  # the most that BatchGetItem takes
_NUMBERS: dict[str, Callable[[str], Any]] = {"rate_per_second": float, "burst": int, "monthly_quota": int}

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """A project as operators see it."""

    id: str
    mode: Mode
    limits: Limits  # of each key that has none of its own
    created_at: datetime
    erased_users: Arrivals = Arrivals.DROP  # what is done with what still arrives of them


@dataclass(frozen=True, slots=True)
class AccessTable:
    """What changes something is for operators: no function's role may."""

    client: Any
    name: str

    def credential(self, key: str, now: float) -> Credential | None:
        """What an API key may do, and for which project; None of one that is unknown, revoked or over.

        The table's TTL may be days late: `now`, in Unix seconds, is what counts.
        """
        digest = digest_of(key)
        item = self._get(f"key#{digest}", "key")
        if item is None:
            return None
        ends_at = float(item["expires_at"]["N"]) if "expires_at" in item else math.inf
        project = self._get(f"project#{item['project']['S']}", "project") if now < ends_at else None
        if project is None:
            return None
        owner = _owner(project)
        limits = _limits(item).otherwise(_limits(project))
        if limits != UNLIMITED:
            counter = item["counter"]["S"] if "counter" in item else digest[:ID_DIGITS]
            owner = replace(owner, allowance=Allowance(f"{owner.id}#{counter}", limits))
        return Credential(owner, frozenset(scope["S"] for scope in item["scopes"]["L"]), ends_at)

    def owner(self, project: str) -> Project | None:
        """A project for what comes without a key; None of an unknown one."""
        item = self._get(f"project#{project}", "project")
        return None if item is None else _owner(item)

    def put_project(self, project: Project, limits: Limits, created_at: datetime) -> bool:
        """Make a project; False, and nothing is changed, when there is one of the name."""
        settings = {"project": {"S": project.id}, "mode": {"S": project.mode.value}, **_numbers(limits)}
        settings |= {"salt": {"B": project.salt}} if project.salt else {}
        item = {**_key(f"project#{project.id}", "project"), **settings, **_creation(created_at)}
        # Into the list first: a name that stands only there is passed over, a project that does not would be hidden.
        self.client.put_item(TableName=self.name, Item=_key("projects", project.id))
        try:
            self.client.put_item(TableName=self.name, Item=item, ConditionExpression="attribute_not_exists(pk)")
        except self.client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def change_project(
        self,
        project: str,
        mode: Mode | None,
        limits: dict[str, float | int | None],
        erased_users: Arrivals | None = None,
    ) -> bool:
        """Set what is given, limits by name and None to remove one; False when there is no project."""
        words = {"mode": mode, "erased_users": erased_users}
        values: Item = {name: {"S": word.value} for name, word in words.items() if word is not None}
        values |= {name: {"N": str(value)} for name, value in limits.items() if value is not None}
        gone = [name for name, value in limits.items() if value is None]
        sets = "SET " + ", ".join(f"#{name} = :{name}" for name in values) if values else ""
        removes = "REMOVE " + ", ".join(f"#{name}" for name in gone) if gone else ""
        change: Item = {
            "Key": _key(f"project#{project}", "project"),
            "UpdateExpression": f"{sets} {removes}".strip(),
            "ConditionExpression": "attribute_exists(pk)",
            "ExpressionAttributeNames": {f"#{name}": name for name in (*values, *gone)},
        }
        if values:
            change["ExpressionAttributeValues"] = {f":{name}": value for name, value in values.items()}
        return written(self.client, self.name, {"Update": change})

    def project(self, project: str) -> ProjectSettings | None:
        """One project; None when there is none of the name."""
        item = self._get(f"project#{project}", "project")
        return None if item is None else _settings(item)

    def arrivals(self, project: str) -> Arrivals:
        """What a project does with what still arrives of erased users."""
        found = self.project(project)
        return found.erased_users if found else Arrivals.DROP

    def names(self) -> list[str]:
        """Every project's name."""
        return [item["sk"]["S"] for item in self._query("projects")]

    def projects(self) -> list[ProjectSettings]:
        """Every project, by name."""
        names = self.names()
        found: list[Item] = []
        for start in range(0, len(names), BATCH_GET_ITEMS):
            keys = [_key(f"project#{name}", "project") for name in names[start : start + BATCH_GET_ITEMS]]
            while keys:
                answer = self.client.batch_get_item(RequestItems={self.name: {"Keys": keys, "ConsistentRead": True}})
                found += answer["Responses"][self.name]
                keys = answer["UnprocessedKeys"].get(self.name, {}).get("Keys", [])
        return sorted(map(_settings, found), key=lambda settings: settings.id)

    def put_key(self, key: ApiKey) -> bool:
        """Make a key; False, and nothing is changed, when there is no project or already a key of the id."""
        exists = {"Key": _key(f"project#{key.project}", "project"), "ConditionExpression": "attribute_exists(pk)"}
        return written(self.client, self.name, {"ConditionCheck": exists}, *_new(key))

    def replace_key(self, old: ApiKey, new: ApiKey, ends_at: datetime) -> bool:
        """Make the new key and let the old one end; False, and nothing is changed, unless the old one was active."""
        ends = {":ends": _seconds(ends_at), ":listed": _seconds(ends_at + timedelta(days=LISTED_DAYS))}
        opened = {
            "Key": _key(f"key#{old.digest}", "key"),
            "UpdateExpression": "SET expires_at = :ends",
            "ConditionExpression": "attribute_exists(pk) AND attribute_not_exists(expires_at)",
            "ExpressionAttributeValues": {":ends": ends[":ends"]},
        }
        listed = {
            "Key": _key(f"keys#{old.project}", old.id),
            "UpdateExpression": "SET ends_at = :ends, replaced_by = :new, expires_at = :listed",
            "ConditionExpression": "attribute_exists(pk) AND attribute_not_exists(revoked_at)",
            "ExpressionAttributeValues": {**ends, ":new": {"S": new.id}},
        }
        return written(self.client, self.name, {"Update": opened}, {"Update": listed}, *_new(new))

    def revoke_key(self, key: ApiKey, now: datetime) -> bool:
        """End a key at once; again changes nothing. False when there is none."""
        listed = {
            "Key": _key(f"keys#{key.project}", key.id),
            "UpdateExpression": "SET revoked_at = if_not_exists(revoked_at, :now), expires_at = :listed",
            "ConditionExpression": "attribute_exists(pk)",
            "ExpressionAttributeValues": {
                ":now": _seconds(now),
                ":listed": _seconds(now + timedelta(days=LISTED_DAYS)),
            },
        }
        return written(
            self.client, self.name, {"Delete": {"Key": _key(f"key#{key.digest}", "key")}}, {"Update": listed}
        )

    def key(self, project: str, key_id: str) -> ApiKey | None:
        """One key of a project by its id."""
        item = self._get(f"keys#{project}", key_id)
        return None if item is None else _api_key(item)

    def keys(self, project: str) -> list[ApiKey]:
        """Every key of a project, the oldest first; ended ones for 90 days more."""
        return sorted(map(_api_key, self._query(f"keys#{project}")), key=lambda key: (key.created_at, key.id))

    def _query(self, partition_key: str) -> Iterable[Item]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": partition_key}},
            ConsistentRead=True,
        )
        return (item for page in pages for item in page["Items"])

    def _get(self, pk: str, sk: str) -> Item | None:
        item: Item | None = self.client.get_item(TableName=self.name, Key=_key(pk, sk), ConsistentRead=True).get("Item")
        return item


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return sha256(key.encode()).hexdigest()


def _new(key: ApiKey) -> tuple[dict[str, Item], dict[str, Item]]:
    """Both items of a key; the condition is on the listed one, which stays when a key is revoked."""
    owner = {"project": {"S": key.project}, "counter": {"S": key.counter or key.id}}
    rights = {"scopes": {"L": [{"S": scope.value} for scope in key.scopes]}, "label": {"S": key.label}}
    known = {**owner, **rights, **_numbers(key.limits), **_creation(key.created_at)}
    listed = {**_key(f"keys#{key.project}", key.id), "digest": {"S": key.digest}, **known}
    return (
        {"Put": {"Item": {**_key(f"key#{key.digest}", "key"), **known}}},
        {"Put": {"Item": listed, "ConditionExpression": "attribute_not_exists(pk)"}},
    )


def _key(pk: str, sk: str) -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _creation(created_at: datetime) -> Item:
    return {"created_at": {"S": created_at.isoformat(timespec="seconds")}}


def _seconds(moment: datetime) -> Item:
    return {"N": str(int(moment.timestamp()))}


def _moment(item: Item, name: str) -> datetime | None:
    return datetime.fromtimestamp(int(item[name]["N"]), UTC) if name in item else None


def _numbers(limits: Limits) -> Item:
    values = {name: getattr(limits, name) for name in _NUMBERS}
    return {name: {"N": str(value)} for name, value in values.items() if value is not None}


def _limits(item: Item) -> Limits:
    return Limits(**{name: read(item[name]["N"]) for name, read in _NUMBERS.items() if name in item})


def _owner(item: Item) -> Project:
    return Project(item["project"]["S"], Mode(item["mode"]["S"]), item.get("salt", {}).get("B", b""))


def _settings(item: Item) -> ProjectSettings:
    created_at = datetime.fromisoformat(item["created_at"]["S"])
    arrivals = Arrivals(item["erased_users"]["S"]) if "erased_users" in item else Arrivals.DROP
    return ProjectSettings(item["project"]["S"], Mode(item["mode"]["S"]), _limits(item), created_at, arrivals)


def _api_key(item: Item) -> ApiKey:
    return ApiKey(
        project=item["project"]["S"],
        digest=item["digest"]["S"],
        scopes=tuple(Scope(scope["S"]) for scope in item["scopes"]["L"]),
        label=item["label"]["S"],
        created_at=datetime.fromisoformat(item["created_at"]["S"]),
        limits=_limits(item),
        counter=item["counter"]["S"],
        ends_at=_moment(item, "ends_at"),
        replaced_by=item.get("replaced_by", {}).get("S", ""),
        revoked_at=_moment(item, "revoked_at"),
    )
