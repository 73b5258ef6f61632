"""The projects and API keys that every local cloud has, so that the first request needs no set-up."""

from datetime import UTC, datetime
from typing import Any

from chalicelib.domain.access import Project, Scope
from chalicelib.domain.events import Mode
from chalicelib.storage.control_table import ControlTable

PROJECTS = (Project("demo", Mode.INFER), Project("other", Mode.WARN))
SCOPES = {"write": [Scope.WRITE], "read": [Scope.READ], "admin": [Scope.WRITE, Scope.READ, Scope.ADMIN]}


def seed(dynamodb: Any, control_table: str) -> None:
    """Put what is missing; what is there stays as it is."""
    control, now = ControlTable(dynamodb, control_table), datetime.now(UTC)
    for project in PROJECTS:
        control.put_project(project, now)
        for kind, scopes in SCOPES.items():
            control.put_key(f"{project.id}-{kind}", project.id, scopes, f"local {kind} key", now)
