"""The environment as one frozen value. Which stage sets what stands in .chalice/config.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent  # schemas/ and dashboard/ lie beside chalicelib/, here and in the zip

UNRECORDED = "unrecorded"
BUFFERS = ("sqs", "kinesis")


# In the form of an EventBridge pattern: what is taken from the bus unless somebody asks for more.
OWN_EVENTS = {"source": [{"prefix": "tidemark."}]}


class MissingSetting(RuntimeError):
    """An environment variable that a function needs is not set."""


class InvalidSetting(RuntimeError):
    """An environment variable has a value that means nothing."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What the decorators of app.py name. Every Chalice command imports the app, so each has a default."""

    buffer: str  # sqs or kinesis: which of the next two `process` reads
    events_queue: str
    buffer_stream: str
    events_stream_arn: str
    rollups_stream_arn: str
    data_bucket: str
    archive_window_seconds: int  # how long tail files gather; 0 to 300
    bus_pattern: dict[str, Any]  # which events of the account's default bus are taken

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Sources":
        """Read what is there; a stream's ARN is known only once its table exists, and then recorded."""
        stage = environ.get("STAGE", "dev")
        stream = f"arn:aws:dynamodb:us-east-1:000000000000:table/tidemark-{stage}-{{}}/stream/{UNRECORDED}"
        return cls(
            buffer=_buffer(environ),
            events_queue=environ.get("EVENTS_QUEUE", f"tidemark-{stage}-events"),
            buffer_stream=environ.get("BUFFER_STREAM", f"tidemark-{stage}-events"),
            events_stream_arn=environ.get("EVENTS_STREAM_ARN", stream.format("events")),
            rollups_stream_arn=environ.get("ROLLUPS_STREAM_ARN", stream.format("rollups")),
            data_bucket=environ.get("DATA_BUCKET", f"tidemark-{stage}-data-000000000000"),
            archive_window_seconds=int(environ.get("ARCHIVE_WINDOW_SECONDS", "60")),
            bus_pattern=_pattern(environ.get("BUS_PATTERN", "")),
        )


def _buffer(environ: Mapping[str, str]) -> str:
    buffer = environ.get("BUFFER") or BUFFERS[0]
    if buffer not in BUFFERS:
        raise InvalidSetting(f"BUFFER is {buffer!r}; it must be one of {', '.join(BUFFERS)}")
    return buffer


def _pattern(text: str) -> dict[str, Any]:
    if not text:
        return dict(OWN_EVENTS)
    try:
        pattern = json.loads(text)
    except ValueError as error:
        raise InvalidSetting(f"BUS_PATTERN is {text[:200]!r}, which is no JSON: {error}") from error
    if not isinstance(pattern, dict) or not pattern:
        raise InvalidSetting(f"BUS_PATTERN is {text[:200]!r}; it must be an event pattern, a JSON object with a field")
    return pattern


@dataclass(frozen=True, slots=True)
class Settings:
    """What the stages need to find their stores."""

    stage: str
    events_table: str
    rollups_table: str
    control_table: str
    buffer: str
    buffer_stream: str
    bus_project: str  # whose the events of the bus are; empty: nobody's, and none is taken
    events_queue_url: str
    data_bucket: str
    results_bucket: str  # where Athena writes
    alerts_topic_arn: str  # where people are told of anomalies and alerts
    event_bus: str  # and programs
    hourly_workflow_arn: str  # of infra/workflows/hourly.asl.json
    import_workflow_arn: str  # of infra/workflows/import.asl.json
    athena_database: str
    athena_workgroup: str
    websocket_url: str  # where dashboards connect
    websocket_management_url: str  # of the management API; empty: derived from each connection's own domain

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Raises MissingSetting, naming the variable and the command that records it."""

        def need(name: str) -> str:
            try:
                return environ[name]
            except KeyError:
                stage = environ.get("STAGE", "<stage>")
                raise MissingSetting(
                    f"{name} is not set. It belongs in .chalice/config.json under the stage's environment_variables; "
                    f"`make outputs STAGE={stage}` records it from the stack's outputs."
                ) from None

        return cls(
            stage=need("STAGE"),
            events_table=need("EVENTS_TABLE"),
            rollups_table=need("ROLLUPS_TABLE"),
            control_table=need("CONTROL_TABLE"),
            buffer=_buffer(environ),
            buffer_stream=environ.get("BUFFER_STREAM", ""),
            bus_project=environ.get("BUS_PROJECT", ""),
            events_queue_url=need("EVENTS_QUEUE_URL"),
            data_bucket=need("DATA_BUCKET"),
            results_bucket=need("RESULTS_BUCKET"),
            alerts_topic_arn=need("ALERTS_TOPIC_ARN"),
            event_bus=need("EVENT_BUS"),
            hourly_workflow_arn=need("HOURLY_WORKFLOW_ARN"),
            import_workflow_arn=need("IMPORT_WORKFLOW_ARN"),
            athena_database=need("ATHENA_DATABASE"),
            athena_workgroup=need("ATHENA_WORKGROUP"),
            websocket_url=need("WEBSOCKET_URL"),
            websocket_management_url=environ.get("WEBSOCKET_MANAGEMENT_URL", ""),
        )
