"""The control table's projects and API keys. A key is kept as its hash; only its user knows it.

project#<id> / project    its mode, salt and default limits    projects / <id>             that it exists
key#<sha256> / key        what lets requests in                keys#<project> / <key id>   what operators see of it
The items on the right make a list one query. Both items of a key change in one transaction: as a whole, and once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from chalicelib.access.access import ID_DIGITS, ApiKey, Credential, Project, Scope
from chalicelib.access.quotas import UNLIMITED, Allowance, Limits
from chalicelib.base.dynamo import NEW, THERE, Action, Item, Table, check, delete, key, put, update
from chalicelib.events.erasure import Arrivals
from chalicelib.events.events import Mode

LISTED_DAYS = 90  # after a key has ended
_NUMBERS: dict[str, Callable[[Any], Any]] = {"rate_per_second": float, "burst": int, "monthly_quota": int}


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

    def credential(self, secret: str, now: float) -> Credential | None:
        """Return what an API key may do, and for which project; None of one that is unknown, revoked or over.

        The table's TTL may be days late: `now`, in Unix seconds, is what counts.
        """
        digest = digest_of(secret)
        item = self._table.get(key(f"key#{digest}", "key"))
        if item is None:
            return None
        ends_at = float(item.get("expires_at", math.inf))
        project = self._table.get(_project_key(item["project"])) if now < ends_at else None
        if project is None:
            return None
        owner = _owner(project)
        limits = _limits(item).otherwise(_limits(project))
        if limits != UNLIMITED:
            counter = item.get("counter", digest[:ID_DIGITS])
            owner = replace(owner, allowance=Allowance(f"{owner.id}#{counter}", limits))
        return Credential(owner, frozenset(item["scopes"]), ends_at)

    def owner(self, project: str) -> Project | None:
        """A project for what comes without a key; None of an unknown one."""
        item = self._table.get(_project_key(project))
        return None if item is None else _owner(item)

    def put_project(self, project: Project, limits: Limits, created_at: datetime) -> bool:
        """Make a project; False, and nothing is changed, when there is one of the name."""
        settings = {"project": project.id, "mode": project.mode.value, **_numbers(limits)}
        settings |= {"salt": project.salt} if project.salt else {}
        item = {**_project_key(project.id), **settings, **_creation(created_at)}
        # Into the list first: a name that stands only there is passed over, a project that does not would be hidden.
        self._table.write(put(key("projects", project.id)))
        return self._table.write(put(item, NEW))

    def change_project(
        self,
        project: str,
        mode: Mode | None,
        limits: dict[str, float | int | None],
        erased_users: Arrivals | None = None,
    ) -> bool:
        """Set what is given, limits by name and None to remove one; False when there is no project."""
        words = {"mode": mode, "erased_users": erased_users}
        values: Item = {name: word.value for name, word in words.items() if word is not None}
        values |= {name: value for name, value in limits.items() if value is not None}
        gone = [name for name, value in limits.items() if value is None]
        sets = "SET " + ", ".join(f"#{name} = :{name}" for name in values) if values else ""
        removes = "REMOVE " + ", ".join(f"#{name}" for name in gone) if gone else ""
        return self._table.write(update(_project_key(project), f"{sets} {removes}".strip(), values, THERE))

    def project(self, project: str) -> ProjectSettings | None:
        """Return one project; None when there is none of the name."""
        item = self._table.get(_project_key(project))
        return None if item is None else _settings(item)

    def arrivals(self, project: str) -> Arrivals:
        """Return what a project does with what still arrives of erased users."""
        found = self.project(project)
        return found.erased_users if found else Arrivals.DROP

    def names(self) -> list[str]:
        """Return every project's name."""
        return [item["sk"] for item in self._table.query("projects")]

    def projects(self) -> list[ProjectSettings]:
        """Return every project, by name."""
        found = self._table.get_many(map(_project_key, self.names()))
        return sorted(map(_settings, found), key=lambda settings: settings.id)

    def put_key(self, key: ApiKey) -> bool:
        """Make a key; False, and nothing is changed, when there is no project or already a key of the id."""
        exists = check(_project_key(key.project), THERE)
        return self._table.write_together(exists, *_new(key))

    def replace_key(self, old: ApiKey, new: ApiKey, ends_at: datetime) -> bool:
        """Make the new key and let the old one end; False, and nothing is changed, unless the old one was active."""
        ends = _seconds(ends_at)
        opened = update(
            _secret_key(old), "SET expires_at = :ends", {"ends": ends}, f"{THERE} AND attribute_not_exists(expires_at)"
        )
        listed = update(
            _listed_key(old),
            "SET ends_at = :ends, replaced_by = :new, expires_at = :listed",
            {"ends": ends, "new": new.id, "listed": _listed_until(ends_at)},
            f"{THERE} AND attribute_not_exists(revoked_at)",
        )
        return self._table.write_together(opened, listed, *_new(new))

    def revoke_key(self, key: ApiKey, now: datetime) -> bool:
        """End a key at once; again changes nothing. False when there is none."""
        listed = update(
            _listed_key(key),
            "SET revoked_at = if_not_exists(revoked_at, :now), expires_at = :listed",
            {"now": _seconds(now), "listed": _listed_until(now)},
            THERE,
        )
        return self._table.write_together(delete(_secret_key(key)), listed)

    def key(self, project: str, key_id: str) -> ApiKey | None:
        """Return one key of a project by its id."""
        item = self._table.get(key(f"keys#{project}", key_id))
        return None if item is None else _api_key(item)

    def keys(self, project: str) -> list[ApiKey]:
        """Return every key of a project, the oldest first; ended ones for 90 days more."""
        found = map(_api_key, self._table.query(f"keys#{project}"))
        return sorted(found, key=lambda key: (key.created_at, key.id))

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def digest_of(key: str) -> str:
    """Return what is kept of a key."""
    return sha256(key.encode()).hexdigest()


def _new(made: ApiKey) -> tuple[Action, Action]:
    """Both items of a key; the condition is on the listed one, which stays when a key is revoked."""
    owner = {"project": made.project, "counter": made.counter or made.id}
    rights = {"scopes": [scope.value for scope in made.scopes], "label": made.label}
    known = {**owner, **rights, **_numbers(made.limits), **_creation(made.created_at)}
    return put({**_secret_key(made), **known}), put({**_listed_key(made), "digest": made.digest, **known}, NEW)


def _project_key(project: str) -> Item:
    return key(f"project#{project}", "project")


def _secret_key(of: ApiKey) -> Item:
    return key(f"key#{of.digest}", "key")


def _listed_key(of: ApiKey) -> Item:
    return key(f"keys#{of.project}", of.id)


def _creation(created_at: datetime) -> Item:
    return {"created_at": created_at.isoformat(timespec="seconds")}


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _listed_until(ended_at: datetime) -> int:
    return _seconds(ended_at + timedelta(days=LISTED_DAYS))


def _moment(item: Item, name: str) -> datetime | None:
    return datetime.fromtimestamp(item[name], UTC) if name in item else None


def _numbers(limits: Limits) -> Item:
    values = {name: getattr(limits, name) for name in _NUMBERS}
    return {name: value for name, value in values.items() if value is not None}


def _limits(item: Item) -> Limits:
    return Limits(**{name: read(item[name]) for name, read in _NUMBERS.items() if name in item})


def _owner(item: Item) -> Project:
    return Project(item["project"], Mode(item["mode"]), item.get("salt", b""))


def _settings(item: Item) -> ProjectSettings:
    created_at = datetime.fromisoformat(item["created_at"])
    arrivals = Arrivals(item.get("erased_users", Arrivals.DROP))
    return ProjectSettings(item["project"], Mode(item["mode"]), _limits(item), created_at, arrivals)


def _api_key(item: Item) -> ApiKey:
    return ApiKey(
        project=item["project"],
        digest=item["digest"],
        scopes=tuple(map(Scope, item["scopes"])),
        label=item["label"],
        created_at=datetime.fromisoformat(item["created_at"]),
        limits=_limits(item),
        counter=item["counter"],
        ends_at=_moment(item, "ends_at"),
        replaced_by=item.get("replaced_by", ""),
        revoked_at=_moment(item, "revoked_at"),
    )
