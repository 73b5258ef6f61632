"""The resources of a stage, as infra/template.yaml has them: tables with their indexes, queues, and the environment."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.simulation.ports.sqs import URL

ROOT = Path(__file__).parent.parent.parent
STAGE = "sim"
BUS_PROJECT = "acme"
DATA_BUCKET = "sim-data"
RESULTS_BUCKET = "sim-results"
STREAM_ARN = "arn:aws:dynamodb:us-east-1:000000000000:table/{}/stream/sim"
KINESIS_ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/{}"
MACHINE_ARN = "arn:aws:states:us-east-1:000000000000:stateMachine:tidemark-sim-{}"
SOCKET_FUNCTIONS = {"socket_connect": "websocket_connect", "socket_disconnect": "websocket_disconnect"}
DEFAULT_VISIBILITY_SECONDS = 30.0


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads CloudFormation's short forms as what stands behind them."""


def _plain(loader: yaml.SafeLoader, _suffix: str, node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node)
    return loader.construct_mapping(node)


_Loader.add_multi_constructor("!", _plain)


@cache
def described() -> dict[str, dict[str, Any]]:
    """Type and properties of each resource of the template, by its name there."""
    document = yaml.load((ROOT / "infra" / "template.yaml").read_text(), _Loader)
    resources: dict[str, dict[str, Any]] = document["Resources"]
    return resources


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    """The properties of the resources of a type, by their names in the template."""
    return {name: each["Properties"] for name, each in described().items() if each["Type"] == kind}


def name_of(text: str) -> str:
    """A resource's name in the stage."""
    return text.replace("${Stage}", STAGE)


@cache
def config() -> dict[str, Any]:
    """.chalice/config.json."""
    document: dict[str, Any] = json.loads((ROOT / ".chalice" / "config.json").read_text())
    return document


def environment() -> dict[str, str]:
    """What the functions see."""
    tables = {each: f"tidemark-{STAGE}-{each}" for each in ("events", "rollups", "control")}
    settings: dict[str, str] = dict(config()["stages"]["dev"]["environment_variables"])
    for name in [name for name in settings if name.startswith("AWS_")]:
        del settings[name]
    return settings | {
        "STAGE": STAGE,
        "BUS_PROJECT": BUS_PROJECT,
        "AWS_DEFAULT_REGION": "us-east-1",
        "ARCHIVE_WINDOW_SECONDS": "60",
        "DATA_BUCKET": DATA_BUCKET,
        "RESULTS_BUCKET": RESULTS_BUCKET,
        "EVENTS_QUEUE": f"tidemark-{STAGE}-events",
        "EVENTS_QUEUE_URL": f"{URL}tidemark-{STAGE}-events",
        "BUFFER_STREAM": f"tidemark-{STAGE}-events",
        **{f"{each.upper()}_TABLE": name for each, name in tables.items()},
        **{f"{each.upper()}_STREAM_ARN": STREAM_ARN.format(name) for each, name in tables.items()},
        "HOURLY_WORKFLOW_ARN": MACHINE_ARN.format("hourly"),
        "IMPORT_WORKFLOW_ARN": MACHINE_ARN.format("import"),
        "WEBSOCKET_URL": "wss://sim.example/api",
        "WEBSOCKET_MANAGEMENT_URL": "https://sim.example/api",
    }


def timeouts(functions: list[str]) -> dict[str, float]:
    """How long each function may run, in seconds."""
    settings = config()["lambda_functions"]
    default = config()["lambda_timeout"]
    names = {name: SOCKET_FUNCTIONS.get(name, name) for name in functions}
    return {name: float(settings.get(each, {}).get("lambda_timeout", default)) for name, each in names.items()}
