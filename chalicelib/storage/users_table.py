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
from chalicelib.domain.identity import Link, Said, Traits, latest
from chalicelib.domain.records import NO_CHUNK
from chalicelib.storage.batches import THROTTLED, BatchWriter, code_of

PROFILE = f"{NO_CHUNK}profile"
BECAME = f"{NO_CHUNK}user#"
WAS = f"{NO_CHUNK}previous#"
MAX_TRIES = 8  # of a profile that others write at the same time
LONGEST_PAUSE_SECONDS = 0.4  # between two of them; each is a random share of twice the one before, from 50 ms on
FIRST_PAUSE_SECONDS = 0.05
MAX_KNOWN_LINKS = 10_000
MAX_KEYS = 100  # of one BatchGetItem
BUSY = THROTTLED | {"ConditionalCheckFailedException"}  # what others who write a profile cause
KNOWN_SECONDS = 900  # a link that was erased is put again after it, should it be said again

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Unlearned:
    """What some events said and was not kept."""

    links: set[Link] = field(default_factory=set)  # which can be put another time
    users: set[str] = field(default_factory=set)  # whose traits can be
    busy: int = 0  # profiles that others write all the time: another time they still will


@dataclass(frozen=True, slots=True)
class UsersTable:
    """Writing the same again changes nothing; `known` spares a container most repetitions."""

    client: Any
    name: str
    known: dict[tuple[str, Link], float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random

    def learn(self, project: str, said: Said, seconds: float = math.inf) -> Unlearned:
        """Keep what some events say, within some seconds or a call more; returns what was not kept.

        None of it keeps the rest from being learned: a profile that others write is tried again when all have had a
        turn.
        """
        until = self.clock() + seconds
        unlearned = Unlearned(self._put_links(project, said.links, until))
        profiles = self._profiles(project, list(said.traits))
        left = said.traits
        for attempt in range(MAX_TRIES):
            if attempt:
                self.sleep(self.chance() * min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS))
            busy: dict[str, Traits] = {}
            for user, traits in left.items():
                if self.clock() >= until:
                    kept = None if attempt else False
                else:
                    kept = self._learn_traits(project, user, traits, profiles)
                if kept is None:
                    busy[user] = traits
                elif not kept:
                    unlearned.users.add(user)
            left = busy
            if not left or self.clock() >= until:
                break
        unlearned.busy = len(left)
        return unlearned

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

    def _put_links(self, project: str, links: Iterable[Link], until: float) -> set[Link]:
        """Put links that this container has not put lately; returns those that the table did not take."""
        left = [link for link in links if self.clock() - self.known.get((project, link), -math.inf) > KNOWN_SECONDS]
        missed: set[Link] = set()
        # The user's own first, by which erasure finds the other one, also where a process dies in between.
        for is_own in (True, False):
            requests = [{"PutRequest": {"Item": _link_item(project, link, is_own=is_own)}} for link in left]
            writer = BatchWriter(self.client, self.name, self.sleep)
            unwritten = writer.write(requests, lambda: self.clock() < until)
            gone = unwritten.refused | unwritten.invalid
            if gone:
                log.warning("links not learned", extra={"project": project, "reason": next(iter(gone.values()))})
            missed |= {left[number] for number in gone}
            left = [link for number, link in enumerate(left) if number not in gone]
        if len(self.known) + len(left) > MAX_KNOWN_LINKS:
            self.known.clear()
        self.known.update(dict.fromkeys(((project, link) for link in left[:MAX_KNOWN_LINKS]), self.clock()))
        return missed

    def _learn_traits(
        self, project: str, user: str, said: Traits, profiles: dict[str, dict[str, Any] | None]
    ) -> bool | None:
        """Whether the traits are kept; None when others write the profile at the same time. A profile is taken as it
        was read before once only."""
        try:
            item = profiles.pop(user) if user in profiles else self._profile(project, user)
            return self._add_traits(project, user, said, item)
        except (BotoCoreError, ClientError) as error:
            if code_of(error) in BUSY:
                return None
            log.warning("traits not learned", extra={"project": project, "reason": str(error)})
            return False

    def _add_traits(self, project: str, user: str, said: Traits, item: dict[str, Any] | None) -> bool:
        # Read first, unlike all else: most identify calls repeat what is known, and a read costs half of a write.
        known = _traits(item)
        merged = latest(known, said)
        if merged != known:
            revision = int(item["revision"]["N"]) if item else 0
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
        return True

    def _profiles(self, project: str, users: list[str]) -> dict[str, dict[str, Any] | None]:
        """The profiles of some users as far as they can be read at once; of one user it takes the same call."""
        found: dict[str, dict[str, Any] | None] = {}
        for start in range(0, len(users) if len(users) > 1 else 0, MAX_KEYS):
            some = users[start : start + MAX_KEYS]
            keys = [_key(project, user, PROFILE) for user in some]
            try:
                answer = self.client.batch_get_item(RequestItems={self.name: {"Keys": keys, "ConsistentRead": True}})
            except (BotoCoreError, ClientError):
                break  # each is read by itself, and what stands in the way is noted there
            there = {item["pk"]["S"]: item for item in answer["Responses"].get(self.name, [])}
            # What DynamoDB left out counts as no profile until writing one is refused; then it is read by itself.
            found |= {user: there.get(key["pk"]["S"]) for user, key in zip(some, keys, strict=True)}
        return found

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


def _link_item(project: str, link: Link, *, is_own: bool) -> dict[str, Any]:
    own, sort_key = (link.user, WAS + link.previous) if is_own else (link.previous, BECAME + link.user)
    return {**_key(project, own, sort_key), "project": {"S": project}}


def _key(project: str, user: str, sort_key: str) -> dict[str, Any]:
    return {"pk": {"S": f"{project}#{user}"}, "sk": {"S": sort_key}}


def _traits(item: dict[str, Any] | None) -> Traits:
    if item is None:
        return {}
    words = orjson.loads(zlib.decompress(item["traits"]["B"]))
    return {name: (tuple(moment), value) for name, (moment, value) in words.items()}
