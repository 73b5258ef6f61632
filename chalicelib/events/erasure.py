"""Erasure: whose events are removed, and which of them are dropped when they still arrive.

What is kept of an erased user is a marker: a hash of project and id, and until when what occurred is dropped. All that
arrives late, out of a queue, a replay or an import, is held against the markers of its project.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from chalicelib.base.time_windows import DAY_MS, iso_ms
from chalicelib.events.events import user_of

FOR_EVER_MS = 10**15
COPIES_DAYS = 35  # after the end: how far back the tables can be restored; replaced objects are gone after 7
ID_NAMES = frozenset(
    {"user_id", "anonymous_id", "previous_id", "userId", "anonymousId", "previousId"}
)  # in our form, and as SDKs send them
_WORDS = re.compile(r"[\w@.+:/-]+")
MIN_WORD = 6  # characters: a shorter id is the number of a line, or a price, too often
MAX_IDS = 1000  # of one person

Until = Mapping[str, int]  # by id: what occurred before this time (Unix milliseconds) is removed


class Arrivals(StrEnum):
    """What a project does with events of erased users that still arrive."""

    DROP = "drop"  # none is kept, ever
    ACCEPT = "accept"  # what occurs once the markers are known everywhere is somebody new


class State(StrEnum):
    """How far an erasure is."""

    REQUESTED = "requested"
    REMOVING = "removing"
    WAITING = "waiting"  # for files that queries may still be reading, and then for a last look
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Marker:
    """What is kept of an erased id; times are Unix milliseconds."""

    digest: str
    marked_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """One user of one project; the ids are forgotten at the end. Times are Unix milliseconds, days UTC."""

    id: str
    project: str
    state: State
    requested_ms: int
    digest: str = ""  # of the user
    user: str | None = None
    ids: tuple[str, ...] = ()  # the user's own, and those they had before, once they are known
    marked_ms: int | None = None
    until_ms: int | None = None
    files_done: bool = False  # all but the lake
    next_day: str = ""  # of the lake, the first that was not looked through
    swept_ms: int | None = None  # when all days had been
    days: frozenset[str] = frozenset()  # on which there was something
    removed: Mapping[str, int] = field(default_factory=dict)  # by place
    done_ms: int | None = None

    @property
    def until(self) -> dict[str, int]:
        """What is to be removed."""
        return dict.fromkeys(self.ids, self.until_ms or 0)

    def shown(self) -> dict[str, Any]:
        """Return the receipt; the user is named until it is done."""
        end = self.done_ms
        return {
            "id": self.id,
            "state": self.state.value,
            "user_id": self.user,
            "ids": list(self.ids),
            "requested_at": iso_ms(self.requested_ms),
            "done_at": None if end is None else iso_ms(end),
            "removed": dict(sorted(self.removed.items())),
            "copies_until": None if end is None else iso_ms(end + COPIES_DAYS * DAY_MS),
        }


def digest_of_user(project: str, user: str) -> str:
    """Return what stands for an erased id."""
    return blake2b(user.encode(), key=project.encode(), digest_size=16).hexdigest()


def split(
    events: Iterable[dict[str, Any]], markers: Mapping[str, Marker], project: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the stored events that no marker of the project drops, and the others; `markers` by digest."""
    until: dict[str | None, int] = {None: 0}
    left: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    for event in events:
        user = user_of(event)
        if user not in until:
            marker = markers.get(digest_of_user(project, str(user)))
            until[user] = marker.until_ms if marker else 0
        (left if event["occurred_at"] >= until[user] else gone).append(event)
    return left, gone


def words_of(value: Any) -> set[str]:
    """Return what may be the id of whom something is: in an event of any form by the names of ids, else every word."""
    if isinstance(value, str):
        return {*_WORDS.findall(value)}
    if not isinstance(value, dict):
        return set()
    named = {str(value[name]) for name in ID_NAMES if isinstance(value.get(name), str | int) and value[name]}
    return named or set(_texts(value))


def mentions(value: Any, ids: Iterable[str]) -> bool:
    """Return whether an event that could not be taken, or a row of a file, is of one of the ids."""
    return not words_of(value).isdisjoint(ids)


def _texts(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list | tuple):
            left += one
        elif isinstance(one, str):
            yield one


def mentioned_in(text: bytes, ids: Iterable[str]) -> bool:
    """Whether one of the ids stands in a text that is no JSON: in quotes, or, a longer one, as a word by itself."""
    for each in ids:
        word = re.escape(each.encode())
        quoted = rb"""["']""" + word + rb"""["']"""
        alone = rb"(?<![\w@.-])" + word + rb"(?![\w@-])" if len(each) >= MIN_WORD else quoted
        if re.search(quoted + rb"|" + alone, text):
            return True
    return False
