"""Step Functions in memory, as far as the app calls it: an execution's name is used once."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.ports.client import Answer, Service, refusal


@dataclass
class StepFunctions(Service):
    """`started` gets the state machine's ARN, the execution's name and its input."""

    started: Callable[[str, str, Any], None] = lambda _machine, _name, _document: None
    executions: dict[tuple[str, str], str] = field(default_factory=dict)
    running: set[tuple[str, str]] = field(default_factory=set)
    name: str = "stepfunctions"

    def start_execution(self, stateMachineArn: str, name: str, input: str = "{}") -> Answer:
        """Begin; again with the same input while it runs is the same execution."""
        if not 0 < len(name) <= 80 or any(letter in ' <>{}[]?*"#%\\^|~`$&,;:/' for letter in name):
            raise refusal("InvalidName", f"Invalid Name: {name!r}")
        key, arn = (stateMachineArn, name), f"{stateMachineArn.replace(':stateMachine:', ':execution:')}:{name}"
        if key in self.executions:
            if key in self.running and self.executions[key] == input:
                return {"executionArn": arn}
            raise refusal("ExecutionAlreadyExists", f"Execution Already Exists: '{arn}'")
        self.executions[key] = input
        self.running.add(key)
        self.started(stateMachineArn, name, json.loads(input))
        return {"executionArn": arn}
