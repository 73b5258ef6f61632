"""The REST app as API Gateway calls it: with a stage before each path, and the caller's address in headers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

import app
from chalicelib import wiring
from chalicelib.access.access import Project, Scope
from chalicelib.base.errors import Unavailable
from chalicelib.events.events import Mode

Get = Callable[..., dict[str, Any]]


class Everyone:
    """Takes every key."""

    def project_of_key(self, key: str | None, scope: Scope) -> Project:
        return Project("p", Mode.INFER, salt=b"")

    def project(self, headers: object, scope: Scope) -> Project:
        return Project("p", Mode.INFER, salt=b"")


class Down:
    """A control table that does not answer."""

    def project_of_key(self, key: str | None, scope: Scope) -> Project:
        raise Unavailable("down")


@pytest.fixture
def get(monkeypatch: pytest.MonkeyPatch) -> Get:
    """GETs a route by way of a stage."""

    def get(
        route: str, *, authorizer: object, query: dict[str, list[str]] | None = None, **parameters: str
    ) -> dict[str, Any]:
        monkeypatch.setattr(wiring, "stages", lambda: SimpleNamespace(authorizer=authorizer))
        event = {
            "requestContext": {
                "httpMethod": "GET",
                "resourcePath": route,
                "path": f"/prod{route.format(**parameters)}",
                "identity": {"sourceIp": "203.0.113.7"},
            },
            "headers": {"Host": "api.example", "X-Forwarded-Proto": "https", "Origin": "https://shop.example"},
            "multiValueQueryStringParameters": query,
            "pathParameters": parameters,
            "stageVariables": {},
            "body": None,
            "isBase64Encoded": False,
        }
        answered: dict[str, Any] = app.app(event, None)
        return answered

    return get


def test_settings_name_the_stage_and_the_protocol_that_the_browser_used(get: Get) -> None:
    answered = get("/v1/projects/{key}/settings", authorizer=Everyone(), key="k")

    found = orjson.loads(answered["body"])["integrations"]["Segment.io"]
    assert found == {"apiKey": "k", "apiHost": "api.example/prod/v1", "protocol": "https"}


def test_a_refusal_says_in_whole_seconds_when_to_try_again_and_can_be_read_by_the_page(get: Get) -> None:
    answered = get("/v1/projects/{key}/settings", authorizer=Down(), key="k")

    assert answered["statusCode"] == 503
    assert 0 < int(answered["headers"]["Retry-After"]) <= 300
    assert answered["headers"]["Access-Control-Allow-Origin"] == "https://shop.example"
    assert "Retry-After" in answered["headers"]["Access-Control-Expose-Headers"]


def test_a_parameter_that_is_given_twice_is_refused_by_name(get: Get) -> None:
    query = {"metric": ["events"], "start": ["2026-11-20"], "end": ["2026-11-21"], "filter": ["path:/a", "path:/b"]}

    answered = get("/analytics", authorizer=Everyone(), query=query)

    assert answered["statusCode"] == 400
    assert orjson.loads(answered["body"])["message"] == "filter: given 2 times; once is allowed"
