"""What a new version of a contract may change (SchemaVer, https://docs.snowplow.io/docs/pipeline-components-and-applications/iglu/).

An addition (1-0-1) takes all that the version before it took. A revision (1-1-0) may refuse some of it. A model
(2-0-0) may mean something else. The keywords are compared one by one, so only those are allowed whose order is known.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from chalicelib.events.contracts import Contract, version_key

Schema = Mapping[str, Any]

NOTES = frozenset({"$schema", "$id", "title", "description", "examples", "x-metric", "x-rollup"})
UPPER = frozenset({"maxLength", "maxItems", "maximum", "exclusiveMaximum"})
LOWER = frozenset({"minLength", "minItems", "minimum", "exclusiveMinimum"})
STRUCTURE = frozenset({"type", "enum", "pattern", "format", "required", "properties", "additionalProperties", "items"})


def history_problems(versions: Sequence[Contract]) -> list[str]:
    """What is wrong with the versions of one event type, in any order: a line for each problem."""
    ordered = sorted(versions, key=lambda contract: version_key(contract.version))
    found = []
    if ordered[0].version != "1-0-0":
        found.append(f"{ordered[0].event_type} begins with {ordered[0].version}; the first version is 1-0-0")
    for before, after in pairwise(ordered):
        step = f"{after.event_type}: {before.version} -> {after.version}"
        model, revision, addition = version_key(before.version)
        allowed = [(model, revision, addition + 1), (model, revision + 1, 0), (model + 1, 0, 0)]
        if version_key(after.version) not in allowed:
            found.append(f"{step}: the next version is one of {', '.join('-'.join(map(str, v)) for v in allowed)}")
        if after.metric != before.metric:
            found.append(f"{step}: x-metric becomes {after.metric!r}; the metric of a type keeps its name")
        if version_key(after.version)[0] == model:
            kept = {*after.spec.dimensions, *after.spec.measures}
            lost = sorted({*before.spec.dimensions, *before.spec.measures} - kept)
            if lost:
                found.append(f"{step}: {', '.join(lost)} are no longer rolled up; that needs a new model")
        if version_key(after.version)[:2] == (model, revision):
            found += [
                f"{step}: {reason}; that needs a revision" for reason in narrowings(before.document, after.document)
            ]
    return found


def narrowings(old: Schema, new: Schema, path: str = "") -> Iterator[str]:
    """Why `new` may refuse what `old` took; nothing when it takes all of it."""
    for schema in (old, new):
        for keyword in schema.keys() - NOTES - UPPER - LOWER - STRUCTURE:
            yield f"{path or '/'} has the keyword {keyword!r}, which cannot be compared"
    if "type" in new and not _types(old) <= _types(new):
        yield f"{path or '/'} no longer takes {', '.join(sorted(_types(old) - _types(new)))}"
    if "enum" in new and not ("enum" in old and all(value in new["enum"] for value in old["enum"])):
        yield f"{path or '/'} no longer takes every value that it took"
    for keywords, wider in ((UPPER, operator.le), (LOWER, operator.ge)):
        for keyword in sorted(keywords & new.keys()):
            if keyword not in old or not wider(old[keyword], new[keyword]):
                yield f"{path or '/'} has a narrower {keyword}"
    for keyword in ("pattern", "format"):
        if keyword in new and new[keyword] != old.get(keyword):
            yield f"{path or '/'} has another {keyword}"
    if more := sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{path or '/'} now requires {', '.join(more)}"
    if "items" in new:
        yield from narrowings(old.get("items", {}), new["items"], f"{path}/items")
    yield from _of_properties(old, new, path)


def _of_properties(old: Schema, new: Schema, path: str) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    others_before, others_after = old.get("additionalProperties", True), new.get("additionalProperties", True)
    if others_before is not False and others_after is False:
        yield f"{path or '/'} no longer takes properties that it does not list"
    for name in sorted({*before, *after}):
        if name not in after and others_after is False:
            yield f"{path}/{name} is no longer taken"
        elif name in after and (name in before or others_before is not False):
            yield from narrowings(before.get(name, {}), after[name], f"{path}/{name}")


ALL_TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})


def _types(schema: Schema) -> frozenset[str]:
    """The types that a schema takes; an integer is a number too."""
    named = schema.get("type", ALL_TYPES)
    types = frozenset({named} if isinstance(named, str) else named)
    return types | {"integer"} if "number" in types else types
