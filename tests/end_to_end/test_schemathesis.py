"""schemathesis sends what the API's own description allows and forbids: nothing may fail, or be answered otherwise."""

import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from chalicelib.access.access import ApiKey, Project, Scope
from chalicelib.access.access_table import AccessTable, digest_of
from chalicelib.access.quotas import UNLIMITED
from chalicelib.events.events import Mode
from tests.description import description
from tests.end_to_end.client import Api, eventually
from tests.localcloud.running import Stack

PROJECT, KEY = "fuzzed", "fuzzed-key"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CONFIG = {
    "generation": {"with-security-parameters": False},  # every case has the key that is given below
    # TRACE and QUERY are refused by API Gateway, and here by Python's server, before there is an app.
    "phases": {"coverage": {"unexpected-methods": ["get", "put", "post", "delete", "options", "patch"]}},
    # The limits of every property of every contract, one after the other, would be 7,000 requests.
    "operations": [{"include-name": "POST /events", "phases": {"coverage": {"enabled": False}}}],
}
# Its requests are made up when the test runs, not when tests are collected, which each process of a run does by itself.
lazy = schemathesis.pytest.from_fixture("schema")


@pytest.fixture
def schema(request: pytest.FixtureRequest) -> Any:
    """The API's description, with what is to be sent of it."""
    request.node._nodeid = request.node.nodeid  # which schemathesis 4.32 reads and pytest 9.2 no longer has
    return schemathesis.openapi.from_dict(description(), config=schemathesis.Config.from_dict(CONFIG))


@schemathesis.serializer("application/x-ndjson")
def lines(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """Twice the same, a line each."""
    return b"\n".join([json.dumps(value).encode()] * 2)


@schemathesis.serializer("application/gzip")
def compressed(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """JSON in gzip."""
    return gzip.compress(json.dumps(value).encode())


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    """Of a project of its own, where something has happened, so that there is something to answer."""
    access, now = AccessTable(stack.client("dynamodb"), "tidemark-dev-control"), datetime.now(UTC)
    access.put_project(Project(PROJECT, Mode.WARN, salt=b"salt"), UNLIMITED, now)
    access.put_key(ApiKey(PROJECT, digest_of(KEY), tuple(Scope), "for schemathesis", now))
    api = Api(stack.rest_url)
    api.post([{"event_type": "page_view", "user_id": "ada", "properties": {"path": "/", "load_ms": 9}}], KEY)
    api.post([{"event_type": "identify", "user_id": "ada", "anonymous_id": "a", "properties": {"plan": "pro"}}], KEY)
    api.post([{"event_type": "page_view", "properties": {"load_ms": "slow"}}], KEY)
    eventually(lambda: sum(hour["stored"] for hour in api.ledger(KEY)), 2, seconds=20)
    return KEY


@pytest.mark.slow
@pytest.mark.usefixtures("stack")
@lazy.parametrize()
@settings(max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: schemathesis.Case[Any], stack: Stack, key: str) -> None:
    case.call_and_validate(base_url=stack.rest_url, headers={"x-api-key": key}, checks=CHECKS)
