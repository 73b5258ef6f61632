"""The projects and API keys that every local cloud has, so that the first request needs no set-up."""

import secrets
from datetime import UTC, datetime
from typing import Any

from chalicelib.domain.access import Project, Scope
from chalicelib.domain.events import Mode
from chalicelib.storage.control_table import ControlTable

PROJECTS = {"demo": Mode.INFER, "other": Mode.WARN}
SCOPES = {"write": [Scope.WRITE], "read": [Scope.READ], "admin": [Scope.WRITE, Scope.READ, Scope.ADMIN]}


def seed(dynamodb: Any, control_table: str) -> None:
    """Put what is missing; what is there stays as it is."""
    control, now = ControlTable(dynamodb, control_table), datetime.now(UTC)
    for project, mode in PROJECTS.items():
        control.put_project(Project(project, mode, salt=secrets.token_bytes(32)), now)
        for kind, scopes in SCOPES.items():
            control.put_key(f"{project}-{kind}", project, scopes, f"local {kind} key", now)
