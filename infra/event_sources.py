"""What triggers a function. app.py's decorators declare it to Chalice; tests/infra/test_functions.py compares the two.

How many records a batch holds is app.py's to say. What Chalice cannot say of a trigger is here, and goes into
infra/triggers.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Settings = dict[str, Any]  # of an event source mapping, as Lambda's API names them
ENDLESSLY = -1  # a stream's batch is tried again until it succeeds
PARTS = {"FunctionResponseTypes": ["ReportBatchItemFailures"]}


@dataclass(frozen=True, slots=True)
class Rest:
    """Every route of the REST API."""


@dataclass(frozen=True, slots=True)
class Socket:
    """One of the routes of the WebSocket API: $connect, $default, $disconnect."""

    route: str


@dataclass(frozen=True, slots=True)
class Buffer:
    """The stage's buffer, SQS or Kinesis; the function answers which messages of a batch failed."""

    def settings(self, function: str) -> dict[str, Settings]:
        """Return the entries of triggers.json, one for each buffer."""
        kinesis = {**PARTS, "MaximumRetryAttempts": ENDLESSLY, "BisectBatchOnFunctionError": True}
        return {function: PARTS, f"{function}@kinesis": {**kinesis, "ParallelizationFactor": 1}}


@dataclass(frozen=True, slots=True)
class TableStream:
    """The stream of a table, of which only records that match one of `patterns` come to the function."""

    table: str
    patterns: tuple[Mapping[str, Any], ...]

    def settings(self, function: str) -> dict[str, Settings]:
        """Return the entry of triggers.json."""
        filters = [{"Pattern": json.dumps(pattern)} for pattern in self.patterns]
        endless = {"MaximumRetryAttempts": ENDLESSLY, "ParallelizationFactor": 1}
        return {function: {**endless, "FilterCriteria": {"Filters": filters}}}


@dataclass(frozen=True, slots=True)
class Upload:
    """An object that is put into the data bucket below a prefix."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Bus:
    """Events of the account's default bus that match BUS_PATTERN; those that fail go to the dead letters."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rule of EventBridge, by its `rate(…)` or `cron(…)`, in UTC."""

    expression: str


@dataclass(frozen=True, slots=True)
class Task:
    """A state of infra/workflows/WORKFLOW.asl.json, which names the function in capitals, as ${ImportStore}."""

    workflow: str


Trigger = Rest | Socket | Buffer | TableStream | Upload | Bus | Schedule | Task
