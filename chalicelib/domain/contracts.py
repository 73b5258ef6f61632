"""The registry of event contracts: schemas/<event_type>/<model-revision-addition>.json, compiled once per container.

A contract is a JSON Schema of the event's `properties` plus two keywords of ours: `x-metric`, the public name
of the metric that counts the type, and `x-rollup`, the dimensions and measures to roll up.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson

from chalicelib.domain.rollups import OTHER, RollupSpec

MAX_ID_LENGTH = 256
MAX_TYPE_LENGTH = 128
MESSAGE_LENGTH = 300  # a violation quotes the value, which may be long

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
        """The first violation, or None of what is accepted."""
        error = next(iter(self.compiled.iter_errors(event)), None)
        if error is None:
            return None
        pointer = "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in error.instance_path)
        return Violation(message=error.message[:MESSAGE_LENGTH], path=pointer)


@dataclass(frozen=True, slots=True)
class Contract:
    """One version of one event type."""

    event_type: str
    version: str
    metric: str
    spec: RollupSpec
    validator: Validator


RESERVED = frozenset({"events", "users", "sessions", OTHER})
UNTYPED = Validator.of(ENVELOPE)
NO_ROLLUP = RollupSpec()


@dataclass(frozen=True, slots=True)
class Contracts:
    """The newest version of every event type."""

    by_type: Mapping[str, Contract]

    @classmethod
    def load(cls, folder: Path) -> "Contracts":
        """Read and compile every contract of a folder; raises ValueError naming a file that is none."""
        contracts = {}
        for type_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
            newest = max(type_folder.glob("*.json"), key=lambda path: version_key(path.stem), default=None)
            if newest is not None:
                contracts[type_folder.name] = _compile(type_folder.name, newest)
        return cls(contracts)

    def validator(self, event_type: object) -> Validator:
        """What an event of the type is checked against: its contract, or the envelope alone."""
        contract = self.by_type.get(event_type) if isinstance(event_type, str) else None
        return contract.validator if contract else UNTYPED

    def spec(self, event_type: str) -> RollupSpec:
        """What is rolled up of the type; an unknown type has neither dimensions nor measures."""
        contract = self.by_type.get(event_type)
        return contract.spec if contract else NO_ROLLUP

    def version_of(self, event: object) -> str | None:
        """The version of the contract that an event is checked against, if its type has one."""
        event_type = event.get("event_type") if isinstance(event, dict) else None
        contract = self.by_type.get(event_type) if isinstance(event_type, str) else None
        return contract.version if contract else None

    def reserved(self, event_type: str) -> bool:
        """Whether the name means something else in questions, and so cannot be the name of another event type."""
        if event_type in self.by_type:
            return False
        return event_type in RESERVED or any(contract.metric == event_type for contract in self)

    def metric_of(self, event_type: str) -> str:
        """The public name of the metric that counts the type."""
        contract = self.by_type.get(event_type)
        return contract.metric if contract else event_type

    def type_of(self, metric: str) -> str | None:
        """The event type that a metric's public name, or a type's own name, stands for."""
        if metric in self.by_type:
            return metric
        return next((c.event_type for c in self if c.metric == metric), None)

    def __iter__(self) -> Iterator[Contract]:
        return iter(self.by_type.values())


def version_key(version: str) -> tuple[int, ...]:
    """`1-10-0` sorts after `1-9-0`; raises ValueError for what is no SchemaVer."""
    parts = tuple(int(part) for part in version.split("-"))
    if len(parts) != 3:
        raise ValueError(f"{version!r} is not a version; it is <model>-<revision>-<addition>, such as 1-0-0")
    return parts


def _compile(event_type: str, path: Path) -> Contract:
    try:
        schema = orjson.loads(path.read_bytes())
        whole = {**ENVELOPE, "properties": {**ENVELOPE["properties"], "properties": schema}}
        rollup = schema.get("x-rollup", {})
        return Contract(
            event_type=event_type,
            version=path.stem,
            metric=schema["x-metric"],
            spec=RollupSpec(tuple(rollup.get("dimensions", ())), tuple(rollup.get("measures", ()))),
            validator=Validator.of(whole),
        )
    except (ValueError, KeyError) as error:  # jsonschema_rs and orjson both raise ValueError
        raise ValueError(f"{path} is not a contract: {error!r}") from error
