"""`make bench`: events per second of each stage, the SDK's call stubbed, as ratios to references in the same run."""

import argparse
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema
import orjson
from isal import isal_zlib
from marshmallow import INCLUDE, Schema, fields, validate
from tqdm import tqdm

from benchmarks import samples
from chalicelib.base.logs import LOGGERS
from chalicelib.events.records import ChunkRecord, read_chunk
from chalicelib.rollups.hour_fold import HourFold
from chalicelib.rollups.sketches import hash_user
from chalicelib.settings import ROOT

ROUNDS = 7  # each measures every subject once, so that a slow spell of the machine falls on all of them alike
SECONDS = 0.25  # of each measurement
SETTINGS = {
    "STAGE": "bench",
    "EVENTS_TABLE": "events",
    "ROLLUPS_TABLE": "rollups",
    "CONTROL_TABLE": "control",
    "EVENTS_QUEUE_URL": "https://queue.invalid/events",
    "DATA_BUCKET": "data",
    "ATHENA_DATABASE": "bench",
    "ATHENA_WORKGROUP": "bench",
    "ALERTS_TOPIC_ARN": "arn:aws:sns:us-east-1:000000000000:bench",
    "EVENT_BUS": "bench",
    "RESULTS_BUCKET": "results",
    "IMPORT_WORKFLOW_ARN": "arn:aws:states:us-east-1:000000000000:stateMachine:bench-import",
    "HOURLY_WORKFLOW_ARN": "arn:aws:states:us-east-1:000000000000:stateMachine:bench-hourly",
    "WEBSOCKET_URL": "wss://socket.invalid",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
}


def sdk_call(_client: Any, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Stands for the SDK: every call succeeds at once."""
    if operation == "GetItem" and arguments["Key"]["sk"]["S"] == "key":
        return {"Item": {"project": {"S": "bench"}, "scopes": {"L": [{"S": "write"}]}}}
    if operation == "GetItem":
        return {"Item": {"project": {"S": "bench"}, "mode": {"S": "infer"}}}
    return {"Items": []} if operation == "Query" else {}


class PerEvent(Schema):
    """The envelope, declared as one would without measuring."""

    class Meta:
        unknown = INCLUDE

    event_id = fields.String(required=True)
    event_type = fields.String(required=True, validate=validate.Length(1, 128))
    user_id = fields.String(allow_none=True)
    timestamp = fields.AwareDateTime(default_timezone=None)
    properties = fields.Dict()
    context = fields.Dict()


def subjects() -> dict[str, tuple[int, Callable[[], object]]]:
    """Return what is measured: the number of events of one call, and the call."""
    import app
    from chalicelib import wiring

    batch = samples.events(100, users=20)
    one, hundred = samples.body(batch[:1]), samples.body(batch)
    request_one, request_hundred = samples.rest_event(one), samples.rest_event(hundred)
    batches = [samples.events(100, users=20) for _ in range(10)]
    queue_records, stream_records = samples.queue_records(batches), samples.stream_records(batches)
    contracts = {c.event_type: c for c in wiring.contracts()}
    validators = {
        name: jsonschema.Draft202012Validator(
            orjson.loads((ROOT / "schemas" / name / f"{contract.version}.json").read_bytes())
        )
        for name, contract in contracts.items()
    }
    envelope = PerEvent()

    def per_event() -> None:
        for event in orjson.loads(hundred)["events"]:
            loaded = envelope.load(event)
            validators[loaded["event_type"]].validate(loaded["properties"])

    def request(event: dict[str, Any]) -> Callable[[], object]:
        def call() -> object:
            answer = app.app(dict(event), None)
            assert answer["statusCode"] == 202, answer
            return answer

        return call

    def plain_counters() -> None:
        counts = Counter[str]()
        for record in stream_records:
            body = b64decode(record["dynamodb"]["NewImage"]["body"]["B"])
            counts.update(event["event_type"] for event in orjson.loads(isal_zlib.decompress(body)))

    chunks = [chunk for record in stream_records if isinstance(chunk := read_chunk(record), ChunkRecord)]
    hour = [(event, hash_user(chunk.user or "")) for chunk in chunks for event in chunk.events]

    def fold_hour() -> None:
        fold = HourFold(wiring.contracts().spec)
        for event, user_hash in hour:
            fold.add(event["event_type"], event, user_hash)
        assert not fold.again()
        fold.rollups()

    return {
        "parse only, batch of 1": (1, lambda: orjson.loads(one)),
        "parse only, batch of 100": (100, lambda: orjson.loads(hundred)),
        "marshmallow + jsonschema per event": (100, per_event),
        "collect, batch of 1": (1, request(request_one)),
        "collect, batch of 100": (100, request(request_hundred)),
        "process, 10 messages of 100": (1000, lambda: wiring.stages().processor.process(queue_records)),
        "plain counters, 200 chunks": (1000, plain_counters),
        "aggregate, 200 chunks": (1000, lambda: wiring.stages().aggregator.aggregate(stream_records, 1)),
        "fold of a whole hour": (1000, fold_hour),
    }


def rate(events: int, call: Callable[[], object]) -> float:
    """Events per second of CPU time."""
    calls = 0
    start = time.process_time()
    while (spent := time.process_time() - start) < SECONDS:
        call()
        calls += 1
    return calls * events / spent


def cold_import_seconds(statement: str) -> float:
    """CPU seconds of a new interpreter that runs the statement."""
    code = f"import resource\n{statement}\nu = resource.getrusage(resource.RUSAGE_SELF)\nprint(u.ru_utime + u.ru_stime)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="measurements of each subject (default %(default)s)")
    rounds = parser.parse_args().rounds
    os.environ.update(SETTINGS)
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores; medians of {rounds} rounds, CPU time of one core"
    )
    print()
    with patch("botocore.client.BaseClient._make_api_call", sdk_call), Path(os.devnull).open("w") as nowhere:
        measured = subjects()
        for handler in logging.getLogger(LOGGERS[0]).handlers:  # formatted as in production, but not into the table
            assert isinstance(handler, logging.StreamHandler)
            handler.setStream(nowhere)
        rates: dict[str, list[float]] = {name: [] for name in measured}
        for _ in tqdm(range(rounds), desc="measuring", unit="round", disable=None, leave=False):
            for name, (events, call) in measured.items():
                rates[name].append(rate(events, call))
    print(f"{'stage':38} {'events/s':>10}   {'of parse only':>13}   {'x marshmallow + jsonschema':>26}")
    for name, found in rates.items():
        parse = rates["parse only, batch of 1" if name.endswith("of 1") else "parse only, batch of 100"]
        against_parse = statistics.median(a / b for a, b in zip(found, parse, strict=True))
        slow = rates["marshmallow + jsonschema per event"]
        against_slow = statistics.median(a / b for a, b in zip(found, slow, strict=True))
        share = f"1/{1 / against_parse:.1f}"
        print(f"{name:38} {statistics.median(found):>10,.0f}   {share:>13}   {against_slow:>25.1f}x")
    edge = "import app\nfrom chalicelib import wiring\nwiring.stages().collector; wiring.stages().authorizer"
    bare = 'import boto3, chalice\nboto3.client("sqs")'
    pairs = [(cold_import_seconds(edge), cold_import_seconds(bare)) for _ in range(rounds)]
    mine, theirs = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print("\ncold start, milliseconds of CPU time")
    print(f"{'edge, ready for a request':38} {mine:>10.0f}")
    print(f"{'chalice + boto3 sqs client':38} {theirs:>10.0f}   {ratio:>13.2f}x")


if __name__ == "__main__":
    main()
