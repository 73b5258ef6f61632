"""GET /analytics and GET /aggregations as the app answers them: the numbers, and what is shown beside them."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from chalice.test import Client

import app
from chalicelib import wiring
from chalicelib.access.access import Project, Scope
from chalicelib.base.time_windows import HOUR_MS, parse_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.events import Mode
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.stages import Stages
from tests.description import hold
from tests.stores import Stores, empty_stores, stream_record

NINE = parse_ms("2026-11-21T09:00:00Z")


class Shop:
    """Every key is the shop's."""

    def project(self, headers: object, scope: Scope) -> Project:
        return Project("shop", Mode.INFER, salt=b"")


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    with empty_stores() as found:
        stages = Stages(found, wiring.contracts)
        monkeypatch.setattr(stages, "authorizer", Shop())
        monkeypatch.setattr(wiring, "stages", lambda: stages)
        yield found


def ask(path: str, **parameters: str) -> dict[str, Any]:
    """The answer, held to its description."""
    with Client(app.app) as client:
        answer = client.http.get(f"{path}?{urlencode(parameters)}")
    hold("GET", path, answer.status_code, {name.lower(): v for name, v in answer.headers.items()}, answer.json_body)
    body: dict[str, Any] = answer.json_body
    return body


def test_the_annotations_of_the_range_come_with_the_series(stores: Stores) -> None:
    event = {"event_id": "e", "event_type": "page_view", "occurred_at": NINE}
    records = [stream_record(chunk, 1) for chunk in chunks_of(Message("shop", NINE, [event]))]
    Aggregator(wiring.contracts(), stores.rollups, stores.bucket).aggregate(records, NINE)
    for hour in (-1, 0, 1, 2):
        document = {"title": f"Version {hour}", "at": NINE + hour * HOUR_MS}
        wiring.stages().annotator.create("shop", {**document, "at": str(document["at"])}, NINE)
    wiring.stages().annotator.create("blog", {"title": "Somebody else's", "at": str(NINE)}, NINE)

    answer = ask("/analytics", metric="page_views", start="2026-11-21T09:00:00Z", end="2026-11-21T11:00:00Z")

    assert answer["total"] == 1
    assert [(shown["at"], shown["title"]) for shown in answer["annotations"]] == [
        ("2026-11-21T09:00:00.000Z", "Version 0"),
        ("2026-11-21T10:00:00.000Z", "Version 1"),
    ]


def test_a_days_summary_is_answered_as_it_is_described(stores: Stores) -> None:
    properties = {"route": "/a", "latency_ms": 20}
    event = {
        "event_id": "e",
        "event_type": "api_request",
        "occurred_at": NINE,
        "user_id": "u",
        "properties": properties,
    }
    records = [stream_record(chunk, 1) for chunk in chunks_of(Message("shop", NINE, [event]))]
    Aggregator(wiring.contracts(), stores.rollups, stores.bucket).aggregate(records, NINE)

    for name in ("api_request", "api_requests", "events"):
        found = ask(f"/aggregations/{name}", date="2026-11-21")
        assert (found["total"]["count"], found["total"]["users"]) == (1, 1)
    assert ask("/aggregations/api_reqests", date="2026-11-21")["code"] == "unknown_metric"
    assert "'2026-11-41' is not a day" in ask("/aggregations/events", date="2026-11-41")["message"]
