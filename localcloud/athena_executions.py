"""The life of a query in the local Athena, as far as MiniStack's differs from Athena's own.

A query ends when it is stopped, or reads more than its workgroup allows; its rows lie as CSV at its output location;
an UNLOAD's lie as Parquet where it says; and a page of rows counts the names, which come first.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

OVER = "Bytes scanned limit was exceeded"
STOPPED = "Query was cancelled by user"
ENDED = "the local cloud ended before the query did"
UNLOAD = re.compile(r"\s*UNLOAD\s*\((.*)\)\s*TO\s*'(s3://[^']+/)'\s*WITH\s*\((.*)\)\s*", re.DOTALL | re.IGNORECASE)


class QueryFailed(Exception):
    """The query's StateChangeReason."""


class QueryCancelled(Exception):
    """The same, of one that did not fail by itself."""


@dataclass
class Asked:
    """What is run: the text, against which database, and what may end it."""

    query: str
    database: str
    most_bytes: int | None = None
    parquet: bool = False
    stopped: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Answered:
    """Columns and rows as Athena's API gives them, or the Parquet that was asked for."""

    columns: list[str]
    column_types: list[str]
    rows: list[list[str | None]]
    scanned_bytes: int
    parquet: bytes = b""
    answer_bytes: int = 0  # of the rows as text


class Executions:
    """Runs the executions that MiniStack keeps; `run` answers one and may block."""

    def __init__(self, run: Callable[[Asked], Answered]) -> None:
        from ministack.services import athena

        self._athena = athena
        self._run = run
        self._running: dict[str, Asked] = {}
        self._results = athena._get_query_results
        self._stop_waiting = athena._stop_query_execution
        athena._execute_query = self.execute
        athena._stop_query_execution = self.stop
        athena._get_query_results = self.results

    async def execute(self, query_id: str, query: str, database: str, *_: object) -> None:
        """Bring an execution to its end."""
        execution = self._athena._executions[query_id]
        status, started = execution["Status"], time.monotonic()
        if status["State"] == "CANCELLED":
            return  # before it began
        status["State"] = "RUNNING"
        workgroup = self._athena._workgroups.get(execution["WorkGroup"], {}).get("Configuration", {})
        most_bytes = workgroup.get("BytesScannedCutoffPerQuery")
        unload = UNLOAD.fullmatch(query)
        asked = Asked(unload[1] if unload else query, database, int(most_bytes) if most_bytes else None, bool(unload))
        self._running[query_id] = asked
        try:
            # All of it beside the loop, on which every service waits; the thread knows whose request it is, too.
            answered = await asyncio.to_thread(self._run, asked)
            if asked.stopped.is_set():
                raise QueryCancelled(STOPPED)
            self._keep(execution, answered, unload[2] if unload else "")
            status["State"] = "SUCCEEDED"
        except QueryCancelled as cancelled:
            status["State"], status["StateChangeReason"] = "CANCELLED", str(cancelled)
        except Exception as error:  # noqa: BLE001 whatever it is, it ends the query and not the cloud
            reason = str(error) if isinstance(error, QueryFailed) else f"{type(error).__name__}: {error}"
            log.warning("query %s failed: %s", query_id, reason)
            status["State"], status["StateChangeReason"] = "FAILED", reason[:2000]
        finally:
            self._running.pop(query_id, None)
            status["CompletionDateTime"] = int(time.time())
            elapsed_ms = int((time.monotonic() - started) * 1000)
            execution["Statistics"] |= dict.fromkeys(
                ("EngineExecutionTimeInMillis", "TotalExecutionTimeInMillis"), elapsed_ms
            )

    def stop(self, request: dict[str, Any]) -> Any:
        """StopQueryExecution: of one that has ended it changes nothing."""
        asked = self._running.get(request.get("QueryExecutionId", ""))
        if asked is None:
            return self._stop_waiting(request)
        asked.stopped.set()
        return self._athena.json_response({})

    async def stop_all(self) -> None:
        """The cloud ends: nobody is to wait for a query. Runs on the services' loop, where queries begin."""
        for asked in self._running.values():
            asked.stopped.set()

    def fail_unfinished(self) -> None:
        """What a restored state has as running failed with the cloud that ran it."""
        for execution in self._athena._executions.all_values():
            status = execution["Status"]
            if status["State"] in ("QUEUED", "RUNNING"):
                status["State"], status["StateChangeReason"] = "FAILED", ENDED
                status["CompletionDateTime"] = int(time.time())

    def results(self, request: dict[str, Any]) -> Any:
        """GetQueryResults: the first page's row of names is one of its rows."""
        token = request.get("NextToken")
        if not token:
            request = {**request, "MaxResults": request.get("MaxResults", 1000) - 1}
        elif not token.isdecimal():
            return self._athena.error_response_json("InvalidRequestException", "Invalid NextToken", 400)
        return self._results(request)

    def _keep(self, execution: dict[str, Any], answered: Answered, target: str) -> None:
        execution["_results"] = {"columns": answered.columns, "rows": answered.rows}
        execution["_bytes"] = answered.answer_bytes
        execution["_column_types"] = answered.column_types
        execution["Statistics"]["DataScannedInBytes"] = answered.scanned_bytes
        location = execution["ResultConfiguration"]["OutputLocation"]
        if target:
            execution["_results"] = {"columns": [], "rows": []}
            execution["ResultConfiguration"]["OutputLocation"] = location.removesuffix(".csv")
            _put(f"{target}{execution['QueryExecutionId']}.parquet", answered.parquet)
        else:
            lines = [_csv_line(answered.columns), *map(_csv_line, answered.rows)]
            _put(location, "".join(lines).encode())


def _put(location: str, content: bytes) -> None:
    from ministack.services import s3

    place = urlsplit(location)
    answer = s3._put_object(place.netloc, place.path.lstrip("/"), content, {"content-length": str(len(content))})
    if isinstance(answer, tuple) and answer[0] >= 300:
        raise QueryFailed(f"{location} was not written: {answer[2]!r}")


def _csv_line(values: Iterable[str | None]) -> str:
    """Everything in quotes but NULL, as Athena does it."""
    return ",".join("" if value is None else '"' + value.replace('"', '""') + '"' for value in values) + "\n"
