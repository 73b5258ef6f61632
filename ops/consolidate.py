"""Consolidate and close hours now: those too large for the schedule, or which it does not know.

  python -m ops consolidate --stage prod --dry-run
  python -m ops consolidate --stage prod --project shop --hour 2026-11-21T10

Without --hour, every hour that is waiting, its rest or another run's work or not. It runs here, with the memory and the
network of this machine. Readers see each event once at any time, and it may be stopped and run again.
"""

import argparse
import sys
import time
from typing import Any

from tqdm import tqdm

from chalicelib.hours.consolidate import Overtaken
from chalicelib.stores import Stores
from infra.project import OperatorError
from ops.projects import access_table, known_project
from ops.ranges import read_hour
from ops.stages import WAITING, add_common, lake_stages, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops consolidate`."""
    add_common(parser)
    parser.add_argument("--project", help="only of this project")
    parser.add_argument("--hour", type=read_hour, metavar="HOUR", help="this hour, UTC, such as 2026-11-21T10")
    parser.add_argument("--dry-run", action="store_true", help="tell what is waiting, and leave it")


def run(arguments: argparse.Namespace) -> int:
    """Tell, or consolidate."""
    if arguments.hour and not arguments.project:
        raise OperatorError("--hour needs the --project whose hour it is")
    stage = arguments.stage
    if arguments.project:
        known_project(access_table(stage), arguments.project)
    of_stage = lake_stages(stage)
    hours = [(arguments.project, arguments.hour)] if arguments.hour else _waiting(of_stage.stores, arguments.project)
    if arguments.dry_run:
        show(arguments, [_described(of_stage.stores, project, hour) for project, hour in hours])
        return 0
    rows = []
    for project, hour in tqdm(hours, unit=" hours", desc="consolidated", disable=None):
        try:
            done = of_stage.finisher.finish(project, hour, int(time.time() * 1000))
        except Overtaken as error:
            raise OperatorError(str(error)) from error
        if not done.closed:
            print(f"{project} {hour} is not closed yet: {WAITING}", file=sys.stderr)
        rows.append(done.consolidated.row())
    show(arguments, rows)
    return 0


def _waiting(stores: Stores, project: str | None) -> list[tuple[str, str]]:
    found = stores.hours.unsettled(project) if project else stores.hours.waiting()
    return sorted(((each.project, each.hour) for each in found if each.is_dirty), key=lambda key: key[::-1])


def _described(stores: Stores, project: str, hour: str) -> dict[str, Any]:
    state = stores.hours.get(project, hour)
    held = stores.folders.held(state)
    used = {**held.current, **held.fresh}
    return {
        "project": project,
        "hour": hour,
        "dirty": state.is_dirty,
        "files": len(used),
        "size_bytes": sum(used.values()),
        "absorbed": len(held.others),
    }
