"""Write rollups, or the events table, again from the lake.

  python -m ops rebuild rollups --stage prod --project shop --from 2026-11-01 --to 2026-11-21
  python -m ops rebuild events --stage prod --project shop --from 2026-11-01 --to 2026-11-21

`rollups` closes each hour again, wrong or not; `ops reconcile` only those that differ. `events` puts back the chunks
that are missing and would not have expired, and what was said of users; nothing is counted or archived again. Each may
be stopped and run again, and beside others of other hours.
"""

import argparse
import time
from dataclasses import asdict

from tqdm import tqdm

from chalicelib.hours.reconcile import AGREES
from chalicelib.lake.rebuild import NotConsolidated
from infra.project import OperatorError
from ops import reconcile
from ops.projects import access_table, known_project
from ops.ranges import add_hours, chosen_hours
from ops.stages import add_common, lake_stages, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops rebuild`."""
    parser.add_argument("what", choices=("rollups", "events"), help="what is written again")
    add_common(parser)
    add_hours(parser)


def run(arguments: argparse.Namespace) -> int:
    """Rebuild, and tell what was written."""
    if arguments.what == "rollups":
        done = list(reconcile.reconciled(arguments, repair=True, force=True))
        rows = [{"start": d.start, "state": d.state, "events": d.events, "wrong": len(d.differences)} for d in done]
        show(arguments, [row for row in rows if row["events"] or row["state"] != AGREES])
        return 0
    known_project(access_table(arguments.stage), arguments.project)
    hours = tqdm(chosen_hours(arguments), unit=" hours", desc="rebuilt", disable=None)
    try:
        rebuilt = lake_stages(arguments.stage).rebuilder.rebuild(arguments.project, hours, int(time.time() * 1000))
    except NotConsolidated as error:
        raise OperatorError(str(error)) from error
    show(arguments, [asdict(rebuilt)])
    return 0
