"""Records what exists only once it is made into .chalice/config.json: `python -m infra.outputs --stage prod`.

The stack's outputs become the stage's environment variables; the address of the WebSocket API joins them after the
first deploy. Nothing is deployed. Running it again changes nothing.
"""

from typing import Any

from infra import stack
from infra.names import variable
from infra.project import (
    OperatorError,
    client,
    deployed,
    read_config,
    run,
    stack_name,
    stage_argument,
    write_config,
)


def record(config: dict[str, Any], stage: str, outputs: dict[str, str], websocket_url: str | None) -> list[str]:
    """Put the values into the stage's environment, sorted; returns a line for each variable that changed."""
    environment: dict[str, str] = config["stages"][stage]["environment_variables"]
    found = {variable(name): value for name, value in outputs.items()}
    if websocket_url and "websocket_api_custom_domain" not in config["stages"][stage]:
        found["WEBSOCKET_URL"] = websocket_url.rstrip("/")
    lines = [f"{name} = {value}" for name, value in sorted(found.items()) if environment.get(name) != value]
    config["stages"][stage]["environment_variables"] = dict(sorted((environment | found).items()))
    return lines


def record_all(stage: str, cloudformation: Any) -> list[str]:
    """Read the stack and what Chalice deployed, and write the file; raises OperatorError when there is no stack."""
    found = stack.describe(cloudformation, stack_name(stage))
    if found is None:
        region = cloudformation.meta.region_name
        raise OperatorError(
            f"there is no stack {stack_name(stage)} in {region}; make it first: python -m infra.stack --stage {stage}"
        )
    config = read_config()
    websocket_url = deployed(stage).get("websocket_api", {}).get("websocket_api_url")
    changes = record(config, stage, stack.outputs_of(found), websocket_url)
    write_config(config)
    return changes


def main() -> int:
    """Record and tell what changed."""
    stage = stage_argument(__doc__).parse_args().stage
    changes = record_all(stage, client("cloudformation"))
    print("\n".join(changes) if changes else f".chalice/config.json already has every output of {stack_name(stage)}")
    return 0


if __name__ == "__main__":
    run(main)
