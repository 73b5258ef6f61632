"""Creates or updates a stage's two stacks, telling each resource's progress: `python -m infra.stack --stage prod`.

template.yaml is the stack tidemark-STAGE; monitoring.yaml is tidemark-STAGE-monitoring, which names its topic.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from infra.names import buffer_of, template_body
from infra.project import (
    ROOT,
    OperatorError,
    client,
    read_config,
    run,
    stack_name,
    stage_argument,
)

TEMPLATE = ROOT / "infra" / "template.yaml"
MONITORING = ROOT / "infra" / "monitoring.yaml"
DONE_SECONDS = 1800.0
POLL_SECONDS = 2.0
COMPLETE = ("CREATE_COMPLETE", "UPDATE_COMPLETE")


def ensure(
    cloudformation: Any,
    name: str,
    template: Path,
    parameters: dict[str, str],
    *,
    say: Callable[[str], None] = print,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """Bring the stack to the template and return its outputs; a parameter that is not given keeps its value.

    Raises OperatorError when CloudFormation refuses or rolls back, with the first reasons.
    """
    existing = describe(cloudformation, name)
    if existing and existing["StackStatus"] == "ROLLBACK_COMPLETE":
        raise OperatorError(
            f"{name} was never made (its first creation was rolled back). Delete it, then try again: "
            f"aws cloudformation delete-stack --stack-name {name}"
        )
    known = {event["EventId"] for event in _events(cloudformation, name)} if existing else set()
    request = {
        "StackName": name,
        "TemplateBody": template_body(template),
        "Capabilities": ["CAPABILITY_IAM"],
        "Parameters": _parameters(existing, parameters),
        "Tags": [{"Key": "app", "Value": "tidemark"}],
    }
    if existing:
        try:
            cloudformation.update_stack(**request)
        except ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise
            say(f"{name}: nothing to change")
            return outputs_of(existing)
    else:
        cloudformation.create_stack(**request)
    return outputs_of(_wait(cloudformation, name, known, say, sleep))


def describe(cloudformation: Any, name: str) -> dict[str, Any] | None:
    """Return the stack, or None when there is none."""
    try:
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def outputs_of(stack: dict[str, Any]) -> dict[str, str]:
    """Return the outputs by name."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def _parameters(existing: dict[str, Any] | None, given: dict[str, str]) -> list[dict[str, Any]]:
    before = {p["ParameterKey"] for p in (existing or {}).get("Parameters", [])}
    kept = [{"ParameterKey": name, "UsePreviousValue": True} for name in sorted(before - given.keys())]
    return [*({"ParameterKey": name, "ParameterValue": value} for name, value in given.items()), *kept]


def _wait(
    cloudformation: Any, name: str, known: set[str], say: Callable[[str], None], sleep: Callable[[float], None]
) -> dict[str, Any]:
    failures: list[str] = []
    for _ in range(int(DONE_SECONDS / POLL_SECONDS)):
        stack = describe(cloudformation, name)
        for event in _events(cloudformation, name):
            if event["EventId"] not in known:
                known.add(event["EventId"])
                reason = event.get("ResourceStatusReason", "")
                say(f"{name}: {event['LogicalResourceId']} {event['ResourceStatus']} {reason}".rstrip())
                if "FAILED" in event["ResourceStatus"] and "cancelled" not in reason:
                    failures.append(f"{event['LogicalResourceId']}: {reason}")
        status = stack["StackStatus"] if stack else "DELETE_COMPLETE"
        if stack and status in COMPLETE:
            return stack
        if not status.endswith("_IN_PROGRESS"):
            raise OperatorError(
                f"{name} ended in {status}: {'; '.join(failures[:5]) or 'CloudFormation gives no reason'}"
            )
        sleep(POLL_SECONDS)
    raise OperatorError(f"{name} is still busy after {DONE_SECONDS:.0f} s; look at its events and run this again")


def _events(cloudformation: Any, name: str) -> list[dict[str, Any]]:
    """Return the latest events, oldest first."""
    return list(reversed(cloudformation.describe_stack_events(StackName=name)["StackEvents"]))


def ensure_both(stage: str, given: dict[str, str], cloudformation: Any, **options: Any) -> dict[str, str]:
    """Both stacks of a stage; returns the outputs of the first."""
    chosen = {"Stage": stage, "Buffer": buffer_of(read_config(), stage)}
    outputs = ensure(cloudformation, stack_name(stage), TEMPLATE, {**chosen, **given}, **options)
    topic = {"Stage": stage, "AlertsTopicArn": outputs["AlertsTopicArn"]}
    ensure(cloudformation, f"{stack_name(stage)}-monitoring", MONITORING, topic, **options)
    return outputs


def main() -> int:
    """Make what is missing, change what differs."""
    parser = stage_argument(__doc__)
    parser.add_argument("--alarm-email", help="where alarms are mailed to; kept when not given")
    parser.add_argument("--lake-first-day", help="queries see the lake from this day on; kept when not given")
    arguments = parser.parse_args()
    given = {"AlarmEmail": arguments.alarm_email, "LakeFirstDay": arguments.lake_first_day}
    ensure_both(arguments.stage, {n: v for n, v in given.items() if v is not None}, client("cloudformation"))
    return 0


if __name__ == "__main__":
    run(main)
