"""Erase a user, list erasures, or carry them out here.

  python -m ops erasures request --stage prod --project shop --user ada
  python -m ops erasures list --stage prod --project shop
  python -m ops erasures run --stage prod

The function `erase` carries out what is requested, within some four hours. `run` does a run of it on this machine, for
all projects, with no limit to its time: for hours of the lake that are too large for the function.
"""

import argparse
import os
import time
from dataclasses import replace
from types import ModuleType
from typing import Any

from chalicelib import wiring
from chalicelib.domain.errors import InvalidRequest
from chalicelib.profile import Profiler
from chalicelib.settings import MissingSetting
from chalicelib.storage.erasures_table import ErasuresTable
from chalicelib.storage.events_table import EventsTable
from chalicelib.storage.users_table import UsersTable
from infra.project import ROOT, OperatorError
from ops.projects import access_table, known_project
from ops.stages import add_common, add_yes, client, confirm, environment, show, show_one

SHOWN = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops erasures`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, work, what in (
        ("request", request, "have a user erased, with all ids before; nothing brings them back"),
        ("list", list_all, "a project's erasures, the latest first, with what was removed where"),
        ("run", run_here, "carry out what is requested, here"),
    ):
        action = actions.add_parser(name, help=what, description=what)
        add_common(action)
        action.set_defaults(work=work)
        if name != "run":
            action.add_argument("--project", required=True, help="whose user it is")
        if name == "request":
            action.add_argument("--user", required=True, help="the id")
            add_yes(action)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    arguments.work(arguments)
    return 0


def request(arguments: argparse.Namespace) -> None:
    """What `DELETE /users/{id}` does."""
    known_project(access_table(arguments.stage), arguments.project)
    dynamodb, table = client(arguments.stage, "dynamodb"), environment(arguments.stage)["EVENTS_TABLE"]
    events, users = EventsTable(dynamodb, table), UsersTable(dynamodb, table)
    profiler = Profiler(events, users, erasures_table(arguments.stage), wiring.new_event_id)
    ids = users.ids_of(arguments.project, arguments.user, events.is_user)
    others = f", and with it the earlier ids {', '.join(ids[1:])}," if ids[1:] else ""
    confirm(arguments, f"Erase all that there is of user {arguments.user!r}{others} of {arguments.project}?")
    try:
        receipt = profiler.request_erasure(arguments.project, arguments.user, int(time.time() * 1000))
    except InvalidRequest as error:
        raise OperatorError(error.message) from error
    show_one(arguments, _row(arguments, receipt))


def list_all(arguments: argparse.Namespace) -> None:
    """The latest ones."""
    known_project(access_table(arguments.stage), arguments.project)
    found = erasures_table(arguments.stage).page(arguments.project, SHOWN, None)["erasures"]
    show(arguments, [_row(arguments, receipt) for receipt in found])


def run_here(arguments: argparse.Namespace) -> None:
    """One run, of as long as it takes; shows those that are not done."""
    app = wiring_of(arguments.stage)
    replace(app.eraser(), seconds=None).run()
    show(arguments, [_row(arguments, one.shown()) for one in app.erasures_table().open()])


def erasures_table(stage: str) -> ErasuresTable:
    """The stage's."""
    return ErasuresTable(client(stage, "dynamodb"), environment(stage)["CONTROL_TABLE"])


def wiring_of(stage: str) -> ModuleType:
    """The app's own, of the stage, with the caller's credentials; raises OperatorError where it was never recorded."""
    variables = environment(stage)
    os.environ.update(variables)
    if "AWS_CONFIG_FILE" in variables:
        os.environ["AWS_CONFIG_FILE"] = str(ROOT / variables["AWS_CONFIG_FILE"])
    try:
        wiring.settings()
    except MissingSetting as error:
        raise OperatorError(str(error)) from error
    return wiring


def _row(arguments: argparse.Namespace, receipt: dict[str, Any]) -> dict[str, Any]:
    if arguments.json:
        return receipt
    removed = ", ".join(f"{count:,} {place}" for place, count in receipt["removed"].items())
    return {**receipt, "removed": removed}
