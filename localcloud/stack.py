"""Creates the resources from infra/template.yaml, the template that production uses, or brings them up to date."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from infra.names import template_body
from localcloud.places import STAGE, LocalCloudError

NAME = f"tidemark-{STAGE}"
DONE_SECONDS = 60.0


def ensure_stack(cloudformation: Any, template: Path, made_from: Path, buffer: str) -> dict[str, str]:
    """The stack's outputs; `made_from` remembers template and buffer, so that what is unchanged is left alone."""
    if not template.exists():
        raise LocalCloudError(f"{template} does not exist; the resources are made from it")
    body = template_body(template)
    digest = hashlib.sha256(f"{buffer} {body}".encode()).hexdigest()
    stack = _describe(cloudformation)
    known = json.loads(made_from.read_text())["sha256"] if made_from.exists() else None
    if stack is not None and known == digest and stack["StackStatus"].endswith("_COMPLETE"):
        return _outputs(stack)
    parameters = {
        "StackName": NAME,
        "TemplateBody": body,
        "Parameters": [
            {"ParameterKey": "Stage", "ParameterValue": STAGE},
            {"ParameterKey": "Buffer", "ParameterValue": buffer},
        ],
        "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
    }
    try:
        if stack is None:
            cloudformation.create_stack(**parameters)
        else:
            cloudformation.update_stack(**parameters)
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise LocalCloudError(f"{template} was refused: {error}") from error
    outputs = _outputs(_wait(cloudformation, template))
    made_from.write_text(json.dumps({"sha256": digest}))
    return outputs


def _describe(cloudformation: Any) -> dict[str, Any] | None:
    try:
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=NAME)["Stacks"][0]
    except ClientError:
        return None
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def _wait(cloudformation: Any, template: Path) -> dict[str, Any]:
    until = time.monotonic() + DONE_SECONDS
    while time.monotonic() < until:
        stack = _describe(cloudformation)
        if stack is not None and not stack["StackStatus"].endswith("_IN_PROGRESS"):
            if stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
                return stack
            events = cloudformation.describe_stack_events(StackName=NAME)["StackEvents"]
            reasons = [
                f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
                for event in events
                if "FAILED" in event["ResourceStatus"] and event.get("ResourceStatusReason")
            ]
            raise LocalCloudError(
                f"{template} ended in {stack['StackStatus']}: {'; '.join(reasons[-5:]) or 'no reason'}"
            )
        time.sleep(0.05)
    raise LocalCloudError(f"{template} was not done within {DONE_SECONDS:.0f} s")


def _outputs(stack: dict[str, Any]) -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
