"""What a route is handed: the request, and what it asks, read when the route asks for it.

What routes with questions need is imported there, so that other functions do not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from chalice.app import Request

from chalicelib import wiring
from chalicelib.access.access import Project, Scope, key_of
from chalicelib.base.clock import now_ms
from chalicelib.base.errors import InvalidRequest
from chalicelib.base.time_windows import from_ms
from chalicelib.events.enrichment import Client, client_of
from chalicelib.ingest.bodies import media_type_of, read_object

if TYPE_CHECKING:
    from chalicelib.alerts.annotations import Listing
    from chalicelib.base.parameters import Page
    from chalicelib.numbers.questions import Question
    from chalicelib.numbers.summaries import Day
    from chalicelib.quarantine.selections import Selection
    from chalicelib.sql.query_requests import QueryRequest, QueryToSave, ResultPage

REPORT_NAMES = ("funnel", "retention", "sessions", "top", "paths")


class Call:
    """A request. Each reader raises InvalidRequest, or another TidemarkError, of what cannot be taken."""

    def __init__(self, request: Request) -> None:
        self.headers: Mapping[str, str] = request.headers
        self.now_ms = now_ms()  # read once, so that an answer agrees with itself
        self._request = request

    @property
    def now(self) -> datetime:
        """The moment in UTC."""
        return from_ms(self.now_ms)

    # Whose it is

    def project(self, scope: Scope) -> Project:
        """Return the project that the request's key stands for."""
        return wiring.stages().authorizer.project(self.headers, scope)

    def writer(self, body_key: str | None = None) -> Project:
        """The project that the request may write to."""
        return wiring.stages().authorizer.project_of_key(self.write_key(body_key), Scope.WRITE)

    def write_key(self, body_key: str | None = None) -> str | None:
        """Return the key of the headers, else of the body, else of the query, which is all that a beacon has for it."""
        return key_of(self.headers) or body_key or dict(self._request.query_params or ()).get("writeKey")

    def client(self, owner: Project) -> Client:
        """Return what may be kept of who sent the request."""
        source_ip = self._request.context["identity"].get("sourceIp") or ""
        return client_of(self.headers, source_ip, owner.salt, self.now)

    def address(self, below: str) -> str:
        """Return where the caller reached this API, with the stage that API Gateway puts before every path."""
        stage = self._request.context["path"].partition(below)[0]
        return f"{self.headers.get('x-forwarded-proto', 'http')}://{self.headers.get('host', '')}{stage}"

    # What it says

    @property
    def parameters(self) -> Mapping[str, str]:
        """The query string; raises InvalidRequest for a parameter that is there more than once."""
        found = self._request.query_params
        for name in found or ():
            if found and (times := len(found.getlist(name))) > 1:
                raise InvalidRequest(f"{name}: given {times} times; once is allowed", code="invalid_parameter")
        return found or {}

    @property
    def body(self) -> bytes:
        """The body as it was sent; raises UnsupportedMediaType."""
        media_type_of(self.headers)
        body = self._request.raw_body
        return body.encode(errors="replace") if isinstance(body, str) else body

    @cached_property
    def document(self) -> dict[str, Any]:
        """The body as a JSON object."""
        return read_object(self.body)

    # What it asks

    @property
    def page(self) -> Page:
        """Which part of a list."""
        from chalicelib.base.parameters import read_page

        return read_page(self.parameters)

    @property
    def question(self) -> Question:
        """What `GET /analytics` asks."""
        from chalicelib.numbers.questions import read_question

        return read_question(self.parameters)

    @property
    def day(self) -> Day:
        """Which day is summed up."""
        from chalicelib.numbers.summaries import read_day

        return read_day(self.parameters)

    @property
    def anomalies(self) -> Listing:
        """Which anomalies."""
        from chalicelib.alerts.annotations import read_anomalies

        return read_anomalies(self.parameters)

    @property
    def range(self) -> Listing:
        """Which annotations."""
        from chalicelib.alerts.annotations import read_range

        return read_range(self.parameters)

    @property
    def rejected(self) -> Selection:
        """Which rejected events are shown."""
        from chalicelib.quarantine.selections import read_list

        return read_list(self.parameters)

    @property
    def replayed(self) -> Selection:
        """Which rejected events are judged again."""
        from chalicelib.quarantine.selections import read_replay

        return read_replay(self.document)

    @property
    def query(self) -> QueryRequest:
        """Which SQL is run."""
        from chalicelib.sql.query_requests import read_query

        return read_query(self.document)

    @property
    def result(self) -> ResultPage:
        """Which part of a query's rows."""
        from chalicelib.sql.query_requests import read_result

        return read_result(self.parameters)

    @property
    def query_to_save(self) -> QueryToSave:
        """Which SQL is kept."""
        from chalicelib.sql.query_requests import read_saved

        return read_saved(self.document)
