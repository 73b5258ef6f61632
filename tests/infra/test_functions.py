"""infra/functions.py against all that has to agree with it: written files, app.py's decorators, workflows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chalice.app import (
    CloudWatchEventConfig,
    DynamoDBEventConfig,
    KinesisEventConfig,
    S3EventConfig,
    ScheduledEventConfig,
    SQSEventConfig,
)

import app as handlers
from infra import write
from infra.alarms import Fails
from infra.event_sources import Buffer, Bus, Rest, Schedule, Socket, TableStream, Task, Trigger, Upload
from infra.functions import BY_NAME, FUNCTIONS, LAYERED, all_alarms
from infra.project import ROOT, read_config
from infra.stack import TEMPLATE
from infra.templates import with_tasks
from infra.triggers import TRIGGERS
from localcloud.schedule import period_seconds

WORKFLOWS = ROOT / "infra" / "workflows"


def test_every_written_file_is_what_the_table_says() -> None:
    assert write.different() == [], "infra/functions.py says something else of these files; run: make functions"


def test_the_app_declares_the_functions_and_triggers_of_the_table() -> None:
    declared = {"app": shown(Rest())} | {name: shown(trigger) for name, trigger in declared_triggers().items()}

    table = {each.app_name: shown(each.trigger) for each in FUNCTIONS}
    assert table == declared, "infra/functions.py (left) and app.py's decorators (right) differ"
    assert all(hasattr(handlers, name) for name in table)


def test_every_schedule_runs_on_a_laptop_and_one_that_is_rare_fails_by_its_own_period() -> None:
    for each in FUNCTIONS:
        if isinstance(each.trigger, Schedule):
            period = period_seconds(each.trigger.expression)
            failing = [alarm for alarm in each.alarms if isinstance(alarm, Fails)]
            assert all(alarm.seconds for alarm in failing) or period <= 60, (
                f"{each.name} runs every {period} s: three minutes in a row never fail; say Fails(seconds=...)"
            )


def declared_triggers() -> dict[str, Any]:
    """The trigger of each handler as app.py and the workflows have it, in the table's words."""
    found: dict[str, Any] = {source.name: trigger_of(source) for source in handlers.app.event_sources}
    found |= {each.name: Socket(each.route_key_handled) for each in handlers.app.websocket_handlers.values()}
    tasks = {task: path.name.partition(".")[0] for path in WORKFLOWS.glob("*.json") for task in tasks_of(path)}
    return found | {each.name: Task(tasks[each.name]) for each in handlers.app.pure_lambda_functions}


def trigger_of(source: Any) -> Trigger:
    match source:
        case SQSEventConfig() | KinesisEventConfig():
            return Buffer()
        case DynamoDBEventConfig():
            return TableStream(source.stream_arn.partition("/stream/")[0].rpartition("-")[2], ())
        case S3EventConfig():
            return Upload(source.prefix)
        case CloudWatchEventConfig():
            return Bus()
        case ScheduledEventConfig():
            expression = source.schedule_expression
            return Schedule(expression if isinstance(expression, str) else expression.to_string())
    raise AssertionError(f"{source} has no entry here")


def shown(trigger: Trigger) -> str:
    """A trigger as far as a decorator tells it."""
    match trigger:
        case Rest():
            return "the REST API"
        case TableStream(table):
            return f"the stream of {table}"
    return str(trigger)


def tasks_of(workflow: Path) -> set[str]:
    """The functions that a workflow's states name."""
    named = re.findall(r'"Resource": "\$\{(\w+)\}"', workflow.read_text())
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in named}


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.name)
def test_a_workflow_has_a_state_for_each_of_its_tasks_and_no_other_function(path: Path) -> None:
    workflow = path.name.partition(".")[0]

    assert tasks_of(path) == {each.name for each in FUNCTIONS if each.trigger == Task(workflow)}


def test_each_function_and_each_alarm_is_there_once() -> None:
    alarms = [alarm.name for alarm in all_alarms()]

    assert len(BY_NAME) == len(FUNCTIONS)
    assert len(set(alarms)) == len(alarms)


def test_what_an_operator_or_a_command_has_set_of_a_function_stays() -> None:
    config = write.with_functions(read_config())
    config["lambda_functions"]["live"]["reserved_concurrency"] = 5
    config["stages"]["prod"]["lambda_functions"]["archive"]["layers"] = ["arn:1"]
    config["stages"]["prod"]["lambda_functions"]["process"]["reserved_concurrency"] = 7

    made = write.with_functions(config)

    assert made == config


def test_a_function_that_is_gone_and_a_layer_that_is_no_longer_needed_leave_the_configuration() -> None:
    config = write.with_functions(read_config())
    own = config["stages"]["prod"]["lambda_functions"]
    own["live"]["layers"] = ["arn:1"]
    own["gone"] = {"iam_policy_file": "policy-gone-prod.json"}
    config["lambda_functions"]["gone"] = {"lambda_timeout": 1}

    assert "live" not in LAYERED
    assert write.with_functions(config) == read_config()


def test_a_changed_limit_is_written() -> None:
    config = write.with_functions(read_config())
    config["lambda_functions"]["process"] = {"lambda_timeout": 1, "lambda_memory_size": 128}
    config["lambda_timeout"] = 1

    assert write.with_functions(config) == read_config()


def test_the_tasks_in_the_template_are_written_anew_and_nothing_else() -> None:
    text = TEMPLATE.read_text()
    damaged = re.sub(r"\n +Close: .*", "", text.replace("-import_fail", "-import_lost"))

    assert damaged != text
    assert with_tasks(damaged) == text


def test_a_template_without_the_place_for_its_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="no line 'Resource: # tasks"):
        with_tasks("Resources: {}\n")


def test_the_command_writes_what_differs_removes_what_is_gone_and_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same, other, gone = (tmp_path / name for name in ("same", "other", "gone"))
    for path in (same, other, gone):
        path.write_text("old")
    monkeypatch.setattr(write, "ROOT", tmp_path)
    monkeypatch.setattr(write, "written", lambda: {same: "old", other: "new", tmp_path / "more": "more"})
    monkeypatch.setattr(write, "left_over", lambda: [gone])

    assert write.different() == ["gone", "other", "more"]
    write.main()

    assert capsys.readouterr().out.splitlines() == ["removed gone", "wrote other", "wrote more"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "same": "old",
        "other": "new",
        "more": "more",
    }


def test_every_trigger_setting_belongs_to_a_queue_or_stream() -> None:
    fed = {each.name for each in FUNCTIONS if isinstance(each.trigger, Buffer | TableStream)}

    assert {name.partition("@")[0] for name in json.loads(TRIGGERS.read_text())} == fed
