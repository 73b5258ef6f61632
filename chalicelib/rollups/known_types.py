"""Which event types of a project have a name of their own, and how many more may get one; others count as OTHER."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from chalicelib.rollups.rollups import OTHER

MAX_MADE_UP_TYPES = 1000  # of a project, without a contract: each costs a write once, and a place in every answer
LIVE_SHARE = 0.5  # of these places are for types as they are met, so that nobody's flood takes them all; …
CLOSING_SHARE = 0.1  # … of those that are left, each closed hour gives so many to its most frequent types


@dataclass(frozen=True, slots=True)
class KnownTypes:
    """The event types of a project, each with the first hour in which it has its name; `read_at` is Unix seconds."""

    read_at: float
    since: dict[str, str]

    def has(self, event_type: str, hour: str) -> bool:
        """Return whether the type has its own name in the hour; of no hour, in any."""
        since = self.since.get(event_type)
        return since is not None and (not hour or since <= hour)

    def names(self, event_types: Iterable[str], hour: str) -> dict[str, str]:
        """Return under which name each type is counted in the hour: its own, or OTHER."""
        return {name: name if self.has(name, hour) else OTHER for name in event_types}


@dataclass(slots=True)
class Places:
    """How many types without a contract may get a name yet: of live ones, and of all that are met now."""

    live: int
    left_over: int
    contracted: Container[str]

    @classmethod
    def left(cls, since: Mapping[str, str], contracted: Container[str], *, closing: bool) -> "Places":
        """Return what is left by the types that have a name."""
        made_up = sum(name not in contracted for name in tuple(since))  # to which another thread may add
        live = int(LIVE_SHARE * MAX_MADE_UP_TYPES) - made_up
        of_closing = ceil(CLOSING_SHARE * (MAX_MADE_UP_TYPES - made_up)) if closing else 0
        return cls(live, max(live, of_closing), contracted)

    def are_for(self, event_type: str) -> bool:
        """Return whether the new type has a place."""
        return event_type in self.contracted or self.left_over > 0

    def take(self, event_type: str, hour: str) -> str:
        """Take the new type's place; return the first hour in which it has its name, or nothing for all hours."""
        if event_type in self.contracted:
            return ""
        # While there are places for live types, no hour has counted any type as OTHER: an earlier one, which is
        # closed later, is to name this type too.
        since = hour if self.live <= 0 else ""
        self.live -= 1
        self.left_over -= 1
        return since
