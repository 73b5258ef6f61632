"""Put events that the lake lacks back from the hot store, which keeps them for 30 days.

  python -m ops rearchive --stage prod --project shop --hour 2026-11-21T10 --dry-run
  python -m ops rearchive --stage prod --project shop --from 2026-11-20 --to 2026-11-21

For when `archive` has lost a batch for good: the alarms `events-drift` and `hours-not-rearchived` tell, and
`ops reconcile`. It looks through the whole hot store, once for all hours and again for each that lacks something, with
the memory and the network of this machine, and may be stopped and run again: what is there already is left. What was
missing for less than 26 hours is in the lake then, and counts live until its hour is closed.
"""

import argparse
import time
from collections import Counter
from typing import Any

from tqdm import tqdm

from chalicelib.hours.consolidate import Overtaken
from chalicelib.lake_stages import LakeStages
from infra.project import OperatorError
from ops.projects import access_table, known_project
from ops.ranges import add_hours, chosen_hours
from ops.stages import add_common, lake_stages, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops rearchive`."""
    add_common(parser)
    add_hours(parser)
    parser.add_argument("--dry-run", action="store_true", help="tell how many events the lake lacks, and leave it")


def run(arguments: argparse.Namespace) -> int:
    """Count, or put back and close the hours."""
    known_project(access_table(arguments.stage), arguments.project)
    stages, project, missing = lake_stages(arguments.stage), arguments.project, Counter[str]()
    for hour, events in stages.rearchiver.missing(project, chosen_hours(arguments), _now_ms()):
        missing[hour] += len(events)
    rows: list[dict[str, Any]] = []
    for hour, count in tqdm(sorted(missing.items()), unit=" hours", desc="done", disable=None):
        if arguments.dry_run:
            rows.append({"hour": hour, "missing": count})
        else:
            rows.append(
                {"hour": hour, "archived": count, "closed": "yes" if _one(stages, project, hour) else "not yet"}
            )
    show(arguments, rows)
    return 0


def _one(stages: LakeStages, project: str, hour: str) -> bool:
    """Put back what the hour lacks, and close it; whether it is closed."""
    try:
        # Which slot it waits for, if any. Closing puts back by itself what has been missing for long.
        waiting = stages.finisher.finish(project, hour, _now_ms()).closing.waiting
        stages.rearchiver.put_back(project, hour, waiting, _now_ms())
        return stages.finisher.finish(project, hour, _now_ms()).closed
    except Overtaken as error:
        raise OperatorError(str(error)) from error


def _now_ms() -> int:
    return int(time.time() * 1000)
