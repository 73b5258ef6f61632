"""Reads what triggers which function: from app.py's decorators, and infra/triggers.json for what those cannot say."""

import json
from pathlib import Path
from typing import Any

from chalice.app import (
    CloudWatchEventConfig,
    DynamoDBEventConfig,
    KinesisEventConfig,
    S3EventConfig,
    ScheduledEventConfig,
    SQSEventConfig,
)

from infra.names import setting_of
from localcloud.places import ACCOUNT, REGION, LocalCloudError

# Of Lambda's event source mappings; an entry that is not known here would be ignored in silence.
KNOWN = {
    "FunctionResponseTypes",
    "MaximumRetryAttempts",
    "BisectBatchOnFunctionError",
    "FilterCriteria",
    "ParallelizationFactor",
}


def read_triggers(app: Any, mappings_file: Path) -> list[dict[str, Any]]:
    """One dictionary for each event source, with `type` and `function`; raises LocalCloudError for an unknown kind."""
    mappings = json.loads(mappings_file.read_text()) if mappings_file.exists() else {}
    for function, mapping in mappings.items():
        if unknown := mapping.keys() - KNOWN:
            raise LocalCloudError(f"{mappings_file}: {function} has {sorted(unknown)}, which the local cloud cannot do")
        if mapping.get("ParallelizationFactor", 1) != 1:
            raise LocalCloudError(
                f"{mappings_file}: {function} has ParallelizationFactor {mapping['ParallelizationFactor']}; "
                "the local cloud reads a stream with 1"
            )
    return [_trigger(source, setting_of(mappings, source.name, _kind(source))) for source in app.event_sources]


def _stream(source: DynamoDBEventConfig | KinesisEventConfig) -> dict[str, Any]:
    if isinstance(source, DynamoDBEventConfig):
        return {"type": "stream", "stream_arn": source.stream_arn}
    if source.starting_position != "TRIM_HORIZON":
        raise LocalCloudError(f"{source.name}: the local cloud reads Kinesis from TRIM_HORIZON only")
    return {"type": "kinesis", "stream_arn": f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{source.stream}"}


def _kind(source: Any) -> str:
    """As infra/triggers.json names it."""
    return "kinesis" if isinstance(source, KinesisEventConfig) else ""


def _trigger(source: Any, mapping: dict[str, Any]) -> dict[str, Any]:
    partial_results = "ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", [])
    match source:
        case SQSEventConfig():
            return {
                "type": "queue",
                "function": source.name,
                "queue": source.queue or str(source.queue_arn).rpartition(":")[2],
                "batch_size": source.batch_size,
                "window_seconds": source.maximum_batching_window_in_seconds,
                "concurrency": source.maximum_concurrency,
                "partial_results": partial_results,
            }
        case DynamoDBEventConfig() | KinesisEventConfig():
            return {
                **_stream(source),
                "function": source.name,
                "batch_size": source.batch_size,
                "window_seconds": source.maximum_batching_window_in_seconds,
                "starting_position": source.starting_position,
                "maximum_retries": mapping.get("MaximumRetryAttempts", -1),
                "bisect": mapping.get("BisectBatchOnFunctionError", False),
                "partial_results": partial_results,
                "patterns": [
                    json.loads(entry["Pattern"]) for entry in mapping.get("FilterCriteria", {}).get("Filters", [])
                ],
            }
        case S3EventConfig():
            return {
                "type": "bucket",
                "function": source.name,
                "bucket": source.bucket,
                "events": source.events,
                "prefix": source.prefix,
                "suffix": source.suffix,
            }
        case CloudWatchEventConfig():
            return {"type": "bus", "function": source.name, "pattern": source.event_pattern}
        case ScheduledEventConfig():
            expression = source.schedule_expression
            text = expression if isinstance(expression, str) else expression.to_string()
            return {"type": "schedule", "function": source.name, "expression": text}
        case _:
            raise LocalCloudError(f"the local cloud has no trigger for {type(source).__name__} ({source.name})")
