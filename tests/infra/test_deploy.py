"""`chalice deploy --stage prod` with all that goes before and after it, rehearsed twice on moto, for either buffer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chalicelib.settings import BUFFERS, OWN_EVENTS
from infra.event_sources import TableStream
from infra.functions import BY_NAME, FUNCTIONS, LAYERED
from infra.names import setting_of
from infra.policies import documents, render
from infra.project import ROOT, read_config, write_config
from infra.triggers import TRIGGERS


@pytest.fixture(scope="module", params=BUFFERS)
def rehearsal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two deployments in a row left."""
    project = tmp_path_factory.mktemp("project")
    for name in ("chalicelib", "infra", "schemas", ".chalice"):
        shutil.copytree(
            ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "deployed", "deployments")
        )
    shutil.copy(ROOT / "app.py", project)
    choose(request.param, project)
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    found = project / "found.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "infra" / "rehearsal.py"), str(found)],
        cwd=project,
        env={**surroundings, **keys, "PYTHONPATH": str(project), "AWS_ACCOUNT_ID_ENDPOINT_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    document: dict[str, Any] = json.loads(found.read_text())
    return document | {"buffer": request.param}


def choose(buffer: str, project: Path) -> None:
    """What an operator does for another buffer: the stage's setting, and the policies that follow from it."""
    path = project / ".chalice" / "config.json"
    config = read_config(path)
    config["stages"]["prod"]["environment_variables"]["BUFFER"] = buffer
    write_config(config, path)
    for name, document in documents("prod", buffer).items():
        (project / ".chalice" / name).write_text(render(document))


def test_every_function_is_there_with_its_own_role(rehearsal: dict[str, Any]) -> None:
    functions = rehearsal["first"]["functions"]

    assert functions.keys() == {each.lambda_name("prod") for each in FUNCTIONS}
    for each in FUNCTIONS:
        role = functions[each.lambda_name("prod")]["Role"].rpartition("/")[2]
        policy = documents("prod", rehearsal["buffer"])[f"policy-{each.name}-prod.json"]
        assert rehearsal["first"]["roles"][role] == policy


def test_every_function_has_its_time_and_memory(rehearsal: dict[str, Any]) -> None:
    functions = rehearsal["first"]["functions"]

    for each in FUNCTIONS:
        made = functions[each.lambda_name("prod")]
        assert (made["Timeout"], made["MemorySize"]) == (each.timeout_seconds, each.memory_mb)


def test_only_the_functions_that_need_it_carry_the_layer(rehearsal: dict[str, Any]) -> None:
    layered = [name for name, function in rehearsal["first"]["functions"].items() if function.get("Layers")]

    assert sorted(layered) == sorted(f"tidemark-prod-{name}" for name in LAYERED)


def test_every_function_knows_where_the_sockets_are_after_one_deployment(rehearsal: dict[str, Any]) -> None:
    (api,) = rehearsal["first"]["socket_apis"]

    addresses = {f["Environment"]["Variables"]["WEBSOCKET_URL"] for f in rehearsal["first"]["functions"].values()}
    assert addresses == {f"wss://{api}.execute-api.us-east-1.amazonaws.com/prod"}
    assert rehearsal["changes"] == [["WEBSOCKET_URL"], []]


def test_triggers_have_what_chalice_cannot_set(rehearsal: dict[str, Any]) -> None:
    settings = json.loads(TRIGGERS.read_text())
    for name in {entry.partition("@")[0] for entry in settings}:
        wanted = setting_of(settings, name, rehearsal["buffer"] if name == "process" else "")
        mapping = rehearsal["first"]["mappings"][BY_NAME[name].lambda_name("prod")]
        assert {name: mapping.get(name) for name in wanted} == wanted


def test_each_stream_is_of_the_table_that_is_said(rehearsal: dict[str, Any]) -> None:
    streams = {each.lambda_name("prod"): each.trigger for each in FUNCTIONS if isinstance(each.trigger, TableStream)}

    assert len(streams) == 3
    for name, trigger in streams.items():
        source = rehearsal["first"]["mappings"][name]["EventSourceArn"]
        assert f":table/tidemark-prod-{trigger.table}/stream/" in source


def test_process_reads_the_stages_buffer_and_no_other(rehearsal: dict[str, Any]) -> None:
    mapping = rehearsal["first"]["mappings"]["tidemark-prod-process"]

    sources = {"sqs": ":sqs:us-east-1:123456789012:", "kinesis": ":kinesis:us-east-1:123456789012:stream/"}
    assert mapping["EventSourceArn"] == f"arn:aws{sources[rehearsal['buffer']]}tidemark-prod-events"


def test_only_what_the_pattern_asks_for_comes_from_the_bus(rehearsal: dict[str, Any]) -> None:
    [rule] = [rule for rule in rehearsal["first"]["rules"] if "EventPattern" in rule]

    assert json.loads(rule["EventPattern"]) == OWN_EVENTS
    assert [target["Arn"].rpartition(":")[2] for target in rule["Targets"]] == ["tidemark-prod-take_bus_event"]


def test_an_event_of_the_bus_that_fails_is_kept_with_the_dead_letters(rehearsal: dict[str, Any]) -> None:
    config = rehearsal["first"]["bus_failures"]

    assert config["DestinationConfig"] == {
        "OnFailure": {"Destination": "arn:aws:sqs:us-east-1:123456789012:tidemark-prod-events-dlq"}
    }
    assert config["MaximumRetryAttempts"] == 2


def test_a_spilled_object_calls_reinject_and_a_file_of_history_its_import(rehearsal: dict[str, Any]) -> None:
    found = {
        notification["LambdaFunctionArn"].rpartition(":tidemark-prod-")[2]: notification["Filter"]["Key"]["FilterRules"]
        for notification in rehearsal["first"]["notifications"]
    }

    assert found == {
        "reinject": [{"Name": "prefix", "Value": "spill/"}],
        "start_import": [{"Name": "prefix", "Value": "raw/"}],
    }


def test_deploying_from_another_machine_makes_nothing_twice(rehearsal: dict[str, Any]) -> None:
    first, second = rehearsal["first"], rehearsal["second"]

    for name in ("rest_apis", "socket_apis", "mapping_count", "settings"):
        assert second[name] == first[name]
    assert second["functions"].keys() == first["functions"].keys()
