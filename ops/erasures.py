"""Erase a user, list erasures, or carry them out here.

  python -m ops erasures request --stage prod --project shop --user ada
  python -m ops erasures list --stage prod --project shop
  python -m ops erasures run --stage prod

The function `erase` carries out what is requested, within some four hours. `run` does a run of it on this machine, for
all projects, with no limit to its time: for hours of the lake that are too large for the function.
"""

import argparse
import time
from typing import Any

from chalicelib.base.errors import InvalidRequest
from chalicelib.stages import Stages
from infra.project import OperatorError
from ops.projects import access_table, known_project
from ops.stages import StageStores, add_common, add_yes, confirm, contracts, lake_stages, show, show_one

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
    stores = StageStores(arguments.stage)
    profiler = Stages(stores, contracts).profiler
    ids = stores.users.ids_of(arguments.project, arguments.user, stores.events.is_user)
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
    found = StageStores(arguments.stage).erasures.page(arguments.project, SHOWN, None)["erasures"]
    show(arguments, [_row(arguments, receipt) for receipt in found])


def run_here(arguments: argparse.Namespace) -> None:
    """One run, of as long as it takes; shows those that are not done."""
    stages = lake_stages(arguments.stage, whole=True)
    stages.eraser.run()
    show(arguments, [_row(arguments, one.shown()) for one in stages.stores.erasures.open()])


def _row(arguments: argparse.Namespace, receipt: dict[str, Any]) -> dict[str, Any]:
    if arguments.json:
        return receipt
    removed = ", ".join(f"{count:,} {place}" for place, count in receipt["removed"].items())
    return {**receipt, "removed": removed}
