"""The description of the API in OpenAPI 3.1, made at each request for it of what the code enforces.

Paths, methods and names come from the app's routes, statuses from the errors that app.py maps, parameters and bodies
from the marshmallow schemas that load them, events from the contracts. What no code says of a route, its
`Operation` in http/operations.py does; how to add one is told there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from marshmallow import RAISE, Schema, fields, validate

from chalicelib.access.access import Scope
from chalicelib.base.errors import (
    MAX_RETRY_SECONDS,
    Forbidden,
    InvalidRequest,
    PayloadTooLarge,
    TidemarkError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from chalicelib.events.contracts import ENVELOPE, Contract, Contracts

JsonSchema = dict[str, Any]
JSON = "application/json"
SOME_TEXT: JsonSchema = {"type": "string", "minLength": 1}

HEADER_KEYS = ("header", "bearer", "basic")  # where a key may be: names of SECURITY_SCHEMES
WRITE_KEYS = (*HEADER_KEYS, "query")
SECURITY_SCHEMES: dict[str, JsonSchema] = {
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "The key as user name, without a password: SDKs do so.",
    },
    "query": {
        "type": "apiKey",
        "in": "query",
        "name": "writeKey",
        "description": "A write key, for beacons, which have no headers. SDKs may have it in their body as `writeKey`.",
    },
}
_OF_EVERY_BODY = (InvalidRequest, PayloadTooLarge, UnsupportedMediaType)


class Route(Protocol):
    """What is read of a route, as Chalice keeps it."""

    view_name: str
    content_types: Sequence[str]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does, as far as nothing else says it.

    A scope brings 401, 403 and 503 with it, a query 400, a body 400, 413 and 415; `raises` names the other errors.
    """

    summary: str
    scope: Scope | None
    answers: Mapping[int, JsonSchema]  # by status; of one in `raises` or above, what is answered beside an Error
    query: type[Schema] | None = None
    body: type[Schema] | JsonSchema | Mapping[str, JsonSchema] | None = None  # the last: by media type, each with a "/"
    raises: tuple[type[TidemarkError], ...] = ()
    path: Mapping[str, JsonSchema] | None = None  # of path parameters that are more than some text
    keys: tuple[str, ...] = HEADER_KEYS
    media_type: str = JSON  # of the answers that are no errors

    @property
    def refusals(self) -> list[type[TidemarkError]]:
        """Every error that the route answers."""
        found: list[type[TidemarkError]] = [*self.raises]
        found += [Unauthenticated, Forbidden, Unavailable] if self.scope else []
        found += [InvalidRequest] if self.query else []
        found += _OF_EVERY_BODY if self.body is not None else ()
        return found


def document(
    routes: Mapping[str, Mapping[str, Route]],
    operations: Mapping[str, Operation],
    components: Mapping[str, JsonSchema],
    *,
    statuses: Mapping[type[TidemarkError], int],
    contracts: Contracts,
    version: str,
    server: str,
) -> dict[str, Any]:
    """The whole document. `operations` by method and path, such as `GET /health`; KeyError of a route without one.

    `components` are schemas that operations refer to with `ref`; `server` is the address of the API.
    """
    paths = {
        path: {
            method.lower(): _operation(operations[f"{method} {path}"], path, route, statuses)
            for method, route in methods.items()
        }
        for path, methods in sorted(routes.items())
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemark",
            "version": version,
            "description": "Serverless event analytics. Bodies may be gzip. A method that is not listed is "
            "answered 405, a path that is not listed 403.",
        },
        "servers": [{"url": server}],
        "paths": paths,
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "schemas": {**components, **_event_schemas(contracts)},
            "responses": {error.__name__: _refusal(error) for error in statuses},
        },
    }


def ref(name: str) -> JsonSchema:
    """Return the component schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(
    operation: Operation, path: str, route: Route, statuses: Mapping[type[TidemarkError], int]
) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": route.view_name, "summary": operation.summary}
    names = re.findall(r"\{(\w+)\}", path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": (operation.path or {}).get(name, SOME_TEXT)}
        for name in names
    ]
    if operation.query:
        parameters += _query_parameters(operation.query)
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    described["responses"] = _responses(operation, route, statuses)
    roles = [operation.scope.value] if operation.scope else []
    described["security"] = [{kind: roles} for kind in operation.keys] if operation.scope else []
    return described


def _responses(
    operation: Operation, route: Route, statuses: Mapping[type[TidemarkError], int]
) -> dict[str, dict[str, Any]]:
    refusals = {statuses[error]: error for error in operation.refusals}
    if "*/*" not in route.content_types:  # Chalice checks the type of a GET's body too, though there is none
        refusals[statuses[UnsupportedMediaType]] = UnsupportedMediaType
    found: dict[int, dict[str, Any]] = {
        status: {"$ref": f"#/components/responses/{error.__name__}"} for status, error in refusals.items()
    }
    for status, schema in operation.answers.items():
        beside = {"anyOf": [schema, ref("Error")]} if status in refusals else schema
        found[status] = {
            "description": HTTPStatus(status).phrase,
            "content": {operation.media_type: {"schema": beside}},
        }
    return {str(status): found[status] for status in sorted(found)}


def _refusal(error: type[TidemarkError]) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": " ".join((error.__doc__ or "").split()),
        "content": {JSON: {"schema": ref("Error")}},
    }
    seconds = {"type": "integer", "minimum": 1, "maximum": MAX_RETRY_SECONDS}
    names = {TooManyRequests: ("Retry-After", "X-RateLimit-Reset"), Unavailable: ("Retry-After",)}.get(error)
    if names:
        described = {"description": "Seconds until the same may succeed.", "required": True, "schema": seconds}
        refusal["headers"] = dict.fromkeys(names, described)
    return refusal


def _content(body: type[Schema] | JsonSchema | Mapping[str, JsonSchema]) -> dict[str, Any]:
    if isinstance(body, type):
        return {JSON: {"schema": object_of(body)}}
    if all("/" in name for name in body):
        return {media_type: {"schema": schema} if schema else {} for media_type, schema in body.items()}
    return {JSON: {"schema": body}}


def _query_parameters(schema: type[Schema]) -> list[dict[str, Any]]:
    described = []
    for name, field in schema().fields.items():
        parameter = {"name": name, "in": "query", "required": field.required, "schema": _schema_of(field)}
        described.append(parameter | _told(field, "description", "example"))
    return described


def object_of(schema: type[Schema]) -> JsonSchema:
    """Return the JSON object that a marshmallow schema loads."""
    loaded = schema()
    properties = {
        field.data_key or name: _schema_of(field, nullable=field.allow_none) | _told(field, "description")
        for name, field in loaded.fields.items()
    }
    required = [field.data_key or name for name, field in loaded.fields.items() if field.required]
    found: JsonSchema = {"type": "object", "properties": properties}
    if required:
        found["required"] = required
    return found | ({"additionalProperties": False} if loaded.unknown == RAISE else {})


def _told(field: fields.Field[Any], *names: str) -> dict[str, Any]:
    return {name: field.metadata[name] for name in names if name in field.metadata}


_TYPES: tuple[tuple[type[fields.Field[Any]], str], ...] = (
    (fields.Integer, "integer"),
    (fields.Number, "number"),
    (fields.Boolean, "boolean"),
    (fields.String, "string"),
    (fields.List, "array"),
    (fields.Mapping, "object"),
)


def _schema_of(field: fields.Field[Any], *, nullable: bool = False) -> JsonSchema:
    """Return what the field takes; a field of no known type takes anything."""
    kind = next((name for known, name in _TYPES if isinstance(field, known)), None)
    found: JsonSchema = {"type": [kind, "null"] if nullable else kind} if kind else {}
    if isinstance(field, fields.List):
        found["items"] = _schema_of(field.inner)
    for check in field.validators:
        found |= _limits(check, kind)
    if nullable and "enum" in found:
        found["enum"] = [*found["enum"], None]
    if isinstance(field.load_default, str | int | float):
        found["default"] = field.load_default
    return found


def _limits(check: object, kind: str | None) -> JsonSchema:
    if isinstance(check, validate.OneOf):
        return {"enum": list(check.choices)}
    if isinstance(check, validate.Length):
        of = {"array": "Items", "object": "Properties"}.get(kind or "", "Length")
        least, most = (check.equal, check.equal) if check.equal is not None else (check.min, check.max)
        limits = {f"min{of}": least, f"max{of}": most}
    elif isinstance(check, validate.Range):
        low = "minimum" if check.min_inclusive else "exclusiveMinimum"
        high = "maximum" if check.max_inclusive else "exclusiveMaximum"
        limits = {low: check.min, high: check.max}
    elif isinstance(check, validate.Regexp):
        return {"pattern": str(check.regex.pattern)}
    else:
        return {}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _event_schemas(contracts: Contracts) -> dict[str, JsonSchema]:
    """Return a schema of each version of each contract, one of other events, and `Event`, which is any of them."""
    known = {_name(contract): _of_contract(contract) for contract in _versions(contracts)}
    types = ENVELOPE["properties"]["event_type"]
    other = {**types, "not": {"enum": list(contracts.by_type)}}
    return {
        "Event": {"anyOf": [*map(ref, known), ref("OtherEvent")]},
        **known,
        "OtherEvent": {
            **ENVELOPE,
            "description": "An event without a contract, which the project's mode takes or rejects.",
            "properties": {**ENVELOPE["properties"], "event_type": other},
        },
    }


def _versions(contracts: Contracts) -> Iterable[Contract]:
    return (version for event_type in contracts.by_type for version in contracts.versions(event_type))


def _name(contract: Contract) -> str:
    return f"{contract.event_type}.{contract.version}"


def _of_contract(contract: Contract) -> JsonSchema:
    # Without its own address, relative to which references within it would be looked up.
    properties = {name: value for name, value in contract.document.items() if name not in ("$id", "$schema")}
    said = {
        "event_type": {"const": contract.event_type},
        "schema_version": {"enum": [contract.version, None]},
        "properties": properties,
    }
    needed = ["properties"] if contract.document.get("required") else []
    return {
        **ENVELOPE,
        "description": properties.get("description", ""),
        "required": [*ENVELOPE["required"], *needed],
        "properties": {**ENVELOPE["properties"], **said},
    }
