"""The commands that deploy, against an account: stacks, outputs, layer, triggers."""

import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chalicelib.access.access import Credential, Project
from chalicelib.access.access_table import AccessTable
from chalicelib.events.events import Mode
from infra import deploy, layer, names, outputs, project, stack, triggers, write
from infra.functions import FUNCTIONS, LAYERED, all_alarms
from localcloud.seeds import seed

Aws = Callable[[str], Any]


def steady(_seconds: float) -> None:
    """Instead of waiting: the services here answer at once."""


@pytest.fixture(scope="module")
def made(aws: Aws) -> dict[str, str]:
    """The outputs of production's stacks."""
    return stack.ensure_both("prod", {}, aws("cloudformation"), say=lambda _: None, sleep=steady)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of Chalice's configuration, to write to."""
    config = tmp_path / "config.json"
    config.write_text(project.CONFIG.read_text())
    monkeypatch.setattr(outputs, "read_config", lambda: project.read_config(config))
    monkeypatch.setattr(outputs, "write_config", lambda found: project.write_config(found, config))
    monkeypatch.setattr(outputs, "deployed", lambda stage: project.deployed(stage, tmp_path))
    return config


def variables(config: Path) -> dict[str, str]:
    """Production's environment in the copy."""
    found: dict[str, str] = json.loads(config.read_text())["stages"]["prod"]["environment_variables"]
    return found


def test_the_stack_gives_every_output(made: dict[str, str], template: dict[str, Any]) -> None:
    assert made.keys() == template["Outputs"].keys() - {"BufferStream"}
    assert made["DataBucket"] == "tidemark-prod-data-000000000000"
    assert "/stream/" in made["EventsStreamArn"]


def test_the_monitoring_stack_stands_beside_it(made: dict[str, str], aws: Aws) -> None:
    groups = aws("logs").describe_log_groups(logGroupNamePrefix="/aws/lambda/tidemark-prod")["logGroups"]

    assert len(groups) == len(FUNCTIONS)
    assert {group["retentionInDays"] for group in groups} == {30}
    assert len(aws("cloudwatch").describe_alarms(AlarmNamePrefix="tidemark-prod-")["MetricAlarms"]) == len(all_alarms())


def test_a_stage_that_asks_for_kinesis_gets_a_stream_and_keeps_everything_else(made: dict[str, str], aws: Aws) -> None:
    def ensure(buffer: str) -> dict[str, str]:
        return stack.ensure_both("prod", {"Buffer": buffer}, aws("cloudformation"), say=lambda _: None, sleep=steady)

    assert ensure("kinesis") == {**made, "BufferStream": "tidemark-prod-events"}
    assert aws("kinesis").describe_stream_summary(StreamName="tidemark-prod-events")
    assert ensure("sqs") == made


def test_making_the_stack_again_changes_no_output(made: dict[str, str], aws: Aws) -> None:
    assert stack.ensure_both("prod", {}, aws("cloudformation"), say=lambda _: None, sleep=steady) == made


def test_progress_names_each_resource(aws: Aws, tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    small.write_text("Resources: {Topic: {Type: 'AWS::SNS::Topic'}}")
    said: list[str] = []

    stack.ensure(aws("cloudformation"), "small", small, {}, say=said.append, sleep=steady)

    assert any("Topic CREATE_COMPLETE" in line for line in said)


def test_a_stack_that_cannot_be_made_says_why_and_how_to_go_on(aws: Aws, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    token = "arn:aws:lambda:us-east-1:000000000000:function:none"
    broken.write_text(f"Resources: {{Thing: {{Type: 'Custom::Thing', Properties: {{ServiceToken: '{token}'}}}}}}")

    with pytest.raises(project.OperatorError, match=r"broken ended in ROLLBACK_COMPLETE: Thing: .*not found"):
        stack.ensure(aws("cloudformation"), "broken", broken, {}, say=lambda _: None, sleep=steady)
    with pytest.raises(project.OperatorError, match=r"delete-stack --stack-name broken"):
        stack.ensure(aws("cloudformation"), "broken", broken, {}, say=lambda _: None, sleep=steady)


def test_outputs_are_recorded_once(made: dict[str, str], aws: Aws, files: Path) -> None:
    first = outputs.record_all("prod", aws("cloudformation"))
    text = files.read_text()

    second = outputs.record_all("prod", aws("cloudformation"))

    assert "DATA_BUCKET = tidemark-prod-data-000000000000" in first
    assert second == []
    assert files.read_text() == text
    assert {names.variable(name): value for name, value in made.items()}.items() <= variables(files).items()
    assert list(variables(files)) == sorted(variables(files))


def test_the_websocket_address_is_recorded_after_the_first_deploy(made: dict[str, str], aws: Aws, files: Path) -> None:
    outputs.record_all("prod", aws("cloudformation"))
    address = "wss://abc.execute-api.us-east-1.amazonaws.com/prod/"
    (files.parent / "deployed").mkdir()
    socket = {"name": "websocket_api", "resource_type": "websocket_api", "websocket_api_url": address}
    (files.parent / "deployed" / "prod.json").write_text(json.dumps({"resources": [socket]}))

    changes = outputs.record_all("prod", aws("cloudformation"))

    assert changes == [
        "WEBSOCKET_URL = wss://abc.execute-api.us-east-1.amazonaws.com/prod"
    ]  # a query string follows it


def test_without_a_stack_the_message_names_the_command(aws: Aws, files: Path) -> None:
    before = files.read_text()

    with pytest.raises(
        project.OperatorError, match=r"no stack tidemark-staging in us-east-1.*infra.stack --stage staging"
    ):
        outputs.record_all("staging", aws("cloudformation"))

    assert files.read_text() == before


def test_triggers_get_their_settings_once(made: dict[str, str], aws: Aws) -> None:
    lambda_ = aws("lambda")
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", "def process(event, context): pass")
    lambda_.create_function(
        FunctionName="tidemark-prod-process",
        Runtime="python3.12",
        Role="arn:aws:iam::000000000000:role/process",
        Handler="app.process",
        Code={"ZipFile": code.getvalue()},
    )
    queue = "arn:aws:sqs:us-east-1:000000000000:tidemark-prod-events"
    mapping = lambda_.create_event_source_mapping(FunctionName="tidemark-prod-process", EventSourceArn=queue)
    wanted = json.loads(triggers.TRIGGERS.read_text())["process"]

    first = triggers.apply(lambda_, mapping["UUID"], wanted, sleep=steady)
    second = triggers.apply(lambda_, mapping["UUID"], wanted, sleep=steady)

    assert (first, second) == (["FunctionResponseTypes"], [])
    assert lambda_.get_event_source_mapping(UUID=mapping["UUID"])["FunctionResponseTypes"] == [
        "ReportBatchItemFailures"
    ]


def test_triggers_are_found_in_what_chalice_deployed() -> None:
    resources = {
        "process-sqs-event-source": {"event_uuid": "1"},
        "live-dynamodb-event-source": {"event_uuid": "2"},
    }

    found = triggers.mappings(resources, {"process": {"a": 1}, "process@kinesis": {"a": 2}, "live": {}}, "prod")
    assert found == {"process": ("1", {"a": 1}), "live": ("2", {})}
    streaming = {"process-kinesis-event-source": {"event_uuid": "3"}}
    assert triggers.mappings(streaming, {"process": {"a": 1}, "process@kinesis": {"a": 2}}, "prod") == {
        "process": ("3", {"a": 2})
    }
    with pytest.raises(project.OperatorError, match="no trigger of archive; deploy first: chalice deploy --stage prod"):
        triggers.mappings(resources, {"process": {}, "archive": {}}, "prod")


@pytest.fixture
def checkout(made: dict[str, str], aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `make deploy` runs: each step of it a stand-in, and a Chalice that adds a word to what it deployed."""
    chalice = tmp_path / "chalice"
    chalice.write_text("#!/bin/sh\nmkdir -p deployed; printf ' deployed' >>deployed/prod.json\n")
    chalice.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["deploy", "--stage", "prod"])
    for name in ("ROOT", "CHALICE"):
        monkeypatch.setattr(deploy, name, tmp_path)
    monkeypatch.setattr(deploy, "client", aws)
    monkeypatch.setattr(deploy, "find_python", lambda _: ("3.12", Path(sys.executable)))
    monkeypatch.setattr(deploy, "environment", lambda *_: tmp_path)
    monkeypatch.setattr(stack, "ensure_both", lambda *_: made)
    monkeypatch.setattr(deploy, "publish_layer", lambda *_: None)
    monkeypatch.setattr(deploy, "record", lambda *_: [])
    monkeypatch.setattr(triggers, "apply_all", lambda *_: None)
    (tmp_path / "deployed").mkdir()
    return tmp_path


def kept(made: dict[str, str], aws: Aws) -> str:
    """What the bucket has of the last deployment."""
    found = aws("s3").get_object(Bucket=made["DataBucket"], Key="operations/deployed/prod.json")
    content: bytes = found["Body"].read()
    return content.decode()


def test_what_another_operator_deployed_since_counts(checkout: Path, made: dict[str, str], aws: Aws) -> None:
    (checkout / "deployed" / "prod.json").write_text("my last")
    aws("s3").put_object(Bucket=made["DataBucket"], Key="operations/deployed/prod.json", Body=b"their last")

    deploy.main()

    assert kept(made, aws) == (checkout / "deployed" / "prod.json").read_text() == "their last deployed"


@pytest.mark.parametrize("failing", [(deploy, "record"), (triggers, "apply_all")], ids=["outputs", "triggers"])
def test_what_chalice_made_is_kept_though_a_later_step_fails(
    checkout: Path, made: dict[str, str], aws: Aws, monkeypatch: pytest.MonkeyPatch, failing: tuple[Any, str]
) -> None:
    aws("s3").put_object(Bucket=made["DataBucket"], Key="operations/deployed/prod.json", Body=b"last")

    def fail_after_chalice(*_: object) -> list[str]:
        if (checkout / "deployed" / "prod.json").read_text() == "last deployed":
            raise project.OperatorError("it failed")
        return []

    monkeypatch.setattr(*failing, fail_after_chalice)

    with pytest.raises(project.OperatorError, match="it failed"):
        deploy.main()

    assert kept(made, aws) == "last deployed"


def test_outputs_are_recorded_of_the_last_deployment(
    checkout: Path, made: dict[str, str], aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "deployed" / "prod.json").write_text("my last")
    aws("s3").put_object(Bucket=made["DataBucket"], Key="operations/deployed/prod.json", Body=b"their last")
    seen: list[str] = []

    def record(*_: object) -> list[str]:
        seen.append((checkout / "deployed" / "prod.json").read_text())
        return []

    monkeypatch.setattr(deploy, "record", record)

    deploy.main()

    assert seen == ["their last", "their last deployed"]


def test_nothing_is_deployed_while_a_written_file_differs_from_the_table(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "different", lambda: [".chalice/policy-live-prod.json", "infra/triggers.json"])

    with pytest.raises(project.OperatorError, match=r"policy-live-prod\.json, infra/triggers\.json .* make functions"):
        deploy.main()

    assert list((checkout / "deployed").iterdir()) == []


def test_a_deployment_that_chalice_gave_up_is_not_kept(checkout: Path, made: dict[str, str], aws: Aws) -> None:
    aws("s3").put_object(Bucket=made["DataBucket"], Key="operations/deployed/prod.json", Body=b"last")
    (checkout / "chalice").write_text("#!/bin/sh\nexit 1\n")

    with pytest.raises(project.OperatorError, match="chalice deploy --stage prod failed"):
        deploy.main()

    assert kept(made, aws) == "last"


def test_a_layer_is_published_when_its_content_differs(made: dict[str, str], aws: Aws, tmp_path: Path) -> None:
    bucket = layer.results_bucket(aws("sts"), "prod")
    built = a_layer(tmp_path, "one")

    first = layer.publish(built, "lake", bucket, aws("s3"), aws("lambda"))
    again = layer.publish(built, "lake", bucket, aws("s3"), aws("lambda"))
    other = layer.publish(a_layer(tmp_path, "two"), "lake", bucket, aws("s3"), aws("lambda"))

    assert first == again != other


def test_the_layer_is_given_to_the_functions_that_need_it() -> None:
    config = project.read_config()

    assert layer.record(config, "prod", "arn:1") is True
    assert layer.record(config, "prod", "arn:1") is False
    layered = {n: f["layers"] for n, f in config["stages"]["prod"]["lambda_functions"].items() if "layers" in f}
    assert layered == {name: ["arn:1"] for name in LAYERED}


def test_the_local_keys_open_what_their_names_say(made: dict[str, str], aws: Aws) -> None:
    dynamodb, table = aws("dynamodb"), made["ControlTable"]

    seed(dynamodb, table)
    seed(dynamodb, table)

    found = AccessTable(dynamodb, table).credential("other-admin", 0)
    assert found == Credential(Project("other", Mode.WARN), frozenset({"write", "read", "admin"}))
    assert AccessTable(dynamodb, table).credential("demo-read", 0) == Credential(
        Project("demo", Mode.INFER), frozenset({"read"})
    )


def test_only_the_access_table_knows_what_its_items_look_like() -> None:
    folders = ("chalicelib", "infra", "localcloud", "ops")
    sources = [path for folder in folders for path in (project.ROOT / folder).rglob("*.py")]

    writing = [path.name for path in sources if re.search(r"f.(key|project)#\{", path.read_text())]
    assert writing == ["access_table.py"]


def test_the_same_files_make_the_same_zip(tmp_path: Path) -> None:
    built = a_layer(tmp_path, "one")
    before = built.sha256
    (built.folder / "python" / "module.py").touch()

    layer.zip_folder(built.folder, built.zip)

    assert built.sha256 == before


def test_pruning_keeps_one_copy_of_each_library(tmp_path: Path) -> None:
    for name in ("libarrow_python.so", "libarrow_python.so.2600", "libarrow_python.so.2600.1.0", "lib.cpython-312.so"):
        path = tmp_path / "pyarrow" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    for name in (
        "pyarrow/tests/test_array.py",
        "pyarrow/include/arrow.h",
        "numpy/core/tests/test.py",
        "pyarrow/_s3fs.x.so",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    layer.prune(tmp_path)

    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"pyarrow/libarrow_python.so.2600", "pyarrow/lib.cpython-312.so"}


def a_layer(folder: Path, content: str) -> layer.Layer:
    """A layer with one module."""
    module = folder / "layer" / "python" / "module.py"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(content)
    built = layer.Layer("3.12", folder / "layer.zip", folder / "layer")
    layer.zip_folder(built.folder, built.zip)
    return built
