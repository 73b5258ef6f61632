"""Chalice's configuration against what it names: settings, outputs, policies, triggers, functions."""

import ast
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import pytest

from app import app
from chalicelib.settings import Settings, Sources
from infra.functions import LAYERED
from infra.names import variable
from infra.policies import documents
from infra.project import ROOT, STAGES, read_config
from infra.triggers import TRIGGERS

# What only the made stack knows; `make outputs` records it.
RECORDED = {
    "EVENTS_STREAM_ARN",
    "ROLLUPS_STREAM_ARN",
    "EVENTS_QUEUE_URL",
    "DATA_BUCKET",
    "RESULTS_BUCKET",
    "ALERTS_TOPIC_ARN",
    "HOURLY_WORKFLOW_ARN",
    "IMPORT_WORKFLOW_ARN",
}
STREAMS = {"EVENTS_STREAM_ARN", "ROLLUPS_STREAM_ARN"}
# Lambda refuses a function whose environment sets one of these.
RESERVED = {"AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


def variables(stage: str) -> dict[str, str]:
    """The environment of a stage's functions."""
    found: dict[str, str] = read_config()["stages"][stage]["environment_variables"]
    return found


def settings() -> set[str]:
    """Every variable that chalicelib/settings.py reads."""
    return {field.name.upper() for kind in (Settings, Sources) for field in fields(kind)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_every_setting_once_its_outputs_are_recorded(stage: str, template: dict[str, Any]) -> None:
    outputs = {variable(name) for name in template["Outputs"]}

    assert settings() <= variables(stage).keys() | outputs
    assert variables(stage).keys() | RECORDED >= outputs


def test_the_laptop_has_every_setting_but_the_streams(template: dict[str, Any]) -> None:
    outputs = {variable(name) for name in template["Outputs"]}

    assert (settings() | outputs) - STREAMS <= variables("dev").keys()


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_sets_what_lambda_keeps_for_itself(stage: str) -> None:
    assert not variables(stage).keys() & RESERVED
    assert not [name for name in variables(stage) if name.startswith(("AWS_", "LAMBDA_"))]


@pytest.mark.parametrize("stage", ["dev", *STAGES])
def test_the_environment_is_sorted_so_that_recording_makes_small_diffs(stage: str) -> None:
    assert list(variables(stage)) == sorted(variables(stage))


def test_staging_and_production_differ_in_their_names_only() -> None:
    stages = read_config()["stages"]
    staging = {name: value for name, value in variables("staging").items() if name not in RECORDED | {"WEBSOCKET_URL"}}

    for name, value in staging.items():
        assert variables("prod")[name] == value.replace("staging", "prod")
    assert stages["staging"]["lambda_functions"].keys() == stages["prod"]["lambda_functions"].keys()


def test_the_gateway_inflates_what_sdks_send_as_gzip() -> None:
    assert read_config()["minimum_compression_size"] is not None  # API Gateway inflates requests only where it is set


def test_only_the_functions_that_import_pyarrow_carry_the_layer() -> None:
    importing = {path.stem for path in (ROOT / "chalicelib").rglob("*.py") if "import pyarrow" in path.read_text()}

    assert importing == {"backfill", "export", "lake", "merging", "raw_files", "recount", "session_files", "user_rows"}
    functions = [each for each in ast.parse((ROOT / "app.py").read_text()).body if isinstance(each, ast.FunctionDef)]
    assert {each.name for each in functions if "wiring.lake_stages()" in ast.unparse(each)} == set(LAYERED)


@pytest.mark.parametrize("stage", STAGES)
def test_each_function_has_its_own_policy_file(stage: str) -> None:
    functions = read_config()["stages"][stage]["lambda_functions"]

    assert {f["iam_policy_file"] for f in functions.values()} == documents(stage).keys()
    assert all(f["iam_policy_file"] == f"policy-{name}-{stage}.json" for name, f in functions.items())
    assert read_config()["autogen_policy"] is False


@pytest.mark.parametrize("stage", STAGES)
def test_a_policy_reaches_its_own_stage_only(stage: str) -> None:
    for statement in statements(stage):
        for resource in statement["Resource"]:
            general = resource == "*" or resource.endswith((":catalog", ":database/default"))
            assert (
                general
                or f"tidemark-{stage}" in resource
                or f"tidemark_{stage}" in resource
                or f"/{stage}/" in resource
            )
            # These know no resource.
            assert resource != "*" or statement["Action"] in (["dynamodb:ListStreams"], ["kinesis:ListStreams"])
        assert not [action for action in statement["Action"] if "*" in action]


def test_every_stream_retries_until_it_succeeds_and_the_queue_part_by_part() -> None:
    mappings = json.loads(TRIGGERS.read_text())
    streams = {source.name for source in app.event_sources if type(source).__name__ == "DynamoDBEventConfig"}

    endless = {name for name, mapping in mappings.items() if mapping.get("MaximumRetryAttempts") == -1}
    assert endless == streams | {"process@kinesis"}
    assert not [name for name, mapping in mappings.items() if "MaximumRecordAgeInSeconds" in mapping]
    assert mappings["process"] == {"FunctionResponseTypes": ["ReportBatchItemFailures"]}


def statements(stage: str) -> Iterable[dict[str, Any]]:
    """Every statement of every function."""
    return [statement for document in documents(stage).values() for statement in document["Statement"]]
