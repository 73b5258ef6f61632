"""Names and places of the operator's commands, and Chalice's two files: its configuration and what it deployed."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

ROOT = Path(__file__).resolve().parent.parent
CHALICE = ROOT / ".chalice"
CONFIG = CHALICE / "config.json"
BUILD = ROOT / "build"
STAGES = ("staging", "prod")  # dev is the local cloud and is never deployed


class OperatorError(Exception):
    """Something the operator can put right; its message says how, and is all that is shown."""


def stack_name(stage: str) -> str:
    """Return the stack of infra/template.yaml."""
    return f"tidemark-{stage}"


def client(service: str) -> Any:
    """Return a client with the operator's own credentials and region."""
    return boto3.client(service, config=Config(retries={"mode": "standard", "max_attempts": 8}))


def read_config(path: Path = CONFIG) -> dict[str, Any]:
    """Chalice's configuration."""
    config: dict[str, Any] = json.loads(path.read_text())
    return config


def write_config(config: dict[str, Any], path: Path = CONFIG) -> bool:
    """Replace the file in one step, and only when it would differ; whether it did."""
    text = json.dumps(config, indent=2) + "\n"
    if path.exists() and path.read_text() == text:
        return False
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)
    return True


def deployed(stage: str, chalice: Path = CHALICE) -> dict[str, dict[str, Any]]:
    """Return what `chalice deploy` says it made, by resource name; empty before the first deploy."""
    path = chalice / "deployed" / f"{stage}.json"
    if not path.exists():
        return {}
    return {resource["name"]: resource for resource in json.loads(path.read_text())["resources"]}


def stage_argument(description: str) -> argparse.ArgumentParser:
    """Return the command line that every command here has."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--stage", required=True, choices=STAGES)
    return parser


def run(command: Callable[[], int]) -> None:
    """Run a command; what the operator can put right is one line on standard error, and exit code 1."""
    try:
        code = command()
    except NoRegionError:
        print("error: no region; set AWS_REGION, or AWS_PROFILE to a profile with one", file=sys.stderr)
        code = 1
    except (OperatorError, BotoCoreError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)
