"""Makes an API key, and its project if it is new: `python -m infra.keys --stage prod --project shop --scopes write`.

The key is shown once; the control table keeps its hash. A key is revoked by deleting its item, which works within a
minute (chalicelib/authorize.py).
"""

import secrets
from datetime import UTC, datetime
from typing import Any

from chalicelib.domain.access import Project, Scope
from chalicelib.domain.events import Mode
from chalicelib.storage.control_table import ControlTable
from infra.project import OperatorError, client, run, stage_argument


def make_key(dynamodb: Any, table: str, project: str, mode: Mode, scopes: list[Scope], label: str) -> str:
    """A new key of the project; a project that exists keeps its mode."""
    control, now = ControlTable(dynamodb, table), datetime.now(UTC)
    key = f"tm_{secrets.token_urlsafe(24)}"
    try:
        control.put_project(Project(project, mode, secrets.token_bytes(32)), now)
    except dynamodb.exceptions.ResourceNotFoundException as error:
        raise OperatorError(f"there is no table {table}; make the stack first: python -m infra.stack") from error
    control.put_key(key, project, scopes, label, now)
    return key


def main() -> int:
    """Make it and show it."""
    parser = stage_argument(__doc__)
    parser.add_argument("--project", required=True, help="letters, digits, - and _")
    parser.add_argument("--scopes", nargs="+", required=True, choices=[scope.value for scope in Scope])
    parser.add_argument("--mode", default=Mode.WARN.value, choices=[mode.value for mode in Mode])
    parser.add_argument("--label", default="", help="what the key is for")
    arguments = parser.parse_args()
    if not arguments.project.replace("-", "").replace("_", "").isalnum() or not arguments.project.isascii():
        raise OperatorError(f"a project is named with letters, digits, - and _, and this is {arguments.project!r}")
    table = f"tidemark-{arguments.stage}-control"
    scopes = [Scope(scope) for scope in arguments.scopes]
    print(make_key(client("dynamodb"), table, arguments.project, Mode(arguments.mode), scopes, arguments.label))
    return 0


if __name__ == "__main__":
    run(main)
