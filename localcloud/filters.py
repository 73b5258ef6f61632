"""Lambda's event filter patterns, as far as infra/triggers.json uses them."""

from collections.abc import Callable, Mapping
from typing import Any

from localcloud.places import LocalCloudError

Matcher = Callable[[Any], bool]
_ABSENT = object()


def compile_patterns(patterns: list[dict[str, Any]]) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether a record passes: with no pattern each does, else one that any pattern takes.

    Raises LocalCloudError for what a pattern says and this does not know.
    """
    matchers = [_compile(pattern, "") for pattern in patterns]
    return lambda record: not matchers or any(matches(record) for matches in matchers)


def _compile(pattern: Any, path: str) -> Matcher:
    if isinstance(pattern, dict):
        fields = {name: _compile(inner, f"{path}.{name}") for name, inner in pattern.items()}
        return lambda value: all(
            matches(value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT)
            for name, matches in fields.items()
        )
    if isinstance(pattern, list):
        choices = [_rule(rule, path) for rule in pattern]
        return lambda value: any(matches(value) for matches in choices)
    raise LocalCloudError(f"filter pattern at {path}: {pattern!r} must be a list of what is accepted")


def _rule(rule: Any, path: str) -> Matcher:
    match rule:
        case str() | None | bool():
            return lambda value: value is not _ABSENT and value == rule
        case {"prefix": str(prefix)} if len(rule) == 1:
            return lambda value: isinstance(value, str) and value.startswith(prefix)
        case {"exists": bool(exists)} if len(rule) == 1:
            return lambda value: (value is not _ABSENT) == exists
        case {"anything-but": list(others)} if len(rule) == 1:
            return lambda value: value is not _ABSENT and value not in others
        case _:
            raise LocalCloudError(f"filter pattern at {path}: the local cloud does not know {rule!r}")
