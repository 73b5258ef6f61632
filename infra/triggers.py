"""Applies infra/triggers.json to what `chalice deploy` made: `python -m infra.triggers --stage prod`.

Chalice's decorators cannot say how a trigger retries, filters or reports partial failures. A redeploy keeps these
settings; a trigger that is made anew starts without them, so this belongs behind every deploy. Nor can they say where
an event of the bus goes that its function has failed with three times: to the dead letters. `make functions` writes the
file.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from infra.functions import BUS_FUNCTION
from infra.names import dead_letters, setting_of
from infra.project import ROOT, OperatorError, client, deployed, run, stage_argument

TRIGGERS = ROOT / "infra" / "triggers.json"
KINDS = ("sqs", "kinesis", "dynamodb")  # Chalice names a mapping FUNCTION-KIND-event-source
SETTLED = ("Enabled", "Disabled")
SETTLE_SECONDS = 120


def mappings(
    resources: dict[str, dict[str, Any]], settings: dict[str, dict[str, Any]], stage: str
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Of each function the event source mapping's id and its settings.

    Raises OperatorError for a function that Chalice has not deployed.
    """
    functions = {name.partition("@")[0] for name in settings}
    found = {
        function: (resources[resource]["event_uuid"], setting_of(settings, function, kind))
        for function in sorted(functions)
        for kind in KINDS
        if (resource := f"{function}-{kind}-event-source") in resources
    }
    if missing := sorted(functions - found.keys()):
        raise OperatorError(
            f".chalice/deployed/{stage}.json has no trigger of {', '.join(missing)}; "
            f"deploy first: chalice deploy --stage {stage}"
        )
    return found


def apply(
    lambda_: Any, mapping_id: str, wanted: dict[str, Any], *, sleep: Callable[[float], None] = time.sleep
) -> list[str]:
    """Bring one mapping to `wanted`; returns the names of the settings that changed."""
    mapping = _settled(lambda_, mapping_id, sleep)
    different = {name: value for name, value in wanted.items() if mapping.get(name) != value}
    if different:
        lambda_.update_event_source_mapping(UUID=mapping_id, **different)
        _settled(lambda_, mapping_id, sleep)
    return sorted(different)


def _settled(lambda_: Any, mapping_id: str, sleep: Callable[[float], None]) -> dict[str, Any]:
    """The mapping once Lambda has made it or its last change, which takes some seconds."""
    for _ in range(SETTLE_SECONDS):
        mapping: dict[str, Any] = lambda_.get_event_source_mapping(UUID=mapping_id)
        if mapping.get("State", "Enabled") in SETTLED:
            return mapping
        sleep(1.0)
    raise OperatorError(f"the trigger {mapping_id} is still {mapping['State']} after {SETTLE_SECONDS} s")


def apply_all(stage: str, lambda_: Any, say: Callable[[str], None] = print) -> None:
    """Every entry of triggers.json."""
    settings: dict[str, dict[str, Any]] = json.loads(TRIGGERS.read_text())
    resources = deployed(stage)
    for function, (mapping_id, wanted) in mappings(resources, settings, stage).items():
        changed = apply(lambda_, mapping_id, wanted)
        say(f"{function}: {', '.join(changed) or 'nothing to change'}")
    queue = keep_failed(lambda_, resources[BUS_FUNCTION]["lambda_arn"], stage)
    say(f"{BUS_FUNCTION}: what fails goes to {queue}")


def keep_failed(lambda_: Any, function_arn: str, stage: str) -> str:
    """Send what an asynchronous function fails with, after Lambda's two retries, to the dead letters; their ARN."""
    partition, _, region, account = function_arn.split(":")[1:5]
    queue = f"arn:{partition}:sqs:{region}:{account}:{dead_letters(stage)}"
    lambda_.put_function_event_invoke_config(
        FunctionName=function_arn, MaximumRetryAttempts=2, DestinationConfig={"OnFailure": {"Destination": queue}}
    )
    return queue


def main() -> int:
    """Apply and tell what changed."""
    apply_all(stage_argument(__doc__).parse_args().stage, client("lambda"))
    return 0


if __name__ == "__main__":
    run(main)
