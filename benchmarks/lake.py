"""`python -m benchmarks.lake`: consolidates an hour of 60 tail files, 600,000 rows, 2 % of them sent twice.

The consolidation runs in a fresh process, on files in a folder, so that what is measured is ours and not a network.
"""

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from tqdm import tqdm

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import hour_folder, tail_name
from chalicelib.base.time_windows import HOUR_MS, hour_start_ms
from chalicelib.lake.lake import Lake, Row, encode, table_of
from chalicelib.lake.record_sets import records_of, signature_of, union

PROJECT, HOUR = "bench", "2026-11-21T10"
SLOT = hour_start_ms(HOUR) // HOUR_MS
ROWS_OF_RECORD = 10  # of a chunk: one message's of one user
SHAPES = ("stream", "mixed")  # tail files of one minute each, or each of the whole hour


class FolderS3:
    """As much of the S3 client as the lake calls, on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put_object(self, *, Key: str, Body: bytes, **_: Any) -> dict[str, str]:
        path = self.folder / Key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Body)
        return {"ETag": '"of a file"'}

    def get_object(self, *, Key: str, Range: str = "", **_: Any) -> dict[str, Any]:
        with (self.folder / Key).open("rb") as file:
            if not Range:
                return {"Body": io.BytesIO(file.read())}
            start, _dash, end = Range.removeprefix("bytes=").partition("-")
            file.seek(int(start))
            return {"Body": io.BytesIO(file.read(int(end) - int(start) + 1))}

    def head_object(self, *, Key: str, **_: Any) -> dict[str, Any]:
        return {"ContentLength": (self.folder / Key).stat().st_size}

    def create_multipart_upload(self, *, Key: str, **_: Any) -> dict[str, Any]:
        (self.folder / Key).write_bytes(b"")
        return {"UploadId": Key}

    def upload_part(self, *, Key: str, PartNumber: int, Body: bytes, **_: Any) -> dict[str, Any]:
        with (self.folder / Key).open("ab") as file:
            file.write(Body)
        return {"ETag": str(PartNumber)}

    def complete_multipart_upload(self, **_: Any) -> None:
        pass

    def get_paginator(self, _: str) -> "FolderS3":
        return self

    def paginate(self, *, Prefix: str, **_: Any) -> list[dict[str, Any]]:
        return [
            {
                "Contents": [
                    {"Key": Prefix + path.name, "Size": path.stat().st_size}
                    for path in sorted((self.folder / Prefix).iterdir())
                ]
            }
        ]


def make(lake: Lake, files: int, rows: int, shape: str, duplicates: float = 0.02) -> None:
    """Write the tail files."""
    rng = random.Random(1)
    start = hour_start_ms(HOUR)
    sent: list[dict[str, Any]] = []
    for number in tqdm(range(files), desc=f"writing {rows * files:,} rows", unit=" files", disable=None, leave=False):
        tail = []
        for _ in range(rows):
            if sent and rng.random() < duplicates:
                event = rng.choice(sent)
            else:
                minute = number * HOUR_MS // files if shape == "stream" else rng.randrange(HOUR_MS - 60_000)
                event = {
                    "event_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
                    "event_type": rng.choice(("page_view", "page_view", "api_request")),
                    "schema_version": "1-0-0",
                    "user_id": f"user-{rng.randrange(20_000)}",
                    "session_id": f"s{rng.randrange(40_000)}",
                    "occurred_at": start + minute + rng.randrange(60_000),
                    "timestamp": "2026-11-21T10:04:59.500Z",
                    "properties": {
                        "path": f"/products/{rng.randrange(200)}",
                        "latency_ms": round(rng.lognormvariate(4, 0.6), 2),
                    },
                    "context": {"locale": "de-DE", "library": {"name": "sdk", "version": "1.2.3"}},
                    "enrichment": {"browser": "Firefox", "os": "Windows", "country": "DE"},
                }
                if len(sent) < 50_000:
                    sent.append(event)
            tail.append(Row(event, start + number, SLOT))
        records = records_of((rng.getrandbits(64), ROWS_OF_RECORD) for _ in range(rows // ROWS_OF_RECORD))
        content = encode(table_of(tail), records)
        lake.put(hour_folder(PROJECT, HOUR) + tail_name(SLOT, f"r{number}", content), content)


def consolidate(folder: Path) -> dict[str, float]:
    """Merge what lies in the folder, and tell of it."""
    lake = Lake(DataBucket(FolderS3(folder), "data"))
    place = hour_folder(PROJECT, HOUR)
    files = lake.files(place)
    started, spent = time.perf_counter(), time.process_time()
    signature_of(union(lake.records(place + name, size) for name, size in files.items()))
    merge = lake.merge(place, files)
    made = lake.write_hour(place, "0000000000001-bench", merge, lambda: None)
    seconds = time.perf_counter() - started
    return {
        "rows_read": merge.rows + merge.duplicates,
        "duplicates": merge.duplicates,
        "seconds": seconds,
        "cpu_seconds": time.process_time() - spent,
        "read_bytes": sum(files.values()),
        "written_bytes": made.size_bytes,
        "files_written": len(made.keys),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lake", description=__doc__)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--rows", type=int, default=10_000, help="of each file (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)  # the fresh process
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(consolidate(arguments.folder)))
        return
    print(
        f"{'tail files':12} {'rows':>12} {'twice':>9} {'seconds':>8} {'rows/s':>9} {'rows/CPU s':>11}"
        f" {'peak MB':>8} {'B/row':>6}"
    )
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as place:
            make(Lake(DataBucket(FolderS3(Path(place)), "data")), arguments.files, arguments.rows, shape)
            for _ in range(arguments.rounds):
                for old in Path(place).rglob("hour-*"):
                    old.unlink()
                command = [sys.executable, "-m", "benchmarks.lake", "--in", place]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                rows = found["rows_read"]
                print(
                    f"{shape:12} {rows:>12,} {found['duplicates']:>9,} {found['seconds']:>8.2f}"
                    f" {rows / found['seconds']:>9,.0f} {rows / found['cpu_seconds']:>11,.0f} {found['peak_mb']:>8.0f}"
                    f" {found['written_bytes'] / (rows - found['duplicates']):>6.1f}"
                )


if __name__ == "__main__":
    main()
