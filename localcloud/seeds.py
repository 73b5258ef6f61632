"""The projects and API keys that every local cloud has, so that the first request needs no set-up."""

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

PROJECTS = {"demo": "infer", "other": "warn"}  # a project and its mode
SCOPES = {"write": ["write"], "read": ["read"], "admin": ["write", "read", "admin"]}


def seed(dynamodb: Any, control_table: str) -> None:
    """Put what is missing; what is there stays as it is."""
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    items: list[dict[str, Any]] = []
    for project, mode in PROJECTS.items():
        items.append(
            {
                "pk": {"S": f"project#{project}"},
                "sk": {"S": "project"},
                "project": {"S": project},
                "mode": {"S": mode},
                "created_at": {"S": created_at},
            }
        )
        for kind, scopes in SCOPES.items():
            key = f"{project}-{kind}"
            items.append(
                {
                    "pk": {"S": f"key#{sha256(key.encode()).hexdigest()}"},
                    "sk": {"S": "key"},
                    "project": {"S": project},
                    "scopes": {"L": [{"S": scope} for scope in scopes]},
                    "label": {"S": f"local {kind} key"},
                    "created_at": {"S": created_at},
                }
            )
    for item in items:
        try:
            dynamodb.put_item(TableName=control_table, Item=item, ConditionExpression="attribute_not_exists(pk)")
        except dynamodb.exceptions.ConditionalCheckFailedException:
            continue
