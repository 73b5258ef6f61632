"""Who a user is: traits from identify and group calls, and which anonymous ids became which user.

Calls come twice, late and out of order, so each trait is kept with when it was said: the latest word counts, whatever
order the words arrive in, and a word that is repeated changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from chalicelib.events.events import IDENTITY_TYPES, StoredEvent, moment_of, user_of

MAX_TRAITS = 200
MAX_LINKED_BYTES = 1000  # of an id that is linked: it is in a sort key, of which DynamoDB takes 1,024 bytes
MAX_TRAIT_BYTES = 1024  # as JSON; with their names and times, all fit an item of 400 KB

Moment = tuple[int, str, str]  # in the order of `moment_of`
Word = tuple[Moment, Any]  # when it was said, and what
Traits = dict[str, Word]


@dataclass(frozen=True, slots=True)
class Link:
    """An id that a person had before, and the one they have now."""

    previous: str
    user: str


@dataclass(slots=True)
class Said:
    """What the events of a message, or of several, say of a project's users."""

    traits: dict[str, Traits] = field(default_factory=dict)  # by user
    links: set[Link] = field(default_factory=set)

    def hear(self, event: StoredEvent) -> None:
        """Take in one event; most say nothing."""
        event_type = event["event_type"]
        if event_type not in IDENTITY_TYPES:
            return
        properties = event.get("properties") or {}
        user, anonymous = event.get("user_id"), event.get("anonymous_id")
        previous = properties.get("previous_id") if event_type == "alias" else anonymous
        if user and isinstance(previous, str) and previous and previous != user and _linkable(user, previous):
            self.links.add(Link(previous, user))
        who = user_of(event)
        if who and event_type == "identify":
            self._note(who, properties.items(), event)
        elif who and event_type == "group" and properties.get("group_id"):
            self._note(who, [("group_id", properties["group_id"])], event)

    def _note(self, user: str, traits: Iterable[tuple[str, Any]], event: StoredEvent) -> None:
        moment = moment_of(event)
        known = self.traits.setdefault(user, {})
        said = {name: (moment, value) for name, value in traits if _fits(name, value)}
        # Of one millisecond the words of a message stand in their order, which ids do not keep.
        tied = {name: word for name, word in said.items() if name in known and known[name][0][:2] == moment[:2]}
        self.traits[user] = latest(known, said) | tied

    def link(self, events: Iterable[StoredEvent]) -> None:
        """Take in of some events which ids became which, and nothing else."""
        heard = Said()
        for event in events:
            heard.hear(event)
        self.links |= heard.links

    def merge(self, other: "Said") -> None:
        """Take in what another message says."""
        self.links |= other.links
        for user, traits in other.traits.items():
            self.traits[user] = latest(self.traits.get(user, {}), traits)


def latest(one: Mapping[str, Word], other: Mapping[str, Word]) -> Traits:
    """Of each trait the later word; of too many traits those that were said last."""
    merged = dict(one)
    for name, word in other.items():
        if name not in merged or word[0] > merged[name][0]:
            merged[name] = word
    if len(merged) > MAX_TRAITS:
        kept = sorted(merged, key=lambda name: (merged[name][0], name), reverse=True)[:MAX_TRAITS]
        merged = {name: merged[name] for name in kept}
    return merged


def _linkable(*ids: str) -> bool:
    return all(len(each.encode()) <= MAX_LINKED_BYTES for each in ids)


def _fits(name: str, value: Any) -> bool:
    return len(orjson.dumps([name, value])) <= MAX_TRAIT_BYTES
