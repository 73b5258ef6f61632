"""The two templates as documents, and the AWS services in a process of their own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cfnlint.decode import cfn_yaml

from infra.stack import MONITORING, TEMPLATE
from tests.localcloud.running import end

READY_SECONDS = 30.0
SERVER = """
import asyncio, socket, sys
import ministack.app
from hypercorn.asyncio import serve
from hypercorn.config import Config
config = Config()
config.bind = ["fd://" + sys.argv[1]]
asyncio.run(serve(ministack.app.app, config))
"""


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """infra/template.yaml."""
    document: dict[str, Any] = cfn_yaml.load(str(TEMPLATE))
    return document


@pytest.fixture(scope="session")
def monitoring() -> dict[str, Any]:
    """infra/monitoring.yaml."""
    document: dict[str, Any] = cfn_yaml.load(str(MONITORING))
    return document


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Clients of an account that has nothing yet."""
    state = tmp_path_factory.mktemp("account")
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = listener.getsockname()[1]
    services = _start(state, listener, port)
    listener.close()

    def client(service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    try:
        _wait(client("sts"), services)
        yield client
    finally:
        end(services)


def _start(state: Path, listener: socket.socket, port: int) -> "subprocess.Popen[bytes]":
    surroundings = {
        **os.environ,
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": "127.0.0.1",
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_REGION": "us-east-1",
        "STATE_DIR": str(state),
        "S3_DATA_DIR": str(state / "s3"),
        "LOG_LEVEL": "ERROR",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, str(listener.fileno())],
        cwd=state,
        env=surroundings,
        pass_fds=[listener.fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait(sts: Any, services: "subprocess.Popen[bytes]") -> None:
    """Its socket listens from the beginning, so the first request waits until it answers."""
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            sts.get_caller_identity()
        except Exception:
            if time.monotonic() > until or services.poll() is not None:
                raise
        else:
            return
