"""What a stage needs of a chunk's events, so that a batch of chunks can be held whose events are large.

Most are small, and cost more to be gone through than they take: `is_heavy` says which chunks are worth it. A function
changes the events of one chunk in place, and gives back the memory of what it drops before the next one is read.
"""

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from chalicelib.domain.events import StoredEvent
from chalicelib.domain.folding import MAX_DIMENSION_LENGTH, dimension_text
from chalicelib.domain.records import ChunkRecord
from chalicelib.domain.rollups import RollupSpec

HEAVY_VALUES, HEAVY_BYTES = 200, 2048  # of an event, on average; one of a page view has 30, and 300 bytes
_AS_JSON = ("properties", "context", "enrichment")


def is_heavy(chunk: ChunkRecord) -> bool:
    """Whether the chunk's events have more than events usually have."""
    most = max(len(chunk.events), 1)
    return chunk.values > HEAVY_VALUES * most or chunk.plain_bytes > HEAVY_BYTES * most


def keep_for_rollups(events: Iterable[StoredEvent], spec_of: Callable[[str], RollupSpec]) -> None:
    """Drop what no rollup counts: all properties but the contract's dimensions and measures, and the context.

    Folding the events gives the same as before. A dimension's value is cut to what is kept of it.
    """
    for event in events:
        event.pop("context", None)
        if properties := event.get("properties"):
            spec = spec_of(event["event_type"])
            measures = {name: properties[name] for name in spec.measures if _is_number(properties.get(name))}
            dimensions = {name: _cut(properties[name]) for name in spec.dimensions if name in properties}
            event["properties"] = measures | dimensions


def keep_for_lake(events: Iterable[StoredEvent]) -> None:
    """Put each part of an event that is a column of JSON in the lake as that JSON, which orjson writes as it is."""
    for event in events:
        for name in _AS_JSON:
            if value := event.get(name):
                event[name] = orjson.Fragment(orjson.dumps(value).decode())  # its bytes may lie in a larger block


def _is_number(value: object) -> bool:
    return value.__class__ is int or value.__class__ is float


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value[:MAX_DIMENSION_LENGTH]
    return dimension_text(value) if isinstance(value, dict | list) else value
