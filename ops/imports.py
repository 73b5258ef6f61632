"""Import a file of history: upload it to raw/, with its mapping, and follow it until it is in the numbers.

  python -m ops import --stage prod --project shop history.ndjson.gz
  python -m ops import --stage prod --project shop orders.csv --mapping orders.mapping.json

NDJSON, a JSON array, Parquet, or CSV with a mapping; gzip, zstd or plain. Ctrl-C leaves the import to itself: GET
/imports goes on showing it. The same file again counts nothing twice.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from tqdm import tqdm

from chalicelib.base.data_bucket import DataBucket
from chalicelib.imports.imports import MAX_FILE_BYTES, RAW, ImportRefused, RowMapping
from chalicelib.imports.imports_table import ImportsTable
from infra.project import OperatorError
from ops.projects import access_table, known_project
from ops.stages import StageStores, add_common, show_one

POLL_SECONDS = 1.0
START_SECONDS = 60.0  # in which S3 has told of the file, and its first task has begun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops import`."""
    add_common(parser)
    parser.add_argument("--project", required=True, help="whose events they are")
    parser.add_argument("--mapping", type=Path, help="a JSON file that says how a row becomes an event")
    parser.add_argument("--no-wait", action="store_true", help="upload, and leave the rest to GET /imports")
    parser.add_argument("file", type=Path, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Upload and follow; exit code 1 when the file is not imported."""
    path: Path = arguments.file
    if not path.is_file():
        raise OperatorError(f"{path} is no file")
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise OperatorError(f"{path} has {size_bytes:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    known_project(access_table(arguments.stage), arguments.project)
    stores = StageStores(arguments.stage)
    table = stores.imports
    before = next((shown["id"] for shown in table.latest(arguments.project, None)), "")
    key = f"{RAW}{arguments.project}/{path.name}"
    _upload(arguments, stores.bucket, key, size_bytes)
    if arguments.no_wait:
        return 0
    shown = _follow(table, arguments.project, path.name, before)
    show_one(arguments, shown)
    if shown["rejected"] or shown["state"] == "failed":
        place = f"s3://{stores.bucket.name}/{key}.report.json"
        print(f"what was wrong with which rows: {place}", file=sys.stderr)
    return 0 if shown["state"] == "done" else 1


def _upload(arguments: argparse.Namespace, bucket: DataBucket, key: str, size_bytes: int) -> None:
    if arguments.mapping:
        try:
            content = arguments.mapping.read_bytes()
        except OSError as error:
            raise OperatorError(f"{arguments.mapping} cannot be read: {error.strerror}") from error
        try:
            RowMapping.read(content)
        except ImportRefused as error:
            raise OperatorError(f"{arguments.mapping}: {error}") from error
        bucket.client.put_object(Bucket=bucket.name, Key=f"{key}.mapping.json", Body=content)
    elif any(bucket.keys(f"{key}.mapping.json")):
        print(
            f"with the mapping that lies beside it since before: s3://{bucket.name}/{key}.mapping.json", file=sys.stderr
        )
    with tqdm(total=size_bytes, unit="B", unit_scale=True, desc="uploaded", disable=None) as bar:
        bucket.client.upload_file(
            str(arguments.file), bucket.name, key, Callback=bar.update, Config=TransferConfig(use_threads=False)
        )


def _follow(table: ImportsTable, project: str, name: str, before: str) -> dict[str, Any]:
    """The import once it is over; raises OperatorError when none begins."""
    started = time.monotonic()
    with tqdm(total=1.0, desc="imported", bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}", disable=None) as bar:
        while True:
            new = (one for one in table.latest(project, None) if one["id"] > before and one["file"] == name)
            shown = next(new, None)
            if shown:
                bar.set_postfix_str(
                    f"{shown['accepted']:,} of {shown['rows'] or 0:,} rows, {shown['rejected']:,} rejected"
                )
                bar.update(shown["progress"] - bar.n)
                if shown["state"] in ("done", "failed"):
                    return shown
            elif time.monotonic() - started > START_SECONDS:
                raise OperatorError(
                    f"no import of {name} began within {START_SECONDS:.0f} s; the log of `start_import` says why"
                )
            time.sleep(POLL_SECONDS)
