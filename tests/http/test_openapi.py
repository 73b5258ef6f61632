"""GET /openapi.json says what the code does."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from chalice.test import Client
from marshmallow import EXCLUDE, Schema, fields, validate
from openapi_spec_validator import validate as check_document

import app
from chalicelib import wiring
from chalicelib.access.access import Project, Scope
from chalicelib.base.errors import Forbidden
from chalicelib.events.contracts import Contract
from chalicelib.http.api import described
from chalicelib.http.openapi import object_of
from chalicelib.http.operations import OPERATIONS
from chalicelib.ingest import bodies
from chalicelib.numbers import questions
from chalicelib.stages import Stages
from chalicelib.stores import Stores
from tests.description import SERVER, hold, operations
from tests.stores import SETTINGS

CONTRACTS = wiring.contracts()
ROOT = Path(__file__).parents[2]
HEADERS = {"Content-Type": "application/json", "x-api-key": "k"}


class Asked:
    """An authorizer that refuses everybody, and notes what was asked for."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    def project_of_key(self, key: str | None, scope: Scope) -> Project:
        self.scopes.append(scope)
        raise Forbidden("nobody may")

    def project(self, headers: object, scope: Scope) -> Project:
        return self.project_of_key(None, scope)


@pytest.fixture
def document() -> dict[str, Any]:
    return described(app.app.routes, wiring.contracts(), SERVER)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(app.app) as client:
        yield client


def test_every_route_is_described_and_every_description_has_a_route() -> None:
    routes = {f"{method} {path}" for path, methods in app.app.routes.items() for method in methods}

    assert OPERATIONS.keys() == routes


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    check_document(document)


def test_each_operation_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(set(names)) == len(names)


def test_it_is_served_without_a_key_and_names_where_the_api_is(client: Client, document: dict[str, Any]) -> None:
    answer = client.http.get("/openapi.json", headers={"Host": "api.example", "X-Forwarded-Proto": "https"})

    assert answer.status_code == 200
    assert answer.json_body == document | {"servers": [{"url": "https://api.example"}]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_described_scope_is_the_one_that_is_asked_for(
    name: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, operation = Asked(), OPERATIONS[name]
    stages = Stages(Stores(SETTINGS, lambda *_: None), wiring.contracts)
    monkeypatch.setattr(stages, "authorizer", asked)
    monkeypatch.setattr(wiring, "stages", lambda: stages)
    monkeypatch.setattr(wiring, "stores", lambda: stages.stores)
    method, path = name.split()
    path = path.format(**dict.fromkeys(re.findall(r"{(\w+)}", path), "x") | {"kind": "track"})

    answer = client.http.request(method, path, headers=HEADERS, body=b"{}")

    if operation.scope is None:
        assert asked.scopes == []
    else:
        assert set(asked.scopes) == {operation.scope}
        assert answer.status_code == 403
        assert answer.json_body["code"] == "missing_scope"


def test_scopes_in_the_documentation_are_those_described() -> None:
    rows = re.findall(r"^\| `([A-Z]+ /[^`]*)` \| (\w+) \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)

    assert {name: operation.scope or "none" for name, operation in OPERATIONS.items()} == dict(rows)


def test_parameters_have_the_limits_that_are_in_force(document: dict[str, Any]) -> None:
    found = {parameter["name"]: parameter for parameter in document["paths"]["/analytics"]["get"]["parameters"]}

    assert found.keys() == questions.QuestionParameters().fields.keys()
    assert [name for name, parameter in found.items() if parameter["required"]] == ["metric", "start", "end"]
    assert found["agg"]["schema"] == {"type": "string", "enum": list(questions.AGGREGATIONS), "default": "count"}
    assert found["limit"]["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": questions.MAX_GROUPS,
        "default": questions.DEFAULT_GROUPS,
    }


def test_a_body_is_described_as_its_schema_loads_it() -> None:
    class Sent(Schema):
        class Meta:
            unknown = EXCLUDE

        name = fields.String(required=True, validate=validate.Length(1, 9), metadata={"description": "Whose."})
        share = fields.Float(data_key="part", validate=validate.Range(min=0, max=1, max_inclusive=False))
        kind = fields.String(load_default=None, validate=validate.OneOf(["a", "b"]))
        tags = fields.List(fields.String(), validate=validate.Length(max=3))
        code = fields.String(validate=validate.Regexp("^[a-z]+$"))
        whole = fields.Boolean(load_default=False)
        anything = fields.Raw()

    assert object_of(Sent) == {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 9, "description": "Whose."},
            "part": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            "kind": {"type": ["string", "null"], "enum": ["a", "b", None]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
            "code": {"type": "string", "pattern": "^[a-z]+$"},
            "whole": {"type": "boolean", "default": False},
            "anything": {},
        },
    }


def test_every_version_of_every_contract_is_a_component_with_its_limits(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    for event_type in wiring.contracts().by_type:
        for contract in wiring.contracts().versions(event_type):
            described = schemas[f"{event_type}.{contract.version}"]["properties"]
            assert described["event_type"] == {"const": event_type}
            assert described["properties"]["properties"] == contract.document["properties"]
            assert described["user_id"]["maxLength"] == 256


@pytest.mark.parametrize(
    "contract",
    [c for e in CONTRACTS.by_type for c in CONTRACTS.versions(e)],
    ids=lambda c: f"{c.event_type} {c.version}",
)
def test_the_examples_of_a_contract_are_events_as_described(contract: Contract, document: dict[str, Any]) -> None:
    described = {"$ref": f"#/components/schemas/{contract.event_type}.{contract.version}"}
    validator = jsonschema_rs.validator_for(described | {"components": document["components"]})

    for example in contract.document["examples"]:
        event = {"event_type": contract.event_type, "properties": example}
        assert validator.is_valid(event)
        assert validator.is_valid(event | {"schema_version": contract.version})
        assert not validator.is_valid(event | {"schema_version": "9-0-0"})
        assert not validator.is_valid(event | {"user_id": 7})


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (500, {"code": "internal_server", "message": "An internal server error occurred."}, "500 is not described"),
        (200, {"status": "ok", "version": "1", "stage": "dev", "more": 1}, "'more' was unexpected"),
        (200, {"status": "ok", "version": "1"}, '"stage" is a required property'),
    ],
)
def test_an_answer_that_is_not_described_fails_the_test_that_gets_it(
    status: int, body: dict[str, Any], problem: str
) -> None:
    with pytest.raises(AssertionError, match=problem):
        hold("GET", "/health?x=1", status, {"content-type": "application/json"}, body)


def test_every_name_that_a_body_may_have_is_described(document: dict[str, Any]) -> None:
    described = document["paths"]["/events"]["post"]["requestBody"]["content"]

    assert set(bodies.MEDIA_TYPES) <= described.keys()


def test_statuses_are_those_of_the_errors_that_the_app_maps(document: dict[str, Any]) -> None:
    answers = document["paths"]["/events"]["post"]["responses"]

    assert list(answers) == ["202", "400", "401", "403", "413", "415", "429", "503"]
    assert document["components"]["responses"]["TooManyRequests"]["headers"].keys() == {
        "Retry-After",
        "X-RateLimit-Reset",
    }
