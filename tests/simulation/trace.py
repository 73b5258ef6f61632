"""What happened in a history, line by line, in words that can be read; nothing is written unless somebody reads it."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from tests.simulation.scheduler import Scheduler, current

WIDTH = 220


class Trace:
    """Writes to `out`; to nobody, and without making any text, where it is None."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out
        self.scheduler: Scheduler | None = None

    def call(self, service: str, operation: str, arguments: Mapping[str, Any], answer: Any, who: str = "") -> None:
        """A call that had its effect, or was refused."""
        if self.out is not None:
            self.line(who, f"{service}.{operation} {_shown(arguments)} -> {_outcome(answer)}")

    def fault(self, service: str, operation: str, arguments: Mapping[str, Any], fate: str) -> None:
        """A call that something happens to."""
        if self.out is not None:
            self.line("", f"!! {fate}: {service}.{operation} {_shown(arguments)}")

    def note(self, text: str, **words: Any) -> None:
        """Something that is no call."""
        if self.out is not None:
            self.line("", f"** {text} {_shown(words)}")

    def line(self, who: str, text: str) -> None:
        """One line, with the time and who did it."""
        assert self.out is not None
        assert self.scheduler is not None
        actor = current()
        name = who or (actor.name if actor else "·")
        at = datetime.fromtimestamp(self.scheduler.now, UTC)
        self.out.write(f"{at:%d %H:%M:%S}.{at.microsecond // 1000:03d} {name:<22} {text[:WIDTH]}\n")


def to_screen() -> Trace:
    """A trace on standard output."""
    return Trace(sys.stdout)


def _outcome(answer: Any) -> str:
    if isinstance(answer, Exception):
        return str(getattr(answer, "response", {}).get("Error", {}).get("Code", answer))
    if not isinstance(answer, dict):
        return _value(answer)
    for name in ("Item", "Items", "Contents", "Attributes", "Responses", "Messages"):
        if name in answer:
            return _value(answer[name])
    return "done"


def _shown(words: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in words.items() if name not in _QUIET)


_QUIET = {"Bucket", "ConsistentRead", "ClientRequestToken", "QueueUrl"}


def _value(value: Any) -> str:
    match value:
        case bytes():
            return f"<{len(value)} bytes>"
        case {"S": text} | {"N": text} if len(value) == 1:
            return str(text)
        case {"B": body} if len(value) == 1:
            return f"<{len(body)} bytes>"
        case dict():
            return "{" + ", ".join(f"{name}: {_value(each)}" for name, each in value.items()) + "}"
        case list() | tuple() | set() | frozenset():
            return "[" + ", ".join(map(_value, value)) + "]"
        case str() if len(value) > 80:
            return f"{value[:60]}…({len(value)})"
    return str(value)
