"""Names that the template, the functions' environment and both clouds share."""

import re


def variable(output: str) -> str:
    """The variable of a stack output: EventsStreamArn -> EVENTS_STREAM_ARN."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", output).upper()
