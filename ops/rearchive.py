"""Put events that the lake lacks back from the hot store, which keeps them for 30 days.

  python -m ops rearchive --stage prod --project shop --hour 2026-11-21T10 --dry-run
  python -m ops rearchive --stage prod --project shop --from 2026-11-20 --to 2026-11-21

For when `archive` has lost a batch for good: the alarms `events-drift` and `hours-not-rearchived` tell, and
`ops reconcile`. It looks through the whole hot store for each hour, here, with the memory and the network of this
machine, and may be stopped and run again: what is there already is left.
"""

import argparse
import time
from typing import Any

from tqdm import tqdm

from chalicelib.consolidate import Overtaken
from infra.project import OperatorError
from ops.hours import Hours
from ops.projects import access_table, known_project
from ops.ranges import add_hours, hours_of
from ops.stages import add_common, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops rearchive`."""
    add_common(parser)
    add_hours(parser)
    parser.add_argument("--dry-run", action="store_true", help="tell how many events the lake lacks, and leave it")


def run(arguments: argparse.Namespace) -> int:
    """Count, or put back and close the hours."""
    known_project(access_table(arguments.stage), arguments.project)
    hours, rows = Hours(arguments.stage), []
    for hour in tqdm(hours_of(arguments), unit=" hours", desc="looked through", disable=None):
        rows += _one(hours, arguments.project, hour, dry_run=arguments.dry_run)
    show(arguments, rows)
    return 0


def _one(hours: Hours, project: str, hour: str, *, dry_run: bool) -> list[dict[str, Any]]:
    if dry_run:
        missing = sum(len(rows) for rows in hours.rearchiver.missing(project, hour, None))
        return [{"hour": hour, "missing": missing}] if missing else []
    now_ms = int(time.time() * 1000)
    try:
        waiting = hours.finisher.finish(project, hour, now_ms).closing.waiting
        found = hours.rearchiver.put_back(project, hour, waiting, now_ms)
        closed = not found or hours.finisher.finish(project, hour, int(time.time() * 1000)).closed
    except Overtaken as error:
        raise OperatorError(str(error)) from error
    return [{"hour": hour, "archived": found, "closed": "yes" if closed else "not yet"}] if found else []
