"""The projects and API keys that every local cloud has, so that the first request needs no set-up."""

import secrets
from datetime import UTC, datetime
from typing import Any

from chalicelib.access.access import ApiKey, Project, Scope
from chalicelib.access.access_table import AccessTable, digest_of
from chalicelib.access.quotas import UNLIMITED
from chalicelib.events.events import Mode

PROJECTS = {"demo": Mode.INFER, "other": Mode.WARN}
SCOPES = {"write": [Scope.WRITE], "read": [Scope.READ], "admin": [Scope.WRITE, Scope.READ, Scope.ADMIN]}


def seed(dynamodb: Any, control_table: str) -> None:
    """Put what is missing; what is there stays as it is, a revoked key too."""
    access, now = AccessTable(dynamodb, control_table), datetime.now(UTC)
    for project, mode in PROJECTS.items():
        access.put_project(Project(project, mode, salt=secrets.token_bytes(32)), UNLIMITED, now)
        for kind, scopes in SCOPES.items():
            digest = digest_of(f"{project}-{kind}")
            access.put_key(ApiKey(project, digest, tuple(scopes), f"local {kind} key", now))
