"""The state machines are started by name: what comes twice starts one execution."""

from types import SimpleNamespace
from typing import Any

from chalicelib.base.workflows import Workflow


class ExecutionAlreadyExists(Exception):
    """There was one of that name."""


class Machines:
    """Step Functions, as far as starting goes."""

    def __init__(self) -> None:
        self.started: dict[str, str] = {}
        self.exceptions = SimpleNamespace(ExecutionAlreadyExists=ExecutionAlreadyExists)

    def start_execution(self, **words: Any) -> None:
        if words["name"] in self.started:
            raise ExecutionAlreadyExists
        self.started[words["name"]] = words["input"]


def test_a_name_is_used_once() -> None:
    machines = Machines()
    workflow = Workflow(machines, "arn")

    assert workflow.start("file-1", {"file": 1})
    assert not workflow.start("file-1", {"file": 2})

    assert machines.started == {"file-1": '{"file":1}'}
