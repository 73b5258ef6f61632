"""The policy files, .chalice/policy-<function>-<stage>.json: what infra/functions.py grants to each function.

They are in the repository because `chalice deploy` reads them; `make functions` writes them.
"""

import json
from typing import Any

from infra.functions import FUNCTIONS
from infra.grants import Grant, arn
from infra.names import buffer_of
from infra.project import read_config


def documents(stage: str, buffer: str = "") -> dict[str, dict[str, Any]]:
    """Return the policy document of every function, by file name; each function writes its own log, and no other.

    They are for the stage's buffer in .chalice/config.json, unless another one is asked for.
    """
    chosen = buffer or buffer_of(read_config(), stage)
    made = {}
    for function in FUNCTIONS:
        log = arn("logs", f"log-group:/aws/lambda/{function.lambda_name(stage)}:*")
        grants = (*function.grants, Grant(("logs:CreateLogStream", "logs:PutLogEvents"), (log,)))
        statements = [each.statement(stage) for each in grants if each.buffer in ("", chosen)]
        made[file_name(function.name, stage)] = {"Version": "2012-10-17", "Statement": statements}
    return made


def file_name(function: str, stage: str) -> str:
    """Return the name of a function's policy file."""
    return f"policy-{function}-{stage}.json"


def render(document: dict[str, Any]) -> str:
    """Return the text of a policy file."""
    return json.dumps(document, indent=2) + "\n"
