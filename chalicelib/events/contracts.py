"""The registry of event contracts: schemas/<event_type>/<model-revision-addition>.json.

A contract is a JSON Schema of the event's `properties` plus two keywords of ours: `x-metric`, the public name
of the metric that counts the type, and `x-rollup`, the dimensions and measures to roll up. All versions of a type are
live: clients in the field send what they were built with. What a version may change is in tests/schemas/schemaver.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson

from chalicelib.base.errors import NotFound
from chalicelib.rollups.facets import DERIVED
from chalicelib.rollups.rollups import OTHER, RollupSpec

MAX_ID_LENGTH = 256
MAX_TYPE_LENGTH = 128
MAX_VERSION_LENGTH = 32
MESSAGE_LENGTH = 300  # of each word of a verdict: values, ids and pointers may be long, and Lambda answers with 6 MB

_TEXT_OR_NULL = {"type": ["string", "null"], "maxLength": MAX_ID_LENGTH}
_TIME = {"type": ["string", "number", "null"], "maxLength": 64}

ENVELOPE: dict[str, Any] = {
    "type": "object",
    "required": ["event_type"],
    "properties": {
        "event_type": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_TYPE_LENGTH,
            "pattern": "^[^#\\u0000-\\u001f]+$",
        },
        "schema_version": {"type": ["string", "null"], "maxLength": MAX_VERSION_LENGTH},
        "event_id": _TEXT_OR_NULL,
        "user_id": _TEXT_OR_NULL,
        "anonymous_id": _TEXT_OR_NULL,
        "session_id": _TEXT_OR_NULL,
        "timestamp": _TIME,
        "sent_at": _TIME,
        "properties": {"type": "object"},
        "context": {"type": ["object", "null"]},
    },
}


@dataclass(frozen=True, slots=True)
class Violation:
    """Why an event breaks its contract; `path` is a JSON pointer into the event."""

    message: str
    path: str


@dataclass(frozen=True, slots=True)
class Validator:
    """A compiled schema of whole events."""

    compiled: Any  # a validator of jsonschema_rs, which publishes no type for its union of drafts
    accepts: Callable[[Any], bool]  # of the compiled schema itself: it is asked of every event

    @classmethod
    def of(cls, schema: dict[str, Any]) -> "Validator":
        """Compile; raises ValueError for what is no schema."""
        compiled = jsonschema_rs.validator_for(schema)
        return cls(compiled, compiled.is_valid)

    def violation(self, event: Mapping[str, Any]) -> Violation | None:
        """Return the first violation, or None of what is accepted."""
        try:
            error = next(iter(self.compiled.iter_errors(event)), None)
        except ValueError as limit:  # the engine cannot put so deep a value into words
            return Violation(message=f"a value breaks the contract: {limit}"[:MESSAGE_LENGTH], path="")
        if error is None:
            return None
        path = "".join(f"/{pointer(step)}" for step in error.instance_path)
        return Violation(message=error.message[:MESSAGE_LENGTH], path=path)


@dataclass(frozen=True)
class Contract:
    """One version of one event type."""

    event_type: str
    version: str
    metric: str
    spec: RollupSpec
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def validator(self) -> Validator:
        """Of whole events; compiled when it is first needed, because a container meets few types."""
        named = {"event_type": True, "properties": self.document}  # by its type the contract was found
        return Validator.of({**ENVELOPE, "properties": {**ENVELOPE["properties"], **named}})

    @cached_property
    def properties(self) -> frozenset[str]:
        """The names that the contract lists."""
        return frozenset(self.document.get("properties", ()))


RESERVED = frozenset({"events", "users", "sessions", "(ledger)", OTHER, *DERIVED})
UNTYPED = Validator.of(ENVELOPE)
NO_ROLLUP = RollupSpec()


@dataclass(frozen=True, slots=True)
class Contracts:
    """Every live version of every event type."""

    by_type: Mapping[str, Contract]  # the newest of each
    older: Mapping[str, tuple[Contract, ...]] = field(default_factory=dict)  # the others, newest first

    @classmethod
    def of(cls, contracts: Iterable[Contract]) -> "Contracts":
        """The registry that holds these versions."""
        by_type: dict[str, list[Contract]] = {}
        for contract in sorted(contracts, key=lambda contract: version_key(contract.version), reverse=True):
            by_type.setdefault(contract.event_type, []).append(contract)
        newest = {event_type: versions[0] for event_type, versions in sorted(by_type.items())}
        return cls(newest, {event_type: tuple(versions[1:]) for event_type, versions in by_type.items()})

    @classmethod
    def load(cls, folder: Path) -> "Contracts":
        """Read every contract of a folder; raises ValueError naming a file that is none."""
        return cls.of(_read(path) for path in sorted(folder.glob("*/*.json")))

    def versions(self, event_type: str) -> tuple[Contract, ...]:
        """Return those of a type, newest first; none of a type without a contract."""
        newest = self.by_type.get(event_type)
        return (newest, *self.older.get(event_type, ())) if newest else ()

    def validator(self, event_type: object) -> Validator:
        """Return what an event of the type is checked against first: its newest contract, or the envelope alone."""
        contract = self.by_type.get(event_type) if isinstance(event_type, str) else None
        return contract.validator if contract else UNTYPED

    def spec(self, event_type: str) -> RollupSpec:
        """Return what is rolled up of the type; an unknown type has neither dimensions nor measures."""
        contract = self.by_type.get(event_type)
        return contract.spec if contract else NO_ROLLUP

    def reserved(self, event_type: str) -> bool:
        """Whether the name means something else in questions, and so cannot be the name of another event type."""
        if event_type in self.by_type:
            return False
        return event_type in RESERVED or any(contract.metric == event_type for contract in self)

    def metric_of(self, event_type: str) -> str:
        """Return the public name of the metric that counts the type."""
        contract = self.by_type.get(event_type)
        return contract.metric if contract else event_type

    def type_of(self, metric: str) -> str | None:
        """Return the event type that a metric's public name, or a type's own name, stands for."""
        if metric in self.by_type:
            return metric
        return next((c.event_type for c in self if c.metric == metric), None)

    def catalogue(self) -> list[dict[str, Any]]:
        """Return every type: its versions, its metric, and what it is."""
        return [
            {
                "event_type": contract.event_type,
                "metric": contract.metric,
                "title": contract.document.get("title", ""),
                "description": contract.document.get("description", ""),
                "newest": contract.version,
                "versions": [version.version for version in self.versions(contract.event_type)],
            }
            for contract in self
        ]

    def described(self, event_type: str) -> dict[str, Any]:
        """Return every version of a type, whole; raises NotFound."""
        versions = self.versions(event_type)
        if not versions:
            raise NotFound(
                f"event type {event_type[:64]!r} has no contract; contracts exist for {', '.join(self.by_type)}",
                code="unknown_event_type",
            )
        documents = {contract.version: contract.document for contract in versions}
        return {"event_type": event_type, "newest": versions[0].version, "versions": documents}

    def __iter__(self) -> Iterator[Contract]:
        return iter(self.by_type.values())


def pointer(step: object) -> str:
    """Return one step of a JSON pointer (RFC 6901)."""
    return str(step).replace("~", "~0").replace("/", "~1")


def version_key(version: str) -> tuple[int, ...]:
    """`1-10-0` sorts after `1-9-0`; raises ValueError for what is no SchemaVer."""
    parts = tuple(int(part) for part in version.split("-"))
    if len(parts) != 3:
        raise ValueError(f"{version!r} is not a version; it is <model>-<revision>-<addition>, such as 1-0-0")
    return parts


def _read(path: Path) -> Contract:
    try:
        document = orjson.loads(path.read_bytes())
        version_key(path.stem)
        rollup = document.get("x-rollup", {})
        return Contract(
            event_type=path.parent.name,
            version=path.stem,
            metric=document["x-metric"],
            spec=RollupSpec(tuple(rollup.get("dimensions", ())), tuple(rollup.get("measures", ()))),
            document=document,
        )
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a contract: {error!r}") from error
