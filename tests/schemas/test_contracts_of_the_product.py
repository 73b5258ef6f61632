"""The contracts in schemas/: each one is sound, and takes what real clients send."""

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest

from chalicelib.events.contracts import Contracts
from chalicelib.ingest.segment import to_native
from tests.schemas.schemaver import history_problems

FOLDER = Path(__file__).parents[2] / "schemas"
FILES = sorted(FOLDER.glob("*/*.json"))
EVENT_TYPES = {
    "add_to_cart",
    "api_request",
    "click",
    "error",
    "page_view",
    "purchase",
    "screen_view",
    "search",
    "session_start",
    "signup",
}
RESERVED = {"events", "users", "sessions"}  # metrics of every event type together

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")


def schema_of(path: Path) -> dict[str, Any]:
    schema: dict[str, Any] = orjson.loads(path.read_bytes())
    return schema


@each_file
def test_its_metric_is_a_name_that_needs_no_quotes_in_a_question(path: Path) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", schema_of(path)["x-metric"])


def test_every_event_type_of_the_product_has_a_contract() -> None:
    assert set(Contracts.load(FOLDER).by_type) >= EVENT_TYPES


@each_file
def test_it_is_a_json_schema_of_the_2020_12_draft(path: Path) -> None:
    schema = schema_of(path)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)


@each_file
def test_it_says_what_it_is(path: Path) -> None:
    schema = schema_of(path)

    assert schema["$id"] == f"urn:tidemark:schemas:{path.parent.name}:{path.stem}"
    for described in (schema, *schema["properties"].values()):
        assert described["title"]
        assert described["description"].endswith(".")


@each_file
def test_its_texts_and_lists_are_bounded(path: Path) -> None:
    for name, definition in schema_of(path)["properties"].items():
        if "string" in definition["type"]:
            assert "maxLength" in definition, name
        if "array" in definition["type"]:
            assert "maxItems" in definition, name


@each_file
def test_its_examples_keep_it(path: Path) -> None:
    schema = schema_of(path)
    versions = Contracts.load(FOLDER).versions(path.parent.name)
    [validator] = [contract.validator for contract in versions if contract.version == path.stem]

    assert schema["examples"]
    for example in schema["examples"]:
        assert validator.violation({"event_type": path.parent.name, "properties": example}) is None


@each_file
def test_what_it_rolls_up_are_properties_of_its_own(path: Path) -> None:
    schema = schema_of(path)
    rollup = schema["x-rollup"]
    properties = schema["properties"]

    assert set(rollup) == {"dimensions", "measures"}
    assert {*rollup["dimensions"], *rollup["measures"]} <= set(properties)
    assert not {*rollup["dimensions"]} & {*rollup["measures"]}


@each_file
def test_its_measures_are_numbers(path: Path) -> None:
    schema = schema_of(path)

    for name in schema["x-rollup"]["measures"]:
        kind = schema["properties"][name]["type"]
        assert {kind} <= {"number", "integer"} if isinstance(kind, str) else {*kind} <= {"number", "integer", "null"}


@each_file
def test_its_dimensions_are_short_values_and_not_ids_of_single_events(path: Path) -> None:
    schema = schema_of(path)

    for name in schema["x-rollup"]["dimensions"]:
        assert {"string", "integer", "boolean"} & {*schema["properties"][name]["type"]} or name in schema["required"]
        assert name not in {"url", "href", "referrer", "order_id", "cart_id", "checkout_id", "message", "stack"}


@each_file
def test_only_what_the_metric_is_meaningless_without_is_required(path: Path) -> None:
    required = {"api_request": ["latency_ms"], "search": ["query"], "error": ["message"]}

    assert schema_of(path).get("required", []) == required.get(path.parent.name, [])
    assert schema_of(path)["additionalProperties"] is True


def test_no_two_metrics_share_a_name() -> None:
    contracts = Contracts.load(FOLDER)
    metrics = [contract.metric for contract in contracts]

    assert len(set(metrics)) == len(metrics)
    assert not RESERVED & {*metrics, *contracts.by_type}
    for contract in contracts:
        assert contracts.type_of(contract.metric) == contract.event_type


@pytest.mark.parametrize(
    ("event_type", "properties", "path"),
    [
        ("api_request", {}, "/properties"),
        ("api_request", {"latency_ms": "12"}, "/properties/latency_ms"),
        ("api_request", {"latency_ms": -1}, "/properties/latency_ms"),
        ("search", {}, "/properties"),
        ("search", {"query": None}, "/properties/query"),
        ("error", {"message": 7}, "/properties/message"),
        ("purchase", {"revenue": "12.50"}, "/properties/revenue"),
        ("page_view", {"path": ["a"]}, "/properties/path"),
        ("page_view", {"path": "x" * 2049}, "/properties/path"),
    ],
)
def test_types_are_strict(event_type: str, properties: dict[str, Any], path: str) -> None:
    violation = (
        Contracts.load(FOLDER).validator(event_type).violation({"event_type": event_type, "properties": properties})
    )

    assert violation is not None
    assert violation.path == path


# As the SDKs build them; see https://segment.com/docs/connections/spec/ for the names.
BROWSER_PAGE = {
    "type": "page",
    "messageId": "ajs-next-1",
    "anonymousId": "a-1",
    "name": None,
    "category": "Docs",
    "properties": {
        "path": "/docs",
        "referrer": "",
        "search": "?utm_source=x",
        "title": "Docs",
        "url": "https://shop.example/docs?utm_source=x",
        "category": "Docs",
    },
    "context": {"library": {"name": "analytics.js"}, "page": {"path": "/docs"}},
}
MOBILE_SCREEN = {"type": "screen", "messageId": "m-1", "userId": "u-1", "name": "Home", "properties": {"variation": 2}}
SERVER_ORDER = {
    "type": "track",
    "event": "Purchase",
    "messageId": "o-1",
    "userId": "u-1",
    "properties": {
        "checkout_id": "fksdjfsdjfisjf9sdfjsd9f",
        "order_id": "50314b8e9bcf000000000000",
        "affiliation": "Web shop",
        "total": 27.50,
        "subtotal": 22.50,
        "revenue": 25.00,
        "shipping": 3,
        "tax": 2,
        "discount": 2.5,
        "coupon": None,
        "currency": "USD",
        "products": [{"product_id": "507f1f77", "sku": "45790-32", "price": 19, "quantity": 1}],
    },
}
CART = {
    "type": "track",
    "event": "Add to Cart",
    "messageId": "c-1",
    "userId": "u-1",
    "properties": {"cart_id": "k", "product_id": "p", "price": 18.99, "quantity": 1, "variant": "200 pieces"},
}


@pytest.mark.parametrize(
    ("message", "event_type"),
    [
        (BROWSER_PAGE, "page_view"),
        (MOBILE_SCREEN, "screen_view"),
        (SERVER_ORDER, "purchase"),
        (CART, "add_to_cart"),
    ],
)
def test_what_sdks_send_is_taken(message: dict[str, Any], event_type: str) -> None:
    event = to_native(message)

    assert event["event_type"] == event_type
    assert Contracts.load(FOLDER).validator(event_type).violation(event) is None


@pytest.mark.parametrize("event_type", sorted(Contracts.load(FOLDER).by_type))
def test_each_version_changes_what_its_number_says(event_type: str) -> None:
    assert history_problems(Contracts.load(FOLDER).versions(event_type)) == []
