"""Consolidate and close hours now: those too large for the schedule, or which it does not know.

  python -m ops consolidate --stage prod --dry-run
  python -m ops consolidate --stage prod --project shop --hour 2026-11-21T10

Without --hour, every hour that is waiting, its rest or another run's work or not. It runs here, with the memory and the
network of this machine. Readers see each event once at any time, and it may be stopped and run again.
"""

import argparse
import secrets
import sys
import time
from typing import Any

from tqdm import tqdm

from chalicelib.close import PATIENCE_SECONDS, Closer
from chalicelib.consolidate import Consolidator, Overtaken
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.partitions import hour_folder
from chalicelib.sessionize import Sessionizer
from chalicelib.storage.closed_table import ClosedTable
from chalicelib.storage.dirty_hours import DirtyHours
from chalicelib.storage.lake import Lake
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.rollups_table import RollupsTable
from chalicelib.storage.session_files import SessionFiles
from infra.project import ROOT, OperatorError
from ops.projects import access_table, known_project
from ops.ranges import read_hour
from ops.stages import add_common, client, environment, show
from ops.unreadable import bucket_of

WAITING = (
    "what is live differs from the file, as while something is on its way, or was sent twice; the file counts from "
    f"{PATIENCE_SECONDS // 60} minutes after the last change on"
)


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
    lake = Lake(DataBucket(client(stage, "s3"), bucket_of(stage)))
    dirty = DirtyHours(client(stage, "dynamodb"), environment(stage)["ROLLUPS_TABLE"])
    hours = [(arguments.project, arguments.hour)] if arguments.hour else _waiting(dirty, arguments.project)
    if arguments.dry_run:
        show(arguments, [_described(lake, dirty, project, hour) for project, hour in hours])
        return 0
    dynamodb, table = client(stage, "dynamodb"), environment(stage)["ROLLUPS_TABLE"]
    rollups, closed = RollupsTable(dynamodb, table), ClosedTable(dynamodb, table)
    closer = Closer(Contracts.load(ROOT / "schemas"), rollups, closed, stage, lake)
    sessionizer = Sessionizer(lake, SessionFiles(lake.bucket), closed, lambda: secrets.token_hex(4))
    consolidator = Consolidator(lake, dirty, stage, lambda: secrets.token_hex(4))
    rows = []
    for project, hour in tqdm(hours, unit=" hours", desc="consolidated", disable=None):
        try:
            done = consolidator.consolidate(project, hour, int(time.time() * 1000))
        except Overtaken as error:
            raise OperatorError(str(error)) from error
        sessionizer.settle(project, hour, done.files.keys)
        if not closer.settle(project, hour, done.files.keys, int(time.time())):
            print(f"{project} {hour} is not closed yet: {WAITING}", file=sys.stderr)
        elif not consolidator.finish(done):
            print(f"{project} {hour} has new events already", file=sys.stderr)
        rows.append(done.row())
    show(arguments, rows)
    return 0


def _waiting(dirty: DirtyHours, project: str | None) -> list[tuple[str, str]]:
    found = dirty.of(project) if project else dirty.all()
    return sorted(((state.project, state.hour) for state in found if state.tail is not None), key=lambda key: key[::-1])


def _described(lake: Lake, dirty: DirtyHours, project: str, hour: str) -> dict[str, Any]:
    state = next((state for state in dirty.of(project) if state.hour == hour), None)
    files = lake.files(hour_folder(project, hour))
    absorbed = state.retired_names if state else set()
    return {
        "project": project,
        "hour": hour,
        "dirty": state is not None and state.tail is not None,
        "files": len(files) - len(absorbed & files.keys()),
        "size_bytes": sum(size for name, size in files.items() if name not in absorbed),
        "absorbed": len(absorbed & files.keys()),
    }
