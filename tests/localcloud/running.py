"""Starts the local cloud as `make run` does, for tests, and sees to it that nothing of it stays."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from localcloud import supervisor
from localcloud.places import PROJECT, alive

READY_SECONDS = 60.0
STOP_SECONDS = sum(supervisor.STOP_SECONDS.values()) + 10  # what it gives its children, and itself
KEY_CACHE_SECONDS = 10.0  # in the stack that tests share, for one of them waits until it is over


@dataclass
class Stack:
    """A running local cloud."""

    process: "subprocess.Popen[str]"
    state: Path
    rest_port: int
    websocket_port: int
    cloud_port: int
    clients: dict[str, Any] = field(default_factory=dict)

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.websocket_port}"

    @property
    def cloud_url(self) -> str:
        return f"http://127.0.0.1:{self.cloud_port}"

    @property
    def pids(self) -> dict[str, int]:
        """The supervisor and its children as of now."""
        running = json.loads((self.state / "running.json").read_text())
        children: dict[str, int] = running["children"]
        return {"supervisor": running["pid"], **children}

    def client(self, service: str) -> Any:
        """The boto3 client of the cloud: making one takes longer than most of what it is used for."""
        if service not in self.clients:
            self.clients[service] = self.session().client(service, endpoint_url=self.cloud_url)
        return self.clients[service]

    def session(self) -> Any:
        """A boto3 session with the local keys."""
        return boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")

    def kill(self, name: str) -> int:
        """SIGKILL one process, "rest" or "functions" for instance; returns the pid it had."""
        wait_for(lambda: name in self.pids and alive(self.pids[name]), 10, f"{name} is not started again")
        pid = self.pids[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def output(self) -> str:
        """What the terminal shows."""
        return (self.state / "terminal.txt").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it and return the exit code; every process it had is gone then."""
        pids = self.pids if self.process.poll() is None else {}
        for client in self.clients.values():
            client.close()
        self.process.send_signal(number)
        try:
            code = self.process.wait(STOP_SECONDS)
        finally:
            self.process.kill()  # where it has not ended; its children end with it
        wait_for(lambda: not any(alive(pid) for pid in pids.values()), 5, f"some of {pids} still run")
        return code


def start_stack(state: Path, *arguments: str, ready: bool = True, **environ: str) -> Stack:
    """Start `python -m localcloud run` on free ports, and wait until it is ready."""
    rest_port, websocket_port, cloud_port = free_ports(3)
    ports = {"PORT": str(rest_port), "WS_PORT": str(websocket_port), "CLOUD_PORT": str(cloud_port)}
    state.mkdir(parents=True, exist_ok=True)
    with (state / "terminal.txt").open("a") as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "localcloud", "run", *arguments],
            cwd=PROJECT,
            env={**os.environ, "TIDEMARK_STATE": str(state), **ports, **environ},
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            text=True,
        )
    stack = Stack(process, state, rest_port, websocket_port, cloud_port)
    if ready:
        try:
            wait_for(lambda: process.poll() is not None or _state(state) == "ready", READY_SECONDS, "it is not ready")
            assert process.poll() is None, f"it ended with {process.returncode}"
        except AssertionError as error:
            end(process, STOP_SECONDS)
            raise AssertionError(f"the local cloud did not start: {error}\n{stack.output()}") from None
    return stack


def _state(state: Path) -> str:
    try:
        text: str = json.loads((state / "running.json").read_text())["state"]
    except FileNotFoundError:
        return "none"
    return text


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as the condition holds; AssertionError after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}, after {seconds} s"
        time.sleep(0.02)


def end(process: "subprocess.Popen[Any]", seconds: float = 10) -> None:
    """Ask a process to end, and end it when it does not."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses, and that nobody else is given, not even for the near end of a connection.

    They are bound here for as long as the process lives; only a cloud, which says so as well, can listen there.
    """
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    if sys.platform == "linux":
        _held.extend(sockets)
    else:  # where none can listen beside them
        for each in sockets:
            each.close()
    return ports


_held: list[socket.socket] = []
