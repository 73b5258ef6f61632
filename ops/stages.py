"""What the commands share: the stage they work on, its clients, and tables or JSON for what they show."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

from infra.project import ROOT, STAGES, read_config

LOCAL = "dev"


def add_common(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command."""
    parser.add_argument("--stage", required=True, choices=(LOCAL, *STAGES), help="dev is the local cloud")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def environment(stage: str) -> dict[str, str]:
    """The stage's variables in .chalice/config.json."""
    variables: dict[str, str] = read_config()["stages"][stage]["environment_variables"]
    return variables


def client(stage: str, service: str) -> Any:
    """A client with the operator's own credentials; for dev by the profile of its app, whose endpoint is local."""
    config = Config(retries={"mode": "standard", "max_attempts": 8})
    variables = environment(stage)
    if "AWS_PROFILE" not in variables:
        return boto3.client(service, config=config)
    session = botocore.session.Session(profile=variables["AWS_PROFILE"])
    session.set_config_variable("config_file", str(ROOT / variables["AWS_CONFIG_FILE"]))
    local = Config(proxies={})  # no proxy of the environment is asked for this machine
    return boto3.Session(botocore_session=session).client(service, config=config.merge(local))


def show(arguments: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same columns, as a table or as JSON."""
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("none")
        return
    lines = [
        list(rows[0]),
        *([f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())
