"""Export all that is kept of a user, as JSON, or the events of a project, as Parquet.

  python -m ops export user --stage prod --project shop --user ada --into ada.json
  python -m ops export project --stage prod --project shop --into /data/shop
  python -m ops export project --stage prod --project shop --from 2026-11-01 --to 2026-11-21 --into /data/shop

A project's files lie as in the lake, `project=…/dt=…/hr=…/`, and hold each event once: DuckDB, Spark and pyarrow read
them as they are. The same command again brings the folder up to date.
"""

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from chalicelib.base.time_windows import DAY_MS, day_of, day_start_ms, hours_between
from chalicelib.privacy.export import Exporter
from infra.project import OperatorError
from ops.projects import access_table, known_project
from ops.ranges import add_range
from ops.stages import add_common, lake_stages, show_one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops export`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, work, what in (
        ("user", export_user, "traits, ids, events and rejected events of a user, as JSON"),
        ("project", export_project, "the events of a project, as Parquet files"),
    ):
        action = actions.add_parser(name, help=what, description=what)
        add_common(action)
        action.set_defaults(work=work)
        action.add_argument("--project", required=True, help="whose events they are")
        if name == "user":
            action.add_argument("--user", required=True, help="the id; those before it are found")
            action.add_argument("--into", type=Path, metavar="FILE", help="instead of standard output")
        else:
            action.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="is made, if need be")
            add_range(action)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    known_project(access_table(arguments.stage), arguments.project)
    arguments.work(arguments, lake_stages(arguments.stage).exporter)
    return 0


def export_user(arguments: argparse.Namespace, exporter: Exporter) -> None:
    """A user's own data."""
    days = exporter.lake.days(arguments.project)
    with tqdm(total=len(days), unit=" days", desc="looked through", disable=None) as bar:
        found = exporter.user(arguments.project, arguments.user, days, bar.update)
    text = json.dumps(found, indent=2, ensure_ascii=False)
    if arguments.into is None:
        print(text)
        return
    try:
        arguments.into.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{arguments.into} cannot be written: {error.strerror}") from error
    counts = {name: len(found[name]) for name in ("previous_ids", "traits", "events", "rejected")}
    show_one(arguments, {"file": str(arguments.into), **counts})


def export_project(arguments: argparse.Namespace, exporter: Exporter) -> None:
    """A project's events."""
    days = sorted({*exporter.lake.days(arguments.project), *exporter.days(arguments.project, arguments.into)})
    first = arguments.first if arguments.first is not None else day_start_ms(days[0]) if days else 0
    end = arguments.last if arguments.last is not None else day_start_ms(days[-1]) + DAY_MS if days else 0
    hours = [hour for hour in hours_between(first, end) if day_of(hour) in set(days)]
    rows = files = 0
    for hour in tqdm(hours, unit=" hours", desc="exported", disable=None):
        written = exporter.hour(arguments.project, hour, arguments.into)
        rows, files = rows + written, files + bool(written)
    show_one(arguments, {"folder": str(arguments.into), "hours": files, "events": rows})
    if not rows:
        print("there is nothing of that range in the lake", file=sys.stderr)
