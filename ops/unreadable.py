"""List the messages and stream records that no stage could read, whose project is therefore not known.

  python -m ops list-unreadable --stage prod

They are kept for 90 days in the stage's data bucket, as they came: a message's body, or a stream record as JSON.
"""

import argparse
import sys
from heapq import nlargest
from operator import itemgetter
from typing import Any

from chalicelib.base.object_keys import UNREADABLE
from ops.stages import StageStores, add_common, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops list-unreadable`."""
    add_common(parser)
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="only the last N (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Show the last ones, newest first."""
    found = StageStores(arguments.stage).bucket
    count = 0
    rows: list[dict[str, Any]] = []
    for page in found.client.get_paginator("list_objects_v2").paginate(Bucket=found.name, Prefix=UNREADABLE):
        items = [_row(item) for item in page.get("Contents", [])]
        count += len(items)
        rows = nlargest(arguments.limit, rows + items, key=itemgetter("kept_at"))
    print(f"{count:,} in s3://{found.name}/{UNREADABLE}", file=sys.stderr)
    show(arguments, rows)
    return 0


def _row(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": item["Key"].removeprefix(UNREADABLE),
        "kept_at": item["LastModified"].isoformat(timespec="seconds"),
        "bytes": item["Size"],
    }
