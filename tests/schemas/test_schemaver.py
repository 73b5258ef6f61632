from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.events.contracts import Contract
from chalicelib.rollups.rollups import RollupSpec
from tests.schemas.schemaver import history_problems, narrowings

types = st.sampled_from(["null", "boolean", "number", "integer", "string", ["string", "null"], ["integer", "null"]])
leaves = st.fixed_dictionaries(
    {},
    optional={
        "type": types,
        "enum": st.lists(st.sampled_from([None, 1, 2, "a", "bb"]), min_size=1, max_size=3, unique=True),
        "maxLength": st.integers(0, 3),
        "minLength": st.integers(0, 3),
        "maximum": st.integers(-2, 2),
        "minimum": st.integers(-2, 2),
    },
)
schemas = st.fixed_dictionaries(
    {"type": st.just("object")},
    optional={
        "properties": st.dictionaries(st.sampled_from("ab"), leaves, max_size=2),
        "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True),
        "additionalProperties": st.booleans(),
    },
)
values = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "bb", "ccc"])
instances = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


def contract(version: str, document: dict[str, Any], metric: str = "clicks", *rolled_up: str) -> Contract:
    return Contract("click", version, metric, RollupSpec(rolled_up), document)


@settings(max_examples=400)
@given(schemas, schemas, st.lists(instances, min_size=5, max_size=20))
def test_what_narrows_nothing_takes_all_that_was_taken(old: Any, new: Any, sent: list[Any]) -> None:
    if not list(narrowings(old, new)):
        taken = [instance for instance in sent if jsonschema_rs.is_valid(old, instance)]

        assert [instance for instance in taken if not jsonschema_rs.is_valid(new, instance)] == []


@given(schemas)
def test_a_schema_narrows_nothing_of_itself(schema: Any) -> None:
    assert list(narrowings(schema, schema)) == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ({}, {"type": "object"}, "/ no longer takes array, boolean, integer, null, number, string"),
        ({"type": "number"}, {"type": "integer"}, "/ no longer takes number"),
        ({"enum": [1, 2]}, {"enum": [1]}, "/ no longer takes every value that it took"),
        ({"maxLength": 5}, {"maxLength": 4}, "/ has a narrower maxLength"),
        ({}, {"minimum": 0}, "/ has a narrower minimum"),
        ({}, {"pattern": "^a"}, "/ has another pattern"),
        ({}, {"required": ["a"]}, "/ now requires a"),
        (
            {},
            {"properties": {"a": {"type": "null"}}},
            "/a no longer takes array, boolean, integer, number, object, string",
        ),
        ({}, {"additionalProperties": False}, "/ no longer takes properties that it does not list"),
        ({"properties": {"a": {}}}, {"additionalProperties": False}, "/a is no longer taken"),
        ({"items": {}}, {"items": {"maximum": 1}}, "/items has a narrower maximum"),
        ({"oneOf": []}, {"oneOf": []}, "/ has the keyword 'oneOf', which cannot be compared"),
    ],
)
def test_a_narrowing_is_named(old: dict[str, Any], new: dict[str, Any], reason: str) -> None:
    assert reason in list(narrowings(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"type": "integer"}, {"type": ["number", "null"]}),
        ({"properties": {"a": {"maxLength": 1}}}, {"properties": {"a": {"maxLength": 2}}}),
        ({"additionalProperties": False}, {"properties": {"a": {"type": "string"}}, "additionalProperties": False}),
        ({"required": ["a"], "minimum": 1}, {}),
    ],
)
def test_a_widening_is_an_addition(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert history_problems([contract("1-0-0", old), contract("1-0-1", new)]) == []


def test_a_revision_may_refuse_what_was_taken_and_a_model_may_mean_something_else() -> None:
    history = [
        contract("1-0-0", {}, "clicks", "path"),
        contract("1-1-0", {"required": ["path"]}, "clicks", "path", "country"),
        contract("2-0-0", {"type": "object"}),
    ]

    assert history_problems(history) == []


def test_numbers_follow_each_other_and_names_stay() -> None:
    history = [
        contract("1-0-0", {}, "clicks", "path"),
        contract("1-0-2", {"maximum": 1}, "presses"),
        contract("3-0-0", {}),
    ]

    assert history_problems(history) == [
        "click: 1-0-0 -> 1-0-2: the next version is one of 1-0-1, 1-1-0, 2-0-0",
        "click: 1-0-0 -> 1-0-2: x-metric becomes 'presses'; the metric of a type keeps its name",
        "click: 1-0-0 -> 1-0-2: path are no longer rolled up; that needs a new model",
        "click: 1-0-0 -> 1-0-2: / has a narrower maximum; that needs a revision",
        "click: 1-0-2 -> 3-0-0: the next version is one of 1-0-3, 1-1-0, 2-0-0",
        "click: 1-0-2 -> 3-0-0: x-metric becomes 'clicks'; the metric of a type keeps its name",
    ]
    assert history_problems([contract("1-0-1", {})]) == ["click begins with 1-0-1; the first version is 1-0-0"]
