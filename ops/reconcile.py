"""Compare closed hours with the lake, number by number, and close again those that differ.

  python -m ops reconcile --stage prod --project shop --hour 2026-11-21T10 --dry-run
  python -m ops reconcile --stage prod --project shop --from 2026-11-01 --to 2026-11-21

The function `reconcile` does the same with yesterday's hours every night. It runs here, with the memory and the network
of this machine, and may be stopped and run again. With --dry-run nothing is written. The exit code is 1 where numbers
of closed hours differ, or differ still; an hour that waits to be closed again is told, and is no error.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from chalicelib.base.time_windows import day_of, hours_of, is_last_of_day
from chalicelib.hours.consolidate import Overtaken
from chalicelib.hours.reconcile import AGREES, DIFFERS, NO_FILE, WAITS, NotRepaired, Reconciled
from infra.project import OperatorError
from ops.projects import access_table, known_project
from ops.ranges import add_hours, chosen_hours
from ops.stages import WAITING, add_common, lake_stages, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops reconcile`."""
    add_common(parser)
    add_hours(parser)
    parser.add_argument("--dry-run", action="store_true", help="tell what differs, and leave it")


def run(arguments: argparse.Namespace) -> int:
    """Compare, and repair."""
    done = list(reconciled(arguments, repair=not arguments.dry_run, force=False))
    show(arguments, [row for each in done for row in rows(each)])
    return int(any(each.state in (DIFFERS, NO_FILE) for each in done))


def reconciled(arguments: argparse.Namespace, *, repair: bool, force: bool) -> Iterator[Reconciled]:
    """Yield each hour of the command line, and each day that is whole in it; tells on the terminal how far it is."""
    known_project(access_table(arguments.stage), arguments.project)
    reconciler, project = lake_stages(arguments.stage).reconciler, arguments.project
    hours = chosen_hours(arguments)
    found: Counter[str] = Counter()
    try:
        for hour in tqdm(hours, unit=" hours", desc="compared", disable=None):
            now = int(time.time())
            done = reconciler.hour(project, hour, now, repair=repair, dirty_too=repair, force=force)
            found[done.state] += 1
            yield done
            if is_last_of_day(hour) and hours_of(day_of(hour))[0] in hours:
                yield reconciler.day(project, day_of(hour), now, repair=repair)
    except (NotRepaired, Overtaken) as error:
        raise OperatorError(str(error)) from error
    finally:
        print(f"hours: {', '.join(f'{state} {count:,}' for state, count in found.items())}", file=sys.stderr)
    if found[WAITS]:
        why = WAITING if repair else "something came in since; by `consolidate`, or without --dry-run"
        print(f"{found[WAITS]:,} wait to be closed: {why}", file=sys.stderr)


def rows(done: Reconciled) -> list[dict[str, Any]]:
    """Return a row for each number; one for an hour that was closed again though none differed, or that waits."""
    if done.state == AGREES:
        return []
    about: dict[str, Any] = {"start": done.start, "state": done.state}
    nothing: dict[str, Any] = dict.fromkeys(("event_type", "facet", "number", "shown", "stored"))
    numbers: list[dict[str, Any]] = [
        {
            "event_type": each.event_type,
            "facet": each.facet,
            "number": each.number,
            "shown": each.shown,
            "stored": each.stored,
        }
        for each in done.differences
    ]
    return [about | number for number in numbers or [nothing]]
