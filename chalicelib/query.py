"""Answers SQL on the project's own events, through Athena."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from chalicelib.domain.errors import InvalidRequest, NotFound
from chalicelib.domain.snapshots import Open, Snapshot
from chalicelib.domain.sql import confine
from chalicelib.domain.time_windows import to_ms
from chalicelib.storage.athena import Athena
from chalicelib.storage.control_table import ControlTable
from chalicelib.storage.dirty_hours import DirtyHours

WAIT_SECONDS = 20.0  # then the caller asks again by id: API Gateway ends a request at 29 s
POLL_SECONDS = 0.1
MAX_ROWS = 1000  # in one answer
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # Lambda answers at most 6 MB
MAX_ID_LENGTH = 128  # Athena's limit of a query id
KEEP_DAYS = 7  # as long as the results bucket


@dataclass(frozen=True, slots=True)
class Analyst:
    """Runs queries and hands out only those of the asking project."""

    athena: Athena
    control: ControlTable
    dirty: DirtyHours
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def run(self, sql: object, project: str, now: datetime) -> dict[str, Any]:
        """Start the query and answer as `answer` does, once it ends or 20 s are over."""
        if not isinstance(sql, str) or not sql.strip():
            raise InvalidRequest("sql: the body needs a query, such as SELECT count(*) FROM events", code="invalid_sql")
        # The clock before the hours: a version that comes between the two is too new to be seen.
        snapshot = Snapshot(to_ms(now), [Open(u.hour, u.version, u.upto) for u in self.dirty.of(project)])
        query_id = self.athena.start(
            confine(sql, project=project, lake_table=self.athena.lake_table, snapshot=snapshot)
        )
        self.control.put_query(query_id, project, now + timedelta(days=KEEP_DAYS))
        deadline = self.clock() + WAIT_SECONDS
        while self.athena.state(query_id).state in ("QUEUED", "RUNNING") and self.clock() < deadline:
            self.sleep(POLL_SECONDS)
        return self._answer(query_id)

    def answer(self, query_id: str, project: str) -> dict[str, Any]:
        """The state and, once it succeeded, columns and rows of a query of this project; raises NotFound."""
        if len(query_id) > MAX_ID_LENGTH or self.control.project_of_query(query_id) != project:
            raise NotFound(f"query {query_id[:64]!r} does not exist in this project")
        return self._answer(query_id)

    def _answer(self, query_id: str) -> dict[str, Any]:
        state = self.athena.state(query_id)
        answer: dict[str, Any] = {"id": query_id, "state": state.state, "scanned_bytes": state.scanned_bytes}
        if state.state == "SUCCEEDED":
            columns, rows = self.athena.rows(query_id, MAX_ROWS + 1)
            shown = _fitting(rows[:MAX_ROWS])
            answer |= {"columns": columns, "rows": shown, "truncated": len(shown) < len(rows)}
        elif state.state in ("FAILED", "CANCELLED"):
            raise InvalidRequest(f"the query failed: {state.reason[:1000]}", code="query_failed")
        return answer


def _fitting(rows: list[list[Any]]) -> list[list[Any]]:
    """As many of the rows as fit an answer."""
    size_bytes = 0
    for number, row in enumerate(rows):
        size_bytes += len(orjson.dumps(row))
        if size_bytes > MAX_ANSWER_BYTES:
            return rows[:number]
    return rows
