"""Two projects of which one's name begins with the other's: neither sees, counts or removes what the other has."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from chalice.test import Client, HTTPResponse

import app
from chalicelib import wiring
from chalicelib.access.access import Project, Scope
from chalicelib.alerts import watch
from chalicelib.base.time_windows import hour_of, iso_ms, to_ms
from chalicelib.events.events import Mode
from chalicelib.http.operations import OPERATIONS
from chalicelib.imports.imports import Import
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.notices.notices import Anomaly, Subject
from chalicelib.sql import query
from chalicelib.sql.athena import Athena
from chalicelib.stages import Stages
from tests.localcloud.memory_place import Queries
from tests.simulation.ports import client as services
from tests.stores import Stores, empty_stores

SQL = "SELECT event_id FROM events"
MATTER = ("spike", "high", 9.0, 1.0, 9.0, "plain")

# By route and query string how much an answer shows of what `fill` puts once: 1 of its own project, 0 of another one.
SHOWN: dict[tuple[str, str], Callable[[Any], int]] = {
    ("GET /analytics", "metric=page_views&{range}"): lambda told: told["total"],
    ("GET /analytics", "metric=sessions&{range}"): lambda told: len(told["annotations"]),
    ("GET /aggregations/{event_type}", "date={day}"): lambda told: told["total"]["count"],
    ("GET /realtime/metrics", ""): lambda told: told["metrics"].get("page_views", 0),
    ("GET /users/{user_id}", ""): lambda told: len(told["previous_ids"]),
    ("GET /users/{user_id}/events", ""): lambda told: str(told["events"]).count("view-of-"),
    ("GET /erasures", ""): lambda told: len(told["erasures"]),
    ("GET /erasures/{erasure_id}", ""): lambda told: told["user_id"] == "bob",
    ("GET /quarantine", ""): lambda told: len(told["events"]),
    ("POST /quarantine/replay", ""): lambda told: told["rejected"],
    ("GET /imports", ""): lambda told: len(told["imports"]),
    ("GET /anomalies", "{range}"): lambda told: len(told["anomalies"]),
    ("GET /alerts", ""): lambda told: len(told["alerts"]),
    ("GET /annotations", "{range}"): lambda told: len(told["annotations"]),
    ("POST /query", ""): lambda told: str(told["rows"]).count("view-of-"),
    ("GET /query/{query_id}", ""): lambda told: str(told["rows"]).count("view-of-"),
    ("GET /queries", ""): lambda told: len(told["queries"]),
    ("GET /reports/funnel", "steps=page_view,identify&{range}"): lambda told: told["steps"][0]["users"],
    ("GET /reports/retention", "{range}"): lambda told: sum(cohort["users"] for cohort in told["cohorts"]),
    ("GET /reports/sessions", "{range}"): lambda told: told["total"]["sessions"],
    ("GET /reports/top", "of=path&event_type=page_view&{range}"): lambda told: told["total"],
    ("GET /reports/paths", "{range}"): lambda told: told["sessions"],
}
BODIES = {"POST /quarantine/replay": {"dry_run": True}, "POST /query": {"sql": SQL}}
REMOVE = ("DELETE /alerts/{alert_id}", "DELETE /queries/{name}", "DELETE /query/{query_id}")
WRITE = ("POST /realtime/tickets", "DELETE /users/{user_id}", "POST /alerts", "POST /annotations", "POST /queries")


class ByName:
    """A key is the name of its project."""

    def project_of_key(self, key: str | None, _scope: Scope) -> Project:
        return Project(key or "", Mode.INFER)

    def project(self, headers: Any, scope: Scope) -> Project:
        return self.project_of_key(headers["x-api-key"], scope)


class Tenants:
    """The app and its stores, in which each project may have one of each kind."""

    def __init__(self, stores: Stores, stages: Stages, client: Client) -> None:
        self.stores, self.stages, self.client, self.now = stores, stages, client, datetime.now(UTC)
        start, end = self.now - timedelta(days=1), self.now + timedelta(days=1)
        self.words = {"range": f"start={start:%Y-%m-%d}&end={end:%Y-%m-%d}", "day": f"{self.now:%Y-%m-%d}"}
        self.words |= {"user_id": "ada", "event_type": "page_view"}
        self.ids: dict[str, dict[str, str]] = {}  # by project
        self.streamed: list[Any] = []

    def ask(self, project: str, route: str, body: Any = None) -> HTTPResponse:
        method, path = route.split()
        headers = {"x-api-key": project, "Content-Type": "application/json"}
        return self.client.http.request(method, path, headers=headers, body=orjson.dumps(body) if body else b"")

    def done(self, project: str, route: str, body: Any = None) -> Any:
        answer = self.ask(project, route, body)
        assert answer.status_code < 300, answer.body
        return answer.json_body

    def fill(self, project: str) -> None:
        """Put one of each kind for the project."""
        at = iso_ms(to_ms(self.now))
        view = {"event_type": "page_view", "user_id": "ada", "timestamp": at, "properties": {"path": "/"}}
        known = {"event_type": "identify", "user_id": "ada", "timestamp": at, "anonymous_id": "lead"}
        self.done(project, "POST /events", [view | {"event_id": f"view-of-{project}"}, known, {"event_type": ""}])
        self._flow()
        now_ms = to_ms(self.now)
        self.stores.anomalies.put(Anomaly(project, Subject("events"), hour_of(now_ms), *MATTER), now_ms // 1000)
        file = Import.of(f"raw/{project}/file.csv", "etag", "1", now_ms)
        assert file is not None
        self.stores.imports.begin(file)
        alert = {"name": "many", "metric": "events", "comparison": "above", "threshold": 1}
        self.done(project, "POST /annotations", {"title": "Version 1", "at": at})
        self.ids[project] = {
            "alert_id": self.done(project, "POST /alerts", alert)["id"],
            "name": self.done(project, "POST /queries", {"name": f"of-{project}", "sql": SQL})["name"],
            "query_id": self.done(project, "POST /query", {"sql": SQL})["id"],
            "erasure_id": self.done(project, "DELETE /users/bob")["id"],
        }

    def shown(self, project: str, whose: str) -> dict[tuple[str, str], int]:
        """How much each route shows the project, asked with ids of its own or of another one."""
        found = {}
        for (route, parameters), how_much in SHOWN.items():
            asked = f"{route}?{parameters}".format(**self.words, **self.ids[whose])
            answer = self.ask(project, asked, BODIES.get(route))
            assert answer.status_code in (200, 404), answer.body
            found[route, parameters] = int(how_much(answer.json_body)) if answer.status_code == 200 else 0
        return found

    def _flow(self) -> None:
        """What was sent becomes chunks, numbers and rows."""
        sent = [{"messageId": f"{number}", "body": text} for number, text in enumerate(self.stores.messages())]
        assert self.stages.processor.process(sent) == []
        records = []
        for item in self.stores.items("events"):
            if "body" not in item or item in self.streamed:
                continue
            self.streamed.append(item)
            number, image = len(self.streamed), {**item, "body": {"B": b64encode(item["body"]["B"]).decode()}}
            change = {"SequenceNumber": f"{number}", "ApproximateCreationDateTime": int(self.now.timestamp())}
            records.append({"eventID": f"r{number}", "eventName": "INSERT", "dynamodb": {**change, "NewImage": image}})
        Aggregator(wiring.contracts(), self.stores.rollups, self.stores.bucket).aggregate(records, to_ms(self.now))
        Archiver(self.stores.lake, self.stores.hours, self.stores.erased).archive(records)


@pytest.fixture
def tenants(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenants]:
    with empty_stores() as found, Client(app.app) as client:
        s3 = found.bucket.client
        athena = Athena(services.Client(Queries(s3._service)), s3, "tidemark", "tidemark", "data")
        stores = found.but(athena=athena)
        stages = Stages(stores, wiring.contracts)
        monkeypatch.setattr(stages, "authorizer", ByName())
        monkeypatch.setattr(wiring, "stages", lambda: stages)
        monkeypatch.setattr(wiring, "stores", lambda: stores)
        # A second one of anybody's would be one too many.
        monkeypatch.setattr(watch, "MAX_ALERTS", 1)
        monkeypatch.setattr(query, "MAX_SAVED", 1)
        yield Tenants(stores, stages, client)


def test_every_route_that_asks_for_a_project_is_asked() -> None:
    asked = {route for route, _ in SHOWN} | {*REMOVE, *WRITE}

    assert asked == {name for name, operation in OPERATIONS.items() if operation.scope in (Scope.READ, Scope.ADMIN)}


@pytest.mark.parametrize(("mine", "theirs"), [("shop", "shop-eu"), ("shop-eu", "shop")])
def test_of_projects_whose_names_begin_alike_neither_has_what_is_the_others(
    tenants: Tenants, mine: str, theirs: str
) -> None:
    once, nothing = dict.fromkeys(SHOWN, 1), dict.fromkeys(SHOWN, 0)

    tenants.fill(theirs)

    assert tenants.shown(theirs, theirs) == once
    assert tenants.shown(mine, theirs) == nothing
    for route in REMOVE:
        assert tenants.ask(mine, route.format(**tenants.ids[theirs])).status_code == 404, route
    tenants.fill(mine)
    assert tenants.shown(mine, mine) == tenants.shown(theirs, theirs) == once
