"""Names that the template, the functions' environment and both clouds share."""

import json
import re
from pathlib import Path
from typing import Any


def variable(output: str) -> str:
    """Return the variable of a stack output: EventsStreamArn -> EVENTS_STREAM_ARN."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", output).upper()


def dead_letters(stage: str) -> str:
    """Return the dead-letter queue of a stage."""
    return f"tidemark-{stage}-events-dlq"


def buffer_of(config: dict[str, Any], stage: str) -> str:
    """Return what lies between the edge and the pipeline of a stage: sqs or kinesis."""
    buffer: str = config["stages"][stage]["environment_variables"]["BUFFER"]
    return buffer


def setting_of(settings: dict[str, dict[str, Any]], function: str, kind: str) -> dict[str, Any]:
    """Return what triggers.json has for a function: FUNCTION@KIND where its source is of that kind, else FUNCTION."""
    return settings.get(f"{function}@{kind}") or settings.get(function, {})


def template_body(path: Path) -> str:
    """A template as CloudFormation takes it: in place of each "@file" stands what is in that JSON file, as a string.

    Without white space, because a template has 51,200 bytes at most.
    """

    def content(found: re.Match[str]) -> str:
        compact = json.dumps(json.loads((path.parent / found[1]).read_text()), separators=(",", ":"))
        return json.dumps(compact)

    return re.sub(r'"@([\w./-]+)"', content, path.read_text())
