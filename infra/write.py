"""Writes what follows from infra/functions.py: `make functions`.

That is each function's settings in .chalice/config.json, .chalice/policy-*.json, infra/triggers.json,
infra/monitoring.yaml and the workflows' tasks in infra/template.yaml. Everything else in a file stays as it is.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from infra.event_sources import Buffer, TableStream
from infra.functions import FUNCTIONS, MEMORY_MB, TIMEOUT_SECONDS, Function
from infra.policies import documents, file_name, render
from infra.project import CHALICE, CONFIG, ROOT, STAGES, read_config
from infra.stack import MONITORING, TEMPLATE
from infra.templates import monitoring, with_tasks
from infra.triggers import TRIGGERS


def written() -> dict[Path, str]:
    """Return the text of every file that follows from the table, by its path."""
    policies = {CHALICE / name: render(document) for stage in STAGES for name, document in documents(stage).items()}
    return {
        CONFIG: json.dumps(with_functions(read_config()), indent=2) + "\n",
        TRIGGERS: json.dumps(trigger_settings(), indent=2) + "\n",
        MONITORING: monitoring(),
        TEMPLATE: with_tasks(TEMPLATE.read_text()),
        **policies,
    }


def left_over() -> list[Path]:
    """Return the policy files of functions that the table no longer has."""
    return sorted(set(CHALICE.glob("policy-*.json")) - written().keys())


def with_functions(config: dict[str, Any]) -> dict[str, Any]:
    """Return Chalice's configuration with the functions of the table.

    A function's other settings stay, such as `reserved_concurrency`, and the layer's ARN that `make layer` recorded.
    """
    made = deepcopy(config)
    made |= {"lambda_timeout": TIMEOUT_SECONDS, "lambda_memory_size": MEMORY_MB}
    general = {each.name: _general(each, made["lambda_functions"].get(each.name, {})) for each in FUNCTIONS}
    made["lambda_functions"] = {name: settings for name, settings in general.items() if settings}
    for stage in STAGES:
        before = made["stages"][stage].get("lambda_functions", {})
        made["stages"][stage]["lambda_functions"] = {
            each.name: _of_stage(each, stage, before.get(each.name, {})) for each in FUNCTIONS
        }
    return made


def trigger_settings() -> dict[str, Any]:
    """Return what infra/triggers.json has: of each event source mapping what Chalice cannot set."""
    made: dict[str, Any] = {}
    for function in FUNCTIONS:
        if isinstance(function.trigger, Buffer | TableStream):
            made |= function.trigger.settings(function.name)
    return made


def _general(function: Function, before: dict[str, Any]) -> dict[str, Any]:
    """Return a function's settings in all stages; those that are everybody's are left out."""
    own = {}
    if function.timeout_seconds != TIMEOUT_SECONDS:
        own["lambda_timeout"] = function.timeout_seconds
    if function.memory_mb != MEMORY_MB:
        own["lambda_memory_size"] = function.memory_mb
    return own | _without(before, "lambda_timeout", "lambda_memory_size")


def _of_stage(function: Function, stage: str, before: dict[str, Any]) -> dict[str, Any]:
    """Return a function's settings in one stage."""
    dropped = ["iam_policy_file"] if function.layer else ["iam_policy_file", "layers"]
    return {"iam_policy_file": file_name(function.name, stage)} | _without(before, *dropped)


def _without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def different() -> list[str]:
    """Return the files that `make functions` would remove or write."""
    changed = [path for path, text in written().items() if not path.exists() or path.read_text() != text]
    return [path.relative_to(ROOT).as_posix() for path in (*left_over(), *changed)]


def main() -> None:
    """Write what differs, and name it."""
    for path in left_over():
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}")
    for path, text in written().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
