"""Answers SQL on the project's own events, and the reports that are made of it, through Athena."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from chalicelib.base import waits
from chalicelib.base.errors import InvalidRequest, NotFound
from chalicelib.base.time_windows import to_ms
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.manifests import ManifestGone
from chalicelib.lake.visible_files import UnsettledHour, VisibleFiles
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.sql import confine as sql
from chalicelib.sql.athena import Athena, QueryState
from chalicelib.sql.positions import as_written
from chalicelib.sql.queries_table import Asked, QueriesTable, SavedQuery
from chalicelib.sql.query_requests import MAX_PAGE, PARQUET, QueryRequest, QueryToSave, ResultPage
from chalicelib.sql.reports import REPORTS

WAIT_SECONDS = 20.0  # then the caller asks again by id: API Gateway ends a request at 29 s
POLL_SECONDS, MAX_POLL_SECONDS = 0.1, 1.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # Lambda answers at most 6 MB
MAX_PARQUET_ROWS = 100_000_000
MAX_REPORT_ROWS = 20_000
MAX_ID_LENGTH = 128  # Athena's limit of a query id
MAX_LISTED_HOURS = 50  # dirty ones whose folders are looked into before a query
MAX_SAVED = 200  # queries of a project
LINK_SECONDS = 900  # the function's credentials, which sign the links, last longer
GOING_ON = ("QUEUED", "RUNNING")


@dataclass(frozen=True, slots=True)
class QueryRunner:
    """Runs queries and reports, and hands out only those of the asking project."""

    athena: Athena
    queries: QueriesTable
    hours: HoursTable
    folders: HourFolders
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    new_folder: Callable[[], str] = secrets.token_hex

    def run(self, request: QueryRequest, project: str, now: datetime) -> dict[str, Any]:
        """Start the query and answer as `answer` does, once it ends or 20 s are over."""
        text = request.sql if request.name is None else self._saved(project, request.name).sql
        assert text is not None  # one of the two is there
        folder = self.new_folder() if request.format == PARQUET else None
        asked = Asked(project, text, folder)
        query_id = self._start(asked, request.parameters, now)
        return self._wait(query_id, asked, ResultPage(request.limit))

    def report(self, name: str, parameters: Mapping[str, str], project: str, now: datetime) -> dict[str, Any]:
        """Return the same of a report, whose answer is made of the rows; raises InvalidRequest for bad parameters."""
        text, values = REPORTS[name].sql(REPORTS[name].read(parameters))
        asked = Asked(project, text, report=name, question=dict(parameters))
        return self._wait(self._start(asked, values, now), asked, ResultPage(MAX_PAGE))

    def answer(self, query_id: str, project: str, page: ResultPage) -> dict[str, Any]:
        """Return the state of a query of this project and, once it succeeded, its rows; raises NotFound.

        Raises InvalidRequest with the engine's words when it failed, or was cancelled.
        """
        return self._answer(query_id, self._asked(query_id, project), page)

    def cancel(self, query_id: str, project: str) -> dict[str, Any]:
        """End a query of this project, if it goes on; raises NotFound."""
        self._asked(query_id, project)
        self.athena.stop(query_id)
        return {"id": query_id, "state": self.athena.state(query_id).state}

    def save(self, query: QueryToSave, project: str, now: datetime) -> dict[str, Any]:
        """Keep a query that may be asked, under its name; one of that name is replaced."""
        statement = sql.read(query.sql)
        names = {saved.name for saved in self.queries.all_saved(project)}
        if query.name not in names and len(names) >= MAX_SAVED:
            raise InvalidRequest(
                f"the project has {len(names)} saved queries; the limit is {MAX_SAVED}", code="too_many"
            )
        saved = SavedQuery(query.name, query.sql, query.description, tuple(statement.parameters), now)
        self.queries.save(project, saved)
        return _shown(saved)

    def show_saved(self, project: str) -> dict[str, Any]:
        """Return every saved query, by name."""
        return {"queries": [_shown(saved) for saved in self.queries.all_saved(project)]}

    def forget(self, name: str, project: str) -> None:
        """Remove a saved query; raises NotFound."""
        if not self.queries.forget(project, name):
            raise _no_saved(name)

    def _saved(self, project: str, name: str) -> SavedQuery:
        saved = self.queries.saved(project, name)
        if saved is None:
            raise _no_saved(name)
        return saved

    def _asked(self, query_id: str, project: str) -> Asked:
        asked = self.queries.get(query_id) if len(query_id) <= MAX_ID_LENGTH else None
        if asked is None or asked.project != project:
            raise NotFound(f"query {query_id[:64]!r} does not exist in this project")
        return asked

    def _start(self, asked: Asked, parameters: Mapping[str, Any], now: datetime) -> str:
        statement = sql.read(asked.sql)
        # The clock before the hours: a version that comes between the two is too new to be seen.
        visible = VisibleFiles(to_ms(now), list(self._unsettled_hours(asked.project)))
        sent = sql.confine(
            statement,
            project=asked.project,
            lake_table=self.athena.lake_table,
            visible=visible,
            parameters=parameters,
            max_rows=MAX_PARQUET_ROWS if asked.folder else sql.MAX_ROWS,
        )
        if asked.folder:
            sent = self.athena.as_parquet(sent, asked.folder)
        try:
            query_id = self.athena.start(sent)
        except InvalidRequest as error:
            message = as_written(error.message, sent=sent, written=asked.sql)
            raise InvalidRequest(message, code=error.code) from error
        self.queries.put(query_id, asked, now + timedelta(milliseconds=waits.RESULTS_MS))
        return query_id

    def _unsettled_hours(self, project: str) -> Iterator[UnsettledHour]:
        listed = 0
        for hour in self.hours.unsettled(project):
            if hour.version is None:
                yield UnsettledHour(hour.hour)
            elif not hour.is_dirty:
                yield UnsettledHour(hour.hour, hour.version, (), hour.replaced)
            elif listed == MAX_LISTED_HOURS:  # copies are left out; rows of users who were just erased are not
                yield UnsettledHour(hour.hour, hour.version)
            else:
                listed += 1
                yield self._listed(hour)

    def _listed(self, hour: Hour) -> UnsettledHour:
        try:
            held = self.folders.held(hour)
        except ManifestGone:  # replaced an hour ago, and since then the hour was read: it is too late for the query
            return UnsettledHour(hour.hour, hour.version)
        return UnsettledHour(hour.hour, hour.version, tuple(held.fresh))

    def _wait(self, query_id: str, asked: Asked, page: ResultPage) -> dict[str, Any]:
        deadline, pause = self.clock() + WAIT_SECONDS, POLL_SECONDS
        while self.athena.state(query_id).state in GOING_ON and self.clock() < deadline:
            self.sleep(pause)
            pause = min(pause * 1.5, MAX_POLL_SECONDS)
        return self._answer(query_id, asked, page)

    def _answer(self, query_id: str, asked: Asked, page: ResultPage) -> dict[str, Any]:
        state = self.athena.state(query_id)
        answer: dict[str, Any] = {"id": query_id, "state": state.state, "scanned_bytes": state.scanned_bytes}
        if state.state in GOING_ON:
            return answer
        if state.state != "SUCCEEDED":
            raise _ended(state, asked)
        if asked.report is not None:
            return answer | self._report(query_id, asked)
        if asked.folder:
            files = self.athena.unloaded(asked.folder, LINK_SECONDS)
            links = [{"format": PARQUET, "url": url, "size_bytes": size_bytes} for url, size_bytes in files]
            return answer | {"columns": [], "rows": [], "next": None, "downloads": links}
        links = [{"format": "csv", "url": self.athena.link(state.location, LINK_SECONDS)}]
        return answer | self._rows(query_id, page) | {"downloads": links}

    def _rows(self, query_id: str, page: ResultPage) -> dict[str, Any]:
        """As many rows of the page as fit an answer; a token of Athena's stands behind the last row of a call."""
        found = self.athena.rows(query_id, page.limit, page.page)
        if (fitting := _fitting(found.rows)) < len(found.rows):
            if not fitting:
                raise InvalidRequest(
                    f"one row has more than {MAX_ANSWER_BYTES} bytes; ask for fewer columns, or for format=parquet",
                    code="row_too_large",
                )
            found = self.athena.rows(query_id, fitting, page.page)
        return {"columns": found.columns, "rows": found.rows, "next": found.next}

    def _report(self, query_id: str, asked: Asked) -> dict[str, Any]:
        assert asked.report is not None
        report = REPORTS[asked.report]
        found = self.athena.rows(query_id, MAX_REPORT_ROWS)
        names = [column["name"] for column in found.columns]
        rows = [dict(zip(names, row, strict=True)) for row in found.rows]
        return {"report": asked.report, **report.answer(report.read(asked.question or {}), rows)}


def _fitting(rows: list[list[Any]]) -> int:
    """Return how many of the rows fit an answer."""
    size_bytes = 0
    for number, row in enumerate(rows):
        size_bytes += len(orjson.dumps(row))
        if size_bytes > MAX_ANSWER_BYTES:
            return number
    return len(rows)


def _ended(state: QueryState, asked: Asked) -> InvalidRequest:
    if state.state == "CANCELLED":
        return InvalidRequest(f"the query was cancelled: {state.reason[:1000]}", code="query_cancelled")
    reason = as_written(state.reason[:1000], sent=state.sent, written=asked.sql)
    return InvalidRequest(f"the query failed: {reason}", code="query_failed")


def _shown(saved: SavedQuery) -> dict[str, Any]:
    return {
        "name": saved.name,
        "sql": saved.sql,
        "description": saved.description,
        "parameters": list(saved.parameters),
        "saved_at": saved.saved_at.isoformat().replace("+00:00", "Z"),
    }


def _no_saved(name: str) -> NotFound:
    return NotFound(f"this project has no saved query {name[:64]!r}")
