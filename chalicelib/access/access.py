"""Who may do what: projects, keys with scopes, and the connections of dashboards."""

import math
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from chalicelib.access.quotas import UNLIMITED, Allowance, Limits
from chalicelib.events.events import Mode

ID_DIGITS = 8


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
    # What the key that was shown may still send; None of one without limits.
    allowance: Allowance | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a key stands for, and until when, in Unix seconds."""

    project: Project
    scopes: frozenset[str]
    ends_at: float = math.inf


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as operators see it; the key itself is known to its user alone."""

    project: str
    digest: str  # its SHA-256
    scopes: tuple[Scope, ...]
    label: str
    created_at: datetime
    limits: Limits = UNLIMITED  # its own; where there is none, the project's default holds
    counter: str = ""  # what it has sent is counted here: under its own id, or that of the key it replaced
    ends_at: datetime | None = None  # of a key that is replaced
    replaced_by: str = ""
    revoked_at: datetime | None = None

    @property
    def id(self) -> str:
        """What names it in commands and lists."""
        return self.digest[:ID_DIGITS]

    def state(self, now: datetime) -> str:
        """`active`, `ending` (replaced, and still good until `ends_at`), `over` or `revoked`."""
        if self.revoked_at:
            return "revoked"
        if self.ends_at is None:
            return "active"
        return "ending" if now < self.ends_at else "over"


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the API key of a request: x-api-key, a bearer token, or the user name of Basic credentials.

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
