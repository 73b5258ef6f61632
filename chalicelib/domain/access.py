"""Who may do what: projects, keys with scopes, and the connections of dashboards."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from chalicelib.domain.events import Mode


class Scope(StrEnum):
    """What a key allows."""

    WRITE = "write"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant: every event, rollup, file and connection belongs to one."""

    id: str
    mode: Mode
    # With which a visitor is made of an address and a browser; without it nothing leads back.
    salt: bytes = field(default=b"", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a key stands for."""

    project: Project
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Connection:
    """A dashboard's socket. Empty `topics`: connected, not yet subscribed. `since` is a UTC hour."""

    id: str
    project: str
    domain: str
    stage: str
    expires_at: datetime
    topics: tuple[str, ...] = ()
    since: str = ""


def key_of(headers: Mapping[str, str]) -> str | None:
    """The API key of a request: x-api-key, a bearer token, or the user name of Basic credentials.

    Header names are lower case.
    """
    if key := headers.get("x-api-key"):
        return key
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip() or None
    if kind.lower() == "basic":
        try:
            return b64decode(value, validate=True).decode().partition(":")[0] or None
        except ValueError:
            return None
    return None
