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

from chalicelib.base.batches import BatchWriter
from chalicelib.base.dynamo import Item, Table, delete, key, put
from chalicelib.base.errors import Unavailable
from chalicelib.base.retries import CONTENDED_TRIES, THROTTLED, Retries, code_of
from chalicelib.events.erasure import MAX_IDS
from chalicelib.events.identity import Link, Said, Traits, latest
from chalicelib.events.records import NO_CHUNK

PROFILE = f"{NO_CHUNK}profile"
BECAME = f"{NO_CHUNK}user#"
WAS = f"{NO_CHUNK}previous#"
MAX_KNOWN_LINKS = 10_000
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
        for tries_left in Retries(CONTENDED_TRIES, self.sleep, self.chance).tries():
            is_first = tries_left == CONTENDED_TRIES - 1
            busy: dict[str, Traits] = {}
            for user, traits in left.items():
                if self.clock() >= until:
                    kept = False if is_first else None
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
        """Return what was said of a user, by trait."""
        return _traits(self._profile(project, user))

    def links(self, project: str, user: str) -> tuple[list[str], list[str]]:
        """Return the ids that the user had before, and those that this id became; at most MAX_IDS of either."""
        before, became = (
            [sort_key.removeprefix(prefix) for sort_key in islice(self._sort_keys(project, user, prefix), MAX_IDS)]
            for prefix in (WAS, BECAME)
        )
        return before, became

    def ids_of(self, project: str, user: str, is_user: Callable[[str, str], bool]) -> list[str]:
        """Return the user's id, and those before it that became nobody else, and never were users; at most MAX_IDS.

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
            self._table.write(delete(_key(project, other, sort_key)))
        return len(others)

    def _put_links(self, project: str, links: Iterable[Link], until: float) -> set[Link]:
        """Put links that this container has not put lately; returns those that the table did not take."""
        left = [link for link in links if self.clock() - self.known.get((project, link), -math.inf) > KNOWN_SECONDS]
        missed: set[Link] = set()
        # The user's own first, by which erasure finds the other one, also where a process dies in between.
        for is_own in (True, False):
            puts = [put(_link_item(project, link, is_own=is_own)) for link in left]
            unwritten = BatchWriter(self._table).write(puts, lambda: self.clock() < until)
            gone = unwritten.refused | unwritten.invalid
            if gone:
                log.warning("links not learned", extra={"project": project, "reason": next(iter(gone.values()))})
            missed |= {left[number] for number in gone}
            left = [link for number, link in enumerate(left) if number not in gone]
        if len(self.known) + len(left) > MAX_KNOWN_LINKS:
            self.known.clear()
        self.known.update(dict.fromkeys(((project, link) for link in left[:MAX_KNOWN_LINKS]), self.clock()))
        return missed

    def _learn_traits(self, project: str, user: str, said: Traits, profiles: dict[str, Item | None]) -> bool | None:
        """Whether the traits are kept; None when others write the profile at the same time. A profile is taken as it
        was read before once only."""
        try:
            item = profiles.pop(user) if user in profiles else self._profile(project, user)
            return self._add_traits(project, user, said, item)
        except (BotoCoreError, ClientError) as error:
            if code_of(error) in THROTTLED:
                return None
            log.warning("traits not learned", extra={"project": project, "reason": str(error)})
            return False

    def _add_traits(self, project: str, user: str, said: Traits, item: Item | None) -> bool | None:
        # Read first, unlike all else: most identify calls repeat what is known, and a read costs half of a write.
        known = _traits(item)
        merged = latest(known, said)
        if merged == known:
            return True
        revision = item["revision"] if item else 0
        profile = {
            **_key(project, user, PROFILE),
            "project": project,
            "revision": revision + 1,
            "traits": zlib.compress(orjson.dumps(merged)),
        }
        is_unchanged = "attribute_not_exists(revision) OR revision = :read"
        return self._table.write(put(profile, is_unchanged, {"read": revision})) or None

    def _profiles(self, project: str, users: list[str]) -> dict[str, Item | None]:
        """Return the profiles of some users if they can be read at once; of one user it takes the same call."""
        if len(users) < 2:
            return {}
        keys = [_key(project, user, PROFILE) for user in users]
        try:
            there = {item["pk"]: item for item in self._table.get_many(keys)}
        except (Unavailable, BotoCoreError, ClientError):
            return {}  # each is read by itself, and what stands in the way is noted there
        return {user: there.get(at["pk"]) for user, at in zip(users, keys, strict=True)}

    def _profile(self, project: str, user: str) -> Item | None:
        return self._table.get(_key(project, user, PROFILE))

    def _sort_keys(self, project: str, user: str, prefix: str) -> Iterator[str]:
        items = self._table.query(f"{project}#{user}", "begins_with(sk, :prefix)", {"prefix": prefix}, fields="sk")
        return (item["sk"] for item in items)

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name, Retries(sleep=self.sleep, chance=self.chance))


def _link_item(project: str, link: Link, *, is_own: bool) -> Item:
    own, sort_key = (link.user, WAS + link.previous) if is_own else (link.previous, BECAME + link.user)
    return {**_key(project, own, sort_key), "project": project}


def _key(project: str, user: str, sort_key: str) -> Item:
    return key(f"{project}#{user}", sort_key)


def _traits(item: Item | None) -> Traits:
    if item is None:
        return {}
    words = orjson.loads(zlib.decompress(item["traits"]))
    return {name: (tuple(moment), value) for name, (moment, value) in words.items()}
