"""Create, list, show and set projects.

  python -m ops projects create --stage prod --project shop --mode warn
  python -m ops projects set --stage prod --project shop --mode enforce --monthly-quota 50000000
  python -m ops projects list --stage prod

A project's limits hold for each of its keys that has none of its own.
"""

import argparse
import re
import secrets
from datetime import UTC, datetime
from typing import Any

from chalicelib.access.access import Project
from chalicelib.access.access_table import AccessTable, ProjectSettings
from chalicelib.events.erasure import Arrivals
from chalicelib.events.events import Mode
from infra.project import OperatorError
from ops.stages import (
    StageStores,
    add_common,
    add_limits,
    described,
    given_limits,
    new_limits,
    show,
    show_one,
)

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # part of keys, file names and SQL
SALT_BYTES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops projects`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    modes = [mode.value for mode in Mode]
    meaning = "what to do with event types that have no contract"
    for name, work, what in (
        ("create", create, "make a project"),
        ("list", list_all, "every project"),
        ("show", show_project, "one project"),
        ("set", change, "change a project's mode and default limits; works within a minute"),
    ):
        action = actions.add_parser(name, help=what, description=what)
        add_common(action)
        action.set_defaults(work=work)
        if name != "list":
            action.add_argument("--project", required=True, help="letters, digits, - and _")
        if name == "create":
            action.add_argument("--mode", choices=modes, default=Mode.WARN.value, help=f"{meaning} (%(default)s)")
            add_limits(action)
        if name == "set":
            action.add_argument("--mode", choices=modes, help=meaning)
            action.add_argument(
                "--erased-users",
                choices=[each.value for each in Arrivals],
                help="what becomes of events of erased users that still arrive; for erasures from now on",
            )
            add_limits(action, removable=True)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    arguments.work(arguments, access_table(arguments.stage))
    return 0


def create(arguments: argparse.Namespace, access: AccessTable) -> None:
    """Make a project."""
    if not NAME.fullmatch(arguments.project):
        raise OperatorError(f"a name of a project has 1 to 64 letters, digits, - and _; this is {arguments.project!r}")
    project = Project(arguments.project, Mode(arguments.mode), secrets.token_bytes(SALT_BYTES))
    if not access.put_project(project, new_limits(arguments), datetime.now(UTC)):
        raise OperatorError(f"project {project.id} exists already; `projects set` changes it")
    show_project(arguments, access)


def list_all(arguments: argparse.Namespace, access: AccessTable) -> None:
    """Every project."""
    show(arguments, [row(settings) for settings in access.projects()])


def show_project(arguments: argparse.Namespace, access: AccessTable) -> None:
    """One project."""
    show_one(arguments, row(known_project(access, arguments.project)))


def change(arguments: argparse.Namespace, access: AccessTable) -> None:
    """Change what the command line names."""
    limits = given_limits(arguments)
    if arguments.mode is None and arguments.erased_users is None and not limits:
        raise OperatorError("nothing to change was named: --mode, --erased-users, --rate, --burst, --monthly-quota")
    known = known_project(access, arguments.project).limits
    rate = limits.get("rate_per_second", known.rate_per_second)
    if rate is None:
        if limits.get("burst") is not None:
            raise OperatorError(f"a burst of {limits['burst']} needs a rate too: --rate")
        limits["burst"] = None
    mode = Mode(arguments.mode) if arguments.mode else None
    erased_users = Arrivals(arguments.erased_users) if arguments.erased_users else None
    access.change_project(arguments.project, mode, limits, erased_users)
    show_project(arguments, access)


def known_project(access: AccessTable, name: str) -> ProjectSettings:
    """Return the project; raises OperatorError when there is none."""
    found = access.project(name)
    if found is None:
        raise OperatorError(f"there is no project {name!r}; `projects list` names them, `projects create` makes one")
    return found


def access_table(stage: str) -> AccessTable:
    """Return the stage's projects and keys; raises OperatorError when the stage is not there."""
    found = StageStores(stage).access
    dynamodb, table = found.client, found.name
    try:
        dynamodb.describe_table(TableName=table)
    except dynamodb.exceptions.ResourceNotFoundException as error:
        raise OperatorError(
            f"there is no table {table} in {dynamodb.meta.region_name}; create it first: make stack STAGE={stage}"
        ) from error
    return found


def row(settings: ProjectSettings) -> dict[str, Any]:
    """Return what is shown of a project."""
    return {
        "project": settings.id,
        "mode": settings.mode.value,
        "erased_users": settings.erased_users.value,
        **described(settings.limits),
        "created": settings.created_at.isoformat(timespec="seconds"),
    }
