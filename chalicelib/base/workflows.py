"""Starts the state machines of infra/workflows/."""

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Workflow:
    """One state machine; an execution's name is used once."""

    client: Any
    arn: str

    def start(self, name: str, document: dict[str, Any]) -> bool:
        """False when there was an execution of that name, running or over."""
        try:
            self.client.start_execution(stateMachineArn=self.arn, name=name, input=orjson.dumps(document).decode())
        except self.client.exceptions.ExecutionAlreadyExists:
            return False
        return True
