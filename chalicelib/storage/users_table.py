"""What is known of users, in the events table beside their chunks, and without an end.

`project#user` / `~profile`              traits, each with when it was said
`project#previous id` / `~user#<user>`   who this id became
`project#user` / `~previous#<id>`        and who they were
"""

import logging
import math
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.domain.erasure import MAX_IDS
from chalicelib.domain.identity import Link, Said, Traits, latest, newest
from chalicelib.domain.records import NO_CHUNK

PROFILE = f"{NO_CHUNK}profile"
BECAME = f"{NO_CHUNK}user#"
WAS = f"{NO_CHUNK}previous#"
MAX_ATTEMPTS = 8  # of a profile that others write at the same time
LONGEST_PAUSE_SECONDS = 0.4  # between two of them; each is a random share of twice the one before, from 50 ms on
FIRST_PAUSE_SECONDS = 0.05
MAX_PROFILE_BYTES = 300 * 1024  # compressed; DynamoDB allows items of 400 KB
MAX_KNOWN_LINKS = 10_000
KNOWN_SECONDS = 900  # a link that was erased is put again after it, should it be said again

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UsersTable:
    """Writing the same again changes nothing; `known` spares a container most repetitions."""

    client: Any
    name: str
    known: dict[tuple[str, Link], float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random

    def learn(self, project: str, said: Said, seconds: float = math.inf) -> int:
        """Keep what some events say; returns how many links and profiles were not kept, if any.

        Those are what a table does not take, or others change all the time, or for which the seconds are too few. None
        of it keeps the rest from being learned: a profile that others write is tried again when all have had a turn.
        """
        until = self.clock() + seconds
        missed = sum(not self._learn_link(project, link, until) for link in said.links)
        left = said.traits
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                self.sleep(self.chance() * min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS))
            changed: dict[str, Traits] = {}
            for user, traits in left.items():
                kept = self._learn_traits(project, user, traits, until)
                if kept is None:
                    changed[user] = traits
                missed += kept is False
            if not (left := changed):
                break
        return missed + len(left)

    def traits(self, project: str, user: str) -> Traits:
        """What was said of a user, by trait."""
        return _traits(self._profile(project, user))

    def links(self, project: str, user: str) -> tuple[list[str], list[str]]:
        """The ids that the user had before, and those that this id became; at most MAX_IDS of either."""
        before, became = (
            [sort_key.removeprefix(prefix) for sort_key in islice(self._sort_keys(project, user, prefix), MAX_IDS)]
            for prefix in (WAS, BECAME)
        )
        return before, became

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

    def _learn_link(self, project: str, link: Link, until: float) -> bool:
        """Whether the link is kept."""
        if self.clock() - self.known.get((project, link), -math.inf) <= KNOWN_SECONDS:
            return True
        if self.clock() >= until:
            return False
        try:
            # The user's own first, by which erasure finds the other one, also where a process dies in between.
            for own, sort_key in ((link.user, WAS + link.previous), (link.previous, BECAME + link.user)):
                item = {**_key(project, own, sort_key), "project": {"S": project}}
                self.client.put_item(TableName=self.name, Item=item)
        except (BotoCoreError, ClientError) as error:
            log.warning("link not learned", extra={"project": project, "reason": str(error)})
            return False
        if len(self.known) >= MAX_KNOWN_LINKS:
            self.known.clear()
        self.known[project, link] = self.clock()
        return True

    def _learn_traits(self, project: str, user: str, said: Traits, until: float) -> bool | None:
        """Whether the traits are kept; None when another has changed the profile meanwhile."""
        if self.clock() >= until:
            return False
        try:
            return self._add_traits(project, user, said)
        except (BotoCoreError, ClientError) as error:
            if _code(error) == "ConditionalCheckFailedException":
                return None
            log.warning("traits not learned", extra={"project": project, "reason": str(error)})
            return False

    def _add_traits(self, project: str, user: str, said: Traits) -> bool:
        # Read first, unlike all else: most identify calls repeat what is known, and a read costs half of a write.
        item = self._profile(project, user)
        known = _traits(item)
        body, merged = _packed(latest(known, said))
        if merged != known:
            revision = int(item["revision"]["N"]) if item else 0
            self.client.put_item(
                TableName=self.name,
                Item={
                    **_key(project, user, PROFILE),
                    "project": {"S": project},
                    "revision": {"N": str(revision + 1)},
                    "traits": {"B": body},
                },
                ConditionExpression="attribute_not_exists(revision) OR revision = :read",
                ExpressionAttributeValues={":read": {"N": str(revision)}},
            )
        return True

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
            yield from (item["sk"]["S"] for item in page["Items"])


def _packed(traits: Traits) -> tuple[bytes, Traits]:
    """The traits as they lie in an item, and which they are: of more than it holds, the newest."""
    while True:
        body = zlib.compress(orjson.dumps(traits))
        if len(body) <= MAX_PROFILE_BYTES:
            return body, traits
        traits = newest(traits, len(traits) // 2)


def _code(error: Exception) -> str:
    code: str = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    return code


def _key(project: str, user: str, sort_key: str) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#{user}"}, "sk": {"S": sort_key}}


def _traits(item: dict[str, Any] | None) -> Traits:
    if item is None:
        return {}
    words = orjson.loads(zlib.decompress(item["traits"]["B"]))
    return {name: (tuple(moment), value) for name, (moment, value) in words.items()}
