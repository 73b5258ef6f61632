"""A dashboard's connection."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Connection:
    """A dashboard's socket. Empty `topics`: connected, not yet subscribed. `since` is a UTC hour.

    `subscription` counts its subscriptions, and is in every frame of the last one. It was asked for at `subscribed_at`,
    in Unix seconds, before its snapshot was read.
    """

    id: str
    project: str
    domain: str
    stage: str
    expires_at: datetime
    topics: tuple[str, ...] = ()
    since: str = ""
    subscription: int = 0
    subscribed_at: int = 0
