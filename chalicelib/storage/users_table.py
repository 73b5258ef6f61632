"""What is known of users, in the events table beside their chunks, and without an end.

`project#user` / `~profile`              traits, each with when it was said
`project#previous id` / `~user#<user>`   who this id became
`project#user` / `~previous#<id>`        and who they were
"""

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from botocore.exceptions import ClientError

from chalicelib.domain.erasure import MAX_IDS
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.identity import Link, Said, Traits, latest
from chalicelib.domain.records import NO_CHUNK

PROFILE = f"{NO_CHUNK}profile"
BECAME = f"{NO_CHUNK}user#"
WAS = f"{NO_CHUNK}previous#"
MAX_ATTEMPTS = 8  # of a profile that others write at the same time
MAX_KNOWN_LINKS = 10_000
KNOWN_SECONDS = 900  # a link that was erased is put again after it, should it be said again


@dataclass(frozen=True, slots=True)
class UsersTable:
    """Writing the same again changes nothing; `known` spares a container most repetitions."""

    client: Any
    name: str
    known: dict[tuple[str, Link], float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def learn(self, project: str, said: Said) -> None:
        """Keep what some events say; raises Unavailable when a profile changes again and again meanwhile."""
        for link in said.links:
            if self.clock() - self.known.get((project, link), -math.inf) > KNOWN_SECONDS:
                self._put_link(project, link)
                if len(self.known) >= MAX_KNOWN_LINKS:
                    self.known.clear()
                self.known[project, link] = self.clock()
        for user, traits in said.traits.items():
            self._add_traits(project, user, traits)

    def traits(self, project: str, user: str) -> Traits:
        """What was said of a user, by trait."""
        return _traits(self._profile(project, user))

    def links(self, project: str, user: str) -> tuple[list[str], list[str]]:
        """The ids that the user had before, and those that this id became."""
        before = [sort_key.removeprefix(WAS) for sort_key in self._sort_keys(project, user, WAS)]
        return before, [sort_key.removeprefix(BECAME) for sort_key in self._sort_keys(project, user, BECAME)]

    def ids_of(self, project: str, user: str, is_user: Callable[[str, str], bool]) -> list[str]:
        """The user's id, and those before it that became nobody else, and never were users; at most MAX_IDS.

        Who may write events may claim to have been anybody: hence a user, whom `is_user` knows by project and id, or
        of whom there are traits, is never taken for an earlier id of somebody else.
        """
        ids = [user]
        for each in ids:
            for previous in self.links(project, each)[0]:
                if previous in ids or len(ids) >= MAX_IDS or not {*self.links(project, previous)[1]} <= {*ids}:
                    continue
                if not is_user(project, previous) and not self.traits(project, previous):
                    ids.append(previous)
        return ids

    def unlink(self, project: str, user: str, sort_keys: Iterable[str]) -> int:
        """Delete the other ends of the links among an id's items; returns how many links it was."""
        others = [
            (sort_key.removeprefix(mine), other + user)
            for sort_key in sort_keys
            for mine, other in ((WAS, BECAME), (BECAME, WAS))
            if sort_key.startswith(mine)
        ]
        for other, sort_key in others:
            self.client.delete_item(TableName=self.name, Key=_key(project, other, sort_key))
        return len(others)

    def _put_link(self, project: str, link: Link) -> None:
        # The user's own first, by which erasure finds the other one, also where a process dies in between.
        for own, sort_key in ((link.user, WAS + link.previous), (link.previous, BECAME + link.user)):
            self.client.put_item(TableName=self.name, Item={**_key(project, own, sort_key), "project": {"S": project}})

    def _add_traits(self, project: str, user: str, said: Traits) -> None:
        # Read first, unlike all else: most identify calls repeat what is known, and a read costs half of a write.
        for _ in range(MAX_ATTEMPTS):
            item = self._profile(project, user)
            known = _traits(item)
            merged = latest(known, said)
            if merged == known:
                return
            revision = int(item["revision"]["N"]) if item else 0
            try:
                self.client.put_item(
                    TableName=self.name,
                    Item={
                        **_key(project, user, PROFILE),
                        "project": {"S": project},
                        "revision": {"N": str(revision + 1)},
                        "traits": {"B": zlib.compress(orjson.dumps(merged))},
                    },
                    ConditionExpression="attribute_not_exists(revision) OR revision = :read",
                    ExpressionAttributeValues={":read": {"N": str(revision)}},
                )
                return
            except ClientError as error:
                if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                    raise
        raise Unavailable(f"a profile was changed by others in each of {MAX_ATTEMPTS} attempts")

    def _profile(self, project: str, user: str) -> dict[str, Any] | None:
        item: dict[str, Any] | None = self.client.get_item(
            TableName=self.name, Key=_key(project, user, PROFILE), ConsistentRead=True
        ).get("Item")
        return item

    def _sort_keys(self, project: str, user: str, prefix: str) -> Iterator[str]:
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :prefix)",
            ExpressionAttributeValues={":pk": {"S": f"{project}#{user}"}, ":prefix": {"S": prefix}},
            ProjectionExpression="sk",
            ConsistentRead=True,
        )
        for page in pages:
            for item in page["Items"]:
                yield item["sk"]["S"]


def _key(project: str, user: str, sort_key: str) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#{user}"}, "sk": {"S": sort_key}}


def _traits(item: dict[str, Any] | None) -> Traits:
    if item is None:
        return {}
    words = orjson.loads(zlib.decompress(item["traits"]["B"]))
    return {name: (tuple(moment), value) for name, (moment, value) in words.items()}
