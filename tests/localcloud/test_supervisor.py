"""The whole local cloud as processes: start, restart of what dies, stop, what survives, `chalice local`'s cloud."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from infra.names import variable
from localcloud.places import PROJECT, LocalCloudError, Places, Ports, alive, listen
from localcloud.supervisor import Supervisor
from tests.localcloud.running import Stack, free_ports, start_stack, wait_for


def command(name: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run one command of the local cloud."""
    return subprocess.run(
        [sys.executable, "-m", "localcloud", *name.split()],
        cwd=PROJECT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def healthy(stack: Stack) -> bool:
    """Whether GET /health answers."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{stack.rest_url}/health", headers={"Accept": "*/*"}), timeout=10
        ) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_the_banner_names_what_a_developer_needs(stack: Stack) -> None:
    shown = stack.output()

    assert shown.count("Tidemark runs.") == 1
    for text in (stack.rest_url, stack.ws_url, stack.cloud_url, "demo-write", "demo-read", "demo-admin", "/dashboard"):
        assert text in shown
    assert str(stack.state) in shown
    before, _, _ = shown.partition("Tidemark runs.")  # what comes after it is of whatever tests use this stack as well
    assert "Traceback" not in before


def test_a_source_that_changes_during_the_start_does_not_show_the_banner_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor(Places(tmp_path), Ports(1, 2, 3), rest=True, leased=False)
    for event in (("healthy", None), ("healthy", None), ("signal", signal.SIGTERM)):
        supervisor.events.put(event)

    supervisor._loop()

    assert capsys.readouterr().out.count("Tidemark runs.") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only there a port can be kept for a cloud")
def test_ports_for_a_cloud_are_given_to_nobody_else() -> None:
    for port in free_ports(2):
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind(("127.0.0.1", port))
        with listen(port, "PORT") as first, pytest.raises(LocalCloudError, match=str(port)):
            listen(first.getsockname()[1], "PORT")


def test_the_resources_are_the_templates(stack: Stack) -> None:
    tables = stack.client("dynamodb").list_tables()["TableNames"]

    assert {"tidemark-dev-events", "tidemark-dev-rollups", "tidemark-dev-control"} <= set(tables)
    assert stack.client("glue").get_table(DatabaseName="tidemark_dev", Name="events")


@pytest.mark.parametrize("name", ["rest", "functions"])
def test_a_process_that_is_killed_comes_back(stack: Stack, name: str) -> None:
    before = stack.output().count(f"{name} is ready again")

    old = stack.kill(name)

    wait_for(lambda: stack.pids.get(name, old) != old, 10, "a new process")
    wait_for(lambda: stack.output().count(f"{name} is ready again") == before + 1, 20, "it is ready")
    assert healthy(stack)


def test_a_second_cloud_on_the_same_state_says_who_runs(stack: Stack) -> None:
    found = command("run", TIDEMARK_STATE=str(stack.state))

    assert found.returncode == 1
    assert f"process {stack.process.pid}" in found.stderr
    assert "Traceback" not in found.stderr


def test_forget_refuses_while_it_runs_and_status_tells(stack: Stack) -> None:
    assert command("forget", TIDEMARK_STATE=str(stack.state)).returncode == 1
    assert "ready" in command("status", TIDEMARK_STATE=str(stack.state)).stdout


@pytest.mark.parametrize("name", ["PORT", "WS_PORT", "CLOUD_PORT"])
def test_a_port_in_use_is_named_with_its_variable(tmp_path: Path, name: str) -> None:
    ports = dict(zip(("PORT", "WS_PORT", "CLOUD_PORT"), map(str, free_ports(3)), strict=True))
    with socket.create_server(("127.0.0.1", int(ports[name]))):
        found = command("run", TIDEMARK_STATE=str(tmp_path), **ports)

    assert found.returncode == 1
    assert f"port {ports[name]} ({name})" in found.stderr
    assert "Traceback" not in found.stderr


def test_what_was_written_survives_a_stop_and_a_start(tmp_path: Path) -> None:
    first = start_stack(tmp_path, "--no-rest")
    arn = first.client("dynamodb").describe_table(TableName="tidemark-dev-events")["Table"]["LatestStreamArn"]
    queue = first.client("sqs").create_queue(QueueName="mine")["QueueUrl"]
    first.client("sqs").send_message(QueueUrl=queue, MessageBody="kept")
    first.client("s3").put_object(Bucket="tidemark-dev-data-000000000000", Key="x", Body=b"kept")
    first.client("dynamodb").put_item(
        TableName="tidemark-dev-control", Item={"pk": {"S": "a"}, "sk": {"S": "b"}, "body": {"B": b"\0\xff"}}
    )
    assert first.stop(signal.SIGINT) == 0

    second = start_stack(tmp_path, "--no-rest")
    try:
        client = second.client("dynamodb")
        item = client.get_item(TableName="tidemark-dev-control", Key={"pk": {"S": "a"}, "sk": {"S": "b"}})["Item"]
        queue = second.client("sqs").get_queue_url(QueueName="mine")["QueueUrl"]
        body = second.client("s3").get_object(Bucket="tidemark-dev-data-000000000000", Key="x")["Body"].read()
        assert item["body"]["B"] == b"\0\xff"
        assert second.client("sqs").receive_message(QueueUrl=queue)["Messages"][0]["Body"] == "kept"
        assert body == b"kept"
        assert client.describe_table(TableName="tidemark-dev-events")["Table"]["LatestStreamArn"] == arn
        assert second.client("dynamodbstreams").describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    finally:
        second.stop()
    assert command("forget", TIDEMARK_STATE=str(tmp_path)).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["terminal.txt"]  # the test's own


def test_children_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, "--no-rest")
    pids = stack.pids

    stack.kill("supervisor")
    stack.process.wait(5)

    wait_for(lambda: not any(alive(pid) for pid in pids.values()), 20, f"some of {pids} still run")
    assert (tmp_path / "state.json").exists()


def test_a_state_that_cannot_be_read_stops_the_start_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    ports = dict(zip(("PORT", "WS_PORT", "CLOUD_PORT"), map(str, free_ports(3)), strict=True))

    found = command("run --no-rest", TIDEMARK_STATE=str(tmp_path), **ports)

    assert found.returncode == 1
    assert f"{tmp_path / 'state.json'} cannot be read" in found.stderr
    assert "make clean" in found.stderr
    assert "Traceback" not in found.stderr
    assert (tmp_path / "state.json").read_text() == "{"


def test_everything_ends_when_the_cloud_dies(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, "--no-rest")
    pids = stack.pids

    stack.kill("cloud")

    assert stack.process.wait(20) == 1
    assert "the cloud process was killed by signal 9" in stack.output()
    assert not any(alive(pid) for pid in pids.values())


SDK_CALL = """
import boto3, sys
print(boto3.client("dynamodb").list_tables()["TableNames"])
sys.stdout.flush()
sys.stdin.read()
"""


def sdk(state: Path, cloud_port: int, websocket_port: int) -> "subprocess.Popen[str]":
    """A process that uses the SDK as the app does under `chalice local`, and then waits."""
    config = json.loads((PROJECT / ".chalice" / "config.json").read_text())
    stage: dict[str, str] = config["stages"]["dev"]["environment_variables"]
    aws = {name: value for name, value in stage.items() if name.startswith("AWS_")}
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    real = {"AWS_SECRET_ACCESS_KEY": "of-the-developer", "AWS_SESSION_TOKEN": "of-the-developer"}
    places = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{cloud_port}",
        "WS_PORT": str(websocket_port),
        "TIDEMARK_STATE": str(state),
    }
    return subprocess.Popen(
        [sys.executable, "-c", SDK_CALL],
        cwd=PROJECT,
        env={**own, **real, **aws, **places},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_sdk_starts_a_cloud_that_ends_after_its_last_user(tmp_path: Path) -> None:
    cloud_port, websocket_port = free_ports(2)
    users = [sdk(tmp_path, cloud_port, websocket_port) for _ in range(2)]
    try:
        answers = [user.stdout.readline() for user in users if user.stdout]
        running = json.loads((tmp_path / "running.json").read_text())
        users[0].communicate("")

        assert all("tidemark-dev-events" in answer for answer in answers)
        assert running["leased"]
        assert alive(running["pid"])
    finally:
        for user in users:
            if user.poll() is None:
                user.communicate("")
    wait_for(lambda: not alive(running["pid"]), 20, "the cloud still runs")


def test_the_sdk_uses_a_cloud_that_runs(stack: Stack, tmp_path: Path) -> None:
    user = sdk(tmp_path, stack.cloud_port, stack.websocket_port)

    answer, _ = user.communicate("")

    assert "tidemark-dev-events" in answer
    assert not (tmp_path / "running.json").exists()


def test_a_cloud_that_cannot_start_is_explained_to_the_sdk(tmp_path: Path) -> None:
    cloud_port, websocket_port = free_ports(2)
    endpoint = f"http://127.0.0.1:{cloud_port}"
    with socket.create_server(("127.0.0.1", websocket_port)):
        found = command(
            "credentials", AWS_ENDPOINT_URL=endpoint, WS_PORT=str(websocket_port), TIDEMARK_STATE=str(tmp_path)
        )

    assert found.returncode == 1
    assert "WS_PORT" in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize(("output", "name"), [("EventsStreamArn", "EVENTS_STREAM_ARN"), ("EventBus", "EVENT_BUS")])
def test_outputs_become_variables(output: str, name: str) -> None:
    assert variable(output) == name


def test_a_port_that_is_no_number_is_named() -> None:
    with pytest.raises(LocalCloudError, match=r"WS_PORT is '80000'"):
        Ports.from_environment({"WS_PORT": "80000"})


def test_each_checkout_has_a_state_folder_of_its_own() -> None:
    environ: dict[str, Any] = {"XDG_STATE_HOME": "/state"}

    root = Places.from_environment(environ).root

    assert root.parent == Path("/state/tidemark")
    assert root.name.startswith(PROJECT.name)
    assert Places.from_environment({"TIDEMARK_STATE": "/x"}).root == Path("/x")
