"""Holds answers to the API's own description: a status that is not in it, or a field, is a failure."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema_rs

import app
from chalicelib import wiring
from chalicelib.http.api import described

SERVER = "http://described.example"


@cache
def description() -> dict[str, Any]:
    """The document, with the schemas of answers closed: a field that is not described may not be answered.

    In what is served they are open, because a client should not break when there is a field more.
    """
    document = described(app.app.routes, wiring.contracts(), SERVER)
    responses = [answer for _, _, operation in operations(document) for answer in operation["responses"].values()]
    shared = document["components"]
    answered = [*responses, *shared["responses"].values(), shared["schemas"]["Error"], shared["schemas"]["Verdicts"]]
    for answer in answered:
        answer.update(_closed(answer))
    return document


def operations(document: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and operation of each route."""
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def hold(method: str, path: str, status: int, headers: Mapping[str, str], body: Any) -> None:
    """Fail when the description has the route and says otherwise. `path` may have a query; header names are lower."""
    document = description()
    operation = next(
        (
            operation
            for known, template, operation in operations(document)
            if known == method
            and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path.split("?")[0])
        ),
        None,
    )
    if operation is None:
        return
    name = f"{method} {path} {status}"
    answers = operation["responses"]
    assert str(status) in answers, f"{name} is not described; there are {', '.join(answers)}: {body}"
    answer = answers[str(status)]
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    missing = [header for header in answer.get("headers", ()) if header.lower() not in headers]
    assert not missing, f"{name} has no {missing}"
    media_type = headers["content-type"].partition(";")[0]
    assert media_type in answer["content"], f"{name} is {media_type}; described are {list(answer['content'])}"
    if media_type == "application/json":
        schema = answer["content"][media_type]["schema"] | {"components": document["components"]}
        errors = [f"{error.instance_path}: {error.message}" for error in jsonschema_rs.iter_errors(schema, body)]
        assert not errors, f"{name} is not as described: {errors}"


def _closed(value: Any) -> Any:
    if isinstance(value, list):
        return [_closed(each) for each in value]
    if not isinstance(value, dict):
        return value
    closed = {name: _closed(each) for name, each in value.items()}
    if value.get("type") == "object" and "properties" in value:
        closed.setdefault("additionalProperties", False)
    return closed
